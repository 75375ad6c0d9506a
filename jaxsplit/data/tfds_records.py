"""TFDS datasets that lie on disk as array_record: found and read without TensorFlow.

The folder is looked for here, not by `tfds.builder`: for a name that isn't on disk, TFDS goes to
the network and retries for a minute and a half before it says so.
"""

import hashlib
import json
import os
import re
import sys
import unittest.mock
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxsplit.data.images import decode_image
from jaxsplit.data.splits import choose_split
from jaxsplit.errors import DataError

_NAME = re.compile(r"(?P<name>\w+)(/(?P<config>[^/:]+))?(:(?P<version>\d+\.\d+\.\d+))?")
_VERSION = re.compile(r"\d+\.\d+\.\d+")


def default_data_dir() -> Path:
    """Where TFDS keeps its datasets: `$TFDS_DATA_DIR`, else `~/tensorflow_datasets`."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def find_prepared(name: str, data_dir: Path) -> Path | None:
    """The folder of a dataset that is prepared as array_record, or None.

    Args:
      name: `NAME[/CONFIG][:VERSION]`; the newest version where none is given; without a config
        the default one if it is here, else the only one that is.
      data_dir: a TFDS data_dir.

    Raises:
      DataError: the name is malformed, or one of several configs has to be chosen.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise DataError(f"tfds:{name} is not a dataset name: expected NAME[/CONFIG][:VERSION]")
    folder = data_dir / match["name"]
    if match["config"]:
        folder /= match["config"]
    elif folder.is_dir() and not _versions(folder):
        configs = sorted(entry.name for entry in folder.iterdir() if _versions(entry))
        metadata = folder / ".config" / "metadata.json"
        default = ""
        if metadata.is_file():
            default = json.loads(metadata.read_text()).get("default_config_name", "")
        if len(configs) > 1 and default not in configs:
            raise DataError(f"tfds:{name} has several configs; choose one: {', '.join(configs)}")
        if configs:
            folder /= default if default in configs else configs[0]
    versions = [v for v in _versions(folder) if match["version"] in (None, v.name)]
    return versions[-1] if versions else None


def open_records(
    name: str, split: str | None, data_dir: str | Path | None, title: str | None = None
) -> tuple["PreparedRecords", str]:
    """Opens one split of a dataset, which is prepared first where that is possible.

    Args:
      name: as for `find_prepared`.
      split: as for `open_source`.
      data_dir: a TFDS data_dir; None: TFDS's default.
      title: what it's called; None: `tfds:` and its name, with the config that was taken.

    Returns:
      Its records and the split's name.

    Raises:
      DataError: it isn't prepared here, has no such split, or isn't labelled images.
    """
    root = default_data_dir() if data_dir is None else Path(data_dir).expanduser()
    folder = find_prepared(name, root)
    if folder is None:
        from jaxsplit.data.prepare import check_known, prepare

        check_known(name, root)
        mocked = _mocked(name, root)
        if mocked is not None:
            # From its code alone, TFDS knows no splits and takes any.
            splits = list(mocked.info.splits) or [split or "test"]
            split = choose_split(split, splits, f"tfds:{name}")
            return PreparedRecords(title or f"tfds:{name}", mocked, split), split
        prepare(name, root)
        folder = find_prepared(name, root)
        if folder is None:
            raise DataError(f"tfds:{name} was prepared, but is not to be found in {root}")
    import tensorflow_datasets as tfds

    try:
        # With its version, TFDS takes what is on disk and asks nobody else.
        full_name = folder.parent.relative_to(root).as_posix()
        builder = tfds.builder(f"{full_name}:{folder.name}", data_dir=root)
        if title is None:
            title = f"tfds:{full_name}{name[name.index(':') :] if ':' in name else ''}"
        split = choose_split(split, list(builder.info.splits), title)
        return PreparedRecords(title, builder, split), split
    except DataError:
        raise
    except Exception as error:  # TFDS, protobuf and array_record have no common one
        raise _unreadable(str(folder), error) from error


