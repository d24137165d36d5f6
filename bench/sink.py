"""A next hop that keeps accounts: `python -m bench.sink 127.0.0.1:2526 --expect 10000`.

Takes mail from any server and throws it away, after it has looked at every byte: what came twice, what is not whole
(bench/message.py). The report (`account.Arrived`) goes to bench/account.py. It can be slow, dead, or refuse by chance:

    --fault RCPT=tempfail:0.05              5 % of RCPT commands get 450
    --fault DOT=reject:0.01                 1 % of messages get 550 after the dot
    --fault d3.example.org/RCPT=delay:1:0.5 each RCPT of this domain is answered after half a second
    --fault CONNECT=delay:1:600             a dead host: it accepts and says nothing
    --fault CONNECT=tempfail:1              421 to everybody (a host that refuses connections is one with no sink)
    --fault DATA=drop:0.001                 the connection ends without a reply

Commands: CONNECT EHLO MAIL RCPT DATA DOT; the first fault that fits and whose chance comes is done. Bounded by --expect
(deliveries) and --seconds; ends in order on SIGTERM and SIGINT. RFC 5321, 2920, 3207.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import ssl
import sys
import time
from pathlib import Path
from typing import Final, cast

import msgspec
import uvloop

from bench.account import Arrived, ranges
from bench.message import identify, recipient_of

COMMANDS: Final = ("CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "DOT")
KINDS: Final = ("tempfail", "reject", "delay", "drop")
SHOWN: Final = 50  # of duplicates and damage in the report
TEMPFAIL: Final = {"CONNECT": b"421 4.3.2 not now\r\n"}
REJECT: Final = {"CONNECT": b"554 5.7.1 not you\r\n"}


class Fault(msgspec.Struct, frozen=True):
    """What goes wrong, with which chance; domain "": for all. seconds: of a delay."""

    command: str
    kind: str
    chance: float = 1.0
    seconds: float = 0.0
    domain: str = ""

    @classmethod
    def parse(cls, text: str) -> Fault:
        """[DOMAIN/]COMMAND=KIND[:CHANCE[:SECONDS]]. Raises ValueError."""
        where, _, what = text.partition("=")
        domain, _, command = where.rpartition("/")
        kind, *values = what.split(":")
        if command not in COMMANDS or kind not in KINDS or len(values) > 2:
            raise ValueError(f"not [DOMAIN/]COMMAND=KIND:CHANCE[:SECONDS]: {text!r}")
        chance, seconds, *_ = [*(float(value) for value in values), 1.0, 0.0][:2] if values else [1.0, 0.0]
        return cls(command, kind, chance, seconds if len(values) > 1 else 0.0, domain.lower())


class Settings(msgspec.Struct, frozen=True):
    """How to receive. expect 0: without end."""

    listen: tuple[tuple[str, int], ...]
    expect: int = 0
    seconds: float = 600.0
    pipelining: bool = True
    faults: tuple[Fault, ...] = ()
    seed: int = 1
    tls: tuple[str, str] | None = None  # files of the certificate chain and the key


class Sink:
    """Receives on one or several addresses: `await open()`, `await done`, `await close()`, `report()`."""

    def __init__(self, settings: Settings) -> None:
        """Nothing is bound before `open`."""
        self.settings = settings
        self.loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = self.loop.create_future()
        self.context: ssl.SSLContext | None = None
        if settings.tls is not None:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(*settings.tls)
        self.replies: dict[str, dict[str, int]] = {name: {} for name in (*COMMANDS, "STARTTLS", "other")}
        self.faults = {name: [one for one in settings.faults if one.command == name] for name in COMMANDS}
        self.report = Arrived()
        self.sessions: set[Session] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.ports: list[int] = []
        self._servers: list[asyncio.Server] = []
        self._chance = random.Random(settings.seed)
        self._seen: dict[str, dict[int, int]] = {}  # run: number: a bit for each recipient
        self._recipients: dict[str, int] = {}
        self._first = 0.0
        self._last = 0.0
        extensions = [b"sink.bench.example", b"8BITMIME", b"SMTPUTF8", b"SIZE 0"]
        if settings.pipelining:
            extensions.append(b"PIPELINING")
        self.ehlo = extensions

    async def open(self) -> None:
        """Listen. Raises OSError."""
        for host, port in self.settings.listen:
            server = await self.loop.create_server(lambda: Session(self), host, port, backlog=1000)
            self._servers.append(server)
            self.ports.append(server.sockets[0].getsockname()[1])
        if self.settings.seconds:
            self.loop.call_later(self.settings.seconds, self.end)

    def end(self) -> None:
        """It is enough."""
        if not self.done.done():
            self.done.set_result(None)

    async def close(self) -> Arrived:
        """No more; the report."""
        for server in self._servers:
            server.close()
        for session in list(self.sessions):
            session.close()
        for task in list(self.tasks):
            task.cancel()
        report = self.report
        report.seconds = round(self._last - self._first, 6)
        report.rate = round(report.transactions / report.seconds, 3) if report.seconds > 0 else 0.0
        report.replies = {name: codes for name, codes in self.replies.items() if codes}
        for run, seen in self._seen.items():
            everyone = (1 << self._recipients[run]) - 1
            report.whole[run] = ranges(sorted(number for number, bits in seen.items() if bits == everyone))
            partial = {number: bits for number, bits in sorted(seen.items()) if bits != everyone}
            if partial:
                report.partial[run] = {
                    str(number): [k for k in range(bits.bit_length()) if bits >> k & 1]
                    for number, bits in partial.items()
                }
        return report

    def fault(self, command: str, domain: str = "") -> Fault | None:
        """What goes wrong this time."""
        for fault in self.faults[command]:
            if (not fault.domain or fault.domain == domain) and self._chance.random() < fault.chance:
                return fault
        return None

    def count(self, command: str, code: str) -> None:
        """A reply."""
        codes = self.replies[command]
        codes[code] = codes.get(code, 0) + 1

    def delivered(self, wire: bytes, recipients: list[bytes]) -> None:
        """A message that was taken, in wire form without its final dot."""
        report = self.report
        self._last = time.perf_counter()
        if not report.transactions:
            self._first = self._last
        report.transactions += 1
        report.bytes += len(wire)
        found = identify(wire)
        if found is None:
            report.unnumbered += 1
        elif not found.whole:
            self._damage(f"{found.run}/{found.number}")
        else:
            self._recipients.setdefault(found.run, found.recipients)
            seen = self._seen.setdefault(found.run, {})
            bits = seen.get(found.number, 0)
            for local in recipients:
                which = recipient_of(local) if found.recipients > 1 else 0
                if not 0 <= which < found.recipients:
                    self._damage(f"{found.run}/{found.number} for {local.decode('latin-1')}")
                    continue
                if bits >> which & 1:
                    report.duplicates += 1
                    if len(report.duplicate) < SHOWN:
                        report.duplicate.append(f"{found.run}/{found.number}/{which}")
                else:
                    bits |= 1 << which
                    report.deliveries += 1
            seen[found.number] = bits
        if self.settings.expect and report.deliveries + report.unnumbered >= self.settings.expect:
            # the answer to this one goes out before the end
            self.loop.call_soon(self.end)

    def _damage(self, text: str) -> None:
        self.report.damaged += 1
        if len(self.report.damage) < SHOWN:
            self.report.damage.append(text)


class Session(asyncio.Protocol):
    """One connection. While a reply is delayed, or TLS begins, `_paused` keeps what comes."""

    def __init__(self, owner: Sink) -> None:
        """Not connected yet."""
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._out: list[bytes] = []
        self._paused = False
        self._in_data = False
        self._searched = 0
        self._sender = False
        self._recipients: list[bytes] = []
        self._domain = ""
        self._secure = False

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by class
        if self in self._owner.sessions:  # after STARTTLS
            return
        self._owner.sessions.add(self)
        self._owner.report.sessions += 1
        self._answer("CONNECT", b"220 sink.bench.example ESMTP\r\n")
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Commands or content."""
        self._buffer += data
        if not self._paused:
            self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        """The end."""
        self._owner.sessions.discard(self)
        self._transport = None

    def close(self) -> None:
        """End it."""
        if self._transport is not None:
            self._transport.close()

    # input

    def _go_on(self) -> None:
        """Do everything that is complete, then answer it in one write."""
        while not self._paused and self._transport is not None:
            if self._in_data:
                if not self._content():
                    break
            else:
                end = self._buffer.find(b"\n")
                if end < 0:
                    break
                line = bytes(self._buffer[:end]).rstrip(b"\r")
                del self._buffer[: end + 1]
                if self._buffer and not self._owner.settings.pipelining:
                    self._owner.report.unasked += 1
                self._command(line)
        self._flush()

    def _content(self) -> bool:
        """Take a message whose end has come."""
        buffer = self._buffer
        if buffer.startswith(b".\r\n"):
            wire, length = b"", 3
        else:
            place = buffer.find(b"\r\n.\r\n", max(0, self._searched - 4))
            if place < 0:
                self._searched = len(buffer)
                return False
            wire, length = bytes(buffer[: place + 2]), place + 5
        del buffer[:length]
        self._searched = 0
        self._in_data = False
        recipients = self._recipients
        if self._answer("DOT", b"250 2.0.0 taken\r\n"):
            self._owner.delivered(wire, recipients)
        self._reset()
        return True

    def _command(self, line: bytes) -> None:
        verb = line[:4].upper()
        if verb == b"MAIL":
            self._sender = self._answer("MAIL", b"250 2.1.0 Ok\r\n")
        elif verb == b"RCPT":
            begin, end = line.find(b"<"), line.rfind(b">")
            local, _, domain = line[begin + 1 : end].rpartition(b"@")
            self._domain = domain.decode("latin-1").lower()
            if not self._sender:
                self._say("RCPT", b"503 5.5.1 MAIL first\r\n")
            elif self._answer("RCPT", b"250 2.1.5 Ok\r\n"):
                self._recipients.append(local)
        elif verb == b"DATA":
            if not self._recipients:
                self._say("DATA", b"554 5.5.1 no valid recipients\r\n")
            elif self._answer("DATA", b"354 go on\r\n"):
                self._in_data = True
        elif verb in (b"EHLO", b"HELO"):
            self._reset()
            lines = [*self._owner.ehlo]
            if self._owner.context is not None and not self._secure:
                lines.append(b"STARTTLS")
            text = b"".join(b"250-%s\r\n" % one for one in lines[:-1]) + b"250 %s\r\n" % lines[-1]
            self._answer("EHLO", text if verb == b"EHLO" else b"250 sink.bench.example\r\n")
        elif verb == b"STAR" and self._owner.context is not None and not self._secure:
            self._start_tls()
        elif verb == b"QUIT":
            self._say("other", b"221 2.0.0 Bye\r\n")
            self._flush()
            self.close()
        elif verb in (b"RSET", b"NOOP"):
            if verb == b"RSET":
                self._reset()
            self._say("other", b"250 2.0.0 Ok\r\n")
        else:
            self._say("other", b"502 5.5.2 what?\r\n")

    def _reset(self) -> None:
        self._sender = False
        self._recipients = []

    # output

    def _say(self, command: str, reply: bytes) -> None:
        self._owner.count(command, reply[:3].decode())
        self._out.append(reply)

    def _flush(self) -> None:
        if self._out and not self._paused and self._transport is not None:
            self._transport.write(b"".join(self._out))
            self._out.clear()

    def _answer(self, command: str, good: bytes) -> bool:
        """The reply to a command, or what goes wrong instead; whether it was the good one."""
        owner = self._owner
        fault = owner.fault(command, self._domain) if owner.faults[command] else None
        if fault is None:
            self._say(command, good)
            return True
        if fault.kind == "delay":
            owner.count(command, "delayed")
            self._flush()
            self._say(command, good)
            self._paused = True
            owner.loop.call_later(fault.seconds, self._resume)
            return True
        if fault.kind == "drop":
            owner.count(command, "dropped")
            self._flush()
            if self._transport is not None:
                self._transport.abort()
                self._transport = None
            return False
        if fault.kind == "tempfail":
            self._say(command, TEMPFAIL.get(command, b"450 4.3.0 not now\r\n"))
        else:
            self._say(command, REJECT.get(command, b"550 5.7.1 never\r\n"))
        if command == "CONNECT":
            self._flush()
            self.close()
        return False

    def _resume(self) -> None:
        self._paused = False
        self._go_on()

    # TLS

    def _start_tls(self) -> None:
        self._say("STARTTLS", b"220 2.0.0 go on\r\n")
        self._flush()
        self._paused = True
        self._buffer.clear()  # what came in the clear is not to be read as if it had not
        self._owner.tasks.add(task := self._owner.loop.create_task(self._secured()))
        task.add_done_callback(self._owner.tasks.discard)

    async def _secured(self) -> None:
        assert self._transport is not None
        assert self._owner.context is not None
        try:
            transport = await self._owner.loop.start_tls(self._transport, self, self._owner.context, server_side=True)
        except (OSError, ssl.SSLError):
            self._owner.count("STARTTLS", "failed")
            self.close()
            return
        if transport is None:
            return
        self._transport = transport
        self._secure = True
        self._reset()
        self._resume()


