"""Weights are read by name from every format; other files give one typed error."""

import io
import json
import struct
import time
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsplit.errors import WeightsError
from jaxsplit.weights.formats import STATE_DICTS, read_tensors

SAFE_DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}


def _safetensors(arrays, metadata=None, **changes):
    """Writes a .safetensors; `changes` replace fields of the first tensor's description."""
    header, data = {}, b""
    for name, array in arrays.items():
        begin, data = len(data), data + array.tobytes()
        header[name] = {
            "dtype": SAFE_DTYPES[array.dtype.name],
            "shape": array.shape,
            "data_offsets": [begin, len(data)],
        }
    header[next(iter(arrays))] |= changes
    if metadata:
        header["__metadata__"] = metadata
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def _npz(arrays, compressed=False):
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **arrays)
    return file.getvalue()


def _npy(header, data, version=b"\1\0"):
    """Writes an .npz of one .npy with any header."""
    header = header.encode()
    length = struct.pack("<H" if version == b"\1\0" else "<I", len(header))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("w.npy", b"\x93NUMPY" + version + length + header + data)
    return file.getvalue()


def _same(read, expected):
    assert read.keys() == expected.keys()
    for name, array in expected.items():
        assert read[name].dtype == array.dtype
        assert read[name].shape == array.shape
        np.testing.assert_array_equal(read[name].tobytes(), array.tobytes())


def _refused(path, match):
    tracemalloc.start()
    start = time.monotonic()
    try:
        with pytest.raises(WeightsError, match=match) as caught:
            read_tensors(path)
        assert tracemalloc.get_traced_memory()[1] < 2**22 + 8 * path.stat().st_size
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < len(str(path)) + 400
    assert time.monotonic() - start < 20


@pytest.fixture
def native(arrays):
    """Without bfloat16, which .npy cannot represent."""
    return {name: array for name, array in arrays.items() if name != "of_bfloat16"}


@pytest.mark.parametrize("name", ["weights.pth", "weights.npz", "weights", "x.safetensors"])
def test_the_content_says_what_a_file_is(torch_writer, arrays, native, write, name):
    _same(read_tensors(write(torch_writer.zip_of(arrays), name)), arrays)
    _same(read_tensors(write(torch_writer.legacy_of(arrays), name)), arrays)
    _same(read_tensors(write(_safetensors(arrays), name)), arrays)
    _same(read_tensors(write(_npz(native), name)), native)
    _same(read_tensors(write(_npz(native, compressed=True), name)), native)
    assert read_tensors(str(write(_npz(native), name))).keys() == native.keys()


@pytest.mark.parametrize("place", STATE_DICTS)
def test_weights_inside_a_checkpoint(torch_writer, write, place):
    arrays = {"a": np.ones(3, np.float32), "b": np.arange(2)}
    tree, storages = torch_writer.state_dict(arrays)
    optimizer = {"state": {0: {"m": tree["a"]}}, "param_groups": [{"lr": 0.1}]}
    checkpoint = {"epoch": 3, "optimizer": optimizer, place: {**tree, "note": "text"}}
    for nested in (checkpoint, {"model": {"name": "net"}, "params": checkpoint}):
        data = torch_writer.legacy(nested, storages)
        _same(read_tensors(write(data)), arrays)


def test_tensors_on_top_are_the_weights(torch_writer, write):
    tree, storages = torch_writer.state_dict({"w": np.ones(3, np.float32)})
    data = torch_writer.legacy({"model": tree, "w": tree["w"], "epoch": 1}, storages)
    assert read_tensors(write(data)).keys() == {"w"}


def test_the_prefix_of_parallel_training_is_taken_off(write):
    ones = np.ones(2, np.float32)
    every = {"module.a.weight": ones, "module.module.b": ones}
    assert read_tensors(write(_npz(every))).keys() == {"a.weight", "module.b"}
    some = {"module.a": ones, "b": ones}
    assert read_tensors(write(_npz(some))).keys() == some.keys()


def test_files_without_tensors(torch_writer, write):
    for tree in ({}, {"epoch": 3, "state_dict": {}}, [1, 2], "text", {1: {"a": 2}}):
        _refused(write(torch_writer.zip(tree, {})), "without named tensors")
    tree, storages = torch_writer.state_dict({"w": np.ones(3, np.float32)})
    _refused(write(torch_writer.legacy([tree["w"]], storages)), "a list")
    _refused(
        write(torch_writer.legacy({0: tree["w"]}, storages)), r"a dict without named tensors \(0\)"
    )
    _refused(write(_npz({})), "zip with 0 entries")


def test_errors_of_torch_files_pass(torch_writer, write):
    _refused(write(torch_writer.zip(torch_writer.name("os", "system"), {})), "'os.system'")
    _refused(write(torch_writer.legacy_of({"w": np.ones(3, np.float32)})[:-1]), "bytes are left")


def test_what_is_none_of_the_formats(tmp_path, write):
    _refused(write(b""), "is empty, expected a file of torch.save, a .safetensors or a .npz")
    for data in (b"\0" * 9, b"\x80\x02}.", b"{}", b"PK", b"\x93NUMPY\1\0", b"<html>" * 20):
        _refused(write(data), "expected a file of torch|zip directory is damaged")
    _refused(tmp_path, "is not a file")
    with pytest.raises(WeightsError, match="there is no such file"):
        read_tensors(tmp_path / "nothing.npz")


def test_a_path_that_names_no_file():
    for path in ("a\0b", "a\ud800b"):
        with pytest.raises(WeightsError, match=r"is not a file|no such file") as caught:
            read_tensors(path)
        assert str(caught.value).isprintable()


# safetensors


