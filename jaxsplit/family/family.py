"""A rate family in memory."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np

from jaxsplit import networks
from jaxsplit._notebook import Shown
from jaxsplit.codec import Receiver, Sender
from jaxsplit.codec.rates import FamilyRate, Levels, check_finite, level_name
from jaxsplit.data import Preprocessing
from jaxsplit.errors import ConfigError, FamilyError, choices
from jaxsplit.family.files import read_family, write_family
from jaxsplit.family.summary import Card, summary_rows
from jaxsplit.io.text_table import text_table
from jaxsplit.networks.backbone import check_backbone
from jaxsplit.split import Split, make_split
from jaxsplit.weights.load import load_backbone
from jaxsplit.weights.published import where_to_get


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class RateFamily(Shown):
    """The rates of one cut of one backbone.

    Attributes:
      backbone: name of the network.
      backbone_fingerprint: of its weights; None for a family that was imported without weights.
      weights: name of the weights for `load_backbone`; None: they must be given.
      preprocessing: of the images.
      cut: endpoint of the backbone.
      rates: at least one, in any order; a ConfigError if two have the same name.
      levels: of a variable-rate unit: `rates` are named ones of these; None: units of their own.
      backbone_file: weights in the folder or beside it, for a family that names none; not saved.
      card: origin and measurements, see `jaxsplit.evaluation.card`; not in the fingerprint.
      bound: the network of the training or of `bind`, shared by copies; not saved, nor pickled.

    >>> from jaxsplit.family.pretrained import load_pretrained
    >>> family = load_pretrained("resnet8_small-fashion_mnist/stage1.block1")
    >>> family.cut, family["r3"].lmbda, len(family.select(["r1", "r5"]).rates)
    ('stage1.block1', 0.00025, 2)
    """

    backbone: str
    backbone_fingerprint: str | None
    weights: str | None
    preprocessing: Preprocessing
    cut: str
    rates: tuple[FamilyRate, ...]
    card: dict[str, Any] = dataclasses.field(default_factory=Card)
    bound: networks.Backbone | None = None
    levels: Levels | None = None
    backbone_file: Path | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Its network isn't small; networks of functions can't be pickled at all.
        return {name: value for name, value in vars(self).items() if name != "bound"}

    def __copy__(self) -> Self:
        return dataclasses.replace(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return dataclasses.replace(self, **copy.deepcopy(self.__getstate__(), memo))

    def __post_init__(self) -> None:
        ids = [rate.rate_id for rate in self.rates]
        if not ids or len(set(ids)) < len(ids):
            raise ConfigError(f"a family needs rates with different names; got {ids}")
        for one in self.rates:
            if not (one.level is None if self.levels is None else self.levels.holds(one)):
                raise ConfigError(f"rate {one.rate_id} is no level of the family: see `levels`")
        object.__setattr__(self, "card", Card(self.card))

    def __getitem__(self, rate: str | float) -> FamilyRate:
        """Returns a rate by its name, or a level by its position, see `index`."""
        for one in self.rates:
            if one.rate_id == rate:
                return one
        index = self.index(rate)
        assert self.levels is not None
        return self.levels[index]

    def index(self, rate: str | float) -> int:
        """Returns the number that a rate has in a frame.

        Args:
          rate: its name; or the position of a level, from 0, the fewest bytes, to 1, also as text.

        Returns:
          The index among the rates, or the level; a FamilyError if there is none.
        """
        for i, one in enumerate(self.rates):
            if one.rate_id == rate:
                return i if one.level is None else one.level
        if self.levels is not None:
            with contextlib.suppress(TypeError, ValueError):
                return self.levels.index(rate)
        raise FamilyError(f"the family has no rate {rate!r}; it has {choices(rate, self)}")

    def name(self, index: int) -> str:
        """Returns the name of a rate or level.

        Args:
          index: the number that it has in a frame.

        Returns:
          Its name among `rates`; that of other levels is "level" and the number.
        """
        if self.levels is None:
            return self.rates[index].rate_id
        return next((x.rate_id for x in self.rates if x.level == index), level_name(index))

    def __repr__(self) -> str:
        size = "×".join(map(str, self.preprocessing.input_shape))
        count = f"{len(self)} rate{'s' * (len(self) > 1)}"
        head = f"{type(self).__name__}({self.backbone!r}, {self.cut!r}, {size} images, {count})"
        return f"{head}\n{text_table(summary_rows(self.rates))}"

    def __iter__(self) -> Iterator[str]:
        """Iterates over the names of the rates, as a mapping does."""
        return (rate.rate_id for rate in self.rates)

    def __len__(self) -> int:
        return len(self.rates)

    def select(self, rate_ids: Iterable[str | float]) -> Self:
        """Selects rates; receivers need the same selection, unless they are levels.

        Args:
          rate_ids: the rates, see `index`, in the order of the new family; or one name.

        Returns:
          A family of these rates; a FamilyError if one is unknown.
        """
        names = [rate_ids] if isinstance(rate_ids, str) else rate_ids
        return dataclasses.replace(self, rates=tuple(self[rate_id] for rate_id in names))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that sender and receiver must share."""
        identity: dict[str, object] = {
            "backbone": self.backbone_fingerprint,
            "cut": self.cut,
            "preprocessing": self.preprocessing.to_dict(),
        }
        if self.levels is None:
            identity["rates"] = [
                [one.rate_id, one.spec.to_dict(), one.digest] for one in self.rates
            ]
        else:  # a level's name is no part of a frame
            identity["levels"] = [self.levels.spec.to_dict(), self.levels.digest]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def bind(self, backbone: networks.Backbone) -> Self:
        """Binds the family to the backbone that it was trained on.

        Args:
          backbone: the network; any weights fit a family without a fingerprint.

        Returns:
          The family with this network and its fingerprint; a FamilyError if it belongs to another
          backbone or other preprocessing.
        """
        check_backbone(backbone)
        if self.backbone != backbone.name:
            raise FamilyError(
                f"the family was trained on {self.backbone}, not on {backbone.name}: "
                "give it that backbone"
            )
        if self.backbone_fingerprint not in (None, backbone.fingerprint):
            raise FamilyError(
                f"these weights of {backbone.name} are {backbone.fingerprint[:12]}, but the family "
                f"was trained on {str(self.backbone_fingerprint)[:12]}: give it those weights"
            )
        if self.preprocessing != backbone.preprocessing:
            raise FamilyError(
                f"the backbone has {backbone.preprocessing}, but the family was "
                f"trained with {self.preprocessing}: use dataclasses.replace(backbone, "
                "preprocessing=family.preprocessing)"
            )
        return dataclasses.replace(self, backbone_fingerprint=backbone.fingerprint, bound=backbone)

    def split(self, backbone: networks.Backbone, rate_id: str) -> Split:
        """Splits the backbone at the cut, with one rate's unit.

        Args:
          backbone: what the family was trained on.
          rate_id: name of the rate; a FamilyError if it is unknown.

        Returns:
          The split, whose stages take `self[rate_id].variables` as their unit.
        """
        return make_split(backbone, self.cut, self[rate_id].spec)

    def backbone_of(
        self, name: str | None = None, file: str | os.PathLike[str] | None = None
    ) -> networks.Backbone:
        """Returns the frozen network with the preprocessing of this family.

        Args:
          name: of weights, see `load_backbone`; None: the network of `bind` or of the training,
            else the weights that the family names, or `backbone_file`.
          file: of weights for the family's network, in place of a name; also hf:owner/name.

        Returns:
          The backbone, with the family's preprocessing.

        Raises:
          FamilyError: neither is given, and the family names no weights.
          WeightsError: there are no such weights, or they don't fit.
        """
        if file is not None:
            backbone = load_backbone(self.backbone, file)
        elif name is None and self.bound is not None:
            backbone = self.bound
        elif found := name or self.weights or self.backbone_file:
            backbone = load_backbone(found)
        else:
            lacks = f"the family names no weights of {self.backbone}"
            how, option = (where_to_get(self.backbone, shell=shell) for shell in (False, True))
            raise FamilyError(
                f"{lacks}: pass the network, as in family.codec(backbone){how and f'; {how}'}",
                shell=f"{lacks}: {option or 'give --weights FILE'}",
            )
        return dataclasses.replace(backbone, preprocessing=self.preprocessing)

    def codec(
        self, backbone: networks.Backbone | str | None = None, *, batch_size: int = 1
    ) -> tuple[Sender, Receiver]:
        """Makes the sender and the receiver.

        Args:
          backbone: what the family was trained on; a name or None: as in `backbone_of`.
          batch_size: images per run, see `Sender`.

        Returns:
          The sender, images to frames, and the receiver, frames to outputs.

        Raises:
          FamilyError, WeightsError: as in `bind` and `backbone_of`.

        >>> from jaxsplit.family.pretrained import load_pretrained
        >>> sender, receiver = load_pretrained("resnet8_small-fashion_mnist/stage1.block1").codec()
        >>> receiver(sender(np.zeros((28, 28, 1), np.uint8), "r3")).shape
        (1, 10)
        """
        sender = Sender(self, backbone, batch_size)
        return sender, Receiver(self, sender.backbone, batch_size)

    def half(self) -> Self:
        """Rounds parameters to float16 values, which a packed folder stores in half the size.

        Rounded parameters give other symbols, so measured figures are dropped. Tables stay.

        Returns:
          The rounded family, still of float32 arrays; a FamilyError if float16 overflows.
        """

        def rounded(leaf: np.ndarray) -> np.ndarray:
            with np.errstate(over="ignore"):
                found = np.asarray(leaf).astype(np.float16).astype(np.float32)
            if not np.isfinite(found).all():
                raise FamilyError("a parameter is too large for float16: keep float32")
            return found

        if self.levels is not None:
            variables = jax.tree.map(rounded, self.levels.variables)
            return self.with_levels(dataclasses.replace(self.levels, variables=variables))
        return self.with_rates(
            dataclasses.replace(rate, variables=jax.tree.map(rounded, rate.variables))
            for rate in self.rates
        )

    def with_levels(self, levels: Levels) -> Self:
        """Replaces unit and tables of all levels, and drops all measured figures.

        Args:
          levels: as many as before.

        Returns:
          The family, with the same names for levels.
        """
        named = [(rate.level, rate.rate_id) for rate in self.rates if rate.level is not None]
        rates = [levels.named(level, rate_id) for level, rate_id in named]
        return dataclasses.replace(self, levels=levels, rates=tuple(rates)).with_rates(rates)

    def with_rates(self, rates: Iterable[FamilyRate]) -> Self:
        """Replaces the rates, and drops all measured figures.

        Args:
          rates: in the order of the new family.

        Returns:
          The family with these rates.
        """
        card = {key: value for key, value in self.card.items() if key != "evaluation"}
        cleared = tuple(dataclasses.replace(rate, measured={}) for rate in rates)
        return dataclasses.replace(self, rates=cleared, card=card)

    def save(self, directory: str | os.PathLike[str], *, packed: bool = False) -> None:
        """Writes the family atomically: an interrupted save leaves the previous family.

        Args:
          directory: the folder; a FamilyError if it cannot be written, or a parameter is infinite
            or not a number.
          packed: a safetensors file for each rate, to distribute, in place of an orbax folder.
        """
        for rate in self.rates if self.levels is None else [self.levels[0]]:
            check_finite(rate)
        described = {
            "backbone": {
                "name": self.backbone,
                "fingerprint": self.backbone_fingerprint,
                "weights": self.weights,
            },
            "preprocessing": self.preprocessing.to_dict(),
            "cut": self.cut,
            "card": self.card,
        }
        write_family(Path(directory), described, self.rates, self.levels, packed=packed)

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> Self:
        """Reads a family. Nothing in its folder is executed.

        Args:
          directory: written by `save`, packed or not.

        Returns:
          The family, after the self-test of each coder.

        Raises:
          FamilyError: there is none, it is damaged, or its format has another version.
          CoderError: the installed coder does not reproduce a rate's self-test.
        """
        family = read_family(Path(directory), cls)
        for rate in family.rates:
            check_finite(rate)
        return family
