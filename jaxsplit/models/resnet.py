"""Residual networks in which every block is a named endpoint.

A network is a chain of named modules: the stem, the residual blocks and the classifier. Running
the chain from one name to another gives the head and the tail of a cut, so that both are the very
operations of the uncut network.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxsplit.errors import ConfigError

_he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "truncated_normal")
_conv3x3 = functools.partial(
    nn.Conv, kernel_size=(3, 3), padding=1, use_bias=False, kernel_init=_he_normal
)


@dataclasses.dataclass(frozen=True)
class ResNetSize:
    """What tells one residual network of a form from another.

    Attributes:
      blocks: residual blocks in each stage.
      widths: output channels of each stage.
    """

    blocks: tuple[int, ...]
    widths: tuple[int, ...]


SIZES = {
    f"resnet{6 * n + 2}_small": ResNetSize(blocks=(n, n, n), widths=(16, 32, 64)) for n in (1, 3, 9)
}


class Stem(nn.Module):
    """3×3 convolution, batch normalisation, ReLU: [B, H, W, c] → [B, H, W, width]."""

    width: int
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = _conv3x3(self.width, name="conv")(x)
        return nn.relu(_batch_norm(train, self.axis_name, "bn")(x))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut without parameters (option A of He et al. 2016).

    Where the block halves the resolution the shortcut takes every second pixel and pads the new
    channels with zeros.
    """

    width: int
    stride: int = 1
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = _conv3x3(self.width, strides=self.stride, name="conv1")(x)
        y = nn.relu(_batch_norm(train, self.axis_name, "bn1")(y))
        y = _conv3x3(self.width, name="conv2")(y)
        y = _batch_norm(train, self.axis_name, "bn2")(y)
        shortcut = x[:, :: self.stride, :: self.stride]
        grown = self.width - x.shape[-1]
        if grown:
            shortcut = jnp.pad(shortcut, ((0, 0), (0, 0), (0, 0), (grown // 2, grown - grown // 2)))
        return nn.relu(y + shortcut)


class Classifier(nn.Module):
    """Global average pooling and a linear layer: [B, h, w, c] → logits [B, classes]."""

    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        del train
        return nn.Dense(self.num_classes, name="dense")(x.mean(axis=(1, 2)))


class SmallResNet(nn.Module):
    """Residual network for small images: the CIFAR form of He et al. 2016 (arXiv 1512.03385, 4.2).

    Attributes:
      size: blocks and widths of the stages; every stage after the first halves the resolution.
      num_classes: length of the logits.
      axis_name: device axis over which training averages the batch statistics.
    """

    size: ResNetSize
    num_classes: int
    axis_name: str | None = None

    def endpoints(self) -> tuple[str, ...]:
        """The names at which the network can be cut, from the image to the logits."""
        return tuple(self._chain())

    def _chain(self) -> dict[str, functools.partial[Any]]:
        """Endpoint → constructor of the module that ends there, in order."""
        axis = self.axis_name
        chain: dict[str, functools.partial[Any]] = {
            "stem": functools.partial(Stem, self.size.widths[0], axis)
        }
        for i, (count, width) in enumerate(zip(self.size.blocks, self.size.widths, strict=True)):
            for j in range(count):
                stride = 2 if i and not j else 1
                chain[f"stage{i + 1}.block{j + 1}"] = functools.partial(
                    BasicBlock, width, stride, axis
                )
        chain["logits"] = functools.partial(Classifier, self.num_classes)
        return chain

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        start: str | None = None,
        stop: str | None = None,
        train: bool = False,
    ) -> jax.Array:
        """Runs the network, or the part of it after `start` up to and with `stop`.

        Args:
          x: normalised images float [B, H, W, c], or the features at `start`.
          start: endpoint whose output `x` is; None for images.
          stop: endpoint to return; None for the logits.
          train: batch statistics (mutable collection "batch_stats") in place of stored ones.

        Returns:
          Features [B, h, w, width] at `stop`, or logits [B, num_classes].

        Raises:
          ConfigError: there is no such endpoint.
        """
        chain = self._chain()
        names = list(chain)
        for name in (start, stop):
            if name is not None and name not in chain:
                raise ConfigError(f"no endpoint is called {name!r}; there are {', '.join(names)}")
        first = 0 if start is None else names.index(start) + 1
        last = len(names) - 1 if stop is None else names.index(stop)
        for name in names[first : last + 1]:
            # A dot separates names inside Flax's parameter paths, so modules take "_".
            x = chain[name](name=name.replace(".", "_"))(x, train)
        return x


def _batch_norm(train: bool, axis_name: str | None, name: str) -> nn.BatchNorm:
    return nn.BatchNorm(
        use_running_average=not train, momentum=0.9, epsilon=1e-5, axis_name=axis_name, name=name
    )
