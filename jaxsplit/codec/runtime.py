"""A family bound to a backbone, ready to run: the common part of sender and receiver."""

from __future__ import annotations

import dataclasses
import functools
import numbers
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsplit import networks
from jaxsplit.bitstream import EntropyCoder, Header, RateInfo
from jaxsplit.codec.rates import FamilyRate, Rates, check_finite
from jaxsplit.errors import ConfigError, FamilyError
from jaxsplit.networks.backbone import check_backbone
from jaxsplit.split import Split, make_split
from jaxsplit.trees import TreeOf
from jaxsplit.units import Shape, Variables
from jaxsplit.units.quantization import Offsets


@dataclasses.dataclass(frozen=True, eq=False)
class RateRuntime:
    """One rate, ready to run: a folded unit on the accelerator, its offsets and its coder.

    Levels of a variable-rate unit differ in index, name and coder alone.
    """

    index: int
    rate_id: str
    split: Split
    latent_shape: tuple[int, int, int]
    unit: Variables
    offsets: Offsets
    coder: EntropyCoder
    programs: tuple[Any, ...]  # jitted


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
        self._levels = self.family.levels
        rates = self.family.rates if self._levels is None else [self._levels[0]]
        self._rates = {index: self._made(index, rate) for index, rate in enumerate(rates)}

    def __repr__(self) -> str:
        rates, cut = ", ".join(rate.rate_id for rate in self.family.rates), self.family.cut
        kind, size = type(self).__name__, self.batch_size
        return f"{kind}({self.backbone.name!r} at {cut!r}: {rates}; batch_size={size})"

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.family, self.backbone, self.batch_size)

    @functools.cached_property
    def header(self) -> Header:
        """Header of containers and streams of this family."""
        image = self.backbone.preprocessing.input_shape
        if self._levels is None:
            rates = [
                RateInfo(rate.rate_id, rate.coder.tables.fingerprint, rate.latent_shape)
                for rate in self._rates.values()
            ]
        else:
            shape, tables = self._rates[0].latent_shape, self._levels.tables
            rates = [RateInfo("levels", tables.fingerprint, shape, len(tables))]
        original = image[:2] if self.backbone.task.has_maps else None
        return Header(self.family.fingerprint, tuple(rates), image, original)

    def _made(self, index: int, rate: FamilyRate) -> RateRuntime:
        split = make_split(self.backbone, self.family.cut, rate.spec)
        check_fits(split, rate)
        check_finite(rate)
        folded, unit = split.fold(rate.variables)
        offsets = jax.tree.map(jnp.asarray, split.stored_offsets(rate.tables))
        parts = folded.latent_shape, jax.device_put(unit), offsets, rate.coder
        name = self.family.name(index)
        return RateRuntime(index, name, folded, *parts, self._programs(folded))

    def _programs(self, split: Split) -> tuple[Any, ...]:
        """Returns the jitted programs of a rate."""
        raise NotImplementedError

    def runtime(self, index: int) -> RateRuntime:
        """Returns a rate, ready to run, by the number that it has in a frame."""
        return self._rate_at(index)

    def _rate(self, rate: str | float) -> RateRuntime:
        return self._rate_at(self.family.index(rate))

    def _rate_at(self, index: int) -> RateRuntime:
        """Returns the rate of a frame's index."""
        if index not in self._rates:
            assert self._levels is not None
            level = self._levels[index]
            name = self.family.name(index)
            self._rates[index] = dataclasses.replace(
                self._rates[0], index=index, rate_id=name, coder=level.coder
            )
        return self._rates[index]


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
