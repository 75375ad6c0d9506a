"""A user's own losses, optimizers and networks have identities of their own."""

import dataclasses
import functools
import json

import jax
import numpy as np
import optax
import pytest

from jaxsplit.io.identity import identity
from jaxsplit.train.config import CurveConfig
from jaxsplit.train.losses import Distortion
from jaxsplit.train.step import Phase, Rate
from jaxsplit.units import BottleneckSpec


@dataclasses.dataclass(frozen=True)
class Margin:
    weight: float = 1.0

    def __call__(self, seen):
        return self.weight


@dataclasses.dataclass(frozen=True)
class Ranking:
    weight: float = 1.0

    def __call__(self, seen):
        return -self.weight


def make_loss(weight):
    def loss(seen):
        return weight * seen

    return loss


def scaled(seen, weight):
    return weight * seen


VALUES = [
    Margin(),
    Margin(2.0),
    Ranking(),
    make_loss(0.1),
    make_loss(0.5),
    functools.partial(scaled, weight=0.1),
    functools.partial(scaled, weight=0.5),
    lambda seen: seen,
    lambda seen: seen + 1,
    np.zeros(3),
    np.zeros(4),
    optax.sgd(1e-2),
    optax.sgd(1e-3),
    optax.adam(1e-2),
    optax.adam(optax.cosine_decay_schedule(1e-2, 100)),
    optax.adam(optax.cosine_decay_schedule(1e-2, 200)),
    None,
]


def test_different_values_differ_and_equal_ones_do_not():
    found = [json.dumps(identity(value)) for value in VALUES]
    assert len(set(found)) == len(VALUES)
    assert identity(make_loss(0.1)) == identity(make_loss(0.1))
    assert identity(Margin(2.0)) == identity(Margin(2.0))
    assert identity(optax.sgd(1e-2)) == identity(optax.sgd(1e-2))


def config(**changes):
    values = {
        "backbone": "any",
        "cut": "stem",
        "spec": BottleneckSpec(channels=4),
        "rates": (Rate("r1", 1e-3),),
        "phases": (Phase(10, Distortion()),),
    }
    return CurveConfig(**values | changes)


@pytest.mark.parametrize(
    "pair",
    [
        [{"phases": (Phase(10, loss),)} for loss in (Margin(), Ranking())],
        [{"phases": (Phase(10, make_loss(weight)),)} for weight in (0.1, 0.5)],
        [{"optimizer": optax.sgd(rate)} for rate in (1e-2, 1e-3)],
        [{}, {"optimizer": optax.adam(5e-3)}],
    ],
)
def test_a_workdir_of_one_training_is_not_that_of_another(pair):
    one, other = (config(**changes) for changes in pair)
    assert one.key != other.key
    assert one.key == config(**pair[0]).key


class Plain:
    def __init__(self, **values):
        vars(self).update(values)


class Slotted:
    __slots__ = ("weight",)

    def __init__(self, weight):
        self.weight = weight


@pytest.mark.parametrize("kind", [lambda weight: Plain(weight=weight), Slotted])
def test_plain_objects_differ_by_their_attributes(kind):
    assert json.dumps(identity(kind(1.0))) == json.dumps(identity(kind(1.0)))
    assert identity(kind(1.0)) != identity(kind(2.0))
    assert identity([Plain(inner=kind(1.0))]) != identity([Plain(inner=kind(2.0))])


def test_compiled_functions_differ_by_what_they_wrap():
    assert identity(jax.jit(make_loss(1.0))) != identity(jax.jit(make_loss(2.0)))


def test_objects_in_a_circle_have_an_identity():
    first, second = Plain(), Plain()
    for one in (first, second):
        vars(one).update(a=first, b=second, c=first)
    assert json.dumps(identity(first))


def test_sets_have_no_order():
    assert identity({"b", "a"}) == identity({"a", "b"}) != identity({"a", "c"})
