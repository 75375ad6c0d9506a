"""`jaxsplit serve` in a process of its own, and `jaxsplit send` to it."""

import contextlib
import io
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from jaxsplit import data
from jaxsplit.cli import main

FAMILY = "resnet8_small-fashion_mnist/stage1.block1"
TOKEN = "a-long-random-word"
SOMEWHERE = ("--family", FAMILY, "--to", "a:1", "--rate", "r1")


def run(*arguments):
    """One command in this process: its exit code, stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return SimpleNamespace(code=code, out=out.getvalue(), err=err.getvalue())


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of five image files."""
    folder = tmp_path_factory.mktemp("photos")
    for number, example in enumerate(data.open_source("embedded", max_samples=5)):
        Image.fromarray(example["image"][..., 0]).save(folder / f"{number}.png")
    return folder


@contextlib.contextmanager
def serving(*options, family=FAMILY):
    """A service in a process: its first line; ended by SIGTERM, with exit code 0."""
    words = [sys.executable, "-m", "jaxsplit", "serve", "--family", str(family), "--port", "0"]
    process = subprocess.Popen(
        [*words, "--max-batch", "4", *map(str, options)], stdout=subprocess.PIPE, text=True
    )
    try:
        ready = json.loads(process.stdout.readline())
        assert ready["event"] == "ready"
        yield SimpleNamespace(address=f"127.0.0.1:{ready['port']}", process=process, ready=ready)
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert json.loads(rest.splitlines()[-1])["event"] == "stopped"
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def service():
    with serving() as found:
        yield found


def test_predictions_are_those_of_decode(service, photos, tmp_path):
    images = sorted(photos.iterdir())
    to = ("--family", FAMILY, "--to", service.address)
    done = run("send", photos, *to, "--rate", "r3", "--json")
    assert (done.code, done.err) == (0, "")
    sent = json.loads(done.out)
    assert sent["counts"]["answered"] == len(images)
    assert run("encode", *images, "--family", FAMILY, "--rate", "r3", "-o", tmp_path / "x.jspl")
    decoded = json.loads(run("decode", tmp_path / "x.jspl", "--family", FAMILY, "--json").out)
    for one, other in zip(sent["images"], decoded, strict=True):
        assert one["prediction"]["class"] == other["class"]
        assert one["prediction"]["probability"] == pytest.approx(other["probability"], abs=2e-4)
        assert (one["bytes"], one["rate"]) == (other["bytes"], other["rate"])
    assert [one["image"] for one in sent["images"]] == [str(path) for path in images]


def test_rates_by_bytes_and_by_deadline(service, photos):
    to = ("--family", FAMILY, "--to", service.address)
    done = run("send", photos, *to, "--max-bytes", "40", "--json")
    assert max(one["bytes"] for one in json.loads(done.out)["images"]) <= 40
    done = run("send", photos, *to, "--deadline-ms", "20000", "--fps", "50", "--top", "3")
    assert done.code == 0
    assert len(done.out.splitlines()) == 6  # five images and the counts
    assert "5 answered" in done.out


def test_an_image_that_fails_costs_no_other(service, photos, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    shutil.copy(photos / "0.png", tmp_path / "good.png")
    done = run("send", tmp_path, "--family", FAMILY, "--to", service.address, "--rate", "r1")
    assert done.code == 1
    assert "1 of 2 images without a prediction" in done.err
    assert "bad.png  failed  " in done.out
    assert "good.png  " in done.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("send", "nowhere.png", *SOMEWHERE), "no such file"),
        (("send", Path(__file__).parent, *SOMEWHERE), "no images in"),
        (("send", __file__, *SOMEWHERE, "--fps", "0"), "positive"),
        (("send", __file__, "--bundle", "nowhere", *SOMEWHERE[2:]), "no bundle of jaxsplit export"),
        (("send", __file__, "--bundle", "x", "--backbone", "y", *SOMEWHERE[2:]), "for --family"),
        (("serve", "--family", FAMILY, "--host", "0.0.0.0"), "loopback only"),
        (("serve", "--family", FAMILY, "--tls-cert", "c.pem"), "--tls-key"),
        (("serve", "--family", "a", "--family", "b", "--backbone", "c"), "one --family"),
        (("serve", "--family", FAMILY, "--max-batch", "0"), "at least 1"),
    ],
)
def test_wrong_commands_are_refused(words, said):
    done = run(*words)
    assert done.code == 2
    assert said in done.err
    assert done.err.count("\n") == 1


