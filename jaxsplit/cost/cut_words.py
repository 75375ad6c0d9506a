"""Cuts by a word: early, middle and late, after the share of the work that the device does."""

from __future__ import annotations

from collections.abc import Callable

from jaxsplit.cost.plan import make_plan
from jaxsplit.cost.unit_plan import plan_unit
from jaxsplit.errors import ConfigError, choices
from jaxsplit.networks import Backbone
from jaxsplit.units import BottleneckSpec, ResidualSpec, Shape

#: Word → largest share of the unsplit network's multiply-accumulates for head and encoder.
CUT_SHARES = {"early": 0.30, "middle": 0.65, "late": 0.90}


def find_cut(
    backbone: Backbone,
    cut: str,
    unit_at: Callable[[Shape, int], BottleneckSpec | ResidualSpec],
) -> str:
    """Returns the cut that a name or a word means.

    A word is the last cut whose head and encoder have at most its share of the unsplit network's
    multiply-accumulates, see `CUT_SHARES`.

    Args:
      backbone: the network.
      cut: one of its cuts, else one of the words.
      unit_at: (shape of the features, multiply-accumulates of the unsplit network) → the unit whose
        encoder counts.

    Returns:
      The cut's name; a ConfigError if there is none.

    >>> from jaxsplit import load_backbone
    >>> backbone = load_backbone("fashion_mnist_resnet8")
    >>> find_cut(backbone, "early", lambda shape, macs: BottleneckSpec.from_stride(4, 2))
    'stem'
    """
    if cut in (cuts := backbone.network.cuts()):
        return cut
    if cut not in CUT_SHARES:
        known = choices(cut, (*CUT_SHARES, *cuts))
        raise ConfigError(f"{backbone.name} has no cut {cut!r}; expected one of {known}")
    plan = make_plan(backbone, channels=(), strides=(), progress=False)
    shares = {}
    for one in reversed(plan.cuts):
        if len(one.feature_shape) != 3:
            continue
        unit = plan_unit(unit_at(one.feature_shape, plan.macs), one.feature_shape)
        shares[one.cut] = (one.device_macs + unit.encoder_macs) / plan.macs
        if shares[one.cut] <= CUT_SHARES[cut]:
            return one.cut
    least = min(shares, key=shares.__getitem__, default=None)
    lowest = f"; the lowest, {least}, has {100 * shares[least]:.0f} %" if least else ""
    raise ConfigError(
        f"{backbone.name} has no {cut} cut, whose device half has at most "
        f"{100 * CUT_SHARES[cut]:.0f} % of its multiply-accumulates{lowest}: name a cut"
    )
