"""The 31 published segmentation units end to end in DeepLabV3-ResNet50, in ours and in PyTorch.

    python tests/benchmarks/spic_deeplab.py --spic FOLDER [--tails] [--json FILE]

One image of noise goes through the network with random weights at 513 × 513, in ours and in
torchvision. For every unit the table has the share of symbols that are the same and the largest
difference of the decoded features, both from torchvision's features at the cut; and their bits by
the published table. With --tails, also the largest difference of the logits behind the unit, as a
share of their spread; else for one unit of every cut.

S1 and US1 code one of the five branches of ASPP. The other four go past them here, as in the
paper, and their bits are not counted: these units are no family of the library.

Exit status 1: fewer than 99.99 % of a unit's symbols are the same, features differ by more than
1e-3, or logits by more than 1e-3 of their spread. Needs `pip install ".[bench]"`.
"""

import json
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
from deeplab_torchvision import difference, outputs, torchvision_network
from harness import make_parser, write_json
from rich.console import Console
from rich.table import Table
from spic_units import NEAR, SAME

from jaxsplit import load_backbone
from jaxsplit.bitstream import EntropyCoder
from jaxsplit.family.spic import NETWORKS, read_units

CLOSE = 1e-3  # of the logits' spread: a symbol at an edge may differ
NAME = "deeplabv3_resnet50"
BYPASS = "bypass not counted"


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--spic", type=Path, required=True, help="folder of the published units")
    parser.add_argument("--tails", action="store_true", help="logits of every unit")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=None, help="file for the figures")
    options = parser.parse_args()
    import torch

    site_of = NETWORKS["segmentation"].sites
    side = NETWORKS["segmentation"].preprocessing.size[0]
    theirs = torchvision_network(NAME, options.seed)
    noise = np.random.default_rng(options.seed).normal(size=(1, side, side, 3))
    images = torch.from_numpy(noise.astype(np.float32)).permute(0, 3, 1, 2)
    features = outputs(theirs, images)
    backbone = ours(theirs)
    files = json.loads((options.spic / "segmentation.json").read_text())
    rows = []
    for cut, units in read_units(options.spic, "segmentation").items():
        site, tails = site_of[cut], Tails(theirs, backbone, site_of[cut], features)
        whole = features[site.cut]
        at_cut = whole if site.leaf is None else whole[site.leaf]
        for number, unit in enumerate(units):
            file = options.spic / files[unit.rate_id]["weights"]
            row = compare(file, unit, at_cut, tails if options.tails or not number else None)
            rows.append({"unit": unit.rate_id, "cut": site.cut, **row})
            rows[-1]["note"] = BYPASS if site.leaf else ""
    worst = {
        "symbols_equal": min(row["symbols_equal"] for row in rows),
        "feature_difference": max(row["feature_difference"] for row in rows),
        "logit_difference": max(row["logit_difference"] or 0 for row in rows),
    }
    show(rows, worst)
    write_json(options.json, {"worst": worst, "units": rows})
    equal, near, close = worst.values()
    return 0 if equal >= SAME and near <= NEAR and close <= CLOSE else 1


def ours(theirs):
    """The same weights as a backbone."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        torch.save(theirs.state_dict(), Path(folder) / "weights.pth")
        return load_backbone(NAME, Path(folder) / "weights.pth")


class Tails:
    """The tail of a cut in both: from the array that the units code to logits [1, h, w, K]."""

    def __init__(self, theirs, backbone, site, features):
        self.theirs, self.site, self.features = theirs, site, features
        network, variables = backbone.network, backbone.variables
        self.run = jax.jit(lambda x: network.tail(variables, self.crossing(x), site.cut))

    def crossing(self, x):
        """All that crosses: the decoded array, and the branches that go past the unit."""
        return x if self.site.leaf is None else {**self.features[self.site.cut], self.site.leaf: x}

    def torch(self, x):
        import torch

        def nchw(x):
            return torch.from_numpy(np.asarray(x).transpose(0, 3, 1, 2).copy())

        aspp, *rest = self.theirs.classifier
        with torch.no_grad():
            if self.site.leaf is None:
                x = nchw(x)
                stage, block = (int(word[-1]) for word in self.site.cut.split("."))
                layers = [self.theirs.backbone[f"layer{i}"] for i in range(stage, 5)]
                for one in (*layers[0][block:], *layers[1:], aspp):
                    x = one(x)
            else:
                branches = [nchw(one) for one in self.crossing(x).values()]
                branches[-1] = branches[-1].expand(-1, -1, *branches[0].shape[2:])
                x = aspp.project(torch.cat(branches, dim=1))
            for one in rest:
                x = one(x)
        return x.permute(0, 2, 3, 1).numpy()


def compare(file, unit, features, tails):
    """Both units on the same features; with `tails`, the logits of both behind them."""
    import torch
    from spic_torch import torch_unit

    theirs, shape = torch_unit(file, unit.spec, features.shape[-1]), features.shape[1:]
    with torch.no_grad():
        symbols = theirs.encode(torch.from_numpy(features.copy()).permute(0, 3, 1, 2))
        expected = theirs.decode(symbols).permute(0, 2, 3, 1).numpy()
    symbols = symbols.permute(0, 2, 3, 1).numpy()
    spec, variables = unit.spec.fold(unit.variables)
    with jax.default_matmul_precision("highest"):
        latent = np.asarray(jax.jit(lambda x: spec.encode(variables, x))(features))
        decoded = jax.jit(lambda z: spec.decode(variables, z, shape))(symbols)
        own = np.round(latent).astype(np.int32)
        coded = EntropyCoder(unit.tables).encode(own[0])
        logits = None
        if tails is not None:
            logits = difference(tails.run(decoded), tails.torch(expected))
    return {
        "latent": list(latent.shape[1:]),
        "symbols_equal": float((own == symbols).mean()),
        "largest_symbol": int(symbols.max()),
        "feature_difference": float(np.abs(decoded - expected).max()),
        "largest_feature": float(expected.max()),
        "logit_difference": logits,
        "bytes": len(coded),
    }


def show(rows, worst):
    table = Table("unit", "latent", "equal %", "max", "features", "max", "logits", "bytes", "")
    for row in rows:
        logits = row["logit_difference"]
        table.add_row(
            row["unit"],
            "×".join(map(str, row["latent"])),
            f"{100 * row['symbols_equal']:.4f}",
            str(row["largest_symbol"]),
            f"{row['feature_difference']:.1e}",
            f"{row['largest_feature']:.1f}",
            "" if logits is None else f"{logits:.1e}",
            str(row["bytes"]),
            row["note"],
        )
    equal, difference_, logits = worst.values()
    table.add_section()
    table.add_row("worst", "", f"{100 * equal:.4f}", "", f"{difference_:.1e}", "", f"{logits:.1e}")
    Console(width=110).print(table)


if __name__ == "__main__":
    sys.exit(main())
