"""Mail for every kind of domain: real DNS (Knot), real sockets."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastmta.deliver import route
from fastmta.model.outcome import Bounced, Deferred, Sent
from fastmta.net.dns import Resolver
from fastmta.net.resolvconf import DnsSettings
from tests.delivery import Harness, Request, Server, message, run
from tests.mx_zone import DEAD, DOMAINS, GOOD, MIRROR, OWN, Knot, expected, good, mirror

pytestmark = pytest.mark.skipif(not shutil.which("knotd"), reason="needs Knot DNS")

DNS_PORT = 21353
SMTP_PORT = 21325
KINDS = {Sent: "sent", Deferred: "deferred", Bounced: "bounced"}


@pytest.fixture(scope="module")
def knot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DnsSettings]:
    server = Knot(Path(tmp_path_factory.mktemp("knot")), DNS_PORT)
    yield DnsSettings(servers=(("127.0.0.1", DNS_PORT),), timeout=2.0, attempts=1)
    server.stop()


@pytest.fixture(autouse=True)
def loop_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route, "SMTP_PORT", SMTP_PORT)


def deliver(knot: DnsSettings, *nexthops: str, **settings: object) -> tuple[list[Request], list[str]]:
    """Deliver a message to each next hop."""
    done: list[Request] = []
    log: list[str] = []

    async def main() -> None:
        servers = [await Server(good).start(GOOD, SMTP_PORT), await Server(mirror).start(MIRROR, SMTP_PORT)]
        harness = Harness(Resolver(knot), own=(OWN,), tcp_port=str(SMTP_PORT), **settings)
        for nexthop in nexthops:
            done.append(await harness.one(message("r@example.com"), nexthop))
        log.extend(harness.log.lines)
        harness.close()
        for server in servers:
            await server.stop()

    run(main)
    return done, log


@pytest.mark.parametrize("nexthop", DOMAINS)
def test_domain(knot: DnsSettings, nexthop: str) -> None:
    (request,), _log = deliver(knot, nexthop)
    result = request.result
    found = (request.attempt.relay, KINDS[type(result)], result.dsn, result.text)
    assert found == expected(nexthop, SMTP_PORT)


def test_hosts_that_were_skipped_are_logged(knot: DnsSettings) -> None:
    _requests, log = deliver(knot, "second.test", "mirror.test", "lost.test")
    assert f"postfix/smtp: connect to dead.second.test[{DEAD}]:{SMTP_PORT}: Connection refused" in log
    mirror_host = f"host.mirror.test[{MIRROR}]:{SMTP_PORT}"
    assert f"postfix/smtp: warning: host {mirror_host} greeted me with my own hostname client.example" in log
    assert "postfix/smtp: warning: no MX host for lost.test has a valid address record" in log


def test_fallback_relay(knot: DnsSettings) -> None:
    nexthops = ("nx.test", f"[{DEAD}]", "nullmx.test", "me.test", "backup.test")
    requests, _log = deliver(knot, *nexthops, fallback_relay=("[plain.test]",))
    found = [(KINDS[type(request.result)], request.attempt.relay) for request in requests]
    relay = f"plain.test[{GOOD}]:{SMTP_PORT}"
    # Where mail would loop, or we are a mail exchanger, no other host is tried.
    assert found == [("sent", relay), ("sent", relay), ("sent", relay), ("bounced", "none"), ("deferred", "none")]


def test_fallback_relay_that_does_not_exist_defers(knot: DnsSettings) -> None:
    (request,), log = deliver(knot, "nx.test", fallback_relay=("[nx.test]",))
    assert isinstance(request.result, Deferred)
    assert request.result.dsn == "4.3.5"
    assert "postfix/smtp: warning: smtp_fallback_relay configuration problem" in log


def test_relayhost_that_does_not_exist_defers(knot: DnsSettings) -> None:
    (request,), log = deliver(knot, "[nx.test]", relayhost="[nx.test]")
    assert isinstance(request.result, Deferred)
    assert request.result.dsn == "4.3.5"
    assert "postfix/smtp: warning: relayhost configuration problem" in log


def test_best_mx_transport(knot: DnsSettings) -> None:
    passed: list[tuple[str, str]] = []

    def pass_on(request: Request, transport: str) -> None:
        passed.append((request.nexthop, transport))
        request.done.set()

    deliver(knot, "me.test", best_mx_transport="local", pass_on=pass_on)
    assert passed == [("me.test", "local")]


def test_both_families_the_last_text_counts(knot: DnsSettings) -> None:
    (request,), _log = deliver(knot, "nx.test", families=(2, 10))
    assert request.result.text.endswith("name=nx.test type=AAAA: Host not found")


def test_native_lookup_reads_the_hosts_file(knot: DnsSettings, tmp_path: Path) -> None:
    from fastmta.net.hosts import HostsFile

    (tmp_path / "hosts").write_text(f"{GOOD}\tInside inside.local # ours\n::1 inside\n")
    hosts = HostsFile(tmp_path / "hosts")
    requests, _log = deliver(knot, "[inside.local]", "inside", "[nx.test]", hosts=hosts, dns_enabled=False)
    assert [KINDS[type(request.result)] for request in requests] == ["sent", "sent", "bounced"]
    assert requests[2].result.text == "unable to look up host nx.test: Name or service not known"


def test_port_and_list_of_hosts(knot: DnsSettings) -> None:
    requests, _log = deliver(knot, f"[nx.test]:25, simple.test:{SMTP_PORT}", "[plain.test]:0", "[plain.test]:nothing")
    assert [KINDS[type(request.result)] for request in requests] == ["sent", "deferred", "deferred"]
    assert [request.result.dsn for request in requests[1:]] == ["4.3.5", "4.3.5"]


def test_the_name_that_a_cname_points_to(knot: DnsSettings) -> None:
    (request,), _log = deliver(knot, "mxalias.test", cname_overrides_servername=True)
    assert request.attempt.relay == f"mx1.simple.test[{GOOD}]:{SMTP_PORT}"
