"""Wide ResNet, MobileNetV3, ConvNeXt and a vision transformer, small: cuts, and units to bytes."""

import jax
import numpy as np
import pytest
from small_networks import SMALL

import jaxsplit
from jaxsplit import networks
from jaxsplit.train.losses import Distortion
from jaxsplit.train.step import Phase

SHAPE = (32, 32, 3)
# A cut in the middle of each network, and the arrays that cross it.
CUTS = {
    "wide_resnet": ("stage2.block1", 1),
    "mobilenet_v3": ("stage2.block1", 1),
    "convnext": ("stage2.downsample", 1),
    "vision_transformer": ("block2", 2),
}


@pytest.mark.parametrize("name", SMALL)
def test_head_then_tail_is_the_unsplit_network_at_every_cut(randomised, name):
    """Without jit, each operation is the same program, split or unsplit: bit-identical."""
    module = SMALL[name](num_classes=5)
    network, variables = networks.as_network(module), randomised(module, SHAPE)
    x = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32)
    whole = network(variables, x)
    assert np.ptp(whole, axis=0).min() > 1e-2  # the images do matter
    for cut, shapes in networks.endpoint_shapes(module, SHAPE).items():
        features = network.head(variables, x, cut)
        assert jax.tree.map(lambda leaf: leaf.shape[1:], features) == shapes
        tail = network.tail(variables, features, cut)
        np.testing.assert_array_equal(tail, whole, err_msg=cut)
        # All that crosses is needed: another image's array gives other logits.
        for i, leaf in enumerate(jax.tree.leaves(features)):
            leaves, structure = jax.tree.flatten(features)
            leaves[i] = leaf[::-1]
            changed = network.tail(variables, jax.tree.unflatten(structure, leaves), cut)
            assert np.abs(changed - whole).max() > 1e-3, cut


@pytest.mark.parametrize("name", SMALL)
def test_a_unit_is_trained_and_all_that_crosses_is_in_its_bytes(randomised, name):
    cut, arrays = CUTS[name]
    preprocessing = jaxsplit.Preprocessing(SHAPE[:2], 3, mean=(0.3,), std=(0.35,))
    source = jaxsplit.open_source("embedded", split="test", max_samples=32)
    module = SMALL[name](num_classes=10)
    variables = randomised(module, SHAPE)
    backbone = networks.make_backbone(name, module, variables, preprocessing, source.class_names)
    assert len(jax.tree.leaves(backbone.features_at(cut))) == arrays
    family = jaxsplit.train_family(
        backbone,
        cut,
        {"r1": 1e-4},
        unit=jaxsplit.BottleneckSpec(3, output_activation="none"),
        phases=[Phase(4, Distortion(), "round")],
        progress=False,
        data=source,
        batch_size=16,
    )
    images, _ = jaxsplit.data.load_arrays(source, preprocessing)
    sender, receiver = family.codec(backbone, batch_size=8)
    frames = sender(images[:8], rate="r1")
    symbols = receiver.symbols(frames, "r1")
    np.testing.assert_array_equal(symbols, sender.symbols(images[:8], "r1"))
    split = family.split(backbone, "r1")
    offsets = split.stored_offsets(family["r1"].tables)
    latents = split.dequantize(symbols, offsets)
    assert len(jax.tree.leaves(latents)) == arrays
    features = split.decode(family["r1"].variables, latents)
    expected = split.tail(backbone.variables, features)
    np.testing.assert_allclose(receiver(frames), expected, rtol=1e-4, atol=1e-4)
