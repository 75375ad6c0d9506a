"""Successive halving over cuts and unit architectures, within a time limit."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxsplit import data, networks
from jaxsplit._moved import renamed_argument, renamed_field
from jaxsplit.cost import make_plan
from jaxsplit.data.pipeline import check_batch
from jaxsplit.errors import ConfigError
from jaxsplit.io.files import only_run
from jaxsplit.io.log import Log, no_log
from jaxsplit.search.candidates import Candidate, DesignConfig, candidates
from jaxsplit.search.checkpoint import Rung, SearchCheckpoint
from jaxsplit.search.pareto import Result, choose_by_cut, front
from jaxsplit.search.trainer import Sums, Trainer, Trial
from jaxsplit.tasks import UNNAMED_CLASSES, Task
from jaxsplit.tasks.task import check_targets
from jaxsplit.train import features, parallel
from jaxsplit.train.curve import training_key


@renamed_field("uncut_macs", "unsplit_macs")
@dataclasses.dataclass(frozen=True, eq=False)
class Design:
    """The result of a search.

    Attributes:
      results: of every candidate, from its last comparison.
      front: Pareto front of the last rung among results that lose at most `most_drop`, fewest
        bytes first; where all lose more, of those that lose least.
      most_drop: see `DesignConfig`.
      unsplit_quality, unsplit_macs: of the unsplit network, on the images of the comparison.
      n_images: of the last comparison.
      minutes: running time, over all runs.
      task: of the network, whose quality was compared.

    >>> from jaxsplit.units import BottleneckSpec
    >>> candidate = Candidate("stem", BottleneckSpec(8), 1e-3, device_macs=160_000)
    >>> result = Result(candidate, steps=500, bytes_per_image=41.5, quality=0.85, n_images=1000)
    >>> design = Design((result,), (result,), 0.2, 0.92, 6_500_000, 1000, minutes=2.0)
    >>> [(one.candidate.name, one.bytes_per_image) for one in design.front]
    [('stem c8 s2 0.001', 41.5)]
    """

    results: tuple[Result, ...]
    front: tuple[Result, ...]
    most_drop: float
    unsplit_quality: float
    unsplit_macs: int
    n_images: int
    minutes: float
    task: Task = UNNAMED_CLASSES

    def to_dict(self) -> dict[str, Any]:
        """Returns unsplit network, front and all results, ready for JSON."""
        return {
            "uncut": {self.task.quality: self.unsplit_quality, "macs": self.unsplit_macs},
            "n_images": self.n_images,
            "minutes": self.minutes,
            "most_drop": self.most_drop,
            "front": [result.to_dict() for result in self.front],
            "results": [result.to_dict() for result in self.results],
        }


@renamed_argument("tell", "log")
def search(
    config: DesignConfig,
    backbone: networks.Backbone,
    workdir: Path,
    log: Log | None = None,
) -> Design:
    """Runs a search, or resumes one that was stopped.

    All programs are compiled first. Every rung then gets an equal share of the remaining time: all
    remaining candidates train for the same number of steps on the same images and are compared
    behind the tail, and a share of the candidates of each cut stays. A stopped search resumes from
    the last steps that all candidates have finished; a finished one, given more minutes, from its
    last rung. Every rung trains a few steps and compares on a part of the images even where no time
    is left: a limit shorter than the compilation is exceeded.

    Args:
      config: the search.
      backbone: the frozen network.
      workdir: for features, states and search.json, from which a longer search resumes.
      log: log callback, with the minutes spent and their limit.

    Returns:
      All results and the front.

    Raises:
      ConfigError: nothing fits, the images don't fill a batch, the devices can't share one,
        `most_drop` is impossible for the task's metric, or another process runs in `workdir`.
      DataError: the images are of other classes than the backbone's.

    >>> from jaxsplit.weights.load import load_backbone
    >>> config = DesignConfig("fashion_mnist_resnet8", cuts=("stem",), channels=(64,), minutes=5)
    >>> search(config, load_backbone(config.backbone), Path("found"))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    jaxsplit.errors.ConfigError: no unit of the grid fits any cut and leaves ...
    """
    log = log or no_log
    _check(config, backbone)  # before anything is computed
    shape = backbone.preprocessing.input_shape
    plan = make_plan(backbone.network, shape, backbone.variables, channels=(), strides=(), log=log)
    all_candidates = candidates(config, plan)
    sources = _sources(config, backbone)
    workdir.mkdir(parents=True, exist_ok=True)
    fingerprints = (str(source.fingerprint) for source in sources)
    with only_run(workdir):
        checkpoint = SearchCheckpoint(workdir, training_key(config.key, backbone, *fingerprints))
        if checkpoint.other:
            log(f"{checkpoint.path} is of a search with other values or images: starting again")
        cuts = tuple(dict.fromkeys(one.cut for one in all_candidates))
        trainer = _make_trainer(config, backbone.fold(), cuts, sources, workdir / "features", log)
        run = Run(config, trainer, checkpoint, log)
        run.rungs(all_candidates)
    return run.design(all_candidates, plan.macs)


def _check(config: DesignConfig, backbone: networks.Backbone) -> None:
    """Raises a ConfigError where the devices or the task don't allow the search."""
    parallel.devices_for(config.batch_size)
    metric = backbone.task.metric(backbone.task.quality)
    if metric.is_share and config.most_drop > 1:
        raise ConfigError(
            f"most_drop is {config.most_drop}; {metric.label} is a share: expected from 0 to 1"
        )


