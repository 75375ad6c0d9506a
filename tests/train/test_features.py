"""The feature cache: what the frozen parts say, computed once, and batches that can be resumed."""

import dataclasses
import errno
import fcntl
import functools
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import jaxsplit
from jaxsplit import data, load_backbone
from jaxsplit.data import Augmentation, Views
from jaxsplit.data.pipeline import reader
from jaxsplit.errors import ConfigError
from jaxsplit.io import array_cache
from jaxsplit.io.log import no_log
from jaxsplit.train import batches, features

CROPS = Views(2, Augmentation(padding=2, flip=True), seed=3)
NAMES = ["features.bin", "label.bin", "teacher.bin"]
ORDER = [[2, 11, 26, 21, 10, 4, 28, 16], [6, 27, 16, 29, 14, 18, 9, 7]]


class Stop(Exception):
    pass


@pytest.fixture(scope="module")
def source():
    return data.open_source("embedded", split="train", max_samples=30)


@pytest.fixture
def compute(problem, source):
    return functools.partial(features.compute, problem.backbone, problem.split.cut, source)


@pytest.fixture
def small_parts(monkeypatch):
    """Parts of 8 images: 30 images are four of them."""
    monkeypatch.setattr(features, "batch_size", lambda shape, count=None: 8)


@pytest.fixture
def computed(monkeypatch):
    """Every part that the head has run for; set `.stop_at` to a number of parts to stop there."""

    class Parts(list):
        stop_at = None

    seen = Parts()
    run = features.run_parts

    def recorded(*args):
        for part in run(*args):
            if len(seen) == seen.stop_at:
                raise Stop
            seen.append(part[0])
            yield part

    monkeypatch.setattr(features, "run_parts", recorded)
    return seen


def assert_same(ours, theirs):
    for name in ("features", "teacher", "targets", "scale"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


def take(cache, count, batch_size=8, seed=0, start=0, **process):
    return list(itertools.islice(cache.batches(batch_size, seed, start, **process), count))


@pytest.fixture(scope="module")
def plain(problem, source):
    return features.compute(problem.backbone, problem.split.cut, source)


def test_the_cache_holds_what_the_head_and_the_uncut_network_say(problem, source, plain):
    backbone = problem.backbone
    images, labels = data.load_arrays(source, backbone.preprocessing)
    x = backbone.preprocessing.normalize(images)
    direct = jax.jit(problem.split.head)(backbone.variables, x)
    logits = jax.jit(backbone.module.apply)(backbone.variables, x)
    # Programs of other batch sizes: the same to float32.
    np.testing.assert_allclose(plain.features, direct, 1e-5, 1e-5)
    np.testing.assert_allclose(plain.teacher, logits, 1e-4, 1e-4)
    np.testing.assert_array_equal(plain.targets, labels)
    assert plain.features.shape == (30, *problem.split.shape)
    np.testing.assert_allclose(plain.scale, np.square(direct).mean(), rtol=1e-5)


def test_flip_appends_every_image_mirrored(problem, source, compute, plain):
    flipped = compute(views=Views(flip=True))
    images, _ = data.load_arrays(source, problem.backbone.preprocessing)
    mirrored = problem.backbone.preprocessing.normalize(images[:, :, ::-1])
    direct = jax.jit(problem.split.head)(problem.backbone.variables, mirrored)
    np.testing.assert_array_equal(flipped.features[:30], plain.features)
    np.testing.assert_allclose(flipped.features[30:], direct, 1e-5, 1e-5)
    np.testing.assert_array_equal(flipped.targets, [*plain.targets, *plain.targets])
    assert flipped.teacher.shape == (60, 10)


def test_features_of_views_are_those_of_the_augmented_images(problem, source, compute):
    cache = compute(views=CROPS)
    backbone = problem.backbone
    images, labels = data.load_arrays(source, backbone.preprocessing)
    run = jax.jit(problem.split.head)
    for view in range(2):
        seen = CROPS.apply(images, np.arange(30), np.full(30, view))
        direct = run(backbone.variables, backbone.preprocessing.normalize(seen))
        np.testing.assert_allclose(cache.features[30 * view : 30 * view + 30], direct, 1e-4, 1e-4)
    np.testing.assert_array_equal(cache.targets, [*labels, *labels])


# On disk.


def test_features_on_disk_are_used_again(compute, plain, tmp_path, computed):
    first = compute(directory=tmp_path)
    second = compute(directory=tmp_path, views=Views(seed=1))  # nothing random: nothing changes
    assert computed == [0]
    assert isinstance(second.features, np.memmap)
    assert_same(first, plain)
    assert_same(second, plain)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_features_are_the_rounded_ones(compute, plain, tmp_path, dtype):
    kind = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}[dtype]
    for half in (
        compute(dtype=dtype),
        compute(dtype=dtype, directory=tmp_path),
        compute(dtype=dtype, directory=tmp_path),
    ):
        assert half.features.dtype == kind
        np.testing.assert_array_equal(half.features, plain.features.astype(kind))
        np.testing.assert_array_equal(half.teacher, plain.teacher)
        batch = take(half, 1)[0]
        np.testing.assert_array_equal(batch.features, half.features[batch.index])


