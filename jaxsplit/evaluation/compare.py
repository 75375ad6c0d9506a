"""Comparison of two measured curves, as `jaxsplit compare` prints it."""

import functools
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from jaxsplit import _moved
from jaxsplit.errors import ConfigError, DataError, warn_once
from jaxsplit.evaluation import bd_rate as bd
from jaxsplit.evaluation import per_image
from jaxsplit.evaluation.card import measured_curve, measured_data
from jaxsplit.evaluation.companions import marked, name_of
from jaxsplit.evaluation.curve import Curve
from jaxsplit.family.pretrained import is_family, load_pretrained
from jaxsplit.io.files import as_text
from jaxsplit.tasks import AGREEMENT, Metric

_CURVE = "curve.json"
_SHOWN = ("report.html", "curve.png")  # files beside it that show it


@dataclass(frozen=True)
class MeasuredCurve:
    """A curve, its name, its per-image records where they were kept, and its data where known."""

    name: str
    curve: Curve
    images: per_image.PerImage | None
    data: str | None = None

    @classmethod
    def open(cls, path: str | Path) -> "MeasuredCurve":
        """Reads a `curve.json`, or the one in a folder, and the `images.npz` beside it.

        The name or the folder of a family without a `curve.json` gives the figures of its card.
        A DataError if a file is missing or damaged, or they come from different evaluations. A
        report or a plot of another evaluation is a JaxsplitWarning.
        """
        file = Path(path) / _CURVE if Path(path).is_dir() else Path(path)
        if not file.exists() and is_family(path):
            name, family = as_text(path), load_pretrained(path)
            return cls(name, measured_curve(family, name), None, measured_data(family))
        curve = Curve.read(file)
        data = None if curve.origin is None else curve.origin.data
        if file.name == _CURVE:
            name = name_of(file.read_bytes())
            others = [one for one in _SHOWN if marked(file.with_name(one)) not in (None, name)]
            if others:
                which = f"{' and '.join(others)} in {file.parent}"
                warn_once(which, f"{which} came from another evaluation than {_CURVE}: repeat it")
        beside = file.with_name(per_image.FILE)
        if file.name != _CURVE or not beside.exists():
            return cls(as_text(path), curve, None, data)
        found = per_image.PerImage.read(beside)
        if not found.belongs_to(curve):
            raise DataError(f"{beside} comes from another evaluation than {file}: repeat it")
        return cls(as_text(path), curve, found, data)

    def rate_quality(self, quality: str) -> list[tuple[float, float]]:
        """Returns (bytes per image, quality) of every rate."""
        if quality == self.curve.quality:
            return self.curve.rate_quality()
        if quality != AGREEMENT and not self.curve.labelled:
            raise ConfigError(f"there is no {quality} in {self.name}: its images have no labels")
        if self.images is None:
            raise DataError(
                f"{self.name} has no {per_image.FILE}, which {quality} is computed from: "
                "write one with jaxsplit evaluate --out"
            )
        values, _ = self.images.statistics(quality).values(self.curve.metric(quality))
        return list(zip(self.images.bytes.mean(axis=1), values, strict=True))

    def unsplit_quality(self, quality: str) -> float:
        """Returns the unsplit network's quality."""
        if quality in self.curve.unsplit:
            return self.curve.unsplit[quality].mean
        if self.images is None:  # agreement, of a curve without labels
            metric = self.curve.metric(quality)
            return 1.0 if metric.is_share else metric.sign * math.inf
        return self.images.statistics(quality).values(self.curve.metric(quality))[1]


