"""Tasks: what a network's outputs mean. Classification is the first."""

from jaxsplit.tasks.classification import Classification
from jaxsplit.tasks.task import Metric, Outputs, Targets, Task

__all__ = ["Classification", "Metric", "Outputs", "Targets", "Task"]
