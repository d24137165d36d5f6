"""Which shard of the queue a new worker writes to, and which number it gets.

Used by master/supervisor.py. A primary shard must be nobody else's: not the primary one of a live worker, and not
adopted by one, which only its lock tells. Those with number % slots == slot come first, so that a worker adopts what
its predecessor in the slot left.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable
from pathlib import Path


def order(slot: int, slots: int, shards: int) -> list[int]:
    """Every shard, those of that slot first."""
    own = list(range(slot, shards, slots))
    return own + [shard for shard in range(shards) if shard % slots != slot]


def choose(
    slot: int, slots: int, shards: int, taken: Iterable[int], is_locked: Callable[[int], bool], last: int = -1
) -> int | None:
    """The primary shard for a new worker: its predecessor's (`last`) if that is free; None when all are taken."""
    busy = set(taken)
    wish = [last, *order(slot, slots, shards)] if 0 <= last < shards else order(slot, slots, shards)
    return next((shard for shard in wish if shard not in busy and not is_locked(shard)), None)


def smallest_free(taken: Iterable[int]) -> int:
    """The smallest number that is not in use."""
    busy = set(taken)
    number = 0
    while number in busy:
        number += 1
    return number


def is_locked(shard: Path) -> bool:
    """Whether a process holds that shard's lock."""
    try:
        fd = os.open(shard / "lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
