"""Writes the reference of the README, every command with its options, from their parsers.

python .ci/readme_commands.py
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from jaxsplit.cli.program import make_parser

README = Path(__file__).parent.parent / "README.md"
SECTION = re.compile(r"(?<=<!-- options -->\n).*(?=<!-- end of options -->\n)", re.DOTALL)
SAME = ("help", "quiet", "json")  # of every command


def leaves(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The commands under a parser, in the order of its help; one that has none is its own."""
    groups = [action for action in parser._actions if isinstance(action.choices, dict)]
    if not groups:
        yield parser
    for group in groups:
        for child in group.choices.values():
            yield from leaves(child)


def written(action: argparse.Action) -> str:
    """How an option or an argument is given."""
    name = action.metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest)
    value = " ".join(name) if isinstance(name, tuple) else name
    if action.nargs == "?":
        value = f"[{value}]"
    elif action.nargs in ("+", "*"):
        value = f"{value} …"
    elif action.nargs == 0:
        value = ""
    return f"{', '.join(action.option_strings)} {value}".strip()


def section() -> str:
    """All commands, each folded away behind its name."""
    text = ""
    for command in leaves(make_parser()):
        actions = [action for action in command._actions if action.dest not in SAME]
        usage = " ".join(written(one) for one in actions if not one.option_strings)
        title = f"{command.prog} {usage}".strip()
        text += f"<details><summary><code>{title}</code></summary>\n\n{command.description}\n\n"
        for one in actions:
            needed = " (needed)" if one.required and one.option_strings else ""
            text += f"- `{written(one)}`{needed}: {command._get_formatter()._expand_help(one)}\n"
        text += "\n</details>\n"
    return text


if __name__ == "__main__":
    README.write_text(SECTION.sub(lambda found: section(), README.read_text()))
