"""What the commands do: one function for each, of its parsed options."""

from __future__ import annotations

import argparse
import dataclasses
import io
import itertools
import json
import shlex
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

# What is heavy is imported by the command that needs it.
from jaxsplit.errors import BitstreamError, ConfigError
from jaxsplit.files import check_writable, read_file, write_whole

# Images whose results are held at once, however many a file has.
_DECODED_AT_ONCE = 1024

if TYPE_CHECKING:
    from jaxsplit.family import RateFamily
    from jaxsplit.models import Backbone


def quickstart(options: argparse.Namespace) -> None:
    """Trains and shows the curve of the embedded default."""
    from jaxsplit import config

    variant = "smoke" if options.smoke else "quickstart"
    loaded = config.load(f"fashion_mnist:{variant}", {"seed": str(options.seed)})
    check_writable(options.out)
    smoke = " --smoke" if options.smoke else ""
    command = f"jaxsplit quickstart{smoke} --seed {options.seed}"
    _run_curve(loaded, options, options.out, command, resume=False)


def train(options: argparse.Namespace) -> None:
    """Trains a backbone or a curve from a configuration."""
    from jaxsplit import config, experiment
    from jaxsplit.design import DesignConfig
    from jaxsplit.train import parallel, processes
    from jaxsplit.train.backbone import BackboneConfig

    loaded = config.load(options.config, options.overrides)
    if isinstance(loaded, DesignConfig):
        raise ConfigError(f"{options.config} is a search: take jaxsplit design")
    check_writable(options.workdir)
    processes.join(options.coordinator, options.process_id, options.processes)
    with processes.leaving_errors():
        if not isinstance(loaded, BackboneConfig):
            _run_curve(loaded, options, options.workdir, _repeated(options), resume=True)
            return
        parallel.use_cpu_cores(loaded.batch_size)
        with _progress(options) as progress:
            card = experiment.run_backbone(loaded, options.workdir, _repeated(options), progress)
        if processes.is_first():
            text = f"top-1 {100 * card['top1']:.2f} % on {card['test_images']} test images"
            _result(options, text, card, f"wrote {options.workdir / 'weights.safetensors'}")


def _repeated(options: argparse.Namespace) -> str:
    """The command that trains the same again, without the folders of this machine."""
    from jaxsplit import data

    file, colon, arg = options.config.partition(":")
    words = ["jaxsplit train --config", Path(file).stem + colon + arg, "--workdir DIR"]
    for key, value in options.overrides.items():
        # Weights and other files by their names alone.
        named = Path(value).name if Path(value).exists() else data.portable_name(value)
        words.append(shlex.quote(f"--config.{key}={named}"))
    return " ".join(words)


def _run_curve(
    config: Any, options: argparse.Namespace, out: Path, command: str, *, resume: bool
) -> None:
    from jaxsplit import experiment
    from jaxsplit.train import parallel

    parallel.use_cpu_cores(config.batch_size)
    start = time.monotonic()
    with _progress(options, [rate.rate_id for rate in config.rates]) as progress:
        result = experiment.run_curve(
            config, out, resume=resume, command=command, progress=progress, tell=progress.tell
        )
    if result is None:  # not the first process
        return
    cost = result.cost
    text = (
        f"cut {config.cut}: of the network's {(cost.head + cost.tail) / 1e6:.2f} M multiply-adds "
        f"the device runs {100 * cost.device_share:.1f} % (encoder {cost.encoder / 1e6:.2f} M)\n"
        f"{result.table}"
    )
    seconds = time.monotonic() - start
    summary = f"wrote {out}/curve.json, {out}/curve.png and {out}/family in {seconds:.0f} s"
    _result(options, text, json.loads(result.curve.to_json()), summary)


