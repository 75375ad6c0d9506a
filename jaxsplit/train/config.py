"""Configuration of a curve's training: the values in `configs/*.py`."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import numbers
from collections.abc import Callable, Sequence
from typing import cast

import jax
import optax

from jaxsplit._moved import old_names, rename, renamed_argument, renamed_attributes
from jaxsplit.codec.rates import check_rate_id
from jaxsplit.data import Augmentation, Views
from jaxsplit.errors import ConfigError, choices
from jaxsplit.family.table_fitting import SHARINGS
from jaxsplit.io.fields import plain_numbers
from jaxsplit.io.identity import identity
from jaxsplit.train.features import CACHES, DTYPES
from jaxsplit.train.losses import Distortion
from jaxsplit.train.network_blocks import NETWORK, TRAINABLE
from jaxsplit.train.pca import check_pca_start
from jaxsplit.train.step import COMPUTE_DTYPES, VECTORIZATIONS, Phase, Rate
from jaxsplit.train.variable_rate import check_units
from jaxsplit.units import BottleneckSpec, FactorizedUnit, UnitSpec, VariableRate
from jaxsplit.units.residual_unit import LINEAR_LAYERS

SCHEDULES = ("constant", "cosine", "exponential", "step")
INITIALIZATIONS = ("random", "pca")
TABLES = ("prior", *SHARINGS)
# These change reports and products of a training, not its parameters.
_SILENT = ("baselines", "compare_at", "cache_gib", "evaluate_every", "max_eval_samples", "tables")
# Left out by default, since earlier versions had none of them.
_NEWER = dict(optimizer=None, variable_rate=False, lambda_weighting=0.0, linear_lr_multiplier=1.0)
_NEWER |= dict(fisher_samples=0)
# These change nothing where the network is frozen.
_OF_NETWORKS = ("trainable", "network_lr_multiplier")

# Field of a configuration → a condition of its value, and the same in words.
_AT_LEAST_0 = (lambda x: 0 <= x < math.inf, "at least 0")
_AT_LEAST_1 = (lambda x: x >= 1, "at least 1")
_ABOVE_0 = (lambda x: x > 0, "more than 0")
_FINITE = (lambda x: 0 < x < math.inf, "a finite number above 0")
_BELOW_1 = (lambda x: 0 <= x < 1, "from 0 to below 1")
_SHARE = (lambda x: 0 <= x <= 1, "from 0 to 1")
_POSITIVE_SHARE = (lambda x: 0 < x <= 1, "more than 0 and at most 1")
_MULTIPLIERS = ("prior_lr_multiplier", "linear_lr_multiplier", "network_lr_multiplier")
_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    **dict.fromkeys((*_MULTIPLIERS, "weight_decay"), _AT_LEAST_0),
    **dict.fromkeys(("evaluate_every", "warmup", "most_drop", "fisher_samples"), _AT_LEAST_0),
    "batch_size": _AT_LEAST_1,
    "epochs": _AT_LEAST_1,
    "seed": (lambda x: 0 <= x < 2**32, "0 … 2**32 - 1"),
    "rungs": _AT_LEAST_1,
    "points": _AT_LEAST_1,
    "full_steps": (lambda x: x >= 20, "at least 20"),
    "learning_rate": _FINITE,
    "minutes": _FINITE,
    "weight": _FINITE,
    "lambda_weighting": _SHARE,
    "max_norm": _ABOVE_0,
    "cache_gib": _ABOVE_0,
    "final_lr_fraction": _POSITIVE_SHARE,
    "keep": _POSITIVE_SHARE,
    "ema": _BELOW_1,
    "momentum": _BELOW_1,
    "label_smoothing": _SHARE,
    "on_features": _SHARE,
}
_CHOICES = {
    "cache": CACHES,
    "feature_dtype": DTYPES,
    "compute_dtype": COMPUTE_DTYPES,
    "rate_vectorization": VECTORIZATIONS,
    "initialization": INITIALIZATIONS,
    "tables": TABLES,
    "trainable": TRAINABLE,
}


def check_config(config: object) -> None:
    """Raises a ConfigError if a field of a configuration is out of its range or choices."""
    for name, (fits, expected) in _RANGES.items():
        if hasattr(config, name) and not (
            isinstance(getattr(config, name), numbers.Real) and fits(getattr(config, name))
        ):
            raise ConfigError(f"{name} is {getattr(config, name)!r}; expected {expected}")
    for name, known in _CHOICES.items():
        if (given := getattr(config, name, known[0])) not in known:
            raise ConfigError(f"{name} is {given!r}; expected one of {choices(given, known)}")


def digest(values: dict[str, object]) -> str:
    """Returns a short name of a configuration, for the folder of a training's checkpoints."""
    # By the old names, so that folders of earlier versions are found.
    for old, new in reversed(old_names()["configuration"].items()):
        rename(values, {new: old})
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


