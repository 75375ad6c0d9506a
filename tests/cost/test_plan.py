"""Every cut of a network: against the published table, and against counts cut by cut."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from small_networks import SMALL

from jaxsplit import networks
from jaxsplit.cost import count_macs, count_params, make_plan, plan_unit, split_cost
from jaxsplit.data import Preprocessing
from jaxsplit.errors import ConfigError
from jaxsplit.split import make_split
from jaxsplit.units.bottleneck import Bottleneck, BottleneckSpec


@pytest.fixture(scope="module")
def resnet50():
    """The plan with its whole grid, and how many programs were traced for it."""
    traces, trace = [], jax.make_jaxpr
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "make_jaxpr", lambda *a, **k: traces.append(a) or trace(*a, **k))
        plan = make_plan(networks.create("resnet50", 1000), (224, 224, 3), name="resnet50")
    return plan, len(traces)


def test_nothing_is_traced_twice(resnet50):
    """Two programs for each segment, and two for each unit, whatever cuts have such features."""
    plan, traces = resnet50
    assert len(plan.cuts) == 17
    assert sum(len(cut.units) for cut in plan.cuts) == 325
    units = {(cut.feature_shape, unit.spec) for cut in plan.cuts for unit in cut.units}
    assert traces <= 2 * (len(plan.cuts) + 1) + 2 * len(units)


# MMAC of head, encoder, decoder and tail as the paper's units have them (C = 64, stride 2), to the
# digits that are known; S3's reconstruction is not cropped, so its tail sees 15 × 15.
PUBLISHED = {
    "stage4.block3": (4087, 2.39, 2.39, 2.0),
    "stage4.block1": (3650, 2.39, 2.39, 439),
    "stage3.block5": (3060, 3.66, 3.66, 1293),
}
PARAMS = {"stage4.block3": (153_728, 157_696), "stage3.block5": (76_928, 78_848)}


@pytest.mark.parametrize("cut", PUBLISHED)
def test_the_published_table_comes_out(resnet50, cut):
    uncropped = {"decoder_padding": 0, "crop": False} if cut == "stage3.block5" else {}
    module = networks.create("resnet50", 1000)
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), image)
    variables = jax.eval_shape(lambda x: networks.fold_normalization(x, module.epsilon), variables)
    module, names = module.clone(folded=True), ("",) * 1000
    backbone = networks.Backbone(
        "resnet50", module, variables, Preprocessing((224, 224)), names, "", {}
    )
    cost = split_cost(make_split(backbone, cut, BottleneckSpec(64, **uncropped)), backbone)
    found = (cost.head, cost.encoder, cost.decoder, cost.tail)
    for macs, published in zip(found, PUBLISHED[cut], strict=True):
        half_a_digit = 0.05 if published < 3 else 0
        assert macs / 1e6 == pytest.approx(published, rel=0.01, abs=half_a_digit)
    planned = resnet50[0][cut]
    assert planned.device_macs == cost.head
    (unit,) = (u for u in planned.units if (u.spec.channels, u.spec.stride) == (64, 2))
    assert (unit.encoder_macs, unit.decoder_macs) == (cost.encoder, cost.decoder)
    if not uncropped:
        assert planned.server_macs == cost.tail
    if cut in PARAMS:
        assert (unit.encoder_params, unit.decoder_params) == PARAMS[cut]


def test_published_parameters(resnet50):
    assert resnet50[0].params == 25_557_032


def test_segments_add_up_to_every_head_and_tail():
    module, image = networks.create("resnet8_small", 10), jnp.zeros((1, 20, 28, 1))
    variables = jax.eval_shape(module.init, jax.random.key(0), image)
    plan = make_plan(module, (20, 28, 1))
    folded = jax.eval_shape(lambda x: networks.fold_normalization(x, module.epsilon), variables)
    plain = module.clone(folded=True)
    for cut in plan.cuts:
        features = jax.ShapeDtypeStruct((1, *cut.feature_shape), jnp.float32)
        ends = [({"stop": cut.cut}, image), ({"start": cut.cut}, features)]
        for (part, x), side in zip(ends, ("device", "server"), strict=True):
            macs = count_macs(lambda v, x, part=part: plain.apply(v, x, **part), folded, x)
            params = count_params(lambda v, x, part=part: module.apply(v, x, **part), variables, x)
            assert macs == getattr(cut, f"{side}_macs")
            assert params == getattr(cut, f"{side}_params")
        assert cut.device_macs + cut.server_macs == plan.macs
    assert [cut.feature_shape for cut in plan.cuts] == list(
        networks.endpoint_shapes(module, (20, 28, 1)).values()
    )
    peaks = [cut.device_peak_bytes for cut in plan.cuts]
    assert peaks == sorted(peaks)


def test_the_grid_holds_what_fits_and_a_cut_s_unit_is_near_in_size():
    plan = make_plan(
        networks.create("resnet8_small", 10), (28, 28, 1), channels=(8, 40), strides=(2, 8)
    )
    forms = {
        cut.cut: [(unit.spec.channels, unit.spec.stride) for unit in cut.units] for cut in plan.cuts
    }
    assert forms["stage1.block1"] == [(8, 2), (8, 8)]  # 40 channels are more than the features'
    assert forms["stage3.block1"] == [(8, 2), (40, 2)]  # 7 × 7 is too small for 8 × 8
    cut = plan["stage3.block1"]
    assert cut.unit_of(8 * 16).spec.channels == 8
    assert cut.unit_of(40 * 16).spec.channels == 40
    none = make_plan(networks.create("resnet8_small", 10), (28, 28, 1), channels=(99,))
    assert none["stem"].unit_of() is None


def test_what_a_unit_stores_is_what_a_fresh_one_has():
    spec, shape = BottleneckSpec(6, 2, multiplier=2, decoder_multiplier=3), (9, 9, 5)
    made = jax.eval_shape(Bottleneck(spec, shape).init, jax.random.key(0), jnp.zeros((1, *shape)))
    planned = plan_unit(spec, shape)
    assert planned.stored_bytes == 4 * sum(leaf.size for leaf in jax.tree.leaves(made))
    for part in ("encoder", "decoder"):
        size = sum(leaf.size for leaf in jax.tree.leaves(made["params"][part]))
        assert size == getattr(planned, f"{part}_params")
    assert planned.latent_shape == (5, 5, 6)
    with pytest.raises(ConfigError, match="too small"):
        plan_unit(BottleneckSpec(6, 8, 8, 0), (7, 7, 5))


def test_units_of_several_arrays_cost_what_a_split_counts():
    module, shape = SMALL["vision_transformer"](num_classes=10), (32, 32, 3)
    plan = make_plan(module, shape, channels=(4, 16), strides=(1, 2, 4), progress=False)
    cut = plan["block2"]
    assert cut.feature_shape == (17 * 12,)  # 4 × 4 patches and a token, of 12 channels
    # 16 channels are more than the features', and the token is too small for 4 × 4.
    assert [(unit.spec.channels, unit.spec.stride) for unit in cut.units] == [(4, 1), (4, 2)]
    unit = cut.units[1]
    assert unit.latent_shape == (1, 1, 4 * (4 + 1))
    variables = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, *shape)))
    known = Preprocessing(shape[:2]), ("",) * 10, "", {}
    backbone = networks.Backbone("own", module, variables, *known)
    split = make_split(backbone, "block2", unit.spec)
    cost = split_cost(split, backbone)
    assert (unit.encoder_macs, unit.decoder_macs) == (cost.encoder, cost.decoder)
    assert (cut.device_macs, cut.server_macs) == (cost.head, cost.tail)
    made = jax.eval_shape(split.init, jax.random.key(0))
    assert unit.stored_bytes == 4 * sum(leaf.size for leaf in jax.tree.leaves(made))


class Tied(nn.Module):
    """Someone's own network, without batch normalization; its two blocks share their weights."""

    def endpoints(self):
        return ("first", "second", "logits")

    @nn.compact
    def __call__(self, x, *, start=None, stop=None):
        block, names = nn.Conv(3, (3, 3)), self.endpoints()
        names = names[0 if start is None else names.index(start) + 1 :]
        for name in names:
            x = nn.Dense(7)(x.mean((1, 2))) if name == "logits" else nn.relu(block(x))
            if name == stop:
                return x
        return x


