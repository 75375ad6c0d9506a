"""Adam with clipping, and learning-rate schedules by name."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import jax
import optax

from jaxsplit.errors import ConfigError

SCHEDULES = ("constant", "cosine", "exponential", "step")


def make_schedule(
    name: str,
    peak: float,
    steps: int,
    *,
    warmup: int = 0,
    decay_to: float = 0.01,
    milestones: Sequence[float] = (0.5, 0.75),
) -> optax.Schedule:
    """Returns a learning-rate schedule: a linear warm-up to `peak`, then one of four shapes.

    Args:
      name: "constant"; "cosine" and "exponential", which reach `decay_to` of the peak at the last
        step; "step", which falls by the same factor at each of the `milestones`, to `decay_to` of
        the peak after the last one.
      peak: after the warm-up.
      steps: of the whole training.
      warmup: steps, at most half of the training.
      decay_to: final fraction of the peak.
      milestones: rising fractions of the training.

    Raises:
      ConfigError: there is no such schedule, or milestones are not rising fractions.

    >>> schedule = make_schedule("step", 1.0, 100, decay_to=0.01, milestones=(0.5, 0.75))
    >>> [round(float(schedule(step)), 4) for step in (0, 49, 50, 75)]
    [1.0, 1.0, 0.1, 0.01]
    """
    rising = list(milestones) == sorted(set(milestones))
    if not rising or not all(0 < share < 1 for share in milestones):
        raise ConfigError(f"milestones are {milestones!r}; expected shares between 0 and 1, rising")
    warmup = min(warmup, max(1, steps // 2))
    if name == "cosine":
        return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, max(steps, 2), decay_to * peak)
    if name == "constant":
        after = optax.constant_schedule(peak)
    elif name == "exponential":
        after = optax.exponential_decay(peak, max(steps - warmup, 1), decay_to)
    elif name == "step":
        factor = decay_to ** (1 / max(len(milestones), 1))
        falls = {max(round(share * steps) - warmup, 0): factor for share in milestones}
        after = optax.piecewise_constant_schedule(peak, falls)
    else:
        raise ConfigError(f"schedule is {name!r}; expected one of {', '.join(SCHEDULES)}")
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def make_optimizer(
    schedule: optax.Schedule, *, max_norm: float = math.inf, **rates: float
) -> optax.GradientTransformation:
    """Returns Adam with clipping by the global norm of a rate's gradient, without weight decay.

    `rates` are learning-rate multipliers of parts of the parameters, by name.
    """
    scaled = [
        optax.masked(optax.scale(rate), functools.partial(_mask, part))
        for part, rate in rates.items()
    ]
    return optax.chain(optax.clip_by_global_norm(max_norm), optax.adam(schedule), *scaled)


def _mask(part: str, tree: optax.Params) -> optax.Params:
    """True for each array under a part's name, such as the prior of any unit."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: any(getattr(key, "key", None) == part for key in path), tree
    )
