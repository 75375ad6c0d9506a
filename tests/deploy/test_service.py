"""The service and its client over loopback, with an engine without jax: outcomes, not times."""

import contextlib
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import grpc
import pytest
from deploy import stubs
from deploy.proxy import Proxy
from deploy.stubs import HEADER, OTHER, StubEncoder, StubEngine, running
from grpc_health.v1 import health_pb2, health_pb2_grpc

from jaxsplit.bitstream import pack_header
from jaxsplit.bitstream.header import FRAME_CHECKS, Header
from jaxsplit.deploy import Client
from jaxsplit.deploy import service_pb2 as pb
from jaxsplit.deploy.protocol import PREDICT, RETRY_KEY, STREAM, TOKEN_KEY, Code, seal
from jaxsplit.deploy.server import Listen
from jaxsplit.errors import (
    ConfigError,
    NewerVersionError,
    OtherFamilyError,
    OtherTablesError,
    ServiceError,
)

HELLO = pb.Hello(header=pack_header(HEADER, FRAME_CHECKS))
FAST = {"connect_seconds": 20.0}


@pytest.fixture
def service():
    engine = StubEngine()
    with running(engine) as found:
        found.engine = engine
        yield found


def frame(number, rate="mid", checked=True, **fields):
    data = StubEncoder().encode(number, rate=rate)
    return pb.Frame(id=number, data=seal(data, number, checked), **fields)


class Raw:
    """A stream of requests as they are given, with its replies."""

    def __init__(self, address, *requests, token=None):
        self._channel = grpc.insecure_channel(address)
        call = self._channel.stream_stream(
            STREAM,
            lambda x: x if isinstance(x, bytes) else x.SerializeToString(),
            pb.Reply.FromString,
        )
        self._open = threading.Event()
        metadata = None if token is None else ((TOKEN_KEY, f"Bearer {token}"),)
        self.replies = call(self._requests(requests), metadata=metadata, timeout=30)

    def _requests(self, requests):
        yield from requests
        self._open.wait(30)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._open.set()
        self.replies.cancel()
        self._channel.close()

    def results(self, count):
        found = []
        for reply in self.replies:
            found += reply.results
            if len(found) >= count:
                return {result.id: result for result in found}
        raise AssertionError("the stream ended")

    def status(self):
        """How the stream ends."""
        with pytest.raises(grpc.RpcError) as error:
            for _ in self.replies:
                pass
        return Code(error.value.code().value[0]), error.value.details()


def works(address):
    with Client(StubEncoder(), address, **FAST) as client:
        (outcome,) = client.send([7], "low")
    return outcome.status == "answered" and outcome.prediction["class"] == "7"


def test_frames_of_all_clients_and_rates_share_batches(service):
    service.engine.gate.clear()
    clients = [Client(StubEncoder(), service.address, **FAST) for _ in range(3)]
    futures = [
        client.submit(100 * place + number, ("low", "mid", "high")[number % 3])
        for place, client in enumerate(clients)
        for number in range(20)
    ]
    service.engine.gate.set()
    outcomes = [future.result(30) for future in futures]
    for client in clients:
        assert (client.counts.answered, client.counts.images) == (20, 20)
        client.close()
    numbers = [100 * place + number for place in range(3) for number in range(20)]
    assert [int(outcome.prediction["class"]) for outcome in outcomes] == numbers
    assert [outcome.prediction["rate"] for outcome in outcomes[:3]] == ["low", "mid", "high"]
    assert [outcome.rate_index for outcome in outcomes[:3]] == [0, 1, 2]
    assert max(service.engine.batches) > 5
    assert max(service.engine.batches) <= 32


def test_top_k_is_of_each_stream(service):
    with Client(StubEncoder(), service.address, top=3, **FAST) as client:
        (outcome,) = client.send([5], "low")
    assert [one["class"] for one in outcome.prediction["top"]] == ["5", "6", "7"]
    with Client(StubEncoder(), service.address, **FAST) as client:
        (outcome,) = client.send([5], "low")
    assert "top" not in outcome.prediction


