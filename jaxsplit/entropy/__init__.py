"""The entropy model: a learned density per channel, its rate in bits, and integer tables."""

from jaxsplit._moved import renamed
from jaxsplit.entropy.factorized import (
    FactorizedPrior,
    bits,
    centred,
    cumulative_logits,
    init_params,
)
from jaxsplit.entropy.level_tables import LevelHistograms, level_tables
from jaxsplit.entropy.prior_tables import (
    Density,
    build_tables,
    integer_counts,
    rounding_offsets,
)
from jaxsplit.entropy.symbol_tables import (
    join_tables,
    stack_tables,
    tables_by_position,
    tables_from_counts,
)

__all__ = [
    "Density",
    "FactorizedPrior",
    "LevelHistograms",
    "bits",
    "build_tables",
    "centred",
    "cumulative_logits",
    "init_params",
    "integer_counts",
    "join_tables",
    "level_tables",
    "rounding_offsets",
    "stack_tables",
    "tables_by_position",
    "tables_from_counts",
]

__getattr__ = renamed(__name__)
