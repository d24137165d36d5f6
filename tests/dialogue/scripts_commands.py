"""Scripts about commands, addresses and their order."""

from __future__ import annotations

from tests.dialogue.paths import RECIPIENTS, SENDERS
from tests.dialogue.script import DATA, EHLO, HELP_REPLY, MAIL, QUIT, RCPT, STRANGER, TRANSACTION, Script, Step, steps


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


COMMANDS = [
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
            b"HELP\r\n": (HELP_REPLY, "Postfix has no HELP"),
            b"HELP foo\r\n": (HELP_REPLY, "Postfix has no HELP"),
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
]