def test_another_family_is_refused(service, photos):
    other = "resnet20_small-fashion_mnist/stage1.block3"
    done = run("send", photos, "--family", other, "--to", service.address, "--rate", "r1")
    assert done.code == 2
    assert "encoded with another family" in done.err


WITHOUT_JAX = """
import sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("jax", "jaxlib", "flax", "onnx", "optax", "scipy"):
            raise ImportError(f"{name} is not installed on this device")

sys.meta_path.insert(0, Refused())
from jaxsplit.cli import main
sys.exit(main(sys.argv[1:]))
"""


def process(*words, start=("-m", "jaxsplit")):
    """One command in a process of its own: what it printed."""
    command = [sys.executable, *start, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_from_photos_to_predictions_of_a_device_without_jax(tmp_path):
    """The chain of the README: adapt, export, serve, send."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    for name, level in (("cat", 40), ("dog", 200)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(10):
            picture = Image.new("RGB", (32, 32), (level + i,) * 3)
            picture.save(tmp_path / "photos" / name / f"{i}.png")
    family, device = tmp_path / "adapted" / "family", tmp_path / "device"
    small = ("--backbone", "fashion_mnist_resnet8", "--cut", "stage3.block1", "--minutes", "0.01")
    photos = ("--data", f"folder:{tmp_path / 'photos'}", "--test-images", "4")
    process("adapt", *photos, *small, "--out", family.parent)
    process("export", "--family", family, "-o", device)
    with serving(family=family) as service:
        to = ("--bundle", device, "--to", service.address, "--json")
        for request in (("--rate", "0.5"), ("--deadline-ms", "20000")):
            words = ("send", tmp_path / "photos", *to, *request)
            sent = json.loads(process(*words, start=("-c", WITHOUT_JAX)))
            assert sent["counts"]["answered"] == 20
            said = [one["prediction"]["class"] for one in sent["images"]]
            assert said == ["cat"] * 10 + ["dog"] * 10


def test_a_bundle_s_rates_are_named_as_the_family_s(service, photos, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    device = tmp_path / "device"
    assert run("export", "--family", FAMILY, "-o", device).code == 0
    to = ("--to", service.address, "--json")
    by_bundle, by_family = (
        json.loads(run("send", photos, *which, *to, "--rate", "r3").out)["images"]
        for which in (("--bundle", device), ("--family", FAMILY))
    )
    for one, other in zip(by_bundle, by_family, strict=True):
        assert one["rate"] == other["rate"] == "r3"
        assert one["prediction"]["class"] == other["prediction"]["class"]
    done = run("send", photos, "--bundle", device, *to, "--max-bytes", "40")
    assert max(one["bytes"] for one in json.loads(done.out)["images"]) <= 40
    done = run("send", photos, "--bundle", device, *to, "--rate", "r9")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "no rate 'r9'" in done.err


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_tls_and_a_token(photos, tmp_path):
    key, certificate, token = (tmp_path / name for name in ("key.pem", "cert.pem", "token"))
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=x"
    made = ["-keyout", key, "-out", certificate, "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(["openssl", *words.split(), *made], check=True, capture_output=True)
    token.write_text(f"{TOKEN}\n")
    tls = ("--tls-cert", certificate, "--tls-key", key, "--token-file", token)
    with serving(*tls) as service:
        to = ("--family", FAMILY, "--to", service.address, "--rate", "r1", "--tls-ca", certificate)
        assert run("send", photos, *to, "--token-file", token).code == 0
        done = run("send", photos, *to)
        assert done.code == 2
        assert "token" in done.err
