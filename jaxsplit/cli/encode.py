"""`jaxsplit encode`: images to bytes, the work of the device."""

from __future__ import annotations

import argparse
from pathlib import Path

from jaxsplit.cli.arguments import Commands, add_family, add_options, add_output
from jaxsplit.cli.output import SOON, open_family, progress_bar, show
from jaxsplit.errors import ConfigError, FamilyError
from jaxsplit.io.files import write_whole


def add(commands: Commands) -> None:
    """Adds the command."""
    command = commands.add("encode", "Encode image files to a .jspl file, as a device does.", run)
    command.add_argument("images", nargs="+", metavar="IMAGE", help="image files of any size")
    add_family(command)
    rate = command.add_mutually_exclusive_group(required=True)
    share = "the fewest bytes that keep this share of the unsplit network's top-1, such as 0.98"
    add_options(
        rate,
        ("--rate", str, "ID", "name of a rate"),
        ("--max-bytes", int, "N", "the best rate of each image in at most N bytes"),
        ("--quality", float, "SHARE", share),
    )
    add_output(command, "FILE.jspl")
    command.add_argument(
        "--frame-checks", action="store_true", help="add four bytes an image that detect damage"
    )


def run(options: argparse.Namespace) -> None:
    """Encodes image files to a .jspl file."""
    import numpy as np

    from jaxsplit import bitstream, data
    from jaxsplit.codec import Sender
    from jaxsplit.codec.rate_control import rates_for

    family, backbone = open_family(options)
    request = {name: getattr(options, name) for name in ("rate", "max_bytes", "quality")}
    rates_for(family, **request, task=backbone.task)  # refused before images are read
    for name in options.images:
        if options.output.exists() and Path(name).exists() and options.output.samefile(name):
            raise ConfigError(f"--output is the image {name}: name another file")
    # One at a time, so that the bytes of an image are independent of the others.
    sender = Sender(family, backbone, batch_size=1)
    images, frames, total = list[np.ndarray](), list[bytes](), len(options.images)
    with progress_bar(options, after=SOON) as progress:
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
