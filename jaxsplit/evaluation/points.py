"""Points of a rate–accuracy curve, their 95 % intervals, and validation of their values."""

import math
from dataclasses import dataclass, fields

import numpy as np

from jaxsplit.errors import ConfigError

__all__ = ["CodecPoint", "RatePoint", "wilson_interval"]

#: Lower and upper limit of a share, 0 … 1.
Interval = tuple[float, float]

#: Two-sided 95 % quantile of the standard normal distribution.
_Z = 1.959963984540054


@dataclass(frozen=True)
class RatePoint:
    """Cost and accuracy of one rate, measured over a set of images.

    Fields after `n_images` are None where they were not measured, as in an older file.

    Args:
      rate_id: name of the rate in its family.
      lmbda: rate weight (lambda) of the training loss, ≥ 0; None where it is not known.
      bytes_per_image: mean length of real frames; the tail ran on what was decoded from them.
      estimated_bits_per_image: mean code length of the same latents under the rate's prior; under
        its tables where it has no prior.
      bits_per_pixel: 8 · bytes_per_image per pixel of the network's input image.
      top1: accuracy through those bytes, 0 … 1.
      n_images: number of images.
      table_bits_per_image: mean information content of the same latents under the rate's integer
        tables, in bits: the output of an ideal coder.
      top1_interval: Wilson's 95 % interval of top-1, 0 … 1.
      top5: share of images whose class is among the five likeliest; None for at most five classes.
      top5_interval: its interval.
      agreement: share of images to which the unsplit network gives the same class.
      agreement_interval: its interval.
      bytes_p5, bytes_p95: 5th and 95th percentile of the lengths of frames.
      device_macs, device_params: multiply-accumulates of an image, and parameters, of head and
        encoder, see `cost.SplitCost`.
      device_share: device_macs as a share of the unsplit network's.
      server_macs, server_params: those of decoder and tail.
      unit_bytes: size of the rate in a packed family, see `FamilyRate.stored_bytes`.
      unit_share: unit_bytes as a share of the backbone's arrays in float32.

    Raises:
      ConfigError: a number is not finite or out of its range.

    >>> RatePoint("r0", 0.01, 52.0, 400.0, 52 * 8 / 784, top1=0.875, n_images=2000).agreement
    """

    rate_id: str
    lmbda: float | None
    bytes_per_image: float
    estimated_bits_per_image: float
    bits_per_pixel: float
    top1: float
    n_images: int
    table_bits_per_image: float | None = None
    top1_interval: Interval | None = None
    top5: float | None = None
    top5_interval: Interval | None = None
    agreement: float | None = None
    agreement_interval: Interval | None = None
    bytes_p5: float | None = None
    bytes_p95: float | None = None
    device_macs: int | None = None
    device_share: float | None = None
    device_params: int | None = None
    server_macs: int | None = None
    server_params: int | None = None
    unit_bytes: int | None = None
    unit_share: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.rate_id, str) or not self.rate_id:
            raise ConfigError(f"rate_id is {self.rate_id!r}, expected a name")
        for name in ("bytes_per_image", "estimated_bits_per_image", "bits_per_pixel"):
            set_number(self, name)
        set_number(self, "top1", highest=1.0)
        set_count(self, "n_images")
        for name in ("lmbda", *optional(RatePoint)):
            if getattr(self, name) is None:
                continue
            if name.endswith("_interval"):
                set_interval(self, name)
            elif name.endswith(("_macs", "_params")) or name == "unit_bytes":
                set_count(self, name)
            else:
                set_number(self, name, 1.0 if name in ("top5", "agreement") else math.inf)


