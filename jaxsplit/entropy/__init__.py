"""The entropy model: a learned density per channel, its bits, and its frozen integer tables."""

from jaxsplit.entropy.factorized import (
    bits,
    cumulative_logits,
    init_params,
    log_likelihood,
    median,
    quantile,
)
from jaxsplit.entropy.prior import FactorizedPrior

__all__ = [
    "FactorizedPrior",
    "bits",
    "cumulative_logits",
    "init_params",
    "log_likelihood",
    "median",
    "quantile",
]
