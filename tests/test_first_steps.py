"""A new user's first steps: odd images, ordinary mistakes, options that every command has."""

import contextlib
import io
import json
import logging
import re
import resource
import shlex
import subprocess
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from jaxsplit import __version__, bitstream, cli, data
from jaxsplit.cli.arguments import EXAMPLES
from jaxsplit.cli.program import make_parser, parse
from jaxsplit.errors import CheckpointError, JaxsplitWarning, warn_once
from jaxsplit.family.pretrained import load_pretrained
from jaxsplit.io import checkpoint, log

pytestmark = pytest.mark.optimized

FAMILY = "resnet8_small-fashion_mnist/stage1.block1"
TO = ("--family", FAMILY, "--rate", "r5", "-o", "x.jspl")


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """An empty folder to work in, with no warning yet and no option for warnings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("jaxsplit.errors._WARNED", set())
    monkeypatch.setattr(sys, "warnoptions", [])
    return tmp_path


def run(*arguments):
    """One command in this process: exit code, stdout, lines of stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main([str(argument) for argument in arguments])
    return code, out.getvalue(), err.getvalue().splitlines()


def refused(*arguments):
    code, out, err = run(*arguments)
    assert (code, out, len(err)) == (2, "", 1), err
    return err[0]


def garment():
    (example,) = data.open_source("embedded", max_samples=1)
    return Image.fromarray(example["image"][..., 0])


