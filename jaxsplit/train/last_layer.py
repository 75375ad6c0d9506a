"""Fits the last layer of a network to other classes: a linear probe of its pooled features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsplit import data
from jaxsplit.errors import ConfigError, DataError
from jaxsplit.io.log import Log, no_log, shown
from jaxsplit.networks import Backbone, LinenNetwork, make_backbone
from jaxsplit.networks.inference import batch_size, head_program
from jaxsplit.networks.layers import Chain
from jaxsplit.networks.network import Variables
from jaxsplit.tasks import Classification

WEIGHTINGS = ("none", "balanced")

# Weights of the squared kernel, for features of unit variance, from the strictest.
_PENALTIES = tuple(10.0 ** (k / 2) for k in range(2, -13, -1))
_WORSE = 2  # penalties in a row without a lower loss, which end the search
_STEPS, _TOLERANCE = 100, 1e-4  # of L-BFGS
_FOLDS = 5  # one is held out
_LEAST = 2  # images of a class


class _Layer(NamedTuple):
    kernel: np.ndarray  # [D, K]
    bias: np.ndarray  # [K]


def fit_head(
    backbone: Backbone,
    source: data.AnySource,
    *,
    class_weights: str = "none",
    views: data.Views | None = None,
    seed: int = 0,
    log: Log | None = None,
    progress: bool = True,
) -> Backbone:
    """Fits the last layer of a network to the classes of images; all else stays frozen.

    The layer is a multinomial logistic regression on the pooled features before it. Its penalty is
    the one with the lowest loss on a fifth of the images, which is then used to fit too.

    Args:
      backbone: a network that ends in global average pooling and a linear layer, as all included
        ones do.
      source: images with labels, at least two of each of two or more classes: a `data.Source`, a
        name as `open_source` takes it, or arrays (images, labels).
      class_weights: "none", or "balanced", which gives all classes the same weight.
      views: augmentations of each image to fit to; None: the image itself.
      seed: of the choice of the held-out images.
      log: log callback, in place of `progress`.
      progress: True: shown on stderr.

    Returns:
      The backbone with the source's class names, for `train_family` and `save`. Its card has, as
      "head", the images, the penalty, and the top-1 of the held-out fifth before it was used.

    Raises:
      ConfigError: the network has no such last layer, or `class_weights` is unknown.
      DataError: no labels, fewer than two classes, or a class of fewer than two images.

    >>> import jaxsplit
    >>> backbone = jaxsplit.load_backbone("fashion_mnist_resnet8")
    >>> source = jaxsplit.open_source("embedded", max_samples=200)
    >>> images = np.array([example["image"] for example in source])
    >>> shoes = np.isin(source.labels, (5, 7, 9)).astype(int)
    >>> data = jaxsplit.data.from_arrays(images, shoes, ["clothes", "shoes"])
    >>> fitted = fit_head(backbone, data, progress=False)
    >>> fitted.class_names, fitted.card["head"]["top1"] > 0.9
    (('clothes', 'shoes'), True)
    """
    module = _chain_of(backbone)
    if class_weights not in WEIGHTINGS:
        raise ConfigError(
            f"class_weights is {class_weights!r}; expected one of {', '.join(WEIGHTINGS)}"
        )
    images = data.as_source(source)
    counts = _class_counts(images)
    with shown(progress, log) as callback:
        views = views or data.Views()
        features, labels = _pooled_features(backbone, module, images, views, callback or no_log)
        classes, balanced = len(counts), class_weights == "balanced"
        weights = len(images) / classes / counts if balanced else counts * 0 + 1
        held = np.tile(_held_out(labels[: len(images)], seed), len(views))
        penalty, layer = _best_penalty(features, labels, held, weights)
        right = _logits(layer, features[held]).argmax(axis=1) == labels[held]
        problem = _Problem.of(features, labels, weights)
        layer = problem.unscaled(_minimized(problem, problem.zeros(classes), penalty))
    report = {
        "data": data.portable_name(images.name),
        "split": images.split,
        "images": len(images),
        "views": len(views),
        "class_weights": class_weights,
        "penalty": penalty,
        "held_out": int(held.sum()) // len(views),
        "top1": float(right.mean()),
    }
    variables = _with_layer(module, backbone.variables, layer)
    parts = LinenNetwork(module.clone(num_classes=classes)), variables, backbone.preprocessing
    task = Classification(tuple(images.class_names))
    return make_backbone(backbone.name, *parts, task, {**backbone.card, "head": report})


def _chain_of(backbone: Backbone) -> Chain:
    """Returns the module of a backbone whose logits come from a linear layer on pooled features."""
    module = backbone.module
    last = _params(backbone.variables).get("logits", {})
    if not isinstance(module, Chain) or set(last) != {"dense"}:
        raise ConfigError(
            f"{backbone.name} does not end in global average pooling and a linear layer: fit its "
            "last layer yourself, then jaxsplit.make_backbone"
        )
    return module


def _class_counts(source: data.Source) -> np.ndarray:
    """Returns the number of images of each class; a DataError if there are too few."""
    source.check_labelled()
    counts = np.bincount(source.labels, minlength=len(source.class_names))
    if len(counts) < 2:
        raise DataError(f"{source.name} has one class, {source.class_names[0]}: give two or more")
    if counts.min() < _LEAST:
        name = source.class_names[int(counts.argmin())]
        raise DataError(
            f"the class {name} of {source.name} has {counts.min()} images: give {_LEAST} or more"
        )
    return counts


def _pooled_features(
    backbone: Backbone, module: Chain, source: data.Source, views: data.Views, log: Log
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the last layer's input, float32 [V · N, D], and labels; images stream through."""
    cut = module.endpoints()[-2]
    folded = backbone.fold()
    program = head_program(folded.network, (cut,), backbone.preprocessing, precision=None)
    variables = jax.device_put(folded.variables)
    pool = jax.jit(lambda x: x.mean(axis=(1, 2), dtype=jnp.float32))
    size = batch_size(backbone.preprocessing.input_shape, len(source))
    pooled, labels = list[np.ndarray](), list[np.ndarray]()
    for view in range(len(views)):
        for batch in data.batches(source, backbone.preprocessing, size):
            log("computing features", size * len(labels), len(source) * len(views))
            index = np.maximum(batch["index"], 0)  # of padding
            shown = views.apply(batch["image"], index, np.full(size, view))
            found = np.asarray(pool(program(variables, shown)[0][cut]))
            pooled.append(found[batch["mask"]])
            labels.append(batch["label"][batch["mask"]])
    features = np.concatenate(pooled)
    if not np.isfinite(features).all():
        raise ConfigError(f"features of {backbone.name} are infinite or not numbers")
    return features, np.concatenate(labels)