@pytest.mark.parametrize(
    ("header", "error"),
    [
        (OTHER, OtherFamilyError),
        (Header(HEADER.family, HEADER.rates[:2]), OtherTablesError),
        (Header(HEADER.family, HEADER.rates[::-1]), OtherTablesError),
    ],
)
def test_another_family_is_refused_before_its_first_frame(service, header, error):
    with pytest.raises(error, match="encoded with"):
        Client(StubEncoder(header), service.address, **FAST)
    assert works(service.address)


def test_a_newer_version_is_refused(service):
    newer = bytearray(pack_header(HEADER))
    newer[4] = 200

    class Newer(StubEncoder):
        def header(self, frame_checks):
            return bytes(newer)

    with pytest.raises(NewerVersionError, match="format version 200"):
        Client(Newer(), service.address, **FAST)  # refused by the client itself
    with Raw(service.address, pb.Request(hello=pb.Hello(header=bytes(newer)))) as raw:
        code, text = raw.status()
    assert code is Code.FAILED_PRECONDITION
    assert "format version 200" in text


@pytest.mark.parametrize(
    ("requests", "code"),
    [
        ([b"\xff\xff\xff"], Code.INVALID_ARGUMENT),
        ([pb.Request()], Code.DATA_LOSS),  # a header of no bytes
        ([pb.Request(hello=pb.Hello(header=HELLO.header + b"x"))], Code.DATA_LOSS),
        ([pb.Request(hello=pb.Hello(header=HELLO.header, top=5000))], Code.INVALID_ARGUMENT),
        ([pb.Request(hello=HELLO), b"\xff\xff\xff"], Code.INVALID_ARGUMENT),
        ([pb.Request(hello=HELLO), pb.Request(hello=HELLO)], Code.INVALID_ARGUMENT),
    ],
)
def test_requests_that_are_none_end_their_stream_alone(service, requests, code):
    with Raw(service.address, *requests) as raw:
        assert raw.status()[0] is code
    assert works(service.address)


def test_a_damaged_frame_costs_that_frame_alone(service):
    damaged, short, tail = frame(2), frame(3), frame(4)
    damaged.data = bytes([*damaged.data[:-20], damaged.data[-20] ^ 1, *damaged.data[-19:]])
    short.data = short.data[:3]
    tail.data += b"x"
    frames = [frame(1), damaged, short, tail, frame(5)]
    with Raw(service.address, pb.Request(hello=HELLO), pb.Request(frames=frames)) as raw:
        found = raw.results(5)
    codes = [found[number].code for number in range(1, 6)]
    assert codes == [Code.OK, *[Code.DATA_LOSS] * 3, Code.OK]
    assert "fails its check" in found[2].text
    assert set(service.engine.seen) == {1, 5}


def test_a_frame_of_another_number_fails_its_check(service):
    wrong = frame(1)
    wrong.id = 2
    with Raw(service.address, pb.Request(hello=HELLO), pb.Request(frames=[wrong])) as raw:
        assert raw.results(1)[2].code == Code.DATA_LOSS


@pytest.mark.parametrize("given", [None, "", "wrong", "secre", "secret2"])
def test_a_wrong_token_is_refused(given):
    with running(listen=Listen(port=0, token="secret")) as service:
        with pytest.raises(ServiceError, match="token") as error:
            Client(StubEncoder(), service.address, token=given, **FAST)
        assert error.value.code == Code.UNAUTHENTICATED
        with Client(StubEncoder(), service.address, token="secret", **FAST) as client:
            assert next(client.send([1], "low")).status == "answered"


def test_a_message_too_large_is_refused_unread():
    with running(max_message_bytes=1 << 16) as service:
        large = pb.Request(frames=[pb.Frame(id=1, data=bytes(1 << 20))])
        with Raw(service.address, pb.Request(hello=HELLO), large) as raw:
            assert raw.status()[0] is Code.RESOURCE_EXHAUSTED
        assert works(service.address)


