"""Costs of a split: multiply-accumulates and parameters of its four stages."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxsplit import networks
from jaxsplit.cost.counting import as_it_runs, count_macs, count_params
from jaxsplit.networks import Backbone
from jaxsplit.split import Split


@dataclasses.dataclass(frozen=True)
class SplitCost:
    """Multiply-accumulates of the four stages for one image, and their parameters.

    Attributes:
      head, encoder, decoder, tail: multiply-accumulates (see `count_macs`) of network and unit
        with batch normalisation folded, as in inference.
      head_params, encoder_params, decoder_params, tail_params: parameters (see `count_params`), of
        the network as stored and of the unit with batch normalisation folded. Coding tables don't
        count.

    >>> cost = SplitCost(
    ...     head=100_000, encoder=20_000, decoder=20_000, tail=9_900_000,
    ...     head_params=200, encoder_params=300, decoder_params=300, tail_params=70_000,
    ... )
    >>> cost.device_macs, cost.device_params, cost.device_share
    (120000, 500, 0.012)
    """

    head: int
    encoder: int
    decoder: int
    tail: int
    head_params: int
    encoder_params: int
    decoder_params: int
    tail_params: int

    @property
    def device_macs(self) -> int:
        """Multiply-accumulates of head and encoder."""
        return self.head + self.encoder

    @property
    def server_macs(self) -> int:
        """Multiply-accumulates of decoder and tail."""
        return self.decoder + self.tail

    @property
    def device_params(self) -> int:
        """Parameters of head and encoder."""
        return self.head_params + self.encoder_params

    @property
    def server_params(self) -> int:
        """Parameters of decoder and tail."""
        return self.decoder_params + self.tail_params

    @property
    def device_share(self) -> float:
        """Multiply-accumulates of the device, as a share of the unsplit network's."""
        return self.device_macs / (self.head + self.tail)


def split_cost(split: Split, backbone: Backbone) -> SplitCost:
    """Counts the four stages of a split, with batch normalisation folded; nothing is run.

    Args:
      split: any cut and unit.
      backbone: the split network; its preprocessing gives the image size.

    Returns:
      The counts for one image.

    >>> from jaxsplit.units.bottleneck import BottleneckSpec
    >>> from jaxsplit.weights.load import load_backbone
    >>> from jaxsplit.split import make_split
    >>> backbone = load_backbone("fashion_mnist_resnet8")
    >>> cost = split_cost(make_split(backbone, "stem", BottleneckSpec(8)), backbone)
    >>> cost.head, f"{100 * cost.device_share:.1f} %"
    (112896, '1.8 %')
    """
    key = jax.random.key(0)
    images = jnp.zeros((1, *backbone.preprocessing.input_shape))
    fresh = jax.eval_shape(split.init, key)
    units, unit = as_it_runs(split.units, fresh)
    features = units.features(batch=1)
    latents = jax.eval_shape(units.encode, unit, features)
    seen = jax.eval_shape(units.decode, unit, latents)  # larger if a unit doesn't crop

    def stages(network: networks.Network, variables: Any) -> dict[str, tuple[Any, ...]]:
        cut = dataclasses.replace(split, network=network, units=units, axis_name=None)
        return {
            "head": (cut.head, variables, images),
            "encoder": (cut.encode, unit, features),
            "decoder": (cut.decode, unit, latents),
            "tail": (cut.tail, variables, seen),
        }

    runs = stages(*as_it_runs(backbone.network, backbone.variables))
    macs = {name: count_macs(*stage) for name, stage in runs.items()}
    stored = stages(backbone.network, backbone.variables)
    params = {f"{name}_params": count_params(*stage) for name, stage in stored.items()}
    return SplitCost(**macs, **params)
