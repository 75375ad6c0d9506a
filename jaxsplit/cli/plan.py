"""`jaxsplit plan`: costs of every cut and unit of a network."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from jaxsplit.cli.arguments import argument, command, group, positive, positives
from jaxsplit.cli.output import show
from jaxsplit.errors import ConfigError

if TYPE_CHECKING:
    from jaxsplit.cost import Link

_SIZE = "image size (default: that of the weights)"
_NEAREST = "show the unit of each cut whose latent is nearest to N symbols (default: 1024)"
_SPEED = "speed of the device, 1e9 multiply-accumulates a second"
_WHOLE = "size of an image sent whole (default: uncompressed)"
_FAMILIES = "trained families of this network: adds their rates with measured bytes"


@command(
    "plan",
    argument("backbone", "BACKBONE", "a network, weights by name, or a file of weights"),
    argument("--weights", "FILE", "of the network; not needed", Path),
    argument("--input", ("H", "W"), _SIZE, positive, nargs=2),
    argument("--classes", "N", "number, for a network without weights", positive),
    argument("--channels", "A,B", "of the units (default: 4,8,16,32,64)", positives),
    argument("--strides", "A,B", "of the units (default: 1,2,4,8)", positives),
    argument("--symbols", "N", _NEAREST, positive),
    argument("--cut", "CUT", "also show every unit of this cut"),
    group(
        "a link",
        "all three speeds, or none",
        argument("--device-gmacs", "R", _SPEED, float),
        argument("--server-gmacs", "R", "the same of the server", float),
        argument("--bandwidth-mbps", "R", "speed from device to server, 1e6 bits a second", float),
        argument("--rtt-ms", "T", "round-trip time (default: 0)", float),
        argument("--bits-per-symbol", "B", "assumed for a unit (default: 2)", float),
        argument("--image-bytes", "N", _WHOLE, float),
        argument("--family", "F", _FAMILIES, nargs="+", action="extend"),
    ),
    argument("--plot", "FILE.png", "write a plot", Path),
    note="Shapes are traced: nothing is run, and no weights are needed.",
)
def plan(options: argparse.Namespace) -> None:
    """Count the costs of every cut of a network, and of the units there."""
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
