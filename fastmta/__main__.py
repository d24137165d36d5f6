"""`python -m fastmta COMMAND ...`: the multi-call program."""

import sys

from fastmta.cli.main import fastmta

sys.exit(fastmta())
