"""One connection of the load generator: a client that waits for each reply, or pipelines.

Made by bench/generator.py, which it asks what to send and tells what came back. RFC 5321, 2920 (pipelining), 3207.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from typing import TYPE_CHECKING, cast

from bench.message import address

if TYPE_CHECKING:
    from bench.generator import Generator


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
        """End in order, after the message that is under way; at once where the server has not even greeted."""
        if self._expected and self._expected[0] == "CONNECT":
            self.abort()
        elif self._transport is not None and self._number < 0 and not self._asked_to_end:
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
