"""Points and curves of a classification, from the entries of a `curve.json`."""

import dataclasses

from jaxsplit.evaluation.curve import Curve
from jaxsplit.evaluation.intervals import Value
from jaxsplit.evaluation.points import CodecPoint, RatePoint

_METRICS = ("top1", "top5", "agreement")
_FIELDS = [field.name for field in dataclasses.fields(RatePoint)]


def values(**entries):
    """Metrics from entries such as top1=0.9, top1_interval=(0.8, 0.95)."""
    found = {
        name: Value(entries.pop(name), entries.pop(f"{name}_interval", None))
        for name in _METRICS
        if name in entries
    }
    assert not entries, entries
    return found


def make_rate(*arguments, **entries):
    """A point of a rate; `metrics` may be top-1 alone, other metrics are entries."""
    given = dict(zip(_FIELDS, arguments, strict=False)) | entries
    top1 = given.pop("metrics", None)
    names = [key for key in given if key.removesuffix("_interval") in _METRICS]
    metrics = values(**{"top1": top1} | {name: given.pop(name) for name in names})
    return RatePoint(**given, metrics=metrics)


def make_codec(
    codec,
    quality,
    bytes_per_image,
    header_bytes_per_image,
    top1,
    agreement,
    top1_interval=None,
    agreement_interval=None,
):
    metrics = {"top1": (top1, top1_interval), "agreement": (agreement, agreement_interval)}
    return CodecPoint(codec, quality, bytes_per_image, header_bytes_per_image, metrics)


def make_curve(top1, n_images, points, **entries):
    """A curve whose unsplit network has top-1 and perhaps top1_interval, top5, top5_interval."""
    names = ("top1_interval", "top5", "top5_interval")
    others = {name: entries.pop(name) for name in names if name in entries}
    return Curve(values(top1=top1, **others), n_images, tuple(points), **entries)


def changed(point, **entries):
    """A point with some of its metrics changed; None leaves one out."""
    known = {name: point.metrics[name].mean for name in point.metrics}
    known |= {f"{name}_interval": point.metrics[name].interval for name in point.metrics}
    kept = {name: value for name, value in (known | entries).items() if value is not None}
    return dataclasses.replace(point, metrics=values(**kept))
