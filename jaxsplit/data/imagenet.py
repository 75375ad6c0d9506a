"""Classes of ImageNet: WordNet ids, and their names.

Both are files of tensorflow-datasets, which are found without importing it: that takes a second.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
from pathlib import Path

from jaxsplit.errors import DataError

NUM_CLASSES = 1000


@functools.lru_cache
def class_names() -> tuple[str, ...]:
    """Returns the names of ImageNet's classes.

    Returns:
      The WordNet ids of the 1,000 classes, in the order of the logits; a DataError if the
      installed tensorflow-datasets lacks the list.

    >>> class_names()[404]
    'n02690373'
    """
    if listing := _file("imagenet2012", "labels.txt"):
        return tuple(listing.read_text().split())
    raise DataError(
        "the installed tensorflow-datasets lacks ImageNet's labels.txt; install another version"
    )


def named(class_name: str) -> dict[str, object]:
    """Describes a class: a WordNet id of ImageNet has its name beside it.

    >>> named("n02690373"), named("Ankle boot")
    ({'class': 'n02690373', 'name': 'airliner'}, {'class': 'Ankle boot'})
    """
    looks_so = class_name[:1] == "n" and class_name[1:].isdigit() and len(class_name) == 9
    name = _names().get(class_name) if looks_so else None
    return {"class": class_name, **({} if name is None else {"name": name})}


@functools.lru_cache
def _names() -> dict[str, str]:
    """Returns WordNet id → name; empty if the installed tensorflow-datasets lacks the names."""
    file = _file("siscore", "labels.py")
    for node in ast.parse(file.read_text(encoding="utf-8")).body if file else ():
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "IMAGENET_LABELS_LIST":
            names = ast.literal_eval(node.value)
            if len(names) == NUM_CLASSES:
                return dict(zip(class_names(), names, strict=True))
    return {}


def _file(dataset: str, name: str) -> Path | None:
    spec = importlib.util.find_spec("tensorflow_datasets")
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder, "datasets", dataset, name)
        if path.is_file():
            return path
    return None
