"""`jaxsplit decode`: bytes to predictions, the work of the server."""

from __future__ import annotations

import argparse
import io
import itertools
import json
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from jaxsplit.cli.arguments import Commands, add_family
from jaxsplit.cli.output import SOON, open_family, progress_bar
from jaxsplit.errors import BitstreamError
from jaxsplit.io.files import read_file

if TYPE_CHECKING:
    from jaxsplit.bitstream import Frame
    from jaxsplit.codec import Receiver
    from jaxsplit.tasks import Outputs

# Images whose results are in memory at once, whatever the file's length.
_DECODED_AT_ONCE = 1024


def add(commands: Commands) -> None:
    """Adds the command."""
    command = commands.add("decode", "Decode a .jspl file to predictions, as a server does.", run)
    command.add_argument("file", type=Path, metavar="FILE.jspl", help="written by encode")
    add_family(command)


def run(options: argparse.Namespace) -> None:
    """Decodes a .jspl file to predictions."""
    from jaxsplit import bitstream
    from jaxsplit.codec import Receiver

    content = read_file(options.file)
    family, backbone = open_family(options)
    receiver = Receiver(family, backbone)
    try:
        receiver.check(bitstream.Reader(io.BytesIO(content)).header)
    except BitstreamError as error:
        raise type(error)(f"{options.file}, for {options.family}: {error}") from error
    # Read to its checksum before anything is printed.
    total = sum(1 for _ in bitstream.frame_sizes(content))
    receiver.batch_size = min(max(total, 1), 32)
    number, separator = 0, "["
    frames = bitstream.frame_sizes(content)
    while batch := list(itertools.islice(frames, _DECODED_AT_ONCE)):
        read = [frame for frame, _ in batch]
        outputs = _decode(receiver, read, number, total, options)
        for said, (frame, size) in zip(backbone.task.describe(outputs), batch, strict=True):
            rate = family.rates[frame.rate_index].rate_id
            if options.json:
                values = {"image": number, **said, "rate": rate, "bytes": size}
                print(f"{separator}\n{textwrap.indent(json.dumps(values, indent=1), ' ')}", end="")
                separator = ","
            else:
                texts = (f"{x:.4f}" if isinstance(x, float) else str(x) for x in said.values())
                print(f"{number}  {'  '.join(texts)}  {size} bytes  rate {rate}")
            number += 1
    if options.json:
        print("\n]" if number else "[]")


def _decode(
    receiver: Receiver, frames: list[Frame], first: int, total: int, options: argparse.Namespace
) -> Outputs:
    """Returns outputs of the frames from number `first` on, of `total` in all."""
    # The bar is gone before results are printed: both may be on one terminal.
    with progress_bar(options, after=SOON) as progress:
        return receiver.decode(frames, lambda done: progress.log("decoding", first + done, total))
