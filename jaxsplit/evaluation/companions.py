"""Which curve a report or a plot is of: its name, and the mark of it that such a file holds."""

import hashlib
import re
from pathlib import Path

#: In a report and a plot, before the name of their curve.
MARK = "jaxsplit-curve"
_MARKED = re.compile(MARK.encode() + rb'\W+(?:content=")?([0-9a-f]{16})')
_MARKED_WITHIN = 4096


def name_of(content: bytes) -> str:
    """Returns the first 16 hexadecimal digits of the SHA-256 of a `curve.json`."""
    return hashlib.sha256(content).hexdigest()[:16]


def marked(path: Path) -> str | None:
    """Returns the name of the curve that a report or a plot is of; None if it has none."""
    try:
        with path.open("rb") as file:
            found = _MARKED.search(file.read(_MARKED_WITHIN))
    except OSError:
        return None
    return found and found[1].decode()
