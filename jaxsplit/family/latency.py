"""The latency of the rates of families over a link."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from jaxsplit import networks
from jaxsplit.cost import Link, Option, plan_unit, split_cost
from jaxsplit.errors import ConfigError
from jaxsplit.family.family import RateFamily
from jaxsplit.units import BottleneckSpec, ResidualSpec, VariableRate


def link_options(
    families: Mapping[str, RateFamily], backbone: networks.Backbone, link: Link
) -> list[Option]:
    """Computes the latency of every rate of families, by name, from its measured bytes.

    The variables of their network may be shapes. A ConfigError if a family is of another network or
    image size, or a rate has no measured bytes.
    """
    options = []
    for name, family in families.items():
        ours = backbone.name, backbone.preprocessing.input_shape
        theirs = family.backbone, family.preprocessing.input_shape
        if theirs != ours:
            raise ConfigError(
                f"the family {name} is of {theirs[0]} with images of {theirs[1]}, not of {ours[0]} "
                f"with images of {ours[1]}"
            )
        for rate in family.rates:
            sent = rate.measured.get("bytes_per_image")
            if not isinstance(sent, int | float) or sent < 0:
                raise ConfigError(
                    f"rate {rate.rate_id} of {name} has no measured bytes: evaluate it"
                )
            split = family.split(backbone, rate.rate_id)
            cost = split_cost(split, backbone)
            timing = link.time(cost.device_macs, sent, cost.server_macs)
            spec, unit = rate.spec, None
            if isinstance(spec, VariableRate):
                spec = spec.unit
            if isinstance(spec, BottleneckSpec | ResidualSpec) and len(split.tensors) == 1:
                unit = plan_unit(spec, split.shape)
            title, task = f"{Path(name).name} {rate.rate_id}", backbone.task
            value = rate.measured.get(task.quality)
            options.append(Option(title, family.cut, unit, sent, timing, value, task))
    return options
