"""PCA (KLT) initialisation of units under a Fisher-information metric.

A unit with linear stages can be a classic transform coder: patches of the features in their PCA
basis, rounded with one step. Near the original features the loss is a quadratic form of the error,
see `loss_metric`; basis and step are optimal under it. They depend on the second moments of
features and gradients only.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsplit import networks
from jaxsplit.entropy import factorized
from jaxsplit.errors import ConfigError
from jaxsplit.networks import Backbone
from jaxsplit.split import Split
from jaxsplit.train.losses import Distortion
from jaxsplit.train.rate_groups import Group
from jaxsplit.train.records import CurveState
from jaxsplit.units import BottleneckSpec, UnitSpec, Variables
from jaxsplit.units.architecture import EPSILON

_FINEST = 1e-3  # smallest step, relative to the features' root mean square
_FLATTEST = 1e-6  # smallest eigenvalue of a metric, relative to their mean
_LOGISTIC_STD = math.pi / math.sqrt(3)  # of a logistic density of scale 1
_BATCH = 32
_DRAWS = 2  # of targets, for each image


def check_principal(spec: UnitSpec) -> BottleneckSpec:
    """Returns a spec whose unit can start from principal components, or raises a ConfigError.

    It must be a `BottleneckSpec` of linear stages, whose patches neither overlap nor leave gaps and
    have as many positions as there are depthwise filters.
    """
    if not isinstance(spec, BottleneckSpec):
        raise ConfigError(f"start='principal' is for a BottleneckSpec; got {spec}")
    k = spec.kernel
    sides = (spec.stride, k, spec.padding, *spec.decoder_form, spec.multiplier)
    linear = spec.activation == spec.latent_activation == "none"
    if sides != (k, k, 0, k, 0, k * k) or spec.decoder_filters != k * k or not linear:
        raise ConfigError(
            "start='principal' needs a unit whose stride and kernels are equal, paddings 0, "
            "multipliers the kernel's square, activation and latent_activation none; got "
            f"{spec}"
        )
    return spec


def best_step(lmbda: float, price: float, scale: float) -> float:
    """Computes the optimal quantisation step for a rate weight, in the features' unit.

    A step Δ has the squared error Δ²/12 a coefficient, and half of it costs one bit more: the
    slopes of price · squared error and of lambda · bits are equal at Δ² = 6 · lambda / (price ·
    ln 2). The price is the distortion per squared error of a coefficient; `scale`, the mean square
    of the features, bounds the step from below.

    Source: Gish and Pierce 1968, Asymptotically efficient quantizing.
    """
    return math.sqrt(max(6 * lmbda / (price * math.log(2)), _FINEST**2 * scale))


def principal_unit(
    split: Split,
    features: np.ndarray,
    step: float,
    key: jax.Array,
    metric: np.ndarray | None = None,
) -> Variables:
    """Returns a unit that maps patches to their principal components and rounds with one step.

    Args:
      split: the cut, with a spec that passes `check_principal`.
      features: float [N, H, W, Cin], a sample of the training's.
      step: in the features' unit.
      key: of the prior's initialisation.
      metric: of errors, positive definite [n, n], see `loss_metric`; it is divided by its mean
        eigenvalue. None: the identity.

    Returns:
      {"params", "batch_stats"}; latents are centred, in steps, the largest variance first.
    """
    spec = check_principal(split.spec)
    k, channels = spec.kernel, spec.channels
    inputs = split.shape[-1] * k * k
    if channels > inputs:
        raise ConfigError(f"{channels} channels of {inputs} components at {split.cut}")
    seen = patches(np.asarray(features, np.float64), k).reshape(-1, inputs)  # channel, row, column
    mean, covariance = seen.mean(axis=0), np.cov(seen.T).reshape(inputs, inputs)
    root = np.eye(inputs) if metric is None else _root(metric * inputs / np.trace(metric))
    values, vectors = np.linalg.eigh(root @ covariance @ root)
    values, vectors = values[::-1][:channels], vectors[:, ::-1][:, :channels]
    variances = np.maximum(values, 0)
    basis, back = root @ vectors, np.linalg.solve(root, vectors)
    # Filter i · k + j selects pixel (i, j) of a patch.
    pixels = np.tile(np.eye(k * k).reshape(k, k, 1, k * k), (1, 1, split.shape[-1], 1))
    gain = spec.step / step
    # Normalisation takes the gain: kernels keep the magnitude of random ones, which suits Adam's
    # steps.
    inner = 1.0 if spec.batch_norm else gain
    kept = ((back * variances) * back).sum(axis=1)  # variance of the reconstruction
    per_channel = mean.reshape(-1, k * k)
    spread = kept.reshape(-1, k * k).mean(axis=1) + per_channel.var(axis=1)
    decoded = per_channel.mean(axis=1)
    layers = {
        "encoder": {
            "depthwise": pixels,
            "depthwise_norm": _Norm(mean, np.diag(covariance), mean),
            "pointwise": {"kernel": basis * inner},
            "pointwise_norm": _Norm(
                mean @ basis * inner, variances * inner**2, np.zeros(channels), gain / inner
            ),
        },
        "decoder": {
            "pointwise": {"kernel": back.T / inner},
            "pointwise_norm": _Norm(
                np.zeros(inputs), kept * (gain / inner) ** 2, mean, inner / gain
            ),
            "depthwise": pixels,
            "depthwise_norm": _Norm(decoded, spread, decoded),
        },
    }
    widths = np.sqrt(variances) / step / _LOGISTIC_STD
    prior = _centred(factorized.init_params(key, channels, init_scale=np.maximum(widths, 0.1)))
    return _variables(layers, prior, spec.batch_norm)


def _centred(prior: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The prior with medians of 0, so that the best offsets are 0."""
    channels, last = len(prior["bias_0"]), f"bias_{sum(name[:5] == 'bias_' for name in prior) - 1}"
    off = factorized.cumulative_logits(prior, jnp.zeros((1, channels)))
    return {**prior, last: prior[last] - off.reshape(channels, 1)}


