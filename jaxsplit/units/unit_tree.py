"""Units of all arrays that cross a cut, coded into one frame."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxsplit.bitstream import CodingTables
from jaxsplit.entropy.symbol_tables import MAX_TABLES, join_tables
from jaxsplit.errors import ConfigError
from jaxsplit.networks import Features
from jaxsplit.trees import Structs, TreeOf
from jaxsplit.units.quantization import Latents, Offsets
from jaxsplit.units.unit import Collection, PerTensor, Shape, Unit, UnitSpec, Variables, check_unit
from jaxsplit.units.variable_rate import VariableRate

#: Names of other parameters in the library's trees.
_RESERVED = ("network", "prior")
_Collection = TypeVar("_Collection")


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One array that crosses the cut: name in the tree ("" if bare), shape of one image, unit."""

    name: str
    shape: Shape
    unit: Unit

    @property
    def latent_shape(self) -> Shape:
        """Shape of one image's latent, channels last."""
        return self.unit.latent_shape(self.shape)


@dataclasses.dataclass(frozen=True)
class UnitTree:
    """The units of a cut, as pure functions of trees with an array for each unit.

    Features, latents and offsets have the same tree, in the simplest case a bare array. `unit` is
    {"params", "batch_stats"} of one rate; where several arrays cross, each collection has an entry
    for each array's name. Another rate is another `unit` of the same shapes, so nothing recompiles.

    Attributes:
      tensors: the arrays that cross, in the tree's order.
      structure: of the tree.
    """

    tensors: tuple[Tensor, ...]
    structure: jax.tree_util.PyTreeDef

    @staticmethod
    def at(features: Structs, spec: UnitSpec) -> UnitTree:
        """Returns the units for the features of one image, `jax.ShapeDtypeStruct`s.

        Raises:
          ConfigError: an array has no unit, a unit no array, one does not fit the other, or an
            array is not floating-point.
        """
        check_unit(spec)
        leaves, structure = jax.tree.flatten_with_path(features)
        if not leaves:
            raise ConfigError("nothing crosses the cut; expected at least one array")
        tensors: list[Tensor] = []
        channels = 0
        for path, leaf in leaves:
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            if not re.fullmatch(r"[\w.-]*", name) or name in _RESERVED:
                raise ConfigError(f"an array that crosses is called {name!r}: rename it")
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                raise ConfigError(
                    f"{name or 'what'} crosses the cut as {leaf.dtype}; units code floating-point "
                    "arrays: compute integers on the server"
                )
            unit = spec.unit_of(name) if isinstance(spec, PerTensor) else spec
            tensors.append(Tensor(name, leaf.shape, unit))
            try:
                channels += tensors[-1].latent_shape[-1]
            except ConfigError as error:
                raise ConfigError(f"{name}: {error}" if name else str(error)) from error
        if isinstance(spec, PerTensor) and len(spec.units) > len(tensors):
            names = ", ".join(tensor.name for tensor in tensors)
            raise ConfigError(f"{len(spec.units)} units, but only {names or 'one array'} crosses")
        if len(tensors) > 1 and channels > MAX_TABLES:
            raise ConfigError(
                f"latents of {channels} channels in all; several arrays share one frame, which has "
                f"at most {MAX_TABLES} tables"
            )
        return UnitTree(tuple(tensors), structure)

    @property
    def single(self) -> Tensor:
        """The only array that crosses; a ConfigError if several do."""
        if len(self.tensors) != 1:
            names = ", ".join(tensor.name for tensor in self.tensors)
            raise ConfigError(f"{names} cross the cut; this needs a cut that one array crosses")
        return self.tensors[0]

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(h, w, C) of the symbols of one image's frame.

        One latent of three axes keeps its shape; one of other axes is coded as (1, n, C), several
        as one of (1, 1, n).
        """
        if len(self.tensors) > 1:
            return (1, 1, sum(math.prod(tensor.latent_shape) for tensor in self.tensors))
        *positions, channels = self.tensors[0].latent_shape
        height, width = positions if len(positions) == 2 else (1, math.prod(positions))
        return (height, width, channels)

    def features(self, batch: int) -> Structs:
        """Returns the features of a batch as `jax.ShapeDtypeStruct`s, float32 [batch, …]."""
        return self._tree(
            jax.ShapeDtypeStruct((batch, *one.shape), jnp.float32) for one in self.tensors
        )

    def init(self, key: jax.Array) -> Variables:
        """Returns fresh variables {"params", "batch_stats"}, float32, from a random key."""
        several = len(self.tensors) > 1
        keys = jax.random.split(key, len(self.tensors)) if several else [key]
        pairs = zip(self.tensors, keys, strict=True)
        return self._joined(one.unit.init(own, one.shape) for one, own in pairs)

    @property
    def is_variable_rate(self) -> bool:
        """True where one unit serves all rates; a ConfigError if it is one of several."""
        found = any(isinstance(one.unit, VariableRate) for one in self.tensors)
        if found and len(self.tensors) > 1:
            raise ConfigError("a variable-rate unit needs a cut that one array crosses")
        return found

    @property
    def variable_unit(self) -> VariableRate:
        """The unit that serves all rates; a ConfigError if there is none."""
        if not self.is_variable_rate:
            raise ConfigError(f"{self.tensors[0].unit} is no variable-rate unit")
        return cast("VariableRate", self.single.unit)

    def with_unit(self, unit: Unit) -> Self:
        """Replaces the unit of the only array that crosses."""
        return dataclasses.replace(self, tensors=(dataclasses.replace(self.single, unit=unit),))

    def encode(self, unit: Variables, features: Features) -> Latents:
        """Encodes features [B, …] to latents in quantization steps, not yet rounded."""
        return self._tree(one.unit.encode(own, x) for one, own, x in self._each(unit, features))

    def decode(self, unit: Variables, latents: Latents) -> Features:
        """Decodes latents, rounded or with noise, to features [B, …].

        They are larger than those of the head where a unit does not crop.
        """
        return self._tree(
            one.unit.decode(own, z, one.shape) for one, own, z in self._each(unit, latents)
        )

    def encode_train(
        self, unit: Variables, features: Features, axis_name: str | None
    ) -> tuple[Latents, Collection]:
        """Runs `encode` in a training step; see `Unit.encode_train`."""
        return self._trained(
            one.unit.encode_train(own, x, axis_name) for one, own, x in self._each(unit, features)
        )

    def decode_train(
        self, unit: Variables, latents: Latents, axis_name: str | None
    ) -> tuple[Features, Collection]:
        """Runs `decode` in a training step; see `Unit.encode_train`."""
        return self._trained(
            one.unit.decode_train(own, z, one.shape, axis_name)
            for one, own, z in self._each(unit, latents)
        )

    def bits(self, unit: Variables, latents: Latents) -> Latents:
        """Returns the bits of every element under the priors; `train.losses.rate` sums them."""
        return self._tree(one.unit.bits(own, z) for one, own, z in self._each(unit, latents))

    def has_prior(self, unit: Variables) -> bool:
        """Returns whether `bits` can be computed, see `Unit.has_prior`."""
        return all(one.unit.has_prior(own) for one, own in self._own(unit))

    def separate(self, symbols: jax.Array | np.ndarray) -> Latents:
        """Splits symbols [B, *latent_shape] of frames into a tree of each array's."""
        shapes = [one.latent_shape for one in self.tensors]
        ends = [0, *itertools.accumulate(map(math.prod, shapes))]
        flat = symbols.reshape(-1, ends[-1])
        parts = zip(itertools.pairwise(ends), shapes, strict=True)
        return self._tree(flat[:, i:j].reshape(-1, *shape) for (i, j), shape in parts)

    def zero_offsets(self) -> Offsets:
        """Returns offsets of 0, float32 [C] for each array."""
        return self._tree(jnp.zeros(one.latent_shape[-1]) for one in self.tensors)

    def best_offsets(self, unit: Variables) -> Offsets:
        """Returns the offsets that cost the fewest bits under the prior, see `Unit.offsets`."""
        return self._tree(
            one.unit.offsets(own, one.latent_shape[-1]) for one, own in self._own(unit)
        )

    def stored_offsets(self, tables: CodingTables) -> Offsets:
        """Returns the offsets in tables, as a tree of each array's [C]."""
        if len(self.tensors) == 1:
            return self._tree([tables.offsets])
        offsets = self.separate(tables.offsets)
        return jax.tree.map(lambda x: x.reshape(-1, x.shape[-1])[0], offsets)

    def tables(self, unit: Variables, offsets: Offsets) -> CodingTables:
        """Freezes the priors into one set of tables for a frame, see `Unit.tables`."""
        each = self._each(unit, offsets)
        found = [one.unit.tables(own, np.asarray(o, np.float32)) for one, own, o in each]
        return self.join_tables(found)

    def join_tables(self, tables: list[CodingTables]) -> CodingTables:
        """Joins each array's tables, in the tree's order, into one set for a frame."""
        if len(tables) == 1:
            return tables[0]
        shapes = [one.latent_shape for one in self.tensors]
        return join_tables(list(zip(tables, shapes, strict=True)))

    def fold(self, unit: Variables) -> tuple[Self, Variables]:
        """Returns the units and a rate's variables for inference, see `Unit.fold`."""
        folded = [one.unit.fold(own) for one, own in self._own(unit)]
        pairs = zip(self.tensors, folded, strict=True)
        tensors = tuple(dataclasses.replace(one, unit=plain) for one, (plain, _) in pairs)
        return dataclasses.replace(self, tensors=tensors), self._joined(own for _, own in folded)

    def variable_shapes(self) -> Mapping[str, TreeOf[Shape]] | None:
        """Returns the shapes of encoders and decoders, see `Unit.variable_shapes`."""
        shapes = [one.unit.variable_shapes(one.shape) for one in self.tensors]
        known = [own for own in shapes if own is not None]
        return self._joined(known) if len(known) == len(shapes) else None

    def _tree(self, leaves: Iterable[object]) -> Any:
        return jax.tree.unflatten(self.structure, leaves)

    def _own(self, unit: Variables) -> Iterator[tuple[Tensor, Variables]]:
        """Yields each array and the variables of its unit."""
        for one in self.tensors:
            if len(self.tensors) == 1:
                yield one, unit
            else:
                # A unit without statistics has no entry in their collection.
                own = {kind: tree[one.name] for kind, tree in unit.items() if one.name in tree}
                yield one, cast("Variables", own)

    def _each(
        self, unit: Variables, tree: Latents
    ) -> Iterator[tuple[Tensor, Variables, jax.Array]]:
        """Yields each array, the variables of its unit, and its leaf of a tree."""
        for (one, own), leaf in zip(self._own(unit), jax.tree.leaves(tree), strict=True):
            yield one, own, leaf

    def _joined(self, own: Iterable[Mapping[str, _Collection]]) -> Mapping[str, _Collection]:
        """Joins the variables of all units, as `_own` separates them."""
        if len(self.tensors) == 1:
            return next(iter(own))
        joined: dict[str, Any] = {}  # a dictionary of collections is one too
        for one, variables in zip(self.tensors, own, strict=True):
            for kind, tree in variables.items():
                joined.setdefault(kind, {})[one.name] = tree
        return joined

    def _trained(self, pairs: Iterable[tuple[jax.Array, Collection]]) -> tuple[Latents, Collection]:
        """Returns the tree of arrays, and the statistics of all units."""
        leaves, found = zip(*pairs, strict=True)
        stats = self._joined({"batch_stats": own} if own else {} for own in found)
        return self._tree(leaves), stats.get("batch_stats", {})
