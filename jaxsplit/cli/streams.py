"""`jaxsplit encode` and `jaxsplit decode`: images to bytes, and bytes to predictions."""

from __future__ import annotations

import argparse
import io
import itertools
import json
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from jaxsplit.cli.arguments import Commands, add_family
from jaxsplit.cli.results import SOON, open_family, progress_bar, show
from jaxsplit.errors import BitstreamError, ConfigError, FamilyError
from jaxsplit.io.files import read_file, write_whole

if TYPE_CHECKING:
    import numpy as np

    from jaxsplit.bitstream import Frame
    from jaxsplit.codec import Receiver

# Images whose results are held at once, however many a file has.
_DECODED_AT_ONCE = 1024


def add_encode(commands: Commands) -> None:
    """`jaxsplit encode`: images, and exactly one wish."""
    command = commands.add("encode", "Image files to one .jspl file: what the device does.", encode)
    command.add_argument("images", nargs="+", metavar="IMAGE", help="image files of any size")
    add_family(command)
    rate = command.add_mutually_exclusive_group(required=True)
    rate.add_argument("--rate", metavar="ID", help="name of a rate")
    rate.add_argument(
        "--max-bytes", type=int, metavar="N", help="the best rate of each image in so many bytes"
    )
    rate.add_argument(
        "--quality",
        type=float,
        metavar="SHARE",
        help="the fewest bytes that keep this share of the uncut network's top-1, such as 0.98",
    )
    command.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE.jspl", help="to write"
    )
    command.add_argument(
        "--frame-checks", action="store_true", help="four bytes an image that find a damaged one"
    )


def encode(options: argparse.Namespace) -> None:
    """Image files to one .jspl file."""
    import numpy as np

    from jaxsplit import bitstream, data
    from jaxsplit.codec import Sender
    from jaxsplit.codec.rate_control import rates_for

    family, backbone = open_family(options)
    wish = {name: getattr(options, name) for name in ("rate", "max_bytes", "quality")}
    rates_for(family, **wish)  # refused before images are read
    for name in options.images:
        if options.output.exists() and Path(name).exists() and options.output.samefile(name):
            raise ConfigError(f"--output is the image {name}: name another file")
    # One at a time: an image's bytes then don't depend on what it is encoded with.
    sender = Sender(family, backbone, batch_size=1)
    images, frames, total = list[np.ndarray](), list[bytes](), len(options.images)
    with progress_bar(options, after=SOON) as progress:
        for name in options.images:
            progress.log("reading", len(images), total)
            images.append(backbone.preprocessing.apply(data.decode_image(Path(name))))
        for name, image in zip(options.images, images, strict=True):
            progress.log("encoding", len(frames), total)
            try:
                frames += sender(image[np.newaxis], **wish)
            except FamilyError as error:
                raise FamilyError(f"{name}: {error}") from error
    count = len(family.rates)
    opened = [bitstream.unpack_frame(frame, count)[0] for frame in frames]
    written = bitstream.write_container(sender.header, opened, frame_checks=options.frame_checks)
    write_whole(options.output, written)
    payload = sum(map(len, frames))
    summary = (
        f"{len(frames)} {'image' if len(frames) == 1 else 'images'}, {payload} bytes "
        f"({payload / len(frames):.1f} an image) and {len(written) - payload} of header: "
        f"{options.output}"
    )
    rates = [family.rates[frame.rate_index].rate_id for frame in opened]
    listed = [
        {"image": name, "rate": rate, "bytes": len(frame)}
        for name, rate, frame in zip(options.images, rates, frames, strict=True)
    ]
    document = {"file": str(options.output), "bytes": len(written), "images": listed}
    show(options, "", document, summary)


def add_decode(commands: Commands) -> None:
    """`jaxsplit decode`: what `encode` wrote."""
    command = commands.add("decode", "A .jspl file to predictions: what the server does.", decode)
    command.add_argument("file", type=Path, metavar="FILE.jspl", help="that encode wrote")
    add_family(command)


def decode(options: argparse.Namespace) -> None:
    """A .jspl file to predictions."""
    import numpy as np

    from jaxsplit import bitstream
    from jaxsplit.codec import Receiver

    content = read_file(options.file)
    family, backbone = open_family(options)
    receiver = Receiver(family, backbone)
    try:
        receiver.check(bitstream.Reader(io.BytesIO(content)).header)
    except BitstreamError as error:
        raise type(error)(f"{options.file}, for {options.family}: {error}") from error
    # Read to its checksum before anything is said of it.
    total = sum(1 for _ in bitstream.frame_sizes(content))
    receiver.batch_size = min(max(total, 1), 32)
    number, separator = 0, "["
    frames = bitstream.frame_sizes(content)
    while batch := list(itertools.islice(frames, _DECODED_AT_ONCE)):
        read = [frame for frame, _ in batch]
        logits = _decode(receiver, read, number, total, options).astype(np.float64)
        probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        for row, (frame, size) in zip(probabilities, batch, strict=True):
            name, probability = backbone.class_names[row.argmax()], float(row.max())
            rate = family.rates[frame.rate_index].rate_id
            if options.json:
                values = {"image": number, "class": name, "probability": round(probability, 4)}
                text = json.dumps({**values, "rate": rate, "bytes": size}, indent=1)
                print(f"{separator}\n{textwrap.indent(text, ' ')}", end="")
                separator = ","
            else:
                print(f"{number}  {name}  {probability:.4f}  {size} bytes  rate {rate}")
            number += 1
    if options.json:
        print("\n]" if number else "[]")


def _decode(
    receiver: Receiver, frames: list[Frame], first: int, total: int, options: argparse.Namespace
) -> np.ndarray:
    """Logits of the frames from number `first` on, of `total` in all."""
    # Gone before results are printed: both may be on one terminal.
    with progress_bar(options, after=SOON) as progress:
        return receiver.decode(frames, lambda done: progress.log("decoding", first + done, total))
