"""One SMTP session: what the machine asks, this answers. It asks the checks, keeps the envelope, logs, hands over.

Made by smtpd/protocol.py for each connection, called by _ext.smtpserver; next come smtpd/checks.py (access/) and
cleanup.Intake. Hooks answer at once where they can; end_of_data answers when the queue has the message, and a hook
whose check comes to a remote table (Pending) when that has answered: each has its check, and what follows from its
outcome. What an Intake raises becomes 451. smtpd(8); RFC 5321.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from fastmta._ext.smtpcontent import BARE_LF_ALLOWED, BARE_LF_NOTE
from fastmta._ext.smtpserver import SmtpServer
from fastmta.model.envelope import Origin, Recipient
from fastmta.observe import lines
from fastmta.smtpd.clients import own_ehlo, rights
from fastmta.smtpd.notices import CONTROL, log_notice
from fastmta.smtpd.transaction import Transaction
from fastmta.tables.maps import Pending

if TYPE_CHECKING:
    from fastmta.smtpd.checks import Check
    from fastmta.smtpd.service import ClientCounter, SmtpdService
    from fastmta.smtpd.settings import Ehlo

_QUEUED: Final = b"250 2.0.0 Ok: queued as "
OK_MAIL: Final = b"250 2.1.0 Ok\r\n"
OK_RCPT: Final = b"250 2.1.5 Ok\r\n"
GO_AHEAD: Final = b"354 End data with <CR><LF>.<CR><LF>\r\n"
NO_EHLO: Final = b"451 4.3.0 Temporary lookup failure\r\n"
INTERNAL_ERROR: Final = b"451 4.3.0 Error: internal error\r\n"

# helo_name goes into logs and headers
_NEUTER: Final = {ord(char): "?" for char in '<>()\\";:@'} | CONTROL


class Driver(Protocol):
    """What owns the connection: smtpd/protocol.py."""

    def resume(self, reply: bytes) -> None:
        """The answer that a hook owed."""

    def greet(self, reply: bytes) -> None:
        """The greeting that named() owed."""


class Session:
    """The handler of one SmtpServer. It is also the Subject of checks."""

    __slots__ = (
        "_answer",
        "_chunked",
        "_in_mynetworks",
        "_over",
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
        self._in_mynetworks: bool | None = None  # None: ask each time, for tables
        self._over = False
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
    def in_mynetworks(self) -> bool:
        """The client is one of ours. Raises what tables raise."""
        known = self._in_mynetworks
        if known is None:
            return self.service.settings.mynetworks.match_host(self.client_name, self.client_address)
        return known

    @property
    def recipient_count(self) -> int:
        """Accepted so far."""
        return len(self.recipients)

    @property
    def waits_for_queue(self) -> bool:
        """A message was handed over, and its answer is not there yet."""
        return self._waits

    # -- the beginning and the end

    def named(self, name: str) -> bytes | None:
        """The client's name is known (or "unknown"): the session begins. Returns the greeting, or None: it comes."""
        service, settings, address = self.service, self.service.settings, self.client_address
        self.client_name = name
        self.client = f"{name}[{address}]"
        if settings.client_port_logging:
            self.client += f":{self.client_port}"
        service.write(lines.connect(self.client))
        if not settings.mynetworks.has_tables:
            self._in_mynetworks = settings.mynetworks.match_host(name, address)
        if settings.counts_clients:
            self.counter = service.counter(address)
        try:
            rights = self._rights()
        except Pending:
            service.ask(self._rights, self._greet_known, self.driver.greet)
            return None
        return self._greet_known(rights)

    def _rights(self) -> tuple[bool, bool]:
        return rights(self.service.settings, self.client_name, self.client_address)

    def _greet_known(self, known: tuple[bool, bool]) -> bytes | None:
        self.exempt, bare = known
        if bare:
            self.machine.bare_lf = BARE_LF_ALLOWED
        if self.counter is not None and not self.exempt:
            refusal = self._too_many(self.counter)
            if refusal is not None:
                return refusal
        check = self.service.checks.connect
        if check is None:
            return self.service.settings.banner
        try:
            return self._greet_checked(check(self))
        except Pending:
            self.service.ask(lambda: check(self), self._greet_checked, self.driver.greet)
            return None

    def _greet_checked(self, text: str | None) -> bytes:
        return self.service.settings.banner if text is None else self._refuse("CONNECT", text)

    def _too_many(self, counter: ClientCounter) -> bytes | None:
        settings = self.service.settings
        if 0 < settings.connection_count_limit < counter.count:
            what, value = "Connection concurrency", counter.count
        elif 0 < settings.connection_rate_limit < counter.connection_rate:
            what, value = "Connection rate", counter.connection_rate
        else:
            return None
        self._warn_limit(what, value)
        return f"421 4.7.0 {settings.myhostname} Error: too many connections from {self.client_address}\r\n".encode()

    def _later(self, check: Check, then: Callable[[str | None], bytes | None]) -> bytes | None:
        """A check came to a remote table: its hook answers when that has."""
        self.service.ask(lambda: check(self), lambda text: None if self._over else then(text), self.driver.resume)
        return None

    def _warn_limit(self, what: str, value: int) -> None:
        self.service.warn(lines.limit_exceeded(what, value, self.client, self.service.settings.service_name))

    def ended(self, reason: str) -> None:
        """The connection is gone. reason: LOST_CONNECTION, TIMEOUT, TOO_MANY_ERRORS, or "" for a good end."""
        service, self._over = self.service, True
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
        before, self.helo_name = self.helo_name, name.translate(CONTROL)
        check = self.service.checks.helo
        if check is None:
            return self._helo_checked(None, before, name, esmtp)
        try:
            return self._helo_checked(check(self), before, name, esmtp)
        except Pending:
            return self._later(check, lambda text: self._helo_checked(text, before, name, esmtp))

    def _helo_checked(self, text: str | None, before: str | None, name: str, esmtp: bool) -> bytes | None:
        if text is not None:
            reply = self._refuse("EHLO" if esmtp else "HELO", text)
            self.helo_name = before
            return reply
        self.helo_name = name.translate(_NEUTER)
        self.origin = None
        settings = self.service.settings
        if not esmtp:
            return settings.helo
        if settings.ehlo_maps is None:
            return self._offer(settings.ehlo)
        try:
            return self._offer(own_ehlo(settings, self.client_address))
        except Pending:
            self.service.ask(lambda: own_ehlo(settings, self.client_address), self._offer, self.driver.resume)
            return None

    def _offer(self, ehlo: Ehlo | None) -> bytes:
        if ehlo is None:
            return NO_EHLO
        if ehlo.discarded:
            self.service.write(f"discarding EHLO keywords: {ehlo.discarded}")
        return ehlo.tls if self.machine.secure else ehlo.plain

    def mail(self, sender: str, size: int, body: str, smtputf8: bool, dsn_ret: int, dsn_envid: str) -> bytes | None:
        """MAIL FROM."""
        service, settings = self.service, self.service.settings
        if settings.message_rate_limit and self.counter is not None and not self.exempt:
            rate = self.counter.message()
            if rate > settings.message_rate_limit:
                self._warn_limit("Message delivery request rate", rate)
                return b"450 4.7.1 Error: too much mail from %b\r\n" % self.client_address.encode()
        self.sender = sender
        check = service.checks.mail
        text = None
        if check is not None:
            try:
                text = check(self)
            except Pending:
                return self._later(
                    check, lambda text: self._mail_checked(text, size, body, smtputf8, dsn_ret, dsn_envid)
                )
        return self._mail_checked(text, size, body, smtputf8, dsn_ret, dsn_envid)

    def _mail_checked(
        self, text: str | None, size: int, body: str, smtputf8: bool, dsn_ret: int, dsn_envid: str
    ) -> bytes:
        service, settings = self.service, self.service.settings
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
            try:
                text = check(self)
            except Pending:
                return self._later(check, lambda text: self._rcpt_checked(text, first, address, dsn_orcpt, dsn_notify))
            return self._rcpt_checked(text, first, address, dsn_orcpt, dsn_notify)
        return self._rcpt_checked(None, first, address, dsn_orcpt, dsn_notify)

    def _rcpt_checked(
        self, text: str | None, first: str | None, address: str, dsn_orcpt: str, dsn_notify: int
    ) -> bytes:
        if text is not None:
            reply = self._refuse("RCPT", text)
            self.recipient = first
            return reply
        service = self.service
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
        if check is None:
            return GO_AHEAD
        try:
            return self._data_checked(check(self))
        except Pending:
            return self._later(check, self._data_checked)

    def _data_checked(self, text: str | None) -> bytes:
        return GO_AHEAD if text is None else self._refuse(self.machine.where()[0], text)

    def end_of_data(self, content: list[bytes], size: int, records: int, flags: int, chunked: int) -> bytes | None:
        """The whole content is there; the answer comes from the queue."""
        check = self.service.checks.end_of_data
        text = None
        if check is not None:
            try:
                text = check(self)
            except Pending:
                return self._later(check, lambda text: self._end_checked(text, content, size, records, flags, chunked))
        return self._end_checked(text, content, size, records, flags, chunked)

    def _end_checked(
        self, text: str | None, content: list[bytes], size: int, records: int, flags: int, chunked: int
    ) -> bytes | None:
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
        first = self.recipient
        if check is None:
            return self._vrfy_checked(None, first, said)
        self.recipient = address
        try:
            return self._vrfy_checked(check(self), first, said)
        except Pending:
            return self._later(check, lambda text: self._vrfy_checked(text, first, said))

    def _vrfy_checked(self, text: str | None, first: str | None, said: bytes) -> bytes:
        reply = b"252 2.0.0 %b\r\n" % said if text is None else self._refuse("VRFY", text)
        self.recipient = first
        return reply

    def etrn(self, domain: str) -> bytes | None:
        """ETRN: there is no fast flush service yet, so that no domain has it."""
        check = self.service.checks.etrn
        if check is None:
            return self._etrn_checked(None, domain)
        try:
            return self._etrn_checked(check(self), domain)
        except Pending:
            return self._later(check, lambda text: self._etrn_checked(text, domain))

    def _etrn_checked(self, text: str | None, domain: str) -> bytes:
        if text is not None:
            return self._refuse("ETRN", text)
        self.service.warn(f"reject: ETRN {domain[:100]}... from {self.client}")
        return f"459 <{domain}>: service unavailable\r\n".encode()

    def starttls(self) -> bytes | None:
        """STARTTLS."""
        service, settings = self.service, self.service.settings
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
        log_notice(self, kind, text)

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
        self.log_refusal(where, text)
        return text.encode("utf-8", "surrogateescape") + b"\r\n"

    def log_refusal(self, where: str, text: str) -> None:
        """A command that is refused with this reply."""
        # of several recipients none is more to blame than the others
        recipient = self.recipient if where in ("RCPT", "VRFY") or len(self.recipients) < 2 else None
        self.service.write(
            lines.reject(
                self.queue_id, where, self.client, text, self.sender, recipient, self._protocol(), self.helo_name
            )
        )
