"""`jaxsplit plan`: costs of every cut and unit of a network."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from jaxsplit.cli import arguments as cli
from jaxsplit.errors import ConfigError

if TYPE_CHECKING:
    from jaxsplit.cost import Link

_SIZE = "image size (default: that of the weights)"
_NEAREST = "show the unit of each cut whose latent is nearest to N symbols (default: 1024)"
_SPEED = "speed of the device, 1e9 multiply-accumulates a second"
_WHOLE = "size of an image sent whole (default: uncompressed)"
_FAMILIES = "trained families of this network: adds their rates with measured bytes"


@cli.command(
    "plan",
    cli.argument("backbone", "BACKBONE", "a network, weights by name, or a file of weights"),
    cli.argument("--weights", "FILE", "of the network; has its input and classes", Path),
    cli.argument("--input", ("H", "W"), _SIZE, cli.positive, nargs=2),
    cli.argument("--classes", "N", "number, for a network without weights", cli.positive),
    cli.argument("--channels", "A,B", "of the units (default: 4,8,16,32,64)", cli.positives),
    cli.argument("--strides", "A,B", "of the units (default: 1,2,4,8)", cli.positives),
    cli.argument("--symbols", "N", _NEAREST, cli.positive),
    cli.argument("--cut", "CUT", "also show every unit of this cut"),
    cli.group(
        "a link",
        "all three speeds, or none",
        cli.argument("--device-gmacs", "R", _SPEED, float),
        cli.argument("--server-gmacs", "R", "the same of the server", float),
        cli.argument(
            "--bandwidth-mbps", "R", "speed from device to server, 1e6 bits a second", float
        ),
        cli.argument("--rtt-ms", "T", "round-trip time (default: 0)", float),
        cli.argument("--bits-per-symbol", "B", "assumed for a unit (default: 2)", float),
        cli.argument("--image-bytes", "N", _WHOLE, float),
        cli.argument("--family", "F", _FAMILIES, nargs="+", action="extend"),
    ),
    cli.argument("--plot", "FILE.png", "write a plot", Path),
    note="Shapes are traced: nothing is run, and no weights are needed.",
)
def plan(options: argparse.Namespace) -> None:
    """Count the costs of every cut of a network, and of the units there."""
    from jaxsplit.cost import CHANNELS, STRIDES, SYMBOLS, make_plan
    from jaxsplit.cost.link import BITS_PER_SYMBOL, check_sizes, compare_latencies, plan_to_dict
    from jaxsplit.family.latency import link_options
    from jaxsplit.family.pretrained import load_pretrained
    from jaxsplit.reports import plan as report
    from jaxsplit.weights.load import abstract_backbone

    if options.plot is not None:
        cli.check_suffix(options.plot, ".png", "--plot")
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
    bits = BITS_PER_SYMBOL if options.bits_per_symbol is None else options.bits_per_symbol
    size = math.prod(shape) if options.image_bytes is None else options.image_bytes
    # Before the network is traced, which takes seconds.
    check_sizes(bits, size)
    rates = [] if link is None else link_options(families, backbone, link)
    if options.cut is not None and options.cut not in (known := backbone.network.cuts()):
        raise ConfigError(f"{backbone.name} has no cut {options.cut!r}; it has {', '.join(known)}")
    channels, strides = options.channels or CHANNELS, options.strides or STRIDES
    parts = backbone.network, shape, backbone.variables
    with cli.progress_bar(options, after=cli.SOON) as bar:
        plan = make_plan(
            *parts, name=backbone.name, channels=channels, strides=strides, log=bar.log
        )
    comparison = None
    if link is not None:
        comparison = compare_latencies(plan, link, symbols, bits, size, rates, backbone.task)
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
    cli.show(options, text, plan_to_dict(plan, comparison, symbols), summary, terms=True)


def _link(options: argparse.Namespace) -> Link | None:
    """Returns the link of the options, None without one; a ConfigError for a part of one."""
    from jaxsplit.cost import Link

    names = ("device_gmacs", "server_gmacs", "bandwidth_mbps")
    values = {name: getattr(options, name) for name in names}
    missing = [name for name, value in values.items() if value is None]
    if len(missing) == len(names):
        others = ("rtt_ms", "bits_per_symbol", "image_bytes", "family")
        if given := [name for name in others if getattr(options, name) is not None]:
            raise ConfigError(f"{_flags(given)} needs a link: give {_flags(names)} too")
        return None
    if missing:
        raise ConfigError(f"a link also needs {_flags(missing)}")
    return Link(**values, rtt_ms=options.rtt_ms or 0.0)


def _flags(names: Iterable[str]) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in names)
