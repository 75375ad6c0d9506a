"""Checks the documentation against the package: structure, links, generated parts, keys.

    python .ci/check_docs.py            # prints one line for each error
    python .ci/check_docs.py --write    # writes the generated parts anew

A generated part lies between `<!-- generated: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from jaxsplit.cli import main as run_command
from jaxsplit.cli.program import make_parser
from jaxsplit.search import DesignConfig
from jaxsplit.train.backbone import BackboneConfig
from jaxsplit.train.config import CurveConfig

ROOT = Path(__file__).parent.parent
DOCUMENTS = (  # in an order in which their commands can run one after the other
    "README.md",
    "configs/README.md",
    "jaxsplit/README.md",
    "jaxsplit/cli/README.md",
    "jaxsplit/bitstream/FORMAT.md",
    "jaxsplit/deploy/README.md",
    "tests/benchmarks/README.md",
    "colab/README.md",
)
MAX_LINES, MAX_WORDS = 300, 1800
SECTIONS = (
    *("Install", "The two commands", "Your classes, your images", "Load a pretrained family"),
    "Train on your data",
    *("Bring your network", "Limits", "Where the rest is", "Citation"),
)
COMMANDS = ["pip install . && jaxsplit quickstart", 'pip install ".[test]" && pytest']
GENERATED = re.compile(r"(<!-- generated: (\S+) -->\n)(.*?)(<!-- end -->\n)", re.DOTALL)
OF_EVERY_COMMAND = ("help", "quiet", "json")


def read(document: str) -> str:
    """The text of a document."""
    return (ROOT / document).read_text()


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language; lines that a shell joins are joined."""
    joined = text.replace("\\\n", " ")
    return re.findall(rf"^```{language}\n(.*?)^```", joined, re.MULTILINE | re.DOTALL)


def block_commands(text: str) -> list[str]:
    """The lines `jaxsplit …` of the shell blocks, in order."""
    lines = [line for block in blocks(text, "sh") for line in block.splitlines()]
    parts = [part.strip() for line in lines for part in line.split("&&")]
    return [part for part in parts if part.startswith("jaxsplit ")]


def commands(text: str) -> list[list[str]]:
    """The arguments of every command: those of the blocks, then those of sentences.

    In a sentence, the mere name of a command is not a command.
    """
    names = {parser.prog for parser in parsers(make_parser())}
    names |= {" ".join(name.split()[:2]) for name in names}
    inline = [one for one in re.findall(r"`(jaxsplit [^`\n]+)`", text) if one not in names]
    return [shlex.split(one)[1:] for one in dict.fromkeys(block_commands(text) + inline)]


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parsers of all commands, in the order of the help."""
    groups = [action for action in parser._actions if isinstance(action.choices, dict)]
    if not groups:
        yield parser
    for group in groups:
        for child in group.choices.values():
            yield from parsers(child)


def usage(action: argparse.Action) -> str:
    """An option or an argument as it is typed."""
    name = action.metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest)
    value = " ".join(name) if isinstance(name, tuple) else name
    if action.nargs == "?":
        value = f"[{value}]"
    elif action.nargs in ("+", "*"):
        value = f"{value} …"
    elif action.nargs == 0:
        value = ""
    return f"{', '.join(action.option_strings)} {value}".strip()


def options() -> str:
    """All commands with their options, each folded behind its name."""
    text = ""
    for command in parsers(make_parser()):
        actions = [action for action in command._actions if action.dest not in OF_EVERY_COMMAND]
        arguments = " ".join(usage(one) for one in actions if not one.option_strings)
        title = f"{command.prog} {arguments}".strip()
        text += f"<details><summary><code>{title}</code></summary>\n\n{command.description}\n\n"
        for one in actions:
            needed = " (required)" if one.required and one.option_strings else ""
            text += f"- `{usage(one)}`{needed}: {command._get_formatter()._expand_help(one)}\n"
        text += "\n</details>\n"
    return text


def command_table() -> str:
    """Each command with the line of its help."""
    (group,) = [a for a in make_parser()._actions if isinstance(a.choices, dict)]
    rows = [f"| **{action.dest}** | {action.help} |" for action in group._choices_actions]
    return "\n".join(["| command | |", "|---|---|", *rows, ""])


def printed(words: list[str]) -> str:
    """Output of a command that runs in the root of the repository."""
    out = io.StringIO()
    with contextlib.chdir(ROOT), contextlib.redirect_stdout(out):
        if run_command(words):
            raise SystemExit(f"failed: jaxsplit {shlex.join(words)}")
    return out.getvalue()


def command_with(document: str, *words: str) -> list[str]:
    """The one command of a document that has all these words."""
    (found,) = [one for one in commands(read(document)) if {*words} <= {*one}]
    return found


def plan() -> str:
    """The tables of the cuts and of the link, and what the trained rates take."""
    words = command_with("jaxsplit/cli/README.md", "plan", "--rtt-ms")
    text = printed(words)
    tables = re.findall(r"^ .*\n(?:[+|].*\n)+", text, re.MULTILINE)
    chosen = tables[0], tables[2]
    (family,) = words[words.index("--family") + 1 :]
    times = re.findall(rf"^\| {Path(family).name} r\d .* (\S+) \|$", text, re.MULTILINE)
    return (
        f"```\n{''.join(chosen)}```\n\n"
        f"The {len(times)} trained rates take {times[0]} to {times[-1]} ms.\n"
    )


def comparisons(kind: str) -> str:
    """The output of the comparisons with the paper's recipe, one after the other."""
    found = [
        words
        for words in commands(read("tests/benchmarks/README.md"))
        if words[0] == "compare" and "paper_recipe" in words[-2] and "--quality" not in words
        if ("folds-" in words[-1]) == (kind == "imagenet")
    ]
    return f"```\n{''.join(map(printed, found))}```\n"


