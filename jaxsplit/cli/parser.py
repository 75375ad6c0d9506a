"""An argument parser whose errors name the fix."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from jaxsplit.errors import ConfigError, did_you_mean


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

    given, _ = _config_parser().parse_known_args(list(words))
    name = name.replace("-", "_")
    try:
        return name if given.config and name in config.known_keys(given.config) else None
    except ConfigError:  # raised again when it is loaded
        return None


def _config_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", nargs="?")
    return parser