@dataclass(frozen=True)
class CodecPoint:
    """One quality of one codec, measured over a set of images.

    Args:
      codec: "jpeg", "webp" or "avif".
      quality: Pillow's quality, 1 … 95 (JPEG) or 0 … 100 (WebP, AVIF).
      bytes_per_image: mean length of the whole files.
      header_bytes_per_image: mean of `image_codecs.header_bytes`.
      top1: accuracy of the unsplit network on the decoded images, 0 … 1.
      agreement: share of images whose class is the same before and after coding, 0 … 1.
      top1_interval, agreement_interval: Wilson's 95 % intervals; None in an older file.

    Raises:
      ConfigError: a number is not finite or out of its range.

    >>> CodecPoint("jpeg", 50, 500.0, 330.0, top1=0.9, agreement=0.95).payload_bytes_per_image
    170.0
    """

    codec: str
    quality: int
    bytes_per_image: float
    header_bytes_per_image: float
    top1: float
    agreement: float
    top1_interval: Interval | None = None
    agreement_interval: Interval | None = None

    def __post_init__(self) -> None:
        set_count(self, "quality", lowest=0)
        for name in ("bytes_per_image", "header_bytes_per_image"):
            set_number(self, name)
        for name in ("top1", "agreement"):
            set_number(self, name, highest=1.0)
        for name in optional(CodecPoint):
            if getattr(self, name) is not None:
                set_interval(self, name)

    @property
    def payload_bytes_per_image(self) -> float:
        """Mean bytes without the header, which a system could agree on once."""
        return self.bytes_per_image - self.header_bytes_per_image


def optional(point: type) -> tuple[str, ...]:
    """Returns the fields that a class of points may lack: older files don't have them.

    >>> optional(CodecPoint)
    ('top1_interval', 'agreement_interval')
    """
    return tuple(entry.name for entry in fields(point) if entry.default is None)


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Computes Wilson's 95 % interval of a proportion.

    (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n) with p = successes / n, n = trials. Unlike
    p ± z √(p(1-p)/n) it is accurate near 0 and 1 too, and stays between them.

    Wilson, "Probable inference, the law of succession, and statistical inference", J. Am. Stat.
    Assoc. 22 (1927).

    Args:
      successes: 0 … trials.
      trials: at least 1.

    Returns:
      Its lower and upper limit, 0 … 1.

    Raises:
      ConfigError: the counts are not as above.

    >>> low, high = wilson_interval(81, 263)
    >>> round(low, 4), round(high, 4)
    (0.2553, 0.3662)
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ConfigError(f"{successes} of {trials} is not a proportion")
    share, square = successes / trials, _Z**2 / trials
    middle = share + square / 2
    reach = _Z * math.sqrt(share * (1 - share) / trials + (_Z / (2 * trials)) ** 2)
    # A share of 0 or 1 is itself the limit; rounding may miss it.
    low = 0.0 if successes == 0 else (middle - reach) / (1 + square)
    high = 1.0 if successes == trials else (middle + reach) / (1 + square)
    return low, high


def check_keys(
    value: object, expected: tuple[str, ...], where: str, optional: tuple[str, ...] = ()
) -> None:
    """Checks that a value is a dict of the expected keys and any of the optional ones."""
    if not isinstance(value, dict) or set(value) - set(optional) != set(expected):
        got = f"the keys {sorted(value)}" if isinstance(value, dict) else type(value).__name__
        perhaps = f" and perhaps {sorted(optional)}" if optional else ""
        raise ConfigError(f"{where} has {got}, expected {sorted(expected)}{perhaps}")


def _number(name: str, value: object, highest: float = math.inf) -> float:
    if isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool):
        number = float(value)
        if math.isfinite(number) and 0 <= number <= highest:
            return number
    raise ConfigError(f"{name} is {value!r}, expected a number from 0 to {highest:g}")


def set_number(instance: object, name: str, highest: float = math.inf) -> None:
    """Converts an attribute to float; a ConfigError unless it is finite and 0 … `highest`."""
    object.__setattr__(instance, name, _number(name, getattr(instance, name), highest))


def set_interval(instance: object, name: str) -> None:
    """Converts an attribute to a pair of floats; a ConfigError unless 0 ≤ low ≤ high ≤ 1."""
    value = getattr(instance, name)
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ConfigError(f"{name} is {value!r}, expected its lower and upper limit")
    low, high = (_number(name, end, highest=1.0) for end in value)
    if low > high:
        raise ConfigError(f"{name} is {value!r}, expected the lower limit first")
    object.__setattr__(instance, name, (low, high))


def set_count(instance: object, name: str, lowest: int = 1) -> None:
    """Converts an attribute to int; a ConfigError unless it is whole and at least `lowest`."""
    value = getattr(instance, name)
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < lowest:
        raise ConfigError(f"{name} is {value!r}, expected a whole number of at least {lowest}")
    object.__setattr__(instance, name, int(value))
