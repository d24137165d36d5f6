"""The envelope of a message: who sent it, to whom, how it came in. Pure data, kept in the queue as MessagePack arrays.

Made by cleanup/, read by queue/, qmgr/, deliver/, bounce/ and the listings. New fields go at the end with a default, so
that a record which an older version wrote still decodes. Sources: RFC 5321, RFC 3461 (DSN), RFC 6152, RFC 6531.
"""

from __future__ import annotations

from typing import Final

import msgspec

# dsn_notify, RFC 3461 section 4.1; 0 means that the client said nothing (then FAILURE and DELAY apply).
NOTIFY_NEVER: Final = 1
NOTIFY_SUCCESS: Final = 2
NOTIFY_FAILURE: Final = 4
NOTIFY_DELAY: Final = 8

# dsn_ret, RFC 3461 section 4.3
RET_NONE: Final = 0
RET_FULL: Final = 1
RET_HDRS: Final = 2

# Envelope.content_flags: what the scanner saw in the content, so that delivery need not look again.
CONTENT_8BIT: Final = 1  # a byte above 127 in the body or the header
CONTENT_LONG_LINE: Final = 2  # a line of more than 998 bytes without its CRLF
CONTENT_DOT_STUFFED: Final = 4  # a line begins with "." in wire form
CONTENT_HEADER_8BIT: Final = 8  # a byte above 127 in the header
CONTENT_NO_FINAL_CRLF: Final = 16  # never set in the queue: the intake ends every content with CRLF

# Envelope.kind: what may be sent in answer to this message.
KIND_MAIL: Final = 0  # mail of a client
KIND_BOUNCE: Final = 1  # a notification of ours with the null sender: its failure goes to the postmaster
KIND_DOUBLE_BOUNCE: Final = 2  # a notification to the postmaster: its failure is dropped and logged


class Recipient(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One envelope recipient.

    address is in internal form (unquoted), after rewriting; orig_to is what the client said where that differs;
    dsn_orcpt is the ORCPT value, xtext-decoded ("rfc822;user@example"), else ""; dsn_notify a sum of NOTIFY_*.
    """

    address: str
    orig_to: str = ""
    dsn_orcpt: str = ""
    dsn_notify: int = 0


class Origin(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Where a message came from: one per session and HELO, shared by its messages.

    client_name is the verified name or "unknown"; client_address the textual address; helo as the client said it;
    protocol "SMTP", "ESMTP" or "ESMTPS" (with UTF8 in front for SMTPUTF8), "" for mail of our own.
    """

    client_name: str = "localhost"
    client_address: str = "127.0.0.1"
    client_port: int = 0
    helo: str = ""
    protocol: str = ""
    tls: str = ""  # comment for the Received: header, without parentheses


class Envelope(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Everything about a message but its content and its progress. It never changes after the 250."""

    queue_id: str
    arrival: float  # Unix time in seconds when the transaction began (MAIL FROM)
    sender: str  # internal form; "" is the null sender
    recipients: tuple[Recipient, ...]
    size: int  # bytes, as Postfix counts them (see cleanup/)
    content_flags: int = 0  # CONTENT_*
    body: str = ""  # BODY= as the client said: "", "7BIT" or "8BITMIME"
    smtputf8: bool = False
    dsn_envid: str = ""  # xtext-decoded
    dsn_ret: int = RET_NONE
    origin: Origin = Origin()
    kind: int = KIND_MAIL
