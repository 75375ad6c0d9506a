"""Training steps beside PyTorch's: the same unit behind the same frozen ResNet-50, six rates.

    JAX_PLATFORMS=cpu taskset -c 0 python tests/benchmarks/training.py [--cuts S1,S2] [--json FILE]

PyTorch's side is what the peers do: one network a rate, CompressAI's EntropyBottleneck, Adam, the
head run again in every step; and once more with the features cached. Ours is `make_step` on cached
features, all rates in one step, for each way of batching them. Both distil the unsplit network
through the frozen tail: batch 32, 224², C64 s2, one core, in turns; medians, per rate and step.
PyTorch takes whichever memory layout is the faster. That both compute the same is checked first:
the reconstruction and the logits of one unit, without noise. Weights are random, which changes no
time. The cuts are those of the paper: S1 stage4.block3, S2 stage4.block1, S3 stage3.block5.

The variable-rate unit takes part: one step of it serves all rates. A whole curve is compared with
PyTorch's practice, a training for each of six rates with the head in every step, as the ratio of
the steps' times × 6 ÷ `--variable-steps`: how many times the steps of one rate the variable-rate
unit takes to as good a curve, which variable_rate.py measures. Without it, steps alone are timed.

Then, in a process of its own for each: the peak memory of a training step and the time that it
takes to compile; and how many images a second the cache gives beside what a step needs.

Exit status 1 says that a bar was missed: against PyTorch with the head recomputed 50, 9 and 3.5
times, with cached features 1.2, 1.1 and 1.1 times, of a variable-rate curve 150, 20 and 10 times;
six rates at S1 within 4 GB; S3 compiled within 40 s. Needs `pip install ".[bench]" compressai`,
then `pip install "numpy>=2"`: CompressAI asks for an older one, but runs with it.
"""

import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path

from harness import in_turns, make_parser, provenance, say_missed, write_json

CUTS = {"S1": "stage4.block3", "S2": "stage4.block1", "S3": "stage3.block5"}
# In PyTorch's time over ours: head recomputed, features cached.
FASTER = {"S1": (50.0, 1.2), "S2": (9.0, 1.1), "S3": (3.5, 1.1)}
CURVE_FASTER = {"S1": 150.0, "S2": 20.0, "S3": 10.0}  # a variable-rate curve
MEMORY, COMPILE = 4e9, 40.0  # bytes of S1, seconds of S3
BATCH, SIZE, CLASSES, CHANNELS, RATES = 32, 224, 1000, 64, 6
LEARNING_RATE, LMBDA = 1e-3, 1e-3
SAME = 1e-3
PACKAGES = ("jax", "jaxlib", "torch", "compressai")


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--cuts", default="S1,S2,S3")
    parser.add_argument("--batching", default="map,vmap,unroll", help="vmap, map, unroll; several")
    parser.add_argument("--variable-steps", type=float, metavar="TIMES")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
    ways = options.batching.split(",")
    report = {
        "cores": len(os.sched_getaffinity(0)),
        "cuts": {},
        "failed": [],
        **provenance(PACKAGES),
    }
    print(f"{report['cores']} core(s), batch {BATCH}, {RATES} rates; ms per rate and step")
    for cut in options.cuts.split(","):
        row = compare(cut, ways, options.rounds, options.variable_steps)
        row["alone"] = {way: in_own_process(alone, cut, way) for way in ways}
        row["loader"] = in_own_process(loader, cut)
        report["failed"] += judge(cut, row)
        report["cuts"][cut] = row
        show(cut, row)
    write_json(options.json, report)
    return say_missed(report["failed"])


