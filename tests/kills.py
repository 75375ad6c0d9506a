"""Kills processes that write, at random moments: `python tests/kills.py KIND FOLDER`.

`test_kills.py` runs every kind. Each has a `work` that writes for ever, in a fork that is killed,
and a `check` of what is left after each kill.
"""

import dataclasses
import itertools
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import jax
import numpy as np

import jaxsplit
from jaxsplit.evaluation.curve import Curve
from jaxsplit.evaluation.per_image import PerImage
from jaxsplit.evaluation.points import RatePoint
from jaxsplit.experiments import run
from jaxsplit.family.files import write_family  # noqa: F401  imported before the forks
from jaxsplit.io import checkpoint
from jaxsplit.io.files import partial_of, write_whole
from jaxsplit.search.checkpoint import SearchCheckpoint
from jaxsplit.train.metrics import MetricsWriter

FAMILY = "resnet8_small-fashion_mnist/stage1.block1"
#: Files of a user's in the same folder, with names like those of our own.
THEIRS = ("eur.csv", "x.jspl12345678", "states_1_2.npz.old", "states_9_9.npz", "notes.partial")


def kill_often(work: Callable[[], None], check: Callable[[], None], times: int, most: float):
    """Kills `work` after up to `most` seconds, so often."""
    moments = random.Random(times)
    for _ in range(times):
        child = os.fork()
        if not child:
            try:
                work()
            finally:
                os._exit(1)
        time.sleep(moments.uniform(0, most))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), "the work failed before it was killed"
        check()


