"""All published units in PyTorch and in ours, on the same random features.

    python tests/benchmarks/spic_units.py --spic FOLDER [--json FILE]

FOLDER holds the published weights with their JSON files. The unit is written once more in torch
(extra `[bench]`), in `spic_torch.py`, as the paper's authors did. For each unit the table has the
share of symbols that are the same, the largest difference of the features that both decoders make
of PyTorch's symbols, and how large those features are. The worst unit of each column comes last;
exit status 1 says that a unit has fewer than 99.99 % of its symbols in common, or features
further apart than 1e-3.
"""

import json
import math
from pathlib import Path

import jax
import numpy as np
from harness import make_parser, write_json
from rich.console import Console
from rich.table import Table

from jaxsplit.family.spic import NETWORKS, read_units

SAME, NEAR = 0.9999, 1e-3
BATCH_FLOATS = 2**24  # of features that run at once


def random_features(rng, shape):
    """A batch like a ResNet's after a ReLU: half zeros, the channels of different sizes."""
    images = max(1, BATCH_FLOATS // math.prod(shape))
    scale = rng.lognormal(-0.5, 0.7, shape[-1]).astype(np.float32)
    return np.maximum(rng.standard_normal((images, *shape), np.float32), 0) * scale


def compare(file, unit, shape, rng, count):
    """At least `count` symbols; ours is folded and runs as in `Sender` and `Receiver`."""
    import torch
    from spic_torch import torch_unit

    theirs = torch_unit(file, unit.spec, shape[-1])
    spec, variables = unit.spec.fold(unit.variables)
    encode = jax.jit(lambda x: spec.encode(variables, x))
    decode = jax.jit(lambda z: spec.decode(variables, z, shape))
    symbols = other = largest = 0
    difference = size = 0.0
    while symbols < count:
        features = random_features(rng, shape)
        with torch.no_grad():
            published = theirs.encode(torch.from_numpy(features).permute(0, 3, 1, 2))
            expected = theirs.decode(published).permute(0, 2, 3, 1).numpy()
        published = published.permute(0, 2, 3, 1).numpy()
        with jax.default_matmul_precision("highest"):
            latent, decoded = np.asarray(encode(features)), np.asarray(decode(published))
        symbols += latent.size
        other += int(np.sum(np.round(latent) != published))
        largest = max(largest, int(published.max()))
        difference = max(difference, float(np.abs(decoded - expected).max()))
        size = max(size, float(expected.max()))
    return {
        "unit": unit.rate_id,
        "latent": list(latent.shape[1:]),
        "output": list(decoded.shape[1:]),
        "symbols": symbols,
        "symbols_equal": 1 - other / symbols,
        "largest_symbol": largest,
        "feature_difference": difference,
        "largest_feature": size,
    }


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--spic", type=Path, required=True, help="folder of the published units")
    parser.add_argument("--symbols", type=int, default=20_000, help="at least, for each unit")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=None, help="file for the figures")
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    rows = []
    for task, network in NETWORKS.items():
        files = json.loads((args.spic / f"{task}.json").read_text())
        for cut, units in read_units(args.spic, task).items():
            shape = network.sites[cut].shape
            for unit in units:
                file = args.spic / files[unit.rate_id]["weights"]
                rows.append({"task": task, **compare(file, unit, shape, rng, args.symbols)})
    worst = {
        "symbols_equal": min(row["symbols_equal"] for row in rows),
        "feature_difference": max(row["feature_difference"] for row in rows),
    }
    table = Table("task", "unit", "latent", "output", "symbols", "equal %", "max")
    for name in ("feature diff.", "max"):
        table.add_column(name)
    for row in rows:
        table.add_row(
            row["task"],
            row["unit"],
            "×".join(map(str, row["latent"])),
            "×".join(map(str, row["output"])),
            str(row["symbols"]),
            f"{100 * row['symbols_equal']:.4f}",
            str(row["largest_symbol"]),
            f"{row['feature_difference']:.1e}",
            f"{row['largest_feature']:.1f}",
        )
    equal, difference = worst.values()
    table.add_section()
    table.add_row("worst", "", "", "", "", f"{100 * equal:.4f}", "", f"{difference:.1e}", "")
    Console(width=110).print(table)
    write_json(args.json, {"worst": worst, "units": rows})
    return 0 if equal >= SAME and difference <= NEAR else 1


if __name__ == "__main__":
    raise SystemExit(main())
