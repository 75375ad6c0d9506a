"""Tasks: losses, metrics and predictions of a network's outputs, such as classification."""

from jaxsplit.tasks.classification import Classification
from jaxsplit.tasks.task import Metric, Outputs, Targets, Task

__all__ = ["Classification", "Metric", "Outputs", "Targets", "Task"]
