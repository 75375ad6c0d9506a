"""The command line: `jaxsplit <command>`. Errors are one line on stderr and exit code 2."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

# Everything heavy is imported by the command that needs it: `--help` must be instant.
from jaxsplit.errors import ConfigError, DataError, FamilyError, JaxsplitError

if TYPE_CHECKING:
    from jaxsplit.family import RateFamily
    from jaxsplit.models import Backbone


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        options, overrides = _parser().parse_known_args(arguments)
        options.overrides = _overrides(options, overrides)
        options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except JaxsplitError as error:
        print(f"jaxsplit: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("jaxsplit: interrupted", file=sys.stderr)
        return 130
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="jaxsplit", description="Split computing with learned bottlenecks.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    def add(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run, command=name)
        return command

    quick = add(
        "quickstart",
        _quickstart,
        "Train a rate-accuracy curve on the embedded images and show it with real bytes.",
    )
    quick.add_argument("--out", type=Path, default=Path("jaxsplit_quickstart"), metavar="DIR")
    quick.add_argument("--seed", type=int, default=0)
    quick.add_argument("--smoke", action="store_true", help="a few steps on a few images")

    train = add("train", _train, "Train what a configuration describes; resumes by itself.")
    train.add_argument(
        "--config",
        required=True,
        metavar="FILE|NAME[:ARG]",
        help="a shipped configuration or a file; --config.KEY=VALUE overrides",
    )
    train.add_argument("--workdir", type=Path, required=True, metavar="DIR")

    evaluate = add("evaluate", _evaluate, "Measure a family: accuracy through real bytes.")
    _add_family(evaluate)
    evaluate.add_argument("--data", default="embedded", metavar="SOURCE")
    evaluate.add_argument("--split", help="default: test, else val, validation or the only one")
    evaluate.add_argument("--rates", metavar="A,B", help="default: all")
    evaluate.add_argument("--limit", type=int, metavar="N", help="images, spread over the classes")
    evaluate.add_argument("--out", type=Path, metavar="DIR", help="for curve.json and curve.png")

    encode = add("encode", _encode, "Image files to one .jspl file: what the device does.")
    encode.add_argument("images", nargs="+", metavar="IMAGE")
    _add_family(encode)
    encode.add_argument("--rate", required=True, metavar="ID")
    encode.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.jspl")

    decode = add("decode", _decode, "A .jspl file to predictions: what the server does.")
    decode.add_argument("file", type=Path, metavar="FILE.jspl")
    _add_family(decode)
    decode.add_argument("--json", action="store_true", help="one JSON document")

    info = add("info", _info, "Describe a family, a .jspl file or a backbone's weights.")
    info.add_argument("path", nargs="?", metavar="PATH|NAME", help="default: what is embedded")
    return parser


def _add_family(command: argparse.ArgumentParser) -> None:
    command.add_argument("--family", required=True, metavar="DIR|NAME")
    weights = command.add_mutually_exclusive_group()
    weights.add_argument("--backbone", metavar="NAME", help="embedded weights to use")
    weights.add_argument("--weights", type=Path, metavar="FILE", help="weights to use")


def _overrides(options: argparse.Namespace, unknown: list[str]) -> dict[str, str]:
    found = {}
    for text in unknown:
        key, equals, value = text.partition("=")
        if options.command != "train" or not key.startswith("--config.") or not equals:
            raise ConfigError(f"unrecognized argument {text!r} (see jaxsplit {options.command} -h)")
        found[key.removeprefix("--config.")] = value
    return found


def _quickstart(options: argparse.Namespace) -> None:
    from jaxsplit import config

    _check_writable(options.out)
    variant = "smoke" if options.smoke else "quickstart"
    loaded = config.load(f"fashion_mnist:{variant}", {"seed": str(options.seed)})
    _run_curve(loaded, options.out, resume=False)


def _train(options: argparse.Namespace) -> None:
    from jaxsplit import config, experiment
    from jaxsplit.train import parallel
    from jaxsplit.train.backbone import BackboneConfig

    loaded = config.load(options.config, options.overrides)
    _check_writable(options.workdir)
    if not isinstance(loaded, BackboneConfig):
        _run_curve(loaded, options.workdir, resume=True)
        return
    parallel.use_cpu_cores()
    with _progress() as progress:
        card = experiment.run_backbone(loaded, options.workdir, _repeated(options), progress)
    print(f"top-1 {100 * card['top1']:.2f} % on {card['test_images']} test images")
    print(f"wrote {options.workdir / 'weights.npz'}")


def _repeated(options: argparse.Namespace) -> str:
    """The command that trains the same again, without the folders of this machine."""
    file, colon, arg = options.config.partition(":")
    words = ["jaxsplit train --config", Path(file).stem + colon + arg, "--workdir DIR"]
    for key, value in options.overrides.items():
        scheme, colon, path = value.partition(":")
        if scheme == "folder":
            value = f"folder:{Path(path).name}"
        words.append(f"--config.{key}={value}")
    return " ".join(words)


def _run_curve(config: Any, out: Path, *, resume: bool) -> None:
    from jaxsplit import experiment
    from jaxsplit.train import parallel

    parallel.use_cpu_cores()
    start = time.monotonic()
    with _progress() as progress:
        result = experiment.run_curve(
            config, out, resume=resume, progress=progress, tell=progress.tell
        )
    cost = result.cost
    print(
        f"cut {config.cut}: of the network's {(cost.head + cost.tail) / 1e6:.2f} M multiply-adds "
        f"the device runs {100 * cost.device_share:.1f} % (encoder {cost.encoder / 1e6:.2f} M)"
    )
    print(result.table)
    seconds = time.monotonic() - start
    print(f"wrote {out}/curve.json, {out}/curve.png and {out}/family in {seconds:.0f} s")


def _evaluate(options: argparse.Namespace) -> None:
    from jaxsplit import data, experiment

    family, backbone = _open(options)
    if options.out is not None:
        _check_writable(options.out)
    if options.rates:
        family = family.select(options.rates.split(","))
    source = data.open_source(options.data, split=options.split, limit=options.limit)
    with _progress() as progress:
        _, table = experiment.measure(family, backbone, source, options.out, progress.tell)
    print(table)
    if options.out is not None:
        print(f"wrote {options.out}/curve.json and {options.out}/curve.png")


def _encode(options: argparse.Namespace) -> None:
    import numpy as np

    from jaxsplit import coding, data
    from jaxsplit.codec import Sender

    family, backbone = _open(options)
    family[options.rate]  # refuses an unknown rate before images are read
    images = [
        backbone.preprocessing.apply(data.decode_image(Path(name))) for name in options.images
    ]
    sender = Sender(family, backbone, batch_size=min(len(images), 32))
    frames = sender.encode(np.stack(images), options.rate)
    count = len(family.rates)
    opened = [coding.unpack_frame(frame, count)[0] for frame in frames]
    written = coding.write_container(sender.header, opened)
    try:
        options.output.write_bytes(written)
    except OSError as error:
        raise ConfigError(f"cannot write {options.output}: {error.strerror}") from error
    payload = sum(map(len, frames))
    print(
        f"{len(frames)} images, {payload} bytes ({payload / len(frames):.1f} an image) "
        f"and {len(written) - payload} of header: {options.output}"
    )


def _decode(options: argparse.Namespace) -> None:
    import numpy as np

    from jaxsplit import coding
    from jaxsplit.codec import Receiver

    header, frames = coding.read_container(_read(options.file))
    family, backbone = _open(options)
    receiver = Receiver(family, backbone, batch_size=min(max(len(frames), 1), 32))
    if header != receiver.header:
        raise FamilyError(f"{options.file} was encoded with another family than {options.family}")
    count = len(family.rates)
    packed = [coding.pack_frame(frame.payload, frame.rate_index, count) for frame in frames]
    logits = receiver.decode(packed).astype(np.float64)
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    rows = [
        {
            "image": i,
            "class": backbone.class_names[row.argmax()],
            "probability": round(float(row.max()), 4),
            "rate": family.rates[frame.rate_index].rate_id,
            "bytes": len(data),
        }
        for i, (row, frame, data) in enumerate(zip(probabilities, frames, packed, strict=True))
    ]
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        print(
            f"{row['image']}  {row['class']}  {row['probability']:.4f}  "
            f"{row['bytes']} bytes  rate {row['rate']}"
        )


def _info(options: argparse.Namespace) -> None:
    from jaxsplit.describe import describe

    print(describe(options.path))


def _open(options: argparse.Namespace) -> tuple[RateFamily, Backbone]:
    from jaxsplit import family, models

    found = family.open_family(options.family)
    weights = options.weights or options.backbone or found.weights
    if weights is None:
        raise ConfigError(f"{options.family} names no weights: give --weights FILE")
    backbone = models.open_backbone(weights)
    return found.bind(backbone), backbone


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def _check_writable(directory: Path) -> None:
    """Refuses an unwritable folder before hours of training end there."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / ".jaxsplit-probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(f"cannot write to {directory}: {error.strerror}") from error


def _progress() -> Any:
    from jaxsplit.progress import ProgressBar

    return ProgressBar()
