"""Trained families by name: in the package, in a folder, or on the Hugging Face Hub."""

from __future__ import annotations

import os
import re
from pathlib import Path

from jaxsplit.errors import FamilyError, did_you_mean
from jaxsplit.family import RateFamily
from jaxsplit.family.files import FILES, INDEX, is_packed

#: Families in the package: `<backbone>-<dataset>/<cut>/`.
FAMILIES = Path(__file__).parent.parent / "assets" / "families"

_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"  # no "..", no wildcard
_HUB = re.compile(rf"hf:({_PART}/{_PART})((?:/{_PART})*)(?:@([A-Za-z0-9_][A-Za-z0-9_./-]*))?")


def pretrained_names() -> tuple[str, ...]:
    """Lists the families in the package.

    Returns:
      Their names "<backbone>-<dataset>/<cut>" in alphabetical order, for `load_pretrained`.

    >>> "resnet8_small-fashion_mnist/stage1.block1" in pretrained_names()
    True
    """
    folders = (path.parent.relative_to(FAMILIES) for path in FAMILIES.glob(f"*/*/{INDEX}"))
    return tuple(sorted(folder.as_posix() for folder in folders))


def load_pretrained(name: str | os.PathLike[str]) -> RateFamily:
    """Loads a trained family. Nothing in a folder or a download is executed.

    Args:
      name: a folder, such as a training's `family`; one of `pretrained_names()`; or a repository of
        the Hugging Face Hub, `hf:owner/name[/folder][@revision]`, which is downloaded once
        (`pip install "jaxsplit[hub]"`).

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
    if text.startswith("hf:"):
        return RateFamily.load(_download(text))
    if not (Path(text) / INDEX).exists() and text in pretrained_names():
        return RateFamily.load(FAMILIES / text)
    if not Path(text).exists():
        raise FamilyError(
            f"no family at {text}: give a folder, hf:owner/name, or one of the package: "
            f"{', '.join(pretrained_names())}{did_you_mean(text, pretrained_names())}"
        )
    return RateFamily.load(text)


def _download(name: str) -> Path:
    """Downloads a packed family from the Hub and returns its local folder."""
    found = _HUB.fullmatch(name)
    if found is None:
        raise FamilyError(
            f"{name!r} is not a name on the Hub; expected hf:owner/name[/folder][@rev]"
        )
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
    except Exception as error:  # of several libraries
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise FamilyError(
            f"cannot download {name} ({reason}); check the name, the revision and the connection"
        ) from error
    if not is_packed(Path(local) / folder):
        raise FamilyError(
            f"{name} is not a packed family, and others may be of any size once they are read: its "
            "owner can pack it with jaxsplit pack"
        )
    return Path(local) / folder
