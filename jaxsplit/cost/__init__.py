"""Where a network can be cut, and what each cut and each unit costs: counted, never run."""

from jaxsplit.cost.cuts import CHANNELS, STRIDES, SYMBOLS, CutPlan, Plan, make_plan
from jaxsplit.cost.link import Link, Option, Timing, best
from jaxsplit.cost.macs import count_macs, count_params
from jaxsplit.cost.split import SplitCost, split_cost
from jaxsplit.cost.units import UnitPlan, grid_spec, plan_unit, unit_grid

__all__ = [
    "CHANNELS",
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
    "grid_spec",
    "make_plan",
    "plan_unit",
    "split_cost",
    "unit_grid",
]
