"""A network split at a cut, with units there: pure functions of explicit trees."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from jaxsplit import networks
from jaxsplit.errors import ConfigError
from jaxsplit.networks import Features, Network
from jaxsplit.networks.backbone import check_backbone
from jaxsplit.tasks import Outputs, Task
from jaxsplit.units import Shape, Unit, UnitSpec, Variables, quantization
from jaxsplit.units.quantization import Latents, Offsets
from jaxsplit.units.unit_tree import UnitTree


@dataclasses.dataclass(frozen=True, repr=False)
class Split(UnitTree):
    """The stages head → encode → quantize | dequantize → decode → tail, and the prior's bits.

    The stages of the units (`init`, `encode`, `decode`, `bits`, `fold`, …) are those of `UnitTree`,
    whose docstring describes the trees; see `Unit` for their arguments.

    Attributes:
      network: the frozen network.
      cut: name of the cut.
      task: of the network.
      axis_name: device axis over which training averages the units' batch statistics.

    >>> from jaxsplit.units import BottleneckSpec
    >>> from jaxsplit.weights.load import load_backbone
    >>> backbone = load_backbone("fashion_mnist_resnet8")
    >>> split = make_split(backbone, "stage3.block1", BottleneckSpec(channels=4))
    >>> unit = split.init(jax.random.key(0))
    >>> features = split.head(backbone.variables, jnp.zeros((1, 28, 28, 1)))
    >>> seen, bits = split.reconstruct(unit, features, split.zero_offsets())
    >>> logits = split.tail(backbone.variables, seen)
    >>> features.shape, bits.shape, seen.shape, logits.shape
    ((1, 7, 7, 64), (1, 4, 4, 4), (1, 7, 7, 64), (1, 10))
    """

    network: Network
    cut: str
    task: Task
    axis_name: str | None = None

    add_noise = staticmethod(quantization.add_noise)
    round = staticmethod(quantization.round_latents)

    def __repr__(self) -> str:
        parts = (f"{x.name} {x.shape}".strip() + f" by {x.unit}" for x in self.tensors)
        return f"Split({self.network} at {self.cut!r}: {', '.join(parts)})"

    @property
    def shape(self) -> Shape:
        """Shape of one image's features, where one array crosses."""
        return self.single.shape

    @property
    def spec(self) -> Unit:
        """The unit, where one array crosses."""
        return self.single.unit

    def head(self, variables: networks.Variables, images: jax.Array) -> Features:
        """Runs the network up to the cut.

        Args:
          variables: of the network.
          images: normalized, float [B, h, w, c].

        Returns:
          Features, arrays [B, …].
        """
        return self.network.head(variables, images, self.cut)

    def tail(self, variables: networks.Variables, features: Features) -> Outputs:
        """Runs the network behind the cut.

        Args:
          variables: of the network.
          features: from `head` or `decode`.

        Returns:
          Outputs, arrays [B, …].
        """
        return self.network.tail(variables, features, self.cut)

    def reconstruct(
        self, unit: Variables, features: Features, offsets: Offsets
    ) -> tuple[Features, Latents]:
        """Encodes, rounds and decodes features, without coding them.

        Args:
          unit: variables of the units.
          features: from `head`.
          offsets: of each array [C].

        Returns:
          The tail's input, and bits of every element of the rounded latents.
        """
        latents = self.round(self.encode(unit, features), offsets)
        return self.decode(unit, latents), self.bits(unit, latents)

    def quantize(self, latents: Latents, offsets: Offsets) -> jax.Array:
        """Rounds latents to the symbols of a frame, see `quantization.to_symbols`.

        Args:
          latents: arrays [B, …, C].
          offsets: of each array [C].

        Returns:
          int32 [B, *latent_shape]; `NOT_FINITE` for what is no finite number.
        """
        parts = jax.tree.leaves(quantization.to_symbols(latents, offsets))
        return jnp.concatenate(
            [x.reshape(x.shape[0], *self.latent_shape[:2], -1) for x in parts], -1
        )

    def dequantize(self, symbols: jax.Array, offsets: Offsets) -> Latents:
        """Reconstructs rounded latents from the symbols of a frame.

        Args:
          symbols: int32 [B, *latent_shape].
          offsets: of each array [C].

        Returns:
          Latents, as the decoder gets them.
        """
        return quantization.from_symbols(self.separate(symbols), offsets)


def make_split(
    backbone: networks.Backbone, cut: str, spec: UnitSpec, axis_name: str | None = None
) -> Split:
    """Splits a backbone at a cut, without computing anything.

    Args:
      backbone: the network.
      cut: one of its cuts, see `networks.cuts`; a ConfigError otherwise.
      spec: the unit of every array that crosses, or `units.per_tensor` for one each; a ConfigError
        if one does not fit.
      axis_name: as in `Split`; None outside training.

    Returns:
      The split, without parameters; see `Split.init`.

    >>> from jaxsplit.units import BottleneckSpec
    >>> from jaxsplit.weights.load import load_backbone
    >>> split = make_split(load_backbone("fashion_mnist_resnet8"), "stem", BottleneckSpec(8))
    >>> split.shape, split.latent_shape
    ((28, 28, 16), (14, 14, 8))
    """
    check_backbone(backbone)
    shapes = backbone.features_at(cut)
    try:
        units = UnitTree.at(shapes, spec)
    except ConfigError as error:
        raise ConfigError(f"{backbone.name} cut after {cut}: {error}") from error
    parts = units.tensors, units.structure
    return Split(*parts, backbone.network, cut, backbone.task, axis_name)
