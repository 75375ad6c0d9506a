"""Every public name is explained, and every example runs, as the installed package has it."""

import ast
import doctest
import importlib
import inspect
import pkgutil
from pathlib import Path

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


def undocumented(source):
    """Public functions, classes and methods of a module's source without a docstring."""
    found = []

    def look(body, prefix):
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                if node.name.startswith("_"):
                    continue
                if not ast.get_docstring(node):
                    found.append(prefix + node.name)
                if isinstance(node, ast.ClassDef):
                    look(node.body, f"{node.name}.")

    look(ast.parse(source).body, "")
    return found


def test_what_is_undocumented_is_seen():
    source = 'class A:\n  """."""\n  def b(self): pass\n  def _c(self): pass\ndef d(): pass'
    assert undocumented(source) == ["A.b", "d"]


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_is_documented(name):
    assert not undocumented(Path(importlib.import_module(name).__file__).read_text())


@pytest.mark.parametrize("name", jaxsplit.__all__)
def test_what_users_import_has_an_example_and_explains_its_arguments(name):
    value = getattr(jaxsplit, name)
    text = value.__doc__
    assert ">>>" in text
    if inspect.isfunction(value):
        names = list(inspect.signature(value).parameters)
    else:
        fields = getattr(value, "__dataclass_fields__", {})
        names = [field for field in fields if field not in ("name", "parent")]  # Linen's own
    assert not [one for one in names if one not in text]
