"""Frozen networks with named endpoints, and the places where they can be cut."""

from jaxsplit._moved import renamed
from jaxsplit.networks.architectures import create, cuts, endpoint_shapes, names
from jaxsplit.networks.backbone import (
    SUFFIX,
    Backbone,
    embedded_weights,
    fingerprint,
    make_backbone,
    open_embedded,
    read_backbone,
    save_backbone,
)
from jaxsplit.networks.backbone_file import holds_backbone
from jaxsplit.networks.inference import predict
from jaxsplit.networks.layers import Chain, fold_normalization
from jaxsplit.networks.network import (
    Features,
    FunctionNetwork,
    LinenNetwork,
    Network,
    Variables,
    as_network,
)
from jaxsplit.networks.registry import register

__all__ = [
    "SUFFIX",
    "Backbone",
    "Chain",
    "Features",
    "FunctionNetwork",
    "LinenNetwork",
    "Network",
    "Variables",
    "as_network",
    "create",
    "cuts",
    "embedded_weights",
    "endpoint_shapes",
    "fingerprint",
    "fold_normalization",
    "holds_backbone",
    "make_backbone",
    "names",
    "open_embedded",
    "predict",
    "read_backbone",
    "register",
    "save_backbone",
]

__getattr__ = renamed(__name__)
