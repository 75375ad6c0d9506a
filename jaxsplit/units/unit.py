"""The interface of a bottleneck unit, and the registry of kinds for stored families."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar, Self

import jax
import numpy as np

from jaxsplit.bitstream import CodingTables

#: {"params": …} of one rate, and "batch_stats" where the unit normalises by running moments.
Variables = dict[str, Any]
#: Of one image's features: (H, W, C), or (N, D) of tokens.
Shape = tuple[int, ...]


class Unit(abc.ABC):
    """An encoder for the device, a decoder for the server, and an entropy model.

    A unit codes one array at a cut. It is a frozen dataclass, so it is hashable, and a family
    stores its fields; parameters are arguments. All methods are pure functions of arrays with a
    leading axis B of images and can be jitted. Latents are in quantisation steps: the coded symbol
    is `round(latent - offset)`, with an offset for each channel, the latent's last axis. Six
    methods are abstract; the others have defaults.

    Attributes:
      kind: name under which `register` files the class, and a family stores it.

    >>> from jaxsplit.units import BottleneckSpec
    >>> unit, shape = BottleneckSpec(channels=4, stride=2), (8, 8, 16)
    >>> variables = unit.init(jax.random.key(0), shape)
    >>> latents = unit.encode(variables, jax.numpy.ones((1, *shape)))
    >>> latents.shape[1:] == unit.latent_shape(shape)
    True
    >>> unit.decode(variables, latents, shape).shape
    (1, 8, 8, 16)
    """

    kind: ClassVar[str]

    @abc.abstractmethod
    def latent_shape(self, shape: Shape) -> Shape:
        """Returns the shape of one image's latent, channels last.

        Args:
          shape: of one image's features.

        Returns:
          (h, w, C), or (n, C) of tokens.

        Raises:
          ConfigError: the unit does not fit such features.
        """

    @abc.abstractmethod
    def init(self, key: jax.Array, shape: Shape) -> Variables:
        """Returns fresh variables.

        Args:
          key: a jax random key.
          shape: of one image's features.

        Returns:
          {"params": tree}, float32, and "batch_stats" if there are any.
        """

    @abc.abstractmethod
    def encode(self, variables: Variables, features: jax.Array) -> jax.Array:
        """Runs the encoder, on the device.

        Args:
          variables: as from `init`.
          features: float [B, *shape].

        Returns:
          Latents float [B, *latent_shape], not yet rounded.
        """

    @abc.abstractmethod
    def decode(self, variables: Variables, latents: jax.Array, shape: Shape) -> jax.Array:
        """Runs the decoder, on the server.

        Args:
          variables: as from `init`.
          latents: rounded, or with noise, float [B, *latent_shape].
          shape: of one image's features.

        Returns:
          Features for the tail, float [B, *shape].
        """

    @abc.abstractmethod
    def bits(self, variables: Variables, latents: jax.Array) -> jax.Array:
        """Returns the code length under the prior.

        Args:
          variables: as from `init`.
          latents: rounded, or with noise, float [B, *latent_shape].

        Returns:
          Bits of every element, float [B, *latent_shape].
        """

    @abc.abstractmethod
    def tables(self, variables: Variables, offsets: np.ndarray) -> CodingTables:
        """Freezes the prior into integer tables, one for each channel.

        Args:
          variables: on the host.
          offsets: float32 [channels].

        Returns:
          The tables that sender and receiver share, with these offsets.
        """

    def offsets(self, variables: Variables, channels: int) -> np.ndarray:
        """Returns the offsets to round around: by default 0.

        Args:
          variables: on the host.
          channels: of the latent.

        Returns:
          float32 [channels], in quantisation steps.
        """
        del variables
        return np.zeros(channels, np.float32)

    def encode_train(
        self, variables: Variables, features: jax.Array, axis_name: str | None
    ) -> tuple[jax.Array, Variables]:
        """Runs `encode` in a training step.

        Args:
          variables: as from `init`.
          features: float [B, *shape].
          axis_name: device axis to average batch statistics over; None: one device.

        Returns:
          Latents, and the new "batch_stats" or {}.
        """
        return self.encode(variables, features), variables.get("batch_stats", {})

    def decode_train(
        self, variables: Variables, latents: jax.Array, shape: Shape, axis_name: str | None
    ) -> tuple[jax.Array, Variables]:
        """Runs `decode` in a training step.

        Args:
          variables, latents, shape: as in `decode`.
          axis_name: as in `encode_train`.

        Returns:
          Features, and the new "batch_stats" ({} where there are none).
        """
        return self.decode(variables, latents, shape), variables.get("batch_stats", {})

    def fold(self, variables: Variables) -> tuple[Self, Variables]:
        """Prepares a unit for inference, for example by folding batch normalisation.

        Args:
          variables: as trained.

        Returns:
          The unit and its variables as they run in inference; by default unchanged.
        """
        return self, variables

    def has_prior(self, variables: Variables) -> bool:
        """Checks whether `bits` can be computed: an imported unit may lack its prior.

        Args:
          variables: of the unit.

        Returns:
          True unless overridden.
        """
        return True

    def variable_shapes(self, shape: Shape) -> Variables | None:
        """Returns the shapes of encoder and decoder variables, as a tree of tuples.

        Args:
          shape: of one image's features.

        Returns:
          The tree; None: unknown, and a loaded family's arrays are not checked.
        """
        return None

    @property
    def form(self) -> dict[str, object]:
        """The unit's kind and fields for a stored family, ready for JSON."""
        assert dataclasses.is_dataclass(self)
        return {"kind": self.kind, **dataclasses.asdict(self)}