def _root(metric: np.ndarray) -> np.ndarray:
    """Symmetric square root of a positive definite matrix."""
    values, vectors = np.linalg.eigh(metric)
    return (vectors * np.sqrt(np.maximum(values, _FLATTEST))) @ vectors.T


class _Norm(NamedTuple):
    """Moments before and after a normalisation.

    Attributes:
      mean, variance: of each channel of its input.
      after: mean of its output.
      gain: standard deviation of its output, relative to its input.
    """

    mean: np.ndarray
    variance: np.ndarray
    after: np.ndarray
    gain: float = 1.0


def _variables(layers: Variables, prior: Variables, batch_norm: bool) -> Variables:
    """Layers, with a `_Norm` behind each convolution, as a unit's variables."""
    params: Variables = {"prior": prior}
    stats: Variables = {}
    for part, tree in layers.items():
        params[part], stats[part] = {}, {}
        for name, value in tree.items():
            if not isinstance(value, _Norm):
                params[part][name] = value
            elif not batch_norm:
                params[part][name] = {"bias": value.after - value.gain * value.mean}
            else:
                scale = np.sqrt(value.variance + EPSILON) * value.gain
                params[part][name] = {"bias": value.after, "scale": scale}
                stats[part][name] = {"mean": value.mean, "var": value.variance}
    tree = {"params": params} | ({"batch_stats": stats} if batch_norm else {})
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)


