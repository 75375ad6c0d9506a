"""The device's half of a family as one ONNX model: images and rate in, symbols out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import jax
import numpy as np

from jaxsplit.deploy.export_graph import Graph, Value, constant, is_batch
from jaxsplit.deploy.export_trace import append, batched
from jaxsplit.errors import ConfigError
from jaxsplit.networks import Backbone
from jaxsplit.split import Split, make_split
from jaxsplit.units.variable_rate import ANALYSIS, RATE

if TYPE_CHECKING:
    from jaxsplit.codec.rates import FamilyRate
    from jaxsplit.family import RateFamily

#: Versions of ONNX's operators and files that are written; onnxruntime 1.12 and newer read them.
OPSET, IR_VERSION = 17, 8
#: Names of the model's inputs and outputs; of single rates, `SYMBOLS` and the rate's name.
IMAGE, RATE_INPUT, SYMBOLS, LATENTS = "image", "rate", "symbols", "latents"
#: The rate that asks for the symbols of all single rates.
ALL_RATES = -1

_BATCH_NAME = "batch"


def device_model(family: RateFamily, backbone: Backbone, rates: Sequence[int]) -> bytes:
    """Writes head and encoders of a family as one ONNX model.

    Its inputs are images uint8 [batch, h, w, c], preprocessed and not normalized, and the rate.

    Rates of their own: `rate` is the index of one in the family, an int64 scalar, and the output
    "symbols_NAME" has the symbols of that rate, int32 [batch, *latent_shape]; those of other rates
    are empty. -1 asks for all. The head is stored and runs once.

    Levels: `rate` is the level of each image, int64 [batch]; the outputs are "symbols" and, for
    other levels of the same image, "latents" float32 before gain and rounding.

    Args:
      family, backbone: the rates, and the network that they were trained on.
      rates: indices of those to be included.

    Returns:
      The content of a .onnx file; a ConfigError if an operation cannot be written.
    """
    graph = Graph()
    shape = batched(backbone.preprocessing.input_shape)
    image = Value(shape, np.dtype(np.uint8), shape, IMAGE)
    network, variables = backbone.network.fold(backbone.variables)

    def head(images: jax.Array) -> Any:  # as `Network.head` types it
        pixels = backbone.preprocessing.normalize(images)
        features = network.head(variables, pixels, family.cut)
        return jax.tree.map(lambda x: x.astype(np.float32), features)

    features = append(graph, head, graph.laid(image, True))
    if family.levels is None:
        each = [(index, family.rates[index]) for index in rates]
        split = make_split(backbone, family.cut, each[0][1].spec)
        outputs = _single_rates(graph, split, backbone, features, each)
        rate = Value((), np.dtype(np.int64), (), RATE_INPUT)
    else:
        outputs = _levels(graph, backbone, family, features)
        rate = Value(batched(()), np.dtype(np.int64), batched(()), RATE_INPUT)
    graph.fold_scales(value.name for value in outputs.values())
    graph.remove_unused(value.name for value in outputs.values())
    return model_bytes(graph, [image, rate], outputs)


def _single_rates(
    graph: Graph,
    split: Split,
    backbone: Backbone,
    features: list[Value],
    rates: Sequence[tuple[int, FamilyRate]],
) -> dict[str, Value]:
    """Appends an encoder for each rate, which runs if that rate is asked for."""
    outputs = {}
    for index, rate in rates:
        split = make_split(backbone, split.cut, rate.spec)
        inner = Graph(graph.names)
        symbols = _encoder(inner, split, rate, features)
        inner.fold_scales([symbols.name])
        inner.remove_unused([symbols.name])
        one = {"symbols": symbols}
        asked = [
            graph.add("Equal", [RATE_INPUT, constant(np.int64(number))], (), bool)
            for number in (index, ALL_RATES)
        ]
        nothing = Graph(graph.names)
        empty = np.zeros((0, *split.latent_shape), np.int32)
        none = nothing.add("Identity", [constant(empty)], symbols.shape, np.int32)
        made = {name for node in inner.nodes for name in node.outputs}
        read = {name for node in inner.nodes for name in node.inputs} - made
        outputs[f"{SYMBOLS}_{rate.rate_id}"] = graph.add(
            "If",
            [graph.add("Or", asked, (), bool)],
            symbols.shape,
            np.int32,
            then_branch=graph_proto(inner, rate.rate_id, [], one),
            else_branch=graph_proto(nothing, f"not {rate.rate_id}", [], {"symbols": none}),
            _reads=read - set(inner.constants),
        )
    return outputs


def _encoder(graph: Graph, split: Split, rate: FamilyRate, features: list[Value]) -> Value:
    """Appends the encoder of one rate and the rounding to symbols."""
    folded, unit = split.fold(rate.variables)
    offsets = split.stored_offsets(rate.tables)

    def encode(*leaves: jax.Array) -> jax.Array:
        tree = jax.tree.unflatten(split.structure, leaves)
        return folded.quantize(folded.encode(unit, tree), offsets)

    (symbols,) = append(graph, encode, *features)
    return graph.whole(symbols)


def _levels(
    graph: Graph, backbone: Backbone, family: RateFamily, features: list[Value]
) -> dict[str, Value]:
    """Appends the encoder of all levels, and the gains and the rounding of one."""
    assert family.levels is not None
    rate = family.levels[0]
    folded, unit = make_split(backbone, family.cut, rate.spec).fold(rate.variables)
    offsets = folded.stored_offsets(rate.tables)
    plain = folded.with_unit(folded.variable_unit.unit)

    def encode(*leaves: jax.Array) -> Any:  # the latents of one array
        return plain.encode(unit, jax.tree.unflatten(folded.structure, leaves))

    def quantize(latents: jax.Array, gains: jax.Array) -> jax.Array:
        at = cast("Any", {RATE: {ANALYSIS: gains}})
        return folded.quantize(folded.variable_unit.scale(at, latents), offsets)

    (latents,) = append(graph, encode, *features)
    known = family.levels.gains[ANALYSIS]
    shape = batched(known.shape[1:])
    gains = graph.add("Gather", [constant(known), RATE_INPUT], shape, np.float32, axis=0)
    (symbols,) = append(graph, quantize, latents, gains)
    return {SYMBOLS: graph.whole(symbols), LATENTS: graph.whole(latents)}


def graph_proto(graph: Graph, name: str, inputs: list[Value], outputs: dict[str, Value]) -> Any:
    """Converts a graph to ONNX's message; the outputs get names of their own.

    Args:
      graph: with all nodes.
      name: of the graph.
      inputs: of the graph.
      outputs: name → tensor.

    Returns:
      An `onnx.GraphProto`.
    """
    onnx = require_onnx()
    nodes = [_node(onnx, node) for node in graph.nodes]
    prefix = "" if inputs else graph.new_name("branch") + "_"
    for output, value in outputs.items():
        nodes.append(onnx.helper.make_node("Identity", [value.name], [prefix + output]))
    described = [
        [_value_info(onnx, label, value) for label, value in values]
        for values in (
            [(value.name, value) for value in inputs],
            [(prefix + output, value) for output, value in outputs.items()],
        )
    ]
    stored = [onnx.numpy_helper.from_array(x, label) for label, x in graph.constants.items()]
    return onnx.helper.make_graph(nodes, name, *described, initializer=stored)


def model_bytes(graph: Graph, inputs: list[Value], outputs: dict[str, Value]) -> bytes:
    """Returns the content of a .onnx file, checked by onnx; see `graph_proto`."""
    from jaxsplit import __version__

    onnx = require_onnx()
    model = onnx.helper.make_model(
        graph_proto(graph, "device", inputs, outputs),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="jaxsplit",
        producer_version=__version__,
    )
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _node(onnx: Any, node: Any) -> Any:
    attributes = {
        key: onnx.helper.np_dtype_to_tensor_dtype(value) if key == "to" else value
        for key, value in node.attributes.items()
        if not key.startswith("_")
    }
    return onnx.helper.make_node(node.op, node.inputs, node.outputs, **attributes)


def _value_info(onnx: Any, name: str, value: Value) -> Any:
    batch = None if name.startswith("branch") else _BATCH_NAME
    sizes = [batch if is_batch(size) else size for size in value.shape]
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(value.dtype))
    return onnx.helper.make_tensor_value_info(name, kind, sizes)


def require_onnx() -> Any:
    """Imports onnx, with its helpers; a ConfigError says how to install it."""
    try:
        import onnx
        import onnx.checker
        import onnx.helper
        import onnx.numpy_helper
    except ImportError as error:
        raise ConfigError(
            'export to ONNX needs onnx: pip install "jaxsplit[export]" '
            f"({' '.join(str(error).split())})"
        ) from error
    return onnx
