"""Published units in our module: against the unit's definition once more, in float64 numpy."""

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from foreign_files import random_tensors, write_folder

from jaxsplit import networks
from jaxsplit.bitstream import EntropyCoder
from jaxsplit.cli import main
from jaxsplit.entropy import tables_from_counts
from jaxsplit.errors import ConfigError, WeightsError
from jaxsplit.family import RateFamily
from jaxsplit.family.spic import NETWORKS, import_families, read_units
from jaxsplit.units import BottleneckSpec, per_tensor
from jaxsplit.units.bottleneck import Bottleneck
from jaxsplit.units.unit_tree import UnitTree
from jaxsplit.weights.formats import read_tensors

PUBLISHED = Path(__file__).parents[2].parent / "shared" / "data" / "spic"
needs_published = pytest.mark.skipif(
    not PUBLISHED.is_dir(), reason="the published units are not in ../shared/data/spic"
)
CUTS = ("S1", "US1", "S2", "US2", "S3")
EVERY = 37  # of so many channels of the features one is checked: the layers don't mix them
# Stride → side of the latent and of the output, at each of the authors' cuts.
_LATE = {2: (4, 7), 4: (2, 7)}
_BRANCH = {6: (11, 65), 8: (8, 65)}
_EARLY = {4: (16, 65), 6: (11, 65)}
SIDES = {
    "classification": {
        "S1": _LATE,
        "US1": _LATE,
        "S2": _LATE,
        "US2": _LATE,
        "S3": {2: (7, 15), 4: (4, 17)},
    },
    "segmentation": {"S1": _BRANCH, "US1": _BRANCH, "S2": _EARLY, "US2": _EARLY, "S3": _EARLY},
}
SITES = [
    (task, cut, stride) for task, cuts in SIDES.items() for cut in cuts for stride in cuts[cut]
]


@pytest.fixture
def folder(tmp_path):
    """Three units of two cuts."""
    sites = NETWORKS["classification"].sites
    write_folder(
        tmp_path,
        "classification",
        {
            name: (stride, 2, random_tensors(sites[name[:2]], stride, 2))
            for name, stride in (("S3-0", 2), ("S3-1", 4), ("S1-0", 2))
        },
    )
    return tmp_path


