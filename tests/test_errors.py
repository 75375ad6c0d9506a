"""Errors that are no bugs are one line, and arrive from other processes."""

import inspect
import pickle
import signal

import jax
import jax.numpy as jnp
import pytest

from jaxsplit import errors
from jaxsplit.errors import Interrupted, JaxsplitError, one_line

KINDS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, Exception)  # `Interrupted` is none
]


@pytest.mark.parametrize("kind", KINDS)
def test_errors_are_pickled(kind):
    loaded = pickle.loads(pickle.dumps(kind("said")))
    assert (type(loaded), str(loaded)) == (kind, "said")


def test_an_interruption_is_pickled_with_its_signal():
    loaded = pickle.loads(pickle.dumps(Interrupted("stopped", signal.SIGTERM)))
    assert (type(loaded), str(loaded), loaded.signal) == (Interrupted, "stopped", signal.SIGTERM)


def raised(run, kind=Exception):
    with pytest.raises(kind) as error:
        run()
    return error.value


def test_what_xla_cannot_allocate_is_one_line():
    huge = jax.ShapeDtypeStruct((1 << 45,), jnp.float32)
    program = jax.jit(lambda: jnp.zeros(huge.shape, huge.dtype) + 1)
    error = raised(program, jax.errors.JaxRuntimeError)
    assert one_line(error) == one_line(MemoryError())
    assert one_line(error).startswith("out of memory: use smaller batches")


def test_other_errors_of_jax_s_runtime_are_one_line_and_bugs_are_none():
    long = "INTERNAL: " + "a stack\n" * 1000 + "(set JAX_PLATFORMS='' to choose)"
    line = one_line(jax.errors.JaxRuntimeError(long))
    assert line.startswith("INTERNAL: a stack a stack")
    assert line.endswith(" (set JAX_PLATFORMS='' to choose)")
    assert len(line) < 500
    assert one_line(JaxsplitError("two\nlines")) == "two lines"
    for bug in (
        RuntimeError("x"),
        AssertionError(),
        NotImplementedError(),
        RecursionError(),
        KeyError(1),
    ):
        assert one_line(bug) is None


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (RuntimeError("Unable to initialize backend 'tpu':\nnone (set X)"), "'tpu': none (set X)"),
        (AssertionError(), "jax has no backend for JAX_PLATFORMS=cpu (set JAX_PLATFORMS=''"),
    ],
)
def test_a_backend_that_does_not_start_is_one_line_whatever_was_raised(monkeypatch, problem, words):
    def devices():
        raise problem

    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setattr(jax, "devices", devices)
    for error in (problem, RuntimeError("filtered by jax"), AssertionError()):
        assert words in one_line(error)
    assert one_line(ValueError("a bug")) is None


@pytest.mark.parametrize(
    ("name", "known", "meant"),
    [
        ("resnet8", ["resnet18", "mnist_resnet8", "resnet8_s"], "resnet8_s or mnist_resnet8"),
        ("Stage1", ["stem", "stage1.block1", "stage2.block1"], "stage1.block1"),
        ("wepb", ["jpeg", "webp"], "webp"),
        (3, ["r1", "r3"], "r3"),
        ("seed", ["r1", "r3"], ""),
    ],
)
def test_the_nearest_names_have_the_same_words_or_similar_letters(name, known, meant):
    ending = f"; did you mean {meant}?" if meant else ""
    assert errors.choices(name, known) == ", ".join(known) + ending
