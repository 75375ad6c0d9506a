"""The receiver: frames to outputs of the network."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Self

import jax
import numpy as np

from jaxsplit import bitstream, networks
from jaxsplit.bitstream.header import MAGIC
from jaxsplit.codec.runtime import Runtime, check_symbols, put_used
from jaxsplit.errors import BitstreamError, FamilyError
from jaxsplit.networks.inference import in_batches
from jaxsplit.split import Split
from jaxsplit.tasks import Outputs
from jaxsplit.units import Variables
from jaxsplit.units.quantization import Offsets

_BYTES = (bytes, bytearray, memoryview)
#: One frame, as bytes or from a `bitstream.Reader`, or any iterable of frames.
Frames = bytes | bytearray | memoryview | bitstream.Frame | Iterable[bytes | bitstream.Frame]


class Receiver(Runtime):
    """Decodes frames on the server: frame → symbols → decoder → tail → outputs.

    For the arguments and their errors see `Runtime`.

    >>> from jaxsplit.family.pretrained import load_pretrained
    >>> sender, receiver = load_pretrained("resnet8_small-fashion_mnist/stage1.block1").codec()
    >>> frames = sender(np.zeros((2, 28, 28, 1), np.uint8), rate="r1")
    >>> receiver(frames).shape
    (2, 10)
    """

    def check(self, header: bitstream.Header) -> None:
        """Checks that a file or stream was encoded for this receiver, before its first frame.

        Args:
          header: of the file or stream; for errors see `bitstream.Header.check`.
        """
        self.header.check(header)

    def decode(
        self,
        frames: Frames,
        count: Callable[[int], None] | None = None,
    ) -> Outputs:
        """Decodes frames of any rates to the network's outputs.

        Apart from the outputs, memory holds the symbols of at most `batch_size` images per rate.

        Args:
          frames: any iterable of N of them, as bytes or from a `bitstream.Reader`, or one; a
            BitstreamError if one is damaged or of another family.
          count: callback, called with the number of frames read so far.

        Returns:
          Outputs in the order of the frames, float32 [N, …], such as logits [N, K]; a FamilyError
          if one is infinite or not a number.
        """
        frames = _listed(frames)
        outputs: Outputs | None = None
        waiting: dict[str, list[tuple[int, np.ndarray]]] = {}

        def flush(rate_id: str) -> None:
            nonlocal outputs
            indices, symbols = zip(*waiting.pop(rate_id), strict=True)
            found = self.predict(np.stack(symbols), rate_id)
            if outputs is None:  # traced with the first program: the whole network is not
                outputs = _empty(found, len(frames))
            for all_rows, rows in zip(
                jax.tree.leaves(outputs), jax.tree.leaves(found), strict=True
            ):
                all_rows[list(indices)] = rows

        for index, frame in enumerate(frames):
            if count is not None:
                count(index)
            rate_id, symbols = self._open(frame)
            waiting.setdefault(rate_id, []).append((index, symbols))
            if len(waiting[rate_id]) == self.batch_size:
                flush(rate_id)
        for rate_id in list(waiting):
            flush(rate_id)
        if outputs is None:
            shapes = self.backbone.output_shapes
            return jax.tree.map(lambda x: np.empty((0, *x.shape), x.dtype), shapes)
        return outputs

    __call__ = decode

    def symbols(self, frames: Frames, rate_id: str) -> np.ndarray:
        """Decodes frames of one rate to the symbols that were sent.

        Args:
          frames: as in `decode`; one of another rate is a BitstreamError too.
          rate_id: name of their rate.

        Returns:
          Symbols int32 [N, h', w', C], in the order of the frames.
        """
        opened = [self._open(frame) for frame in _listed(frames)]
        if other := {name for name, _ in opened} - {rate_id}:
            raise BitstreamError(f"expected frames of rate {rate_id}; got {', '.join(other)}")
        shape = self._rate(rate_id).latent_shape
        return np.array([one for _, one in opened], np.int32).reshape(-1, *shape)

    def warm_up(self) -> Self:
        """Compiles all that a first call needs, for every rate, by decoding blank symbols.

        Without it, the first frame of a process waits for the compiler, for a second or two.

        Returns:
          This receiver.

        >>> from jaxsplit.family.pretrained import load_pretrained
        >>> sender, receiver = load_pretrained("resnet8_small-fashion_mnist/stage1.block1").codec()
        >>> frames = sender(np.zeros((1, 28, 28, 1), np.uint8), rate="r1")
        >>> receiver.warm_up()(frames).shape
        (1, 10)
        """
        for name, rate in self._rates.items():
            symbols = np.zeros((self.batch_size, *rate.latent_shape), np.int32)
            jax.block_until_ready(self._run(symbols, name))
        return self

    @functools.cached_property
    def _variables(self) -> networks.Variables:
        rate_id, rate = next(iter(self._rates.items()))
        shape = (self.batch_size, *rate.latent_shape)
        rest = rate.unit, rate.offsets, jax.ShapeDtypeStruct(shape, np.int32)
        return put_used(self._programs[rate_id].trace, self.backbone.variables, *rest)

    def _run(self, symbols: np.ndarray, rate_id: str) -> Outputs:
        """Runs decoder and tail on one batch."""
        rate = self._rates[rate_id]
        return self._programs[rate_id](self._variables, rate.unit, rate.offsets, symbols)

    @functools.cached_property
    def _programs(self) -> dict[str, jax.stages.Wrapped]:
        return {name: _outputs_program(rate.split) for name, rate in self._rates.items()}

    def _open(self, frame: bytes | bitstream.Frame) -> tuple[str, np.ndarray]:
        """Returns the rate's name and the symbols of one frame."""
        count = len(self._rates)
        if not isinstance(frame, bitstream.Frame):
            if not isinstance(frame, _BYTES):
                raise BitstreamError(f"a frame is a {type(frame).__name__}; expected bytes")
            if bytes(frame[:4]) == MAGIC:
                raise BitstreamError(
                    "this is a whole .jspl file: give its frames, as in "
                    "receiver(jaxsplit.bitstream.Reader(open(path, 'rb')))"
                )
            size = len(frame)
            frame, end = bitstream.unpack_frame(bytes(frame), count)
            if end != size:
                raise BitstreamError(
                    f"a frame of {end} bytes is followed by {size - end} more: it is damaged, or "
                    "another family's"
                )
        if not 0 <= frame.rate_index < count:
            raise BitstreamError(f"a frame of rate {frame.rate_index}, expected 0 … {count - 1}")
        rate_id = self.family.rates[frame.rate_index].rate_id
        rate = self._rates[rate_id]
        return rate_id, rate.coder.decode(frame.payload, rate.latent_shape[:2])

    def predict(self, symbols: np.ndarray, rate_id: str) -> Outputs:
        """Runs decoder and tail on symbols, without any bytes.

        Args:
          symbols: int32 [N, h', w', C], see `symbols`.
          rate_id: name of their rate; a FamilyError if it is unknown.

        Returns:
          Outputs, float32 [N, …], such as logits [N, K]; a FamilyError if one is infinite or not a
          number.
        """
        check_symbols(symbols, self._rate(rate_id).latent_shape, rate_id)
        run = functools.partial(self._run, rate_id=rate_id)
        outputs: Outputs = in_batches(run, symbols, self.batch_size)
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(outputs)):
            raise FamilyError(
                f"rate {rate_id} gives outputs that are infinite or not numbers: its parameters or "
                "the backbone's weights are, or the symbols are far too large; train or load them "
                "again"
            )
        return outputs


def _empty(outputs: Outputs, count: int) -> Outputs:
    """Makes outputs for `count` images, of the shapes of an image among these."""
    return jax.tree.map(lambda x: np.empty((count, *x.shape[1:]), x.dtype), outputs)


def _listed(frames: Frames) -> Sequence[bytes | bitstream.Frame]:
    """Returns frames, or one frame, as a sequence."""
    if isinstance(frames, bitstream.Frame):
        return [frames]
    if isinstance(frames, _BYTES):
        return [bytes(frames)]
    if not isinstance(frames, Iterable):
        raise BitstreamError(f"frames are a {type(frames).__name__}; expected a list of bytes")
    return frames if isinstance(frames, list | tuple) else list(frames)


@functools.lru_cache
def _outputs_program(split: Split) -> jax.stages.Wrapped:
    """Compiles (network's variables, unit, offsets, symbols [B, …]) → outputs [B, …]."""

    @jax.jit
    def run(
        variables: networks.Variables, unit: Variables, offsets: Offsets, symbols: jax.Array
    ) -> Outputs:
        latents = split.dequantize(symbols, offsets)
        with jax.default_matmul_precision("highest"):
            return split.tail(variables, split.decode(unit, latents))

    return run
