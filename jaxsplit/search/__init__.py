"""The search for units: many short trainings at all cuts, of which ever fewer go on."""

from jaxsplit.search.candidates import Candidate, DesignConfig, candidates
from jaxsplit.search.halving import Design, search
from jaxsplit.search.pareto import Result

__all__ = ["Candidate", "Design", "DesignConfig", "Result", "candidates", "search"]
