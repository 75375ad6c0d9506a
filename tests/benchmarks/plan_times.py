"""A plan's counts beside the time that this machine takes.

    python tests/benchmarks/plan_times.py resnet50 mobilenet_v2 --json FILE

The network between every two neighbouring cuts is run by itself, batch 1, random weights, one
thread, in turns; its time is the median of the processor's. A head's time is the sum of its parts.
Printed are Spearman's rank correlations of counted multiply-accumulates and time: over the cuts,
whose heads only grow, and over the parts between them, which is the harder question.
"""

import functools
import os
import time
from pathlib import Path

os.environ["XLA_FLAGS"] = (
    "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1 "
    + os.environ.get("XLA_FLAGS", "")
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
from harness import in_turns, make_parser, write_json

from jaxsplit import networks
from jaxsplit.cost import make_plan
from jaxsplit.weights.load import abstract_backbone


def spearman(one: list[float], other: list[float]) -> float:
    """Pearson's correlation of the ranks; equal values share theirs."""
    ranks = []
    for values in (one, other):
        order = np.unique(values, return_inverse=True, return_counts=True)
        last = np.cumsum(order[2])
        ranks.append(((last - order[2] + 1 + last) / 2)[order[1]])
    return float(np.corrcoef(*ranks)[0, 1])


def part(module, start, stop, variables, x):
    """The network between two endpoints."""
    return module.apply(variables, x, start=start, stop=stop)


def measure(name: str, repeats: int) -> dict[str, object]:
    """Counts and times of one network's parts."""
    backbone = abstract_backbone(name)
    shape = backbone.preprocessing.input_shape
    module = backbone.module
    image = np.random.default_rng(0).standard_normal((1, *shape)).astype(np.float32)
    variables = jax.jit(module.init)(jax.random.key(0), image)
    variables = jax.device_put(networks.fold_normalization(variables, module.epsilon))
    module = module.clone(folded=True)
    calls, given, start = {}, jax.device_put(image), None
    for stop in module.endpoints():
        program = jax.jit(functools.partial(part, module, start, stop))
        run = functools.partial(program, variables, given)
        given, start = run(), stop
        calls[stop] = lambda run=run: run().block_until_ready()
    seconds = list(in_turns(calls, repeats, time.process_time).values())
    plan = make_plan(module, shape, jax.eval_shape(lambda: variables), channels=(4,), strides=(2,))
    heads = [cut.device_macs for cut in plan.cuts]
    macs = np.diff([0, *heads, plan.macs]).tolist()
    return {
        "network": name,
        "endpoints": list(module.endpoints()),
        "macs": macs,
        "milliseconds": [1e3 * value for value in seconds],
        "over_cuts": spearman(heads, np.cumsum(seconds)[:-1].tolist()),
        "over_parts": spearman(macs, seconds),
        "gmacs_per_second": plan.macs / sum(seconds) / 1e9,
    }


def main() -> None:
    """Prints the correlations and writes the figures."""
    parser = make_parser(__doc__)
    parser.add_argument("networks", nargs="+", metavar="NETWORK")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = []
    for name in options.networks:
        found.append(measure(name, options.repeats))
        row = found[-1]
        print(
            f"{name}: {len(row['macs'])} parts, {row['gmacs_per_second']:.1f} GMAC/s, rank "
            f"correlation over cuts {row['over_cuts']:.3f}, over parts {row['over_parts']:.3f}",
            flush=True,
        )
        for endpoint, macs, spent in zip(
            row["endpoints"], row["macs"], row["milliseconds"], strict=True
        ):
            print(f"  {endpoint:<16} {macs / 1e6:9.2f} MMAC {spent:8.2f} ms")
    write_json(options.json, found)


if __name__ == "__main__":
    main()
