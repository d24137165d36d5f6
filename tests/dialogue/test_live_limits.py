"""Limits on clients and destinations: shared by all workers, told and logged as Postfix does."""

from __future__ import annotations

import re
import smtplib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.live import MASTER_CF, LiveServer, free_port
from tests.live_sink import Sink

WORKERS = 3
SECOND = 3  # connections at a time at the service that has limits of its own


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A service without limits, and one for each kind of them."""
    made = LiveServer(
        tmp_path_factory.mktemp("limits"),
        {
            "default_transport": "discard",
            "smtpd_client_event_limit_exceptions": "127.0.0.9",
            "smtpd_client_connection_count_limit": "1000",
            "inet_protocols": "all",
        },
        workers=WORKERS,
        extra_master_cf="".join(
            f"127.0.0.1:{port} inet n - n - - smtpd\n{''.join(f'  -o {option}' + chr(10) for option in options)}"
            for port, options in PORTS.values()
        )
        + f"[::1]:{V6_PORT} inet n - n - - smtpd\n",
    )
    with made:
        yield made


PORTS = {
    "count": (free_port(), ["smtpd_client_connection_count_limit=5"]),
    "rate": (free_port(), ["smtpd_client_connection_rate_limit=6"]),
    "messages": (free_port(), ["smtpd_client_message_rate_limit=4"]),
    "recipients": (free_port(), ["smtpd_client_recipient_rate_limit=7"]),
    "errors": (
        free_port(),
        [
            "smtpd_soft_error_limit=2",
            "smtpd_hard_error_limit=4",
            "smtpd_error_sleep_time=1s",
            "smtpd_junk_command_limit=3",
        ],
    ),
    "silence": (free_port(), ["smtpd_timeout=2s"]),
    "own": (
        free_port(),
        [
            "smtpd_banner=$myhostname$2nd",
            "{ smtpd_banner = $myhostname second service }",
            "syslog_name=postfix/second",
            "message_size_limit=5000",
            "smtpd_recipient_limit=2",
            "mynetworks=127.0.0.77",
        ],
    ),
}
V6_PORT = free_port("::1")


def connect(kind: str, source: str = "127.0.0.1") -> smtplib.SMTP:
    return smtplib.SMTP("127.0.0.1", PORTS[kind][0], timeout=30, source_address=(source, 0))


def dial(kind: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", PORTS[kind][0]), timeout=30)


def service(kind: str) -> str:
    return f"127.0.0.1:{PORTS[kind][0]}"


def test_connections_at_a_time_over_all_workers(server: LiveServer) -> None:
    with ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(connect("count"))
        for _ in range(3):
            with dial("count") as sock:
                with sock.makefile("rb") as stream:
                    said = stream.read()
            assert said == b"421 4.7.0 mail.fastmta.test Error: too many connections from 127.0.0.1\r\n"
        with connect("count", "127.0.0.8") as other:
            assert other.noop()[0] == 250
        for _ in range(8):
            stack.enter_context(connect("count", "127.0.0.9"))
    log = server.wait_log("Connection concurrency limit exceeded", count=3)
    assert (
        f"warning: Connection concurrency limit exceeded: 6 from localhost[127.0.0.1] for service {service('count')}\n"
        in log
    )
    # those that ended made room
    server.wait_log("disconnect from localhost[127.0.0.1] quit=1 commands=1", count=5)
    with connect("count") as client:
        assert client.noop()[0] == 250


def test_connection_rate_over_all_workers(server: LiveServer) -> None:
    for _ in range(6):
        connect("rate").quit()
    with pytest.raises(smtplib.SMTPConnectError) as refused:
        connect("rate")
    assert refused.value.smtp_code == 421
    assert refused.value.smtp_error == b"4.7.0 mail.fastmta.test Error: too many connections from 127.0.0.1"
    server.wait_log(
        f"warning: Connection rate limit exceeded: 7 from localhost[127.0.0.1] for service {service('rate')}\n"
    )
    connect("rate", "127.0.0.8").quit()


def test_message_rate_over_all_workers(server: LiveServer) -> None:
    for _ in range(4):
        with connect("messages") as client:
            client.sendmail("a@a.test", ["b@b.test"], "Subject: x\r\n\r\nx")
    with connect("messages") as client:
        client.ehlo()
        assert client.mail("a@a.test") == (450, b"4.7.1 Error: too much mail from 127.0.0.1")
    server.wait_log(
        "warning: Message delivery request rate limit exceeded: 5 from localhost[127.0.0.1] "
        f"for service {service('messages')}\n"
    )


def test_recipient_rate_over_all_workers(server: LiveServer) -> None:
    for _ in range(7):
        with connect("recipients") as client:
            client.ehlo()
            client.mail("a@a.test")
            assert client.rcpt("b@b.test")[0] == 250
    with connect("recipients") as client:
        client.ehlo()
        client.mail("a@a.test")
        assert client.rcpt("b@b.test") == (450, b"4.7.1 Error: too many recipients from 127.0.0.1")
    server.wait_log(
        "warning: Recipient address rate limit exceeded: 8 from localhost[127.0.0.1] "
        f"for service {service('recipients')}\n"
    )


def test_errors_cost_time_and_in_the_end_the_connection(server: LiveServer) -> None:
    client = connect("errors")
    times = []
    for _ in range(4):
        began = time.monotonic()
        answer = client.docmd("MAIL", "nonsense")
        times.append(time.monotonic() - began)
        assert answer[0] in (501, 503)
    began = time.monotonic()
    assert client.docmd("MAIL", "nonsense") == (421, b"4.7.0 mail.fastmta.test Error: too many errors")
    assert min(times[2:]) >= 0.9
    server.wait_log("too many errors after MAIL from localhost[127.0.0.1]")
    client.close()


def test_a_silent_client_is_sent_away(server: LiveServer) -> None:
    goodbye = b"421 4.4.2 mail.fastmta.test Error: timeout exceeded\r\n"
    with dial("silence") as sock, sock.makefile("rb") as stream:
        stream.readline()
        sock.sendall(b"HELO c.test\r\n")
        stream.readline()
        sock.sendall(b"MAIL FROM:<a@a.test>\r\n")
        stream.readline()
        began = time.monotonic()
        assert stream.read() == goodbye
        assert 1.5 < time.monotonic() - began < 10
    server.wait_log("timeout after MAIL from localhost[127.0.0.1]")
    # one that stops in the middle of a message, too
    with dial("silence") as sock, sock.makefile("rb") as stream:
        stream.readline()
        for line in (b"HELO c.test", b"MAIL FROM:<a@a.test>", b"RCPT TO:<b@b.test>", b"DATA"):
            sock.sendall(line + b"\r\n")
            stream.readline()
        sock.sendall(b"Subject: half\r\n")
        assert stream.read() == goodbye
    server.wait_log("timeout after DATA (15 bytes) from localhost[127.0.0.1]")


def test_options_of_one_service_are_its_own(server: LiveServer) -> None:
    with dial("own") as sock:
        assert sock.recv(200) == b"220 mail.fastmta.test second service\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
        assert sock.recv(200) == b"220 mail.fastmta.test ESMTP Postfix\r\n"
    server.wait_log("postfix/second/smtpd[")
    with connect("own") as client:
        client.ehlo()
        assert client.esmtp_features["size"] == "5000"
        assert client.mail("a@a.test", ["SIZE=5001"])[0] == 552
        client.mail("a@a.test")
        assert client.rcpt("b@b.test") == (454, b"4.7.1 <b@b.test>: Relay access denied")
    with connect("own", "127.0.0.77") as client:
        client.ehlo()
        client.mail("a@a.test")
        assert [client.rcpt("b@b.test")[0] for _ in range(3)] == [250, 250, 452]
        assert client.data("x\r\n" * 2000) == (552, b"5.3.4 Error: message file too big")


def test_ipv6(server: LiveServer) -> None:
    with smtplib.SMTP("::1", V6_PORT, timeout=30) as client:
        code, text = client.docmd("EHLO", "six.test")
        assert code == 250
        client.mail("a@a.test")
        code, text = client.rcpt("b@b.test")
        assert (code, text) == (454, b"4.7.1 <b@b.test>: Relay access denied"), "::1 is not in mynetworks"
    log = server.wait_log("[::1] ehlo=1 mail=1 rcpt=0/1 quit=1 commands=3/4")
    assert re.search(r"reject: RCPT from (localhost|unknown)\[::1\]: 454 4.7.1 <b@b.test>: Relay access denied; ", log)


def test_connections_to_a_destination_over_all_workers(tmp_path: Path) -> None:
    with Sink() as sink:
        sink.gate.clear()
        parameters = {
            "relayhost": sink.relayhost,
            "initial_destination_concurrency": "4",
            "smtp_destination_concurrency_limit": "4",
        }
        with LiveServer(tmp_path, parameters, workers=WORKERS) as server:

            def send(number: int) -> None:
                for n in range(5):
                    with smtplib.SMTP("127.0.0.1", server.port, timeout=30) as client:
                        client.sendmail("a@a.test", [f"r{number}-{n}@there.test"], "Subject: x\r\n\r\nx")

            senders = [threading.Thread(target=send, args=(number,)) for number in range(6)]
            for sender in senders:
                sender.start()
            for sender in senders:
                sender.join()
            for _ in range(4):
                assert sink.entered.acquire(timeout=30)
            server.wait_log("(queue active)", count=30)
            assert not sink.entered.acquire(timeout=0.7), "a fifth connection has a message"
            assert sink.busy == 4
            sink.gate.set()
            mails = sink.wait(30)
        assert len({mail.recipients[0] for mail in mails}) == 30
        assert sink.most_busy == 4


def test_a_limited_transport_of_its_own(tmp_path: Path) -> None:
    """slow_destination_concurrency_limit = 1: one after the other, while other mail goes as usual."""
    with Sink() as slow, Sink() as fast:
        slow.gate.clear()
        parameters = {
            "relay_domains": "slow.test",
            "relay_transport": f"slow:{slow.relayhost}",
            "relayhost": fast.relayhost,
            "slow_destination_concurrency_limit": "1",
        }
        master_cf = MASTER_CF + "slow unix - - n - - smtp\n  -o syslog_name=postfix/slow\n"
        with LiveServer(tmp_path, parameters, workers=2, master_cf=master_cf) as server:
            for number in range(6):
                with smtplib.SMTP("127.0.0.1", server.port, timeout=30) as client:
                    client.sendmail("a@a.test", [f"{number}@slow.test"], "Subject: x\r\n\r\nx")
                    client.sendmail("a@a.test", [f"{number}@fast.test"], "Subject: x\r\n\r\nx")
            fast.wait(6)
            assert slow.entered.acquire(timeout=30)
            assert not slow.entered.acquire(timeout=0.5)
            slow.gate.set()
            slow.wait(6)
            server.wait_log("postfix/slow/smtp[", count=6)
        assert slow.most_busy == 1


def test_the_highest_rates_are_logged_as_anvil_does(tmp_path: Path) -> None:
    parameters = {
        "default_transport": "discard",
        "anvil_status_update_time": "3s",
        "anvil_rate_time_unit": "30s",
        "smtpd_client_event_limit_exceptions": "",
        "smtpd_client_message_rate_limit": "100",
        "smtpd_client_recipient_rate_limit": "100",
    }
    server = LiveServer(tmp_path, parameters, workers=2)
    with server:
        for _ in range(3):
            with smtplib.SMTP("127.0.0.1", server.port, timeout=30) as client:
                client.sendmail("a@a.test", ["b@b.test", "c@c.test"], "Subject: x\r\n\r\nx")
        user = rf"\(127.0.0.1:{server.port}:127.0.0.1\) at [A-Z][a-z][a-z] [ \d]\d \d\d:\d\d:\d\d"
        log = server.wait_log("statistics: max recipient rate 6/30s")
        assert re.search(rf"postfix/anvil\[\d+\]: statistics: max connection rate 3/30s for {user}\n", log)
        assert re.search(rf"postfix/anvil\[\d+\]: statistics: max connection count [123] for {user}\n", log)
        assert re.search(rf"postfix/anvil\[\d+\]: statistics: max message rate 3/30s for {user}\n", log)
        with smtplib.SMTP("127.0.0.1", server.port, timeout=30) as client:
            client.noop()
    # what came since is told at stop, and once
    rest = server.log()[len(log) :]
    assert re.search(rf"statistics: max connection rate 4/30s for {user}\n", rest)
    assert server.log().count("statistics: max recipient rate") == 1
