"""The gRPC service: hellos, streams of frames, single frames, limits, and draining."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import functools
import math
import secrets
import time
from collections.abc import Callable, Mapping
from typing import NoReturn, Protocol

import grpc
from google.protobuf.message import DecodeError

from jaxsplit.deploy import service_pb2 as pb
from jaxsplit.deploy.batcher import Answer, Batcher, Job, Runs
from jaxsplit.deploy.limits import Limits, has_token
from jaxsplit.deploy.metrics import Metrics
from jaxsplit.deploy.protocol import (
    ERROR_KEY,
    RETRY_KEY,
    SERVICE,
    Code,
    Hello,
    code_of,
    read_hello,
    unseal,
)
from jaxsplit.errors import JaxsplitError, OtherFamilyError, ServiceError, one_line

_STATUS = {code.value[0]: code for code in grpc.StatusCode}
#: Results in one reply: what has gathered while the last one was written.
_MOST_RESULTS = 64


class Log(Protocol):
    """Callback for structured log lines: name of the event, and its fields."""

    def __call__(self, event: str, /, **fields: object) -> None: ...


def no_log(event: str, /, **fields: object) -> None:
    """No-op callback."""


class Service:
    """Handlers of the calls of `service.proto`.

    Args:
      engines: by fingerprint of their families.
      limits: of the service.
      token: that calls must carry; None: none.
      log: callback for streams that start, end or are refused.
    """

    def __init__(
        self, engines: Mapping[str, Runs], limits: Limits, token: str | None, log: Log
    ) -> None:
        self._engines, self._limits, self._token, self.log = engines, limits, token, log
        self.metrics = metrics = Metrics(lambda: len(self.batcher))
        self.batcher: Batcher = Batcher(
            engines,
            max_batch=limits.max_batch,
            max_wait=limits.max_wait,
            max_queue=limits.queue,
            observe=lambda family, *rest: metrics.batch(engines[family].name, *rest),
        )
        self.draining = asyncio.Event()
        self._server = secrets.randbits(64)
        self._streams = 0
        self._calls = 0
        self._loop = asyncio.get_running_loop()
        self._done = collections.deque[Callable[[], None]]()
        self._numbers = 0

    def handlers(self) -> grpc.GenericRpcHandler:
        """Returns the handlers, for `grpc.aio.Server.add_generic_rpc_handlers`."""
        # Requests are parsed in the handlers: what is none ends in a status, not in a traceback.
        methods = {
            "Stream": grpc.stream_stream_rpc_method_handler(
                self._stream, response_serializer=pb.Reply.SerializeToString
            ),
            "Predict": grpc.unary_unary_rpc_method_handler(
                self._predict, response_serializer=pb.Result.SerializeToString
            ),
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    async def drained(self) -> None:
        """Refuses new calls, and waits until those that run have their results."""
        self.draining.set()
        end = time.monotonic() + self._limits.drain_seconds
        while self._streams + self._calls and time.monotonic() < end:
            await asyncio.sleep(0.01)

    async def _stream(self, _: object, context: grpc.aio.ServicerContext) -> None:
        started, peer = time.monotonic(), context.peer()
        await self._admit(context)
        self._streams += 1
        self.metrics.streams.inc()
        try:
            hello = await self._hello(context)
            engine = self._engines[hello.header.family]
            self._numbers += 1
            number = self._numbers
            self.log("stream", stream=number, peer=peer, family=engine.name)
            stream = _Stream(self, context, hello)
            await context.write(
                pb.Reply(
                    welcome=pb.Welcome(
                        max_in_flight=self._limits.in_flight,
                        max_message_bytes=self._limits.max_message_bytes,
                        server=self._server,
                    )
                )
            )
            why = "cancelled"
            try:
                why = await stream.run(self._limits, self.draining)
            finally:
                seconds = round(time.monotonic() - started, 3)
                counts = {"frames": stream.read, "seconds": seconds}
                self.log("stream_end", stream=number, why=why, **counts)
            if why == "silent":
                text = f"nothing was sent or taken for {self._limits.silent_seconds:g} s"
                await self.refuse(context, ServiceError(text, code=Code.DEADLINE_EXCEEDED))
            elif why not in ("closed", "draining"):
                await self.refuse(context, ServiceError(why, code=Code.INVALID_ARGUMENT))
        finally:
            self._streams -= 1
            self.metrics.streams.dec()

    async def _predict(self, data: bytes, context: grpc.aio.ServicerContext) -> pb.Result:
        await self._admit(context)
        try:
            request = pb.Single.FromString(data)
            hello = self._checked(request.hello)
        except (DecodeError, JaxsplitError) as error:
            await self.refuse(context, error)
        future: asyncio.Future[pb.Result] = self._loop.create_future()
        self._calls += 1
        try:
            self.accept(request.frame, hello, functools.partial(_set_result, future))
            result = await future
        finally:
            self._calls -= 1
        if result.code:
            await self.refuse(context, ServiceError(result.text, code=result.code), result.retry_ms)
        return result

    def accept(self, frame: pb.Frame, hello: Hello, deliver: Callable[[pb.Result], None]) -> None:
        """Puts a frame into the queue, or refuses it.

        Args:
          frame: as it was sent.
          hello: of its stream.
          deliver: called once with its result, in the loop.
        """
        arrived = time.monotonic()
        name, size, number = self._engines[hello.header.family].name, len(frame.data), frame.id

        def finish(answer: Answer, retry: float = 0.0) -> None:
            seconds = time.monotonic() - arrived
            self.metrics.frame(name, answer.code, size, seconds)
            deliver(
                pb.Result(
                    id=number,
                    code=answer.code,
                    text=answer.text,
                    server_us=int(1e6 * seconds),
                    queue_us=int(1e6 * answer.waited),
                    queue_length=len(self.batcher),
                    retry_ms=math.ceil(1000 * retry),
                )
            )

        try:
            opened = unseal(frame.data, number, hello)
        except JaxsplitError as error:
            finish(Answer(code_of(error), one_line(error) or "", 0.0))
            return
        deadline = arrived + frame.deadline_ms / 1000 if frame.deadline_ms else math.inf
        hand_over = lambda answer: self._hand_over(lambda: finish(answer))  # noqa: E731
        job = Job(hello.header.family, opened, hello.top, hand_over, deadline, arrived)
        if not self.batcher.offer(job):
            text = f"the queue of {self._limits.queue} frames is full; send the frame again later"
            finish(Answer(Code.RESOURCE_EXHAUSTED, text, 0.0), self.batcher.wait)

    def _hand_over(self, finish: Callable[[], None]) -> None:
        """Has the loop deliver a result of the batcher's thread; wakes it once for many."""
        self._done.append(finish)
        if len(self._done) == 1:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._finish)

    def _finish(self) -> None:
        # `_hand_over` wakes the loop only for the first of an empty queue: it is emptied last.
        for finish in list(self._done):
            finish()
            self._done.popleft()
        if self._done:
            self._loop.call_soon(self._finish)

    async def _admit(self, context: grpc.aio.ServicerContext) -> None:
        """Refuses a call without the token, beyond the limits, or of a service that ends."""
        if not has_token(self._token, context.invocation_metadata() or ()):
            text = "the call has no token of this service; give the one in its --token-file"
            await self.refuse(context, ServiceError(text, code=Code.UNAUTHENTICATED))
        if self.draining.is_set():
            await self.refuse(context, ServiceError("the service is ending", code=14))
        if self._streams >= self._limits.max_streams:
            text = f"the service has {self._streams} streams, its most; try again later"
            await self.refuse(context, ServiceError(text, code=Code.RESOURCE_EXHAUSTED), 1000)

    async def _hello(self, context: grpc.aio.ServicerContext) -> Hello:
        """Reads and checks the first request of a stream."""
        try:
            data = await asyncio.wait_for(context.read(), self._limits.hello_seconds)
        except TimeoutError:
            text = f"no hello came in {self._limits.hello_seconds:g} s"
            await self.refuse(context, ServiceError(text, code=Code.DEADLINE_EXCEEDED))
        try:
            if data is grpc.aio.EOF:
                raise ServiceError("the stream ended before its hello", code=3)
            return self._checked(pb.Request.FromString(data).hello)
        except (DecodeError, JaxsplitError) as error:
            await self.refuse(context, error)

    def _checked(self, hello: pb.Hello) -> Hello:
        """Reads a hello; raises what refuses it."""
        found = read_hello(hello.header, hello.top)
        engine = self._engines.get(found.header.family)
        if engine is None:
            served = ", ".join(f"{x.name} ({x.header.family[:12]})" for x in self._engines.values())
            theirs = found.header.family[:12]
            raise OtherFamilyError(f"encoded with another family, {theirs}; there are {served}")
        engine.header.check(found.header)
        return found

    async def refuse(
        self,
        context: grpc.aio.ServicerContext,
        error: JaxsplitError | DecodeError,
        retry_ms: int = 0,
    ) -> NoReturn:
        """Ends a call with the status of an error.

        Args:
          context: of the call.
          error: the reason.
          retry_ms: milliseconds after which to try again; 0: never.
        """
        if isinstance(error, DecodeError):
            error = ServiceError("the request is none of this service", code=Code.INVALID_ARGUMENT)
        code, text = code_of(error), one_line(error) or ""
        self.metrics.refused(code)
        self.log("refused", peer=context.peer(), code=code.name, why=text)
        trailing = [(ERROR_KEY, type(error).__name__)]
        if retry_ms:
            trailing.append((RETRY_KEY, str(retry_ms)))
        await context.abort(_STATUS[code], text, tuple(trailing))
        raise AssertionError("abort raises")


