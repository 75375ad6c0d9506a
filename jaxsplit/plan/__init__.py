"""Where a network can be cut, and what each cut and each unit costs: counted, never run."""

from jaxsplit.plan.cost import SplitCost, split_cost
from jaxsplit.plan.counting import count_macs, count_params
from jaxsplit.plan.cuts import CHANNELS, STRIDES, SYMBOLS, CutPlan, Plan, make_plan
from jaxsplit.plan.link import Link, Option, Timing, best
from jaxsplit.plan.units import UnitPlan, grid_spec, plan_unit, unit_grid

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
