"""Split computing in JAX: cut a frozen network, train small bottlenecks, send real bytes.

>>> import jaxsplit
>>> jaxsplit.BottleneckSpec(channels=12, stride=4, kernel=4, padding=0).latent_size(28, 28)
(7, 7)
"""

import importlib
import importlib.util
from typing import Any

#: The one place of the version: the package's metadata are made from it.
__version__ = "0.1.0"

# Name → module. Imported when first used: jax and flax take seconds to load.
_HOMES = {
    "Bottleneck": "jaxsplit.units.bottleneck",
    "BottleneckSpec": "jaxsplit.units.bottleneck",
    "CodingTables": "jaxsplit.bitstream",
    "Curve": "jaxsplit.evaluation.curve",
    "CurveConfig": "jaxsplit.train.config",
    "Distortion": "jaxsplit.train.losses",
    "EntropyCoder": "jaxsplit.bitstream",
    "FactorizedPrior": "jaxsplit.entropy",
    "JaxsplitError": "jaxsplit.errors",
    "JaxsplitWarning": "jaxsplit.errors",
    "Phase": "jaxsplit.train.step",
    "Preprocessing": "jaxsplit.data",
    "Rate": "jaxsplit.train.step",
    "RateFamily": "jaxsplit.family",
    "Receiver": "jaxsplit.codec",
    "Sender": "jaxsplit.codec",
    "Split": "jaxsplit.split",
    "evaluate": "jaxsplit.evaluation.evaluate",
    "load_backbone": "jaxsplit.weights.load",
    "load_pretrained": "jaxsplit.family.pretrained",
    "make_plan": "jaxsplit.cost",
    "make_split": "jaxsplit.split",
    "open_source": "jaxsplit.data",
    "pretrained_names": "jaxsplit.family.pretrained",
    "split_cost": "jaxsplit.cost",
    "train_curve": "jaxsplit.train.curve",
    "train_family": "jaxsplit.train.recipe",
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
    "JaxsplitWarning",
    "Phase",
    "Preprocessing",
    "Rate",
    "RateFamily",
    "Receiver",
    "Sender",
    "Split",
    "evaluate",
    "load_backbone",
    "load_pretrained",
    "make_plan",
    "make_split",
    "open_source",
    "pretrained_names",
    "split_cost",
    "train_curve",
    "train_family",
]


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
