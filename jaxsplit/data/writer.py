"""Writes labelled images as a TFDS dataset in array_record, without TensorFlow.

TFDS's own writer needs TensorFlow; its readers don't, and they read these files as their own.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path


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
