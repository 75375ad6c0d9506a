"""The encoder of a client: the library's sender, or that of an exported bundle. Imports no jax."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from jaxsplit.bitstream.header import FRAME_CHECKS, pack_header

if TYPE_CHECKING:
    from jaxsplit.codec import Sender
    from jaxsplit.deploy.runtime.device import DeviceSender


class Encoder(Protocol):
    """The interface of the device half for a `Client`.

    >>> class Bundle:  # what an exported bundle must have
    ...     def header(self, frame_checks):
    ...         return b""
    ...
    ...     def encode(self, image, *, rate=None, max_bytes=None):
    ...         return b"frame"
    >>> encoder: Encoder = Bundle()
    """

    def header(self, frame_checks: bool) -> bytes:
        """Returns the header of a container of these frames.

        Args:
          frame_checks: whether its flag for frame checks is set.

        Returns:
          The bytes before the first frame, see `bitstream.pack_header`.
        """

    # `Any`: an image is an array, a file or an image of Pillow, as the encoder takes it.
    def encode(
        self, image: Any, *, rate: str | float | None = None, max_bytes: int | None = None
    ) -> bytes:
        """Encodes one image.

        Args:
          image: as the encoder takes it.
          rate: name of a rate, or position of a level; None: chosen by `max_bytes`.
          max_bytes: the best frame of at most so many bytes, or the shortest if none is.

        Returns:
          The frame. A JaxsplitError says what is wrong with the image or the request.
        """


class SenderEncoder(Encoder):
    """The library's sender, or that of an exported bundle, as an `Encoder`.

    Args:
      sender: the library's with batch size 1, for one image at a time.

    >>> import numpy as np
    >>> from jaxsplit.family.pretrained import load_pretrained
    >>> sender, _ = load_pretrained("resnet8_small-fashion_mnist/stage1.block1").codec()
    >>> encoder = SenderEncoder(sender)
    >>> encoder.header(frame_checks=True)[:6]
    b'JSPL\\x03\\x01'
    >>> len(encoder.encode(np.zeros((28, 28, 1), np.uint8), max_bytes=1)) > 1  # the shortest
    True
    """

    def __init__(self, sender: Sender | DeviceSender) -> None:
        self._sender = sender

    def header(self, frame_checks: bool) -> bytes:
        """See `Encoder.header`."""
        return pack_header(self._sender.header, FRAME_CHECKS if frame_checks else 0)

    def encode(
        self, image: Any, *, rate: str | float | None = None, max_bytes: int | None = None
    ) -> bytes:
        """See `Encoder.encode`."""
        (frame,) = self._sender.encode(image, rate, max_bytes=max_bytes, over_budget="shortest")
        return frame


def as_encoder(given: Encoder | Sender | DeviceSender) -> Encoder:
    """Returns an encoder, or a sender as one.

    Args:
      given: an `Encoder`, or a sender, which is known by its header that is no method.

    Returns:
      The encoder.
    """
    return given if callable(given.header) else SenderEncoder(given)
