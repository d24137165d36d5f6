"""`fastmta abort`: ends everything at once. What was acknowledged is in the queue; what is in flight may come twice."""

from __future__ import annotations

import signal
from pathlib import Path

from fastmta.cli import stop


def main(directory: Path, arguments: list[str]) -> int:
    """Stop without waiting for deliveries."""
    return stop.end(directory, signal.SIGQUIT, "aborting")