class PreparedRecords:
    """The examples of one split, read by TFDS and decoded by Pillow.

    TFDS would decode with OpenCV where that is installed and with Pillow elsewhere, which differ
    in some JPEGs' last bits; here the same files give the same pixels everywhere.
    """

    def __init__(self, name: str, builder, split: str):
        from tensorflow_datasets import features

        self._image: str
        self._label: str
        self._image, self._label = builder.info.supervised_keys or ("image", "label")
        known = dict(builder.info.features.items())
        label = known.get(self._label)
        if not isinstance(label, features.ClassLabel) or not isinstance(
            known.get(self._image), features.Image
        ):
            raise DataError(
                f"{name} is not labelled images: expected an image and a class label, "
                f"got {', '.join(known)}"
            )
        self.class_names = tuple(map(str, label.names))
        self.title = name
        self._name = f"{name}, split {split}"
        # The records beneath TFDS's own decoding.
        self._records = builder.as_data_source(split).data_source
        info = Path(builder.data_dir) / "dataset_info.json"
        sizes = sorted(
            (file.name, file.stat().st_size) for file in info.parent.glob("*.array_record*")
        )
        known_info = info.read_bytes() if info.is_file() else b""  # mocked: there may be none
        digest = hashlib.sha256(known_info + json.dumps(sizes).encode())
        self.identity = f"tfds {builder.info.full_name} {digest.hexdigest()}"
        self.listing = self.identity

    def __len__(self) -> int:
        return len(self._records)

    def labels(self) -> np.ndarray:
        """int32 [N], without decoding an image."""
        chunks = (range(i, min(i + 1024, len(self))) for i in range(0, len(self), 1024))
        return np.array([label for c in chunks for _, label in self._read(c)], np.int32)

    def examples(self, indices: Sequence[int]) -> list[tuple[np.ndarray, int]]:
        """For each index the decoded image, uint8 [H, W, C], and its label."""
        return [
            (
                decode_image(image, f"example {index} of {self._name}")
                if isinstance(image, bytes)
                else image,
                label,
            )
            for index, (image, label) in zip(indices, self._read(indices), strict=True)
        ]

    def _read(self, indices: Sequence[int]) -> list[tuple[bytes | np.ndarray, int]]:
        try:
            if _is_mock(self._records):  # which gives decoded examples
                mocked = [self._records[index] for index in indices]
                return [(record[self._image], int(record[self._label])) for record in mocked]
            # Together: one by one costs as much as decoding the images of a small dataset.
            return [self._parse(record) for record in self._records.__getitems__(indices)]
        except Exception as error:  # a damaged file: array_record's or protobuf's
            raise _unreadable(self._name, error) from error

    def _parse(self, record: bytes) -> tuple[bytes, int]:
        from tensorflow_datasets.proto import tf_example_pb2

        fields = tf_example_pb2.Example.FromString(record).features.feature
        image, label = fields[self._image].bytes_list, fields[self._label].int64_list
        return image.value[0], label.value[0]


def _mocked(name: str, data_dir: Path):
    """The builder of a dataset that `tfds.testing.mock_data` plays, else None.

    Building one from TFDS's code costs milliseconds and asks nobody, if TFDS knows the name. Some
    want TensorFlow and say so at length: where nobody has imported the mocks, none is built.
    """
    if "tensorflow_datasets.testing.mocking" not in sys.modules:
        return None
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir)
        records = builder.as_data_source("train").data_source
    except Exception:  # not mocked, as a rule: TFDS says in many ways that it has no files
        return None
    return builder if _is_mock(records) else None


def _is_mock(records) -> bool:
    """Whether records are those of `tfds.testing.mock_data`."""
    return isinstance(records, unittest.mock.NonCallableMock)


def _unreadable(what: str, error: Exception) -> DataError:
    return DataError(f"cannot read the dataset {what}: {' '.join(str(error).split())}")


def _versions(folder: Path) -> list[Path]:
    """The prepared versions in a folder, oldest first."""
    if not folder.is_dir():
        return []
    found = [
        entry
        for entry in folder.iterdir()
        if _VERSION.fullmatch(entry.name)
        and (entry / "features.json").is_file()
        and any(entry.glob("*.array_record*"))
    ]
    return sorted(found, key=lambda entry: tuple(map(int, entry.name.split("."))))


def write_prepared(
    data_dir: str | Path,
    name: str,
    version: str,
    splits: Mapping[str, Iterable[tuple[bytes, int]]],
    class_names: Sequence[str],
    shape: tuple[int | None, int | None, int],
    description: str = "",
    homepage: str = "",
    licence: str = "",
) -> Path:
    """Writes labelled images as a TFDS dataset in array_record, one file for each split.

    Args:
      data_dir: a TFDS data_dir; the dataset goes to `data_dir/name/version`.
      name: the dataset's name, e.g. `fashion_mnist`.
      version: `X.Y.Z`.
      splits: for each split, pairs of an encoded image (PNG or JPEG) and its label; TFDS
        keeps the name `all` for itself.
      class_names: names of the classes.
      shape: (height, width, channels) of all images, None where it varies.
      description: what it is, for people.
      homepage: where it comes from.
      licence: its licence's name or text.

    Returns:
      The dataset's folder.
    """
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.core.dataset_info import write_dataset_info_proto
    from tensorflow_datasets.core.proto import dataset_info_pb2
    from tensorflow_datasets.proto import tf_example_pb2

    folder = Path(data_dir).expanduser() / name / version
    folder.mkdir(parents=True, exist_ok=True)
    info = dataset_info_pb2.DatasetInfo(
        name=name, version=version, description=description, file_format="array_record"
    )
    info.location.urls.append(homepage)
    info.redistribution_info.license = licence
    info.supervised_keys.tuple.items.add(feature_key="image")
    info.supervised_keys.tuple.items.add(feature_key="label")
    for split, examples in splits.items():
        writer = ArrayRecordWriter(
            str(folder / f"{name}-{split}.array_record-00000-of-00001"), "group_size:1"
        )
        count = size = 0
        for encoded, label in examples:
            example = tf_example_pb2.Example()
            example.features.feature["image"].bytes_list.value.append(encoded)
            example.features.feature["label"].int64_list.value.append(label)
            # Maps have no order of their own: without this the same data may give other bytes.
            record = example.SerializeToString(deterministic=True)
            writer.write(record)
            count += 1
            size += len(record)
        writer.close()
        info.splits.add(
            name=split,
            shard_lengths=[count],
            num_bytes=size,
            filepath_template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        )
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=shape),
            "label": tfds.features.ClassLabel(names=list(class_names)),
        }
    )
    features.save_config(folder)
    write_dataset_info_proto(info, folder)
    return folder
