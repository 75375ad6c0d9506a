"""Sources of labelled images: the embedded set, TFDS datasets, folders of image files.

- `embedded`: 6,000 + 2,000 images of Fashion-MNIST, included in the package
- `tfds:NAME[/CONFIG][:VERSION]`: any TFDS dataset prepared as array_record
- `folder:PATH`: image files in `[split/]class/`, or without labels in the folder itself; or
  `images/[split/]` with segmentation masks in `masks/[split/]`
"""

import functools
import hashlib
import numbers
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, overload

import numpy as np

from jaxsplit import _moved
from jaxsplit.data import folder, masks, tfds_records
from jaxsplit.data.splits import parse_split, part_of, spread
from jaxsplit.data.targets import Example
from jaxsplit.errors import DataError, did_you_mean, escaped
from jaxsplit.io.files import as_text

#: TFDS data_dir inside the package, and the dataset in it.
DATASETS = Path(__file__).parent.parent / "assets" / "datasets"
EMBEDDED = "fashion_mnist_subset"


class Records(Protocol):
    """Protocol of a kind of source: all examples of a split, by index.

    `labels` are the classes over which a part of the examples is balanced: -1 where images have no
    targets, all 0 where targets are not classes. Records of masks may have `mask_classes`, the
    names of the indices in them.
    """

    class_names: tuple[str, ...]

    def __len__(self) -> int: ...

    @property
    def identity(self) -> str:
        """Changes with the content."""
        ...

    @property
    def listing(self) -> str:
        """Likewise, but equal for a copy in another place."""
        ...

    @property
    def labels(self) -> np.ndarray:
        """int32 [N], read once without decoding an image."""
        ...

    def examples(self, indices: Sequence[int]) -> Iterable[Example]:
        """Yields the example of each index; images are uint8 [height, width, channels]."""
        ...


def check_class_names(names: Sequence[str]) -> None:
    """Refuses names that `decode` could not print on a line of their own: a DataError.

    >>> check_class_names(["cat", "dog"])
    """
    for name in names:
        if escaped(name) != name:
            raise DataError(f"the class name {name!r} contains control characters: rename it")


