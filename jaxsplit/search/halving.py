"""Successive halving: all candidates train for a while, the better ones go on, within a time."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxsplit import data, networks
from jaxsplit.cost import make_plan
from jaxsplit.errors import ConfigError
from jaxsplit.io import checkpoint
from jaxsplit.io.log import Tell, tell_nobody
from jaxsplit.search.candidates import Candidate, DesignConfig, candidates
from jaxsplit.search.journal import Journal
from jaxsplit.search.keeper import Keeper
from jaxsplit.search.pareto import Result, choose_by_cut, front
from jaxsplit.search.trainer import Trainer, Trial
from jaxsplit.train import features, parallel

Heard = Callable[[Sequence[Trial]], Iterable[Trial]]


@dataclasses.dataclass(frozen=True, eq=False)
class Design:
    """What a search found.

    Attributes:
      results: of every candidate, when it was last compared.
      front: of those that were left at the end and lose at most `most_drop` of top-1, what
        nothing beats, fewest bytes first; where all lose more, what comes nearest.
      most_drop: as of the configuration.
      uncut_top1, uncut_macs: of the network without a cut, on the images of the comparison.
      n_images: of the last comparison.
      minutes: that it took, over all its runs.

    >>> from jaxsplit.cost import grid_spec
    >>> candidate = Candidate("stem", grid_spec(channels=8, stride=2), 1e-3, device_macs=160_000)
    >>> result = Result(candidate, steps=500, bytes_per_image=41.5, top1=0.85, n_images=1000)
    >>> design = Design((result,), (result,), 0.2, 0.92, 6_500_000, 1000, minutes=2.0)
    >>> [(one.candidate.name, one.bytes_per_image) for one in design.front]
    [('stem c8 s2 0.001', 41.5)]
    """

    results: tuple[Result, ...]
    front: tuple[Result, ...]
    most_drop: float
    uncut_top1: float
    uncut_macs: int
    n_images: int
    minutes: float

    def to_dict(self) -> dict[str, Any]:
        """The uncut network, the front and all results, ready for JSON."""
        return {
            "uncut": {"top1": self.uncut_top1, "macs": self.uncut_macs},
            "n_images": self.n_images,
            "minutes": self.minutes,
            "most_drop": self.most_drop,
            "front": [result.to_dict() for result in self.front],
            "results": [result.to_dict() for result in self.results],
        }


def search(
    config: DesignConfig,
    backbone: networks.Backbone,
    workdir: Path,
    tell: Tell | None = None,
) -> Design:
    """Searches, or goes on with a search that was stopped.

    All programs are compiled first. Every stretch gets an equal share of the time that is left
    then: in it all candidates that are left train for the same number of steps, on the same images,
    and are compared behind the tail; then a share of those of every cut goes on. They learn the
    features at the cut in a part of the first stretch, and from then on through the tail. A search
    that was stopped goes on from the last steps that all have taken, and one that is finished from
    its last stretch where it is given more minutes. Every stretch trains a few steps and compares
    on a part of the images, however little time is left: a time that is shorter than what
    compiling takes is exceeded.

    Args:
      config: the search.
      backbone: the frozen network.
      workdir: for features, states and the journal.
      tell: told what goes on, and how much of the time has gone.

    Returns:
      What every candidate was worth, and the front. `workdir` keeps what a longer search of the
      same values goes on from.

    Raises:
      ConfigError: nothing fits, there are fewer training images than a batch takes, or the
        devices can't share a batch.
      DataError: the images are of other classes than the backbone's.

    >>> from jaxsplit.weights.load import load_backbone
    >>> config = DesignConfig("fashion_mnist_resnet8", cuts=("stem",), channels=(64,), minutes=5)
    >>> search(config, load_backbone(config.backbone), Path("found"))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    jaxsplit.errors.ConfigError: no unit of the grid fits any cut and leaves ...
    """
    tell = tell or tell_nobody
    parallel.devices_for(config.batch_size)  # refused before anything is computed
    frozen = backbone.fold()
    shape = backbone.preprocessing.input_shape
    plan = make_plan(backbone.network, shape, backbone.variables, channels=(), strides=())
    everything = candidates(config, plan)
    sources = _sources(config, backbone)
    fingerprints = [str(source.fingerprint) for source in sources]
    key = checkpoint.key(config.key, backbone.fingerprint, *fingerprints)
    workdir.mkdir(parents=True, exist_ok=True)
    journal = Journal(workdir / "search.json", key)
    if journal.other:
        tell(f"{journal.path} was of a search of other values or images: this one begins anew")
    cuts = tuple(dict.fromkeys(one.cut for one in everything))
    seen = [
        features.compute_at_cuts(
            frozen,
            cuts,
            source,
            directory=workdir / "features",
            max_bytes=int(config.cache_gib * 2**30),
            tell=tell,
        )
        for source in sources
    ]
    trainer = Trainer(config, frozen, *seen)
    climb(config, trainer, everything, journal, workdir, tell)
    results = _results(journal, everything)
    end = journal.values["rungs"][-1]
    last = [results[said["name"]] for said in end["results"]]
    uncut_top1 = trainer.unsplit_quality(end["n_images"])
    return Design(
        tuple(results.values()),
        tuple(front(last, uncut_top1 - config.most_drop)),
        config.most_drop,
        uncut_top1,
        plan.macs,
        end["n_images"],
        journal.seconds / 60,
    )


def _sources(config: DesignConfig, backbone: networks.Backbone) -> list[data.Source]:
    """The images to train on and those to compare on, of the backbone's classes."""
    sources = [
        data.open_source(config.data, split=split, limit=limit)
        for split, limit in (
            (config.train_split, config.limit),
            (config.test_split, config.evaluate_limit),
        )
    ]
    for source in sources:
        backbone.task.check_source(source)
    if len(sources[0]) < config.batch_size:
        raise ConfigError(
            f"{len(sources[0])} training images don't fill a batch of {config.batch_size}"
        )
    return sources


