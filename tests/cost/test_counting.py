"""Counted multiply-accumulates against counts by hand."""

import functools

import jax
import jax.numpy as jnp
import pytest

from jaxsplit import networks, ops
from jaxsplit.cost import SplitCost, count_macs, count_params, split_cost
from jaxsplit.cost.counting import inference_form
from jaxsplit.data import Preprocessing
from jaxsplit.ops import depthwise_conv, depthwise_conv_transpose, round_straight_through
from jaxsplit.split import make_split
from jaxsplit.units.bottleneck import BottleneckSpec


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


@pytest.mark.parametrize(
    ("function", "shapes", "expected"),
    [
        (jnp.matmul, [(4, 5), (5, 6)], 4 * 5 * 6),
        (jnp.matmul, [(7, 4, 5), (7, 5, 6)], 7 * 4 * 5 * 6),
        (functools.partial(jnp.einsum, "bij,bik->bjk"), [(3, 4, 5), (3, 4, 6)], 3 * 4 * 5 * 6),
        (functools.partial(jnp.einsum, "abc,bcd->ad"), [(2, 3, 4), (3, 4, 5)], 2 * 3 * 4 * 5),
        (jnp.vdot, [(9,), (9,)], 9),
        (jnp.multiply, [(3, 4), (3, 4)], 12),
        (jnp.add, [(3, 4), (3, 4)], 0),
    ],
)
def test_products(function, shapes, expected):
    assert count_macs(function, *(shape(*sizes) for sizes in shapes)) == expected


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("layout", ["HWIO", "OIHW"])
def test_convolutions_count_by_their_groups(groups, layout):
    size = {"H": 3, "W": 5, "I": 4 // groups, "O": 8}
    kernel = shape(*(size[axis] for axis in layout))

    def conv(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (2, 1),
            "VALID",
            dimension_numbers=("NHWC", layout, "NHWC"),
            feature_group_count=groups,
        )

    macs_per_output = 3 * 5 * 4 // groups
    assert count_macs(conv, shape(2, 9, 8, 4), kernel) == 2 * 4 * 4 * 8 * macs_per_output


@pytest.mark.parametrize(("multiplier", "stride"), [(1, 1), (1, 2), (3, 2)])
def test_shifted_multiply_adds_count_as_the_convolution_they_are(multiplier, stride):
    run = functools.partial(depthwise_conv, stride=stride, padding=1)
    side = (8 + 2 - 3) // stride + 1
    macs = count_macs(run, shape(2, 8, 8, 5), shape(3, 3, 5, multiplier))
    assert macs == 2 * side * side * 5 * multiplier * 9


@pytest.mark.parametrize(("kernel", "stride", "multiplier"), [(3, 2, 1), (4, 4, 1), (3, 2, 4)])
def test_in_a_transposed_convolution_every_input_meets_every_weight(kernel, stride, multiplier):
    """Whatever the form it runs in multiplies by zeros, and whatever is cut off."""
    size = (4 * stride, 4 * stride)
    run = functools.partial(depthwise_conv_transpose, stride=stride, padding=1, size=size)
    macs = count_macs(run, shape(2, 4, 4, 5 * multiplier), shape(kernel, kernel, 5, multiplier))
    assert macs == 2 * 4 * 4 * 5 * multiplier * kernel**2

    def dense(x, w):
        return jax.lax.conv_transpose(x, w, (2, 2), "VALID")

    # Flax's own: the zeros between its inputs are no products, the outputs count.
    assert count_macs(dense, shape(1, 4, 4, 3), shape(2, 2, 3, 7)) == 8 * 8 * 3 * 7


def test_what_is_inside_a_call_or_a_loop_counts():
    x, w = shape(4, 4), shape(4, 4)
    one = 4 * 4 * 4
    assert count_macs(jax.jit(jnp.matmul), x, w) == one
    assert count_macs(jax.jit(lambda x, w: jax.jit(jnp.matmul)(x @ w, w)), x, w) == 2 * one
    assert count_macs(jax.checkpoint(lambda x, w: x @ w), x, w) == one
    assert count_macs(lambda x, w: round_straight_through(x @ w), x, w) == one

    def loop(x, w):
        def body(x, _):
            y, _ = jax.lax.scan(lambda y, _: (y @ w, None), x, length=3)
            return y, None

        return jax.lax.scan(body, x, length=5)[0]

    assert count_macs(loop, x, w) == 15 * one

    @jax.custom_vjp
    def product(x, w):
        return x @ w

    product.defvjp(lambda x, w: (x @ w, (x, w)), lambda saved, g: (g @ saved[1].T, saved[0].T @ g))
    assert count_macs(product, x, w) == one
    batched = jax.vmap(product, in_axes=(0, None))
    assert count_macs(batched, shape(6, 4, 4), w) == 6 * one


@pytest.fixture(scope="module")
def backbone():
    preprocessing = Preprocessing((28, 28), channels=1)
    module = networks.create("resnet8_small", 10)
    image = jnp.zeros((1, 28, 28, 1))
    variables = jax.eval_shape(lambda: module.init(jax.random.key(0), image))
    names = tuple("0123456789")
    return networks.Backbone("resnet8_small", module, variables, preprocessing, names, "", {})


SPEC = BottleneckSpec(12, stride=4, kernel=4, padding=0)


def test_the_cost_of_a_cut_is_the_count_by_hand(backbone):
    """28×28×1 through ResNet-8, cut after its first stage, with a 4×4 stride-4 unit of C = 12."""
    cost = split_cost(make_split(backbone, "stage1.block1", SPEC), backbone)
    pixels = 28 * 28

    stem = pixels * 9 * 1 * 16
    stage1 = 2 * pixels * 9 * 16 * 16
    assert cost.head == stem + stage1  # normalization is folded, the network's and the unit's
    assert (stem, stage1) == (112_896, 3_612_672)

    stage2 = 14 * 14 * 9 * (16 * 32 + 32 * 32)
    stage3 = 7 * 7 * 9 * (32 * 64 + 64 * 64)
    assert cost.tail == stage2 + stage3 + 64 * 10

    # What remains beside the unit's convolutions is the step, a product of the decoder's with the
    # latent.
    assert cost.encoder == 7 * 7 * (4 * 4 * 16 + 16 * 12)
    assert cost.decoder == 7 * 7 * (12 * 16 + 4 * 4 * 16) + 7 * 7 * 12
    assert cost.device_share == pytest.approx(
        (cost.head + cost.encoder) / (cost.head + cost.tail), rel=1e-12
    )
    assert 0.38 < cost.device_share < 0.45


def test_every_cut_shares_out_the_same_network(backbone):
    totals, heads = set(), []
    for cut in networks.cuts("resnet8_small", (28, 28, 1)):
        cost = split_cost(make_split(backbone, cut, SPEC), backbone)
        totals.add(cost.head + cost.tail)
        heads.append(cost.head)
    assert len(totals) == 1
    assert heads == sorted(set(heads))
    network, variables = inference_form(backbone.network, backbone.variables)
    assert totals == {count_macs(network, variables, shape(1, 28, 28, 1))}


def test_batch_normalization_of_the_unit_is_free(backbone):
    with_norm, without = (
        split_cost(
            make_split(backbone, "stage1.block1", BottleneckSpec(12, batch_norm=norm)), backbone
        )
        for norm in (True, False)
    )
    assert with_norm == without


def test_the_share_of_the_device_is_of_the_uncut_network():
    cost = SplitCost(30, 10, 1000, 70, 5, 2, 3, 7)
    assert cost.device_share == 0.4
    assert (cost.device_macs, cost.server_macs) == (40, 1070)
    assert (cost.device_params, cost.server_params) == (7, 10)


def _backbone(name, input_shape):
    preprocessing = Preprocessing(input_shape[:2], channels=input_shape[2])
    module, image = networks.create(name, 10), jnp.zeros((1, *input_shape))
    variables = jax.eval_shape(lambda: module.init(jax.random.key(0), image))
    names = tuple("0123456789")
    return networks.Backbone(name, module, variables, preprocessing, names, "", {})


@pytest.mark.parametrize(
    ("name", "input_shape", "cut"),
    [
        ("resnet8_small", (28, 28, 1), "stage2.block1"),
        ("efficientnet_lite0", (64, 64, 3), "stage4.block2"),
    ],
)
def test_head_and_tail_share_out_the_parameters_of_the_network(name, input_shape, cut):
    network = _backbone(name, input_shape)
    cost = split_cost(make_split(network, cut, SPEC), network)
    sizes = [leaf.size for leaf in jax.tree.leaves(network.variables["params"])]
    assert cost.head_params + cost.tail_params == sum(sizes)
    assert min(cost.head_params, cost.tail_params) > 0.05 * sum(sizes)
    # Depthwise 4 × 4, pointwise to C = 12 and back, and a bias after each of the four.
    channels = networks.cuts(name, input_shape)[cut][2]
    assert cost.encoder_params == 16 * channels + channels + channels * 12 + 12
    assert cost.decoder_params == 12 * channels + channels + 16 * channels + channels


def test_parameters_of_the_head_grow_cut_by_cut(backbone):
    heads = []
    for cut in networks.cuts("resnet8_small", (28, 28, 1)):
        cost = split_cost(make_split(backbone, cut, SPEC), backbone)
        heads.append(cost.head_params)
    assert heads == sorted(set(heads))
    # The stem and two convolutions, each with a scale and a bias for 16 channels.
    assert 9 * 16 + 2 * 9 * 16 * 16 + 3 * 2 * 16 in heads


def test_what_does_not_reach_the_result_is_no_parameter():
    variables = {
        "params": {"a": shape(2), "b": shape(3), "c": shape(5), "d": shape(7)},
        "batch_stats": {"mean": shape(11)},
    }

    @jax.jit
    def inner(params, x):
        return params["a"] * x, params["b"] * x.sum()

    def function(variables, x):
        # All of `params` goes into the call; only its first result is used.
        y, _ = inner(variables["params"], x)
        variables["params"]["c"].sum()
        return y + variables["batch_stats"]["mean"].sum()

    assert count_params(function, variables, shape(2)) == 2
    assert count_params(lambda v, x: v["params"]["d"], variables, shape(2)) == 7
    assert count_params(lambda v, x: 1.0, variables, shape(2)) == 0


def test_a_known_network_has_its_known_parameters():
    """EfficientNet-Lite0's 4,652,008, as published."""
    module = networks.create("efficientnet_lite0", 1000)
    image = jnp.zeros((1, 64, 64, 3))
    variables = jax.eval_shape(lambda: module.init(jax.random.key(0), image))
    assert count_params(module.apply, variables, image) == 4_652_008


@pytest.mark.parametrize("batch", [1, 8])  # with 8, CPUs take a form that multiplies less
def test_a_convolution_counts_the_same_in_whichever_form_it_runs(batch):
    x, kernel = jnp.zeros((batch, 14, 14, 256)), jnp.zeros((3, 3, 256, 256))
    expected = batch * 14 * 14 * 9 * 256 * 256
    assert count_macs(lambda x: ops.conv(x, kernel, padding=1), x) == expected


def test_one_branch_of_a_condition_counts():
    x = jnp.zeros((4, 4))
    branches = (lambda x: x @ x @ x, lambda x: x @ x)
    assert count_macs(lambda x: jax.lax.cond(x.sum() > 0, *branches, x), x) == 2 * 4**3