def _set_result(future: asyncio.Future[pb.Result], result: pb.Result) -> None:
    if not future.done():  # the call was cancelled
        future.set_result(result)


class _Stream:
    """One stream behind its hello: reads frames, writes results, and sees silence."""

    def __init__(self, service: Service, context: grpc.aio.ServicerContext, hello: Hello) -> None:
        self._service, self._context, self._hello = service, context, hello
        self._results = asyncio.Queue[pb.Result]()
        self._in_flight = 0
        self._room = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._moved = time.monotonic()
        self.read = 0

    async def run(self, limits: Limits, draining: asyncio.Event) -> str:
        """Serves until the client ends, is silent, or the service drains; returns which."""
        self._most = limits.in_flight
        reader = asyncio.create_task(self._read())
        writer = asyncio.create_task(self._write())
        drained = asyncio.create_task(draining.wait())
        tasks = {reader, writer, drained}
        try:
            while True:
                left = self._moved + limits.silent_seconds - time.monotonic()
                if left <= 0:
                    return "silent"
                done, _ = await asyncio.wait(
                    tasks, timeout=left, return_when=asyncio.FIRST_COMPLETED
                )
                if writer in done:
                    await writer  # raises what ended it
                if reader in done and (wrong := await reader):
                    return wrong
                if reader in done or drained in done:
                    await asyncio.wait_for(self._idle.wait(), limits.drain_seconds)
                    return "closed" if reader in done else "draining"
        except TimeoutError:
            return "silent"
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self) -> str:
        """Reads requests to the end of the stream; returns what is wrong with one."""
        while (data := await self._context.read()) is not grpc.aio.EOF:
            self._moved = time.monotonic()
            try:
                request = pb.Request.FromString(data)
            except DecodeError:
                return "a request of the stream is none of this service"
            if request.HasField("hello"):
                return "a stream has one hello, its first request"
            for frame in request.frames:
                while self._in_flight >= self._most:  # what isn't read holds the client back
                    self._room.clear()
                    await self._room.wait()
                self._in_flight += 1
                self._idle.clear()
                self.read += 1
                self._service.accept(frame, self._hello, self._results.put_nowait)
        return ""

    async def _write(self) -> None:
        """Writes results, those together that have gathered."""
        while True:
            results = [await self._results.get()]
            while len(results) < _MOST_RESULTS and not self._results.empty():
                results.append(self._results.get_nowait())
            await self._context.write(pb.Reply(results=results))
            self._moved = time.monotonic()
            self._in_flight -= len(results)
            self._room.set()
            if not self._in_flight:
                self._idle.set()
