"""Parameters of the queue, read once at load into a frozen struct."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Protocol

import msgspec


class Parameters(Protocol):
    """What is asked of config.Config."""

    def get_int(self, name: str) -> int:
        """A number."""

    def get_bool(self, name: str) -> bool:
        """yes or no."""

    def get_str(self, name: str) -> str:
        """A text."""


INDEX_HEADROOM: Final = 6 << 20  # bytes


class QueueSettings(msgspec.Struct, frozen=True):
    """minimum_free: bytes below which no new mail is taken; memory_budget: bytes of content kept per shard.

    lazy: seconds that a state change may wait for a message to share its sync with; index_interval: seconds between
    writes of the index; dead_share: how much of a segment must be dead before its survivors are moved.
    """

    shards: int = 16
    long_queue_ids: bool = False
    minimum_free: int = 0
    segment_size: int = 64 << 20
    reserve: int = 1 << 20
    memory_budget: int = 64 << 20
    lazy: float = 0.03
    index_interval: float = 1.0
    index_map_size: int = 64 << 30
    dead_share: float = 0.6

    @classmethod
    def from_config(cls, config: Parameters) -> QueueSettings:
        """The settings that main.cf asks for.

        As Postfix's smtpd does, mail is refused while less is free than queue_minfree or 1.5 times message_size_limit;
        here also while there might be no room for the index of what was accepted and for the outcomes of deliveries.
        """
        return cls(
            shards=config.get_int("fastmta_queue_shards"),
            long_queue_ids=config.get_bool("enable_long_queue_ids"),
            segment_size=config.get_int("fastmta_queue_segment_size"),
            memory_budget=config.get_int("fastmta_queue_memory_limit"),
            index_map_size=config.get_int("fastmta_queue_index_size"),
            minimum_free=max(
                config.get_int("queue_minfree"), config.get_int("message_size_limit") * 3 // 2, INDEX_HEADROOM
            ),
        )


def shard_directory(queue_directory: Path, number: int) -> Path:
    """Where a shard lives."""
    return queue_directory / f"shard-{number:02d}"
