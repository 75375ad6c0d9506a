"""Tasks: losses, metrics and predictions of outputs: classification, segmentation."""

import importlib
from typing import TYPE_CHECKING, Any

from jaxsplit.tasks.metric import AGREEMENT, CLASSIFICATION_METRICS, Metric, metric_of
from jaxsplit.tasks.task import Outputs, Shown, Targets, Task

if TYPE_CHECKING:
    from jaxsplit.tasks.classification import UNNAMED_CLASSES, Classification
    from jaxsplit.tasks.segmentation import Segmentation

__all__ = [
    "AGREEMENT",
    "CLASSIFICATION_METRICS",
    "UNNAMED_CLASSES",
    "Classification",
    "Metric",
    "Outputs",
    "Segmentation",
    "Shown",
    "Targets",
    "Task",
    "metric_of",
]

# Curves and reports read metrics without jax, which takes seconds to load.
_WITH_JAX = {
    "UNNAMED_CLASSES": "classification",
    "Classification": "classification",
    "Segmentation": "segmentation",
}


def __getattr__(name: str) -> Any:
    if name in _WITH_JAX:
        return getattr(importlib.import_module(f"jaxsplit.tasks.{_WITH_JAX[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
