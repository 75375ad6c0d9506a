"""Any tree of dataclasses is built from dicts, overridden by text, and described."""

import dataclasses

import pytest

from jaxsplit.errors import ConfigError
from jaxsplit.io import fields


@dataclasses.dataclass(frozen=True)
class Inner:
    """Own keys.

    Attributes:
      size, depth: both of them,
        on two lines.
    """

    size: int = 3
    depth: int | str = "auto"


@dataclasses.dataclass(frozen=True)
class Outer:
    """Keys of every form.

    Attributes:
      parts: by name.
      inner: one.
      maybe: or none.
    """

    parts: dict[str, Inner]
    inner: Inner
    maybe: tuple[Inner, float] | None = None


def test_values_are_built():
    values = {"parts": {"a": {"size": 4}}, "maybe": [{}, 1]}
    assert fields.build(Outer, values) == Outer({"a": Inner(4)}, Inner(), (Inner(), 1))
    assert values == {"parts": {"a": {"size": 4}}, "maybe": [{}, 1]}


def test_text_overrides_values():
    values = {"parts": {"a": {"size": 4}}, "maybe": [{}, 1]}
    for key, text in (("inner.depth", "8"), ("parts.b.depth", "deep"), ("maybe", "None")):
        fields.override(Outer, values, key, text)
    assert fields.build(Outer, values) == Outer(
        {"a": Inner(4), "b": Inner(depth="deep")}, Inner(depth=8)
    )


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"parts": {}, "maybe": [{}]}, r"maybe is \[\{\}\]; expected 2 values"),
        ({"parts": {"a": 3}}, r"parts\.a is 3; expected a mapping"),
        ({"parts": {"a": {"size": 1.5}}}, r"parts\.a\.size is 1\.5; expected a whole number"),
        ({"parts": {"a": {"sizes": 1}}}, r"no key 'parts\.a\.sizes'; did you mean size\?"),
        ({}, "lacks 'parts'"),
    ],
)
def test_values_that_do_not_fit_are_refused(values, said):
    with pytest.raises(ConfigError, match=said):
        fields.build(Outer, values)


def test_keys_are_described():
    assert list(fields.describe_fields(Outer)) == [
        "  parts (required)",
        "      by name.",
        "  parts.NAME.size = 3",
        "  parts.NAME.depth = 'auto'",
        "      both of them, on two lines.",
        "  inner",
        "      one.",
        "  inner.KEY: the keys of Inner, as above",
        "  maybe = None",
        "      or none.",
        "  maybe.N.KEY: the keys of Inner, as above",
    ]
