"""Writes valid and invalid files of `torch.save` without torch."""

import io
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest

STORAGES = {
    "float64": "Double",
    "float32": "Float",
    "float16": "Half",
    "bfloat16": "BFloat16",
    "int64": "Long",
    "int32": "Int",
    "int16": "Short",
    "int8": "Char",
    "uint8": "Byte",
    "bool": "Bool",
}
MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."


class Raw(bytes):
    """Opcodes that leave one value on the stack."""


class TorchWriter:
    """Writer of torch's formats; `program` makes pickles, `zip` and `legacy` make files."""

    def value(self, value):
        """Opcodes that leave the value on the stack."""
        match value:
            case Raw():
                return value
            case None | True | False:
                return {None: b"N", True: b"\x88", False: b"\x89"}[value]
            case str():
                return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
            case int():
                if -(2**31) <= value < 2**31:
                    return b"J" + struct.pack("<i", value)
                return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)
            case float():
                return b"G" + struct.pack(">d", value)
            case tuple():
                return b"(" + b"".join(map(self.value, value)) + b"t"
            case list():
                return b"](" + b"".join(map(self.value, value)) + b"e"
            case dict():
                items = (self.value(k) + self.value(v) for k, v in value.items())
                return b"}(" + b"".join(items) + b"u"
        raise TypeError(type(value))

    def name(self, module, name):
        return Raw(f"c{module}\n{name}\n".encode())

    def call(self, module, name, *arguments):
        return Raw(self.name(module, name) + self.value(arguments) + b"R")

    def program(self, value):
        return b"\x80\x02" + self.value(value) + b"."

    def storage(self, key, dtype, size, *view):
        kind = self.name("torch", f"{STORAGES.get(dtype, dtype)}Storage")
        return Raw(self.value(("storage", kind, key, "cpu", size, *view)) + b"Q")

    def tensor(self, storage, offset, shape, strides):
        hooks = self.call("collections", "OrderedDict")
        return self.call(
            "torch._utils", "_rebuild_tensor_v2", storage, offset, shape, strides, False, hooks
        )

    def zip(self, tree, storages, *, folder="weights", extra=(), method=zipfile.ZIP_STORED):
        """A zip archive of a tree, the bytes of storages by key, and entries (name, bytes)."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            archive.writestr(f"{folder}/data.pkl", self.program(tree))
            for key, data in storages.items():
                archive.writestr(f"{folder}/data/{key}", data)
            for name, data in extra:
                archive.writestr(name if "/" in name else f"{folder}/{name}", data)
        return buffer.getvalue()

    def legacy(self, tree, storages, *, little_endian=True, protocol=1001, keys=None):
        """A legacy file; storages are (count, bytes) by key."""
        host = {"protocol_version": protocol, "little_endian": little_endian, "type_sizes": {}}
        programs = (protocol, host, tree, list(storages) if keys is None else keys)
        data = MAGIC + b"".join(map(self.program, programs))
        return data + b"".join(struct.pack("<q", n) + raw for n, raw in storages.values())

    def state_dict(self, arrays):
        """A tree with a tensor for each array, and the storages' (count, bytes) by key."""
        tree, storages = {}, {}
        for i, (name, array) in enumerate(arrays.items()):
            key, dtype = str(i), array.dtype.name
            storages[key] = (array.size, array.tobytes())
            strides = tuple(int(np.prod(array.shape[k + 1 :])) for k in range(array.ndim))
            storage = self.storage(key, dtype, array.size)
            tree[name] = self.tensor(storage, 0, array.shape, strides)
        return tree, storages

    def zip_of(self, arrays, **options):
        tree, storages = self.state_dict(arrays)
        return self.zip(tree, {key: data for key, (_, data) in storages.items()}, **options)

    def legacy_of(self, arrays, **options):
        tree, storages = self.state_dict(arrays)
        return self.legacy(tree, storages, **options)


@pytest.fixture(scope="session")
def torch_writer():
    """Makes the bytes of torch files."""
    return TorchWriter()


@pytest.fixture(scope="session")
def arrays():
    """One array of every dtype that torch files hold; treat them as read-only."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 4)) * 50
    made = {f"of_{name}": values.astype(name) for name in STORAGES if name != "bfloat16"}
    made["of_bfloat16"] = values.astype(ml_dtypes.bfloat16)
    made["scalar"] = np.array(7, np.int64)
    made["empty"] = np.zeros((0, 3), np.float32)
    return made


@pytest.fixture
def write(tmp_path):
    """Writes bytes to a file and returns its path."""

    def put(data, name="weights.pth"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return put
