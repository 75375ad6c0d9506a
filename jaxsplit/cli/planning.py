"""A network by its name, planned: what `jaxsplit plan` does."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxsplit import networks
from jaxsplit.cost import CHANNELS, STRIDES, SYMBOLS, Link, Plan, make_plan, plan_unit, split_cost
from jaxsplit.cost.link import BITS_PER_SYMBOL, Comparison, Option, compare
from jaxsplit.data import Preprocessing
from jaxsplit.errors import ConfigError, did_you_mean
from jaxsplit.family import RateFamily
from jaxsplit.family.pretrained import load_pretrained
from jaxsplit.split import make_split
from jaxsplit.tasks import Classification
from jaxsplit.units import BottleneckSpec
from jaxsplit.weights import imagenet
from jaxsplit.weights.load import PACKAGES, load_backbone

_SMALL = (32, 32)  # input of the networks for small images, as in CIFAR
_SMALL_CLASSES = 10


class PlanRun(NamedTuple):
    """A plan, its times where a link is given, and the size that units are chosen for."""

    plan: Plan
    comparison: Comparison | None
    symbols: int


def run(options: Any) -> PlanRun:
    """Plans what the options of `jaxsplit plan` describe.

    Raises:
      JaxsplitError: there is no such network, weights or family, or an option doesn't fit.
    """
    link = make_link(options)
    symbols = SYMBOLS if options.symbols is None else options.symbols
    if symbols < 1:
        raise ConfigError(f"--symbols is {symbols}; expected at least 1")
    families: dict[str, RateFamily] = {name: load_pretrained(name) for name in options.family or ()}
    measured = next((family.preprocessing for family in families.values()), None)
    backbone = abstract_backbone(
        options.backbone, options.weights, options.input, options.classes, measured
    )
    input_shape = backbone.preprocessing.input_shape
    plan = make_plan(
        backbone.network,
        input_shape,
        backbone.variables,
        name=backbone.name,
        channels=options.channels or CHANNELS,
        strides=options.strides or STRIDES,
    )
    if link is None:
        return PlanRun(plan, None, symbols)
    bits, size = options.bits_per_symbol, options.image_bytes
    comparison = compare(
        plan,
        link,
        symbols,
        BITS_PER_SYMBOL if bits is None else bits,
        math.prod(input_shape) if size is None else size,
        trained_options(families, backbone, link),
    )
    return PlanRun(plan, comparison, symbols)


def abstract_backbone(
    name: str,
    weights: Path | None = None,
    size: Sequence[int] | None = None,
    classes: int | None = None,
    preprocessing: Preprocessing | None = None,
) -> networks.Backbone:
    """A network without numbers: its variables are shapes, as of `jax.eval_shape`.

    Args:
      name: a network of `networks.names()`; else weights, as of `load_backbone`.
      weights: file of a network's weights.
      size: (H, W) of its input; default: what its weights are used with, 32 × 32 for networks for
        small images.
      classes: length of the logits of a network without weights; None: the usual.
      preprocessing: of a network without weights, where something else says it.

    Raises:
      ConfigError: there is no such network, classes is below 1, or the weights say the number
        of classes themselves.
      WeightsError: there are no such weights.
    """
    if classes is not None and classes < 1:
        raise ConfigError(f"--classes is {classes}; expected at least 1")
    if weights is None and name in networks.names():
        small = name.endswith("_small")
        preprocessing = preprocessing or (
            Preprocessing(_SMALL) if small else imagenet.preprocessing(name)
        )
        count = classes or (_SMALL_CLASSES if small else imagenet.NUM_CLASSES)
        module, key = networks.create(name, count), jax.eval_shape(lambda: jax.random.key(0))
        image = jax.ShapeDtypeStruct((1, *preprocessing.input_shape), jnp.float32)
        shapes = jax.eval_shape(module.init, key, image)
        numbers = tuple(map(str, range(count)))
        found = networks.Backbone(
            name,
            networks.as_network(module),
            shapes,
            preprocessing,
            Classification(numbers),
            "",
            {},
        )
    else:
        known = (*networks.names(), *networks.embedded_weights())
        if weights is None and name not in (*known, *PACKAGES) and not Path(name).exists():
            raise ConfigError(
                f"no network called {name!r}: give one of {', '.join(known)}, or a file of weights"
                f"{did_you_mean(name, known)}"
            )
        if classes is not None:
            raise ConfigError(f"--classes {classes}: the weights of {name} have their own")
        loaded = load_backbone(name, weights)
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), loaded.variables)
        found = dataclasses.replace(loaded, variables=shapes)
    if size is None:
        return found
    if min(size) < 1:
        raise ConfigError(f"images of {size[0]} × {size[1]} pixels; expected at least 1")
    resized = dataclasses.replace(found.preprocessing, size=(size[0], size[1]), resize=None)
    return dataclasses.replace(found, preprocessing=resized)


def make_link(options: Any) -> Link | None:
    """The link that the options describe; None where they say nothing of one.

    Args:
      options: with device_gmacs, server_gmacs, bandwidth_mbps and rtt_ms; None: not said.

    Raises:
      ConfigError: they say a part of it.
    """
    names = ("device_gmacs", "server_gmacs", "bandwidth_mbps")
    values = {name: getattr(options, name) for name in names}
    if all(value is None for value in values.values()):
        others = ("rtt_ms", "bits_per_symbol", "image_bytes", "family")
        if given := [name for name in others if getattr(options, name) is not None]:
            raise ConfigError(f"{_flags(given)} says something of a link: give {_flags(names)} too")
        return None
    if missing := [name for name, value in values.items() if value is None]:
        raise ConfigError(f"a link also needs {_flags(missing)}")
    return Link(**values, rtt_ms=options.rtt_ms or 0.0)


def _flags(names: Sequence[str]) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in names)


def trained_options(
    families: dict[str, RateFamily], backbone: networks.Backbone, link: Link
) -> list[Option]:
    """Every rate of some families on a link, with the bytes and the accuracy that it has.

    Raises:
      ConfigError: a family is of another network, was measured on images of another size, or has
        a rate that never was.
    """
    options = []
    for name, family in families.items():
        if family.backbone != backbone.name:
            raise ConfigError(f"the family {name} is of {family.backbone}, not of {backbone.name}")
        if family.preprocessing.input_shape != backbone.preprocessing.input_shape:
            raise ConfigError(
                f"the family {name} was measured on images of {family.preprocessing.input_shape}, "
                f"the plan is for {backbone.preprocessing.input_shape}: leave out --input"
            )
        for rate in family.rates:
            if "bytes_per_image" not in rate.measured:
                raise ConfigError(f"rate {rate.rate_id} of {name} was never measured: evaluate it")
            split = make_split(backbone, family.cut, rate.spec)
            cost = split_cost(split, backbone)
            sent = rate.measured["bytes_per_image"]
            timing = link.time(cost.device_macs, sent, cost.server_macs)
            spec = rate.spec
            unit = plan_unit(spec, split.shape) if isinstance(spec, BottleneckSpec) else None
            title, top1 = f"{Path(name).name} {rate.rate_id}", rate.measured.get("top1")
            options.append(Option(title, family.cut, unit, sent, timing, top1))
    return options
