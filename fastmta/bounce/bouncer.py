"""Tells senders what became of their mail: non-delivery, delay and delivery status notifications.

qmgr/ calls bounce when recipients failed for good, delay_notice when delay_warning_time is over, success when a sender
asked for that. The notification goes through cleanup.Intake into the queue like any message; done(None) comes when it
is durable, or when none is to be sent; done(error) when it could not be kept, and then the original must stay. The null
sender gets nothing: what fails on its way there is told to the postmaster where notify_classes says so, and what fails
on its way to the postmaster is discarded. Raises nothing. RFC 3461, RFC 3464; bounce(8), notify_classes in postconf(5).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol, Self

import msgspec

from fastmta.address.rewrite import RewriteSettings, canonical
from fastmta.bounce.report import Fate, ReportSettings, compose, too_big
from fastmta.bounce.templates import DELAY, FAILURE, SUCCESS, Template
from fastmta.config import Config
from fastmta.model.envelope import (
    CONTENT_HEADER_8BIT,
    KIND_BOUNCE,
    KIND_DOUBLE_BOUNCE,
    NOTIFY_DELAY,
    NOTIFY_FAILURE,
    NOTIFY_SUCCESS,
    RET_FULL,
    RET_HDRS,
    Recipient,
)
from fastmta.model.message import Message
from fastmta.model.outcome import Bounced, Deferred, Sent
from fastmta.observe.lines import notification

Done = Callable[[BaseException | None], None]

# RFC 3461 section 4.1: what a client that says nothing about it wants to know
_BY_DEFAULT: Final = NOTIFY_FAILURE | NOTIFY_DELAY


class BounceSettings(msgspec.Struct, frozen=True):
    """From main.cf."""

    report: ReportSettings
    rewrite: RewriteSettings
    notify_classes: frozenset[str] = frozenset(("resource", "software"))
    double_bounce_sender: str = "double-bounce"
    bounce_notice_recipient: str = "postmaster"
    second_bounce_notice_recipient: str = "postmaster"
    delay_notice_recipient: str = "postmaster"

    @classmethod
    def from_config(cls, cfg: Config) -> Self:
        """Read it, once, at load."""
        rewrite = RewriteSettings.from_config(cfg)
        report = ReportSettings(
            myhostname=cfg.get_str("myhostname"),
            mailer_daemon=canonical("MAILER-DAEMON", rewrite),
            mail_name=cfg.get_str("mail_name"),
            bounce_size_limit=cfg.get_int("bounce_size_limit"),
            line_length_limit=cfg.get_int("line_length_limit"),
            delay_warning_time=cfg.get_time("delay_warning_time"),
            maximal_queue_lifetime=cfg.get_time("maximal_queue_lifetime"),
        )
        return cls(
            report=report,
            rewrite=rewrite,
            notify_classes=frozenset(cfg.get_list("notify_classes")),
            double_bounce_sender=cfg.get_str("double_bounce_sender"),
            bounce_notice_recipient=cfg.get_str("bounce_notice_recipient"),
            second_bounce_notice_recipient=cfg.get_str("2bounce_notice_recipient"),
            delay_notice_recipient=cfg.get_str("delay_notice_recipient"),
        )


class Intake(Protocol):
    """The part of cleanup.intake.Intake that is needed here."""

    def new_queue_id(self, now: float) -> str:
        """A new one."""
        ...

    def accept_own(
        self,
        content: list[bytes],
        sender: str,
        recipients: Sequence[Recipient],
        kind: int,
        now: float,
        done: Done,
        smtputf8: bool = False,
        queue_id: str = "",
    ) -> str:
        """Take a message of ours."""
        ...


class Contents(Protocol):
    """The part of queue.store.Store that is needed here."""

    def content(self, message: Message) -> list[bytes]:
        """A message's content; raises what it likes for a damaged one."""
        ...


class LineLog(Protocol):
    """The part of observe.log.Log that is needed here."""

    def write(self, service: str, line: str) -> None:
        """Log a line."""
        ...

    def warning(self, service: str, text: str) -> None:
        """Log a warning."""
        ...


class _Notice(msgspec.Struct):
    """One notification to be made."""

    template: Template
    message: Message
    fates: list[Fate]
    sender: str
    to: Recipient
    kind: int
    postmaster: bool
    headers_only: bool


