"""`jaxsplit encode` and `jaxsplit decode`: the work of the device, and that of the server."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import functools
import io
import itertools
import json
import math
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jaxsplit.cli import arguments as cli
from jaxsplit.cli import program_cache
from jaxsplit.cli.files import IMAGES, hint
from jaxsplit.errors import BitstreamError, ConfigError, DataError, JaxsplitError, escaped, one_line
from jaxsplit.io.files import as_text, read_file, write_whole
from jaxsplit.io.log import Log

if TYPE_CHECKING:
    from jaxsplit.bitstream import Frame, Header
    from jaxsplit.codec import Receiver
    from jaxsplit.tasks import Shown

# Images whose results are in memory at once, whatever the file's length.
_DECODED_AT_ONCE, _OUTPUT_BYTES = 1024, 2**25
# An empty frame of one byte takes as much computing as any other.
_MOST = "refuse a file of more images (default: 1000000)"
_SHARE = "the fewest bytes that keep this share of the unsplit network's top-1, such as 0.98"
_RATE = "name of a rate, or of one tree for all rates a position, 0 (fewest bytes) to 1"
_OVER = "of an image over --max-bytes at every rate: error (default), or send its shortest frame"
_PICTURES = "for pictures of what is predicted, such as masks, of the images' own sizes"
_OVERLAID = "the images of the only FILE.jspl, in its order: overlays are drawn on them"
_SOME = "What fails is named, the others are {}, and the exit code is 1."


@cli.command(
    "encode",
    cli.argument("images", "IMAGE", "image files of any size", nargs="+"),
    *cli.FAMILY,
    cli.one_of(
        cli.argument("--rate", "ID", _RATE),
        cli.argument("--max-bytes", "N", "the best rate of each image in at most N bytes", int),
        cli.argument("--quality", "SHARE", _SHARE, float),
        required=True,
    ),
    cli.argument("--over-budget", "WHAT", _OVER, choices=("error", "shortest"), default="error"),
    cli.output_option("FILE.jspl"),
    cli.flag("--frame-checks", text="add four bytes an image that detect damage"),
    note=_SOME.format("written"),
)
def encode(options: argparse.Namespace) -> None:
    """Encode image files to a .jspl file, as a device does."""
    for name in options.images:
        if options.output.exists() and Path(name).exists() and options.output.samefile(name):
            raise ConfigError(f"--output is the image {name}: name another file")
    cli.check_suffix(options.output, ".jspl")
    if not any(Path(name).exists() for name in options.images):  # before jax is imported
        raise DataError(f"cannot read {options.images[0]} as an image: no such file")
    with program_cache.kept():
        _encode(options)


def _encode(options: argparse.Namespace) -> None:
    from jaxsplit import bitstream
    from jaxsplit.codec import Sender
    from jaxsplit.codec.rate_control import rates_for

    family, backbone = cli.open_family(options)
    request = {name: getattr(options, name) for name in ("rate", "max_bytes", "quality")}
    rates_for(family, **request, task=backbone.task)  # refused before images are read
    # One at a time, so that the bytes of an image are independent of the others.
    sender = Sender(family, backbone, batch_size=1)
    frames, failed = dict[int, bytes](), dict[int, JaxsplitError]()
    with cli.progress_bar(options, after=cli.SOON) as progress:
        for index, name in enumerate(options.images):
            progress.log("encoding", index, len(options.images))
            try:
                (frames[index],) = sender(Path(name), **request, over_budget=options.over_budget)
            except JaxsplitError as error:
                failed[index] = error
    errors = {
        index: _line(options.images[index], error) + hint(Path(options.images[index]), *IMAGES)
        for index, error in failed.items()
    }
    if not frames and len(errors) == 1:
        raise ConfigError(errors[0])
    for line in errors.values():
        _complain(line)
    if not frames:
        raise ConfigError(f"no image could be encoded: {options.output} is not written")
    opened, header = _unpacked(frames.values(), sender.header)
    written = bitstream.write_container(header, opened, frame_checks=options.frame_checks)
    write_whole(options.output, written)
    sizes = [size for _, size in bitstream.frame_sizes(written)]
    payload = sum(sizes)
    summary = (
        f"{cli.images_text(len(frames))}, {payload} bytes ({payload / len(frames):.1f} an image) "
        f"and {len(written) - payload} of header: {options.output}"
    )
    rates = [family.name(frame.rate_index) for frame in opened]
    listed = [
        {"image": as_text(options.images[index]), "rate": rate, "bytes": size}
        for index, rate, size in zip(frames, rates, sizes, strict=True)
    ]
    document = {"file": as_text(options.output), "bytes": len(written), "images": listed}
    if errors:
        document["failed"] = [
            {"image": as_text(options.images[index]), "error": line}
            for index, line in errors.items()
        ]
    cli.show(options, "", document, summary)
    if errors:
        total = cli.images_text(len(options.images))
        raise cli.Incomplete(f"{len(errors)} of {total} failed and are not in {options.output}")


def _unpacked(frames: Iterable[bytes], header: Header) -> tuple[list[Frame], Header]:
    """Returns frames for a file, and its header: with the images' commonest size, if any."""
    from jaxsplit import bitstream

    rest = header.n_rates, 0, header.version
    sized = header.original is not None
    opened = [bitstream.unpack_frame(frame, *rest, sized=sized)[0] for frame in frames]
    if not sized:
        return opened, header
    opened = [dataclasses.replace(one, size=one.size or header.original) for one in opened]
    [(size, _)] = collections.Counter(one.size for one in opened).most_common(1)
    return opened, dataclasses.replace(header, original=size)


