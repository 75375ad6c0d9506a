"""Runs a command line to an exit code; errors are one line on stderr and exit code 2."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from types import FrameType

from jaxsplit import __version__
from jaxsplit.cli import (
    adapt,
    coding,
    evaluate,
    exporting,
    importing,
    info,
    plan,
    service,
    train,
)
from jaxsplit.cli.arguments import Incomplete, Parser, add_parser
from jaxsplit.errors import ConfigError, Interrupted, Terminated, escaped, one_line

#: In the order of the help; those below "import" follow.
COMMANDS = (
    *(train.quickstart, adapt.adapt, train.train, evaluate.evaluate, evaluate.compare, plan.plan),
    *(train.design, evaluate.pack, coding.encode, coding.decode, exporting.export),
    *(service.serve, service.send, info.info),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
      argv: its words; default: those of the process.

    Returns:
      The exit code: 0, 1 if a part of the work failed, 2 for an error, 128 and a signal's number
      for an interruption.

    >>> main(["info", "resnet8_small-fashion_mnist/stage1.block1"])  # doctest: +ELLIPSIS
    family resnet8_small-fashion_mnist/stage1.block1: resnet8_small cut after stage1.block1
    ...
    0
    """
    # XLA logs slow compilations as errors; real failures are also raised.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before jax is imported, which sets 1
    try:
        options = parse(sys.argv[1:] if argv is None else argv)
        from jaxsplit.io import log

        if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may be no text
            sys.stdout.reconfigure(errors="backslashreplace")
        with log.shown_as_lines(quiet=options.quiet), _terminable(), _not_ignored():
            options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        _forget_output()
        return 141
    except Exception as error:
        line = one_line(error)
        if line is None:  # a bug
            raise
        print(f"jaxsplit: {escaped(line)}", file=sys.stderr)
        try:
            sys.stdout.flush()
        except OSError:  # stdout itself is full
            _forget_output()
        return 1 if isinstance(error, Incomplete) else 2
    except (Interrupted, Terminated) as stopped:
        print(f"jaxsplit: {escaped(str(stopped))}", file=sys.stderr)
        return 128 + stopped.signal
    except KeyboardInterrupt:
        print("jaxsplit: interrupted", file=sys.stderr)
        return 130
    return 0


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Parses a command line: its options, its `run`, and `--config.KEY=VALUE` as `overrides`.

    Raises a ConfigError for a word that is unknown or missing, and for an invalid value.

    >>> parse(["train", "--config", "mine", "--workdir", "w", "--config.seed=1"]).overrides
    {'seed': '1'}
    """
    options, unknown = make_parser().parse_known_args(list(words))
    options.overrides = {}
    for text in unknown:
        key, equals, value = text.partition("=")
        if options.command not in ("train", "design") or not key.startswith("--config."):
            raise ConfigError(f"unrecognized argument {text!r} (see jaxsplit {options.command} -h)")
        if not equals:
            raise ConfigError(f"{text!r} has no value: write {text}=VALUE, in one word")
        options.overrides[key.removeprefix("--config.")] = value
    return options


def make_parser() -> argparse.ArgumentParser:
    """Creates the parser of all commands, in the order of the help."""
    parser = Parser(
        prog="jaxsplit",
        description="Split computing with learned bottlenecks.",
        epilog="jaxsplit COMMAND --help has the options and examples; start with:\n"
        "  jaxsplit quickstart",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"jaxsplit {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_to(commands)
    formats = add_parser(commands, "import", "Convert weights and units of other packages.")
    commands = formats.add_subparsers(required=True, metavar="FORMAT")
    for command in (importing.import_backbone, importing.import_spic):
        command.add_to(commands)
    return parser


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Raises `Terminated` at the first SIGTERM, which would end the process without a word."""

    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def _not_ignored() -> Iterator[None]:
    """Sends an interruption again that landed in a callback whose exceptions Python ignores.

    Such as a callback of the garbage collector, or a `__del__`.
    """
    before, waiting = sys.unraisablehook, list[threading.Timer]()

    def send_later(ignored: BaseException) -> None:
        number = getattr(ignored, "signal", signal.SIGINT)
        if isinstance(ignored, Terminated):
            signal.signal(number, _stop)
        # Later: what is raised in the hook is ignored too.
        waiting.append(threading.Timer(0.05, os.kill, (os.getpid(), number)))
        waiting[-1].start()

    def again(ignored: sys.UnraisableHookArgs) -> None:
        if not isinstance(ignored.exc_value, KeyboardInterrupt):
            before(ignored)
            return
        try:
            send_later(ignored.exc_value)
        except KeyboardInterrupt as second:  # on a busy machine it is sent before the hook ends
            send_later(second)

    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = before
        for timer in waiting:
            timer.cancel()


def _stop(number: int, frame: FrameType | None) -> None:
    """Handles the first SIGTERM; a second one ends the process."""
    signal.signal(number, signal.SIG_DFL)
    raise Terminated(f"stopped by {signal.Signals(number).name}")


def _forget_output() -> None:
    """Discards what stdout doesn't take: Python would flush it once more at its end."""
    with contextlib.suppress(OSError):  # a stream that is no file has no number
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
