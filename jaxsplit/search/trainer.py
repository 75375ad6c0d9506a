"""Trains candidates of a search in turn, with programs that they share."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxsplit import networks
from jaxsplit.networks import Features
from jaxsplit.networks.inference import batch_size, pad_rows
from jaxsplit.search.candidates import Candidate, DesignConfig
from jaxsplit.split import Split, make_split
from jaxsplit.tasks import Targets
from jaxsplit.train import losses, parallel
from jaxsplit.train.batches import FeatureCache
from jaxsplit.train.config import clipped_adam, make_schedule
from jaxsplit.train.losses import Distortion, DistortionInputs, Scale
from jaxsplit.train.rate_groups import Group, with_best_offsets
from jaxsplit.train.state import Batch, Constants, CurveState, TrainState
from jaxsplit.train.step import (
    Phase,
    Rate,
    Reconstruct,
    Step,
    init_state,
    make_reconstruct,
    make_step,
    rate_constants,
)
from jaxsplit.units import Shape, Variables
from jaxsplit.units.quantization import Offsets

_WARMUP = 20  # steps; the schedule is constant then, as the number of steps is not known
_NO_NETWORK: networks.Variables = {"params": {}}  # no step runs a tail
_PHASE = Phase(1, losses.LinearDistortion(), "round")

#: Sums over images of bits and of metrics' statistics, and the number of images as "examples".
Sums = dict[str, np.ndarray]


@dataclasses.dataclass(eq=False)
class Trial:
    """A candidate and the state of its training.

    Attributes:
      candidate, split: the unit and its cut.
      state: of one rate, on the host, see `init_state`.
      offsets_fitted: whether offsets are the best for the prior, which steps on features change.
    """

    candidate: Candidate
    split: Split
    state: TrainState
    offsets_fitted: bool = False

    def fit_offsets(self) -> None:
        """Sets the offsets that cost the fewest bits, unless they are set."""
        # A unit that diverged has no best offsets; its bits rank it last.
        finite = all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(self.state.result))
        if finite and not self.offsets_fitted:
            group = Group(self.split, self.rates, (0,))
            (self.state,) = with_best_offsets((group,), CurveState((self.state,))).groups
        self.offsets_fitted = True

    @property
    def rates(self) -> tuple[Rate, ...]:
        """The candidate as a rate, whose noise depends on its name alone."""
        return (Rate(self.candidate.name, self.candidate.lmbda),)


class Trainer:
    """Trains and compares trials.

    Units are compiled once for an architecture and a feature shape, for all cuts; tails once for a
    cut, for all units: compiling takes as long as many steps. The tail's program passes the
    gradient at the cut to the unit's. Trials train one at a time: three under `vmap` took 0.8 to
    1.1 of the time of three steps through the tail on CPU, and each number of remaining trials
    would compile again.
    """

    def __init__(
        self,
        config: DesignConfig,
        backbone: networks.Backbone,
        train: Mapping[str, FeatureCache],
        test: Mapping[str, FeatureCache],
    ) -> None:
        """Takes the features of both sets of images, at all cuts of the search."""
        self.config, self.backbone, self.train, self.test = config, backbone, train, test
        self.devices = parallel.devices_for(config.batch_size)
        schedule = make_schedule("constant", config.learning_rate, 2 * _WARMUP, warmup=_WARMUP)
        self.adam = clipped_adam(schedule, max_norm=1.0, prior=config.prior_lr_multiplier)
        self._first_cuts: dict[Shape, str] = {}
        self._variables = parallel.replicate(backbone.variables, self.devices)
        self._images = next(iter(test.values()))  # targets and teacher are the same at all cuts
        self.test_images = len(self._images)
        size, count = batch_size(backbone.preprocessing.input_shape), len(self.devices)
        self.part_size = -(-size // count) * count  # test images of a part, for all devices
        # Images are sorted by class; a part must hold all classes.
        self._order = np.random.default_rng(config.seed).permutation(self.test_images)
        # Compiled once for each argument, for the life of the trainer.
        self._first_state = functools.cache(self._make_first_state)
        self._step = functools.cache(self._make_step)
        self._gradients = functools.cache(self._make_gradients)
        self._rounded = functools.cache(self._make_rounded)
        self._measure = functools.cache(self._make_measure)

    def trials(self, chosen: Sequence[Candidate]) -> list[Trial]:
        """Returns fresh trials of the candidates, in their order."""
        found = []
        for one in chosen:
            split = make_split(self.backbone, one.cut, one.spec, parallel.AXIS)
            found.append(Trial(one, split, self._first_state(self._shared(split))))
        return found

    def advance(self, trial: Trial, steps: int, distilled: bool = True) -> None:
        """Trains a trial for more steps, in place, and returns when they are done.

        `distilled` steps distil the unsplit network's outputs behind the tail; others minimise the
        feature error at the cut.
        """
        cut, shared = trial.split.cut, self._shared(trial.split)
        if distilled:
            trial.fit_offsets()
        step, reconstruct = self._step(shared)
        gradients_at = self._gradients(cut if distilled else shared.cut, distilled)
        scale = jnp.asarray(self.train[cut].scale, jnp.float32)
        rates = rate_constants(trial.rates, self.config.seed)
        constants = parallel.replicate(Constants(_NO_NETWORK, scale, rates), self.devices)
        state = parallel.replicate(trial.state, self.devices)
        first = int(trial.state.step)
        for number in range(first, first + steps):
            batch = parallel.shard(self._batch(cut, number), self.devices)
            (seen,) = reconstruct(state, batch, constants)
            gradients = gradients_at(seen, batch, self._variables, constants.scale)
            state, _ = step(state, dataclasses.replace(batch, teacher=gradients), constants)
            jax.block_until_ready(state.step)  # a step is several programs
        trial.state, trial.offsets_fitted = parallel.unreplicate(state), distilled

    def _batch(self, cut: str, step: int) -> Batch:
        """The batch of a step: the same images for all candidates."""
        rng, cache = np.random.default_rng((self.config.seed, step)), self.train[cut]
        return cache.batch(np.sort(rng.choice(len(cache), self.config.batch_size, False)))

    def compare(self, trial: Trial, part: np.ndarray) -> Sums:
        """Returns sums over a part of the test images."""
        cut = trial.split.cut
        trial.fit_offsets()
        unit = jax.tree.map(lambda x: x[0], (trial.state.result, trial.state.offsets))
        batch = pad_rows(self.test[cut].batch(part), self.part_size)
        batch = parallel.shard(batch, self.devices)
        rounded = self._rounded(self._shared(trial.split))
        seen, bits = rounded(batch.features, *parallel.replicate(unit, self.devices))
        measured = self._measure(cut)(seen, batch.targets, self._variables)
        sums: Sums = {}
        parallel.add_sums(sums, {"bits": bits, **measured}, len(part))
        return sums

    def parts(self, limit: int) -> list[np.ndarray]:
        """Returns parts of about `limit` test images in all: rising indices."""
        starts = range(0, min(limit, self.test_images), self.part_size)
        return [np.sort(self._order[start : start + self.part_size]) for start in starts]

    def unsplit_quality(self, limit: int) -> float:
        """Returns the unsplit network's quality on the images in `parts(limit)`."""
        images = self._images.batch(np.concatenate(self.parts(limit)))
        task = self.backbone.task
        assert images.teacher is not None
        assert images.targets is not None
        measured = task.measure(images.teacher, images.targets)[task.quality]
        mean = np.asarray(measured).mean(axis=0, dtype=np.float64)
        return float(task.metric(task.quality).value(mean))

    def _shared(self, split: Split) -> Split:
        """The split whose programs all cuts with the same feature shape share."""
        cut = self._first_cuts.setdefault(split.shape, split.cut)
        return dataclasses.replace(split, cut=cut)

    def _make_first_state(self, split: Split) -> TrainState:
        ema = self.config.ema > 0
        any_rate = (Rate("any", 0.0),)  # all start from the same state
        return jax.device_get(init_state(split, any_rate, self.adam, self.config.seed, ema))

    def _make_step(self, split: Split) -> tuple[Step, Reconstruct]:
        step = make_step(split, _PHASE, self.adam, ema=self.config.ema)
        reconstruct = make_reconstruct(split, _PHASE)
        return (
            parallel.parallel_step(step, self.devices),
            parallel.parallel_step(reconstruct, self.devices, donate=False),
        )

    def _make_gradients(self, cut: str, distilled: bool) -> Callable[..., Features]:
        """Gradient of the distortion with respect to the reconstruction."""
        network, task = self.backbone.network, self.backbone.task
        on_features = Distortion(distillation=0.0, features=self.config.weight)
        distortion = Distortion() if distilled else on_features

        def run(
            seen: Features, batch: Batch, variables: networks.Variables, scale: Scale
        ) -> Features:
            features = jax.tree.map(lambda x: x.astype(jnp.float32), batch.features)

            def total(x: Features) -> jax.Array:
                outputs = network.tail(variables, x, cut) if distilled else None
                inputs = (x, features, outputs, batch.teacher, batch.targets, scale, task)
                return distortion(DistortionInputs(*inputs)).sum()

            return jax.grad(total)(seen)

        return parallel.parallel_step(run, self.devices, donate=False)

    def _make_rounded(self, split: Split) -> Callable[..., tuple[Features, jax.Array]]:
        """Reconstruction with rounded latents, and the bits of each image."""

        def run(
            features: jax.Array, unit: Variables, offsets: Offsets
        ) -> tuple[Features, jax.Array]:
            seen, bits = split.reconstruct(unit, features.astype(jnp.float32), offsets)
            return seen, losses.rate(bits)

        return parallel.parallel_step(run, self.devices, donate=False)

    def _make_measure(self, cut: str) -> Callable[..., dict[str, jax.Array]]:
        network, task = self.backbone.network, self.backbone.task

        def run(
            seen: Features, targets: Targets, variables: networks.Variables
        ) -> dict[str, jax.Array]:
            return task.measure(network.tail(variables, seen, cut), targets)

        return parallel.parallel_step(run, self.devices, donate=False)
