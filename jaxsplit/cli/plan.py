"""`jaxsplit plan`: costs of every cut and unit of a network."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from jaxsplit.cli.arguments import Commands, add_options, positive, positives
from jaxsplit.cli.output import show
from jaxsplit.errors import ConfigError

if TYPE_CHECKING:
    from jaxsplit.cost import Link


def add(commands: Commands) -> None:
    """Adds the command."""
    command = commands.add(
        "plan",
        "Count the costs of every cut of a network, and of the units there.",
        run,
        "Shapes are traced: nothing is run, and no weights are needed.",
    )
    command.add_argument(
        "backbone", metavar="BACKBONE", help="a network, weights by name, or a file of weights"
    )
    add_options(command, ("--weights", Path, "FILE", "of the network; not needed"))
    command.add_argument(
        "--input",
        type=positive,
        nargs=2,
        metavar=("H", "W"),
        help="image size (default: that of the weights)",
    )
    nearest = "show the unit of each cut whose latent is nearest to N symbols (default: 1024)"
    add_options(
        command,
        ("--classes", positive, "N", "number, for a network without weights"),
        ("--channels", positives, "A,B", "of the units (default: 4,8,16,32,64)"),
        ("--strides", positives, "A,B", "of the units (default: 1,2,4,8)"),
        ("--symbols", positive, "N", nearest),
        ("--cut", str, "CUT", "also show every unit of this cut"),
    )
    link = command.add_argument_group("a link", "all three speeds, or none")
    add_options(
        link,
        ("--device-gmacs", float, "R", "speed of the device, 1e9 multiply-accumulates a second"),
        ("--server-gmacs", float, "R", "the same of the server"),
        ("--bandwidth-mbps", float, "R", "speed from device to server, 1e6 bits a second"),
        ("--rtt-ms", float, "T", "round-trip time (default: 0)"),
        ("--bits-per-symbol", float, "B", "assumed for a unit (default: 2)"),
        ("--image-bytes", float, "N", "size of an image sent whole (default: uncompressed)"),
    )
    link.add_argument(
        "--family",
        nargs="+",
        action="extend",
        metavar="F",
        help="trained families of this network: adds their rates with measured bytes",
    )
    add_options(command, ("--plot", Path, "FILE.png", "write a plot"))


def run(options: argparse.Namespace) -> None:
    """Prints the costs of every cut and unit of a network."""
    from jaxsplit.cost import CHANNELS, STRIDES, SYMBOLS, make_plan
    from jaxsplit.cost.link import BITS_PER_SYMBOL, compare, plan_to_dict
    from jaxsplit.family.link_options import link_options
    from jaxsplit.family.pretrained import load_pretrained
    from jaxsplit.reports import plan as report
    from jaxsplit.weights.load import abstract_backbone

    link = _link(options)
    symbols = options.symbols or SYMBOLS
    families = {name: load_pretrained(name) for name in options.family or ()}
    measured = next((family.preprocessing for family in families.values()), None)
    if options.input and measured and tuple(options.input) != measured.size:
        raise ConfigError(f"{options.family[0]} has images of {measured.size}: leave out --input")
    backbone = abstract_backbone(
        options.backbone, options.weights, options.input, options.classes, measured
    )
    shape = backbone.preprocessing.input_shape
    plan = make_plan(
        backbone.network,
        shape,
        backbone.variables,
        name=backbone.name,
        channels=options.channels or CHANNELS,
        strides=options.strides or STRIDES,
    )
    comparison = None
    if link is not None:
        bits, size = options.bits_per_symbol, options.image_bytes
        comparison = compare(
            plan,
            link,
            symbols,
            BITS_PER_SYMBOL if bits is None else bits,
            math.prod(shape) if size is None else size,
            link_options(families, backbone, link),
        )
    shown = None if options.cut is None else plan[options.cut]
    if options.plot is not None:
        try:
            report.plot_plan(options.plot, plan, comparison, symbols)
        except OSError as error:
            raise ConfigError(f"cannot write {options.plot}: {error.strerror}") from error
    text = report.render(plan, comparison, symbols)
    if shown is not None:
        text += "\n" + report.render_units(shown, comparison)
    summary = "" if options.plot is None else f"wrote {options.plot}"
    show(options, text, plan_to_dict(plan, comparison, symbols), summary)


def _link(options: argparse.Namespace) -> Link | None:
    """The link of the options; None if there is none.

    Raises:
      ConfigError: only a part of it is given.
    """
    from jaxsplit.cost import Link

    names = ("device_gmacs", "server_gmacs", "bandwidth_mbps")
    values = {name: getattr(options, name) for name in names}
    if all(value is None for value in values.values()):
        others = ("rtt_ms", "bits_per_symbol", "image_bytes", "family")
        if given := [name for name in others if getattr(options, name) is not None]:
            raise ConfigError(f"{_flags(given)} needs a link: give {_flags(names)} too")
        return None
    if missing := [name for name, value in values.items() if value is None]:
        raise ConfigError(f"a link also needs {_flags(missing)}")
    return Link(**values, rtt_ms=options.rtt_ms or 0.0)


def _flags(names: Iterable[str]) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in names)
