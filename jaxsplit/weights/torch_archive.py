"""Reads files of `torch.save` without torch and without executing their content.

    zip (torch ≥ 1.6)   <name>/data.pkl · <name>/byteorder · <name>/data/<key>, all uncompressed
    legacy              pickles: magic number, protocol 1001, host, the object, storage keys;
                        per key an int64 count and the values, always little-endian

The pickles only describe tensors. Every description is checked against the file before memory is
allocated. Each storage that a tensor uses is read once, into a new array.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import BinaryIO

import numpy as np

from jaxsplit.errors import WeightsError
from jaxsplit.io.untrusted import damaged, opened, shown, size_of
from jaxsplit.weights import pickle_program
from jaxsplit.weights.torch_tensors import NAMES, Storage, build, storage_of
from jaxsplit.weights.zip_archive import Entry, read_directory

#: A zip entry, or the end of an empty zip. "PK" alone may begin a safetensors header's length.
ZIP_MAGICS = (b"PK\3\4", b"PK\5\6")
#: Pickle of torch's magic number: the opcode of a ten-byte long, the bytes, and STOP.
LEGACY_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
#: Bytes that contain the magic number, which follows the pickle's protocol.
HEAD_BYTES = 32
_LEGACY_PROTOCOL = 1001
_PREAMBLE_OPCODES = 100


def read(path: str | os.PathLike[str]) -> object:
    """Reads the argument of `torch.save`: a tree of dicts, lists, tuples, arrays and scalars.

    Arrays have the tensors' shapes [*size] and dtypes (bfloat16 from `ml_dtypes`). Tensors that
    share memory in torch also share it here.

    Raises:
      WeightsError: no such file, another format, damaged, malicious, or with objects other than
        tensors, numbers and strings, such as a whole model.
    """
    with opened(path) as file:
        head = file.read(HEAD_BYTES)
        if head.startswith(ZIP_MAGICS):
            return _read_zip(file)
        if LEGACY_MAGIC in head:
            return _read_legacy(file, head.index(LEGACY_MAGIC) + len(LEGACY_MAGIC))
    raise WeightsError(
        f"{os.fspath(path)}: begins with {shown(head[:8])}, expected a file of torch.save; "
        "give such a file"
    )


def _read_zip(file: BinaryIO) -> object:
    entries = _records(read_directory(file))
    program = entries["data.pkl"]
    if program.size > pickle_program.MAX_BYTES:
        raise WeightsError(
            f"its pickle has {program.size} bytes, expected at most {pickle_program.MAX_BYTES}; "
            "in torch, save model.state_dict() alone"
        )
    load = _Storages()
    tree, _ = pickle_program.run(program.read(file), NAMES, load)
    order = entries["byteorder"].read(file) if "byteorder" in entries else b"little"
    if order not in (b"little", b"big"):
        raise damaged(f"its byte order is {shown(order)}, expected little or big")
    swapped = order.decode() != sys.byteorder

    def values(storage: Storage) -> np.ndarray:
        entry = entries.get(f"data/{storage.key}")
        if entry is None or entry.size != storage.nbytes:
            found = f"has {entry.size} bytes" if entry else "is missing"
            raise damaged(f"storage {shown(storage.key)} {found}, expected {storage.nbytes} bytes")
        return _values(entry.read_array(file), storage, swapped)

    return build(tree, functools.cache(values), size_of(file))


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
        first = shown(next(iter(entries), ""))
        raise WeightsError(
            f"is a zip with {len(entries)} entries ({first}, …), expected one folder with "
            "data.pkl; give a file of torch.save"
        )
    for name, entry in records.items():
        if entry.deflated:
            raise WeightsError(
                f"entry {shown(name)} is compressed, expected stored as torch does; "
                "load and save it with torch"
            )
    return records


def _read_legacy(file: BinaryIO, position: int) -> object:
    def run(load: Callable[[object], object], **limits: int) -> object:
        nonlocal position
        file.seek(position)
        left = size_of(file) - position
        data = file.read(min(left, pickle_program.MAX_BYTES + 1))
        value, length = pickle_program.run(data, NAMES, load, **limits)
        position += length
        return value

    load = _Storages()
    protocol = run(load, max_opcodes=_PREAMBLE_OPCODES)
    if protocol != _LEGACY_PROTOCOL:
        raise WeightsError(
            f"has torch's protocol {shown(protocol)}, expected {_LEGACY_PROTOCOL}; "
            "load and save it with a newer torch"
        )
    run(load, max_opcodes=_PREAMBLE_OPCODES)  # type sizes and byte order of the host: unused
    tree, keys = run(load), run(load)
    starts = _legacy_storages(file, position, keys, load)

    def values(storage: Storage) -> np.ndarray:
        if storage.key not in starts:
            raise damaged(f"storage {shown(storage.key)} is missing")
        array = np.empty(storage.nbytes, np.uint8)
        file.seek(starts[storage.key])
        file.readinto(array.data)  # type: ignore[attr-defined]
        return _values(array, storage, sys.byteorder != "little")

    return build(tree, functools.cache(values), size_of(file))


def _legacy_storages(
    file: BinaryIO, position: int, keys: object, storages: _Storages
) -> dict[str, int]:
    """Returns the offset of each storage's values, checked to lie inside the file."""
    if not isinstance(keys, list):
        raise damaged("its list of storages is missing")
    starts: dict[str, int] = {}
    size = size_of(file)
    for key in keys:
        storage = storages.known.get(key) if isinstance(key, str) else None
        if storage is None or key in starts:
            raise damaged(
                f"storage {shown(key)} is not in its pickle, or twice in its list of storages"
            )
        file.seek(position)
        count = int.from_bytes(file.read(8), "little", signed=True)
        position += 8
        if count != storage.size or position + storage.nbytes > size:
            raise damaged(
                f"storage {shown(key)} has {count} elements and {size - position} bytes are left, "
                f"expected {storage.size} elements in {storage.nbytes} bytes"
            )
        starts[key] = position
        position += storage.nbytes
    return starts


class _Storages:
    """Resolves persistent ids to storages; equal keys must be equal storages."""

    def __init__(self) -> None:
        self.known: dict[str, Storage] = {}

    def __call__(self, persistent_id: object) -> Storage:
        storage = storage_of(persistent_id)
        if self.known.setdefault(storage.key, storage) != storage:
            raise damaged(f"storage {shown(storage.key)} has two sizes or dtypes")
        return storage


def _values(data: np.ndarray, storage: Storage, swapped: bool) -> np.ndarray:
    """Converts bytes [nbytes] to the storage's values [size] in native byte order."""
    item = storage.dtype.itemsize
    if swapped and item > 1:
        data.view(f"u{item}").byteswap(inplace=True)
    if storage.dtype == np.bool_:
        return data != 0  # bytes other than 0 and 1 are not valid bools
    return data.view(storage.dtype)
