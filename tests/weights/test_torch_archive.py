"""Torch files give exactly their arrays; malicious ones give one typed error."""

import collections
import contextlib
import io
import itertools
import os
import pickle
import struct
import time
import tracemalloc
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsplit.errors import WeightsError
from jaxsplit.weights import pickle_program, torch_archive, zip_archive

# Optional files beside the repository, made by the authors of published units.
REAL = Path(__file__).parents[2].parent / "shared" / "data"
SECONDS = 20  # for at most three, on a busy machine
MEGABYTE = 2**20


def _same(array, expected):
    assert array.dtype == expected.dtype
    assert array.shape == expected.shape
    np.testing.assert_array_equal(array.tobytes(), expected.tobytes())


def _refused(path, match, megabytes=2):
    """The file gives one line of WeightsError that names it, in bounded time and memory.

    Memory is bounded by `megabytes` and eight times the file; None: it is not traced, which takes
    several times as long.
    """
    if megabytes is not None:
        tracemalloc.start()
    start = time.monotonic()
    with pytest.raises(WeightsError, match=match) as caught:
        torch_archive.read(path)
    assert time.monotonic() - start < SECONDS
    if megabytes is not None:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < megabytes * MEGABYTE + 8 * path.stat().st_size
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < len(str(path)) + 300


@pytest.fixture(autouse=True)
def _untraced():
    yield
    tracemalloc.stop()


# What is read


def test_zip_and_legacy_give_the_arrays(torch_writer, arrays, write):
    for data in (torch_writer.zip_of(arrays), torch_writer.legacy_of(arrays)):
        read = torch_archive.read(write(data))
        assert list(read) == list(arrays)
        for name, array in arrays.items():
            _same(read[name], array)


def test_arrays_have_memory_of_their_own(torch_writer, arrays, write):
    path = write(torch_writer.zip_of(arrays))
    read = torch_archive.read(path)
    path.write_bytes(b"")
    _same(read["of_float32"], arrays["of_float32"])
    assert read["of_float32"].flags.writeable


def test_plain_values_are_kept(torch_writer, write):
    tree = {
        "epoch": 3,
        "large": 2**40,
        "negative": -(2**63),
        "loss": 0.25,
        "name": "größer",
        "flags": [True, False, None],
        "betas": (0.9, 0.99),
        7: {"nested": [[], {}, ()]},
        "size": torch_writer.call("torch", "Size", (1, 2)),
    }
    expected = {**tree, "size": (1, 2)}
    assert torch_archive.read(write(torch_writer.zip(tree, {}))) == expected
    assert torch_archive.read(write(torch_writer.legacy(tree, {}))) == expected


def test_views_share_the_memory_of_their_storage(torch_writer, write):
    w = torch_writer
    base = np.arange(24, dtype=np.float32)
    storage = w.storage("0", "float32", 24)
    tree = {
        "whole": w.tensor(storage, 0, (4, 6), (6, 1)),
        "part": w.tensor(storage, 7, (3, 2), (6, 1)),
        "turned": w.tensor(storage, 0, (6, 4), (1, 6)),
        "one": w.tensor(storage, 23, (), ()),
        "any_stride": w.tensor(storage, 2, (1, 3), (2**47, 1)),
    }
    read = torch_archive.read(write(w.zip(tree, {"0": base.tobytes()})))
    _same(read["whole"], base.reshape(4, 6))
    _same(read["part"], base.reshape(4, 6)[1:4, 1:3])
    _same(read["turned"], base.reshape(4, 6).T)
    _same(read["one"], base[23])
    _same(read["any_stride"], base[None, 2:5])
    read["whole"][1, 1] = 100
    assert read["part"][0, 0] == 100


