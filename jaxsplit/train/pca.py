"""Units that begin as the principal components of the features, in place of random ones.

A unit whose stages are linear can be the transform that a codec of old would use: each patch of the
features in the basis of its principal components, rounded with one step. What is principal, the
loss says: near the cut it is a square of the error (`sensitivity.loss_metric`), and components and
step are those that are best by it. So the unit already sends what the network's answers need, and
nothing of it is learned from more than the moments of the features and of their gradients.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsplit.entropy import factorized
from jaxsplit.errors import ConfigError
from jaxsplit.networks import Backbone
from jaxsplit.split import Split
from jaxsplit.train.groups import Group
from jaxsplit.train.losses import Distortion
from jaxsplit.train.records import CurveState
from jaxsplit.units import BottleneckSpec, UnitSpec

_EPSILON = 1e-5  # of the unit's batch normalisation
_FINEST = 1e-3  # least step, beside the features' root mean square
_FLATTEST = 1e-6  # least eigenvalue of a metric, beside their mean
_LOGISTIC_STD = math.pi / math.sqrt(3)  # of a logistic density of scale 1


def check_principal(spec: UnitSpec) -> BottleneckSpec:
    """Refuses a unit that can't begin as principal components.

    Args:
      spec: of a rate.

    Returns:
      The same.

    Raises:
      ConfigError: it is no `BottleneckSpec`, patches overlap or leave gaps, a stage is not linear,
        or the depthwise filters are fewer or more than a patch has positions.
    """
    if not isinstance(spec, BottleneckSpec):
        raise ConfigError(f"start='principal' is for a BottleneckSpec; got {spec}")
    k = spec.kernel
    sides = (spec.stride, k, spec.padding, *spec.decoder_form, spec.multiplier)
    linear = spec.activation == spec.latent_activation == "none"
    if sides != (k, k, 0, k, 0, k * k) or spec.decoder_filters != k * k or not linear:
        raise ConfigError(
            "a unit begins with principal components where stride and kernels are equal, paddings "
            "0, multipliers the kernel's square, activation and latent_activation none; got "
            f"{spec}"
        )
    return spec


def best_step(lmbda: float, price: float, scale: float) -> float:
    """The quantisation step at which another bit is worth what it costs, in the features' unit.

    A step Δ errs by Δ²/12 in every coefficient, and half of it costs a bit more: the slopes of
    price · squared error and of lambda · bits meet where Δ² = 6 · lambda / (price · ln 2).

    Args:
      lmbda: distortion per bit.
      price: distortion per squared error of a coefficient, positive.
      scale: mean square of the features, of which a step is at least a small part.

    Source: Gish and Pierce 1968, Asymptotically efficient quantizing.
    """
    return math.sqrt(max(6 * lmbda / (price * math.log(2)), _FINEST**2 * scale))


def principal_unit(
    split: Split,
    features: np.ndarray,
    step: float,
    key: jax.Array,
    metric: np.ndarray | None = None,
) -> Any:
    """A unit that transforms patches to their principal components and rounds with one step.

    Args:
      split: the cut, with a spec of which `check_principal` has nothing to say.
      features: float [N, H, W, Cin], some of the training's.
      step: in the features' unit.
      key: of the prior's beginning.
      metric: [n, n], positive definite: by what an error is measured, as of
        `sensitivity.loss_metric`; it is divided by its mean eigenvalue. None: by its square.

    Returns:
      {"params", "batch_stats"}; latents are centred, in steps, the largest variance first.

    Raises:
      ConfigError: as of `check_principal`, or there are more channels than components.
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
    # Whole pixels of a patch as filters: pixel (i, j) is filter i · k + j.
    pixels = np.tile(np.eye(k * k).reshape(k, k, 1, k * k), (1, 1, split.shape[-1], 1))
    gain = spec.step / step
    # Normalisation takes the gain, so that kernels have the size that they have when they are
    # random: an optimizer's steps don't know what is small.
    inner = 1.0 if spec.batch_norm else gain
    kept = ((back * variances) * back).sum(axis=1)  # variance of what the components keep
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
    """The prior with its medians at zero: where units round is what their priors say."""
    channels, last = len(prior["bias_0"]), f"bias_{sum(name[:5] == 'bias_' for name in prior) - 1}"
    off = factorized.cumulative_logits(prior, jnp.zeros((1, channels)))
    return {**prior, last: prior[last] - off.reshape(channels, 1)}