class _Opened(NamedTuple):
    """A .jspl file that was read to its checksum, and its number of images."""

    name: str
    content: bytes
    total: int


@cli.command(
    "decode",
    cli.argument("files", "FILE.jspl", "written by encode", nargs="+"),
    *cli.FAMILY,
    cli.argument("--max-images", "N", _MOST, cli.positive, default=1_000_000),
    cli.argument("--out", "DIR", _PICTURES, Path),
    cli.argument("--over", "IMAGE", _OVERLAID, nargs="+", default=[]),
    note="Nothing limits the time: a file is complete, and results are printed as they are found.\n"
    + _SOME.format("decoded"),
)
def decode(options: argparse.Namespace) -> None:
    """Decode .jspl files to predictions, as a server does."""
    if not any(Path(name).exists() for name in options.files):  # before jax is imported
        read_file(Path(options.files[0]))
    with program_cache.kept():
        _decode(options)


def _decode(options: argparse.Namespace) -> None:
    from jaxsplit.cli.album import Album
    from jaxsplit.codec import Receiver

    family, backbone = cli.open_family(options)
    receiver = Receiver(family, backbone)
    album = None if options.out is None else Album(options.out, options.files, options.over)
    if album is not None and not backbone.task.has_maps:
        raise ConfigError(f"a {backbone.task.name} has no pictures: leave out --out")
    opened, failed, done = list[_Opened](), 0, 0
    for name in options.files:
        try:
            opened.append(_open(name, receiver, options))
        except JaxsplitError as error:
            if len(options.files) == 1:
                raise
            failed += 1
            _complain(_line(name, error))
    separator = "["
    for file in opened:
        receiver.batch_size = min(max(file.total, 1), _at_once(receiver, 32))
        named = {"file": as_text(file.name)} if len(options.files) > 1 else {}
        for values, pictures in _predictions(file, receiver, options):
            if album is not None:
                album.add(file.name, values, pictures)
            if "error" in values:
                failed += 1
                _complain(f"{file.name}: image {values['image']}: {values['error']}")
            else:
                done += 1
            if options.json:
                text = json.dumps(named | values, indent=1)
                print(f"{separator}\n{textwrap.indent(text, ' ')}", end="")
                separator = ","
            elif "error" not in values:
                print(_row(named, values))
    if options.json:
        print("\n]" if separator == "," else "[]")
    if failed and not done:
        raise BitstreamError("nothing could be decoded")
    if failed:
        raise cli.Incomplete(f"{failed} failed, {cli.images_text(done)} decoded")


