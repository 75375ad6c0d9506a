"""The search for units: many short trainings at all cuts, of which ever fewer go on."""

from jaxsplit.design.candidates import Candidate, DesignConfig, candidates
from jaxsplit.design.front import Result
from jaxsplit.design.search import Design, search

__all__ = ["Candidate", "Design", "DesignConfig", "Result", "candidates", "search"]
