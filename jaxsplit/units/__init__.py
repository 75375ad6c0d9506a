"""Bottleneck units at a cut: the paper's, one of residual blocks, and the interface for others."""

from jaxsplit.units.bottleneck import Bottleneck, BottleneckSpec
from jaxsplit.units.factorized_unit import FactorizedUnit
from jaxsplit.units.residual_unit import ResidualSpec
from jaxsplit.units.unit import PerTensor, Shape, Unit, UnitSpec, Variables, per_tensor, register
from jaxsplit.units.variable_rate import VariableRate

__all__ = [
    "Bottleneck",
    "BottleneckSpec",
    "FactorizedUnit",
    "PerTensor",
    "ResidualSpec",
    "Shape",
    "Unit",
    "UnitSpec",
    "VariableRate",
    "Variables",
    "per_tensor",
    "register",
]
