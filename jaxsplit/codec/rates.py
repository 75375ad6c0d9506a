"""The rates of a family: single ones, and the rate levels of a variable-rate unit."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, Self, cast

import jax
import numpy as np
from flax import traverse_util

from jaxsplit import networks
from jaxsplit.bitstream import CodingTables, EntropyCoder, LevelTables
from jaxsplit.entropy import level_tables
from jaxsplit.errors import ConfigError, FamilyError
from jaxsplit.io import untrusted
from jaxsplit.trees import Tree
from jaxsplit.units import UnitSpec, VariableRate, Variables
from jaxsplit.units.variable_rate import ANALYSIS, RATE

#: Levels of a trained variable-rate unit.
LEVELS = 64
_LEVEL = "level"  # and a number: the name of a level


class _Stored:
    """Variables of a unit and tables, which a family stores under one digest."""

    variables: Variables
    tables: CodingTables | LevelTables

    @property
    def digest(self) -> str:
        """SHA-256 of the parameters and the tables."""
        content = networks.fingerprint(self.variables) + self.tables.fingerprint
        return hashlib.sha256(content.encode()).hexdigest()

    def packed_arrays(self) -> dict[str, np.ndarray]:
        """Returns variables and tables as a packed family stores them, see `packed`."""
        return packed({"variables": self.variables, "tables": self.tables.to_arrays()})

    @property
    def stored_bytes(self) -> int:
        """Bytes of `packed_arrays`; a file has a few thousand more, of names."""
        return sum(array.nbytes for array in self.packed_arrays().values())


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class FamilyRate(_Stored):
    """One rate: a trained unit, its tables and its measured figures.

    Attributes:
      rate_id: its name, of letters, digits, ".", "_" and "-"; a ConfigError otherwise.
      lmbda: rate weight (lambda) of its training; None where unknown.
      spec: the unit, or units.
      variables: {"params": {"encoder", "decoder", "prior"}, "batch_stats"} as trained; an imported
        unit may come without a prior.
      tables: coding tables of its symbols.
      measured: figures of an evaluation, see `jaxsplit.evaluation.card.with_measured`; shares are
        0 … 1.
      level: of a variable-rate unit, see `Levels`; None: a unit of its own.

    >>> from jaxsplit.family.pretrained import load_pretrained
    >>> rate = load_pretrained("resnet8_small-fashion_mnist/stage1.block1")["r3"]
    >>> rate.lmbda, rate.spec.channels == rate.tables.channels, sorted(rate.variables["params"])
    (0.00025, True, ['decoder', 'encoder', 'prior'])
    """

    rate_id: str
    lmbda: float | None
    spec: UnitSpec
    variables: Variables
    tables: CodingTables
    measured: dict[str, Any] = dataclasses.field(default_factory=dict)
    level: int | None = None

    def __post_init__(self) -> None:
        check_rate_id(self.rate_id)

    def __repr__(self) -> str:
        rate = "" if self.lmbda is None else f", lambda {self.lmbda:.3g}"
        return f"FamilyRate({self.rate_id!r}{rate}, {self.spec})"

    @functools.cached_property
    def coder(self) -> EntropyCoder:
        """Coder of the tables, built once, since it checks every interval."""
        return EntropyCoder(self.tables)


def packed(tree: Tree) -> dict[str, np.ndarray]:
    """Returns the arrays of a tree by name, as a packed family stores them.

    float32 becomes float16 where that is exact, see `RateFamily.half`.
    """
    flat = traverse_util.flatten_dict(tree, sep="/")
    return {name: _smallest(np.array(leaf, order="C")) for name, leaf in flat.items()}


def level_name(level: int) -> str:
    """Returns the name of a level that has no other."""
    return f"{_LEVEL}{level}"


def check_rate_id(name: object) -> None:
    """Raises a ConfigError unless this is a name of a rate."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise ConfigError(f"{name!r} is not a name of a rate: use letters and digits")