def evaluate(options: argparse.Namespace) -> None:
    """Measures a family through real bytes."""
    from jaxsplit import data, experiment
    from jaxsplit.evaluation import image_codecs, report

    baselines = () if options.baselines == "none" else tuple(options.baselines.split(","))
    for codec in baselines:
        image_codecs.check_codec(codec)
    family, backbone = _open(options)
    if options.out is not None:
        check_writable(options.out)
    rates = None if options.rates is None else options.rates.split(",")
    for rate in rates or ():
        family[rate]  # refuses an unknown rate before images are read
    source = data.open_source(options.data, split=options.split, limit=options.limit)
    with _progress(options) as progress:
        curve, _, table = experiment.measure(
            family,
            backbone,
            source,
            options.out,
            progress.tell,
            rates,
            baselines,
            options.compare_at,
        )
    names = "curve.json, curve.png, images.npz, report.html"
    summary = "" if options.out is None else f"wrote {names} to {options.out}"
    _result(
        options, f"{table}\n{report.render_details(curve)}", json.loads(curve.to_json()), summary
    )


def compare(options: argparse.Namespace) -> None:
    """The distances between two measured curves."""
    from jaxsplit.evaluation.compare import Measured
    from jaxsplit.evaluation.compare import compare as compare_curves

    result = compare_curves(
        Measured.open(options.reference),
        Measured.open(options.test),
        quality=options.quality,
        method=options.method,
        drops=(options.from_drop / 100, options.to_drop / 100),
    )
    _result(options, result.render(), result.to_dict())


def plan(options: argparse.Namespace) -> None:
    """What every cut of a network and every unit there costs."""
    from jaxsplit import planning
    from jaxsplit.evaluation import plan_plot, plan_table
    from jaxsplit.plan import comparison

    found, timed, symbols = planning.run(options)
    shown = None if options.cut is None else found[options.cut]
    if options.plot is not None:
        try:
            plan_plot.plot_plan(options.plot, found, timed, symbols)
        except OSError as error:
            raise ConfigError(f"cannot write {options.plot}: {error.strerror}") from error
    text = plan_table.render(found, timed, symbols)
    if shown is not None:
        text += "\n" + plan_table.render_units(shown, timed)
    summary = "" if options.plot is None else f"wrote {options.plot}"
    _result(options, text, comparison.to_dict(found, timed, symbols), summary)


def design(options: argparse.Namespace) -> None:
    """A search for cuts and units within a time."""
    from jaxsplit import config
    from jaxsplit.design import DesignConfig, search
    from jaxsplit.design.export import write_config
    from jaxsplit.design.front import choose
    from jaxsplit.evaluation import design_report
    from jaxsplit.importers.pretrained import load_backbone

    loaded = config.load(options.config, options.overrides)
    if not isinstance(loaded, DesignConfig):
        raise ConfigError(f"{options.config} is no search: take jaxsplit train")
    check_writable(options.workdir)
    # CPU cores are no devices here: a step of units that train side by side spreads over them by
    # itself, in two thirds of the time; and searches on two such devices came to a stand.
    with _progress(options) as progress:
        backbone = load_backbone(loaded.backbone)
        found = search(loaded, backbone, options.workdir, progress.tell)
    chosen = choose(found.front, loaded.points)
    write_config(options.workdir / "chosen.py", loaded, chosen)
    document = found.to_dict()
    text = json.dumps(document, indent=1) + "\n"
    write_whole(options.workdir / "design.json", text.encode())
    design_report.plot_design(options.workdir / "design.png", found, chosen)
    names = ", ".join(f"{options.workdir}/{name}" for name in ("design.json", "design.png"))
    summary = f"wrote {names} and {options.workdir}/chosen.py in {found.minutes:.1f} minutes"
    _result(options, design_report.render(found, chosen), document, summary)


