"""Configuration of a curve's training: the values in `configs/*.py`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable

import optax

from jaxsplit.data import Augmentation, Views
from jaxsplit.errors import ConfigError
from jaxsplit.family.table_fitting import SHARINGS
from jaxsplit.io.identity import identity
from jaxsplit.train.features import CACHES, DTYPES
from jaxsplit.train.losses import Distortion
from jaxsplit.train.optimizer import make_schedule
from jaxsplit.train.pca import check_principal
from jaxsplit.train.step import BATCHINGS, COMPUTE_DTYPES, TRAINABLE, Phase, Rate
from jaxsplit.units import BottleneckSpec, UnitSpec

STARTS = ("random", "principal")
TABLES = ("prior", *SHARINGS)
# These change reports and products of a training, not its parameters.
_SILENT = ("baselines", "compare_at", "cache_gib", "evaluate_every", "evaluate_limit", "tables")
# These change nothing where the network is frozen.
_OF_NETWORKS = ("trainable", "network_rate")

# Field of a configuration → a condition of its value, and the same in words.
_AT_LEAST_0 = (lambda x: 0 <= x < math.inf, "at least 0")
_AT_LEAST_1 = (lambda x: x >= 1, "at least 1")
_ABOVE_0 = (lambda x: x > 0, "more than 0")
_BELOW_1 = (lambda x: 0 <= x < 1, "from 0 to below 1")
_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "batch_size": _AT_LEAST_1,
    "epochs": _AT_LEAST_1,
    "seed": (lambda x: 0 <= x < 2**32, "0 … 2**32 - 1"),
    "learning_rate": (lambda x: 0 < x < math.inf, "a finite number above 0"),
    "prior_rate": _AT_LEAST_0,
    "network_rate": _AT_LEAST_0,
    "weight_decay": _AT_LEAST_0,
    "evaluate_every": _AT_LEAST_0,
    "warmup": _AT_LEAST_0,
    "max_norm": _ABOVE_0,
    "cache_gib": _ABOVE_0,
    "decay_to": (lambda x: 0 < x <= 1, "more than 0 and at most 1"),
    "ema": _BELOW_1,
    "momentum": _BELOW_1,
    "label_smoothing": (lambda x: 0 <= x <= 1, "from 0 to 1"),
}
_CHOICES = {
    "cache": CACHES,
    "feature_dtype": DTYPES,
    "compute_dtype": COMPUTE_DTYPES,
    "batching": BATCHINGS,
    "start": STARTS,
    "tables": TABLES,
    "trainable": TRAINABLE,
}


def check_values(config: object) -> None:
    """Raises a ConfigError if a field of a configuration is out of its range or choices."""
    for name, (fits, expected) in _RANGES.items():
        if hasattr(config, name) and not fits(getattr(config, name)):
            raise ConfigError(f"{name} is {getattr(config, name)!r}; expected {expected}")
    for name, known in _CHOICES.items():
        if hasattr(config, name) and getattr(config, name) not in known:
            raise ConfigError(
                f"{name} is {getattr(config, name)!r}; expected one of {', '.join(known)}"
            )


def digest(values: object) -> str:
    """Returns a short name of JSON values, for the folder of a training's checkpoints."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def check_batch(examples: int, batch_size: int) -> None:
    """Raises a ConfigError unless there are enough training examples for a batch."""
    if examples < batch_size:
        raise ConfigError(
            f"{examples} training examples don't fill one batch of {batch_size}: "
            "raise the limit or make the batches smaller"
        )


