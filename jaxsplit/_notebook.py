"""HTML of families and curves in a notebook.

The functions that make it are in `jaxsplit.reports`, above the classes that are shown. So the
classes ask here, and the package's root, which knows all modules by name, says what to load.
"""

from __future__ import annotations

import functools
from collections.abc import Callable


@functools.singledispatch
def html(value: object) -> str | None:
    """Returns HTML of a value: `html.register` adds a class. None: a notebook shows the repr."""
    return None


class Shown:
    """Base class of what a notebook shows as HTML."""

    def _repr_html_(self) -> str | None:
        load()
        return html(self)


def _nothing() -> None:
    """Loads nothing."""


#: Imports the modules that register their functions with `html`; the package's root sets it.
load: Callable[[], object] = _nothing
