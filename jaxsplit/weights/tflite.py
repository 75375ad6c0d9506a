"""Reads the weights of convolutions from TensorFlow Lite files (.tflite), without an interpreter.

Quantized weights become float32 by `scale · (q - zero point)`, per tensor or per channel. Batch
normalization is folded into them already. The flatbuffer is parsed by the package `tflite`; every
length is checked against the file before memory is taken, and all arrays together against its size.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxsplit.errors import WeightsError
from jaxsplit.io.untrusted import damaged, foreign, opened, quoted, shown_shape, size_of

if TYPE_CHECKING:
    import tflite

#: Bytes 4 … 7 of a file.
IDENTIFIER = b"TFL3"
_MAX_BYTES = 2**31  # of a flatbuffer, whose offsets are int32
_MAX_OPERATORS = 2**14
# What the parser raises where an offset leads nowhere.
_DAMAGE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, struct.error)
# Type in the file → dtype. Quantized ones have a scale.
_DTYPES = {0: "<f4", 1: "<f2", 2: "<i4", 3: "|u1", 9: "|i1"}
_CONV, _DEPTHWISE = 3, 4  # of `tflite.BuiltinOperator`
# Axes of a kernel in the file → those of ours, [k, k, in, out] or [k, k, 1, out].
_AXES = {_CONV: (1, 2, 3, 0), _DEPTHWISE: (1, 2, 0, 3)}


class Convolution(NamedTuple):
    """A convolution of the file.

    Attributes:
      kernel: float32 [k, k, in, out]; [k, k, 1, out] of a depthwise one.
      bias: float32 [out].
      stride, dilation: of the rows.
    """

    kernel: np.ndarray
    bias: np.ndarray
    stride: int
    dilation: int


def is_tflite(head: bytes) -> bool:
    """Recognizes a file by its start."""
    return head[4:8] == IDENTIFIER


def read_convolutions(path: str | os.PathLike[str]) -> dict[str, Convolution]:
    """Reads all convolutions of a file, in the order of the graph.

    Args:
      path: of the file.

    Returns:
      Name of the layer, such as "MobilenetV2/expanded_conv_1/expand" → its weights.

    Raises:
      WeightsError: no such file, another format, damaged, of unknown types, without convolutions,
        or the package `tflite` is not installed.
    """
    try:
        import tflite
    except ImportError as missing:
        raise WeightsError(
            f"{os.fspath(path)} needs the package tflite, which is not installed: "
            'pip install "jaxsplit[tflite]"'
        ) from missing
    with opened(path) as file:
        if not is_tflite(head := file.read(8)):
            raise foreign(head, "a .tflite")
        if size_of(file) > _MAX_BYTES:
            raise damaged(f"has {size_of(file)} bytes, expected at most {_MAX_BYTES}")
        file.seek(0)
        data = file.read()
        with _parsed("its graph"):
            model = tflite.Model.GetRootAs(data, 0)
            if model.SubgraphsLength() != 1:
                raise damaged(f"has {model.SubgraphsLength()} graphs, expected one")
            reader = _Reader(data, model, model.Subgraphs(0))
        return reader.convolutions()


@contextlib.contextmanager
def _parsed(what: str) -> Iterator[None]:
    """Makes one error of whatever the parser raises on damaged content."""
    try:
        yield
    except _DAMAGE as error:
        reason = f"{type(error).__name__}: {error}"
        raise damaged(f"cannot parse {what} ({quoted(reason, 150)})") from error


class _Reader:
    """The graph of a file, and how many bytes of weights may still be read."""

    def __init__(self, data: bytes, model: tflite.Model, graph: tflite.SubGraph) -> None:
        self.size, self.left = len(data), len(data)
        self.model, self.graph = model, graph
        self.codes = [
            # Operators below 127 are in the old field, and in files before 2020 only there.
            max(code.DeprecatedBuiltinCode(), code.BuiltinCode())
            for code in map(model.OperatorCodes, self.counted(model.OperatorCodesLength()))
        ]

    def counted(self, length: int) -> range:
        """The indices of a vector; a WeightsError if it is too long to be in a file."""
        if not 0 <= length <= min(_MAX_OPERATORS, self.size // 4):
            raise damaged(f"lists {length} entries, which a file of {self.size} bytes cannot have")
        return range(length)

    def convolutions(self) -> dict[str, Convolution]:
        found: dict[str, Convolution] = {}
        with _parsed("its operators"):
            operators = [*map(self.graph.Operators, self.counted(self.graph.OperatorsLength()))]
        for i, operator in enumerate(operators):
            with _parsed(f"operator {i}"):
                kind = self.codes[operator.OpcodeIndex()]
                if kind not in _AXES:
                    continue
                name, layer = self.convolution(operator, kind)
            if name in found:
                raise WeightsError(f"has two layers {quoted(name)}; expected a name for each")
            found[name] = layer
        if not found:
            raise WeightsError("has no convolutions")
        return found

    def convolution(self, operator: tflite.Operator, kind: int) -> tuple[str, Convolution]:
        inputs = [operator.Inputs(i) for i in self.counted(operator.InputsLength())]
        if len(inputs) != 3:
            raise WeightsError(f"has a convolution of {len(inputs)} inputs, expected 3")
        if not all(0 <= i < self.graph.TensorsLength() for i in inputs[1:]):
            raise damaged("has a convolution without weights")
        tensors: list[Any] = [self.graph.Tensors(i) for i in inputs[1:]]
        name = _layer_name(tensors[0].Name())
        kernel, bias = (self.values(tensor, name) for tensor in tensors)
        if kernel.ndim != 4 or bias.ndim != 1:
            shapes = f"{shown_shape(kernel.shape)} and {shown_shape(bias.shape)}"
            raise damaged(f"{quoted(name)} has weights of {shapes}")
        options = _options(operator, kind)
        kernel = np.ascontiguousarray(kernel.transpose(_AXES[kind]))
        return name, Convolution(kernel, bias, options.StrideH(), options.DilationHFactor())

    def values(self, tensor: tflite.Tensor, name: str) -> np.ndarray:
        """Returns a tensor as float32; its size is checked before any memory is taken."""
        dtype = _DTYPES.get(tensor.Type())
        if dtype is None:
            raise WeightsError(
                f"{quoted(name)} has weights of type {tensor.Type()}, expected float32, float16, "
                "int32, uint8 or int8"
            )
        shape = tuple(tensor.Shape(i) for i in self.counted(tensor.ShapeLength()))
        index = tensor.Buffer()
        if not 0 <= index < self.model.BuffersLength():
            raise damaged(f"{quoted(name)} has no buffer")
        buffer = self.model.Buffers(index)
        length, needed = buffer.DataLength(), math.prod(shape) * np.dtype(dtype).itemsize
        if min(shape, default=1) < 1 or length != needed:
            raise damaged(f"{quoted(name)} is {shown_shape(shape)}, in {length} bytes")
        if needed > self.left:
            raise damaged(f"its weights take more than its {self.size} bytes")
        self.left -= needed
        stored = buffer.DataAsNumpy().view(dtype).reshape(shape)
        if dtype in ("<f4", "<f2"):
            return stored.astype(np.float32)
        return self.dequantized(stored, tensor.Quantization(), name)

    def dequantized(self, stored: np.ndarray, quantization: Any, name: str) -> np.ndarray:
        """Computes scale · (q - zero point), of the tensor or of each channel."""
        count = quantization.ScaleLength() if quantization is not None else 0
        axis = quantization.QuantizedDimension() if count > 1 else 0
        if not 0 <= axis < stored.ndim or count not in (1, stored.shape[axis]):
            raise damaged(f"{quoted(name)} is {shown_shape(stored.shape)}, with {count} scales")
        zeros = quantization.ZeroPointLength()
        if zeros not in (0, count):
            raise damaged(f"{quoted(name)} has {count} scales and {zeros} zero points")
        scale = quantization.ScaleAsNumpy().astype(np.float32)
        if not (np.isfinite(scale) & (scale > 0)).all():
            raise damaged(f"{quoted(name)} has scales that are not positive numbers")
        zero = quantization.ZeroPointAsNumpy() if zeros else np.zeros(count, np.int64)
        if np.abs(zero.astype(np.float64)).max() > 2**31:
            raise damaged(f"{quoted(name)} has zero points beyond int32")
        along = tuple(count if i == axis else 1 for i in range(stored.ndim))
        centred = stored.astype(np.float64) - zero.reshape(along)
        return (centred * scale.reshape(along)).astype(np.float32)


def _layer_name(text: bytes | None) -> str:
    """Returns the scope in the name of weights, "A/B" of "A/B/Conv2D_Fold;…"."""
    name = (text or b"").decode("utf-8").partition(";")[0]
    scope = name.rpartition("/")[0]
    if not re.fullmatch(r"[\w./-]{1,200}", scope):
        raise WeightsError(f"has a layer called {quoted(name)}; expected SCOPE/NAME")
    return scope


def _options(operator: tflite.Operator, kind: int) -> Any:
    """Returns the options of a convolution, as the class that the parser has for its kind."""
    import tflite

    options = tflite.Conv2DOptions() if kind == _CONV else tflite.DepthwiseConv2DOptions()
    table = operator.BuiltinOptions()
    options.Init(table.Bytes, table.Pos)
    return options
