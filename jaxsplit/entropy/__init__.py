"""The entropy model: a learned density per channel, its rate in bits, and integer tables."""

from jaxsplit.entropy.densities import Density
from jaxsplit.entropy.factorized import (
    bits,
    cumulative_logits,
    init_params,
    log_likelihood,
    median,
    quantile,
)
from jaxsplit.entropy.joint_tables import join_tables, stack_tables
from jaxsplit.entropy.prior import FactorizedPrior
from jaxsplit.entropy.prior_tables import build_tables, integer_counts, rounding_offsets
from jaxsplit.entropy.symbol_tables import tables_by_place, tables_from_counts

__all__ = [
    "Density",
    "FactorizedPrior",
    "bits",
    "build_tables",
    "cumulative_logits",
    "init_params",
    "integer_counts",
    "join_tables",
    "log_likelihood",
    "median",
    "quantile",
    "rounding_offsets",
    "stack_tables",
    "tables_by_place",
    "tables_from_counts",
]