def compare(cut, ways, rounds, variable_steps):
    """Medians in seconds, per rate and step, of PyTorch and of ours taken in turns."""
    import torch
    from training_torch import Theirs, torch_network

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    network = torch_network()
    theirs = Theirs(network, CUTS[cut])
    data = make_batch(cut, theirs)
    backbone = our_backbone(network)
    difference = disagreement(cut, theirs, backbone, data)
    assert difference < SAME, f"{cut}: PyTorch computes something else, by {difference}"
    calls = {"torch, head recomputed": theirs.with_head(data), "torch, cached": theirs.cached(data)}
    runs = {way: Ours(cut, RATES, way, backbone, data) for way in ways}
    calls |= {f"{way}, {RATES} rates": run for way, run in runs.items()}
    calls["one rate"] = Ours(cut, 1, ways[0], backbone, data)
    calls["variable rate"] = Ours(cut, RATES, ways[0], backbone, data, variable=True)
    times = in_turns(calls, rounds)
    best = min(ways, key=lambda way: times[f"{way}, {RATES} rates"])
    all_rates = times[f"{best}, {RATES} rates"]
    return {
        "difference": difference,
        "torch_layout": {name: calls[name].layout for name in list(calls)[:2]},
        "torch_layouts_once": {name: calls[name].seconds for name in list(calls)[:2]},
        "seconds_per_step": times,
        "batching": best,
        "per_rate": all_rates / RATES,
        "against_head_recomputed": RATES * times["torch, head recomputed"] / all_rates,
        "against_cached": RATES * times["torch, cached"] / all_rates,
        "variable_steps": variable_steps,
        "variable_curve": variable_steps
        and RATES * times["torch, head recomputed"] / (variable_steps * times["variable rate"]),
        "rates_over_one": {way: times[f"{way}, {RATES} rates"] / times["one rate"] for way in ways},
    }


def judge(cut, row):
    failed = []
    for name, bar in zip(("against_head_recomputed", "against_cached"), FASTER[cut], strict=True):
        if row[name] < bar:
            failed.append(f"{cut}: {row[name]:.2f} times {name}, expected {bar}")
    if row["variable_curve"] and row["variable_curve"] < CURVE_FASTER[cut]:
        failed.append(
            f"{cut}: a variable-rate curve is {row['variable_curve']:.1f} times as fast, "
            f"expected {CURVE_FASTER[cut]}"
        )
    own = row["alone"][row["batching"]]
    if cut == "S1" and own["peak_bytes"] > MEMORY:
        failed.append(f"S1: {own['peak_bytes'] / 1e9:.1f} GB, expected {MEMORY / 1e9:.0f}")
    if cut == "S3" and own["compile_seconds"] > COMPILE:
        failed.append(f"S3: {own['compile_seconds']:.0f} s to compile, expected {COMPILE:.0f}")
    return failed


def show(cut, row):
    print(f"\n{cut} ({CUTS[cut]}); both differ by {row['difference']:.1e} of the largest value")
    for name, seconds in row["seconds_per_step"].items():
        rates = RATES if name.endswith("rates") else 1
        print(f"  {name:24} {1e3 * seconds / rates:8.1f}  {row['torch_layout'].get(name, '')}")
    print(
        f"  by {row['batching']}: {row['against_head_recomputed']:.1f}× PyTorch with the head "
        f"recomputed, {row['against_cached']:.2f}× with cached features"
    )
    if row["variable_curve"]:
        print(
            f"  a variable-rate curve, with {row['variable_steps']:g} times the steps of one rate: "
            f"{row['variable_curve']:.1f}×"
        )
    for way, ratio in row["rates_over_one"].items():
        own = row["alone"][way]
        print(
            f"  {way}: {RATES} rates take {ratio:.1f} times one; {own['peak_bytes'] / 1e9:.2f} GB "
            f"at the peak, compiled in {own['compile_seconds']:.0f} s"
        )
    need = BATCH / (RATES * row["per_rate"])
    print(f"  cache: {row['loader']['images_per_second']:.0f} images/s; a step needs {need:.0f}")


