"""What is said beside results: what goes on, and our warnings, once, as lines.

Warnings of dependencies are not shown at all.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Protocol, TextIO

from jaxsplit.errors import JaxsplitWarning


class Tell(Protocol):
    """Told what goes on; and, where it can be counted, that `done` of `total` are done."""

    def __call__(
        self, text: str, done: float = 0, total: float | None = None, unit: str = "images", /
    ) -> None: ...


def tell_nobody(
    text: str, done: float = 0, total: float | None = None, unit: str = "images"
) -> None:
    """For what nobody wants to hear of."""


@contextlib.contextmanager
def shown_as_lines(*, quiet: bool = False) -> Iterator[None]:
    """Inside, a warning of ours is one line on stderr, and no dependency's warning is shown.

    `python -W …` and `PYTHONWARNINGS` keep their meaning: whoever asks for warnings gets them.

    Args:
      quiet: show none at all.
    """
    root = logging.getLogger()
    ours = logging.getLogger("jaxsplit")
    silence = logging.NullHandler()  # without any handler, logging prints what it is told
    lines = _Lines(logging.CRITICAL if quiet else logging.WARNING)
    root.addHandler(silence)
    ours.addHandler(lines)
    try:
        with warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.simplefilter("ignore")
                warnings.simplefilter("ignore" if quiet else "default", JaxsplitWarning)
                warnings.showwarning = _show
            yield
    finally:
        root.removeHandler(silence)
        ours.removeHandler(lines)


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        _tell(record.getMessage())


def _show(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    del category, filename, lineno, file, line
    _tell(str(message))


def _tell(text: str) -> None:
    print(f"jaxsplit: warning: {' '.join(text.split())}", file=sys.stderr)
