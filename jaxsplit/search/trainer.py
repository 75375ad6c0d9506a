"""Trains candidates of a search in turn, with programs that they share."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxsplit import networks
from jaxsplit.networks import Features
from jaxsplit.networks.inference import batch_size, pad_rows
from jaxsplit.search.candidates import Candidate, DesignConfig
from jaxsplit.split import Split, make_split
from jaxsplit.tasks import Outputs, Targets
from jaxsplit.train import losses, parallel
from jaxsplit.train.batches import FeatureCache
from jaxsplit.train.optimizer import make_optimizer, make_schedule
from jaxsplit.train.rate_groups import Group, with_best_offsets
from jaxsplit.train.state import Batch, Constants, CurveState, TrainState
from jaxsplit.train.step import (
    Phase,
    Rate,
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


@dataclasses.dataclass(eq=False)
class Trial:
    """A candidate and the state of its training.

    Attributes:
      candidate: the unit and its cut.
      split: of both.
      state: of one rate, on the host, see `init_state`.
      settled: whether offsets are the best for the prior; steps on features change the prior.
    """

    candidate: Candidate
    split: Split
    state: TrainState
    settled: bool = False

    def settle(self) -> None:
        """Sets the offsets that cost the fewest bits, unless settled."""
        # A unit that diverged has no best offsets; its bits rank it last.
        finite = all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(self.state.result))
        if finite and not self.settled:
            group = Group(self.split, self.rates, (0,))
            (state,) = with_best_offsets((group,), CurveState((self.state,))).groups
            self.state = state
        self.settled = True

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
        self.adam = make_optimizer(schedule, max_norm=1.0, prior=config.prior_rate)
        self._first_cuts: dict[Shape, str] = {}
        self._variables = parallel.replicate(backbone.variables, self.devices)
        self._images = next(iter(test.values()))  # targets and teacher are the same at all cuts
        # Images are sorted by class; a part must hold all classes.
        self._order = np.random.default_rng(config.seed).permutation(len(self._images))
        # Compiled once for each argument, for the life of the trainer.
        self._first_state = functools.cache(self._make_first_state)
        self._step = functools.cache(self._make_step)
        self._reconstruct = functools.cache(self._make_reconstruct)
        self._output_slopes = functools.cache(self._make_output_slopes)
        self._rounded = functools.cache(self._make_rounded)
        self._measure = functools.cache(self._make_measure)
        self._feature_slopes = self._make_feature_slopes()

    def trials(self, chosen: Sequence[Candidate]) -> list[Trial]:
        """Returns fresh trials of the candidates, in their order."""
        found = []
        for one in chosen:
            split = make_split(self.backbone, one.cut, one.spec, parallel.AXIS)
            found.append(Trial(one, split, self._first_state(self._shared(split))))
        return found

    def _make_first_state(self, split: Split) -> TrainState:
        ema = self.config.ema > 0
        any_rate = (Rate("any", 0.0),)  # all start from the same state
        return jax.device_get(init_state(split, any_rate, self.adam, self.config.seed, ema))

    def advance(self, trial: Trial, steps: int, distilled: bool = True) -> None:
        """Trains a trial for more steps, and returns when they are done.

        Args:
          trial: changed in place.
          steps: their number.
          distilled: distil the unsplit network's outputs behind the tail; False: minimise the
            feature error at the cut.
        """
        config, cut = self.config, trial.split.cut
        if distilled:
            trial.settle()
        shared = self._shared(trial.split)
        run, reconstruct = self._step(shared), self._reconstruct(shared)
        scale = jnp.asarray(self.train[cut].scale, jnp.float32)
        rates = rate_constants(trial.rates, config.seed)
        constants = parallel.replicate(Constants(_NO_NETWORK, scale, rates), self.devices)
        state = parallel.replicate(trial.state, self.devices)
        first = int(trial.state.step)
        for step in range(first, first + steps):
            batch = parallel.shard(self._batch(cut, step), self.devices)
            (seen,) = reconstruct(batch, (state, constants))
            if distilled:
                slopes = self._output_slopes(cut)((seen, batch.teacher), self._variables)
            else:
                slopes = self._feature_slopes((seen, batch.features), constants.scale)
            state, _ = run(state, dataclasses.replace(batch, teacher=slopes), constants)
            jax.block_until_ready(state.step)  # a step is several programs
        trial.state, trial.settled = parallel.unreplicate(state), distilled

    def _batch(self, cut: str, step: int) -> Batch:
        """The batch of a step: the same images for all candidates."""
        cache, size = self.train[cut], self.config.batch_size
        rng = np.random.default_rng((self.config.seed, step))
        index = np.sort(rng.choice(len(cache), size, False))
        return Batch(
            index.astype(np.int32),
            cache.targets[index],
            features=cache.features[index],
            teacher=cache.teacher[index],
        )

    def compare(self, trial: Trial, part: int) -> dict[str, np.ndarray | int]:
        """Returns sums over a part of the test images: bits, statistics of metrics, images."""
        size, cut = self.part_size, trial.split.cut
        chosen = self._part(part)
        cache, count = self.test[cut], len(chosen)
        counted = np.arange(size) < count
        batch = Batch(
            np.arange(size, dtype=np.int32),
            pad_rows(cache.targets[chosen], size),
            features=pad_rows(cache.features[chosen], size),
        )
        sent, mask = parallel.shard((batch, counted), self.devices)
        trial.settle()
        unit = jax.tree.map(lambda x: x[0], (trial.state.result, trial.state.offsets))
        unit = parallel.replicate(unit, self.devices)
        seen, bits = self._rounded(self._shared(trial.split))((sent.features, mask), unit)
        measured = self._measure(cut)((seen, sent.targets, mask), self._variables)
        sums = {"bits": bits, **measured}
        totals = {name: np.asarray(x).sum(axis=0) for name, x in sums.items()}
        return {name: x.astype(np.float64) for name, x in totals.items()} | {"images": count}

    @property
    def part_size(self) -> int:
        """Test images of a part, a multiple of the devices."""
        size = batch_size(self.backbone.preprocessing.input_shape)
        return -(-size // len(self.devices)) * len(self.devices)

    @property
    def test_images(self) -> int:
        """Number of test images."""
        return len(self._images)

    def parts(self, limit: int) -> Iterator[int]:
        """Yields the parts that hold about `limit` test images."""
        yield from range(-(-min(limit, len(self._images)) // self.part_size))

    def _part(self, part: int) -> np.ndarray:
        """Rising indices of a part's images."""
        return np.sort(self._order[part * self.part_size : (part + 1) * self.part_size])

    def unsplit_quality(self, limit: int) -> float:
        """Returns the unsplit network's quality on the images in `parts(limit)`."""
        images = np.concatenate([self._part(part) for part in self.parts(limit)])
        task = self.backbone.task
        measured = task.measure(self._images.teacher[images], self._images.targets[images])
        mean = np.asarray(measured[task.quality]).mean(axis=0, dtype=np.float64)
        return float(task.metric(task.quality).value(mean))

    def _shared(self, split: Split) -> Split:
        """The split whose programs all cuts with the same feature shape share."""
        cut = self._first_cuts.setdefault(split.shape, split.cut)
        return dataclasses.replace(split, cut=cut)

    def _make_step(self, split: Split) -> Step:
        step = make_step(split, _PHASE, self.adam, ema=self.config.ema)
        return parallel.parallel_step(step, self.devices)

    def _make_reconstruct(self, split: Split) -> Callable[..., tuple[Features, ...]]:
        reconstruct = make_reconstruct(split, _PHASE)

        def run(batch: Batch, given: tuple[TrainState, Constants]) -> tuple[Features, ...]:
            state, constants = given
            return reconstruct(state, batch, constants)

        return parallel.parallel_function(run, self.devices)

    def _make_feature_slopes(self) -> Callable[..., Features]:
        def run(given: tuple[jax.Array, jax.Array], scale: jax.Array) -> jax.Array:
            seen, features = given

            def distortion(x: jax.Array) -> jax.Array:
                error = losses.feature_error(x, features.astype(jnp.float32), scale)
                return self.config.weight * error.sum()

            return jax.grad(distortion)(seen)

        return parallel.parallel_function(run, self.devices)

    def _make_output_slopes(self, cut: str) -> Callable[..., Features]:
        network, task = self.backbone.network, self.backbone.task

        def run(given: tuple[Features, Outputs], variables: networks.Variables) -> jax.Array:
            seen, teacher = given

            def distortion(x: jax.Array) -> jax.Array:
                return task.distillation(network.tail(variables, x, cut), teacher).sum()

            return jax.grad(distortion)(seen)

        return parallel.parallel_function(run, self.devices)

    def _make_rounded(self, split: Split) -> Callable[..., tuple[Features, jax.Array]]:
        def run(
            given: tuple[Features, jax.Array], rate: tuple[Variables, Offsets]
        ) -> tuple[Features, jax.Array]:
            (features, counted), (unit, offsets) = given, rate
            latents = split.round(split.encode(unit, features.astype(jnp.float32)), offsets)
            bits = losses.rate(split.bits(unit, latents))
            return split.decode(unit, latents), jnp.where(counted, bits, 0.0).sum()

        return parallel.parallel_function(run, self.devices)

    def _make_measure(self, cut: str) -> Callable[..., dict[str, jax.Array]]:
        network, task = self.backbone.network, self.backbone.task

        def run(
            given: tuple[Features, Targets, jax.Array], variables: networks.Variables
        ) -> dict[str, jax.Array]:
            seen, targets, counted = given
            measured = task.measure(network.tail(variables, seen, cut), targets)

            def total(statistics: jax.Array) -> jax.Array:
                shown = counted.reshape(-1, *[1] * (statistics.ndim - 1))
                return jnp.where(shown, statistics, 0).sum(axis=0)

            return {name: total(statistics) for name, statistics in measured.items()}

        return parallel.parallel_function(run, self.devices)