class Ours:
    """The step of all rates on cached features, or of one unit for all; a call runs one."""

    def __init__(self, cut, count, batching, backbone, data, variable=False):
        import jax
        import jax.numpy as jnp
        import optax

        from jaxsplit.train import parallel, variable_rate
        from jaxsplit.train.losses import Distortion
        from jaxsplit.train.state import Constants
        from jaxsplit.train.step import Phase, Rate, init_state, make_step, rate_constants
        from jaxsplit.units import BottleneckSpec, VariableRate

        backbone = backbone.fold()
        split = our_split(cut, backbone)
        rates = tuple(Rate(f"r{i}", LMBDA / 2**i) for i in range(count))
        optimizer = optax.adam(LEARNING_RATE)
        devices = jax.local_devices()[:1]
        tail = tail_of(backbone, CUTS[cut])
        if variable:
            lambdas = rates[-1].lmbda, rates[0].lmbda
            split = split.with_unit(VariableRate(BottleneckSpec(CHANNELS), lambdas))
        trained = rates[:1] if variable else rates
        constants = Constants(tail, jnp.float32(1), rate_constants(trained, 0))
        self._constants = parallel.replicate(jax.tree.map(jnp.asarray, constants), devices)
        self._state = parallel.replicate(init_state(split, trained, optimizer, 0), devices)
        self._batch = parallel.shard(data, devices)
        phase = Phase(1, Distortion())
        if variable:
            step = variable_rate.make_step(split, phase, optimizer, rates)
        else:
            step = make_step(split, phase, optimizer, rate_vectorization=batching)
        start = time.perf_counter()
        step = parallel.parallel_step(step, devices)
        self._run = step.lower(self._state, self._batch, self._constants).compile()
        self.compile_seconds = time.perf_counter() - start

    def __call__(self):
        import jax

        self._state, metrics = self._run(self._state, self._batch, self._constants)
        jax.block_until_ready(metrics)


def tail_of(backbone, cut):
    """The variables of the blocks behind the cut: a step is given no others' copies."""
    names = backbone.module.endpoints()
    behind = {name.replace(".", "_") for name in names[names.index(cut) + 1 :]}
    return {
        part: {name: tree for name, tree in trees.items() if name in behind}
        for part, trees in backbone.variables.items()
    }


def our_split(cut, backbone):
    from jaxsplit.split import make_split
    from jaxsplit.train import parallel
    from jaxsplit.units.bottleneck import BottleneckSpec

    return make_split(backbone, CUTS[cut], BottleneckSpec(CHANNELS), parallel.AXIS)


def our_backbone(network):
    import safetensors.torch

    from jaxsplit.weights.load import load_backbone

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "resnet50.safetensors"
        safetensors.torch.save_file(network.state_dict(), file)
        return load_backbone("resnet50", file)


def make_batch(cut, theirs):
    """Features of PyTorch's head and logits of its tail, NHWC, of random images."""
    import numpy as np
    import torch

    with torch.no_grad():
        features = theirs.head(torch.randn(BATCH, 3, SIZE, SIZE))
        teacher = theirs.tail(features)
    from jaxsplit.train.state import Batch

    labels = np.random.default_rng(0).integers(0, CLASSES, BATCH).astype(np.int32)
    features = np.ascontiguousarray(features.permute(0, 2, 3, 1).numpy())
    index = np.arange(BATCH, dtype=np.int32)
    return Batch(index, labels, features=features, teacher=teacher.numpy())


