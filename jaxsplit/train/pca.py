"""PCA (KLT) initialization of units under a Fisher-information metric.

A unit with linear stages can be a classic transform coder: patches of the features in their PCA
basis, rounded with one step. Near the original features the loss is a quadratic form of the error,
see `loss_metric`; basis and step are optimal under it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxsplit import networks
from jaxsplit.entropy import factorized
from jaxsplit.errors import ConfigError
from jaxsplit.networks import Backbone
from jaxsplit.split import Split
from jaxsplit.train.losses import Distortion, DistortionLoss
from jaxsplit.trees import Tree
from jaxsplit.units import BottleneckSpec, ResidualSpec, UnitSpec, Variables
from jaxsplit.units.architecture import EPSILON

_FINEST = 1e-3  # smallest step, relative to the features' root mean square
_FLATTEST = 1e-6  # smallest eigenvalue of a metric, relative to their mean
_NOISE = 1 / 12  # variance of rounding, in steps
_LOGISTIC_STD = math.pi / math.sqrt(3)  # of a logistic density of scale 1
_BATCH = 32
_DRAWS = 2  # of targets, for each image


def check_pca(spec: UnitSpec) -> BottleneckSpec | ResidualSpec:
    """Returns a spec whose unit can start from principal components, or raises a ConfigError.

    It must be a `ResidualSpec` whose widths hold the latent, or a `BottleneckSpec` of linear
    stages, whose patches neither overlap nor leave gaps and have as many positions as there are
    depthwise filters.
    """
    if isinstance(spec, ResidualSpec):
        decoder_width, decoder_blocks, _, _ = spec.decoder_sizes
        stacks = (spec.width, spec.blocks), (decoder_width, decoder_blocks)
        if any(blocks and width < spec.channels for width, blocks in stacks):
            raise ConfigError(f"initialization='pca' needs widths of at least channels; got {spec}")
        return spec
    if not isinstance(spec, BottleneckSpec):
        raise ConfigError(
            f"initialization='pca' is for a BottleneckSpec or ResidualSpec; got {spec}"
        )
    k = spec.kernel
    sides = (spec.stride, k, spec.padding, *spec.decoder_window, spec.multiplier)
    linear = spec.activation == spec.latent_activation == "none"
    if sides != (k, k, 0, k, 0, k * k) or spec.decoder_filters != k * k or not linear:
        raise ConfigError(
            "initialization='pca' needs a unit whose stride and kernels are equal, paddings 0, "
            "multipliers the kernel's square, activation and latent_activation none; got "
            f"{spec}"
        )
    return spec


def check_pca_start(specs: Iterable[UnitSpec], distortion: DistortionLoss) -> None:
    """Raises a ConfigError unless units can start as PCA under a first phase's distortion."""
    for spec in specs:
        check_pca(spec)
    if not (isinstance(distortion, Distortion) and distortion.features):
        raise ConfigError(
            "initialization='pca' needs a positive weight of features, however small, in the first "
            "phase's distortion"
        )


def best_step(lmbda: float, error_weight: float, scale: float) -> float:
    """Computes the optimal quantization step for a rate weight, in the features' unit.

    A step Δ has the squared error Δ²/12 a coefficient, and half of it costs one bit more: the
    slopes of error_weight · squared error and of lambda · bits are equal at
    Δ² = 6 · lambda / (error_weight · ln 2). `error_weight` is the distortion per squared error of a
    coefficient; `scale`, the mean square of the features, bounds the step from below.

    Source: Gish and Pierce 1968, Asymptotically efficient quantizing.
    """
    return math.sqrt(max(6 * lmbda / (error_weight * math.log(2)), _FINEST**2 * scale))


class _Components(NamedTuple):
    """Principal components of patches of n numbers, the largest variance first.

    Coefficients are (patch - mean) @ basis, and patches mean + coefficients @ back.T.
    """

    mean: np.ndarray  # [n]
    covariance: np.ndarray  # [n, n]
    basis: np.ndarray  # [n, C]
    back: np.ndarray  # [n, C]
    variances: np.ndarray  # [C]