def encode(options: argparse.Namespace) -> None:
    """Image files to one .jspl file."""
    import numpy as np

    from jaxsplit import coding, data
    from jaxsplit.codec import Sender

    family, backbone = _open(options)
    if options.rate is not None:
        family[options.rate]  # refuses an unknown rate before images are read
    images = [
        backbone.preprocessing.apply(data.decode_image(Path(name))) for name in options.images
    ]
    # One at a time: an image's bytes then don't depend on what it is encoded with.
    sender = Sender(family, backbone, batch_size=1)
    frames = sender(
        np.stack(images), rate=options.rate, max_bytes=options.max_bytes, quality=options.quality
    )
    count = len(family.rates)
    opened = [coding.unpack_frame(frame, count)[0] for frame in frames]
    written = coding.write_container(sender.header, opened, frame_checks=options.frame_checks)
    write_whole(options.output, written)
    payload = sum(map(len, frames))
    summary = (
        f"{len(frames)} {'image' if len(frames) == 1 else 'images'}, {payload} bytes "
        f"({payload / len(frames):.1f} an image) and {len(written) - payload} of header: "
        f"{options.output}"
    )
    rates = [family.rates[frame.rate_index].rate_id for frame in opened]
    listed = [
        {"image": name, "rate": rate, "bytes": len(frame)}
        for name, rate, frame in zip(options.images, rates, frames, strict=True)
    ]
    document = {"file": str(options.output), "bytes": len(written), "images": listed}
    _result(options, "", document, summary)


def decode(options: argparse.Namespace) -> None:
    """A .jspl file to predictions."""
    import numpy as np

    from jaxsplit import coding
    from jaxsplit.codec import Receiver

    content = read_file(options.file)
    family, backbone = _open(options)
    receiver = Receiver(family, backbone)
    try:
        receiver.check(coding.Reader(io.BytesIO(content)).header)
    except BitstreamError as error:
        raise type(error)(f"{options.file}, for {options.family}: {error}") from error
    # Read to its checksum before anything is said of it.
    receiver.batch_size = min(max(sum(1 for _ in coding.frame_sizes(content)), 1), 32)
    number, separator = 0, "["
    frames = coding.frame_sizes(content)
    while batch := list(itertools.islice(frames, _DECODED_AT_ONCE)):
        logits = receiver.decode([frame for frame, _ in batch]).astype(np.float64)
        probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        for row, (frame, size) in zip(probabilities, batch, strict=True):
            name, probability = backbone.class_names[row.argmax()], float(row.max())
            rate = family.rates[frame.rate_index].rate_id
            if options.json:
                values = {"image": number, "class": name, "probability": round(probability, 4)}
                text = json.dumps({**values, "rate": rate, "bytes": size}, indent=1)
                print(f"{separator}\n{textwrap.indent(text, ' ')}", end="")
                separator = ","
            else:
                print(f"{number}  {name}  {probability:.4f}  {size} bytes  rate {rate}")
            number += 1
    if options.json:
        print("\n]" if number else "[]")


def pack(options: argparse.Namespace) -> None:
    """A family with a complete card, as one ships it."""
    from jaxsplit import card, data
    from jaxsplit.evaluation import accuracy, report

    family, backbone = _open(options)
    if options.data is None and (options.split, options.limit) != (None, None):
        raise ConfigError("--split and --limit are of the images of --data SOURCE: give that too")
    if options.half:
        family = family.half()
    family = dataclasses.replace(family, card=family.card | dict(options.card))
    missing = card.missing(family.card)
    if options.data is not None and "evaluation" in missing:
        missing.remove("evaluation")
    if missing:  # said before the measuring
        told = [f"--card {key}=…" for key in missing if key != "evaluation"]
        told += ["--data SOURCE"] if "evaluation" in missing else []
        raise ConfigError(f"the card lacks {', '.join(missing)}: give {' '.join(told)}")
    check_writable(options.output)
    table = ""
    if options.data is not None:
        source = data.open_source(options.data, split=options.split, limit=options.limit)
        with _progress(options) as progress:
            curve, seen = accuracy.evaluate_images(
                family, backbone, source, lambda name: progress.tell(f"evaluating {name}")
            )
        table = report.render(curve)
        family = card.with_measured(family, curve, seen, source)
    family.save(options.output, packed=True)
    size = sum(path.stat().st_size for path in options.output.rglob("*") if path.is_file())
    summary = f"{len(family.rates)} rates, {size / 1000:.1f} kB: {options.output}"
    names = [rate.rate_id for rate in family.rates]
    _result(options, table, {"family": str(options.output), "rates": names, "bytes": size}, summary)