def test_features_that_their_dtype_cannot_hold_are_refused(problem, source):
    def scaled(factor):
        variables = jax.tree.map(lambda x: x * factor, problem.backbone.variables["params"])
        variables = {**problem.backbone.variables, "params": variables}
        backbone = dataclasses.replace(problem.backbone, variables=variables)
        return functools.partial(features.compute, backbone, problem.split.cut, source)

    large = scaled(np.float32(10))
    with pytest.raises(ConfigError, match=r"don't fit float16: take bfloat16"):
        large(dtype="float16")
    assert np.isfinite(large(dtype="bfloat16").features.astype(np.float32)).all()
    with pytest.raises(ConfigError, match="not finite"):
        scaled(np.float32(np.nan))()


def test_whatever_changes_the_features_changes_their_key(
    problem, source, other_backbone, monkeypatch
):
    cut = problem.split.cut

    def key(cuts=(cut,), backbone=problem.backbone, source=source, views=None, dtype="f4"):
        about = features.HeadRun(backbone, cuts, source, views or Views(), dtype).about
        assert json.loads(json.dumps(about)) == about
        return features.key(about)

    preprocessing = dataclasses.replace(problem.backbone.preprocessing, mean=(0.1,))
    folded = problem.backbone.fold()
    half = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), problem.backbone.variables)
    keys = [
        key(),
        key(cuts=("stem",)),
        key(cuts=("stem", cut)),
        key(cuts=(cut, "stem")),
        key(backbone=other_backbone),
        key(backbone=folded),
        key(backbone=dataclasses.replace(problem.backbone, variables=half)),  # of one fingerprint
        key(backbone=dataclasses.replace(problem.backbone, name="another")),
        key(backbone=dataclasses.replace(problem.backbone, preprocessing=preprocessing)),
        key(source=data.open_source("embedded", split="test", max_samples=30)),
        key(source=data.open_source("embedded", split="train", max_samples=31)),
        key(views=Views(flip=True)),
        key(views=CROPS),
        key(views=dataclasses.replace(CROPS, seed=4)),
        key(views=dataclasses.replace(CROPS, augmentation=Augmentation(padding=1))),
        key(dtype="f2"),
    ]
    assert folded.fingerprint == problem.backbone.fingerprint
    with jax.default_matmul_precision("highest"):
        keys.append(key())
    with monkeypatch.context() as patch:
        patch.setattr(jax, "default_backend", lambda: "gpu")
        keys.append(key())
    assert len(set(keys)) == len(keys)
    assert key() == key()


def damage(folder, kind):
    path = folder / "features.bin"
    content = path.read_bytes()
    manifest = folder / "manifest.json"
    if kind == "short":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "long":
        path.write_bytes(content + b"more")
    elif kind == "missing":
        path.unlink()
    elif kind == "a bit":
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    elif kind == "a label":
        (folder / "label.bin").write_bytes(b"\1" + (folder / "label.bin").read_bytes()[1:])
    elif kind == "teacher":
        (folder / "teacher.bin").write_bytes(b"")
    elif kind == "unknown parts":
        (folder / "parts.txt").unlink()
    elif kind == "foreign":
        changed = {**json.loads(manifest.read_text()), "cut": "elsewhere"}
        manifest.write_text(json.dumps(changed))
    elif kind == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text('{"format": ')


