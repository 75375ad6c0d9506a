"""Two machines: the gRPC service of the server half, and its client. Imports no jax by itself.

`Client` needs grpcio and protobuf, `pip install "jaxsplit[serve]"`; README.md beside this file
explains the service.
"""

import importlib
from typing import Any

_HOMES = {
    "Client": "jaxsplit.deploy.client",
    "Encoder": "jaxsplit.deploy.encoder",
    "Outcome": "jaxsplit.deploy.outcomes",
    "SenderEncoder": "jaxsplit.deploy.encoder",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
