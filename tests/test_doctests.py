"""Every public name is explained, and every example runs, as the installed package has it."""

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import jaxsplit

MODULES = ["jaxsplit"] + [
    module.name
    for module in pkgutil.walk_packages(jaxsplit.__path__, "jaxsplit.")
    if not module.name.startswith("jaxsplit.configs") and module.name != "jaxsplit.__main__"
]
# What a program imports from: the names of `__all__`.
PUBLIC = [name for name in MODULES if hasattr(importlib.import_module(name), "__all__")]


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


def functions(value):
    """(docstrings, function) of a public function, or of every public method of a class."""
    if inspect.isfunction(value):
        return [(value.__doc__, value)]
    found = []
    for name, member in vars(value).items() if inspect.isclass(value) else ():
        member = getattr(member, "__func__", member)  # of a class or static method
        ours = inspect.isfunction(member) and member.__module__ == value.__module__
        if ours and (name == "__call__" or not name.startswith("_")):
            found.append((f"{value.__doc__} {member.__doc__}", member))
    return found


def unexplained(value):
    """Parameters of a public function or of a class's public methods that no docstring names."""
    return [
        f"{function.__qualname__}: {name}"
        for text, function in functions(value)
        for name in inspect.signature(function).parameters
        if name not in ("self", "cls") and not re.search(rf"\b{name}\b", text, re.IGNORECASE)
    ]


def test_what_is_unexplained_is_seen():
    class Told:
        """Of a."""

        def method(self, a, b):
            """Takes C."""

        @classmethod
        def other(cls, b, c):
            """Of b and C."""

    assert [text.rpartition(".")[2] for text in unexplained(Told)] == ["method: b"]


@pytest.mark.parametrize("name", PUBLIC)
def test_every_parameter_is_explained(name):
    module = importlib.import_module(name)
    assert not [one for public in module.__all__ for one in unexplained(getattr(module, public))]


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
