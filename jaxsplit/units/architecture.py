"""The architecture of the paper's unit: kernels, strides, widths, and the sizes they give."""

from __future__ import annotations

import dataclasses
import math

from jaxsplit.errors import ConfigError
from jaxsplit.units.layers import ACTIVATIONS

_MOST_STRIDE = 64


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Sizes and layers of the paper's unit; see `BottleneckSpec`.

    Attributes:
      channels: C, channels of the latent.
      stride: s of the depthwise convolutions.
      kernel: side of the encoder's depthwise kernel.
      padding: zeros around the encoder's input.
      decoder_kernel, decoder_padding: the same for the transposed convolution; default: the
        encoder's.
      multiplier: depthwise filters per feature channel.
      decoder_multiplier: the same of the decoder; default: the encoder's.
      step: quantisation step; the latent is divided by it before it is rounded.
      activation: after the depthwise and pointwise convolutions: "relu" or "none".
      latent_activation: on the latent, "none" or "relu" (the published units, latents ≥ 0).
      output_activation: on the reconstruction; "relu" where the features are ≥ 0.
      batch_norm: normalise after every convolution; without it every convolution has a bias.
      crop: cut the reconstruction to the size of the features.

    Raises:
      ConfigError: an impossible size, step or activation.

    >>> Architecture(channels=64, stride=2).latent_size(7, 7)
    (4, 4)
    """

    channels: int
    stride: int = 2
    kernel: int = 3
    padding: int = 1
    decoder_kernel: int | None = None
    decoder_padding: int | None = None
    multiplier: int = 1
    step: float = 1.0
    activation: str = "relu"
    latent_activation: str = "none"
    output_activation: str = "relu"
    batch_norm: bool = True
    crop: bool = True
    decoder_multiplier: int | None = None

    def __post_init__(self) -> None:
        for name in ("activation", "latent_activation", "output_activation"):
            if getattr(self, name) not in ACTIVATIONS:
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}; expected one of {sorted(ACTIVATIONS)}"
                )
        kernel, padding = self.decoder_form
        counts = (self.channels, self.stride, self.kernel, self.multiplier, kernel)
        whole = (*counts, self.decoder_filters, self.padding, padding)
        if not all(type(count) is int for count in whole):
            raise ConfigError(f"sizes and numbers of a unit are whole numbers: {self}")
        if min(*counts, self.decoder_filters) < 1 or not 0 < self.step < math.inf:
            raise ConfigError(
                f"channels, stride, kernels, multiplier, step must be positive: {self}"
            )
        if not (0 <= self.padding < self.kernel and 0 <= padding < kernel):
            raise ConfigError(f"paddings must be less than kernels, and not negative: {self}")
        if self.stride > _MOST_STRIDE:
            raise ConfigError(f"strides must be at most {_MOST_STRIDE}: {self}")

    def latent_size(self, height: int, width: int) -> tuple[int, int]:
        """Returns rows and columns of the latent for features of (height, width).

        They are less than 1 where the features are smaller than the kernel.
        """
        h, w = ((n + 2 * self.padding - self.kernel) // self.stride + 1 for n in (height, width))
        return h, w

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Returns rows and columns of the reconstruction for features of (height, width).

        They are those of the features with `crop`, else of the transposed convolution.
        """
        if self.crop:
            return height, width
        kernel, padding = self.decoder_form
        h, w = (
            (n - 1) * self.stride - 2 * padding + kernel for n in self.latent_size(height, width)
        )
        return h, w

    @property
    def decoder_filters(self) -> int:
        """Depthwise filters per feature channel of the decoder."""
        return self.multiplier if self.decoder_multiplier is None else self.decoder_multiplier

    @property
    def decoder_form(self) -> tuple[int, int]:
        """(kernel, padding) of the transposed convolution."""
        kernel = self.kernel if self.decoder_kernel is None else self.decoder_kernel
        padding = self.padding if self.decoder_padding is None else self.decoder_padding
        return kernel, padding