def pca_unit(
    split: Split,
    features: np.ndarray,
    step: float,
    key: jax.Array,
    metric: np.ndarray | None = None,
) -> Variables:
    """Returns a unit that maps patches to their principal components and rounds with one step.

    Residual blocks of a `ResidualSpec` begin as the identity. Channels of its width beyond the
    latent's hold further components or, where there are none, random mixtures.

    Args:
      split: the cut, with a spec that passes `check_pca`.
      features: float [N, H, W, Cin], a sample of the training's.
      step: in the features' unit.
      key: of the prior's initialization.
      metric: of errors, positive definite [n, n], see `loss_metric`; it is divided by its mean
        eigenvalue. None: the identity.

    Returns:
      {"params", "batch_stats"}; latents are centred, in steps, the largest variance first.
    """
    spec = check_pca(split.spec)
    found = _principal_components(features, spec.stride, metric)
    if spec.channels > len(found.mean):
        raise ConfigError(
            f"{spec.channels} channels of {len(found.mean)} components at {split.cut}"
        )
    widths = np.sqrt(found.variances[: spec.channels]) / step / _LOGISTIC_STD
    prior = factorized.centred(
        factorized.init_params(key, spec.channels, init_scale=np.maximum(widths, 0.1))
    )
    if isinstance(spec, ResidualSpec):
        unit = _residual_unit(spec, found, step, spec.init(key, split.shape))
    else:
        unit = _bottleneck_unit(spec, found, step)
    unit = {**unit, "params": {**unit["params"], "prior": prior}}
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), unit)


def _principal_components(
    features: np.ndarray, size: int, metric: np.ndarray | None
) -> _Components:
    inputs = features.shape[-1] * size * size
    seen = patches(np.asarray(features, np.float64), size).reshape(-1, inputs)
    mean, covariance = seen.mean(axis=0), np.cov(seen.T).reshape(inputs, inputs)
    root = np.eye(inputs) if metric is None else _root(metric * inputs / np.trace(metric))
    values, vectors = np.linalg.eigh(root @ covariance @ root)
    variances, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    return _Components(mean, covariance, root @ vectors, np.linalg.solve(root, vectors), variances)