def test_a_client_sends_no_message_too_large():
    with running(max_message_bytes=1000) as service:
        with Client(StubEncoder(), service.address, **FAST) as client:
            outcomes = [client.submit(1, rate).result(30) for rate in ("mid", "high", "mid")]
        assert [one.status for one in outcomes] == ["answered", "failed", "answered"]
        assert "at most" in outcomes[1].error
        assert client.counts.reconnected == 0


def test_a_frame_whose_deadline_has_passed_is_not_computed(service):
    service.engine.gate.clear()
    first = pb.Request(frames=[frame(1)])
    rest = pb.Request(frames=[frame(2, deadline_ms=1), frame(3)])
    with Raw(service.address, pb.Request(hello=HELLO), first, rest) as raw:
        assert service.engine.entered.wait(10)
        threading.Event().wait(0.2)
        service.engine.gate.set()
        found = raw.results(3)
    assert [found[number].code for number in (1, 2, 3)] == [0, Code.DEADLINE_EXCEEDED, 0]
    assert set(service.engine.seen) == {1, 3}


def test_a_full_queue_refuses_frames_with_a_hint():
    engine = StubEngine()
    engine.gate.clear()
    with running(engine, max_batch=2, max_queue=3, max_in_flight=20) as service:
        frames = [frame(number) for number in range(1, 11)]
        with Raw(service.address, pb.Request(hello=HELLO), pb.Request(frames=frames)) as raw:
            refused = raw.results(4)
            assert {one.code for one in refused.values()} == {Code.RESOURCE_EXHAUSTED}
            assert min(one.retry_ms for one in refused.values()) >= 1
            engine.gate.set()


def test_a_client_sends_refused_frames_again():
    engine = StubEngine(seconds=0.002)
    with running(engine, max_batch=4, max_queue=4, max_in_flight=64) as service:
        with Client(StubEncoder(), service.address, **FAST) as client:
            outcomes = list(client.send(range(1, 101), "low"))
        assert [int(one.prediction["class"]) for one in outcomes] == list(range(1, 101))
        assert client.counts.resent > 0


def test_a_stream_is_read_no_further_than_its_limit():
    engine = StubEngine()
    engine.gate.clear()
    with running(engine, max_batch=2, max_in_flight=5, max_queue=100) as service:
        requests = [pb.Request(frames=[frame(number)]) for number in range(1, 31)]
        with Raw(service.address, pb.Request(hello=HELLO), *requests) as raw:
            assert engine.entered.wait(10)
            engine.gate.set()
            found = raw.results(30)
        assert {one.code for one in found.values()} == {0}
        assert max(one.queue_length for one in found.values()) <= 5


def test_streams_beyond_the_limit_are_refused_with_a_hint():
    with running(max_streams=1) as service, Raw(service.address, pb.Request(hello=HELLO)) as raw:
        assert next(raw.replies).welcome.max_in_flight == 32
        with Raw(service.address, pb.Request(hello=HELLO)) as other:
            assert other.status()[0] is Code.RESOURCE_EXHAUSTED
            assert RETRY_KEY in dict(other.replies.trailing_metadata())


def test_a_silent_stream_is_ended():
    with running(hello_seconds=0.2, silent_seconds=0.3) as service:
        with Raw(service.address) as mute:
            assert mute.status()[0] is Code.DEADLINE_EXCEEDED
        with Raw(service.address, pb.Request(hello=HELLO)) as silent:
            assert silent.status()[0] is Code.DEADLINE_EXCEEDED
        with Client(StubEncoder(), service.address, **FAST) as client:
            assert next(client.send([1], "low")).status == "answered"
            service.wait_for("refused")  # of the two above
            service.wait_for("refused")
            service.wait_for("refused")  # this client was silent too
            assert next(client.send([2], "low")).status == "answered"


def test_garbage_costs_its_connection_alone(service):
    for data in (b"\x00" * 100, b"GET / HTTP/1.1\r\n\r\n", bytes(range(256)) * 50):
        with socket.create_connection(("127.0.0.1", service.port)) as connection:
            connection.sendall(data)
    assert works(service.address)


