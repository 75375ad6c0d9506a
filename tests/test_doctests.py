"""Every example in a docstring runs, as the installed package has it."""

import doctest
import importlib
import pkgutil

import pytest

import jaxsplit

MODULES = ["jaxsplit"] + [
    module.name
    for module in pkgutil.walk_packages(jaxsplit.__path__, "jaxsplit.")
    if not module.name.startswith("jaxsplit.configs") and module.name != "jaxsplit.__main__"
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    module = importlib.import_module(name)
    failed, _ = doctest.testmod(module)
    assert failed == 0


def test_the_library_has_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [t for name in MODULES for t in finder.find(importlib.import_module(name))]
    assert sum(bool(test.examples) for test in found) >= 40
