"""Real servers as next hops of a real FastMTA, found through MX records of a real name server."""

from __future__ import annotations

import re
import smtplib
from collections.abc import Callable, Iterator

import pytest

from tests.live import LiveServer, wait_for
from tests.peers.aiosmtpd_hop import AiosmtpdHop
from tests.peers.certificate import Certificate, make_certificate
from tests.peers.next_hops import EximHop, NextHop, PostfixHop
from tests.peers.samples import header, samples, without_trace
from tests.peers.zone import NameServer

pytestmark = pytest.mark.peer
PORT = 21810
DNS_PORT = 21811


def aiosmtpd(address: str, port: int, certificate: Certificate) -> AiosmtpdHop:
    return AiosmtpdHop(address, port, certificate=certificate)


HOPS: dict[str, tuple[str, Callable[[str, int, Certificate], NextHop]]] = {
    "aiosmtpd": ("127.0.0.21", aiosmtpd),
    "postfix": ("127.0.0.22", PostfixHop),
    "exim": ("127.0.0.23", EximHop),
}
ZONE = "".join(f"{name} MX 10 mx.{name}\nmx.{name} A {address}\n" for name, (address, _) in HOPS.items())


class Way:
    """A FastMTA, and one of the next hops that its name server knows."""

    def __init__(self, server: LiveServer, hop: NextHop, name: str) -> None:
        self.server = server
        self.hop = hop
        self.name = name
        self.domain = f"{name}.test"
        self.relay = f"mx.{name}.test[{HOPS[name][0]}]:{PORT}"

    def send(self, content: bytes, *recipients: str, sender: str = "sender@client.test") -> str:
        """The queue id."""
        with smtplib.SMTP("127.0.0.1", self.server.port, timeout=30) as client:
            client.ehlo()
            client.mail(sender, ["BODY=8BITMIME"])
            for recipient in recipients:
                code, text = client.rcpt(f"{recipient}@{self.domain}")
                assert code == 250, text
            code, text = client.data(content)
        assert code == 250, text
        return text.decode().split()[-1]

    def outcome(self, queue_id: str, recipient: str, status: str, count: int = 1) -> str:
        """The log line with this status of a recipient."""

        def lines(log: str) -> list[str]:
            wanted = rf".*: {queue_id}: to=<{recipient}@{self.domain}>, .*status={status} .*"
            return re.findall(wanted, log)

        wait_for(lambda: len(lines(self.server.log())) >= count, 30, f"{queue_id} {recipient} {status}")
        return lines(self.server.log())[-1]

    def flush(self) -> None:
        done = self.server.run("postqueue", "-f")
        assert done.returncode == 0, done.stderr

    def queued(self) -> str:
        return self.server.run("postqueue", "-p").stdout


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    folder = tmp_path_factory.mktemp("certificate")
    for parent in (folder, *folder.parents[:2]):
        parent.chmod(0o755)
    return make_certificate(folder, *(address for address, _ in HOPS.values()))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("relay")
    with NameServer(folder / "dns", DNS_PORT, {"test": ZONE}) as names:
        parameters = {
            "fastmta_dns_servers": names.server,
            "smtp_tcp_port": str(PORT),
            "smtp_tls_security_level": "may",
            "smtp_tls_loglevel": "1",
            "notify_classes": "",
        }
        with LiveServer(folder, parameters) as server:
            yield server


@pytest.fixture(scope="module", params=HOPS)
def way(request: pytest.FixtureRequest, server: LiveServer, certificate: Certificate) -> Iterator[Way]:
    address, make = HOPS[request.param]
    hop = make(address, PORT, certificate)
    try:
        hop.start()
        yield Way(server, hop, request.param)
    finally:
        hop.close()


@pytest.mark.parametrize("name", samples(""))
def test_every_byte_arrives_and_is_kept(way: Way, name: str) -> None:
    token = f"kept-{way.name}"
    content = samples(token)[name]
    queue_id = way.send(content, "one", "two")
    stored = way.hop.stored(f"<{token}-{name}@".encode(), 2)
    assert [without_trace(one) for one in stored] == [content] * 2
    for recipient in ("one", "two"):
        line = way.outcome(queue_id, recipient, "sent")
        assert f"relay={way.relay}, " in line
        assert "dsn=2." in line
        assert "(250 " in line
    way.server.wait_log(f"{queue_id}: removed")


def test_mail_goes_under_tls(way: Way) -> None:
    token = f"tls-{way.name}"
    way.send(header(token) + b"secret\r\n", "one")
    (stored,) = way.hop.stored(token.encode())
    if isinstance(way.hop, AiosmtpdHop):
        (mail,) = way.hop.wait(lambda mail: token.encode() in mail.content)
        assert mail.tls
    else:
        first = stored[: stored.index(b"Received: from", stored.index(b"Received: from") + 1)]
        assert b"mail.fastmta.test" in first
        assert b"TLS1" in first or b"TLSv1" in first, way.server.log()[-3000:]
        assert b"with ESMTPS" in first or b"with esmtps" in first


def test_each_recipient_has_its_own_fate(way: Way) -> None:
    token = f"mixed-{way.name}"
    content = header(token) + b"one for you\r\n"
    queue_id = way.send(content, "yes", "nobody", "later", "yes2", sender=f"author@{way.domain}")
    way.outcome(queue_id, "yes", "sent")
    way.outcome(queue_id, "yes2", "sent")
    refused = way.outcome(queue_id, "nobody", "bounced")
    host = way.relay.rpartition(":")[0]
    assert "dsn=5.1.1" in refused
    assert f"(host {host} said: 550 5.1.1 " in refused
    assert refused.endswith("(in reply to RCPT TO command))")
    deferred = way.outcome(queue_id, "later", "deferred")
    assert "dsn=4.2.0" in deferred
    assert f"(host {host} said: 450 4.2.0 " in deferred

    # The sender is told about the one that was refused, and about no other.
    stored = way.hop.stored(token.encode(), 3)
    (report,) = [one for one in stored if b"multipart/report" in one]
    assert f"Final-Recipient: rfc822; nobody@{way.domain}\r\n".encode() in report
    assert report.count(b"Final-Recipient:") == 1
    assert b"Action: failed\r\nStatus: 5.1.1\r\n" in report
    assert f"<author@{way.domain}>" in way.server.log()

    listing = way.queued()
    assert queue_id in listing
    assert f"later@{way.domain}" in listing
    assert f"yes@{way.domain}" not in listing
    assert f"nobody@{way.domain}" not in listing

    way.hop.let_all_in()
    way.flush()
    way.outcome(queue_id, "later", "sent")
    way.server.wait_log(f"{queue_id}: removed")
    copies = [one for one in way.hop.stored(token.encode(), 4) if b"multipart/report" not in one]
    assert [without_trace(one) for one in copies] == [content] * 3
    assert queue_id not in way.queued()


def test_mail_waits_for_a_server_that_is_down(way: Way) -> None:
    token = f"down-{way.name}"
    content = samples(token)["dots"]
    way.hop.stop()
    queue_ids = [way.send(content, "one") for _ in range(3)]
    for queue_id in queue_ids:
        line = way.outcome(queue_id, "one", "deferred")
        assert "relay=none, " in line
        assert "dsn=4.4.1" in line
        assert f"(connect to {way.relay}: Connection refused)" in line
    way.hop.start()
    way.flush()
    for queue_id in queue_ids:
        way.outcome(queue_id, "one", "sent")
    stored = way.hop.stored(f"<{token}-dots@".encode(), 3)
    assert [without_trace(one) for one in stored] == [content] * 3
