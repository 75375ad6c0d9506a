"""From the state of a training to a family."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np

from jaxsplit.data import portable_name
from jaxsplit.family import FamilyRate, Levels, RateFamily
from jaxsplit.io.versions import versions
from jaxsplit.networks import Backbone
from jaxsplit.train.config import CurveConfig
from jaxsplit.train.rate_groups import Group
from jaxsplit.train.state import CurveState


def freeze(
    config: CurveConfig, backbone: Backbone, groups: Sequence[Group], state: CurveState
) -> RateFamily:
    """Returns the family of a trained state, with tables of the priors."""
    rates, levels = dict[str, FamilyRate](), None
    for group, trained in zip(groups, state.groups, strict=True):
        if group.split.is_variable_rate:
            unit = group.split.variable_unit
            variables = jax.tree.map(lambda x: np.asarray(x[0]), trained.result)
            levels = Levels.of_prior(unit, variables)
            for rate in group.rates:
                level = levels.nearest(unit.position(rate.lmbda))
                rates[rate.rate_id] = levels.named(level, rate.rate_id)
            continue
        units = group.units(trained)
        for i, rate in enumerate(group.rates):
            variables, offsets = jax.tree.map(lambda x, i=i: np.asarray(x[i]), units)
            tables = group.split.tables(variables, offsets)
            spec = rate.spec or config.unit
            rates[rate.rate_id] = FamilyRate(rate.rate_id, rate.lmbda, spec, variables, tables)
    return RateFamily(
        backbone=backbone.name,
        backbone_fingerprint=backbone.fingerprint,
        weights=backbone.weights,
        preprocessing=backbone.preprocessing,
        cut=config.cut,
        rates=tuple(rates[rate.rate_id] for rate in config.rates),
        card={
            "data": portable_name(config.data),
            "split": config.train_split,
            "seed": config.seed,
            "versions": versions(),
        },
        bound=backbone,
        levels=levels,
    )
