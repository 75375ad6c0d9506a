"""The loop, on a regression of three numbers: steps, checkpoints and what is resumed from them."""

import itertools
import os
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsplit.errors import (
    CheckpointError,
    ConfigError,
    Interrupted,
    JaxsplitWarning,
    NonFiniteError,
)
from jaxsplit.io import checkpoint
from jaxsplit.train import loop, parallel
from jaxsplit.train.metrics import Reports
from jaxsplit.train.state import TrainState

OPTIMIZER = optax.adam(0.05)
REPORTS = ("total", "every", "names", "progress", "writer")


def make_state():
    return TrainState.create({"params": {"w": jnp.zeros(3)}}, OPTIMIZER)


def step(state, batch, constants):
    def loss(params):
        return jnp.square(batch["x"] @ params["w"] - batch["y"]).mean() * constants["weight"]

    value, grads = jax.value_and_grad(loss)(state.params)
    value, grads = jax.lax.pmean((value, grads), parallel.AXIS)
    updates, opt_state = OPTIMIZER.update(grads, state.opt_state)
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, {}, opt_state), {"loss": value}


def batches(start):
    for number in itertools.count(start):
        x = np.random.default_rng(number).normal(size=(8, 3)).astype(np.float32)
        yield {"x": x, "y": x @ np.float32([1, -2, 3])}


def fit(steps, directory=None, save_every=4, state=None, **kwargs):
    reports = Reports(**{key: kwargs.pop(key) for key in REPORTS if key in kwargs})
    return loop.fit(
        loop.resume(make_state() if state is None else state, directory),
        kwargs.pop("step", step),
        kwargs.pop("batches", batches),
        steps,
        batch_size=8,
        constants={"weight": jnp.ones(())},
        reports=reports,
        directory=directory,
        save_every=save_every,
        **kwargs,
    )


def assert_same(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


class Interruption(Exception):
    pass


def interrupt_at(step):
    def progress(done, total, metrics):
        if done == step:
            raise Interruption

    return {"progress": progress, "every": 1}


@pytest.mark.parametrize("last", [1, 4, 6, 9])
def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(tmp_path, last):
    with pytest.raises(Interruption):
        fit(10, tmp_path, **interrupt_at(last))
    reported = []
    resumed = fit(10, tmp_path, progress=lambda done, *_: reported.append(done), every=1)
    # What was reported last had not been saved yet.
    assert reported[0] == (last - 1) // 4 * 4 + 1
    assert_same(resumed, fit(10))


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    fit(10, tmp_path, save_every=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_10", "step_8"]
    assert_same(loop.resume(make_state(), tmp_path), fit(10))


def test_a_finished_training_does_nothing(tmp_path):
    done = fit(10, tmp_path)

    def never(*_):
        raise AssertionError

    assert_same(fit(10, tmp_path, step=never, progress=never), done)
    assert_same(fit(3, tmp_path, step=never, progress=never), done)


def test_nothing_is_resumed_from_an_empty_or_missing_folder(tmp_path):
    assert_same(loop.resume(make_state(), tmp_path), make_state())
    assert_same(loop.resume(make_state(), tmp_path / "missing"), make_state())
    assert_same(loop.resume(make_state(), None), make_state())


def test_a_save_that_is_killed_leaves_the_checkpoint_before_it(tmp_path, monkeypatch):
    fit(4, tmp_path)
    # Another writer's folder, and half a checkpoint as the writing library leaves it.
    (tmp_path / "step_8.orbax-checkpoint-tmp-1").mkdir()
    monkeypatch.setattr(checkpoint, "save_tree", _raise)
    with pytest.raises(Interruption):
        fit(8, tmp_path)
    assert int(loop.resume(make_state(), tmp_path).step) == 4


def _raise(*_):
    raise Interruption


@pytest.mark.parametrize("damage", ["truncated", "missing", "empty"])
def test_a_damaged_checkpoint_is_said_to_be_one(tmp_path, damage):
    fit(4, tmp_path)
    files = [path for path in (tmp_path / "step_4").rglob("*") if path.is_file()]
    for path in files:
        if damage == "truncated":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        elif damage == "empty":
            path.write_bytes(b"")
        else:
            path.unlink()
    with pytest.raises(CheckpointError, match=r"cannot read the checkpoint .*step_4") as error:
        fit(8, tmp_path)
    assert "\n" not in str(error.value)


def damage(path):
    for file in path.rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:10])