def _open(name: str, receiver: Receiver, options: argparse.Namespace) -> _Opened:
    """Reads a file to its checksum, before anything of it is printed."""
    from jaxsplit import bitstream

    content = read_file(Path(name))
    try:
        header = bitstream.Reader(io.BytesIO(content)).header
    except BitstreamError as error:
        raise type(error)(f"{name}: {one_line(error)}{hint(Path(name), '.jspl')}") from error
    try:
        receiver.check(header)
    except BitstreamError as error:
        raise type(error)(f"{name}, for {options.family}: {one_line(error)}") from error
    total = sum(1 for _ in bitstream.frame_sizes(content))
    if total > options.max_images:
        raise BitstreamError(
            f"{name} has {total} images, more than --max-images {options.max_images}: "
            "raise it, or refuse the file"
        )
    return _Opened(name, content, total)


def _predictions(file: _Opened, receiver: Receiver, options: argparse.Namespace) -> Iterator[Shown]:
    """Yields what is known of each image: its prediction, or the error of a damaged frame."""
    from jaxsplit import bitstream
    from jaxsplit.tasks import Shown

    frames, number = bitstream.frame_sizes(file.content), 0
    many = _at_once(receiver, _DECODED_AT_ONCE)
    while batch := list(itertools.islice(frames, many)):
        # The bar is gone before results are printed: both may be on one terminal.
        with cli.progress_bar(options, after=cli.SOON) as progress:
            log = functools.partial(_log_decoded, progress.log, number, file.total)
            found = _decoded(receiver, [frame for frame, _ in batch], log)
        for (values, pictures), (frame, size) in zip(found, batch, strict=True):
            rate = receiver.family.name(frame.rate_index)
            yield Shown({"image": number, **values, "rate": rate, "bytes": size}, pictures)
            number += 1


def _at_once(receiver: Receiver, most: int) -> int:
    """Returns how many images to decode at once: few where their outputs are large."""
    import jax

    size = 4 * sum(math.prod(x.shape) for x in jax.tree.leaves(receiver.backbone.output_shapes))
    return min(most, max(1, _OUTPUT_BYTES // max(size, 1)))


def _decoded(receiver: Receiver, frames: list[Frame], log: Callable[[int], None]) -> list[Shown]:
    """Decodes frames together, and one by one where one is damaged."""
    from jaxsplit.tasks import Shown

    try:
        outputs = receiver.decode(frames, log)
        return receiver.backbone.task.show(outputs, receiver.placements(frames))
    except JaxsplitError as error:
        if len(frames) == 1:
            return [Shown({"error": one_line(error)})]
        half = len(frames) // 2
        parts = frames[:half], frames[half:]
        return [one for part in parts for one in _decoded(receiver, part, log)]


def _row(named: dict[str, str], values: dict[str, object]) -> str:
    predicted = {key: x for key, x in values.items() if key not in ("image", "rate", "bytes")}
    texts = map(_text, predicted.values())
    where = "".join(f"{escaped(name)}  " for name in named.values()) + f"image {values['image']}"
    return f"{where}  {'  '.join(texts)}  {values['bytes']} bytes  rate {values['rate']}"


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{escaped(str(key))} {_text(x)}" for key, x in value.items())
    return f"{value:.4f}" if isinstance(value, float) else escaped(str(value))


def _line(name: str, error: JaxsplitError) -> str:
    """Says on one line that a file failed; errors of readers name it."""
    text = one_line(error) or ""
    return text if name in text else f"{name}: {text}"


def _complain(line: str) -> None:
    sys.stdout.flush()
    print(f"jaxsplit: {escaped(line)}", file=sys.stderr)


def _log_decoded(log: Log, first: int, total: int, done: int) -> None:
    log("decoding", first + done, total)