def test_parameters_and_older_ways_of_writing(torch_writer, write):
    w = torch_writer
    values = np.arange(3, dtype=np.float16)
    storage = w.storage("0", "float16", 3)
    old = w.call("torch._utils", "_rebuild_tensor", storage, 0, (3,), (1,))
    hooks = w.call("collections", "OrderedDict")
    cuda = w.value(("storage", w.name("torch.cuda", "HalfStorage"), "0", "cuda:0", 3)) + b"Q"
    tree = {
        "old": old,
        "parameter": w.call("torch._utils", "_rebuild_parameter", old, True, hooks),
        "cuda": w.tensor(type(old)(cuda), 0, (3,), (1,)),
        "pairs": w.call("collections", "OrderedDict", [["a", 1], ["b", 2]]),
        "bytes": type(old)(b"U\x03abc"),
        "built": type(old)(w.value({"a": 1}) + w.value({"_metadata": {}}) + b"b"),
    }
    read = torch_archive.read(write(w.zip(tree, {"0": values.tobytes()})))
    for name in ("old", "parameter", "cuda"):
        _same(read[name], values)
    assert read["pairs"] == {"a": 1, "b": 2}
    assert read["bytes"] == "abc"
    assert read["built"] == {"a": 1}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_binary_protocol(torch_writer, write, protocol):
    tree = {"a": [1, 2.5, "b", None, (1, 2, 3, 4)], "c": {"d": ()}, "e": collections.OrderedDict()}
    data = pickle.dumps(tree, protocol)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("x/data.pkl", data)
    assert torch_archive.read(write(archive.getvalue())) == tree


def test_a_big_endian_zip_is_swapped(torch_writer, arrays, write):
    # ml_dtypes supports only native byte order, so bytes are swapped here.
    tree, storages = torch_writer.state_dict(arrays)
    turned = {}
    for (key, (_, data)), array in zip(storages.items(), arrays.values(), strict=True):
        bytes_ = np.frombuffer(data, np.uint8).reshape(-1, array.itemsize)
        turned[key] = bytes_[:, ::-1].tobytes()
    data = torch_writer.zip(tree, turned, extra=[("byteorder", "big")])
    for name, array in torch_archive.read(write(data)).items():
        _same(array, arrays[name])
    little = torch_writer.zip_of(arrays, extra=[("byteorder", "little")])
    for name, array in torch_archive.read(write(little)).items():
        _same(array, arrays[name])
    _refused(
        write(torch_writer.zip_of(arrays, extra=[("byteorder", "middle")])), "byte order is b'mi"
    )


def test_legacy_values_are_little_endian_whatever_the_host_was(torch_writer, arrays, write):
    """torch swaps bytes when writing and ignores the flag when reading."""
    read = torch_archive.read(write(torch_writer.legacy_of(arrays, little_endian=False)))
    for name, array in arrays.items():
        _same(read[name], array)


def test_a_missing_checksum_is_allowed_and_a_wrong_one_is_not(torch_writer, write):
    arrays = {"w": np.arange(64, dtype=np.float32)}
    data = torch_writer.zip_of(arrays)
    at = data.index(arrays["w"].tobytes())
    damaged = bytearray(data)
    damaged[at + 5] ^= 1
    _refused(write(bytes(damaged)), "data/0' is damaged .*CRC")
    record = data.rindex(b"PK\1\2")
    unsummed = data[: record + 16] + bytes(4) + data[record + 20 :]
    _same(torch_archive.read(write(unsummed))["w"], arrays["w"])


def test_a_bool_is_true_or_false(torch_writer, write):
    tensor = torch_writer.tensor(torch_writer.storage("0", "bool", 3), 0, (3,), (1,))
    read = torch_archive.read(write(torch_writer.zip({"m": tensor}, {"0": b"\0\1\xff"})))
    assert read["m"].view(np.uint8).tolist() == [0, 1, 1]


# What is no file of tensors


