"""Delivery by LMTP to real servers, over TCP and UNIX sockets: each recipient has an answer of its own."""

from __future__ import annotations

import re
import smtplib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live import LiveServer, wait_for
from tests.peers.aiosmtpd_hop import AiosmtpdHop
from tests.peers.dovecot_lmtp import Dovecot
from tests.peers.samples import header, samples, without_trace

pytestmark = pytest.mark.peer
DOVECOT, AIOSMTPD, PORT = "127.0.0.41", "127.0.0.42", 21830


class Route:
    """A FastMTA whose default transport is LMTP."""

    def __init__(self, server: LiveServer, relay: str) -> None:
        self.server = server
        self.relay = relay

    def send(self, content: bytes, *users: str) -> str:
        with smtplib.SMTP("127.0.0.1", self.server.port, timeout=30) as client:
            client.ehlo()
            client.mail("sender@client.test")
            for user in users:
                code, text = client.rcpt(f"{user}@lmtp.test")
                assert code == 250, text
            code, text = client.data(content)
        assert code == 250, text
        return text.decode().split()[-1]

    def outcome(self, queue_id: str, user: str) -> tuple[str, str, str, str]:
        """(relay, status, dsn, text)"""
        pattern = rf": {queue_id}: to=<{user}@lmtp.test>, relay=(\S+?), .*?dsn=(\S+), status=(\w+) \((.*)\)$"
        wait_for(lambda: re.search(pattern, self.server.log(), re.M) is not None, 30, f"{queue_id} {user}")
        relay, dsn, status, text = re.findall(pattern, self.server.log(), re.M)[-1]
        return relay, status, dsn, text


@pytest.fixture(scope="module")
def dovecot() -> Iterator[Dovecot]:
    server = Dovecot(DOVECOT, PORT)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module", params=["inet", "unix"])
def to_dovecot(
    request: pytest.FixtureRequest, dovecot: Dovecot, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Route]:
    if request.param == "inet":
        nexthop, relay = f"inet:{DOVECOT}:{PORT}", f"{DOVECOT}[{DOVECOT}]:{PORT}"
    else:
        nexthop, relay = f"unix:{dovecot.socket}", f"mail.fastmta.test[{dovecot.socket}]"  # our own name, as Postfix
    parameters = {"default_transport": f"lmtp:{nexthop}", "bounce_queue_lifetime": "0"}
    with LiveServer(tmp_path_factory.mktemp("lmtp"), parameters) as server:
        yield Route(server, relay)


@pytest.mark.parametrize("name", samples(""))
def test_dovecot_keeps_every_byte(to_dovecot: Route, dovecot: Dovecot, name: str) -> None:
    token = f"lmtp-{to_dovecot.server.port}"
    content = samples(token)[name]
    queue_id = to_dovecot.send(content, "one", "two")
    for user in ("one", "two"):
        relay, status, dsn, text = to_dovecot.outcome(queue_id, user)
        assert (relay, status, dsn) == (to_dovecot.relay, "sent", "2.0.0")
        assert re.fullmatch(rf"250 2\.0\.0 <{user}@lmtp\.test> \S+ Saved", text)
        (stored,) = dovecot.stored(f"<{token}-{name}@".encode(), user)
        assert without_trace(stored) == content
    to_dovecot.server.wait_log(f"{queue_id}: removed")


def test_dovecot_answers_for_each_recipient(to_dovecot: Route, dovecot: Dovecot) -> None:
    token = f"each-{to_dovecot.server.port}"
    content = header(token) + b"for all who have room\r\n"
    queue_id = to_dovecot.send(content, "one", "unknown", "full", "two")
    assert to_dovecot.outcome(queue_id, "one")[1] == "sent"
    assert to_dovecot.outcome(queue_id, "two")[1] == "sent"
    relay, status, dsn, text = to_dovecot.outcome(queue_id, "unknown")
    assert (relay, status, dsn) == (to_dovecot.relay, "bounced", "5.1.1")
    assert " said: 550 5.1.1 <unknown@lmtp.test> User doesn't exist: " in text
    assert text.endswith("(in reply to RCPT TO command)")
    relay, status, dsn, text = to_dovecot.outcome(queue_id, "full")
    assert (relay, status, dsn) == (to_dovecot.relay, "bounced", "5.2.2")
    assert " said: 552 5.2.2 <full@lmtp.test> Quota exceeded" in text
    assert text.endswith("(in reply to end of DATA command)")
    for user in ("one", "two"):
        (stored,) = dovecot.stored(token.encode(), user)
        assert without_trace(stored) == content
    assert dovecot.count("full") == 0


@pytest.mark.parametrize("kind", ["inet", "unix"])
def test_aiosmtpd_defers_bounces_and_takes_in_one_transaction(tmp_path: Path, kind: str) -> None:
    with tempfile.TemporaryDirectory(prefix="lmtp-") as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "Socket"
        hop = AiosmtpdHop(AIOSMTPD, PORT, lmtp=True, path=path if kind == "unix" else None)
        nexthop = f"unix:{path}" if kind == "unix" else f"inet:{AIOSMTPD}:{PORT}"
        with hop, LiveServer(tmp_path, {"default_transport": f"lmtp:{nexthop}"}) as server:
            route = Route(server, "")
            token = f"fates-{kind}"
            content = header(token) + b".dot\r\n"
            queue_id = route.send(content, "yes", "later", "fullbox", "nobody", "yes2")
            found = {user: route.outcome(queue_id, user) for user in ("yes", "later", "fullbox", "nobody", "yes2")}
            assert {user: (status, dsn) for user, (_, status, dsn, _) in found.items()} == {
                "yes": ("sent", "2.0.0"),
                "yes2": ("sent", "2.0.0"),
                "later": ("deferred", "4.2.0"),
                "fullbox": ("bounced", "5.2.2"),
                "nobody": ("bounced", "5.1.1"),
            }
            name = f"mail.fastmta.test[{path}]" if kind == "unix" else f"{AIOSMTPD}[{AIOSMTPD}]:{PORT}"
            assert {relay for relay, *_ in found.values()} == {name}
            assert found["yes"][3] == "250 2.0.0 <yes@lmtp.test> kept"
            assert found["yes2"][3] == "250 2.0.0 <yes2@lmtp.test> kept"
            hop.let_all_in()
            assert server.run("postqueue", "-f").returncode == 0
            server.wait_log(f"{queue_id}: removed")
            assert route.outcome(queue_id, "later")[1] == "sent"
            mails = [mail for mail in hop.mails if b"multipart/report" not in mail.content]
            assert [mail.recipients for mail in mails] == [["yes2@lmtp.test", "yes@lmtp.test"], ["later@lmtp.test"]]
            assert all(without_trace(mail.content) == content for mail in mails)
