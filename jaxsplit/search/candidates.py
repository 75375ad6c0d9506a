"""Configuration and candidates of a search."""

from __future__ import annotations

import dataclasses
import math
from typing import cast

from jaxsplit._moved import renamed_attributes
from jaxsplit.cost import Plan, unit_grid
from jaxsplit.errors import ConfigError
from jaxsplit.train.config import check_config, digest
from jaxsplit.units.bottleneck import BottleneckSpec

# These change the length or the output of a search, and none of its trainings.
_OUTSIDE = ("minutes", "most_drop", "points", "full_steps")


@renamed_attributes
@dataclasses.dataclass(frozen=True)
class DesignConfig:
    """A search over cuts, channels, strides and lambdas.

    Attributes:
      backbone: a name or file, see `load_backbone`.
      cuts: endpoints to try; none: all.
      channels, strides, lambdas: of the units; every combination that fits is a candidate.
      minutes: time limit of the whole search.
      rungs: rounds of training and comparison.
      on_features: share of the first rung's training that minimises the feature error at the cut,
        with fast steps. Later steps distil the unsplit network's outputs, as in a full training.
      keep: share of the candidates of each cut that a comparison keeps.
      weight: of the relative squared feature error in the loss, against lambda · bits.
      most_drop: how much worse than the unsplit network a point of the front may be, in the unit
        of the task's metric: for top-1 a share, 0 … 1. It removes none before the end: units
        trained on features only have low accuracy.
      data, train_split, test_split: images to train on, and to compare on.
      max_samples, max_eval_samples: images of both; comparisons before the last use fewer.
      batch_size, learning_rate, prior_lr_multiplier, ema, seed: as in `CurveConfig`.
      cache_gib: largest size of the features of all cuts, float16.
      points: of the front that the configuration for the full training takes.
      full_steps: of that training.

    Raises:
      ConfigError: an impossible value, or two that don't go together.

    >>> short = DesignConfig("fashion_mnist_resnet8", cuts=("stem",), minutes=2)
    >>> short.key == dataclasses.replace(short, minutes=30).key  # more minutes resume it
    True
    """

    backbone: str
    cuts: tuple[str, ...] = ()
    channels: tuple[int, ...] = (4, 8, 16)
    strides: tuple[int, ...] = (2, 4)
    lambdas: tuple[float, ...] = (1e-3, 2.5e-4, 6e-5)
    minutes: float = 15.0
    rungs: int = 3
    on_features: float = 0.3
    keep: float = 0.4
    weight: float = 10.0
    most_drop: float = 0.2
    data: str = "embedded"
    train_split: str = "train[:90%]"
    test_split: str = "train[90%:]"
    max_samples: int | None = 4000
    max_eval_samples: int | None = 1000
    batch_size: int = 32
    learning_rate: float = 1e-2
    prior_lr_multiplier: float = 3.0
    ema: float = 0.98
    seed: int = 0
    cache_gib: float = 8.0
    points: int = 8
    full_steps: int = 4000

    def __post_init__(self) -> None:
        if not (self.channels and self.strides and self.lambdas):
            raise ConfigError("a search needs channels, strides and lambdas: at least one of each")
        if not all(0 <= lmbda < math.inf for lmbda in self.lambdas):
            raise ConfigError(f"lambdas are {self.lambdas}; expected numbers ≥ 0")
        if len({f"{lmbda:g}" for lmbda in self.lambdas}) < len(self.lambdas):
            raise ConfigError(f"lambdas are {self.lambdas}; expected different ones")
        check_config(self)

    @property
    def key(self) -> str:
        """Short name of this search, independent of its time limit."""
        values = dataclasses.asdict(self)
        return digest({name: x for name, x in values.items() if name not in _OUTSIDE})


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A unit at a cut with its rate weight.

    Attributes:
      cut: endpoint of the network.
      spec: architecture of the unit.
      lmbda: distortion per bit.
      device_macs: multiply-accumulates of head and encoder for one image.

    >>> Candidate("stem", BottleneckSpec(8), 1e-3, device_macs=160_000).name
    'stem c8 s2 0.001'
    """

    cut: str
    spec: BottleneckSpec
    lmbda: float
    device_macs: int

    @property
    def name(self) -> str:
        """Name that is unique within a search."""
        return f"{self.cut} c{self.spec.channels} s{self.spec.stride} {self.lmbda:g}"

    def to_dict(self) -> dict[str, object]:
        """Returns cut, channels, stride, lambda and multiply-accumulates, ready for JSON."""
        size = {"channels": self.spec.channels, "stride": self.spec.stride}
        return {"cut": self.cut, **size, "lambda": self.lmbda, "device_macs": self.device_macs}


def candidates(config: DesignConfig, plan: Plan) -> tuple[Candidate, ...]:
    """Returns the candidates of a search, those of one architecture at one cut together.

    A unit is left out where head and encoder cost as much as the unsplit network: running that on
    the device is better and sends nothing.

    Args:
      config: the search.
      plan: of its network.

    Returns:
      All others that fit their cut, in the order of cuts, channels, strides and lambdas.

    Raises:
      ConfigError: there is no such cut, or no candidate.

    >>> from jaxsplit import networks
    >>> from jaxsplit.cost import make_plan
    >>> plan = make_plan(networks.create("resnet8_small", 10), (28, 28, 1), channels=(), strides=())
    >>> config = DesignConfig("", cuts=("stem",), channels=(8,), strides=(2,), lambdas=(1e-3, 1e-4))
    >>> [candidate.name for candidate in candidates(config, plan)]
    ['stem c8 s2 0.001', 'stem c8 s2 0.0001']
    """
    found = []
    for cut in [plan[name] for name in dict.fromkeys(config.cuts)] or plan.cuts:
        for unit in unit_grid(cut.feature_shape, config.channels, config.strides):
            macs = cut.device_macs + unit.encoder_macs
            if macs < plan.macs:
                spec = cast("BottleneckSpec", unit.spec)  # all of `grid_spec`
                found += [Candidate(cut.cut, spec, lmbda, macs) for lmbda in config.lambdas]
    if not found:
        raise ConfigError(
            "no unit of the grid fits any cut and leaves the device less to do than the whole "
            "network: take fewer channels, less stride or earlier cuts"
        )
    return tuple(found)
