"""`python -m jaxsplit`: the command line without its script."""

import sys

from jaxsplit.cli import main

sys.exit(main())
