"""A load generator for any SMTP server: `python -m bench.generator HOST:PORT --messages 10000`.

Sessions kept open or a new one for each message, pipelining or not, STARTTLS, many recipients and domains. Closed loop
(each session sends when it can) or open loop (`--rate`: messages are due at times of their own, however long the server
takes), which is what latencies are to be measured with. Messages are those of bench/message.py; the report
(`account.Sent`) goes to bench/account.py. Bounded by --messages and --seconds. RFC 5321, 2920 (pipelining), 3207.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import ssl
import sys
import time
from array import array
from collections import deque
from pathlib import Path
from typing import Final

import msgspec
import uvloop

from bench.account import Sent, ranges
from bench.message import Maker
from bench.session import Session

BOUNDS: Final = [0.25 * 2 ** (k / 2) for k in range(32)]  # of the histogram, in milliseconds
COMMANDS: Final = ("CONNECT", "EHLO", "STARTTLS", "MAIL", "RCPT", "DATA", "DOT", "RSET", "QUIT")


class Settings(msgspec.Struct, frozen=True):
    """What to send. rate 0: closed loop. per_session 0: sessions stay open."""

    host: str
    port: int
    messages: int = 1000
    seconds: float = 600.0
    sessions: int = 20
    per_session: int = 0
    pipelining: bool = True
    size: int = 4096
    rate: float = 0.0
    arrivals: str = "poisson"  # or "even"
    starttls: bool = False
    recipients: int = 1
    domains: int = 1
    domain: str = "example.org"
    sender: str = "sender@example.com"
    run: str = ""
    seed: int = 1


class Generator:
    """One run; `await run()` gives the report."""

    def __init__(self, settings: Settings) -> None:
        """Nothing is sent before `run`."""
        self.settings = settings
        self.name = settings.run or f"{time.time_ns():x}"
        self.maker = Maker(self.name, settings.size, settings.recipients, settings.sender, settings.seed)
        self.loop = asyncio.get_running_loop()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.check_hostname = False
        self.context.verify_mode = ssl.CERT_NONE
        self.idle: list[Session] = []
        self.open: set[Session] = set()
        self.next = 0
        self.finished = 0
        self.waiting: deque[float] = deque()  # when messages that no session was free for were due
        self.done: asyncio.Future[None] = self.loop.create_future()
        self.latencies = array("d")
        self.from_due = array("d")
        self.acknowledged: list[int] = []
        self.refused: list[int] = []
        self.unknown: list[int] = []
        self.refused_recipients: dict[str, list[int]] = {}
        self.replies: dict[str, dict[str, int]] = {name: {} for name in COMMANDS}
        self.sessions = 0
        self.lost = 0
        self.behind = 0.0
        self.last = 0.0
        self.tasks: set[asyncio.Task[None]] = set()
        self._chance = random.Random(settings.seed)

    async def run(self) -> Sent:
        """Send all, or until the time is up; then QUIT."""
        self.begin = self.loop.time()
        for _ in range(self.settings.sessions):
            self.connect()
        if self.settings.rate:
            await self._all_idle()
            self.begin = self.loop.time()
            self._due = self.begin
            self._tick()
        try:
            await asyncio.wait_for(asyncio.shield(self.done), self.settings.seconds)
        except TimeoutError:
            self.stop()
        seconds = (self.last or self.loop.time()) - self.begin
        await self._close()
        return self._report(seconds)

    async def _all_idle(self) -> None:
        """Open loop: the sessions are there before the clock starts."""
        end = self.loop.time() + 30
        while len(self.idle) < len(self.open) and self.loop.time() < end and not self.settings.per_session:
            await asyncio.sleep(0.01)

    def stop(self) -> None:
        """No more messages."""
        self.next = self.settings.messages
        self.waiting.clear()
        if not self.done.done():
            self.done.set_result(None)

    def connect(self) -> None:
        """One more session."""
        session = Session(self)
        self.open.add(session)
        self.sessions += 1
        self._spawn(session)

    def _spawn(self, session: Session) -> None:
        task = self.loop.create_task(self._connect(session))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _connect(self, session: Session) -> None:
        try:
            await self.loop.create_connection(lambda: session, self.settings.host, self.settings.port)
        except OSError:
            self.count("CONNECT", "failed")
            await asyncio.sleep(0.1)
            self.gone(session)

    def gone(self, session: Session) -> None:
        """A session ended; another takes its place while there is work."""
        self.open.discard(session)
        if session in self.idle:
            self.idle.remove(session)
        if self.done.done():
            return
        if self.work_left():
            self.connect()
        elif not self.open:
            self.stop()

    def work_left(self) -> bool:
        """Whether there are messages that nobody has begun."""
        return self.next < self.settings.messages or bool(self.waiting)

    def count(self, name: str, code: str) -> None:
        """A reply."""
        codes = self.replies[name]
        codes[code] = codes.get(code, 0) + 1

    # who sends what

    def ready(self, session: Session) -> None:
        """A session can send."""
        if self.done.done():
            session.quit()
        elif self.settings.rate:
            if self.waiting:
                session.send(self.waiting.popleft())
            else:
                self.idle.append(session)
        elif self.next < self.settings.messages:
            session.send(0.0)
        else:
            self.idle.append(session)

    def number(self) -> int:
        """The next message's."""
        self.next += 1
        return self.next - 1

    def _tick(self) -> None:
        """Open loop: hand out what is due, and come again."""
        now = self.loop.time()
        while self._due <= now and self._made() < self.settings.messages:
            self.behind = max(self.behind, now - self._due)
            if self.idle:
                self.idle.pop().send(self._due)
            else:
                self.waiting.append(self._due)
            gap = 1 / self.settings.rate
            self._due += self._chance.expovariate(self.settings.rate) if self.settings.arrivals == "poisson" else gap
        if self._made() < self.settings.messages and not self.done.done():
            self.loop.call_later(max(0.0, self._due - self.loop.time()), self._tick)

    def _made(self) -> int:
        return self.next + len(self.waiting)

    def answered(self, number: int, code: bytes, dot: float, due: float) -> None:
        """The answer to a message."""
        if code == b"250":
            self.acknowledged.append(number)
            self.latencies.append(time.perf_counter() - dot)
            self.last = self.loop.time()
            if due:
                self.from_due.append(self.last - due)
        else:
            self.refused.append(number)
        self._finish()

    def unanswered(self, number: int, after_dot: bool) -> None:
        """The connection ended first."""
        (self.unknown if after_dot else self.refused).append(number)
        self._finish()

    def _finish(self) -> None:
        self.finished += 1
        if self.finished >= self.settings.messages and not self.done.done():
            self.done.set_result(None)

    # the end

    async def _close(self) -> None:
        for session in list(self.open):
            session.quit()
        await self._gone(5)
        for session in list(self.open):
            session.abort()
        await self._gone(1)
        for task in list(self.tasks):
            task.cancel()

    async def _gone(self, seconds: float) -> None:
        """Wait until all sessions have ended, but not for ever."""
        end = self.loop.time() + seconds
        while self.open and self.loop.time() < end:
            await asyncio.sleep(0.01)

    def _report(self, seconds: float) -> Sent:
        report = Sent(self.name, self.settings.recipients, round(seconds, 6))
        report.messages = len(self.acknowledged)
        report.rate = round(report.messages / seconds, 3) if seconds > 0 else 0.0
        report.acknowledged = ranges(sorted(self.acknowledged))
        report.refused = ranges(sorted(self.refused))
        report.unknown = ranges(sorted(self.unknown))
        report.refused_recipients = self.refused_recipients
        report.sessions = self.sessions
        report.lost = self.lost
        report.replies = {name: codes for name, codes in self.replies.items() if codes}
        report.latency = percentiles(self.latencies)
        report.from_due = percentiles(self.from_due)
        report.histogram = histogram(self.latencies)
        report.behind = round(self.behind, 6)
        return report


