from typing import Any, Final, TypeAlias

from fastmta.model.message import Place

WRITE: Final = 0
SYNC: Final = 1
OPEN: Final = 2
DIRECTORY_SYNC: Final = 3
TRUNCATE: Final = 4

Batch: TypeAlias = tuple[int, int, int, int, int, list[tuple[Any, Place | None, int]]]

def drop_pages(path: str) -> None: ...

class CommitThread:
    def __init__(
        self,
        directory: str,
        shard: int,
        next_segment: int,
        *,
        segment_size: int,
        lazy: float,
        reserve: str = "",
        reserve_size: int = 0,
    ) -> None: ...
    def close(self) -> None: ...
    def fileno(self) -> int: ...
    def message(self, kind: int, meta: bytes, content: list[bytes], token: object) -> int: ...
    def record(self, kind: int, meta: bytes) -> int: ...
    def remove(self, queue_id: str, home: int) -> int: ...
    def kick(self) -> None: ...
    def collect(self) -> list[Batch]: ...
    def inject(
        self,
        operation: int,
        error: int,
        after: int = 0,
        times: int = 1,
        written: int = 0,
        delay: float = 0.0,
    ) -> None: ...
    @property
    def last_sequence(self) -> int: ...
    @property
    def failed(self) -> int: ...
    @property
    def free_bytes(self) -> int: ...
    @property
    def syncs(self) -> int: ...
