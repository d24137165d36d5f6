"""What a script is: scripts are run against a live Postfix and against FastMTA; both must answer and log the same.

A script names parameters of main.cf (beside BASE) and its steps: bytes to send, and how many replies to await. Where
FastMTA deviates from Postfix on purpose, `deviations` has our reply to what a step sends, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

# Both servers run with these; Debian's Postfix 3.7 needs to be told the defaults of 3.9 and later.
BASE = {
    "myhostname": "yardstick.example",
    "mydestination": "yardstick.example, local.example",
    "relay_domains": "relay.example",
    "mynetworks": "127.0.0.0/8",
    "smtpd_relay_restrictions": "permit_mynetworks, reject_unauth_destination",
    "smtpd_error_sleep_time": "0",
    "smtpd_peername_lookup": "no",
    "smtpd_forbid_bare_newline": "normalize",
    "smtpd_forbid_bare_newline_exclusions": "",
    "smtpd_forbid_unauth_pipelining": "yes",
    "smtpd_soft_error_limit": "100",
    "smtpd_hard_error_limit": "100",
}


class Step(NamedTuple):
    """Send this, then read so many replies; fewer where the server hangs up."""

    send: bytes
    replies: int = 1


class Script(NamedTuple):
    name: str
    steps: Sequence[Step]
    options: Mapping[str, str] = MappingProxyType({})
    deviations: Mapping[bytes, tuple[bytes, str]] = MappingProxyType({})
    log_differs: str = ""  # why, where it does


def steps(*lines: bytes) -> list[Step]:
    """Command lines, without CRLF, one reply each."""
    return [Step(line + b"\r\n") for line in lines]


EHLO = Step(b"EHLO x.example\r\n")
MAIL = Step(b"MAIL FROM:<a@b.example>\r\n")
RCPT = Step(b"RCPT TO:<r@relay.example>\r\n")
DATA = Step(b"DATA\r\n")
QUIT = Step(b"QUIT\r\n")
TRANSACTION = [EHLO, MAIL, RCPT]

STRANGER = {"mynetworks": "192.0.2.1"}

HELP_REPLY = (
    b"214-2.0.0 Commands:\r\n214-2.0.0 HELO EHLO MAIL RCPT DATA BDAT RSET NOOP VRFY QUIT HELP STARTTLS\r\n"
    b"214 2.0.0 End of HELP info\r\n"
)
