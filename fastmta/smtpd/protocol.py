"""The few lines between the event loop and a session: reads go into the worker's one buffer, from there to the machine.

Made by SmtpdService.protocol for each accepted connection; drives _ext.smtpserver.SmtpServer with smtpd.session.Session
as its handler. All errors of a connection end here: it is closed and logged.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Final, cast

from fastmta._ext.smtpserver import CLOSE, SLEEP, TLS
from fastmta._ext.smtpsession import discard_input, peek_input
from fastmta.observe import lines
from fastmta.smtpd.session import Session

if TYPE_CHECKING:
    from fastmta.smtpd.service import SmtpdService

# input kept while an answer is awaited, before the client has to wait as well
BACKLOG: Final = 65536


class SmtpdProtocol(asyncio.BufferedProtocol):
    """One connection."""

    __slots__ = (
        "_asleep",
        "_credit",
        "_ending",
        "_full",
        "_reason",
        "_stuck",
        "active",
        "eof",
        "get_buffer",
        "machine",
        "service",
        "session",
        "timeout",
        "transport",
    )

    def __init__(self, service: SmtpdService) -> None:
        """It begins with connection_made."""
        self.service = service
        self.get_buffer = service.read_buffer.get_buffer  # type: ignore[method-assign]
        self.timeout = service.settings.timeout
        self.active = 0
        self.eof = False
        self._asleep = False
        self._credit = 0.0
        self._stuck = self._full = False
        self._ending = False
        self._reason = lines.LOST_CONNECTION

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Find out who it is, and greet."""
        self.transport = transport = cast(asyncio.Transport, transport)
        service = self.service
        peer = transport.get_extra_info("peername") or ("unknown", 0)
        address = peer[0].partition("%")[0]
        if address.startswith("::ffff:") and "." in address:
            address = address[7:]
        self.session = Session(service, self, address, peer[1])
        self.machine = self.session.machine
        service.sessions.add(self)
        service.wheel.add(self)
        if not service.settings.peername_lookup:
            self._greet("unknown", "")
            return
        known = service.names.cached(address)
        if known is None:
            service.start_lookup(self, address)
        else:
            self._greet(known.name, known.warning)

    def _greet(self, name: str, warning: str) -> None:
        """The name is known."""
        if warning:
            self.service.warn(warning)
        greeting = self.session.named(name)
        if greeting is not None:
            self.greet(greeting)

    def greet(self, greeting: bytes) -> None:
        """The session begins with this."""
        if self.transport.is_closing():
            return
        early = b""
        if not self.machine.backlog:
            early = peek_input(self.transport.get_extra_info("socket").fileno())
        self._after(self.machine.greet(greeting, early))

    def looked_up(self, name: str, warning: str) -> None:
        """The lookup of the client's name is done."""
        if not self.transport.is_closing():
            self._greet(name, warning)

    def buffer_updated(self, nbytes: int) -> None:
        """Input is in the shared buffer."""
        service = self.service
        output = self.machine.feed(service.read_buffer, nbytes)
        if output is not None or not service.settings.per_request_deadline:
            self.active = service.wheel.now
            self._credit = 0.0
        else:
            self._credit += nbytes / service.settings.min_data_rate
            earned = int(self._credit)
            self.active = min(service.wheel.now, self.active + earned)
            self._credit -= earned
        if output is not None:
            self.transport.write(output)
        if self.machine.attention:
            self._attend()
        elif self.machine.backlog > BACKLOG:
            self._hold_back()

    def _after(self, output: bytes | None) -> None:
        if output is not None:
            self.active = self.service.wheel.now
            self.transport.write(output)
        machine = self.machine
        if machine.attention:
            self._attend()
        elif machine.awaited:
            if machine.backlog > BACKLOG:
                self._hold_back()
        elif self.eof:
            self.transport.close()
        elif self._ending:
            self.shut_down()
        else:
            self._read_on()

    def _hold_back(self) -> None:
        if not self._stuck:
            self._stuck = True
            self.transport.pause_reading()

    def _read_on(self) -> None:
        """Read again, unless the client does not read either."""
        if self._stuck and not self._full and not self.machine.awaited:
            self._stuck = False
            self.transport.resume_reading()

    def _attend(self) -> None:
        attention = self.machine.attention
        if attention & SLEEP:
            if not self._asleep:
                self._asleep = True
                self._hold_back()
                self.service.loop.call_later(self.service.settings.limits.error_sleep_time, self._wake)
        elif attention & CLOSE:
            if self.machine.where()[0] != "QUIT" and not self.machine.secure:
                discard_input(self.transport.get_extra_info("socket").fileno())
            self._close(lines.TOO_MANY_ERRORS if self.machine.too_many_errors else "")
        elif attention & TLS:
            self.service.start_tls(self)

    def _wake(self) -> None:
        self._asleep = False
        if not self.transport.is_closing():
            self._after(self.machine.wake())

    def resume(self, reply: bytes) -> None:
        """The answer that a hook owed."""
        if not self.transport.is_closing():
            self._after(self.machine.resume(reply))

    def _close(self, reason: str) -> None:
        self._reason = reason
        self.transport.close()

    def timed_out(self) -> None:
        """From the wheel: the client was silent for too long."""
        machine = self.machine
        if self.transport.is_closing():
            self.transport.abort()
        elif self.transport.get_write_buffer_size():
            self._reason = lines.TIMEOUT
            self.transport.abort()
        elif machine.attention & TLS:
            self._close(lines.LOST_CONNECTION)
        elif not machine.awaited:
            self._say_goodbye(b"421 4.4.2 %b Error: timeout exceeded\r\n", lines.TIMEOUT)

    def shut_down(self) -> None:
        """The server stops. What is being written to the queue gets its answer first."""
        self._ending = True
        if not self.transport.is_closing() and not self.session.waits_for_queue:
            self._say_goodbye(b"421 4.3.2 %b Service shutting down\r\n", "")

    def _say_goodbye(self, reply: bytes, reason: str) -> None:
        output = self.machine.hang_up(reply % self.service.settings.myhostname.encode())
        if output is not None:
            self.transport.write(output)
        self._close(reason)

    def tls_started(self, transport: asyncio.Transport) -> None:
        """The handshake is done; transport is the one to talk to from now on."""
        self.transport = transport
        self.timeout = self.service.settings.timeout
        self.active = self.service.wheel.now
        tls = transport.get_extra_info("ssl_object")
        self.session.tls_started(_tls_comment(tls))

    def tls_failed(self, reason: str) -> None:
        """There was no handshake."""
        self.service.write(f"SSL_accept error from {self.session.client}: {reason}")
        self.transport.abort()

    def eof_received(self) -> bool:
        """The client says no more; it may still want its answers."""
        if self.machine.awaited and not self.machine.secure and not self.machine.attention & (CLOSE | TLS):
            self.eof = True
            return True
        return False

    def pause_writing(self) -> None:
        """The client does not read its answers: read no more of it."""
        self._full = True
        self._hold_back()

    def resume_writing(self) -> None:
        """It does again."""
        self._full = False
        self._read_on()

    def connection_lost(self, exc: Exception | None) -> None:
        """The end."""
        service = self.service
        service.wheel.remove(self)
        service.sessions.discard(self)
        if self.machine.greeted:
            self.session.ended(self._reason)
        self.machine.hang_up()
        service.session_ended()


def _tls_comment(tls: ssl.SSLObject) -> str:
    """For Received:, what smtpd_tls_received_header adds."""
    name, _, bits = tls.cipher() or ("unknown", "", 0)
    return f"using {tls.version()} with cipher {name} ({bits}/{bits} bits)\n(No client certificate requested)"
