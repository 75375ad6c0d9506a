"""Rate control by the link: how many bytes arrive in time, estimated from replies alone.

The model of a link is a base delay b and a time s for a byte: a frame of n bytes that is sent at t,
behind one whose network time ends at r', has the network time

    r = max(t + b, r') + n · s,

to which the server adds its own time, which replies report. A Kalman filter with the state (b, s)
follows r - t = b + n · s, or behind another frame r - r' = n · s. The process noise of s is large,
since links change; that of b is small. Imports nothing but the standard library.
"""

from __future__ import annotations

import dataclasses
import math

#: Bytes beside a frame: those of HTTP/2, gRPC and the message, and the frame's id and check.
OVERHEAD = 55

_BASE, _BASE_STD = 0.05, 0.5  # prior of b, seconds
_BYTE, _BYTE_STD = 2e-5, 4e-5  # prior of s, seconds a byte
_FIRST_STD = 5e-3  # of b after the first reply, that of a hello: little of it are its few bytes
_BASE_DRIFT = 2e-3  # standard deviation of b's change in a second
_BYTE_DRIFT = 3e-5  # of s's change in a second, at least
_JITTER, _SPREAD = 4e-3, 0.05  # standard deviation of y: seconds, and a share of it
_CHANGE = 0.02  # an error of y, seconds, that b has no part in
_FASTER = 0.5  # how much a link that seems faster is believed
_LEAST_BYTE = 1e-9
_OVERDUE = 1.5  # a frame that is overdue is expected to take so many times as long as up to now
_SERVER_WEIGHT = 0.2  # of the newest reply in the mean of the server's time


@dataclasses.dataclass(slots=True)
class _Sent:
    size: int
    sent: float


