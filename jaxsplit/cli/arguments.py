"""Arguments that commands share, and types of their values."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from jaxsplit.cli.help_examples import epilog
from jaxsplit.cli.parser import Parser
from jaxsplit.errors import ConfigError


class Commands:
    """Adds commands to a parser, each with --quiet, --json and its examples.

    Args:
      parser: of the program, or of a word before the commands.
      metavar: name of a command in the help.
      words: words of the parser, such as ("import",).
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
          text: its purpose in one sentence.
          run: its body.
          note: last line of its help.

        Returns:
          Its parser, for its own options.
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
        """Adds a word before commands of its own."""
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
    """Adds --family, and --backbone or --weights for its network."""
    command.add_argument(
        "--family",
        required=True,
        metavar="DIR|NAME|hf:NAME",
        help="a trained folder, a family of the package (jaxsplit info lists them) or of the hub",
    )
    weights = command.add_mutually_exclusive_group()
    weights.add_argument(
        "--backbone", metavar="NAME", help="weights by name, embedded or of an installed package"
    )
    weights.add_argument("--weights", type=Path, metavar="FILE", help="file of weights to use")


def add_images(
    command: argparse.ArgumentParser, *, split: str = "of these images; default as in evaluate"
) -> None:
    """Adds --split and --limit, with the help of the first."""
    command.add_argument("--split", metavar="NAME", help=split)
    command.add_argument("--limit", type=int, metavar="N", help="images, spread over the classes")


def check_images(options: argparse.Namespace, name: str) -> None:
    """Checks that --split and --limit come with their images, the option `name`.

    Raises:
      ConfigError: the images are missing.
    """
    if getattr(options, name) is None and (options.split, options.limit) != (None, None):
        flag = name.replace("_", "-")
        raise ConfigError(f"--split and --limit need the images of --{flag} SOURCE")


def add_config(command: argparse.ArgumentParser, *kinds: str) -> None:
    """Adds --config and --help-config for these kinds; `program.parse` takes the overrides."""
    command.add_argument(
        "--config",
        required=True,
        metavar="FILE|NAME[:ARG]",
        help="a shipped configuration or a file; --config.KEY=VALUE overrides",
    )
    command.add_argument(
        "--help-config",
        action=_HelpConfig,
        nargs=0,
        const=kinds,
        help="list the keys of a configuration with defaults and meaning, and exit",
    )


class _HelpConfig(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option: str | None = None,
    ) -> None:
        from jaxsplit.experiments import config

        print("\n\n".join(map(config.describe, self.const)))
        parser.exit()


def positive(text: str) -> int:
    """Parses a whole number of at least 1.

    Raises:
      argparse.ArgumentTypeError: the text is something else.

    >>> positive("8")
    8
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; expected a whole number of at least 1")
    return int(text)


def positives(text: str) -> tuple[int, ...]:
    """Parses whole numbers of at least 1, separated by commas.

    Raises:
      argparse.ArgumentTypeError: the text is something else.

    >>> positives("8,16")
    (8, 16)
    """
    return tuple(positive(part) for part in text.split(","))


def card_entry(text: str) -> tuple[str, object]:
    """Parses KEY=VALUE, such as `seed=3` → ("seed", 3); the value is JSON, else text.

    Raises:
      argparse.ArgumentTypeError: the text is something else.

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
