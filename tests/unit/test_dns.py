"""The resolver against name servers that are slow, broken, lying or busy; its cache; client names; the hosts file."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from fastmta.address.hostname import valid_utf8_hostname
from fastmta.net.clientname import FORGED, OK, PERM, TEMP, ClientName, ClientNames
from fastmta.net.dns import Found, MailExchanger, NoAnswer, Resolver, Status
from fastmta.net.hosts import HostsFile
from fastmta.net.resolvconf import DnsSettings, dns_settings, parse_server
from tests.delivery import run

Answer = Callable[[dns.message.QueryMessage], bytes | list[bytes] | None]


class NameServer(asyncio.DatagramProtocol):
    """Answers as a function says; over TCP too."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[str] = []
        self.tcp = 0

    async def start(self) -> NameServer:
        loop = asyncio.get_running_loop()
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.address = self.server.sockets[0].getsockname()[:2]
        self.transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=self.address)
        return self

    def datagram_received(self, data: bytes, sender: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        assert isinstance(query, dns.message.QueryMessage)
        question = query.question[0]
        self.asked.append(f"{question.name.to_text(omit_final_dot=True)} {question.rdtype.name}")
        answer = self.answer(query)
        for packet in answer if isinstance(answer, list) else [answer]:
            if packet is not None:
                self.transport.sendto(packet, sender)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tcp += 1
        query = dns.message.from_wire(await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big")))
        assert isinstance(query, dns.message.QueryMessage)
        wire = records(query, *[f"{number} mx{number}.example." for number in range(200)])
        writer.write(len(wire).to_bytes(2, "big") + wire)
        writer.close()

    def stop(self) -> None:
        self.transport.close()
        self.server.close()


def reply(query: dns.message.QueryMessage, rcode: int = 0) -> dns.message.Message:
    response = dns.message.make_response(query)
    response.set_rcode(dns.rcode.Rcode(rcode))
    return response


def records(query: dns.message.QueryMessage, *texts: str, ttl: int = 60) -> bytes:
    response = reply(query)
    question = query.question[0]
    response.answer.append(dns.rrset.from_text(question.name, ttl, "IN", question.rdtype.name, *texts))
    return response.to_wire(max_size=65535)


def play(
    answers: list[Answer], main: Callable[[Resolver, list[NameServer]], Awaitable[None]], **settings: object
) -> None:
    async def whole() -> None:
        servers = [await NameServer(answer).start() for answer in answers]
        resolver = Resolver(
            DnsSettings(
                servers=tuple(server.address for server in servers), **{"timeout": 0.2, "attempts": 1, **settings}
            ),  # type: ignore[arg-type]
            clock=lambda: CLOCK[0],
        )
        try:
            await main(resolver, servers)
        finally:
            for server in servers:
                server.stop()

    CLOCK[0] = 1000.0
    run(whole)


CLOCK = [1000.0]


def test_mail_exchangers_come_sorted_and_from_the_cache() -> None:
    async def main(resolver: Resolver, servers: list[NameServer]) -> None:
        assert resolver.cached_mx("example.com") is None
        answer = await resolver.mx("Example.com")
        assert isinstance(answer, Found)
        assert answer.records == (MailExchanger(5, "b.example"), MailExchanger(10, "a.example"))
        assert resolver.cached_mx("example.COM") == answer
        await resolver.mx("example.com")
        assert len(servers[0].asked) == 1
        CLOCK[0] += 61
        assert resolver.cached_mx("example.com") is None

    play([lambda query: records(query, "10 a.example.", "5 b.example.")], main)


def test_one_query_in_flight_for_a_question() -> None:
    async def main(resolver: Resolver, servers: list[NameServer]) -> None:
        answers = await asyncio.gather(*[resolver.addresses("host.example", socket.AF_INET) for _ in range(50)])
        assert {answer.records for answer in answers if isinstance(answer, Found)} == {("192.0.2.1",)}
        assert servers[0].asked == ["host.example A"]

    play([lambda query: records(query, "192.0.2.1")], main)


def test_a_cancelled_asker_does_not_spoil_the_answer_for_others() -> None:
    async def main(resolver: Resolver, servers: list[NameServer]) -> None:
        one = asyncio.ensure_future(resolver.addresses("host.example", socket.AF_INET))
        two = asyncio.ensure_future(resolver.addresses("host.example", socket.AF_INET))
        await asyncio.sleep(0)
        one.cancel()
        assert isinstance(await two, Found)

    play([lambda query: records(query, "192.0.2.1")], main)


def test_no_such_name_is_remembered_as_long_as_its_soa_says() -> None:
    def answer(query: dns.message.QueryMessage) -> bytes:
        response = reply(query, dns.rcode.NXDOMAIN)
        response.authority.append(dns.rrset.from_text("example.", 900, "IN", "SOA", "ns. root. 1 1 1 1 30"))
        return response.to_wire()

    async def main(resolver: Resolver, servers: list[NameServer]) -> None:
        text = "Host or domain name not found. Name service error for name=nx.example type=MX: Host not found"
        assert await resolver.mx("nx.example") == NoAnswer(Status.NOTFOUND, text)
        CLOCK[0] += 29
        assert resolver.cached_mx("nx.example") is not None
        CLOCK[0] += 2
        assert resolver.cached_mx("nx.example") is None

    play([answer], main)


def test_the_second_server_answers_when_the_first_does_not() -> None:
    async def main(resolver: Resolver, servers: list[NameServer]) -> None:
        assert isinstance(await resolver.mx("example.com"), Found)
        assert [len(server.asked) for server in servers] == [1, 1]

    for broken in (lambda query: None, lambda query: reply(query, dns.rcode.SERVFAIL).to_wire(), lambda query: b"junk"):
        play([broken, lambda query: records(query, "10 a.example.")], main)


def test_no_server_answers() -> None:
    async def main(resolver: Resolver, servers: list[NameServer]) -> None:
        answer = await resolver.mx("example.com")
        text = (
            "Host or domain name not found. Name service error for name=example.com type=MX: Host not found, try again"
        )
        assert answer == NoAnswer(Status.RETRY, text)
        assert len(servers[0].asked) == 3
        # The next messages for the domain do not wait as long again; soon it is tried anew.
        assert resolver.cached_mx("example.com") == answer
        CLOCK[0] += 3
        assert resolver.cached_mx("example.com") is None

    play([lambda query: None], main, attempts=3, timeout=0.1)


def test_forged_answers_are_not_believed() -> None:
    def answer(query: dns.message.QueryMessage) -> list[bytes]:
        wrong = bytearray(records(query, "6.6.6.6"))
        wrong[0] ^= 1
        other = dns.message.make_query("other.example", "A")
        other.id = query.id
        assert isinstance(other, dns.message.QueryMessage)
        return [bytes(wrong), records(other, "6.6.6.6"), b"", query.to_wire(), records(query, "192.0.2.1")]

    async def main(resolver: Resolver, servers: list[NameServer]) -> None:
        found = await resolver.addresses("host.example", socket.AF_INET)
        assert isinstance(found, Found)
        assert found.records == ("192.0.2.1",)

    play([answer], main)


def test_truncated_answers_are_asked_again_over_tcp() -> None:
    def answer(query: dns.message.QueryMessage) -> bytes:
        response = reply(query)
        response.flags |= dns.flags.TC
        return response.to_wire()

    async def main(resolver: Resolver, servers: list[NameServer]) -> None:
        found = await resolver.mx("many.example")
        assert isinstance(found, Found)
        assert len(found.records) == 200
        assert servers[0].tcp == 1

    play([answer], main)


def test_a_server_that_knows_no_edns() -> None:
    def answer(query: dns.message.QueryMessage) -> bytes:
        return reply(query, dns.rcode.FORMERR).to_wire() if query.edns >= 0 else records(query, "10 a.example.")

    async def main(resolver: Resolver, servers: list[NameServer]) -> None:
        assert isinstance(await resolver.mx("example.com"), Found)

    play([answer], main, attempts=2)


def test_a_cname_without_its_target_is_followed() -> None:
    def answer(query: dns.message.QueryMessage) -> bytes:
        if query.question[0].name.to_text() == "alias.example.":
            response = reply(query)
            response.answer.append(dns.rrset.from_text("alias.example.", 60, "IN", "CNAME", "real.example."))
            return response.to_wire()
        return records(query, "192.0.2.7")

    async def main(resolver: Resolver, servers: list[NameServer]) -> None:
        found = await resolver.addresses("alias.example", socket.AF_INET)
        assert found == Found(("192.0.2.7",), "real.example")

    play([answer], main)


def test_endless_cnames() -> None:
    def answer(query: dns.message.QueryMessage) -> bytes:
        name = query.question[0].name.to_text()
        response = reply(query)
        response.answer.append(dns.rrset.from_text(name, 60, "IN", "CNAME", f"x{len(name)}.{name[-30:].lstrip('.')}"))
        return response.to_wire()

    async def main(resolver: Resolver, servers: list[NameServer]) -> None:
        found = await resolver.addresses("a.example", socket.AF_INET)
        assert isinstance(found, NoAnswer)
        assert found.text.startswith("Name server loop for ")

    play([answer], main)


def test_the_cache_has_a_bound() -> None:
    async def main(resolver: Resolver, servers: list[NameServer]) -> None:
        for number in range(30):
            await resolver.addresses(f"h{number}.example", socket.AF_INET)
        known = [resolver.cached_addresses(f"h{number}.example", socket.AF_INET) is not None for number in range(30)]
        assert known == [False] * 20 + [True] * 10

    play([lambda query: records(query, "192.0.2.1")], main, cache_size=10)


@pytest.mark.parametrize(
    ("name", "valid"),
    [
        ("example.com", True),
        ("a_b.example", True),
        ("a", True),
        ("xn--4ca.example", True),
        ("ä.example", True),
        ("", False),
        (".example", False),
        ("a..b", False),
        ("a.", False),
        ("-a.b", False),
        ("a-.b", False),
        ("1.2.3.4", False),
        ("a b.c", False),
        ("x" * 64 + ".example", False),
        ("a." * 128, False),
        ("a/b.example", False),
    ],
)
def test_valid_hostname(name: str, valid: bool) -> None:
    assert valid_utf8_hostname(name) == valid


# Names of clients


def zone(table: dict[str, list[str] | int]) -> Answer:
    """A server that knows "name TYPE": records, or a code."""

    def answer(query: dns.message.QueryMessage) -> bytes:
        question = query.question[0]
        known = table.get(f"{question.name.to_text(omit_final_dot=True)} {question.rdtype.name}", dns.rcode.NXDOMAIN)
        return records(query, *known) if isinstance(known, list) else reply(query, known).to_wire()

    return answer


@pytest.mark.parametrize(
    ("table", "address", "expected"),
    [
        (
            {"1.2.0.192.in-addr.arpa PTR": ["h.example."], "h.example A": ["192.0.2.1"]},
            "192.0.2.1",
            ClientName("h.example", "h.example", OK, OK),
        ),
        ({}, "192.0.2.1", ClientName("unknown", "unknown", PERM, PERM)),
        ({"1.2.0.192.in-addr.arpa PTR": 2}, "192.0.2.1", ClientName("unknown", "unknown", TEMP, TEMP)),
        (
            {"1.2.0.192.in-addr.arpa PTR": ["h.example."], "h.example A": ["192.0.2.2"]},
            "192.0.2.1",
            ClientName("unknown", "h.example", FORGED, OK, "hostname h.example does not resolve to address 192.0.2.1"),
        ),
        (
            {"1.2.0.192.in-addr.arpa PTR": ["h.example."]},
            "192.0.2.1",
            ClientName(
                "unknown",
                "h.example",
                FORGED,
                OK,
                "hostname h.example does not resolve to address 192.0.2.1: Name or service not known",
            ),
        ),
        (
            {"1.2.0.192.in-addr.arpa PTR": ["h.example."], "h.example A": 2},
            "192.0.2.1",
            ClientName(
                "unknown",
                "h.example",
                TEMP,
                OK,
                "hostname h.example does not resolve to address 192.0.2.1: Temporary failure in name resolution",
            ),
        ),
        ({"1.2.0.192.in-addr.arpa PTR": ["1.2.3.4."]}, "192.0.2.1", ClientName("unknown", "unknown", PERM, PERM)),
        (
            {f"{'1.' + '0.' * 31}ip6.arpa PTR": ["six.example."], "six.example AAAA": ["0:0:0:0:0:0:0:1"]},
            "::1",
            ClientName("six.example", "six.example", OK, OK),
        ),
    ],
)
def test_client_names(table: dict[str, list[str] | int], address: str, expected: ClientName, tmp_path: Path) -> None:
    async def main(resolver: Resolver, servers: list[NameServer]) -> None:
        names = ClientNames(resolver, HostsFile(tmp_path / "none"))
        assert names.cached(address) is None
        assert await names.lookup(address) == expected
        again = names.cached(address)
        assert again is not None
        assert (again.name, again.warning) == (expected.name, "")

    play([zone(table)], main)


def test_client_names_of_the_hosts_file_need_no_dns(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("127.0.0.1 localhost loop\n::1 localhost\n192.0.2.5 five.example five # x\n")

    async def main(resolver: Resolver, servers: list[NameServer]) -> None:
        names = ClientNames(resolver, HostsFile(tmp_path / "hosts"))
        assert (await names.lookup("192.0.2.5")).name == "five.example"
        assert (await names.lookup("127.0.0.1")).name == "localhost"
        assert (await names.lookup("::1")).name == "localhost"
        assert servers[0].asked == []

    play([zone({})], main)


def test_the_hosts_file_is_read_again_when_it_changed(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("192.0.2.5 five\n")
    now = [0.0]
    hosts = HostsFile(path, clock=lambda: now[0])
    assert hosts.addresses("FIVE") == ("192.0.2.5",)
    path.write_text("192.0.2.55 five\n192.0.2.6 five\nnonsense five\n")
    assert hosts.addresses("five") == ("192.0.2.5",)
    now[0] = 2.0
    assert hosts.addresses("five") == ("192.0.2.55", "192.0.2.6")
    path.unlink()
    now[0] = 4.0
    assert hosts.addresses("five") == ()
    assert hosts.name("192.0.2.6") is None


# Settings


def test_resolv_conf(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(
        "# x\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\nnameserver bad\n"
        "search a b\noptions timeout:2 attempts:9 rotate\n"
    )
    settings = dns_settings(path=path)
    assert settings.servers == (("192.0.2.1", 53), ("fe80::1", 53))
    assert (settings.timeout, settings.attempts, settings.rotate) == (2.0, 5, True)
    own = dns_settings(("127.0.0.1:5353", "[::1]:54", "192.0.2.9"), path)
    assert own.servers == (("127.0.0.1", 5353), ("::1", 54), ("192.0.2.9", 53))
    assert dns_settings(path=tmp_path / "none").servers == (("127.0.0.1", 53),)


@pytest.mark.parametrize("text", ["nowhere", "127.0.0.1:0", "127.0.0.1:x", "", "[::1]:70000"])
def test_bad_servers_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_server(text)
