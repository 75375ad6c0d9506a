"""Batches of constant size: no image is lost or added, nothing is compiled twice."""

import jax
import numpy as np
import pytest

from jaxsplit import networks
from jaxsplit.networks.inference import batch_size, in_batches


@pytest.mark.parametrize("count", [0, 1, 3, 4, 8, 9])
def test_batches_of_one_size_cover_everything_in_order(count):
    array = np.arange(count * 6, dtype=np.uint8).reshape(count, 2, 3)
    seen = []

    def run(batch):
        seen.append((batch.shape, batch.dtype))
        return batch.sum(axis=2).astype(np.float32)

    got = in_batches(run, array, size=4)
    np.testing.assert_array_equal(got, array.sum(axis=2))
    assert set(seen) == {((4, 2, 3), np.dtype(np.uint8))}
    assert len(seen) == max(1, -(-count // 4))


def test_prediction_is_the_network_on_normalised_images(tiny):
    module, variables, rest = tiny
    preprocessing = rest["preprocessing"]
    images = np.random.default_rng(0).integers(0, 256, (5, *preprocessing.input_shape), np.uint8)
    got = networks.predict(module, variables, preprocessing, images)
    normalized = ((images / 255 - 0.3) / 0.4).astype(np.float32)
    expected = jax.jit(module.apply)(variables, normalized)
    assert got.shape == (5, 3)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_another_number_of_images_or_other_weights_compile_nothing(tiny):
    traces = []

    def tail(variables, x, cut):
        traces.append(x.shape)
        return x.sum(axis=(1, 2)) * variables

    network = networks.FunctionNetwork(lambda variables, x, cut: x, tail, ("input",))
    preprocessing = tiny[2]["preprocessing"]
    size = batch_size(preprocessing.input_shape)
    for count, factor in ((3, 1.0), (1, 2.0), (size + 1, 3.0)):
        images = np.zeros((count, *preprocessing.input_shape), np.uint8)
        got = networks.predict(network, np.float32(factor), preprocessing, images)
        np.testing.assert_allclose(got, factor * 120 * -0.3 / 0.4 * np.ones((count, 1)), rtol=1e-5)
    assert traces == [(size, *preprocessing.input_shape)]
