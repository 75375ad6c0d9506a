"""Checks of what is read from a file or given by a user; what fails is a `ConfigError`."""

import math
from typing import Any

import numpy as np

from jaxsplit.errors import ConfigError


def check_keys(
    value: object, expected: tuple[str, ...], where: str, optional: tuple[str, ...] = ()
) -> None:
    """Refuses a value that isn't a dict of the expected keys and any of the optional ones."""
    if not isinstance(value, dict) or set(value) - set(optional) != set(expected):
        got = f"the keys {sorted(value)}" if isinstance(value, dict) else type(value).__name__
        perhaps = f" and perhaps {sorted(optional)}" if optional else ""
        raise ConfigError(f"{where} has {got}, expected {sorted(expected)}{perhaps}")


def _number(name: str, value: Any, highest: float = math.inf) -> float:
    real = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not real or not math.isfinite(value) or not 0 <= value <= highest:
        raise ConfigError(f"{name} is {value!r}, expected a number from 0 to {highest:g}")
    return float(value)


def set_number(instance: object, name: str, highest: float = math.inf) -> None:
    """Makes an attribute a float, or refuses it if it isn't a finite number from 0 to `highest`."""
    object.__setattr__(instance, name, _number(name, getattr(instance, name), highest))


def set_interval(instance: object, name: str) -> None:
    """Makes an attribute a pair of floats, 0 ≤ low ≤ high ≤ 1, or refuses it."""
    value = getattr(instance, name)
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ConfigError(f"{name} is {value!r}, expected its two ends")
    low, high = (_number(name, end, highest=1.0) for end in value)
    if low > high:
        raise ConfigError(f"{name} is {value!r}, expected its lower end first")
    object.__setattr__(instance, name, (low, high))


def set_count(instance: object, name: str, lowest: int = 1) -> None:
    """Makes an attribute an int, or refuses it if it isn't a whole number, `lowest` or above."""
    value = getattr(instance, name)
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < lowest:
        raise ConfigError(f"{name} is {value!r}, expected a whole number of at least {lowest}")
    object.__setattr__(instance, name, int(value))