def odd_images():
    """Pairs of files that must become the same frame: an odd one, and the plain one it means."""
    grey, pairs = garment(), []
    colour = grey.convert("RGB").resize((60, 40))

    clear = grey.convert("RGBA")
    clear.paste((255, 0, 255, 0), (0, 0, 28, 9))  # what lies there isn't seen
    clear.save("alpha.png")
    flat = Image.new("RGB", (28, 28), "white")
    flat.paste(grey.convert("RGB").crop((0, 9, 28, 28)), (0, 9))
    pairs.append(("alpha.png", flat))

    colour.convert("CMYK").save("cmyk.jpg")
    with Image.open("cmyk.jpg") as image:
        pairs.append(("cmyk.jpg", image.convert("RGB")))

    frames = [grey.point(lambda x, d=d: x // d).convert("P") for d in (1, 2)]
    frames[0].save("animated.gif", save_all=True, append_images=frames[1:])
    pairs.append(("animated.gif", grey.convert("RGB")))

    Image.new("L", (1, 1), 77).save("one.png")
    pairs.append(("one.png", Image.new("L", (28, 28), 77)))

    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise before it is shown
    colour.save("photo.jpg", exif=exif)
    with Image.open("photo.jpg") as image:
        pairs.append(("photo.jpg", image.transpose(Image.Transpose.ROTATE_270)))
    return pairs


def test_odd_images_are_what_they_look_like(desk):
    names = []
    for odd, plain in odd_images():
        plain.save(f"{odd}.plain.png")
        names += [odd, f"{odd}.plain.png"]
    code, out, err = run("encode", *names, *TO, "--json")
    assert code == 0, err
    # On a busy machine lines of progress stand between the warnings.
    told = [line.split(" ")[2] for line in err if line.startswith("jaxsplit: warning: ")]
    assert told == ["alpha.png", "animated.gif"]
    with open("x.jspl", "rb") as file:
        frames = [frame.payload for frame in bitstream.Reader(file)]
    assert frames[::2] == frames[1::2]
    assert len(set(frames)) == len(frames) // 2
    document = json.loads(out)
    assert [image["image"] for image in document["images"]] == names
    assert document["bytes"] == (desk / "x.jspl").stat().st_size
    assert {image["rate"] for image in document["images"]} == {"r5"}
    sender, _ = load_pretrained(FAMILY).codec()
    with contextlib.ExitStack() as opened:
        for images in (names, [opened.enter_context(Image.open(name)) for name in names]):
            sent = [bitstream.unpack_frame(frame, 5)[0] for frame in sender(images, "r5")]
            assert [frame.payload for frame in sent] == frames


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("encode", "shrt.png", *TO), ["shrt.png", "no such file"]),
        (("encode", "shirt.png", *TO[:3], "R3", *TO[4:]), ["'R3'", "did you mean r3?"]),
        (
            ("encode", "shirt.png", *TO[:2], "--max-bytes", 1, *TO[4:]),
            ["shirt.png: the image takes at least", "more than --max-bytes 1"],
        ),
        (
            ("quikstart",),
            ["'quikstart' is none of quickstart, adapt, train", "did you mean quickstart?"],
        ),
        (("import",), ["FORMAT is missing: one of backbone, spic"]),
        (("import", "spik"), ["'spik' is none of backbone, spic; did you mean spic?"]),
        (
            ("evaluate", "--famly", FAMILY),
            ["there is no option --famly; did you mean --family?", "see jaxsplit evaluate --help"],
        ),
        (("quickstart", "--smoek"), ["there is no option --smoek; did you mean --smoke?"]),
        *(
            (("train", "--config", config, word), [f"there is no option --{words}"])
            for config, word, words in (
                (
                    "fashion_mnist",
                    "--learning_rate=1",
                    "learning_rate; did you mean --config.learning_rate=1?",
                ),
                (
                    "fashion_mnist",
                    "--batch-size",
                    "batch-size; did you mean --config.batch_size=VALUE?",
                ),
                ("fashion_mnist", "--colour=1", "colour (see jaxsplit train --help)"),
                ("nothing", "--learning_rate=1", "learning_rate (see jaxsplit train --help)"),
            )
        ),
        (("encode", "photos", *TO), ["photos is a folder: name the image files in it"]),
        (("encode", "shirt.png", *TO[:-1], "no/x.jspl"), ["there is no folder no; create it"]),
        (("encode", "shirt.png", *TO[:-1], "/dev/full"), ["No space left", "free some"]),
        (("encode", "shirt.png", *TO[:-1], "photos"), ["photos: it is a folder"]),
        (("encode", "shirt.png", *TO[:-1], "./shirt.png"), ["--output is the image shirt.png"]),
        (("encode", "huge.png", *TO), ["huge.png has too many pixels to decode safely"]),
        (("decode", "photos", *TO[:2]), ["photos: it is a folder; name a file in it"]),
        (("evaluate", "--fam", FAMILY), ["there is no option --fam; did you mean --family?"]),
        (("decode", "shirt.png", *TO[:2]), ["not a jaxsplit file", "jaxsplit encode"]),
        (("info", "shirt.png"), ["shirt.png; it is an image: jaxsplit encode shirt.png --family"]),
        (("info", "resnet18.pth"), ["no file resnet18.pth: check the path"]),
        (("evaluate", "--family", "shirt.png"), ["no family at shirt.png: it is a file"]),
        (("info", "ResNet50"), ["no family at ResNet50, nor weights", "did you mean resnet50?"]),
        (("info", "fashion_mnist"), ["did you mean fashion_mnist_resnet"]),
        (
            ("encode", "shirt.png", *TO[:2], "-r", "r3", *TO[4:]),
            ["there is no option -r; did you mean --rate?"],
        ),
        (("encode", "shirt.png", *TO, "--backbone", "resnet50"), ["resnet50-0676ba61.pth"]),
        (("encode", "shirt.png", *TO, "--backbone", FAMILY), ["is a family, not a backbone"]),
        (("plan", FAMILY), ["is a family, not a backbone: it is for --family"]),
        (
            ("evaluate", "--family", "fashion_mnist_resnet8"),
            ["is a backbone, for --backbone; families are", FAMILY],
        ),
        (("evaluate", *TO[:2], "--data", "photos"), ["did you mean folder:photos?"]),
        (("compare", "photos", "photos"), ["photos/curve.json", "jaxsplit evaluate --out"]),
        (("plan", "resnet51"), ["'resnet51'", "did you mean resnet50?"]),
        (("quickstart", "--out", "shirt.png"), ["shirt.png: it is a file"]),
        (
            ("train", "--config", "a/b.py", "--workdir", "w"),
            ["no file a/b.py", "by name alone: camvid"],
        ),
        (
            ("evaluate", "--family", FAMILY.replace("small", "smal")),
            ["no family at", f"did you mean {FAMILY}?"],
        ),
        (
            ("train", "--config", "fashion_mnist:smok", "--workdir", "w"),
            ["no variant 'smok'; there are full, quickstart, smoke; did you mean smoke?"],
        ),
        (("train", "--config", "fashion_mnst", "--workdir", "w"), ["did you mean fashion_mnist?"]),
        *(
            (("train", "--config", "fashion_mnist", "--workdir", "w", override), words)
            for override, words in (
                ("--config.learning_rat=1", ["did you mean learning_rate?"]),
                ("--config.specs.r9.channels=1", ["'specs.r9'", "there are r1, r2"]),
                ("--config.colour=1", ["'colour'", "learning_rate, linear_"]),
                ("--config.learning_rate=fast", ["'fast' is no number: write one such as 0.01"]),
                ("--config.seed", ["write --config.seed=VALUE, in one word"]),
                ("--config.baselines=jpeg", ["'jpeg' is no tuple: write one such as ('jpeg',)"]),
            )
        ),
        (
            ("design", "--config", "resnet20_design", "--workdir", "w", "--config.keep=0.0"),
            ["keep is 0.0; expected more than 0 and at most 1"],
        ),
    ],
)
def test_a_mistake_is_one_line_with_what_to_do(arguments, words, desk):
    garment().save("shirt.png")
    shirt = (desk / "shirt.png").read_bytes()
    if "huge.png" in arguments:
        Image.new("1", (20000, 20000)).save("huge.png")
    (desk / "photos").mkdir()
    line = refused(*arguments)
    assert (desk / "shirt.png").read_bytes() == shirt
    for word in ("jaxsplit: ", *words):
        assert word in line
    assert not (desk / "x.jspl").exists()


