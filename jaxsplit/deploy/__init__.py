"""Two machines: the device's half, exported, and a gRPC service of the server's half.

Imports no jax by itself.

`Client` needs grpcio and protobuf, `pip install "jaxsplit[serve]"`; README.md beside this file
explains the service.
"""

import importlib
from typing import Any

_HOMES = {
    "Client": "jaxsplit.deploy.client",
    "DeviceSender": "jaxsplit.deploy.runtime.device",
    "Encoder": "jaxsplit.deploy.encoder",
    "Outcome": "jaxsplit.deploy.outcomes",
    "SenderEncoder": "jaxsplit.deploy.encoder",
    "export_bundle": "jaxsplit.deploy.export",
    "export_stablehlo": "jaxsplit.deploy.export_stablehlo",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
