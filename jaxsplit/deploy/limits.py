"""Limits of a service, and how its tokens are compared."""

from __future__ import annotations

import dataclasses
import hmac
from collections.abc import Iterable

from jaxsplit.deploy.protocol import MAX_MESSAGE_BYTES, TOKEN_KEY
from jaxsplit.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of a service; a ConfigError where one is not positive.

    Attributes:
      max_batch: most frames of a batch.
      max_wait: seconds that the oldest frame of a batch waits for others.
      max_queue: most frames in the queue; None: 16 batches.
      max_in_flight: most frames of a stream without a result; None: one batch.
      max_streams: most open streams.
      max_message_bytes: of a request.
      hello_seconds: from a stream's start to its hello.
      silent_seconds: without a request read or a reply taken, after which a stream is ended.
      drain_seconds: for frames that were read, after SIGTERM.

    >>> Limits(max_batch=8).queue, Limits(max_batch=8).in_flight
    (128, 8)
    """

    max_batch: int = 32
    max_wait: float = 0.005
    max_queue: int | None = None
    max_in_flight: int | None = None
    max_streams: int = 1000
    max_message_bytes: int = MAX_MESSAGE_BYTES
    hello_seconds: float = 10.0
    silent_seconds: float = 60.0
    drain_seconds: float = 30.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name == "max_wait" else 1e-9
            if value is not None and not value >= least:
                raise ConfigError(f"{field.name} is {value!r}, expected a positive number")

    @property
    def queue(self) -> int:
        """Most frames in the queue."""
        return 16 * self.max_batch if self.max_queue is None else self.max_queue

    @property
    def in_flight(self) -> int:
        """Most frames of a stream without a result."""
        return self.max_batch if self.max_in_flight is None else self.max_in_flight


def has_token(token: str | None, metadata: Iterable[tuple[str, str | bytes]]) -> bool:
    """Checks the token of a call in constant time.

    Args:
      token: that of the service; None: every call has it.
      metadata: of the call.

    Returns:
      False also where the call has none.

    >>> has_token("secret", [("authorization", "Bearer secret")]), has_token("secret", [])
    (True, False)
    """
    if token is None:
        return True
    given = next((value for key, value in metadata if key == TOKEN_KEY), "")
    given = given.encode(errors="replace") if isinstance(given, str) else given
    return hmac.compare_digest(given, f"Bearer {token}".encode())
