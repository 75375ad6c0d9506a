"""One rate of a family: a trained unit, its tables and its measured figures."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
from typing import Any, Protocol, Self

import numpy as np
from flax import traverse_util

from jaxsplit import networks
from jaxsplit.bitstream import CodingTables, EntropyCoder
from jaxsplit.errors import ConfigError
from jaxsplit.units import UnitSpec, Variables


@dataclasses.dataclass(frozen=True, eq=False)
class FamilyRate:
    """One rate: all that differs between two points of a curve.

    Attributes:
      rate_id: its name, of letters, digits, ".", "_" and "-".
      lmbda: rate weight (lambda) of its training; None where unknown.
      spec: the unit, or units.
      variables: {"params": {"encoder", "decoder", "prior"}, "batch_stats"} as trained; an imported
        unit may come without a prior.
      tables: coding tables of its symbols.
      measured: figures of an evaluation, see `jaxsplit.evaluation.card.with_measured`:
        bytes_per_image in bytes; top1, uncompressed_top1 and agreement as shares, 0 … 1, and their
        95 % intervals.

    Raises:
      ConfigError: the name has other characters.

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

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", self.rate_id):
            raise ConfigError(f"{self.rate_id!r} is not a name of a rate: use letters and digits")

    @property
    def digest(self) -> str:
        """sha256 of the parameters and the tables."""
        return hashlib.sha256(
            (networks.fingerprint(self.variables) + self.tables.fingerprint).encode()
        ).hexdigest()

    def packed_arrays(self) -> dict[str, np.ndarray]:
        """Returns the arrays of the rate in a packed family, by name.

        Trained parameters and running moments, the prior's too, and the coding tables. float32
        becomes float16 where that is exact, see `RateFamily.half`.
        """
        tree = {"variables": self.variables, "tables": self.tables.to_arrays()}
        flat = traverse_util.flatten_dict(tree, sep="/")
        return {name: _smallest(np.array(leaf, order="C")) for name, leaf in flat.items()}

    @property
    def stored_bytes(self) -> int:
        """Bytes of `packed_arrays`; the file adds a few thousand bytes of names."""
        return sum(array.nbytes for array in self.packed_arrays().values())

    @functools.cached_property
    def coder(self) -> EntropyCoder:
        """Coder of the tables, built once, since it checks every interval."""
        return EntropyCoder(self.tables)


class Rates(Protocol):
    """Rates of one cut, the interface that sender and receiver need: `jaxsplit.RateFamily`."""

    @property
    def cut(self) -> str:
        """Endpoint of the backbone."""

    @property
    def rates(self) -> tuple[FamilyRate, ...]:
        """At least one."""

    @property
    def fingerprint(self) -> str:
        """sha256 of all that sender and receiver must share."""

    def __getitem__(self, rate_id: str) -> FamilyRate: ...

    def bind(self, backbone: networks.Backbone) -> Self:
        """Returns the rates bound to these weights; a FamilyError if they belong to others."""


def _smallest(array: np.ndarray) -> np.ndarray:
    """Converts float32 to float16 where that is exact."""
    if array.dtype != np.float32:
        return array
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    return half if np.array_equal(half.astype(np.float32), array) else array
