"""Bottleneck units at a cut: the paper's unit, and the interface for others."""

from jaxsplit.units.bottleneck import Bottleneck, BottleneckSpec
from jaxsplit.units.unit import (
    PerTensor,
    Shape,
    Unit,
    UnitSpec,
    Variables,
    check_stored,
    from_form,
    per_tensor,
    register,
    spec_from_form,
)
from jaxsplit.units.unit_tree import Tensor, UnitTree

__all__ = [
    "Bottleneck",
    "BottleneckSpec",
    "PerTensor",
    "Shape",
    "Tensor",
    "Unit",
    "UnitSpec",
    "UnitTree",
    "Variables",
    "check_stored",
    "from_form",
    "per_tensor",
    "register",
    "spec_from_form",
]
