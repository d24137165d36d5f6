"""Scripts about content in chunks, limits, restrictions, EHLO keywords, and the ends of sessions."""

from __future__ import annotations

from tests.dialogue.script import DATA, EHLO, HELP_REPLY, MAIL, QUIT, RCPT, STRANGER, TRANSACTION, Script, Step, steps

TRANSACTIONS = [
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
        "chunks: nothing, where there is another error",
        [
            EHLO,
            Step(b"BDAT 0\r\n"),
            MAIL,
            Step(b"BDAT 0\r\n"),
            RCPT,
            Step(b"BDAT 3\r\nabc"),
            Step(b"BDAT 0\r\n"),
            QUIT,
        ],
    ),
    Script(
        "HELO takes nothing back",
        [
            EHLO,
            Step(b"HELO x.example\r\n"),
            Step(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<r@relay.example>\r\n", 2),
            Step(b"BDAT 3 LAST\r\nabc"),
            QUIT,
        ],
    ),
    Script(
        "HELO alone does not pipeline",
        [Step(b"HELO x\r\n"), Step(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<r@relay.example>\r\n")],
    ),
    *(
        Script(f"no SMTP after EHLO: {line.decode('latin-1')}", [EHLO, Step(line + b"\r\n")])
        for line in (b"GET /", b"Subject: x", b"GET \xc3\xa4\x01", b"1234")
    ),
    *(
        Script(
            f"no SMTP from who is refused: {line.decode()}",
            [Step(line + b"\r\n"), QUIT],
            {**STRANGER, "smtpd_delay_reject": "no", "smtpd_client_restrictions": "permit_mynetworks, reject"},
        )
        for line in (b"GET /", b"Subject: x", b"FOO", b"1234")
    ),
    Script(
        "lists of NOTIFY",
        [
            EHLO,
            MAIL,
            *steps(
                *(
                    b"RCPT TO:<r@relay.example> NOTIFY=" + words
                    for words in (
                        b"success,delay,",
                        b",",
                        b"",
                        b",,failure",
                        b"never,",
                        b"never,delay",
                        b"x",
                        b"x,success",
                    )
                )
            ),
            QUIT,
        ],
    ),
    Script(
        "addresses that Postfix makes something of",
        [EHLO, *steps(b"MAIL FROM:<>x", b"RSET", b"MAIL FROM:<g:;>", b"RSET")],
        deviations={
            b"MAIL FROM:<>x\r\n": (b"501 5.1.7 Bad sender address syntax\r\n", "text after the address is an error"),
            b"MAIL FROM:<g:;>\r\n": (b"501 5.1.7 Bad sender address syntax\r\n", "a group is no path (RFC 5321)"),
        },
        log_differs="what is refused is logged",
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
        "more keywords discarded",
        [EHLO, QUIT],
        {"smtpd_discard_ehlo_keywords": "starttls, verp, xforward, xclient, auth, enhancedstatuscodes, dsn, etrn"},
        log_differs="for these keywords Postfix 3.7 does not log that it discards them",
    ),
    Script("keywords discarded silently", [EHLO, QUIT], {"smtpd_discard_ehlo_keywords": "dsn, silent-discard"}),
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
        deviations={b"HELP\r\n": (HELP_REPLY, "Postfix has no HELP")},
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