class Payload:
    def __init__(self, command):
        self._command = command

    def __reduce__(self):
        return os.system, (self._command,)


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
@pytest.mark.parametrize("legacy", [False, True])
def test_nothing_is_run(torch_writer, write, tmp_path, protocol, legacy):
    marker = tmp_path / "marker"
    data = pickle.dumps({"w": Payload(f"touch {marker}")}, protocol)
    # Given to pickle, the harmless variant executes its code.
    pickle.loads(data)
    assert marker.exists()
    marker.unlink()
    if legacy:
        whole = torch_writer.legacy({}, {})
        data = whole.removesuffix(torch_writer.program({}) + torch_writer.program([])) + data
    else:
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("x/data.pkl", data)
        data = archive.getvalue()
    _refused(write(data), "has an object of|uses the opcode")
    assert not marker.exists()


def _opcode_cases():
    w_str = b"X\x01\0\0\0a"
    return {
        "INST": b"(ios\nsystem\n.",
        "opcode OBJ": b"(]o.",
        "NEWOBJ": b"ccollections\nOrderedDict\n)\x81.",
        "EXT1": b"\x82\x01.",
        "NEXT_BUFFER": b"\x97.",
        "PERSID": b"Pkey\n.",
        "INT": b"I1\n.",
        "LONG": b"L9L\n.",
        "Exceeds the limit": b"L" + b"9" * 100_000 + b"L\n.",
        "LONG4": b"\x8b" + struct.pack("<i", 1) + b"\1.",
        "read long4": b"\x8b" + struct.pack("<i", 2**31 - 1) + b"\1.",
        "STRING": b"S'\\q'\n.",
        "EMPTY_SET": b"\x8f.",
        "BYTEARRAY8": b"\x96" + struct.pack("<Q", 0) + b".",
        "in a bytearray8": b"\x96" + struct.pack("<Q", 2**60) + b".",
        "has an object of 'os.system'": b"cos\nsystem\n.",
        "has an object of 'builtins.eval'": b"\x8c\x08builtins\x8c\x04eval\x93.",
        "_load_from_bytes": b"ctorch.storage\n_load_from_bytes\n.",
        "'collections.OrderedDict.fromkeys'": b"ccollections\nOrderedDict.fromkeys\n.",
        r"'a\\\\q\.b'": b"ca\\q\nb\n.",
        "no newline found": b"cos\nsystem",
        "unsupported kind": b"ctorch._utils\n_rebuild_sparse_tensor\n.",
        r"nothing is in the memo at 7": b"h\x07.",
        "memo at 4294967295": b"j\xff\xff\xff\xff.",
        "integer of 2039 bits": b"\x8a\xff" + b"\x7f" * 255 + b".",
        "list index|pop from": b"q\0.",
        "pop from empty list": b".",
        "an empty stack": b"K\x01\x86.",
        "expected a list": b"}K\x01a.",
        "expected a dict": b"](K\x01K\x02u.",
        "a key of type tuple": b"})K\x01s.",
        "a key of type list": b"}]K\x01s.",
        "a call of an object that is not a function": b"K\x01)R.",
        "a tuple|expected a tuple": b"ccollections\nOrderedDict\nK\x01R.",
        "a call with 17 arguments": b"ccollections\nOrderedDict\n(" + b"N" * 17 + b"tR.",
        "positional argument": b"ctorch\nSize\n)R.",
        "refers to a storage": w_str + b"Q.",
        "bare storage": b"ctorch\nFloatStorage\n.",
        "exhausted before seeing STOP": b"}q\0(",
        "expected .* but only": b"X\xff\xff\xff\x7fabc.",
        r"opcode b.*xff. unknown": b"\xff.",
        "byte": b"X\x01\0\0\0\xff.",
    }


@pytest.mark.parametrize(("match", "opcodes"), _opcode_cases().items(), ids=itertools.count())
def test_programs_that_do_not_build_tensors(torch_writer, write, match, opcodes):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("x/data.pkl", b"\x80\x02" + opcodes)
    _refused(write(archive.getvalue()), match)


