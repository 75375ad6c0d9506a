"""Ctrl-C and SIGTERM: the first asks a training to stop after its step, the second ends it."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any


class StopRequest:
    """Whether to stop: `signal` is the number of the signal that came, 0 until one does."""

    def __init__(self) -> None:
        self.signal = 0


@contextlib.contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Notes the first SIGINT or SIGTERM instead of obeying it; the handlers are put back after.

    A second signal meets the handlers of before, so that it ends a save that takes too long.
    Outside the main thread nothing can be handled, and nothing is noted.

    >>> with stop_request() as request:
    ...     signal.raise_signal(signal.SIGTERM)
    >>> request.signal == signal.SIGTERM
    True
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in before.items():
            # None is a handler that Python didn't install and can't put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        request.signal = number
        restore()

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.getsignal(number)
        signal.signal(number, note)
    try:
        yield request
    finally:
        restore()
