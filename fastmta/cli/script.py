"""What the commands say, in the manner of Postfix's postfix-script: `fastmta/postfix-script: fatal: text` on stderr.

Used by the commands of `fastmta`; the programs named after Postfix's (postqueue and so on) speak under their own names.
"""

from __future__ import annotations

import sys
from typing import Final

from fastmta.config.errors import printable

NAME: Final = "fastmta/postfix-script"
SYSTEM: Final = "the FastMTA mail system"


def info(text: str) -> None:
    """Tell."""
    _write(text)


def warning(text: str) -> None:
    """Tell that something is not as it should be."""
    _write(f"warning: {text}")


def note(text: str) -> None:
    """Tell what is good to know."""
    _write(f"note: {text}")


def fatal(text: str) -> int:
    """Tell why it ends, and return the exit status for that."""
    _write(f"fatal: {text}")
    return 1


def _write(text: str) -> None:
    for line in text.splitlines() or [""]:
        print(f"{NAME}: {printable(line)}", file=sys.stderr, flush=True)
