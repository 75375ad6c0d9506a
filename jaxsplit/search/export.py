"""Writes a configuration that trains the chosen points of a search in full."""

from __future__ import annotations

import dataclasses
import pprint
from collections.abc import Sequence
from pathlib import Path

from jaxsplit.io.files import write_whole
from jaxsplit.search.candidates import DesignConfig
from jaxsplit.search.pareto import Result
from jaxsplit.train.config import CurveConfig

# Fields of a search that a training has too.
_SHARED = ("data", "batch_size", "learning_rate", "prior_lr_multiplier", "ema", "seed")

_TEMPLATE = '''\
"""Curves of the points that a search chose; written by `jaxsplit design`.

    jaxsplit train --config {name}:CUT --workdir DIR

CUT is one of: {cuts}. Each training takes all rates of its cut.
"""

import ml_collections

# Argument: cut → rate → spec and lambda.
VARIANTS = {chosen}


def get_config(arg: str = {first!r}) -> ml_collections.ConfigDict:
    """The training of the points at one cut."""
    chosen = VARIANTS[arg]
    config = ml_collections.ConfigDict()
    config.kind = "curve"
    config.backbone = {backbone!r}
    config.cut = arg
    config.specs = {{rate: spec for rate, (spec, _) in chosen.items()}}
    config.spec = next(iter(config.specs.values()))
    config.lambdas = {{rate: lmbda for rate, (_, lmbda) in chosen.items()}}
    config.phases = (
        {{"steps": {features}, "distortion": {{"distillation": 0.0, "features": {weight!r}}}}},
        {{"steps": {noise}, "distortion": {{"distillation": 1.0}}}},
        {{"steps": {rounding}, "distortion": {{"distillation": 1.0}}, "quantization": "round"}},
    )
    config.tables = "positions"
    config.feature_dtype = "float16"
    # As in the search, but on all images.
{values}
    return config
'''


def write_config(path: Path, config: DesignConfig, chosen: Sequence[Result]) -> None:
    """Writes the configuration, for `jaxsplit train --config FILE:CUT`.

    The rates of a cut are called r1, r2, …, the fewest bytes first.

    Args:
      path: Python file to write; a ConfigError if it can't be written.
      config: the search.
      chosen: at least one result.
    """
    cuts: dict[str, dict[str, tuple[dict[str, int], float]]] = {}
    for result in sorted(chosen, key=lambda result: result.bytes_per_image):
        rates = cuts.setdefault(result.candidate.cut, {})
        spec, lmbda = result.candidate.spec, result.candidate.lmbda
        size = {name: getattr(spec, name) for name in ("channels", "stride", "kernel", "padding")}
        rates[f"r{len(rates) + 1}"] = (size, lmbda)
    features = config.full_steps // 20
    noise = (config.full_steps - features) // 2
    values = {name: getattr(config, name) for name in _SHARED} | _splits(config)
    usual = {field.name: field.default for field in dataclasses.fields(CurveConfig)}
    lines = [f"    config.{name} = {x!r}" for name, x in values.items() if x != usual[name]]
    text = _TEMPLATE.format(
        name=path.name,
        cuts=", ".join(cuts),
        chosen=pprint.pformat(cuts, width=92, sort_dicts=False),
        first=next(iter(cuts)),
        backbone=config.backbone,
        weight=config.weight,
        features=features,
        noise=noise,
        rounding=config.full_steps - features - noise,
        values="\n".join(lines),
    )
    write_whole(path, text.encode())


def _splits(config: DesignConfig) -> dict[str, str]:
    """Whole splits: a training may use the images on which a search compares."""
    train, test = (split.partition("[")[0] for split in (config.train_split, config.test_split))
    if train != test:
        return {"train_split": train, "test_split": test}
    if train == CurveConfig.test_split:
        return {"train_split": config.train_split, "test_split": config.test_split}
    return {"train_split": train}  # the test is on images that the search never saw