def _held_out(labels: np.ndarray, seed: int) -> np.ndarray:
    """Returns which images are held out: of every class a fifth, at least one, but not all."""
    rng, held = np.random.default_rng(seed), np.zeros(len(labels), bool)
    for label in np.unique(labels):
        own = rng.permutation(np.flatnonzero(labels == label))
        held[own[: max(len(own) // _FOLDS, 1)]] = True
    return held


def _best_penalty(
    features: np.ndarray, labels: np.ndarray, held: np.ndarray, weights: np.ndarray
) -> tuple[float, _Layer]:
    """Returns the penalty with the lowest loss on the held-out images, and its layer."""
    problem = _Problem.of(features[~held], labels[~held], weights)
    layer = problem.zeros(len(weights))
    best, kept, worse = np.inf, (0.0, layer), 0
    for penalty in _PENALTIES:
        layer = _minimized(problem, layer, penalty)  # from the solution of the stricter one
        found = problem.unscaled(layer)
        losses = optax.softmax_cross_entropy_with_integer_labels(
            jnp.asarray(_logits(found, features[held])), jnp.asarray(labels[held])
        )
        loss = float(jnp.average(losses, weights=jnp.asarray(weights[labels[held]])))
        worse = 0 if loss < best else worse + 1
        if loss < best:
            best, kept = loss, (penalty, found)
        if worse == _WORSE:
            break
    return kept


class _Problem(NamedTuple):
    """Features of unit variance [N, D], labels [N] and weights [N] of images, and their scaling."""

    features: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> _Problem:
        mean, std = features.mean(axis=0), features.std(axis=0)
        std = np.where(std > 1e-6 * std.max(), std, np.inf)  # constant features have no weight
        each = weights[labels].astype(np.float32)
        return cls(jax.device_put((features - mean) / std), labels, each, mean, std)

    def zeros(self, classes: int) -> _Layer:
        """Returns the layer to begin with."""
        size = self.features.shape[1]
        return _Layer(np.zeros((size, classes), np.float32), np.zeros(classes, np.float32))

    def unscaled(self, layer: _Layer) -> _Layer:
        """Returns a layer for the features as they were."""
        kernel = layer.kernel / self.std[:, None]
        return _Layer(kernel, layer.bias - self.mean @ kernel)


def _minimized(problem: _Problem, first: _Layer, penalty: float) -> _Layer:
    """Minimizes the mean cross-entropy + penalty / 2 · |kernel|², by L-BFGS from `first`."""
    from scipy import optimize  # half a second, which `import jaxsplit` must not take

    shape = first.kernel.shape

    def layer_of(flat: np.ndarray) -> _Layer:
        kernel, bias = np.split(flat.astype(np.float32), [shape[0] * shape[1]])
        return _Layer(kernel.reshape(shape), bias)

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        value, grads = _loss(layer_of(flat), problem, penalty)
        return float(value), np.concatenate([np.ravel(x) for x in grads]).astype(np.float64)

    start = np.concatenate([np.ravel(x) for x in first]).astype(np.float64)
    options = {"maxiter": _STEPS, "gtol": _TOLERANCE}
    found = optimize.minimize(loss, start, method="L-BFGS-B", jac=True, options=options)
    return layer_of(found.x)


@jax.jit
@jax.value_and_grad
def _loss(layer: _Layer, problem: _Problem, penalty: float) -> jax.Array:
    losses = optax.softmax_cross_entropy_with_integer_labels(
        problem.features @ layer.kernel + layer.bias[None], problem.labels
    )
    squares = (layer.kernel**2).sum()
    return jnp.average(losses, weights=problem.weights) + penalty / 2 * squares


def _logits(layer: _Layer, features: np.ndarray) -> np.ndarray:
    return features @ layer.kernel + layer.bias


def _with_layer(module: Chain, variables: Variables, layer: _Layer) -> Variables:
    """Returns the variables with another last layer."""
    params = {**_params(variables), "logits": {"dense": layer._asdict()}}
    return {**cast("Mapping[str, Any]", variables), "params": params}


def _params(variables: Variables) -> Mapping[str, Any]:
    return cast("Mapping[str, Mapping[str, Any]]", variables)["params"]
