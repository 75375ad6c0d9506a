"""A curve measured on every image of a small data set, by units that have not seen it.

    pip install ".[imagenet]"
    python tests/benchmarks/cross_validation.py efficientnet_lite0:middle --data folder:DIR \
        --workdir runs/folds --only 1,2,3,4 --baselines jpeg,webp,avif

The images of all splits of DIR, sorted by class and name, are dealt out to the folds in turn. For
each fold the configuration is trained on the others' images and measured, through real bytes, on
its own; the curve of all of them together (`curve.json`, `images.npz`) is one that `jaxsplit
compare` reads. What a configuration leaves open was chosen by some images:
`--only` leaves out the fold that has them. Folds that are there already are not repeated.

DIR holds a folder of images for each class, or splits of such folders, and `classes.txt`.
"""

import argparse
import hashlib
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from harness import make_parser
from sweep import train

from jaxsplit import data, load_backbone
from jaxsplit.data.images import suffixes
from jaxsplit.evaluation import image_codecs
from jaxsplit.evaluation.curve import Curve
from jaxsplit.evaluation.evaluate import predictor
from jaxsplit.evaluation.intervals import Value, wilson_interval
from jaxsplit.evaluation.per_image import FILE, PerImage
from jaxsplit.evaluation.points import CodecPoint, Values
from jaxsplit.networks.inference import batch_size

_CLASSES = "classes.txt"


def make_folds(root: Path, where: Path, count: int) -> list[Path]:
    """Folders of links to the images of `root`, each with one fold as `val` and the rest as
    `train`; refused where folds of other images are."""
    files = sorted(
        (file for file in root.rglob("*/*") if file.suffix.lower() in suffixes()),
        key=lambda file: (file.parent.name, file.name),
    )
    names = [f"{file.parent.name}/{file.name}" for file in files]
    if len(set(names)) < len(names):
        raise SystemExit(f"two images in {root} are the same class's and have one name")
    key = hashlib.sha256("\n".join([str(count), *names]).encode()).hexdigest()
    note = where / "folds"
    if note.exists() and note.read_text() != key:
        raise SystemExit(f"{where} has folds of other images, or other folds: take another folder")
    found = [where / str(number) for number in range(count)]
    for number, folder in enumerate(found):
        for index, (file, name) in enumerate(zip(files, names, strict=True)):
            link = folder / ("val" if index % count == number else "train") / name
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink():
                link.symlink_to(file.resolve())
        if (root / _CLASSES).exists() and not (folder / _CLASSES).exists():
            (folder / _CLASSES).symlink_to((root / _CLASSES).resolve())
    note.write_text(key)
    return found


def pooled(curves: Sequence[Curve], seen: Sequence[PerImage]) -> tuple[Curve, PerImage]:
    """The curve of all folds' images, and what each image gave.

    Args:
      curves: of the folds, with the same rates in the same order.
      seen: what their images gave.

    Returns:
      Shares of all images with their intervals, percentiles of all frames; other figures are means
      over the images.

    Raises:
      SystemExit: the curves are not of the same rates, cut and network.
    """
    kinds = {
        (
            tuple((point.rate_id, point.lmbda) for point in curve.points),
            curve.origin.cut,
            curve.origin.backbone_fingerprint,
        )
        for curve in curves
    }
    if len(kinds) > 1:
        raise SystemExit(f"the folds are of different trainings: {kinds}")
    names = ("bytes", "predicted", "labels", "unsplit")
    arrays = [np.concatenate([getattr(one, name) for one in seen], axis=-1) for name in names]
    images = PerImage(seen[0].rate_ids, *arrays)
    counts = [curve.n_images for curve in curves]
    points = []
    at_rates = zip(*(curve.points for curve in curves), strict=True)
    for sizes, same in zip(images.bytes, at_rates, strict=True):
        p5, p95 = np.percentile(sizes, (5, 95), method="inverted_cdf")
        point = replace(same[0], **_means(same, counts))
        points.append(replace(point, bytes_p5=p5, bytes_p95=p95))
    digests = [curve.origin.data_fingerprint for curve in curves]
    whole = replace(
        curves[0],
        **_means(curves, counts),
        points=tuple(points),
        baselines={},
        origin=replace(
            curves[0].origin,
            data_fingerprint=hashlib.sha256(" ".join(digests).encode()).hexdigest(),
        ),
    )
    return whole, images


