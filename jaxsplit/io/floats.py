"""What every file of weights must hold: numbers that a network can compute with."""

from __future__ import annotations

import numpy as np

from jaxsplit.errors import WeightsError
from jaxsplit.io.untrusted import listed, shown


def finite_floats(tensors: dict[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    """Tensors [*size] of a file as float32.

    They leave the dict that is given as they are converted, so that no large file is in memory
    twice.

    Args:
      tensors: by name; a variance is one whose name ends in "var".
      where: the file, for the error.

    Raises:
      WeightsError: some are not floating point, not finite in float32, or negative variances: one
        message names them.
    """
    integers = [name for name, value in tensors.items() if not is_floating(value.dtype)]
    _refuse_any(integers, where, "not floating point")
    floats, wild, negative = {}, [], []
    for name in list(tensors):
        with np.errstate(over="ignore"):  # of a float64 that float32 cannot hold
            value = floats[name] = np.asarray(tensors.pop(name), np.float32)
        if not np.isfinite(value).all():
            wild.append(name)
        elif name.endswith("var") and value.size and value.min() < 0:
            negative.append(name)
    _refuse_any(wild, where, "not finite in float32")
    _refuse_any(negative, where, "negative variances")
    return floats


def is_floating(dtype: np.dtype) -> bool:
    """Whether values of the dtype are floating point, bfloat16 included."""
    return dtype.kind == "f" or dtype.name == "bfloat16"


def _refuse_any(names: list[str], where: str, what: str) -> None:
    if names:
        raise WeightsError(
            f"{where} holds no usable weights: {what}: {listed(map(shown, names))}; "
            "get the file again"
        )
