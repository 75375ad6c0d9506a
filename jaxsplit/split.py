"""A network cut in two with a unit at the cut: pure functions of explicit trees."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxsplit import networks
from jaxsplit.errors import ConfigError
from jaxsplit.units.bottleneck import Bottleneck, BottleneckSpec

Tree = Any


@dataclasses.dataclass(frozen=True)
class Split:
    """The four stages head → encode | decode → tail, and the prior's bits between them.

    Every method is a pure function of the trees that it is given and can be jitted, mapped and
    differentiated: `backbone` is {"params", "batch_stats"} of the frozen network, `unit` the small
    tree of one rate. Another rate is another `unit` of the same shapes, so nothing recompiles.

    Attributes:
      module: the network's Linen module.
      cut: endpoint after which it is cut.
      shape: (H, W, Cin) of the features there.
      spec: form of the unit.
      axis_name: device axis over which training averages the unit's batch statistics.

    >>> from jaxsplit.weights.load import load_backbone
    >>> backbone = load_backbone("fashion_mnist_resnet8")
    >>> split = make_split(backbone, "stage3.block1", BottleneckSpec(channels=4))
    >>> unit = split.init(jax.random.key(0))
    >>> features = split.head(backbone.variables, jnp.zeros((1, 28, 28, 1)))
    >>> latent = jnp.round(split.encode(unit, features))
    >>> logits = split.tail(backbone.variables, split.decode(unit, latent))
    >>> features.shape, latent.shape, split.bits(unit, latent).shape, logits.shape
    ((1, 7, 7, 64), (1, 4, 4, 4), (1, 4, 4, 4), (1, 10))
    """

    module: Any
    cut: str
    shape: tuple[int, int, int]
    spec: BottleneckSpec
    axis_name: str | None = None

    @property
    def unit(self) -> Any:
        """The unit's Linen module."""
        return Bottleneck(self.spec, self.shape, self.axis_name)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(h, w, C) of one image's latent."""
        return (*self.spec.latent_size(*self.shape[:2]), self.spec.channels)

    def init(self, key: jax.Array) -> Tree:
        """A fresh unit.

        Args:
          key: a jax random key.

        Returns:
          {"params": {"encoder", "decoder", "prior"}, "batch_stats"}, float32.
        """
        return self.unit.init(key, jnp.zeros((1, *self.shape)))

    def head(self, backbone: Tree, images: jax.Array) -> jax.Array:
        """The network up to the cut.

        Args:
          backbone: {"params", "batch_stats"} of the network.
          images: normalised, float [B, h, w, c].

        Returns:
          Features at the cut, float [B, H, W, Cin].
        """
        return self.module.apply(backbone, images, stop=self.cut)

    def tail(self, backbone: Tree, features: jax.Array) -> jax.Array:
        """The network behind the cut.

        Args:
          backbone: as of `head`.
          features: at the cut, float [B, H, W, Cin]: the head's own, or those of `decode`.

        Returns:
          Logits float [B, K].
        """
        return self.module.apply(backbone, features, start=self.cut)

    def encode(self, unit: Tree, features: jax.Array) -> jax.Array:
        """The unit's half on the device.

        Args:
          unit: variables of one rate, as of `init`.
          features: at the cut, float [B, H, W, Cin].

        Returns:
          Latent float [B, h, w, C] in quantisation steps, not yet rounded.
        """
        return self.unit.apply(unit, features, method="encode")

    def decode(self, unit: Tree, latent: jax.Array) -> jax.Array:
        """The unit's half on the server.

        Args:
          unit: as of `encode`.
          latent: rounded, or with noise in its place, float [B, h, w, C].

        Returns:
          Features for `tail`, float [B, H, W, Cin]; larger where the unit doesn't crop.
        """
        return self.unit.apply(unit, latent, method="decode")

    def bits(self, unit: Tree, latent: jax.Array) -> jax.Array:
        """What the prior charges for a latent.

        Args:
          unit: as of `encode`.
          latent: rounded, or with noise in its place, float [B, h, w, C].

        Returns:
          Bits of every element, float [B, h, w, C]; `losses.rate` sums those of an image.
        """
        return self.unit.apply(unit, latent, method="bits")


def make_split(
    backbone: networks.Backbone, cut: str, spec: BottleneckSpec, axis_name: str | None = None
) -> Split:
    """Cuts a backbone; nothing is computed yet.

    Args:
      backbone: the network.
      cut: one of its endpoints, as `networks.cuts` lists them with their shapes.
      spec: form of the unit.
      axis_name: as of `Split`; None outside of a training.

    Returns:
      The four stages, without parameters: `Split.init` makes a unit's.

    Raises:
      ConfigError: there is no such cut, or the features there are smaller than the unit's kernel.

    >>> from jaxsplit.weights.load import load_backbone
    >>> split = make_split(load_backbone("fashion_mnist_resnet8"), "stem", BottleneckSpec(8))
    >>> split.shape, split.latent_shape
    ((28, 28, 16), (14, 14, 8))
    """
    shapes = _cut_shapes(backbone.module, backbone.preprocessing.input_shape)
    if cut not in shapes:
        raise ConfigError(f"{backbone.name} has no cut {cut!r}; it has {', '.join(shapes)}")
    shape = shapes[cut]
    if min(spec.latent_size(*shape[:2])) < 1:
        raise ConfigError(f"features of {shape} at {cut} are too small for {spec}")
    return Split(backbone.module, cut, shape, spec, axis_name)


_cut_shapes = functools.lru_cache(networks.endpoint_shapes)