def info(options: argparse.Namespace) -> None:
    """Describes a family, a .jspl file or weights."""
    from jaxsplit.describe import describe, document

    _result(options, describe(options.path), document(options.path) if options.json else None)


def import_backbone(options: argparse.Namespace) -> None:
    """Another package's weights to a file that knows its network."""
    from jaxsplit import models
    from jaxsplit.importers.pretrained import load_backbone

    if options.output.suffix != models.SUFFIX:
        raise ConfigError(f"{options.output}: the name must end in {models.SUFFIX}")
    backbone = load_backbone(options.name, options.file)
    changes: dict[str, Any] = {}
    if options.classes is not None:
        names = tuple(read_file(options.classes).decode("utf-8-sig", "replace").split("\n"))
        names = tuple(name.strip() for name in names if name.strip())
        if len(names) != len(backbone.class_names):
            raise ConfigError(
                f"{options.classes} names {len(names)} classes, but {options.file} has "
                f"{len(backbone.class_names)}"
            )
        changes["class_names"] = names
    if options.resize is not None:
        changes["preprocessing"] = dataclasses.replace(
            backbone.preprocessing, resize=options.resize
        )
    backbone = dataclasses.replace(backbone, **changes)
    models.save_backbone(
        options.output,
        backbone.variables,
        name=backbone.name,
        preprocessing=backbone.preprocessing,
        class_names=backbone.class_names,
        card=backbone.card,
        dtype="float32",
    )
    count = len(backbone.class_names)
    facts = {"backbone": backbone.name, "classes": count, "fingerprint": backbone.fingerprint}
    summary = f"{backbone.name}, {count} classes: {options.output}\n"
    summary += f"fingerprint {backbone.fingerprint}"
    _result(options, "", {"file": str(options.output), **facts}, summary)


def import_spic(options: argparse.Namespace) -> None:
    """The units that the paper's authors published, as families."""
    from jaxsplit import data
    from jaxsplit.fitting import fit_tables
    from jaxsplit.importers.pretrained import load_backbone
    from jaxsplit.importers.spic import TASKS, import_families

    if (options.fit_on is None) != (options.weights is None):
        raise ConfigError("--fit-on SOURCE and --weights FILE go together: give both or neither")
    if options.fit_on is None and (options.split, options.limit) != (None, None):
        raise ConfigError("--split and --limit are of the images of --fit-on SOURCE: give that too")
    backbone = None
    if options.fit_on is not None:
        task = TASKS[options.task]
        source = data.open_source(options.fit_on, split=options.split, limit=options.limit)
        backbone = load_backbone(task.backbone, options.weights)
        backbone = dataclasses.replace(backbone, preprocessing=task.preprocessing)
    families = import_families(options.folder, options.task, options.cut)
    if backbone is not None:
        families = {cut: fit_tables(family, backbone, source) for cut, family in families.items()}
    listed, lines = [], []
    for cut, family in families.items():
        folder = options.output if options.cut else options.output / cut
        family.save(folder)
        names = [rate.rate_id for rate in family.rates]
        listed.append({"cut": cut, "family": str(folder), "rates": names})
        lines.append(f"{cut}: {len(names)} rates at {family.cut} of {family.backbone}: {folder}")
    _result(options, "", listed, "\n".join(lines))


def _open(options: argparse.Namespace) -> tuple[RateFamily, Backbone]:
    from jaxsplit.pretrained import load_pretrained

    family = load_pretrained(options.family)
    backbone = family.backbone_of(options.backbone, options.weights)
    return family.bind(backbone), backbone


def _result(options: argparse.Namespace, text: str, document: Any, summary: str = "") -> None:
    """Prints what a command found out, and what it did where neither --json nor --quiet is said."""
    if options.json:
        print(json.dumps(document, indent=2))
        return
    if text:
        print(text)
    if summary and not options.quiet:
        print(summary)


def _progress(options: argparse.Namespace, names: Sequence[str] = ()) -> Any:
    from jaxsplit.progress import ProgressBar

    return ProgressBar(names, quiet=options.quiet)
