"""The interface of a unit, units for each array of a cut, and the registry for stored families."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self, TypeVar, cast

import jax
import numpy as np

from jaxsplit._moved import renamed_attribute
from jaxsplit.bitstream import CodingTables
from jaxsplit.errors import ConfigError, did_you_mean
from jaxsplit.io.fields import build, keys
from jaxsplit.trees import Tree, TreeOf

#: {"params": …} of one rate, and "batch_stats" where the unit normalizes by running moments.
Variables = Mapping[str, "Collection"]
Collection = Mapping[str, Tree]
#: Of one image's features: (H, W, C), or (N, D) of tokens.
Shape = tuple[int, ...]


class Unit(abc.ABC):
    """An encoder for the device, a decoder for the server, and an entropy model.

    A unit codes one array at a cut. It is a frozen dataclass: hashable, and a family stores its
    fields. Methods are pure functions of arrays [B, …] of B images. Latents are in quantization
    steps: the coded symbol is `round(latent - offset)`, with an offset for each channel, the
    latent's last axis. Six methods are abstract; the others have defaults.

    Attributes:
      kind: name under which `register` files the class, and a family stores it.

    >>> from jaxsplit.units import BottleneckSpec
    >>> unit, shape = BottleneckSpec(channels=4, stride=2), (8, 8, 16)
    >>> latents = unit.encode(unit.init(jax.random.key(0), shape), jax.numpy.ones((1, *shape)))
    >>> latents.shape[1:] == unit.latent_shape(shape)
    True
    """

    kind: ClassVar[str]

    @abc.abstractmethod
    def latent_shape(self, shape: Shape) -> Shape:
        """Returns the shape of one image's latent, channels last.

        Args:
          shape: of one image's features; a ConfigError if the unit does not fit them.

        Returns:
          (h, w, C), or (n, C) of tokens.
        """

    @abc.abstractmethod
    def init(self, key: jax.Array, shape: Shape) -> Variables:
        """Returns fresh variables.

        Args:
          key: a jax random key.
          shape: of one image's features.

        Returns:
          {"params": tree}, float32, and "batch_stats" if there are any.
        """

    @abc.abstractmethod
    def encode(self, variables: Variables, features: jax.Array) -> jax.Array:
        """Runs the encoder, on the device.

        Args:
          variables: as from `init`.
          features: float [B, *shape].

        Returns:
          Latents float [B, *latent_shape], not yet rounded.
        """

    @abc.abstractmethod
    def decode(self, variables: Variables, latents: jax.Array, shape: Shape) -> jax.Array:
        """Runs the decoder, on the server.

        Args:
          variables: as from `init`.
          latents: rounded, or with noise, float [B, *latent_shape].
          shape: of one image's features.

        Returns:
          Features for the tail, float [B, *shape].
        """

    @abc.abstractmethod
    def bits(self, variables: Variables, latents: jax.Array) -> jax.Array:
        """Returns the code length under the prior.

        Args:
          variables, latents: as in `decode`.

        Returns:
          Bits of every element, float [B, *latent_shape].
        """

    @abc.abstractmethod
    def tables(self, variables: Variables, offsets: np.ndarray) -> CodingTables:
        """Freezes the prior into integer tables, one for each channel.

        Args:
          variables: on the host.
          offsets: float32 [channels].

        Returns:
          The tables that sender and receiver share, with these offsets.
        """

    def offsets(self, variables: Variables, channels: int) -> np.ndarray:
        """Returns the offsets to round around: by default 0.

        Args:
          variables: on the host.
          channels: of the latent.

        Returns:
          float32 [channels], in quantization steps.
        """
        del variables
        return np.zeros(channels, np.float32)

    def encode_train(
        self, variables: Variables, features: jax.Array, axis_name: str | None
    ) -> tuple[jax.Array, Collection]:
        """Runs `encode` in a training step.

        Args:
          variables, features: as in `encode`.
          axis_name: device axis to average batch statistics over; None: one device.

        Returns:
          Latents, and the new "batch_stats" or {}.
        """
        return self.encode(variables, features), variables.get("batch_stats", {})

    def decode_train(
        self, variables: Variables, latents: jax.Array, shape: Shape, axis_name: str | None
    ) -> tuple[jax.Array, Collection]:
        """Runs `decode` in a training step.

        Args:
          variables, latents, shape, axis_name: as in `decode` and `encode_train`.

        Returns:
          Features, and the new "batch_stats" ({} where there are none).
        """
        return self.decode(variables, latents, shape), variables.get("batch_stats", {})

    def fold(self, variables: Variables) -> tuple[Self, Variables]:
        """Prepares a unit for inference, for example by folding batch normalization.

        Args:
          variables: as trained.

        Returns:
          The unit and its variables for inference; by default unchanged.
        """
        return self, variables

    def has_prior(self, variables: Variables) -> bool:
        """Checks whether `bits` can be computed: an imported unit may lack its prior.

        Args:
          variables: of the unit.

        Returns:
          True unless overridden.
        """
        return True

    def variable_shapes(self, shape: Shape) -> Mapping[str, TreeOf[Shape]] | None:
        """Returns the shapes of encoder and decoder variables.

        Args:
          shape: of one image's features.

        Returns:
          A tree of tuples; None: unknown, and a loaded family's arrays are not checked.
        """
        return None

    def to_dict(self) -> dict[str, object]:
        """Returns the unit's kind and fields for a stored family, ready for JSON."""
        assert dataclasses.is_dataclass(self)
        return {"kind": self.kind, **dataclasses.asdict(self)}

    form = renamed_attribute("Unit.form", "to_dict")