class Source:
    """Labelled images by index: `source[i]` is `{"image": uint8 [H, W, C], "label": int}`.

    See `open_source`.

    Args:
      name: name of the source, with the config that was selected: `"tfds:imagenette/160px-v2"`.
      split: name of the split; `"all"` for a folder without splits.
      records: examples of the split.
      keep: int64 [N], indices of the selected examples; None: all.

    Attributes:
      class_names: names of the classes; a label is an index into them. Empty without labels,
        which are then -1.
      keep: indices of the selected examples in the split, int64 [N].

    >>> source = open_source("embedded", split="train", max_samples=100)
    >>> len(source), source.class_names[source[0]["label"]]
    (100, 'Ankle boot')
    >>> np.bincount(source.labels).tolist()  # fewer are spread over the classes
    [10, 10, 10, 10, 10, 10, 10, 10, 10, 10]
    """

    def __init__(self, name: str, split: str, records: Records, keep: np.ndarray | None = None):
        self.name, self.split, self.class_names = as_text(name), as_text(split), records.class_names
        check_class_names(self.class_names)
        #: Names of the indices in segmentation masks; empty where they are not known.
        self.mask_classes: tuple[str, ...] = getattr(records, "mask_classes", ())
        check_class_names(self.mask_classes)
        self._records, self._is_part = records, keep is not None
        self.keep = np.arange(len(records)) if keep is None else keep

    def __len__(self) -> int:
        return len(self.keep)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return self.__getitems__(range(len(self))[index])
        # IndexError and negative indices as in a list.
        return self.__getitems__([range(len(self))[index]])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Example]:
        """Returns several examples, which some sources read much faster than one by one."""
        return list(self.examples(indices))

    def examples(self, indices: Sequence[int]) -> Iterator[Example]:
        """Iterates over several examples, without holding all decoded images.

        Args:
          indices: of the examples, each 0 ≤ i < N.

        Returns:
          An iterator over image and label of each.
        """
        yield from self._records.examples(self.keep[np.asarray(indices, int)].tolist())

    def __repr__(self) -> str:
        return f"Source({self.name!r}, split={self.split!r}, {len(self)} images)"

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """Labels, int32 [N], read once without decoding an image."""
        labels = np.asarray(self._records.labels, np.int32)[self.keep]
        labels.flags.writeable = False
        return labels

    def take(self, max_samples: int | None) -> "Source":
        """Selects examples, balanced over the classes (see `spread`).

        Args:
          max_samples: their number; None or more than there are: all. A DataError below 1.

        Returns:
          The source of these examples.
        """
        whole = isinstance(max_samples, numbers.Integral)
        if max_samples is not None and not (whole and max_samples >= 1):
            raise DataError(f"got max_samples {max_samples!r}, expected at least 1")
        if max_samples is None or max_samples >= len(self):
            return self
        return self.select(spread(self.labels, max_samples))

    def select(self, indices: np.ndarray) -> "Source":
        """Selects examples.

        Args:
          indices: int [n], each 0 ≤ i < N.

        Returns:
          The source of these examples, in this order.
        """
        return Source(self.name, self.split, self._records, self.keep[np.asarray(indices, int)])

    def part(self, start: int, stop: int) -> "Source":
        """Selects a percent range of every class.

        Args:
          start, stop: 0 ≤ start < stop ≤ 100.

        Returns:
          The source of these examples, whose split is named `NAME[A%:B%]`; a DataError if there
          are none.
        """
        split = f"{self.split}[{start}%:{stop}%]"
        indices = part_of(self.labels, start, stop)
        if not len(indices):
            raise DataError(f"{self.name} has no image in {split}; take a wider range")
        return Source(self.name, split, self._records, self.keep[indices])

    def check_labelled(self) -> None:
        """Raises a DataError if the images have no labels."""
        if not self.labelled:
            raise DataError(
                f"{self.name} has no labels, which are needed here: make a folder for each class, "
                "or for masks the folders images and masks"
            )

    @property
    def labelled(self) -> bool:
        """True if the images have labels; those of a folder without class folders have none."""
        return not len(self) or self.labels[0] >= 0

    @functools.cached_property
    def has_masks(self) -> bool:
        """True if the images have segmentation masks; decodes the first image."""
        return len(self) > 0 and "mask" in self[0]

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with names, versions, sizes and modification times."""
        return self._digest(self._records.identity)

    @functools.cached_property
    def listing(self) -> str:
        """Like `fingerprint` without modification times: equal for a copy of the source."""
        return self._digest(self._records.listing)

    def _digest(self, identity: str) -> str:
        parts = [identity, self.split, *self.class_names, str(len(self))]
        digest = hashlib.sha256("\n".join(parts).encode())
        if self._is_part:
            digest.update(self.keep.astype("<i8").tobytes())
        return digest.hexdigest()[:16]


@_moved.renamed_argument("limit", "max_samples")
def open_source(
    name: str | Path,
    split: str | None = None,
    data_dir: str | Path | None = None,
    max_samples: int | None = None,
) -> Source:
    """Opens a source of labelled images.

    Args:
      name: `embedded`, `tfds:NAME[/CONFIG][:VERSION]` or `folder:PATH`; a `Path` is a folder's.
      split: name of the split; None selects test, else val, else validation, else the only one,
        which of a folder without splits is `all`; its `train` and `test` are 90 % and 10 %.
        `NAME[A%:B%]` is a percent range of every class: `train[:90%]` and `train[90%:]` are
        disjoint, so the second can validate settings without the test images.
      data_dir: TFDS data_dir; default: `$TFDS_DATA_DIR`, else `~/tensorflow_datasets`.
      max_samples: maximum number of examples, balanced over the classes (see `spread`).

    Returns:
      The source; images are decoded on access.

    Raises:
      DataError: no such source or split, or it cannot be read.

    >>> source = open_source("embedded", max_samples=20)
    >>> source, source[0]["image"].shape
    (Source('embedded', split='test', 20 images), (28, 28, 1))
    """
    if not isinstance(name, str | Path) or not isinstance(split, str | None):
        kinds = f"a {type(name).__name__} as source and a {type(split).__name__} as split"
        raise DataError(f"got {kinds}; expected names; of arrays, jaxsplit.data.from_arrays")
    name = f"folder:{name}" if isinstance(name, Path) else name
    scheme, _, rest = name.partition(":")
    split, part = parse_split(split)
    records: Records
    if name == "embedded":
        records, split = tfds_records.open_records(EMBEDDED, split, DATASETS, title=name)
    elif scheme == "tfds" and rest:
        records, split = tfds_records.open_records(rest, split, data_dir)
        name = records.title
    elif scheme == "folder" and rest:
        records, split = _open_folder(rest, split)
    else:
        near = did_you_mean(name, ("embedded", "tfds:", "folder:"))
        near = f"; did you mean folder:{name}?" if Path(name).is_dir() else near
        raise DataError(
            f"unknown data source {name!r}: expected embedded, tfds:NAME[/CONFIG] or folder:PATH"
            + near
        )
    source = Source(name, split, records)
    return (source if part is None else source.part(*part)).take(max_samples)


def _open_folder(path: str, split: str | None) -> tuple[Records, str]:
    """Opens one split of a folder of classes, or of images and masks."""
    root = Path(path).expanduser()
    if not masks.has_masks(root):
        return folder.open_records(path, split)
    try:
        return masks.open_records(root, f"folder:{path}", split)
    except OSError as error:
        raise DataError(f"cannot read folder:{path}: {error}") from error


def portable_name(name: str) -> str:
    """Removes this machine's paths from the name of a source, for cards and reports.

    Args:
      name: as for `open_source`.

    Returns:
      `folder:` and the last path component for a folder; other names unchanged.

    >>> portable_name("folder:/home/me/cifar10"), portable_name("tfds:cifar10")
    ('folder:cifar10', 'tfds:cifar10')
    """
    scheme, _, path = name.partition(":")
    return as_text(f"folder:{Path(path).name}" if scheme == "folder" else name)


__getattr__ = _moved.renamed(__name__)
