"""What the parsers of all commands share, and kinds of values."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxsplit.cli.examples import epilog
from jaxsplit.cli.parser import Parser


class Commands:
    """Takes commands, and gives each of them what all have: --quiet, --json and its examples.

    Args:
      parser: whose commands they are.
      metavar: what the help calls one.
      words: of the parser, such as ("import",).
    """

    def __init__(
        self, parser: argparse.ArgumentParser, metavar: str, words: tuple[str, ...] = ()
    ) -> None:
        self._parsers = parser.add_subparsers(required=True, metavar=metavar, parser_class=Parser)
        self._words = words

    def add(
        self, name: str, text: str, run: Callable[[argparse.Namespace], None], note: str = ""
    ) -> argparse.ArgumentParser:
        """Adds a command.

        Args:
          name: its last word.
          text: what it does, in one sentence.
          run: does it.
          note: what the help says in the end.

        Returns:
          Its parser, for options of its own.
        """
        command = " ".join((*self._words, name))
        parser = self._parsers.add_parser(
            name,
            help=text,
            description=text,
            epilog=epilog(command, note),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument(
            "-q", "--quiet", action="store_true", help="no progress, no summary: results and errors"
        )
        parser.add_argument("--json", action="store_true", help="print one JSON document, no text")
        parser.set_defaults(command=command, run=run)
        return parser

    def group(self, name: str, text: str, metavar: str) -> Commands:
        """Adds a word that commands of its own follow."""
        words = (*self._words, name)
        parser = self._parsers.add_parser(
            name,
            help=text,
            description=text,
            epilog=epilog(" ".join(words)),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        return Commands(parser, metavar, words)


def add_family(command: argparse.ArgumentParser) -> None:
    """`--family`, and other weights for its network than those that it names."""
    command.add_argument(
        "--family",
        required=True,
        metavar="DIR|NAME|hf:NAME",
        help="a trained folder, one of the package (jaxsplit info lists them) or of the hub",
    )
    weights = command.add_mutually_exclusive_group()
    weights.add_argument(
        "--backbone", metavar="NAME", help="weights to use, embedded or of an installed package"
    )
    weights.add_argument("--weights", type=Path, metavar="FILE", help="file of weights to use")


def add_config(command: argparse.ArgumentParser) -> None:
    """`--config`; its overrides are no options: `program.parse` takes them."""
    command.add_argument(
        "--config",
        required=True,
        metavar="FILE|NAME[:ARG]",
        help="a shipped configuration or a file; --config.KEY=VALUE overrides",
    )


def whole_numbers(text: str) -> tuple[int, ...]:
    """`8,16,32` → (8, 16, 32).

    Raises:
      argparse.ArgumentTypeError: it is something else.

    >>> whole_numbers("8,16")
    (8, 16)
    """
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of whole numbers such as 8,16,32")
    return numbers


def card_entry(text: str) -> tuple[str, Any]:
    """`seed=3` → ("seed", 3): a value is JSON, or else a text.

    Raises:
      argparse.ArgumentTypeError: it is something else.

    >>> card_entry("license=MIT")
    ('license', 'MIT')
    """
    key, equals, value = text.partition("=")
    if not key.isidentifier() or not equals or not value:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value