def test_a_header_as_long_as_the_name_of_zips(write):
    data = _safetensors({"w": np.ones(3, np.float32)})
    (length,) = struct.unpack("<Q", data[:8])
    padded = struct.pack("<Q", 19_280) + data[8 : 8 + length] + b" " * (19_280 - length)
    assert padded.startswith(b"PK")
    assert (read_tensors(write(padded + data[8 + length :]))["w"] == 1).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": "F8_E4M3", "shape": [12]},
        {"dtype": "F4"},
        {"dtype": "nothing"},
        {"dtype": 3},
        {"shape": [4]},
        {"shape": [2**40, 2**40]},
        {"shape": [-3]},
        {"shape": [3.5]},
        {"data_offsets": [0, 13]},
        {"data_offsets": [0, 2**60]},
        {"data_offsets": [12, 0]},
        {"data_offsets": [4, 16]},
        {"data_offsets": []},
    ],
)
def test_headers_of_safetensors_that_claim_garbage(write, changes):
    arrays = {"w": np.ones(3, np.float32)}
    _refused(write(_safetensors(arrays, **changes)), "is not a .safetensors that numpy can read")


def test_damaged_safetensors(write):
    data = _safetensors({"w": np.ones(3, np.float32)})
    for length in range(len(data)):
        _refused(write(data[:length]), "is not a .safetensors|expected a file of torch")
    _refused(write(data + b"\0"), "is not a .safetensors")
    _refused(write(struct.pack("<Q", 2**62) + data[8:]), "expected a file of torch")
    _refused(write(struct.pack("<Q", 2**23) + data[8:]), "is not a .safetensors")
    deep = b'{"w":' + b"[" * 100_000
    _refused(write(struct.pack("<Q", len(deep)) + deep), "is not a .safetensors")


# npz


def test_other_layouts_of_npz(write):
    arrays = {
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big_endian": np.arange(3, dtype=">i4"),
    }
    read = read_tensors(write(_npz(arrays)))
    np.testing.assert_array_equal(read["fortran"], arrays["fortran"])
    np.testing.assert_array_equal(read["big_endian"], arrays["big_endian"])
    assert read["big_endian"].dtype == np.int32
    version_2 = "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }\n"
    assert read_tensors(write(_npy(version_2, bytes(4), b"\2\0")))["w"] == 0


@pytest.mark.parametrize(
    ("array", "match"),
    [
        (np.array([print], dtype=object), "has dtype 'object'"),
        (np.array(["text"]), "has dtype '<U4', expected numbers"),
        (np.array([(1, 2.0)], dtype="i4,f4"), "expected numbers"),
        (np.ones(3, ml_dtypes.bfloat16), "expected numbers"),
        (np.ones(3, np.complex64), "expected numbers"),
    ],
)
def test_arrays_that_are_not_of_numbers(write, array, match):
    path = write(_npz({"w": array.view("V2") if array.dtype.name == "bfloat16" else array}))
    _refused(path, match)


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -3), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 9223372036854775807), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': 3, }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (3L,), }",
        "{'descr': '\\q', 'fortran_order': False, 'shape': (3,), }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (3,), }",
        "{'descr': 'f' * 9, 'fortran_order': False, 'shape': (3,), }",
        "{'descr': '<f4'}",
        "(" * 9000,
        "-" * 9000 + "1",
        "{'",
        "",
        " " * 20_000 + "{}",
        "__import__('os').system('true')",
    ],
    ids=range(17),
)
def test_damaged_headers_of_npy(write, header):
    _refused(write(_npy(header, bytes(12))), "array 'w.npy'")


def test_empty_npy_with_a_shape_without_sense(write):
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 9223372036854775807), }"
    _refused(write(_npy(header, b"")), "invalid shape")


def test_a_bomb(write):
    bomb = _npz({f"w{i}": np.zeros(2**22, np.float32) for i in range(5)}, compressed=True)
    assert len(bomb) < 2**17
    _refused(write(bomb), "its arrays claim 83886720 bytes, expected at most 67108864")


def test_members_that_are_not_as_large_as_claimed(write):
    data = _npz({"w": np.zeros(1000, np.float32)}, compressed=True)
    at = data.index(b"PK\1\2") + 24
    for size in (0, 10, 4127, 4129, 2**24):
        match = "'w.npy' .*damaged" if size < 4128 else "has 4128 bytes, but 4129 in the zip's"
        match = f"'w.npy' cannot have {size} bytes" if size > 2**20 else match
        _refused(write(data[:at] + struct.pack("<I", size) + data[at + 4 :]), match)
    _refused(write(data[:at] + struct.pack("<I", 2**31) + data[at + 4 :]), "cannot have 2147483648")


# Everything at random


@settings(max_examples=400, deadline=None)
@given(
    kind=st.sampled_from(["torch", "legacy", "safetensors", "npz", "compressed"]),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4),
    cut=st.floats(0.5, 1.5),
)
def test_damage_gives_an_error_or_arrays(
    torch_writer, arrays, tmp_path_factory, kind, changes, cut
):
    native = {name: array for name, array in arrays.items() if name != "of_bfloat16"}
    data = bytearray(
        {
            "torch": lambda: torch_writer.zip_of(arrays),
            "legacy": lambda: torch_writer.legacy_of(arrays),
            "safetensors": lambda: _safetensors(arrays),
            "npz": lambda: _npz(native),
            "compressed": lambda: _npz(native, compressed=True),
        }[kind]()
    )
    for place, byte in changes:
        data[int(place * (len(data) - 1))] = byte
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(bytes(data[: int(cut * len(data))]))
    start = time.monotonic()
    try:
        read = read_tensors(path)
    except WeightsError as error:
        message = str(error)
    else:
        message = ""
        assert all(isinstance(array, np.ndarray) for array in read.values())
    assert "\n" not in message
    assert time.monotonic() - start < 20
