from typing import Generic, TypeVar

T = TypeVar("T")

class Node(Generic[T]):
    message: T
    left: int
    level: int

class JobQueue(Generic[T]):
    def __init__(
        self, slot_cost: int = 5, slot_loan: int = 3, slot_discount: int = 50, minimum_slots: int = 3
    ) -> None: ...
    def add(self, message: T, entries: int, queued: float) -> Node[T]: ...
    def next(self, now: float) -> Node[T] | None: ...
    def remove(self, node: Node[T]) -> None: ...
    def members(self) -> list[Node[T]]: ...
