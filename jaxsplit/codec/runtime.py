"""The rates of a family, and a family bound to a backbone, ready to run."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import numbers
import re
from collections.abc import Callable
from typing import Any, Protocol, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxsplit import networks
from jaxsplit.bitstream import CodingTables, EntropyCoder, Header, RateInfo
from jaxsplit.errors import ConfigError, FamilyError
from jaxsplit.io import untrusted
from jaxsplit.networks.backbone import check_backbone
from jaxsplit.split import Split, make_split
from jaxsplit.trees import Tree, TreeOf
from jaxsplit.units import Shape, UnitSpec, Variables
from jaxsplit.units.quantization import Offsets


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class FamilyRate:
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
        check_rate_id(self.rate_id)

    def __repr__(self) -> str:
        rate = "" if self.lmbda is None else f", lambda {self.lmbda:.3g}"
        return f"FamilyRate({self.rate_id!r}{rate}, {self.spec})"

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


def check_rate_id(name: object) -> None:
    """Raises a ConfigError unless this is a name of a rate."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise ConfigError(f"{name!r} is not a name of a rate: use letters and digits")


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

    def backbone_of(self, name: str | None = None) -> networks.Backbone:
        """See `RateFamily.backbone_of`."""


@dataclasses.dataclass(frozen=True, eq=False)
class RateRuntime:
    """One rate, ready to run: a folded unit on the accelerator, its offsets and its coder."""

    index: int
    split: Split
    latent_shape: tuple[int, int, int]
    unit: Variables
    offsets: Offsets
    coder: EntropyCoder


def check_finite(rate: FamilyRate) -> None:
    """Raises a FamilyError where a parameter is infinite or not a number."""
    for path, leaf in jax.tree.leaves_with_path(rate.variables):
        if not np.isfinite(leaf).all():
            name = untrusted.quoted(jax.tree_util.keystr(path, simple=True, separator="/"))
            raise FamilyError(
                f"rate {rate.rate_id} has values in {name} that are infinite or not numbers; train "
                "it again"
            )


def check_fits(split: Split, rate: FamilyRate) -> None:
    """Checks that a rate's unit and tables fit the split with its spec; a FamilyError if not."""
    tables, latent = rate.tables, split.latent_shape
    indices = tables.table_indices
    found = (tables.channels,) if indices is None else tuple(map(int, indices.shape))
    expected = split.variable_shapes()
    stored = jax.tree.map(np.shape, rate.variables)
    problem = ""
    if found not in (latent, latent[-1:]):
        problem = f"has tables of {found}, but its latent at {split.cut} is {latent}"
    elif expected is not None and _by_path(stored) != _by_path(expected):
        problem = f"has a unit without the parameters of {rate.spec} at {split.cut}"
    if problem:
        raise FamilyError(
            f"rate {rate.rate_id} {problem}: the family is damaged or belongs to another network"
        )


def check_symbols(symbols: object, latent: tuple[int, ...], rate_id: str) -> None:
    """Raises a FamilyError unless these are symbols of a rate, int32 [N, *latent]."""
    shape = tuple(getattr(symbols, "shape", ()))
    found = getattr(symbols, "dtype", type(symbols).__name__), shape[1:]
    if found != (np.int32, latent):
        raise FamilyError(
            f"symbols are {found[0]} {found[1]}; at rate {rate_id} they are int32 {latent}"
        )


def _by_path(shapes: TreeOf[Shape]) -> dict[tuple[object, ...], object]:
    """Returns the shapes of encoders and decoders, all but the priors', by their paths."""
    leaves = jax.tree.leaves_with_path(shapes, is_leaf=lambda x: isinstance(x, tuple))
    return {path: shape for path, shape in leaves if jax.tree_util.DictKey("prior") not in path}


class Runtime:
    """A family bound to a backbone, ready to run: the common part of sender and receiver.

    Copies and pickles hold these arguments alone, and are made ready anew.

    Args:
      family: the rates; a FamilyError if a parameter is infinite or not a number.
      backbone: what the family was trained on; a FamilyError if they don't fit. A name or None: as
        in `RateFamily.backbone_of`.
      batch_size: images per run; the last batch of a call is padded to it. A ConfigError if it
        isn't a positive integer.
    """

    def __init__(
        self, family: Rates, backbone: networks.Backbone | str | None = None, batch_size: int = 1
    ) -> None:
        whole = isinstance(batch_size, numbers.Integral) and not isinstance(batch_size, bool)
        if not whole or batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size!r}, expected a positive integer")
        if not hasattr(family, "bind"):
            kind = type(family).__name__
            raise ConfigError(f"got a {kind} in place of the family, which load_pretrained loads")
        if backbone is None or isinstance(backbone, str):
            backbone = family.backbone_of(backbone)
        check_backbone(backbone)
        self.family = family.bind(backbone)
        self.backbone = backbone
        self.batch_size = batch_size
        self._rates: dict[str, RateRuntime] = {}
        for index, rate in enumerate(self.family.rates):
            split = make_split(backbone, family.cut, rate.spec)
            check_fits(split, rate)
            check_finite(rate)
            folded, unit = split.fold(rate.variables)
            self._rates[rate.rate_id] = RateRuntime(
                index,
                folded,
                folded.latent_shape,
                jax.device_put(unit),
                jax.tree.map(jnp.asarray, split.stored_offsets(rate.tables)),
                rate.coder,
            )

    def __repr__(self) -> str:
        rates, cut = ", ".join(self._rates), self.family.cut
        kind, size = type(self).__name__, self.batch_size
        return f"{kind}({self.backbone.name!r} at {cut!r}: {rates}; batch_size={size})"

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.family, self.backbone, self.batch_size)

    @functools.cached_property
    def header(self) -> Header:
        """Header of containers and streams of this family."""
        rates = [
            RateInfo(name, rate.coder.tables.fingerprint, rate.latent_shape)
            for name, rate in self._rates.items()
        ]
        image = self.backbone.preprocessing.input_shape
        return Header(self.family.fingerprint, tuple(rates), image)

    def _rate(self, rate_id: str) -> RateRuntime:
        return self._rates[self.family[rate_id].rate_id]  # a FamilyError if it is unknown


def put_used(
    trace: Callable[..., jax.stages.Traced], variables: networks.Variables, *rest: object
) -> networks.Variables:
    """Puts those variables on the accelerator that a program uses: one end's part of the network.

    The others stay where they are: jax doesn't transfer what a program ignores. The trace is that
    of the first call with such arguments.

    Args:
      trace: that of the jitted program.
      variables: its first argument.
      rest: its other arguments; `jax.ShapeDtypeStruct`s suffice.

    Returns:
      The variables, in the same tree.
    """
    leaves, structure = jax.tree.flatten(variables)
    traced = trace(variables, *rest).jaxpr.jaxpr
    used = {id(one) for equation in traced.eqns for one in equation.invars}
    used.update(map(id, traced.outvars))
    inputs = traced.invars[: len(leaves)]
    placed = [
        jax.device_put(leaf) if id(variable) in used else leaf
        for leaf, variable in zip(leaves, inputs, strict=True)
    ]
    return jax.tree.unflatten(structure, placed)


def _smallest(array: np.ndarray) -> np.ndarray:
    """Converts float32 to float16 where that is exact."""
    if array.dtype != np.float32:
        return array
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    return half if np.array_equal(half.astype(np.float32), array) else array
