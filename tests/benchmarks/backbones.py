"""ImageNet backbones beside PyTorch: the same pixels, the same logits, and the time of both.

    python tests/benchmarks/backbones.py --images DIR --resnet50 FILE.safetensors [--json FILE]

One run compares, on real images and with equal threads: preprocessing with torchvision's, logits
with torchvision's ResNet-50 and timm's EfficientNet-Lite0 (normalization kept and folded), and the
time of batches of 32 and of 1, PyTorch eager in both memory layouts, all taken in turns. Exit
status 1 says that pixels differ by more than a grey level, logits by more than 1e-3 (kept from
folded: 1e-4), or that a batch of 32 takes longer than PyTorch's best. Needs
`pip install ".[bench]"`. Without --resnet50 its weights are drawn at random.
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
from harness import in_turns, make_parser, write_json
from PIL import Image

from jaxsplit.weights.load import PACKAGES, load_backbone

PIXELS, LOGITS, FOLDED, SPEED = 1, 1e-3, 1e-4, 1.0


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--images", type=Path, required=True, help="folder of image files")
    parser.add_argument("--resnet50", type=Path, help="weights with torchvision's names")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    import torch

    torch.set_grad_enabled(False)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    files = sorted(p for p in options.images.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    pictures = [Image.open(path).convert("RGB") for path in files[:32]]
    if len(pictures) < 32:
        parser.error(f"{options.images} has {len(pictures)} JPEG images, expected at least 32")
    report = {"threads": torch.get_num_threads(), "torch": torch.__version__, "networks": {}}
    print(f"torch {torch.__version__}, jax {jax.__version__}, {torch.get_num_threads()} threads")
    for name, theirs, backbone, transform in networks(options.resnet50):
        report["networks"][name] = compare(
            name, theirs, backbone, transform, pictures, options.rounds
        )
    write_json(options.json, report)
    failed = [name for name, network in report["networks"].items() if network["fails"]]
    print(f"out of tolerance: {', '.join(failed)}" if failed else "all within tolerance")
    return 1 if failed else 0


def networks(resnet50_file):
    """(name, PyTorch module, our backbone, torchvision transform up to uint8) of each network."""
    import safetensors.torch
    import timm
    import torch
    import torchvision

    transforms, modes = torchvision.transforms, torchvision.transforms.InterpolationMode
    resnet50 = torchvision.models.resnet50()
    if resnet50_file is None:
        resnet50_file = Path(tempfile.mkdtemp()) / "resnet50.safetensors"
        safetensors.torch.save_file(resnet50.state_dict(), resnet50_file)
    # Files whose normalization counts no batches are complete without that count.
    missing = resnet50.load_state_dict(
        {key: value.float() for key, value in safetensors.torch.load_file(resnet50_file).items()},
        strict=False,
    )
    assert not missing.unexpected_keys
    assert all(key.endswith("num_batches_tracked") for key in missing.missing_keys)
    yield (
        "resnet50",
        resnet50.eval(),
        load_backbone("resnet50", resnet50_file),
        transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)]),
    )
    lite0 = timm.create_model("tf_efficientnet_lite0")
    state = torch.load(PACKAGES["efficientnet_lite0"].path(), weights_only=True)
    # The same layers in the same order under other names.
    lite0.load_state_dict(dict(zip(lite0.state_dict(), state.values(), strict=True)))
    resize = transforms.Resize(256, interpolation=modes.BICUBIC)
    yield (
        "efficientnet_lite0",
        lite0.eval(),
        load_backbone("efficientnet_lite0"),
        transforms.Compose([resize, transforms.CenterCrop(224)]),
    )


def compare(name, theirs, backbone, transform, pictures, rounds):
    """Pixels, logits and times of one network."""
    import torch

    ours = np.stack([backbone.preprocessing.apply(np.asarray(image)) for image in pictures])
    reference = np.stack([np.asarray(transform(image)) for image in pictures])
    grey = int(np.abs(ours.astype(int) - reference).max())
    x = np.asarray(backbone.preprocessing.normalize(reference))
    nchw = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    expected = theirs(nchw).numpy()
    programs = {"kept": backbone, "folded": backbone.fold()}
    runs = {form: jax.jit(bound.network) for form, bound in programs.items()}
    trees = {form: jax.device_put(bound.variables) for form, bound in programs.items()}
    logits = {form: np.asarray(runs[form](trees[form], x)) for form in programs}
    report = {
        "grey_levels": grey,
        "top1_agreement": float((logits["kept"].argmax(1) == expected.argmax(1)).mean()),
        "logits_kept": float(np.abs(logits["kept"] - expected).max()),
        "logits_folded": float(np.abs(logits["folded"] - expected).max()),
        "kept_against_folded": float(np.abs(logits["kept"] - logits["folded"]).max()),
        "largest_logit": float(np.abs(expected).max()),
        "times": {},
    }
    print(f"\n{name}: pixels differ by at most {grey} grey levels")
    print(
        f"  logits differ from PyTorch's by at most {report['logits_kept']:.1e}, folded "
        f"{report['logits_folded']:.1e}, the two from each other "
        f"{report['kept_against_folded']:.1e} (largest logit {report['largest_logit']:.1f})"
    )
    for batch in (32, 1):
        calls = {}
        for layout, memory in (
            ("NCHW", torch.contiguous_format),
            ("channels_last", torch.channels_last),
        ):
            data = nchw[:batch].contiguous(memory_format=memory)
            module = copy.deepcopy(theirs).to(memory_format=memory)
            calls[f"torch {layout}"] = functools.partial(module, data)
        for form in programs:
            run = functools.partial(runs[form], trees[form], jax.device_put(x[:batch]))
            calls[f"jaxsplit {form}"] = lambda run=run: run().block_until_ready()
        times = in_turns(calls, rounds if batch > 1 else 5 * rounds)
        best = min(times["torch NCHW"], times["torch channels_last"])
        report["times"][batch] = times
        print(f"  batch {batch}: " + ", ".join(f"{k} {1e3 * t:.1f} ms" for k, t in times.items()))
        for form in programs:
            ratio = best / times[f"jaxsplit {form}"]
            report["times"][batch][f"{form} against PyTorch's best"] = ratio
            print(f"    jaxsplit {form}: {ratio:.2f}× PyTorch's best")
    slow = report["times"][32]["folded against PyTorch's best"] < SPEED
    off = max(report["logits_kept"], report["logits_folded"]) > LOGITS
    report["fails"] = bool(slow or off or grey > PIXELS or report["kept_against_folded"] > FOLDED)
    return report


if __name__ == "__main__":
    sys.exit(main())
