"""Trainings that are interrupted and resumed end exactly where uninterrupted ones do."""

import dataclasses
import inspect
import json
import os
import shutil
import signal

import jax
import numpy as np
import pytest
from PIL import Image

from jaxsplit import networks
from jaxsplit.data import Augmentation
from jaxsplit.errors import Interrupted
from jaxsplit.train.backbone import train_backbone
from jaxsplit.train.curve import train_curve
from jaxsplit.train.losses import Distortion
from jaxsplit.train.metrics import Reports
from jaxsplit.train.step import Phase, Rate

FEATURES = Distortion(distillation=0, features=1)


@pytest.fixture(autouse=True)
def _frequent_checkpoints(monkeypatch):
    monkeypatch.setitem(inspect.unwrap(train_curve).__kwdefaults__, "save_every", 2)
    monkeypatch.setitem(Reports.__init__.__kwdefaults__, "every", 1)


class Interruption(Exception):
    pass


def interrupt_at(step):
    def progress(done, total, metrics):
        if done == step:
            raise Interruption

    return progress


def only_step(workdir, step):
    """Leaves no checkpoint but one."""
    (folder,) = workdir.glob("checkpoints-*")
    for path in folder.iterdir():
        if path.name != f"step_{step}":
            shutil.rmtree(path)


@pytest.mark.filterwarnings("ignore:.* resuming from step:UserWarning")
@pytest.mark.slow
def test_a_curve_resumes_to_the_bit_within_a_phase_and_between_two(
    tiny_config, tiny_backbone, tmp_path
):
    config = dataclasses.replace(
        tiny_config,
        rates=(Rate("a", 1e-4), Rate("b", 1e-2)),
        phases=(Phase(4, FEATURES), Phase(4, FEATURES, "round")),
        max_samples=64,
        batch_size=16,
    )
    whole = train_curve(config, tiny_backbone)
    with pytest.raises(Interruption):
        train_curve(config, tiny_backbone, tmp_path, interrupt_at(7))
    between = shutil.copytree(tmp_path, tmp_path.with_name("between"))
    for workdir, step in ((tmp_path, 6), (between, 4)):
        only_step(workdir, step)
        done, told = [], []
        resumed = train_curve(
            config,
            tiny_backbone,
            workdir,
            lambda *args, done=done: done.append(args[0]),
            told.append,
        )
        assert done == list(range(step + 1, 9))
        assert f"{step} of 8 steps are done" in told
        assert resumed.fingerprint == whole.fingerprint
    # The second phase rounded around the offsets that were best when it began.
    assert any(rate.tables.offsets.any() for rate in whole.rates)

    # A finished training is not trained again, but where its end is damaged, only from there.
    assert train_curve(config, tiny_backbone, tmp_path, _never).fingerprint == whole.fingerprint
    (checkpoints,) = tmp_path.glob(f"checkpoints-{config.key}-*")
    for path in (checkpoints / "step_8").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:10])
    done.clear()
    again = train_curve(config, tiny_backbone, tmp_path, lambda *args: done.append(args[0]))
    assert done == [7, 8]
    assert again.fingerprint == whole.fingerprint


def _never(*_):
    raise AssertionError("nothing is left to train")


@pytest.mark.slow
def test_a_curve_of_everything_at_once_resumes_to_the_bit(tiny_config, tiny_backbone, tmp_path):
    config = dataclasses.replace(
        tiny_config,
        rates=(Rate("a", 1e-4), Rate("b", 1e-2, dataclasses.replace(tiny_config.spec, channels=5))),
        phases=(Phase(3, FEATURES), Phase(5, Distortion(), "round")),
        max_samples=32,
        batch_size=16,
        augmentations_per_image=2,
        flip=True,
        augmentation=Augmentation(padding=2, flip=True),
        cache="none",
        compute_dtype="bfloat16",
        ema=0.9,
        rate_vectorization="vmap",
        evaluate_every=3,
        max_eval_samples=16,
    )
    whole = train_curve(config, tiny_backbone, tmp_path / "whole")
    resumed = tmp_path / "resumed"

    def stop_at(step):
        def progress(done, total, metrics):
            if done == step and "loss" in metrics:
                signal.raise_signal(signal.SIGTERM)

        return progress

    # At the end of a phase, where an evaluation is due too, and within the next.
    for step in (3, 5):
        with pytest.raises(Interrupted):
            train_curve(config, tiny_backbone, resumed, stop_at(step))
    assert train_curve(config, tiny_backbone, resumed).fingerprint == whole.fingerprint
    assert metrics(resumed) == metrics(tmp_path / "whole")
    assert [line["step"] for line in metrics(resumed) if "eval_bits" in line] == [3, 6, 8]


