"""The command line `jaxsplit COMMAND`: a module for each command, with its options and its body.

A body imports heavy modules when it runs: `--help` must be instant.
"""

from jaxsplit.cli.program import main

__all__ = ["main"]
