"""Validates the tensor descriptions in torch's pickles and builds the arrays.

A pickle describes a tensor as a view of a storage: dtype, offset, shape and strides, in elements.
The storages' values lie outside the pickle. So the pickle program runs to its end first and gives
descriptions only. Arrays are built afterwards, when all sizes are known.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import ml_dtypes
import numpy as np

from jaxsplit.errors import WeightsError
from jaxsplit.io.untrusted import damaged, shown
from jaxsplit.weights.pickle_program import MAX_KEY, put

MAX_RANK = 32
MAX_DEPTH = 32
MAX_OBJECTS = 1_000_000
#: Names may share values, as tied weights do, but the arrays must not grow without bound.
MAX_EXPANSION = 4
_MAX_ELEMENTS = 2**48

_DTYPES = {
    "Double": np.dtype("float64"),
    "Float": np.dtype("float32"),
    "Half": np.dtype("float16"),
    "BFloat16": np.dtype(ml_dtypes.bfloat16),
    "Long": np.dtype("int64"),
    "Int": np.dtype("int32"),
    "Short": np.dtype("int16"),
    "Char": np.dtype("int8"),
    "Byte": np.dtype("uint8"),
    "Bool": np.dtype("bool"),
}


@dataclasses.dataclass(frozen=True)
class Storage:
    """A sequence of `size` elements in the file, identified by its key."""

    key: str
    dtype: np.dtype
    size: int

    @property
    def nbytes(self) -> int:
        """Size in bytes in the file."""
        return self.size * self.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A view of a storage, verified to lie inside it; offset and strides in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size of its elements in bytes."""
        return math.prod(self.shape) * self.storage.dtype.itemsize

    def view(self, values: np.ndarray) -> np.ndarray:
        """Returns the array [*shape] that views the storage's values [size]."""
        if not self.nbytes:
            return np.zeros(self.shape, values.dtype)
        item = values.dtype.itemsize
        buffer = values.view(np.uint8)  # the buffer protocol does not support bfloat16
        # An axis of one element may have any stride, even one that overflows numpy's arithmetic.
        pairs = zip(self.shape, self.strides, strict=True)
        strides = tuple(stride * item if size > 1 else item for size, stride in pairs)
        return np.ndarray(self.shape, values.dtype, buffer, self.offset * item, strides)


def storage_of(persistent_id: object) -> Storage:
    """Parses a persistent id ("storage", type, key, device, size[, view]), or WeightsError."""
    if isinstance(persistent_id, tuple) and len(persistent_id) in (5, 6):
        match persistent_id[:5]:
            case ("storage", np.dtype() as dtype, str(key), str(), int(size)) if (
                0 <= size < _MAX_ELEMENTS and len(key) <= MAX_KEY
            ):
                if persistent_id[5:] in ((), (None,)):
                    return Storage(key, dtype, size)
                raise WeightsError(
                    f"storage {shown(key)} is a view of another, as in files of torch < 0.4; "
                    "load and save it with a newer torch"
                )
    raise damaged("its pickle refers to a storage in an unknown way")


def _tensor(storage: object, offset: object, shape: object, strides: object, *_: object) -> Tensor:
    """Replaces torch._utils._rebuild_tensor and _rebuild_tensor_v2; drops gradients and hooks."""
    if not isinstance(storage, Storage) or not _are_sizes(offset, shape, strides):
        raise damaged("its pickle describes a tensor in an unknown way")
    tensor = Tensor(storage, offset, shape, strides)  # type: ignore[arg-type]
    elements = math.prod(tensor.shape)
    pairs = zip(tensor.shape, tensor.strides, strict=True)
    last = tensor.offset + sum((size - 1) * stride for size, stride in pairs)
    if elements and last >= storage.size:
        raise damaged(
            f"a tensor of shape {tensor.shape} reaches element {last} of storage "
            f"{shown(storage.key)}, which has {storage.size}"
        )
    # An empty tensor takes no memory, but numpy multiplies its other sizes.
    if elements > storage.size or math.prod(max(n, 1) for n in tensor.shape) > _MAX_ELEMENTS:
        raise WeightsError(
            f"a tensor of shape {tensor.shape} is expanded from the {storage.size} elements of "
            f"storage {shown(storage.key)}; in torch, save tensor.clone()"
        )
    return tensor


def _are_sizes(offset: object, shape: object, strides: object) -> bool:
    if not (isinstance(shape, tuple) and isinstance(strides, tuple)):
        return False
    if len(shape) != len(strides) or len(shape) > MAX_RANK:
        return False
    return all(type(n) is int and 0 <= n < _MAX_ELEMENTS for n in (offset, *shape, *strides))


def _parameter(data: object, *_: object) -> object:
    """Replaces torch.nn.Parameter by its tensor."""
    return data


def _size(sizes: object) -> tuple[object, ...]:
    """Replaces torch.Size."""
    if not isinstance(sizes, tuple):
        raise TypeError("a torch.Size that is not a tuple")
    return sizes


def _ordered_dict(pairs: object = ()) -> dict[object, object]:
    """Replaces collections.OrderedDict, to which Python 2's pickles pass all items."""
    result: dict[object, object] = {}
    if not isinstance(pairs, list | tuple) or (isinstance(pairs, tuple) and pairs):
        raise TypeError("an OrderedDict of items that are not a list")
    for key, value in pairs:
        put(result, key, value)
    if pairs:
        pairs.clear()  # a program may pass the same list again and again
    return result


#: Replacements of the globals in a pickle of tensors.
NAMES: dict[str, object] = {
    "collections.OrderedDict": _ordered_dict,
    "torch.Size": _size,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.nn.parameter.Parameter": _parameter,
    **{f"torch.{name}Storage": dtype for name, dtype in _DTYPES.items()},
    **{f"torch.cuda.{name}Storage": dtype for name, dtype in _DTYPES.items()},
}


def build(tree: object, values: Callable[[Storage], np.ndarray], file_size: int) -> object:
    """Copies a pickle program's tree of dicts, lists, tuples and scalars with arrays for tensors.

    `values` returns the values [size] of a storage. The arrays may take MAX_EXPANSION times as many
    bytes as the file.

    Raises:
      WeightsError: deeper than MAX_DEPTH (it may contain itself), more than MAX_OBJECTS objects,
        more bytes than allowed, or objects that are not data.
    """
    n_objects = n_bytes = 0

    def copy(node: object, depth: int) -> object:
        nonlocal n_objects, n_bytes
        n_objects += 1
        if n_objects > MAX_OBJECTS or depth > MAX_DEPTH:
            raise WeightsError(
                f"its objects are nested deeper than {MAX_DEPTH}, or more than {MAX_OBJECTS}; "
                "in torch, save model.state_dict() alone"
            )
        if node is None or isinstance(node, str | int | float):
            return node
        if isinstance(node, Tensor):
            n_bytes += node.nbytes
            if n_bytes > MAX_EXPANSION * file_size:
                raise WeightsError(
                    f"its tensors add up to more than {MAX_EXPANSION} times the file; "
                    "in torch, save a clone() of tensors that share their memory"
                )
            return node.view(values(node.storage))
        if isinstance(node, dict):
            return {key: copy(value, depth + 1) for key, value in node.items()}
        if isinstance(node, list):
            return [copy(value, depth + 1) for value in node]
        if isinstance(node, tuple):
            return tuple(copy(value, depth + 1) for value in node)
        raise WeightsError(
            "it has a bare storage, type or function, expected tensors; save model.state_dict()"
        )

    return copy(tree, 0)
