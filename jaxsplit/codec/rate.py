"""One rate of a family, and the interface of a family that sender and receiver need."""

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
    """One rate: a trained unit, its tables and its measured figures.

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
        """Returns variables and tables as a packed family stores them, by name.

        float32 becomes float16 where that is exact, see `RateFamily.half`.
        """
        tree = {"variables": self.variables, "tables": self.tables.to_arrays()}
        flat = traverse_util.flatten_dict(tree, sep="/")
        return {name: _smallest(np.array(leaf, order="C")) for name, leaf in flat.items()}

    @property
    def stored_bytes(self) -> int:
        """Bytes of `packed_arrays`; a file has a few thousand more, of names."""
        return sum(array.nbytes for array in self.packed_arrays().values())

    @functools.cached_property
    def coder(self) -> EntropyCoder:
        """Coder of the tables, built once, since it checks every interval."""
        return EntropyCoder(self.tables)


class Rates(Protocol):
    """Rates of one cut: the interface of `jaxsplit.RateFamily` for sender and receiver."""

    @property
    def cut(self) -> str:
        """See `RateFamily.cut`."""

    @property
    def rates(self) -> tuple[FamilyRate, ...]:
        """See `RateFamily.rates`."""

    @property
    def fingerprint(self) -> str:
        """See `RateFamily.fingerprint`."""

    def __getitem__(self, rate_id: str) -> FamilyRate: ...

    def bind(self, backbone: networks.Backbone) -> Self:
        """See `RateFamily.bind`."""


def _smallest(array: np.ndarray) -> np.ndarray:
    """Converts float32 to float16 where that is exact."""
    if array.dtype != np.float32:
        return array
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    return half if np.array_equal(half.astype(np.float32), array) else array
