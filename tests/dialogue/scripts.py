"""What clients say: scripts that are run against a live Postfix and against FastMTA; both must answer and log the same.

A script names parameters of main.cf (beside BASE) and its steps: bytes to send, and how many replies to await. Where
FastMTA deviates from Postfix on purpose, `deviations` has our reply to what a step sends, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from tests.dialogue.paths import RECIPIENTS, SENDERS

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

_HELP = (
    b"214-2.0.0 Commands:\r\n214-2.0.0 HELO EHLO MAIL RCPT DATA BDAT RSET NOOP VRFY QUIT HELP STARTTLS\r\n"
    b"214 2.0.0 End of HELP info\r\n"
)


def _senders() -> list[Step]:
    out = [EHLO]
    for path in SENDERS:
        out += steps(b"MAIL FROM:" + path, b"RSET")
    return out


def _recipients() -> list[Step]:
    return [EHLO, MAIL, *steps(*(b"RCPT TO:" + path for path in RECIPIENTS)), QUIT]


def _verify() -> list[Step]:
    """What VRFY takes for an address."""
    words = [
        path for path in [*SENDERS, *RECIPIENTS] if b"=" not in path and b"\xff" not in path and b'<"a@' not in path
    ]
    return [EHLO, *steps(*(b"VRFY " + path for path in words)), QUIT]


SCRIPTS = [
    Script(
        "commands",
        [
            EHLO,
            *steps(
                b"HELP",
                b"HELP foo",
                b"NOOP a b",
                b"RSET x",
                b"VRFY",
                b"VRFY a@relay.example",
                b"VRFY <a b>",
                b"VRFY a b",
            ),
            *steps(
                b"EXPN x", b"ETRN x", b"ETRN", b"ETRN a b", b"ETRN @x.example", b"ETRN -", b"AUTH PLAIN", b"STARTTLS"
            ),
            *steps(
                b"STARTTLS x",
                b"XCLIENT",
                b"XCLIENT NAME=x",
                b"XFORWARD NAME=x",
                b"FOO",
                b"  NOOP",
                b"",
                b"   ",
                b"noop",
            ),
            *steps(b"NoOp", b"NOO", b"NOOPX", b"QUIT now"),
        ],
        deviations={
            b"HELP\r\n": (_HELP, "Postfix has no HELP"),
            b"HELP foo\r\n": (_HELP, "Postfix has no HELP"),
        },
        log_differs="HELP counts",
    ),
    Script(
        "order",
        steps(
            *(b"HELO", b"EHLO", b"EHLO a b c", b'HELO <a>(b)"\\;:@', b"HELO \xff", b"EHLO m\xc3\xbcller", b"DATA"),
            *(b"RCPT TO:<a@b>", b"MAIL", b"MAIL FROM", b"MAIL FROM <a@b.example>", b"MAIL FROM:a@b.example"),
            *(b"MAIL FROM:<c@d.example>", b"DATA", b"RSET", b"MAIL FROM: <a@b.example> SIZE=10", b"RCPT TO:<>"),
            *(
                b"RCPT TO:<postmaster>",
                b"RCPT TO: foo",
                b"RCPT TO:",
                b"RCPT <x>",
                b"DATA x",
                b"ETRN x",
                b"XCLIENT NAME=x",
            ),
            *(
                b"EHLO y",
                b"DATA",
                b"mail from:<a@b.example>",
                b"rcpt to:<c@relay.example>",
                b"HELO z",
                b"DATA",
                b"QUIT",
            ),
        ),
    ),
    Script("senders", _senders()),
    Script(
        "recipients",
        _recipients(),
        STRANGER,
    ),
    Script(
        "verify",
        _verify(),
    ),
    Script(
        "not closed",
        [EHLO, *steps(b"MAIL FROM:<a@[1.2.3.4>", b"RSET", b'VRFY <"a@c.example>', b"VRFY <a@[1.2.3.4>"), QUIT],
        deviations={
            b"MAIL FROM:<a@[1.2.3.4>\r\n": (b"501 5.1.7 Bad sender address syntax\r\n", "an address literal must end"),
            b'VRFY <"a@c.example>\r\n': (b"501 5.1.3 Bad recipient address syntax\r\n", "quotes must end"),
            b"VRFY <a@[1.2.3.4>\r\n": (b"501 5.1.3 Bad recipient address syntax\r\n", "an address literal must end"),
        },
        log_differs="more is refused",
    ),
    Script(
        "strict envelopes",
        [
            *steps(b"MAIL FROM:<a@b.example>", b"VRFY x", b"AUTH x", b"ETRN x"),
            EHLO,
            *steps(
                b"MAIL FROM:a@b.example",
                b"MAIL FROM:<a@b.example> (c)",
                b"MAIL FROM:<(c)a@b.example>",
                b"MAIL FROM:<@x:a@b.example>",
            ),
            *steps(b"MAIL FROM:<>", b"RCPT TO:<postmaster>", b"RCPT TO:<foo bar@x>", b"RCPT TO:foo@relay.example"),
            *steps(
                b"RCPT TO:<@x:foo@relay.example>", b'RCPT TO:<"foo"@relay.example>', b"RCPT TO:<@foo>", b"RCPT TO:<a b>"
            ),
            *steps(b"RCPT TO:<<a@b.example>>", b"RCPT TO:<x <a@b.example>>", b"QUIT"),
        ],
        {"strict_rfc821_envelopes": "yes", "smtpd_helo_required": "yes", "disable_vrfy_command": "yes"},
    ),
    *(
        Script(
            f"pipelining {'after EHLO' if greeted else 'before'} {command.split()[0].decode()}",
            [*([EHLO] if greeted else []), Step(command + b"\r\nNOOP\r\n", 2)],
        )
        for greeted in (False, True)
        for command in (
            b"EHLO x",
            b"HELO x",
            b"NOOP",
            b"VRFY a",
            b"RSET",
            b"QUIT",
            b"STARTTLS",
            b"ETRN x",
            b"AUTH x",
            b"FOO",
            b"MAIL FROM:<a@b.example>",
        )
    ),
    Script(
        "data with content at once",
        [*TRANSACTION, Step(b"DATA\r\nhello\r\n.\r\n", 2)],
    ),
    Script(
        "data with content at once, refused",
        [EHLO, MAIL, Step(b"DATA\r\nhello\r\n.\r\n", 2)],
    ),
    Script(
        "a pipelined transaction",
        [
            EHLO,
            Step(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<r@relay.example>\r\nDATA\r\n", 3),
            Step(b"hello\r\n.\r\nQUIT\r\n", 2),
        ],
    ),
    Script(
        "pipelining allowed",
        [Step(b"EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<r@relay.example>\r\nDATA\r\nhi\r\n.\r\nQUIT\r\n", 6)],
        {"smtpd_forbid_unauth_pipelining": "no"},
    ),
    Script(
        "pipelining refused by restriction",
        [Step(b"HELO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<r@relay.example>\r\nDATA\r\nQUIT\r\n", 5)],
        {"smtpd_forbid_unauth_pipelining": "no", "smtpd_data_restrictions": "reject_unauth_pipelining"},
    ),
    *(
        Script(f"no SMTP: {line[:10]!r}", [Step(line)])
        for line in (
            b"GET / HTTP/1.0\r\n",
            b"From: x\r\n",
            b"Subject:x\r\n",
            b"1234\r\n",
            b"connect x\r\n",
            b"post /\r\n",
            b"x: y\r\n",
        )
    ),
    Script(
        "long command lines",
        [EHLO, *(Step(b"NOOP " + b"x" * n + b"\r\n") for n in (2040, 2041, 2042, 2043, 2044, 3000, 70000)), QUIT],
    ),
    Script(
        "bare newlines in commands",
        [
            EHLO,
            Step(b"NOOP\n"),
            Step(b"RSET\r\r\n"),
            Step(b"RSET\r \r\n"),
            Step(b"RSET\rX\r\n"),
            Step(b"NO\x00OP\r\n"),
            Step(b"NOOP\x00\r\n"),
            Step(b"RSET\x00xx\r\n"),
            Step(b"\n"),
            Step(b"\r\n"),
            Step(b"\x00\r\n"),
            QUIT,
        ],
    ),
    Script(
        "bare newlines refused in commands",
        [EHLO, Step(b"NOOP\r\r\n"), Step(b"NOOP\rx\r\n"), Step(b"NOOP\n", 2)],
        {"smtpd_forbid_bare_newline": "reject"},
    ),
    Script(
        "bare newline refused at first",
        [Step(b"NOOP\n", 2)],
        {"smtpd_forbid_bare_newline": "reject", "smtpd_forbid_bare_newline_reject_code": "521"},
    ),
    Script(
        "bare newline refused in content",
        [*TRANSACTION, DATA, Step(b"a\nb\r\n.\r\n"), MAIL, QUIT],
        {"smtpd_forbid_bare_newline": "reject"},
    ),
    Script(
        "bare newline refused in a chunk",
        [
            *TRANSACTION,
            Step(b"BDAT 5\r\na\nb\r\n"),
            Step(b"BDAT 3 LAST\r\nx\r\n"),
            MAIL,
            RCPT,
            Step(b"BDAT 5 LAST\r\na\nb\r\n"),
            MAIL,
            QUIT,
        ],
        {"smtpd_forbid_bare_newline": "reject"},
    ),
    Script(
        "chunks: syntax",
        [EHLO, Step(b"BDAT\r\n", 2)],
    ),
    Script(
        "chunks: bad word",
        [*TRANSACTION, Step(b"BDAT 5 FOO\r\n", 2)],
    ),
    Script(
        "chunks: bad number",
        [*TRANSACTION, Step(b"BDAT 99999999999999999999999999\r\n", 2)],
    ),
    Script(
        "chunks: negative",
        [*TRANSACTION, Step(b"BDAT -1\r\n", 2)],
    ),
    Script(
        "chunks: too early",
        [
            EHLO,
            Step(b"BDAT 3\r\nabc"),
            MAIL,
            Step(b"RSET\r\n"),
            MAIL,
            Step(b"BDAT 3\r\nabc"),
            RCPT,
            Step(b"RSET\r\n"),
            MAIL,
            RCPT,
            QUIT,
        ],
    ),
    Script(
        "chunks: too early and last",
        [EHLO, Step(b"BDAT 3 LAST\r\nabc"), MAIL, QUIT],
    ),
    Script(
        "chunks: commands between",
        [
            *TRANSACTION,
            Step(b"BDAT 3\r\nabc"),
            MAIL,
            RCPT,
            DATA,
            Step(b"NOOP\r\n"),
            Step(b"BDAT 4 LAST\r\nde\r\n"),
            Step(b"BDAT 0 LAST\r\n"),
            Step(b"RSET\r\n"),
            MAIL,
            RCPT,
            Step(b"BDAT 3 last\r\na\r\n"),
            MAIL,
            RCPT,
            Step(b"BDAT 1\r\na"),
            Step(b"RSET\r\n"),
            MAIL,
            RCPT,
            Step(b"BDAT 1\r\na"),
            EHLO,
            QUIT,
        ],
    ),
    Script(
        "chunks: nothing",
        [*TRANSACTION, Step(b"BDAT 0\r\n"), Step(b"BDAT 0 LAST\r\n"), MAIL, RCPT, Step(b"BDAT 0 LAST\r\n"), QUIT],
    ),
    Script(
        "chunks: pipelined",
        [
            EHLO,
            Step(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<r@relay.example>\r\nBDAT 3\r\nabcBDAT 2 LAST\r\nd\nQUIT\r\n", 5),
        ],
    ),
    Script(
        "sizes",
        [
            EHLO,
            *steps(b"MAIL FROM:<a@b.example> SIZE=2001", b"MAIL FROM:<a@b.example> SIZE=2000"),
            RCPT,
            Step(b"BDAT 3000\r\n" + b"a" * 3000),
            Step(b"BDAT 3 LAST\r\nabc"),
            MAIL,
            RCPT,
            Step(b"BDAT 1500\r\n" + b"a" * 1500),
            Step(b"BDAT 1500 LAST\r\n" + b"b" * 1500),
            MAIL,
            RCPT,
            DATA,
            Step(b"x" * 3000 + b"\r\n.\r\n"),
            MAIL,
            RCPT,
            DATA,
            Step(b"x" * 1998 + b"\r\n.\r\n"),
            MAIL,
            RCPT,
            DATA,
            Step(b"x" * 1999 + b"\r\n.\r\n"),
            MAIL,
            RCPT,
            Step(b"BDAT 1500\r\n" + b"a" * 1500),
            Step(b"BDAT 1500\r\n" + b"b" * 1500),
            Step(b"BDAT 3\r\nabc"),
            Step(b"BDAT 3 LAST\r\nabc"),
            QUIT,
        ],
        {"message_size_limit": "2000"},
    ),
    Script(
        "recipients and junk",
        [EHLO, MAIL, *[RCPT] * 7, *steps(b"RSET", *[b"NOOP"] * 5), Step(b"NOOP\r\n", 2)],
        {
            "smtpd_recipient_limit": "3",
            "smtpd_recipient_overshoot_limit": "2",
            "smtpd_junk_command_limit": "3",
            "smtpd_hard_error_limit": "6",
        },
    ),
    Script(
        "errors",
        [EHLO, *steps(*[b"FOO"] * 3, b"MAIL", b"DATA"), Step(b"FOO\r\n", 2)],
        {"smtpd_hard_error_limit": "6"},
    ),
    Script(
        "errors are forgiven",
        [
            EHLO,
            *steps(*[b"FOO"] * 4),
            MAIL,
            RCPT,
            DATA,
            Step(b"a\r\n.\r\n"),
            *steps(*[b"FOO"] * 5),
            Step(b"FOO\r\n", 2),
        ],
        {"smtpd_hard_error_limit": "6"},
    ),
    Script(
        "clients refused at once",
        [EHLO, MAIL, Step(b"FOO\r\n"), QUIT],
        {**STRANGER, "smtpd_delay_reject": "no", "smtpd_client_restrictions": "permit_mynetworks, reject"},
    ),
    Script(
        "clients refused later",
        [
            EHLO,
            MAIL,
            RCPT,
            *steps(b"RCPT TO:<postmaster>", b"RCPT TO:<postmaster@relay.example>"),
            DATA,
            Step(b".\r\n"),
            *steps(b"VRFY a@relay.example", b"ETRN x"),
            QUIT,
        ],
        {**STRANGER, "smtpd_client_restrictions": "permit_mynetworks, reject"},
    ),
    Script(
        "HELO and sender refused at once",
        [
            *steps(
                b"HELO x",
                b"EHLO [1.2.3.4]",
                b"EHLO a_b.example",
                b"EHLO -a",
                b"EHLO 1.2.3.4",
                b"EHLO [::1]",
                b"EHLO x.example",
            ),
            *steps(
                b"MAIL FROM:<a>",
                b"MAIL FROM:<a@b>",
                b"MAIL FROM:<a@b.example>",
                b"RCPT TO:<a>",
                b"RCPT TO:<x@relay.example>",
                b"QUIT",
            ),
        ],
        {
            "smtpd_delay_reject": "no",
            "smtpd_helo_restrictions": "reject_invalid_helo_hostname, reject_non_fqdn_helo_hostname",
            "smtpd_sender_restrictions": "reject_non_fqdn_sender",
            "smtpd_recipient_restrictions": "reject_non_fqdn_recipient",
        },
    ),
    Script(
        "HELO and sender refused later",
        [
            *steps(
                b"HELO x",
                b"MAIL FROM:<a>",
                b"RCPT TO:<x@relay.example>",
                b"RSET",
                b"EHLO x.example",
                b"MAIL FROM:<a>",
                b"RCPT TO:<x@relay.example>",
            ),
            *steps(
                b"RSET",
                b"MAIL FROM:<a@b.example>",
                b"RCPT TO:<x>",
                b"RCPT TO:<x@y>",
                b"RCPT TO:<x@relay.example>",
                b"DATA",
            ),
            Step(b".\r\n"),
            QUIT,
        ],
        {
            "smtpd_helo_restrictions": "reject_invalid_helo_hostname, reject_non_fqdn_helo_hostname",
            "smtpd_sender_restrictions": "reject_non_fqdn_sender",
            "smtpd_recipient_restrictions": "reject_non_fqdn_recipient",
        },
    ),
    Script(
        "restrictions at DATA and after",
        [EHLO, MAIL, RCPT, DATA, Step(b"RSET\r\n"), MAIL, RCPT, RCPT, DATA, QUIT],
        {"smtpd_data_restrictions": "reject"},
    ),
    Script(
        "chunks refused",
        [
            EHLO,
            MAIL,
            RCPT,
            Step(b"BDAT 3\r\nabc"),
            Step(b"BDAT 3 LAST\r\nabc"),
            MAIL,
            RCPT,
            Step(b"BDAT 3 LAST\r\nabc"),
            MAIL,
            QUIT,
        ],
        {"smtpd_data_restrictions": "reject"},
        log_differs="Postfix leaves out to=<> in the second transaction: it still counts the first one's recipient",
    ),
    Script(
        "the message refused",
        [*TRANSACTION, DATA, Step(b"a\r\n.\r\n"), Step(b"MAIL FROM:<b@b.example>\r\n"), RCPT, Step(b"RSET\r\n")],
        {"smtpd_end_of_data_restrictions": "defer"},
        deviations={
            b"MAIL FROM:<b@b.example>\r\n": (
                b"250 2.1.0 Ok\r\n",
                "a refused message ends its transaction, RFC 5321 section 4.1.1.4",
            ),
        },
        log_differs="MAIL succeeds",
    ),
    Script(
        "relaying deferred",
        [EHLO, MAIL, *steps(b"RCPT TO:<x@other.example>", b"RCPT TO:<x@relay.example>"), QUIT],
        {
            **STRANGER,
            "smtpd_relay_restrictions": "permit_mynetworks, permit_sasl_authenticated, defer_unauth_destination",
        },
    ),
    Script(
        "an unknown restriction",
        [EHLO, MAIL, *steps(b"RCPT TO:<x@other.example>", b"RCPT TO:<x@relay.example>"), QUIT],
        {**STRANGER, "smtpd_recipient_restrictions": "permit_mynetworks, no_such_thing"},
    ),
    Script(
        "soft bounce",
        [EHLO, MAIL, *steps(b"RCPT TO:<x@other.example>", b"FOO", b"MAIL", b"DATA"), QUIT],
        {**STRANGER, "soft_bounce": "yes"},
    ),
    Script(
        "keywords discarded",
        [
            EHLO,
            *steps(
                b"MAIL FROM:<a@b.example> RET=FULL",
                b"MAIL FROM:<a@b.example> ENVID=x",
                b"MAIL FROM:<a@b.example> SMTPUTF8",
            ),
            *steps(
                b"MAIL FROM:<a@b.example> BODY=8BITMIME",
                b"RCPT TO:<x@relay.example> NOTIFY=NEVER",
                b"RCPT TO:<x@relay.example> ORCPT=rfc822;x",
            ),
            RCPT,
            Step(b"BDAT 3\r\n", 2),
        ],
        {"smtpd_discard_ehlo_keywords": "dsn, chunking, smtputf8, pipelining, 8bitmime, size, etrn, vrfy"},
    ),
    Script(
        "noop commands",
        [EHLO, *steps(b"XYZZY foo", b"plugh", b"FOO"), QUIT],
        {"smtpd_noop_commands": "xyzzy, PLUGH"},
    ),
    Script(
        "strict smtputf8",
        [
            EHLO,
            *steps(
                b"MAIL FROM:<m\xc3\xbc@b.example>",
                b"MAIL FROM:<m\xc3\xbc@b.example> SMTPUTF8",
                b"RCPT TO:<m\xc3\xbc@relay.example>",
                b"RSET",
                b"MAIL FROM:<a@b.example>",
                b"RCPT TO:<m\xc3\xbc@relay.example>",
                b"VRFY m\xc3\xbc@relay.example",
                b"VRFY m\xc3\xbc@relay.example SMTPUTF8",
            ),
            QUIT,
        ],
        {"strict_smtputf8": "yes"},
    ),
    Script(
        "no smtputf8",
        [
            EHLO,
            *steps(
                b"MAIL FROM:<m\xc3\xbc@b.example>",
                b"RSET",
                b"MAIL FROM:<a@b.example> SMTPUTF8",
                b"MAIL FROM:<a\xff@b.example>",
                b"VRFY",
            ),
            QUIT,
        ],
        {"smtputf8_enable": "no"},
    ),
    Script(
        "STARTTLS without a certificate",
        [EHLO, Step(b"STARTTLS\r\n"), Step(b"STARTTLS x\r\n"), QUIT],
        {"smtpd_tls_security_level": "may"},
    ),
    Script(
        "STARTTLS required",
        [
            EHLO,
            *steps(
                b"NOOP",
                b"HELP",
                b"MAIL FROM:<>",
                b"FOO",
                b"RSET",
                b"VRFY a",
                b"ETRN x",
                b"AUTH x",
                b"BDAT 3",
                b"DATA",
                b"QUIT",
            ),
        ],
        {"smtpd_tls_security_level": "encrypt"},
        deviations={b"HELP\r\n": (_HELP, "Postfix has no HELP")},
        log_differs="HELP counts",
    ),
    Script("lost before a command", []),
    Script(
        "lost inside a command",
        [EHLO, Step(b"NOO", 0)],
    ),
    Script(
        "lost after MAIL",
        [EHLO, MAIL],
    ),
    Script(
        "lost inside content",
        [*TRANSACTION, DATA, Step(b"abc\r\nd", 0)],
    ),
    Script(
        "lost inside a chunk",
        [*TRANSACTION, Step(b"BDAT 100\r\nabc\r\n", 0)],
    ),
    Script(
        "lost after the message",
        [*TRANSACTION, DATA, Step(b"abc\r\n.\r\n")],
    ),
    Script(
        "lost after a refused message",
        [*TRANSACTION, DATA, Step(b"x" * 500 + b"\r\n.\r\n")],
        {"message_size_limit": "100"},
    ),
]
