"""Reference density in float64 numpy, written from the paper's formulas."""

from types import SimpleNamespace

import numpy as np
import pytest


def _chain(params, z):
    """Logits and their derivative, by the paper's f_k, f_k' one matrix product at a time."""
    z = np.asarray(z, np.float64)
    logits, slopes = np.empty(z.shape), np.empty(z.shape)
    depth = sum(name.startswith("matrix") for name in params)
    for c in range(z.shape[-1]):
        x = z[..., c].reshape(1, -1)
        jacobian = np.ones((1, x.shape[1]))
        for k in range(depth):
            matrix = np.log1p(np.exp(np.asarray(params[f"matrix_{k}"][c], np.float64)))
            x = matrix @ x + np.asarray(params[f"bias_{k}"][c], np.float64)[:, None]
            jacobian = matrix @ jacobian
            if k < depth - 1:
                a = np.tanh(np.asarray(params[f"factor_{k}"][c], np.float64))[:, None]
                jacobian = (1 + a * (1 - np.tanh(x) ** 2)) * jacobian
                x = x + a * np.tanh(x)
        logits[..., c] = x.reshape(z.shape[:-1])
        slopes[..., c] = jacobian.reshape(z.shape[:-1])
    return logits, slopes


def _cdf(params, z):
    return 1 / (1 + np.exp(-_chain(params, z)[0]))


def _pdf(params, z):
    logits, slopes = _chain(params, z)
    return slopes / (2 + np.exp(logits) + np.exp(-logits))


def _bits(params, z):
    """From differences on the side without cancellation; for moderate z."""
    z = np.asarray(z, np.float64)
    upper, lower = _chain(params, z + 0.5)[0], _chain(params, z - 0.5)[0]
    sign = -np.sign(upper + lower)
    return -np.log2(np.abs(1 / (1 + np.exp(-sign * upper)) - 1 / (1 + np.exp(-sign * lower))))


def _random_params(seed, channels, filters=(3, 3, 3), scale=3.0, shift=0.0):
    """Skewed densities of width `scale` around `shift`, in float32."""
    rng = np.random.default_rng(seed)
    widths = (1, *filters, 1)
    depth = len(widths) - 1
    slope = scale ** (-1 / depth)
    params = {}
    for k in range(depth):
        shape = (channels, widths[k + 1], widths[k])
        matrix = np.log(np.expm1(slope / widths[k + 1])) + 0.4 * rng.normal(size=shape)
        bias = rng.normal(size=shape[:2])
        if k == 0:
            softplus = np.log1p(np.exp(matrix.astype(np.float32).astype(np.float64)))
            bias = bias - softplus[:, :, 0] * shift
        params[f"matrix_{k}"] = matrix.astype(np.float32)
        params[f"bias_{k}"] = bias.astype(np.float32)
        if k < depth - 1:
            params[f"factor_{k}"] = rng.normal(size=shape[:2]).astype(np.float32)
    return params


@pytest.fixture
def reference():
    return SimpleNamespace(chain=_chain, cdf=_cdf, pdf=_pdf, bits=_bits)


@pytest.fixture
def random_params():
    return _random_params