def names(folder: Path) -> set[str]:
    """Names of all in a folder but the user's."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")} - {*THEIRS}


def encode(folder: Path) -> None:
    """Files that are written whole, as `encode -o` does."""
    path = folder / "x.jspl"

    def work() -> None:
        for i in itertools.count():
            write_whole(path, bytes([i % 256]) * 300_000)

    def check() -> None:
        assert names(folder) <= {path.name, partial_of(path).name}
        if path.exists():
            content = path.read_bytes()
            assert content == content[:1] * 300_000

    kill_often(work, check, 60, 0.02)
    write_whole(path, b"done")
    assert names(folder) == {path.name}


def pack(folder: Path) -> None:
    """Families that replace each other in one folder."""
    shipped = jaxsplit.load_pretrained(FAMILY).select(["r1", "r5"])

    def scaled(factor: float) -> jaxsplit.RateFamily:
        variables = (
            jax.tree.map(lambda x: x * np.float32(factor), r.variables) for r in shipped.rates
        )
        pairs = zip(shipped.rates, variables, strict=True)
        return shipped.with_rates(dataclasses.replace(rate, variables=x) for rate, x in pairs)

    families = [scaled(1 + i / 8) for i in range(1, 5)]
    known = {family.fingerprint for family in families}
    out, keep = folder / "packed", folder / "packed" / "rates" / "eur.csv"
    families[0].save(out, packed=True)
    keep.write_text("a user's")

    def work() -> None:
        for i in itertools.count(int(time.monotonic() * 100)):
            families[i % 4].save(out, packed=True)

    def check() -> None:
        assert jaxsplit.RateFamily.load(out).fingerprint in known
        assert keep.read_text() == "a user's"

    kill_often(work, check, 25, 0.2)
    families[1].save(out, packed=True)
    assert len(names(out)) == 2 + 2 + 1, names(out)  # index, folder, two rates, eur.csv
    check()


def evaluate(folder: Path) -> None:
    """The files of `evaluate --out`: what is there is of one run."""
    family = jaxsplit.load_pretrained(FAMILY).select(["r1"])
    backbone = family.backbone_of()
    source = jaxsplit.open_source("embedded", max_samples=1)

    def measured(size: int) -> tuple[Curve, PerImage]:
        point = RatePoint("r1", 0.01, float(size), 8.0 * size, size / 98, {"top1": 1.0}, 1)
        seen = PerImage(("r1",), np.array([[size]]), np.array([[0]]), np.array([0]), np.array([0]))
        return Curve({"top1": 1.0}, 1, (point,)), seen

    sizes = itertools.count(int(time.monotonic() * 1000) % 10**6)
    run.evaluate.evaluate_images = lambda *_, **__: measured(next(sizes))
    run.curve_plot.plot_curve = lambda path, curve, *_, **__: write_whole(path, said(curve))
    run.curve_html.write_report = lambda path, curve, *_: write_whole(path, said(curve))
    run.curve_table.render = lambda *_: ""

    def said(curve: Curve) -> bytes:
        return str(curve.points[0].bytes_per_image).encode()

    out = folder / "measured"

    def work() -> None:
        while True:
            run.measure(family, backbone, source, out, None, None, ())
            for _ in range(random.randrange(1000)):
                next(sizes)

    def check() -> None:
        if not (out / "curve.json").exists():
            return
        curve = Curve.read(out / "curve.json")
        for name in ("curve.png", "report.html"):
            if (out / name).exists():
                assert (out / name).read_bytes() == said(curve)
        if (out / "images.npz").exists():
            assert PerImage.read(out / "images.npz").belongs_to(curve)

    kill_often(work, check, 40, 0.1)
    run.measure(family, backbone, source, out, None, None, ())
    assert names(out) == {"curve.json", "curve.png", "report.html", "images.npz"}
    check()


def train(folder: Path) -> None:
    """Metrics and checkpoints of a training that resumes."""
    steps = folder / "checkpoints-one"

    def go(last: int) -> None:
        state = checkpoint.restore_latest(steps, {"step": np.int32(0), "x": np.zeros(1000)})
        with MetricsWriter(folder, ["r1"], "one") as writer:
            first = int(state["step"])
            writer.begin(first)
            for step in range(first + 1, last + 1):
                writer.write(step, {"loss": np.float32([step])})
                state = {"step": np.int32(step), "x": np.full(1000, float(step))}
                checkpoint.save_step(steps, step, state)

    def check() -> None:
        if steps.exists():
            state = {"step": np.int32(0), "x": np.zeros(1000)}
            found = checkpoint.restore_latest(steps, state)
            assert (found["x"] == found["step"]).all()

    import orbax.checkpoint  # noqa: F401  before the forks, whose seconds are for their work

    # Processes of their own: orbax starts threads, which a fork doesn't have.
    for seconds in (0.8, 1.5, 2.2):
        child = os.fork()
        if not child:
            try:
                go(10**6)
            finally:
                os._exit(1)
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    check()
    last = int(checkpoint.restore_latest(steps, {"step": np.int32(0), "x": np.zeros(1000)})["step"])
    go(last + 2)
    text = (folder / "metrics.jsonl").read_text().splitlines()
    assert [line.partition(",")[0] for line in text] == [
        f'{{"step": {step}' for step in range(1, last + 3)
    ]
    assert {path.name for path in steps.iterdir()} == {f"step_{last + 1}", f"step_{last + 2}"}
    found = {path.name for path in folder.iterdir()} - {*THEIRS}
    events = {name for name in found if name.startswith("events.")}
    assert found - events == {"metrics.jsonl", "metrics.key", steps.name}


class _State(NamedTuple):
    step: np.ndarray
    x: np.ndarray


def search(folder: Path) -> None:
    """States of a search: search.json always names a whole file."""

    def trial(step: int) -> SimpleNamespace:
        state = _State(np.int32(step), np.full(20_000, step))
        return SimpleNamespace(
            candidate=SimpleNamespace(name="one"), state=state, offsets_fitted=False
        )

    trainer = SimpleNamespace(trials=lambda chosen: [trial(0)])
    one = [trial(0).candidate]

    def work() -> None:
        found = SearchCheckpoint(folder, "key")
        (first,), _ = found.restore(trainer, one)
        for step in itertools.count(int(first.state.step) + 1):
            found.save([trial(step)], distilled=False)

    def check() -> None:
        (first,), _ = SearchCheckpoint(folder, "key").restore(trainer, one)
        assert (first.state.x == first.state.step).all()

    kill_often(work, check, 40, 0.05)
    found = SearchCheckpoint(folder, "key")
    (first,), _ = found.restore(trainer, one)
    found.save([trial(int(first.state.step) + 1)], distilled=False)
    assert names(folder) == {"search.json", found.record.kept.states}
    check()


if __name__ == "__main__":
    place = Path(sys.argv[2])
    for name in THEIRS:
        (place / name).write_text("a user's")
    globals()[sys.argv[1]](place)
    assert {(place / name).read_text() for name in THEIRS} == {"a user's"}
