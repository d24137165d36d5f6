"""aiosmtpd as a next hop, over SMTP and LMTP: it keeps what it gets.

Recipients named no* are refused for good, later* until `open` is set. With LMTP, full* are refused after the content.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from aiosmtpd.controller import Controller, UnixSocketController
from aiosmtpd.lmtp import LMTP
from aiosmtpd.smtp import SMTP

from tests.peers.certificate import Certificate


class Mail(msgspec.Struct):
    """One transaction as it was received. The content is without dot stuffing."""

    sender: str
    recipients: list[str]
    mail_options: list[str]
    content: bytes
    tls: bool


class AiosmtpdHop:
    """Listens on address:port, or on a UNIX socket."""

    def __init__(
        self,
        address: str = "127.0.0.1",
        port: int = 0,
        *,
        path: Path | None = None,
        lmtp: bool = False,
        certificate: Certificate | None = None,
    ) -> None:
        self.address = address
        self.port = port
        self.path = path
        self.lmtp = lmtp
        self.certificate = certificate
        self.open = False
        self.mails: list[Mail] = []
        self._came = threading.Condition()
        self._controller: Any = None
        self._sessions: list[Any] = []

    def start(self) -> None:
        """Returns when the socket answers."""
        hop = self
        tls = None
        if self.certificate:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(self.certificate.cert, self.certificate.key)

        class Server(LMTP if self.lmtp else SMTP):  # type: ignore[misc]
            line_length_limit = 1 << 20

        def factory(self: Any) -> Any:
            server = Server(
                hop, data_size_limit=64 << 20, enable_SMTPUTF8=True, hostname="aiosmtpd.test", tls_context=tls
            )
            hop._sessions.append(server)
            return server

        kind: Any = UnixSocketController if self.path else Controller
        where = {"unix_socket": str(self.path)} if self.path else {"hostname": self.address, "port": self.port}
        self._controller = type("Factory", (kind,), {"factory": factory})(self, **where)
        self._controller.start()
        if self.path:
            self.path.chmod(0o666)

    def stop(self) -> None:
        """Its connections are closed too."""
        if self._controller is not None:
            asyncio.run_coroutine_threadsafe(self._hang_up(), self._controller.loop).result(10)
            self._controller.stop()
            self._controller = None

    async def _hang_up(self) -> None:
        self._controller.server.close()
        for session in self._sessions:
            if session.transport is not None:
                session.transport.abort()
        while any(session.transport is not None for session in self._sessions):
            await asyncio.sleep(0)
        self._sessions.clear()
        for _ in range(5):  # what the transports still have to do
            await asyncio.sleep(0)

    def close(self) -> None:
        self.stop()

    def let_all_in(self) -> None:
        self.open = True

    async def handle_RCPT(  # names of aiosmtpd
        self, server: Any, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        if address.startswith("no"):
            return f"550 5.1.1 <{address}>: no such user"
        if address.startswith("later") and not self.open:
            return f"450 4.2.0 <{address}>: come back later"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 Ok"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        taken = [one for one in envelope.rcpt_tos if not (self.lmtp and one.startswith("full"))]
        mail = Mail(
            envelope.mail_from, taken, list(envelope.mail_options), envelope.original_content, session.ssl is not None
        )
        with self._came:
            if taken:
                self.mails.append(mail)
            self._came.notify_all()
        if not self.lmtp:
            return "250 2.0.0 Ok: kept"
        return "\r\n".join(
            f"250 2.0.0 <{one}> kept" if one in taken else f"552 5.2.2 <{one}> mailbox full"
            for one in envelope.rcpt_tos
        )

    def wait(self, wanted: Callable[[Mail], bool], count: int = 1, seconds: float = 30) -> list[Mail]:
        """The mails that are wanted, when there are so many."""
        end = time.monotonic() + seconds
        with self._came:
            while len(found := [mail for mail in self.mails if wanted(mail)]) < count:
                left = end - time.monotonic()
                assert left > 0, f"{len(found)} of {count} came; there are {[mail.recipients for mail in self.mails]}"
                self._came.wait(left)
        return found

    def stored(self, token: bytes, count: int = 1) -> list[bytes]:
        """The contents that have a token in them, a copy for each recipient."""

        def copies() -> list[bytes]:
            return [mail.content for mail in self.mails if token in mail.content for _ in mail.recipients]

        with self._came:
            assert self._came.wait_for(lambda: len(copies()) >= count, 30), f"{len(copies())} of {count} x {token!r}"
            return copies()

    def __enter__(self) -> AiosmtpdHop:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
