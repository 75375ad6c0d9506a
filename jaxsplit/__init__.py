"""Split computing in JAX: cut a frozen network, train small bottlenecks, send real bytes.

The public names and their modules are listed once, in `__init__.pyi`. A name is imported when it
is first used, since jax and flax take seconds to load.

>>> import jaxsplit
>>> jaxsplit.BottleneckSpec(channels=12, stride=4, kernel=4, padding=0).latent_size(28, 28)
(7, 7)
"""

import importlib
import importlib.util
import pkgutil
import re
import sys
from typing import Any

from jaxsplit import _moved, _notebook

#: The one place of the version: the package's metadata are made from it.
__version__ = "0.1.0"

_STUB = (pkgutil.get_data(__name__, "__init__.pyi") or b"").decode()
# Name → module.
_HOMES = {
    name: module
    for module, name in re.findall(r"^from (jaxsplit\.\S+) import (\w+) as \2$", _STUB, re.M)
}
__all__ = sorted(_HOMES)

sys.meta_path.insert(0, _moved.Finder())
_notebook.load = lambda: importlib.import_module("jaxsplit.reports.notebook")


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    elif not name.startswith("_") and importlib.util.find_spec(f"jaxsplit.{name}"):
        value = importlib.import_module(f"jaxsplit.{name}")  # such as jaxsplit.networks
    else:
        raise AttributeError(f"module 'jaxsplit' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
