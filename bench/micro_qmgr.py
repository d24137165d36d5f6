"""What the queue manager costs: CPU time of a message with one recipient from admit() to removal, by number of workers.

The queue, the log and the resolver do nothing here, and the agent answers at once: `python bench/micro_qmgr.py`. The
windows are shared by all workers, a wide one (20) and a narrow one (3).
"""

from __future__ import annotations

import os
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import msgspec

from fastmta._ext.sched import DeliveryRequest, Slot
from fastmta._ext.shared import SharedTable
from fastmta.model.envelope import Envelope, Recipient
from fastmta.model.message import Message
from fastmta.model.outcome import Attempt, Result, Sent
from fastmta.qmgr.active import Active, ActiveContext
from fastmta.qmgr.settings import QmgrSettings, TransportRules

MESSAGES = 60000
RESULTS: list[Result] = [Sent("2.0.0", "250 2.0.0 Ok: queued as 12345")]
ATTEMPT = Attempt("127.0.0.1[127.0.0.1]:2525")


class Way(msgspec.Struct, frozen=True):
    """Where all goes."""

    transport: str = "smtp"
    nexthop: str = "[127.0.0.1]:2525"
    recipient: str = "x@example.com"


WAY = Way()


class Nothing:
    """Queue, log, resolver, bouncer, loop and agent of a worker."""

    def __init__(self) -> None:
        """No timer yet."""
        self.slots: list[Slot] = []
        self.timers: list[tuple[float, Any]] = []

    def resolve(self, _address: str, _sender: str = "") -> Way:
        """The one way."""
        return WAY

    def slot(self, slot: Slot) -> None:
        """A place: used in the next turn."""
        self.slots.append(slot)

    def write(self, _service: str, _line: str) -> None:
        """Log nothing."""

    def remove(self, _message: Message) -> None:
        """Keep nothing."""

    def call_later(self, delay: float, callback: Any) -> Nothing:
        """Keep a timer."""
        self.timers.append((time.time() + delay, callback))
        return self

    def cancel(self) -> None:
        """A timer that comes to nothing is harmless."""

    def run_timers(self) -> None:
        """Those that are due."""
        now = time.time()
        due = [callback for when, callback in self.timers if when <= now]
        self.timers = [timer for timer in self.timers if timer[0] > now]
        for callback in due:
            callback()


def work(table: SharedTable, number: int, limit: int, answer: Connection) -> None:
    """One worker: batches of 100 messages, until all are done."""
    table.bind(number)
    nothing: Any = Nothing()
    active = Active(ActiveContext(QmgrSettings(), nothing, nothing, nothing, nothing, nothing, table))
    active.add_transport(TransportRules("smtp", destination_concurrency_limit=limit), nothing)
    envelopes = [
        Envelope(f"Q{number}{i:X}", time.time(), "a@b.example", (Recipient("x@example.com"),), 4000) for i in range(100)
    ]
    began = time.process_time()
    busy: list[tuple[Slot, DeliveryRequest]] = []
    for _batch in range(MESSAGES // 100):
        for envelope in envelopes:
            active.admit(Message(envelope))
        while active.messages:
            nothing.run_timers()
            active.woken()
            slots, nothing.slots = nothing.slots, []
            busy.extend((slot, request) for slot in slots if (request := slot.take()) is not None)
            if not busy:
                os.sched_yield()
            for _slot, request in busy:
                request.finish(RESULTS, ATTEMPT)
            busy = [(slot, request) for slot, _done in busy if (request := slot.take()) is not None]
    answer.send((time.process_time() - began) / MESSAGES * 1e6)


def main() -> None:
    """Print a line for each number of workers and each window."""
    fork = get_context("fork")
    for workers in (1, 2, 4):
        for limit in (20, 3):
            table = SharedTable.create(4096)
            pipes = [fork.Pipe(duplex=False) for _ in range(workers)]
            children = [
                fork.Process(target=work, args=(table, number, limit, sender))
                for number, (_r, sender) in enumerate(pipes)
            ]
            for child in children:
                child.start()
            figures = [receiver.recv() for receiver, _sender in pipes]
            for child in children:
                child.join()
            table.close()
            shown = ", ".join(f"{figure:.2f}" for figure in figures)
            print(f"{workers} workers, window {limit:2}: {shown} microseconds of CPU per message")


if __name__ == "__main__":
    main()