def test_any_network_with_endpoints_is_planned():
    plan = make_plan(Tied(), (10, 12, 3))
    block, dense = 9 * 3 * 3 + 3, 3 * 7 + 7
    assert (plan.name, plan.params) == ("Tied", block + dense)
    first, second = plan.cuts
    assert first.device_macs == 10 * 12 * 9 * 3 * 3
    assert second.device_macs == 2 * first.device_macs
    assert (first.device_params, first.server_params) == (block, block + dense)


def test_several_arrays_cross_a_cut_of_functions():
    def head(variables, images, cut):
        return {"low": images[:, ::2, ::2], "mean": images.mean(axis=(1, 2))}

    def tail(variables, features, cut):
        return features["mean"] @ variables["w"] + features["low"].mean()

    network = networks.FunctionNetwork(head, tail, ("middle",))
    plan = make_plan(network, (8, 8, 3), {"w": jnp.ones((3, 10))})
    (cut,) = plan.cuts
    assert (plan.macs, plan.params) == (cut.server_macs, cut.server_params) == (30, 30)
    assert (cut.feature_shape, cut.units) == ((4 * 4 * 3 + 3,), ())
    assert cut.device_peak_bytes == 4 * (8 * 8 * 3 + 4 * 4 * 3 + 3)  # the image and both arrays


def test_images_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="all positive"):
        make_plan(Tied(), (8, 3))
    with pytest.raises(ConfigError, match="takes no images"):
        make_plan(networks.create("resnet8_small", 10), (28, 28, 1), {"params": {}})
    with pytest.raises(ConfigError, match="has no cut 'stage9'"):
        make_plan(Tied(), (8, 8, 3))["stage9"]


def test_a_plan_is_shown_with_its_cuts_and_counted_with_progress(capsys):
    told = []
    network = networks.create("resnet8_small", 10)
    shape, log = (28, 28, 1), lambda *one: told.append(one)
    plan = make_plan(network, shape, channels=(), strides=(), log=log)
    head, columns, *rows = repr(plan).splitlines()
    assert "4 cuts" in head
    assert columns.split("  ")[-1] == "device params"
    assert [row.split()[:2] for row in rows][:1] == [["stem", "28×28×16"]]
    assert [row.split()[0] for row in rows] == [cut.cut for cut in plan.cuts]
    assert [(done, total) for _, done, total, _ in told] == [(i, 5) for i in range(5)]
    assert capsys.readouterr().err == ""