class Reference:
    """The unit from the definitions of its layers: float64, one position at a time."""

    def __init__(self, tensors, spec):
        self.tensors = {name: np.float64(tensor) for name, tensor in tensors.items()}
        self.spec = spec

    def _normalized(self, x, norm, every=1):
        weight, bias, mean, variance = (
            self.tensors[f"{norm}.{name}"][::every]
            for name in ("weight", "bias", "running_mean", "running_var")
        )
        return np.maximum((x - mean) / np.sqrt(variance + 1e-5) * weight + bias, 0)

    def _taps(self, name):
        return self.tensors[name][:, 0].transpose(1, 2, 0)

    def latent(self, x):
        """Features [N, H, W, Cin] → unrounded latent [N, h, w, C] in steps."""
        p, s = self.spec.padding, self.spec.stride
        x = np.pad(np.float64(x), ((0, 0), (p, p), (p, p), (0, 0)))
        taps = self._taps("conv2_2.weight")
        rows, columns = ((n - 3) // s + 1 for n in x.shape[1:3])
        y = np.empty((len(x), rows, columns, x.shape[-1]))
        for i in range(rows):
            for j in range(columns):
                y[:, i, j] = (x[:, s * i : s * i + 3, s * j : s * j + 3] * taps).sum((1, 2))
        y = self._normalized(y, "bn2_1") @ self.tensors["conv2_3.weight"][:, :, 0, 0].T
        return self._normalized(y, "bn3_1") / self.spec.step

    def features(self, symbols):
        """Symbols [N, h, w, C] → every `EVERY`-th channel of the features [N, H, W, Cin]."""
        s, (k, p) = self.spec.stride, self.spec.decoder_window
        x = np.float64(symbols) * self.spec.step
        matrix = self.tensors["conv2_4.weight"][:, ::EVERY, 0, 0]
        x = self._normalized(x @ matrix, "bn4_1", EVERY)
        taps = self._taps("conv2_5.weight")[..., ::EVERY]
        count, rows, columns, width = x.shape
        y = np.zeros((count, (rows - 1) * s + k, (columns - 1) * s + k, width))
        for i in range(rows):
            for j in range(columns):
                y[:, s * i : s * i + k, s * j : s * j + k] += x[:, i, j, None, None] * taps
        y = y[:, p : y.shape[1] - p, p : y.shape[2] - p]
        return self._normalized(y, "bn5_1", EVERY)


def check_against_definition(unit, site, tensors, features, sides):
    """Ours as Sender and Receiver run it: folded. Returns how many symbols differ, and of how many.

    Sums in another order may move a latent over the edge between two symbols, and only there.
    """
    reference = Reference(tensors, unit.spec)
    spec, variables = unit.spec.fold(unit.variables)
    run = jax.jit(Bottleneck(spec, site.shape).apply, static_argnames="method")
    latent = np.asarray(run(variables, features, method="encode"))
    expected = reference.latent(features)
    assert latent.shape == (len(features), sides[0], sides[0], spec.channels)
    symbols = np.round(expected)
    differs = np.round(latent) != symbols
    edge = np.abs(expected - np.floor(expected) - 0.5)
    assert (edge[differs] < 1e-4).all()
    decoded = np.asarray(run(variables, np.float32(symbols), method="decode"))
    assert decoded.shape == (len(features), sides[1], sides[1], site.shape[-1])
    np.testing.assert_allclose(
        decoded[..., ::EVERY], reference.features(symbols), rtol=0, atol=1e-3
    )
    return int(differs.sum()), differs.size


def random_features(shape, count, seed=0):
    rng = np.random.default_rng(seed)
    return np.maximum(rng.standard_normal((count, *shape), np.float32), 0)


@pytest.mark.parametrize(("task", "cut", "stride"), SITES)
def test_a_unit_computes_what_its_definition_says(tmp_path, task, cut, stride):
    site = NETWORKS[task].sites[cut]
    tensors = random_tensors(site, stride, channels=2)
    write_folder(tmp_path, task, {f"{cut}-0": (stride, 2, tensors)})
    (unit,) = read_units(tmp_path, task)[cut]
    features = random_features(site.shape, 1)
    sides = SIDES[task][cut][stride]
    wrong, _ = check_against_definition(unit, site, tensors, features, sides)
    assert wrong <= 1
    latent = Reference(tensors, unit.spec).latent(features)
    assert len(np.unique(np.round(latent))) > 3  # the test can fail


@needs_published
@pytest.mark.parametrize("task", NETWORKS)
@pytest.mark.parametrize("cut", CUTS)
def test_the_published_units_compute_what_their_definition_says(task, cut):
    index = json.loads((PUBLISHED / f"{task}.json").read_text())
    site = NETWORKS[task].sites[cut]
    features = random_features(site.shape, 4 if task == "classification" else 1)
    units = read_units(PUBLISHED, task, cut)[cut]
    counts = []
    for unit in units:
        tensors = read_tensors(PUBLISHED / index[unit.rate_id]["weights"])
        sides = SIDES[task][cut][unit.spec.stride]
        counts.append(check_against_definition(unit, site, tensors, features, sides))
    wrong, symbols = np.sum(counts, axis=0)
    assert wrong <= 1e-4 * symbols + 1


@needs_published
@pytest.mark.parametrize(("task", "count"), [("classification", 30), ("segmentation", 31)])
def test_all_published_units_are_read_and_become_families_where_they_code_all(task, count):
    units = read_units(PUBLISHED, task)
    assert set(units) == set(CUTS)
    assert sum(map(len, units.values())) == count
    index = json.loads((PUBLISHED / f"{task}.json").read_text())
    assert {rate.rate_id for rates in units.values() for rate in rates} == set(index)
    partial = {"S1", "US1"} if task == "segmentation" else set()
    assert set(import_families(PUBLISHED, task)) == set(CUTS) - partial
    for rates in units.values():
        for rate in rates:
            # The table charges what the authors' own symbols hold; their weights are floats.
            weights = np.array(list(index[rate.rate_id]["symbol_counts"].values()))
            symbols = np.array([int(s) for s in index[rate.rate_id]["symbol_counts"]])
            p = weights / weights.sum()
            charged = p @ rate.tables.entry_bits[0][symbols - rate.tables.minima[0]]
            assert charged <= 1.001 * -(p @ np.log2(p))


def test_units_become_families_of_their_cuts(folder):
    families = import_families(folder)
    assert list(families) == ["S3", "S1"]
    assert [rate.rate_id for rate in families["S3"].rates] == ["S3-0", "S3-1"]
    assert families["S3"].cut == "stage3.block5"
    assert families["S1"].cut == "stage4.block3"
    for family in families.values():
        assert (family.backbone, family.backbone_fingerprint) == ("resnet50", None)
        assert family.preprocessing.input_shape == (224, 224, 3)
        for rate in family.rates:
            assert rate.tables == tables_from_counts({0: 900, 1: 90, 4: 10}, channels=2)
            assert not rate.tables.offsets.any()
    assert import_families(folder, cut="S1")["S1"].fingerprint == families["S1"].fingerprint
    assert list(import_families(folder, cut="S3")) == ["S3"]


def test_an_imported_family_is_saved_without_a_prior_and_codes_what_it_coded(folder, tmp_path):
    family = import_families(folder, cut="S3")["S3"]
    family.save(tmp_path / "family")
    loaded = RateFamily.load(tmp_path / "family")
    assert loaded.fingerprint == family.fingerprint
    site = NETWORKS["classification"].sites["S3"]
    features = random_features(site.shape, 2)
    for rate in loaded.rates:
        assert set(rate.variables["params"]) == {"encoder", "decoder"}
        assert set(rate.variables["batch_stats"]) == {"encoder", "decoder"}
        unit = Bottleneck(rate.spec, site.shape)
        symbols = np.round(unit.apply(rate.variables, features, method="encode")).astype(np.int32)
        assert symbols.min() >= 0
        assert symbols.max() > rate.tables.maxima[0]  # some are escaped
        coder = EntropyCoder(rate.tables)
        for one in symbols:
            np.testing.assert_array_equal(coder.decode(coder.encode(one), one.shape[:2]), one)


@pytest.mark.parametrize("task", NETWORKS)
def test_the_cuts_are_where_the_authors_had_theirs(task):
    network = NETWORKS[task]
    shapes = networks.cuts(network.backbone, network.preprocessing.input_shape)
    for site in network.sites.values():
        features = shapes[site.cut] if site.leaf is None else shapes[site.cut][site.leaf]
        assert features == site.shape


def test_units_of_one_branch_are_no_family(tmp_path, capsys):
    """The other four branches bypass them: bytes are never counted for a part alone."""
    sites = NETWORKS["segmentation"].sites
    units = {
        name: (stride, 2, random_tensors(sites[name[:-2]], stride, 2))
        for name, stride in (("S1-0", 6), ("US1-0", 8), ("S3-0", 4))
    }
    write_folder(tmp_path, "segmentation", units)
    assert list(import_families(tmp_path, "segmentation")) == ["S3"]
    assert list(read_units(tmp_path, "segmentation")) == ["S1", "US1", "S3"]
    for cut in ("S1", "US1"):
        with pytest.raises(ConfigError, match=f"^{cut} codes branch1 alone; what else crosses"):
            import_families(tmp_path, "segmentation", cut)
    words = ["import", "spic", str(tmp_path), "-o", str(tmp_path / "out")]
    assert main([*words, "--task", "segmentation", "--cut", "S1"]) == 2
    assert "import S2, US2 or S3" in capsys.readouterr().err
    module = networks.create("deeplabv3_resnet50", 21)
    features = networks.as_network(module).feature_shapes({}, (513, 513, 3))[sites["S1"].cut]
    (unit,) = read_units(tmp_path, "segmentation", "S1")["S1"]
    with pytest.raises(ConfigError, match="branch0"):
        UnitTree.at(features, per_tensor({"branch1": unit.spec}))
    others = {name: BottleneckSpec(2) for name in features if name != "branch1"}
    assert len(UnitTree.at(features, per_tensor({"branch1": unit.spec, **others})).tensors) == 5


@pytest.mark.parametrize(
    ("task", "cut", "match"),
    [
        ("detection", None, "no units were published for 'detection'"),
        ("segmentation", "S4", "no cut 'S4'"),
    ],
)
def test_unknown_tasks_and_cuts_are_refused(folder, task, cut, match):
    with pytest.raises(ConfigError, match=match):
        import_families(folder, task, cut)


def refused(folder, match, cut=None):
    """One WeightsError, on one line."""
    with pytest.raises(WeightsError, match=match) as error:
        import_families(folder, cut=cut)
    assert str(error.value).isprintable()
    return str(error.value)


def test_all_wrong_tensors_are_listed_at_once(folder):
    with np.load(folder / "S3-1.npz") as file:
        tensors = dict(file)
    del tensors["bn4_1.bias"]
    del tensors["bn5_1.running_var"]
    tensors["conv2_5.weight"] = tensors["conv2_5.weight"][:, :, :3, :3]
    tensors["conv2_5.bias"] = np.zeros(1024, np.float32)
    np.savez(folder / "S3-1.npz", **tensors)
    message = refused(folder, "S3-1.npz does not hold the unit's tensors")
    assert message.endswith(
        "; missing: 'bn4_1.bias', 'bn5_1.running_var'; unused: 'conv2_5.bias'; "
        "of another shape: 'conv2_5.weight' is (1024, 1, 3, 3), expected (1024, 1, 5, 5)"
    )
    np.savez(folder / "S3-1.npz", **{f"\x1b{i}" * 100: np.zeros(1) for i in range(1000)})
    message = refused(folder, r"missing: .*; unused: '\\x1b0\\x1b0.*… and \d+ more")
    assert len(message) < 2000


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("conv2_3.weight", np.full((2, 1024, 1, 1), np.nan), "not finite in float32"),
        ("conv2_3.weight", np.full((2, 1024, 1, 1), 1e300), "not finite in float32"),
        ("bn3_1.running_var", np.array([1.0, -0.5]), "negative variances"),
        ("bn3_1.weight", np.array([1, 2]), "not floating point"),
    ],
)
def test_values_that_compute_nothing_are_refused(folder, name, value, said):
    with np.load(folder / "S3-1.npz") as file:
        tensors = dict(file)
    np.savez(folder / "S3-1.npz", **{**tensors, name: value})
    refused(folder, f"S3-1.npz has no usable weights: .*{said}: '{name}'")


