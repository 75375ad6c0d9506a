"""Writes .tflite files with convolutions alone, as the converter lays them out."""

import flatbuffers
import numpy as np
import tflite

TYPES = {"float32": 0, "float16": 1, "int32": 2, "uint8": 3, "int64": 4, "int8": 9}
CONV, DEPTHWISE = 3, 4


class Stored:
    """A tensor of the file: values as they are stored, and scales of an axis."""

    def __init__(self, values, scale=(), zero=(), axis=0, kind=None):
        self.values, self.scale, self.zero, self.axis = values, scale, zero, axis
        self.kind = TYPES[values.dtype.name] if kind is None else kind


def write_tflite(layers):
    """Bytes of a file of layers: (name, depthwise, kernel, bias, stride, dilation).

    Kernels are [out, k, k, in], [1, k, k, out] of depthwise ones, and `Stored` as biases are. A
    tensor that several layers have is stored once.
    """
    build = flatbuffers.Builder(1024)
    buffers, tensors, operators, places = [_buffer(build, b"")], [], [], {}
    for name, depthwise, kernel, bias, stride, dilation in layers:
        inputs = [0]
        for tensor in (kernel, bias):
            if id(tensor) not in places:
                places[id(tensor)] = len(buffers)
                buffers.append(_buffer(build, tensor.values.tobytes()))
            inputs.append(len(tensors))
            place = places[id(tensor)]
            tensors.append(_tensor(build, f"{name}/Conv2D;other", tensor, place))
        operators.append(_operator(build, depthwise, inputs, stride, dilation))
    codes = []
    for code in (CONV, DEPTHWISE):
        tflite.OperatorCodeStart(build)
        tflite.OperatorCodeAddDeprecatedBuiltinCode(build, code)
        tflite.OperatorCodeAddBuiltinCode(build, code)
        codes.append(tflite.OperatorCodeEnd(build))
    tensors, operators = (_vector(build, one) for one in (tensors, operators))
    tflite.SubGraphStart(build)
    tflite.SubGraphAddTensors(build, tensors)
    tflite.SubGraphAddOperators(build, operators)
    graph = tflite.SubGraphEnd(build)
    parts = [_vector(build, one) for one in (codes, [graph], buffers)]
    tflite.ModelStart(build)
    tflite.ModelAddVersion(build, 3)
    tflite.ModelAddOperatorCodes(build, parts[0])
    tflite.ModelAddSubgraphs(build, parts[1])
    tflite.ModelAddBuffers(build, parts[2])
    build.Finish(tflite.ModelEnd(build), file_identifier=b"TFL3")
    return bytes(build.Output())


def network_layers(convolutions):
    """Layers of `write_tflite` for float convolutions in our layout: name → (kernel, bias, …)."""
    for name, (kernel, bias, stride, dilation) in convolutions.items():
        depthwise = kernel.shape[2] == 1 and kernel.shape[3] > 1 and len(kernel) > 1
        stored = kernel.transpose(2, 0, 1, 3) if depthwise else kernel.transpose(3, 0, 1, 2)
        stored = Stored(np.ascontiguousarray(stored, np.float32))
        yield name, depthwise, stored, Stored(np.asarray(bias, np.float32)), stride, dilation


def _vector(build, offsets):
    build.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        build.PrependUOffsetTRelative(offset)
    return build.EndVector()


def _numbers(build, values, dtype):
    return build.CreateNumpyVector(np.asarray(values, dtype))


def _buffer(build, data):
    content = _numbers(build, np.frombuffer(data, np.uint8), np.uint8) if data else None
    tflite.BufferStart(build)
    if content is not None:
        tflite.BufferAddData(build, content)
    return tflite.BufferEnd(build)


def _tensor(build, name, tensor, buffer):
    name, shape = build.CreateString(name), _numbers(build, tensor.values.shape, np.int32)
    quantization = None
    if len(tensor.scale):
        scale = _numbers(build, tensor.scale, np.float32)
        zero = _numbers(build, tensor.zero, np.int64)
        tflite.QuantizationParametersStart(build)
        tflite.QuantizationParametersAddScale(build, scale)
        tflite.QuantizationParametersAddZeroPoint(build, zero)
        tflite.QuantizationParametersAddQuantizedDimension(build, tensor.axis)
        quantization = tflite.QuantizationParametersEnd(build)
    tflite.TensorStart(build)
    tflite.TensorAddShape(build, shape)
    tflite.TensorAddType(build, tensor.kind)
    tflite.TensorAddBuffer(build, buffer)
    tflite.TensorAddName(build, name)
    if quantization is not None:
        tflite.TensorAddQuantization(build, quantization)
    return tflite.TensorEnd(build)


def _operator(build, depthwise, inputs, stride, dilation):
    inputs = _numbers(build, inputs, np.int32)
    kind = "DepthwiseConv2DOptions" if depthwise else "Conv2DOptions"
    getattr(tflite, f"{kind}Start")(build)
    for side in "HW":
        getattr(tflite, f"{kind}AddStride{side}")(build, stride)
        getattr(tflite, f"{kind}AddDilation{side}Factor")(build, dilation)
    options = getattr(tflite, f"{kind}End")(build)
    tflite.OperatorStart(build)
    tflite.OperatorAddOpcodeIndex(build, int(depthwise))
    tflite.OperatorAddInputs(build, inputs)
    union = tflite.BuiltinOptions
    tflite.OperatorAddBuiltinOptionsType(build, getattr(union, kind))
    tflite.OperatorAddBuiltinOptions(build, options)
    return tflite.OperatorEnd(build)
