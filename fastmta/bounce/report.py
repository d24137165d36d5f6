"""A delivery status notification, composed: multipart/report in wire form, to the letter of Postfix.

Called by bounce.bouncer, which puts the result into the queue. Pure: the original's content, the time and the queue id
are handed in. Raises nothing. RFC 3461 section 6, RFC 3464, RFC 6522 (multipart/report), RFC 6533 (UTF-8); bounce(8),
bounce(5).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from fastmta._ext.headers import HeaderScan
from fastmta.address.quote import quote_822_local
from fastmta.bounce.templates import SENDER_NAME, Template
from fastmta.cleanup.received import mail_date
from fastmta.cleanup.repair import new_message_id
from fastmta.model.envelope import Envelope, Recipient

_WIDTH: Final = 79
_INDENT: Final = 4
_NOT_ATOM: Final = str.maketrans(dict.fromkeys(' \t\r\n()<>@,;:\\".[]', "-"))


class Fate(msgspec.Struct, frozen=True):
    """What happened to one recipient. action: failed, delayed, delivered, relayed; no remote_mta or reply: ""."""

    recipient: Recipient
    action: str
    dsn: str
    text: str
    remote_mta: str = ""
    reply: str = ""


class ReportSettings(msgspec.Struct, frozen=True):
    """From main.cf; mailer_daemon is the complete address that notifications come from."""

    myhostname: str
    mailer_daemon: str
    mail_name: str = "Postfix"
    bounce_size_limit: int = 50000
    line_length_limit: int = 2048
    delay_warning_time: float = 0.0
    maximal_queue_lifetime: float = 432000.0


def compose(
    settings: ReportSettings,
    template: Template,
    envelope: Envelope,
    fates: Sequence[Fate],
    original: list[bytes] | None,
    queue_id: str,
    now: float,
    *,
    to: str,
    postmaster: bool,
    headers_only: bool,
) -> list[bytes]:
    """The notification as chunks of content.

    original is the content of the message that it is about, None where that cannot be read; queue_id the notification's
    own; postmaster: without the polite text, for the postmaster.
    """
    host = settings.myhostname
    boundary = f"{envelope.queue_id}.{int(now)}/{host}"
    subject = template.postmaster_subject if postmaster else template.subject
    out = [
        f"Received: by {host} ({settings.mail_name})",
        f"\tid {queue_id}; {mail_date(now)}",
        f"Date: {mail_date(now)}",
        f"From: {SENDER_NAME} <{quote_822_local(settings.mailer_daemon)}>",
        f"Subject: {subject}",
        f"To: {quote_822_local(to)}",
        f"Auto-Submitted: {'auto-generated' if postmaster else 'auto-replied'}",
        "MIME-Version: 1.0",
        "Content-Type: multipart/report; report-type=delivery-status;",
        f'\tboundary="{boundary}"',
        "Content-Transfer-Encoding: 8bit",
        f"Message-Id: {new_message_id(queue_id, host, now)}",
        "",
        "This is a MIME-encapsulated message.",
        "",
        f"--{boundary}",
        "Content-Description: Notification",
        "Content-Type: text/plain; charset=utf-8",
        "Content-Transfer-Encoding: 8bit",
        "",
    ]
    if not postmaster:
        out += _fill(template.text, settings)
    for fate in fates:
        out.append("")
        out += _explain(fate)
    out += ["", f"--{boundary}", *_status(settings, envelope, fates)]
    undelivered = "" if fates and fates[0].action in ("delivered", "relayed") else "Undelivered "
    out += ["", f"--{boundary}"]
    out += [f"Content-Description: {undelivered}{'Message Headers' if headers_only else 'Message'}"]
    if headers_only:
        out.append(f"Content-Type: {'message/global-headers' if envelope.smtputf8 else 'text/rfc822-headers'}")
    else:
        out.append(f"Content-Type: {'message/global' if envelope.smtputf8 else 'message/rfc822'}")
    out += ["Content-Transfer-Encoding: 8bit", ""]
    if original is None:
        out.append("\t--- Undelivered message unavailable ---")
    else:
        out.append(f"Return-Path: <{_sender(settings, envelope)}>")
    chunks = [_wire(out)]
    if original is not None:
        chunks += _header_of(original, settings.line_length_limit) if headers_only else original
    chunks.append(f"\r\n--{boundary}--\r\n".encode())
    return chunks


def too_big(settings: ReportSettings, envelope: Envelope) -> bool:
    """Is the message too big to be returned as a whole?"""
    return envelope.size > settings.bounce_size_limit > 0


def wrap(text: str, width: int = _WIDTH, indent: int = _INDENT) -> list[str]:
    """Break a line at white space; continuation lines are indented and count as shorter. A long word stays whole."""
    lines: list[str] = []
    current, *words = text.split(" ")
    room = width
    for word in words:
        if (
            current.strip(" ")
            and len(current.encode("utf-8", "replace")) + 1 + len(word.encode("utf-8", "replace")) > room
        ):
            lines.append(current)
            current, room = word, width - indent
        else:
            current = f"{current} {word}"
    lines.append(current)
    return [lines[0], *(" " * indent + line for line in lines[1:])]


def _fill(text: str, settings: ReportSettings) -> list[str]:
    text = text.replace("$myhostname", settings.myhostname)
    text = text.replace("$delay_warning_time_hours", str(int(settings.delay_warning_time // 3600)))
    text = text.replace("$maximal_queue_lifetime_days", str(int(settings.maximal_queue_lifetime // 86400)))
    return text.removesuffix("\n").split("\n")


def _explain(fate: Fate) -> list[str]:
    recipient = fate.recipient
    named = f"<{quote_822_local(recipient.address)}>"
    if recipient.orig_to and recipient.orig_to.lower() != recipient.address.lower():
        named += f" (expanded from <{quote_822_local(recipient.orig_to)}>)"
    return wrap(f"{named}: {fate.text}")


def _status(settings: ReportSettings, envelope: Envelope, fates: Sequence[Fate]) -> list[str]:
    name = settings.mail_name.translate(_NOT_ATOM)
    out = ["Content-Description: Delivery report"]
    if envelope.smtputf8:
        out += ["Content-Type: message/global-delivery-status", "Content-Transfer-Encoding: 8bit", ""]
    else:
        out += ["Content-Type: message/delivery-status", ""]
    out.append(f"Reporting-MTA: dns; {settings.myhostname}")
    if envelope.dsn_envid:
        out.append(f"Original-Envelope-Id: {envelope.dsn_envid}")
    sender = _sender(settings, envelope)
    out.append(f"X-{name}-Queue-ID: {envelope.queue_id}")
    out.append(f"X-{name}-Sender: {_type(sender)}; {sender}")
    out.append(f"Arrival-Date: {mail_date(envelope.arrival)}")
    for fate in fates:
        address = quote_822_local(fate.recipient.address)
        out += ["", f"Final-Recipient: {_type(address)}; {address}"]
        if fate.recipient.dsn_orcpt:
            out.append(f"Original-Recipient: {fate.recipient.dsn_orcpt}")
        else:
            given = quote_822_local(fate.recipient.orig_to or fate.recipient.address)
            out.append(f"Original-Recipient: rfc822;{given}")  # whatever it is: as smtpd assumes for a missing ORCPT
        out += [f"Action: {fate.action}", f"Status: {fate.dsn}"]
        if fate.remote_mta:
            out.append(f"Remote-MTA: dns; {fate.remote_mta}")
        if fate.reply:
            out += wrap(f"Diagnostic-Code: smtp; {fate.reply}")
        else:
            out += wrap(f"Diagnostic-Code: X-{name}; {fate.text}")
        if fate.action == "delayed":
            out.append(f"Will-Retry-Until: {mail_date(envelope.arrival + settings.maximal_queue_lifetime)}")
    return out


def _sender(settings: ReportSettings, envelope: Envelope) -> str:
    return quote_822_local(envelope.sender or f"MAILER-DAEMON@{settings.myhostname}")


def _type(address: str) -> str:
    return "rfc822" if address.isascii() else "utf-8"


def _header_of(original: list[bytes], line_limit: int) -> list[bytes]:
    content = list(original)  # the scan may join chunks
    scan = HeaderScan()
    scan.scan(content, line_limit)
    return [content[0][: scan.header_end]] if content else []


def _wire(lines: list[str]) -> bytes:
    """Lines to bytes; nobody else's text may end a line early or begin with a bare dot."""
    out = []
    for line in lines:
        data = line.replace("\r", " ").replace("\n", " ").encode("utf-8", "surrogateescape")
        out.append(b"." + data if data.startswith(b".") else data)
    return b"\r\n".join(out) + b"\r\n"
