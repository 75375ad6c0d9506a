"""Types of arrays and of trees of them, as JAX's functions take them; imports no jax."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar, Union

import numpy as np

if TYPE_CHECKING:
    import jax
    from _typeshed import DataclassInstance

_Leaf = TypeVar("_Leaf")

#: On a device or on the host.
Array = Union["jax.Array", np.ndarray]
#: A leaf, or a dictionary, list, tuple or registered dataclass (such as an Equinox model) of trees.
TreeOf = Union[  # what a dataclass holds has no type
    _Leaf, Mapping[str, "TreeOf[_Leaf]"], Sequence["TreeOf[_Leaf]"], "DataclassInstance"
]
Tree = TreeOf[Array]
#: Shapes and types in place of arrays, and what `jax.eval_shape` takes: any of both.
Structs = TreeOf["jax.ShapeDtypeStruct"]
Traced = TreeOf[Union[Array, "jax.ShapeDtypeStruct"]]
