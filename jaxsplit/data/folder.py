"""Reads folders of image files, `[split/]class/image`; folder names are class names.

The first level is read as splits if none of its folders contains an image directly, else as
classes, whose subfolders are ignored.

An optional `classes.txt` beside the splits (or beside the classes) lists the classes in order, one
per line, so that a folder may contain only some of them. A "/" in a name becomes "_" in the folder
name: `T-shirt/top` is read from `T-shirt_top`.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxsplit.data.images import SUFFIXES, decode_image
from jaxsplit.data.splits import choose_split
from jaxsplit.errors import DataError
from jaxsplit.io.files import as_text


def open_records(path: str, split: str | None) -> tuple["FolderRecords", str]:
    """Opens one split of a folder and returns its name; without splits it is `all`.

    Raises a DataError: no such folder or split, a class without images or not in classes.txt.
    """
    name = f"folder:{path}"
    try:
        records, split = _open(Path(path).expanduser(), name, split)
    except OSError as error:
        raise DataError(f"cannot read {name}: {error}") from error
    if not len(records):
        raise DataError(
            f"{name} has no images in its split {split}, expected {split}/class/image files"
        )
    return records, split


def _open(root: Path, name: str, split: str | None) -> tuple["FolderRecords", str]:
    if not root.is_dir():
        raise DataError(f"{name}: no such folder; check the path")
    below = {folder.name: _subfolders(folder) for folder in _subfolders(root)}
    if not below:
        raise DataError(f"{name} has no subfolders, expected [split/]class/image files")
    if any(below.values()) and not any(_image_files(root / one) for one in below):
        split = choose_split(split, list(below), name)
        top, inside = root / split, below[split]
        # A split may lack classes of another, so labels count the classes of all splits.
        classes = sorted({folder.name for folders in below.values() for folder in folders})
    else:
        split = choose_split(split, ["all"], name)
        top, inside, classes = root, _subfolders(root), list(below)
    listings = [folder / "classes.txt" for folder in (root, top)]
    if listing := next(filter(Path.is_file, listings), None):
        classes = _read_classes(listing, {folder.name for folder in inside})
    return FolderRecords(name, top, classes), split


class FolderRecords:
    """Records of one split, ordered by class and file name; `labels` are int32 [N]."""

    def __init__(self, name: str, top: Path, class_names: list[str]):
        self.class_names = tuple(map(as_text, class_names))
        self._top = top
        self._files: list[str] = []  # below top: paths would take more memory
        labels: list[int] = []
        digest, listing = hashlib.sha256(), hashlib.sha256()
        for label, class_name in enumerate(class_names):
            folder = top / _folder_name(class_name)
            if not folder.is_dir():
                continue
            files = _image_files(folder)
            if not files:
                what = f"class {class_name!r} has no images in {folder}"
                raise DataError(f"{name}: {what}; add some, or remove the folder")
            for file, size, modified in files:
                listed = f"{folder.name}/{file}\0{size}".encode("utf-8", "surrogateescape")
                listing.update(listed + b"\n")
                digest.update(listed + f"\0{modified}\n".encode())
                self._files.append(f"{folder.name}/{file}")
                labels.append(label)
        self.labels = np.array(labels, np.int32)
        self.identity = f"folder {digest.hexdigest()}"
        self.listing = f"folder {listing.hexdigest()}"

    def __len__(self) -> int:
        return len(self._files)

    def examples(self, indices: Sequence[int]) -> list[tuple[np.ndarray, int]]:
        """Returns (image, label) for each index; images are uint8 [H, W, C]."""
        return [(decode_image(self._top / self._files[i]), int(self.labels[i])) for i in indices]


def _folder_name(class_name: str) -> str:
    return class_name.replace("/", "_")


def _subfolders(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))


def _image_files(folder: Path) -> list[tuple[str, int, int]]:
    """Lists (name, bytes, modification time in ns) of the image files, by name."""
    with os.scandir(folder) as entries:
        return sorted(
            (entry.name, entry.stat().st_size, entry.stat().st_mtime_ns)
            for entry in entries
            if os.path.splitext(entry.name)[1].lower() in SUFFIXES
            and not entry.name.startswith(".")
        )


def _read_classes(listing: Path, present: set[str]) -> list[str]:
    lines = listing.read_text("utf-8-sig", "replace").splitlines()
    names = [line.strip() for line in lines if line.strip()]
    folders = set(map(_folder_name, names))
    if len(folders) != len(names):
        raise DataError(f'{listing} names a class twice ("/" counts as "_"); remove one')
    if unknown := sorted(present - folders):
        raise DataError(f"{listing} lacks these class folders: {', '.join(unknown)}; add them")
    return names