def settings() -> tuple[Settings, Path | None]:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.sink", description="Receive mail, and keep accounts.")
    parser.add_argument("listen", nargs="+", help="HOST:PORT")
    parser.add_argument("--expect", type=int, default=0, help="end after so many deliveries")
    parser.add_argument("--seconds", type=float, default=600.0, help="end after so long (default: 600)")
    parser.add_argument("--no-pipelining", action="store_true", help="do not offer it")
    parser.add_argument(
        "--fault", action="append", default=[], type=Fault.parse, help="[DOMAIN/]COMMAND=KIND:CHANCE[:S]"
    )
    parser.add_argument("--seed", type=int, default=1, help="of all that is random")
    parser.add_argument("--tls", nargs=2, metavar=("CHAIN", "KEY"), help="offer STARTTLS with these files")
    parser.add_argument("--report", type=Path, help="JSON; default: standard output")
    options = parser.parse_args()
    listen = []
    for text in options.listen:
        host, _, port = text.rpartition(":")
        listen.append((host.strip("[]"), int(port)))
    wanted = Settings(
        tuple(listen),
        options.expect,
        options.seconds,
        not options.no_pipelining,
        tuple(options.fault),
        options.seed,
        tuple(options.tls) if options.tls else None,
    )
    return wanted, options.report


async def receive(wanted: Settings) -> Arrived:
    """Until the end."""
    sink = Sink(wanted)
    await sink.open()
    for number in (signal.SIGTERM, signal.SIGINT):
        sink.loop.add_signal_handler(number, sink.end)
    await sink.done
    await asyncio.sleep(0.05)  # the last answers leave
    return await sink.close()


def main() -> int:
    """Receive and report; 1 when something was wrong, or less came than expected."""
    wanted, path = settings()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        report = runner.run(receive(wanted))
    text = msgspec.json.format(msgspec.json.encode(report), indent=1).decode()
    if path is None:
        print(text)
    else:
        path.write_text(text)
    missing = wanted.expect and report.deliveries + report.unnumbered < wanted.expect
    return 1 if missing or report.duplicates or report.damaged else 0


if __name__ == "__main__":
    sys.exit(main())
