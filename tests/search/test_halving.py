"""The halving: its time, its fairness and its resumption, with trainings that only count."""

import dataclasses
import io
import itertools
import json
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest

from jaxsplit import networks
from jaxsplit.errors import CheckpointError, ConfigError
from jaxsplit.io.log import no_log
from jaxsplit.search import Design
from jaxsplit.search import checkpoint as checkpoint_module
from jaxsplit.search.candidates import Candidate, DesignConfig
from jaxsplit.search.checkpoint import Rung, SearchCheckpoint
from jaxsplit.search.halving import Run, search
from jaxsplit.search.pareto import Result
from jaxsplit.search.trainer import Trial
from jaxsplit.tasks import Classification, Metric
from jaxsplit.train.state import TrainState
from jaxsplit.units.bottleneck import BottleneckSpec

CONFIG = DesignConfig("any", lambdas=(1e-3, 1e-4, 1e-5), minutes=10.0, rungs=3, keep=0.4)
CANDIDATES = tuple(
    Candidate(f"cut{i}", BottleneckSpec(channels), lmbda, 1000 * i + channels)
    for i in range(4)
    for channels in (4, 8)
    for lmbda in CONFIG.lambdas
)


class Clock:
    now = 100.0

    def monotonic(self):
        return self.now


class Counting:
    """A trainer whose candidates become worth something known, in a time that is known."""

    def __init__(self, clock, compiling=3.0, stop_after=None, part_size=50):
        self.clock, self.compiling, self.calls = clock, compiling, stop_after
        self.part_size, self.advanced = part_size, []
        self.test_images = 400
        self.backbone = SimpleNamespace(task=Classification(("a", "b")))
        self.seen = set()

    def trials(self, chosen):
        return [Trial(one, SimpleNamespace(cut=one.cut), _state()) for one in chosen]

    def _spend(self, key, seconds):
        self.clock.now += seconds + self.compiling * (key not in self.seen)
        self.seen.add(key)
        if self.calls is not None:
            self.calls -= 1
            if self.calls < 0:
                raise KeyboardInterrupt

    def advance(self, trial, steps, distilled):
        # Through the tail it takes ten times as long, and a cut has programs of its own.
        kind, seconds = ("distilled", 0.3) if distilled else ("step", 0.03)
        one = trial.candidate
        self._spend((kind, one.cut if distilled else one.spec), seconds * steps)
        self.advanced.append((one.name, steps, distilled))
        # The steps by themselves are what it has learned.
        params = {"learned": trial.state.params["learned"] + steps}
        trial.state = dataclasses.replace(trial.state, step=trial.state.step + steps, params=params)

    def compare(self, trial, part):
        images, one = min(self.part_size, 400 - part * self.part_size), trial.candidate
        self._spend(("compare", one.cut), 0.1 * self.part_size / 50)
        worth = 1 - 0.9 ** (1 + one.device_macs / 1000)
        return {"bits": 8 * images / one.lmbda, "top1": images * worth, "examples": images}

    def parts(self, limit):
        return range(-(-min(limit, 400) // self.part_size))


def _state():
    return TrainState(np.zeros((), np.int32), {"learned": np.zeros(1)}, {}, {})


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(checkpoint_module, "time", found)
    return found


def run(trainer, folder, config=CONFIG, log=no_log):
    folder.mkdir(exist_ok=True)
    checkpoint = SearchCheckpoint(folder, config.key)
    Run(config, trainer, checkpoint, log).rungs(CANDIDATES)
    return checkpoint


@pytest.mark.parametrize("part_size", [50, 250])
@pytest.mark.parametrize(("minutes", "compiling"), [(10.0, 3.0), (2.0, 1.0), (60.0, 10.0)])
def test_the_time_is_kept(clock, tmp_path, minutes, compiling, part_size):
    config = dataclasses.replace(CONFIG, minutes=minutes)
    trainer = Counting(clock, compiling, part_size=part_size)
    checkpoint = run(trainer, tmp_path / "one", config)
    assert checkpoint.seconds == pytest.approx(60 * minutes, rel=0.1)


@pytest.mark.parametrize("minutes", [10.0, 60.0])
def test_what_compiles_is_not_taken_for_what_a_step_takes(clock, tmp_path, minutes):
    """Nothing is compiled after the start of the first rung, and what it learned is forgotten."""
    trainer = Counting(clock, compiling=15.0)
    config, said = dataclasses.replace(CONFIG, minutes=minutes), []
    compiled = {}

    def log(what, *_):
        said.append(what)
        compiled.setdefault(what, len(trainer.seen))

    checkpoint = run(trainer, tmp_path / "one", config, log)
    assert said[0] == "compiling"
    first = next(what for what in said if what != "compiling")
    assert set(compiled.values()) == {0, len(trainer.seen)}
    assert compiled[first] == len(trainer.seen)
    last = checkpoint.record.rungs[-1]
    counted = sum(told[1] for told in trainer.advanced if told[0] == last.kept[0])
    assert last.steps == counted - 2


def test_all_that_are_left_train_alike_and_the_better_go_on(clock, tmp_path):
    rungs = run(Counting(clock), tmp_path / "one").record.rungs
    counts = [len(rung.results) for rung in rungs]
    assert counts == [24, 8, 4]  # of each of four cuts six, two and one
    steps = [rung.steps for rung in rungs]
    assert steps == sorted(set(steps))
    images = [rung.n_images for rung in rungs]
    assert images == sorted(images)
    assert images[-1] == 400
    for rung, following in zip(rungs, [*rungs[1:], None], strict=True):
        assert {result["steps"] for result in rung.results} == {rung.steps}
        if following is not None:
            assert [result["name"] for result in following.results] == rung.kept
    assert {result["cut"] for result in rungs[-1].results} == {f"cut{i}" for i in range(4)}


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_features_come_first_and_then_the_tail(clock, tmp_path, share):
    trainer, said = Counting(clock), []
    config = dataclasses.replace(CONFIG, on_features=share)
    checkpoint = run(trainer, tmp_path / "one", config, lambda *told: said.append(told))
    texts, minutes, totals, units = zip(*said, strict=True)
    assert list(dict.fromkeys(texts)) == [
        "compiling",
        *(f"rung {i} of 3: {n} candidates" for i, n in ((1, 24), (2, 8), (3, 4))),
    ]
    assert list(minutes) == sorted(minutes)
    assert len(set(minutes)) > 20  # not only when a rung begins
    assert (set(totals), set(units)) == ({CONFIG.minutes}, {"minutes"})
    last = checkpoint.record.rungs[-1]
    mine = [told[1:] for told in trainer.advanced if told[0] == last.kept[0]][2:]
    through = [distilled for _, distilled in mine]
    assert through == sorted(through)
    assert (False in through) == (share > 0)
    # In seconds they have their share of the first rung's training.
    on_features = sum(0.03 * steps for steps, distilled in mine if not distilled)
    first = sum(0.3 * steps for steps, distilled in mine if distilled)
    first -= 0.3 * (last.steps - checkpoint.record.rungs[0].steps)
    assert on_features / (on_features + first) == pytest.approx(share, abs=0.1)


@pytest.mark.parametrize("stop_after", [150, 300, 400, 500])
def test_a_stopped_search_goes_on(clock, tmp_path, stop_after):
    """From the last steps that all have taken, with the time that was spent."""
    with pytest.raises(KeyboardInterrupt):
        run(Counting(clock, stop_after=stop_after), tmp_path / "two")
    before = SearchCheckpoint(tmp_path / "two", CONFIG.key)
    done, kept = len(before.record.rungs), before.record.kept
    assert done < CONFIG.rungs
    assert before.seconds > 0
    steps = int(kept.states.split("_")[1])
    assert steps > 0
    clock.now += 5000  # a night
    trainer = Counting(clock)
    whole = run(trainer, tmp_path / "two")
    assert whole.seconds == pytest.approx(60 * CONFIG.minutes, rel=0.1)
    rungs = whole.record.rungs
    assert rungs[:done] == before.record.rungs
    assert len(rungs) == CONFIG.rungs
    last = rungs[-1]
    counted = sum(told[1] for told in trainer.advanced if told[0] == last.kept[0])
    assert last.steps == steps + counted - 2  # what compiles is forgotten
    through = [told[2] for told in trainer.advanced if told[0] == last.kept[0]][2:]
    assert kept.distilled == all(through)
    assert len(list((tmp_path / "two").glob("states_*"))) == 1
    again = run(Counting(clock), tmp_path / "two")  # finished: nothing is trained
    assert again.record.rungs == rungs


@pytest.mark.parametrize("rung", [1, 2])
@pytest.mark.parametrize("write", [0, 1, 2])
def test_a_rung_is_never_followed_by_candidates_that_it_dropped(
    clock, tmp_path, monkeypatch, rung, write
):
    """Stopped before each of the three writes at the end of a rung."""
    save, write_whole = SearchCheckpoint.save, checkpoint_module.write_whole
    ends, left = [rung], [-1]

    def saving(checkpoint, trials, distilled, finished=None):
        ends[0] -= finished is not None
        left[0] = write if ends[0] == 0 else -1
        save(checkpoint, trials, distilled, finished)

    def writing(path, content):
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        write_whole(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(SearchCheckpoint, "save", saving)
        patched.setattr(checkpoint_module, "write_whole", writing)
        with pytest.raises(KeyboardInterrupt):
            run(Counting(clock), tmp_path / "two")
    rungs = run(Counting(clock), tmp_path / "two").record.rungs
    assert len(rungs) == CONFIG.rungs
    for one, following in itertools.pairwise(rungs):
        assert [result["name"] for result in following.results] == one.kept


def test_what_was_learned_is_kept(clock, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(Counting(clock, stop_after=500), tmp_path / "two")
    checkpoint = SearchCheckpoint(tmp_path / "two", CONFIG.key)
    trials, _ = checkpoint.restore(Counting(clock), CANDIDATES)
    (step,) = {int(one.state.step) for one in trials}
    assert step > 0
    assert {float(one.state.params["learned"][0]) for one in trials} == {step}


def test_a_finished_search_goes_on_with_more_minutes(clock, tmp_path):
    first = run(Counting(clock), tmp_path / "two").record.rungs
    said = list[tuple]()
    run(Counting(clock), tmp_path / "two", log=lambda *told: said.append(told))
    assert said == [("the search is finished: it resumes when given more minutes",)]
    more = dataclasses.replace(CONFIG, minutes=2 * CONFIG.minutes)
    checkpoint = run(Counting(clock), tmp_path / "two", more)
    rungs = checkpoint.record.rungs
    assert checkpoint.seconds == pytest.approx(60 * more.minutes, rel=0.1)
    assert rungs[:-1] == first[:-1]
    assert rungs[-1].steps > 2 * first[-1].steps - first[-2].steps
    names = [[result["name"] for result in rung.results] for rung in (first[-1], rungs[-1])]
    assert names[0] == names[1]


def test_states_that_are_damaged_are_refused(clock, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(Counting(clock, stop_after=500), tmp_path / "two")
    (states,) = (tmp_path / "two").glob("states_*")
    array = io.BytesIO()
    np.save(array, np.zeros(3))
    for damaged in (states.read_bytes()[:-100], b"", array.getvalue()):
        states.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"search\.json to start again"):
            run(Counting(clock), tmp_path / "two")


def test_another_search_in_its_place_is_said(clock, tmp_path):
    run(Counting(clock), tmp_path / "two")
    assert not SearchCheckpoint(tmp_path / "two", CONFIG.key).other
    other = SearchCheckpoint(tmp_path / "two", dataclasses.replace(CONFIG, seed=1).key)
    assert other.other
    assert other.record.rungs == []
    fresh = Counting(clock)
    _, distilled = other.restore(fresh, CANDIDATES)
    assert not distilled
    assert not list((tmp_path / "two").glob("states_*"))


def test_a_checkpoint_of_0_1_0_lists_no_files(tmp_path):
    kept = {"names": ["one"], "states": "states_3_1.npz", "distilled": True}
    content = {"key": "key", "seconds": 2, "rungs": [], "kept": kept}
    (tmp_path / "search.json").write_text(json.dumps(content))
    checkpoint = SearchCheckpoint(tmp_path, "key")
    assert not checkpoint.other
    assert checkpoint.record.files == [checkpoint.record.kept.states] == [kept["states"]]
    checkpoint.write()
    written = json.loads((tmp_path / "search.json").read_text())
    assert list(written) == ["key", "seconds", "rungs", "kept", "files"]
    assert written["kept"] == kept


def test_what_diverged_is_null_in_files(tmp_path):
    """JSON has no nan; read back it is one again, and as bad."""
    diverged = Result(CANDIDATES[0], 7, np.nan, 0.5, 100)
    checkpoint = SearchCheckpoint(tmp_path, "key")
    results = [{"name": "one", **diverged.to_dict()}]
    checkpoint.record.rungs = [Rung(7, 100, 1.0, results, ["one"])]
    checkpoint.write()
    (said,) = SearchCheckpoint(tmp_path, "key").record.rungs[0].results
    assert said["bytes_per_image"] is None
    again = Result.from_dict(CANDIDATES[0], said)
    assert np.isnan(again.bytes_per_image)
    assert (again.quality, again.steps, again.n_images) == (0.5, 7, 100)
    design = Design((diverged,), (diverged,), 0.2, 0.9, 1, 100, 1.0)
    json.dumps(design.to_dict(), allow_nan=False)


def test_devices_that_cannot_share_a_batch_come_up_first(tmp_path):
    backbone = networks.open_embedded("fashion_mnist_resnet8")
    with pytest.raises(ConfigError, match="cannot share a batch of 30"):
        search(dataclasses.replace(CONFIG, batch_size=30), backbone, tmp_path / "search")
    assert not (tmp_path / "search").exists()


def test_a_share_loses_at_most_all_and_other_metrics_have_limits_in_their_unit(tmp_path):
    backbone = networks.open_embedded("fashion_mnist_resnet8")
    config = dataclasses.replace(CONFIG, most_drop=1.5, cuts=("stage9",))
    with pytest.raises(ConfigError, match=r"most_drop is 1\.5; top-1 is a share"):
        search(config, backbone, tmp_path / "search")
    assert not (tmp_path / "search").exists()

    @dataclasses.dataclass(frozen=True)
    class Distance(Classification):
        quality = "error"
        metrics = MappingProxyType({"error": Metric("error", "places", higher_is_better=False)})

    other = dataclasses.replace(backbone, task=Distance(backbone.class_names))
    with pytest.raises(ConfigError, match="no cut 'stage9'"):  # the next check
        search(config, other, tmp_path / "search")


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"key": "key", "seconds": 1e999, "rungs": [], "kept": null}',
        '{"key": "key", "seconds": NaN, "rungs": [], "kept": null}',
        '{"key": "key", "seconds": 1.0, "rungs": [{}], "kept": null}',
        '{"key": "key", "seconds": 1.0, "rungs": [], "kept": {"names": 3}}',
    ],
)
def test_a_damaged_checkpoint_is_refused(tmp_path, text):
    (tmp_path / "search.json").write_text(text)
    with pytest.raises(ConfigError, match="damaged"):
        SearchCheckpoint(tmp_path, "key")
