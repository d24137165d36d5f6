"""Work in the background of an event loop, in slices so short that no message waits for it noticeably.

A chore is a generator: it yields None where it may be interrupted, PAUSE to wait for something that takes a while, or
the sequence number of a commit batch that must be durable before it goes on. Used by queue/shard.py for recovery,
index writing and reclaiming. `BareLoop` is a loop of the least kind for the command-line tools and tests, which have
no other.
"""

from __future__ import annotations

import heapq
import select
import time
from collections import deque
from collections.abc import Callable, Generator
from typing import Any, Final, Protocol, TypeAlias

Chore: TypeAlias = Generator[int | None, None, None]
PAUSE: Final = -1
PAUSE_TIME: Final = 0.005


class Timer(Protocol):
    """A call that is to come."""

    def cancel(self) -> None:
        """Do not call."""


class Loop(Protocol):
    """What the queue needs of an event loop; asyncio's and uvloop's have it."""

    def add_reader(self, fd: int, callback: Callable[[], object], /) -> Any:
        """Call when fd is readable."""

    def remove_reader(self, fd: int, /) -> Any:
        """No longer."""

    def call_soon(self, callback: Callable[..., object], /, *args: Any) -> Timer:
        """Call after the events at hand."""

    def call_later(self, delay: float, callback: Callable[..., object], /, *args: Any) -> Timer:
        """Call in so many seconds."""


class Chores:
    """Runs chores one after the other, `slice_time` seconds at a time with as long a pause between, unless hurried."""

    def __init__(self, loop: Loop, slice_time: float = 0.001) -> None:
        """Nothing runs before add()."""
        self._loop = loop
        self._slice_time = slice_time
        self._queue: deque[Chore] = deque()
        self._waiting: deque[int] = deque()  # for each of them the batch that it waits for
        self._durable = 0
        self._timer: Timer | None = None
        self._pausing = False
        self.hurried = False  # no pauses: the loop still handles its events between the slices

    def add(self, chore: Chore, first: bool = False) -> None:
        """Run it after those before it; first: before them, also before the rest of the one under way."""
        if first:
            self._queue.appendleft(chore)
            self._waiting.appendleft(0)
        else:
            self._queue.append(chore)
            self._waiting.append(0)
        if self._timer is None:
            self._timer = self._loop.call_soon(self._run)

    @property
    def busy(self) -> bool:
        """Whether a chore is under way."""
        return bool(self._queue)

    def durable(self, sequence: int) -> None:
        """Batches up to this one are durable."""
        self._durable = sequence
        if self._waiting and 0 < self._waiting[0] <= sequence and self._timer is None:
            self._timer = self._loop.call_soon(self._run)

    @property
    def reached(self) -> int:
        """The last batch that is known to be durable."""
        return self._durable

    def finish(self, until_durable: Callable[[int], None]) -> None:
        """Run all chores to their end now; until_durable blocks until that batch is durable."""
        while self._queue:
            if self._waiting[0] > self._durable:
                until_durable(self._waiting[0])
            if self._pausing:
                time.sleep(PAUSE_TIME)
            self._pausing = False
            self._step()
        self.clear()

    def clear(self) -> None:
        """Drop all chores where they are."""
        for chore in self._queue:
            chore.close()
        self._queue.clear()
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _step(self) -> None:
        self._waiting[0] = 0
        try:
            wanted = next(self._queue[0])
        except BaseException as error:
            self._queue.popleft()
            self._waiting.popleft()
            if isinstance(error, StopIteration):
                return
            raise
        if wanted is None:
            return
        if wanted == PAUSE:
            self._pausing = True
        else:
            self._waiting[0] = wanted

    def _run(self) -> None:
        self._timer = None
        end = time.perf_counter() + self._slice_time
        self._pausing = False
        while self._queue and self._waiting[0] <= self._durable and not self._pausing:
            self._step()
            if time.perf_counter() >= end:
                break
        if self._queue and self._waiting[0] <= self._durable:
            if self._pausing:
                self._timer = self._loop.call_later(PAUSE_TIME, self._run)
            elif self.hurried:
                self._timer = self._loop.call_soon(self._run)
            else:
                self._timer = self._loop.call_later(self._slice_time, self._run)


class _Call:
    """One entry of BareLoop's timetable."""

    __slots__ = ("args", "callback", "cancelled")

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.callback = callback
        self.args = args
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class BareLoop:
    """poll() and a timetable."""

    def __init__(self) -> None:
        """Nothing is watched yet."""
        self._poll = select.poll()
        self._readers: dict[int, Callable[[], object]] = {}
        self._calls: list[tuple[float, int, _Call]] = []
        self._count = 0

    def add_reader(self, fd: int, callback: Callable[[], object], /) -> None:
        """Call when fd is readable."""
        self._readers[fd] = callback
        self._poll.register(fd, select.POLLIN)

    def remove_reader(self, fd: int, /) -> None:
        """No longer."""
        if self._readers.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def call_soon(self, callback: Callable[..., object], /, *args: Any) -> _Call:
        """Call at the next turn."""
        return self.call_later(0.0, callback, *args)

    def call_later(self, delay: float, callback: Callable[..., object], /, *args: Any) -> _Call:
        """Call in so many seconds."""
        call = _Call(callback, args)
        self._count += 1
        heapq.heappush(self._calls, (time.monotonic() + delay, self._count, call))
        return call

    def turn(self, timeout: float = 0.0) -> None:
        """Wait for events at most so long, and handle what has come."""
        now = time.monotonic()
        if self._calls:
            timeout = max(0.0, min(timeout, self._calls[0][0] - now))
        for fd, _ in self._poll.poll(timeout * 1000):
            reader = self._readers.get(fd)
            if reader is not None:
                reader()
        now = time.monotonic()
        last = self._count
        while self._calls and self._calls[0][0] <= now and self._calls[0][1] <= last:
            call = heapq.heappop(self._calls)[2]
            if not call.cancelled:
                call.callback(*call.args)

    def until(self, condition: Callable[[], bool], timeout: float = 30.0) -> bool:
        """Turn until the condition holds; False when it does not in that time."""
        end = time.monotonic() + timeout
        while not condition():
            if time.monotonic() >= end:
                return False
            self.turn(0.05)
        return True
