"""ImageNet backbones beside PyTorch: the same pixels, the same logits, and the time of both.

    python tests/benchmarks/backbones.py --images DIR [--resnet50 FILE.safetensors] [--json FILE]

One run compares, on real images and with equal threads: preprocessing with torchvision's
transforms, logits with the networks of torchvision and timm (normalization kept and folded), and
the time of batches of 32 and of 1, PyTorch eager in both memory layouts, all taken in turns.
EfficientNet-Lite0 has its published weights, ResNet-50 those of a file; all others are drawn at
random, and their batch statistics are those of the images. `--networks` chooses some, such as
`deit_tiny/timm`; `--rounds 0` measures no times.

Exit status 1 says that pixels differ by more than a grey level, logits by more than 1e-4 of their
spread (standard deviation over images and classes), or that a batch of 32 of ResNet-50 or
EfficientNet-Lite0 takes longer than PyTorch's best. Needs `pip install ".[bench]"`.
"""

from __future__ import annotations

import copy
import functools
import os
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
from harness import in_turns, make_parser, provenance, write_json
from PIL import Image

from jaxsplit.weights import imagenet
from jaxsplit.weights.load import PACKAGES, load_backbone

PIXELS, SPREAD, SPEED = 1, 1e-4, 1.0
#: Networks whose batches of 32 must take no longer than PyTorch's.
TIMED = ("resnet50/torchvision", "efficientnet_lite0/timm")
#: Network and package → name in the package.
NETWORKS = {
    "resnet50/torchvision": "resnet50",
    "efficientnet_lite0/timm": "tf_efficientnet_lite0",
    "wide_resnet50_2/torchvision": "wide_resnet50_2",
    "wide_resnet50_2/timm": "wide_resnet50_2",
    "mobilenet_v3_large/torchvision": "mobilenet_v3_large",
    "mobilenet_v3_large/timm": "mobilenetv3_large_100",
    "convnext_tiny/torchvision": "convnext_tiny",
    "convnext_tiny/timm": "convnext_tiny",
    "deit_tiny/timm": "deit_tiny_patch16_224",
    "deit_small/timm": "deit_small_patch16_224",
}


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--images", type=Path, required=True, help="folder of image files")
    parser.add_argument("--resnet50", type=Path, help="weights with torchvision's names")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    import torch

    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    files = sorted(p for p in options.images.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    pictures = [Image.open(path).convert("RGB") for path in files[:32]]
    if len(pictures) < 32:
        parser.error(f"{options.images} has {len(pictures)} JPEG images, expected at least 32")
    packages = ("jax", "jaxlib", "torch", "torchvision", "timm")
    report = {"threads": torch.get_num_threads(), **provenance(packages), "networks": {}}
    print(f"torch {torch.__version__}, jax {jax.__version__}, {torch.get_num_threads()} threads")
    for name in options.networks:
        found = compare(name, pictures, options.rounds, options.resnet50)
        report["networks"][name] = found
        write_json(options.json, report)
    failed = [name for name, network in report["networks"].items() if network["fails"]]
    print(f"out of tolerance: {', '.join(failed)}" if failed else "all within tolerance")
    return 1 if failed else 0


def pair(full_name, reference, resnet50_file):
    """PyTorch's module and our backbone with the same weights; `reference` are images NCHW."""
    import safetensors.torch
    import torch

    name, _, package = full_name.partition("/")
    theirs = create(package, NETWORKS[full_name])
    if name == "efficientnet_lite0":
        state = torch.load(PACKAGES[name].path(), weights_only=True)
        # The same layers in the same order under other names.
        theirs.load_state_dict(dict(zip(theirs.state_dict(), state.values(), strict=True)))
        return theirs.eval(), load_backbone(name)
    if name == "resnet50" and resnet50_file is not None:
        # Files whose normalization counts no batches are complete without that count.
        stored = safetensors.torch.load_file(resnet50_file)
        missing = theirs.load_state_dict({k: v.float() for k, v in stored.items()}, strict=False)
        assert not missing.unexpected_keys
        assert all(key.endswith("num_batches_tracked") for key in missing.missing_keys)
        return theirs.eval(), load_backbone(name, resnet50_file)
    draw(theirs, reference)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "drawn.safetensors"
        safetensors.torch.save_file(theirs.state_dict(), path)
        return theirs, load_backbone(name, path)


def create(package, name):
    """A module of timm or torchvision."""
    import timm
    import torchvision

    if package == "timm":
        return timm.create_model(name)
    return getattr(torchvision.models, name)()


def draw(module, reference):
    """Random weights that no layer hides, and the images' own batch statistics."""
    import torch

    for key, value in module.state_dict().items():
        if key.endswith(("gamma", "layer_scale")):  # 1e-6 at first
            value.uniform_(-0.5, 0.5)
        elif key in ("pos_embed", "cls_token"):
            value.normal_(0, 0.5)
        elif value.ndim == 1 and not key.endswith(("running_mean", "running_var")):
            value.copy_(float(key.endswith("weight")) + 0.3 * torch.randn_like(value))
        elif value.ndim > 1:
            value.normal_(0, value[0].numel() ** -0.5)
    norms = [one for one in module.modules() if isinstance(one, torch.nn.BatchNorm2d)]
    for one in norms:
        one.reset_running_stats()
        one.momentum = None
    if norms:
        module.train()(reference)
    module.eval()


def transform_of(preprocessing):
    """torchvision's transform of an image, up to uint8."""
    import torchvision

    transforms, modes = torchvision.transforms, torchvision.transforms.InterpolationMode
    mode = {"bilinear": modes.BILINEAR, "bicubic": modes.BICUBIC}[preprocessing.interpolation]
    resize = transforms.Resize(preprocessing.resize, interpolation=mode)
    return transforms.Compose([resize, transforms.CenterCrop(preprocessing.size)])


def compare(name, pictures, rounds, resnet50_file):
    """Pixels, logits and times of one network."""
    import torch

    preprocessing = imagenet.preprocessing(*name.split("/"))
    transform = transform_of(preprocessing)
    reference = np.stack([np.asarray(transform(image)) for image in pictures])
    x = np.asarray(preprocessing.normalize(reference))
    nchw = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    theirs, backbone = pair(name, nchw, resnet50_file)
    assert backbone.preprocessing == preprocessing
    ours = np.stack([preprocessing.apply(np.asarray(image)) for image in pictures])
    grey = int(np.abs(ours.astype(int) - reference).max())
    expected = theirs(nchw).numpy()
    spread = float(expected.std())
    programs = {"kept": backbone, "folded": backbone.fold()}
    if programs["folded"] is backbone:  # no batch normalization
        del programs["kept"]
    runs = {form: jax.jit(bound.network) for form, bound in programs.items()}
    trees = {form: jax.device_put(bound.variables) for form, bound in programs.items()}
    logits = {form: np.asarray(runs[form](trees[form], x)) for form in programs}
    errors = {form: float(np.abs(found - expected).max()) for form, found in logits.items()}
    report = {
        "grey_levels": grey,
        "top1_agreement": float((logits["folded"].argmax(1) == expected.argmax(1)).mean()),
        "logits": errors,
        "spread": spread,
        "spread_over_images": float(expected.std(0).mean()),
        "largest_logit": float(np.abs(expected).max()),
        "times": {},
    }
    print(f"\n{name}: pixels differ by at most {grey} grey levels")
    for form, error in errors.items():
        print(f"  {form}: logits differ by {error:.1e}, {error / spread:.1e} of their spread")
    for batch in (32, 1) if rounds else ():
        report["times"][batch] = times(theirs, nchw, runs, trees, x, batch, rounds)
    ratio = report["times"].get(32, {}).get("against PyTorch's best", SPEED)
    slow = name in TIMED and ratio < SPEED
    report["fails"] = bool(slow or grey > PIXELS or max(errors.values()) > SPREAD * spread)
    return report


def times(theirs, nchw, runs, trees, x, batch, rounds):
    """Median seconds of a batch in every form, and ours against PyTorch's best."""
    import torch

    calls = {}
    for layout in ("contiguous_format", "channels_last"):
        memory = getattr(torch, layout)
        data = nchw[:batch].contiguous(memory_format=memory)
        module = copy.deepcopy(theirs).to(memory_format=memory)
        calls[f"torch {layout}"] = functools.partial(module, data)
    for form, run in runs.items():
        ready = functools.partial(run, trees[form], jax.device_put(x[:batch]))
        calls[f"jaxsplit {form}"] = lambda ready=ready: ready().block_until_ready()
    found = in_turns(calls, rounds if batch > 1 else 5 * rounds)
    best = min(value for form, value in found.items() if form.startswith("torch"))
    ratio = best / found["jaxsplit folded"]
    shown = ", ".join(f"{form} {1e3 * value:.1f} ms" for form, value in found.items())
    print(f"  batch {batch}: {shown}: {ratio:.2f}× PyTorch's best", flush=True)
    return {**found, "against PyTorch's best": ratio}


if __name__ == "__main__":
    sys.exit(main())
