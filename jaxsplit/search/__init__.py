"""Successive-halving search over cuts and unit architectures."""

from jaxsplit.search.candidates import Candidate, DesignConfig, candidates
from jaxsplit.search.halving import Design, search
from jaxsplit.search.pareto import Result

__all__ = ["Candidate", "Design", "DesignConfig", "Result", "candidates", "search"]
