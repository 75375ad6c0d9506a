"""Exports both halves of a family as serialized StableHLO, for JAX and for IREE."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

import jaxsplit
from jaxsplit import bitstream
from jaxsplit.codec.runtime import RateRuntime
from jaxsplit.codec.sender import Sender
from jaxsplit.deploy.runtime.bundle import HEADER, MANIFEST
from jaxsplit.errors import ConfigError
from jaxsplit.family import RateFamily
from jaxsplit.io.files import write_whole
from jaxsplit.units.variable_rate import ANALYSIS, RATE

#: Files of the two halves.
DEVICE, SERVER = "device.stablehlo", "server.stablehlo"
_PLATFORMS = ("cpu", "cuda", "tpu")


@dataclasses.dataclass(frozen=True)
class ExportedHalves:
    """Both halves, written.

    Attributes:
      folder: with the files of both halves.
      device_bytes, server_bytes: sizes of these.
    """

    folder: Path
    device_bytes: int
    server_bytes: int


def export_stablehlo(
    family: RateFamily,
    directory: str | os.PathLike[str],
    rates: Sequence[str] | None = None,
) -> ExportedHalves:
    """Writes both halves of a family for `jax.export.deserialize`.

    The device's half takes images uint8 [batch, h, w, c], preprocessed and not normalized, and the
    rate, and returns symbols int32 [batch, *latent_shape]. The server's takes symbols and the rate
    and returns the network's outputs. The rate is an int32 scalar, an index into `rates`; of
    levels, int32 [batch]. Coding is not a part of either: see `jaxsplit.bitstream`.

    Args:
      family: bound to its network, or one whose weights are found by name.
      directory: to write to.
      rates: names of the rates to be included, in this order; default: all. A ConfigError if their
        latents differ in shape, or where they are levels.

    Returns:
      Sizes; a ConfigError if the folder cannot be written.

    >>> import tempfile
    >>> from jaxsplit.family.pretrained import load_pretrained
    >>> family = load_pretrained("resnet8_small-fashion_mnist/stage1.block1")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     written = export_stablehlo(family, folder, ["r1", "r3"])
    ...     device = export.deserialize(bytearray(Path(folder, DEVICE).read_bytes()))
    >>> device.call(np.zeros((2, 28, 28, 1), np.uint8), np.int32(1)).shape
    (2, 7, 7, 12)
    """
    backbone = family.backbone_of()
    family = family.bind(backbone)
    sender = Sender(family, backbone)
    runtimes = _runtimes(sender, rates)
    (batch,) = export.symbolic_shape("batch")
    shape = runtimes[0].latent_shape
    images = jax.ShapeDtypeStruct((batch, *backbone.preprocessing.input_shape), np.uint8)
    symbols = jax.ShapeDtypeStruct((batch, *shape), np.int32)
    rate = jax.ShapeDtypeStruct(() if family.levels is None else (batch,), np.int32)
    halves = {
        DEVICE: _serialized(_device(sender, runtimes), images, rate),
        SERVER: _serialized(_server(sender, runtimes), symbols, rate),
    }
    folder = Path(directory)
    for name, content in halves.items():
        write_whole(folder / name, content, make_folder=True)
    write_whole(folder / HEADER, bitstream.pack_header(sender.header))
    manifest = {
        "format": "jaxsplit stablehlo 1",
        "versions": {"jaxsplit": jaxsplit.__version__, "jax": jax.__version__},
        "calling_convention": export.maximum_supported_calling_convention_version,
        "platforms": _PLATFORMS,
        "preprocessing": backbone.preprocessing.to_dict(),
        "rates": [one.rate_id for one in runtimes] if family.levels is None else None,
        "levels": None if family.levels is None else len(family.levels),
        "latent_shape": shape,
    }
    write_whole(folder / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
    return ExportedHalves(folder, *map(len, halves.values()))


def _runtimes(sender: Sender, rates: Sequence[str] | None) -> list[RateRuntime]:
    family = sender.family
    if family.levels is not None:
        if rates:
            raise ConfigError("levels share one unit: all are exported, name none of them")
        return [sender.runtime(0)]
    names = rates or [rate.rate_id for rate in family.rates]
    runtimes = [sender.runtime(family.index(name)) for name in names]
    shapes = {one.rate_id: one.latent_shape for one in runtimes}
    if len(set(shapes.values())) > 1:
        raise ConfigError(
            f"the latents of the rates differ in shape, {shapes}: export those of "
            "one shape together"
        )
    return runtimes


def _serialized(function: Callable[..., Any], *shapes: jax.ShapeDtypeStruct) -> bytes:
    exported = export.export(jax.jit(function), platforms=_PLATFORMS)(*shapes)
    return bytes(exported.serialize())


def _device(sender: Sender, runtimes: Sequence[RateRuntime]) -> Callable[..., jax.Array]:
    backbone, cut = sender.backbone, sender.family.cut
    network, variables = backbone.network.fold(backbone.variables)
    levels = sender.family.levels

    def symbols_of(one: RateRuntime, unit: Any, features: Any) -> jax.Array:
        return one.split.quantize(one.split.encode(unit, features), one.offsets)

    def run(images: jax.Array, rate: jax.Array) -> jax.Array:
        with jax.default_matmul_precision("highest"):
            features = network.head(variables, backbone.preprocessing.normalize(images), cut)
            features = jax.tree.map(lambda x: x.astype(jnp.float32), features)
            if levels is None:
                branches = [lambda x, one=one: symbols_of(one, one.unit, x) for one in runtimes]
                return jax.lax.switch(rate, branches, features)
            (one,) = runtimes
            gains = {ANALYSIS: jnp.asarray(levels.gains[ANALYSIS])[rate]}
            return symbols_of(one, {**one.unit, RATE: gains}, features)

    return run


def _server(sender: Sender, runtimes: Sequence[RateRuntime]) -> Callable[..., Any]:
    backbone, cut = sender.backbone, sender.family.cut
    network, variables = backbone.network.fold(backbone.variables)
    levels = sender.family.levels

    def run(symbols: jax.Array, rate: jax.Array) -> Any:  # the network's outputs
        def features_of(one: RateRuntime, unit: Any) -> Any:
            return one.split.decode(unit, one.split.dequantize(symbols, one.offsets))

        with jax.default_matmul_precision("highest"):
            if levels is None:
                branches = [lambda one=one: features_of(one, one.unit) for one in runtimes]
                features = jax.lax.switch(rate, branches)
            else:
                (one,) = runtimes
                gains = {name: jnp.asarray(rows)[rate] for name, rows in levels.gains.items()}
                features = features_of(one, cast("Any", {**one.unit, RATE: gains}))
            return network.tail(variables, features, cut)

    return run