@renamed_argument("decay_to", "final_lr_fraction")
def make_schedule(
    name: str,
    peak: float,
    steps: int,
    *,
    warmup: int = 0,
    final_lr_fraction: float = 0.01,
    milestones: Sequence[float] = (0.5, 0.75),
) -> optax.Schedule:
    """Returns a learning-rate schedule: a linear warm-up to `peak`, then one of four shapes.

    Args:
      name: "constant"; "cosine" and "exponential", which reach the final fraction at the last step;
        "step", which falls by the same factor at each of the `milestones`, to the final fraction
        after the last one.
      peak: after the warm-up.
      steps: of the whole training.
      warmup: steps, at most half of the training.
      final_lr_fraction: final fraction of the peak.
      milestones: rising fractions of the training.

    Raises:
      ConfigError: there is no such schedule, or milestones are not rising fractions.

    >>> schedule = make_schedule("step", 1.0, 100, final_lr_fraction=0.01, milestones=(0.5, 0.75))
    >>> [round(float(schedule(step)), 4) for step in (0, 49, 50, 75)]
    [1.0, 1.0, 0.1, 0.01]
    """
    rising = list(milestones) == sorted(set(milestones))
    if not rising or not all(0 < share < 1 for share in milestones):
        raise ConfigError(f"milestones are {milestones!r}; expected shares between 0 and 1, rising")
    warmup = min(warmup, max(1, steps // 2))
    if name == "cosine":
        return optax.warmup_cosine_decay_schedule(
            0.0, peak, warmup, max(steps, 2), final_lr_fraction * peak
        )
    if name == "constant":
        after = optax.constant_schedule(peak)
    elif name == "exponential":
        after = optax.exponential_decay(peak, max(steps - warmup, 1), final_lr_fraction)
    elif name == "step":
        factor = final_lr_fraction ** (1 / max(len(milestones), 1))
        falls = {max(round(share * steps) - warmup, 0): factor for share in milestones}
        after = optax.piecewise_constant_schedule(peak, falls)
    else:
        raise ConfigError(f"schedule is {name!r}; expected one of {choices(name, SCHEDULES)}")
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def clipped_adam(
    schedule: optax.Schedule, *, max_norm: float = math.inf, **rates: float
) -> optax.GradientTransformation:
    """Returns Adam with clipping by the global norm of a rate's gradient, without weight decay.

    `rates` are learning-rate multipliers of parts of the parameters, by name.
    """
    scaled = [
        optax.masked(optax.scale(rate), functools.partial(_mask, part))
        for part, rate in rates.items()
    ]
    return optax.chain(optax.clip_by_global_norm(max_norm), optax.adam(schedule), *scaled)


def _mask(part: str, tree: optax.Params) -> optax.Params:
    """True for each array under a part's name, such as the prior of any unit."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: any(getattr(key, "key", None) == part for key in path), tree
    )


@renamed_attributes
@dataclasses.dataclass(frozen=True)
class CurveConfig:
    """A training of all rates of one cut.

    Attributes:
      backbone: a name, or a file that names its network, see `load_backbone`.
      cut: endpoint of the backbone.
      spec: the unit of rates without their own.
      rates: names, lambdas and units.
      phases: in their order, under one learning-rate schedule.
      variable_rate: one unit for all rates, with learned gains, see `units.VariableRate`.
      lambda_weighting: power of lambda that divides an image's loss, for a variable rate.
      fisher_samples: of the sample of a PCA initialization, for the Fisher information; 0: all.
      data, train_split, test_split, max_samples: the images; labels only serve metrics unless a
        phase's distortion has a weight for them.
      augmentations_per_image, augmentation: 1 and None: the image itself.
      flip: also train on each of them mirrored.
      batch_size, seed: examples of a step (each for every rate), and of all random numbers.
      initialization: of the units: "random", or "pca": PCA of the features with a step for each
        lambda, both under the first phase's distortion, see `train.pca`.
      learning_rate: peak of Adam's.
      schedule, warmup, final_lr_fraction, milestones: of the learning rate, see `make_schedule`.
      prior_lr_multiplier: learning-rate multiplier of the prior.
      linear_lr_multiplier: the same of a `ResidualSpec`'s layers that begin as PCA.
      max_norm: largest norm of each rate's gradient; inf for none.
      ema: decay of the units' running means, which are evaluated and saved; 0: there are none.
      cache, cache_gib, feature_dtype: cache of the head's features ("disk", "memory", "none" to
        run it in every step, or "auto"), its largest size, and its dtype.
      compute_dtype: "bfloat16" for the arithmetic of unit, tail and a head that isn't cached;
        parameters, prior and loss stay float32.
      rate_vectorization: see `over_rates`.
      tables: source of the integer tables: each rate's "prior", or the symbols of the training
        images after the training: one table for all channels ("shared"), one for each
        ("channels"), or a few for groups of spatial positions ("positions").
      evaluate_every: steps between evaluations, one more after the last step; 0: none.
      max_eval_samples: number of test images of each evaluation; None: all of them.
      baselines: image codecs to compare the curve with: "jpeg", "webp", "avif".
      compare_at: metric at which they are compared: None for the task's, such as "top1", or
        "agreement" with the unsplit network.
      trainable: "unit", or, with `train_networks`, "tail" (unit and tail) or "all" (head, unit
        and tail), where each rate gets its own network.
      network_lr_multiplier: learning-rate multiplier of the network's weights.
      optimizer: of each rate's parameters, in place of Adam with schedule, clipping, multipliers.

    Raises:
      ConfigError: an impossible value, or two that don't go together.

    >>> rates = Rate("r1", 1e-3), Rate("r2", 1e-4)
    >>> phases = (Phase(1000, Distortion()),)
    >>> spec = BottleneckSpec(channels=12)
    >>> CurveConfig("fashion_mnist_resnet8", "stage1.block1", spec, rates, phases).steps
    1000
    """

    backbone: str
    cut: str
    spec: BottleneckSpec | UnitSpec
    rates: tuple[Rate, ...]
    phases: tuple[Phase, ...]
    data: str = "embedded"
    train_split: str = "train"
    test_split: str = "test"
    max_samples: int | None = None
    augmentations_per_image: int = 1
    augmentation: Augmentation | None = None
    flip: bool = False
    batch_size: int = 64
    seed: int = 0
    initialization: str = "random"
    learning_rate: float = 5e-3
    schedule: str = "cosine"
    warmup: int = 20
    final_lr_fraction: float = 0.01
    milestones: tuple[float, ...] = (0.5, 0.75)
    prior_lr_multiplier: float = 3.0
    linear_lr_multiplier: float = 1.0
    max_norm: float = 1.0
    ema: float = 0.0
    cache: str = "auto"
    cache_gib: float = 64.0
    feature_dtype: str = "float32"
    compute_dtype: str = "float32"
    rate_vectorization: str = "auto"
    tables: str = "prior"
    evaluate_every: int = 0
    max_eval_samples: int | None = 1000
    baselines: tuple[str, ...] = ("jpeg", "webp")
    compare_at: str | None = None
    trainable: str = "unit"
    network_lr_multiplier: float = 0.03
    optimizer: optax.GradientTransformation | None = None
    variable_rate: bool = False
    lambda_weighting: float = 0.0
    fisher_samples: int = 0

    def __post_init__(self) -> None:
        plain_numbers(self)
        if not self.rates or not self.phases:
            raise ConfigError("a curve needs at least one rate and one phase")
        names = [rate.rate_id for rate in self.rates]
        if len(set(names)) < len(names):
            raise ConfigError(f"rates need different names; got {', '.join(names)}")
        for name in names:  # before a training, not when its family is made
            check_rate_id(name)
        check_config(self)
        check_units(self.unit, self.rates, self.trainable)  # refuses impossible ones
        self.make_optimizer()  # refuses an impossible schedule
        self.shown  # noqa: B018 — refuses impossible views
        if self.initialization == "pca":
            specs = [rate.spec or self.spec for rate in self.rates]
            check_pca_start(specs, self.phases[0].distortion)
        if self.trainable != "unit" and self.evaluate_every:
            raise ConfigError(
                f"trainable is {self.trainable!r} and evaluate_every {self.evaluate_every}; "
                "evaluations during a training use the frozen network: expected 0"
            )

    def make_optimizer(self) -> optax.GradientTransformation:
        """Returns the optimizer of each rate's unit, and of its blocks of the network."""
        schedule = make_schedule(
            self.schedule,
            self.learning_rate,
            self.steps,
            warmup=self.warmup,
            final_lr_fraction=self.final_lr_fraction,
            milestones=self.milestones,
        )
        if self.optimizer is not None:
            return self.optimizer
        rates = {"prior": self.prior_lr_multiplier}
        if self.linear_lr_multiplier != 1.0:
            rates |= dict.fromkeys(LINEAR_LAYERS, self.linear_lr_multiplier)
        if self.trainable != "unit":
            rates[NETWORK] = self.network_lr_multiplier
        return clipped_adam(schedule, max_norm=self.max_norm, **rates)

    @property
    def unit(self) -> UnitSpec:
        """The unit of rates without their own."""
        if not self.variable_rate:
            return self.spec
        if own := [rate.rate_id for rate in self.rates if rate.spec]:
            raise ConfigError(f"variable_rate means one unit for all; {own[0]} has its own")
        lambdas = [rate.lmbda for rate in self.rates]
        return VariableRate(cast("FactorizedUnit", self.spec), (min(lambdas), max(lambdas)))

    @property
    def shown(self) -> Views:
        """The augmentations per image."""
        return Views(self.augmentations_per_image, self.augmentation, self.flip, self.seed)

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return sum(phase.steps for phase in self.phases)

    @property
    def key(self) -> str:
        """Short name of this training, for its checkpoints."""
        values = dataclasses.asdict(self)
        specs = [self.spec, *(rate.spec for rate in self.rates)]
        for fields, spec in zip([values, *values["rates"]], specs, strict=True):
            if spec is not None and not isinstance(spec, BottleneckSpec):
                fields["spec"] = spec.to_dict()  # fields alone do not distinguish kinds
        for fields, phase in zip(values["phases"], self.phases, strict=True):
            if not isinstance(phase.distortion, Distortion):
                fields["distortion"] = identity(phase.distortion)
        values["optimizer"] = identity(self.optimizer)
        silent = _SILENT + (_OF_NETWORKS if self.trainable == "unit" else ())
        silent += tuple(name for name, value in _NEWER.items() if getattr(self, name) == value)
        return digest({name: value for name, value in values.items() if name not in silent})