def _means(same: Sequence[Any], counts: Sequence[int]) -> dict[str, Any]:
    """The numbers of one point, from those that it has in each fold.

    Shares of images are counted, so that their intervals are of all images.
    """
    found: dict[str, Any] = {}
    for entry in fields(same[0]):
        values = [getattr(one, entry.name) for one in same]
        if entry.name == "n_images":
            found[entry.name] = sum(counts)
        elif entry.name == ("unsplit" if isinstance(same[0], Curve) else "metrics"):
            found[entry.name] = {name: _share(name, values, counts) for name in values[0]}
        elif isinstance(values[0], int | float) and len(set(values)) > 1:
            mean = float(np.average(values, weights=counts))
            found[entry.name] = round(mean) if isinstance(values[0], int) else mean
    return found


def _share(name: str, values: Sequence[Values], counts: Sequence[int]) -> Value:
    """Returns the share of all images from those of each fold's."""
    right = sum(round(one[name].mean * n) for one, n in zip(values, counts, strict=True))
    return Value(right / sum(counts), wilson_interval(right, sum(counts)))


def image_files(
    folders: Sequence[Path], curve: Curve, codecs: Sequence[str]
) -> dict[str, tuple[CodecPoint, ...]]:
    """Curves of image codecs on the folds' images, at every second quality."""
    backbone = load_backbone(curve.origin.backbone)
    if backbone.fingerprint != curve.origin.backbone_fingerprint:
        raise SystemExit(f"{backbone.name} has other weights than the curves")
    sources = [data.open_source(f"folder:{folder}", split="val") for folder in folders]
    parts = [data.load_arrays(source, backbone.preprocessing) for source in sources]
    pixels, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    predict = predictor(backbone)
    uncut = predict(pixels).argmax(-1)
    found = {}
    for codec in codecs:
        print(f"image files: {codec}", flush=True)
        qualities = image_codecs.QUALITIES[codec][::2]
        size = batch_size(backbone.preprocessing.input_shape)
        found[codec] = image_codecs.sweep(pixels, labels, uncut, predict, codec, qualities, size)
    return found


def parse() -> argparse.Namespace:
    """The options of the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("config")
    parser.add_argument("--data", required=True, help="folder:DIR")
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--only", help="folds to train and measure, from 0, separated by commas")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--features", type=Path, help="folder of cached features that others share")
    parser.add_argument("--baselines", help="image codecs, separated by commas")
    return parser.parse_args()


def main() -> None:
    """Trains what is missing and writes the curve of all folds."""
    options = parse()
    root = Path(options.data.removeprefix("folder:")).expanduser()
    folds = make_folds(root, options.workdir / "images", options.folds)
    chosen = list(range(options.folds))
    if options.only is not None:
        chosen = [int(number) for number in options.only.split(",")]
    curves, seen = [], []
    for number in chosen:
        words = [f"data=folder:{folds[number].resolve()}", "test_split=val", "baselines=()"]
        words += options.set
        exact = hashlib.sha256(" ".join([options.config, *words]).encode()).hexdigest()[:8]
        folder = options.workdir / f"fold{number}_{exact}"
        train(options.config, words, folder, options.features or options.workdir / "features")
        curves.append(Curve.read(folder / "curve.json"))
        seen.append(PerImage.read(folder / FILE))
        print(f"fold {number}: {len(seen[-1].labels)} images", flush=True)
    curve, images = pooled(curves, seen)
    listed = ", ".join(map(str, chosen))
    origin = replace(
        curve.origin,
        data=data.portable_name(options.data),
        split=f"folds {listed} of {options.folds}",
    )
    baselines = {}
    if options.baselines is not None:
        held_out = [folds[number] for number in chosen]
        baselines = image_files(held_out, curve, options.baselines.split(","))
    curve = replace(curve, origin=origin, baselines=baselines)
    curve.write(options.workdir / "curve.json")
    images.write(options.workdir / FILE)
    for point in curve.points:
        low, high = point.agreement_interval
        print(
            f"{point.rate_id}  {point.bytes_per_image:7.1f} bytes  top-1 {100 * point.top1:.2f} %  "
            f"agreement {100 * point.agreement:.2f} % ({100 * low:.2f} to {100 * high:.2f})"
        )


if __name__ == "__main__":
    main()