PARTS = {
    "commands": command_table,
    "options": options,
    "plan": plan,
    "compare-small": lambda: comparisons("small"),
    "compare-imagenet": lambda: comparisons("imagenet"),
}


def with_generated(text: str) -> str:
    """The text with its generated parts made anew."""
    return GENERATED.sub(lambda found: found[1] + PARTS[found[2]]() + found[4], text)


def generated_errors() -> Iterator[str]:
    """Generated parts that differ from what is generated now, or are nowhere."""
    seen = set()
    for document in DOCUMENTS:
        for _, name, present, _ in GENERATED.findall(read(document)):
            seen.add(name)
            if present != PARTS[name]():
                yield f"{document}: the part {name!r} is old: python .ci/check_docs.py --write"
    for name in PARTS.keys() - seen:
        yield f"no document has the generated part {name!r}"


def anchors(text: str) -> set[str]:
    """The anchors of the headings, as GitHub names them."""
    bare = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", bare, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def link_errors(document: str, text: str) -> Iterator[str]:
    """Links to files or anchors that do not exist."""
    here = (ROOT / document).parent
    bare = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", bare):
        if link.startswith("http"):
            continue
        file, _, anchor = link.partition("#")
        target = (here / file) if file else ROOT / document
        if not target.exists():
            yield f"{document}: {link} does not exist"
        elif anchor and anchor not in anchors(text if not file else target.read_text()):
            yield f"{document}: {link}: there is no such heading"
    for script in re.findall(r"tests/benchmarks/\w+\.py\b|\.ci/[\w.]*\w", text):
        if not (ROOT / script).exists():
            yield f"{document}: {script} does not exist"


def structure_errors(document: str, text: str) -> Iterator[str]:
    """Contents that lack a heading, and figures that are still to be filled in."""
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    if len(headings) > 3:
        for anchor in anchors("\n".join(f"# {one}" for one in headings)) - {"citation"}:
            if f"(#{anchor})" not in text:
                yield f"{document}: the contents lack #{anchor}"
    for mark in re.findall(r"@\w+@", text):
        yield f"{document}: {mark} is still to be filled in"