def percentiles(seconds: array[float]) -> dict[str, float]:
    """p50, p90, p99, p99.9 and the largest, in milliseconds; empty of nothing."""
    if not seconds:
        return {}
    ordered = sorted(seconds)
    places = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
    found = {name: ordered[min(len(ordered) - 1, int(len(ordered) * share))] for name, share in places.items()}
    found["max"] = ordered[-1]
    return {name: round(value * 1000, 4) for name, value in found.items()}


def histogram(seconds: array[float]) -> dict[str, int]:
    """How many took at most so many milliseconds, and more than the bound before."""
    counts = [0] * (len(BOUNDS) + 1)
    place = 0
    for value in sorted(seconds):
        while place < len(BOUNDS) and value * 1000 > BOUNDS[place]:
            place += 1
        counts[place] += 1
    names = [f"{bound:.3g}" for bound in BOUNDS] + ["more"]
    return {name: count for name, count in zip(names, counts, strict=True) if count}


def settings() -> tuple[Settings, Path | None]:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.generator", description="Send mail, and measure.")
    parser.add_argument("server", help="HOST:PORT")
    for name, default, text in (
        ("messages", 1000, "at most so many"),
        ("seconds", 600.0, "at most so long"),
        ("sessions", 20, "at a time"),
        ("per-session", 0, "messages in a session; 0: as many as come"),
        ("size", 4096, "bytes of the body"),
        ("rate", 0.0, "messages per second, open loop; 0: as fast as the server takes them"),
        ("recipients", 1, "of each message"),
        ("domains", 1, "that the recipients are spread over: d0.DOMAIN, d1.DOMAIN ..."),
        ("domain", "example.org", "of the recipients"),
        ("sender", "sender@example.com", "envelope sender"),
        ("run", "", "name of the run in the messages"),
        ("seed", 1, "of all that is random"),
    ):
        parser.add_argument(f"--{name}", type=type(default), default=default, help=text)
    parser.add_argument("--arrivals", choices=("poisson", "even"), default="poisson", help="open loop: the gaps")
    parser.add_argument("--no-pipelining", action="store_true", help="one command at a time")
    parser.add_argument("--starttls", action="store_true", help="encrypt every session")
    parser.add_argument("--report", type=Path, help="JSON; default: standard output")
    options = vars(parser.parse_args())
    host, _, port = options.pop("server").rpartition(":")
    report: Path | None = options.pop("report")
    pipelining = not options.pop("no_pipelining")
    return Settings(host.strip("[]"), int(port), pipelining=pipelining, **options), report


async def send(wanted: Settings) -> Sent:
    """One run."""
    return await Generator(wanted).run()


def main() -> int:
    """Send and report; 1 when not all were acknowledged."""
    wanted, path = settings()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        report = runner.run(send(wanted))
    text = msgspec.json.format(msgspec.json.encode(report), indent=1).decode()
    if path is None:
        print(text)
    else:
        path.write_text(text)
    return 0 if report.messages == wanted.messages else 1


if __name__ == "__main__":
    sys.exit(main())