def with_principal_units(
    groups: Sequence[Group],
    state: CurveState,
    features: np.ndarray,
    *,
    backbone: Backbone,
    distortion: Distortion,
    scale: float,
    seed: int,
) -> CurveState:
    """Returns the state at step 0 with units from `principal_unit`, each with its lambda's step.

    For features, distortion and scale see `loss_metric`; `seed` is also that of the priors.
    """
    states, key = [], jax.random.key(seed)
    for group, old in zip(groups, state.groups, strict=True):
        stride = check_principal(group.split.spec).stride
        metric = loss_metric(group.split, stride, backbone, features, distortion, scale, key)
        price = float(np.trace(metric)) / len(metric)
        units = [
            principal_unit(group.split, features, best_step(rate.lmbda, price, scale), key, metric)
            for rate in group.rates
        ]
        units = jax.tree.map(lambda *leaves: jnp.stack(leaves), *units)
        new = dataclasses.replace(
            old,
            params={**old.params, **units["params"]},  # keeps blocks of the network
            batch_stats=units.get("batch_stats", {}),
        )
        states.append(dataclasses.replace(new, ema=new.variables) if old.ema else new)
    return CurveState(tuple(states))


def loss_metric(
    split: Split,
    stride: int,
    backbone: Backbone,
    features: np.ndarray,
    distortion: Distortion,
    scale: float,
    key: jax.Array,
) -> np.ndarray:
    """Computes the matrix M of the loss eᵀ M e that an error e of one patch of features causes.

    The feature error is quadratic. Distillation and the task's loss have a zero gradient at the
    original features and the Fisher information as curvature: the mean outer product of gradients
    of the log-likelihood of targets drawn from the network's outputs. Terms between two patches
    are left out.

    Args:
      split, backbone, distortion: the cut, the frozen network, and the weights of the loss.
      stride: side of a patch, the input of one position of the latent.
      features, scale: float [N, H, W, Cin], a sample of the training's, and its mean square.
      key: of the drawn targets.

    Returns:
      Symmetric float64 [n, n] with n = Cin · stride²; elements of a patch are ordered by channel,
      row and column.

    Source: Martens 2020, New insights and perspectives on the natural gradient method.
    """
    inputs = split.shape[-1] * stride**2
    metric = np.eye(inputs) * distortion.features / (np.prod(split.shape) * scale)
    weights = (distortion.distillation, distortion.temperature), (distortion.labels, 1.0)
    for weight, temperature in weights:
        if weight:
            metric += weight / 2 * _fisher(split, stride, backbone, features, temperature, key)
    return metric


def _fisher(
    split: Split,
    k: int,
    backbone: Backbone,
    features: np.ndarray,
    temperature: float,
    key: jax.Array,
) -> np.ndarray:
    """Mean outer product of a patch's gradients, for targets drawn at a temperature: [n, n]."""
    inputs = split.shape[-1] * k * k

    @jax.jit
    def slopes(variables: networks.Variables, x: jax.Array, key: jax.Array) -> jax.Array:
        def drawn(x: jax.Array) -> jax.Array:
            outputs = split.tail(variables, x)
            likelihood = split.task.sampled_log_likelihood(outputs, key, temperature)
            # The square root of distillation's factor, the squared temperature.
            return temperature * likelihood.sum()

        return jax.grad(drawn)(x)

    total, count = np.zeros((inputs, inputs)), 0
    for start in range(0, len(features), _BATCH):
        batch = jnp.asarray(features[start : start + _BATCH], jnp.float32)
        for draw in jax.random.split(jax.random.fold_in(key, start), _DRAWS):
            found = patches(np.asarray(slopes(backbone.variables, batch, draw), np.float64), k)
            found = found.reshape(-1, inputs)
            total += found.T @ found
            count += len(found)
    return total / count


def patches(features: np.ndarray, size: int) -> np.ndarray:
    """Reorders features [N, H, W, C] to [N, H // size, W // size, C · size²], channels first.

    >>> patches(np.arange(8).reshape(1, 2, 2, 2), 2).tolist()
    [[[[0, 2, 4, 6, 1, 3, 5, 7]]]]
    """
    n, h, w = len(features), features.shape[1] // size, features.shape[2] // size
    parts = features[:, : h * size, : w * size].reshape(n, h, size, w, size, -1)
    return parts.transpose(0, 1, 3, 5, 2, 4).reshape(n, h, w, -1)
