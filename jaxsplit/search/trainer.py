"""Short trainings of candidates, one after the other: no program is one candidate's alone."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsplit import networks
from jaxsplit.networks.inference import batch_size
from jaxsplit.search.candidates import Candidate, DesignConfig
from jaxsplit.search.features import CutFeatures
from jaxsplit.split import Split, make_split
from jaxsplit.train import losses, parallel
from jaxsplit.train.groups import Group, with_best_offsets
from jaxsplit.train.losses import Distortion
from jaxsplit.train.optimizer import make_optimizer, make_schedule
from jaxsplit.train.state import CurveState, TrainState
from jaxsplit.train.step import (
    Phase,
    Rate,
    init_state,
    make_reconstruct,
    make_step,
    rate_constants,
)

_WARMUP = 20  # steps of the learning rate's rise; how long a search goes on nobody knows
_NO_NETWORK = {"params": dict[str, Any]()}  # no step runs a tail
_PHASE = Phase(1, Distortion(), "round")


@dataclasses.dataclass(eq=False)
class Trial:
    """A candidate and the state of its training.

    Attributes:
      candidate: what it is.
      split: its cut with its unit.
      state: as of `init_state`, of one rate, on the host.
      settled: whether the unit rounds where its offsets say; learning features unsettles it.
    """

    candidate: Candidate
    split: Split
    state: TrainState
    settled: bool = False

    def settle(self) -> None:
        """Lets the unit round where that costs the fewest bits, unless it is settled."""
        # What has diverged has no best offsets; its bits say that it is worth nothing.
        finite = all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(self.state.result))
        if finite and not self.settled:
            group = Group(self.split, self.rates, (0,))
            (state,) = with_best_offsets((group,), CurveState((self.state,))).groups
            offsets = np.asarray(state.offsets, np.float32)
            self.state = dataclasses.replace(state, offsets=offsets)
        self.settled = True

    @property
    def rates(self) -> tuple[Rate, ...]:
        """The candidate as a rate; its noise depends on its name alone."""
        return (Rate(self.candidate.name, self.candidate.lmbda),)


class Trainer:
    """Trains and compares trials.

    Programs of units are compiled once for a form and a shape of features, whatever the cut, and
    those of tails once for a cut, whatever the unit: in a short search compiling takes as long as
    many steps. The two meet in the gradient at the cut, which one hands to the other. For the same
    reason a trial trains alone: three under `vmap` took 0.8 to 1.1 of the time of three steps
    through the tail on CPU, and every number of those that are left would compile anew.
    """

    def __init__(
        self,
        config: DesignConfig,
        backbone: networks.Backbone,
        train: CutFeatures,
        test: CutFeatures,
    ) -> None:
        """Takes the features of both sets of images, of all cuts that come up."""
        self.config, self.backbone, self.train, self.test = config, backbone, train, test
        self.devices = parallel.devices_for(config.batch_size)
        schedule = make_schedule("constant", config.learning_rate, 2 * _WARMUP, warmup=_WARMUP)
        self.adam = make_optimizer(schedule, max_norm=1.0, prior=config.prior_rate)
        self._first_cuts: dict[tuple[int, int, int], str] = {}
        self._variables = parallel.replicate(backbone.variables, self.devices)
        # Images come class by class; those of a comparison are to be of all classes.
        self._order = np.random.default_rng(config.seed).permutation(len(test.labels))

    def trials(self, chosen: Sequence[Candidate]) -> list[Trial]:
        """Fresh trials of the candidates, in their order."""
        found = []
        for one in chosen:
            split = make_split(self.backbone, one.cut, one.spec, parallel.AXIS)
            found.append(Trial(one, split, self._first_state(self._shared(split))))
        return found

    @functools.cache  # noqa: B019 — a search has one trainer
    def _first_state(self, split: Split) -> TrainState:
        ema = self.config.ema > 0
        any_rate = (Rate("any", 0.0),)  # all begin alike
        return jax.device_get(init_state(split, any_rate, self.adam, self.config.seed, ema))

    def advance(self, trial: Trial, steps: int, distilled: bool = True) -> None:
        """Trains a trial for so many more steps, and returns when they are done.

        It learns the uncut network's answers behind the tail or, not `distilled`, the features at
        the cut; with the rounding that it is compared with.
        """
        config, cut = self.config, trial.split.cut
        if distilled:
            trial.settle()
        shared = self._shared(trial.split)
        run, reconstruct = self._step(shared), self._reconstruct(shared)
        constants = {
            "backbone": _NO_NETWORK,
            "scale": jnp.asarray(self.train.scales[cut], jnp.float32),
            **rate_constants(trial.rates, config.seed),
        }
        state = parallel.replicate(trial.state, self.devices)
        constants = parallel.replicate(constants, self.devices)
        first = int(trial.state.step)
        for step in range(first, first + steps):
            batch = parallel.shard(self._batch(cut, step), self.devices)
            _, (seen,) = reconstruct((), batch, {"state": state, "constants": constants})
            if distilled:
                behind = {"x": seen, "teacher": batch["teacher"]}
                _, slopes = self._answer_slopes(cut)((), behind, self._variables)
            else:
                before = {"x": seen, "features": batch["features"]}
                _, slopes = self._feature_slopes((), before, constants["scale"])
            state, _ = run(state, {**batch, "slopes": [slopes]}, constants)
            jax.block_until_ready(state.step)  # a step is many programs
        trial.state, trial.settled = parallel.unreplicate(state), distilled

    def _batch(self, cut: str, step: int) -> dict[str, np.ndarray]:
        """The same images for every candidate, whatever is trained beside it."""
        count, size = len(self.train.labels), self.config.batch_size
        index = np.sort(np.random.default_rng((self.config.seed, step)).choice(count, size, False))
        return {
            "features": self.train.features[cut][index],
            "teacher": self.train.teacher[index],
            "label": self.train.labels[index],
            "index": index.astype(np.int32),
        }

    def compare(self, trial: Trial, part: int) -> dict[str, float]:
        """Sums over one part of the test images: {"bits", "top1", "images"}."""
        size, cut = self.part_size, trial.split.cut
        chosen = self._images(part)
        labels = np.full(size, -1, np.int32)  # no class of an image that only fills up
        features = np.zeros((size, *trial.split.shape), np.float16)
        seen = self.test.features[cut][chosen]
        features[: len(seen)], labels[: len(seen)] = seen, self.test.labels[chosen]
        sent = parallel.shard({"features": features, "label": labels}, self.devices)
        trial.settle()
        unit = {"unit": trial.state.result, "offsets": trial.state.offsets}
        unit = parallel.replicate(jax.tree.map(lambda x: x[0], unit), self.devices)
        _, behind = self._rounded(self._shared(trial.split))((), sent, unit)
        batch = {"x": behind["x"], "label": sent["label"]}
        _, right = self._answers(cut)((), batch, self._variables)
        return {
            "bits": float(np.asarray(behind["bits"]).sum()),
            "top1": float(np.asarray(right).sum()),
            "images": len(seen),
        }

    @property
    def part_size(self) -> int:
        """Test images of a part, which all devices share."""
        size = batch_size(self.backbone.preprocessing.input_shape)
        return -(-size // len(self.devices)) * len(self.devices)

    def parts(self, limit: int) -> Iterator[int]:
        """The parts of at most about so many test images."""
        yield from range(-(-min(limit, len(self.test.labels)) // self.part_size))

    def _images(self, part: int) -> np.ndarray:
        """Places of a part's images, rising."""
        return np.sort(self._order[part * self.part_size : (part + 1) * self.part_size])

    def uncut_top1(self, limit: int) -> float:
        """Share of the images in `parts(limit)` that the whole network is right about."""
        images = np.concatenate([self._images(part) for part in self.parts(limit)])
        answers = self.test.teacher[images].argmax(axis=-1)
        return float((answers == self.test.labels[images]).mean())

    def _shared(self, split: Split) -> Split:
        """The same program for features of one shape: what is behind the cut isn't in it."""
        cut = self._first_cuts.setdefault(split.shape, split.cut)
        return dataclasses.replace(split, cut=cut)

    @functools.cache  # noqa: B019
    def _step(self, split: Split) -> Any:
        step = make_step(split, _PHASE, self.adam, ema=self.config.ema)
        return parallel.parallel_step(step, self.devices)

    @functools.cache  # noqa: B019
    def _reconstruct(self, split: Split) -> Any:
        reconstruct = make_reconstruct(split, _PHASE)

        def run(nothing: Any, batch: Any, given: Any) -> Any:
            return nothing, reconstruct(given["state"], batch, given["constants"])

        return parallel.parallel_step(run, self.devices)

    @functools.cached_property
    def _feature_slopes(self) -> Any:
        def run(nothing: Any, batch: Any, scale: jax.Array) -> Any:
            def distortion(x: jax.Array) -> jax.Array:
                features = batch["features"].astype(jnp.float32)
                return self.config.weight * losses.feature_error(x, features, scale).sum()

            return nothing, jax.grad(distortion)(batch["x"])

        return parallel.parallel_step(run, self.devices)

    @functools.cache  # noqa: B019
    def _answer_slopes(self, cut: str) -> Any:
        module = self.backbone.module

        def run(nothing: Any, batch: Any, variables: Any) -> Any:
            def distortion(x: jax.Array) -> jax.Array:
                logits = module.apply(variables, x, start=cut)
                return losses.distillation(logits, batch["teacher"]).sum()

            return nothing, jax.grad(distortion)(batch["x"])

        return parallel.parallel_step(run, self.devices)

    @functools.cache  # noqa: B019
    def _rounded(self, split: Split) -> Any:
        def run(nothing: Any, batch: Any, given: Any) -> Any:
            features = batch["features"].astype(jnp.float32)
            shift = given["offsets"].reshape(1, 1, 1, -1)
            latent = jnp.round(split.encode(given["unit"], features) - shift) + shift
            bits = losses.rate(split.bits(given["unit"], latent))
            bits = jnp.where(batch["label"] >= 0, bits, 0.0).sum()
            return nothing, {"x": split.decode(given["unit"], latent), "bits": bits}

        return parallel.parallel_step(run, self.devices)

    @functools.cache  # noqa: B019
    def _answers(self, cut: str) -> Any:
        module = self.backbone.module

        def run(nothing: Any, batch: Any, variables: Any) -> Any:
            logits = module.apply(variables, batch["x"], start=cut)
            return nothing, (logits.argmax(-1) == batch["label"]).sum()

        return parallel.parallel_step(run, self.devices)
