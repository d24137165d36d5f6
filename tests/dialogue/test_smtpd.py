"""A session seen from the client: greetings, limits per client, time, TLS, ends of all kinds."""

from __future__ import annotations

import datetime
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fastmta.net.clientname import ClientName
from tests.dialogue.smtpd_here import SmtpdHere
from tests.dialogue.talk import read_reply
from tests.live import wait_for

MESSAGE = b"Subject: x\r\n\r\nhello\r\n.\r\n"


class Client:
    """One connection, in the words of a client."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), 10)
        self.file = self.sock.makefile("rb")

    def read(self) -> bytes:
        return read_reply(self.file)

    def say(self, line: bytes, replies: int = 1) -> bytes:
        self.sock.sendall(line)
        return b"".join(self.read() for _ in range(replies))

    def greet(self) -> bytes:
        self.read()
        return self.say(b"EHLO x.example\r\n")

    def envelope(self) -> None:
        assert self.say(b"MAIL FROM:<a@b.example>\r\n") == b"250 2.1.0 Ok\r\n"
        assert self.say(b"RCPT TO:<c@relay.example>\r\n") == b"250 2.1.5 Ok\r\n"

    def close(self) -> None:
        self.file.close()
        self.sock.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def logged(server: SmtpdHere, text: str) -> None:
    wait_for(lambda: any(text in line for line in server.log.lines), 5, f"{text!r} in {server.log.lines}")


def test_client_that_speaks_first(tmp_path: Path) -> None:
    with SmtpdHere(tmp_path) as server:
        turn = threading.Event()
        server.call(turn.wait)  # type: ignore[arg-type]  # the loop does not see the connection before the client spoke
        with Client(server.port) as client:
            client.sock.sendall(b"EHLO x\r\n")
            turn.set()
            assert client.read() == b"554 5.5.0 Error: SMTP protocol synchronization\r\n"
            assert client.read() == b""
    assert server.log.lines == [
        "smtpd: connect from unknown[127.0.0.1]",
        "smtpd: improper command pipelining after CONNECT from unknown[127.0.0.1]: EHLO x\\r\\n",
        "smtpd: disconnect from unknown[127.0.0.1] commands=0/0",
    ]


def test_message_is_handed_over_whole(tmp_path: Path) -> None:
    with SmtpdHere(tmp_path) as server, Client(server.port) as client:
        client.greet()
        client.say(b"MAIL FROM:<a@b.example> BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=x+2By SIZE=30\r\n")
        client.say(b'RCPT TO:<"c d"@relay.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;c+2Bd@e\r\n')
        client.say(b"RCPT TO:<e@relay.example> NOTIFY=NEVER\r\n")
        client.say(b"DATA\r\n")
        assert client.say(b"Subject: \xc3\xbc\r\n\r\n..\r\n.\r\n") == b"250 2.0.0 Ok: queued as 4QUEUE00001\r\n"
        (message,) = server.intake.messages
    assert message.queue_id == "4QUEUE00001"
    assert message.sender == "a@b.example"
    assert [(r.address, r.dsn_orcpt, r.dsn_notify) for r in message.recipients] == [
        ("c d@relay.example", "rfc822;c+d@e", 10),
        ("e@relay.example", "", 1),
    ]
    assert (message.body, message.smtputf8, message.dsn_ret, message.dsn_envid) == ("8BITMIME", True, 2, "x+y")
    assert b"".join(message.content) == b"Subject: \xc3\xbc\r\n\r\n..\r\n"
    assert message.content_flags == 1 | 4 | 8
    origin = message.origin
    assert (origin.client_name, origin.client_address, origin.helo, origin.protocol) == (
        "unknown",
        "127.0.0.1",
        "x.example",
        "ESMTP",
    )


def test_client_names(tmp_path: Path) -> None:
    with SmtpdHere(tmp_path, {"smtpd_peername_lookup": "yes", "smtpd_client_port_logging": "yes"}) as server:
        with Client(server.port) as client:
            client.greet()
        server.names.known["127.0.0.1"] = ClientName("localhost", "localhost", warning="hostname x does not resolve")
        with Client(server.port) as client:
            client.greet()
            client.envelope()
            port = client.sock.getsockname()[1]
            assert client.say(b"QUIT\r\n") == b"221 2.0.0 Bye\r\n"
            assert client.read() == b""
    assert server.log.lines[0].startswith("smtpd: connect from unknown[127.0.0.1]:")
    assert server.log.lines[3:6] == [
        "smtpd: warning: hostname x does not resolve",
        f"smtpd: connect from localhost[127.0.0.1]:{port}",
        f"smtpd: 4QUEUE00001: client=localhost[127.0.0.1]:{port}",
    ]


def test_pipelined_behind_an_answer_that_is_owed(tmp_path: Path) -> None:
    with SmtpdHere(tmp_path) as server, Client(server.port) as client:
        client.greet()
        client.envelope()
        client.say(b"DATA\r\n")
        server.intake.hold = True
        client.sock.sendall(MESSAGE + b"MAIL FROM:<x@y.example>\r\nRSET\r\n" + b"RSET\r\n" * 40000)
        wait_for(lambda: bool(server.intake.waiting), 5, "the message")
        transaction, done = server.intake.waiting[0]
        server.call(lambda: done(b"250 2.0.0 Ok: queued as " + transaction.queue_id.encode() + b"\r\n"))
        assert client.read() == b"250 2.0.0 Ok: queued as 4QUEUE00001\r\n"
        assert client.read() == b"250 2.1.0 Ok\r\n"
        assert {client.read() for _ in range(101)} == {b"250 2.0.0 Ok\r\n"}


def test_answers_after_the_client_said_its_last(tmp_path: Path) -> None:
    with SmtpdHere(tmp_path) as server, Client(server.port) as client:
        client.greet()
        client.envelope()
        client.say(b"DATA\r\n")
        server.intake.hold = True
        client.sock.sendall(MESSAGE)
        client.sock.shutdown(socket.SHUT_WR)
        wait_for(lambda: bool(server.intake.waiting), 5, "the message")
        server.call(lambda: server.intake.waiting[0][1](b"250 2.0.0 Ok: queued as Q\r\n"))
        assert client.read() == b"250 2.0.0 Ok: queued as Q\r\n"
        assert client.read() == b""


def test_client_that_does_not_read(tmp_path: Path) -> None:
    """Its answers wait in its own socket and in one buffer, not without end in the server."""
    with SmtpdHere(tmp_path, {"smtpd_junk_command_limit": "100000000"}) as server, Client(server.port) as client:
        client.greet()
        client.sock.setblocking(False)
        line = b"RSET\r\n" * 10000
        sent = 0
        while sent < 60_000_000:
            try:
                sent += client.sock.send(line[sent % 6 :])
            except BlockingIOError:
                if not select.select([], [client.sock], [], 0.5)[1]:
                    break
        assert sent < 60_000_000
        (session,) = server.service.sessions
        assert session.transport.get_write_buffer_size() < 1_000_000
        client.sock.setblocking(True)
        client.sock.settimeout(10)
        expected = b"250 2.0.0 Ok\r\n" * (sent // 6)
        answered = b""
        while len(answered) < len(expected):
            answered += client.sock.recv(1 << 20)
        assert answered == expected


def test_refusal_of_the_queue(tmp_path: Path) -> None:
    with SmtpdHere(tmp_path) as server, Client(server.port) as client:
        client.greet()
        server.intake.hold = True
        for reply in (b"452 4.3.1 Insufficient system storage\r\n", b"250 2.0.0 Ok: queued as Z\r\n"):
            client.envelope()
            client.sock.sendall(b"BDAT 7 LAST\r\nhello\r\n")
            wait_for(lambda: bool(server.intake.waiting), 5, "the message")
            done = server.intake.waiting.pop()[1]
            server.call(lambda done=done, reply=reply: done(reply))  # type: ignore[misc]
            expected = b"250 2.0.0 Ok: 7 bytes queued as Z\r\n" if reply.startswith(b"250") else reply
            assert client.read() == expected


def test_a_bug_of_ours_is_a_451(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with SmtpdHere(tmp_path) as server, Client(server.port) as client:
        monkeypatch.setattr(server.intake, "accept", lambda transaction, done: 1 / 0)
        client.greet()
        client.envelope()
        client.say(b"DATA\r\n")
        assert client.say(MESSAGE) == b"451 4.3.0 Error: internal error\r\n"
        assert client.say(b"NOOP\r\n") == b"250 2.0.0 Ok\r\n"
    assert any("panic: 4QUEUE00001: ZeroDivisionError" in line for line in server.log.lines)


def test_silent_client(tmp_path: Path) -> None:
    with SmtpdHere(tmp_path, {"smtpd_timeout": "1s"}) as server, Client(server.port) as client:
        client.greet()
        client.sock.sendall(b"NOO")
        assert client.read() == b"421 4.4.2 yardstick.example Error: timeout exceeded\r\n"
        assert client.read() == b""
        logged(server, "timeout after EHLO from unknown[127.0.0.1]")
        with Client(server.port) as other:
            other.greet()
            other.envelope()
            other.say(b"DATA\r\n")
            other.sock.sendall(b"12345\r\n12")
            assert other.read() == b"421 4.4.2 yardstick.example Error: timeout exceeded\r\n"
        logged(server, "timeout after DATA (7 bytes) from unknown[127.0.0.1]")


def test_errors_cost_time(tmp_path: Path) -> None:
    options = {"smtpd_soft_error_limit": "2", "smtpd_error_sleep_time": "1s"}
    with SmtpdHere(tmp_path, options) as server, Client(server.port) as client, Client(server.port) as other:
        client.greet()
        other.greet()
        assert client.say(b"FOO\r\nFOO\r\n", 2) == b"500 5.5.2 Error: command not recognized\r\n" * 2
        client.sock.sendall(b"RSET\r\nRSET\r\n")
        client.sock.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.sock.recv(1)
        assert other.say(b"NOOP\r\n") == b"250 2.0.0 Ok\r\n"  # nobody else waits
        client.sock.settimeout(5)
        assert client.sock.recv(100) == b"250 2.0.0 Ok\r\n"
        assert client.sock.recv(100) == b"250 2.0.0 Ok\r\n"


def test_connections_of_one_client(tmp_path: Path) -> None:
    options = {"smtpd_client_connection_count_limit": "2", "smtpd_client_event_limit_exceptions": ""}
    with SmtpdHere(tmp_path, options) as server:
        with Client(server.port) as one, Client(server.port) as two:
            one.greet()
            two.greet()
            with Client(server.port) as three:
                assert three.read() == b"421 4.7.0 yardstick.example Error: too many connections from 127.0.0.1\r\n"
                assert three.read() == b""
        wait_for(lambda: not server.service.sessions, 5, "the end of the sessions")
        with Client(server.port) as four:
            assert four.greet().startswith(b"250-")
    service = f"127.0.0.1:{server.port}"
    expected = f"smtpd: warning: Connection concurrency limit exceeded: 3 from unknown[127.0.0.1] for service {service}"
    assert expected in server.log.lines


@pytest.mark.parametrize(
    ("parameter", "command", "reply", "what"),
    [
        (
            "connection",
            b"",
            b"421 4.7.0 yardstick.example Error: too many connections from 127.0.0.1\r\n",
            "Connection rate",
        ),
        (
            "message",
            b"MAIL FROM:<a@b.example>\r\n",
            b"450 4.7.1 Error: too much mail from 127.0.0.1\r\n",
            "Message delivery request rate",
        ),
        (
            "recipient",
            b"RCPT TO:<c@relay.example>\r\n",
            b"450 4.7.1 Error: too many recipients from 127.0.0.1\r\n",
            "Recipient address rate",
        ),
    ],
)
def test_rates_of_one_client(tmp_path: Path, parameter: str, command: bytes, reply: bytes, what: str) -> None:
    options = {f"smtpd_client_{parameter}_rate_limit": "2", "smtpd_client_event_limit_exceptions": ""}
    with SmtpdHere(tmp_path, options) as server:
        for _ in range(2):
            with Client(server.port) as client:
                client.greet()
                client.envelope()
        with Client(server.port) as client:
            if command:
                client.greet()
                if command.startswith(b"RCPT"):
                    client.say(b"MAIL FROM:<a@b.example>\r\n")
                assert client.say(command) == reply
            else:
                assert client.read() == reply
    warning = f"warning: {what} limit exceeded: 3 from unknown[127.0.0.1] for service 127.0.0.1:{server.port}"
    assert f"smtpd: {warning}" in server.log.lines


def test_clients_in_mynetworks_are_not_limited(tmp_path: Path) -> None:
    with SmtpdHere(tmp_path, {"smtpd_client_connection_count_limit": "1"}) as server:
        with Client(server.port) as one, Client(server.port) as two:
            assert one.greet().startswith(b"250-")
            assert two.greet().startswith(b"250-")


def test_bare_newline_exclusions(tmp_path: Path) -> None:
    with SmtpdHere(tmp_path, {"smtpd_forbid_bare_newline_exclusions": "$mynetworks"}) as server:
        with Client(server.port) as client:
            client.greet()
            client.envelope()
            client.say(b"DATA\r\n")
            assert client.say(b"hello\n.\n") == b"250 2.0.0 Ok: queued as 4QUEUE00001\r\n"


def test_bare_newlines_noted(tmp_path: Path) -> None:
    with SmtpdHere(tmp_path, {"smtpd_forbid_bare_newline": "note"}) as server:
        for line in (b"hello\r\n.\r\n", b"hello\nyou\r\n.\r\n"):
            with Client(server.port) as client:
                client.greet()
                client.envelope()
                client.say(b"DATA\r\n")
                assert client.say(line).startswith(b"250 ")
            wait_for(lambda: not server.service.sessions, 5, "the end of the session")
    ends = [line for line in server.log.lines if "disconnect" in line]
    assert [line.endswith("notes=bare_lf") for line in ends] == [False, True]


def test_stop_waits_for_the_message_that_is_being_written(tmp_path: Path) -> None:
    with SmtpdHere(tmp_path) as server, Client(server.port) as idle, Client(server.port) as busy:
        idle.greet()
        busy.greet()
        busy.envelope()
        busy.say(b"DATA\r\n")
        server.intake.hold = True
        busy.sock.sendall(MESSAGE)
        wait_for(lambda: bool(server.intake.waiting), 5, "the message")
        server.call(lambda: server.service.stop(lambda: None))
        assert idle.read() == b"421 4.3.2 yardstick.example Service shutting down\r\n"
        assert idle.read() == b""
        server.call(lambda: server.intake.waiting[0][1](b"250 2.0.0 Ok: queued as Q\r\n"))
        assert busy.read() == b"250 2.0.0 Ok: queued as Q\r\n"
        assert busy.read() == b"421 4.3.2 yardstick.example Service shutting down\r\n"
        assert busy.read() == b""


# -- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "yardstick.example")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    yield path


def secure(client: Client) -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    client.file.close()
    client.sock = context.wrap_socket(client.sock)
    client.file = client.sock.makefile("rb")


def test_starttls(tmp_path: Path, certificate: Path) -> None:
    options = {
        "smtpd_tls_security_level": "may",
        "smtpd_tls_chain_files": str(certificate),
        "smtpd_tls_received_header": "yes",
    }
    with SmtpdHere(tmp_path, options) as server, Client(server.port) as client:
        assert b"250-STARTTLS\r\n" in client.greet()
        client.envelope()
        assert client.say(b"STARTTLS\r\n") == b"220 2.0.0 Ready to start TLS\r\n"
        secure(client)
        assert client.say(b"DATA\r\n") == b"503 5.5.1 Error: need RCPT command\r\n"  # nothing of before is left
        assert b"STARTTLS" not in client.say(b"EHLO y.example\r\n")
        assert client.say(b"STARTTLS\r\n") == b"554 5.5.1 Error: TLS already active\r\n"
        client.envelope()
        client.say(b"DATA\r\n")
        big = b"Subject: x\r\n\r\n" + b"".join(b"%05d\r\n" % n for n in range(100000))
        assert client.say(big + b".\r\n").startswith(b"250 2.0.0 Ok: queued as ")
        assert client.say(b"QUIT\r\n") == b"221 2.0.0 Bye\r\n"
        (message,) = server.intake.messages
    assert b"".join(message.content) == big
    assert (message.origin.helo, message.origin.protocol) == ("y.example", "ESMTPS")
    assert message.origin.tls.startswith("using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits)")
    assert server.log.lines[-1] == (
        "smtpd: disconnect from unknown[127.0.0.1] ehlo=2 starttls=1/2 mail=2 rcpt=2 data=1/2 quit=1 commands=9/11"
    )


def test_what_follows_starttls_in_plaintext_is_dropped(tmp_path: Path, certificate: Path) -> None:
    """The injection of CVE-2011-0411."""
    options = {"smtpd_tls_security_level": "may", "smtpd_tls_chain_files": str(certificate)}
    with SmtpdHere(tmp_path, options) as server, Client(server.port) as client:
        client.greet()
        assert client.say(b"STARTTLS\r\nEHLO evil.example\r\nMAIL FROM:<evil@x.example>\r\n") == (
            b"220 2.0.0 Ready to start TLS\r\n"
        )
        secure(client)
        assert client.say(b"RCPT TO:<c@relay.example>\r\n") == b"503 5.5.1 Error: need MAIL command\r\n"


def test_tls_required(tmp_path: Path, certificate: Path) -> None:
    options = {"smtpd_tls_security_level": "encrypt", "smtpd_tls_chain_files": str(certificate)}
    with SmtpdHere(tmp_path, options) as server, Client(server.port) as client:
        client.greet()
        assert client.say(b"MAIL FROM:<a@b.example>\r\n") == b"530 5.7.0 Must issue a STARTTLS command first\r\n"
        client.say(b"STARTTLS\r\n")
        secure(client)
        client.say(b"EHLO x\r\n")
        client.envelope()


def test_no_handshake(tmp_path: Path, certificate: Path) -> None:
    options = {"smtpd_tls_security_level": "may", "smtpd_tls_chain_files": str(certificate)}
    with SmtpdHere(tmp_path, options) as server:
        with Client(server.port) as client:
            client.greet()
            client.say(b"STARTTLS\r\n")
            client.sock.sendall(b"EHLO plain text\r\n")
            client.sock.settimeout(5)
            while client.sock.recv(1000):
                pass
        logged(server, "SSL_accept error from unknown[127.0.0.1]")
        logged(server, "lost connection after STARTTLS from unknown[127.0.0.1]")
