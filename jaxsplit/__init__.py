"""Split computing in JAX: cut a frozen network, train small bottlenecks, send real bytes.

>>> import jaxsplit
>>> jaxsplit.BottleneckSpec(channels=12, stride=4, kernel=4, padding=0).latent_size(28, 28)
(7, 7)
"""

import importlib
from typing import Any

# Name → module. Imported when first used: jax and flax take seconds to load.
_HOMES = {
    "Bottleneck": "jaxsplit.bottleneck",
    "BottleneckSpec": "jaxsplit.bottleneck",
    "CodingTables": "jaxsplit.coding",
    "Curve": "jaxsplit.evaluation.curve",
    "CurveConfig": "jaxsplit.train.curve",
    "Distortion": "jaxsplit.losses",
    "EntropyCoder": "jaxsplit.coding",
    "FactorizedPrior": "jaxsplit.entropy",
    "JaxsplitError": "jaxsplit.errors",
    "Phase": "jaxsplit.train.step",
    "Preprocessing": "jaxsplit.data",
    "Rate": "jaxsplit.train.step",
    "RateFamily": "jaxsplit.family",
    "Receiver": "jaxsplit.codec",
    "Sender": "jaxsplit.codec",
    "Split": "jaxsplit.split",
    "evaluate": "jaxsplit.evaluation.accuracy",
    "load_backbone": "jaxsplit.importers.pretrained",
    "make_split": "jaxsplit.split",
    "open_family": "jaxsplit.family",
    "open_source": "jaxsplit.data",
    "split_cost": "jaxsplit.plan",
    "train_curve": "jaxsplit.train.curve",
}

__all__ = [
    "Bottleneck",
    "BottleneckSpec",
    "CodingTables",
    "Curve",
    "CurveConfig",
    "Distortion",
    "EntropyCoder",
    "FactorizedPrior",
    "JaxsplitError",
    "Phase",
    "Preprocessing",
    "Rate",
    "RateFamily",
    "Receiver",
    "Sender",
    "Split",
    "evaluate",
    "load_backbone",
    "make_split",
    "open_family",
    "open_source",
    "split_cost",
    "train_curve",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'jaxsplit' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