def check_level_name(rate_id: str, level: int | None) -> None:
    """Raises a ConfigError if this is the name of another level."""
    if re.fullmatch(rf"{_LEVEL}[0-9]+", rate_id) and (
        level is None or rate_id != level_name(level)
    ):
        raise ConfigError(f"{rate_id!r} is the name of a level: choose another name for this rate")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Levels(_Stored):
    """All rates of a variable-rate unit, as a sequence of `FamilyRate`.

    Level 0 has the fewest bytes; levels are evenly spaced in log lambda. Unit and tables are
    stored once: a level is a gain for each channel, and a choice of tables.

    Attributes:
      spec: the unit.
      variables: as trained, without a rate.
      tables: of the symbols at each level.

    >>> from jaxsplit.units import BottleneckSpec
    >>> spec = VariableRate(BottleneckSpec(channels=4), lambdas=(1e-5, 1e-3))
    >>> levels = Levels.of_prior(spec, spec.init(jax.random.key(0), (8, 8, 16)), count=5)
    >>> levels[1].rate_id, levels[1].lmbda, levels.nearest(0.3)
    ('level1', 0.00031622776601683794, 1)
    """

    spec: VariableRate
    variables: Variables
    tables: LevelTables

    def __post_init__(self) -> None:
        shared = {name: tree for name, tree in self.variables.items() if name != RATE}
        object.__setattr__(self, "variables", shared)

    def __repr__(self) -> str:
        return f"Levels({len(self)} of {self.spec})"

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.spec, self.variables, self.tables)  # without what follows of them

    @classmethod
    def of_prior(cls, spec: VariableRate, variables: Variables, count: int = LEVELS) -> Levels:
        """Builds the levels of a trained unit, with tables of its prior.

        Args:
          spec, variables: the unit.
          count: number of levels, 2 … 255.

        Returns:
          The levels.
        """
        gains = _gains(spec, variables, count)[ANALYSIS]
        return cls(spec, variables, level_tables(spec.prior(variables), gains))

    def __len__(self) -> int:
        return len(self.tables)

    def __getitem__(self, level: int) -> FamilyRate:
        level = range(len(self))[level]
        if level not in self._made:
            self._made[level] = self.named(level, level_name(level))
        return self._made[level]

    def __iter__(self) -> Iterator[FamilyRate]:
        return (self[level] for level in range(len(self)))

    def named(
        self, level: int, rate_id: str, measured: Mapping[str, object] | None = None
    ) -> FamilyRate:
        """Returns a level as a rate.

        Args:
          level: 0 … len - 1; a ConfigError otherwise.
          rate_id: its name.
          measured: figures of an evaluation.

        Returns:
          The rate, whose variables have the level's gains.
        """
        if not 0 <= level < len(self):
            raise ConfigError(f"rate {rate_id!r} is level {level}, expected 0 … {len(self) - 1}")
        check_level_name(rate_id, level)
        gains = {name: rows[level] for name, rows in self.gains.items()}
        position = level / (len(self) - 1)
        return FamilyRate(
            rate_id,
            self.spec.weight(position),
            self.spec,
            {**self.variables, RATE: gains},
            self.tables.level(level),
            dict(measured or {}),
            level,
        )

    def holds(self, rate: FamilyRate) -> bool:
        """Checks whether a rate is a level of this unit.

        Args:
          rate: any.

        Returns:
          False also for one of `named` of another unit.
        """
        return rate.level is not None and rate.variables["params"] is self.variables["params"]

    def nearest(self, position: float) -> int:
        """Returns the level nearest to a position.

        Args:
          position: from 0, the fewest bytes, to 1; a ConfigError otherwise.

        Returns:
          From 0 to len - 1.
        """
        if not 0 <= position <= 1:
            raise ConfigError(f"rate {position!r}: a position is from 0, the fewest bytes, to 1")
        return round(position * (len(self) - 1))

    def index(self, rate: str | float) -> int:
        """Returns the level of a position, also as text, or of a name such as "level12".

        Args:
          rate: the position or name; a ValueError if it is neither.

        Returns:
          From 0 to len - 1.
        """
        if isinstance(rate, str) and rate.startswith(_LEVEL):
            level = int(rate.removeprefix(_LEVEL))
            if rate != level_name(level) or not 0 <= level < len(self):
                raise ValueError(rate)
            return level
        if isinstance(rate, bool):
            raise ValueError(rate)
        return self.nearest(float(rate))

    @functools.cached_property
    def _made(self) -> dict[int, FamilyRate]:
        return {}  # rates that were asked for, with their coders

    @functools.cached_property
    def gains(self) -> dict[str, np.ndarray]:
        """Gains and inverse gains of all levels, float32 [levels, channels]."""
        return _gains(self.spec, self.variables, len(self))


def _gains(spec: VariableRate, variables: Variables, count: int) -> dict[str, np.ndarray]:
    positions = np.linspace(0, 1, count, dtype=np.float32)
    at = jax.device_get(spec.at(variables, positions)[RATE])
    return dict(cast("Mapping[str, np.ndarray]", at))


class Rates(Protocol):
    """Rates of one cut: the interface of `jaxsplit.RateFamily` for sender and receiver."""

    @property
    def cut(self) -> str:
        """See `RateFamily.cut`."""

    @property
    def rates(self) -> tuple[FamilyRate, ...]:
        """See `RateFamily.rates`."""

    @property
    def levels(self) -> Levels | None:
        """See `RateFamily.levels`."""

    @property
    def fingerprint(self) -> str:
        """See `RateFamily.fingerprint`."""

    def __getitem__(self, rate: str | float) -> FamilyRate: ...

    def index(self, rate: str | float) -> int:
        """See `RateFamily.index`."""

    def name(self, index: int) -> str:
        """See `RateFamily.name`."""

    def bind(self, backbone: networks.Backbone) -> Self:
        """See `RateFamily.bind`."""

    def backbone_of(self, name: str | None = None) -> networks.Backbone:
        """See `RateFamily.backbone_of`."""


def check_finite(rate: FamilyRate) -> None:
    """Raises a FamilyError where a parameter is infinite or not a number."""
    for path, leaf in jax.tree.leaves_with_path(rate.variables):
        if not np.isfinite(leaf).all():
            name = untrusted.quoted(jax.tree_util.keystr(path, simple=True, separator="/"))
            raise FamilyError(
                f"rate {rate.rate_id} has values in {name} that are infinite or not numbers; train "
                "it again"
            )


def _smallest(array: np.ndarray) -> np.ndarray:
    """Converts float32 to float16 where that is exact."""
    if array.dtype != np.float32:
        return array
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    return half if np.array_equal(half.astype(np.float32), array) else array