@dataclasses.dataclass(frozen=True)
class CurveConfig:
    """A training of all rates of one cut.

    Attributes:
      backbone: a name, or a file that names its network, see `load_backbone`.
      cut: endpoint of the backbone.
      spec: the unit of rates without their own.
      rates: names, lambdas and units.
      phases: in their order, under one learning-rate schedule.
      data, train_split, test_split, limit: the images; labels only serve metrics unless a
        phase's distortion has a weight for them.
      views, augmentation: augmentations per image; 1 and None: the image itself.
      flip: also train on every view mirrored.
      batch_size, seed: examples of a step (each for every rate), and of all random numbers.
      start: initial units: "random", or "principal": PCA of the features with a step for each
        lambda, both under the first phase's distortion, see `train.pca`.
      learning_rate: peak of Adam's.
      schedule, warmup, decay_to, milestones: of the learning rate, see `make_schedule`.
      prior_rate: learning-rate multiplier of the prior.
      max_norm: largest norm of each rate's gradient; inf for none.
      ema: decay of the units' running means, such as 0.999; the means are then evaluated and
        saved. 0 for none.
      cache, cache_gib, feature_dtype: cache of the head's features ("disk", "memory", "none" to
        run it in every step, or "auto"), its largest size, and its dtype.
      compute_dtype: "bfloat16" for the arithmetic of unit, tail and a head that isn't cached;
        parameters, prior and loss stay float32.
      batching: vectorization over rates, see `over_rates`.
      tables: source of the integer tables: each rate's "prior", or the symbols of the training
        images after the training: one table for all channels ("shared"), one for each
        ("channels"), or a few for groups of spatial positions ("places").
      evaluate_every, evaluate_limit: steps between evaluations, 0: none before the end; and
        max_samples of each, None: all of the test split.
      baselines: image codecs to compare the curve with: "jpeg", "webp", "avif".
      compare_at: metric at which they are compared: None for the task's, such as "top1", or
        "agreement" with the unsplit network.
      trainable: "unit", or, with `train_networks`, "tail" (unit and tail) or "all" (head, unit
        and tail), where each rate gets its own network.
      network_rate: learning-rate multiplier of the network's weights.
      optimizer: of each rate's parameters, in place of Adam with its schedule, clipping and
        multipliers. Another one, or other values, is another training.

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
    limit: int | None = None
    views: int = 1
    augmentation: Augmentation | None = None
    flip: bool = False
    batch_size: int = 64
    seed: int = 0
    start: str = "random"
    learning_rate: float = 5e-3
    schedule: str = "cosine"
    warmup: int = 20
    decay_to: float = 0.01
    milestones: tuple[float, ...] = (0.5, 0.75)
    prior_rate: float = 3.0
    max_norm: float = 1.0
    ema: float = 0.0
    cache: str = "auto"
    cache_gib: float = 64.0
    feature_dtype: str = "float32"
    compute_dtype: str = "float32"
    batching: str = "auto"
    tables: str = "prior"
    evaluate_every: int = 0
    evaluate_limit: int | None = 1000
    baselines: tuple[str, ...] = ("jpeg", "webp")
    compare_at: str | None = None
    trainable: str = "unit"
    network_rate: float = 0.03
    optimizer: optax.GradientTransformation | None = None

    def __post_init__(self) -> None:
        if not self.rates or not self.phases:
            raise ConfigError("a curve needs at least one rate and one phase")
        names = [rate.rate_id for rate in self.rates]
        if len(set(names)) < len(names):
            raise ConfigError(f"rates need different names; got {', '.join(names)}")
        check_values(self)
        self.learning_rates()
        self.shown  # noqa: B018 — refuses impossible views
        if self.start == "principal":
            for rate in self.rates:
                check_principal(rate.spec or self.spec)
            first = self.phases[0].distortion
            if not (isinstance(first, Distortion) and first.features):
                raise ConfigError(
                    "start='principal' needs a positive weight of features, however small, in the "
                    "first phase's distortion"
                )
        if self.trainable != "unit" and self.evaluate_every:
            raise ConfigError(
                f"trainable is {self.trainable!r} and evaluate_every {self.evaluate_every}; "
                "evaluations during a training use the frozen network: expected 0"
            )

    def learning_rates(self) -> optax.Schedule:
        """Returns the learning rate as a function of the step."""
        return make_schedule(
            self.schedule,
            self.learning_rate,
            self.steps,
            warmup=self.warmup,
            decay_to=self.decay_to,
            milestones=self.milestones,
        )

    @property
    def shown(self) -> Views:
        """The augmentations per image."""
        return Views(self.views, self.augmentation, self.flip, self.seed)

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return sum(phase.steps for phase in self.phases)

    @property
    def key(self) -> str:
        """Short name of this training, for the folder of its checkpoints."""
        values = dataclasses.asdict(self)
        specs = [self.spec, *(rate.spec for rate in self.rates)]
        for fields, spec in zip([values, *values["rates"]], specs, strict=True):
            if spec is not None and not isinstance(spec, BottleneckSpec):
                fields["spec"] = spec.form  # fields alone do not distinguish kinds
        for fields, phase in zip(values["phases"], self.phases, strict=True):
            if not isinstance(phase.distortion, Distortion):
                fields["distortion"] = identity(phase.distortion)
        values["optimizer"] = identity(self.optimizer)
        silent = _SILENT + (_OF_NETWORKS if self.trainable == "unit" else ())
        silent += ("optimizer",) if self.optimizer is None else ()
        trained = {name: value for name, value in values.items() if name not in silent}
        return digest(trained)
