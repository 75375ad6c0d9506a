"""The sender: images to frames."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Self

import jax
import numpy as np

from jaxsplit import _moved, bitstream, networks
from jaxsplit.codec.images import Images, network_inputs
from jaxsplit.codec.rate_control import rates_for
from jaxsplit.codec.runtime import Runtime, check_symbols, put_used
from jaxsplit.errors import FamilyError
from jaxsplit.networks import Features
from jaxsplit.networks.inference import HeadProgram, head_program, in_batches
from jaxsplit.split import Split
from jaxsplit.units import Variables
from jaxsplit.units.quantization import NOT_FINITE, Offsets


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
        rate: str | None = None,
        *,
        max_bytes: int | None = None,
        quality: float | None = None,
    ) -> list[bytes]:
        """Encodes images at a rate that is named, or chosen by bytes or accuracy: give one of them.

        max_bytes and quality use the measured figures of the family. One that you trained has none
        at first: `evaluation.card.with_measured` adds them, as in its example.

        Args:
          images: one or several: uint8 [N, H, W, c], [H, W, c] or, for grey ones, [H, W]; images of
            Pillow; paths of files; examples of a `data.Source`; or an iterable of those, of any
            sizes. The backbone's preprocessing is applied as by `jaxsplit encode`, but not to
            arrays that already have its input shape.
          rate: name of a rate.
          max_bytes: most bytes of a frame. Each image gets the rate of best measured accuracy whose
            frame is at most that long, so that frames of one call may have several rates.
          quality: accuracy retention, the least share of the unsplit network's top-1 or other
            quality, above 0 and at most 1: 0.98 takes the rate of fewest bytes that keeps 98 %. It
            is a mean over images, not a guarantee for one.

        Returns:
          N frames, in the order of the images; one for one image. A frame is all that is sent for
          an image.

        Raises:
          ConfigError: none or several are given, or a value is impossible.
          FamilyError: no such rate, none that good, an image that fits at no rate, a family
            that was not measured, or arrays of another dtype or with other axes.
          DataError: an image cannot be read.
        """
        rates = rates_for(self.family, rate, max_bytes, quality, self.backbone.task)
        images = self._inputs(images)
        if max_bytes is None:
            return self.frames(self.symbols(images, rates[0]), rates[0])
        return self._encode_within(images, rates, max_bytes)

    __call__ = encode

    def frames(self, symbols: np.ndarray, rate_id: str) -> list[bytes]:
        """Codes symbols as one frame for each image.

        Args:
          symbols: int32 [N, h', w', C], see `symbols`; a FamilyError if they are others.
          rate_id: name of their rate.

        Returns:
          N frames, in the order of the images.
        """
        rate = self._rate(rate_id)
        check_symbols(symbols, rate.latent_shape, rate_id)
        count = len(self._rates)
        return [bitstream.pack_frame(rate.coder.encode(one), rate.index, count) for one in symbols]

    def symbols(self, images: Images, rate_id: str) -> np.ndarray:
        """Computes the symbols of images.

        Args:
          images: as in `encode`.
          rate_id: name of the rate.

        Returns:
          Rounded latents minus the tables' offsets, int32 [N, h', w', C].

        Raises:
          FamilyError, DataError: as in `encode`, or a latent that is not finite.
        """
        return self._quantize(self._inputs(images), rate_id, self._head)

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
        for name, rate in self._rates.items():
            self._programs[name](rate.unit, rate.offsets, features).block_until_ready()
        return self

    def features(self, images: Images) -> Features:
        """Runs the head alone: `quantize(features(images), rate_id)` equals `symbols`.

        Args:
          images: as in `encode`, with its errors.

        Returns:
          Features at the cut, float32 arrays [N, …].
        """
        return in_batches(self._head, self._inputs(images), self.batch_size)

    def quantize(self, features: Features, rate_id: str) -> np.ndarray:
        """Runs the encoder and rounds.

        Args:
          features: float32 arrays [N, …], see `features`.
          rate_id: name of the rate.

        Returns:
          Symbols int32 [N, h', w', C], with the errors of `symbols`.
        """
        split = self._rate(rate_id).split
        if jax.tree.structure(features) != split.structure:
            raise FamilyError(f"features are {type(features).__name__}; expected {split.structure}")
        for array, tensor in zip(jax.tree.leaves(features), split.tensors, strict=True):
            if array.dtype != np.float32 or array.shape[1:] != tensor.shape:
                raise FamilyError(
                    f"features are {array.dtype} {array.shape[1:]}; at {self.family.cut} they "
                    f"are float32 {tensor.shape}"
                )
        return self._quantize(features, rate_id, lambda batch: batch)

    quantise = _moved.renamed_method("Sender.quantise", quantize)

    @functools.cached_property
    def _head_program(self) -> HeadProgram:
        return head_program(self.backbone.network, (self.family.cut,), self.backbone.preprocessing)

    @functools.cached_property
    def _variables(self) -> networks.Variables:
        image = (self.batch_size, *self.backbone.preprocessing.input_shape)
        images = jax.ShapeDtypeStruct(image, np.uint8)
        return put_used(self._head_program.trace, self.backbone.variables, images)

    @functools.cached_property
    def _programs(self) -> dict[str, Callable[[Variables, Offsets, Features], jax.Array]]:
        return {name: _symbols_program(rate.split) for name, rate in self._rates.items()}

    def _encode_within(self, images: np.ndarray, rates: list[str], max_bytes: int) -> list[bytes]:
        """Returns each image's frame at the first rate where it is short enough."""
        features = self.features(images)  # the head runs once
        shortest: dict[int, bytes] = {}  # frame of each image
        left = list(range(len(images)))
        for rate_id in rates:
            some = jax.tree.map(operator.itemgetter(left), features)
            frames = self.frames(self.quantize(some, rate_id), rate_id)
            for index, frame in zip(left, frames, strict=True):
                shortest[index] = min(shortest.get(index, frame), frame, key=len)
            left = [index for index in left if len(shortest[index]) > max_bytes]
            if not left:
                return [shortest[index] for index in range(len(images))]
        which = "the image" if len(images) == 1 else f"image {left[0]}"
        more = f"{which} takes at least {len(shortest[left[0]])} bytes, more than"
        raise FamilyError(
            f"{more} max_bytes = {max_bytes}: raise it",
            shell=f"{more} --max-bytes {max_bytes}: raise it",
        )

    def _inputs(self, images: Images) -> np.ndarray:
        return network_inputs(images, self.backbone.preprocessing, self.backbone.name)

    def _head(self, images: np.ndarray) -> Features:
        features = self._head_program(self._variables, images)[0][self.family.cut]
        # A network may compute in less than float32; a unit does not. Converting takes time.
        return jax.tree.map(
            lambda x: x if x.dtype == np.float32 else x.astype(np.float32), features
        )

    def _quantize(
        self, inputs: Features, rate_id: str, head: Callable[..., Features]
    ) -> np.ndarray:
        rate = self._rate(rate_id)
        program = self._programs[rate_id]
        symbols: np.ndarray = in_batches(
            lambda batch: program(rate.unit, rate.offsets, head(batch)), inputs, self.batch_size
        )
        if (symbols == NOT_FINITE).any():
            raise FamilyError(
                f"rate {rate_id} gives latents that are infinite or not numbers: its parameters, "
                "the backbone's weights or the features are; train or load them again"
            )
        return symbols


@functools.lru_cache
def _symbols_program(split: Split) -> Callable[[Variables, Offsets, Features], jax.Array]:
    """Compiles (unit, offsets, features [B, …]) → symbols [B, *latent_shape]."""

    @jax.jit
    def run(unit: Variables, offsets: Offsets, features: Features) -> jax.Array:
        with jax.default_matmul_precision("highest"):
            latents = split.encode(unit, features)
        return split.quantize(latents, offsets)

    return run
