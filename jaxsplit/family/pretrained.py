"""Trained families by name: in the package, in a folder, or on the Hugging Face Hub."""

from __future__ import annotations

import os
from pathlib import Path

from jaxsplit import networks
from jaxsplit.errors import FamilyError, did_you_mean
from jaxsplit.family import RateFamily
from jaxsplit.family.files import FILES, INDEX, is_packed
from jaxsplit.io import hub
from jaxsplit.networks import holds_backbone

#: Families in the package: `<backbone>-<dataset>/<cut>/`.
FAMILIES = Path(__file__).parent.parent / "assets" / "families"
# Of a training's folder.
_TRAINED = "family"


def pretrained_names() -> tuple[str, ...]:
    """Lists the families in the package.

    Returns:
      Their names "<backbone>-<dataset>/<cut>" in alphabetical order, for `load_pretrained`.

    >>> "resnet8_small-fashion_mnist/stage1.block1" in pretrained_names()
    True
    """
    folders = (path.parent.relative_to(FAMILIES) for path in FAMILIES.glob(f"*/*/{INDEX}"))
    return tuple(sorted(folder.as_posix() for folder in folders))


def is_family(name: str | os.PathLike[str]) -> bool:
    """Returns whether `load_pretrained` finds a family by this name, or asks the Hub for it.

    >>> is_family("resnet8_small-fashion_mnist/stage1.block1"), is_family("resnet50")
    (True, False)
    """
    text = os.fspath(name)
    folders = Path(text), Path(text) / _TRAINED
    known = text.startswith(hub.HUB_PREFIX) or text in pretrained_names()
    return known or any((folder / INDEX).exists() for folder in folders)


def load_pretrained(name: str | os.PathLike[str]) -> RateFamily:
    """Loads a trained family. Nothing in a folder or a download is executed.

    Args:
      name: a folder, that of a training or its `family`; one of `pretrained_names()`; or a
        repository of the Hugging Face Hub, `hf:owner/name[/folder][@revision]`, which is downloaded
        once (`pip install "jaxsplit[hub]"`).

    Returns:
      The family; `RateFamily.codec` loads its backbone and makes sender and receiver.

    Raises:
      FamilyError: there is no such family, it is damaged, or it cannot be downloaded.
      CoderError: the installed coder does not reproduce a rate's self-test.

    >>> family = load_pretrained("resnet8_small-fashion_mnist/stage1.block1")
    >>> family.cut, [rate.rate_id for rate in family.rates]
    ('stage1.block1', ['r1', 'r2', 'r3', 'r4', 'r5'])
    """
    text = os.fspath(name)
    if text.startswith(hub.HUB_PREFIX):
        return RateFamily.load(_download(text))
    if (Path(text) / INDEX).exists():
        return RateFamily.load(text)
    if text in pretrained_names():
        return RateFamily.load(FAMILIES / text)
    if (Path(text) / _TRAINED / INDEX).exists():
        return RateFamily.load(Path(text) / _TRAINED)
    if Path(text).is_file():
        weights, what = holds_backbone(text), f"a family is a folder with {INDEX}"
        kind = "weights of a backbone: see jaxsplit.load_backbone" if weights else "a file"
        given = "weights, for --weights" if weights else "a file"
        raise FamilyError(
            f"no family at {text}: it is {kind}; {what}",
            shell=f"no family at {text}: it is {given}; {what}",
        )
    if Path(text).exists():
        return RateFamily.load(text)  # says what is missing
    names, near = ", ".join(pretrained_names()), did_you_mean(text, pretrained_names())
    if text in (*networks.names(), *networks.embedded_weights()):
        known = f"families are {names}{near}"
        raise FamilyError(
            f"{text} is a backbone: load it with jaxsplit.load_backbone; {known}",
            shell=f"{text} is a backbone, for --backbone; {known}",
        )
    if text.startswith(("/", ".", "~")):
        raise FamilyError(f"no folder {text}: check the path; families by name are {names}")
    raise FamilyError(
        f"no family at {text}: give a folder, hf:owner/name, or one of the package: {names}{near}"
    )


def _download(name: str) -> Path:
    """Downloads a packed family from the Hub and returns its local folder."""
    found = hub.parse_hub_name(name, "folder", FamilyError)
    patterns = [f"{found.path}/{file}".lstrip("/") for file in FILES]
    folder = hub.download_files(name, found, patterns, FamilyError) / found.path
    if not is_packed(folder):
        raise FamilyError(
            f"{name} is not a packed family, and others may be of any size once they are read: its "
            "owner can pack it with jaxsplit pack"
        )
    return folder
