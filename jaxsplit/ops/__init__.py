"""Differentiable operations shared by the units, the networks and the entropy model."""

from jaxsplit._moved import renamed
from jaxsplit.ops.batch_norm import batch_norm
from jaxsplit.ops.convolution import conv, pointwise
from jaxsplit.ops.depthwise import depthwise_conv, depthwise_conv_transpose
from jaxsplit.ops.surrogate_gradients import add_uniform_noise, round_straight_through

__all__ = [
    "add_uniform_noise",
    "batch_norm",
    "conv",
    "depthwise_conv",
    "depthwise_conv_transpose",
    "pointwise",
    "round_straight_through",
]

__getattr__ = renamed(__name__)
