"""A record of finished stages in a folder, so that a later run can skip them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxsplit.io.files import check_writable, parse_json, write_json

#: Name of the record in its folder.
FILE = "stages.json"


class StageRecord:
    """Findings of the stages of a folder, by the keys of what they depend on.

    Args:
      folder: made where it is missing; None: nothing is kept. A ConfigError if it isn't writable.

    >>> import tempfile
    >>> record = StageRecord(Path(tempfile.mkdtemp()))
    >>> record.put("training", "of 5 minutes", steps=100)
    >>> record.get("training", "of 5 minutes")["steps"], record.get("training", "of 9 minutes")
    (100, {})
    """

    def __init__(self, folder: Path | None) -> None:
        if folder is not None:
            check_writable(folder)
        self.folder = folder

    def get(self, stage: str, key: str) -> Mapping[str, Any]:
        """Returns the findings of a stage with this key, and the key; {} if it has another one."""
        found = self._read().get(stage)
        return found if isinstance(found, dict) and found.get("key") == key else {}

    def put(self, stage: str, key: str, **found: object) -> None:
        """Writes the findings of a stage, atomically, in place of earlier ones."""
        if self.folder is not None:
            write_json(self.folder / FILE, {**self._read(), stage: {"key": key, **found}})

    def _read(self) -> dict[str, Any]:
        try:
            found = {} if self.folder is None else parse_json((self.folder / FILE).read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}
