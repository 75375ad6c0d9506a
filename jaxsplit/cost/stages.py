"""Costs of a split: multiply-accumulates and parameters of its four stages."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxsplit.cost.counting import as_it_runs, count_macs, count_params
from jaxsplit.networks import Backbone
from jaxsplit.split import Split
from jaxsplit.units.bottleneck import fold_batch_norm


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
    features = jnp.zeros((1, *split.shape))
    seen = jnp.zeros((1, *split.spec.output_size(*split.shape[:2]), split.shape[2]))
    latent = jnp.zeros((1, *split.latent_shape))
    folded = dataclasses.replace(split.spec, batch_norm=False)
    plain = dataclasses.replace(split, spec=folded, axis_name=None)
    unit = jax.eval_shape(lambda: fold_batch_norm(split.spec, split.init(key))[1])

    def stages(
        cut: Split, variables: object
    ) -> dict[str, tuple[Callable[..., object], object, object]]:
        return {
            "head": (cut.head, variables, images),
            "encoder": (cut.encode, unit, features),
            "decoder": (cut.decode, unit, latent),
            "tail": (cut.tail, variables, seen),  # larger than `features` if the unit doesn't crop
        }

    module, arrays = as_it_runs(backbone.module, backbone.variables)
    runs = stages(dataclasses.replace(plain, module=module), arrays)
    macs = {name: count_macs(*stage) for name, stage in runs.items()}
    stored = stages(plain, backbone.variables)
    params = {f"{name}_params": count_params(*stage) for name, stage in stored.items()}
    return SplitCost(**macs, **params)
