"""Tasks: losses, metrics and predictions of a network's outputs, such as classification."""

from typing import TYPE_CHECKING, Any

from jaxsplit.tasks.task import (
    AGREEMENT,
    CLASSIFICATION_METRICS,
    Metric,
    Outputs,
    Targets,
    Task,
    metric_of,
)

if TYPE_CHECKING:
    from jaxsplit.tasks.classification import UNNAMED_CLASSES, Classification

__all__ = [
    "AGREEMENT",
    "CLASSIFICATION_METRICS",
    "UNNAMED_CLASSES",
    "Classification",
    "Metric",
    "Outputs",
    "Targets",
    "Task",
    "metric_of",
]


def __getattr__(name: str) -> Any:
    # Curves and reports read metrics without jax, which takes seconds to load.
    if name in ("UNNAMED_CLASSES", "Classification"):
        from jaxsplit.tasks import classification

        return getattr(classification, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
