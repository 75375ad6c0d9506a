"""Tasks as plain values: in the file of a backbone, and in a configuration."""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxsplit.errors import ConfigError, choices
from jaxsplit.tasks.class_tables import CLASS_TABLES, Colour
from jaxsplit.tasks.classification import Classification
from jaxsplit.tasks.segmentation import Segmentation
from jaxsplit.tasks.task import Task

KINDS = ("classification", "segmentation")


@dataclasses.dataclass(frozen=True)
class TaskFields:
    """A task of the package, as plain values.

    Attributes:
      kind: "classification" or "segmentation".
      class_names: in the order of the logits.
      table: name of a class table in place of names, colours and the ignored index: "camvid", …
      colours: (red, green, blue) of each class, 0 … 255; default: colours of their own.
      ignored: index in masks that counts nowhere, beside 255; default: that of the table, or 255.
      align_corners: how logits are interpolated, see `Segmentation`.

    >>> TaskFields("segmentation", table="camvid").make()
    Segmentation(11 classes: sky, building, …)
    """

    kind: str = "classification"
    class_names: tuple[str, ...] = ()
    table: str | None = None
    colours: tuple[Colour, ...] = ()
    ignored: int | None = None
    align_corners: bool = False

    def make(self) -> Task:
        """Makes the task; a ConfigError if the values don't fit, a DataError for damaged names."""
        if self.kind not in KINDS:
            raise ConfigError(f"no task {self.kind!r}; there are {choices(self.kind, KINDS)}")
        if self.table not in (None, *CLASS_TABLES):
            listed = choices(self.table, CLASS_TABLES)
            raise ConfigError(f"no class table is called {self.table!r}; there are {listed}")
        names, colours, ignored = self.class_names, self.colours, self.ignored
        if self.table is not None:
            names, colours, listed_ignored = CLASS_TABLES[self.table]
            ignored = listed_ignored if ignored is None else ignored
        if self.kind == "classification":
            return Classification(names)
        rest: dict[str, Any] = {} if ignored is None else {"ignored": ignored}
        return Segmentation(names, colours, align_corners=self.align_corners, **rest)


def task_fields(task: Task) -> dict[str, Any] | None:
    """Returns a task of the package as values for JSON; None for another class, or one derived.

    Args:
      task: of a network.

    Returns:
      The values of `TaskFields` that are not at their defaults.

    >>> task_fields(Segmentation(("road", "sky"), ((0, 0, 0), (9, 9, 9)), ignored=2))["ignored"]
    2
    """
    if type(task) not in (Classification, Segmentation):
        return None
    names = [field.name for field in dataclasses.fields(TaskFields)]
    values = {name: getattr(task, name) for name in names if hasattr(task, name)}
    stored = dataclasses.asdict(TaskFields(task.name, **values))
    defaults = dataclasses.asdict(TaskFields())
    return {key: x for key, x in stored.items() if x != defaults[key]}
