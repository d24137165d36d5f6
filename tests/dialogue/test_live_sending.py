"""What becomes of mail that cannot go out at once, or at all, as its sender and the log's reader notice it.

One server for all tests here, whose mail goes to a next hop that each test tells what to answer; notifications go to
the sender's domain by the same way.
"""

from __future__ import annotations

import email
import email.policy
import re
import smtplib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live import LiveServer, wait_for
from tests.live_sink import Mail, Sink

FAST = {
    "minimal_backoff_time": "1s",
    "maximal_backoff_time": "1s",
    "queue_run_delay": "1s",
}


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    with Sink() as made:
        yield made


@pytest.fixture(scope="module")
def server(sink: Sink, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    parameters = {"relayhost": sink.relayhost, "smtp_connection_cache_time_limit": "1s", **FAST}
    with LiveServer(tmp_path_factory.mktemp("sending"), parameters) as made:
        yield made


@pytest.fixture(autouse=True)
def willing(sink: Sink) -> Iterator[None]:
    """Each test begins with a next hop that takes everything, and that has nothing yet."""
    sink.answers.clear()
    sink.mails.clear()
    yield


def send(
    server: LiveServer,
    recipients: list[str],
    sender: str = "sender@here.test",
    mail_options: tuple[str, ...] = (),
    rcpt_options: tuple[str, ...] = (),
    body: str = "hello",
) -> str:
    """Send one; returns its queue id."""
    with smtplib.SMTP("127.0.0.1", server.port, timeout=30) as client:
        client.ehlo()
        assert client.mail(sender, mail_options)[0] == 250
        for recipient in recipients:
            assert client.rcpt(recipient, rcpt_options)[0] == 250
        code, text = client.data(f"Subject: test\r\nFrom: {sender}\r\n\r\n{body}\r\n")
    assert code == 250
    return text.decode().rpartition(" ")[2]


def lines_of(server: LiveServer, queue_id: str, until: str = ": removed") -> list[str]:
    """The log lines of a message, once the one with `until` is there."""
    server.wait_log(f"{queue_id}{until}")
    return [line.partition("]: ")[2] for line in server.log().splitlines() if f" {queue_id}:" in line]


def report(mail: Mail) -> tuple[str, dict[str, str], list[dict[str, str]]]:
    """A notification's text, its fields per message, and those of each recipient."""
    message = email.message_from_string(mail.content, policy=email.policy.default)
    assert message.get_content_type() == "multipart/report"
    text, status, _original = message.iter_parts()
    blocks = status.get_payload()
    assert isinstance(blocks, list)
    fields = [{name: str(value) for name, value in block.items()} for block in blocks]
    return text.get_content(), fields[0], fields[1:]


def test_sent(server: LiveServer, sink: Sink) -> None:
    queue_id = send(server, ["one@there.test", "two@there.test"])
    (mail,) = sink.wait(1)
    assert mail.recipients == ["<one@there.test>", "<two@there.test>"]
    assert f"id {queue_id}" in mail.content
    assert mail.content.endswith("\r\n\r\nhello\r\n")
    lines = lines_of(server, queue_id)
    assert lines[0] == f"{queue_id}: client=localhost[127.0.0.1]"
    assert lines[1].startswith(f"{queue_id}: message-id=<")
    assert re.fullmatch(rf"{queue_id}: from=<sender@here.test>, size=\d+, nrcpt=2 \(queue active\)", lines[2])
    for line, name in zip(lines[3:5], ("one", "two"), strict=True):
        assert re.fullmatch(
            rf"{queue_id}: to=<{name}@there.test>, relay=127.0.0.1\[127.0.0.1\]:{sink.port}, (conn_use=\d+, )?"
            r"delay=[\d.]+, delays=[\d.]+/[\d.]+/[\d.]+/[\d.]+, dsn=2.0.0, status=sent \(250 2.0.0 kept\)",
            line,
        )
    assert lines[5:] == [f"{queue_id}: removed"]


@pytest.mark.parametrize(
    ("stage", "command"),
    [
        ("MAIL", "MAIL FROM command"),
        ("RCPT", "RCPT TO command"),
        ("DATA", "DATA command"),
        (".", "end of DATA command"),
    ],
)
def test_refused_for_now_and_sent_later(server: LiveServer, sink: Sink, stage: str, command: str) -> None:
    sink.answers[stage] = "450 4.2.0 not now"
    queue_id = send(server, ["later@there.test"])
    reason = f"host 127.0.0.1[127.0.0.1] said: 450 4.2.0 not now (in reply to {command})"
    server.wait_log(f"status=deferred ({reason})")
    listed = server.run("postqueue", "-p").stdout
    assert queue_id in listed
    assert "450 4.2.0 not now" in " ".join(listed.split())
    sink.answers.clear()
    (mail,) = sink.wait(1)
    assert mail.recipients == ["<later@there.test>"]
    lines = lines_of(server, queue_id)
    assert [line for line in lines if "status=" in line][-1].endswith("status=sent (250 2.0.0 kept)")


@pytest.mark.parametrize(
    ("stage", "command"),
    [
        ("MAIL", "MAIL FROM command"),
        ("RCPT", "RCPT TO command"),
        ("DATA", "DATA command"),
        (".", "end of DATA command"),
    ],
)
def test_refused_for_good_comes_back_to_its_sender(server: LiveServer, sink: Sink, stage: str, command: str) -> None:
    # the notification itself, from the null sender, is taken
    answered = {"MAIL": "MAIL FROM:<sender", "RCPT": "RCPT TO:<nobody@", "DATA": "DATA <sender", ".": ". <sender"}
    sink.answers[answered[stage]] = "550 5.7.9 we do not want this"
    queue_id = send(server, ["nobody@there.test"])
    reason = f"host 127.0.0.1[127.0.0.1] said: 550 5.7.9 we do not want this (in reply to {command})"
    server.wait_log(f"status=bounced ({reason})")
    lines = lines_of(server, queue_id)
    notice = lines[-2].rpartition(" ")[2]
    assert lines[-2:] == [f"{queue_id}: sender non-delivery notification: {notice}", f"{queue_id}: removed"]
    (mail,) = sink.wait(1)
    assert mail.sender.startswith("<>")
    assert mail.recipients == ["<sender@here.test>"]
    text, message, (recipient,) = report(mail)
    assert "<nobody@there.test>: " in text
    assert message["Reporting-MTA"] == "dns; mail.fastmta.test"
    assert message["X-Postfix-Queue-ID"] == queue_id
    assert recipient["Final-Recipient"] == "rfc822; nobody@there.test"
    assert recipient["Action"] == "failed"
    assert recipient["Status"] == "5.7.9"
    assert recipient["Remote-MTA"] == "dns; 127.0.0.1"
    assert recipient["Diagnostic-Code"] == "smtp; 550 5.7.9 we do not want this"


def test_each_recipient_has_its_own_answer(server: LiveServer, sink: Sink) -> None:
    sink.answers |= {"RCPT TO:<bad@": "550 5.1.1 no such user", "RCPT TO:<slow@": "451 4.2.1 mailbox busy"}
    queue_id = send(server, ["good@there.test", "bad@there.test", "slow@there.test"])
    mails = sink.wait(2)
    assert [mail.recipients for mail in mails if mail.sender.startswith("<sender")] == [["<good@there.test>"]]
    (notice,) = [mail for mail in mails if mail.sender.startswith("<>")]
    assert [fields["Final-Recipient"] for fields in report(notice)[2]] == ["rfc822; bad@there.test"]
    sink.answers.clear()
    mails = sink.wait(3)
    assert mails[2].recipients == ["<slow@there.test>"]
    lines_of(server, queue_id)
    assert len(sink.mails) == 3


def test_a_notification_that_nobody_takes_goes_no_further(server: LiveServer, sink: Sink) -> None:
    sink.answers["RCPT"] = "550 5.1.1 nobody at all"
    queue_id = send(server, ["nobody@there.test"], sender="gone@here.test")
    notice = lines_of(server, queue_id)[-2].rpartition(" ")[2]
    lines = lines_of(server, notice)
    assert "to=<gone@here.test>" in lines[-2]
    assert "status=bounced" in lines[-2]
    assert sink.mails == []


def test_mail_of_the_null_sender_is_not_answered(server: LiveServer, sink: Sink) -> None:
    sink.answers["RCPT TO:<nobody@"] = "550 5.1.1 no such user"
    queue_id = send(server, ["nobody@there.test"], sender="")
    lines = lines_of(server, queue_id)
    assert "status=bounced" in lines[-2]
    assert not any("notification" in line for line in lines)


def test_success_is_reported_for_a_next_hop_that_does_not(server: LiveServer, sink: Sink) -> None:
    queue_id = send(
        server,
        ["one@there.test"],
        mail_options=("RET=HDRS", "ENVID=trace+2B1"),
        rcpt_options=("NOTIFY=SUCCESS,FAILURE", "ORCPT=rfc822;orig@there.test"),
    )
    mails = sink.wait(2)
    text, message, (recipient,) = report(next(mail for mail in mails if mail.sender.startswith("<>")))
    assert "successfully" in text
    assert message["Original-Envelope-Id"] == "trace+1"
    assert recipient["Action"] == "relayed"
    assert recipient["Status"] == "2.0.0"
    assert recipient["Original-Recipient"] == "rfc822;orig@there.test"
    lines = lines_of(server, queue_id)
    assert lines[-2].startswith(f"{queue_id}: sender delivery status notification: ")


def test_success_is_left_to_a_next_hop_that_knows_dsn(server: LiveServer, sink: Sink) -> None:
    sink.answers["EHLO"] = "250-next.hop.test\r\n250 DSN"
    wait_for(lambda: sink.open == 0, 20, "connections of earlier tests are closed")
    queue_id = send(server, ["one@there.test"], mail_options=("ENVID=x1",), rcpt_options=("NOTIFY=SUCCESS",))
    (mail,) = sink.wait(1)
    assert "ENVID=x1" in mail.sender
    assert mail.recipients[0] == "<one@there.test> ORCPT=rfc822;one@there.test NOTIFY=SUCCESS"
    lines = lines_of(server, queue_id)
    assert not any("notification" in line for line in lines)
    wait_for(lambda: sink.open == 0, 20, "no later test gets that connection")


def test_notify_never_silences_a_failure(server: LiveServer, sink: Sink) -> None:
    sink.answers["RCPT TO:<nobody@"] = "550 5.1.1 no such user"
    queue_id = send(server, ["nobody@there.test"], rcpt_options=("NOTIFY=NEVER",))
    lines = lines_of(server, queue_id)
    assert "status=bounced" in lines[-2]
    assert not any("notification" in line for line in lines)


def test_too_big_for_the_next_hop(server: LiveServer, sink: Sink) -> None:
    sink.answers["EHLO"] = "250-next.hop.test\r\n250 SIZE 1000"
    wait_for(lambda: sink.open == 0, 20, "connections of earlier tests are closed")
    queue_id = send(server, ["one@there.test"], body="x" * 70 + "\r\n" * 1000, rcpt_options=("NOTIFY=NEVER",))
    lines = lines_of(server, queue_id)
    assert re.search(
        r"dsn=5.3.4, status=bounced \(message size \d+ exceeds size limit 1000 of server 127.0.0.1\[127.0.0.1\]\)",
        lines[-2],
    )
    assert sink.mails == []
    wait_for(lambda: sink.open == 0, 20, "no later test gets that connection")


def test_a_connection_that_breaks_loses_nothing(server: LiveServer, sink: Sink) -> None:
    sink.answers["."] = "drop"
    send(server, ["one@there.test"])
    server.wait_log(
        "lost connection with 127.0.0.1[127.0.0.1] while sending end of data -- message may be sent more than once"
    )
    sink.answers.clear()
    (mail,) = sink.wait(1)
    assert mail.recipients == ["<one@there.test>"]


# Servers of their own: parameters that change what happens to all mail


def test_expired_mail_is_returned(tmp_path: Path) -> None:
    with Sink({"RCPT TO:<late@": "450 4.2.0 not now"}) as sink:
        with LiveServer(tmp_path, {"relayhost": sink.relayhost, "maximal_queue_lifetime": "2s", **FAST}) as server:
            queue_id = send(server, ["late@there.test"])
            (mail,) = sink.wait(1)
            assert mail.recipients == ["<sender@here.test>"]
            _text, _message, (recipient,) = report(mail)
            assert (recipient["Action"], recipient["Status"]) == ("failed", "4.2.0")
            lines = lines_of(server, queue_id)
            assert f"{queue_id}: from=<sender@here.test>, status=expired, returned to sender" in lines
            assert sum("status=deferred" in line for line in lines) >= 2


def test_delay_warning_and_postmaster_notices(tmp_path: Path) -> None:
    answers = {"RCPT TO:<late@": "450 4.2.0 not now", "RCPT TO:<gone@": "550 5.1.1 gone"}
    parameters = {
        "delay_warning_time": "1s",
        "notify_classes": "bounce, 2bounce, delay",
        "myorigin": "fastmta.test",
        **FAST,
    }
    with Sink(answers) as sink, LiveServer(tmp_path, {"relayhost": sink.relayhost, **parameters}) as server:
        queue_id = send(server, ["late@there.test"])
        mails = sink.wait(2)
        told = {mail.recipients[0]: mail for mail in mails}
        assert set(told) == {"<sender@here.test>", "<postmaster@fastmta.test>"}
        _text, _message, (recipient,) = report(told["<sender@here.test>"])
        assert (recipient["Action"], recipient["Status"]) == ("delayed", "4.2.0")
        assert recipient["Will-Retry-Until"]
        lines = lines_of(server, queue_id, ": sender delay notification: ")
        assert any("postmaster delay notification: " in line for line in lines)
        # a bounce that bounces is the postmaster's
        sink.mails.clear()
        queue_id = send(server, ["gone@there.test"], sender="gone@here.test")
        wait_for(lambda: any("gone@here.test" in mail.content for mail in sink.wait(2)), 20, "double bounce")
        postmaster = [mail for mail in sink.wait(2) if mail.recipients == ["<postmaster@fastmta.test>"]]
        assert len(postmaster) == 2
        assert all(mail.sender.startswith("<double-bounce@mail.fastmta.test>") for mail in postmaster)
        assert len([1 for mail in sink.mails if mail.sender.startswith("<sender")]) == 0
        assert server.log().count("sender delay notification") == 1


def test_other_transports(tmp_path: Path) -> None:
    """error, discard, a transport put off, one that is not there, and mail for this host."""
    parameters = {
        "mydestination": "$myhostname",
        "default_transport": "discard:thrown away",
        "relay_domains": "relayed.test",
        "relay_transport": "error:5.7.1 we relay no more",
        "smtpd_reject_unlisted_recipient": "no",
        "notify_classes": "",
        **FAST,
    }
    server = LiveServer(tmp_path, parameters)
    with server:
        queue_id = send(server, ["x@there.test"])
        assert lines_of(server, queue_id)[-2].endswith(
            "relay=none, delay=0, delays=0/0/0/0, dsn=2.0.0, status=sent (thrown away)"
        ) or (
            "relay=none" in lines_of(server, queue_id)[-2]
            and "status=sent (thrown away)" in lines_of(server, queue_id)[-2]
        )
        queue_id = send(server, ["x@relayed.test"], sender="")
        assert re.search(
            r"relay=none, .*dsn=5.7.1, status=bounced \(we relay no more\)", lines_of(server, queue_id)[-2]
        )
        local = send(server, ["user@mail.fastmta.test"])
        line = lines_of(server, local, ": to=<user@mail.fastmta.test>")[-1]
        assert re.search(r"relay=\S+, .*dsn=4.3.0, status=deferred \(.*not supported yet.*\)", line)
        assert "user@mail.fastmta.test" in server.run("postqueue", "-p").stdout

        server.parameters |= {"default_transport": "discard", "defer_transports": "discard"}
        server.write_main_cf()
        assert server.run("fastmta", "reload").returncode == 0
        queue_id = send(server, ["x@there.test"])
        line = lines_of(server, queue_id, ": to=<x@there.test>")[-1]
        assert "status=deferred (deferred transport)" in line
        server.parameters |= {"default_transport": "nothere", "defer_transports": ""}
        server.write_main_cf()
        assert server.run("fastmta", "reload").returncode == 0
        other = send(server, ["x@there.test"])
        line = lines_of(server, other, ": to=<x@there.test>")[-1]
        assert "dsn=4.3.0, status=deferred (mail transport unavailable)" in line
        server.wait_log("warning: connect to transport private/nothere: No such file or directory")


def test_soft_bounce_keeps_everything(tmp_path: Path) -> None:
    with Sink({"RCPT": "550 5.1.1 no such user"}) as sink:
        with LiveServer(tmp_path, {"relayhost": sink.relayhost, "soft_bounce": "yes", **FAST}) as server:
            queue_id = send(server, ["x@there.test"])
            line = lines_of(server, queue_id, ": to=<x@there.test>")[-1]
            assert "dsn=4.1.1, status=deferred (host 127.0.0.1[127.0.0.1] said: 550 5.1.1 no such user" in line
            sink.answers.clear()
            (mail,) = sink.wait(1)
            assert mail.recipients == ["<x@there.test>"]
