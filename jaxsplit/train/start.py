"""The optimizer, first state and constants of a curve's training."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from jaxsplit import networks
from jaxsplit.train import optimizer
from jaxsplit.train.config import CurveConfig
from jaxsplit.train.fine_tuning import NETWORK, learning_blocks
from jaxsplit.train.groups import Group, group_constants, init_groups
from jaxsplit.train.losses import Scale
from jaxsplit.train.records import CurveConstants, CurveState
from jaxsplit.train.step import cast_params


def make_optimizer(config: CurveConfig) -> optax.GradientTransformation:
    """Returns the optimizer of the units, and of the network's blocks where they are trained."""
    if config.optimizer is not None:
        return config.optimizer
    rates = {"prior": config.prior_rate}
    if config.trainable != "unit":
        rates[NETWORK] = config.network_rate
    return optimizer.make_optimizer(config.learning_rates(), max_norm=config.max_norm, **rates)


def first_state(
    config: CurveConfig, backbone: networks.Backbone, groups: Sequence[Group]
) -> CurveState:
    """Returns the state at step 0.

    Args:
      config: the training.
      backbone: the network before any folding.
      groups: the rates.
    """
    blocks = learning_blocks(groups[0].split, backbone.variables, config.trainable)
    return init_groups(groups, make_optimizer(config), config.seed, config.ema > 0, blocks)


def make_constants(
    config: CurveConfig, backbone: networks.Backbone, groups: Sequence[Group], scale: Scale
) -> CurveConstants:
    """Returns the constants of `make_curve_step`.

    Args:
      config, backbone, groups: as in `first_state`.
      scale: of the features.
    """
    frozen = jax.tree.map(jnp.asarray, backbone.fold().variables)
    return CurveConstants(
        backbone=cast_params(frozen, config.compute_dtype),
        scale=jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), scale),
        groups=group_constants(groups, config.seed),
        network=None if config.trainable == "unit" else backbone.variables,
    )