def test_missing_files_are_named(folder):
    (folder / "S3-0.npz").unlink()
    refused(folder, "S3-0.npz")
    assert len(import_families(folder, cut="S1")["S1"].rates) == 1  # of another cut
    (folder / "classification.json").unlink()
    refused(folder, "no published units at .*: classification.json is missing")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "3", '{"S3-0": 3}', "\xff", "[" * 10**6])
def test_a_damaged_index_is_one_clear_error(folder, text):
    (folder / "classification.json").write_bytes(text.encode("latin-1"))
    refused(folder, "classification.json")


def test_no_units_of_a_cut_is_an_error(folder):
    refused(folder, "describes no units of US1", cut="US1")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"stride": 3}, r"stride 3 is none of \[2, 4\]"),
        ({"stride": "2"}, "S3-0"),
        ({"stride": None}, "'stride' is missing"),
        ({"channels": 0}, "must be positive"),
        ({"channels": 2.5}, "S3-0"),
        ({"channels": 10**10}, r"'conv2_3.weight' is \(2, 1024, 1, 1\), expected \(10000000000,"),
        ({"channels": 10**25}, "the number 1000.* is out of range"),
        ({"channels": 3}, r"'conv2_3.weight' is \(2, 1024, 1, 1\), expected \(3, 1024, 1, 1\)"),
        ({"step": 0}, "must be positive"),
        ({"step": float("nan")}, "the number NaN is out of range"),
        ({"step": [1]}, "S3-0"),
        ({"step": 10**400}, "the number 1000.* is out of range"),
        ({"symbol_counts": None}, "'symbol_counts' is missing"),
        ({"symbol_counts": {}}, "symbol counts must be 0 … 1e"),
        ({"symbol_counts": {"9" * 25: 1}}, "symbols must be int32"),
        ({"symbol_counts": {"9" * 5000: 1}}, "S3-0"),
        ({"symbol_counts": {"1": 10**400}}, "the number 1000.* is out of range"),
        ({"symbol_counts": {"a": 1}}, "'a'"),
        ({"symbol_counts": [1, 2]}, "S3-0"),
        ({"weights": 3}, "S3-0"),
        ({"weights": "gone.pth"}, "gone.pth"),
        ({"weights": "a\0b"}, "is not the name of a file"),
        ({"weights": "\x1b[2J"}, "is not the name of a file"),
        ({"weights": "../S3-0.npz"}, "is not the name of a file in the folder"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_entry_that_describes_no_unit_is_refused(folder, change, match):
    index = json.loads((folder / "classification.json").read_text())
    entry = {**index["S3-0"], **change}
    index["S3-0"] = {key: value for key, value in entry.items() if value is not None}
    (folder / "classification.json").write_text(json.dumps(index))
    refused(folder, match, cut="S3")


@pytest.mark.parametrize("name", ["S4-0", "S3-0/../x", "-", "S3-\x1b[2J", "S3-\n"])
def test_a_name_that_makes_no_rate_is_refused(folder, name):
    index = json.loads((folder / "classification.json").read_text())
    index[name] = index["S3-0"]
    (folder / "classification.json").write_text(json.dumps(index))
    refused(folder, "as a published unit")


def test_the_command_writes_families(folder, tmp_path, capsys):
    out = tmp_path / "families"
    assert main(["import", "spic", str(folder), "-o", str(out)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"S3: 2 rates at stage3.block5 of resnet50: {out / 'S3'}",
        f"S1: 1 rates at stage4.block3 of resnet50: {out / 'S1'}",
    ]
    expected = import_families(folder)
    for cut, family in expected.items():
        assert RateFamily.load(out / cut).fingerprint == family.fingerprint
    assert main(["import", "spic", str(folder), "-o", str(out / "one"), "--cut", "S3"]) == 0
    assert RateFamily.load(out / "one").fingerprint == expected["S3"].fingerprint
    capsys.readouterr()
    assert main(["info", str(out / "one")]) == 0
    shown = capsys.readouterr().out
    assert "  not measured\n" in shown
    assert re.search(r"^  S3-0 +unknown", shown, re.MULTILINE)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--cut", "S4"], "no cut 'S4'"),
        (["--task", "segmentation"], "segmentation.json is missing"),
        (["--fit-on", "embedded"], "give both or neither"),
        (["--weights", "w.pth"], "give both or neither"),
        (["--fit-on", "embedded", "--weights", "none.pth"], "none.pth"),
        (["--task", "detection"], "is none of classification, segmentation"),
    ],
)
def test_wrong_words_are_one_line(folder, tmp_path, capsys, words, said):
    assert main(["import", "spic", str(folder), "-o", str(tmp_path / "out"), *words]) == 2
    message = capsys.readouterr().err
    assert said in message
    assert message.count("\n") == 1
    assert not (tmp_path / "out").exists()
