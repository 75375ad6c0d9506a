"""Every public name is explained, and every example runs, as the installed package has it."""

import ast
import doctest
import functools
import importlib
import inspect
import json
import pkgutil
import re
from pathlib import Path

import flax.linen as nn
import pytest

import jaxsplit

MODULES = ["jaxsplit"] + [
    module.name
    for module in pkgutil.walk_packages(jaxsplit.__path__, "jaxsplit.")
    if not module.name.startswith("jaxsplit.configs") and module.name != "jaxsplit.__main__"
]
# What a program imports from: the names of `__all__`.
PUBLIC = [name for name in MODULES if hasattr(importlib.import_module(name), "__all__")]
NOTEBOOKS = Path(__file__).parent.parent / "colab"


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


# What lacks something, and why it may.
EXCEPTIONS = {
    "CurveResult: an example": "only `run_curve` makes it",
    "Measurement: an example": "`measure` makes it, and its example shows one",
}
PARTS = {"Args": r"Args|Attributes", "Returns": r"Returns|Yields"}


def sections(text, kind):
    """The sections of one kind in a docstring: their indented lines."""
    return re.findall(rf"^(?:{PARTS[kind]}):\n((?:\s.*\n?|\n)+)", inspect.cleandoc(text), re.M)


def explained(text):
    """Names that have an entry in a docstring's Args or Attributes."""
    found = set()
    for section in sections(text, "Args"):
        indent = re.match(r" *", section).group()
        entries = re.findall(rf"^{indent}(\*?\*?\w+(?:, \w+)*): ", section, re.M)
        found |= {name.strip("*") for entry in entries for name in entry.split(", ")}
    return found


def parameters(value):
    """Parameters of a function, or of a class's constructor."""
    if inspect.isclass(value) and issubclass(value, BaseException):
        return []
    if getattr(value, "_is_protocol", False):
        return []  # a protocol is not constructed
    linen = ("name", "parent") if inspect.isclass(value) and issubclass(value, nn.Module) else ()
    names = inspect.signature(value).parameters
    return [name for name in names if name not in ("self", "cls", *linen)]


def unsaid(value, name):
    """Parameters and results of a function, or of a constructor, that its docstring leaves out."""
    text = value.__doc__ or ""
    bases = [base for base in value.__mro__ if is_ours(base)] if inspect.isclass(value) else []
    known = explained(text).union(*(explained(base.__doc__ or "") for base in bases))
    found = [f"{name}: {one}" for one in parameters(value) if one not in known]
    gives = not inspect.isclass(value) and inspect.signature(value).return_annotation
    if gives not in (False, None, "None") and not sections(text, "Returns"):
        found.append(f"{name}: Returns")
    return found


def lacking(value):
    """Gaps in the docstrings of a public function, or of a class and its methods.

    A method that takes nothing is like a property: its one line may say all. A method of an
    interface says once, in the interface, what it takes and gives.
    """
    value = inspect.unwrap(value)  # of a custom derivative, or jitted
    found = unsaid(value, value.__name__)
    if ">>>" not in (value.__doc__ or ""):
        found.append(f"{value.__name__}: an example")
    bases = value.__mro__[1:] if inspect.isclass(value) else ()
    for name, member in vars(value).items() if inspect.isclass(value) else ():
        member = getattr(member, "__func__", member)  # of a class or static method
        ours = inspect.isfunction(member) and member.__module__ == value.__module__
        ours &= not any(is_ours(base) and name in vars(base) for base in bases)
        if ours and (name == "__call__" or not name.startswith("_")) and parameters(member):
            found += unsaid(member, f"{value.__name__}.{name}")
    return found


def test_what_is_lacking_is_seen():
    class Told:
        """Of a.

        Args:
          a: so
            b: part of a.

        >>> Told(1, 2)
        """

        def __init__(self, a, b):
            pass

        def bare(self) -> int:
            """Three."""

        def method(self, a, *rest) -> int:
            """Takes C.

            Args:
              a, c: both.
            """

        @classmethod
        def other(cls, b, **rest) -> None:
            """Of b.

            Args:
              b: so.
              **rest: the others.
            """

    @functools.lru_cache
    def told() -> int:
        """Nothing of its result."""

    assert lacking(Told) == ["Told: b", "Told.method: rest", "Told.method: Returns"]
    assert lacking(told) == ["told: Returns", "told: an example"]


def is_ours(value):
    """Returns whether something was defined in the package: an alias of a type was not."""
    return getattr(value, "__module__", None) and value.__module__.startswith("jaxsplit.")


def public(name):
    """Public callables of a module."""
    module = importlib.import_module(name)
    values = [getattr(module, one) for one in module.__all__]
    return [value for value in values if callable(value) and is_ours(value)]


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_says_what_it_takes_and_gives_and_has_an_example(name):
    found = [one for value in public(name) for one in lacking(value)]
    assert not [one for one in found if one not in EXCEPTIONS]


def test_exceptions_are_needed():
    found = {one for name in PUBLIC for value in public(name) for one in lacking(value)}
    assert not EXCEPTIONS.keys() - found


def imported(source):
    """(module, name) of what a program takes from the package, by import or as `module.name`."""
    tree, found, modules = ast.parse(source), set(), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] == "jaxsplit":
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                if whole in MODULES:
                    modules[alias.asname or alias.name] = whole
                else:
                    found.add((node.module, alias.name))
    for node in ast.walk(tree):
        whose = node.value if isinstance(node, ast.Attribute) else None
        if isinstance(whose, ast.Name) and whose.id in modules:
            found.add((modules[whose.id], node.attr))
    return found


def test_what_is_imported_is_seen():
    source = "from jaxsplit import data\nfrom jaxsplit.data import Views\ndata.batches(os.path)"
    assert imported(source) == {("jaxsplit.data", "Views"), ("jaxsplit.data", "batches")}


TRAINING = {
    *("jaxsplit.experiments.run", "jaxsplit.networks.layers", "jaxsplit.tasks.stored"),
    *("jaxsplit.train", "jaxsplit.train.backbone", "jaxsplit.train.losses", "jaxsplit.train.step"),
    "jaxsplit.train.parallel",
}


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_use_what_is_public(path):
    cells = json.loads(path.read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    source = "\n".join(text for text in code if not text.startswith("%%"))  # another language
    source = re.sub(r"^(\s*)[!%].*", r"\1pass", source, flags=re.M)
    hidden = [
        (module, name)
        for module, name in imported(source)
        if name not in getattr(importlib.import_module(module), "__all__", ())
    ]
    if path.stem == "segmentation":  # the training of a backbone has no public names yet
        assert {module for module, _ in hidden} <= TRAINING
        return
    assert not hidden