@dataclass(frozen=True)
class CurveComparison:
    """Distances between two curves.

    Args:
      reference, test: names of the curves.
      quality, metric: name of the compared metric; its label, unit and direction.
      method: the interpolant.
      bd_rate_percent: negative where `test` needs fewer bytes.
      bd_accuracy_points: in percentage points, or the metric's unit, positive where `test` is
        better; None without a common range of rates.
      overlap: range of the quality that the BD-rate averages over.
      common_bytes: range of bytes that the BD-accuracy averages over, or None.
      interval: of the BD-rate, where both curves have records of the same images.
      no_interval: reason why there is none, or "".
      same_images: False: other images of the same data; None where the files don't say.
    """

    reference: str
    test: str
    quality: str
    metric: Metric
    method: str
    bd_rate_percent: float
    bd_accuracy_points: float | None
    overlap: bd.Overlap
    common_bytes: tuple[float, float] | None
    interval: bd.BootstrapInterval | None
    no_interval: str
    same_images: bool | None

    def to_dict(self) -> dict[str, object]:
        """Converts to plain values, for JSON."""
        return asdict(self)

    def __repr__(self) -> str:
        return self.render()

    def render(self) -> str:
        """Renders as a short table of plain text."""
        metric, both = self.metric, self.overlap
        if self.interval is None:
            interval = f"no interval: {self.no_interval}"
        else:
            interval = (
                f"{100 * self.interval.level:g} % interval {self.interval.low:+.2f} to "
                f"{self.interval.high:+.2f} %, {self.interval.resamples} resamples of "
                f"{self.interval.n_images} images"
            )
        points, where = "n/a", "the curves share no range of bytes"
        if self.bd_accuracy_points is not None and self.common_bytes is not None:
            gain = metric.show(self.bd_accuracy_points / metric.scale, plus="+")
            points = f"{gain} {metric.drop_unit}"
            where = f"from {self.common_bytes[0]:.1f} to {self.common_bytes[1]:.1f} bytes an image"
        shares = f"{100 * both.of_reference:.0f} % of the reference's, "
        shares += f"{100 * both.of_test:.0f} % of the test's"
        if both.of_limits is not None:
            shares += f", {100 * both.of_limits:.0f} % of the limits'"
        rows = [
            ("BD-rate", f"{self.bd_rate_percent:+z.2f} %", interval),
            ("BD-accuracy", points, where),
            (
                "overlap",
                f"{metric.show(both.high - both.low)} {metric.drop_unit}",
                f"{metric.label} from {metric.show(both.low)} to {metric.show(both.high)} "
                f"{metric.unit}: {shares}",
            ),
        ]
        if self.same_images is None:
            note = "not said which; with different data the distances mean nothing"
            rows.append(("images", "unknown", note))
        elif not self.same_images:
            rows.append(("images", "different", "of the same data: their difference counts too"))
        test, reference = _short_names(self.test, self.reference)
        lines = [f"{metric.label} of {test} against {reference}, {self.method}"]
        lines += [f"{name:<12} {value:<14} {note}" for name, value, note in rows]
        return "\n".join(lines)


def _short_names(one: str, other: str) -> tuple[str, str]:
    """Returns two paths without their common leading folders."""
    folders = [Path(path).parent.parts for path in (one, other)]
    common = len(os.path.commonprefix(folders))  # noqa: RUF071 - of tuples, not of characters
    short, shorter = (Path(*Path(path).parts[common:]).as_posix() for path in (one, other))
    return short, shorter


