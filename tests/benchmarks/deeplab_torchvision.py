"""DeepLabV3-ResNet in ours and in torchvision, with the same random weights and statistics.

    python tests/benchmarks/deeplab_torchvision.py [--side 97] [--json FILE]

For each cut the table has the largest difference of the features, as a share of their spread
(largest less smallest), and that of the logits which our tail computes from torchvision's features,
as a share of the logits' spread; then that of the logits resized to the image, as torchvision
returns them. Exit status 1: logits differ by more than 1e-4 of their spread somewhere.
Needs `pip install ".[bench]"`.
"""

import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
from harness import make_parser, write_json
from rich.console import Console
from rich.table import Table

from jaxsplit import load_backbone, networks
from jaxsplit.tasks.pixelwise import resize

CLOSE = 1e-4  # of the logits' spread
NETWORKS = ("deeplabv3_resnet50", "deeplabv3_resnet101")


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--side", type=int, default=97, help="of the images, in pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    report = {"side": options.side, "networks": {}}
    for name in NETWORKS:
        rows, resized = compare(name, options.side, options.seed)
        worst = max(row["logits"] for row in rows.values())
        show(name, rows, worst, resized)
        found = {"worst_logits": worst, "resized_logits": resized, "cuts": rows}
        report["networks"][name] = found
    write_json(options.json, report)
    worst = (max(one["worst_logits"], one["resized_logits"]) for one in report["networks"].values())
    return int(max(worst) > CLOSE)


def compare(name, side, seed):
    """Differences as shares of the spreads, of each cut and of the resized logits."""
    import torch

    theirs = torchvision_network(name, seed)
    x = np.random.default_rng(seed).normal(size=(1, side, side, 3)).astype(np.float32)
    images = torch.from_numpy(x).permute(0, 3, 1, 2)
    expected = outputs(theirs, images)
    with torch.no_grad():
        whole = theirs(images)["out"].permute(0, 2, 3, 1).numpy()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "weights.pth"
        torch.save(theirs.state_dict(), file)
        backbone = load_backbone(name, file)
    module, variables = backbone.module, backbone.variables
    names = module.endpoints()
    # One program a block: a tail is run as those of its blocks.
    parts = {
        stop: jax.jit(
            lambda v, x, ends=(start, stop): module.apply(v, x, start=ends[0], stop=ends[1])
        )
        for start, stop in zip((None, *names), names, strict=False)
    }

    def run(x, blocks):
        found = {}
        for block in blocks:
            x = found[block] = parts[block](variables, x)
        return found

    with jax.default_matmul_precision("highest"):
        ours = run(x, names)
        rows = {}
        for i, cut in enumerate(networks.as_network(module).cuts()):
            tail = run(expected[cut], names[i + 1 :])["logits"]
            rows[cut] = {
                "features": max(
                    map(difference, jax.tree.leaves(ours[cut]), jax.tree.leaves(expected[cut]))
                ),
                "logits": difference(tail, expected["logits"]),
                "unsplit_logits": difference(ours["logits"], expected["logits"]),
            }
        resized = resize(ours["logits"], (side, side), module.size.align_corners)
    return rows, difference(resized, whole)


def torchvision_network(name, seed):
    """The network without its auxiliary head, with random weights and statistics."""
    import torch
    import torchvision

    torch.manual_seed(seed)
    make = getattr(torchvision.models.segmentation, name)
    network = make(weights=None, weights_backbone=None, num_classes=21)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.3)
            torch.nn.init.normal_(module.running_mean, 0, 0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


def outputs(network, x):
    """Our name of each endpoint → what torchvision's module there returns, [B, h, w, C]."""
    import torch

    backbone, (aspp, conv, norm, relu, classifier) = network.backbone, network.classifier
    found = {}

    def keep(name, x):
        found[name] = x.permute(0, 2, 3, 1).numpy()
        return x

    with torch.no_grad():
        x = backbone.maxpool(backbone.relu(backbone.bn1(backbone.conv1(x))))
        keep("stem", x)
        for stage in range(1, 5):
            for i, block in enumerate(backbone[f"layer{stage}"], 1):
                x = keep(f"stage{stage}.block{i}", block(x))
        *branches, pooling = aspp.convs
        pool, pooled_conv, pooled_norm, pooled_relu = pooling
        kept = {f"branch{i}": branch(x) for i, branch in enumerate(branches)}
        kept["pooling"] = pooled_relu(pooled_norm(pooled_conv(pool(x))))
        found["aspp.branches"] = {k: v.permute(0, 2, 3, 1).numpy() for k, v in kept.items()}
        x = keep("aspp", aspp(x))
        x = keep("head", relu(norm(conv(x))))
        keep("logits", classifier(x))
    return found


def difference(ours, theirs):
    return float(np.abs(np.asarray(ours) - theirs).max() / np.ptp(theirs))


def show(name, rows, worst, resized):
    table = Table("cut", "features", "logits of the tail", "logits, unsplit", title=name)
    for cut, row in rows.items():
        table.add_row(cut, *(f"{row[key]:.1e}" for key in ("features", "logits", "unsplit_logits")))
    table.add_section()
    table.add_row("worst", "", f"{worst:.1e}", "")
    table.add_row("resized to the image", "", "", f"{resized:.1e}")
    Console(width=90).print(table)


if __name__ == "__main__":
    sys.exit(main())
