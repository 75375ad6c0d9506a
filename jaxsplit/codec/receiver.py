"""The receiver: frames to outputs of the network."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Self

import jax
import numpy as np

from jaxsplit import bitstream, networks
from jaxsplit.bitstream.header import MAGIC
from jaxsplit.codec.runtime import RateRuntime, Runtime, check_symbols, put_used
from jaxsplit.codec.unit_programs import outputs_program
from jaxsplit.data.placement import Placement
from jaxsplit.errors import BitstreamError, FamilyError
from jaxsplit.networks.inference import in_batches
from jaxsplit.split import Split
from jaxsplit.tasks import Outputs
from jaxsplit.units import Variables
from jaxsplit.units.variable_rate import RATE

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
        waiting: dict[int, list[tuple[int, int, np.ndarray]]] = {}  # levels run together

        def flush(group: int) -> None:
            nonlocal outputs
            places, indices, symbols = zip(*waiting.pop(group), strict=True)
            found = self._outputs(np.stack(symbols), self._rates[group], np.array(indices))
            if outputs is None:  # traced with the first program: the whole network is not
                outputs = _empty(found, len(frames))
            for all_rows, rows in zip(
                jax.tree.leaves(outputs), jax.tree.leaves(found), strict=True
            ):
                all_rows[list(places)] = rows

        for place, frame in enumerate(frames):
            if count is not None:
                count(place)
            rate, symbols = self._open(frame)
            group = rate.index if self._levels is None else 0
            waiting.setdefault(group, []).append((place, rate.index, symbols))
            if len(waiting[group]) == self.batch_size:
                flush(group)
        for group in list(waiting):
            flush(group)
        if outputs is None:
            shapes = self.backbone.output_shapes
            return jax.tree.map(lambda x: np.empty((0, *x.shape), x.dtype), shapes)
        return outputs

    __call__ = decode

    def placements(self, frames: Frames) -> list[Placement]:
        """Returns where images lie in the network's input, for maps of their own sizes.

        Args:
          frames: as in `decode`.

        Returns:
          For each frame the geometry of its image, for `Task.show`; where the frame has no size,
          that of an image of the network's input.
        """
        found = []
        for frame in map(self._unpacked, _listed(frames)):
            preprocessing = self.backbone.preprocessing
            size = frame.size or self.header.original or preprocessing.size
            whole = size == preprocessing.size
            found.append(Placement.whole(size) if whole else preprocessing.placement(size))
        return found

    def symbols(self, frames: Frames, rate_id: str | float) -> np.ndarray:
        """Decodes frames of one rate to the symbols that were sent.

        Args:
          frames: as in `decode`; one of another rate is a BitstreamError too.
          rate_id: their rate, as in `Sender.encode`.

        Returns:
          Symbols int32 [N, h', w', C], in the order of the frames.
        """
        rate = self._rate(rate_id)
        opened = [self._open(frame) for frame in _listed(frames)]
        if other := {one.rate_id for one, _ in opened} - {rate.rate_id}:
            raise BitstreamError(
                f"expected frames of rate {rate.rate_id}; got {', '.join(sorted(other))}"
            )
        return np.array([x for _, x in opened], np.int32).reshape(-1, *rate.latent_shape)

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
        for index in range(self.header.n_rates):
            rate = self._rate_at(index)
            if self._levels is None or not index:  # levels share their program
                symbols = np.zeros((self.batch_size, *rate.latent_shape), np.int32)
                self.predict(symbols, rate.rate_id)
        return self

    @functools.cached_property
    def _variables(self) -> networks.Variables:
        rate = self._rates[0]
        shape = (self.batch_size, *rate.latent_shape)
        unit = self._unit(rate, np.zeros(self.batch_size, int))
        rest = unit, rate.offsets, jax.ShapeDtypeStruct(shape, np.int32)
        return put_used(rate.programs[0].trace, self.backbone.variables, *rest)

    def _unit(self, rate: RateRuntime, indices: np.ndarray) -> Variables:
        """Returns the unit of a batch: with the gains of each image's level, if it has levels."""
        if self._levels is None:
            return rate.unit
        gains = {name: rows[indices] for name, rows in self._levels.gains.items()}
        return {**rate.unit, RATE: gains}

    def _programs(self, split: Split) -> tuple[jax.stages.Wrapped, ...]:
        return (outputs_program(split),)

    def _outputs(self, symbols: np.ndarray, rate: RateRuntime, indices: np.ndarray) -> Outputs:
        """Runs decoder and tail on symbols of one rate, or of the levels `indices` [N]."""
        (program,) = rate.programs

        def run(batch: tuple[np.ndarray, np.ndarray]) -> Outputs:
            unit = self._unit(rate, batch[1])
            return program(self._variables, unit, rate.offsets, batch[0])

        outputs: Outputs = in_batches(run, (symbols, indices), self.batch_size)
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(outputs)):
            which = f"rate {rate.rate_id}" if self._levels is None else "the family"
            raise FamilyError(
                f"{which} gives outputs that are infinite or not numbers: its "
                "parameters or the backbone's weights are, or the symbols are far too large; train "
                "or load them again"
            )
        return outputs

    def _open(self, frame: bytes | bitstream.Frame) -> tuple[RateRuntime, np.ndarray]:
        """Returns the rate and the symbols of one frame."""
        frame, count = self._unpacked(frame), self.header.n_rates
        if not 0 <= frame.rate_index < count:
            raise BitstreamError(f"a frame of rate {frame.rate_index}, expected 0 … {count - 1}")
        rate = self._rate_at(frame.rate_index)
        return rate, rate.coder.decode(frame.payload, rate.latent_shape[:2])

    def _unpacked(self, frame: bytes | bitstream.Frame) -> bitstream.Frame:
        count, version = self.header.n_rates, self.header.version
        if not isinstance(frame, bitstream.Frame):
            if not isinstance(frame, _BYTES):
                raise BitstreamError(f"a frame is a {type(frame).__name__}; expected bytes")
            if bytes(frame[:4]) == MAGIC:
                raise BitstreamError(
                    "this is a whole .jspl file: give its frames, as in "
                    "receiver(jaxsplit.bitstream.Reader(open(path, 'rb')))"
                )
            size = len(frame)
            sized = self.header.original is not None
            frame, end = bitstream.unpack_frame(bytes(frame), count, version=version, sized=sized)
            if end != size:
                raise BitstreamError(
                    f"a frame of {end} bytes is followed by {size - end} more: it is damaged, or "
                    "another family's"
                )
        return frame

    def predict(self, symbols: np.ndarray, rate_id: str | float) -> Outputs:
        """Runs decoder and tail on symbols, without any bytes.

        Args:
          symbols: int32 [N, h', w', C], see `symbols`.
          rate_id: their rate, as in `Sender.encode`; a FamilyError if it is unknown.

        Returns:
          Outputs, float32 [N, …], such as logits [N, K]; a FamilyError if one is infinite or not a
          number.
        """
        rate = self._rate(rate_id)
        check_symbols(symbols, rate.latent_shape, rate.rate_id)
        return self._outputs(symbols, rate, np.full(len(symbols), rate.index))


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
