"""Files of the Hugging Face Hub, by names such as hf:owner/name/file@revision."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jaxsplit.errors import JaxsplitError

#: How a name of the Hub begins.
HUB_PREFIX = "hf:"
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"  # no "..", no wildcard
_NAME = re.compile(rf"hf:({_PART}/{_PART})((?:/{_PART})*)(?:@([A-Za-z0-9_][A-Za-z0-9_./-]*))?")


class HubName(NamedTuple):
    """A name on the Hub: "owner/name", a path in the repository or "", and a revision or None."""

    repository: str
    path: str
    revision: str | None


def parse_hub_name(name: str, what: str, error: type[JaxsplitError]) -> HubName:
    """Parses a name; raises `error` if it is none.

    >>> parse_hub_name("hf:me/trees/cifar10@v1", "folder", JaxsplitError)
    HubName(repository='me/trees', path='cifar10', revision='v1')

    Args:
      name: hf:owner/name[/path][@revision].
      what: the path is, for the message.
      error: its class.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise error(f"{name!r} is not a name on the Hub; expected hf:owner/name[/{what}][@rev]")
    return HubName(found[1], found[2].lstrip("/"), found[3])


def download_files(
    name: str, found: HubName, patterns: Sequence[str], error: type[JaxsplitError]
) -> Path:
    """Downloads the files of a repository that match, once; returns its local folder.

    Raises `error`, with the name, if huggingface_hub is not installed or cannot download them.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as missing:
        raise error(
            f"{name} needs the package huggingface_hub, which is not installed: "
            'pip install "jaxsplit[hub]"'
        ) from missing
    try:
        return Path(
            snapshot_download(
                found.repository, revision=found.revision, allow_patterns=list(patterns)
            )
        )
    except Exception as problem:  # of several libraries
        reason = f"{type(problem).__name__}: {' '.join(str(problem).split())[:200]}"
        raise error(
            f"cannot download {name} ({reason}); check the name, the revision and the connection"
        ) from problem
