"""The command line: `jaxsplit <command>`, a module for each kind of command.

A command imports what is heavy when it runs: `--help` must be instant.
"""

from jaxsplit.cli.program import main

__all__ = ["main"]
