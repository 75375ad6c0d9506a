"""`jaxsplit serve` and `jaxsplit send`: the two halves on two machines."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import functools
import importlib
import importlib.util
import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

from jaxsplit.cli import arguments as cli
from jaxsplit.cli import program_cache
from jaxsplit.cli.files import IMAGES
from jaxsplit.errors import ConfigError, DataError, escaped
from jaxsplit.io.files import as_text, read_file

if TYPE_CHECKING:
    from jaxsplit.codec import Sender
    from jaxsplit.deploy import Client, DeviceSender, Outcome

    #: The device half, and the name of a rate by its number in a frame.
    _Naming = tuple[Sender | DeviceSender, Callable[[int], str]]

_CLIENT = ("google.protobuf", "grpc")
_FAMILY = "to serve; several times for several families"
_BATCH = "most frames of a batch (default: 32)"
_WAIT = "a batch waits so long for more frames (default: 5)"
_METRICS = "Prometheus metrics over HTTP, on loopback; 0 takes a free port"
_INSECURE = "listen on other hosts than loopback without TLS"
_TOKEN = "file with the token that clients must send"
_LATE = "send each image at the best rate that arrives in so many milliseconds"
_OVER = "of an image that won't arrive in time: cheapest (default) sends it at the fewest bytes"
_BUNDLE = "encode with the folder that export wrote, in place of --family: without JAX"
_RATE = "name of a rate, or of one tree for all rates a position, 0 (fewest bytes) to 1"


@cli.command(
    "serve",
    cli.argument(
        "--family", "DIR|NAME|hf:NAME", _FAMILY, required=True, action="append", dest="families"
    ),
    *cli.FAMILY[1:],
    cli.argument("--host", "NAME", "to listen on (default: 127.0.0.1)", default="127.0.0.1"),
    cli.argument("--port", "N", "0 takes a free one (default: 50051)", int, default=50051),
    cli.argument("--tls-cert", "FILE.pem", "certificate chain", Path),
    cli.argument("--tls-key", "FILE.pem", "its private key", Path),
    cli.flag("--insecure", text=_INSECURE),
    cli.argument("--token-file", "FILE", _TOKEN, Path),
    cli.argument("--max-batch", "N", _BATCH, cli.positive, default=32),
    cli.argument("--max-wait-ms", "MS", _WAIT, float, default=5.0),
    cli.argument("--metrics-port", "N", _METRICS, int),
    note="Prints a JSON line for every event; the first is ready, with the port. SIGTERM ends it\n"
    "after the results that it owes.",
)
def serve(options: argparse.Namespace) -> None:
    """Serve predictions for the frames of many devices, over gRPC."""
    _check_installed(*_CLIENT, "grpc_health", "prometheus_client")
    if (options.tls_cert is None) != (options.tls_key is None):
        raise ConfigError("give --tls-cert and --tls-key, or none of them")
    if len(options.families) > 1 and (options.backbone or options.weights):
        raise ConfigError("--backbone and --weights are for one --family")
    from jaxsplit.deploy.limits import Limits
    from jaxsplit.deploy.server import Listen
    from jaxsplit.deploy.server import serve as run

    tls = None
    if options.tls_cert is not None:
        tls = read_file(options.tls_key), read_file(options.tls_cert)
    listen = Listen(
        options.host,
        options.port,
        tls,
        _token(options.token_file),
        options.insecure,
        options.metrics_port,
    )
    limits = Limits(max_batch=options.max_batch, max_wait=options.max_wait_ms / 1000)
    with program_cache.kept():
        from jaxsplit.deploy.engine import Engine

        engines = []
        for name in options.families:
            one = argparse.Namespace(**{**vars(options), "family": name})
            family, backbone = cli.open_family(one)
            engines.append(Engine.of(name, family, backbone, options.max_batch))
        run(engines, listen, limits, functools.partial(_log, options.quiet))


@cli.command(
    "send",
    cli.argument("images", "IMAGE|FOLDER", "image files, or folders of them", nargs="+"),
    cli.one_of(
        cli.argument("--family", "DIR|NAME|hf:NAME", cli.FAMILIES),
        cli.argument("--bundle", "DIR", _BUNDLE, Path),
        required=True,
    ),
    *cli.FAMILY[1:],
    cli.argument("--to", "HOST:PORT[,…]", "the service, or its replicas", required=True),
    cli.one_of(
        cli.argument("--rate", "ID", _RATE),
        cli.argument("--max-bytes", "N", "the best rate of each image in at most N bytes", int),
        cli.argument("--deadline-ms", "MS", _LATE, float),
        required=True,
    ),
    cli.argument("--on-overload", "WHAT", _OVER, choices=("cheapest", "drop"), default="cheapest"),
    cli.argument("--fps", "N", "images a second; default: as fast as results come", float),
    cli.argument("--top", "K", "classes of a prediction (default: 1)", cli.positive, default=1),
    cli.argument("--token-file", "FILE", "file with the token of the service", Path),
    cli.flag("--tls", text="the service has TLS, with a certificate that this machine trusts"),
    cli.argument("--tls-ca", "FILE.pem", "trust these certificates instead", Path),
    note="Images that fail, are late or dropped are named; if one has no prediction, the exit\n"
    "code is 1.",
)
def send(options: argparse.Namespace) -> None:
    """Send image files to a service and print its predictions, as a device does."""
    _check_installed(*_CLIENT)
    paths = list(_files(options.images))
    if options.fps is not None and not options.fps > 0:
        raise ConfigError(f"--fps {options.fps:g}: expected a positive number")
    most = 1 if options.deadline_ms is not None else options.max_bytes
    if options.bundle is not None:
        _send(options, paths, _bundle_sender(options, most))
        return
    with program_cache.kept():
        _send(options, paths, _family_sender(options, most))


def _family_sender(options: argparse.Namespace, most: int | None) -> _Naming:
    from jaxsplit.codec import Sender
    from jaxsplit.codec.rate_control import rates_for

    family, backbone = cli.open_family(options)
    rates_for(family, options.rate, most, task=backbone.task)  # refused before images are read
    return Sender(family, backbone, batch_size=1), family.name


def _bundle_sender(options: argparse.Namespace, most: int | None) -> _Naming:
    """Opens the sender of an exported bundle, without jax."""
    from jaxsplit.deploy.runtime.device import DeviceSender

    if options.backbone or options.weights:
        raise ConfigError("--backbone and --weights are for --family: a bundle has its network")
    if importlib.util.find_spec("onnxruntime") is None:
        raise ConfigError("--bundle needs onnxruntime: pip install -r DIR/requirements.txt")
    device = DeviceSender(options.bundle)
    device.check(options.rate, most)
    return device, device.name


def _send(options: argparse.Namespace, paths: list[Path], opened: _Naming) -> None:
    from jaxsplit.deploy import Client

    sender, name_of = opened
    deadline = None if options.deadline_ms is None else options.deadline_ms / 1000
    if deadline is not None:
        sender.warm_up()  # the first images have a deadline too
    shown = []
    with Client(
        sender,
        options.to,
        deadline=deadline,
        on_overload=options.on_overload,
        top=options.top,
        token=_token(options.token_file),
        tls=read_file(options.tls_ca) if options.tls_ca else options.tls,
    ) as client:
        for path, outcome in _outcomes(client, paths, options):
            rate = None if outcome.rate_index is None else name_of(outcome.rate_index)
            document = _document(path, outcome, rate)
            shown.append(document)
            if not options.json:
                print(_row(document), flush=True)
        counts = dataclasses.asdict(client.counts)
    if options.json:
        print(json.dumps({"images": shown, "counts": counts}, indent=2))
    elif not options.quiet:
        print(", ".join(f"{count} {name}" for name, count in counts.items() if count))
    without = sum("prediction" not in one for one in shown)
    if without:
        raise cli.Incomplete(f"{without} of {cli.images_text(len(shown))} without a prediction")


def _outcomes(
    client: Client, paths: list[Path], options: argparse.Namespace
) -> Iterator[tuple[Path, Outcome]]:
    """Sends images at their pace; yields outcomes in the order of the images."""
    waiting: deque[tuple[Path, Future[Outcome]]] = deque()
    # Without a pace, an image with a deadline is offered when the one before it has its outcome.
    most = 1 if options.deadline_ms is not None and options.fps is None else len(paths) + 1
    start = time.monotonic()
    for number, path in enumerate(paths):
        if options.fps is not None:
            time.sleep(max(start + number / options.fps - time.monotonic(), 0))
        request = {"rate": options.rate, "max_bytes": options.max_bytes}
        waiting.append((path, client.submit(path, **request)))
        while waiting and (waiting[0][1].done() or len(waiting) >= most):
            first, future = waiting.popleft()
            yield first, future.result()
    for path, future in waiting:
        yield path, future.result()


def _document(path: Path, outcome: Outcome, rate: str | None) -> dict[str, object]:
    """Returns an outcome as it is printed with --json."""
    found = dataclasses.asdict(outcome)
    kept = {
        "image": as_text(path),
        "status": outcome.status,
        "prediction": outcome.prediction,
        "error": outcome.error,
        "rate": rate,
        "bytes": outcome.frame_bytes,
        **{key: round(found[key], 6) for key in ("seconds", "server_seconds", "queue_seconds")},
        "attempts": outcome.attempts,
    }
    return {key: value for key, value in kept.items() if value is not None}


def _row(document: dict[str, object]) -> str:
    prediction = document.get("prediction")
    values = prediction if isinstance(prediction, dict) else {"error": document.get("error")}
    texts = [
        f"{x:.4f}" if isinstance(x, float) else str(x) for key, x in values.items() if key != "top"
    ]
    if isinstance(listed := values.get("top"), list):
        texts += [f"{one.get('class')} {one.get('probability'):.4f}" for one in listed[1:]]
    if document["status"] != "answered":
        texts.insert(0, str(document["status"]))
    if "rate" in document:
        texts += [f"{document['bytes']} bytes", f"rate {document['rate']}"]
    milliseconds = 1000 * float(str(document["seconds"]))
    return escaped("  ".join([str(document["image"]), *texts, f"{milliseconds:.0f} ms"]))


def _files(names: list[str]) -> Iterator[Path]:
    """Yields image files, and those of folders in the order of their names."""
    for name in names:
        path = Path(name)
        if path.is_dir():
            found = [one for one in sorted(path.rglob("*")) if one.suffix.lower() in IMAGES]
            if not found:
                raise DataError(f"no images in {name}: expected files such as {IMAGES[0]}")
            yield from found
        elif path.exists():
            yield path
        else:
            raise DataError(f"cannot read {name} as an image: no such file")


def _token(path: Path | None) -> str | None:
    """Reads a token; white space around it doesn't count."""
    if path is None:
        return None
    try:
        token = read_file(path).decode("ascii").strip()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: a token is ASCII") from error
    if not token:
        raise ConfigError(f"{path} has no token: write a long random word into it")
    return token


def _check_installed(*modules: str) -> None:
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ConfigError(f'{error.msg}: pip install "jaxsplit[serve]"') from error


def _log(quiet: bool, event: str, /, **fields: object) -> None:
    """Prints an event as a JSON line; with --quiet none of single streams."""
    if quiet and event.startswith("stream"):
        return
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    print(json.dumps({"time": now, "event": event, **fields}), flush=True, file=sys.stdout)
