"""The command line: `jaxsplit <command>`. Errors are one line on stderr and exit code 2.

Every command takes `--quiet` (results and errors alone) and `--json` (one document on stdout).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

# The commands import everything heavy, so they are imported last: `--help` must be instant.
from jaxsplit import __version__
from jaxsplit.cli_examples import epilog
from jaxsplit.errors import ConfigError, Interrupted, JaxsplitError, one_line
from jaxsplit.options import add_design, add_plan


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        options, overrides = _parser().parse_known_args(arguments)
        options.overrides = _overrides(options, overrides)
        from jaxsplit import commands, notices

        with notices.shown_as_lines(quiet=options.quiet):
            getattr(commands, options.function)(options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        _forget_output()
        return 141
    except JaxsplitError as error:
        print(f"jaxsplit: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except (OSError, MemoryError) as error:  # the machine's: a full disk, no permission, …
        print(f"jaxsplit: {one_line(error)}", file=sys.stderr)
        try:
            sys.stdout.flush()
        except OSError:  # it was stdout that is full
            _forget_output()
        return 2
    except Interrupted as stopped:
        print(f"jaxsplit: {stopped}", file=sys.stderr)
        return 128 + stopped.signal
    except KeyboardInterrupt:
        print("jaxsplit: interrupted", file=sys.stderr)
        return 130
    return 0


def _forget_output() -> None:
    """Lets Python end in peace where stdout takes no more: it would try once again."""
    with contextlib.suppress(OSError):  # a stream that is no file has no number
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="jaxsplit",
        description="Split computing with learned bottlenecks.",
        epilog="jaxsplit COMMAND --help has the options and examples; start with: "
        "jaxsplit quickstart",
    )
    parser.add_argument("--version", action="version", version=f"jaxsplit {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return _add(commands, name, text)

    quick = add(
        "quickstart",
        "Train a rate-accuracy curve on the embedded images and show it with real bytes.",
    )
    quick.add_argument(
        "--out",
        type=Path,
        default=Path("jaxsplit_quickstart"),
        metavar="DIR",
        help="for curve, report and family (default: jaxsplit_quickstart)",
    )
    quick.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    quick.add_argument("--smoke", action="store_true", help="a few steps on a few images")

    _add_train(add)
    _add_evaluate(add)
    _add_compare(commands)
    add_plan(add("plan", "What every cut of a network and every unit there costs."))
    add_design(add("design", "Search for cuts and units: the front of bytes, accuracy and work."))
    _add_pack(add)
    _add_encode(add)

    decode = add("decode", "A .jspl file to predictions: what the server does.")
    decode.add_argument("file", type=Path, metavar="FILE.jspl", help="that encode wrote")
    _add_family(decode)

    info = add("info", "Describe a family, a .jspl file or a backbone's weights.")
    info.add_argument("path", nargs="?", metavar="PATH|NAME", help="default: what is embedded")

    _add_import(commands)
    return parser


def _add_train(add: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """`jaxsplit train`: a configuration, and who trains with us."""
    train = add("train", "Train what a configuration describes; resumes by itself.")
    train.add_argument(
        "--config",
        required=True,
        metavar="FILE|NAME[:ARG]",
        help="a shipped configuration or a file; --config.KEY=VALUE overrides",
    )
    train.add_argument(
        "--workdir",
        type=Path,
        required=True,
        metavar="DIR",
        help="for checkpoints and results; the same command goes on from what is there",
    )
    hosts = train.add_argument_group(
        "several hosts", "the same command on each; TPU pods, Slurm and Open MPI need none of these"
    )
    hosts.add_argument("--coordinator", metavar="HOST:PORT|auto", help="of the first process")
    hosts.add_argument("--process-id", type=int, metavar="I", help="from 0")
    hosts.add_argument("--processes", type=int, metavar="N", help="how many there are")


def _add_evaluate(add: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """`jaxsplit evaluate`: on which images, beside what."""
    evaluate = add("evaluate", "Measure a family: accuracy through real bytes.")
    _add_family(evaluate)
    evaluate.add_argument(
        "--data",
        default="embedded",
        metavar="SOURCE",
        help="embedded (the default), tfds:NAME[/CONFIG] or folder:PATH",
    )
    evaluate.add_argument(
        "--split", metavar="NAME", help="default: test, else val, validation or the only one"
    )
    evaluate.add_argument("--rates", metavar="A,B", help="names of rates (default: all)")
    evaluate.add_argument("--limit", type=int, metavar="N", help="images, spread over the classes")
    evaluate.add_argument(
        "--out", type=Path, metavar="DIR", help="for curve.json, curve.png, report.html"
    )
    evaluate.add_argument(
        "--baselines",
        default="jpeg,webp",
        metavar="A,B|none",
        help="image codecs to compare with, of jpeg, webp and avif (default: jpeg,webp)",
    )
    evaluate.add_argument(
        "--compare-at",
        choices=("top1", "agreement"),
        default="top1",
        help="what the codecs must equal: accuracy, or agreement with the uncut network",
    )
    evaluate.add_argument("--json", action="store_true", help="print curve.json instead of tables")


def _add_compare(commands: Any) -> None:
    """`jaxsplit compare`: what one curve saves against another."""
    compare = _add(commands, "compare", "BD-rate of one curve against another.")
    compare.add_argument("reference", metavar="REFERENCE", help="curve.json, or its folder")
    compare.add_argument("test", metavar="TEST", help="the same of the curve in question")
    compare.add_argument(
        "--quality",
        choices=("top1", "agreement"),
        default="top1",
        help="agreement is with the uncut network; it is counted in images.npz",
    )
    compare.add_argument(
        "--method", choices=("pchip", "akima"), default="pchip", help="between the points"
    )
    compare.add_argument(
        "--from-drop",
        type=float,
        default=math.inf,
        metavar="POINTS",
        help="leave out what is further below the uncut network (default: nothing)",
    )
    compare.add_argument(
        "--to-drop",
        type=float,
        default=-math.inf,
        metavar="POINTS",
        help="leave out what is closer to the uncut network (default: nothing)",
    )
    compare.epilog = epilog(
        "compare",
        "The interval needs the images.npz that evaluate --out writes, of the same images in both "
        "folders.",
    )


def _add_pack(add: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """`jaxsplit pack`: what one does before a family is given to others."""
    pack = add("pack", "Write a family with a complete card: what to ship or to upload.")
    _add_family(pack)
    pack.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="to write")
    pack.add_argument(
        "--data", metavar="SOURCE", help="measure on these images (default: keep the figures)"
    )
    pack.add_argument("--split", help="of those images; default as of evaluate")
    pack.add_argument(
        "--half", action="store_true", help="round parameters to float16: half of the bytes"
    )
    pack.add_argument("--limit", type=int, metavar="N", help="images, spread over the classes")
    pack.add_argument(
        "--card",
        action="append",
        default=[],
        type=_card_entry,
        metavar="KEY=VALUE",
        help="what the card says beside what the training wrote: limits, license, … (repeatable)",
    )


def _add_encode(add: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """`jaxsplit encode`: images, and exactly one wish."""
    encode = add("encode", "Image files to one .jspl file: what the device does.")
    encode.add_argument("images", nargs="+", metavar="IMAGE", help="image files of any size")
    _add_family(encode)
    rate = encode.add_mutually_exclusive_group(required=True)
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
    encode.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE.jspl", help="to write"
    )
    encode.add_argument(
        "--frame-checks", action="store_true", help="four bytes an image that find a damaged one"
    )


def _card_entry(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not key.isidentifier() or not equals or not value:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _add_import(commands: Any) -> None:
    """`jaxsplit import FORMAT`: what other packages wrote."""
    foreign = commands.add_parser(
        "import",
        help="Convert what other packages wrote.",
        description="Convert what other packages wrote.",
    )
    formats = foreign.add_subparsers(required=True, metavar="FORMAT", parser_class=_Parser)
    backbone = _add(formats, "backbone", "A network's weights, once and for all.", "import")
    backbone.add_argument("name", metavar="NAME", help="a network, such as resnet50")
    backbone.add_argument("file", type=Path, metavar="FILE", help="safetensors, torch or npz")
    backbone.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT.safetensors", help="to write"
    )
    backbone.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="names of the classes, one a line (default: ImageNet's, or numbers)",
    )
    backbone.add_argument(
        "--resize",
        type=int,
        metavar="N",
        help="shorter side of an image before the crop (default: of the first published weights)",
    )

    spic = _add(formats, "spic", "The units that the paper's authors published.", "import")
    spic.add_argument(
        "folder",
        type=Path,
        metavar="FOLDER",
        help="with classification.json, segmentation.json and the weights that they name",
    )
    spic.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="FAMILY",
        help="folder to write: the family with --cut, else one folder for each cut",
    )
    spic.add_argument(
        "--task",
        choices=("classification", "segmentation"),
        default="classification",
        help="which of the published units (default: classification)",
    )
    spic.add_argument("--cut", metavar="S1", help="S1, S2, S3, US1 or US2 (default: all)")
    spic.add_argument(
        "--fit-on", metavar="SOURCE", help="images to fit the tables on, in place of the published"
    )
    spic.add_argument("--split", help="of those images; default as of evaluate")
    spic.add_argument("--limit", type=int, metavar="N", help="images, spread over the classes")
    spic.add_argument("--weights", type=Path, metavar="FILE", help="of the network, for --fit-on")


def _add(commands: Any, name: str, text: str, group: str = "") -> argparse.ArgumentParser:
    words = [group, name] if group else [name]
    command = commands.add_parser(
        name,
        help=text,
        description=text,
        epilog=epilog(" ".join(words)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        conflict_handler="resolve",  # a command may say more of its own --json
    )
    command.add_argument(
        "-q", "--quiet", action="store_true", help="no progress, no summary: results and errors"
    )
    command.add_argument("--json", action="store_true", help="print one JSON document, no text")
    command.set_defaults(command=" ".join(words), function="_".join([*words[:-1], name]))
    return command


def _add_family(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--family",
        required=True,
        metavar="DIR|NAME|hf:NAME",
        help="a trained folder, one of the package (jaxsplit info lists them) or of the hub",
    )
    weights = command.add_mutually_exclusive_group()
    weights.add_argument(
        "--backbone", metavar="NAME", help="weights to use, embedded or of an installed package"
    )
    weights.add_argument("--weights", type=Path, metavar="FILE", help="file of weights to use")


def _overrides(options: argparse.Namespace, unknown: list[str]) -> dict[str, str]:
    found = {}
    for text in unknown:
        key, equals, value = text.partition("=")
        if options.command not in ("train", "design") or not key.startswith("--config."):
            raise ConfigError(f"unrecognized argument {text!r} (see jaxsplit {options.command} -h)")
        if not equals:
            raise ConfigError(f"{text!r} has no value: write {text}=VALUE, in one word")
        found[key.removeprefix("--config.")] = value
    return found
