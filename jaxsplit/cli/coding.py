"""`jaxsplit encode` and `jaxsplit decode`: the work of the device, and that of the server."""

from __future__ import annotations

import argparse
import functools
import io
import itertools
import json
import textwrap
from pathlib import Path

from jaxsplit.cli import arguments as cli
from jaxsplit.cli import program_cache
from jaxsplit.errors import BitstreamError, ConfigError, FamilyError, escaped
from jaxsplit.io.files import as_text, read_file, write_whole
from jaxsplit.io.log import Log

# Images whose results are in memory at once, whatever the file's length.
_DECODED_AT_ONCE = 1024
# An empty frame of one byte takes as much computing as any other.
_MOST = "refuse a file of more images (default: 1000000)"
_SHARE = "the fewest bytes that keep this share of the unsplit network's top-1, such as 0.98"


@cli.command(
    "encode",
    cli.argument("images", "IMAGE", "image files of any size", nargs="+"),
    *cli.FAMILY,
    cli.one_of(
        cli.argument("--rate", "ID", "name of a rate"),
        cli.argument("--max-bytes", "N", "the best rate of each image in at most N bytes", int),
        cli.argument("--quality", "SHARE", _SHARE, float),
        required=True,
    ),
    cli.output_option("FILE.jspl"),
    cli.flag("--frame-checks", text="add four bytes an image that detect damage"),
)
@program_cache.kept()
def encode(options: argparse.Namespace) -> None:
    """Encode image files to a .jspl file, as a device does."""
    import numpy as np

    from jaxsplit import bitstream, data
    from jaxsplit.codec import Sender
    from jaxsplit.codec.rate_control import rates_for

    family, backbone = cli.open_family(options)
    request = {name: getattr(options, name) for name in ("rate", "max_bytes", "quality")}
    rates_for(family, **request, task=backbone.task)  # refused before images are read
    for name in options.images:
        if options.output.exists() and Path(name).exists() and options.output.samefile(name):
            raise ConfigError(f"--output is the image {name}: name another file")
    # One at a time, so that the bytes of an image are independent of the others.
    sender = Sender(family, backbone, batch_size=1)
    images, frames, total = list[np.ndarray](), list[bytes](), len(options.images)
    with cli.progress_bar(options, after=cli.SOON) as progress:
        for name in options.images:
            progress.log("reading", len(images), total)
            images.append(backbone.preprocessing.apply(data.decode_image(Path(name))))
        for name, image in zip(options.images, images, strict=True):
            progress.log("encoding", len(frames), total)
            try:
                frames += sender(image[np.newaxis], **request)
            except FamilyError as error:
                raise FamilyError(f"{name}: {error}") from error
    count = len(family.rates)
    opened = [bitstream.unpack_frame(frame, count)[0] for frame in frames]
    written = bitstream.write_container(sender.header, opened, frame_checks=options.frame_checks)
    write_whole(options.output, written)
    payload = sum(map(len, frames))
    summary = (
        f"{cli.images_text(len(frames))}, {payload} bytes ({payload / len(frames):.1f} an image) "
        f"and {len(written) - payload} of header: {options.output}"
    )
    rates = [family.rates[frame.rate_index].rate_id for frame in opened]
    listed = [
        {"image": as_text(name), "rate": rate, "bytes": len(frame)}
        for name, rate, frame in zip(options.images, rates, frames, strict=True)
    ]
    document = {"file": as_text(options.output), "bytes": len(written), "images": listed}
    cli.show(options, "", document, summary)


@cli.command(
    "decode",
    cli.argument("file", "FILE.jspl", "written by encode", Path),
    *cli.FAMILY,
    cli.argument("--max-images", "N", _MOST, cli.positive, default=1_000_000),
    note="Nothing limits the time: a file is complete, and results are printed as they are found.",
)
@program_cache.kept()
def decode(options: argparse.Namespace) -> None:
    """Decode a .jspl file to predictions, as a server does."""
    from jaxsplit import bitstream
    from jaxsplit.codec import Receiver

    content = read_file(options.file)
    family, backbone = cli.open_family(options)
    receiver = Receiver(family, backbone)
    try:
        receiver.check(bitstream.Reader(io.BytesIO(content)).header)
    except BitstreamError as error:
        raise type(error)(f"{options.file}, for {options.family}: {error}") from error
    # Read to its checksum before anything is printed.
    total = sum(1 for _ in bitstream.frame_sizes(content))
    if total > options.max_images:
        raise BitstreamError(
            f"{options.file} has {total} images, more than --max-images {options.max_images}: "
            "raise it, or refuse the file"
        )
    receiver.batch_size = min(max(total, 1), 32)
    number, separator = 0, "["
    frames = bitstream.frame_sizes(content)
    while batch := list(itertools.islice(frames, _DECODED_AT_ONCE)):
        # The bar is gone before results are printed: both may be on one terminal.
        with cli.progress_bar(options, after=cli.SOON) as progress:
            log = functools.partial(_log_decoded, progress.log, number, total)
            outputs = receiver.decode([frame for frame, _ in batch], log)
        for predicted, (frame, size) in zip(backbone.task.describe(outputs), batch, strict=True):
            rate = family.rates[frame.rate_index].rate_id
            if options.json:
                values = {"image": number, **predicted, "rate": rate, "bytes": size}
                print(f"{separator}\n{textwrap.indent(json.dumps(values, indent=1), ' ')}", end="")
                separator = ","
            else:
                texts = (
                    f"{x:.4f}" if isinstance(x, float) else escaped(str(x))
                    for x in predicted.values()
                )
                print(f"{number}  {'  '.join(texts)}  {size} bytes  rate {rate}")
            number += 1
    if options.json:
        print("\n]" if number else "[]")


def _log_decoded(log: Log, first: int, total: int, done: int) -> None:
    log("decoding", first + done, total)
