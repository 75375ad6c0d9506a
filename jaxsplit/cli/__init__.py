"""The command line `jaxsplit COMMAND`: its commands, each declared with its body.

A body imports heavy modules when it runs: `--help` must be instant.
"""

from jaxsplit.cli.program import main

__all__ = ["main"]