def metrics(workdir):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{**line, "images_per_second": None} for line in lines]


@pytest.mark.filterwarnings("ignore:.* was last of a training:UserWarning")
@pytest.mark.slow
def test_other_weights_or_images_of_the_same_name_begin_anew(tiny_config, tiny_backbone, tmp_path):
    folder, workdir = tmp_path / "images", tmp_path / "workdir"
    rng = np.random.default_rng(0)
    for number, name in enumerate(tiny_backbone.class_names * 2):
        path = folder / "train" / name.replace("/", "-") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (28, 28), np.uint8)).save(path)
    names = sorted(path.name for path in (folder / "train").iterdir())
    backbone = dataclasses.replace(tiny_backbone, task=names)
    config = dataclasses.replace(
        tiny_config,
        rates=(Rate("a", 1e-4),),
        phases=(Phase(2, FEATURES),),
        data=f"folder:{folder}",
        max_samples=None,
        batch_size=16,
    )

    def steps(backbone):
        done = []
        train_curve(config, backbone, workdir, lambda *args: done.append(args[0]))
        return done

    assert [steps(backbone), steps(backbone)] == [[1, 2], []]
    assert steps(dataclasses.replace(backbone, fingerprint="other")) == [1, 2]
    assert steps(backbone) == []
    os.utime(path, (0, 0))  # like an unpacked copy
    assert steps(backbone) == []
    Image.fromarray(rng.integers(0, 256, (28, 28), np.uint8)).save(path.with_name("new.png"))
    assert steps(backbone) == [1, 2]


def test_other_tables_of_a_finished_training_need_no_step(tiny_config, tiny_backbone, tmp_path):
    config = dataclasses.replace(
        tiny_config, phases=(Phase(2, FEATURES),), max_samples=64, batch_size=16
    )
    trained, seen = [], []
    for tables in ("prior", "channels"):
        other = dataclasses.replace(config, tables=tables)
        trained.append(
            train_curve(other, tiny_backbone, tmp_path, lambda step, *_: seen.append(step))
        )
    assert seen == [1, 2]
    for before, after in zip(*(family.rates for family in trained), strict=True):
        assert networks.fingerprint(before.variables) == networks.fingerprint(after.variables)
        assert before.tables.fingerprint != after.tables.fingerprint


def test_every_field_of_a_training_is_in_the_name_of_its_checkpoints(tiny_config, tiny_training):
    for config, changes in (
        (
            tiny_config,
            {
                "cut": "stem",
                "spec": dataclasses.replace(tiny_config.spec, channels=4),
                "rates": tiny_config.rates[:2],
                "phases": (Phase(600, FEATURES, "round"),),
                "seed": 1,
                "max_samples": 513,
                "learning_rate": 1e-3,
                "flip": True,
                "feature_dtype": "float16",
            },
        ),
        (
            tiny_training[0],
            {
                "seed": 1,
                "max_samples": 65,
                "epochs": 3,
                "label_smoothing": 0.1,
                "preprocessing": dataclasses.replace(tiny_training[0].preprocessing, mean=(0.0,)),
            },
        ),
    ):
        keys = {dataclasses.replace(config, **{name: value}).key for name, value in changes.items()}
        assert len(keys | {config.key}) == len(changes) + 1
        assert dataclasses.replace(config).key == config.key


@pytest.mark.slow
def test_a_backbone_resumes_to_the_bit(tiny_training, tmp_path):
    config = dataclasses.replace(tiny_training[0], epochs=2, max_samples=64, batch_size=16)
    whole, report = train_backbone(config, None)
    with pytest.raises(Interruption):
        train_backbone(config, tmp_path, interrupt_at(7))
    only_step(tmp_path, 4)
    done = []
    resumed, again = train_backbone(config, tmp_path, lambda *args: done.append(args[0]))
    assert done == [5, 6, 7, 8]
    assert again == report
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)