def compare_curves(
    reference: MeasuredCurve | Curve,
    test: MeasuredCurve | Curve,
    *,
    quality: str | None = None,
    method: str = "pchip",
    drops: tuple[float, float] = bd.ANY_DROP,
) -> CurveComparison:
    """Computes the distances between two curves, with an interval where their images are equal.

    Args:
      reference, test: the curves; without records of images there is no interval.
      quality: the compared metric: that of the curves' task by default, or "agreement".
      method, drops: as in `bd_rate_interval`.

    Raises:
      ConfigError: as in `bd_rate`; the curves are of other metrics, or have no such metric; the
        drops are not decreasing; the unsplit networks' qualities differ, so that drops can't be
        compared; the curves have different data.
      DataError: agreement is requested and a curve has no per-image records.
    """
    if isinstance(reference, Curve):
        reference = MeasuredCurve("reference", reference, None)
    if isinstance(test, Curve):
        test = MeasuredCurve("test", test, None)
    if reference.curve.metrics != test.curve.metrics:
        both = " and ".join(", ".join(side.curve.metrics) for side in (reference, test))
        raise ConfigError(f"the curves have other metrics: {both}")
    quality = quality or reference.curve.quality
    metric = reference.curve.metric(quality)
    if not drops[0] > drops[1]:
        unit = "percentage points" if metric.is_share else metric.unit
        raise ConfigError(
            f"the drops are from {metric.scale * drops[0]:g} to {metric.scale * drops[1]:g} "
            f"{unit}, expected the first to be larger"
        )
    same_images = _same_images(reference, test)
    if quality in reference.curve.unsplit and drops != bd.ANY_DROP:
        _check_same_unsplit(reference, test, quality)
    curves = reference.rate_quality(quality), test.rate_quality(quality)
    limits = bd.drop_limits(reference.unsplit_quality(quality), drops, metric)
    up = metric.higher_is_better
    low, high = bd.common_rates(*curves, higher_is_better=up)
    bd_accuracy = None
    if low < high:
        bd_accuracy = bd.bd_accuracy(*curves, method=method, higher_is_better=up)
        bd_accuracy *= metric.scale / 100
    bootstrap = functools.partial(
        bd.bd_rate_interval, metric=metric, quality=quality, method=method, drops=drops
    )
    interval, no_interval = _interval(reference, test, bootstrap)
    return CurveComparison(
        reference=reference.name,
        test=test.name,
        quality=quality,
        metric=metric,
        method=method,
        bd_rate_percent=bd.bd_rate(*curves, method=method, limits=limits, higher_is_better=up),
        bd_accuracy_points=bd_accuracy,
        overlap=bd.overlap(*curves, limits, up),
        common_bytes=None if bd_accuracy is None else (low, high),
        interval=interval,
        no_interval=no_interval,
        same_images=same_images,
    )


def _interval(
    reference: MeasuredCurve,
    test: MeasuredCurve,
    bootstrap: Callable[[per_image.PerImage, per_image.PerImage], bd.BootstrapInterval],
) -> tuple[bd.BootstrapInterval | None, str]:
    """Returns the interval of the BD-rate, or None and the reason why there is none."""
    if reference.images is None or test.images is None:
        lacking = [side.name for side in (reference, test) if side.images is None]
        return None, f"no {per_image.FILE} in {' and '.join(lacking)}"
    if not _paired(reference, test):
        return None, "the two curves have different images or networks"
    try:
        return bootstrap(reference.images, test.images), ""
    except ConfigError as error:
        return None, str(error)


def _same_images(reference: MeasuredCurve, test: MeasuredCurve) -> bool | None:
    """Returns whether both have the same images, by their records or by the curves' origins."""
    if _paired(reference, test):
        return True
    origins = reference.curve.origin, test.curve.origin
    if origins[0] is None or origins[1] is None:
        if None not in (reference.data, test.data) and reference.data != test.data:
            raise ConfigError(
                f"one curve is of {reference.data}, the other of {test.data}: they cannot be "
                "compared; evaluate both on the same images"
            )
        return None
    return origins[0].same_images(origins[1])


def _paired(reference: MeasuredCurve, test: MeasuredCurve) -> bool:
    """Returns whether both have records of the same images.

    Without labels, predictions may be the same for other images: then the origins tell.
    """
    images = reference.images, test.images
    if images[0] is None or images[1] is None or not images[0].same_images(images[1]):
        return False
    if images[0].labels is not None:
        return True
    origins = reference.curve.origin, test.curve.origin
    return None not in origins and len({one and one.data_fingerprint for one in origins}) == 1


def _check_same_unsplit(reference: MeasuredCurve, test: MeasuredCurve, quality: str) -> None:
    metric = reference.curve.metric(quality)
    if lacking := [side.name for side in (reference, test) if quality not in side.curve.unsplit]:
        raise ConfigError(f"there is no {quality} of the unsplit network in {lacking[0]}")
    curves = reference.curve, test.curve
    seen = [(curve.unsplit[quality].mean, curve.n_images) for curve in curves]
    if not math.isclose(seen[0][0], seen[1][0]) or seen[0][1] != seen[1][1]:
        said = " and ".join(f"{metric.show(x)} {metric.unit} on {n} images" for x, n in seen)
        raise ConfigError(
            f"the unsplit networks have {said}: drops are comparable only where they are equal; "
            "evaluate both with one network on the same images, or compare without drops"
        )


__getattr__ = _moved.renamed(__name__)
