"""A next hop for tests of a whole server: answers what it is told to, keeps what it gets, counts its connections.

    with Sink(answers={"RCPT": "550 5.1.1 no such user"}) as sink:
        LiveServer(folder, {"relayhost": sink.relayhost})
        ...
        (mail,) = sink.wait(1)

A thread for each connection; `answers` may be changed at any time: the key is a verb ("MAIL", "DATA", "." for the end
of the content, "" for the greeting) or the beginning of a command line, the sender is added to DATA and "."
(". <sender@"); the longest that fits wins. The answer "drop" is none: the connection is closed.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from types import TracebackType

import msgspec

from tests.live import free_port

OK = {
    "": "220 next.hop.test ESMTP",
    "EHLO": "250",
    "HELO": "250 next.hop.test",
    "MAIL": "250 2.1.0 ok",
    "RCPT": "250 2.1.5 ok",
    "DATA": "354 go ahead",
    ".": "250 2.0.0 kept",
    "RSET": "250 2.0.0 ok",
    "QUIT": "221 2.0.0 bye",
}


class Mail(msgspec.Struct):
    """One transaction, accepted or not. when: time.monotonic() of the answer to the dot."""

    sender: str  # the command's argument, with its parameters
    recipients: list[str]
    content: str
    when: float


class Sink:
    """A next hop. keywords: what EHLO offers."""

    def __init__(
        self,
        answers: dict[str, str] | None = None,
        keywords: tuple[str, ...] = ("PIPELINING", "8BITMIME", "SIZE 0"),
        port: int = 0,
    ) -> None:
        self.answers = dict(answers or {})
        self.keywords = keywords
        self.port = port or free_port()
        self.commands: list[str] = []
        self.mails: list[Mail] = []  # those that were accepted
        self.open = 0  # connections now
        self.most_busy = 0  # connections in a transaction at one time
        self.gate = threading.Event()  # cleared: no answer to a dot
        self.gate.set()
        self.entered = threading.Semaphore(0)  # released once for each dot that came
        self._changed = threading.Condition()
        self._connections: set[socket.socket] = set()
        self._in_transaction: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=200)
        self._thread = threading.Thread(target=self._accept, name="sink")
        self._thread.start()

    @property
    def relayhost(self) -> str:
        """As main.cf wants it."""
        return f"[127.0.0.1]:{self.port}"

    @property
    def busy(self) -> int:
        """Connections in a transaction now."""
        return len(self._in_transaction)

    def __enter__(self) -> Sink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all connections and threads."""
        self.gate.set()
        for sock in (self._listener, *self._connections):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._listener.close()
        with self._changed:
            assert self._changed.wait_for(lambda: not self._connections, 10)

    def wait(self, count: int, seconds: float = 30.0) -> list[Mail]:
        """Wait until so many messages were accepted, and return them all."""
        with self._changed:
            done = self._changed.wait_for(lambda: len(self.mails) >= count, seconds)
            assert done, f"{len(self.mails)} of {count} messages came: {self.commands[-20:]}"
            return list(self.mails)

    def wait_open(self, count: int, seconds: float = 30.0) -> None:
        """Wait until so many connections are open."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.open >= count, seconds), f"{self.open} connections, not {count}"

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with self._changed:
                self._connections.add(sock)
                self.open += 1
                self._changed.notify_all()
            threading.Thread(target=self._serve, args=(sock,), name="sink session").start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            with sock.makefile("rwb") as stream, contextlib.suppress(OSError, ValueError):
                self._session(sock, stream)
        except OSError:
            pass
        finally:
            with self._changed:
                self._connections.discard(sock)
                self._in_transaction.discard(sock)
                self.open -= 1
                self._changed.notify_all()
            sock.close()

    def _begun(self, sock: socket.socket, on: bool) -> None:
        with self._changed:
            if on:
                self._in_transaction.add(sock)
            else:
                self._in_transaction.discard(sock)
            self.most_busy = max(self.most_busy, self.busy)
            self._changed.notify_all()

    def _answer(self, line: str) -> str:
        fitting = [key for key in self.answers if (line.startswith(key) if key else not line)]
        if fitting:
            return self.answers[max(fitting, key=len)]
        verb = line.partition(" ")[0].upper()
        if verb == "EHLO":
            words = ["next.hop.test", *self.keywords]
            return "\r\n".join(f"250{' ' if word is words[-1] else '-'}{word}" for word in words)
        return OK.get(verb, "500 5.5.1 what?")

    def _session(self, sock: socket.socket, stream) -> None:  # type: ignore[no-untyped-def]
        def say(line: str) -> str:
            reply = self._answer(line)
            if reply == "drop":
                raise OSError
            stream.write(reply.encode() + b"\r\n")
            stream.flush()
            return reply

        sender, recipients = "", []
        if not say("").startswith("2"):
            return
        while data := stream.readline():
            line = data.decode("utf-8", "replace").rstrip("\r\n")
            self.commands.append(line)
            verb = line.partition(" ")[0].upper()
            if (verb == "RCPT" and not sender) or (verb == "DATA" and not recipients):
                stream.write(b"503 5.5.1 not now\r\n")
                stream.flush()
                continue
            reply = say(f"DATA {sender}" if verb == "DATA" else line)
            if reply.startswith("421") or verb == "QUIT":
                return
            if verb in ("MAIL", "RSET"):
                sender, recipients = line[10:] if reply.startswith("2") else "", []
                self._begun(sock, bool(sender))
            elif verb == "RCPT" and reply.startswith("2"):
                recipients.append(line[8:])
            elif verb == "DATA" and reply.startswith("3"):
                lines = []
                while (text := stream.readline()) != b".\r\n":
                    if not text:
                        return
                    lines.append(text)
                self.entered.release()
                self.gate.wait()
                if say(f". {sender}").startswith("2"):
                    with self._changed:
                        content = b"".join(lines).decode("utf-8", "replace")
                        self.mails.append(Mail(sender, recipients, content, time.monotonic()))
                        self._changed.notify_all()
                sender, recipients = "", []
                self._begun(sock, False)
