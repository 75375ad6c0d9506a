"""Sources: the embedded set, prepared TFDS datasets, folders, and their errors."""

import hashlib
import importlib
import io
import os
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from jaxsplit.data import (
    Preprocessing,
    batches,
    decode_image,
    load_arrays,
    open_source,
    prepare,
    spread,
)
from jaxsplit.data.sources import DATASETS, EMBEDDED, portable_name
from jaxsplit.data.tfds_records import find_prepared
from jaxsplit.errors import DataError, JaxsplitWarning

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
# Digests of the uint8 pixels and labels, in order.
GOLDEN = {
    "train": (6000, "d04919469196668f12166573f4fcda126a24fd2c8f6ff98de0861dadc433b74f"),
    "test": (2000, "8e8b02fc2db0ff9ed2d481ff30f8bd7cc5c88205cb131d7f4a0c19448f6957c9"),
}

needs_debian = pytest.mark.skipif(
    not DEBIAN.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed"
)


def arrays(source):
    examples = source.__getitems__(range(len(source)))
    images = np.stack([example["image"] for example in examples])
    return images, np.array([example["label"] for example in examples])


def save(path, array_or_colour, size=(6, 5), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(array_or_colour, np.ndarray):
        image = Image.fromarray(array_or_colour)
    else:
        image = Image.new("RGB", size, array_or_colour)
    image.save(path, **options)


def assert_one_line(error, *parts):
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message


@pytest.fixture
def unwarned(monkeypatch):
    monkeypatch.setattr("jaxsplit.errors._WARNED", set())


@pytest.fixture
def folder(tmp_path):
    """train: cat 3, dog 2; test: dog 2. Image k of a class has grey level 10 k."""
    for split, name, count in (("train", "cat", 3), ("train", "dog", 2), ("test", "dog", 2)):
        for k in range(count):
            save(tmp_path / "images" / split / name / f"{k}.png", (10 * k,) * 3)
    return tmp_path / "images"


@pytest.fixture(scope="session")
def fashion():
    """The script that wrote the embedded set."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent.parent / "benchmarks")
        yield importlib.import_module("fashion_mnist")


@pytest.fixture(scope="module")
def miniature(tmp_path_factory, fashion):
    """A TFDS data_dir with `tiny/1.0.0` and `tiny/2.0.0`, the same but for the pixels."""
    root = tmp_path_factory.mktemp("tfds")
    for version, level in (("1.0.0", 10), ("2.0.0", 20)):
        png = fashion.encode_png(np.full((4, 4), level, np.uint8))
        examples = [(png, label) for label in (0, 1, 2, 0, 1, 0)]
        splits = {"train": examples, "validation": examples[:4]}
        fashion.write_prepared(root, "tiny", version, splits, ("a", "b", "c"), (4, 4, 1))
    return root


# The embedded set.


@pytest.mark.parametrize("split", ["train", "test"])
def test_embedded_is_balanced_and_unchanged(split, fashion):
    count, digest = GOLDEN[split]
    source = open_source("embedded", split)
    images, labels = arrays(source)
    assert images.shape == (count, 28, 28, 1)
    assert images.dtype == np.uint8
    assert np.bincount(labels).tolist() == [count // 10] * 10
    assert source.class_names == fashion.CLASS_NAMES
    np.testing.assert_array_equal(labels, source.labels)
    assert (
        hashlib.sha256(images.tobytes() + labels.astype(np.uint8).tobytes()).hexdigest() == digest
    )


def test_embedded_is_small_and_says_where_it_comes_from():
    assert sum(file.stat().st_size for file in DATASETS.rglob("*") if file.is_file()) < 8e6
    card = (DATASETS / "README.md").read_text()
    for part in ("dataset-fashion-mnist", "Zalando SE", "Permission is hereby granted", "--idx"):
        assert part in card


def test_embedded_is_read_by_tfds_alone_and_by_neither_with_tensorflow():
    code = f"""
import sys
import tensorflow_datasets as tfds
from jaxsplit.data import Preprocessing, batches, open_source
builder = tfds.builder_from_directory({str(DATASETS / EMBEDDED / "1.0.0")!r})
theirs = builder.as_data_source("test")
ours = open_source("embedded")
for i in (0, 1999):
    assert (theirs[i]["image"] == ours[i]["image"]).all()
    assert theirs[i]["label"] == ours[i]["label"]
next(batches(ours, Preprocessing((28, 28), 1), 8, seed=0))
assert "tensorflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=DATASETS.parents[2])


def test_importing_data_is_quick():
    slow = {"jax", "grain", "tensorflow_datasets"}
    code = f"import sys, jaxsplit.data; print(*({slow} & set(sys.modules)))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, cwd=DATASETS.parents[2]
    )
    assert loaded.stdout.split() == []