def test_a_damaged_checkpoint_gives_way_to_the_one_before_it_and_is_replaced(tmp_path):
    fit(8, tmp_path)
    damage(tmp_path / "step_8")
    reported = []
    with pytest.warns(JaxsplitWarning, match=r"^[^\n]*step_8[^\n]*resuming from step 4$"):
        resumed = fit(10, tmp_path, progress=lambda done, *_: reported.append(done), every=1)
    assert reported == [5, 6, 7, 8, 9, 10]
    assert_same(resumed, fit(10))
    assert_same(checkpoint.load_tree(tmp_path / "step_8", make_state()), fit(8))


@pytest.mark.filterwarnings("ignore:.* resuming from step:UserWarning")
def test_a_later_checkpoint_that_could_not_be_read_takes_no_good_ones_place(tmp_path):
    fit(8, tmp_path)
    damage(tmp_path / "step_8")
    fit(6, tmp_path, save_every=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_5", "step_6"]


def test_what_a_killed_save_left_is_removed_by_the_next(tmp_path):
    partial = tmp_path / "step_8.orbax-checkpoint-tmp-1" / "d"
    partial.mkdir(parents=True)
    fit(4, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step_4"]


@pytest.mark.parametrize("params", [{"w": jnp.zeros(4)}, {"v": jnp.zeros(3)}])
def test_a_checkpoint_of_another_training_is_refused(tmp_path, params):
    fit(4, tmp_path)
    with pytest.raises(CheckpointError, match="step_4"):
        fit(8, tmp_path, state=TrainState.create({"params": params}, OPTIMIZER))


def test_progress_hears_of_every_report_and_of_the_end():
    heard = []
    fit(
        7,
        progress=lambda done, total, metrics: heard.append((done, total, float(metrics["loss"]))),
        every=3,
        total=20,
    )
    assert [entry[:2] for entry in heard] == [(3, 20), (6, 20), (7, 20)]
    assert all(np.isfinite(entry[2]) for entry in heard)


def test_only_the_first_step_compiles(compiles):
    fit(1)
    with compiles() as programs:
        fit(5, step=lambda *args: step(*args))  # a function that jax has not seen
    assert len(programs) == 1


def test_a_long_training_without_reports_comes_to_its_end():
    # With thousands of steps queued at once, XLA's CPU devices wait for each other for ever.
    state = fit(2000)
    np.testing.assert_allclose(state.params["w"], [1, -2, 3], atol=1e-3)


def test_a_batch_that_the_devices_cannot_share_is_refused():
    with pytest.raises(ConfigError, match="4 or 8"):
        loop.fit(make_state(), step, batches, 1, batch_size=6, constants={})


def spoil(at, what):
    """The step, which at one step gives a loss, or a parameter, that is no number."""

    def spoiled(state, batch, constants):
        after, metrics = step(state, batch, constants)
        now = state.step == at - 1
        loss = metrics["loss"] * jnp.ones(3)
        if what == "loss":
            wrong = now & jnp.array([False, True, True])
            return after, {"loss": jnp.where(wrong, jnp.nan, loss), "bits": loss}
        w = jnp.where(now, jnp.inf, after.params["w"])
        return after.replace(params={"w": w}), {"loss": loss}

    return spoiled


@pytest.mark.parametrize("at", [1, 5, 8, 9])
def test_a_loss_that_is_no_number_stops_the_training_and_is_not_saved(tmp_path, at):
    reported = []
    with pytest.raises(
        NonFiniteError, match=rf"step {at}: loss not finite for the rates mid, number 2;"
    ):
        fit(
            12,
            tmp_path,
            step=spoil(at, "loss"),
            names=("high", "mid"),
            progress=lambda done, *_: reported.append(done),
            every=1,
        )
    saved = (at - 1) // 4 * 4
    assert int(loop.resume(make_state(), tmp_path).step) == saved
    assert_same(loop.resume(make_state(), tmp_path), fit(saved) if saved else make_state())
    assert reported == list(range(1, at))


@pytest.mark.parametrize(("at", "found"), [(5, "step 6: loss"), (8, r"step 8: .*params\['w'\]")])
def test_a_state_that_is_no_number_is_not_saved(tmp_path, at, found):
    # Its loss is seen one step later, but a checkpoint may be due before.
    with pytest.raises(NonFiniteError, match=found):
        fit(12, tmp_path, step=spoil(at, "parameter"))
    assert int(loop.resume(make_state(), tmp_path).step) == 4


def send_at(number, at):
    """Batches during whose `at`-th a signal comes."""

    def sending(start):
        for done, batch in enumerate(batches(start), start + 1):
            if done == at:
                signal.raise_signal(number)
            yield batch

    return sending


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_saves_and_stops(tmp_path, number):
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Interrupted, match=rf"{number.name} after step 6, which is") as stopped:
        fit(10, tmp_path, batches=send_at(number, 6))
    assert stopped.value.signal == number
    assert isinstance(stopped.value, KeyboardInterrupt)
    assert not isinstance(stopped.value, Exception)
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert int(loop.resume(make_state(), tmp_path).step) == 6
    assert_same(fit(10, tmp_path), fit(10))


@pytest.mark.parametrize("last", [6, 10])
@pytest.mark.parametrize("when", ["report", "evaluation", "save"])
def test_a_signal_at_the_end_of_a_phase_stops_before_the_next(tmp_path, monkeypatch, when, last):
    def come(*_):
        signal.raise_signal(signal.SIGTERM)
        return {}

    save = checkpoint.save_step
    if when == "save":
        monkeypatch.setattr(checkpoint, "save_step", lambda *args: come(save(*args)))
    options = {
        "report": {"progress": lambda done, *_: done == last and come(), "every": last},
        "evaluation": {"evaluate": come, "evaluate_every": last},
    }.get(when, {})
    with pytest.raises(Interrupted, match=rf"SIGTERM after step {last}, which is saved"):
        fit(last, tmp_path, save_every=100, total=10, **options)
    monkeypatch.undo()
    assert int(loop.resume(make_state(), tmp_path).step) == last
    assert_same(fit(10, tmp_path), fit(10))


@pytest.mark.parametrize("stops", [(), (3,), (4,), (4, 8), (5, 8)])
def test_a_stopped_training_reports_what_an_uninterrupted_one_does(tmp_path, stops):
    def run(directory, batches=batches):
        fit(
            8,
            directory,
            batches=batches,
            progress=lambda done, _, metrics: told.append((done, metrics)),
            every=2,
            evaluate=lambda state: {"norm": np.linalg.norm(state.params["w"])},
            evaluate_every=4,
        )

    def values():
        return [(done, {**m, "images_per_second": 0}) for done, m in told]

    told = []
    for stop in stops:
        with pytest.raises(Interrupted):
            run(tmp_path, send_at(signal.SIGTERM, stop))
    run(tmp_path)
    ours, told = values(), []
    run(None)
    assert [done for done, m in ours if "eval_norm" in m] == [4, 8]
    assert [entry for entry in ours if entry[0] % 2 == 0] == values()


def test_an_evaluation_that_a_stop_finds_due_comes_after_the_save(tmp_path):
    seen = []

    def evaluate(state):
        del state
        seen.append(int(loop.resume(make_state(), tmp_path).step))
        return {}

    with pytest.raises(Interrupted):
        fit(
            8,
            tmp_path,
            save_every=100,
            batches=send_at(signal.SIGTERM, 4),
            evaluate=evaluate,
            evaluate_every=4,
        )
    assert seen == [4]


def test_a_second_signal_meets_the_handler_of_before(tmp_path, monkeypatch):
    def never(*_):
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the signal came too late")

    monkeypatch.setattr(checkpoint, "save_step", never)
    # Python's own; a shell's background process starts without it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt) as stopped:
            fit(10, tmp_path, batches=send_at(signal.SIGINT, 2))
    finally:
        signal.signal(signal.SIGINT, before)
    assert not isinstance(stopped.value, Interrupted)
    assert not list(tmp_path.iterdir())


def test_other_threads_train_without_handlers():
    states = []
    thread = threading.Thread(target=lambda: states.append(fit(3)))
    thread.start()
    thread.join()
    assert_same(states[0], fit(3))


def test_evaluations_come_in_time_with_the_state_of_their_step(tmp_path):
    told, seen = [], []

    def evaluate(state):
        seen.append(int(state.step))
        return {"norm": np.linalg.norm(state.params["w"])}

    def run(steps, total):
        return fit(
            steps,
            tmp_path,
            total=total,
            progress=lambda done, total, metrics: told.append((done, metrics)),
            every=4,
            evaluate=evaluate,
            evaluate_every=4,
        )

    run(6, 10)
    final = run(10, 10)
    assert seen == [4, 8, 10]
    evaluations = {done: metrics for done, metrics in told if "eval_norm" in metrics}
    assert list(evaluations) == [4, 8, 10]
    assert evaluations[10]["eval_norm"] == np.linalg.norm(final.params["w"])
    assert [done for done, metrics in told if "loss" in metrics] == [4, 6, 8, 10]


def test_the_writer_gets_what_progress_hears():
    written, heard = [], []

    class Writer:
        def begin(self, first):
            written.append(first)

        def write(self, done, metrics):
            written.append((done, metrics))

    fit(7, writer=Writer(), progress=lambda *args: heard.append(args), every=3)
    assert written == [0, *((done, metrics) for done, _, metrics in heard)]
    speeds = [metrics["images_per_second"] for _, _, metrics in heard]
    assert all(speed > 0 for speed in speeds)
