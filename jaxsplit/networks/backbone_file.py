"""The safetensors file of a backbone: arrays by name, and a description beside them.

The description has the network's name, the preprocessing, the class names and the card. Code is
not stored: the name finds an included network, or one of `jaxsplit.networks.register`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict

import jax
import numpy as np
import safetensors.numpy
from flax import traverse_util

from jaxsplit.data import Preprocessing
from jaxsplit.errors import ConfigError, DataError, WeightsError
from jaxsplit.io.fields import build
from jaxsplit.io.files import parse_json, write_whole
from jaxsplit.io.untrusted import (
    check_tensors,
    damaged,
    finite_floats,
    is_variance,
    listed,
    quoted,
    read_metadata,
    read_safetensors,
)
from jaxsplit.networks.architectures import names
from jaxsplit.networks.layers import Chain
from jaxsplit.networks.network import LinenNetwork, Network, Variables, per_image_shapes
from jaxsplit.networks.registry import REGISTERED, Registered, find_network, is_registered
from jaxsplit.tasks import Classification, Task
from jaxsplit.tasks.stored import TaskFields, task_fields
from jaxsplit.trees import Traced

# The entry of the file's metadata that holds what isn't a tensor, as JSON.
_HEADER = "jaxsplit"


class BackboneContent(NamedTuple):
    """The content of a file, as in `Backbone`."""

    name: str
    network: Network
    variables: Variables
    preprocessing: Preprocessing
    task: Task
    card: Mapping[str, object]


class _Description(TypedDict):
    """The description of a backbone in its file.

    A classification is stored by its class names, another task of the package by its fields, a
    registered one by its name.
    """

    name: str
    class_names: NotRequired[tuple[str, ...]]
    task: NotRequired[str]
    task_fields: NotRequired[TaskFields]
    width: NotRequired[float]  # of a network that isn't as wide as published
    card: dict[str, object]
    preprocessing: Preprocessing


def by_name(variables: Traced) -> dict[str, Any]:
    """Returns the leaves of a tree by their paths, such as "params/stem/conv/kernel".

    >>> by_name({"params": {"w": 3}})
    {'params/w': 3}
    """
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree.leaves_with_path(variables)
    }


def write_content(path: Path, content: BackboneContent, dtype: str) -> None:
    """Writes a file; equal contents give equal bytes.

    Args:
      path: file to write; replaced atomically.
      content: of the file; whatever could not be read again is refused.
      dtype: of the stored arrays; they are float32 again when read.

    Raises:
      ConfigError: the file cannot be written, or does not hold this network, preprocessing or task.
      WeightsError: these variables could not be read again.
    """
    name, variables, preprocessing = content.name, content.variables, content.preprocessing
    where = f"cannot write {path}"
    if type(preprocessing) is not Preprocessing:
        what = f"its preprocessing is a {type(preprocessing).__name__}"
        raise ConfigError(f"{where}: {what}; a file holds a jaxsplit.Preprocessing")
    classes = getattr(content.task, "class_names", ())
    try:
        known = find_network(name, len(classes), width := _width(content.network))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    if content.network.folded:
        raise _folded(where)
    if content.network != known.network:
        raise ConfigError(f"{where}: {_another_network(name)}")
    header = {
        "name": name,
        "preprocessing": preprocessing.to_dict(),
        **_stored_task(content, known, where),
        "card": content.card,
        **({} if width == 1 else {"width": width}),
    }
    try:
        text = json.dumps(header, sort_keys=True)
        build(_Description, parse_json(text), what="its description")
    except (ConfigError, TypeError, ValueError) as error:
        raise ConfigError(f"{where}: its card or description is no JSON: {error}") from error
    arrays = _stored_arrays(variables, known, preprocessing.input_shape, name, dtype, where)
    write_whole(path, safetensors.numpy.save(arrays, {_HEADER: text}), make_folder=True)


def _width(network: Network) -> float:
    """Returns the width of an included network, see `networks.create`."""
    module = network.module if isinstance(network, LinenNetwork) else None
    return getattr(module, "width", 1.0) if isinstance(module, Chain) else 1.0


def _folded(where: str) -> WeightsError:
    return WeightsError(
        f"{where}: its batch normalization is folded away; save the variables as they were "
        "before fold()"
    )


def _another_network(name: str) -> str:
    if is_registered(name):
        call = f"jaxsplit.networks.register({name!r}, backbone.network)"
        return f"another network is registered as {name}: call {call}"
    return (
        f"the included {name} is another network: make the backbone with a name of your own, and "
        "register it with jaxsplit.networks.register"
    )


def _stored_task(content: BackboneContent, known: Registered, where: str) -> dict[str, object]:
    task, name = content.task, content.name
    if type(task) is Classification:
        return {"class_names": list(task.class_names)}
    if (fields := task_fields(task)) is not None:
        # The name too: earlier versions say that they don't know this task.
        return {"task": task.name, "task_fields": fields}
    if known.task is None or task != known.task.fitted(content.preprocessing):
        raise ConfigError(
            f"{where}: its task is a {type(task).__name__}, which is not in the file: call "
            f"jaxsplit.networks.register({name!r}, backbone.network, task=backbone.task)"
        )
    return {"task": task.name}


def _stored_arrays(
    variables: Variables,
    known: Registered,
    input_shape: tuple[int, ...],
    name: str,
    dtype: str,
    where: str,
) -> dict[str, np.ndarray]:
    """Converts variables to the arrays of a file; a WeightsError if they can't be read again."""
    leaves, shapes = by_name(variables), known.variable_shapes(input_shape)
    floating = (np.dtype(np.float32), np.dtype(np.float64))
    kinds = {key: getattr(leaf, "dtype", np.asarray(leaf).dtype) for key, leaf in leaves.items()}
    others = [f"{quoted(key)} is {kind}" for key, kind in kinds.items() if kind not in floating]
    if others:
        raise WeightsError(f"{where}: a file holds float32: {listed(others)}; convert the arrays")
    with np.errstate(over="ignore"):
        arrays = {key: np.asarray(leaf, dtype, order="C") for key, leaf in leaves.items()}
    if shapes is None:
        if not _is_nested(variables):
            raise WeightsError(
                f"{where}: its variables are no nested dictionaries with names as keys: call "
                f"jaxsplit.networks.register({name!r}, backbone.network, "
                "variables=backbone.variables)"
            )
    else:
        expected = {key: leaf.shape for key, leaf in by_name(shapes).items()}
        statistics = [key for key in expected if key.startswith("batch_stats/")]
        if statistics and not any(key.startswith("batch_stats/") for key in arrays):
            raise _folded(where)
        check_tensors(arrays, expected, f"{where}: these variables do not fit {name}")
    not_finite = [key for key, value in arrays.items() if not np.isfinite(value).all()]
    if not_finite:
        raise WeightsError(
            f"{where}: not finite in {dtype}: {listed(map(quoted, not_finite))}; use float32, or "
            "train again"
        )
    negative = [key for key, x in arrays.items() if is_variance(key) and x.size and x.min() < 0]
    if negative:
        raise WeightsError(f"{where}: negative variances: {listed(map(quoted, negative))}")
    return arrays


