"""Dynamic batching: who shares a batch, what is refused, what survives an error."""

import queue
import time

import pytest
from deploy.stubs import HEADER, OTHER, StubEngine

from jaxsplit.bitstream import Frame
from jaxsplit.deploy.batcher import Batcher, Job
from jaxsplit.deploy.protocol import Code


class Collected:
    """A batcher that runs, and its results as they come."""

    def __init__(self, *engines, **options):
        self.engines, self.results, self.sizes = engines, queue.Queue(), []
        self.batcher = Batcher(
            {engine.header.family: engine for engine in engines},
            observe=lambda family, size, seconds: self.sizes.append((family, size)),
            **options,
        )

    def offer(self, number, header=HEADER, **fields):
        frame = Frame(0, number.to_bytes(8, "big"))
        job = Job(
            header.family, frame, 1, lambda answer: self.results.put((number, answer)), **fields
        )
        return self.batcher.offer(job)

    def take(self, count):
        return dict(self.results.get(timeout=10) for _ in range(count))


@pytest.fixture
def started():
    """Makes batchers, and closes them."""
    made = []

    def make(*engines, **options):
        made.append(Collected(*engines, **options))
        return made[-1]

    yield make
    for one in made:
        for engine in one.engines:
            engine.gate.set()
        one.batcher.close()


def test_what_waits_is_one_batch(started):
    collected = started(StubEngine(), max_batch=8, max_wait=0.0)
    for number in range(20):
        assert collected.offer(number)
    assert len(collected.batcher) == 20
    collected.batcher.start()
    assert {answer.code for answer in collected.take(20).values()} == {Code.OK}
    assert [size for _, size in collected.sizes] == [8, 8, 4]


def test_a_batch_that_is_full_waits_for_nothing(started):
    collected = started(StubEngine(), max_batch=2, max_wait=1000.0)
    collected.batcher.start()
    collected.offer(1)
    collected.offer(2)
    assert sorted(collected.take(2)) == [1, 2]


def test_families_have_batches_of_their_own_in_the_order_of_arrival(started):
    collected = started(StubEngine(), StubEngine(OTHER), max_batch=8, max_wait=0.0)
    for number in range(6):
        collected.offer(number, (HEADER, OTHER)[number % 2])
    collected.batcher.start()
    collected.take(6)
    assert collected.sizes == [(HEADER.family, 3), (OTHER.family, 3)]


def test_a_full_queue_refuses(started):
    collected = started(StubEngine(), max_queue=3)
    assert [collected.offer(number) for number in range(5)] == [True, True, True, False, False]
    assert collected.batcher.wait > 0


def test_deadlines_that_passed_are_not_run(started):
    engine = StubEngine()
    collected = started(engine, max_wait=0.0)
    collected.offer(1, deadline=time.monotonic() - 1)
    collected.offer(2)
    collected.batcher.start()
    found = collected.take(2)
    assert (found[1].code, found[2].code) == (Code.DEADLINE_EXCEEDED, Code.OK)
    assert set(engine.seen) == {2}


def test_an_engine_that_raises_costs_its_batch_alone(started):
    engine = StubEngine()
    run, engine.run = engine.run, lambda frames, top: 1 / 0
    collected = started(engine, max_batch=1, max_wait=0.0)
    collected.batcher.start()
    collected.offer(1)
    (failed,) = collected.take(1).values()
    assert (failed.code, failed.text) == (Code.INTERNAL, "ZeroDivisionError: division by zero")
    engine.run = run
    collected.offer(2)
    assert collected.take(1)[2].code is Code.OK


def test_closing_runs_what_waits(started):
    collected = started(StubEngine(), max_wait=1000.0)
    collected.batcher.start()
    for number in range(5):
        collected.offer(number)
    collected.batcher.close()
    assert sorted(collected.take(5)) == list(range(5))
    assert not collected.offer(6)