def _root(metric: np.ndarray) -> np.ndarray:
    """The symmetric square root of a positive definite matrix."""
    values, vectors = np.linalg.eigh(metric)
    return (vectors * np.sqrt(np.maximum(values, _FLATTEST))) @ vectors.T


class _Norm(NamedTuple):
    """What a normalisation gets, and what it makes of it.

    Attributes:
      mean, variance: of each channel of what comes.
      after: the mean of what leaves.
      gain: its spread, beside that of what comes.
    """

    mean: np.ndarray
    variance: np.ndarray
    after: np.ndarray
    gain: float = 1.0


def _variables(layers: dict[str, Any], prior: Any, batch_norm: bool) -> Any:
    """Layers, with a `_Norm` behind each convolution, as a unit's variables."""
    params: dict[str, Any] = {"prior": prior}
    stats: dict[str, Any] = {}
    for part, tree in layers.items():
        params[part], stats[part] = {}, {}
        for name, value in tree.items():
            if not isinstance(value, _Norm):
                params[part][name] = value
            elif not batch_norm:
                params[part][name] = {"bias": value.after - value.gain * value.mean}
            else:
                scale = np.sqrt(value.variance + _EPSILON) * value.gain
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
    """The state with units that begin with principal components, each with its lambda's step.

    Args:
      groups: the rates.
      state: at step 0.
      features: as of `principal_unit`.
      backbone: the frozen network.
      distortion: by which an error is measured.
      scale: mean square of the features.
      seed: of the priors and of `sensitivity.loss_metric`.

    Raises:
      ConfigError: as of `principal_unit`.
    """
    begun, key = [], jax.random.key(seed)
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
            params={**old.params, **units["params"]},  # beside blocks of the network that learn
            batch_stats=units.get("batch_stats", {}),
        )
        begun.append(dataclasses.replace(new, ema=new.variables) if old.ema else new)
    return CurveState(tuple(begun))


_BATCH = 32
_DRAWS = 2  # answers for each image


def loss_metric(
    split: Split,
    stride: int,
    backbone: Backbone,
    features: np.ndarray,
    distortion: Distortion,
    scale: float,
    key: jax.Array,
) -> np.ndarray:
    """M of the loss eᵀ M e that an error e of one patch of the features brings.

    The features' own error is a square everywhere. Distillation and labels are flat where the
    features are right, and bend by the Fisher information: the mean outer product of the gradient
    of an answer's log-probability, of answers drawn as the network gives them. What the errors of
    two patches do together is left out.

    Args:
      split: the cut.
      stride: side of a patch: what one position of the latent is made of.
      backbone: the frozen network.
      features: float [N, H, W, Cin], some of the training's.
      distortion: the weights of the loss.
      scale: mean square of the features.
      key: of the answers that are drawn.

    Returns:
      Symmetric float64 [n, n] with n = Cin · stride²; an element of a patch is numbered by
      channel, row and column.

    Source: Martens 2020, New insights and perspectives on the natural gradient method, for the
    Fisher information as the curvature of the answers.
    """
    inputs = split.shape[-1] * stride**2
    metric = np.eye(inputs) * distortion.features / (np.prod(split.shape) * scale)
    for weight, temperature in (
        (distortion.distillation, distortion.temperature),
        (distortion.labels, 1.0),
    ):
        if weight:
            found = _fisher(split, stride, backbone, features, temperature, key)
            metric += weight / 2 * found
    return metric


def _fisher(
    split: Split,
    k: int,
    backbone: Backbone,
    features: np.ndarray,
    temperature: float,
    key: jax.Array,
) -> np.ndarray:
    """The mean outer product of a patch's gradients, of answers at a temperature: [n, n]."""
    inputs = split.shape[-1] * k * k

    @jax.jit
    def slopes(variables: jax.Array, x: jax.Array, key: jax.Array) -> jax.Array:
        def drawn(x: jax.Array) -> jax.Array:
            outputs = split.tail(variables, x)
            likelihood = split.task.sampled_log_likelihood(outputs, key, temperature)
            # Distillation has a factor of the temperature's square: this is its root.
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
    """Features [N, H, W, C] → [N, H // size, W // size, C · size²], by channel, row and column.

    >>> patches(np.arange(8).reshape(1, 2, 2, 2), 2).tolist()
    [[[[0, 2, 4, 6, 1, 3, 5, 7]]]]
    """
    n, h, w = len(features), features.shape[1] // size, features.shape[2] // size
    parts = features[:, : h * size, : w * size].reshape(n, h, size, w, size, -1)
    return parts.transpose(0, 1, 3, 5, 2, 4).reshape(n, h, w, -1)
