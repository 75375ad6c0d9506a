"""The event loop of all clients of a process, in a thread of its own.

gRPC has one queue of events for a process, and fails where one of several loops is closed: this one
never is.
"""

from __future__ import annotations

import asyncio
import os
import threading

_lock = threading.Lock()
_running: tuple[int, asyncio.AbstractEventLoop] | None = None  # of which process


def background_loop() -> asyncio.AbstractEventLoop:
    """Returns the loop; starts it at the first call in a process.

    >>> background_loop() is background_loop()
    True
    """
    global _running
    with _lock:
        if _running is None or _running[0] != os.getpid():
            loop = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="jaxsplit-client", daemon=True).start()
            _running = os.getpid(), loop
        return _running[1]
