"""The registry by which a stored family finds its units, and units for each array of a cut."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from jaxsplit.errors import ConfigError, did_you_mean
from jaxsplit.units.unit import Unit

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

    >>> from jaxsplit import units
    >>> from_form(units.BottleneckSpec(channels=8).form).channels
    8
    """
    kind = getattr(unit, "kind", None)
    if not isinstance(kind, str) or not kind or not dataclasses.is_dataclass(unit):
        raise ConfigError(f"{unit.__name__} needs a class attribute `kind` and to be a dataclass")
    if unit.__hash__ is None or kind == _PER_TENSOR:
        raise ConfigError(f"{unit.__name__} needs to be frozen, and a kind other than {kind!r}")
    if (other := _KINDS.get(kind)) and not _is_again(unit, other):
        raise ConfigError(f"the kind {kind!r} of {unit.__name__} is taken by {other.__name__}")
    _KINDS[kind] = unit
    return unit


def _is_again(unit: type, other: type | None) -> bool:
    """Whether two classes are one: a notebook's cell that is run again defines it again."""
    return other is not None and all(
        getattr(unit, name) == getattr(other, name) for name in ("__module__", "__qualname__")
    )


def _hashable(value: Any) -> Any:
    """JSON's lists as the tuples that they were."""
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


def from_form(form: Mapping[str, Any]) -> Unit:
    """Rebuilds a unit from `Unit.form`: fields and "kind", by default that of `BottleneckSpec`.

    Raises:
      ConfigError: the kind is not registered, or a field has an impossible value.
      TypeError: a field is missing or unknown.
    """
    fields = {name: _hashable(value) for name, value in form.items() if name != "kind"}
    kind = form.get("kind", "bottleneck")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ConfigError(
            f"no unit of kind {kind!r} is registered: import the module that defines it first"
            f"{did_you_mean(str(kind), _KINDS)}"
        )
    return _KINDS[kind](**fields)


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
          name: of the array.

        Returns:
          Its unit.

        Raises:
          ConfigError: it has none.
        """
        for known, unit in self.units:
            if known == name:
                return unit
        names = ", ".join(known for known, _ in self.units)
        raise ConfigError(f"{name!r} crosses the cut and has no unit; there are units for {names}")

    @property
    def form(self) -> dict[str, object]:
        """Kind and units for a stored family, ready for JSON."""
        return {"kind": _PER_TENSOR, "units": {name: unit.form for name, unit in self.units}}


#: One unit for every array that crosses a cut, or one for each.
UnitSpec = Unit | PerTensor


def per_tensor(units: Mapping[str, Unit]) -> PerTensor:
    """Assigns a unit to each array that crosses a cut.

    Args:
      units: name of an array, a key of the dictionary that the head returns → its unit.

    Returns:
      The units as one spec, for `make_split` and `Rate`.

    Raises:
      ConfigError: `units` is empty.

    >>> from jaxsplit.units import BottleneckSpec
    >>> wide, narrow = BottleneckSpec(channels=8, stride=1), BottleneckSpec(channels=2, stride=4)
    >>> per_tensor({"deep": wide, "skip": narrow}).unit_of("skip").channels
    2
    """
    if not units:
        raise ConfigError("per_tensor needs a unit for each array that crosses; got none")
    return PerTensor(tuple(sorted(units.items())))


def check_stored(spec: UnitSpec) -> None:
    """Checks that a family of these units could be loaded again.

    Raises a ConfigError if a class is not registered.
    """
    for unit in [unit for _, unit in spec.units] if isinstance(spec, PerTensor) else [spec]:
        if not _is_again(type(unit), _KINDS.get(unit.kind)):
            raise ConfigError(
                f"{type(unit).__name__} is not registered: decorate the class with "
                "jaxsplit.units.register, so that a stored family finds it"
            )


def spec_from_form(form: Mapping[str, Any]) -> UnitSpec:
    """Rebuilds a unit or a `PerTensor` from its `form`; see `from_form`."""
    if form.get("kind") != _PER_TENSOR:
        return from_form(form)
    return per_tensor({str(name): from_form(own) for name, own in form["units"].items()})