def _make_trainer(
    config: DesignConfig,
    frozen: networks.Backbone,
    cuts: tuple[str, ...],
    sources: Sequence[data.Source],
    folder: Path,
    log: Log,
) -> Trainer:
    """Computes the features of all cuts, or reads those in `folder`, for a trainer."""
    views, limit = data.Views(), config.cache_gib * 2**30
    runs = [features.HeadRun(frozen, cuts, one, views, "float16", log) for one in sources]
    return Trainer(config, frozen, *(features.cached(run, folder, "disk", limit) for run in runs))


def _sources(config: DesignConfig, backbone: networks.Backbone) -> list[data.Source]:
    """Opens and checks the training images and those of the comparisons."""
    sources = [
        data.open_source(config.data, split=config.train_split, max_samples=config.max_samples),
        data.open_source(config.data, split=config.test_split, max_samples=config.max_eval_samples),
    ]
    for source in sources:
        check_targets(backbone.task, source, needed=True)
    check_batch(len(sources[0]), config.batch_size)
    return sources


@dataclasses.dataclass(frozen=True)
class Run:
    """Trains and compares trials in turn; times are those of the checkpoint's clock, in seconds."""

    config: DesignConfig
    trainer: Trainer
    checkpoint: SearchCheckpoint
    log: Log

    def rungs(self, all_candidates: Sequence[Candidate]) -> None:
        """Trains, compares and selects, rung by rung, from where the checkpoint ends.

        `all_candidates` are all candidates. The checkpoint is updated after every step that the
        remaining ones have finished.
        """
        config, trainer, checkpoint = self.config, self.trainer, self.checkpoint
        rungs = checkpoint.record.rungs
        if len(rungs) == config.rungs:
            if config.minutes <= rungs[-1].minutes:
                self.log("the search is finished: it resumes when given more minutes")
                return
            rungs.pop()  # more minutes extend the last rung
        trials, distilled = checkpoint.restore(trainer, all_candidates)
        part_seconds = self.compile(trials)
        for rung in range(len(rungs), config.rungs):
            started, left = checkpoint.seconds, config.rungs - rung
            end = started + max(60 * config.minutes - started, 0) / left
            # Fewer images where more candidates are left.
            goal = round(trainer.test_images * config.keep ** (left - 1))
            goal = max(trainer.part_size, goal)
            until = end - part_seconds * len(trials) * len(trainer.parts(goal))
            count = f"{len(trials)} candidate{'s' * (len(trials) > 1)}"
            text = f"rung {rung + 1} of {config.rungs}: {count}"
            if config.on_features and not distilled:
                share = config.on_features * max(until - started, 0)
                self.train(text, trials, started + share, distilled=False)
            distilled = True
            self.train(text, trials, until, distilled)
            results, part_seconds = self.compare(text, trials, goal, end)
            kept = choose_by_cut(results, config.keep)
            finished = Rung(
                results[0].steps,
                results[0].n_images,
                config.minutes,
                [{"name": result.candidate.name, **result.to_dict()} for result in results],
                [result.candidate.name for result in kept],
            )
            if rung + 1 < config.rungs:
                remaining = {result.candidate for result in kept}
                trials = [one for one in trials if one.candidate in remaining]
            checkpoint.save(trials, distilled, finished)

    def design(self, all_candidates: Sequence[Candidate], unsplit_macs: int) -> Design:
        """Reads all results and the front from the finished checkpoint."""
        rungs, task = self.checkpoint.record.rungs, self.trainer.backbone.task
        known = {one.name: one for one in all_candidates}
        try:
            results = {
                str(stored["name"]): Result.from_dict(known[str(stored["name"])], stored, task)
                for rung in rungs
                for stored in rung.results
            }
        except (KeyError, TypeError, ValueError) as error:
            raise self.checkpoint.damaged from error
        last = [results[str(stored["name"])] for stored in rungs[-1].results]
        n_images = rungs[-1].n_images
        unsplit = self.trainer.unsplit_quality(n_images)
        most_drop = self.config.most_drop
        least = task.metric(task.quality).sign * unsplit - most_drop
        return Design(
            tuple(results.values()),
            tuple(front(last, least)),
            most_drop,
            unsplit,
            unsplit_macs,
            n_images,
            self.checkpoint.seconds / 60,
            task,
        )

    def each(self, text: str, trials: Sequence[Trial]) -> Iterator[Trial]:
        """Yields the trials and logs the time spent before each."""
        minutes = self.config.minutes
        for one in trials:
            self.log(text, min(self.checkpoint.seconds / 60, minutes), minutes, "minutes")
            yield one

    def compile(self, trials: Sequence[Trial]) -> float:
        """Compiles all programs; returns the time of comparing a trial on a part of the images."""
        copies = [dataclasses.replace(one) for one in trials]  # these steps are discarded
        part = self.trainer.parts(1)[0]
        for one in self.each("compiling", copies):
            for distilled in (True, False):
                self.trainer.advance(one, 1, distilled)
            self.trainer.compare(one, part)
        started = self.checkpoint.seconds
        for one in self.each("compiling", copies):
            self.trainer.compare(one, part)
        return (self.checkpoint.seconds - started) / len(copies)

    def train(self, text: str, trials: Sequence[Trial], end: float, distilled: bool) -> None:
        """Trains as many steps as fit, the same number for all; their duration is measured here."""
        chunk = 2
        while chunk:
            started = self.checkpoint.seconds
            for one in self.each(text, trials):
                self.trainer.advance(one, chunk, distilled)
            self.checkpoint.save(trials, distilled)
            now = self.checkpoint.seconds
            fitting = max(int((end - now) * chunk / (now - started)), 0)
            chunk = max(min(fitting, 10), fitting // 3)  # in parts: the machine may slow down

    def compare(
        self, text: str, trials: Sequence[Trial], goal: int, end: float
    ) -> tuple[list[Result], float]:
        """Results of all trials on the same images, and the time of a part of them each."""
        parts: list[list[Sums]] = []
        spent = 0.0
        for part in self.trainer.parts(goal):
            started = self.checkpoint.seconds
            if parts and started + spent > end:
                break
            parts.append([self.trainer.compare(one, part) for one in self.each(text, trials)])
            spent = self.checkpoint.seconds - started
        task, results = self.trainer.backbone.task, []
        metric = task.metric(task.quality)
        for one, *sums in zip(trials, *parts, strict=True):
            count, bits, statistics = (
                np.sum([part[name] for part in sums], axis=0)
                for name in ("examples", "bits", task.quality)
            )
            size, value = float(bits / 8 / count), float(metric.value(statistics / count))
            steps = int(one.state.step)
            results.append(Result(one.candidate, steps, size, value, int(count), task))
        return results, spent / len(results)
