"""Base class of networks that are a chain of named modules; any part of the chain can be run."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import flax.linen as nn
import jax

from jaxsplit.errors import ConfigError
from jaxsplit.networks.layers import NormConfig

#: Endpoint → constructor of the module that ends there.
Blocks = Mapping[str, Callable[..., nn.Module]]


class Chain(nn.Module, kw_only=True):
    """A network whose blocks are all named endpoints.

    Head and tail of a cut are parts of the chain, so they execute the same operations as the
    unsplit network.

    Attributes:
      num_classes: length of the logits.
      axis_name: device axis over which training averages the batch statistics.
      folded: batch normalization is folded into the convolutions, see `layers.fold_normalization`.

    >>> import functools
    >>> from jaxsplit.networks import endpoint_shapes
    >>> from jaxsplit.networks.layers import Classifier
    >>> class Stem(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, x, train):
    ...         return nn.relu(nn.Conv(8, (3, 3), strides=2)(x))
    >>> class Tiny(Chain):
    ...     def chain(self):
    ...         logits = functools.partial(Classifier, self.num_classes)
    ...         return {"stem": functools.partial(Stem), "logits": logits}
    >>> network = Tiny(num_classes=10)
    >>> network.endpoints(), endpoint_shapes(network, (28, 28, 1))
    (('stem', 'logits'), {'stem': (14, 14, 8)})
    """

    num_classes: int
    axis_name: str | None = None
    folded: bool = False

    def chain(self) -> Blocks:
        """Returns the constructors of the blocks, in order.

        Returns:
          Endpoint → constructor, which takes `name`; each module is called with (x, train).

        Raises:
          NotImplementedError: the subclass does not define it.
        """
        raise NotImplementedError

    @property
    def epsilon(self) -> float:
        """Term that every batch normalization adds to the variance."""
        return 1e-5

    @property
    def norm_config(self) -> NormConfig:
        """Batch normalization settings that all layers share."""
        return NormConfig(self.epsilon, self.axis_name, self.folded)

    def endpoints(self) -> tuple[str, ...]:
        """Returns the names of all endpoints, from the image to the logits."""
        return tuple(self.chain())

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        start: str | None = None,
        stop: str | None = None,
        train: bool = False,
    ) -> jax.Array:
        """Runs the network, or the part after `start` up to and including `stop`.

        Args:
          x: normalized images float [B, H, W, c], or the features at `start`.
          start: endpoint whose output is `x`; None for images.
          stop: endpoint to return; None for the logits.
          train: use batch statistics (mutable collection "batch_stats") instead of stored ones.

        Returns:
          Features [B, h, w, width] at `stop`, or logits [B, num_classes].

        Raises:
          ConfigError: no such endpoint.
        """
        chain = self.chain()
        names = list(chain)
        for name in (start, stop):
            if name is not None and name not in chain:
                raise ConfigError(f"no endpoint is called {name!r}; there are {', '.join(names)}")
        first = 0 if start is None else names.index(start) + 1
        last = len(names) - 1 if stop is None else names.index(stop)
        for name in names[first : last + 1]:
            # Dots separate names in Flax's parameter paths, so module names have "_".
            x = chain[name](name=name.replace(".", "_"))(x, train)
        return x