@pytest.mark.parametrize(
    ("kind", "again", "said"),
    [
        ("short", 3, "3 of 4 parts .* are damaged"),
        ("long", 0, None),
        ("missing", 4, "4 of 4 parts .* are damaged"),
        ("a bit", 1, "1 of 4 parts .* are damaged"),
        ("a label", 1, "1 of 4 parts .* are damaged"),
        ("teacher", 4, "4 of 4 parts .* are damaged"),
        ("unknown parts", 4, None),
        ("foreign", 4, r"another setting \(cut differ\)"),
        ("no manifest", 4, "lack their manifest"),
        ("half a manifest", 4, "damaged manifest"),
    ],
)
def test_what_is_not_whole_or_not_ours_is_computed_again_and_nothing_else(
    compute, plain, tmp_path, small_parts, computed, kind, again, said
):
    compute(directory=tmp_path)
    (folder,) = tmp_path.iterdir()
    before = {name: (folder / name).read_bytes() for name in NAMES}
    damage(folder, kind)
    computed.clear()
    told = []
    cache = compute(directory=tmp_path, log=told.append)
    assert len(computed) == again
    assert {name: (folder / name).read_bytes() for name in NAMES} == before
    np.testing.assert_allclose(cache.features, plain.features, 1e-5, 1e-5)
    if said:
        assert re.search(said, told[0])
    computed.clear()
    told.clear()
    compute(directory=tmp_path, log=told.append)
    assert (computed, told) == ([], [])


@pytest.mark.parametrize("done", [0, 1, 5])
def test_a_stopped_build_goes_on_to_the_same_bytes(compute, tmp_path, small_parts, computed, done):
    compute = functools.partial(compute, views=CROPS)
    whole = compute(directory=tmp_path / "whole")
    computed.clear()
    computed.stop_at = done
    with pytest.raises(Stop):
        compute(directory=tmp_path / "stopped")
    (folder,) = (tmp_path / "stopped").iterdir()
    with open(folder / "parts.txt", "a") as file:
        file.write("7 00")  # a killed process may leave half a line
    computed.stop_at = None
    told = []
    assert_same(compute(directory=tmp_path / "stopped", log=told.append), whole)
    assert sorted(computed) == list(range(8))
    assert any(f"{done} of 8 parts" in text for text in told) == (done > 0)
    (other,) = (tmp_path / "whole").iterdir()
    assert folder.name == other.name
    for path in other.iterdir():
        assert sorted((folder / path.name).read_bytes()) == sorted(path.read_bytes())
        if path.suffix == ".bin":
            assert (folder / path.name).read_bytes() == path.read_bytes()


KILLED = """
import os, pathlib, signal, sys
from jaxsplit.io import array_cache
from jaxsplit.io.log import no_log
from test_features import embedded
write, written = array_cache.ArrayCache.write, []
def counted(*args):
    write(*args)
    written.append(args)
    if len(written) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
array_cache.ArrayCache.write = counted
embedded(pathlib.Path(sys.argv[1]))
"""


def embedded(directory, **options):
    backbone = load_backbone("fashion_mnist_resnet8")
    source = data.open_source("embedded", split="train", max_samples=600)
    return features.compute(backbone, "stage1.block1", source, directory=directory, **options)


@pytest.mark.slow
def test_a_killed_build_goes_on_to_the_same_bytes(tmp_path, computed):
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(jaxsplit.__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "killed")],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    resumed = embedded(tmp_path / "killed")
    assert computed == [2]
    assert_same(resumed, embedded(None))


