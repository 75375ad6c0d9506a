"""A rate family: the small trees of all rates of one cut, as a value and as a folder."""

from jaxsplit.codec.rate import FamilyRate
from jaxsplit.family.family import RateFamily

__all__ = ["FamilyRate", "RateFamily"]