class Bouncer:
    """Makes notifications for one worker's queue."""

    def __init__(
        self,
        settings: BounceSettings,
        intake: Intake,
        store: Contents,
        log: LineLog,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """store reads the contents of messages: queue.Store."""
        self._settings = settings
        self._intake = intake
        self._store = store
        self._log = log
        self._clock = clock
        self._double_bounce = f"{settings.double_bounce_sender}@{settings.report.myhostname}"

    def bounce(self, message: Message, failed: Sequence[tuple[int, Bounced | Deferred]], done: Done) -> None:
        """Tell the sender that recipients (by index) failed for good."""
        fates = _fates(message, failed, "failed")
        classes = self._settings.notify_classes
        sender = message.envelope.sender
        if self._is_double_bounce(message):
            self._log.warning("bounce", f"{message.queue_id}: undeliverable postmaster notification discarded")
            done(None)
        elif not sender:
            if "bounce" in classes or "2bounce" in classes:
                recipient = self._settings.second_bounce_notice_recipient
                self._to_postmaster(FAILURE, message, fates, recipient, self._hides_body(message), done)
            else:
                done(None)
        else:
            copy = self._settings.bounce_notice_recipient if "bounce" in classes else ""
            told = _wanted(fates, NOTIFY_FAILURE)
            self._to_sender(FAILURE, message, told, self._hides_body(message), fates, copy, done)

    def delay_notice(self, message: Message, delayed: Sequence[tuple[int, Deferred]], done: Done) -> None:
        """Tell the sender that recipients (by index) are not reached yet."""
        fates = _fates(message, delayed, "delayed")
        copy = self._settings.delay_notice_recipient if "delay" in self._settings.notify_classes else ""
        if self._is_double_bounce(message):
            done(None)
        elif not message.envelope.sender:
            if copy:
                self._to_postmaster(DELAY, message, fates, copy, True, done)
            else:
                done(None)
        else:
            self._to_sender(DELAY, message, _wanted(fates, NOTIFY_DELAY), True, fates, copy, done)

    def success(self, message: Message, sent: Sequence[tuple[int, Sent]], relay: str, action: str, done: Done) -> None:
        """Tell the sender of success, for recipients that asked for it.

        action: "relayed" where the next hop does not know DSN, "delivered" where we are the last. Not to be called for
        what was handed to a next hop that offers DSN: that one reports. relay: as in the log.
        """
        fates = [
            Fate(
                message.envelope.recipients[index],
                action,
                result.dsn,
                f"delivery via {relay}: {result.text}",
                result.remote_mta,
                result.reply or (result.text if action == "relayed" else ""),
            )
            for index, result in sent
        ]
        if not message.envelope.sender or self._is_double_bounce(message):
            done(None)
        else:
            told = [fate for fate in fates if fate.recipient.dsn_notify & NOTIFY_SUCCESS]
            headers_only = message.envelope.dsn_ret != RET_FULL
            self._to_sender(SUCCESS, message, told, headers_only, fates, "", done)

    def _is_double_bounce(self, message: Message) -> bool:
        if message.envelope.kind == KIND_DOUBLE_BOUNCE:
            return True
        return message.envelope.sender.lower() == self._double_bounce.lower()

    def _hides_body(self, message: Message) -> bool:
        return message.envelope.dsn_ret == RET_HDRS or too_big(self._settings.report, message.envelope)

    def _to_sender(
        self,
        template: Template,
        message: Message,
        told: list[Fate],
        headers_only: bool,
        fates: list[Fate],
        copy: str,
        done: Done,
    ) -> None:
        """Notify the sender of `told`, then the postmaster (when copy names one) of all fates, on which nothing
        depends.
        """
        queue_id = message.queue_id
        sender = message.envelope.sender

        def copied(error: BaseException | None) -> None:
            if error is not None:
                self._log.warning("bounce", f"{queue_id}: postmaster notice failed while bouncing to {sender}")

        def notified(error: BaseException | None) -> None:
            if error is None and copy:
                self._to_postmaster(template, message, fates, copy, True, copied)
            done(error)

        if not told:
            notified(None)
            return
        recipient = Recipient(sender)
        self._send(_Notice(template, message, told, "", recipient, KIND_BOUNCE, False, headers_only), notified)

    def _to_postmaster(
        self, template: Template, message: Message, fates: list[Fate], to: str, headers_only: bool, done: Done
    ) -> None:
        recipient = Recipient(canonical(to, self._settings.rewrite), to)
        kind = KIND_DOUBLE_BOUNCE
        self._send(
            _Notice(template, message, fates, self._double_bounce, recipient, kind, True, headers_only),
            done,
        )

    def _send(self, notice: _Notice, done: Done) -> None:
        envelope = notice.message.envelope
        now = self._clock()
        notice_id = ""
        try:
            try:
                original: list[bytes] | None = self._store.content(notice.message)
            except Exception as error:
                self._log.warning("bounce", f"{envelope.queue_id}: content unavailable for a notification: {error}")
                original = None
            notice_id = self._intake.new_queue_id(now)
            content = compose(
                self._settings.report,
                notice.template,
                envelope,
                notice.fates,
                original,
                notice_id,
                now,
                to=notice.to.address,
                postmaster=notice.postmaster,
                headers_only=notice.headers_only,
            )

            def kept(error: BaseException | None) -> None:
                if error is None:
                    line = notification(envelope.queue_id, notice.template.kind, notice_id, notice.postmaster)
                    self._log.write("bounce", line)
                done(error)

            self._intake.accept_own(
                content,
                notice.sender,
                [notice.to],
                notice.kind,
                now,
                kept,
                _needs_utf8(notice),
                notice_id,
            )
        except Exception as error:
            done(error)


def _fates(message: Message, results: Sequence[tuple[int, Bounced | Deferred]], action: str) -> list[Fate]:
    recipients = message.envelope.recipients
    return [
        Fate(recipients[index], action, result.dsn, result.text, result.remote_mta, result.reply)
        for index, result in results
    ]


def _wanted(fates: list[Fate], notify: int) -> list[Fate]:
    return [fate for fate in fates if (fate.recipient.dsn_notify or _BY_DEFAULT) & notify]


def _needs_utf8(notice: _Notice) -> bool:
    """Does the notification need SMTPUTF8? Its addresses or the header that it carries decide."""
    if not notice.to.address.isascii():
        return True
    envelope = notice.message.envelope
    return envelope.smtputf8 and bool(envelope.content_flags & CONTENT_HEADER_8BIT)
