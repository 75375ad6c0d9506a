"""The server: frames to logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from jaxsplit import coding
from jaxsplit.codec.end import End
from jaxsplit.codec.programs import logits_program
from jaxsplit.errors import BitstreamError
from jaxsplit.models.inference import in_batches


class Receiver(End):
    """The server: frame → symbols → decoder → tail → logits.

    Args and errors: as of `Sender`.

    >>> from jaxsplit.pretrained import load_pretrained
    >>> sender, receiver = load_pretrained("resnet8_small-fashion_mnist/stage1.block1").codec()
    >>> frames = sender(np.zeros((2, 28, 28, 1), np.uint8), rate="r1")
    >>> receiver(frames).shape
    (2, 10)
    """

    def check(self, header: coding.Header) -> None:
        """Refuses what was encoded for another receiver; for a stream, before its first frame.

        Raises:
          OtherFamilyError: the header is of another family.
          OtherTablesError: it claims this family, but other rates, tables or shapes.
        """
        self.header.check(header)

    def __call__(self, frames: Sequence[bytes | coding.Frame]) -> np.ndarray:
        """Frames of any rates → logits float32 [N, K]: `decode`, whose errors these are."""
        return self.decode(frames)

    def decode(
        self,
        frames: Sequence[bytes | coding.Frame],
        count: Callable[[int], None] | None = None,
    ) -> np.ndarray:
        """Frames of any rates, as bytes or as a `coding.Reader` gives them → logits [N, K].

        Beside the logits it holds the symbols of `batch_size` images for every rate, however many
        frames there are.

        Args:
          frames: of any rates.
          count: told how many of them are read.

        Raises:
          BitstreamError: a frame is damaged or of another family.
        """
        logits = np.empty((len(frames), len(self.backbone.class_names)), np.float32)
        waiting: dict[str, list[tuple[int, np.ndarray]]] = {}

        def flush(rate_id: str) -> None:
            places, symbols = zip(*waiting.pop(rate_id), strict=True)
            logits[list(places)] = self.predict(np.stack(symbols), rate_id)

        for place, frame in enumerate(frames):
            if count is not None:
                count(place)
            rate_id, symbols = self._open(frame)
            waiting.setdefault(rate_id, []).append((place, symbols))
            if len(waiting[rate_id]) == self.batch_size:
                flush(rate_id)
        for rate_id in list(waiting):
            flush(rate_id)
        return logits

    def symbols(self, frames: Sequence[bytes | coding.Frame], rate_id: str) -> np.ndarray:
        """Frames of one rate → int32 [N, h', w', C], the very symbols that were sent.

        Args:
          frames: as of `decode`.
          rate_id: name of the rate that all of them are of.

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
        """Symbols int32 [N, h', w', C], sent at the rate `rate_id` → logits float32 [N, K]."""
        rate = self._rate(rate_id)
        run = logits_program(rate.split)
        return in_batches(
            lambda batch: run(self._variables, rate.unit, rate.offsets, batch),
            symbols,
            self.batch_size,
        )
