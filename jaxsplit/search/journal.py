"""What is finished of a search, so that a stopped one goes on."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from jaxsplit.errors import ConfigError
from jaxsplit.io.files import write_whole


class Journal:
    """What is finished of a search, in one file; and the time that it has taken so far."""

    def __init__(self, path: Path, key: str) -> None:
        """Opens the journal of the search with this key, or begins it anew.

        Raises:
          ConfigError: there is one that can't be read.
        """
        self.path, self._begun = path, time.monotonic()
        self.values: dict[str, Any] = {"key": key, "seconds": 0.0, "rungs": [], "kept": None}
        self.other = False  # whether there was one of another search
        if path.is_file():
            try:
                found = json.loads(path.read_text(), parse_constant=lambda _: None)
                matches = found["key"] == key
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise ConfigError(
                    f"{path} is damaged: delete it, or take another folder"
                ) from error
            self.values = found if matches else self.values
            self.other = not matches
        self._before = self.values["seconds"]

    @property
    def seconds(self) -> float:
        """Since the search began, without the time between its runs."""
        return self._before + time.monotonic() - self._begun

    def write(self) -> None:
        """Keeps what is finished.

        Raises:
          ConfigError: the file can't be written.
        """
        self.values["seconds"] = self.seconds
        text = json.dumps(self.values, indent=1, allow_nan=False) + "\n"
        write_whole(self.path, text.encode())
