"""Kinds of files by their names, and the command that takes each."""

from __future__ import annotations

import shlex
from pathlib import Path

#: Endings of image files.
IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".heic")
#: Endings of weights.
WEIGHTS = (".safetensors", ".pth", ".pt", ".npz")
_SUFFIXES = {
    ".jspl": "a file of encode: jaxsplit decode {path} --family NAME",
    ".html": "a report: open it in a browser",
    ".py": "a configuration: jaxsplit train --config {path} --workdir DIR",
    ".safetensors": "weights: jaxsplit info {path}, and --weights takes them",
    **dict.fromkeys(IMAGES, "an image: jaxsplit encode {path} --family NAME --rate ID -o {jspl}"),
    **dict.fromkeys(
        (".pth", ".pt", ".npz"), "weights: jaxsplit import backbone NETWORK {path} -o {own}"
    ),
}
_NAMES = {
    "curve.json": "a curve: jaxsplit info {path}, and compare takes its folder",
    "curve.png": "the plot of a curve: jaxsplit info on its curve.json prints the figures",
    "report.html": "a report: open it in a browser; jaxsplit info on its curve.json prints it",
    "images.npz": "the results of each image of an evaluation: jaxsplit compare takes its folder",
    "family.json": "the index of a family: give its folder",
    "design.json": "the result of a search: jaxsplit train --config chosen.py, which is beside it",
    "design.png": "the plot of a search: design.json beside it has its figures",
    "chosen.py": "the choice of a search: jaxsplit train --config {path} --workdir DIR",
}


def hint(path: Path, *besides: str) -> str:
    """Returns the end of a message about a file of the wrong kind: what it is, and what takes it.

    Args:
      path: of the file.
      besides: names and endings of the files that were expected.

    Returns:
      A clause, or "" for a file whose name says nothing, or that isn't there.

    >>> plot = Path(__file__).parents[1] / "assets" / "quickstart.png"
    >>> hint(plot, ".jspl").partition(":")[0], hint(plot, ".png")
    ('; it is an image', '')
    """
    suffix = path.suffix.lower()
    what = _NAMES.get(path.name) or ("" if suffix in besides else _SUFFIXES.get(suffix, ""))
    if not what or path.name in besides or not path.is_file():
        return ""
    names = {"path": path, "jspl": path.with_suffix(".jspl"), "own": f"{path.stem}.safetensors"}
    quoted = {key: shlex.quote(str(name)) for key, name in names.items()}
    return f"; it is {what.format(**quoted)}"