def climb(
    config: DesignConfig,
    trainer: Trainer,
    everything: Sequence[Candidate],
    journal: Journal,
    workdir: Path,
    tell: Tell,
) -> None:
    """Trains, compares and chooses, stretch by stretch, from where the journal ends.

    Args:
      config: the search.
      trainer: of its trainings.
      everything: all candidates.
      journal: gets what is finished.
      workdir: for the states of what goes on.
      tell: told what goes on, and how much of the time has gone.
    """
    rungs, total = journal.values["rungs"], 60 * config.minutes
    if len(rungs) == config.rungs:
        if config.minutes <= rungs[-1]["minutes"]:
            tell("the search is finished: with more minutes it goes on")
            return
        rungs.pop()  # with more minutes the last stretch goes on
    keeper = Keeper(workdir, journal)
    trials, distilled = keeper.trials(trainer, everything)
    hear = functools.partial(_heard, config.minutes, journal, tell)
    part_seconds = _compile(trainer, trials, journal, functools.partial(hear, "compiling"))
    for rung in range(len(rungs), config.rungs):
        begun = journal.seconds
        end = begun + max(total - begun, 0) / (config.rungs - rung)
        goal = _goal(config, trainer, rung)
        until = end - part_seconds * len(trials) * len(list(trainer.parts(goal)))
        count = f"{len(trials)} candidate{'s' * (len(trials) > 1)}"
        what = f"stretch {rung + 1} of {config.rungs}: {count}"
        heard = functools.partial(hear, what)
        if config.on_features and not distilled:
            share = config.on_features * max(until - begun, 0)
            _train(trainer, trials, keeper, begun + share, False, heard)
        distilled = True
        _train(trainer, trials, keeper, until, True, heard)
        results, part_seconds = _compare(trainer, trials, journal, goal, end, heard)
        kept = choose_by_cut(results, config.keep)
        rungs.append(
            {
                "steps": results[0].steps,
                "n_images": results[0].n_images,
                "minutes": config.minutes,
                "results": [{"name": r.candidate.name, **r.to_dict()} for r in results],
                "kept": [result.candidate.name for result in kept],
            }
        )
        if len(rungs) < config.rungs:
            left = {result.candidate for result in kept}
            trials = [one for one in trials if one.candidate in left]
        keeper.keep(trials, distilled)


def _heard(
    minutes: float, journal: Journal, tell: Tell, what: str, trials: Sequence[Trial]
) -> Iterator[Trial]:
    """The trials one by one, while `tell` hears how much of the time has gone."""
    for one in trials:
        tell(what, min(journal.seconds / 60, minutes), minutes, "minutes")
        yield one


def _goal(config: DesignConfig, trainer: Trainer, rung: int) -> int:
    """Images of a comparison: the more candidates, the fewer."""
    count = trainer.test_images
    return max(trainer.part_size, round(count * config.keep ** (config.rungs - 1 - rung)))


def _compile(trainer: Trainer, trials: Sequence[Trial], journal: Journal, heard: Heard) -> float:
    """Everything that the search runs; the seconds of comparing a trial on a part of the images."""
    copies = [dataclasses.replace(one) for one in trials]  # what they learn here is forgotten
    for one in heard(copies):
        for distilled in (True, False):
            trainer.advance(one, 1, distilled)
        trainer.compare(one, 0)
    begun = journal.seconds
    for one in heard(copies):
        trainer.compare(one, 0)
    return (journal.seconds - begun) / len(copies)


def _train(
    trainer: Trainer,
    trials: Sequence[Trial],
    keeper: Keeper,
    end: float,
    distilled: bool,
    heard: Heard,
) -> None:
    """As many steps as fit, the same number for all; what one takes is measured here."""
    journal, chunk = keeper.journal, 2
    while chunk:
        begun = journal.seconds
        for one in heard(trials):
            trainer.advance(one, chunk, distilled)
        keeper.keep(trials, distilled)
        fitting = max(int((end - journal.seconds) * chunk / (journal.seconds - begun)), 0)
        chunk = max(min(fitting, 10), fitting // 3)  # in parts: a machine may become slower


def _compare(
    trainer: Trainer,
    trials: Sequence[Trial],
    journal: Journal,
    goal: int,
    end: float,
    heard: Heard,
) -> tuple[list[Result], float]:
    """The results of all trials on the same images, and the seconds of a part of them each."""
    totals: list[dict[str, float]] = []
    spent = 0.0
    for part in trainer.parts(goal):
        begun = journal.seconds
        if totals and begun + spent > end:
            break
        sums = [trainer.compare(one, part) for one in heard(trials)]
        spent = journal.seconds - begun
        before = totals or [dict.fromkeys(one, 0) for one in sums]
        totals = [
            {name: old[name] + new[name] for name in new}
            for old, new in zip(before, sums, strict=True)
        ]
    results, quality = [], trainer.backbone.task.quality
    for one, total in zip(trials, totals, strict=True):
        count = int(total["images"])
        size, top1 = total["bits"] / 8 / count, total[quality] / count
        results.append(Result(one.candidate, int(one.state.step), size, top1, count))
    return results, spent / len(results)


def _results(journal: Journal, everything: Sequence[Candidate]) -> dict[str, Result]:
    """Name → the last result of every candidate."""
    known = {one.name: one for one in everything}
    return {
        said["name"]: Result.from_dict(known[said["name"]], said)
        for rung in journal.values["rungs"]
        for said in rung["results"]
    }