def test_a_whole_model_is_told_from_weights(torch_writer, write):
    model = type(torch_writer.name("a", "b"))(b"ctorchvision.models.resnet\nResNet\n)\x81")
    for data in (torch_writer.zip(model, {}), torch_writer.legacy(model, {})):
        _refused(write(data), r"torchvision\.models\.resnet\.ResNet.*save model\.state_dict\(\)")


def test_a_torchscript_program_is_told_from_weights(torch_writer, arrays, write):
    for name in ("constants.pkl", "weights/code/model.py"):
        data = torch_writer.zip_of(arrays, extra=[(name, b"")])
        _refused(write(data), "TorchScript program, expected weights")


def test_what_is_no_file_of_torch(tmp_path, write, torch_writer):
    for data in (b"", b"\0" * 100, b"PK", b"\x80\x02}.", b"weights", os.urandom(5000)):
        _refused(write(data), "expected a file of torch.save|zip directory is damaged")
    _refused(write(torch_writer.zip({}, {}).replace(b"data.pkl", b"date.pkl")), "zip with 1 entr")
    _refused(write(torch_writer.zip({}, {}, extra=[("y/data.pkl", b"")])), "expected one folder")
    _refused(tmp_path, "is not a file")
    os.mkfifo(tmp_path / "pipe")
    _refused(tmp_path / "pipe", "is not a file")
    with pytest.raises(WeightsError, match="there is no such file"):
        torch_archive.read(tmp_path / "nothing")
    with pytest.raises(WeightsError, match="cannot be read"):
        torch_archive.read(write(b"PK") / "below")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(write):
    path = write(b"PK")
    path.chmod(0)
    with pytest.raises(WeightsError, match="cannot be read"):
        torch_archive.read(path)


# Programs that would take too much time or memory


def _zip_of_program(opcodes):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("x/data.pkl", b"\x80\x02" + opcodes)
    return archive.getvalue()


def test_values_that_contain_themselves(write):
    for opcodes in (b"]q\0h\0a.", b"}q\0K\x01h\0s.", b"]q\0(h\0h\0h\0h\0e."):
        _refused(write(_zip_of_program(opcodes)), "nested deeper")


def test_values_that_are_deep_or_many(write):
    n = torch_archive.MAX_DEPTH
    assert torch_archive.read(write(_zip_of_program(b"N" + b"\x85" * n + b".")))
    _refused(write(_zip_of_program(b"N" + b"\x85" * (n + 1) + b".")), "nested deeper")
    _refused(write(_zip_of_program(b"N" + b"\x85" * 900_000 + b".")), "nested deeper", None)
    doubled = b"]" + b"q\0" + b"".join(b"](h%ch%ce" % (i, i) + b"q%c" % (i + 1) for i in range(30))
    _refused(write(_zip_of_program(doubled + b".")), "more than 1000000", None)


