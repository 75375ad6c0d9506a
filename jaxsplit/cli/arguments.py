"""The parser, its error messages, the arguments that commands share, and the examples of --help."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from jaxsplit.errors import ConfigError, did_you_mean

#: Examples of all commands, one a line; each ends the help of its command.
EXAMPLES = """\
jaxsplit quickstart
jaxsplit quickstart --smoke --out look
jaxsplit train --config fashion_mnist --workdir runs/fashion_mnist
jaxsplit train --config fashion_mnist:smoke --workdir runs/look --config.learning_rate=1e-3
jaxsplit train --config my_experiment.py --workdir /content/drive/MyDrive/runs/mine
jaxsplit evaluate --family runs/fashion_mnist/family --limit 500
jaxsplit evaluate --family runs/mine/family --data folder:photos --rates r1,r3 --out runs/measured
jaxsplit evaluate --family resnet8_small-fashion_mnist/stage1.block1 --json
jaxsplit compare runs/paper runs/ours
jaxsplit compare runs/paper runs/ours --from-drop 6 --to-drop 0.5
jaxsplit compare old/curve.json new/curve.json --method akima --json
jaxsplit plan resnet50
jaxsplit plan resnet50 --cut stage3.block5 --plot plan.png
jaxsplit plan resnet50 --device-gmacs 5 --server-gmacs 500 --bandwidth-mbps 10 --rtt-ms 20
jaxsplit design --config resnet20_design --workdir runs/design
jaxsplit design --config resnet20_design --workdir runs/short --config.minutes=5.0
jaxsplit pack --family runs/mine/family --data embedded -o packed --card license=MIT
jaxsplit pack --family packed -o again --card limits="Grey images of clothing."
jaxsplit encode shirt.png boot.png --family runs/mine/family --rate r3 -o images.jspl
jaxsplit encode photos/*.jpg --family runs/mine/family --max-bytes 60 -o images.jspl
jaxsplit decode images.jspl --family runs/mine/family
jaxsplit decode images.jspl --family runs/mine/family --json
jaxsplit info
jaxsplit info runs/mine/family
jaxsplit info images.jspl
jaxsplit import backbone resnet18 resnet18.pth -o resnet18.safetensors
jaxsplit import backbone resnet50 weights.npz -o ours.safetensors --classes names.txt
jaxsplit import spic spic/ -o families/spic
jaxsplit import spic spic/ -o families/s3 --cut S3 --fit-on folder:images --weights resnet50.pth
"""


def epilog(command: str, note: str = "") -> str:
    """Formats the examples of a command and a note as the end of its help.

    A word before other commands has the examples of all of them.

    >>> epilog("info").splitlines()[:2]
    ['examples:', '  jaxsplit info']
    >>> len(epilog("import").splitlines())
    5
    """
    start = f"jaxsplit {command} "
    lines = [f"  {line}" for line in EXAMPLES.splitlines() if f"{line} ".startswith(start)]
    shown = "\n".join(["examples:", *lines]) if lines else ""
    return "\n\n".join(filter(None, (shown, note)))


class Parser(argparse.ArgumentParser):
    """Raises errors of one line, where argparse prints its usage and exits."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        # A misspelt option must not become another one.
        super().__init__(*arguments, **{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        """Raises `ConfigError`."""
        for action in self._actions:
            # argparse doesn't list the commands when one is missing.
            if isinstance(action, argparse._SubParsersAction) and message.endswith(
                f"required: {action.metavar}"
            ):
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
            if not name.startswith("--") or name.startswith("--config."):
                continue
            if name not in known:
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
    name = name.replace("-", "_")
    try:
        return name if given.config and name in config.known_keys(given.config) else None
    except ConfigError:  # raised again when it is loaded
        return None


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
        """Adds a command and returns its parser, for its own options.

        Args:
          name: its last word.
          text: its purpose in one sentence.
          run: its body.
          note: last line of its help.
        """
        command = " ".join((*self._words, name))
        parser = self._add_parser(name, text, epilog(command, note))
        parser.add_argument(
            "-q", "--quiet", action="store_true", help="no progress, no summary: results and errors"
        )
        parser.add_argument("--json", action="store_true", help="print one JSON document, no text")
        parser.set_defaults(command=command, run=run)
        return parser

    def group(self, name: str, text: str, metavar: str) -> Commands:
        """Adds a word before commands of its own."""
        words = (*self._words, name)
        return Commands(self._add_parser(name, text, epilog(" ".join(words))), metavar, words)

    def _add_parser(self, name: str, text: str, end: str) -> argparse.ArgumentParser:
        kind = argparse.RawDescriptionHelpFormatter
        return self._parsers.add_parser(
            name, help=text, description=text, epilog=end, formatter_class=kind
        )


def add_options(
    command: argparse.ArgumentParser | argparse._ArgumentGroup,
    *rows: tuple[str, Callable[[str], object], str, str],
) -> None:
    """Adds options of one value, default None: (name, type, name of the value, help) each."""
    for name, kind, metavar, text in rows:
        command.add_argument(name, type=kind, metavar=metavar, help=text)


def add_output(command: argparse.ArgumentParser, metavar: str, text: str = "to write") -> None:
    """Adds the required option -o, --output."""
    command.add_argument("-o", "--output", type=Path, required=True, metavar=metavar, help=text)


def add_workdir(command: argparse.ArgumentParser) -> None:
    """Adds the required option --workdir of a training or a search."""
    text = "for checkpoints and results; the same command resumes from it"
    command.add_argument("--workdir", type=Path, required=True, metavar="DIR", help=text)


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
    """Raises a ConfigError if --split or --limit come without their images, the option `name`."""
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
        return key, json.loads(value)
    except ValueError:
        return key, value
