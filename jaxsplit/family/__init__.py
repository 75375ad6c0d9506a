"""A rate family: the small trees of all rates of one cut, as a value and as a folder."""

from jaxsplit.family.family import RateFamily
from jaxsplit.family.rate import FamilyRate

__all__ = ["FamilyRate", "RateFamily"]
