"""The loop, on a regression of three numbers: steps, checkpoints and what is resumed from them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsplit import checkpoint
from jaxsplit.errors import CheckpointError
from jaxsplit.train import loop, parallel
from jaxsplit.train.state import TrainState

OPTIMIZER = optax.adam(0.05)


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
    return loop.fit(
        loop.resume(make_state() if state is None else state, directory),
        kwargs.pop("step", step),
        batches,
        steps,
        batch_size=8,
        constants={"weight": jnp.ones(())},
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

    return {"progress": progress, "report_every": 1}


@pytest.mark.parametrize("last", [1, 4, 6, 9])
def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(tmp_path, last):
    with pytest.raises(Interruption):
        fit(10, tmp_path, **interrupt_at(last))
    reported = []
    resumed = fit(10, tmp_path, progress=lambda done, *_: reported.append(done), report_every=1)
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
        report_every=3,
        total_steps=20,
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
