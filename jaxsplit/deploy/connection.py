"""One stream of a client: says hello, sends frames, reads results, and connects again."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import random
import socket
import time
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import grpc

from jaxsplit.deploy import service_pb2 as pb
from jaxsplit.deploy.protocol import (
    DEFAULT_PORT,
    ERROR_KEY,
    RETRY_KEY,
    STREAM,
    TOKEN_KEY,
    Code,
    error_of,
)
from jaxsplit.errors import ConfigError, JaxsplitError

_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0  # seconds before a stream is opened again
_HELLO_SECONDS = 10.0
_ELSEWHERE = 4  # streams that are given back where their server has another one
_MOST_FRAMES, _MOST_BYTES = 16, 1 << 14  # of a request: what has gathered while one was written
_MESSAGE_BYTES = 64  # of a request beside the bytes of its one frame
#: Refusals that another attempt doesn't change.
_FINAL = (Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION, Code.DATA_LOSS, Code.UNAUTHENTICATED)
#: gRPC's own: the method is unknown, or permission is denied by a proxy.
_FINAL_STATUS = (*_FINAL, grpc.StatusCode.UNIMPLEMENTED.value[0])


class Sending(Protocol):
    """A frame that a connection sends."""

    number: int
    data: bytes

    @property
    def left_ms(self) -> int:
        """Milliseconds to its deadline, at least one; 0 without one."""

    def expired(self) -> bool:
        """Returns whether it is useless by now."""


class Owner(Protocol):
    """Callbacks of a connection, in the loop."""

    def on_sent(self, frame: Sending, now: float, first: bool) -> None:
        """A frame is handed to gRPC."""

    def on_unsent(self, frame: Sending, too_large: int) -> None:
        """A frame isn't sent: it is useless by now, or has more bytes than a message may have."""

    def on_result(self, connection: Connection, result: pb.Result, now: float) -> None:
        """A result has come."""

    def has_stream(self, server: int) -> bool:
        """Returns whether another connection has its stream at this server."""

    def on_welcome(self, sent: float, now: float, size: int) -> None:
        """A hello of so many bytes was welcomed."""

    def on_end(self, connection: Connection) -> None:
        """The stream has ended: what it had and has no result is the owner's again."""

    def on_refused(self, error: JaxsplitError) -> None:
        """The service refuses this client for good."""


class Settings(NamedTuple):
    """How a client calls: its hello, its token, and its root certificates, True for gRPC's own."""

    hello: pb.Hello
    token: str | None = None
    tls: bool | bytes = False


def addresses(text: str) -> list[tuple[str, int]]:
    """Parses HOST[:PORT], or several with commas between; a ConfigError if one is none.

    >>> addresses("localhost,[::1]:7")
    [('localhost', 50051), ('::1', 7)]
    """
    found = []
    for one in text.split(","):
        host, colon, port = one.strip().rpartition(":")
        if not colon or one.strip().endswith("]"):
            host, port = one.strip(), str(DEFAULT_PORT)
        host = host.removeprefix("[").removesuffix("]")
        if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
            raise ConfigError(f"{one!r} is no address: expected HOST or HOST:PORT, such as a.b:443")
        found.append((host, int(port)))
    return found


def open_channel(to: Sequence[tuple[str, int]], settings: Settings) -> grpc.aio.Channel:
    """Opens a channel to one or several addresses, which gRPC takes in turn (round robin).

    Args:
      to: host and port of each; a ConfigError if one of several is unknown.
      settings: TLS.

    Returns:
      The channel, not yet connected.
    """
    options: list[tuple[str, str | int]] = [
        ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 1000),
        ("grpc.max_reconnect_backoff_ms", 2000),
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.use_local_subchannel_pool", 1),  # a client's connections are its own
    ]
    if len(to) == 1:
        target = "dns:///" + _joined(*to[0])
    else:
        found = [_resolved(host, port) for host, port in to]
        kind = "ipv6" if all(":" in host for host, _ in found) else "ipv4"
        target = f"{kind}:" + ",".join(_joined(host, port) for host, port in found)
        options.append(("grpc.default_authority", to[0][0]))
    if not settings.tls:
        return grpc.aio.insecure_channel(target, options)
    roots = None if settings.tls is True else settings.tls
    return grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(roots), options)


