"""`jaxsplit plan` and `jaxsplit design`: where to cut, and with which unit."""

from __future__ import annotations

import argparse
import json
import signal
from pathlib import Path

from jaxsplit.cli.arguments import Commands, add_config, whole_numbers
from jaxsplit.cli.results import progress_bar, show
from jaxsplit.errors import ConfigError, Interrupted
from jaxsplit.io.files import check_writable, write_whole


def add_plan(commands: Commands) -> None:
    """`jaxsplit plan BACKBONE`: what every cut and unit costs."""
    command = commands.add(
        "plan",
        "What every cut of a network and every unit there costs.",
        plan,
        "Shapes are traced: nothing is run, and no weights are needed.",
    )
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
        "--image-bytes",
        type=float,
        metavar="N",
        help="of the image sent (default: raw; as a file it has fewer)",
    )
    link.add_argument(
        "--family",
        nargs="+",
        action="extend",
        metavar="F",
        help="trained families of this network: their rates with the bytes that were measured",
    )
    command.add_argument("--plot", type=Path, metavar="FILE.png", help="draw it")


def plan(options: argparse.Namespace) -> None:
    """What every cut of a network and every unit there costs."""
    from jaxsplit.cli import planning
    from jaxsplit.cost.link import plan_to_dict
    from jaxsplit.reports import plan as plan_report

    found, timed, symbols = planning.run(options)
    shown = None if options.cut is None else found[options.cut]
    if options.plot is not None:
        try:
            plan_report.plot_plan(options.plot, found, timed, symbols)
        except OSError as error:
            raise ConfigError(f"cannot write {options.plot}: {error.strerror}") from error
    text = plan_report.render(found, timed, symbols)
    if shown is not None:
        text += "\n" + plan_report.render_units(shown, timed)
    summary = "" if options.plot is None else f"wrote {options.plot}"
    show(options, text, plan_to_dict(found, timed, symbols), summary)


def add_design(commands: Commands) -> None:
    """`jaxsplit design --config …`: the search for cuts and units."""
    command = commands.add(
        "design",
        "Search for cuts and units: the front of bytes, accuracy and work.",
        design,
        "The same command goes on with a search that was stopped.",
    )
    add_config(command)
    command.add_argument(
        "--workdir",
        type=Path,
        required=True,
        metavar="DIR",
        help="for what the search finds; the same one goes on",
    )


def design(options: argparse.Namespace) -> None:
    """A search for cuts and units within a time."""
    from jaxsplit.cli import config
    from jaxsplit.reports import search as search_report
    from jaxsplit.search import DesignConfig, search
    from jaxsplit.search.export import write_config
    from jaxsplit.search.pareto import choose
    from jaxsplit.weights.load import load_backbone

    loaded = config.load(options.config, options.overrides)
    if not isinstance(loaded, DesignConfig):
        raise ConfigError(f"{options.config} is no search: take jaxsplit train")
    check_writable(options.workdir)
    # CPU cores are no devices here: at late cuts a step of one unit is too small to be shared (1.5
    # times the time on two; at early ones 0.7).
    with progress_bar(options) as progress:
        backbone = load_backbone(loaded.backbone)
        try:
            found = search(loaded, backbone, options.workdir, progress.log)
        except KeyboardInterrupt as stopped:
            raise Interrupted(
                "interrupted: the same command goes on from the last steps that are kept",
                signal.SIGINT,
            ) from stopped
    chosen = choose(found.front, loaded.points)
    write_config(options.workdir / "chosen.py", loaded, chosen)
    document = found.to_dict()
    text = json.dumps(document, indent=1) + "\n"
    write_whole(options.workdir / "design.json", text.encode())
    search_report.plot_design(options.workdir / "design.png", found, chosen)
    names = ", ".join(f"{options.workdir}/{name}" for name in ("design.json", "design.png"))
    summary = f"wrote {names} and {options.workdir}/chosen.py in {found.minutes:.1f} minutes"
    show(options, search_report.render(found, chosen), document, summary)