def disagreement(cut, theirs, backbone, data):
    """Largest difference of reconstruction and logits of one unit in both, without noise."""
    import jax
    import numpy as np
    import torch
    from training_torch import make_unit

    split = our_split(cut, backbone.fold())
    variables = jax.jit(split.init)(jax.random.key(0))
    unit = make_unit(split.shape).train()
    params = variables["params"]
    for ours, layers in ((params["encoder"], unit[0]), (params["decoder"], unit[2])):
        order = ("depthwise", "pointwise") if layers is unit[0] else ("pointwise", "depthwise")
        for name, conv, norm in zip(order, layers[::3], layers[1::3], strict=False):
            kernel = np.array(ours[name] if name == "depthwise" else ours[name]["kernel"])
            # [k, k, C, 1] → [C, 1, k, k], [in, out] → [out, in, 1, 1]
            kernel = kernel.transpose(2, 3, 0, 1) if kernel.ndim == 4 else kernel.T[..., None, None]
            conv.weight.data = torch.from_numpy(kernel)
            norm.weight.data = torch.from_numpy(np.array(ours[f"{name}_norm"]["scale"]))

    @jax.jit
    def run(variables, tree, features):
        latent, _ = split.encode_train(variables, features, None)
        reconstruction, _ = split.decode_train(variables, latent, None)
        return reconstruction, split.tail(tree, reconstruction)

    ours = run(variables, backbone.fold().variables, data.features)
    with torch.no_grad():
        features = torch.from_numpy(data.features).permute(0, 3, 1, 2)
        reconstruction = unit[2](unit[0](features))
        pair = reconstruction.permute(0, 2, 3, 1).numpy(), theirs.tail(reconstruction).numpy()
    return max(
        float(np.abs(np.asarray(a) - b).max() / np.abs(b).max())
        for a, b in zip(ours, pair, strict=True)
    )


def in_own_process(function, *arguments):
    """Calls a function in a fresh process, where nothing is compiled and no memory used."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def random_backbone():
    """A ResNet-50 without PyTorch in the process, whose memory would count."""
    import jax
    import numpy as np

    from jaxsplit import networks
    from jaxsplit.data import Preprocessing

    module, rng = networks.create("resnet50", CLASSES), np.random.default_rng(0)
    image = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), np.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), image)
    variables = jax.tree.map(lambda x: rng.uniform(0, 0.05, x.shape).astype(np.float32), shapes)
    preprocessing = Preprocessing((SIZE, SIZE), 3, mean=(0.5,) * 3, std=(0.25,) * 3)
    names = tuple(map(str, range(CLASSES)))
    return networks.Backbone("resnet50", module, variables, preprocessing, names, "", {})


def random_batch(shape):
    import numpy as np

    from jaxsplit.train.state import Batch

    rng = np.random.default_rng(0)
    features = np.maximum(rng.standard_normal((BATCH, *shape), np.float32), 0)
    teacher = rng.standard_normal((BATCH, CLASSES), np.float32)
    labels = rng.integers(0, CLASSES, BATCH).astype(np.int32)
    index = np.arange(BATCH, dtype=np.int32)
    return Batch(index, labels, features=features, teacher=teacher)


def alone(cut, batching):
    """Seconds to trace and compile the step of all rates, and the process's peak memory."""
    import jax

    jax.config.update("jax_enable_compilation_cache", False)
    backbone = random_backbone()
    run = Ours(cut, RATES, batching, backbone, random_batch(our_split(cut, backbone).shape))
    run()
    run()
    # Not `getrusage`, which a process has in part from the one that started it.
    (line,) = (s for s in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in s)
    return {"compile_seconds": run.compile_seconds, "peak_bytes": 1024 * int(line.split()[1])}


def loader(cut):
    """Images per second of shuffled batches out of a file of features."""
    import numpy as np

    from jaxsplit.train.features import FeatureCache

    shape, count = our_split(cut, random_backbone()).shape, 1024
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "features.npy"
        features = np.lib.format.open_memmap(file, "w+", np.float16, (count, *shape))
        features[:] = 1
        teacher, labels = np.zeros((count, CLASSES), np.float32), np.zeros(count, np.int32)
        batches = FeatureCache(features, teacher, labels, 1.0).batches(BATCH, seed=0)
        next(batches)
        start, steps = time.perf_counter(), 2 * count // BATCH
        for _ in range(steps):
            next(batches)
        return {"images_per_second": steps * BATCH / (time.perf_counter() - start)}


if __name__ == "__main__":
    sys.exit(main())
