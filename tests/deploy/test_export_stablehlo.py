"""Both halves as StableHLO: loaded, they give what sender and receiver give."""

import jax
import numpy as np
import pytest
from jax import export

from jaxsplit import data
from jaxsplit.cli import main
from jaxsplit.deploy.export_stablehlo import DEVICE, SERVER, export_stablehlo
from jaxsplit.errors import ConfigError
from jaxsplit.family import Levels, RateFamily
from jaxsplit.family.pretrained import load_pretrained
from jaxsplit.split import make_split
from jaxsplit.units import BottleneckSpec, VariableRate

NAME = "resnet8_small-fashion_mnist/stage1.block1"


def halves(folder):
    read = ((folder / name).read_bytes() for name in (DEVICE, SERVER))
    return [export.deserialize(bytearray(content)) for content in read]


@pytest.fixture(scope="module")
def images():
    source = data.open_source("embedded", split="test", max_samples=6)
    return data.load_arrays(source, data.Preprocessing((28, 28), 1))[0]


def test_halves_are_loaded_and_run(images, tmp_path, capsys):
    words = ["export", "--family", NAME, "--rates", "r2,r4", "--format", "stablehlo"]
    assert main([*words, "-o", str(tmp_path)]) == 0
    assert "device 0." in capsys.readouterr().out
    device, server = halves(tmp_path)
    sender, receiver = load_pretrained(NAME).codec()
    for index, rate in enumerate(("r2", "r4")):
        symbols = np.asarray(device.call(images, np.int32(index)))
        assert (symbols != sender.symbols(images, rate)).mean() <= 1e-3
        outputs = server.call(symbols, np.int32(index))
        np.testing.assert_allclose(outputs, receiver.predict(symbols, rate), rtol=1e-3, atol=1e-3)


def test_levels_are_inputs(images, tmp_path):
    backbone = load_pretrained(NAME).backbone_of()
    spec = VariableRate(BottleneckSpec(channels=6), (1e-5, 1e-2))
    split = make_split(backbone, "stage1.block1", spec)
    known = Levels.of_prior(spec, jax.device_get(split.init(jax.random.key(0))), count=8)
    family = RateFamily(
        backbone=backbone.name,
        backbone_fingerprint=backbone.fingerprint,
        weights=None,
        preprocessing=backbone.preprocessing,
        cut="stage1.block1",
        rates=(known.named(0, "low"),),
        bound=backbone,
        levels=known,
    )
    export_stablehlo(family, tmp_path)
    device, server = halves(tmp_path)
    sender, receiver = family.codec()
    levels = np.array([0, 7, 3, 3, 1, 6], np.int32)
    symbols = np.asarray(device.call(images, levels))
    expected = [
        sender.symbols(x[None], f"level{k}")[0] for x, k in zip(images, levels, strict=True)
    ]
    assert (symbols != np.array(expected)).mean() <= 1e-3
    outputs = server.call(symbols, levels)
    ours = [receiver.predict(x[None], f"level{k}")[0] for x, k in zip(symbols, levels, strict=True)]
    np.testing.assert_allclose(outputs, np.array(ours), rtol=1e-3, atol=1e-3)
    with pytest.raises(ConfigError, match="levels share one unit"):
        export_stablehlo(family, tmp_path, ["low"])
