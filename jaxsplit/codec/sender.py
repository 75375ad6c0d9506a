"""The sender: images to frames."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import jax
import numpy as np

from jaxsplit import _moved, bitstream, networks
from jaxsplit.codec.images import Images, Inputs, network_inputs
from jaxsplit.codec.rate_control import check_budget, check_over_budget, rates_for
from jaxsplit.codec.runtime import RateRuntime, Runtime, check_symbols, put_used
from jaxsplit.codec.unit_programs import latents_program, levels_program, symbols_program
from jaxsplit.errors import FamilyError
from jaxsplit.networks import Features
from jaxsplit.networks.inference import HeadProgram, head_program, in_batches
from jaxsplit.split import Split
from jaxsplit.units.quantization import NOT_FINITE, Latents
from jaxsplit.units.variable_rate import ANALYSIS


class Sender(Runtime):
    """Encodes images on the device: image → head → encoder → symbols → frame.

    All rates share the compiled program of the head. Rates of one architecture also share that of
    the unit, since parameters are arguments. For the arguments and their errors see `Runtime`.

    An image gives the same bytes in any process on a machine, on any number of devices, and at any
    position of any batch, since batches are padded to one size. Another batch_size is another
    program, whose sums XLA may order differently, which can change a symbol at the edge of
    rounding: of 1.35 million symbols none changed on a CPU (ResNet-8 in batches of 1 to 250, the S1
    units on ResNet-50 in batches of 1 to 32).

    >>> from jaxsplit.family.pretrained import load_pretrained
    >>> sender, _ = load_pretrained("resnet8_small-fashion_mnist/stage1.block1").codec()
    >>> images = np.zeros((2, 28, 28, 1), np.uint8)
    >>> [len(sender(images, rate=rate)) for rate in ("r1", "r5")]  # a frame for each image
    [2, 2]
    """

    @_moved.renamed_argument("rate_id", "rate")
    def encode(
        self,
        images: Images,
        rate: str | float | None = None,
        *,
        max_bytes: int | None = None,
        quality: float | None = None,
        over_budget: str = "error",
    ) -> list[bytes]:
        """Encodes images at a rate that is named, or chosen by bytes or accuracy: give one of them.

        quality, and max_bytes where rates are units of their own, use the measured figures of the
        family. One that you trained has none at first: `evaluation.card.with_measured` adds them,
        as in its example.

        Args:
          images: one or several: uint8 [N, H, W, c], [H, W, c] or, for grey ones, [H, W]; images of
            Pillow; paths of files; examples of a `data.Source`; or an iterable of those, of any
            sizes. The backbone's preprocessing is applied as by `jaxsplit encode`, but not to
            arrays that already have its input shape.
          rate: name of a rate; or, of a variable-rate family, a position from 0, the fewest bytes,
            to 1, which is rounded to a level.
          max_bytes: most bytes of a frame. Each image gets the highest level, or the rate of best
            measured accuracy, whose frame is at most that long, so that frames of one call may have
            several rates.
          quality: accuracy retention, the least share of the unsplit network's top-1 or other
            quality, above 0 and at most 1: 0.98 takes the rate of fewest bytes that keeps 98 %. It
            is a mean over images, not a guarantee for one.
          over_budget: what to do with an image that takes more than max_bytes at every rate:
            "error", or "shortest", which sends its shortest frame.

        Returns:
          N frames, in the order of the images; one for one image. A frame is all that is sent for
          an image. Where the task has maps, about five bytes of it are the image's size, unless
          that is the network's.

        Raises:
          ConfigError: none or several are given, or a value is impossible.
          BudgetError: a FamilyError; an image fits at no rate.
          FamilyError: no such rate, none that good, a family that was not measured, or arrays of
            another dtype or with other axes.
          DataError: an image cannot be read.
        """
        check_over_budget(over_budget)
        names = rates_for(self.family, rate, max_bytes, quality, self.backbone.task)
        rates = [self.family.index(name) for name in names]
        inputs = self._inputs(images)
        if max_bytes is None:
            one, count = self._rate_at(rates[0]), len(inputs.images)
            symbols = self._quantize(inputs.images, one, self._head)
            return self._frames(symbols, [one] * count, inputs.sizes)
        find = self._best_of if self._levels is None else self._best_levels
        features = self.features(inputs.images)  # the head runs once
        frames = find(features, inputs.sizes, rates, max_bytes)
        if over_budget == "error":
            check_budget(frames, max_bytes)
        return frames

    __call__ = encode

    def frames(self, symbols: np.ndarray, rate_id: str | float) -> list[bytes]:
        """Codes symbols as one frame for each image.

        Args:
          symbols: int32 [N, h', w', C], see `symbols`; a FamilyError if they are others.
          rate_id: their rate, as in `encode`.

        Returns:
          N frames, in the order of the images.
        """
        rate = self._rate(rate_id)
        check_symbols(symbols, rate.latent_shape, rate.rate_id)
        return self._frames(symbols, [rate] * len(symbols))

    def _frames(
        self,
        symbols: np.ndarray,
        rates: Iterable[RateRuntime],
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> list[bytes]:
        """Codes the symbols of images, each at its rate; sizes are those of maps of the images."""
        original = self.header.original
        known = sizes if sizes is not None and original is not None else [original] * len(symbols)
        count, version = self.header.n_rates, self.header.version
        return [
            bitstream.pack_frame(
                rate.coder.encode(one),
                rate.index,
                count,
                version,
                None if size == original else size,
            )
            for one, rate, size in zip(symbols, rates, known, strict=True)
        ]

    def symbols(self, images: Images, rate_id: str | float) -> np.ndarray:
        """Computes the symbols of images.

        Args:
          images: as in `encode`.
          rate_id: the rate, as in `encode`.

        Returns:
          Rounded latents minus the tables' offsets, int32 [N, h', w', C].

        Raises:
          FamilyError, DataError: as in `encode`, or a latent that is not finite.
        """
        return self._quantize(self._inputs(images).images, self._rate(rate_id), self._head)

    def warm_up(self) -> Self:
        """Compiles all that a first call needs, for every rate, by encoding blank images.

        Without it, the first image of a process waits for the compiler, for a second or two.

        Returns:
          This sender.

        >>> from jaxsplit.family.pretrained import load_pretrained
        >>> sender, _ = load_pretrained("resnet8_small-fashion_mnist/stage1.block1").codec()
        >>> frames = sender.warm_up()(np.zeros((1, 28, 28, 1), np.uint8), rate="r1")
        """
        shape = self.backbone.preprocessing.input_shape
        features = self._head(np.zeros((self.batch_size, *shape), np.uint8))
        for index in range(self.header.n_rates):
            rate = self._rate_at(index)
            if self._levels is None or not index:  # levels share their programs
                self._quantize(features, rate, lambda batch: batch)
        return self

    def features(self, images: Images) -> Features:
        """Runs the head alone: `quantize(features(images), rate_id)` equals `symbols`.

        Args:
          images: as in `encode`, with its errors.

        Returns:
          Features at the cut, float32 arrays [N, …].
        """
        return in_batches(self._head, self._inputs(images).images, self.batch_size)

    def quantize(self, features: Features, rate_id: str | float) -> np.ndarray:
        """Runs the encoder and rounds.

        Args:
          features: float32 arrays [N, …], see `features`.
          rate_id: the rate, as in `encode`.

        Returns:
          Symbols int32 [N, h', w', C], with the errors of `symbols`.
        """
        rate = self._rate(rate_id)
        split = rate.split
        if jax.tree.structure(features) != split.structure:
            raise FamilyError(f"features are {type(features).__name__}; expected {split.structure}")
        for array, tensor in zip(jax.tree.leaves(features), split.tensors, strict=True):
            if array.dtype != np.float32 or array.shape[1:] != tensor.shape:
                raise FamilyError(
                    f"features are {array.dtype} {array.shape[1:]}; at {self.family.cut} they "
                    f"are float32 {tensor.shape}"
                )
        return self._quantize(features, rate, lambda batch: batch)

    def latents(self, images: Images) -> Latents:
        """Computes the latents that all levels of a variable-rate unit share, before their gains.

        Args:
          images: as in `encode`.

        Returns:
          float32 [N, …]; a FamilyError if the family has no levels.
        """
        if self._levels is None:
            raise FamilyError("the rates are units of their own: they share no latents")
        return self._latents(self._inputs(images).images, self._head)

    def level_symbols(self, latents: Latents, level: int) -> np.ndarray:
        """Computes the symbols of a level.

        Args:
          latents: see `latents`.
          level: 0 … levels - 1; a FamilyError if the family has no such level.

        Returns:
          int32 [N, h', w', C], as from `symbols`.
        """
        if self._levels is None or not 0 <= level < len(self._levels):
            raise FamilyError(f"the family has no level {level!r}")
        count = len(jax.tree.leaves(latents)[0])
        return self._at_levels(latents, np.full(count, level))

    quantise = _moved.renamed_method("Sender.quantise", quantize)

    @functools.cached_property
    def _head_program(self) -> HeadProgram:
        return head_program(self.backbone.network, (self.family.cut,), self.backbone.preprocessing)

    @functools.cached_property
    def _variables(self) -> networks.Variables:
        image = (self.batch_size, *self.backbone.preprocessing.input_shape)
        images = jax.ShapeDtypeStruct(image, np.uint8)
        return put_used(self._head_program.trace, self.backbone.variables, images)

    def _best_of(
        self, features: Features, sizes: list[tuple[int, int]], rates: list[int], max_bytes: int
    ) -> list[bytes]:
        """Returns each image's frame at the first rate where it is short enough."""
        shortest: dict[int, bytes] = {}  # frame of each image
        count = len(jax.tree.leaves(features)[0])
        left = list(range(count))
        for index in rates:
            rate = self._rate_at(index)
            some = jax.tree.map(operator.itemgetter(left), features)
            symbols = self._quantize(some, rate, lambda batch: batch)
            frames = self._frames(symbols, [rate] * len(left), [sizes[i] for i in left])
            for image, frame in zip(left, frames, strict=True):
                shortest[image] = min(shortest.get(image, frame), frame, key=len)
            left = [image for image in left if len(shortest[image]) > max_bytes]
            if not left:
                break
        return [shortest[image] for image in range(count)]

    def _best_levels(
        self, features: Features, sizes: list[tuple[int, int]], levels: list[int], max_bytes: int
    ) -> list[bytes]:
        """Returns each image's frame at the highest level where it is short enough, by bisection.

        Where none of those tried is, the shortest of them, the lowest level among equals.
        """
        latents = self._latents(features, lambda batch: batch)
        count = len(jax.tree.leaves(latents)[0])
        fits, exceeds = np.full(count, levels[0] - 1), np.full(count, levels[-1] + 1)
        found: dict[int, bytes] = {}
        while (left := np.flatnonzero(exceeds - fits > 1)).size:
            tried = (fits[left] + exceeds[left]) // 2
            some = jax.tree.map(operator.itemgetter(left), latents)
            symbols = self._at_levels(some, tried)
            own = [sizes[i] for i in left.tolist()]
            frames = self._frames(symbols, map(self._rate_at, tried.tolist()), own)
            for image, level, frame in zip(left.tolist(), tried, frames, strict=True):
                is_short = len(frame) <= max_bytes
                (fits if is_short else exceeds)[image] = level
                none_fits = fits[image] < levels[0]
                if is_short or (none_fits and len(frame) <= len(found.get(image, frame))):
                    found[image] = frame
        return [found[image] for image in range(count)]

    def _programs(self, split: Split) -> tuple[Any, ...]:
        if self._levels is None:
            return (symbols_program(split),)
        return latents_program(split), levels_program(split)

    def _latents(self, inputs: Features, head: Callable[..., Features]) -> Latents:
        """Returns the latents of a variable-rate unit, which all levels share."""
        rate = self._rates[0]
        program, _ = rate.programs
        return in_batches(lambda batch: program(rate.unit, head(batch)), inputs, self.batch_size)

    def _at_levels(self, latents: Latents, levels: np.ndarray) -> np.ndarray:
        """Returns the symbols of images, each at its level [N]."""
        assert self._levels is not None
        rate, gains = self._rates[0], self._levels.gains[ANALYSIS][levels]
        _, program = rate.programs
        symbols: np.ndarray = in_batches(
            lambda batch: program(batch[1], rate.offsets, batch[0]),
            (latents, gains),
            self.batch_size,
        )
        if (symbols == NOT_FINITE).any():
            raise _not_finite("the family")
        return symbols

    def _inputs(self, images: Images) -> Inputs:
        return network_inputs(images, self.backbone.preprocessing, self.backbone.name)

    def _head(self, images: np.ndarray) -> Features:
        features = self._head_program(self._variables, images)[0][self.family.cut]
        # A network may compute in less than float32; a unit does not. Converting takes time.
        return jax.tree.map(
            lambda x: x if x.dtype == np.float32 else x.astype(np.float32), features
        )

    def _quantize(
        self, inputs: Features, rate: RateRuntime, head: Callable[..., Features]
    ) -> np.ndarray:
        if self._levels is None:
            (program,) = rate.programs
            symbols: np.ndarray = in_batches(
                lambda batch: program(rate.unit, rate.offsets, head(batch)), inputs, self.batch_size
            )
        else:
            latents = self._latents(inputs, head)
            count = len(jax.tree.leaves(latents)[0])
            symbols = self._at_levels(latents, np.full(count, rate.index))
        if (symbols == NOT_FINITE).any():
            raise _not_finite(f"rate {rate.rate_id}")
        return symbols


def _not_finite(what: str) -> FamilyError:
    return FamilyError(
        f"{what} gives latents that are infinite or not numbers: its parameters, the backbone's "
        "weights or the features are; train or load them again"
    )
