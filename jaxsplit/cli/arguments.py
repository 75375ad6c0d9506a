"""Declarations of commands, the options that they share and what these do, parser and examples."""

from __future__ import annotations

import argparse
import json
import operator
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from jaxsplit._moved import old_names
from jaxsplit.errors import ConfigError, JaxsplitError, did_you_mean, escaped
from jaxsplit.io.files import parse_json

if TYPE_CHECKING:
    from jaxsplit.family import RateFamily
    from jaxsplit.io.progress import ProgressBar
    from jaxsplit.networks import Backbone

#: Where the terms of tables are explained.
TERMS = "https://github.com/jaxsplit/jaxsplit/blob/main/jaxsplit/README.md#terms"
#: Seconds of work that need no progress.
SOON = 2.0

#: Examples of all commands, one a line; each ends the help of its command.
EXAMPLES = (Path(__file__).parent / "examples.txt").read_text()


class Incomplete(JaxsplitError):
    """A command did a part of its work and named the rest; the exit code is 1."""


Body = Callable[[argparse.Namespace], None]
Target = argparse.ArgumentParser | argparse._ArgumentGroup
#: Adds something to a parser, or to a group of its arguments.
Part = Callable[[Target], object]


class Command(NamedTuple):
    """A command: its name, such as "import spic", body, arguments and the last line of its help.

    The first line of the body's docstring is the purpose in the help.
    """

    words: str
    run: Body
    parts: tuple[Part, ...]
    note: str

    def add_to(self, commands: argparse._SubParsersAction[Parser]) -> None:
        """Adds the command to those of a parser."""
        purpose = (self.run.__doc__ or "").partition("\n")[0]
        parser = add_parser(commands, self.words, purpose, self.note)
        _add_all((QUIET, JSON, *self.parts), parser)
        parser.set_defaults(command=self.words, run=self.run)


def command(words: str, *parts: Part, note: str = "") -> Callable[[Body], Command]:
    """Makes a `Command` of its body, as a decorator."""
    return lambda run: Command(words, run, parts, note)


def argument(
    name: str,
    metavar: str | tuple[str, str] | None,
    text: str,
    kind: Callable[[str], object] = str,
    **settings: object,
) -> Part:
    """Declares an argument: name or names, name of its value, help, type, settings of argparse."""
    settings |= {"metavar": metavar, "help": text, "type": kind}
    return operator.methodcaller("add_argument", *name.split(", "), **settings)


def flag(*names: str, text: str) -> Part:
    """Declares an option without a value."""
    return operator.methodcaller("add_argument", *names, action="store_true", help=text)


def group(title: str, text: str, *parts: Part) -> Part:
    """Declares arguments under a title in the help."""
    return lambda parser: _add_all(parts, parser.add_argument_group(title, text))


def one_of(*parts: Part, required: bool = False) -> Part:
    """Declares arguments of which at most one may be given."""
    return lambda parser: _add_all(parts, parser.add_mutually_exclusive_group(required=required))


def _add_all(parts: Sequence[Part], target: Target) -> None:
    for part in parts:
        part(target)


