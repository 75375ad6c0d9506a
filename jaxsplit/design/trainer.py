"""Short trainings of candidates: those of one form at one cut are a group, side by side."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsplit import losses, models
from jaxsplit.bottleneck import BottleneckSpec
from jaxsplit.design.candidates import Candidate, DesignConfig
from jaxsplit.design.features import CutFeatures
from jaxsplit.losses import Distortion
from jaxsplit.models.inference import batch_size
from jaxsplit.split import Split, make_split
from jaxsplit.train import parallel
from jaxsplit.train.groups import Group, with_best_offsets
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


@dataclasses.dataclass(eq=False)
class Members:
    """Candidates of one form at one cut, and the state of their trainings.

    Attributes:
      split: the cut with that form.
      candidates: at least one.
      state: as of `init_state`, on the host.
      settled: whether its units round where its offsets say; training with noise unsettles them.
    """

    split: Split
    candidates: tuple[Candidate, ...]
    state: TrainState
    settled: bool = False

    def settle(self) -> None:
        """Lets the units round where that costs the fewest bits, unless they are settled."""
        # What has diverged has no best offsets; its bits say that it is worth nothing.
        finite = all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(self.state.result))
        if finite and not self.settled:
            group = Group(self.split, self.rates, tuple(range(len(self.candidates))))
            (state,) = with_best_offsets((group,), CurveState((self.state,))).groups
            offsets = np.asarray(state.offsets, np.float32)
            self.state = dataclasses.replace(state, offsets=offsets)
        self.settled = True

    @property
    def rates(self) -> tuple[Rate, ...]:
        """The candidates as rates; their noise depends on their names alone."""
        return tuple(Rate(one.name, one.lmbda) for one in self.candidates)

    def keep(self, chosen: Sequence[Candidate]) -> Members:
        """Only some of them, with their states."""
        places = [i for i, one in enumerate(self.candidates) if one in chosen]
        # The step is one number for all; everything else has an axis of candidates.
        wide = dataclasses.replace(self.state, step=jnp.zeros(len(self.candidates)))
        state = jax.tree.map(lambda x: np.asarray(x)[places], wide)
        state = dataclasses.replace(state, step=self.state.step)
        ones = tuple(self.candidates[i] for i in places)
        return Members(self.split, ones, state, self.settled)


class Trainer:
    """Trains and compares members.

    Programs of units are compiled once for a form, whatever the cut, and those of tails once for a
    cut, whatever the unit: tails compile longest, and take one candidate after the other.
    """

    def __init__(
        self,
        config: DesignConfig,
        backbone: models.Backbone,
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

    def members(self, chosen: Sequence[Candidate]) -> list[Members]:
        """Fresh members of all candidates, group by group."""
        forms: dict[tuple[str, BottleneckSpec], list[Candidate]] = {}
        for one in chosen:
            forms.setdefault((one.cut, one.spec), []).append(one)
        found = []
        for (cut, spec), ones in forms.items():
            split = make_split(self.backbone, cut, spec, parallel.AXIS)
            state = self._first_state(self._shared(split), len(ones))
            found.append(Members(split, tuple(ones), state))
        return found

    @functools.cache  # noqa: B019 — a search has one trainer
    def _first_state(self, split: Split, count: int) -> TrainState:
        rates = (Rate("any", 0.0),) * count  # all begin alike
        ema = self.config.ema > 0
        return jax.device_get(init_state(split, rates, self.adam, self.config.seed, ema))

    def advance(self, members: Members, steps: int, distilled: bool = False) -> None:
        """Trains members for so many more steps, and returns when they are done.

        They learn the features at the cut, with noise; or, distilled, the uncut network's answers
        behind the tail, with the rounding that they are compared with.
        """
        config, cut = self.config, members.split.cut
        if distilled:
            members.settle()
        shared = self._shared(members.split)
        run = self._step(shared, distilled)
        reconstruct, tail = self._reconstruct(shared), self._slopes(cut)
        constants = {
            "backbone": _NO_NETWORK,
            "scale": jnp.asarray(self.train.scales[cut], jnp.float32),
            **rate_constants(members.rates, config.seed),
        }
        state = parallel.replicate(members.state, self.devices)
        constants = parallel.replicate(constants, self.devices)
        first = int(members.state.step)
        for step in range(first, first + steps):
            batch = parallel.shard(self._batch(cut, step), self.devices)
            if distilled:
                _, seen = reconstruct((), batch, {"state": state, "constants": constants})
                behind = [{"x": x, "teacher": batch["teacher"]} for x in seen]
                batch["slopes"] = [tail((), one, self._variables)[1] for one in behind]
            state, _ = run(state, batch, constants)
            if distilled or step % parallel.AHEAD == 0:  # distilled, a step is many programs
                jax.block_until_ready(state.step)
        members.state, members.settled = parallel.unreplicate(state), distilled

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

    def compare(self, members: Members, part: int) -> dict[str, np.ndarray]:
        """Sums over one part of the test images: {"bits": [W], "top1": [W], "images": []}."""
        size, cut = self.part_size, members.split.cut
        chosen = self._images(part)
        labels = np.full(size, -1, np.int32)  # no class of an image that only fills up
        features = np.zeros((size, *members.split.shape), np.float16)
        seen = self.test.features[cut][chosen]
        features[: len(seen)], labels[: len(seen)] = seen, self.test.labels[chosen]
        sent = parallel.shard({"features": features, "label": labels}, self.devices)
        members.settle()
        units = {"unit": members.state.result, "offsets": members.state.offsets}
        units = parallel.replicate(units, self.devices)
        _, behind = self._rounded(self._shared(members.split))((), sent, units)
        # One after the other: the tail, which compiles longest, then knows no number of them.
        answers, latents = self._answers(cut), np.asarray(behind["x"])
        right = []
        for i in range(len(members.candidates)):
            batch = {"x": latents[:, i], "label": sent["label"]}
            _, count = answers((), batch, self._variables)
            right.append(np.asarray(count).sum())
        bits = np.asarray(behind["bits"]).sum(axis=0)
        return {"bits": bits, "top1": np.stack(right), "images": np.asarray(len(seen))}

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

    def _phase(self, distilled: bool) -> Phase:
        if distilled:
            return Phase(1, Distortion(), "round")
        return Phase(1, Distortion(distillation=0.0, features=self.config.weight))

    @functools.cache  # noqa: B019 — a search has one trainer
    def _step(self, split: Split, distilled: bool) -> Any:
        step = make_step(split, self._phase(distilled), self.adam, ema=self.config.ema)
        return parallel.parallel_step(step, self.devices)

    @functools.cache  # noqa: B019
    def _reconstruct(self, split: Split) -> Any:
        reconstruct = make_reconstruct(split, self._phase(True))

        def run(nothing: Any, batch: Any, given: Any) -> Any:
            return nothing, reconstruct(given["state"], batch, given["constants"])

        return parallel.parallel_step(run, self.devices)

    @functools.cache  # noqa: B019
    def _slopes(self, cut: str) -> Any:
        module = self.backbone.module

        def run(nothing: Any, batch: Any, variables: Any) -> Any:
            def distortion(x: jax.Array) -> jax.Array:
                logits = module.apply(variables, x, start=cut)
                return losses.distillation(logits, batch["teacher"]).sum()

            return nothing, jax.grad(distortion)(batch["x"])

        return parallel.parallel_step(run, self.devices)

    @functools.cache  # noqa: B019
    def _rounded(self, split: Split) -> Any:
        def run(nothing: Any, batch: Any, units: Any) -> Any:
            features = batch["features"].astype(jnp.float32)
            real = batch["label"] >= 0

            def one(unit: Any, offsets: jax.Array) -> Any:
                shift = offsets.reshape(1, 1, 1, -1)
                latent = jnp.round(split.encode(unit, features) - shift) + shift
                bits = jnp.where(real, losses.rate(split.bits(unit, latent)), 0.0).sum()
                return {"x": split.decode(unit, latent), "bits": bits}

            return nothing, jax.vmap(one)(units["unit"], units["offsets"])

        return parallel.parallel_step(run, self.devices)

    @functools.cache  # noqa: B019
    def _answers(self, cut: str) -> Any:
        module = self.backbone.module

        def run(nothing: Any, batch: Any, variables: Any) -> Any:
            logits = module.apply(variables, batch["x"], start=cut)
            return nothing, (logits.argmax(-1) == batch["label"]).sum()

        return parallel.parallel_step(run, self.devices)