def test_a_drained_service_gives_the_results_that_it_owes():
    engine = StubEngine()
    engine.gate.clear()
    with running(engine) as service:
        client = Client(StubEncoder(), service.address, timeout=2.0, **FAST)
        futures = [client.submit(number, "low") for number in range(1, 11)]
        assert engine.entered.wait(10)
        service.drain()
        service.wait_for("draining")
        engine.gate.set()
        assert {future.result(10).status for future in futures} == {"answered"}
        service.wait_for("stopped")
        assert client.submit(11, "low").result(20).status == "failed"  # there is no service
        client.close()


def test_a_restart_costs_no_frame_and_none_has_two_outcomes(service):
    with Proxy(service.port) as proxy, Client(StubEncoder(), proxy.address, **FAST) as client:
        futures = [client.submit(number, "low") for number in range(1, 40)]
        service.engine.entered.wait(10)
        other = StubEngine()
        with running(other) as restarted:
            proxy.upstream = restarted.port
            service.drain()
            futures += [client.submit(number, "low") for number in range(40, 100)]
            outcomes = [future.result(30) for future in futures]
        assert [int(one.prediction["class"]) for one in outcomes] == list(range(1, 100))
        assert client.counts.answered == client.counts.images == 99
        assert other.seen


def test_dropped_connections_cost_no_frame(service):
    service.engine.seconds = 0.005
    with Proxy(service.port) as proxy, Client(StubEncoder(), proxy.address, **FAST) as client:
        futures = []
        for number in range(1, 61):
            futures.append(client.submit(number, "mid"))
            if number % 15 == 0:
                proxy.drop()
        outcomes = [future.result(30) for future in futures]
    assert [int(one.prediction["class"]) for one in outcomes] == list(range(1, 61))
    assert client.counts.answered == 60
    assert client.counts.reconnected >= 1


def test_of_two_replicas_one_may_be_killed_under_load():
    first, second = StubEngine(seconds=0.002), StubEngine(seconds=0.002)
    with running(first) as one, running(second) as two, Proxy(one.port) as proxy:
        to = f"{proxy.address},{two.address}"
        with Client(StubEncoder(), to, **FAST) as client:
            futures, end = [], time.monotonic() + 30
            while not (first.seen and second.seen):  # until both have a stream
                futures.append(client.submit(len(futures) + 1, "low"))
                assert time.monotonic() < end
            proxy.refusing = True
            proxy.drop()
            futures += [client.submit(len(futures) + 1 + more, "low") for more in range(100)]
            outcomes = [future.result(30) for future in futures]
        numbers = [int(one.prediction["class"]) for one in outcomes]
        assert numbers == list(range(1, len(futures) + 1))
        assert client.counts.answered == client.counts.images == len(futures)


@contextlib.contextmanager
def process():
    """A service in a process of its own, and its port."""
    words = [sys.executable, stubs.__file__]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as started:
        try:
            yield started, int(started.stdout.readline())
        finally:
            started.kill()


def test_a_process_that_is_killed_and_started_again_costs_no_frame():
    with process() as (first, port), process() as (second, other), Proxy(port) as proxy:
        with Client(StubEncoder(), proxy.address, **FAST) as client:
            futures = [client.submit(number, "low") for number in range(1, 61)]
            futures[9].result(30)
            first.kill()  # some frames are there, some on their way
            proxy.upstream = other
            futures += [client.submit(number, "low") for number in range(61, 101)]
            outcomes = [future.result(30) for future in futures]
        assert [int(one.prediction["class"]) for one in outcomes] == list(range(1, 101))
        assert client.counts.answered == client.counts.images == 100
        assert client.counts.reconnected == 1
        second.send_signal(signal.SIGTERM)
        assert second.wait(30) == 0


def test_no_service_is_an_error_of_one_line():
    with pytest.raises(ServiceError, match=r"no service at 127\.0\.0\.1:1 in 0\.3 s"):
        Client(StubEncoder(), "127.0.0.1:1", connect_seconds=0.3)


