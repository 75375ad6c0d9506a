"""`jaxsplit export`: the device's half of a family, for machines without JAX."""

from __future__ import annotations

import argparse

from jaxsplit.cli import arguments as cli

_RATES = "names of the rates to be included, separated by commas; default: all"
_FORMAT = "onnx (default): a bundle that runs without JAX; stablehlo: both halves, for JAX and IREE"


@cli.command(
    "export",
    *cli.FAMILY,
    cli.argument("--rates", "ID,…", _RATES),
    cli.argument("--format", "FORMAT", _FORMAT, choices=("onnx", "stablehlo"), default="onnx"),
    cli.output_option("DIR", "folder to write; an earlier bundle there is replaced"),
    note="README.md of the bundle says how to encode photos on the device; decode takes its files.",
)
def export(options: argparse.Namespace) -> None:
    """Export the device's half of a family, for machines without JAX."""
    family, _ = cli.open_family(options)
    rates = options.rates.split(",") if options.rates else None
    if options.format == "stablehlo":
        from jaxsplit.deploy.export_stablehlo import export_stablehlo

        halves = export_stablehlo(family, options.output, rates)
        sizes = {"device_bytes": halves.device_bytes, "server_bytes": halves.server_bytes}
        text = f"device {_size(halves.device_bytes)}, server {_size(halves.server_bytes)}"
        cli.show(options, "", {"folder": str(options.output), **sizes}, f"{text}: {options.output}")
        return
    from jaxsplit.deploy.export import export_bundle

    done = export_bundle(family, options.output, rates, options.family)
    document = {
        "folder": str(done.folder),
        "bytes": done.bytes,
        "model_bytes": done.model_bytes,
        "symbols": done.symbols,
        "different": done.different,
    }
    checked = f"{done.different} of {done.symbols} symbols of the samples differ from jax's"
    if done.different is None:
        checked = 'not run: pip install "jaxsplit[export]" to compare its symbols with jax\'s'
    size = f"{_size(done.bytes)}, of these {_size(done.model_bytes)} of model"
    cli.show(options, "", document, f"{size}; {checked}: {done.folder}")


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
