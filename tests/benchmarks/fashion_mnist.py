"""Converts Fashion-MNIST from idx files to a TFDS dataset, without TensorFlow.

The embedded subset is made by

    python tests/benchmarks/fashion_mnist.py --idx /usr/share/datasets/fashion-mnist \\
        --out jaxsplit/assets/datasets --train 6000 --test 2000

and the full set, which `tfds:fashion_mnist` then opens, by

    python tests/benchmarks/fashion_mnist.py --idx /usr/share/datasets/fashion-mnist \\
        --out ~/tensorflow_datasets

The idx files come from Debian's package `dataset-fashion-mnist` or the authors' page.
"""

import gzip
import struct
import sys
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from harness import make_parser

from jaxsplit.data.sources import EMBEDDED
from jaxsplit.data.splits import spread
from jaxsplit.errors import DataError

CLASS_NAMES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


def read_idx(folder: str | Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads the split `train` or `test` from `*-idx3-ubyte[.gz]` and `*-idx1-ubyte[.gz]`.

    Returns images, uint8 [N, 28, 28], and labels, uint8 [N]; a DataError if a file is bad.
    """
    stem = {"train": "train", "test": "t10k"}[split]
    images = _read_array(Path(folder, f"{stem}-images-idx3-ubyte"), 3)
    labels = _read_array(Path(folder, f"{stem}-labels-idx1-ubyte"), 1)
    if len(images) != len(labels):
        raise DataError(f"{folder}: {len(images)} images but {len(labels)} labels in {split}")
    return images, labels


def write(
    idx: str | Path, out: str | Path, train: int | None = None, test: int | None = None
) -> Path:
    """Writes the dataset into the TFDS data_dir `out` and returns its folder.

    Given `train` or `test`, the embedded subset: so many images, balanced over the classes. Else
    the full set, `fashion_mnist/3.0.1`.
    """
    name, version, content = EMBEDDED, "1.0.0", "the first images of each class in each split"
    if train is None and test is None:
        name, version, content = "fashion_mnist", "3.0.1", "all of it"
    splits = {}
    for split, count in (("train", train), ("test", test)):
        images, labels = read_idx(idx, split)
        if count is not None:
            if not 1 <= count <= len(labels):
                raise DataError(f"got {split} = {count}, expected 1 … {len(labels)} images")
            chosen = spread(labels, count)
            images, labels = images[chosen], labels[chosen]
        splits[split] = zip(map(encode_png, images), labels.tolist(), strict=True)
    return write_prepared(
        out,
        name,
        version,
        splits,
        CLASS_NAMES,
        (28, 28, 1),
        description=f"Fashion-MNIST, {content}.",
        homepage="https://github.com/zalandoresearch/fashion-mnist",
        licence="MIT, Copyright 2017 Zalando SE",
    )


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
    """Writes labelled images as a TFDS dataset in array_record, one file per split.

    TFDS's own writer needs TensorFlow; its readers, which accept these files, do not.

    Args:
      data_dir: a TFDS data_dir; the dataset is written to `data_dir/name/version`.
      name, version: of the dataset, e.g. `fashion_mnist` and `3.0.1`.
      splits: for each split, pairs of an encoded image (PNG or JPEG) and its label. TFDS reserves
        the name `all`.
      class_names: names of the classes.
      shape: (height, width, channels) of all images; None where it varies.
      description, homepage, licence: free text about the dataset.

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
    for key in ("image", "label"):
        info.supervised_keys.tuple.items.add(feature_key=key)
    for split, examples in splits.items():
        file = folder / f"{name}-{split}.array_record-00000-of-00001"
        writer = ArrayRecordWriter(str(file), "group_size:1")
        count = size = 0
        for encoded, label in examples:
            example = tf_example_pb2.Example()
            example.features.feature["image"].bytes_list.value.append(encoded)
            example.features.feature["label"].int64_list.value.append(label)
            # Protobuf maps are unordered: otherwise the same data may give other bytes.
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
    image, label = tfds.features.Image(shape=shape), tfds.features.ClassLabel(names=class_names)
    tfds.features.FeaturesDict({"image": image, "label": label}).save_config(folder)
    write_dataset_info_proto(info, folder)
    return folder


def encode_png(image: np.ndarray) -> bytes:
    """Encodes uint8 [H, W] as an 8-bit grey PNG without filters.

    Pillow's PNGs differ between its versions; these depend on zlib alone, so that the embedded set
    can be rebuilt byte for byte.
    """
    height, width = image.shape
    rows = np.pad(image, ((0, 0), (1, 0)))  # each row begins with its filter type, 0: none
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def _read_array(path: Path, ndim: int) -> np.ndarray:
    zipped = Path(f"{path}.gz")
    try:
        data = gzip.decompress(zipped.read_bytes()) if zipped.exists() else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}[.gz]: {error}") from error
    # idx: two zero bytes, type 8 (uint8), number of dimensions, their sizes, the values.
    header = 4 + 4 * ndim
    shape = struct.unpack(f">{ndim}I", data[4:header]) if len(data) >= header else ()
    if data[:4] != bytes((0, 0, 8, ndim)) or len(data) - header != np.prod(shape):
        raise DataError(
            f"{path}: expected an idx file of uint8 with {ndim} dimensions; get the file again"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = make_parser(__doc__)
    parser.add_argument("--idx", required=True, help="folder of the four idx files")
    parser.add_argument("--out", required=True, help="TFDS data_dir to write into")
    parser.add_argument("--train", type=int, help="number of training images (default: all)")
    parser.add_argument("--test", type=int, help="number of test images (default: all)")
    options = parser.parse_args(arguments)
    try:
        print(write(options.idx, options.out, options.train, options.test))
    except (DataError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
