"""The way of a message into the queue: Received: in front, the header looked at, size counted, envelope made, stored.

smtpd calls Intake.new_queue_id at the first accepted recipient and Intake.accept after the end of the data; bounce/
calls accept_own for notifications. Next comes queue.Store.append, and when that has the message on disk, the client's
250 and qmgr.Active.admit. Content is changed only where Postfix's cleanup changes it (see cleanup.repair). Nothing is
raised into the caller: what goes wrong becomes a 4xx or 5xx reply. RFC 5321 sections 4.4 and 6.3; cleanup(8), smtpd(8).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol, Self

import msgspec

from fastmta._ext.headers import HeaderScan
from fastmta._ext.loglines import is_complete, message_id
from fastmta.address.rewrite import RewriteSettings, canonical_recipient, canonical_sender
from fastmta.cleanup.received import ReceivedMaker
from fastmta.cleanup.repair import (
    SEEN_ALL,
    SEEN_MESSAGE_ID,
    SEEN_RESENT,
    SEEN_RESENT_MESSAGE_ID,
    missing_fields,
    new_message_id,
    repair,
)
from fastmta.config import Config
from fastmta.model.envelope import KIND_MAIL, Envelope, Origin, Recipient
from fastmta.model.message import Message

TOO_MANY_HOPS: Final = b"554 5.4.0 Error: too many hops\r\n"
TOO_BIG: Final = b"552 5.3.4 Error: message file too big\r\n"
QUEUE_FULL: Final = b"452 4.3.1 Insufficient system storage\r\n"
WRITE_ERROR: Final = b"451 4.3.0 Error: queue file write error\r\n"

Done = Callable[[bytes], None]


class Transaction(Protocol):
    """What smtpd hands over: everything about one message."""

    queue_id: str
    arrival: float  # Unix time of MAIL FROM
    sender: str
    recipients: list[Recipient]
    content: list[bytes]  # wire form; may be changed in place
    origin: Origin
    body: str
    smtputf8: bool
    dsn_envid: str
    dsn_ret: int


class Store(Protocol):
    """The part of queue.store.Store that the intake needs."""

    def new_queue_id(self, now: float) -> str:
        """A new one."""
        ...

    def append(self, message: Message, done: Callable[[BaseException | None], None]) -> None:
        """Make it durable."""
        ...


class LineLog(Protocol):
    """The part of observe.log.Log that the intake needs."""

    def write(self, service: str, line: str) -> None:
        """Log a line."""
        ...

    def warning(self, service: str, text: str) -> None:
        """Log a warning."""
        ...

    def panic(self, service: str, text: str, error: BaseException | None = None) -> None:
        """Log a bug of ours, with its traceback."""
        ...


class IntakeSettings(msgspec.Struct, frozen=True):
    """From main.cf. message_size_limit 0: none."""

    myhostname: str
    mail_name: str = "Postfix"
    hopcount_limit: int = 50
    message_size_limit: int = 10240000
    line_length_limit: int = 2048
    always_add_missing_headers: bool = False
    rewrite: RewriteSettings | None = None  # None: addresses come complete

    @classmethod
    def from_config(cls, cfg: Config) -> Self:
        """Read it, once, at load."""
        return cls(
            myhostname=cfg.get_str("myhostname"),
            mail_name=cfg.get_str("mail_name"),
            hopcount_limit=cfg.get_int("hopcount_limit"),
            message_size_limit=cfg.get_int("message_size_limit"),
            line_length_limit=cfg.get_int("line_length_limit"),
            always_add_missing_headers=cfg.get_bool("always_add_missing_headers"),
            rewrite=RewriteSettings.from_config(cfg),
        )


class Intake:
    """Takes messages into one worker's queue."""

    def __init__(
        self,
        settings: IntakeSettings,
        store: Store,
        log: LineLog,
        admit: Callable[[Message], None],
        is_full: Callable[[BaseException], bool],
        rewrites_for: Callable[[str], bool] = lambda address: False,
    ) -> None:
        """Wire it up.

        admit gets each message once it is durable; is_full tells QueueFull from other failures; rewrites_for says
        whether local_header_rewrite_clients holds for a client address, asked only where a header is incomplete.
        """
        self._settings = settings
        self._store = store
        self._log = log
        self._admit = admit
        self._is_full = is_full
        self._rewrites_for = rewrites_for
        self._received = ReceivedMaker(settings.myhostname, settings.mail_name)
        self._scan = HeaderScan()
        self._line_limit = settings.line_length_limit
        self._hop_limit = settings.hopcount_limit
        self._size_limit = settings.message_size_limit
        self._always_add = settings.always_add_missing_headers
        self._rewrite = settings.rewrite

    def new_queue_id(self, now: float) -> str:
        """A queue id that no message had before."""
        return self._store.new_queue_id(now)

    def accept(self, transaction: Transaction, done: Done) -> None:
        """Take a message of a client; done gets the reply to its end of data: 250 when it is on disk, else a 4xx or
        5xx.
        """
        queue_id = transaction.queue_id
        content = transaction.content
        origin = transaction.origin
        recipients = transaction.recipients
        scan = self._scan
        scan.scan(content, self._line_limit)
        seen = scan.seen
        tries = 0
        while scan.repairs and tries < 3:
            repair(content, scan)
            scan.scan(content, self._line_limit)
            seen |= scan.seen  # a Resent-Bcc that was taken out still makes it a resent message
            tries += 1
        # The Received: header that goes in front counts as well
        if scan.hops + 1 >= self._hop_limit:
            self._log.warning("cleanup", f"{queue_id}: message rejected: hopcount exceeded")
            done(TOO_MANY_HOPS)
            return
        if seen & SEEN_ALL != SEEN_ALL or seen & SEEN_RESENT:
            self._complete(transaction, scan, seen)
        elif scan.more_ids is None and scan.message_id is not None:
            self._log.write("cleanup", message_id(queue_id, scan.message_id))
        else:
            self._log_ids(queue_id, scan)
        single = recipients[0].address if len(recipients) == 1 else ""
        received, size = self._received.make(origin, transaction.smtputf8, queue_id, single, transaction.arrival)
        size += scan.size
        if size > self._size_limit > 0:
            self._log.warning("cleanup", f"{queue_id}: queue file size limit exceeded")
            done(TOO_BIG)
            return
        content.insert(0, received)
        sender = transaction.sender
        rewrite = self._rewrite
        if rewrite is not None:
            if sender and not is_complete(sender):
                sender = canonical_sender(sender, rewrite)
            for recipient in recipients:
                if not is_complete(recipient.address):
                    recipients = [_complete_recipient(recipient, rewrite) for recipient in recipients]
                    break
        if len(recipients) > 1:
            recipients = _without_duplicates(recipients)
        message = Message(
            Envelope(
                queue_id,
                transaction.arrival,
                sender,
                tuple(recipients),
                size,
                scan.flags,
                transaction.body,
                transaction.smtputf8,
                transaction.dsn_envid,
                transaction.dsn_ret,
                origin,
                KIND_MAIL,
            ),
            content,
        )

        def appended(error: BaseException | None) -> None:
            if error is None:
                done(b"250 2.0.0 Ok: queued as %b\r\n" % queue_id.encode())
                self._admit(message)
            else:
                self._log.warning("cleanup", f"{queue_id}: write queue file: {error}")
                done(QUEUE_FULL if self._is_full(error) else WRITE_ERROR)

        try:
            self._store.append(message, appended)
        except Exception as error:  # a bug of ours: the client shall try again
            self._log.panic("cleanup", f"{queue_id}: {error!r}", error)
            done(WRITE_ERROR)

    def accept_own(
        self,
        content: list[bytes],
        sender: str,
        recipients: Sequence[Recipient],
        kind: int,
        now: float,
        done: Callable[[BaseException | None], None],
        smtputf8: bool = False,
        queue_id: str = "",
    ) -> str:
        """Take a notification of ours, complete with its header (Received: and Message-Id included). Returns its queue
        id.

        done(None) when it is on disk; it is admitted right after.
        """
        queue_id = queue_id or self._store.new_queue_id(now)
        scan = self._scan
        scan.scan(content, self._line_limit)
        self._log_ids(queue_id, scan)
        message = Message(
            Envelope(
                queue_id,
                now,
                sender,
                tuple(recipients),
                scan.size,
                scan.flags,
                "8BITMIME" if scan.flags & 1 else "",
                smtputf8,
                kind=kind,
            ),
            content,
        )

        def appended(error: BaseException | None) -> None:
            done(error)
            if error is None:
                self._admit(message)

        self._store.append(message, appended)
        return queue_id

    def _complete(self, transaction: Transaction, scan: HeaderScan, seen: int) -> None:
        """Log what identifies the message, and add what a message of our own clients must have."""
        queue_id = transaction.queue_id
        self._log_ids(queue_id, scan)
        adds = self._always_add or self._rewrites_for(transaction.origin.client_address)
        resent = bool(seen & SEEN_RESENT)
        has_id = seen & (SEEN_RESENT_MESSAGE_ID if resent else SEEN_MESSAGE_ID)
        if adds and not has_id:
            made = new_message_id(queue_id, self._settings.myhostname, transaction.arrival)
            self._log.write("cleanup", f"{queue_id}: {'resent-' if resent else ''}message-id={made}")
        if not seen & SEEN_MESSAGE_ID and (resent or not adds):
            self._log.write("cleanup", f"{queue_id}: message-id=<>")
        if not adds:
            return
        date = self._received.date(transaction.arrival)
        fields = missing_fields(
            seen, transaction.sender, queue_id, self._settings.myhostname, transaction.arrival, date
        )
        if not fields:
            return
        content = transaction.content
        first = content[0] if content else b""
        content[:1] = [first[: scan.header_end] + fields + first[scan.header_end :]]
        scan.scan(content, self._line_limit)

    def _log_ids(self, queue_id: str, scan: HeaderScan) -> None:
        ids = scan.more_ids
        if ids is None:
            if scan.message_id is not None:
                ids = [(False, scan.message_id)]
            elif scan.resent_message_id is not None:
                ids = [(True, scan.resent_message_id)]
            else:
                return
        for resent, value in ids:
            self._log.write("cleanup", f"{queue_id}: {'resent-' if resent else ''}message-id={value}")


def _complete_recipient(recipient: Recipient, rewrite: RewriteSettings) -> Recipient:
    address = canonical_recipient(recipient.address, rewrite)
    if address == recipient.address:
        return recipient
    return Recipient(address, recipient.orig_to or recipient.address, recipient.dsn_orcpt, recipient.dsn_notify)


def _without_duplicates(recipients: list[Recipient]) -> list[Recipient]:
    """A recipient that was given twice gets one copy, as with Postfix; upper and lower case are the same."""
    seen: dict[tuple[str, str, int], Recipient] = {}
    for recipient in recipients:
        key = (recipient.address.lower(), recipient.orig_to.lower(), recipient.dsn_notify)
        seen.setdefault(key, recipient)
    return recipients if len(seen) == len(recipients) else list(seen.values())