def _bottleneck_unit(spec: BottleneckSpec, found: _Components, step: float) -> dict[str, Any]:
    """Returns params without a prior, and batch statistics."""
    k, mean = spec.kernel, found.mean
    basis, back, variances = (x[..., : spec.channels] for x in found[2:])
    # Filter i · k + j selects pixel (i, j) of a patch.
    pixels = np.tile(np.eye(k * k).reshape(k, k, 1, k * k), (1, 1, len(mean) // (k * k), 1))
    gain = spec.step / step
    # Normalization takes the gain: kernels keep the magnitude of random ones, as suits Adam.
    inner = 1.0 if spec.batch_norm else gain
    kept = ((back * variances) * back).sum(axis=1)  # variance of the reconstruction
    per_channel = mean.reshape(-1, k * k)
    spread = kept.reshape(-1, k * k).mean(axis=1) + per_channel.var(axis=1)
    decoded = per_channel.mean(axis=1)
    latent = mean @ basis * inner, variances * inner**2, np.zeros(spec.channels), gain / inner
    output = np.zeros(len(mean)), kept * (gain / inner) ** 2, mean, inner / gain
    norms = {
        "encoder": {
            "depthwise_norm": _norm(spec, mean, np.diag(found.covariance), mean),
            "pointwise_norm": _norm(spec, *latent),
        },
        "decoder": {
            "pointwise_norm": _norm(spec, *output),
            "depthwise_norm": _norm(spec, decoded, spread, decoded),
        },
    }
    kernels = {"encoder": basis * inner, "decoder": back.T / inner}
    params: dict[str, Tree] = {}
    stats: dict[str, Tree] = {}
    for part, norm in norms.items():
        learned = {name: scale for name, (scale, _) in norm.items()}
        params[part] = {"depthwise": pixels, "pointwise": {"kernel": kernels[part]}, **learned}
        stats[part] = {name: moments for name, (_, moments) in norm.items()}
    return {"params": params} | ({"batch_stats": stats} if spec.batch_norm else {})


def _residual_unit(
    spec: ResidualSpec, found: _Components, step: float, fresh: Variables
) -> dict[str, Any]:
    """Returns the params of a fresh unit with components for its linear layers."""
    rng = np.random.default_rng(0)
    deviations = np.sqrt(found.variances) / step

    def part(name: str, kernel: np.ndarray, bias: np.ndarray, width: int) -> dict[str, Any]:
        """Replaces the embedding, and normalizes what the blocks read."""
        layers = dict(cast("Mapping[str, Any]", fresh["params"])[name])
        inputs, known = kernel.shape[1], deviations[: kernel.shape[1]]
        # What a block reads holds noise of about a step too.
        spread = np.sqrt(np.square(known) + _NOISE)
        mixed = rng.normal(size=(inputs, max(width - inputs, 0))) / spread[:, None] / inputs**0.5
        wide = np.concatenate([np.eye(inputs), mixed], axis=1)[:, :width]
        layers["embedding"] = {"kernel": kernel @ wide, "bias": bias @ wide}
        scale = np.concatenate([spread, np.ones(mixed.shape[1])])[:width]
        for block in [name for name in layers if name.startswith("block")]:
            kernel = np.asarray(layers[block]["depthwise"]) / scale[:, None]
            layers[block] = {**layers[block], "depthwise": kernel}
        return layers

    def order(x: np.ndarray) -> np.ndarray:
        """Numbers of a patch [n, …] by row, column and channel, in place of channel first."""
        by_channel = x.reshape(-1, spec.stride, spec.stride, *x.shape[1:])
        return np.moveaxis(by_channel, 0, 2).reshape(x.shape)

    channels, (decoder_width, decoder_blocks, _, _) = spec.channels, spec.decoder_sizes
    basis, back = order(found.basis) / step, order(found.back)[:, :channels].T * step
    ahead, behind = (basis, -order(found.mean) @ basis), (back, order(found.mean))
    if spec.blocks:
        encoder = part("encoder", *ahead, spec.width)
        encoder["output"] = {"kernel": np.eye(spec.width, channels), "bias": np.zeros(channels)}
    else:
        kernel, bias = ahead
        encoder = {"embedding": {"kernel": kernel[:, :channels], "bias": bias[:channels]}}
    if decoder_blocks:
        kernel, bias = behind
        decoder = part("decoder", np.eye(channels), np.zeros(channels), decoder_width)
        wide = np.zeros((decoder_width - channels, len(bias)))
        decoder["output"] = {"kernel": np.concatenate([kernel, wide]), "bias": bias}
    else:
        decoder = {"embedding": dict(zip(("kernel", "bias"), behind, strict=True))}
    return {"params": {"encoder": encoder, "decoder": decoder}}


def _root(metric: np.ndarray) -> np.ndarray:
    """Symmetric square root of a positive definite matrix."""
    values, vectors = np.linalg.eigh(metric)
    return (vectors * np.sqrt(np.maximum(values, _FLATTEST))) @ vectors.T


def _norm(
    spec: BottleneckSpec,
    mean: np.ndarray,
    variance: np.ndarray,
    after: np.ndarray,
    gain: float = 1.0,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Parameters and statistics of a normalization of an input of this mean and variance.

    Its output has the mean `after` and `gain` times the input's standard deviation.
    """
    if not spec.batch_norm:
        return {"bias": after - gain * mean}, {}
    scale = np.sqrt(variance + EPSILON) * gain
    return {"bias": after, "scale": scale}, {"mean": mean, "var": variance}


def loss_metric(
    split: Split,
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
      features, scale: float [N, H, W, Cin], a sample of the training's, and its mean square.
      key: of the drawn targets.

    Returns:
      Symmetric float64 [n, n] with n = Cin · stride²; elements of a patch are ordered by channel,
      row and column.

    Source: Martens 2020, New insights and perspectives on the natural gradient method.
    """
    inputs = split.shape[-1] * check_pca(split.spec).stride ** 2
    metric = np.eye(inputs) * distortion.features / (np.prod(split.shape) * scale)
    weights = (distortion.distillation, distortion.temperature), (distortion.labels, 1.0)
    for weight, temperature in weights:
        if weight:
            metric += weight / 2 * _fisher(split, backbone, features, temperature, key)
    return metric


def _fisher(
    split: Split, backbone: Backbone, features: np.ndarray, temperature: float, key: jax.Array
) -> np.ndarray:
    """Mean outer product of a patch's gradients, for targets drawn at a temperature: [n, n]."""
    k = check_pca(split.spec).stride
    inputs = split.shape[-1] * k * k

    def drawn(x: jax.Array, variables: networks.Variables, key: jax.Array) -> jax.Array:
        outputs = split.tail(variables, x)
        likelihood = split.task.sampled_log_likelihood(outputs, key, temperature)
        # The square root of distillation's factor, the squared temperature.
        return temperature * likelihood.sum()

    slopes = jax.jit(jax.grad(drawn))
    total, count = np.zeros((inputs, inputs)), 0
    for start in range(0, len(features), _BATCH):
        batch = jnp.asarray(features[start : start + _BATCH], jnp.float32)
        for draw in jax.random.split(jax.random.fold_in(key, start), _DRAWS):
            found = patches(np.asarray(slopes(batch, backbone.variables, draw), np.float64), k)
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