@pytest.mark.parametrize("on_overload", ["cheapest", "drop"])
def test_a_link_too_slow_gives_outcomes_and_no_exception(service, on_overload):
    trace = [(1e9, 30_000)]  # 3750 bytes a second
    with (
        Proxy(service.port, trace) as proxy,
        Client(
            StubEncoder(), proxy.address, deadline=0.15, on_overload=on_overload, **FAST
        ) as client,
    ):
        client.link.sent(10**6, 2000, 0.0)  # as if a large frame had been slow
        client.link.answered(10**6, 0.6, 0.0)
        outcomes = []
        for number in range(1, 16):
            outcomes.append(client.submit(number))
            threading.Event().wait(0.02)
        found = [future.result(10) for future in outcomes]
    assert client.counts.images == 15
    sent = [one.frame_bytes for one in found if one.attempts]
    assert max(sent, default=0) < 2000  # none of the largest
    if on_overload == "drop":
        assert {one.error for one in found if one.status == "dropped"} <= {
            "the link is too slow for every rate"
        }


def test_a_fast_link_takes_the_best_rate(service):
    with Client(StubEncoder(), service.address, deadline=5.0, **FAST) as client:
        outcomes = [client.submit(number).result(10) for number in range(1, 31)]
    assert outcomes[-1].prediction["rate"] == "high"
    assert {one.status for one in outcomes} == {"answered"}


@pytest.mark.parametrize(
    "wrong",
    [{"on_overload": "wait"}, {"deadline": 0.0}, {"target_fps": -1.0}, {"to": "a:b"}, {"to": ""}],
)
def test_wrong_arguments_are_refused(wrong):
    with pytest.raises(ConfigError):
        Client(StubEncoder(), **{"to": "127.0.0.1:1", **wrong})


def test_a_request_needs_a_rate_or_a_deadline(service):
    with (
        Client(StubEncoder(), service.address, **FAST) as client,
        pytest.raises(ConfigError, match="rate or max_bytes"),
    ):
        client.submit(1)
    with pytest.raises(ConfigError, match="closed"):
        client.submit(1, "low")


def test_one_frame_by_the_unary_call(service):
    with grpc.insecure_channel(service.address) as channel:
        predict = channel.unary_unary(PREDICT, pb.Single.SerializeToString, pb.Result.FromString)
        result = predict(pb.Single(hello=HELLO, frame=frame(3)), timeout=20)
        assert '"class":"3"' in result.text
        with pytest.raises(grpc.RpcError) as error:
            predict(pb.Single(hello=HELLO, frame=pb.Frame(id=1, data=b"abc")), timeout=20)
        assert error.value.code() is grpc.StatusCode.DATA_LOSS


def test_health_and_metrics():
    with running(listen=Listen(port=0, metrics_port=0)) as service:
        assert works(service.address)
        with grpc.insecure_channel(service.address) as channel:
            check = health_pb2_grpc.HealthStub(channel).Check
            found = check(health_pb2.HealthCheckRequest(), timeout=20)
        assert found.status == health_pb2.HealthCheckResponse.SERVING
        url = f"http://127.0.0.1:{service.ready['metrics_port']}/metrics"
        with urllib.request.urlopen(url, timeout=20) as page:
            text = page.read().decode()
    assert 'jaxsplit_frames_total{code="OK",family="stub"} 1.0' in text
    assert 'jaxsplit_batch_size_count{family="stub"} 1.0' in text


def test_without_tls_only_loopback_is_listened_on():
    with pytest.raises(ConfigError, match="loopback only"):
        Listen(host="0.0.0.0")
    assert Listen(host="0.0.0.0", insecure=True).address == "0.0.0.0:50051"


def test_a_port_in_use_is_refused(service):
    with (
        pytest.raises(ConfigError, match="cannot listen"),
        running(listen=Listen(port=service.port)),
    ):
        pass


def test_client_and_service_load_no_jax():
    program = (
        "import sys, jaxsplit.deploy.client, jaxsplit.deploy.server\n"
        "print([name for name in ('jax', 'flax', 'optax') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout == "[]\n"
