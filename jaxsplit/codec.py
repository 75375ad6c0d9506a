"""The two ends of a split network: images to bytes on the device, bytes to predictions behind it.

Both ends run the unit in float32 at the highest matrix precision. What crosses is integers under
integer tables, so any machine decodes a frame to the very symbols that were sent.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsplit import coding, models
from jaxsplit.bottleneck import fold_batch_norm
from jaxsplit.errors import BitstreamError, FamilyError
from jaxsplit.family import RateFamily
from jaxsplit.models.inference import in_batches
from jaxsplit.split import Split, make_split

_SYMBOL_LIMIT = 2.0**31 - 128  # the largest float32 that int32 holds
_NOT_FINITE = -(2**31)  # beyond the limit, so that no number becomes it


@dataclasses.dataclass(frozen=True, eq=False)
class _RateEnd:
    """One rate, ready to run: a folded unit on the device, its offsets, its coder."""

    index: int
    split: Split
    unit: Any
    offsets: jax.Array
    coder: coding.EntropyCoder


class _End:
    """What sender and receiver share: a family bound to a backbone, with one frame header."""

    def __init__(self, family: RateFamily, backbone: models.Backbone, batch_size: int = 1) -> None:
        self.family = family.bind(backbone)
        self.backbone = backbone
        self.batch_size = batch_size
        self._variables = jax.device_put(backbone.variables)
        self._rates: dict[str, _RateEnd] = {}
        for index, rate in enumerate(self.family.rates):
            spec, unit = fold_batch_norm(rate.spec, rate.variables)
            self._rates[rate.rate_id] = _RateEnd(
                index,
                make_split(backbone, family.cut, spec),
                jax.device_put(unit),
                jnp.asarray(rate.tables.offsets),
                rate.coder,
            )

    @property
    def header(self) -> coding.Header:
        """What a container of this family starts with."""
        rates = tuple(
            coding.RateInfo(
                rate.rate_id, rate.tables.fingerprint, self._rates[rate.rate_id].split.latent_shape
            )
            for rate in self.family.rates
        )
        return coding.Header(
            self.family.fingerprint, rates, self.backbone.preprocessing.input_shape
        )

    def _rate(self, rate_id: str) -> _RateEnd:
        self.family[rate_id]  # an unknown rate is a FamilyError
        return self._rates[rate_id]


class Sender(_End):
    """The device: image → head → encoder → symbols → frame.

    All rates share the head's compiled program, and rates whose units have one form the unit's:
    another rate is another argument.

    The same image gives the same bytes in any process on a machine, on any number of devices, at
    any place of a batch and beside any neighbours, since batches are padded to one size. Another
    batch_size is another program, whose sums XLA may order differently and so round a few symbols
    to a neighbour: of 1.35 million symbols none on a CPU (ResNet-8 in batches of 1 to 250, the S1
    units on ResNet-50 in batches of 1 to 32). A frame decodes to what was rounded all the same.
    Where bytes must not depend on how many images are encoded, keep to one batch_size.

    Args:
      family: the rates.
      backbone: what the family was trained on.
      batch_size: images that run at once; the last ones of a call are padded up to it.

    Raises:
      FamilyError: the family belongs to another backbone.
    """

    def encode(self, images: np.ndarray, rate_id: str) -> list[bytes]:
        """Preprocessed images uint8 [N, h, w, c] → one frame for each."""
        return self.frames(self.symbols(images, rate_id), rate_id)

    def frames(self, symbols: np.ndarray, rate_id: str) -> list[bytes]:
        """Symbols int32 [N, h', w', C] → one frame for each image: what really crosses.

        Raises:
          FamilyError: symbols of another type or shape; none is encoded then.
        """
        rate = self._rate(rate_id)
        expected = rate.split.latent_shape
        if symbols.dtype != np.int32 or symbols.shape[1:] != expected:
            raise FamilyError(
                f"symbols are {symbols.dtype} {symbols.shape[1:]}; at rate {rate_id} they are "
                f"int32 {expected}"
            )
        count = len(self.family.rates)
        return [coding.pack_frame(rate.coder.encode(one), rate.index, count) for one in symbols]

    def symbols(self, images: np.ndarray, rate_id: str) -> np.ndarray:
        """Preprocessed images uint8 [N, h, w, c] → int32 [N, h', w', C], what is coded.

        Raises:
          FamilyError: the images have another shape, or a latent is not a finite number.
        """
        self._check(images)
        quantise = self._quantiser(rate_id)
        return _finite(
            in_batches(lambda batch: quantise(self._head(batch)), images, self.batch_size), rate_id
        )

    def features(self, images: np.ndarray) -> np.ndarray:
        """Preprocessed images uint8 [N, h, w, c] → float32 [N, H, W, Cin], the head alone.

        All rates of a family start from these: `quantise(features(images), rate_id)` is
        `symbols(images, rate_id)`.

        Raises:
          FamilyError: the images have another shape.
        """
        self._check(images)
        return in_batches(self._head, images, self.batch_size)

    def quantise(self, features: np.ndarray, rate_id: str) -> np.ndarray:
        """Features float32 [N, H, W, Cin] → int32 [N, h', w', C], what is coded.

        Raises:
          FamilyError: features of another type or shape, or a latent is not a finite number.
        """
        expected = self._rate(rate_id).split.shape
        if features.dtype != np.float32 or features.shape[1:] != expected:
            raise FamilyError(
                f"features are {features.dtype} {features.shape[1:]}; at {self.family.cut} they "
                f"are float32 {expected}"
            )
        return _finite(in_batches(self._quantiser(rate_id), features, self.batch_size), rate_id)

    def _check(self, images: np.ndarray) -> None:
        expected = self.backbone.preprocessing.input_shape
        if images.shape[1:] != expected or images.dtype != np.uint8:
            raise FamilyError(
                f"images are {images.dtype} {images.shape[1:]}; {self.backbone.name} takes "
                f"uint8 {expected}: apply the backbone's preprocessing first"
            )

    def _head(self, images: np.ndarray) -> jax.Array:
        backbone = self.backbone
        run = _head_program(backbone.module, self.family.cut, backbone.preprocessing)
        return run(self._variables, images)

    def _quantiser(self, rate_id: str) -> Callable[[Any], jax.Array]:
        rate = self._rate(rate_id)
        return functools.partial(_symbols_program(rate.split), rate.unit, rate.offsets)


class Receiver(_End):
    """The server: frame → symbols → decoder → tail → logits.

    Args and errors: as of `Sender`.
    """

    def check(self, header: coding.Header) -> None:
        """Refuses what was encoded for another receiver; for a stream, before its first frame.

        Raises:
          OtherFamilyError: the header is of another family.
          OtherTablesError: it claims this family, but other rates, tables or shapes.
        """
        self.header.check(header)

    def decode(self, frames: Sequence[bytes | coding.Frame]) -> np.ndarray:
        """Frames of any rates, as bytes or as a `coding.Reader` gives them → logits [N, K].

        Beside the logits it holds the symbols of `batch_size` images for every rate, however many
        frames there are.

        Raises:
          BitstreamError: a frame is damaged or of another family.
        """
        logits = np.empty((len(frames), len(self.backbone.class_names)), np.float32)
        waiting: dict[str, list[tuple[int, np.ndarray]]] = {}

        def flush(rate_id: str) -> None:
            places, symbols = zip(*waiting.pop(rate_id), strict=True)
            logits[list(places)] = self.predict(np.stack(symbols), rate_id)

        for place, frame in enumerate(frames):
            rate_id, symbols = self._open(frame)
            waiting.setdefault(rate_id, []).append((place, symbols))
            if len(waiting[rate_id]) == self.batch_size:
                flush(rate_id)
        for rate_id in list(waiting):
            flush(rate_id)
        return logits

    def symbols(self, frames: Sequence[bytes | coding.Frame], rate_id: str) -> np.ndarray:
        """Frames of one rate → int32 [N, h', w', C], the very symbols that were sent.

        Raises:
          BitstreamError: a frame is damaged, of another rate or of another family.
        """
        opened = [self._open(frame) for frame in frames]
        if other := {name for name, _ in opened} - {rate_id}:
            raise BitstreamError(f"expected frames of rate {rate_id}; got {', '.join(other)}")
        shape = self._rate(rate_id).split.latent_shape
        return np.array([one for _, one in opened], np.int32).reshape(-1, *shape)

    def _open(self, frame: bytes | coding.Frame) -> tuple[str, np.ndarray]:
        """Name of the rate and symbols of one frame."""
        count = len(self.family.rates)
        if not isinstance(frame, coding.Frame):
            size = len(frame)
            frame, end = coding.unpack_frame(frame, count)
            if end != size:
                raise BitstreamError(f"a frame of {end} bytes is followed by {size - end} more")
        if not 0 <= frame.rate_index < count:
            raise BitstreamError(f"a frame of rate {frame.rate_index}, expected 0 … {count - 1}")
        rate_id = self.family.rates[frame.rate_index].rate_id
        rate = self._rate(rate_id)
        return rate_id, rate.coder.decode(frame.payload, rate.split.latent_shape[:2])

    def predict(self, symbols: np.ndarray, rate_id: str) -> np.ndarray:
        """Symbols int32 [N, h', w', C] → logits float32 [N, K]."""
        rate = self._rate(rate_id)
        run = _logits_program(rate.split)
        return in_batches(
            lambda batch: run(self._variables, rate.unit, rate.offsets, batch),
            symbols,
            self.batch_size,
        )


def _finite(symbols: np.ndarray, rate_id: str) -> np.ndarray:
    if (symbols == _NOT_FINITE).any():
        raise FamilyError(
            f"rate {rate_id} gives latents that are infinite or not numbers: its parameters, the "
            "backbone's weights or the features are; train or load them again"
        )
    return symbols


# Apart from the unit, so that units of any form share the large program.
@functools.lru_cache
def _head_program(module: Any, cut: str, preprocessing: Any) -> Any:
    @jax.jit
    def run(variables: Any, images: jax.Array) -> jax.Array:
        with jax.default_matmul_precision("highest"):
            return module.apply(variables, preprocessing.normalise(images), stop=cut)

    return run


@functools.lru_cache
def _symbols_program(split: Split) -> Any:
    @jax.jit
    def run(unit: Any, offsets: jax.Array, features: jax.Array) -> jax.Array:
        with jax.default_matmul_precision("highest"):
            latent = split.encode(unit, features)
        symbols = jnp.round(latent - offsets.reshape(1, 1, 1, -1))
        bounded = jnp.clip(symbols, -_SYMBOL_LIMIT, _SYMBOL_LIMIT).astype(jnp.int32)
        return jnp.where(jnp.isfinite(symbols), bounded, _NOT_FINITE)

    return run


@functools.lru_cache
def _logits_program(split: Split) -> Any:
    @jax.jit
    def run(variables: Any, unit: Any, offsets: jax.Array, symbols: jax.Array) -> jax.Array:
        latent = symbols.astype(jnp.float32) + offsets.reshape(1, 1, 1, -1)
        with jax.default_matmul_precision("highest"):
            return split.tail(variables, split.decode(unit, latent))

    return run
