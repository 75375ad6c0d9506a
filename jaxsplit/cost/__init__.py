"""Cost of cuts, units and splits: MACs, parameters, memory and latency, from traced shapes."""

from jaxsplit.cost.counting import SplitCost, count_macs, count_params, split_cost
from jaxsplit.cost.cut_words import CUT_SHARES, find_cut
from jaxsplit.cost.link import Link, Option, Timing, best
from jaxsplit.cost.plan import SYMBOLS, CutPlan, Plan, make_plan
from jaxsplit.cost.unit_plan import (
    CHANNELS,
    STRIDES,
    UnitPlan,
    grid_spec,
    plan_unit,
    unit_grid,
)

__all__ = [
    "CHANNELS",
    "CUT_SHARES",
    "STRIDES",
    "SYMBOLS",
    "CutPlan",
    "Link",
    "Option",
    "Plan",
    "SplitCost",
    "Timing",
    "UnitPlan",
    "best",
    "count_macs",
    "count_params",
    "find_cut",
    "grid_spec",
    "make_plan",
    "plan_unit",
    "split_cost",
    "unit_grid",
]