@contextlib.contextmanager
def files_of_at_most(size):
    """As if the disk were full from there on: no file grows beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_up_is_one_line(desk):
    words = (
        "evaluate",
        "--family",
        FAMILY,
        "--max-samples",
        20,
        "--rates",
        "r1",
        "--out",
        "out",
        "-q",
    )
    with files_of_at_most(200):
        line = refused(*words, "--baselines", "none")
    assert "File too large" in line
    assert run(*words, "--baselines", "none")[0] == 0


def test_a_checkpoint_that_cannot_fit_is_refused_before_it_is_begun(desk, monkeypatch):
    tree = {"a": np.ones(1000)}
    checkpoint.save_tree(desk / "step", tree)
    monkeypatch.setattr(
        "jaxsplit.io.checkpoint.shutil.disk_usage", lambda path: SimpleNamespace(free=7999)
    )
    larger = {"a": np.ones(9000)}
    with pytest.raises(CheckpointError, match="free some, and the same command resumes"):
        checkpoint.save_tree(desk / "step", larger)
    np.testing.assert_array_equal(checkpoint.load_tree(desk / "step")["a"], tree["a"])
    # What is replaced makes room.
    checkpoint.save_tree(desk / "step", {"a": np.zeros(1000)})
    assert not checkpoint.load_tree(desk / "step")["a"].any()


# What every command has.


def subcommands(parser=None, words=()):
    """(words, parser) of every command."""
    parser = parser or make_parser()
    (group,) = [a for a in parser._actions if isinstance(a.choices, dict)] or [None]
    if group is None:
        return [(" ".join(words), parser)]
    return [
        found for name, one in group.choices.items() for found in subcommands(one, (*words, name))
    ]


def test_every_command_has_examples_that_it_takes():
    commands = dict(subcommands())
    names = set()
    for line in EXAMPLES.splitlines():
        program, *words = shlex.split(line)
        name = parse(words).command  # refuses what it doesn't know
        names.add(name)
        assert f"{line} ".startswith(f"{program} {name} ")
        assert program == "jaxsplit"
        assert f"\n  {line}\n" in commands[name].format_help()
    assert names == set(commands)


def test_every_option_is_explained_and_quiet_and_json_are_everywhere():
    for name, parser in subcommands():
        assert not [action.dest for action in parser._actions if not action.help], name
        options = parser.format_help()
        assert "-q, --quiet" in options
        assert "--json" in options


HELP = [*(name.split() for name, _ in subcommands()), ["import"]]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--version"], __version__),
        (["--help"], "start with:\n  jaxsplit quickstart\n"),
        *(([*words, "--help"], "\nexamples:\n  jaxsplit ") for words in HELP),
    ],
)
def test_help_takes_no_second(words, told, monkeypatch):
    program = """
