"""Two machines: the device's half, exported. Imports no jax by itself."""

import importlib
from typing import Any

_HOMES = {
    "DeviceSender": "jaxsplit.deploy.runtime.device",
    "export_bundle": "jaxsplit.deploy.export",
    "export_stablehlo": "jaxsplit.deploy.export_stablehlo",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