def test_two_builds_at_once_compute_everything_once(compute, tmp_path, small_parts, computed):
    caches = []

    def build():
        caches.append(compute(directory=tmp_path))

    threads = [threading.Thread(target=build) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert computed == [0, 1, 2, 3]
    assert_same(caches[0], caches[1])
    assert_same(caches[0], caches[2])


def test_a_build_waits_for_another_process_and_says_so(compute, tmp_path, computed):
    compute(directory=tmp_path)
    (folder,) = tmp_path.iterdir()
    waiting = threading.Event()
    caches = []
    with open(folder / "lock", "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # of another open file: as another process would
        thread = threading.Thread(
            target=lambda: caches.append(
                compute(directory=tmp_path, log=lambda text: "waiting" in text and waiting.set())
            )
        )
        thread.start()
        assert waiting.wait(30)
        assert not caches
    thread.join(30)
    assert len(caches) == 1


def test_images_are_decoded_once_for_all_views_and_a_part_at_a_time(
    compute, source, plain, monkeypatch, small_parts
):
    asked = []
    examples = data.Source.examples

    def counted(self, indices):
        asked.append(list(indices))
        return examples(self, indices)

    monkeypatch.setattr(data.Source, "examples", counted)
    monkeypatch.setattr(features, "reader", functools.partial(reader, memory_limit=0))
    cache = compute(views=CROPS)
    assert max(map(len, asked)) <= 8
    assert sorted(itertools.chain(*asked)) == list(range(30))
    monkeypatch.undo()
    np.testing.assert_allclose(cache.features, compute(views=CROPS).features, 1e-5, 1e-5)


# Room.


def test_features_that_are_too_large_are_refused_with_the_ways_out(compute, tmp_path):
    for options in ({"cache": "disk", "directory": tmp_path}, {"cache": "memory"}):
        with pytest.raises(ConfigError, match=r"30 examples.* take .* limit is .*float16") as error:
            compute(max_bytes=1000, **options)
        assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("on_disk", [True, False])
def test_features_that_are_too_large_leave_the_head_in_the_step(compute, tmp_path, on_disk):
    told = []
    directory = tmp_path if on_disk else None
    found = compute(max_bytes=1000, directory=directory, log=told.append)
    assert isinstance(found, batches.ImageBatches)
    assert len(told) == 1
    assert "head will run in every step" in told[0]
    assert not list(tmp_path.iterdir())


def test_a_disk_without_room_is_known_before_it_is_filled(compute, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(features.shutil, "disk_usage", lambda path: usage(2**40, 2**40, 2**30))
    with pytest.raises(ConfigError, match="free in ") as error:
        compute(cache="disk", directory=tmp_path / "new" / "folder")
    assert f"1 GiB are free in {tmp_path} and 1 GiB must stay free" in str(error.value)
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    compute(directory=tmp_path)
    monkeypatch.setattr(features.shutil, "disk_usage", lambda path: usage(2**40, 2**40, 0))
    compute(cache="disk", directory=tmp_path)  # what is there needs no more room


def test_a_disk_that_fills_up_is_an_error_of_one_line(
    compute, tmp_path, monkeypatch, small_parts, computed
):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def refuse(*args):
        raise full

    with monkeypatch.context() as patch:
        patch.setattr(array_cache.os, "posix_fallocate", refuse)
        with pytest.raises(ConfigError, match="No space left on device") as error:
            compute(directory=tmp_path)
        assert "\n" not in str(error.value)
        (folder,) = tmp_path.iterdir()
        assert [path.name for path in folder.iterdir()] == ["lock"]
    write = array_cache.ArrayCache.write
    with monkeypatch.context() as patch:
        patch.setattr(
            array_cache.ArrayCache,
            "write",
            lambda self, part, *rest: refuse() if part == 2 else write(self, part, *rest),
        )
        with pytest.raises(ConfigError, match="No space left on device"):
            compute(directory=tmp_path)
    computed.clear()
    compute(directory=tmp_path)
    assert computed == [2, 3]


@pytest.mark.parametrize("cache", ["auto", "disk"])
def test_a_file_where_features_should_go_is_an_error_of_one_line(compute, tmp_path, cache):
    file = tmp_path / "features"
    file.write_text("")
    for directory in (file, file / "below"):
        with pytest.raises(ConfigError, match=r"features is a file; move it away") as error:
            compute(cache=cache, directory=directory)
        assert "\n" not in str(error.value)
    compute(directory=tmp_path / "kept")
    (folder,) = (tmp_path / "kept").iterdir()
    shutil.rmtree(folder)
    folder.write_text("")
    with pytest.raises(ConfigError, match=rf"{folder.name} is a file; move it away"):
        compute(cache=cache, directory=folder.parent)


def test_arguments_that_do_not_fit_are_refused(compute):
    for options in ({"dtype": "int8"}, {"cache": "tape"}, {"cache": "disk"}):
        with pytest.raises(ConfigError):
            compute(**options)


# Batches.


def test_an_epoch_shows_every_example_at_most_once_with_what_belongs_to_it(plain):
    seen = []
    for batch in take(plain, 3):
        index = batch.index
        np.testing.assert_array_equal(batch.features, plain.features[index])
        np.testing.assert_array_equal(batch.teacher, plain.teacher[index])
        np.testing.assert_array_equal(batch.targets, plain.targets[index])
        assert index.dtype == np.int32
        seen.extend(index.tolist())
    assert len(set(seen)) == 24
    whole = take(plain, 3, batch_size=10)
    assert sorted(np.concatenate([batch.index for batch in whole])) == list(range(30))


def test_batches_depend_on_seed_and_step_alone(plain):
    def indices(seed, start=0):
        return [batch.index.tolist() for batch in take(plain, 7, seed=seed, start=start)]

    assert indices(0) == indices(0)
    assert indices(0) != indices(1)
    assert indices(0)[:3] != indices(0)[3:6]  # another order in the next epoch
    assert indices(0, start=2)[:5] == indices(0)[2:]


def test_the_order_is_that_of_version_0_1(plain):
    """A training that is resumed by a later version sees what it would have seen."""
    assert take(plain, 1)[0].index.tolist() == ORDER[0]
    assert take(plain, 1, seed=5, start=4)[0].index.tolist() == ORDER[1]


@pytest.fixture(scope="module")
def cacheless(problem, source):
    return features.compute(problem.backbone, problem.split.cut, source, cache="none")


def test_fewer_examples_than_a_batch_are_refused_in_one_line(plain, cacheless):
    for cache in (plain, cacheless):
        for size in (31, 0, -1):
            with pytest.raises(ConfigError, match=rf"^30 .*batch of {size}") as error:
                next(cache.batches(size, seed=0))
            assert "\n" not in str(error.value)


def test_the_shares_of_all_processes_are_the_batch_of_one(plain, cacheless):
    for cache in (plain, cacheless):
        whole = take(cache, 5, start=1)
        shares = [take(cache, 5, start=1, process_index=i, process_count=4) for i in range(4)]
        for batch, *parts in zip(whole, *shares, strict=True):
            joined = jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
            jax.tree.map(np.testing.assert_array_equal, joined, batch)
            assert {len(array) for array in jax.tree.leaves(parts[0])} == {2}
            assert len(jax.tree.leaves(batch)) == (4 if cache is plain else 3)
        with pytest.raises(ConfigError, match="nearest size that does is 9"):
            take(cache, 1, process_count=3)
        with pytest.raises(ConfigError, match="process 2 of 2"):
            take(cache, 1, process_index=2, process_count=2)


def test_without_a_cache_the_same_examples_come_as_images(problem, compute):
    cache, cacheless = compute(views=CROPS), compute(views=CROPS, cache="none")
    backbone = problem.backbone
    np.testing.assert_allclose(cacheless.scale, cache.scale, rtol=1e-6)
    run = jax.jit(problem.split.head)
    for ours, theirs in zip(take(cacheless, 12, start=3), take(cache, 12, start=3), strict=True):
        assert ours.images.dtype == np.uint8
        x = run(backbone.variables, backbone.preprocessing.normalize(ours.images))
        np.testing.assert_allclose(x, theirs.features, 1e-4, 1e-4)
        for name in ("targets", "index"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
            assert getattr(ours, name).dtype == getattr(theirs, name).dtype


def test_images_that_do_not_fit_in_memory_stream_in_the_same_order(cacheless, monkeypatch):
    kept = take(cacheless, 5, start=2)
    monkeypatch.setattr(batches, "reader", functools.partial(reader, memory_limit=0))
    for ours, theirs in zip(take(cacheless, 5, start=2), kept, strict=True):
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    np.testing.assert_array_equal(take(cacheless, 3, start=4)[0].images, kept[2].images)


def test_a_sample_is_spread_and_small():
    for count in (1, 30, 999, 1999, 2000, 12_345, 1_281_167):
        rows = batches.sample_rows((count, 7, 7, 2048))
        assert len(rows) <= min(count, 2**28 // (4 * 7 * 7 * 2048)) < 2000
        assert rows[0] == 0
        assert rows[-1] >= count * 0.998 - 1
    np.testing.assert_array_equal(batches.sample_rows((6000, 2)), np.arange(0, 6000, 6))


def test_a_sample_of_many_views_has_every_image():
    for images, views in ((400, 10), (401, 10), (3, 4000)):
        rows = batches.sample_rows((images * views, 7, 7, 192), views)
        assert len(set(rows)) == len(rows) <= 1000 + views
        assert set(rows % images) == set(range(images))
    # Where there is room for fewer, each is of another image.
    assert len(set(batches.sample_rows((50_000, 2), 10) % 5000)) == 1000


# At several cuts.

CUTS = ("stage1.block1", "stage3.block1")


def cached_at(backbone, cuts, source, directory, dtype="float16", log=no_log):
    run = features.HeadRun(backbone, cuts, source, Views(), dtype, log)
    return features.cached(run, directory, "disk", features.MAX_BYTES)


@pytest.fixture
def compute_at_cuts(problem, source):
    return functools.partial(cached_at, problem.backbone, CUTS, source)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_features_at_several_cuts_are_those_of_each_cut(problem, source, tmp_path, dtype):
    found = cached_at(problem.backbone, CUTS, source, tmp_path, dtype)
    assert tuple(found) == CUTS
    for cut, cache in found.items():
        alone = features.compute(problem.backbone, cut, source, dtype=dtype)
        assert cache.features.dtype == dtype
        # One program of all cuts: the same to float32.
        within = {"float32": 1e-5, "float16": 1e-3}[dtype]
        np.testing.assert_allclose(cache.features, alone.features, within, within)
        np.testing.assert_allclose(cache.teacher, alone.teacher, 1e-4, 1e-4)
        np.testing.assert_array_equal(cache.targets, alone.targets)
        np.testing.assert_allclose(cache.scale, alone.scale, rtol=1e-3)
    first, second = found.values()
    assert first.teacher is second.teacher
    assert first.targets is second.targets


def test_features_at_several_cuts_are_found_again(compute_at_cuts, tmp_path, computed):
    first = compute_at_cuts(directory=tmp_path)
    told = []
    second = compute_at_cuts(directory=tmp_path, log=told.append)
    assert computed == [0]
    assert not told
    for cut in CUTS:
        assert isinstance(second[cut].features, np.memmap)
        assert second[cut].features.dtype == np.float16
        assert_same(first[cut], second[cut])


@pytest.mark.parametrize(
    ("name", "change", "again"),
    [
        ("manifest.json", lambda content: b"{", 4),
        ("manifest.json", lambda content: b"[]", 4),
        ("manifest.json", None, 4),
        ("parts.txt", lambda content: b"", 4),
        ("label.bin", lambda content: b"", 4),
        ("teacher.bin", lambda content: content[:500], 3),
        ("features-stage3.block1.bin", lambda content: b"something else", 4),
        ("features-stage3.block1.bin", lambda content: content[: len(content) // 2], 3),
        ("features-stage1.block1.bin", lambda content: content[:-1] + b"\xff", 1),
    ],
)
def test_a_damaged_array_of_any_cut_is_computed_again(
    compute_at_cuts, tmp_path, small_parts, computed, name, change, again
):
    whole = compute_at_cuts(directory=tmp_path)
    (folder,) = tmp_path.iterdir()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    path = folder / name
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(before[name]))
    computed.clear()
    told = []
    repaired = compute_at_cuts(directory=tmp_path, log=told.append)
    assert len(computed) == again
    assert told
    assert list(tmp_path.iterdir()) == [folder]
    for cut in CUTS:
        assert_same(repaired[cut], whole[cut])
    for path in folder.iterdir():
        if path.suffix == ".bin":
            assert path.read_bytes() == before[path.name]


def test_a_stopped_build_of_several_cuts_is_resumed(
    compute_at_cuts, tmp_path, small_parts, computed
):
    whole = compute_at_cuts(directory=tmp_path / "whole")
    computed.clear()
    computed.stop_at = 2
    with pytest.raises(Stop):
        compute_at_cuts(directory=tmp_path / "stopped")
    computed.stop_at = None
    resumed = compute_at_cuts(directory=tmp_path / "stopped")
    assert computed == [0, 1, 2, 3]
    for cut in CUTS:
        assert_same(resumed[cut], whole[cut])


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="there is no such call here")
def test_a_full_disk_is_one_line_before_any_cut_is_computed(
    compute_at_cuts, tmp_path, computed, monkeypatch
):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ConfigError, match="No space left on device; make room") as error:
        compute_at_cuts(directory=tmp_path)
    assert "\n" not in str(error.value)
    assert not computed
    (folder,) = tmp_path.iterdir()
    assert [path.name for path in folder.iterdir()] == ["lock"]


def test_without_such_a_call_the_free_space_is_looked_up(compute_at_cuts, tmp_path, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(ConfigError, match="free in "):
        compute_at_cuts(directory=tmp_path)


def test_a_cut_whose_features_float16_cannot_hold_is_named(problem, source, tmp_path):
    def scaled(name, x):
        return x * np.float32(1e5) if "stage3" in jax.tree_util.keystr(name) else x

    params = jax.tree_util.tree_map_with_path(scaled, problem.backbone.variables["params"])
    variables = {**problem.backbone.variables, "params": params}
    backbone = dataclasses.replace(problem.backbone, variables=variables)
    cached_at(backbone, CUTS[:1], source, directory=tmp_path)
    with pytest.raises(ConfigError, match=r"at stage3\.block1 .*don't fit float16"):
        cached_at(backbone, CUTS, source, directory=tmp_path)
