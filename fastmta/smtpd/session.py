"""One SMTP session: what the machine asks, this answers. It asks the checks, keeps the envelope, logs, hands over.

Made by smtpd/protocol.py for each connection, called by _ext.smtpserver; next come smtpd/checks.py (access/) and
cleanup.Intake. Hooks answer at once where they can; end_of_data answers when the queue has the message. What an Intake
raises becomes 451. smtpd(8); RFC 5321.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Protocol

from fastmta._ext import smtpserver as machine
from fastmta._ext.smtpcontent import BARE_LF_ALLOWED, BARE_LF_NOTE
from fastmta._ext.smtpserver import SmtpServer
from fastmta.model.envelope import Origin, Recipient
from fastmta.observe import lines
from fastmta.smtpd.transaction import Transaction

if TYPE_CHECKING:
    from fastmta.smtpd.service import ClientCounter, SmtpdService

_QUEUED: Final = b"250 2.0.0 Ok: queued as "
OK_MAIL: Final = b"250 2.1.0 Ok\r\n"
OK_RCPT: Final = b"250 2.1.5 Ok\r\n"
GO_AHEAD: Final = b"354 End data with <CR><LF>.<CR><LF>\r\n"
INTERNAL_ERROR: Final = b"451 4.3.0 Error: internal error\r\n"

# helo_name goes into logs and headers
_CONTROL: Final = dict.fromkeys((*range(32), 127), "?")
_NEUTER: Final = {ord(char): "?" for char in '<>()\\";:@'} | _CONTROL
_ESCAPES: Final = {8: "\\b", 9: "\\t", 10: "\\n", 11: "\\v", 12: "\\f", 13: "\\r", 92: "\\\\"}


class Driver(Protocol):
    """What owns the connection: smtpd/protocol.py."""

    def resume(self, reply: bytes) -> None:
        """The answer that a hook owed."""


class Session:
    """The handler of one SmtpServer. It is also the Subject of checks."""

    __slots__ = (
        "_answer",
        "_chunked",
        "_waits",
        "arrival",
        "body",
        "client",
        "client_address",
        "client_name",
        "client_port",
        "counter",
        "driver",
        "dsn_envid",
        "dsn_ret",
        "exempt",
        "helo_name",
        "in_mynetworks",
        "machine",
        "origin",
        "queue_id",
        "recipient",
        "recipients",
        "sender",
        "service",
        "smtputf8",
        "tls_comment",
    )

    def __init__(self, service: SmtpdService, driver: Driver, address: str, port: int) -> None:
        """A connection from address; its name comes later, by named()."""
        self.service = service
        self.driver = driver
        self.client_address = address
        self.client_port = port
        self.client_name = "unknown"
        self.client = f"unknown[{address}]"
        self.in_mynetworks = False
        self.exempt = False
        self.helo_name: str | None = None
        self.counter: ClientCounter | None = None
        self.machine = SmtpServer(self, service.settings.limits, service.settings.bare_newline)
        self.origin: Origin | None = None
        self.tls_comment = ""
        self._answer: bytes | None = None
        self._waits = False
        self._chunked = -1
        self._clear()

    def _clear(self) -> None:
        self.queue_id = ""
        self.sender: str | None = None
        self.recipient: str | None = None
        self.recipients: list[Recipient] = []
        self.arrival = 0.0
        self.body = ""
        self.smtputf8 = False
        self.dsn_ret = 0
        self.dsn_envid = ""

    # -- for checks

    @property
    def esmtp(self) -> bool:
        """The client said EHLO."""
        return self.machine.esmtp

    @property
    def secure(self) -> bool:
        """TLS is active."""
        return self.machine.secure

    @property
    def improper_pipelining(self) -> bool:
        """The client did not wait for its turn."""
        return self.machine.improper_pipelining

    @property
    def recipient_count(self) -> int:
        """Accepted so far."""
        return len(self.recipients)

    @property
    def waits_for_queue(self) -> bool:
        """A message was handed over, and its answer is not there yet."""
        return self._waits

    # -- the beginning and the end

    def named(self, name: str) -> bytes:
        """The client's name is known (or "unknown"): the session begins. Returns the greeting."""
        service = self.service
        settings = service.settings
        address = self.client_address
        self.client_name = name
        self.client = f"{name}[{address}]"
        if settings.client_port_logging:
            self.client += f":{self.client_port}"
        service.write(lines.connect(self.client))
        self.in_mynetworks = settings.mynetworks.match_host(name, address)
        if settings.bare_newline and settings.bare_newline_exclusions.match_host(name, address):
            self.machine.bare_lf = BARE_LF_ALLOWED
        if settings.counts_clients:
            refusal = self._count_connection()
            if refusal is not None:
                return refusal
        if service.checks.connect is not None:
            text = service.checks.connect(self)
            if text is not None:
                return self._refuse("CONNECT", text)
        return settings.banner

    def _count_connection(self) -> bytes | None:
        settings = self.service.settings
        self.counter = counter = self.service.counter(self.client_address)
        self.exempt = settings.limit_exceptions.match_host(self.client_name, self.client_address)
        if self.exempt:
            return None
        if 0 < settings.connection_count_limit < counter.count:
            what, value = "Connection concurrency", counter.count
        elif 0 < settings.connection_rate_limit < counter.connection_rate:
            what, value = "Connection rate", counter.connection_rate
        else:
            return None
        self._warn_limit(what, value)
        return f"421 4.7.0 {settings.myhostname} Error: too many connections from {self.client_address}\r\n".encode()

    def _warn_limit(self, what: str, value: int) -> None:
        service = self.service
        service.warn(lines.limit_exceeded(what, value, self.client, service.settings.service_name))

    def ended(self, reason: str) -> None:
        """The connection is gone. reason: LOST_CONNECTION, TIMEOUT, TOO_MANY_ERRORS, or "" for a good end."""
        service = self.service
        if reason:
            where, received = self.machine.where()
            if where != "END-OF-MESSAGE" or reason != lines.LOST_CONNECTION:
                service.write(lines.lost_connection(reason, where, self.client, received))
        text = lines.disconnect(self.client, self.machine.counters())
        if service.settings.bare_newline & BARE_LF_NOTE and self.machine.saw_bare_lf:
            text += " notes=bare_lf"
        service.write(text)
        if self.counter is not None:
            self.counter.disconnect()
            self.counter = None

    def tls_started(self, comment: str) -> None:
        """The handshake is done: the client begins anew. comment is for Received:."""
        self.machine.tls_started()
        self.helo_name = None
        self.origin = None
        self.tls_comment = comment

    # -- hooks of the machine

    def helo(self, name: str, esmtp: bool) -> bytes | None:
        """HELO or EHLO."""
        settings = self.service.settings
        before, self.helo_name = self.helo_name, name.translate(_CONTROL)
        check = self.service.checks.helo
        if check is not None:
            text = check(self)
            if text is not None:
                reply = self._refuse("EHLO" if esmtp else "HELO", text)
                self.helo_name = before
                return reply
        self.helo_name = name.translate(_NEUTER)
        self.origin = None
        if not esmtp:
            return settings.helo
        if settings.discarded:
            self.service.write(f"discarding EHLO keywords: {settings.discarded}")
        return settings.ehlo_tls if self.machine.secure else settings.ehlo

    def mail(self, sender: str, size: int, body: str, smtputf8: bool, dsn_ret: int, dsn_envid: str) -> bytes | None:
        """MAIL FROM."""
        service = self.service
        settings = service.settings
        if settings.message_rate_limit and self.counter is not None and not self.exempt:
            rate = self.counter.message()
            if rate > settings.message_rate_limit:
                self._warn_limit("Message delivery request rate", rate)
                return b"450 4.7.1 Error: too much mail from %b\r\n" % self.client_address.encode()
        self.sender = sender
        check = service.checks.mail
        text = check(self) if check is not None else None
        if text is None and 0 < settings.message_size_limit < size:
            text = "552 5.3.4 Message size exceeds fixed limit"
        if text is None and not service.has_room(size):
            text = "452 4.3.1 Insufficient system storage"
        if text is not None:
            reply = self._refuse("MAIL", text)
            self.sender = None
            return reply
        self.arrival = time.time()
        self.body = body
        self.smtputf8 = smtputf8
        self.dsn_ret = dsn_ret
        self.dsn_envid = dsn_envid
        return OK_MAIL

    def rcpt(self, address: str, dsn_orcpt: str, dsn_notify: int) -> bytes | None:
        """RCPT TO."""
        service = self.service
        if service.settings.recipient_rate_limit and self.counter is not None and not self.exempt:
            rate = self.counter.recipient()
            if rate > service.settings.recipient_rate_limit:
                self._warn_limit("Recipient address rate", rate)
                return b"450 4.7.1 Error: too many recipients from %b\r\n" % self.client_address.encode()
        check = service.checks.rcpt
        first = self.recipient
        if check is not None:
            self.recipient = address
            text = check(self)
            if text is not None:
                reply = self._refuse("RCPT", text)
                self.recipient = first
                return reply
        if first is None:
            self.recipient = address
            self.queue_id = queue_id = service.intake.new_queue_id(self.arrival)
            service.write(lines.client(queue_id, self.client))
        else:
            self.recipient = first
        self.recipients.append(Recipient(address, "", dsn_orcpt, dsn_notify))
        return OK_RCPT

    def data(self) -> bytes | None:
        """DATA, or the first BDAT: asked only where there are restrictions."""
        check = self.service.checks.data
        text = check(self) if check is not None else None
        return GO_AHEAD if text is None else self._refuse(self.machine.where()[0], text)

    def end_of_data(self, content: list[bytes], size: int, records: int, flags: int, chunked: int) -> bytes | None:
        """The whole content is there; the answer comes from the queue."""
        check = self.service.checks.end_of_data
        if check is not None:
            text = check(self)
            if text is not None:
                reply = self._refuse("END-OF-MESSAGE", text)
                self._clear()
                return reply
        transaction = Transaction(
            self.queue_id,
            self.arrival,
            self.sender or "",
            self.recipients,
            content,
            self.origin or self._make_origin(),
            self.body,
            self.smtputf8,
            self.dsn_envid,
            self.dsn_ret,
            size,
            records,
            flags,
        )
        self._chunked = chunked
        self._clear()
        self._waits = False
        self._answer = None
        try:
            self.service.intake.accept(transaction, self._accepted)
        except Exception as error:  # a bug of ours: the client tries again
            self.service.panic(f"{transaction.queue_id}: {error!r}", error)
            return INTERNAL_ERROR
        answer, self._answer = self._answer, None
        self._waits = answer is None
        return answer

    def _accepted(self, reply: bytes) -> None:
        """The queue has answered."""
        if self._chunked >= 0 and reply.startswith(_QUEUED):
            reply = b"250 2.0.0 Ok: %d bytes queued as %b" % (self._chunked, reply[len(_QUEUED) :])
        if self._waits:
            self._waits = False
            self.driver.resume(reply)
        else:
            self._answer = reply

    def vrfy(self, address: str, said: bytes) -> bytes | None:
        """VRFY."""
        check = self.service.checks.vrfy
        if check is not None:
            first, self.recipient = self.recipient, address
            text = check(self)
            reply = self._refuse("VRFY", text) if text is not None else None
            self.recipient = first
            if reply is not None:
                return reply
        return b"252 2.0.0 %b\r\n" % said

    def etrn(self, domain: str) -> bytes | None:
        """ETRN: there is no fast flush service yet, so that no domain has it."""
        check = self.service.checks.etrn
        text = check(self) if check is not None else None
        if text is not None:
            return self._refuse("ETRN", text)
        self.service.warn(f"reject: ETRN {domain[:100]}... from {self.client}")
        return f"459 <{domain}>: service unavailable\r\n".encode()

    def starttls(self) -> bytes | None:
        """STARTTLS."""
        service = self.service
        settings = service.settings
        if service.tls_context is None:
            return b"454 4.7.0 TLS not available due to local problem\r\n"
        if settings.new_tls_rate_limit and self.counter is not None and not self.exempt:
            rate = self.counter.newtls()
            if rate > settings.new_tls_rate_limit:
                self._warn_limit("New TLS session rate", rate)
                return b"454 4.7.0 Error: too many new TLS sessions from %b\r\n" % self.client.encode()
        return b"220 2.0.0 Ready to start TLS\r\n"

    def reset(self) -> None:
        """The transaction is over."""
        self._clear()

    def notice(self, kind: int, text: bytes) -> None:
        """Something to be logged."""
        service = self.service
        client = self.client
        said = text.decode("utf-8", "replace").replace("\ufffd", "?")
        queue_id = self.queue_id or "NOQUEUE"
        if kind == machine.NOTICE_ADDRESS:
            where = self.machine.where()[0]
            service.warn(f"Illegal address syntax from {client} in {where} command: {said.translate(_CONTROL)}")
        elif kind == machine.NOTICE_PIPELINING:
            service.write(lines.improper_pipelining(self.machine.where()[0], client, _escape(text)))
        elif kind == machine.NOTICE_LONG_LINE:
            limit = service.line_length_limit
            service.warn(f"{client}: request longer than {limit}: {said.translate(_CONTROL)}...")
        elif kind == machine.NOTICE_NOT_SMTP:
            service.warn(f"non-SMTP command from {client}: {_escape(text)}")
        elif kind == machine.NOTICE_BARE_LF:
            self._log_refusal(said, "bare <LF> received")
        elif kind == machine.NOTICE_SIZE:
            service.warn(f"{queue_id}: queue file size limit exceeded")
        elif kind == machine.NOTICE_BDAT_SYNTAX:
            service.warn(f"{queue_id}: malformed BDAT command syntax from {client}: {said}")
        elif kind == machine.NOTICE_BDAT_NULL:
            service.warn(f"{queue_id}: null BDAT request from {client}")
        elif kind == machine.NOTICE_BDAT_SIZE:
            service.warn(f"{queue_id}: BDAT request from {client} exceeds message size limit")
        elif kind == machine.NOTICE_NOTIFY:
            word, _, value = said.partition("\0")
            service.warn(f'unknown DSN NOTIFY command value "{word}" in "{value}"')

    # -- parts

    def _make_origin(self) -> Origin:
        secure = self.machine.secure and self.machine.esmtp
        self.origin = origin = Origin(
            self.client_name,
            self.client_address,
            self.client_port,
            self.helo_name or "",
            "ESMTPS" if secure else self._protocol(),
            self.tls_comment if self.service.settings.tls_received_header else "",
        )
        return origin

    def _protocol(self) -> str:
        return "ESMTP" if self.machine.esmtp else "SMTP"

    def _refuse(self, where: str, text: str) -> bytes:
        if self.service.settings.soft_bounce and text.startswith("5"):
            text = "4" + text[1:].replace(" 5.", " 4.", 1)
        self._log_refusal(where, text)
        return text.encode("utf-8", "surrogateescape") + b"\r\n"

    def _log_refusal(self, where: str, text: str) -> None:
        # of several recipients none is more to blame than the others
        recipient = self.recipient if where in ("RCPT", "VRFY") or len(self.recipients) < 2 else None
        self.service.write(
            lines.reject(
                self.queue_id, where, self.client, text, self.sender, recipient, self._protocol(), self.helo_name
            )
        )


def _escape(text: bytes) -> str:
    """Control characters and bytes above 127 as in C."""
    return "".join(_ESCAPES.get(byte) or (chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}") for byte in text)