def _is_nested(tree: object) -> bool:
    """Returns whether names without slashes and nested dictionaries are all that holds arrays."""
    if type(tree) is not dict:
        return jax.tree_util.all_leaves([tree])
    named = all(isinstance(key, str) and "/" not in key for key in tree)
    return bool(tree) and named and all(map(_is_nested, tree.values()))


def holds_backbone(path: str | os.PathLike[str]) -> bool:
    """Returns whether a path is a file of `Backbone.save`.

    Args:
      path: of any file.

    Returns:
      False for weights of another package, and for a missing or unreadable file.

    >>> holds_backbone("nowhere")
    False
    """
    try:
        return _HEADER in read_metadata(path)
    except WeightsError:
        return False


def read_content(path: str | os.PathLike[str]) -> BackboneContent:
    """Reads a file; nothing in it is executed.

    Args:
      path: of the file.

    Returns:
      Its content, the variables float32.

    Raises:
      WeightsError: the file is missing, is no such file, or does not fit the network that it names.
    """
    where, metadata = os.fspath(path), read_metadata(path)
    if _HEADER not in metadata:
        raise WeightsError(
            f"{where}: weights of another package: they do not say which network they are of; "
            "name it too"
        )
    try:
        header: _Description = build(
            _Description, parse_json(metadata[_HEADER]), what="its description"
        )
        if not header.get("class_names") and "task" not in header:
            raise ConfigError("it has no class names")
        fields = header.get("task_fields")
        task = Classification(header.get("class_names", ("",))) if fields is None else fields.make()
    except (ConfigError, DataError, ValueError) as error:
        raise damaged(
            f"{where} is not a backbone file of jaxsplit ({quoted(str(error), 200)})"
        ) from error
    name, preprocessing = header["name"], header["preprocessing"]
    if name not in names() and not is_registered(name):
        unknown = f"{where}: its network {quoted(name)} is neither included nor registered"
        raise WeightsError(
            f"{unknown}: call jaxsplit.networks.register(name, network) first, in every program "
            "that loads the file",
            shell=f"{unknown}: {REGISTERED}",
        )
    try:
        count = len(getattr(task, "class_names", ()))
        known = find_network(name, count, header.get("width", 1.0))
    except ConfigError as error:
        raise damaged(f"{where}: {error}") from error
    by_name_alone = "task" in header and fields is None
    found = _registered_task(header["task"], known, where) if by_name_alone else task
    shapes, tensors = known.variable_shapes(preprocessing.input_shape), read_safetensors(path)
    if shapes is not None:
        expected = {key: leaf.shape for key, leaf in by_name(shapes).items()}
        check_tensors(tensors, expected, f"{where} does not fit {name}")
    floats = finite_floats(tensors, where)
    if shapes is None:
        variables = traverse_util.unflatten_dict(floats, sep="/")
        _check_runs(known.network, variables, preprocessing, f"{where} does not fit {name}")
    else:
        order = [floats[key] for key in by_name(shapes)]
        variables = jax.tree.unflatten(jax.tree.structure(shapes), order)
    return BackboneContent(name, known.network, variables, preprocessing, found, header["card"])


def _registered_task(name: str, known: Registered, where: str) -> Task:
    if known.task is None or known.task.name != name:
        unknown = f"{where}: its task {quoted(name)} is not registered"
        raise WeightsError(
            f"{unknown}: call jaxsplit.networks.register(name, network, task=task) first",
            shell=f"{unknown}: {REGISTERED}",
        )
    return known.task


def _check_runs(
    network: Network, variables: Variables, preprocessing: Preprocessing, complaint: str
) -> None:
    """Traces a network whose variables' shapes are unknown; a WeightsError if that fails."""
    try:
        per_image_shapes(network, variables, preprocessing.input_shape)
    except Exception as error:  # of the user's functions
        text = quoted(f"{type(error).__name__}: {error}", 200)
        raise WeightsError(f"{complaint} ({text})") from error
