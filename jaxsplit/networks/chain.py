"""A network as a chain of named modules, which can be run from any name to any other."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax

from jaxsplit.errors import ConfigError
from jaxsplit.networks.layers import Form


class Chain(nn.Module, kw_only=True):
    """A network whose every block is a named endpoint.

    Running the chain from one name to another gives the head and the tail of a cut, so that both
    are the very operations of the uncut network.

    Attributes:
      num_classes: length of the logits.
      axis_name: device axis over which training averages the batch statistics.
      folded: the batch normalisation is folded into the convolutions (`layers.fold_normalization`).

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

    def chain(self) -> dict[str, functools.partial[Any]]:
        """Endpoint → constructor of the module that ends there, in order.

        Returns:
          The constructors, which take `name`; each module is called with (x, train).

        Raises:
          NotImplementedError: the network's own class doesn't say it.
        """
        raise NotImplementedError

    @property
    def epsilon(self) -> float:
        """What every batch normalisation adds to the variance."""
        return 1e-5

    @property
    def form(self) -> Form:
        """What all layers have in common."""
        return Form(self.epsilon, self.axis_name, self.folded)

    def endpoints(self) -> tuple[str, ...]:
        """The names at which the network can be cut, from the image to the logits."""
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
        chain = self.chain()
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
