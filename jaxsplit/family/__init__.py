"""Rate families: the parameter trees and tables of all rates of one cut, in memory and on disk."""

from jaxsplit.codec.rates import FamilyRate, Levels
from jaxsplit.family.family import RateFamily

__all__ = ["FamilyRate", "Levels", "RateFamily"]
