"""Reads files of `torch.save` without torch and without executing their content.

    zip (torch ≥ 1.6)   <name>/data.pkl · <name>/byteorder · <name>/data/<key>, all uncompressed
    legacy              pickles: magic number, protocol 1001, host, the object, storage keys;
                        per key an int64 count and the values, always little-endian

A pickle describes a tensor as a view of a storage, whose values lie outside the pickle: dtype,
offset, shape and strides, in elements. So the program runs to its end first and gives descriptions
only. Each is checked against the file before memory is allocated; each storage is read once.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import sys
from collections.abc import Callable
from typing import BinaryIO

import ml_dtypes
import numpy as np

from jaxsplit.errors import WeightsError
from jaxsplit.io.untrusted import damaged, foreign, opened, quoted, size_of
from jaxsplit.weights.pickle_program import MAX_KEY, MAX_PICKLE_BYTES, put, run
from jaxsplit.weights.zip_archive import Entry, read_directory

#: A zip entry, or the end of an empty zip. "PK" alone may begin a safetensors header's length.
ZIP_MAGICS = (b"PK\3\4", b"PK\5\6")
#: Pickle of torch's magic number: the opcode of a ten-byte long, the bytes, and STOP.
LEGACY_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
#: Bytes that contain the magic number, which follows the pickle's protocol.
TORCH_HEAD_BYTES = 32
_LEGACY_PROTOCOL = 1001
_PREAMBLE_OPCODES = 100

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


def read(path: str | os.PathLike[str]) -> object:
    """Reads the argument of `torch.save`: a tree of dicts, lists, tuples, arrays and scalars.

    Arrays have the tensors' shapes [*size] and dtypes (bfloat16 from `ml_dtypes`), and share memory
    as in torch. Raises a WeightsError: no such file, another format, damaged, malicious, or with
    other objects, such as a whole model.
    """
    with opened(path) as file:
        head = file.read(TORCH_HEAD_BYTES)
        if head.startswith(ZIP_MAGICS):
            tree, values = _read_zip(file)
        elif LEGACY_MAGIC in head:
            tree, values = _read_legacy(file, head.index(LEGACY_MAGIC) + len(LEGACY_MAGIC))
        else:
            raise foreign(head, "a file of torch.save")
        return build_tensors(tree, functools.cache(values), size_of(file))


def _read_zip(file: BinaryIO) -> tuple[object, _Values]:
    entries = _records(read_directory(file))
    program = entries["data.pkl"]
    if program.info.file_size > MAX_PICKLE_BYTES:
        raise WeightsError(
            f"its pickle has {program.info.file_size} bytes, expected at most {MAX_PICKLE_BYTES}; "
            "in torch, save model.state_dict() alone"
        )
    tree, _ = run(bytes(program.read()), NAMES, functools.partial(storage_of, known={}))
    order = bytes(entries["byteorder"].read()) if "byteorder" in entries else b"little"
    if order not in (b"little", b"big"):
        raise damaged(f"its byte order is {quoted(order)}, expected little or big")

    def values(storage: Storage) -> np.ndarray:
        entry = entries.get(f"data/{storage.key}")
        if entry is None or entry.info.file_size != storage.nbytes:
            found = f"has {entry.info.file_size} bytes" if entry else "is missing"
            raise damaged(f"storage {quoted(storage.key)} {found}, expected {storage.nbytes} bytes")
        return storage.values(entry.read(), order.decode())

    return tree, values


def _records(entries: dict[str, Entry]) -> dict[str, Entry]:
    """Removes the single top folder from the names of the entries."""
    names = [name.partition("/") for name in entries]
    records = {rest: entries[f"{folder}/{rest}"] for folder, _, rest in names if rest}
    if "constants.pkl" in records or any(name.startswith("code/") for name in records):
        raise WeightsError(
            "is a TorchScript program, expected weights; "
            "in torch, torch.save(torch.jit.load(file).state_dict(), other_file)"
        )
    if "data.pkl" not in records or len({folder for folder, _, _ in names}) > 1:
        first = quoted(next(iter(entries), ""))
        raise WeightsError(
            f"is a zip with {len(entries)} entries ({first}, …), expected one folder with "
            "data.pkl; give a file of torch.save"
        )
    for name, entry in records.items():
        if entry.info.compress_type:
            raise WeightsError(f"entry {quoted(name)} is compressed; load and save it with torch")
    return records


def _read_legacy(file: BinaryIO, position: int) -> tuple[object, _Values]:
    known: dict[str, Storage] = {}
    size = size_of(file)

    def run_next(**limits: int) -> object:
        nonlocal position
        file.seek(position)
        data = file.read(min(size - position, MAX_PICKLE_BYTES))
        value, length = run(data, NAMES, functools.partial(storage_of, known=known), **limits)
        position += length
        return value

    protocol = run_next(max_opcodes=_PREAMBLE_OPCODES)
    if protocol != _LEGACY_PROTOCOL:
        raise WeightsError(
            f"has torch's protocol {quoted(protocol)}, expected {_LEGACY_PROTOCOL}; "
            "load and save it with a newer torch"
        )
    run_next(max_opcodes=_PREAMBLE_OPCODES)  # type sizes and byte order of the host: unused
    tree, keys = run_next(), run_next()
    if (
        not isinstance(keys, list)
        or not all(isinstance(key, str) for key in keys)
        or len(keys) != len(known)
        or {*keys} != known.keys()
    ):
        raise damaged("its list of storages differs from the storages in its pickle")
    starts: dict[str, int] = {}
    for storage in (known[key] for key in keys):
        file.seek(position)
        count = int.from_bytes(file.read(8), "little", signed=True)
        position += 8
        if count != storage.size or position + storage.nbytes > size:
            raise damaged(
                f"storage {quoted(storage.key)} has {count} elements and {size - position} bytes "
                f"are left, expected {storage.size} elements in {storage.nbytes} bytes"
            )
        starts[storage.key] = position
        position += storage.nbytes

    def values(storage: Storage) -> np.ndarray:
        data = bytearray(storage.nbytes)
        file.seek(starts[storage.key])
        file.readinto(data)  # type: ignore[attr-defined]
        return storage.values(data, "little")

    return tree, values


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

    def values(self, data: bytearray, byteorder: str) -> np.ndarray:
        """Converts bytes [nbytes] to values [size] in native byte order."""
        if byteorder != sys.byteorder and self.dtype.itemsize > 1:
            np.frombuffer(data, f"u{self.dtype.itemsize}").byteswap(inplace=True)
        if self.dtype == np.bool_:
            return np.frombuffer(data, np.uint8) != 0  # bytes other than 0 and 1 are invalid bools
        return np.frombuffer(data, self.dtype)


#: Returns the values [size] of a storage.
_Values = Callable[[Storage], np.ndarray]


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
        # An axis of one element may have any stride, even one that overflows numpy's arithmetic.
        pairs = zip(self.shape, self.strides, strict=True)
        strides = [(stride if size > 1 else 1) * values.itemsize for size, stride in pairs]
        return np.lib.stride_tricks.as_strided(values[self.offset :], self.shape, strides)


def storage_of(persistent_id: object, known: dict[str, Storage]) -> Storage:
    """Parses a persistent id ("storage", type, key, device, size[, view]), and adds it to `known`.

    Raises a WeightsError for another id, or a known key with another size or dtype.
    """
    if isinstance(persistent_id, tuple) and len(persistent_id) in (5, 6):
        match persistent_id[:5]:
            case ("storage", np.dtype() as dtype, str(key), str(), int(size)) if (
                0 <= size < _MAX_ELEMENTS and len(key) <= MAX_KEY
            ):
                if persistent_id[5:] not in ((), (None,)):
                    raise WeightsError(
                        f"storage {quoted(key)} is a view of another, as in files of torch < 0.4; "
                        "load and save it with a newer torch"
                    )
                storage = Storage(key, dtype, size)
                if known.setdefault(key, storage) != storage:
                    raise damaged(f"storage {quoted(key)} has two sizes or dtypes")
                return storage
    raise damaged("its pickle refers to a storage in an unknown way")


def _tensor(storage: object, offset: object, shape: object, strides: object, *_: object) -> Tensor:
    """Replaces torch._utils._rebuild_tensor and _rebuild_tensor_v2; drops gradients and hooks."""
    if not (
        isinstance(storage, Storage)
        and isinstance(offset, int)
        and isinstance(shape, tuple)
        and isinstance(strides, tuple)
        and len(shape) == len(strides) <= MAX_RANK
        and all(type(n) is int and 0 <= n < _MAX_ELEMENTS for n in (offset, *shape, *strides))
    ):
        raise damaged("its pickle describes a tensor in an unknown way")
    elements = math.prod(shape)
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if elements and last >= storage.size:
        raise damaged(
            f"a tensor of shape {shape} reaches element {last} of storage "
            f"{quoted(storage.key)}, which has {storage.size}"
        )
    # An empty tensor takes no memory, but numpy multiplies its other sizes.
    if elements > storage.size or math.prod(max(n, 1) for n in shape) > _MAX_ELEMENTS:
        raise WeightsError(
            f"a tensor of shape {shape} is expanded from the {storage.size} elements of "
            f"storage {quoted(storage.key)}; in torch, save tensor.clone()"
        )
    return Tensor(storage, offset, shape, strides)


def _content(data: object, *_: object) -> object:
    return data  # the tuple of a torch.Size, the tensor of a torch.nn.Parameter


def _ordered_dict(pairs: object = None) -> dict[object, object]:
    """Replaces collections.OrderedDict, to which Python 2's pickles pass all items."""
    result: dict[object, object] = {}
    if isinstance(pairs, list):
        for key, value in pairs:
            put(result, key, value)
        pairs.clear()  # a program may pass the same list again and again
    elif pairs is not None:
        raise TypeError("an OrderedDict of items that are not a list")
    return result