def test_programs_that_are_long(write):
    limit = pickle_program.MAX_OPCODES
    _refused(write(_zip_of_program(b"N0" * limit + b".")), f"more than {limit} opcodes", None)
    _refused(write(_zip_of_program(b"](" * (limit // 2) + b".")), "opcodes", None)
    _refused(write(_zip_of_program(b"]\x94" * (limit // 2) + b".")), "opcodes", None)
    text = (
        b"X"
        + struct.pack("<I", pickle_program.MAX_PICKLE_BYTES)
        + b"a" * pickle_program.MAX_PICKLE_BYTES
    )
    _refused(write(_zip_of_program(text + b".")), "expected at most")


def test_long_arguments_are_not_read_again_and_again(torch_writer, write):
    """A shared tuple or list in 100 000 calls would take time in proportion to the product."""
    n = 100_000
    ordered = b"ccollections\nOrderedDict\nq\1"
    pairs = b"](" + b"K\1K\2\x86" * n + b"eq\0" + ordered + b"h\1h\0\x85R0" * n + b"}."
    assert torch_archive.read(write(_zip_of_program(pairs))) == {}
    long = b"(" + b"K\1" * n + b"tq\0"
    rebuild = b"ctorch._utils\n_rebuild_tensor\nq\1" + torch_writer.storage("0", "int8", 1) + b"q\2"
    calls = b"h\1(h\2K\0h\0h\0tR0" * n
    _refused(write(_zip_of_program(long + rebuild + calls + b"N.")), "in an unknown way")
    _refused(write(_zip_of_program(long + b"h\0Q0" * n + b"N.")), "in an unknown way")


def test_keys_that_take_long_to_compare(torch_writer, write):
    """Two equal long strings, used alternately, would be compared on every use."""
    long, n = torch_writer.value("k" * 7_900_000), 100_000
    keys = long + b"q\0" + long + b"q\1"
    _refused(
        write(_zip_of_program(keys + b"}" + b"h\0Nsh\1Ns" * n + b".")), "a key of 7900000 char"
    )
    items = keys + b"}(" + b"h\0Nh\1N" * n + b"u."
    _refused(write(_zip_of_program(items)), "a key of 7900000 char")
    kind = torch_writer.name("torch", "FloatStorage") + b"q\2"
    ids = b"".join(b"(\x8c\x07storageh\2h" + key + b"\x8c\x03cpuK\1tQ0" for key in (b"\0", b"\1"))
    _refused(write(_zip_of_program(keys + kind + ids * 9000 + b"N.")), "in an unknown way")


# Tensor descriptions that contradict the file


@pytest.mark.parametrize(
    ("size", "offset", "shape", "strides", "match"),
    [
        (6, 0, (7,), (1,), "reaches element 6 of storage '0', which has 6"),
        (6, 1, (2, 3), (3, 1), "reaches element 6"),
        (6, 6, (1,), (1,), "reaches element 6"),
        (6, 0, (2, 3), (4, 1), "reaches element 6"),
        (6, 0, (2,), (2**47,), "reaches element"),
        (6, 0, (2**40,), (0,), "is expanded from the 6 elements"),
        (6, 0, (4, 4), (1, 0), "is expanded"),
        (6, 0, (0, 2**30, 2**30), (1, 1, 1), "is expanded"),
        (6, 0, (2**62,), (0,), "in an unknown way"),
        (6, 0, (-1,), (1,), "in an unknown way"),
        (6, -1, (1,), (1,), "in an unknown way"),
        (6, 5, (2,), (-1,), "in an unknown way"),
        (6, 0, (2, 3), (3,), "in an unknown way"),
        (6, 0, (1,) * 33, (1,) * 33, "in an unknown way"),
        (6, 0, (2.0,), (1,), "in an unknown way"),
        (6, 0, (True,), (1,), "in an unknown way"),
        (6, 0, [6], (1,), "in an unknown way"),
        (7, 0, (7,), (1,), "has 24 bytes, expected 28"),
        (5, 0, (5,), (1,), "has 24 bytes, expected 20"),
        (2**40, 0, (2**40,), (1,), "more than 4 times the file"),
        (2**40, 0, (1,), (1,), "has 24 bytes, expected 4398046511104"),
        (-1, 0, (0,), (1,), "refers to a storage"),
        (2**62, 0, (0,), (1,), "refers to a storage"),
    ],
)
def test_tensors_outside_of_their_storage(torch_writer, write, size, offset, shape, strides, match):
    tensor = torch_writer.tensor(torch_writer.storage("0", "float32", size), offset, shape, strides)
    _refused(write(torch_writer.zip({"w": tensor}, {"0": bytes(24)})), match)


def test_storages_that_do_not_fit(torch_writer, write):
    w = torch_writer
    a = w.tensor(w.storage("0", "float32", 6), 0, (6,), (1,))
    other = w.tensor(w.storage("0", "int32", 6), 0, (6,), (1,))
    _refused(write(w.zip([a, other], {"0": bytes(24)})), "two sizes or dtypes")
    _refused(write(w.zip([a], {"1": bytes(24)})), "storage '0' is missing")
    view = w.tensor(w.storage("0", "float32", 6, ("1", 0, 6)), 0, (6,), (1,))
    _refused(write(w.zip([view], {"0": bytes(24)})), "view of another")
    unknown = w.tensor(w.storage("0", "Imaginary", 6), 0, (6,), (1,))
    _refused(write(w.zip([unknown], {"0": bytes(24)})), "unsupported kind")


def test_one_storage_under_many_names(torch_writer, write):
    w = torch_writer
    n = 100_000
    tensor = w.tensor(w.storage("0", "float32", n), 0, (n,), (1,))
    assert len(torch_archive.read(write(w.zip([tensor] * 3, {"0": bytes(4 * n)})))) == 3
    _refused(write(w.zip([tensor] * 5, {"0": bytes(4 * n)})), "more than 4 times the file")
    again = _zip_of_program(b"](" + tensor + b"q\0" + b"h\0" * 10_000 + b"e.")
    buffer = io.BytesIO(again)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("x/data/0", bytes(4 * n))
    _refused(write(buffer.getvalue()), "more than 4 times the file")


def test_legacy_files_that_do_not_fit(torch_writer, write):
    w = torch_writer
    tensor = w.tensor(w.storage("0", "float32", 6, None), 0, (6,), (1,))
    good = w.legacy([tensor], {"0": (6, bytes(24))})
    assert torch_archive.read(write(good))[0].shape == (6,)
    for length in range(len(good)):
        _refused(write(good[:length]), "truncated|malformed|expected")
    _refused(write(w.legacy([tensor], {"0": (7, bytes(28))})), "has 7 elements")
    _refused(write(w.legacy([tensor], {"0": (-1, bytes(24))})), "has -1 elements")
    _refused(write(w.legacy([tensor], {"0": (2**62, bytes(24))})), "elements")
    differs = "list of storages differs from the storages in its pickle"
    _refused(write(w.legacy([tensor], {})), differs)
    storages = {"0": (6, bytes(24))}
    _refused(write(w.legacy([tensor], storages, keys=["0", "0"])), differs)
    _refused(write(w.legacy([tensor], storages, keys=["1"])), differs)
    _refused(write(w.legacy([tensor], storages, keys=[["0"]])), differs)
    _refused(write(w.legacy([tensor], storages, keys=3)), differs)
    _refused(write(w.legacy([tensor], storages, protocol=1000)), "protocol 1000, expected 1001")
    nested = type(tensor)(b"]q\0h\0a")
    _refused(write(w.legacy([tensor], storages, keys=[nested])), differs)
    huge = w.tensor(w.storage("0", "float32", 2**40), 0, (2**40,), (1,))
    _refused(write(w.legacy([huge], {"0": (2**40, bytes(24))})), "bytes are left")


# Zips that are not what torch writes


def _patched(data, entry, field, value):
    """Changes a field of an entry's directory record, given its offset and bytes."""
    at = -1
    for _ in range(entry + 1):
        at = data.index(b"PK\1\2", at + 1)
    return data[: at + field] + value + data[at + field + len(value) :]


@pytest.fixture
def plain(torch_writer):
    return torch_writer.zip_of({"w": np.arange(8.0, dtype=np.float32)})


def test_compressed_and_encrypted_entries(torch_writer, arrays, plain, write):
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        data = torch_writer.zip_of(arrays, method=method)
        _refused(write(data), "is compressed")
    _refused(write(_patched(plain, 0, 8, b"\1\0")), "is encrypted")


def test_a_bomb(torch_writer, write):
    tensor = torch_writer.tensor(torch_writer.storage("0", "float32", 2**24), 0, (2**24,), (1,))
    data = torch_writer.zip([tensor], {"0": bytes(2**26)}, method=zipfile.ZIP_DEFLATED)
    assert len(data) < 2**17
    _refused(write(data), "is compressed")


def test_entries_that_lie_elsewhere(plain, write):
    u32 = struct.Struct("<I").pack
    _refused(write(_patched(plain, 1, 20, u32(2**31) + u32(2**31))), "not inside the file")
    _refused(write(_patched(plain, 1, 20, u32(8))), "cannot have 32 bytes")
    _refused(write(_patched(plain, 1, 20, u32(8) + u32(8))), "has 8 bytes, expected 32")
    _refused(write(_patched(plain, 1, 42, u32(0))), "overlaps another")
    _refused(write(_patched(plain, 1, 42, u32(5))), "overlaps another")
    _refused(write(_patched(plain, 1, 42, u32(2**31))), "not inside the file")
    second = plain.index(b"PK\3\4", 1)
    _refused(write(_patched(plain, 1, 42, u32(second + 1))), "is damaged .*magic number")
    other = plain[: second + 30] + b"W" + plain[second + 31 :]
    _refused(write(other), "is damaged .*header .* differ")


def test_entries_that_are_there_twice(torch_writer, write):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("x/data.pkl", torch_writer.program({}))
        file.writestr("x/data.pk1", torch_writer.program({}))
    data = archive.getvalue().replace(b"data.pk1", b"data.pkl")
    _refused(write(data), "appears twice")


@pytest.mark.parametrize("name", ["/data/0", "../weights/data/0", "weights/../x", "weights\\x"])
def test_names_that_leave_the_folder(torch_writer, write, name, tmp_path):
    tree, _ = torch_writer.state_dict({})
    data = torch_writer.zip(tree, {}, extra=[(f"weights/{'_' * len(name)}", b"")])
    data = data.replace(f"weights/{'_' * len(name)}".encode(), f"{name:_<{len(name) + 8}}".encode())
    _refused(write(data), "would leave the folder")
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pth"]


def test_damaged_directories(plain, write):
    u32 = struct.Struct("<I").pack
    end = plain.rindex(b"PK\5\6")
    for length in range(2, len(plain)):
        _refused(write(plain[:length]), "damaged|expected")
    _refused(write(plain[: end + 12] + u32(2**31) + plain[end + 16 :]), "directory")
    filler = bytes(zip_archive.MAX_DIRECTORY + 100)
    claimed = (
        plain[:end] + filler + plain[end : end + 12] + u32(len(filler) - 1) + plain[end + 16 :]
    )
    _refused(write(claimed), "zip directory claims 83")


def test_a_directory_of_many_entries(torch_writer, write):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("x/data.pkl", torch_writer.program({}))
    data = archive.getvalue()
    start, end = data.index(b"PK\1\2"), data.rindex(b"PK\5\6")
    copies = zip_archive.MAX_DIRECTORY // (end - start)
    directory = data[start:end] * copies
    size = struct.pack("<I", len(directory))
    data = data[:start] + directory + data[end : end + 12] + size + data[end + 16 :]
    _refused(write(data), "appears twice", None)


# Everything at random

DTYPES = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "bool"]


@st.composite
def _windows(draw):
    """A storage's values and views of it: (values, [(offset, shape, strides), …])."""
    dtype = np.dtype(
        ml_dtypes.bfloat16 if (d := draw(st.sampled_from(DTYPES))) == "bfloat16" else d
    )
    size = draw(st.integers(0, 40))
    raw = draw(st.binary(min_size=size * dtype.itemsize, max_size=size * dtype.itemsize))
    values = np.frombuffer(raw, np.uint8)
    values = (values & 1).view(bool) if dtype.kind == "b" else values.view(dtype)
    windows = []
    for _ in range(draw(st.integers(1, 3))):
        shape = tuple(draw(st.lists(st.integers(0, 4), max_size=4)))
        order = draw(st.permutations(range(len(shape))))
        strides, step = [0] * len(shape), draw(st.integers(1, 2))
        for axis in order:
            strides[axis] = step
            step *= max(shape[axis], 1)
        reach = sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        if 0 not in shape and reach >= size:
            continue
        offset = draw(st.integers(0, size - 1 - reach)) if 0 not in shape else 0
        windows.append((offset, shape, tuple(strides)))
    return values, windows


@settings(max_examples=150, deadline=None)
@given(storages=st.lists(_windows(), max_size=4), legacy=st.booleans())
def test_any_views_of_any_storages(torch_writer, tmp_path_factory, storages, legacy):
    w = torch_writer
    tree, expected, data = {}, {}, {}
    for i, (values, windows) in enumerate(storages):
        data[str(i)] = (values.size, values.tobytes())
        for j, (offset, shape, strides) in enumerate(windows):
            storage = w.storage(str(i), values.dtype.name, values.size)
            tree[f"{i}.{j}"] = w.tensor(storage, offset, shape, strides)
            steps = [stride * values.itemsize for stride in strides]
            expected[f"{i}.{j}"] = np.lib.stride_tricks.as_strided(values[offset:], shape, steps)
    if legacy:  # the list of keys names only storages that the pickle names
        data = {key: data[key] for key in {name.split(".")[0] for name in tree}}
        content = w.legacy(tree, data)
    else:
        content = w.zip(tree, {key: raw for key, (_, raw) in data.items()})
    path = tmp_path_factory.getbasetemp() / "views.pth"
    path.write_bytes(content)
    read = torch_archive.read(path)
    assert read.keys() == expected.keys()
    for name, array in expected.items():
        _same(read[name], array)


@settings(max_examples=400, deadline=None)
@given(
    legacy=st.booleans(),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4),
    cut=st.floats(0.5, 1.5),
    extra=st.binary(max_size=8),
)
def test_damage_gives_an_error_or_arrays(
    torch_writer, arrays, tmp_path_factory, legacy, changes, cut, extra
):
    data = bytearray((torch_writer.legacy_of if legacy else torch_writer.zip_of)(arrays))
    for place, byte in changes:
        data[int(place * (len(data) - 1))] = byte
    path = tmp_path_factory.getbasetemp() / "damaged.pth"
    path.write_bytes(bytes(data[: int(cut * len(data))]) + extra)
    start = time.monotonic()
    try:
        read = torch_archive.read(path)
    except WeightsError as error:
        message = str(error)
    else:
        message = ""
        assert isinstance(read, dict)
    assert "\n" not in message
    assert time.monotonic() - start < SECONDS


@settings(max_examples=300, deadline=None)
@given(
    program=st.lists(
        st.sampled_from(
            [
                *(bytes([code]) for code in b"()]}N012tasueRbQ\x85\x86\x87\x94"),
                *(b"K\0", b"K\1", b"q\0", b"h\0", b"h\1", b"\x8c\x01a", b"\x8c\x07storage"),
                *(b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_tensor_v2\n"),
                *(b"ctorch\nFloatStorage\n", b"ctorch\nSize\n"),
            ]
        ),
        max_size=60,
    )
)
def test_random_programs_give_an_error_or_a_value(tmp_path_factory, program):
    path = tmp_path_factory.getbasetemp() / "program.pth"
    path.write_bytes(_zip_of_program(b"".join(program) + b"."))
    with contextlib.suppress(WeightsError):
        torch_archive.read(path)


# Files that others wrote


@pytest.mark.skipif(not REAL.is_dir(), reason="no published files beside the repository")
def test_published_files():
    paths = sorted(REAL.glob("spic/*.pth"))
    assert len(paths) == 61
    for path in paths:
        read = torch_archive.read(path)
        assert list(read) == ["state_dict"], path
        assert len(read["state_dict"]) == 63, path
        for name, array in read["state_dict"].items():
            counter = name.endswith("num_batches_tracked")
            assert array.dtype == (np.int64 if counter else np.float32), (path, name)
            assert array.ndim == 0 if counter else array.ndim in (1, 4), (path, name)
            assert np.isfinite(array).all(), (path, name)
