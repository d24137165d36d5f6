"""What the queue raises, or hands to the `done` of an append. Above it, cleanup/ turns them into replies."""

from __future__ import annotations


class QueueError(Exception):
    """A message could not be kept or read; nothing that was accepted before is touched by it."""


class QueueFull(QueueError):
    """No space on the disk, or less than must stay free: 452 4.3.1."""


class QueueFailed(QueueError):
    """A write or sync failed, or the queue is closed: 451 4.3.0."""


class QueueLocked(QueueError):
    """Another process owns that shard."""


class Damaged(QueueError):
    """A record is not what was written: it was set aside, reported, and removed from the queue."""
