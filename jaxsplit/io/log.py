"""The log callback, and warnings as lines on stderr."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Protocol

from jaxsplit.errors import JaxsplitWarning, escaped


class Log(Protocol):
    """Log callback: `text` describes the work; `done` of its `total` is finished."""

    def __call__(
        self, text: str, done: float = 0, total: float | None = None, unit: str = "images", /
    ) -> None: ...


def no_log(text: str, done: float = 0, total: float | None = None, unit: str = "images") -> None:
    """No-op log callback."""


@contextlib.contextmanager
def shown(progress: bool | None, log: Log | None, *, after: float = 0.0) -> Iterator[Log]:
    """Yields the callback of some work: `log`, else a bar on stderr, or silence without `progress`.

    Work shorter than `after` seconds is not shown.
    """
    if log is not None or not progress:
        yield log or no_log
        return
    from jaxsplit.io.progress import ProgressBar  # loads rich

    with ProgressBar(after=after) as bar:
        yield bar.log


@contextlib.contextmanager
def shown_as_lines(*, quiet: bool = False) -> Iterator[None]:
    """Prints each warning of this package as one line on stderr, and none of its dependencies.

    With `quiet`, none at all. `python -W …` and `PYTHONWARNINGS` keep their effect.
    """
    root = logging.getLogger()
    silence = logging.NullHandler()  # without any handler, logging prints its records
    root.addHandler(silence)
    try:
        with warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.simplefilter("ignore")
                warnings.simplefilter("ignore" if quiet else "default", JaxsplitWarning)
                warnings.showwarning = _show
            yield
    finally:
        root.removeHandler(silence)


def _show(message: Warning | str, *place: object, **line: object) -> None:
    print(f"jaxsplit: warning: {escaped(' '.join(str(message).split()))}", file=sys.stderr)
