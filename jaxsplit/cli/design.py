"""`jaxsplit design`: a search for cuts and units."""

from __future__ import annotations

import argparse
import json
import signal

from jaxsplit.cli.arguments import Commands, add_config, add_workdir
from jaxsplit.cli.output import progress_bar, show
from jaxsplit.errors import ConfigError, Interrupted
from jaxsplit.io.files import check_writable, write_whole


def add(commands: Commands) -> None:
    """Adds the command."""
    command = commands.add(
        "design",
        "Search cuts and units for the Pareto front of bytes, accuracy and MACs.",
        run,
        "The same command resumes a search that was stopped.",
    )
    add_config(command, "design")
    add_workdir(command)


def run(options: argparse.Namespace) -> None:
    """Searches cuts and units within a time limit."""
    from jaxsplit.experiments import config
    from jaxsplit.reports import search as search_report
    from jaxsplit.search import DesignConfig, search
    from jaxsplit.search.export import write_config
    from jaxsplit.search.pareto import choose
    from jaxsplit.weights.load import load_backbone

    loaded = config.load(options.config, options.overrides)
    if not isinstance(loaded, DesignConfig):
        raise ConfigError(f"{options.config} is no search: use jaxsplit train")
    check_writable(options.workdir)
    # CPU cores are no devices here: at late cuts a step of one unit is too small to share (on two
    # cores 1.5 times the time; at early cuts 0.7 times).
    with progress_bar(options) as progress:
        backbone = load_backbone(loaded.backbone)
        try:
            found = search(loaded, backbone, options.workdir, progress.log)
        except KeyboardInterrupt as stopped:
            raise Interrupted(
                "interrupted: the same command resumes from the last checkpoint",
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