_U = TypeVar("_U", bound=type[Unit])
_KINDS: dict[str, type[Unit]] = {}
_PER_TENSOR = "per_tensor"


def register(unit: _U) -> _U:
    """Registers a class of units under its `kind`, so that families of it can be saved and loaded.

    Families contain no code: import the module that defines the class before loading one.

    Args:
      unit: a frozen dataclass derived from `Unit`, with fields for JSON.

    Returns:
      The class.

    Raises:
      ConfigError: it has no kind, or another class has it.

    >>> from jaxsplit.units import BottleneckSpec
    >>> spec_from_dict(BottleneckSpec(channels=8).to_dict()).channels
    8
    """
    kind, name = getattr(unit, "kind", None), unit.__name__
    if not kind or not dataclasses.is_dataclass(unit) or unit.__hash__ is None:
        raise ConfigError(f"{name} needs a class attribute `kind`, and to be a dataclass, frozen")
    other = PerTensor if kind == _PER_TENSOR else _KINDS.get(kind)
    if other and not _same_class(unit, other):
        raise ConfigError(f"the kind {kind!r} of {name} is taken by {other.__name__}")
    _KINDS[kind] = unit
    return unit


def _same_class(unit: type, other: type | None) -> bool:
    """Returns whether two classes have one name, as after a notebook's cell ran twice."""
    names = ("__module__", "__qualname__")
    return other is not None and all(getattr(unit, n) == getattr(other, n) for n in names)


@dataclasses.dataclass(frozen=True)
class PerTensor:
    """A unit for each array that crosses a cut.

    Attributes:
      units: (name of the array, its unit), in the order of names.

    >>> from jaxsplit.units import BottleneckSpec
    >>> per_tensor({"skip": BottleneckSpec(4), "deep": BottleneckSpec(8)}).unit_of("deep").channels
    8
    """

    units: tuple[tuple[str, Unit], ...]

    def unit_of(self, name: str) -> Unit:
        """Returns the unit of an array.

        Args:
          name: of the array; a ConfigError if it has no unit.

        Returns:
          Its unit.
        """
        units = dict(self.units)
        if name not in units:
            raise ConfigError(
                f"{name!r} crosses the cut and has no unit; there are units for {', '.join(units)}"
            )
        return units[name]

    def to_dict(self) -> dict[str, object]:
        """Returns kind and units for a stored family, ready for JSON."""
        return {"kind": _PER_TENSOR, "units": {name: unit.to_dict() for name, unit in self.units}}

    form = renamed_attribute("PerTensor.form", "to_dict")


#: One unit for every array that crosses a cut, or one for each.
UnitSpec = Unit | PerTensor


def per_tensor(units: Mapping[str, Unit]) -> PerTensor:
    """Assigns a unit to each array that crosses a cut.

    Args:
      units: name of an array, a key of the dictionary that the head returns → its unit; a
        ConfigError if there is none.

    Returns:
      The units as one spec, for `make_split` and `Rate`.

    >>> from jaxsplit.units import BottleneckSpec
    >>> per_tensor({"skip": BottleneckSpec(2), "deep": BottleneckSpec(8)}).unit_of("skip").channels
    2
    """
    for unit in units.values():
        check_unit(unit)
    if not units:
        raise ConfigError("per_tensor needs a unit for each array that crosses; got none")
    return PerTensor(tuple(sorted(units.items())))


def check_unit(spec: object) -> None:
    """Raises a ConfigError unless this is a unit, or a unit for each array."""
    if not isinstance(spec, Unit | PerTensor):
        made = f"the class {spec.__name__}" if isinstance(spec, type) else repr(spec)
        raise ConfigError(
            f"a unit is {made}; expected a jaxsplit.BottleneckSpec, a jaxsplit.Unit of your own, "
            "or jaxsplit.per_tensor(…)"
        )


def check_stored(spec: UnitSpec) -> None:
    """Raises a ConfigError if a class is not registered: a family of it couldn't be loaded."""
    for unit in dict(spec.units).values() if isinstance(spec, PerTensor) else [spec]:
        if not _same_class(type(unit), _KINDS.get(unit.kind)):
            raise ConfigError(
                f"{type(unit).__name__} is not registered: decorate the class with "
                "jaxsplit.units.register, so that a stored family finds it"
            )


def spec_from_dict(form: Mapping[str, Any]) -> UnitSpec:
    """Rebuilds a unit or a `PerTensor` from its `form`.

    Raises:
      ConfigError: a kind is not registered, or a field is missing, unknown or has an impossible
        value.
    """
    if form.get("kind") != _PER_TENSOR:
        return _from_dict(form)
    units = build(dict[str, dict[str, Any]], form.get("units"), what="the units of a cut")
    return per_tensor({name: _from_dict(own) for name, own in units.items()})


def _from_dict(form: Mapping[str, Any]) -> Unit:
    """Rebuilds one unit; a form without "kind" is that of a `BottleneckSpec`."""

    def as_stored(value: Any) -> Any:
        """Returns JSON's lists as the tuples that they were."""
        return tuple(map(as_stored, value)) if isinstance(value, list) else value

    kind = form.get("kind", "bottleneck")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ConfigError(
            f"no unit of kind {kind!r} is registered: import the module that defines it first"
            f"{did_you_mean(str(kind), _KINDS)}"
        )
    given = {name: as_stored(value) for name, value in form.items() if name != "kind"}
    for name, key in keys(_KINDS[kind]).items():
        is_unit = isinstance(key.type, type) and issubclass(key.type, Unit)
        if is_unit and isinstance(given.get(name), dict):
            given[name] = _from_dict(given[name])
    return cast(Unit, build(_KINDS[kind], given, what=f"a unit of kind {kind!r}"))
