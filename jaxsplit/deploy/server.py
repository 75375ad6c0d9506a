"""Runs a service: listens, warms up, reports its health, and drains at SIGTERM."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import ipaddress
import signal
import socket
from collections.abc import Sequence
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from jaxsplit.deploy.batcher import Runs
from jaxsplit.deploy.limits import Limits
from jaxsplit.deploy.protocol import DEFAULT_PORT, SERVICE
from jaxsplit.deploy.service import Log, Service, no_log
from jaxsplit.errors import ConfigError

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_METRICS_HOST = "127.0.0.1"


@dataclasses.dataclass(frozen=True)
class Listen:
    """Where a service listens, and who may call it.

    Attributes:
      host: name or address; a ConfigError if it is none of loopback's, without `tls`, unless
        `insecure`.
      port: 0 takes a free one.
      tls: private key and certificate chain, as PEM; None: no TLS.
      token: that calls must carry; None: none.
      insecure: listens without TLS elsewhere too.
      metrics_port: of Prometheus's HTTP, on loopback; 0 takes a free one, None: none.

    >>> Listen(host="0.0.0.0")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    jaxsplit.errors.ConfigError: without TLS the service listens on loopback only, not on ...
    """

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    tls: tuple[bytes, bytes] | None = None
    token: str | None = None
    insecure: bool = False
    metrics_port: int | None = None

    def __post_init__(self) -> None:
        if self.tls is None and not self.insecure and not is_loopback(self.host):
            wrong = f"without TLS the service listens on loopback only, not on {self.host}: give"
            raise ConfigError(
                f"{wrong} tls, or insecure=True",
                shell=f"{wrong} --tls-cert and --tls-key, or --insecure",
            )

    @property
    def address(self) -> str:
        """Host and port, as gRPC takes them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def is_loopback(host: str) -> bool:
    """Returns whether all addresses of a host are loopback's.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return all(ipaddress.ip_address(one.partition("%")[0]).is_loopback for one in found)


def serve(
    engines: Sequence[Runs],
    listen: Listen,
    limits: Limits = Limits(),  # noqa: B008 — it is frozen
    log: Log = no_log,
) -> None:
    """Serves until SIGTERM or SIGINT: then reads no more, sends the results it owes, and returns.

    Connections wait until all engines are warm. The health service says SERVING from then on, and
    NOT_SERVING while it drains.

    Args:
      engines: the families, each another.
      listen: where and to whom.
      limits: of the service.
      log: callback for structured log lines.

    Raises:
      ConfigError: as in `serve_until`.
    """

    async def main() -> None:
        ending = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, ending.set)
        await serve_until(ending, engines, listen, limits, log)

    asyncio.run(main())


async def serve_until(
    ending: asyncio.Event, families: Sequence[Runs], listen: Listen, limits: Limits, log: Log
) -> None:
    """Serves in a loop of the caller's, until an event.

    Args:
      ending: ends the service, which then drains.
      families: each another.
      listen, limits, log: as in `serve`.

    Raises:
      ConfigError: two engines of one family, or an address that can't be listened on.
    """
    engines = {engine.header.family: engine for engine in families}
    if len(engines) < len(families) or not engines:
        raise ConfigError(f"{len(families)} families, {len(engines)} different: give each once")
    service = Service(engines, limits, listen.token, log)
    server, checks = grpc.aio.server(options=_options(limits)), health.aio.HealthServicer()
    server.add_generic_rpc_handlers((service.handlers(),))
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    await _set_health(checks, _NOT_SERVING)
    loop = asyncio.get_running_loop()
    port = _bind(server, listen)
    fields: dict[str, object] = {}
    if listen.metrics_port is not None:
        fields["metrics_port"] = service.metrics.serve(_METRICS_HOST, listen.metrics_port)
    # In the executor: SIGTERM ends a service that still compiles, too.
    warm = loop.run_in_executor(None, functools.partial(_warm_up, list(engines.values())))
    waiting = asyncio.create_task(ending.wait())
    either: tuple[asyncio.Future[Any], ...] = (warm, waiting)
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    try:
        if warm.done():
            warm.result()
            service.batcher.start()
            await server.start()
            await _set_health(checks, _SERVING)
            names = [engine.name for engine in engines.values()]
            log("ready", host=listen.host, port=port, families=names, **fields)
            await waiting
    finally:
        waiting.cancel()
        log("draining", waiting=len(service.batcher))
        await _set_health(checks, _NOT_SERVING)
        await service.drained()
        await server.stop(0.1)  # what is left watches the health, or has had its time
        await loop.run_in_executor(None, service.batcher.close)
        log("stopped")


def _warm_up(engines: Sequence[Runs]) -> None:
    for engine in engines:
        engine.warm_up()


def _bind(server: grpc.aio.Server, listen: Listen) -> int:
    """Listens; returns the port, or raises a ConfigError."""
    try:
        if listen.tls is None:
            return int(server.add_insecure_port(listen.address))
        credentials = grpc.ssl_server_credentials([listen.tls])
        return int(server.add_secure_port(listen.address, credentials))
    except RuntimeError as error:
        raise ConfigError(
            f"cannot listen on {listen.address}: the port is taken, the host unknown, or the "
            "certificate does not fit its key"
        ) from error


async def _set_health(checks: health.aio.HealthServicer, status: int) -> None:
    for name in ("", SERVICE):
        await checks.set(name, status)


def _options(limits: Limits) -> list[tuple[str, int]]:
    """Options of the server: sizes of messages, and how long a silent connection may live."""
    return [
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", limits.max_message_bytes),
        ("grpc.max_metadata_size", 16 << 10),
        ("grpc.max_concurrent_streams", limits.max_streams + 1),
        ("grpc.server_handshake_timeout_ms", int(1000 * limits.hello_seconds)),
        ("grpc.max_connection_idle_ms", int(5000 * limits.silent_seconds)),
        ("grpc.keepalive_time_ms", int(1000 * limits.silent_seconds)),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 5000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]
