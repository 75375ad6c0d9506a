"""Packs and reads the header of a container: family, rates and shapes, as in FORMAT.md."""

import math
import re
from dataclasses import dataclass

from jaxsplit.bitstream.frames import MAX_IMAGE_SIDE, Cursor, checked_size, pack_varint
from jaxsplit.bitstream.tables import MAX_SYMBOLS
from jaxsplit.errors import (
    BitstreamError,
    ConfigError,
    NewerVersionError,
    OtherFamilyError,
    OtherTablesError,
)

MAGIC = b"JSPL"
#: Newest version; versions from 1 on are read.
VERSION = 4
_WITHOUT_LEVELS = 3  # newest version that is written where no rate has levels
MAX_RATES = 255

#: Flags of a header.
FRAME_CHECKS, IMAGE_SIZES = 1, 2
_ALL_FLAGS = FRAME_CHECKS | IMAGE_SIZES

_FINGERPRINT_BYTES = 16
_MAX_ID_BYTES = 64
# Control characters of lines, columns and text direction. By code point: `str.isprintable` depends
# on Python's Unicode version, and two versions must not disagree about a file.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class RateInfo:
    """A container's entry for one rate; a ConfigError if it does not fit the format.

    Args:
      rate_id: name in the family, 1 … 64 bytes of UTF-8 without control characters.
      tables: fingerprint of the coding tables in hexadecimal; the first 32 digits are kept.
      shape: (h, w, channels) of the latents; at most 2**22 symbols.
      levels: rates of a variable-rate unit that this entry stands for, 1 … 255, see `LevelTables`.

    >>> RateInfo("low", tables="1F" * 32, shape=(4, 4, 64)).tables  # half of a SHA-256 is kept
    '1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f'
    """

    rate_id: str
    tables: str
    shape: tuple[int, int, int]
    levels: int = 1

    def __post_init__(self) -> None:
        size = len(self.rate_id.encode(errors="replace"))
        if not 1 <= size <= _MAX_ID_BYTES or _CONTROLS.search(self.rate_id):
            raise ConfigError(
                f"rate id {self.rate_id[:80]!r} has {size} bytes, expected 1 … {_MAX_ID_BYTES} and "
                "no control characters; choose another name"
            )
        object.__setattr__(self, "tables", _digits(self.tables))
        shape = tuple(int(size) for size in self.shape)
        if len(shape) != 3 or min(shape) < 1 or math.prod(shape) > MAX_SYMBOLS:
            raise ConfigError(
                f"rate {self.rate_id!r} has latents of {shape}, expected positive h, w and "
                f"channels with at most {MAX_SYMBOLS} symbols"
            )
        object.__setattr__(self, "shape", shape)
        if not 1 <= self.levels <= MAX_RATES:
            raise ConfigError(
                f"rate {self.rate_id!r} has {self.levels} levels, expected 1 … {MAX_RATES}"
            )


@dataclass(frozen=True)
class Header:
    """Header of a container; a ConfigError if it does not fit the format.

    Args:
      family: fingerprint of the family in hexadecimal; the first 32 digits are kept.
      rates: 1 … 255 rates with distinct ids, levels included; a frame's rate_index counts through
        them and their levels.
      image: (h, w, channels) of the encoded images; None if unknown.
      original: (H, W) of the images before they were resized or cropped, of frames without a size
        of their own; None: no frame has one, since only maps of the image need it.

    >>> ours = Header("00" * 16, (RateInfo("low", "11" * 16, (4, 4, 64)),), image=(28, 28, 1))
    >>> ours.check(ours)
    """

    family: str
    rates: tuple[RateInfo, ...]
    image: tuple[int, int, int] | None = None
    original: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "family", _digits(self.family))
        object.__setattr__(self, "rates", tuple(self.rates))
        ids = [rate.rate_id for rate in self.rates]
        if not ids or len(set(ids)) < len(ids) or self.n_rates > MAX_RATES:
            raise ConfigError(
                f"a container of {self.n_rates} rates, expected 1 … {MAX_RATES} with distinct ids"
            )
        if self.image is not None:
            image = tuple(int(size) for size in self.image)
            if len(image) != 3 or min(image) < 1 or max(image) > MAX_IMAGE_SIDE:
                raise ConfigError(
                    f"images of {image}, expected h, w and channels from 1 to {MAX_IMAGE_SIDE}"
                )
            object.__setattr__(self, "image", image)
        if self.original is not None:
            object.__setattr__(self, "original", checked_size(self.original))

    @property
    def n_rates(self) -> int:
        """Number of rates that a frame can have, with all levels."""
        return sum(rate.levels for rate in self.rates)

    @property
    def version(self) -> int:
        """Version of the format that is written."""
        return _WITHOUT_LEVELS if self.n_rates == len(self.rates) else VERSION

    def check(self, received: "Header") -> None:
        """Refuses a file or stream that this header's family cannot decode.

        Args:
          received: header of the file or stream.

        Raises:
          OtherFamilyError: encoded with another family.
          OtherTablesError: names this family, but other rates, tables or shapes.
        """
        remedy = "decode it with the family that encoded it"
        if received.family != self.family:
            raise OtherFamilyError(
                f"encoded with another family, {received.family[:12]}; this one is "
                f"{self.family[:12]}: {remedy}"
            )
        other = ""
        if len(received.rates) != len(self.rates):
            other = f"with {len(received.rates)} rates, this family has {len(self.rates)}"
        elif received.rates != self.rates:
            pairs = zip(received.rates, self.rates, strict=True)
            theirs, ours = next(pair for pair in pairs if pair[0] != pair[1])
            other = f"with other tables: {_words(theirs)}, but this family has {_words(ours)}"
        elif None not in (received.image, self.image) and received.image != self.image:
            other = f"from images of {received.image}, this family takes {self.image}"
        if other:
            raise OtherTablesError(f"encoded {other}; {remedy}")


