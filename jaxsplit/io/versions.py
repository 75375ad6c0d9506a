"""Versions of Python and the packages that determine results, for reports and cards."""

import platform
from importlib import metadata

from jaxsplit import __version__

_PACKAGES = ("jax", "jaxlib", "flax", "numpy", "constriction", "pillow")


def versions() -> dict[str, str]:
    """Returns versions by name of package."""
    own = {"Python": platform.python_version(), "jaxsplit": __version__}
    return own | {name: _version(name) for name in _PACKAGES}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed as a package"
