"""The SMTP client machine once more, slow and obvious: what smtpclient.pyx is held against.

It takes all input at once, decodes, and walks through the dialogue from the top. A script of messages replaces the
agent: each is submitted when the one before is done (or, with prefetch, when its content is due). `play` gives what
was sent and what was reported, in order, as does `play_machine` for the real one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

from fastmta._ext import smtpclient as m
from fastmta.model.envelope import Envelope

LIMIT = 2048
Event = tuple[Any, ...]


class Recorder:
    """A handler that writes down what happens, and submits the next message."""

    def __init__(self, messages: list[tuple[Envelope, list[bytes]]], **options: Any) -> None:
        self.events: list[Event] = []
        self.messages = list(messages)
        self.machine = m.SmtpClient(self, b"client.example", **options)
        self.machine.start(lambda data: self.events.append(("write", data)))

    def submit(self) -> None:
        if self.messages:
            envelope, content = self.messages.pop(0)
            self.machine.submit(envelope, list(range(len(envelope.recipients))), content)

    def greeted(self) -> None:
        self.events.append(("greeted", self.machine.features, self.machine.size_limit, self.machine.peer_name))
        self.machine.ready()
        self.submit()

    def refused(self, reply: m.Reply) -> None:
        self.events.append(("refused", *plain(reply)))
        self.machine.close()

    def starttls_reply(self, reply: m.Reply) -> None:
        raise AssertionError("not asked for")

    def transaction_done(self, tx: m.Transaction) -> None:
        replies = tx.replies if tx.replies is not None else [tx.reply] * len(tx.recipients)
        self.events.append(("done", *[plain(reply) for reply in replies]))
        if self.machine.transaction is None:
            self.submit()

    def content_due(self) -> None:
        self.events.append(("content_due",))
        self.submit()

    def send_body(self, chunks: list[bytes], end: bytes) -> None:
        self.events.append(("write", b"".join(chunks) + end))

    def garbage(self, text: str) -> None:
        self.events.append(("garbage", text))

    def too_long(self, text: str) -> None:
        self.events.append(("too_long", text))

    def bad_size(self, text: str) -> None:
        self.events.append(("bad_size", text))

    def quit_done(self) -> None:
        self.events.append(("quit_done",))

    def unexpected(self) -> None:
        self.events.append(("unexpected",))
        self.machine.close()


def plain(reply: m.Reply | None) -> tuple[int, int, str, str] | None:
    return None if reply is None else (reply.code, reply.stage, reply.dsn, reply.text)


def play_machine(pieces: Iterable[bytes], messages: list[tuple[Envelope, list[bytes]]], **options: Any) -> list[Event]:
    recorder = Recorder(messages, **options)
    for piece in pieces:
        recorder.machine.feed(piece)
    return recorder.events


class Oracle:
    """One dialogue, read from a list of lines."""

    def __init__(
        self, data: bytes, messages: list[tuple[Envelope, list[bytes]]], lmtp: bool = False, prefetch: bool = False
    ) -> None:
        self.lines = data.split(b"\n")
        last = self.lines.pop()
        if len(last) > LIMIT + 64:
            self.lines.append(last[: LIMIT + 64] + b"x")  # its rest has not come: only its beginning counts
        self.messages = list(messages)
        self.lmtp = lmtp
        self.prefetch = prefetch
        self.events: list[Event] = []
        self.features: set[str] = set()
        self.warned = False

    def write(self, data: bytes) -> None:
        self.events.append(("write", data))

    def reply(self, stage: int) -> tuple[int, int, str, str]:
        """The next reply; EOFError when the input ends."""
        kept: list[bytes] = []
        self.raw: list[bytes] = []
        size = 0
        while True:
            if not self.lines:
                raise EOFError
            line = self.lines.pop(0)
            if len(line) <= LIMIT + 64:
                line = line.rstrip(b"\r")
            if len(line) > LIMIT:
                self.events.append(("too_long", clean(line[:LIMIT])))
                line = line[:LIMIT]
            digits = len(line) - len(line.lstrip(b"0123456789"))
            final = digits == 3 and line[3:4] in (b"", b" ")
            if (
                not final
                and not (digits == 3 and line[3:4] == b"-")
                and "PIPELINING" in self.features
                and not self.warned
            ):
                self.warned = True
                self.events.append(("garbage", clean(line)))
            if size < LIMIT:
                kept.append(line)
                size += len(line) + 1
            if final:
                break
        self.raw = kept if size and kept and kept[-1] is line else [*kept, line]
        code = int(line[:3])
        return code, stage, enhanced(line), " ".join(clean(line) for line in kept)

    def run(self) -> list[Event]:
        with contextlib.suppress(EOFError):
            self.dialogue()
        return self.events

    def dialogue(self) -> None:
        reply = self.reply(m.STATE_GREETING)
        if reply[0] // 100 != 2:
            self.events.append(("refused", *reply))
            return
        self.write(b"LHLO client.example\r\n" if self.lmtp else b"EHLO client.example\r\n")
        reply = self.reply(m.STATE_EHLO)
        if reply[0] // 100 == 2:
            self.offers()
        elif reply[0] == 421 or self.lmtp:
            self.events.append(("refused", *reply))
            return
        else:
            self.write(b"HELO client.example\r\n")
            reply = self.reply(m.STATE_HELO)
            if reply[0] // 100 != 2:
                self.events.append(("refused", *reply))
                return
            self.events.append(("greeted", 0, 0, ""))
        after_reset = False
        sent = False
        while self.messages or sent:
            after_reset, sent = self.message(after_reset, sent)
        if after_reset:
            self.reset_reply()
        self.reply(m.STATE_IDLE)
        self.events.append(("unexpected",))

    def reset_reply(self) -> None:
        if self.reply(m.STATE_RSET)[0] // 100 != 2:
            self.events.append(("unexpected",))
            raise EOFError

    def offers(self) -> None:
        names = {
            "PIPELINING": m.FEATURE_PIPELINING,
            "8BITMIME": m.FEATURE_8BITMIME,
            "SMTPUTF8": m.FEATURE_SMTPUTF8,
            "DSN": m.FEATURE_DSN,
            "STARTTLS": m.FEATURE_STARTTLS,
            "SIZE": m.FEATURE_SIZE,
        }
        features, limit, name = m.FEATURE_ESMTP, 0, ""
        for number, raw in enumerate(self.raw):
            words = clean(raw)[4:].replace("=", " ").split()
            if not words:
                continue
            if number == 0:
                name = words[0]
                continue
            word = words[0].upper()
            features |= names.get(word, 0)
            if word in names:
                self.features.add(word)
            if word == "SIZE" and len(words) > 1:
                if words[1].isascii() and words[1].isdigit() and len(words[1]) < 19:
                    limit = int(words[1])
                else:
                    self.events.append(("bad_size", words[1]))
        self.events.append(("greeted", features, limit, name))

    def commands(self, envelope: Envelope) -> list[bytes]:
        mail = f"MAIL FROM:<{envelope.sender}>"
        if "SIZE" in self.features:
            mail += f" SIZE={envelope.size}"
        rcpts = [f"RCPT TO:<{recipient.address}>" for recipient in envelope.recipients]
        if "DSN" in self.features:
            rcpts = [f"{rcpt} ORCPT=rfc822;{rcpt[9:-1]}" for rcpt in rcpts]
        return [line.encode() + b"\r\n" for line in (mail, *rcpts, "DATA")]

    def message(self, after_reset: bool, sent: bool) -> tuple[bool, bool]:
        """One transaction. (does a reply to RSET come first, are its commands out already) -> the same for the next."""
        envelope, content = self.messages.pop(0)
        pipelining = "PIPELINING" in self.features
        commands = self.commands(envelope)
        count = len(envelope.recipients)
        if pipelining and not sent:
            self.write(b"".join(commands))
        if after_reset:
            self.reset_reply()
        if not pipelining:
            self.write(commands[0])
        replies: list[tuple[int, int, str, str] | None] = [None] * count
        mail = self.reply(m.STATE_MAIL)
        mail_ok = mail[0] // 100 == 2
        if not mail_ok:
            replies = [mail] * count
            if not pipelining:
                return self.give_up(replies)
        accepted = []
        for number in range(count):
            if not pipelining:
                self.write(commands[1 + number])
            reply = self.reply(m.STATE_RCPT)
            if mail_ok:
                if reply[0] // 100 == 2:
                    accepted.append(number)
                else:
                    replies[number] = reply
        if not accepted and not pipelining:
            return self.give_up(replies)
        if not pipelining:
            self.write(b"DATA\r\n")
        data = self.reply(m.STATE_DATA)
        if data[0] // 100 != 3:
            for number in accepted:
                replies[number] = data
            return self.give_up(replies)
        ahead = b""
        if accepted and self.prefetch and pipelining:
            self.events.append(("content_due",))
            if self.messages:
                ahead = b"".join(self.commands(self.messages[0][0]))
        self.write((b"".join(content) if accepted else b"") + b".\r\n" + ahead)
        if not accepted:
            self.reply(m.STATE_DOT)
        elif self.lmtp:
            for number in accepted:
                replies[number] = self.reply(m.STATE_DOT)
        else:
            dot = self.reply(m.STATE_DOT)
            for number in accepted:
                replies[number] = dot
        self.events.append(("done", *replies))
        return False, bool(ahead)

    def give_up(self, replies: list[tuple[int, int, str, str] | None]) -> tuple[bool, bool]:
        self.write(b"RSET\r\n")
        self.events.append(("done", *replies))
        return True, False


def clean(line: bytes) -> str:
    """What may be printed; valid UTF-8 may stay."""
    text = line.decode("utf-8", "replace")
    return "".join("?" if char == "\ufffd" or ord(char) < 32 or 127 <= ord(char) < 160 else char for char in text)


def enhanced(line: bytes) -> str:
    """The enhanced code of the last line of a reply."""
    if line[:1] not in (b"2", b"4", b"5"):
        return "5.5.0"
    rest = line[4:].lstrip(b" ")
    word = rest.replace(b"\t", b" ").split(b" ")[0]
    parts = word.split(b".")
    if (
        len(parts) == 3
        and len(parts[0]) == 1
        and parts[0] == line[:1]
        and all(part.isdigit() and len(part) <= 3 for part in parts[1:])
    ):
        return word.decode()
    return line[:1].decode() + ".0.0"
