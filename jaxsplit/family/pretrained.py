"""Trained families by name: of the package, of a folder, or of the Hugging Face Hub."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

from jaxsplit.codec import Receiver, Sender
from jaxsplit.errors import FamilyError, did_you_mean
from jaxsplit.family import RateFamily
from jaxsplit.family.files import FILES, INDEX, is_packed
from jaxsplit.networks import Backbone
from jaxsplit.weights.load import load_backbone

#: Where the families are that come with the package: `<backbone>-<dataset>/<cut>/`.
ASSETS = Path(__file__).parent / "assets" / "families"

_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"  # no "..", no wildcard
_HUB = re.compile(rf"hf:({_PART}/{_PART})((?:/{_PART})*)(?:@([A-Za-z0-9_][A-Za-z0-9_./-]*))?")


class PretrainedFamily(RateFamily):
    """A family as `load_pretrained` gives it, which makes its own two ends."""

    def backbone_of(
        self, name: str | None = None, file: str | os.PathLike[str] | None = None
    ) -> Backbone:
        """The frozen network, given images as this family was trained with.

        Args:
          name: weights as of `load_backbone`; None: those that the family names.
          file: of weights for the family's network, in place of a name.

        Returns:
          The backbone; the images are prepared as the family says, not as its weights do.

        Raises:
          FamilyError: neither is given, and the family names no weights.
          WeightsError: there are no such weights, or they don't fit.
        """
        if file is not None:
            backbone = load_backbone(self.backbone, file)
        elif found := name or self.weights:
            backbone = load_backbone(found)
        else:
            raise FamilyError(
                f"the family names no weights for {self.backbone}: give a backbone, or --weights "
                "FILE on the command line"
            )
        # Weights of another package don't say how images were given to this family.
        return dataclasses.replace(backbone, preprocessing=self.preprocessing)

    def codec(
        self, backbone: Backbone | None = None, *, batch_size: int = 1
    ) -> tuple[Sender, Receiver]:
        """Both ends: images to frames on the device, frames to logits on the server.

        Args:
          backbone: what the family was trained on; None: what it names is loaded.
          batch_size: images that run at once, as of `Sender`.

        Returns:
          The sender and the receiver.

        Raises:
          FamilyError: the family belongs to another backbone, or names none.
          WeightsError: its backbone's weights are not here.

        >>> import numpy as np
        >>> family = load_pretrained("resnet8_small-fashion_mnist/stage1.block1")
        >>> sender, receiver = family.codec()
        >>> frames = sender(np.zeros((1, 28, 28, 1), np.uint8), rate="r3")
        >>> receiver(frames).shape
        (1, 10)
        """
        backbone = self.backbone_of() if backbone is None else backbone
        return Sender(self, backbone, batch_size), Receiver(self, backbone, batch_size)


def pretrained_names() -> tuple[str, ...]:
    """Names of the families that come with the package: "<backbone>-<dataset>/<cut>".

    Returns:
      The names in alphabetical order, each for `load_pretrained`.

    >>> "resnet8_small-fashion_mnist/stage1.block1" in pretrained_names()
    True
    """
    folders = (path.parent.relative_to(ASSETS) for path in ASSETS.glob(f"*/*/{INDEX}"))
    return tuple(sorted(folder.as_posix() for folder in folders))


def load_pretrained(name: str | os.PathLike[str]) -> PretrainedFamily:
    """A trained family. Nothing that a folder or a download holds is executed.

    Args:
      name: one of `pretrained_names()`; a folder, such as a training's `family`; or a repository of
        the Hugging Face Hub, `hf:owner/name[/folder][@revision]`, which is downloaded once
        (`pip install "jaxsplit[hub]"`). A folder goes before a name of the package.

    Returns:
      The family, which finds its own backbone and makes its two ends: `PretrainedFamily.codec`.

    Raises:
      FamilyError: there is no such family, it is damaged, or it can't be downloaded.
      CoderError: the installed coder does not reproduce a rate's self-test.

    >>> family = load_pretrained("resnet8_small-fashion_mnist/stage1.block1")
    >>> family.cut, [rate.rate_id for rate in family.rates]
    ('stage1.block1', ['r1', 'r2', 'r3', 'r4', 'r5'])
    """
    text = os.fspath(name)
    if text.startswith("hf:"):
        return PretrainedFamily.load(_download(text))
    if not (Path(text) / INDEX).exists() and text in pretrained_names():
        return PretrainedFamily.load(ASSETS / text)
    if not Path(text).exists():
        raise FamilyError(
            f"no family at {text}: give a folder, hf:owner/name, or one of the package: "
            f"{', '.join(pretrained_names())}{did_you_mean(text, pretrained_names())}"
        )
    return PretrainedFamily.load(text)


def _download(name: str) -> Path:
    """The local folder of a family on the Hub."""
    found = _HUB.fullmatch(name)
    if found is None:
        raise FamilyError(f"{name!r} is no name on the Hub; expected hf:owner/name[/folder][@rev]")
    repository, folder, revision = found[1], found[2].lstrip("/"), found[3]
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise FamilyError(
            f"{name} needs the package huggingface_hub, which is not installed: "
            'pip install "jaxsplit[hub]"'
        ) from error
    patterns = [f"{folder}/{file}".lstrip("/") for file in FILES]
    try:
        local = snapshot_download(repository, revision=revision, allow_patterns=patterns)
    except Exception as error:  # the package lets errors of several libraries through
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise FamilyError(
            f"cannot download {name} ({reason}); check the name, the revision and the connection"
        ) from error
    found_folder = Path(local) / folder
    if not (found_folder / INDEX).exists() or is_packed(found_folder):
        return found_folder
    raise FamilyError(
        f"{name} is no packed family, and others may be of any size once they are read: its owner "
        "can make it one with jaxsplit pack"
    )