def _resolved(host: str, port: int) -> tuple[str, int]:
    """Returns the address of a host, IPv4 if it has one: gRPC takes no names of several."""
    try:
        found = sorted(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    except OSError as error:
        raise ConfigError(f"{host}: {error.strerror or error}") from error
    return str(found[0][4][0]), port


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Connection:
    """A stream that is opened again, after a random time, whenever it ends.

    Args:
      channel: of the client.
      settings: the hello and the token.
      owner: gets what happens.
    """

    def __init__(self, channel: grpc.aio.Channel, settings: Settings, owner: Owner) -> None:
        # A request is made when it is written: deadlines are counted from there.
        self._open = channel.stream_stream(
            STREAM, pb.Request.SerializeToString, pb.Reply.FromString
        )
        self._settings, self._owner = settings, owner
        self._queue = collections.deque[Sending]()
        self._sent = dict[int, Sending]()
        self._changed = asyncio.Event()
        self._most, self._most_bytes = 1, 0
        self.welcomed = asyncio.Event()
        self.server: int | None = None
        self._elsewhere = _ELSEWHERE

    @property
    def load(self) -> tuple[bool, int]:
        """Returns whether it isn't connected, and the frames without a result."""
        return not self.welcomed.is_set(), len(self._queue) + len(self._sent)

    def send(self, frame: Sending) -> None:
        """Puts a frame into the queue of the stream."""
        self._queue.append(frame)
        self._changed.set()

    async def run(self) -> None:
        """Keeps the stream open, until it is cancelled or refused."""
        wait = _FIRST_WAIT
        while True:
            hint, eager = 0.0, True
            try:
                if await self._converse():
                    continue  # at another server
                # The server ended it: it drains.
            except grpc.aio.AioRpcError as error:
                code = error.code().value[0]
                if code in _FINAL_STATUS:
                    self._owner.on_refused(_refusal(error))
                    return
                hint = _hint(error)
                eager = code != Code.DEADLINE_EXCEEDED  # it was silent: until there is a frame
            except TimeoutError:
                pass
            if self.welcomed.is_set():
                wait = _FIRST_WAIT
            self.welcomed.clear()
            self.server = None
            self._queue.clear()
            self._sent.clear()
            self._owner.on_end(self)
            await asyncio.sleep(max(wait, hint) * random.uniform(0.5, 1.5))
            wait = min(2 * wait, _LONGEST_WAIT)
            while not eager and not self._queue:
                self._changed.clear()
                await self._changed.wait()

    async def _converse(self) -> bool:
        """One stream: a hello, then frames and results until it ends.

        Returns True at once if its server has another stream of this client: the next stream is
        given to the next server, if there is one.
        """
        token = self._settings.token
        metadata = None if token is None else ((TOKEN_KEY, f"Bearer {token}"),)
        call = self._open(metadata=metadata, wait_for_ready=True)
        writer = None
        try:
            await call.wait_for_connection()
            start = time.monotonic()
            await call.write(pb.Request(hello=self._settings.hello))
            reply = await asyncio.wait_for(call.read(), _HELLO_SECONDS)
            if reply is grpc.aio.EOF:
                return False
            if self._elsewhere and self._owner.has_stream(reply.welcome.server):
                self._elsewhere -= 1
                return True
            self._elsewhere, self.server = _ELSEWHERE, reply.welcome.server
            self._most = max(reply.welcome.max_in_flight, 1)
            self._most_bytes = reply.welcome.max_message_bytes - _MESSAGE_BYTES
            size = len(self._settings.hello.header)
            self._owner.on_welcome(start, time.monotonic(), size)
            self.welcomed.set()
            writer = asyncio.create_task(self._write(call))
            while (reply := await call.read()) is not grpc.aio.EOF:
                now = time.monotonic()
                for result in reply.results:
                    self._sent.pop(result.id, None)
                    self._owner.on_result(self, result, now)
                self._changed.set()
            return False
        finally:
            if writer is not None:
                writer.cancel()
                await asyncio.gather(writer, return_exceptions=True)
            call.cancel()

    async def _write(self, call: grpc.aio.StreamStreamCall) -> None:
        """Writes the frames of the queue, those together that wait."""
        while True:
            while not self._queue or len(self._sent) >= self._most:
                self._changed.clear()
                await self._changed.wait()
            frames, size, now = list[pb.Frame](), 0, time.monotonic()
            while self._queue and len(frames) < _MOST_FRAMES and len(self._sent) < self._most:
                if frames and size + len(self._queue[0].data) > _MOST_BYTES:
                    break
                frame = self._queue.popleft()
                too_large = len(frame.data) > self._most_bytes
                if too_large or frame.expired():
                    self._owner.on_unsent(frame, self._most_bytes if too_large else 0)
                    continue
                self._sent[frame.number] = frame
                size += len(frame.data)
                self._owner.on_sent(frame, now, not frames)
                frames.append(pb.Frame(id=frame.number, data=frame.data, deadline_ms=frame.left_ms))
            if frames:
                # The reader sees how the stream ended.
                with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    await call.write(pb.Request(frames=frames))


def _refusal(error: grpc.aio.AioRpcError) -> JaxsplitError:
    metadata = dict(error.trailing_metadata() or ())
    name = str(metadata.get(ERROR_KEY, ""))
    return error_of(error.code().value[0], error.details() or error.code().name, name)


def _hint(error: grpc.aio.AioRpcError) -> float:
    text = str(dict(error.trailing_metadata() or ()).get(RETRY_KEY, ""))
    return int(text) / 1000 if text.isdecimal() else 0.0
