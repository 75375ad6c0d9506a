"""Successive halving over cuts and unit architectures, within a time limit."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxsplit import data, networks
from jaxsplit.cost import make_plan
from jaxsplit.errors import ConfigError
from jaxsplit.io.checkpoint import key as checkpoint_key
from jaxsplit.io.identity import identity
from jaxsplit.io.log import Tell, tell_nobody
from jaxsplit.search.candidates import Candidate, DesignConfig, candidates
from jaxsplit.search.checkpoint import SearchCheckpoint
from jaxsplit.search.pareto import Result, choose_by_cut, front
from jaxsplit.search.trainer import Trainer, Trial
from jaxsplit.tasks import UNNAMED_CLASSES, Classification, Task
from jaxsplit.train import features, parallel

#: Yields trials one by one and logs the time spent before each.
Logged = Callable[[Sequence[Trial]], Iterable[Trial]]


@dataclasses.dataclass(frozen=True, eq=False)
class Design:
    """The result of a search.

    Attributes:
      results: of every candidate, from its last comparison.
      front: Pareto front of the last rung among results that lose at most `most_drop`,
        fewest bytes first; where all lose more, of those that lose least.
      most_drop: see `DesignConfig`.
      unsplit_quality, uncut_macs: of the unsplit network, on the images of the comparison.
      n_images: of the last comparison.
      minutes: running time, over all runs.
      task: of the network, whose quality was compared.

    >>> from jaxsplit.cost import grid_spec
    >>> candidate = Candidate("stem", grid_spec(channels=8, stride=2), 1e-3, device_macs=160_000)
    >>> result = Result(candidate, steps=500, bytes_per_image=41.5, quality=0.85, n_images=1000)
    >>> design = Design((result,), (result,), 0.2, 0.92, 6_500_000, 1000, minutes=2.0)
    >>> [(one.candidate.name, one.bytes_per_image) for one in design.front]
    [('stem c8 s2 0.001', 41.5)]
    """

    results: tuple[Result, ...]
    front: tuple[Result, ...]
    most_drop: float
    unsplit_quality: float
    uncut_macs: int
    n_images: int
    minutes: float
    task: Task = UNNAMED_CLASSES

    def to_dict(self) -> dict[str, Any]:
        """Returns unsplit network, front and all results, ready for JSON."""
        return {
            "uncut": {self.task.quality: self.unsplit_quality, "macs": self.uncut_macs},
            "n_images": self.n_images,
            "minutes": self.minutes,
            "most_drop": self.most_drop,
            "front": [result.to_dict(self.task.quality) for result in self.front],
            "results": [result.to_dict(self.task.quality) for result in self.results],
        }


def search(
    config: DesignConfig,
    backbone: networks.Backbone,
    workdir: Path,
    tell: Tell | None = None,
) -> Design:
    """Runs a search, or resumes one that was stopped.

    All programs are compiled first. Every rung then gets an equal share of the remaining time: all
    remaining candidates train for the same number of steps on the same images and are compared
    behind the tail, and a share of the candidates of each cut stays. A part of the first rung
    trains on the features at the cut; all later training runs through the tail. A stopped search
    resumes from the last steps that all candidates have finished, and a finished one, given more
    minutes, from its last rung. Every rung trains a few steps and compares on a part of the images
    even where no time is left: a limit shorter than the compilation is exceeded.

    Args:
      config: the search.
      backbone: the frozen network.
      workdir: for features, states and search.json.
      tell: log callback, with the minutes spent and their limit.

    Returns:
      All results and the front. `workdir` keeps what a longer search with the same values resumes
      from.

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
    own = () if type(backbone.task) is Classification else (json.dumps(identity(backbone.task)),)
    key = checkpoint_key(config.key, backbone.fingerprint, *fingerprints, *own)
    workdir.mkdir(parents=True, exist_ok=True)
    checkpoint = SearchCheckpoint(workdir, key)
    if checkpoint.other:
        tell(f"{checkpoint.path} is of a search with other values or images: starting again")
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
    run_rungs(config, trainer, everything, checkpoint, tell)
    rungs = checkpoint.values["rungs"]
    known, task = {one.name: one for one in everything}, backbone.task
    results = {
        stored["name"]: Result.from_dict(known[stored["name"]], stored, task)
        for rung in rungs
        for stored in rung["results"]
    }
    end = rungs[-1]
    last = [results[stored["name"]] for stored in end["results"]]
    unsplit_quality = trainer.unsplit_quality(end["n_images"])
    level = task.metric(task.quality).sign * unsplit_quality
    return Design(
        tuple(results.values()),
        tuple(front(last, level - config.most_drop)),
        config.most_drop,
        unsplit_quality,
        plan.macs,
        end["n_images"],
        checkpoint.seconds / 60,
        task,
    )


def _sources(config: DesignConfig, backbone: networks.Backbone) -> list[data.Source]:
    """Opens and checks the training images and those of the comparisons."""
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


