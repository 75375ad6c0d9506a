"""Units that begin as the principal components of the features, in place of random ones.

A unit whose stages are linear can be the transform that a codec of old would use: each patch of the
features in the basis of its principal components, rounded with one step. From there a training of
few steps, or of few images, only has to bend what is right in the mean square towards what the
network's answers need.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsplit.bottleneck import BottleneckSpec
from jaxsplit.entropy import factorized
from jaxsplit.errors import ConfigError
from jaxsplit.split import Split
from jaxsplit.train.groups import Group
from jaxsplit.train.state import CurveState

_EPSILON = 1e-5  # of the unit's batch normalisation
_FINEST = 1e-3  # least step, beside the features' root mean square
_LOGISTIC_STD = math.pi / math.sqrt(3)  # of a logistic density of scale 1


def check_principal(spec: BottleneckSpec) -> None:
    """Refuses a form of unit that can't begin so.

    Raises:
      ConfigError: patches overlap or leave gaps, a stage is not linear, or the depthwise filters
        are fewer or more than a patch has places.
    """
    k = spec.kernel
    sides = (spec.stride, k, spec.padding, *spec.decoder_form, spec.multiplier)
    linear = spec.activation == spec.latent_activation == "none"
    if sides != (k, k, 0, k, 0, k * k) or spec.decoder_filters != k * k or not linear:
        raise ConfigError(
            "a unit begins with principal components where stride and kernels are equal, paddings "
            "0, multipliers the kernel's square, activation and latent_activation none; got "
            f"{spec}"
        )


def best_step(lmbda: float, weight: float, split: Split, scale: float) -> float:
    """The quantisation step at which another bit is worth what it costs, in the features' unit.

    A step Δ errs by Δ²/12 in every coefficient, and half of it costs a bit more: the slopes of
    weight · squared error / scale and of lambda · bits meet where
    Δ² = 6 · lambda · H · W · Cin · scale / (weight · ln 2).

    Args:
      lmbda: distortion per bit.
      weight: of the error of the features in the loss, positive.
      split: the cut.
      scale: mean square of the features.

    Source: Gish and Pierce 1968, Asymptotically efficient quantizing.
    """
    square = 6 * lmbda * math.prod(split.shape) * scale / (weight * math.log(2))
    return math.sqrt(max(square, _FINEST**2 * scale))


def principal_unit(split: Split, features: np.ndarray, step: float, key: jax.Array) -> Any:
    """A unit that transforms patches to their principal components and rounds with one step.

    Args:
      split: the cut, with a spec of which `check_principal` has nothing to say.
      features: float [N, H, W, Cin], some of the training's.
      step: in the features' unit.
      key: of the prior's beginning.

    Returns:
      {"params", "batch_stats"}; latents are centred, in steps, the largest variance first.

    Raises:
      ConfigError: as of `check_principal`, or there are more channels than components.
    """
    spec, k = split.spec, split.spec.kernel
    check_principal(spec)
    h, w, channels = split.latent_shape
    inputs = split.shape[-1] * k * k
    if channels > inputs:
        raise ConfigError(f"{channels} channels of {inputs} components at {split.cut}")
    patches = np.asarray(features, np.float64)[:, : h * k, : w * k]
    patches = patches.reshape(len(patches), h, k, w, k, -1).transpose(0, 1, 3, 5, 2, 4)
    patches = patches.reshape(-1, inputs)  # channel, row, column
    mean, covariance = patches.mean(axis=0), np.cov(patches.T).reshape(inputs, inputs)
    values, vectors = np.linalg.eigh(covariance)
    basis = vectors[:, ::-1][:, :channels]
    variances = np.maximum(values[::-1][:channels], 0)
    # Whole pixels of a patch as filters: pixel (i, j) is filter i · k + j.
    pixels = np.tile(np.eye(k * k).reshape(k, k, 1, k * k), (1, 1, split.shape[-1], 1))
    gain = spec.step / step
    # Normalisation takes the gain, so that kernels have the size that they have when they are
    # random: an optimizer's steps don't know what is small.
    inner = 1.0 if spec.batch_norm else gain
    seen = ((basis * variances) * basis).sum(axis=1)  # variance of what the components keep
    per_channel = mean.reshape(-1, k * k)
    spread = seen.reshape(-1, k * k).mean(axis=1) + per_channel.var(axis=1)
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
            "pointwise": {"kernel": basis.T / inner},
            "pointwise_norm": _Norm(
                np.zeros(inputs), seen * (gain / inner) ** 2, mean, inner / gain
            ),
            "depthwise": pixels,
            "depthwise_norm": _Norm(decoded, spread, decoded),
        },
    }
    widths = np.sqrt(variances) / step / _LOGISTIC_STD
    prior = factorized.init_params(key, channels, init_scale=np.maximum(widths, 0.1))
    return _variables(layers, prior, spec.batch_norm)


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
    scale: float,
    weight: float,
    seed: int,
) -> CurveState:
    """The state with units that begin with principal components, each with its lambda's step.

    Args:
      groups: the rates.
      state: at step 0.
      features: as of `principal_unit`.
      scale, weight: as of `best_step`.
      seed: of the priors.

    Raises:
      ConfigError: as of `principal_unit` and `best_step`.
    """
    begun = []
    for group, old in zip(groups, state.groups, strict=True):
        units = [
            principal_unit(
                group.split,
                features,
                best_step(rate.lmbda, weight, group.split, scale),
                jax.random.key(seed),
            )
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
