"""The shape of the package: who may import whom, and what is allowed in one place only."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jaxsplit

PACKAGE = Path(jaxsplit.__file__).parent
ROOT = Path(__file__).parent.parent

# From the bottom up. A module imports from its own folder and from what stands before it. One call
# goes up: the root tells `_notebook`, by a name in a text, to load reports.notebook.
ORDER = (
    *(
        "errors",
        "_moved",
        "_notebook",
        "__init__",
        "__version__",
        "trees",
        "ops",
        "io",
        "data",
        "bitstream",
    ),
    *("entropy", "tasks"),
    *("networks", "weights", "units", "split", "cost", "codec", "family", "train"),
    *("evaluation", "search", "reports", "experiments", "deploy", "cli", "__main__"),
)
HEIGHT = {name: height for height, name in enumerate(ORDER)}


def sources(*folders):
    return {path: path.read_text() for folder in folders for path in sorted(folder.rglob("*.py"))}


def imports(source):
    """Full names of the modules that a source may import, whatever the place in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            assert node.module is not None
            # `from jaxsplit import data` imports a module, `from jaxsplit.data import x` may.
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def part(name):
    """`jaxsplit.train.loop` → `train`: its name in ORDER. None for other packages."""
    package, *rest = name.split(".")
    return (rest or ["__init__"])[0] if package == "jaxsplit" else None


def own_part(path):
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def upward(name, source):
    """The parts that a source of the part `name` imports though they aren't below it."""
    parts = {part(module) for module in imports(source)} - {None, name}
    return {other for other in parts if HEIGHT.get(other, len(ORDER)) >= HEIGHT[name]}


def uses(source, *names):
    """Those of the identifiers and imported packages `names` that a source mentions in code."""
    tree = ast.parse(source)
    words = {word for module in imports(source) for word in module.split(".")}
    words |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    words |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return words & set(names)


def homes(*names):
    """The files of the package, relative to it, whose code mentions one of `names`."""
    return {
        str(path.relative_to(PACKAGE))
        for path, source in sources(PACKAGE).items()
        if own_part(path) != "configs" and uses(source, *names)
    }


def test_every_module_has_its_layer():
    present = {own_part(path) for path in sources(PACKAGE)} - {"configs"}
    assert present | {"__version__"} == set(HEIGHT)


def test_imports_run_downward():
    wrong = {
        str(path.relative_to(PACKAGE)): found
        for path, source in sources(PACKAGE).items()
        if own_part(path) != "configs" and (found := upward(own_part(path), source))
    }
    assert not wrong


def circles(imported):
    """The modules that reach themselves, of module → modules that it imports."""
    found = set()
    for module in imported:
        reached, ahead = set(), [*imported[module]]
        while ahead:
            other = ahead.pop()
            if other not in reached:
                reached.add(other)
                ahead += imported.get(other, ())
        found |= {module} & reached
    return found


def test_no_module_imports_itself_through_others():
    """Imports inside functions count; a package counts as what its own `__init__` imports."""
    imported = {}
    for path, source in sources(PACKAGE).items():
        relative = path.relative_to(PACKAGE.parent).with_suffix("")
        imported[".".join(relative.parts).removesuffix(".__init__")] = imports(source)
    imported = {
        module: {
            name if name in imported else name.rpartition(".")[0]
            for name in names
            if not f"{module}.".startswith(f"{name}.")
        }
        - {module}
        for module, names in imported.items()
    }
    assert circles(imported) == set()


def test_a_circle_is_seen():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == {"b", "c"}


@pytest.mark.parametrize(
    ("name", "source", "found"),
    [
        ("split", "from jaxsplit import codec", {"codec"}),
        ("split", "import jaxsplit.train.loop as loop", {"train"}),
        ("split", "def f():\n    from jaxsplit.family import RateFamily", {"family"}),
        ("codec", "from jaxsplit import family", {"family"}),
        ("networks", "from jaxsplit import Sender", {"Sender"}),  # public names are for users
        ("networks", "from jaxsplit import networks, data\nimport jax", set()),
        ("cli", "from jaxsplit.train import loop", set()),
    ],
)
def test_an_import_upward_is_seen(name, source, found):
    assert upward(name, source) == found


def test_what_is_allowed_in_one_place_only():
    assert homes("orbax") == {"io/checkpoint.py"}
    assert homes("pmap", "xmap") == {"train/parallel.py"}
    assert homes("ml_collections", "ConfigDict") == {"experiments/config.py"}
    elsewhere = {path for path in homes("argparse") if not path.startswith("cli/")}
    assert elsewhere == {"data/prepare.py"}


def test_benchmarks_use_what_the_package_has():
    """They run by hand only, so that a private name that changed would not be noticed."""
    of_compressai = {"_quantized_cdf", "_cdf_length", "_offset"}
    known = {word for source in sources(PACKAGE).values() for word in re.findall(r"\w+", source)}
    for path, source in sources(ROOT / "tests/benchmarks").items():
        private = set(re.findall(r"(?<!self)\.(_[a-z]\w*)", source))
        assert private - of_compressai <= known, path


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import orbax.checkpoint as ocp", {"orbax"}),
        ("from jax import pmap", {"pmap"}),
        ("def f(x):\n    return jax.pmap(x)", {"pmap"}),
        ("import jax  # no pmap here", set()),
    ],
)
def test_a_use_elsewhere_is_seen(source, found):
    assert uses(source, "orbax", "pmap") == found


