"""Finds words and phrases that the project no longer uses, in docstrings, comments and documents.

    python .ci/check_prose.py            # fails where a count exceeds .ci/prose_budget.json
    python .ci/check_prose.py --list     # prints every place
    python .ci/check_prose.py --write    # lowers the budget to the present counts

Docstrings, comments and messages of Python files, the text of Markdown files and the cells of
notebooks are read; code blocks and inline code are not. Counts are kept for each top-level folder
and rule. They may only fall.
"""

from __future__ import annotations

import argparse
import ast
import collections
import io
import json
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
BUDGET = Path(__file__).parent / "prose_budget.json"
OWN = (".ci/check_prose.py", "tests/test_checks.py")  # they name what they look for

RULES = {  # rule: (what is found, what to write)
    "as of": (r"\bas of\b", "see `f`, or: as in `f`"),
    "of which": (r", of which\b", "a sentence of its own"),
    "uncut": (r"\buncut\b", "unsplit network"),
    "answers": (r"\banswers?\b", "outputs, logits"),
    "person": (r"\b(?:nobody|stranger|whoever|anybody)\b", "say what the code does"),
    "dearest": (r"\bdearest\b", "most expensive"),
    "stretch": (r"\bstretch(?:es)?\b", "rung"),
    "keeper": (r"\b(?:keeper|journal)s?\b", "checkpoint, log"),
    "tell": (r"\btell_nobody\b|\btold of\b|\btold what\b", "log callback"),
    "goes on": (r"\b(?:goes|go|went|going) on\b|\bbegun\b", "resumes, continues"),
    "end": (r"\b(?:both|either|two) ends?\b", "sender and receiver"),
    "place": (
        r"\bby place\b|\bplaces of (?:the|a) latent\b",
        "spatial position, position-dependent",
    ),
    "form": (r"\bforms? of (?:a|an|the|its|every|their) units?\b", "architecture, spec"),
    "price": (r"\bprice of a\b|\brate's price\b", "rate weight (lambda)"),
    "points": (r"\bpoints of (?:accuracy|top-1)\b", "percentage points (pp)"),
    "to the bit": (r"\bto the bit\b", "exactly, bit by bit"),
}
FIRST = "first words"  # of a docstring
FIRST_WORDS = re.compile(r"(?:What|That|For what|Of what|By what|Whoever|Nobody|Whether)\b")
PATTERNS = {rule: re.compile(pattern, re.IGNORECASE) for rule, (pattern, _) in RULES.items()}
ADVICE = {rule: advice for rule, (_, advice) in RULES.items()}
ADVICE[FIRST] = "begin with a verb or with the thing's name"

Place = tuple[str, int, str, str]  # file, line, rule, the text found


def python_texts(source: str) -> Iterator[tuple[int, str, bool]]:
    """Line, text, and whether it is a docstring, of all prose in a Python source."""
    tree = ast.parse(source)
    docstrings = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                docstrings.add(first.value)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            is_docstring = node in docstrings
            if is_docstring or node.value.count(" ") > 1:  # a message has several words
                yield node.lineno, node.value, is_docstring
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string, False


def markdown_text(text: str) -> str:
    """The text with code, and what is generated, blanked; lines stay where they are."""
    skipped = r"^<!-- generated.*?^<!-- end -->|^```.*?^```"
    text = re.sub(skipped, lambda m: "\n" * m[0].count("\n"), text, flags=re.M | re.S)
    return re.sub(r"`[^`\n]*`", "``", text)


def texts(path: Path) -> Iterator[tuple[int, str, bool]]:
    """All prose of a file."""
    content = path.read_text()
    if path.suffix == ".py":
        yield from python_texts(content)
    elif path.suffix == ".md":
        yield 1, markdown_text(content), False
    elif path.suffix == ".ipynb":
        for number, cell in enumerate(json.loads(content)["cells"], 1):
            source = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                yield number, markdown_text(source), False
            else:
                for line in source.splitlines():
                    if "# " in line:
                        yield number, line.partition("# ")[2], False


def places(path: Path, name: str) -> Iterator[Place]:
    """Every place in a file where a rule applies. Of a notebook, lines are numbers of cells."""
    notebook = path.suffix == ".ipynb"
    for line, text, is_docstring in texts(path):
        if is_docstring and (found := FIRST_WORDS.match(text)):
            yield name, line, FIRST, found[0]
        for rule, pattern in PATTERNS.items():
            for found in pattern.finditer(text):
                below = 0 if notebook else text.count("\n", 0, found.start())
                yield name, line + below, rule, found[0]


def all_places() -> list[Place]:
    """Every place in the tracked files."""
    listed = subprocess.run(
        ["git", "ls-files", "*.py", "*.md", "*.ipynb"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    names = [name for name in listed if name not in OWN and (ROOT / name).is_file()]
    return [place for name in names for place in places(ROOT / name, name)]


def counted(found: list[Place]) -> dict[str, dict[str, int]]:
    """Counts for each top-level folder and rule."""
    counts = collections.Counter(
        (name.partition("/")[0] if "/" in name else ".", rule) for name, _, rule, _ in found
    )
    folders: dict[str, dict[str, int]] = {}
    for (folder, rule), count in sorted(counts.items()):
        folders.setdefault(folder, {})[rule] = count
    return folders


def above(counts: dict[str, dict[str, int]], budget: dict[str, dict[str, int]]) -> list[str]:
    """One line for each count that exceeds its budget."""
    return [
        f"{folder}: {rule!r} {count} times, at most {allowed}; write: {ADVICE[rule]}"
        for folder, rules in counts.items()
        for rule, count in rules.items()
        if count > (allowed := budget.get(folder, {}).get(rule, 0))
    ]


def main() -> int:
    """Checks, lists or writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--list", action="store_true", help="print every place")
    parser.add_argument("--write", action="store_true", help="lower the budget")
    options = parser.parse_args()
    found = all_places()
    if options.list:
        for name, line, rule, text in found:
            print(f"{name}:{line}: {text!r}; write: {ADVICE[rule]}")
        return 0
    counts = counted(found)
    budget = json.loads(BUDGET.read_text()) if BUDGET.exists() else counts
    wrong = above(counts, budget)
    if wrong:
        print("\n".join(wrong))
        print("python .ci/check_prose.py --list prints every place")
        return 1
    if options.write:
        BUDGET.write_text(json.dumps(counts, indent=1) + "\n")
    total = sum(sum(rules.values()) for rules in counts.values())
    allowed = sum(sum(rules.values()) for rules in budget.values())
    print(f"prose: no new errors; {total} left of {allowed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