class LinkEstimator:
    """Estimates delay and throughput of a link, and the bytes that fit a deadline.

    All times are in seconds, of one monotonic clock that the caller reads.

    Args:
      caution: standard deviations of the estimate that a frame's prediction is put above it.
      margin: seconds by which a frame should arrive before its deadline.

    >>> link = LinkEstimator()
    >>> for number, size in enumerate((200, 500, 1000, 1500) * 4):
    ...     link.sent(number, size, now=0.1 * number)  # 30 ms both ways, 100 bytes a millisecond
    ...     link.answered(number, now=0.1 * number + 0.03 + (size + OVERHEAD) / 1e5, server=0.0)
    >>> round(link.base, 2), 8e4 < link.throughput < 1.2e5
    (0.03, True)
    >>> link.budget(0.2, now=1.6) > link.budget(0.06, now=1.6) > 1000
    True
    """

    def __init__(self, caution: float = 0.3, margin: float = 0.01) -> None:
        self._caution, self._margin = caution, margin
        self._b, self._s = _BASE, _BYTE
        self._bb, self._bs, self._ss = _BASE_STD**2, 0.0, _BYTE_STD**2  # covariance
        self._waiting: dict[int, _Sent] = {}
        self._last = -math.inf  # r of the last answered frame
        self._updated: float | None = None
        self._server, self._server_spread = 0.0, 0.0

    @property
    def base(self) -> float:
        """Estimated delay of an empty frame and its reply, seconds."""
        return self._b

    @property
    def throughput(self) -> float:
        """Estimated bytes a second."""
        return 1 / self._s

    def sent(self, number: int, size: int, now: float) -> None:
        """Notes a frame that is sent.

        Args:
          number: its id.
          size: bytes.
          now: the time.
        """
        self._waiting[number] = _Sent(size + OVERHEAD, now)

    def answered(self, number: int, now: float, server: float) -> None:
        """Learns from a reply.

        Args:
          number: id of the frame; one that isn't waited for says nothing.
          now: the time.
          server: seconds that the server had the frame, as it reports.
        """
        frame = self._waiting.pop(number, None)
        if frame is None:
            return
        first = self._updated is None
        weight = 1.0 if first else _SERVER_WEIGHT
        self._server_spread += weight * (abs(server - self._server) - self._server_spread)
        self._server += weight * (server - self._server)
        if first:
            self._server_spread = server / 2
        end = now - server
        if end >= self._last:  # not one that the server has overtaken by another
            queued = self._last - self._b > frame.sent
            self._learn(frame.size, end - (self._last if queued else frame.sent), queued, now)
        self._last = max(self._last, end)

    def lost(self, number: int) -> None:
        """Forgets a frame that will have no reply.

        Args:
          number: its id.
        """
        self._waiting.pop(number, None)

    def free(self, now: float) -> float:
        """Predicts when the link is free again.

        Args:
          now: the time.

        Returns:
          The end of the network time of all frames that were sent; -inf: it is free.
        """
        end, per_byte = self._last, self._s
        for frame in self._waiting.values():
            start = max(frame.sent + self._b, end)
            end = start + frame.size * per_byte
            # A reply that is overdue: the link is slower than it was, by an unknown factor.
            passed = now - self._server - start
            if passed > end - start + self._late:
                per_byte = max(per_byte, _OVERDUE * passed / frame.size)
                end = start + frame.size * per_byte
        return end

    def budget(self, seconds: float, now: float) -> int:
        """Finds the most bytes of a frame that is answered in time.

        Args:
          seconds: from now.
          now: when the frame is sent.

        Returns:
          At most 2**20; 0: what was sent before already takes too long.
        """
        left = seconds - (max(now + self._b, self.free(now)) - now) - self._server - self._late
        return self._fitting(left, now)

    def pace(self, period: float, now: float) -> int:
        """Finds the most bytes of a frame that the link has sent before the next one.

        Args:
          period: seconds from one frame to the next.
          now: when the frame is sent.

        Returns:
          As `budget`.
        """
        return self._fitting(period - max(self.free(now) - self._b - now, 0.0), now)

    def _fitting(self, left: float, now: float) -> int:
        """Returns the most bytes whose transmission takes at most `left` seconds."""
        per_byte = max(self._s, self._slowed(now))
        low, high = 0.0, float(1 << 20)
        for _ in range(40):
            size = (low + high) / 2
            if size * per_byte + self._caution * self._std(size, now) > left:
                high = size
            else:
                low = size
        return max(int(low) - OVERHEAD, 0)

    @property
    def _late(self) -> float:
        return self._margin + 2 * self._server_spread

    def _slowed(self, now: float) -> float:
        """Returns the time of a byte that an overdue reply implies, 0 without one."""
        end = self._last
        for frame in self._waiting.values():
            start = max(frame.sent + self._b, end)
            end = start + frame.size * self._s
            passed = now - self._server - start
            if passed > end - start + self._late:
                return _OVERDUE * passed / frame.size
        return 0.0

    def _std(self, size: float, now: float) -> float:
        """Returns the standard deviation of the network time of a frame that is sent now."""
        elapsed = 0.0 if self._updated is None else max(now - self._updated, 0.0)
        bb, ss = self._bb + self._b_noise(elapsed), self._ss + self._s_noise(elapsed)
        return math.sqrt(max(bb + 2 * size * self._bs + size * size * ss, 0.0))

    def _learn(self, size: int, y: float, queued: bool, now: float) -> None:
        """Updates the filter by y = b + n · s, or n · s behind another frame."""
        first = self._updated is None
        elapsed = 0.0 if self._updated is None else max(now - self._updated, 0.0)
        self._updated = now
        bb, bs, ss = self._bb + self._b_noise(elapsed), self._bs, self._ss + self._s_noise(elapsed)
        base = 0.0 if queued else 1.0
        of_b, of_s = base * bb + size * bs, base * bs + size * ss  # covariances with y
        variance = base * of_b + size * of_s + _JITTER**2 + (_SPREAD * y) ** 2
        error = y - base * self._b - size * self._s
        gain_b, gain_s = of_b / variance, of_s / variance
        if abs(error) > _CHANGE and not first:  # the link's rate has changed, not its length
            gain_b = 0.0
        if error < 0 and not first:  # a small frame that was fast says little of a large one
            gain_s *= _FASTER
        self._b = max(self._b + gain_b * error, 0.0)
        self._s = max(self._s + gain_s * error, _LEAST_BYTE)
        self._bb = max(bb - gain_b * of_b, 0.0)
        self._bs = bs - gain_s * of_b
        self._ss = max(ss - gain_s * of_s, 0.0)
        if first:
            self._bb, self._bs = min(self._bb, _FIRST_STD**2), 0.0

    def _b_noise(self, elapsed: float) -> float:
        return _BASE_DRIFT**2 * min(elapsed, 10.0)

    def _s_noise(self, elapsed: float) -> float:
        return max(_BYTE_DRIFT, self._s) ** 2 * min(elapsed, 10.0)
