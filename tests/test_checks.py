"""The checks of the documentation in `.ci/` find what is wrong."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def checks():
    """The modules of `.ci/`, by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / ".ci"))
        import check_docs
        import check_figures
        import check_prose

        yield {module.__name__: module for module in (check_docs, check_figures, check_prose)}
        for name in ("check_docs", "check_figures", "check_prose"):
            del sys.modules[name]


@pytest.fixture
def docs(checks):
    return checks["check_docs"]


@pytest.fixture
def figures(checks):
    return checks["check_figures"]


@pytest.fixture
def prose(checks):
    return checks["check_prose"]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("[a](LICENSE) [b](colab/README.md#notebooks) [c](https://x.y/z)", 0),
        ("# A title: it's one\n[a](#a-title-its-one)", 0),
        ("```\n[a](nowhere.md)\n```", 0),
        ("[a](nowhere.md)", 1),
        ("[a](colab/README.md#nothing)", 1),
        ("[a](#nothing)", 1),
        ("`python tests/benchmarks/nothing.py`", 1),
        ("`.ci/nothing.py`", 1),
    ],
)
def test_links_are_followed(docs, text, wrong):
    assert len(list(docs.link_errors("README.md", text))) == wrong


def test_the_readme_is_held_to_its_size_and_sections(docs):
    text = docs.read("README.md")
    assert not list(docs.readme_errors(text))
    for changed in (
        text + "\n" * 300,
        text + "word " * 1800,
        text.replace("## Limits", "## Bounds"),
        text.replace("![", "["),
        text.replace(" && pytest", ""),
        text.replace("(colab/README.md)", "()"),
        text.replace("is Python that runs", "is a file"),
    ):
        assert len(list(docs.readme_errors(changed))) == 1


def test_contents_and_figures_to_fill_in_are_looked_at(docs):
    text = "[a](#a) [b](#b) [c](#c)\n## A\n## B\n## C\n## D\n@TIME@\n"
    assert len(list(docs.structure_errors("x.md", text))) == 2
    assert not list(docs.structure_errors("x.md", text.replace("## D\n@TIME@", "")))


def test_keys_and_folders_are_all_told(docs):
    keys, folders = docs.read("configs/README.md"), docs.read("jaxsplit/README.md")
    assert not [*docs.key_errors(keys), *docs.folder_errors(folders)]
    assert len(list(docs.key_errors(keys.replace("| `ema` |", "| `emma` |")))) == 2
    assert len(list(docs.folder_errors(folders.replace("`codec/`", "`codex/`")))) == 2


def test_generated_parts_are_made_anew(docs, monkeypatch):
    assert "`--help`" not in docs.options()
    assert docs.options().count("<details>") >= 12
    monkeypatch.setitem(docs.PARTS, "commands", lambda: "new\n")
    text = "a\n<!-- generated: commands -->\nold\n<!-- end -->\nb\n"
    assert docs.with_generated(text) == text.replace("old", "new")
    monkeypatch.setattr(docs, "DOCUMENTS", ("x.md",))
    monkeypatch.setattr(docs, "PARTS", {"commands": lambda: "new\n"})
    monkeypatch.setattr(docs, "read", lambda document: text)
    assert len(list(docs.generated_errors())) == 1
    monkeypatch.setattr(docs, "read", lambda document: text.replace("old", "new"))
    assert not list(docs.generated_errors())
    monkeypatch.setattr(docs, "read", lambda document: "")
    assert len(list(docs.generated_errors())) == 1


@pytest.mark.parametrize(
    ("check", "before", "after"),
    [
        ("quickstart", "| r3 | 50.3 |", "| r3 | 50.2 |"),
        ("switching", "0.11 ms", "0.12 ms"),
        ("training_times", "54.7×", "54.8×"),
        ("short_frames", "1.3 bytes", "1.2 bytes"),
        ("search", "| stem | 4, 2 | 6e-05 | 323.3 |", "| stem | 4, 2 | 6e-05 | 323.4 |"),
        ("grid", "by 1.2 pp", "by 1.1 pp"),
        ("ablations", "+57.6 %", "+57.5 %"),
        ("retraining", "53 and 56 times", "53 and 57 times"),
        ("imagenet", "15135, AVIF", "15134, AVIF"),
        ("shipped_family", "92.75 | 0.90", "92.75 | 0.91"),
    ],
)
def test_a_wrong_figure_is_one_line(figures, monkeypatch, check, before, after):
    monkeypatch.setattr(figures, "CHECKS", (getattr(figures, check),))
    assert not list(figures.errors())
    read = figures.read
    assert any(before in read(document) for document in ("README.md", figures.RESULTS_README))
    monkeypatch.setattr(figures, "read", lambda document: read(document).replace(before, after))
    (line,) = figures.errors()
    assert "expected: " in line


@pytest.mark.parametrize(
    ("name", "text", "rules"),
    [
        ("a.py", '"""What it is."""', ["first words"]),
        ("a.py", '"""As of `f`, it is."""\nx = 1  # uncut', ["as of", "uncut"]),
        ("a.py", 'raise ValueError("nobody is there")', ["person"]),
        ("a.py", 'key = "uncut"', []),
        ("a.md", "Both ends.\n```\nuncut\n```\n`uncut` network", ["end"]),
        (
            "a.ipynb",
            '{"cells": [{"cell_type": "markdown", "source": ["uncut"]},'
            ' {"cell_type": "code", "source": ["x = uncut  # as of now"]}]}',
            ["uncut", "as of"],
        ),
    ],
)
def test_prose_is_looked_through(prose, tmp_path, name, text, rules):
    (tmp_path / name).write_text(text)
    found = prose.places(tmp_path / name, f"folder/{name}")
    assert [rule for _, _, rule, _ in found] == rules


def test_a_count_may_only_fall(prose):
    counts = prose.counted([("a/b.py", 1, "uncut", "uncut"), ("a/c.py", 2, "uncut", "uncut")])
    assert counts == {"a": {"uncut": 2}}
    assert not prose.above(counts, {"a": {"uncut": 2}})
    assert not prose.above(counts, {"a": {"uncut": 3}})
    assert len(prose.above(counts, {"a": {"uncut": 1}})) == 1
    assert len(prose.above(counts, {"b": {"uncut": 2}})) == 1
