"""The training that `adapt` runs at any cut: one variable-rate unit that begins as PCA."""

from __future__ import annotations

import math

from jaxsplit.cost import make_plan, plan_unit
from jaxsplit.errors import ConfigError
from jaxsplit.networks import Backbone
from jaxsplit.train.config import CurveConfig
from jaxsplit.train.losses import Distortion
from jaxsplit.train.step import Phase, Rate
from jaxsplit.units import ResidualSpec, Shape

#: Rate weights of the named rates, from the fewest bytes.
LAMBDAS = tuple(round(2e-3 * 200 ** (-i / 7), 8) for i in range(8))
#: Names of the rates.
RATES = tuple(f"r{i}" for i, _ in enumerate(LAMBDAS, 1))
#: Images of a training step.
BATCH_SIZE = 16

_BLOCKS = 2  # of the encoder
_WIDTHS = (160, 112, 80, 56, 40, 28, 20, 14, 10, 8)  # of the encoder, as many as it affords
_FEW = 16  # positions of a latent that may have as many channels as the encoder
_CHANNELS = 96  # most of others
_ENCODER_SHARE = 0.05  # of the network's multiply-accumulates, at most
_SIDE = 7  # features of at least so many rows are coded in patches of 2×2
_DECODER = 1.45  # widths of the encoder
_FISHER_SAMPLES = 256


def default_unit(shape: Shape, macs: int) -> ResidualSpec:
    """Returns the unit for features of a shape.

    Args:
      shape: (H, W, C).
      macs: multiply-accumulates of the unsplit network: the encoder has at most a twentieth, if a
        unit of 8 channels has.

    Returns:
      A residual unit, which can begin as PCA; a ConfigError for features of another rank.

    >>> unit = default_unit((28, 28, 40), 385_000_000)
    >>> unit.stride, unit.channels, unit.width
    (2, 96, 112)
    """
    if len(shape) != 3:
        raise ConfigError(
            f"features of {shape}; this unit takes one array (H, W, channels): name another cut, "
            "or train a unit of your own with jaxsplit.train_family"
        )
    stride = 2 if min(shape[:2]) >= _SIDE else 1
    positions = math.prod(-(-side // stride) for side in shape[:2])
    few = positions <= _FEW
    for width in _WIDTHS if few else _WIDTHS[1:]:
        spec = ResidualSpec(
            channels=min(width if few else _CHANNELS, width, shape[2] * stride**2),
            stride=stride,
            width=width,
            blocks=_BLOCKS,
            expansion=1,
            decoder_width=math.ceil(_DECODER * width),
            decoder_expansion=2,
        )
        if plan_unit(spec, shape).encoder_macs <= _ENCODER_SHARE * macs:
            break
    return spec


def recipe(
    backbone: Backbone,
    cut: str,
    data: str,
    *,
    steps: int,
    split: str = "train",
    labels: float = 0.0,
    seed: int = 0,
) -> CurveConfig:
    """Returns the training of a variable-rate unit, by distillation from the unsplit network.

    Args:
      backbone, cut: the network and one of its cuts.
      data, split: name of the training images.
      steps: of the training; 0 leaves the unit at PCA.
      labels: weight of the loss of the images' own labels, beside 1 for the distillation.
      seed: of all random choices.

    Returns:
      The configuration, for `train_curve`.
    """
    shape = tuple(getattr(backbone.features_at(cut), "shape", ()))
    macs = make_plan(backbone, channels=(), strides=(), progress=False).macs
    distortion = Distortion(distillation=1.0, labels=labels, features=0.05, temperature=4.0)
    return CurveConfig(
        backbone=backbone.weights or backbone.fingerprint,
        cut=cut,
        spec=default_unit(shape, macs),
        variable_rate=True,
        rates=tuple(map(Rate, RATES, LAMBDAS)),
        phases=(Phase(steps, distortion, "round"),),
        data=data,
        train_split=split,
        initialization="pca",
        fisher_samples=_FISHER_SAMPLES,
        lambda_weighting=0.5,
        batch_size=BATCH_SIZE,
        learning_rate=5e-4,
        prior_lr_multiplier=5.0,
        linear_lr_multiplier=0.05,
        max_norm=math.inf,
        ema=0.998,
        flip=True,
        tables="channels",
        feature_dtype="float16",
        seed=seed,
    )
