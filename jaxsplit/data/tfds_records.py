"""Finds and reads TFDS datasets in array_record format, without TensorFlow.

The folder is located here instead of by `tfds.builder`, which retries on the network for 90 seconds
if a name is not on disk.
"""

import functools
import hashlib
import json
import os
import re
import sys
import unittest.mock
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from jaxsplit.data.images import decode_image
from jaxsplit.data.splits import choose_split
from jaxsplit.data.targets import Example
from jaxsplit.errors import DataError

_NAME = re.compile(r"(?P<name>\w+)(/(?P<config>[^/:]+))?(:(?P<version>\d+\.\d+\.\d+))?")
# Names of features that hold masks of class indices, where they aren't the supervised target.
_MASK_NAME = re.compile("mask|segmentation|annotation")
_Picture = bytes | np.ndarray
_Read = tuple[_Picture, int, _Picture | None]  # image, label, mask
_VERSION = re.compile(r"\d+\.\d+\.\d+")


def default_data_dir() -> Path:
    """Returns the default TFDS data_dir: `$TFDS_DATA_DIR`, else `~/tensorflow_datasets`."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def find_prepared(name: str, data_dir: Path) -> Path | None:
    """Returns the folder of a dataset prepared as array_record in a TFDS data_dir, or None.

    The version of `NAME[/CONFIG][:VERSION]` defaults to the newest, the config to TFDS's default if
    present, else to the only one. Raises a DataError if the name is malformed, or several configs
    are present and none is the default.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise DataError(f"tfds:{name} is not a dataset name, expected NAME[/CONFIG][:VERSION]")
    folder = data_dir / match["name"]
    if match["config"]:
        folder /= match["config"]
    elif folder.is_dir() and not _versions(folder):
        configs = sorted(entry.name for entry in folder.iterdir() if _versions(entry))
        metadata = folder / ".config" / "metadata.json"
        known = json.loads(metadata.read_text()) if metadata.is_file() else {}
        default = known.get("default_config_name", "")
        if len(configs) > 1 and default not in configs:
            raise DataError(f"tfds:{name} has several configs; choose one: {', '.join(configs)}")
        if configs:
            folder /= default if default in configs else configs[0]
    versions = [v for v in _versions(folder) if match["version"] in (None, v.name)]
    return versions[-1] if versions else None


def open_records(
    name: str, split: str | None, data_dir: str | Path | None, title: str | None = None
) -> tuple["PreparedRecords", str]:
    """Opens one split of a dataset, prepared first if necessary, and returns its name.

    See `find_prepared` and `open_source`. `title` defaults to `tfds:` and the name with its config.
    Raises a DataError if it is not prepared, has no such split, or no labelled images.
    """
    root = default_data_dir() if data_dir is None else Path(data_dir).expanduser()
    folder = find_prepared(name, root)
    if folder is None:
        from jaxsplit.data.prepare import check_known, prepare

        check_known(name, root)
        if (mocked := _mocked(name, root)) is not None:
            # A mocked builder has no split information and accepts any split.
            splits = list(mocked.info.splits) or [split or "test"]
            split = choose_split(split, splits, f"tfds:{name}")
            return PreparedRecords(title or f"tfds:{name}", mocked, split), split
        prepare(name, root)
        if (folder := find_prepared(name, root)) is None:
            raise DataError(f"tfds:{name} was prepared but is not in {root}; check data_dir")
    import tensorflow_datasets as tfds

    try:
        # Given a version, TFDS uses the files on disk without a network request.
        full_name = folder.parent.relative_to(root).as_posix()
        builder = tfds.builder(f"{full_name}:{folder.name}", data_dir=root)
        title = title or f"tfds:{full_name}{''.join(name.partition(':')[1:])}"
        split = choose_split(split, list(builder.info.splits), title)
        return PreparedRecords(title, builder, split), split
    except DataError:
        raise
    except Exception as error:  # TFDS, protobuf and array_record share no base class
        raise _unreadable(str(folder), error) from error