@needs_debian
def test_embedded_is_a_part_of_debians_package(fashion):
    for split, (count, _) in GOLDEN.items():
        all_images, all_labels = fashion.read_idx(DEBIAN, split)
        chosen = spread(all_labels, count)
        images, labels = arrays(open_source("embedded", split))
        np.testing.assert_array_equal(images[..., 0], all_images[chosen])
        np.testing.assert_array_equal(labels, all_labels[chosen])


@needs_debian
def test_embedded_is_rebuilt_to_the_byte(tmp_path, capsys, fashion):
    arguments = ["--idx", str(DEBIAN), "--out", str(tmp_path), "--train", "6000", "--test", "2000"]
    assert fashion.main(arguments) == 0
    rebuilt = Path(capsys.readouterr().out.strip())
    shipped = DATASETS / EMBEDDED / "1.0.0"
    assert sorted(file.name for file in rebuilt.iterdir()) == sorted(
        file.name for file in shipped.iterdir()
    )
    for file in rebuilt.iterdir():
        assert file.read_bytes() == (shipped / file.name).read_bytes(), file.name


def test_the_full_set_is_found_as_tfds_fashion_mnist(tmp_path, capsys, fashion):
    rng = np.random.default_rng(0)
    for stem in ("train", "t10k"):  # a full set of idx files, tiny
        for suffix, array in (
            ("images-idx3", rng.integers(0, 256, (20, 28, 28), np.uint8)),
            ("labels-idx1", np.arange(20, dtype=np.uint8) % 10),
        ):
            header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
            (tmp_path / f"{stem}-{suffix}-ubyte").write_bytes(header + array.tobytes())
    out = tmp_path / "data"
    assert fashion.main(["--idx", str(tmp_path), "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip().endswith("fashion_mnist/3.0.1")
    for split in ("train", "test"):
        images, labels = arrays(open_source("tfds:fashion_mnist", split, out))
        expected_images, expected_labels = fashion.read_idx(tmp_path, split)
        np.testing.assert_array_equal(images[..., 0], expected_images)
        np.testing.assert_array_equal(labels, expected_labels)
    assert len(tfds.builder("fashion_mnist", data_dir=out).as_data_source("train")) == 20


@pytest.mark.parametrize("damage", ["missing", "short", "not idx"])
def test_bad_idx_files_are_named(tmp_path, damage, capsys, fashion):
    good = bytes((0, 0, 8, 3)) + np.array((1, 28, 28), ">u4").tobytes() + bytes(784)
    if damage != "missing":
        data = good[:-1] if damage == "short" else b"\x89PNG" + good
        (tmp_path / "train-images-idx3-ubyte").write_bytes(data)
    assert fashion.main(["--idx", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "train-images-idx3-ubyte" in error
    assert error.count("\n") == 1


# Limits.


def test_limit_is_even_deterministic_nested_and_in_order():
    whole = open_source("embedded")
    small, large = open_source("embedded", max_samples=25), open_source("embedded", max_samples=100)
    assert len(small) == 25
    assert set(np.bincount(small.labels)) == {2, 3}
    assert set(np.bincount(large.labels)) == {10}
    assert small.fingerprint == open_source("embedded", max_samples=25).fingerprint
    assert len({s.fingerprint for s in (whole, small, large)}) == 3
    assert open_source("embedded", max_samples=10**6).fingerprint == whole.fingerprint
    chosen = spread(whole.labels, 25)
    assert set(chosen) < set(spread(whole.labels, 100))
    assert np.all(np.diff(chosen) > 0)
    for i in (0, 24, -1):
        np.testing.assert_array_equal(small[i]["image"], whole[int(chosen[i])]["image"])
    with pytest.raises(IndexError):
        small[25]
    with pytest.raises(DataError):
        open_source("embedded", max_samples=0)


@pytest.mark.parametrize("count", range(8))
def test_spread_fills_up_where_a_class_runs_out(count):
    labels = np.array([2, 2, 2, 2, 0, 0, 1])
    counts = np.bincount(labels[spread(labels, count)], minlength=3)
    assert counts.sum() == count
    # Balanced: a class has fewer than another only if it has no more.
    available = np.bincount(labels)
    assert all(c >= counts.max() - 1 or c == a for c, a in zip(counts, available, strict=True))


# Prepared TFDS datasets.


def test_a_prepared_dataset_is_read_newest_version_first(miniature):
    source = open_source("tfds:tiny", data_dir=miniature)
    assert (source.split, len(source), source.class_names) == ("validation", 4, ("a", "b", "c"))
    assert source.labels.tolist() == [0, 1, 2, 0]
    assert source[0]["image"].tolist() == np.full((4, 4, 1), 20).tolist()
    old = open_source("tfds:tiny:1.0.0", "train", data_dir=miniature)
    assert old[5]["image"][0, 0, 0] == 10
    assert old.fingerprint != open_source("tfds:tiny", "train", data_dir=miniature).fingerprint


def test_data_dir_defaults_to_that_of_tfds(miniature, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(miniature))
    assert len(open_source("tfds:tiny", "train")) == 6


def test_configs_are_found_and_asked_for(tmp_path, fashion):
    png = fashion.encode_png(np.zeros((4, 4), np.uint8))
    for config in ("large", "small"):
        fashion.write_prepared(
            tmp_path / "made", config, "1.0.0", {"train": [(png, 0)]}, ("a",), (4, 4, 1)
        )
    with pytest.raises(DataError) as error:
        find_prepared("made", tmp_path)
    assert_one_line(error, "large, small")
    assert find_prepared("made/small", tmp_path) == tmp_path / "made" / "small" / "1.0.0"
    (tmp_path / "made" / ".config").mkdir()
    (tmp_path / "made" / ".config" / "metadata.json").write_text('{"default_config_name": "large"}')
    assert find_prepared("made", tmp_path) == tmp_path / "made" / "large" / "1.0.0"
    assert find_prepared("made:3.0.0", tmp_path) is None


def test_mock_data_of_tfds_works(miniature):
    policy = tfds.testing.MockPolicy.USE_FILES
    with tfds.testing.mock_data(num_examples=7, policy=policy, data_dir=str(miniature)):
        source = open_source("tfds:tiny", "train", data_dir=miniature)
        assert len(source) == 7
        assert source[3]["image"].shape == (4, 4, 1)
        assert [example["label"] for example in source] == source.labels.tolist()


@pytest.mark.parametrize("policy", ["AUTO", "USE_CODE"])
def test_mock_data_of_tfds_works_with_nothing_on_disk(tmp_path, monkeypatch, policy):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with tfds.testing.mock_data(num_examples=3, policy=tfds.testing.MockPolicy[policy]):
        source = open_source("tfds:cifar10", "train")
        assert (source.name, len(source), source.split) == ("tfds:cifar10", 3, "train")
        assert source[0]["image"].shape == (32, 32, 3)
        assert source[0]["image"].dtype == np.uint8
        assert len(source.class_names) == 10
        assert [example["label"] for example in source] == source.labels.tolist()
        assert source.fingerprint == open_source("tfds:cifar10", "train").fingerprint
        (batch,) = batches(source, Preprocessing((32, 32), 3), 3)
        assert batch["label"].tolist() == source.labels.tolist()
        assert open_source("tfds:imagenette/160px-v2").split == "test"
        with pytest.raises(DataError, match="no such dataset"):
            open_source("tfds:fashon_mnist")
    monkeypatch.setattr(prepare, "_has_tensorflow", lambda: False)
    with pytest.raises(DataError, match="is not prepared"):
        open_source("tfds:cifar10", "train")


def test_a_source_is_named_with_the_config_that_was_taken(tmp_path, fashion):
    png = fashion.encode_png(np.zeros((4, 4), np.uint8))
    made = tmp_path / "imagenette"
    fashion.write_prepared(made, "160px-v2", "1.0.0", {"train": [(png, 0)]}, ("a",), (4, 4, 1))
    (made / ".config").mkdir()
    (made / ".config" / "metadata.json").write_text('{"default_config_name": "full-size-v2"}')
    for name in ("tfds:imagenette", "tfds:imagenette/160px-v2"):
        assert open_source(name, data_dir=tmp_path).name == "tfds:imagenette/160px-v2"
    versioned = open_source("tfds:imagenette:1.0.0", data_dir=tmp_path, max_samples=1)
    assert versioned.name == "tfds:imagenette/160px-v2:1.0.0"
    fashion.write_prepared(made, "320px-v2", "1.0.0", {"train": [(png, 0)]}, ("a",), (4, 4, 1))
    with pytest.raises(DataError) as error:
        open_source("tfds:imagenette", data_dir=tmp_path)
    assert_one_line(error, "160px-v2, 320px-v2")
    fashion.write_prepared(made, "full-size-v2", "1.0.0", {"train": [(png, 0)]}, ("a",), (4, 4, 1))
    assert open_source("tfds:imagenette", data_dir=tmp_path).name == "tfds:imagenette/full-size-v2"


@pytest.mark.parametrize(
    ("name", "hint"),
    [("cifar10", "python -m jaxsplit.data.prepare cifar10"), ("fashon_mnist", "fashion_mnist?")],
)
def test_an_unprepared_dataset_ends_at_once_in_one_line(tmp_path, monkeypatch, name, hint):
    monkeypatch.setattr(prepare, "_has_tensorflow", lambda: False)
    start = time.monotonic()
    with pytest.raises(DataError) as error:
        open_source(f"tfds:{name}", data_dir=tmp_path)
    assert time.monotonic() - start < 10
    assert_one_line(error, name, tmp_path, hint)


def test_an_unprepared_dataset_says_nothing_else(tmp_path):
    """TFDS's builder of coco needs TensorFlow and prints a banner without it."""
    code = f"""
from jaxsplit.data import open_source, prepare
from jaxsplit.errors import DataError
prepare._has_tensorflow = lambda: False
try:
    open_source("tfds:coco", "train", data_dir={str(tmp_path)!r})
except DataError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=DATASETS.parents[2],
    )
    assert done.stderr == ""
    assert done.stdout.startswith("tfds:coco is not prepared")
    assert done.stdout.count("\n") == 1


def test_preparing_needs_tensorflow(monkeypatch, capsys):
    monkeypatch.setattr(prepare, "_has_tensorflow", lambda: False)
    assert prepare.main(["cifar10"]) == 2
    error = capsys.readouterr().err
    assert "jaxsplit[prepare]" in error
    assert error.count("\n") == 1


def test_the_subprocess_prepares_array_records_or_says_why_not(tmp_path, monkeypatch, capsys):
    """The calls into TFDS, which itself needs TensorFlow and the network."""
    asked = []

    class Builder:
        data_dir = "where it went"

        def download_and_prepare(self, **options):
            asked.append(options)
            if fails:
                raise ConnectionError("no\nnetwork")

    def builder(name, **options):
        asked.append((name, options))
        return Builder()

    monkeypatch.setattr(prepare, "_has_tensorflow", lambda: True)
    monkeypatch.setattr("tensorflow_datasets.builder", builder)
    form = {"file_format": "array_record"}
    for fails in (False, True):
        assert prepare.main(["cifar10", "--data-dir", str(tmp_path)]) == (2 if fails else 0)
        assert asked == [("cifar10", {"data_dir": str(tmp_path), **form}), form]
        asked.clear()
        out, err = capsys.readouterr()
        assert (out, err) == (
            ("", "cifar10 was not prepared: no network\n") if fails else ("where it went\n", "")
        )
    assert prepare.main(["fashon_mnist"]) == 2
    assert "did you mean fashion_mnist" in capsys.readouterr().err
    assert not asked


def test_with_tensorflow_a_dataset_is_prepared_in_a_subprocess(tmp_path, monkeypatch, fashion):
    """TensorFlow is too large for the tests: the subprocess is mocked, its command checked."""

    def play(command, **options):
        options.pop("check")
        assert options == {"stdout": 2}
        assert command[1:] == ["-m", prepare.__name__, "cifar10", "--data-dir", str(tmp_path)]
        png = fashion.encode_png(np.zeros((4, 4), np.uint8))
        if succeeds:
            fashion.write_prepared(
                tmp_path, "cifar10", "3.0.2", {"train": [(png, 0)]}, ("a",), (4, 4, 1)
            )
        return subprocess.CompletedProcess(command, 0 if succeeds else 1)

    monkeypatch.setattr(prepare, "_has_tensorflow", lambda: True)
    monkeypatch.setattr(prepare.subprocess, "run", play)
    succeeds = False
    with pytest.raises(DataError) as error:
        open_source("tfds:cifar10", data_dir=tmp_path)
    assert_one_line(error, "cifar10")
    succeeds = True
    assert len(open_source("tfds:cifar10", data_dir=tmp_path)) == 1


@pytest.mark.parametrize(
    "file", ["dataset_info.json", "features.json", "tiny-train.array_record-*"]
)
@pytest.mark.parametrize("damage", ["emptied", "cut"])
def test_a_damaged_dataset_is_named_in_one_line(miniature, tmp_path, file, damage):
    folder = shutil.copytree(miniature / "tiny" / "1.0.0", tmp_path / "tiny" / "1.0.0")
    (path,) = folder.glob(file)
    data = path.read_bytes()
    path.write_bytes(b"" if damage == "emptied" else data[: len(data) // 2])
    with pytest.raises(DataError) as error:
        arrays(open_source("tfds:tiny", "train", tmp_path))
    assert_one_line(error, "tiny")


def test_a_dataset_without_labels_is_refused(miniature, tmp_path):
    folder = shutil.copytree(miniature / "tiny" / "1.0.0", tmp_path / "tiny" / "1.0.0")
    features = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(4, 4, 1))})
    features.save_config(folder)
    with pytest.raises(DataError) as error:
        open_source("tfds:tiny", "train", data_dir=tmp_path)
    assert_one_line(error, "tfds:tiny", "class label")


# Folders.


def test_folders_are_classes(folder):
    source = open_source(f"folder:{folder}", "train")
    assert source.class_names == ("cat", "dog")
    assert source.labels.tolist() == [0, 0, 0, 1, 1]
    assert source[2]["image"].tolist() == np.full((5, 6, 3), 20).tolist()
    test = open_source(f"folder:{folder}")
    assert (test.split, test.labels.tolist()) == ("test", [1, 1])  # numbered as in train


def test_a_folder_without_splits(folder):
    source = open_source(f"folder:{folder / 'train'}")
    assert (source.split, len(source)) == ("all", 5)
    with pytest.raises(DataError) as error:
        open_source(f"folder:{folder / 'train'}", "dev")
    assert_one_line(error, "'dev'", "all")


def test_classes_txt_fixes_the_order_and_allows_for_missing_ones(folder):
    (folder / "classes.txt").write_text("dog\nowl\ncat\n\n")
    source = open_source(f"folder:{folder}", "train")
    assert source.class_names == ("dog", "owl", "cat")
    assert source.labels.tolist() == [0, 0, 2, 2, 2]
    (folder / "classes.txt").write_text("dog\n")
    with pytest.raises(DataError) as error:
        open_source(f"folder:{folder}", "train")
    assert_one_line(error, "classes.txt", "cat")
    (folder / "classes.txt").write_text("dog\ncat\ndog\n")
    with pytest.raises(DataError, match="twice"):
        open_source(f"folder:{folder}", "train")


def test_a_folder_holds_all_classes_of_the_embedded_set(tmp_path):
    """Folder names have no slash: `T-shirt/top` is read from `T-shirt_top`."""
    embedded = open_source("embedded", max_samples=20)
    (tmp_path / "classes.txt").write_text("\n".join(embedded.class_names))
    for index, example in enumerate(embedded):
        name = embedded.class_names[example["label"]].replace("/", "_")
        save(tmp_path / "test" / name / f"{index:02}.png", example["image"][..., 0])
    source = open_source(f"folder:{tmp_path}")
    assert source.class_names == embedded.class_names
    assert np.bincount(source.labels).tolist() == [2] * 10
    assert (tmp_path / "test" / "T-shirt_top").is_dir()
    order = np.argsort(embedded.labels, kind="stable")
    np.testing.assert_array_equal(arrays(source)[0], arrays(embedded)[0][order])
    (tmp_path / "classes.txt").write_text("a/b\na_b\n")
    with pytest.raises(DataError, match="twice"):
        open_source(f"folder:{tmp_path}")


def test_names_of_files_are_bytes(folder, tmp_path):
    """Latin-1 names give records that are text, and change with the bytes."""
    name, split = (os.fsdecode(text) for text in (b"caf\xe9", b"t\xe9st"))
    (folder / "train").rename(folder / split)
    found = []
    for file in (b"\xe9.png", b"\xe8.png"):
        (folder / split / name).mkdir(exist_ok=True)
        path = folder / split / name / os.fsdecode(file)
        save(path, "red")
        source = open_source(f"folder:{folder}", split=split)
        texts = (source.name, source.split, *source.class_names, repr(source))
        assert "\n".join(texts).encode().decode().count("caf\\xe9") == 1
        assert source.split == "t\\xe9st"
        assert source[len(source) - 1]["image"].shape == (5, 6, 3)
        found += [source.fingerprint, source.listing]
        path.unlink()
    assert len(set(found)) == 4
    assert portable_name(f"folder:/x/{name}") == "folder:caf\\xe9"


def test_a_folder_inside_a_class_is_left_alone(folder):
    save(folder / "train" / "cat" / "thumbs" / "0.png", (1, 1, 1), size=(1, 1))
    for name, split in ((folder, "train"), (folder / "train", "all")):
        with warnings.catch_warnings(category=JaxsplitWarning, action="ignore"):
            source = open_source(f"folder:{name}", split)
        assert source.class_names == ("cat", "dog")
        assert source.labels.tolist() == [0, 0, 0, 1, 1]


def test_other_files_are_left_alone_and_changes_are_noticed(folder):
    before = open_source(f"folder:{folder}", "train")
    (folder / "train" / "cat" / "notes.txt").write_text("not an image")
    (folder / "train" / "cat" / ".hidden.png").write_text("not an image")
    with pytest.warns(JaxsplitWarning, match=r"1 files or folders .* beside 5 .* cat/notes\.txt"):
        same = open_source(f"folder:{folder}", "train")
    assert (len(same), same.fingerprint) == (5, before.fingerprint)
    save(folder / "train" / "cat" / "1.png", (99, 99, 99), size=(7, 7))
    assert open_source(f"folder:{folder}", "train").fingerprint != before.fingerprint


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_an_unreadable_image_is_named(folder, content):
    path = folder / "train" / "cat" / "1.png"
    path.write_bytes(path.read_bytes()[:-30] if content is None else content)
    source = open_source(f"folder:{folder}", "train")
    assert source.labels.tolist() == [0, 0, 0, 1, 1]  # without decoding
    with pytest.raises(DataError) as error:
        source[1]
    assert_one_line(error, path)


def test_a_split_without_images_is_refused(folder):
    shutil.rmtree(folder / "test")
    (folder / "test").mkdir()
    with pytest.raises(DataError) as error:
        open_source(f"folder:{folder}", "test")
    assert_one_line(error, folder, "no images in its split test")


def test_an_empty_class_is_named(folder):
    (folder / "train" / "owl").mkdir()
    with pytest.raises(DataError) as error:
        open_source(f"folder:{folder}", "train")
    assert_one_line(error, "owl", "no images")


@pytest.mark.parametrize(
    ("name", "split", "part"),
    [
        ("embedded", "val", "embedded has no split 'val'; it has: train, test"),
        ("embeded", None, "embedded"),
        ("http://example.org", None, "folder:PATH"),
        ("tfds:", None, "tfds:NAME"),
        ("tfds:../etc", None, "NAME[/CONFIG]"),
        ("folder:/does/not/exist", None, "no such folder"),
    ],
)
def test_what_cannot_be_opened_is_said_in_one_line(name, split, part):
    with pytest.raises(DataError) as error:
        open_source(name, split)
    assert_one_line(error, part)


def test_several_splits_need_a_choice(folder):
    (folder / "test").rename(folder / "holdout")
    with pytest.raises(DataError) as error:
        open_source(f"folder:{folder}")
    assert_one_line(error, "holdout, train")
    (folder / "holdout").rename(folder / "val")
    assert open_source(f"folder:{folder}").split == "val"


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DataError) as error:
        open_source(f"folder:{tmp_path}")
    assert_one_line(error, tmp_path)


def test_unlabelled_images_of_a_flat_folder(folder, tmp_path):
    flat = folder / "train" / "cat"
    (flat / "empty").mkdir()
    with pytest.warns(JaxsplitWarning, match=r"1 files or folders .* such as \./empty"):
        source = open_source(f"folder:{flat}")
    assert (len(source), source.split, source.class_names, source.labelled) == (3, "all", (), False)
    assert source.labels.tolist() == [-1] * 3
    assert [example["image"][0, 0, 0] for example in source] == [0, 10, 20]
    assert len(open_source(f"folder:{flat}", "all[:60%]")) == 3 - len(
        open_source(f"folder:{flat}", "all[60%:]")
    )
    assert open_source(f"folder:{flat}", max_samples=2).keep.tolist() == [0, 1]
    assert len(load_arrays(source, Preprocessing((4, 4), 3))[0]) == 3
    with pytest.raises(DataError, match=r"no labels.*a folder for each class"):
        source.check_labelled()
    assert open_source("embedded", max_samples=1).labelled


def test_the_parts_of_a_folder_without_splits_are_disjoint_and_said_once(tmp_path, unwarned):
    for name, count in (("cat", 20), ("dog", 11)):
        for k in range(count):
            save(tmp_path / name / f"{k:02}.png", (k,) * 3)
    with pytest.warns(JaxsplitWarning, match="no splits: train is 0 % to 90 % of every class"):
        train = open_source(f"folder:{tmp_path}", "train")
    test = open_source(f"folder:{tmp_path}", "test")  # a second warning would be an error here
    assert (train.split, test.split) == ("train", "test")
    assert np.bincount(train.labels).tolist() == [18, 10]
    assert np.bincount(test.labels).tolist() == [2, 1]
    assert [example["image"][0, 0, 0] for example in test] == [18, 19, 10]
    assert train.fingerprint != test.fingerprint != open_source(f"folder:{tmp_path}").fingerprint
    parts = [open_source(f"folder:{tmp_path}", f"train[{p}]") for p in (":80%", "80%:")]
    assert sum(map(len, parts)) == len(train)
    assert parts[0].split == "train[0%:80%]"
    with pytest.raises(DataError, match="has no split 'dev'"):
        open_source(f"folder:{tmp_path}", "dev")


def test_a_held_out_part_without_images_is_refused(folder):
    with pytest.warns(JaxsplitWarning), pytest.raises(DataError, match="at least 10 images"):
        open_source(f"folder:{folder / 'test'}", "val")


@pytest.mark.parametrize("suffix", [".avif", ".jfif", ".jp2", ".JPE", ".pnm", ".apng"])
def test_every_suffix_of_the_formats_is_seen(folder, suffix):
    """A class half of .avif was measured on the other half."""
    form = {".avif": "AVIF", ".jp2": "JPEG2000", ".pnm": "PPM", ".apng": "PNG"}.get(suffix, "JPEG")
    save(folder / "train" / "cat" / f"9{suffix}", (200,) * 3, format=form)
    source = open_source(f"folder:{folder}", "train")
    assert source.labels.tolist() == [0, 0, 0, 0, 1, 1]
    assert abs(int(source[3]["image"][0, 0, 0]) - 200) < 3


@pytest.mark.parametrize(
    ("left", "match"),
    [
        ("cat/a.heic", r"such as cat/a\.heic.*convert HEIC to JPEG, for example with heif-convert"),
        ("cat/deeper/a.png", r"such as cat/deeper: expected PNG, .* in class folders"),
        ("a.png", r"such as a\.png"),
    ],
)
def test_what_is_left_out_is_counted_and_named_once(folder, left, match, unwarned):
    for k in range(2):
        file = folder / "train" / left
        file = file.with_stem(f"{file.stem}{k or ''}") if "deeper" not in left else file
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"")
    count = 1 if "deeper" in left else 2
    where = folder / "train"
    with pytest.warns(JaxsplitWarning, match=f"{count} files or folders are left out.*{match}"):
        source = open_source(f"folder:{where}")
    assert len(source) == len(open_source(f"folder:{where}")) == 5  # not said again


@pytest.mark.parametrize("name", ["__MACOSX", "@eaDir", ".git"])
def test_folders_of_archives_are_no_classes(folder, name):
    save(folder / "train" / name / "._0.png", (1,) * 3)
    save(folder / "train" / name / "0.png", (1,) * 3)
    (folder / name / "train").mkdir(parents=True)
    assert open_source(f"folder:{folder}", "train").class_names == ("cat", "dog")


# Image files.


def encoded(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("mode", "form", "shape"),
    [
        ("RGB", "PNG", (4, 6, 3)),
        ("RGB", "JPEG", (4, 6, 3)),
        ("RGB", "WEBP", (4, 6, 3)),
        ("RGB", "BMP", (4, 6, 3)),
        ("RGBA", "PNG", (4, 6, 3)),
        ("P", "GIF", (4, 6, 3)),
        ("CMYK", "JPEG", (4, 6, 3)),
        ("L", "PNG", (4, 6, 1)),
        ("L", "JPEG", (4, 6, 1)),
        ("LA", "PNG", (4, 6, 1)),
        ("1", "PNG", (4, 6, 1)),
    ],
)
def test_every_kind_of_file_becomes_grey_or_rgb(mode, form, shape):
    image = Image.new("RGB", (6, 4), (255, 255, 255)).convert(mode)
    array = decode_image(encoded(image, form))
    assert array.shape == shape
    assert array.dtype == np.uint8
    assert np.all(array == 255)


def test_16_bit_grey_is_scaled():
    image = Image.fromarray(np.full((4, 6), 0x80FF, np.uint16))
    assert np.all(decode_image(encoded(image, "PNG")) == 0x80)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L"])
def test_what_is_transparent_is_shown_on_white(mode, unwarned):
    """Composited on white, with one warning, and none for opaque images."""
    forms = {"RGBA": (10, 20, 30, 0), "LA": (10, 0), "P": 1, "L": 10}
    image = Image.new(mode, (6, 4), forms[mode])
    if mode == "P":
        image.putpalette([0, 0, 0, 10, 20, 30])
    options = {"P": {"transparency": bytes((255, 0))}, "L": {"transparency": 10}}.get(mode, {})
    clear = encoded(image, "PNG", **options)
    with pytest.warns(JaxsplitWarning, match="save the image with it"):
        array = decode_image(clear)
    assert np.all(array == 255)
    assert array.shape[2] == (1 if mode in ("LA", "L") else 3)
    decode_image(clear)  # a second warning would be an error here


def test_what_is_half_transparent_is_mixed_with_white(unwarned):
    with pytest.warns(JaxsplitWarning):
        array = decode_image(encoded(Image.new("RGBA", (1, 1), (0, 100, 255, 51)), "PNG"))
    assert array[0, 0].tolist() == [204, 224, 255]  # a fifth of the colour


def test_of_an_animation_the_first_frame_is_taken(unwarned):
    first, second = (Image.new("RGB", (6, 4), colour) for colour in ("red", "blue"))
    file = encoded(first, "GIF", save_all=True, append_images=[second])
    with pytest.warns(JaxsplitWarning, match="first frame"):
        array = decode_image(file)
    assert array[0, 0].tolist() == [255, 0, 0]


def test_photos_are_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise
    array = np.zeros((4, 6, 3), np.uint8)
    array[:, :3] = 255  # the left half, which goes to the top
    turned = decode_image(encoded(Image.fromarray(array), "PNG", exif=exif))
    assert turned.shape == (6, 4, 3)
    assert np.all(turned[:3] == 255)
    assert np.all(turned[3:] == 0)


def test_parts_of_a_split_are_disjoint_and_have_every_class_alike():
    whole = open_source("embedded", split="train")
    parts = [open_source("embedded", split=f"train[{p}]") for p in (":90%", "90%:", "30%:60%")]
    assert [len(part) for part in parts] == [5400, 600, 1800]
    for part in parts:
        assert set(np.bincount(part.labels).tolist()) == {len(part) // 10}
    kept = [set(part.keep.tolist()) for part in parts]
    assert not kept[0] & kept[1]
    assert kept[0] | kept[1] == set(range(len(whole)))
    first = parts[1][0]
    np.testing.assert_array_equal(first["image"], whole[int(parts[1].keep[0])]["image"])
    assert len({source.fingerprint for source in (whole, *parts)}) == 4


def test_a_limit_is_taken_of_the_part():
    part = open_source("embedded", split="train[90%:]")
    some = open_source("embedded", split="train[90%:]", max_samples=50)
    assert some.split == "train[90%:100%]"
    assert set(some.keep.tolist()) < set(part.keep.tolist())
    assert np.bincount(some.labels).tolist() == [5] * 10


@pytest.mark.parametrize("split", ["train[50%:50%]", "train[60%:40%]", "train[:101%]"])
def test_an_empty_part_is_an_error(split):
    with pytest.raises(DataError, match="is empty or exceeds 100 %"):
        open_source("embedded", split=split)