def readme_errors(text: str) -> Iterator[str]:
    """A README that is too long, or that lacks a section, a picture, a command or a document."""
    lines, words = len(text.splitlines()), len(text.split())
    if lines > MAX_LINES or words > MAX_WORDS:
        yield f"README.md: {lines} lines, {words} words; at most {MAX_LINES} and {MAX_WORDS}"
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    if [one for one in headings if one in SECTIONS] != list(SECTIONS):
        yield f"README.md: the sections are not {', '.join(SECTIONS)}, in this order"
    if not re.search(r"!\[[^\]]+\]\(jaxsplit/assets/\w+\.png\)", text.partition("## Install")[0]):
        yield "README.md: no picture before the installation"
    shell = [line for block in blocks(text, "sh") for line in block.splitlines()]
    for line in COMMANDS:
        if line not in shell:
            yield f"README.md: no line {line!r}"
    for document in DOCUMENTS[1:]:
        if f"({document})" not in text:
            yield f"README.md: {document} is not linked"
    if "a configuration file is python that runs" not in " ".join(text.lower().split()):
        yield "README.md: it does not say that a configuration is Python that runs"


def command_errors() -> Iterator[str]:
    """Commands that no document shows."""
    shown = {words[0] for document in DOCUMENTS for words in commands(read(document))}
    known = {parser.prog.split()[1] for parser in parsers(make_parser())}
    for name in sorted(known - shown):
        yield f"no document shows jaxsplit {name}"


def key_errors(text: str) -> Iterator[str]:
    """Keys of configurations that are not explained, or that do not exist."""
    curve = {field.name for field in dataclasses.fields(CurveConfig)} - {"rates"}
    for title, known in (
        ("curve", curve | {"lambdas", "specs"}),
        ("search", {field.name for field in dataclasses.fields(DesignConfig)}),
        ("backbone", {field.name for field in dataclasses.fields(BackboneConfig)}),
    ):
        section = text.partition(f"## Keys of a {title}\n")[2].partition("\n## ")[0]
        cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
        told = {key for cell in cells for key in re.findall(r"`(\w+)`", cell)}
        for key in sorted((known | {"kind"}) ^ told):
            what = "does not exist" if key in told else "is not explained"
            yield f"configs/README.md: the key {key} of a {title} {what}"


def folder_errors(text: str) -> Iterator[str]:
    """Folders of the package that the architecture leaves out, or that do not exist."""
    section = text.partition("## Folders\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    told = {name.rstrip("/") for cell in cells for name in re.findall(r"`([^`]+)`", cell)}
    folders = {path.parent.name for path in (ROOT / "jaxsplit").glob("*/__init__.py")}
    for name in sorted((folders | {"split.py"}) ^ told):
        what = "does not exist" if name in told else "is missing"
        yield f"jaxsplit/README.md: the folder {name} {what}"


def errors() -> Iterator[str]:
    """Everything that is wrong, one line each."""
    for document in DOCUMENTS:
        yield from link_errors(document, read(document))
        yield from structure_errors(document, read(document))
    yield from link_errors("CHANGELOG.md", read("CHANGELOG.md"))
    for notebook in sorted((ROOT / "colab").glob("*.ipynb")):
        cells = [c for c in json.loads(notebook.read_text())["cells"] if c["cell_type"] != "code"]
        text = "\n".join("".join(cell["source"]) for cell in cells)
        yield from link_errors(str(notebook.relative_to(ROOT)), text)
    yield from readme_errors(read("README.md"))
    yield from command_errors()
    yield from key_errors(read("configs/README.md"))
    yield from folder_errors(read("jaxsplit/README.md"))
    yield from generated_errors()


def main() -> int:
    """Checks, or writes the generated parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write the generated parts anew")
    if parser.parse_args().write:
        for document in DOCUMENTS:
            (ROOT / document).write_text(with_generated(read(document)))
        return 0
    found = list(errors())
    print("\n".join(found) or "documentation: no errors")
    return bool(found)


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    sys.exit(main())