def test_nothing_is_unpickled():
    assert homes("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal") == set()
    for path, source in sources(PACKAGE).items():
        calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
        for keyword in (keyword for call in calls for keyword in call.keywords):
            if keyword.arg == "allow_pickle":
                assert isinstance(keyword.value, ast.Constant), path
                assert keyword.value.value is False, path


def test_some_packages_stay_where_they_belong():
    """`bitstream` and `data` know no jax, `networks` no training, nothing TensorFlow or torch."""
    for path, source in sources(PACKAGE).items():
        packages = {name.split(".")[0] for name in imports(source)}
        name = own_part(path)
        assert not packages & {"tensorflow", "torch"}, path
        if name in ("bitstream", "data"):
            assert not packages & {"jax", "flax", "optax"}, path
        if name in ("networks", "split", "units", "ops", "entropy"):
            assert "optax" not in packages, path


def test_no_module_is_a_drawer():
    drawers = {"utils", "util", "helpers", "helper", "common", "misc", "tools"}
    folders = [PACKAGE, ROOT / "tests", ROOT / "configs"]
    assert not {path for path in sources(*folders) if path.stem in drawers}


def vague_types(texts):
    """Returns `Any`, and the names that modules give to types with it: `Trees = list[Any]`."""
    named = {}
    for node in (node for text in texts for node in ast.parse(text).body):
        is_type = isinstance(getattr(node, "value", None), ast.Name | ast.Subscript | ast.BinOp)
        match node:
            case ast.Assign(targets=[ast.Name(name)], value=value) if is_type:
                named.setdefault(name, set()).update(words(ast.unparse(value)))
            case ast.AnnAssign(ast.Name(name), ast.Name("TypeAlias"), value):
                named.setdefault(name, set()).update(words(ast.unparse(value)))
    found = {"Any"}
    while more := {name for name, inside in named.items() if inside & found} - found:
        found |= more
    return found


def words(text):
    return re.findall(r"\w+", text)


def test_modules_are_short_and_typed():
    """At most 350 lines, and `Any`, or a name for it, at most 8 times in a thousand lines."""
    texts = sources(PACKAGE)
    sizes = {path: text.count("\n") for path, text in texts.items()}
    assert not {path: lines for path, lines in sizes.items() if lines > 350}
    vague = vague_types(texts.values())
    uses = [word for text in texts.values() for word in words(text) if word in vague]
    assert len(uses) <= 0.008 * sum(sizes.values())


def test_a_name_for_any_is_seen():
    lines = ("A = Any", "B: TypeAlias = 'dict[str, A]'", "C = int | B", "D = list[int]", "e = f(A)")
    assert vague_types(["\n".join(lines[:2]), *lines[2:]]) == {"Any", "A", "B", "C"}


def test_light_imports_load_no_jax():
    program = (
        "import sys, jaxsplit, jaxsplit.cli, jaxsplit.bitstream\n"
        "print([name for name in ('jax', 'flax', 'optax', 'orbax') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_all_public_names_load_few_packages_beside_jax_and_flax():
    def loaded(program):
        packages = "{name.partition('.')[0] for name in sys.modules} - sys.stdlib_module_names"
        done = subprocess.run(
            [sys.executable, "-c", f"import sys; {program}; print(*{packages})"],
            check=True,
            capture_output=True,
            text=True,
        )
        return set(done.stdout.split())

    everything = "import jaxsplit; [getattr(jaxsplit, name) for name in jaxsplit.__all__]"
    more = loaded(everything) - loaded("import jax, flax")
    assert more == {"jaxsplit", "PIL", "constriction", "optax", "safetensors"}


def test_all_public_names_load_nothing_heavy_and_ask_nobody():
    """No TensorFlow, no torch, no network: jax and flax are most of what there is to load."""
    program = """
import socket, sys

def refused(*arguments, **options):
    raise AssertionError("the network is asked for something")

socket.socket.connect = socket.create_connection = socket.getaddrinfo = refused
import jaxsplit
for name in jaxsplit.__all__:
    getattr(jaxsplit, name)
heavy = {"tensorflow", "torch", "tensorflow_datasets", "orbax", "grain", "matplotlib", "IPython"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout == "[]\n"


def test_folders_are_there_without_an_import_of_their_own():
    program = "import jaxsplit; print(jaxsplit.networks.cuts('resnet18')['stage4.block2'])"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout == "(7, 7, 512)\n"


def test_public_names_resolve():
    assert jaxsplit.__all__ == sorted(jaxsplit.__all__)
    for name in jaxsplit.__all__:
        value = getattr(jaxsplit, name)
        assert value is getattr(importlib.import_module(value.__module__), name)
        assert value.__doc__, name
    assert set(jaxsplit.__all__) <= set(dir(jaxsplit))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        jaxsplit.nothing  # noqa: B018


def test_every_module_says_what_it_is():
    for path, source in sources(PACKAGE).items():
        if source.strip():
            assert ast.get_docstring(ast.parse(source)), path


def test_the_changelog_is_at_the_version():
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == jaxsplit.__version__
