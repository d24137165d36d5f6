"""Read a shard from outside: its index and its log, read-only, whether its owner runs or not.

For the tools (admin/spool.py, cli/). The owner is not disturbed: a read transaction is given up after some hundred
messages, so that LMDB can reuse its pages, and taken again where it ended. What the owner has not written to the index yet is
not seen: ask it to sync first.
"""

from __future__ import annotations

import msgspec

from fastmta.model.envelope import Envelope
from fastmta.model.outcome import Result


class Entry(msgspec.Struct):
    """One message as listings see it."""

    queue: str  # incoming, active, deferred, hold
    envelope: Envelope
    flags: int = 0  # FLAG_*
    done: bytes | bytearray | None = None
    deferred: dict[int, Result] | None = None
