"""Prometheus metrics of a service."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from jaxsplit.deploy.protocol import Code

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class Metrics:
    """Counters, gauges and histograms of one service, in a registry of its own.

    Args:
      waiting: returns the frames in the queue.

    >>> metrics = Metrics(lambda: 3)
    >>> metrics.frame("lite", Code.OK, 120, 0.01)
    >>> metrics.registry.get_sample_value("jaxsplit_frame_bytes_total", {"family": "lite"})
    120.0
    """

    def __init__(self, waiting: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        registry, family = self.registry, ["family"]
        self._frames = Counter(
            "jaxsplit_frames",
            "Frames with a result, by status",
            [*family, "code"],
            registry=registry,
        )
        self._bytes = Counter(
            "jaxsplit_frame_bytes", "Bytes of frames with a result", family, registry=registry
        )
        self._latency = Histogram(
            "jaxsplit_frame_seconds",
            "From the arrival of a frame to its result",
            family,
            registry=registry,
            buckets=_SECONDS,
        )
        self._sizes = Histogram(
            "jaxsplit_batch_size",
            "Frames of a batch",
            family,
            registry=registry,
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
        )
        self._batches = Histogram(
            "jaxsplit_batch_seconds", "Time of a batch", family, registry=registry, buckets=_SECONDS
        )
        self._refused = Counter(
            "jaxsplit_refused_streams", "Streams refused, by status", ["code"], registry=registry
        )
        self.streams = Gauge("jaxsplit_streams", "Open streams", registry=registry)
        queue = Gauge("jaxsplit_queue_frames", "Frames in the queue", registry=registry)
        queue.set_function(waiting)

    def frame(self, family: str, code: Code, size: int, seconds: float) -> None:
        """Counts a frame with a result.

        Args:
          family: name of its family.
          code: its status.
          size: bytes, as they were sent.
          seconds: from its arrival to its result.
        """
        self._frames.labels(family, code.name).inc()
        self._bytes.labels(family).inc(size)
        if code is Code.OK:
            self._latency.labels(family).observe(seconds)

    def batch(self, family: str, size: int, seconds: float) -> None:
        """Counts a batch.

        Args:
          family: name of its family.
          size: frames.
          seconds: of decoding and of the network.
        """
        self._sizes.labels(family).observe(size)
        self._batches.labels(family).observe(seconds)

    def refused(self, code: Code) -> None:
        """Counts a stream or a call that was refused.

        Args:
          code: its status.
        """
        self._refused.labels(code.name).inc()

    def serve(self, host: str, port: int) -> int:
        """Serves the metrics over HTTP, from a thread.

        Args:
          host, port: to listen on; port 0 takes a free one.

        Returns:
          The port.
        """
        server, _ = start_http_server(port, addr=host, registry=self.registry)
        return int(server.server_port)
