"""Reads folders of image files, `[split/]class/image`; folder names are class names.

The first level is read as splits if none of its folders contains an image directly, else as
classes, whose subfolders are ignored. Without splits, `train` is the first 90 % of every class by
file name, and `test`, `val` or `validation` the rest. If only the folder itself contains images,
they are unlabelled: no classes, label -1. What is left out is counted in a warning.

An optional `classes.txt` beside the splits (or beside the classes) lists the classes in order, one
per line, so that a folder may contain only some of them. A "/" in a name becomes "_" in the folder
name: `T-shirt/top` is read from `T-shirt_top`.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from jaxsplit.data.images import FORMATS, HEIC_ADVICE, decode_image, suffixes
from jaxsplit.data.splits import choose_split, part_of
from jaxsplit.data.targets import Example
from jaxsplit.errors import DataError, warn_once
from jaxsplit.io.files import as_text

_NO_CLASSES = {"__MACOSX", "@eaDir"}  # folders of macOS's archives and of Synology's thumbnails
_HELD_OUT = (90, 100)  # percent of every class
_PARTS = {"train": (0, 90), "test": _HELD_OUT, "val": _HELD_OUT, "validation": _HELD_OUT}


def open_records(path: str, split: str | None) -> tuple["FolderRecords", str]:
    """Opens one split of a folder and returns its name; without splits it is `all`.

    Warns once of each folder: entries that are left out, and parts in place of splits. Raises a
    DataError: no such folder or split, a class without images or not in classes.txt.
    """
    name = f"folder:{path}"
    try:
        records, split = _open(Path(path).expanduser(), name, split)
    except OSError as error:
        raise DataError(f"cannot read {name}: {error}") from error
    if not len(records):
        raise DataError(
            f"{name} has no images in its split {split}, expected {split}/class/image files, "
            "or without splits at least 10 images of a class"
        )
    return records, split


def _open(root: Path, name: str, split: str | None) -> tuple["FolderRecords", str]:
    if not root.is_dir():
        raise DataError(f"{name}: no such folder; check the path")
    below = {folder.name: subfolders(folder) for folder in subfolders(root)}
    labelled = any(list_images(root / one)[0] for one in below)
    flat, part = False, (0, 100)
    if any(below.values()) and not labelled:
        split = choose_split(split, list(below), name)
        top, inside = root / split, below[split]
        # A split may lack classes of another, so labels count the classes of all splits.
        classes = sorted({folder.name for folders in below.values() for folder in folders})
    else:
        flat = not labelled and bool(list_images(root)[0])
        if not below and not flat:
            raise DataError(f"{name} has no images, expected [split/]class/image files")
        split, part = choose_part(split, root, name)
        top, inside, classes = root, subfolders(root), list(below)
    listings = [folder / "classes.txt" for folder in (root, top)]
    if listing := next(filter(Path.is_file, listings), None):
        classes = read_classes(listing, {folder.name for folder in inside})
    return FolderRecords(name, top, [] if flat else classes, part), split


def choose_part(split: str | None, root: Path, name: str) -> tuple[str, tuple[int, int]]:
    """Returns the name of a part of a folder without splits, and what it has, in percent.

    Warns once of each folder where it is a part.
    """
    if split not in _PARTS:
        return choose_split(split, ["all"], name), (0, 100)
    part = _PARTS[split]
    warn_once(
        f"parts of {root}",
        f"{name} has no splits: {split} is {part[0]} % to {part[1]} % of every class, by "
        "file name; name another part, such as all[:80%], or make a folder for each split",
    )
    return split, part


class FolderRecords:
    """Records of one split, ordered by class and file name; `labels` are int32 [N].

    Without class names they are the images in `top` itself. `part` is in percent of every class.
    """

    def __init__(self, name: str, top: Path, class_names: list[str], part: tuple[int, int]):
        self.class_names = tuple(map(as_text, class_names))
        self._top = top
        self._files: list[str] = []  # below top: paths would take more memory
        labels: list[int] = []
        left_out = [file for file, *_ in list_images(top)[0]] if class_names else []
        digest, listing = hashlib.sha256(), hashlib.sha256()
        folders = [(i, _folder_name(one), one) for i, one in enumerate(class_names)]
        for label, below, class_name in folders or [(-1, ".", "")]:
            folder = top / below
            if not folder.is_dir():
                continue
            files, others = list_images(folder)
            left_out += [f"{below}/{other}" for other in others]
            if not files:
                what = f"class {class_name!r} has no images ({', '.join(FORMATS)}) in {folder}"
                advice = HEIC_ADVICE if _has_heic(others) else "add some, or remove the folder"
                raise DataError(f"{name}: {what}; {advice}")
            for file, size, modified in files:
                listed = f"{below}/{file}\0{size}".encode("utf-8", "surrogateescape")
                listing.update(listed + b"\n")
                digest.update(listed + f"\0{modified}\n".encode())
                self._files.append(f"{below}/{file}")
                labels.append(label)
        if left_out:
            warn_once(f"left out of {top}", _left_out(name, left_out, len(labels)))
        kept = part_of(np.array(labels, np.int32), *part)
        self._files = [self._files[i] for i in kept]
        self.labels = np.array(labels, np.int32)[kept]
        self.identity = f"folder {digest.hexdigest()}"
        self.listing = f"folder {listing.hexdigest()}"

    def __len__(self) -> int:
        return len(self._files)

    def examples(self, indices: Sequence[int]) -> Iterator[Example]:
        """Yields the example of each index; images are uint8 [H, W, C]."""
        for i in indices:
            image = decode_image(self._top / self._files[i])
            yield Example(image=image, label=int(self.labels[i]))


def _folder_name(class_name: str) -> str:
    return class_name.replace("/", "_")


def subfolders(folder: Path) -> list[Path]:
    """Lists the folders in a folder, without hidden ones."""
    folders = (entry for entry in folder.iterdir() if entry.is_dir())
    return sorted(f for f in folders if not f.name.startswith(".") and f.name not in _NO_CLASSES)


def list_images(folder: Path) -> tuple[list[tuple[str, int, int]], list[str]]:
    """Lists (name, bytes, modification time in ns) of the images, and other names; none hidden."""
    images, others = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_file() and os.path.splitext(entry.name)[1].lower() in suffixes():
                images.append((entry.name, entry.stat().st_size, entry.stat().st_mtime_ns))
            else:
                others.append(entry.name)
    return sorted(images), sorted(others)


def _has_heic(names: Sequence[str]) -> bool:
    return any(name.lower().endswith((".heic", ".heif", ".hif")) for name in names)


def _left_out(name: str, left_out: list[str], count: int) -> str:
    advice = "remove or convert them"
    if _has_heic(left_out):
        advice = HEIC_ADVICE
    return (
        f"{name}: {len(left_out)} files or folders are left out beside {count} images, such as "
        f"{left_out[0]}: expected {', '.join(FORMATS)} in class folders; {advice}"
    )


def read_classes(listing: Path, present: set[str]) -> list[str]:
    """Returns the names in a classes.txt; a DataError if it lacks one of the folders `present`."""
    # Bytes that are no UTF-8 are kept, as in the names of folders.
    lines = listing.read_text("utf-8-sig", "surrogateescape").splitlines()
    names = [line.strip() for line in lines if line.strip()]
    folders = set(map(_folder_name, names))
    if len(folders) != len(names):
        raise DataError(f'{listing} names a class twice ("/" counts as "_"); remove one')
    if unknown := sorted(present - folders):
        raise DataError(f"{listing} lacks these class folders: {', '.join(unknown)}; add them")
    return names
