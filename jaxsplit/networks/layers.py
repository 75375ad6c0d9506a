"""Layers of the networks, and the chain of named blocks that a network is."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import ScopeParamShapeError

from jaxsplit import ops
from jaxsplit.errors import ConfigError, choices
from jaxsplit.trees import Array, Tree

_KERNEL_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "truncated_normal")
#: Collection → block → layer → name → array.
LayerVariables = Mapping[str, Mapping[str, Mapping[str, Mapping[str, Array]]]]
_NORM, _CONV = "bn", "conv"  # a block's "bn1" normalizes its "conv1"


@dataclasses.dataclass(frozen=True)
class NormConfig:
    """Batch normalization settings that all layers of a network share; see `Chain`."""

    epsilon: float = 1e-5
    axis_name: str | None = None
    folded: bool = False


# True while only the shapes of variables are asked for.
_SHAPES_ONLY = contextvars.ContextVar("shapes only", default=False)


@contextlib.contextmanager
def shapes_only() -> Iterator[None]:
    """Makes the layers below declare their variables and compute nothing but the right shapes.

    Tracing a network's `init` takes a tenth of the time then.
    """
    token = _SHAPES_ONLY.set(True)
    try:
        yield
    finally:
        _SHAPES_ONLY.reset(token)


class _Layer(nn.Module):
    """A layer whose initializers take a shape first: Flax would trace them to check that shape.

    That is half the time of tracing a network.
    """

    def param(
        self, name: str, init_fn: Callable[..., Any], *init_args: Any, **options: Any
    ) -> Any:  # as Flax types it
        """Returns a parameter, as `Module.param` does."""
        shape, *rest = init_args
        if self.scope is not None and self.has_variable("params", name):
            value: jax.Array = self.get_variable("params", name)
            if np.shape(value) != tuple(shape):
                raise ScopeParamShapeError(name, self.scope.path_text, np.shape(value), shape)
            return value
        if _SHAPES_ONLY.get():
            self.put_variable("params", name, jnp.zeros(shape, *rest))
            return self.get_variable("params", name)
        return super().param(name, init_fn, *init_args, **options)


class BatchNorm(_Layer, nn.BatchNorm):
    """Batch normalization of Flax."""

    @nn.compact
    def declare(self, x: jax.Array) -> jax.Array:
        """Declares the variables alone, see `shapes_only`."""
        shape = (x.shape[-1],)
        for name in ("scale", "bias"):
            self.param(name, nn.initializers.zeros, shape)
        for name in ("mean", "var"):
            self.put_variable("batch_stats", name, jnp.zeros(shape))
        return x


class LayerNorm(_Layer, nn.LayerNorm):
    """Layer normalization of Flax, over the channels, with the variance of centred values."""

    epsilon: float = 1e-6
    use_fast_variance: bool = False


class Dense(_Layer, nn.Dense):
    """Linear layer of Flax."""


class Conv(_Layer):
    """Convolution [B, H, W, c] → [B, h, w, features], computed by `ops.conv`.

    Attributes:
      features: output channels.
      size: side of the kernel.
      stride: of both axes.
      padding: zeros on every side, or "SAME" as in TensorFlow, see `ops.conv`; None: size // 2,
        times the dilation.
      depthwise: each channel has its own filter; `features` is c.
      bias: add a bias.
      dilation: distance between the pixels under adjacent weights.
    """

    features: int
    size: int = 1
    stride: int = 1
    padding: str | int | None = None
    depthwise: bool = False
    bias: bool = False
    dilation: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.size, self.size, 1 if self.depthwise else x.shape[-1], self.features)
        kernel = self.param("kernel", _KERNEL_INIT, shape, jnp.float32)
        bias = None
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        padding = self.size // 2 * self.dilation if self.padding is None else self.padding
        if _SHAPES_ONLY.get():
            reach = self.dilation * (self.size - 1) + 1
            spare = self.stride - 1 if padding == "SAME" else 2 * int(padding) - reach
            h, w = ((n + spare) // self.stride + (padding != "SAME") for n in x.shape[1:3])
            return jnp.zeros((len(x), h, w, self.features), x.dtype)
        weights = kernel.astype(x.dtype)
        x = ops.conv(x, weights, self.stride, padding, self.depthwise, self.dilation)
        return x if bias is None else x + bias.astype(x.dtype).reshape(1, 1, 1, -1)


def conv_norm(
    x: jax.Array,
    config: NormConfig,
    train: bool,
    features: int,
    suffix: str = "",
    *,
    size: int = 1,
    stride: int = 1,
    padding: str | None = None,
    depthwise: bool = False,
    dilation: int = 1,
) -> jax.Array:
    """Applies a `Conv` and its batch normalization, inside a compact module.

    The layers are named "conv" + suffix and "bn" + suffix. With `train`, the normalization is by
    the statistics of the batch.
    """
    name = _CONV + suffix
    geometry = size, stride, padding, depthwise
    x = Conv(features, *geometry, bias=config.folded, dilation=dilation, name=name)(x)
    if config.folded:
        return x
    norm = BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=config.epsilon,
        axis_name=config.axis_name,
        name=_NORM + suffix,
    )
    return norm.declare(x) if _SHAPES_ONLY.get() else norm(x)


class ConvBlock(nn.Module):
    """Convolution, batch normalization and activation: [B, H, W, c] → [B, h, w, width]."""

    width: int
    size: int
    stride: int
    config: NormConfig
    padding: str | None = None
    activation: Callable[[jax.Array], jax.Array] = nn.relu

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        size, stride, padding = self.size, self.stride, self.padding
        return self.activation(
            conv_norm(x, self.config, train, self.width, size=size, stride=stride, padding=padding)
        )


class Perceptron(nn.Module):
    """Linear layer to `inside` channels, GELU, and one back: float [..., c] → [..., c]."""

    inside: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = Dense(self.inside, name="expand")(x)
        # The exact GELU; jax's own form of it, with erfc, takes longer on CPUs.
        y = 0.5 * y * (1 + jax.lax.erf(math.sqrt(0.5) * y))
        return Dense(x.shape[-1], name="project")(y)


class Classifier(nn.Module):
    """Global average pooling and a linear layer: [B, h, w, c] → logits [B, classes]."""

    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        del train
        return Dense(self.num_classes, name="dense")(x.mean(axis=(1, 2)))


#: Constructor of a block, which takes `name`; the block is called with (x, train).
Block = Callable[..., nn.Module]


class Chain(nn.Module, kw_only=True):
    """A network whose blocks are all named endpoints; any part of the chain can be run.

    Head and tail of a cut execute the same operations as the unsplit network.

    Attributes:
      num_classes: length of the logits.
      axis_name: device axis over which training averages the batch statistics.
      folded: batch normalization is folded into the convolutions, see `fold_normalization`.

    >>> import functools
    >>> class Tiny(Chain):
    ...     def chain(self):
    ...         stem = functools.partial(ConvBlock, 8, 3, 2, NormConfig())
    ...         return {"stem": stem, "logits": functools.partial(Classifier, self.num_classes)}
    >>> Tiny(num_classes=10).endpoints()
    ('stem', 'logits')
    """

    num_classes: int
    axis_name: str | None = None
    folded: bool = False

    def chain(self) -> Mapping[str, Block]:
        """Returns endpoint → its block, in order; to be defined by the subclass."""
        raise NotImplementedError

    @property
    def epsilon(self) -> float:
        """Term that every batch normalization adds to the variance."""
        return 1e-5

    def endpoints(self) -> tuple[str, ...]:
        """Returns the names of all endpoints, from the image to the logits."""
        return tuple(self.chain())

    @nn.compact
    def __call__(
        self,
        x: Tree,
        *,
        start: str | None = None,
        stop: str | None = None,
        train: bool = False,
    ) -> Any:  # an array, or a dictionary of several
        """Runs the network, or the part after `start` up to and including `stop`.

        Args:
          x: normalized images float [B, H, W, c], or the features at `start`.
          start: endpoint whose output is `x`; None for images.
          stop: endpoint to return, or a ConfigError if there is none; None for the logits.
          train: use batch statistics (mutable collection "batch_stats") instead of stored ones.

        Returns:
          Features [B, h, w, width] at `stop`, a dictionary of them where several arrays cross, or
          logits [B, num_classes].
        """
        chain = self.chain()
        names = list(chain)
        for name in (start, stop):
            if name not in (None, *names):
                raise ConfigError(
                    f"no endpoint is called {name!r}; there are {choices(name, names)}"
                )
        first = 0 if start is None else names.index(start) + 1
        last = len(names) - 1 if stop is None else names.index(stop)
        for name in names[first : last + 1]:
            # Dots separate names in Flax's parameter paths, so module names have "_".
            x = chain[name](name=name.replace(".", "_"))(x, train)
        return x


def fold_normalization(variables: LayerVariables, epsilon: float) -> LayerVariables:
    """Folds every batch normalization into the convolution before it, for inference.

    Args:
      variables: {"params", "batch_stats"} of a network.
      epsilon: term that its normalizations add to the variance.

    Returns:
      {"params"} of the same network with `folded=True`.

    >>> from jaxsplit.weights.load import load_backbone
    >>> backbone = load_backbone("fashion_mnist_resnet8")
    >>> sorted(fold_normalization(backbone.variables, backbone.module.epsilon)["params"]["stem"])
    ['conv']
    """
    params: dict[str, dict[str, Mapping[str, Array]]] = {}
    for block, layers in variables["params"].items():
        params[block] = dict(layers)
        for norm in [name for name in layers if name.startswith(_NORM)]:
            stats = variables["batch_stats"][block][norm]
            affine = params[block].pop(norm)
            # A power works for numpy and traced arrays; numpy computes it as a square root.
            scale = affine["scale"] / (stats["var"] + np.float32(epsilon)) ** 0.5
            conv = norm.replace(_NORM, _CONV, 1)
            params[block][conv] = {
                "kernel": layers[conv]["kernel"] * scale.reshape(1, 1, 1, -1),
                "bias": affine["bias"] - stats["mean"] * scale,
            }
    return {"params": params}