def pack_header(header: Header, flags: int = 0) -> bytes:
    """Packs the header of a file or stream.

    Args:
      header: family, rates and image shape.
      flags: FRAME_CHECKS if frames carry checks, else 0. IMAGE_SIZES follows from the header.

    Returns:
      The bytes before the first frame.

    >>> len(pack_header(Header("00" * 16, (RateInfo("low", "11" * 16, (4, 4, 64)),))))
    49
    """
    version = header.version
    flags |= 0 if header.original is None else IMAGE_SIZES
    parts = [MAGIC, bytes([version, flags]), bytes.fromhex(header.family)]
    parts += [pack_varint(size) for size in header.image or (0, 0, 0)]
    parts += [pack_varint(size) for size in header.original or ()]
    parts.append(bytes([len(header.rates)]))
    for rate in header.rates:
        name = rate.rate_id.encode()
        parts += [bytes([len(name)]), name, bytes.fromhex(rate.tables)]
        parts += [pack_varint(size) for size in rate.shape]
        if version > _WITHOUT_LEVELS:
            parts.append(bytes([rate.levels]))
    return b"".join(parts)


def read_header(cursor: Cursor) -> tuple[Header, int, int]:
    """Reads the header, its format version and its flags; a BitstreamError if it cannot."""
    magic = cursor.take_up_to(len(MAGIC))
    if not MAGIC.startswith(magic):
        wrong = f"not a jaxsplit {cursor.kind}: it begins with {magic!r}, expected {MAGIC!r}; give"
        raise BitstreamError(
            f"{wrong} what `jaxsplit encode` or `pack_header` and a Sender wrote",
            shell=f"{wrong} what jaxsplit encode wrote",
        )
    cursor.take(len(MAGIC) - len(magic), "header")
    version = cursor.byte("format version")
    if version == 0:
        raise cursor.corrupted("format version 0")
    flags = cursor.byte("flags") if 1 < version <= VERSION else 0
    if version > VERSION or flags & ~_ALL_FLAGS:
        newer = f"version {version}" if version > VERSION else f"flags {flags:#04x}"
        raise NewerVersionError(
            f"format {newer}, this library reads versions 1 … {VERSION} and flags up to "
            f"{_ALL_FLAGS:#04x}; decode it with the jaxsplit that wrote it, or encode it again"
        )
    family = cursor.take(_FINGERPRINT_BYTES, "family fingerprint").hex()
    try:
        sizes = _sizes(cursor, "image shape") if version > 1 else (0, 0, 0)
        original = None
        if flags & IMAGE_SIZES:
            original = cursor.varint("image size"), cursor.varint("image size")
        rates = []
        for _ in range(cursor.byte("number of rates")):
            rate_id = cursor.take(cursor.byte("rate id"), "rate id").decode()
            tables = cursor.take(_FINGERPRINT_BYTES, "table fingerprint").hex()
            shape = _sizes(cursor, "latent shape")
            levels = cursor.byte("number of levels") if version > _WITHOUT_LEVELS else 1
            rates.append(RateInfo(rate_id, tables, shape, levels))
        header = Header(family, tuple(rates), sizes if any(sizes) else None, original)
    except (ConfigError, UnicodeDecodeError) as error:
        raise cursor.corrupted(f"its header is invalid, {error}") from error
    return header, version, flags


def _sizes(cursor: Cursor, what: str) -> tuple[int, int, int]:
    return cursor.varint(what), cursor.varint(what), cursor.varint(what)


def _words(rate: RateInfo) -> str:
    levels = f", {rate.levels} levels" if rate.levels > 1 else ""
    return f"{rate.rate_id!r}, tables {rate.tables[:12]}, latents {rate.shape}{levels}"


def _digits(fingerprint: str) -> str:
    digits = fingerprint[: 2 * _FINGERPRINT_BYTES].lower()
    if len(digits) != 2 * _FINGERPRINT_BYTES or set(digits) - set("0123456789abcdef"):
        raise ConfigError(
            f"fingerprint {fingerprint[:80]!r}, expected at least {2 * _FINGERPRINT_BYTES} "
            "hexadecimal digits"
        )
    return digits
