"""The options of the commands that plan and design a cut. Nothing heavy is imported."""

from __future__ import annotations

import argparse
from pathlib import Path

from jaxsplit.cli_examples import epilog


def add_plan(command: argparse.ArgumentParser) -> None:
    """`jaxsplit plan BACKBONE`: what every cut and unit costs."""
    command.add_argument(
        "backbone", metavar="BACKBONE", help="a network, weights by name, or a file of weights"
    )
    command.add_argument("--weights", type=Path, metavar="FILE", help="of the network, not needed")
    command.add_argument(
        "--input", type=int, nargs=2, metavar=("H", "W"), help="of an image (default: the usual)"
    )
    command.add_argument("--classes", type=int, metavar="N", help="of a network without weights")
    command.add_argument(
        "--channels", type=whole_numbers, metavar="A,B", help="of the units (default: 4,8,16,32,64)"
    )
    command.add_argument(
        "--strides", type=whole_numbers, metavar="A,B", help="of the units (default: 1,2,4,8)"
    )
    command.add_argument(
        "--symbols",
        type=int,
        metavar="N",
        help="show for every cut the unit whose latent is nearest to N numbers (default: 1024)",
    )
    command.add_argument("--cut", metavar="CUT", help="also show every unit of this cut")
    link = command.add_argument_group("a link", "all but the round trip, or none")
    for name, text in (
        ("device-gmacs", "1e9 multiply-accumulates a second of the device"),
        ("server-gmacs", "the same of the server"),
        ("bandwidth-mbps", "1e6 bits a second from device to server"),
    ):
        link.add_argument(f"--{name}", type=float, metavar="R", help=text)
    link.add_argument("--rtt-ms", type=float, metavar="T", help="of a round trip (default: 0)")
    link.add_argument(
        "--bits-per-symbol", type=float, metavar="B", help="assumed of a unit (default: 2)"
    )
    link.add_argument(
        "--image-bytes", type=float, metavar="N", help="of the image sent (default: raw)"
    )
    link.add_argument(
        "--family",
        nargs="+",
        action="extend",
        metavar="F",
        help="trained families of this network: their rates with the bytes that were measured",
    )
    command.add_argument("--plot", type=Path, metavar="FILE.png", help="draw it")
    command.epilog = epilog("plan", "Shapes are traced: nothing is run, and no weights are needed.")


def add_design(command: argparse.ArgumentParser) -> None:
    """`jaxsplit design --config …`: the search for cuts and units."""
    command.add_argument(
        "--config",
        required=True,
        metavar="FILE|NAME[:ARG]",
        help="a shipped configuration or a file; --config.KEY=VALUE overrides",
    )
    command.add_argument(
        "--workdir",
        type=Path,
        required=True,
        metavar="DIR",
        help="for what the search finds; the same one goes on",
    )
    command.epilog = epilog("design", "The same command goes on with a search that was stopped.")


def whole_numbers(text: str) -> tuple[int, ...]:
    """`8,16,32` → (8, 16, 32).

    Raises:
      argparse.ArgumentTypeError: it is something else.

    >>> whole_numbers("8,16")
    (8, 16)
    """
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of whole numbers such as 8,16,32")
    return numbers
