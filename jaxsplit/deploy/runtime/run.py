"""Encodes photos to a .jspl file on a device, without JAX; see README.md beside this file.

python run.py encode photo.jpg -o photo.jspl --rate r3
python run.py encode photo.jpg -o photo.jspl --max-bytes 1500
python run.py check
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

from jaxsplit.bitstream import Frame, read_container, unpack_frame, write_container
from jaxsplit.deploy.runtime.bundle import SAMPLE_FRAMES, SAMPLE_IMAGE, check_files
from jaxsplit.deploy.runtime.device import DeviceSender
from jaxsplit.errors import JaxsplitError, escaped, one_line

_MOST_DIFFERENT = 1e-3  # share of the sample's symbols that another machine may round differently


def main(argv: list[str] | None = None) -> int:
    """Runs one command.

    Args:
      argv: its words; default: those of the process.

    Returns:
      The exit code: 0, 1 if some images failed, 2 for an error.
    """
    options = _parser().parse_args(argv)
    warnings.showwarning = _show
    try:
        code: int = options.run(options)
        return code
    except (JaxsplitError, OSError) as error:
        print(f"run.py: {escaped(one_line(error) or str(error))}", file=sys.stderr)
        return 2


def encode(options: argparse.Namespace) -> int:
    """Encodes image files to one .jspl file."""
    sender = DeviceSender(options.bundle, options.threads)
    request = {"max_bytes": options.max_bytes, "over_budget": options.over_budget}
    frames, failed = list[Frame](), 0
    for name in options.images:
        try:
            (frame,) = sender.encode(Path(name), options.rate, **request)
        except JaxsplitError as error:
            text = one_line(error) or ""
            print(
                f"run.py: {escaped(text if name in text else f'{name}: {text}')}", file=sys.stderr
            )
            failed += 1
            continue
        frames.append(unpack_frame(frame, sender.header.n_rates, version=sender.header.version)[0])
    if not frames:
        return 2
    content = write_container(sender.header, frames, frame_checks=options.frame_checks)
    Path(options.output).write_bytes(content)
    print(f"{len(frames)} of {len(options.images)} images, {len(content)} bytes: {options.output}")
    return 1 if failed else 0


def check(options: argparse.Namespace) -> int:
    """Checks the files' checksums, and encodes the sample anew."""
    files = check_files(options.bundle)
    sender = DeviceSender(options.bundle, options.threads)
    pixels = sender.inputs(options.bundle / SAMPLE_IMAGE)
    header, frames = read_container((options.bundle / SAMPLE_FRAMES).read_bytes())
    sender.header.check(header)
    symbols = different = 0
    for frame in frames:
        ours = sender.encode_at(pixels, frame.rate_index)
        theirs = sender.decode(frame)
        symbols += ours.size
        different += int((ours != theirs).sum())
    print(f"{files} files, {len(frames)} frames: {different} of {symbols} symbols differ")
    return 0 if different <= _MOST_DIFFERENT * symbols else 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    own = commands.add_parser("encode", help="encode image files to a .jspl file")
    own.add_argument("images", nargs="+", metavar="IMAGE")
    own.add_argument("-o", "--output", required=True, metavar="FILE.jspl")
    which = own.add_mutually_exclusive_group(required=True)
    which.add_argument("--rate", help="name of a rate, or position of a level, 0 to 1")
    which.add_argument("--max-bytes", type=int, help="the best rate of each image in N bytes")
    own.add_argument("--over-budget", choices=("error", "shortest"), default="error")
    own.add_argument("--frame-checks", action="store_true", help="add four bytes to each frame")
    own.set_defaults(run=encode)
    own = commands.add_parser("check", help="check files and encode the sample")
    own.set_defaults(run=check)
    for one in commands.choices.values():
        one.add_argument("--threads", type=int, help="of onnxruntime; default: one a core")
        one.add_argument("--bundle", type=Path, default=Path(__file__).parent, metavar="DIR")
    return parser


def _show(message: Warning | str, *place: object, **more: object) -> None:
    print(f"run.py: warning: {escaped(str(message))}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