import atexit, os, sys, time
def end():
    assert "jax" not in sys.modules
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "3"  # only then XLA is silent about slow compiling
    print(time.process_time(), file=sys.stderr)
atexit.register(end)
from jaxsplit.cli import main
main(sys.argv[1:])
"""
    command = [sys.executable, "-c", program, *words]
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)  # jax has set it here
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert float(done.stderr) < 1  # of the processor: a busy machine may take longer
    assert told in done.stdout


def test_quiet_leaves_results_and_json_is_a_document(desk):
    garment().save("shirt.png")
    encode = ("encode", "shirt.png", *TO)
    code, out, err = run(*encode)
    assert (code, err) == (0, [])
    assert re.fullmatch(r"1 image, \d+ bytes \(.*\) and \d+ of header: x\.jspl\n", out)
    assert run(*encode, "--quiet") == (0, "", [])
    text, document = (run("info", "x.jspl", *more)[1] for more in ([], ["--json"]))
    assert json.loads(document)["images"] == 1
    assert "x.jspl: 1 image, family " in text
    for name in ((), (FAMILY,), ("fashion_mnist_resnet8",)):
        assert json.loads(run("info", *name, "--json")[1])
    family = json.loads(run("info", FAMILY, "--json")[1])
    assert [rate["rate"] for rate in family["rates"]] == ["r1", "r2", "r3", "r4", "r5"]
    card = ("--card", "limits=none")
    packed = json.loads(run("pack", "--family", FAMILY, "-o", "packed", *card, "--json")[1])
    files = (desk / "packed").rglob("*")
    assert packed["bytes"] == sum(path.stat().st_size for path in files if path.is_file())


# Warnings.


def test_a_warning_points_at_the_line_of_the_user(desk):
    garment().convert("RGBA").save("alpha.png")
    image = Image.open("alpha.png")
    image.putalpha(77)
    image.save("alpha.png")
    with pytest.warns(JaxsplitWarning, match="alpha.png") as told:
        data.decode_image("alpha.png")
    assert [warning.filename for warning in told] == [__file__]


def test_our_warnings_are_lines_once_and_those_of_others_are_not_shown(desk, capsys):
    with warnings.catch_warnings(), log.shown_as_lines():
        for _ in range(3):
            warn_once("kind", "do\nthis")
        warnings.warn("a dependency is old", DeprecationWarning, stacklevel=1)
        warnings.warn("a dependency is odd", UserWarning, stacklevel=1)
        logging.getLogger("orbax").warning("a dependency talks")
    assert capsys.readouterr().err.splitlines() == ["jaxsplit: warning: do this"]
    with log.shown_as_lines(quiet=True):
        warn_once("another", "unheard")
    assert capsys.readouterr().err == ""


def test_who_asks_for_warnings_gets_them(desk, monkeypatch):
    monkeypatch.setattr(sys, "warnoptions", ["error"])
    with log.shown_as_lines(), pytest.raises(JaxsplitWarning):
        warn_once("kind", "text")
