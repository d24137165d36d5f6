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
from typing import Final, cast

import msgspec
import uvloop

from bench.account import Sent, ranges
from bench.message import Maker, address

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
        if self.settings.rate:
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
        end = self.loop.time() + 5
        while self.open and self.loop.time() < end:
            await asyncio.sleep(0.01)
        for session in list(self.open):
            session.abort()
        for task in list(self.tasks):
            task.cancel()

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


class Session(asyncio.Protocol):
    """One connection. `_expected` names the replies that are still to come, in order."""

    def __init__(self, owner: Generator) -> None:
        """Not connected yet."""
        self._owner = owner
        self._settings = owner.settings
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._expected: deque[str] = deque(["CONNECT"])
        self._extensions: set[str] = set()
        self._secure = False
        self._sent = 0
        self._number = -1
        self._due = 0.0
        self._dot = 0.0
        self._commands: deque[bytes] = deque()
        self._accepted = 0
        self._rcpt = 0
        self._first_error = b""
        self._asked_to_end = False

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected, or secured."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by class

    def data_received(self, data: bytes) -> None:
        """Replies."""
        if self._buffer:
            data = self._buffer + data
        begin = 0
        while (end := data.find(b"\n", begin)) >= 0:
            line = data[begin:end]
            begin = end + 1
            if self._expected and self._expected[0] == "EHLO":
                self._extensions.add(line[4:].strip().split(b" ")[0].decode("latin-1").upper())
            if line[3:4] != b"-":
                self._reply(line[:3], line)
        self._buffer = data[begin:]

    def connection_lost(self, exc: Exception | None) -> None:
        """The end, asked for or not."""
        owner = self._owner
        if not self._asked_to_end:
            owner.lost += 1
        if self._number >= 0:
            number, self._number = self._number, -1
            owner.unanswered(number, bool(self._dot))
        self._transport = None
        owner.gone(self)

    # for the generator

    def send(self, due: float) -> None:
        """Begin the next message."""
        owner, settings = self._owner, self._settings
        number = self._number = owner.number()
        self._due = due
        self._dot = 0.0
        self._accepted = self._rcpt = 0
        self._first_error = b""
        self._sent += 1
        commands = [b"MAIL FROM:<%s>\r\n" % settings.sender.encode()]
        for k in range(settings.recipients):
            to = address(number, k, settings.recipients, settings.domains, settings.domain)
            commands.append(b"RCPT TO:<%s>\r\n" % to.encode())
        commands.append(b"DATA\r\n")
        if settings.pipelining and "PIPELINING" in self._extensions:
            self._expected.extend(["MAIL", *["RCPT"] * settings.recipients, "DATA"])
            self._write(b"".join(commands))
        else:
            self._commands = deque(commands)
            self._next_command()

    def quit(self) -> None:
        """End in order."""
        if self._transport is not None and self._number < 0 and not self._asked_to_end:
            self._asked_to_end = True
            self._expected.append("QUIT")
            self._write(b"QUIT\r\n")

    def abort(self) -> None:
        """End at once."""
        self._asked_to_end = True
        if self._transport is not None:
            self._transport.abort()

    # the dialogue

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def _next_command(self) -> None:
        command = self._commands.popleft()
        self._expected.append(command[:4].decode())
        self._write(command)

    def _reply(self, code: bytes, line: bytes) -> None:
        owner = self._owner
        if not self._expected:
            owner.count("CONNECT", code.decode("latin-1") + " unasked")
            return
        name = self._expected.popleft()
        owner.count(name, code.decode("latin-1"))
        good = code[:1] == b"2"
        match name:
            case "CONNECT":
                if good:
                    self._command("EHLO", b"EHLO generator.bench.example\r\n")
                else:
                    self._give_up()
            case "EHLO":
                self._after_ehlo(good)
            case "STARTTLS":
                if good:
                    owner.tasks.add(task := owner.loop.create_task(self._start_tls()))
                    task.add_done_callback(owner.tasks.discard)
                else:
                    self._give_up()
            case "MAIL" | "RCPT" | "DATA":
                self._transaction(name, code)
            case "DOT":
                self._answered(code)
            case "RSET":
                self._end_of_message()
            case _:
                if self._transport is not None:
                    self._transport.close()

    def _command(self, name: str, data: bytes) -> None:
        self._expected.append(name)
        self._write(data)

    def _give_up(self) -> None:
        """The server does not want us: later again."""
        self._asked_to_end = True
        if self._transport is not None:
            self._owner.loop.call_later(0.1, self._transport.close)

    def _after_ehlo(self, good: bool) -> None:
        if not good:
            self._give_up()
        elif self._settings.starttls and not self._secure:
            if "STARTTLS" not in self._extensions:
                self._owner.count("STARTTLS", "not offered")
                self._give_up()
            else:
                self._command("STARTTLS", b"STARTTLS\r\n")
        else:
            self._owner.ready(self)

    async def _start_tls(self) -> None:
        assert self._transport is not None
        try:
            secured = await self._owner.loop.start_tls(self._transport, self, self._owner.context)
        except (OSError, ssl.SSLError):
            self._owner.count("STARTTLS", "failed")
            self.abort()
            return
        if secured is None:
            return
        self._transport = secured
        self._secure = True
        self._extensions.clear()
        self._command("EHLO", b"EHLO generator.bench.example\r\n")

    def _transaction(self, name: str, code: bytes) -> None:
        """Replies to MAIL, RCPT and DATA; pipelined or one after the other."""
        if name == "RCPT":
            if code[:1] == b"2":
                self._accepted += 1
            else:
                refused = self._owner.refused_recipients.setdefault(str(self._number), [])
                refused.append(self._rcpt)
            self._rcpt += 1
        if code[:1] not in b"23" and not self._first_error:
            self._first_error = code
        if name == "DATA":
            if code == b"354" and self._accepted:
                self._expected.append("DOT")
                content = self._owner.maker.make(self._number)
                self._dot = time.perf_counter()
                self._write(content)
            elif code == b"354":
                self._command("DOT", b".\r\n")
                self._accepted = -1
            else:
                self._command("RSET", b"RSET\r\n")
        elif self._commands:
            if (name == "MAIL" and code[:1] != b"2") or (len(self._commands) == 1 and not self._accepted):
                self._commands.clear()
                self._command("RSET", b"RSET\r\n")
            else:
                self._next_command()

    def _answered(self, code: bytes) -> None:
        if self._accepted < 0:  # an empty message for nobody
            self._end_of_message()
            return
        number, self._number = self._number, -1
        self._owner.answered(number, code, self._dot, self._due)
        self._next_message()

    def _end_of_message(self) -> None:
        """It was refused before its content."""
        number, self._number = self._number, -1
        self._owner.refused_recipients.pop(str(number), None)
        self._owner.answered(number, self._first_error or b"000", 0.0, self._due)
        self._next_message()

    def _next_message(self) -> None:
        if self._settings.per_session and self._sent >= self._settings.per_session:
            self.quit()
        else:
            self._owner.ready(self)


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
