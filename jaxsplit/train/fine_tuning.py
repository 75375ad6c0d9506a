"""Rates with networks of their own: what the frozen one is measured against."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from jaxsplit.family import RateFamily
from jaxsplit.family.table_fitting import fit_tables
from jaxsplit.io.log import Tell
from jaxsplit.networks import Backbone, fingerprint
from jaxsplit.train import loop
from jaxsplit.train.config import CurveConfig
from jaxsplit.train.curve import train_rates
from jaxsplit.train.trainable import NETWORK, with_blocks


def train_networks(
    config: CurveConfig,
    backbone: Backbone,
    workdir: Path | None = None,
    progress: loop.Progress | None = None,
    tell: Tell | None = None,
) -> tuple[tuple[RateFamily, Backbone], ...]:
    """Trains as `train_curve` does, whatever `config.trainable` says.

    Loss, examples, noise, phases and schedule are the same. What the encoder's features are
    compared with, and whose outputs are distilled, are the frozen network's.

    Args and errors: as of `train_curve`; the backbone should not be folded.

    Returns:
      Of every rate a family of that one alone, and the network that it is bound to.
    """
    family, source = train_rates(config, backbone, workdir, progress, tell)
    pairs = []
    for rate in family.rates:
        params = dict(rate.variables["params"])
        blocks = params.pop(NETWORK, {})
        variables = with_blocks(backbone.variables, blocks)
        own = dataclasses.replace(
            backbone,
            variables=variables,
            fingerprint=fingerprint(variables) if blocks else backbone.fingerprint,
            weights=None if blocks else backbone.weights,
        )
        rate = dataclasses.replace(rate, variables={**rate.variables, "params": params})
        alone = dataclasses.replace(
            family, rates=(rate,), backbone_fingerprint=own.fingerprint, weights=own.weights
        )
        if config.tables != "prior":
            alone = fit_tables(alone, own, source, tables=config.tables)
        pairs.append((alone, own))
    return tuple(pairs)