#: Replacements of the globals in a pickle of tensors.
NAMES: dict[str, object] = {
    "collections.OrderedDict": _ordered_dict,
    "torch.Size": _content,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _content,
    "torch._utils._rebuild_parameter_with_state": _content,
    "torch.nn.parameter.Parameter": _content,
    **{f"torch.{name}Storage": dtype for name, dtype in _DTYPES.items()},
    **{f"torch.cuda.{name}Storage": dtype for name, dtype in _DTYPES.items()},
}


def build_tensors(tree: object, values: _Values, file_size: int) -> object:
    """Copies a pickle program's tree of dicts, lists, tuples and scalars with arrays for tensors.

    `values` returns the values [size] of a storage. Raises a WeightsError for a tree deeper than
    MAX_DEPTH (it may contain itself), more than MAX_OBJECTS objects, arrays of more bytes than
    MAX_EXPANSION times the file, and objects that are not data.
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
        match node:
            case None | str() | int() | float():
                return node
            case Tensor():
                n_bytes += node.nbytes
                if n_bytes > MAX_EXPANSION * file_size:
                    raise WeightsError(
                        f"its tensors add up to more than {MAX_EXPANSION} times the file; "
                        "in torch, save a clone() of tensors that share their memory"
                    )
                return node.view(values(node.storage))
            case dict():
                return {key: copy(value, depth + 1) for key, value in node.items()}
            case list() | tuple():
                return type(node)(copy(value, depth + 1) for value in node)
        raise WeightsError(
            "it has a bare storage, type or function, expected tensors; save model.state_dict()"
        )

    return copy(tree, 0)