def run_rungs(
    config: DesignConfig,
    trainer: Trainer,
    everything: Sequence[Candidate],
    checkpoint: SearchCheckpoint,
    tell: Tell,
) -> None:
    """Trains, compares and selects, rung by rung, from where the checkpoint ends.

    Args:
      config: the search.
      trainer: of its candidates.
      everything: all candidates.
      checkpoint: updated after every step that all have finished.
      tell: log callback.
    """
    rungs, total = checkpoint.values["rungs"], 60 * config.minutes
    quality = trainer.backbone.task.quality
    if len(rungs) == config.rungs:
        if config.minutes <= rungs[-1]["minutes"]:
            tell("the search is finished: it resumes when given more minutes")
            return
        rungs.pop()  # more minutes extend the last rung
    trials, distilled = checkpoint.restore(trainer, everything)
    log = functools.partial(_logged, config.minutes, checkpoint, tell)
    part_seconds = _compile(trainer, trials, checkpoint, functools.partial(log, "compiling"))
    for rung in range(len(rungs), config.rungs):
        started = checkpoint.seconds
        end = started + max(total - started, 0) / (config.rungs - rung)
        goal = _images(config, trainer, rung)
        until = end - part_seconds * len(trials) * len(list(trainer.parts(goal)))
        count = f"{len(trials)} candidate{'s' * (len(trials) > 1)}"
        logged = functools.partial(log, f"rung {rung + 1} of {config.rungs}: {count}")
        if config.on_features and not distilled:
            share = config.on_features * max(until - started, 0)
            _train(trainer, trials, checkpoint, started + share, False, logged)
        distilled = True
        _train(trainer, trials, checkpoint, until, True, logged)
        results, part_seconds = _compare(trainer, trials, checkpoint, goal, end, logged)
        kept = choose_by_cut(results, config.keep)
        rungs.append(
            {
                "steps": results[0].steps,
                "n_images": results[0].n_images,
                "minutes": config.minutes,
                "results": [{"name": r.candidate.name, **r.to_dict(quality)} for r in results],
                "kept": [result.candidate.name for result in kept],
            }
        )
        if len(rungs) < config.rungs:
            left = {result.candidate for result in kept}
            trials = [one for one in trials if one.candidate in left]
        checkpoint.save(trials, distilled)


def _logged(
    minutes: float, checkpoint: SearchCheckpoint, tell: Tell, text: str, trials: Sequence[Trial]
) -> Iterator[Trial]:
    """Yields the trials and logs the time spent before each."""
    for one in trials:
        tell(text, min(checkpoint.seconds / 60, minutes), minutes, "minutes")
        yield one


def _images(config: DesignConfig, trainer: Trainer, rung: int) -> int:
    """Images of a rung's comparison: fewer where more candidates are left."""
    count = trainer.test_images
    return max(trainer.part_size, round(count * config.keep ** (config.rungs - 1 - rung)))


def _compile(
    trainer: Trainer, trials: Sequence[Trial], checkpoint: SearchCheckpoint, logged: Logged
) -> float:
    """Compiles all programs; returns the seconds of comparing a trial on a part of the images."""
    copies = [dataclasses.replace(one) for one in trials]  # these steps are discarded
    for one in logged(copies):
        for distilled in (True, False):
            trainer.advance(one, 1, distilled)
        trainer.compare(one, 0)
    started = checkpoint.seconds
    for one in logged(copies):
        trainer.compare(one, 0)
    return (checkpoint.seconds - started) / len(copies)


def _train(
    trainer: Trainer,
    trials: Sequence[Trial],
    checkpoint: SearchCheckpoint,
    end: float,
    distilled: bool,
    logged: Logged,
) -> None:
    """Trains as many steps as fit, the same number for all; their duration is measured here."""
    chunk = 2
    while chunk:
        started = checkpoint.seconds
        for one in logged(trials):
            trainer.advance(one, chunk, distilled)
        checkpoint.save(trials, distilled)
        now = checkpoint.seconds
        fitting = max(int((end - now) * chunk / (now - started)), 0)
        chunk = max(min(fitting, 10), fitting // 3)  # in parts: the machine may slow down


def _compare(
    trainer: Trainer,
    trials: Sequence[Trial],
    checkpoint: SearchCheckpoint,
    goal: int,
    end: float,
    logged: Logged,
) -> tuple[list[Result], float]:
    """Results of all trials on the same images, and the seconds of a part of them each."""
    totals: list[dict[str, np.ndarray | int]] = []
    spent = 0.0
    for part in trainer.parts(goal):
        started = checkpoint.seconds
        if totals and started + spent > end:
            break
        sums = [trainer.compare(one, part) for one in logged(trials)]
        spent = checkpoint.seconds - started
        before = totals or [dict.fromkeys(one, 0) for one in sums]
        totals = [
            {name: old[name] + new[name] for name in new}
            for old, new in zip(before, sums, strict=True)
        ]
    results, task = [], trainer.backbone.task
    metric = task.metric(task.quality)
    for one, total in zip(trials, totals, strict=True):
        count = int(total["images"])
        size = float(total["bits"]) / 8 / count
        value = float(metric.value(np.asarray(total[task.quality], np.float64) / count))
        results.append(Result(one.candidate, int(one.state.step), size, value, count, metric))
    return results, spent / len(results)
