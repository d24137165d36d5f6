"""What went wrong in a delivery, as status code and text; and what that makes of a recipient.

The policy of Postfix's smtp_trouble.c: a 4.x.x is a soft error, for which another host may be tried; a 5.x.x bounces
at once. Called by deliver/connection.py and deliver/smtp.py. Raises nothing. RFC 3463, RFC 3464.
"""

from __future__ import annotations

from typing import Final

import msgspec

from fastmta._ext.smtpclient import (
    STATE_DATA,
    STATE_DOT,
    STATE_EHLO,
    STATE_GREETING,
    STATE_HELO,
    STATE_MAIL,
    STATE_QUIT,
    STATE_RCPT,
    STATE_RSET,
    STATE_STARTTLS,
    STATE_TLS,
    Reply,
)
from fastmta.model.outcome import Bounced, Deferred, Result

COMMANDS: Final = {
    STATE_MAIL: "MAIL FROM command",
    STATE_RCPT: "RCPT TO command",
    STATE_DATA: "DATA command",
    STATE_DOT: "end of DATA command",
}
STAGES: Final = {
    STATE_GREETING: "receiving the initial server greeting",
    STATE_EHLO: "performing the EHLO handshake",
    STATE_HELO: "performing the HELO handshake",
    STATE_STARTTLS: "receiving the STARTTLS response",
    STATE_TLS: "performing the TLS handshake",
    STATE_RSET: "sending final RSET",
    STATE_MAIL: "sending MAIL FROM",
    STATE_RCPT: "sending RCPT TO",
    STATE_DATA: "sending DATA command",
    STATE_DOT: "sending end of data -- message may be sent more than once",
    STATE_QUIT: "sending QUIT",
}
SENDING_BODY: Final = "sending message body"
LHLO: Final = "performing the LHLO handshake"


class Trouble(msgspec.Struct, frozen=True):
    """One reason. remote_mta and reply are for the bounce; throttle: the destination as such is in trouble, not only
    this mail.
    """

    dsn: str
    text: str
    remote_mta: str = ""
    reply: str = ""
    throttle: bool = False

    @property
    def soft(self) -> bool:
        """Whether trying again, or elsewhere, may help."""
        return self.dsn[0] == "4"

    def outcome(self, soft_bounce: bool = False) -> Result:
        """What it makes of a recipient."""
        if self.soft:
            return Deferred(self.dsn, self.text, self.remote_mta, self.reply)
        if soft_bounce:
            return Deferred("4" + self.dsn[1:], self.text, self.remote_mta, self.reply)
        return Bounced(self.dsn, self.text, self.remote_mta, self.reply)


def said(reply: Reply, host: str, peer: str) -> Trouble:
    """A recipient, sender or message was not accepted; peer is "host[address]"."""
    text = f"host {peer} said: {reply.text} (in reply to {COMMANDS[reply.stage]})"
    if reply.dsn[0] not in "45":
        return Trouble("5.5.0", "Protocol error: " + text, host, reply.text)
    return Trouble(reply.dsn, text, host, reply.text)


def refused(reply: Reply, host: str, peer: str, skip_5xx: bool) -> Trouble:
    """Greeting, EHLO or HELO was answered with a no."""
    dsn = reply.dsn
    if reply.stage == STATE_GREETING and reply.code // 100 == 5 and skip_5xx:
        dsn = "4" + dsn[1:]
    text = f"host {peer} refused to talk to me: {reply.text}"
    if dsn[0] not in "45":
        return Trouble("5.5.0", "Protocol error: " + text, host, reply.text, throttle=True)
    return Trouble(dsn, text, host, reply.text, throttle=True)


def lost(peer: str, stage: str) -> Trouble:
    """The connection broke."""
    return Trouble("4.4.2", f"lost connection with {peer} while {stage}", throttle=True)


def timed_out(peer: str, stage: str) -> Trouble:
    """The peer was silent for too long."""
    return Trouble("4.4.2", f"conversation with {peer} timed out while {stage}", throttle=True)