def add_parser(
    commands: argparse._SubParsersAction[Parser], words: str, purpose: str, note: str = ""
) -> Parser:
    """Adds a parser for `jaxsplit WORDS`; its help ends with all examples below, and a note."""
    start = f"jaxsplit {words} "
    examples = [f"  {line}\n" for line in EXAMPLES.splitlines() if f"{line} ".startswith(start)]
    return commands.add_parser(
        words.split()[-1],
        help=purpose,
        description=purpose,
        epilog=f"examples:\n{''.join(examples)}\n{note}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


class Parser(argparse.ArgumentParser):
    """Raises errors of one line, where argparse prints its usage and exits."""

    def error(self, message: str) -> NoReturn:
        """Raises `ConfigError`."""
        for action in self._actions:
            # argparse doesn't list the commands when one is missing.
            if action.choices and message.endswith(f"required: {action.metavar}"):
                message = f"{action.metavar} is missing: one of {', '.join(action.choices)}"
        raise ConfigError(f"{message} (see {self.prog} --help)")

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Refuses unknown options first: argparse would report a missing one instead."""
        if self._subparsers is None:
            self._check_options(list(args or ()))
        return super().parse_known_args(args, namespace)

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            near = did_you_mean(str(value), known)
            raise argparse.ArgumentError(action, f"{value!r} is none of {', '.join(known)}{near}")

    def _check_options(self, words: Sequence[str]) -> None:
        known = [option for option in self._option_string_actions if option.startswith("--")]
        for word in words:
            name, equals, value = word.partition("=")
            if name == "--":
                return
            if re.match("-[A-Za-z]", word) and word[:2] not in self._option_string_actions:
                name, short = word[:2], [one for one in known if one[2] == word[1]]
                near = f"; did you mean {' or '.join(short)}?" if short else ""
                self.error(f"there is no option {name}{near}")
            if name in known or not name.startswith("--") or name.startswith("--config."):
                continue
            near = did_you_mean(name, known)
            if "--config" in known and (key := _config_key(words, name[2:])):
                near = f"; did you mean --config.{key}={value if equals else 'VALUE'}?"
            self.error(f"there is no option {name}{near}")


def _config_key(words: Sequence[str], name: str) -> str | None:
    """The key of this name in the configuration of --config; dashes may be underscores."""
    from jaxsplit.experiments import config

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", nargs="?")
    given, _ = parser.parse_known_args(list(words))
    name = old_names()["configuration"].get(name := name.replace("-", "_"), name)
    try:
        return name if given.config and name in config.known_keys(given.config) else None
    except ConfigError:  # raised again when it is loaded
        return None


QUIET = flag("-q", "--quiet", text="no progress, no summary: results and errors")
JSON = flag("--json", text="print one JSON document, no text")
#: Help of --family.
FAMILIES = "a trained folder, a family of the package (jaxsplit info lists them) or of the hub"
#: The options of `open_family`.
FAMILY = (
    argument("--family", "DIR|NAME|hf:NAME", FAMILIES, required=True),
    one_of(
        argument("--backbone", "NAME", "weights by name, embedded or of an installed package"),
        argument(
            "--weights", "FILE|hf:NAME", "weights of its network: a file, or on the hub", Path
        ),
    ),
)
_WORKDIR = "for checkpoints and results; the same command resumes from it"
WORKDIR = argument("--workdir", "DIR", _WORKDIR, Path, required=True)


def output_option(metavar: str, text: str = "to write") -> Part:
    """Declares the required option -o, --output."""
    return argument("-o, --output", metavar, text, Path, required=True)


def check_suffix(path: Path, suffix: str, option: str = "--output") -> None:
    """Raises a ConfigError if a file to write has another ending; a pipe may have any name."""
    if path.suffix != suffix and (not path.exists() or path.is_file()):
        near = path.with_suffix(suffix) if path.name else path / f"NAME{suffix}"
        raise ConfigError(f"{option} {path}: the name must end in {suffix}, such as {near}")


def image_options(split: str = "of these images; default as in evaluate") -> tuple[Part, Part]:
    """Declares --split and --max-samples, with the help of the first."""
    count = argument("--max-samples, --limit", "N", "images, spread over the classes", positive)
    return argument("--split", "NAME", split), count


def check_images(options: argparse.Namespace, name: str) -> None:
    """Raises a ConfigError if --split or --max-samples lack their images, the option `name`."""
    if getattr(options, name) is None and (options.split, options.max_samples) != (None, None):
        flag = name.replace("_", "-")
        raise ConfigError(f"--split and --max-samples need the images of --{flag} SOURCE")


def config_options(*kinds: str) -> tuple[Part, Part]:
    """Declares --config and --help-config for these kinds; `program.parse` takes the overrides."""
    text = "a shipped configuration or a file; --config.KEY=VALUE overrides"
    keys = "list the keys of a configuration with defaults and meaning, and exit"
    return (
        argument("--config", "FILE|NAME[:ARG]", text, required=True),
        argument("--help-config", None, keys, action=_HelpConfig, nargs=0, const=kinds),
    )


class _HelpConfig(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        from jaxsplit.experiments import config

        print("\n\n".join(map(config.describe_keys, self.const)))
        parser.exit()


def positive(text: str) -> int:
    """Parses a whole number of at least 1.

    >>> positive("8")
    8
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; expected a whole number of at least 1")
    return int(text)


def positives(text: str) -> tuple[int, ...]:
    """Parses whole numbers of at least 1, separated by commas.

    >>> positives("8,16")
    (8, 16)
    """
    return tuple(positive(part) for part in text.split(","))


def card_entry(text: str) -> tuple[str, object]:
    """Parses KEY=VALUE, such as `seed=3` → ("seed", 3); the value is JSON, else text.

    >>> card_entry("license=MIT")
    ('license', 'MIT')
    """
    key, equals, value = text.partition("=")
    if not key.isidentifier() or not equals or not value:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    try:
        return key, parse_json(value)
    except ValueError:
        return key, value


def open_family(options: argparse.Namespace) -> tuple[RateFamily, Backbone]:
    """Opens the family and the network of the options `FAMILY`."""
    from jaxsplit.family.pretrained import load_pretrained

    family = load_pretrained(options.family)
    backbone = family.backbone_of(options.backbone, options.weights)
    return family.bind(backbone), backbone


def show(
    options: argparse.Namespace,
    text: str,
    document: object,
    summary: str = "",
    *,
    terms: bool = False,
) -> None:
    """Prints the results of a command and a summary of its work.

    With --json, prints only the document; with --quiet, no summary. `terms` says where those of the
    text are explained.
    """
    if options.json:
        print(json.dumps(document, indent=2))
        return
    if text:
        print("\n".join(map(escaped, text.split("\n"))))
    if terms and not options.quiet:
        print(f"terms: {TERMS}")
    if summary and not options.quiet:
        print("\n".join(map(escaped, summary.split("\n"))))


def images_text(count: int) -> str:
    """Formats a number of images."""
    return f"{count} image" if count == 1 else f"{count} images"


def progress_bar(
    options: argparse.Namespace, names: Sequence[str] = (), *, after: float = 0.0
) -> ProgressBar:
    """Creates the progress of a command with rates of these names, shown after some seconds."""
    from jaxsplit.io.progress import ProgressBar

    return ProgressBar(names, quiet=options.quiet, after=after)