class PreparedRecords:
    """Records of one split, read by TFDS and decoded by Pillow.

    TFDS decodes with OpenCV if it is installed, else with Pillow, and some JPEGs differ in the last
    bits. Decoding with Pillow gives the same pixels on every machine.
    """

    def __init__(self, name: str, builder, split: str):
        from tensorflow_datasets import features

        keys: tuple[str, str] = builder.info.supervised_keys or ("image", "label")
        known = dict(builder.info.features.items())
        pictures = [key for key, one in known.items() if isinstance(one, features.Image)]
        self._mask = next((key for key in pictures if _holds_masks(key, known[key], keys)), None)
        self._image = next((key for key in (keys[0], *pictures) if key != self._mask), keys[0])
        self._label = keys[1] if isinstance(known.get(keys[1]), features.ClassLabel) else None
        if self._image not in pictures or self._label is self._mask is None:
            raise DataError(
                f"{name} has the features {', '.join(known)}, expected an image, and a class label "
                "or a mask of class indices; use a dataset for image classification or segmentation"
            )
        label = known[self._label] if self._label else None
        self.class_names = () if label is None else tuple(map(str, label.names))
        self.mask_classes = _names_of_indices(known.get(self._mask))
        self.title = name
        self._name = f"{name}, split {split}"
        # Serialized records, before TFDS's decoding.
        self._records = builder.as_data_source(split).data_source
        folder = Path(builder.data_dir)
        info = folder / "dataset_info.json"
        content = info.read_bytes() if info.is_file() else b""  # absent if mocked
        sizes = sorted((file.name, file.stat().st_size) for file in folder.glob("*.array_record*"))
        digest = hashlib.sha256(content + json.dumps(sizes).encode())
        self.identity = self.listing = f"tfds {builder.info.full_name} {digest.hexdigest()}"

    def __len__(self) -> int:
        return len(self._records)

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """int32 [N], read without decoding an image."""
        if self._label is None:
            return np.zeros(len(self), np.int32)
        chunks = (range(i, min(i + 1024, len(self))) for i in range(0, len(self), 1024))
        return np.array([label for c in chunks for _, label, _ in self._read(c)], np.int32)

    def examples(self, indices: Sequence[int]) -> Iterator[Example]:
        """Yields the example of each index; images are uint8 [H, W, C], masks [H, W] or encoded."""
        for index, (image, label, mask) in zip(indices, self._read(indices), strict=True):
            if isinstance(image, bytes):
                image = decode_image(image, f"example {index} of {self._name}")
            example = Example(image=image, label=label)
            if mask is not None:
                example["mask"] = mask if isinstance(mask, bytes) else mask[..., 0]
            yield example

    def _read(self, indices: Sequence[int]) -> list[_Read]:
        from tensorflow_datasets.proto import tf_example_pb2

        try:
            if _is_mock(self._records):  # gives decoded examples
                examples = [self._records[index] for index in indices]
                return [
                    (
                        one[self._image],
                        int(one[self._label]) if self._label else 0,
                        one[self._mask] if self._mask else None,
                    )
                    for one in examples
                ]
            # In one call: single reads cost as much as decoding small images.
            records = map(tf_example_pb2.Example.FromString, self._records.__getitems__(indices))
            fields = [record.features.feature for record in records]
            return [
                (
                    one[self._image].bytes_list.value[0],
                    one[self._label].int64_list.value[0] if self._label else 0,
                    one[self._mask].bytes_list.value[0] if self._mask else None,
                )
                for one in fields
            ]
        except Exception as error:  # damaged file: array_record's or protobuf's error
            raise _unreadable(self._name, error) from error


def _holds_masks(key: str, feature, supervised: tuple[str, str]) -> bool:
    """Returns whether an image feature holds masks of class indices."""
    named = key == supervised[1] or _MASK_NAME.search(key) is not None
    return feature.shape[-1] == 1 and key != supervised[0] and named


def _names_of_indices(feature) -> tuple[str, ...]:
    """Returns the class names of a mask's feature; none where it doesn't have them."""
    if not getattr(feature, "num_classes", None):
        return ()
    return tuple(map(str, feature.names))


def _mocked(name: str, data_dir: Path):
    """Returns the builder of a dataset mocked by `tfds.testing.mock_data`, else None."""
    # Without TensorFlow some builders print long messages, so none is made without the mocks.
    if "tensorflow_datasets.testing.mocking" not in sys.modules:
        return None
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir)
        records = builder.as_data_source("train").data_source
    except Exception:  # usually not mocked: TFDS raises various errors for missing files
        return None
    return builder if _is_mock(records) else None


def _is_mock(records) -> bool:
    return isinstance(records, unittest.mock.NonCallableMock)


def _unreadable(what: str, error: Exception) -> DataError:
    text = " ".join(str(error).split())
    return DataError(f"cannot read the dataset {what}: {text}; prepare it again")


def _versions(folder: Path) -> list[Path]:
    """Lists the prepared versions in a folder, oldest first."""
    found = [
        features.parent
        for features in folder.glob("*/features.json")
        if _VERSION.fullmatch(features.parent.name) and any(features.parent.glob("*.array_record*"))
    ]
    return sorted(found, key=lambda version: tuple(map(int, version.name.split("."))))
