"""Every log line, from typed arguments, to the letter of Postfix: what pflogsumm, fail2ban and their like read.

Called by whoever has something to tell; the result goes to observe.log.Log.write(service, line), which adds the time,
the host and "postfix/service[pid]: " and replaces control characters. The service that Postfix would log a line as is
the first word of each function's docstring. Addresses come in internal form and are logged in external form (quoted
where they must be); `client` is always "name[address]". The lines of every message (client, message_id, queue_active,
delivery, removed) are compiled. Nothing is raised. Reference: the log of Postfix itself; postfix-formats of its manual
pages smtpd(8), cleanup(8), qmgr(8), bounce(8), anvil(8).
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

import msgspec

from fastmta._ext.loglines import client, delivery, format_tv, message_id, queue_active, removed
from fastmta.address.quote import quote_822_local

__all__ = [
    "COMMAND_ORDER",
    "IMPROPER_PIPELINING",
    "LOST_CONNECTION",
    "TIMEOUT",
    "TOO_MANY_ERRORS",
    "TlsFacts",
    "bare_newline",
    "client",
    "client_extended",
    "connect",
    "delivery",
    "disconnect",
    "expired",
    "format_tv",
    "improper_pipelining",
    "limit_exceeded",
    "lost_connection",
    "message_id",
    "notification",
    "pickup",
    "queue_active",
    "reject",
    "reject_header",
    "removed",
    "resent_message_id",
    "starttls",
    "statistics_cache",
    "statistics_count",
    "statistics_rate",
    "tls_summary",
]

# The order of the counters in "disconnect from", that of smtpd's command table.
COMMAND_ORDER: Final = (
    "helo",
    "ehlo",
    "starttls",
    "auth",
    "mail",
    "rcpt",
    "data",
    "bdat",
    "rset",
    "noop",
    "vrfy",
    "etrn",
    "quit",
    "xclient",
    "xforward",
    "help",
    "unknown",
)

LOST_CONNECTION: Final = "lost connection"
TIMEOUT: Final = "timeout"
TOO_MANY_ERRORS: Final = "too many errors"
IMPROPER_PIPELINING: Final = "improper command pipelining"


def connect(client: str) -> str:
    """smtpd: a session begins."""
    return f"connect from {client}"


def disconnect(client: str, counters: Iterable[tuple[str, int, int]]) -> str:
    """smtpd: a session ended. counters: (command in lower case, how many succeeded, how many there were), in
    COMMAND_ORDER; those with total 0 are left out.
    """
    words = [f"disconnect from {client}"]
    all_ok = all_total = 0
    for name, ok, total in counters:
        if total > 0:
            words.append(f"{name}={ok}" if ok == total else f"{name}={ok}/{total}")
            all_ok += ok
            all_total += total
    words.append(f"commands={all_ok}" if all_ok == all_total > 0 else f"commands={all_ok}/{all_total}")
    return " ".join(words)


def lost_connection(reason: str, where: str, client: str, received: int = -1) -> str:
    """smtpd: a session ended without QUIT. reason: LOST_CONNECTION, TIMEOUT, TOO_MANY_ERRORS; where: the last command
    in capitals, CONNECT, or END-OF-MESSAGE.

    Inside the content of DATA or BDAT, received is the number of bytes of it so far.
    """
    if received >= 0:
        return f"{reason} after {where} ({received} bytes) from {client}"
    return f"{reason} after {where} from {client}"


def improper_pipelining(where: str, client: str, text: str) -> str:
    """smtpd: the client sent commands too early (smtpd_forbid_unauth_pipelining, reject_unauth_pipelining). text: what
    it sent, as far as read.
    """
    return f"{IMPROPER_PIPELINING} after {where} from {client}: {text}"


def bare_newline(queue_id: str, client: str, reply: str, sender: str, recipient: str, protocol: str, helo: str) -> str:
    """smtpd: content refused for a bare LF (smtpd_forbid_bare_newline = reject); reply: "550 5.5.2 client Error: bare
    <LF> received".
    """
    return reject(queue_id, "BARE NEWLINE", client, reply, sender, recipient, protocol, helo)


def client_extended(queue_id: str, client: str, **facts: str) -> str:
    """smtpd: client= with what else is known: sasl_method, sasl_username, sasl_sender, orig_queue_id, orig_client, in
    this order.
    """
    order = ("orig_queue_id", "orig_client", "sasl_method", "sasl_username", "sasl_sender")
    rest = "".join(f", {name}={facts[name]}" for name in order if facts.get(name))
    return f"{queue_id}: client={client}{rest}"


def resent_message_id(queue_id: str, value: str) -> str:
    """cleanup: a Resent-Message-Id: header."""
    return f"{queue_id}: resent-message-id={value}"


def reject(
    queue_id: str,
    where: str,
    client: str,
    reply: str,
    sender: str | None = None,
    recipient: str | None = None,
    protocol: str = "",
    helo: str | None = None,
    action: str = "reject",
) -> str:
    """smtpd: a refused command. queue_id "" where there is none yet; where: "CONNECT", "HELO", "MAIL", "RCPT", "DATA",
    "END-OF-MESSAGE", "VRFY" ...

    reply is the whole reply ("554 5.7.1 <x>: Relay access denied"); sender, recipient and helo are None where not known
    yet.
    action: reject, reject_warning, warning, info, hold, discard, redirect, filter ...
    """
    line = f"{queue_id or 'NOQUEUE'}: {action}: {where} from {client}: {reply};"
    if sender is not None:
        line += f" from=<{quote_822_local(sender)}>"
    if recipient is not None:
        line += f" to=<{quote_822_local(recipient)}>"
    if protocol:
        line += f" proto={protocol}"
    if helo is not None:
        line += f" helo=<{helo}>"
    return line


def reject_header(
    queue_id: str,
    kind: str,
    value: str,
    client: str,
    sender: str,
    recipient: str | None,
    protocol: str,
    helo: str,
    text: str,
    action: str = "reject",
) -> str:
    """cleanup: a refused header or body line, or too many hops. kind: "header", "body", "mime-header" ..., value: the
    line.
    """
    line = f"{queue_id}: {action}: {kind} {value} from {client}; from=<{quote_822_local(sender)}>"
    if recipient is not None:
        line += f" to=<{quote_822_local(recipient)}>"
    if protocol:
        line += f" proto={protocol}"
    if helo:
        line += f" helo=<{helo}>"
    return f"{line}: {text}" if text else line


def expired(queue_id: str, sender: str, forced: bool = False) -> str:
    """qmgr: the queue lifetime is over, or postsuper -e ended it."""
    status = "force-expired" if forced else "expired"
    return f"{queue_id}: from=<{quote_822_local(sender)}>, status={status}, returned to sender"


def notification(queue_id: str, kind: str, notice_id: str, to_postmaster: bool = False) -> str:
    """bounce: a notification was made. kind: "non-delivery", "delay", "delivery status"; notice_id: its queue id."""
    return f"{queue_id}: {'postmaster' if to_postmaster else 'sender'} {kind} notification: {notice_id}"


def pickup(queue_id: str, uid: int, sender: str) -> str:
    """pickup: local submission."""
    return f"{queue_id}: uid={uid} from=<{quote_822_local(sender)}>"


def limit_exceeded(what: str, value: int, client: str, service: str) -> str:
    """smtpd: (a warning) what: "Connection concurrency", "Connection rate", "Message delivery request rate", "Recipient
    address rate", "New TLS session rate".
    """
    return f"{what} limit exceeded: {value} from {client} for service {service}"


def statistics_rate(what: str, value: int, unit: int, user: str, when: float) -> str:
    """anvil: what: "connection", "message", "recipient", "newtls" or "auth"; unit: anvil_rate_time_unit in seconds;
    user: "service:address"; when: Unix time.
    """
    return f"statistics: max {what} rate {value}/{unit}s for ({user}) at {_stamp(when)}"


def statistics_count(value: int, user: str, when: float) -> str:
    """anvil: the most connections at once."""
    return f"statistics: max connection count {value} for ({user}) at {_stamp(when)}"


def statistics_cache(value: int, when: float) -> str:
    """anvil: the most clients known at once."""
    return f"statistics: max cache size {value} at {_stamp(when)}"


def _stamp(when: float) -> str:
    t = time.localtime(when)
    return f"{MONTHS[t.tm_mon - 1]} {t.tm_mday:2d} {t.tm_hour:02d}:{t.tm_min:02d}:{t.tm_sec:02d}"


MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class TlsFacts(msgspec.Struct, frozen=True):
    """What a TLS session negotiated, as far as known; "" and 0 leave a part of the line out.

    trust: "Anonymous" (no peer certificate), "Untrusted", "Trusted" or "Verified".
    """

    protocol: str
    cipher: str
    used_bits: int
    algorithm_bits: int
    trust: str = "Anonymous"
    key_exchange: str = ""
    key_exchange_detail: str = ""  # curve, or "2048 bits"
    server_signature: str = ""
    server_signature_detail: str = ""
    server_digest: str = ""
    client_signature: str = ""
    client_signature_detail: str = ""
    client_digest: str = ""

    def cipher_text(self) -> str:
        """From the protocol on: "TLSv1.3 with cipher X (256/256 bits) key-exchange ..."."""
        out = f"{self.protocol} with cipher {self.cipher} ({self.used_bits}/{self.algorithm_bits} bits)"
        for label, name, detail, digest in (
            ("key-exchange", self.key_exchange, self.key_exchange_detail, ""),
            (
                "server-signature",
                self.server_signature,
                self.server_signature_detail,
                "server-digest " + self.server_digest,
            ),
            (
                "client-signature",
                self.client_signature,
                self.client_signature_detail,
                "client-digest " + self.client_digest,
            ),
        ):
            if name:
                out += f" {label} {name}"
                if detail:
                    out += f" ({detail})"
                if digest and not digest.endswith(" "):
                    out += f" {digest}"
        return out


def tls_summary(facts: TlsFacts, peer: str, inbound: bool, reused: bool = False) -> str:
    """smtpd, smtp: (loglevel 1) a handshake is done. peer: "name[address]", for smtp with ":port"; it is logged in
    lower case.
    """
    return (
        f"{facts.trust} TLS connection {'reused' if reused else 'established'} {'from' if inbound else 'to'} "
        f"{peer.lower()}: {facts.cipher_text()}"
    )


def starttls(peer: str, inbound: bool) -> str:
    """smtpd, smtp: (loglevel 2) a handshake begins."""
    return f"setting up TLS connection {'from' if inbound else 'to'} {peer}"
