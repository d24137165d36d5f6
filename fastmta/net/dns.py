"""DNS lookups for mail: mail exchangers, addresses, names of addresses; with a cache and one query in flight per
question.

Called by deliver/route.py (MX and addresses), net/clientname.py (names of clients) and whoever needs DNS. The wire
format is dnspython's, the I/O our own on the event loop: a new UDP socket, and so a new random port, for each query;
TCP when an answer was truncated. Names are always complete: no search list is applied. A CNAME is followed.

Answers are types: `Found`, or `NoAnswer` with a Status and the text that Postfix would log. Nothing is raised.

Sources: RFC 1035, RFC 2308 (negative caching), RFC 5452 (forgery resilience), RFC 6891 (EDNS), RFC 7505 (null MX),
resolv.conf(5), Postfix dns_lookup(3).
"""

from __future__ import annotations

import asyncio
import ipaddress
import random
import socket
import time
from collections.abc import Callable
from enum import IntEnum
from typing import Any, Final

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import msgspec

from fastmta.address.hostname import valid_utf8_hostname
from fastmta.net.resolvconf import DnsSettings

MIN_TTL: Final = 1.0  # seconds: even a TTL of zero serves the callers of this moment
MAX_TTL: Final = 86400.0
MAX_NEGATIVE_TTL: Final = 3600.0
DEFAULT_NEGATIVE_TTL: Final = 60.0  # where the answer brings no SOA
FAILURE_TTL: Final = 2.0  # a server that fails is not asked the same thing by each message in turn
EDNS_PAYLOAD: Final = 1232
MAX_CNAMES: Final = 10


class Status(IntEnum):
    """Why there is no answer, worst last, as Postfix orders them."""

    NOTFOUND = 1  # the name or the type does not exist
    NULLMX = 2  # the domain accepts no mail (RFC 7505)
    INVALID = 3  # the answer has nothing but names that cannot be
    FAIL = 4  # the server refuses for good
    RETRY = 5  # no server answered, or it said that it cannot now


class MailExchanger(msgspec.Struct, frozen=True, gc=False):
    """One MX record."""

    preference: int
    host: str


class Found(msgspec.Struct, frozen=True):
    """Records: MailExchanger for mx(), address texts for addresses(), names for ptr()."""

    records: tuple[Any, ...]
    name: str  # the canonical name, after CNAMEs


class NoAnswer(msgspec.Struct, frozen=True):
    """No record; text is Postfix's."""

    status: Status
    text: str


Answer = Found | NoAnswer


class Resolver:
    """A stub resolver with a cache, one for each worker. clock: seconds, monotonic."""

    def __init__(self, settings: DnsSettings, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing is sent before the first question."""
        self._settings = settings
        self._clock = clock
        self._cache: dict[tuple[str, int], tuple[float, Answer]] = {}
        self._flying: dict[tuple[str, int], asyncio.Task[Answer]] = {}
        self._first = 0
        self.queries = 0  # sent so far, for the counters

    # Questions

    async def mx(self, name: str) -> Answer:
        """Mail exchangers of a domain, best first as far as the preference says."""
        return await self._ask(name, dns.rdatatype.MX)

    async def addresses(self, name: str, family: int) -> Answer:
        """Addresses of a host, of one family (AF_INET or AF_INET6), in canonical text form."""
        return await self._ask(name, _address_type(family))

    async def ptr(self, address: str) -> Answer:
        """Names of an address."""
        return await self._ask(ipaddress.ip_address(address).reverse_pointer, dns.rdatatype.PTR)

    def cached_mx(self, name: str) -> Answer | None:
        """The answer of mx(), if it is known."""
        return self._cached((name.lower(), dns.rdatatype.MX))

    def cached_addresses(self, name: str, family: int) -> Answer | None:
        """The answer of addresses(), if it is known."""
        return self._cached((name.lower(), _address_type(family)))

    def cached_ptr(self, address: str) -> Answer | None:
        """The answer of ptr(), if it is known."""
        return self._cached((ipaddress.ip_address(address).reverse_pointer, dns.rdatatype.PTR))

    def forget(self) -> None:
        """Empty the cache."""
        self._cache.clear()

    # Cache

    def _cached(self, question: tuple[str, int]) -> Answer | None:
        entry = self._cache.get(question)
        if entry is None or entry[0] <= self._clock():
            return None
        return entry[1]

    def _keep(self, question: tuple[str, int], answer: Answer, ttl: float) -> None:
        cache = self._cache
        cache.pop(question, None)
        if len(cache) >= self._settings.cache_size:
            now = self._clock()
            for key in [key for key, entry in cache.items() if entry[0] <= now]:
                del cache[key]
            while len(cache) >= self._settings.cache_size:
                del cache[next(iter(cache))]
        cache[question] = (self._clock() + ttl, answer)

    async def _ask(self, name: str, rdtype: int) -> Answer:
        question = (name.lower(), rdtype)
        answer = self._cached(question)
        if answer is not None:
            return answer
        if not valid_utf8_hostname(name):
            return NoAnswer(Status.NOTFOUND, f"Name service error for {name}: invalid host or domain name")
        task = self._flying.get(question)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._lookup(question, name))
            self._flying[question] = task
            task.add_done_callback(lambda _: self._flying.pop(question, None))
        return await asyncio.shield(task)

    async def _lookup(self, question: tuple[str, int], name: str) -> Answer:
        answer, ttl = await self._follow(name, question[1])
        self._keep(question, answer, ttl)
        return answer

    async def _follow(self, name: str, rdtype: int) -> tuple[Answer, float]:
        """Ask, and ask again for the target of a CNAME that came without its records."""
        current = name
        ttl = MAX_TTL
        for _ in range(MAX_CNAMES):
            response, failure = await self._query(current, rdtype)
            if response is None:
                return _not_found(current, rdtype, failure), FAILURE_TTL
            rcode = response.rcode()
            try:
                chain = response.resolve_chaining()
            except dns.message.ChainTooLong:
                break
            except dns.exception.DNSException:
                return _malformed(current, rdtype), FAILURE_TTL
            if chain.answer is not None:
                ttl = min(ttl, max(MIN_TTL, float(chain.minimum_ttl)))
                return _read(current, rdtype, chain), ttl
            if chain.cnames and rcode == dns.rcode.NOERROR and str(chain.canonical_name) != current:
                current = chain.canonical_name.to_text(omit_final_dot=True)
                ttl = min(ttl, max(MIN_TTL, float(chain.minimum_ttl)))
                if not response.authority:
                    continue
            reason = (
                "Host not found" if rcode == dns.rcode.NXDOMAIN else "Host found but no data record of requested type"
            )
            negative = float(chain.minimum_ttl) if response.authority else DEFAULT_NEGATIVE_TTL
            answer = NoAnswer(Status.NOTFOUND, _error_text(name, rdtype, reason))
            return answer, min(ttl, MAX_NEGATIVE_TTL, max(MIN_TTL, negative))
        return NoAnswer(Status.NOTFOUND, f"Name server loop for {current}"), DEFAULT_NEGATIVE_TTL

    # Network

    async def _query(self, name: str, rdtype: int) -> tuple[dns.message.QueryMessage | None, Status]:
        """Ask the servers in turn; the answer has code NOERROR or NXDOMAIN."""
        settings = self._settings
        servers = list(settings.servers)
        if settings.rotate and len(servers) > 1:
            self._first = (self._first + 1) % len(servers)
            servers = servers[self._first :] + servers[: self._first]
        try:
            qname = dns.name.from_text(name)
        except (dns.exception.DNSException, UnicodeError):
            return None, Status.NOTFOUND
        status = Status.RETRY
        plain: set[tuple[str, int]] = set()  # servers that do not like EDNS
        for _ in range(settings.attempts):
            for server in servers:
                query = dns.message.make_query(
                    qname,
                    dns.rdatatype.RdataType.make(rdtype),
                    use_edns=-1 if server in plain else 0,
                    payload=EDNS_PAYLOAD,
                )
                query.id = random.SystemRandom().randrange(65536)
                response = await self._exchange(query, server)
                if response is None:
                    continue
                rcode = response.rcode()
                if rcode in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
                    return response, Status.NOTFOUND
                if rcode == dns.rcode.FORMERR:
                    plain.add(server)
                status = Status.RETRY
        return None, status

    async def _exchange(
        self, query: dns.message.QueryMessage, server: tuple[str, int]
    ) -> dns.message.QueryMessage | None:
        """One question to one server; None when it did not answer in time or at all."""
        self.queries += 1
        try:
            async with asyncio.timeout(self._settings.timeout):
                response = await _udp(query, server)
                if response.flags & dns.flags.TC:
                    response = await _tcp(query, server)
                return response
        except (OSError, TimeoutError, EOFError):
            return None


async def _udp(query: dns.message.QueryMessage, server: tuple[str, int]) -> dns.message.QueryMessage:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET6 if ":" in server[0] else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect(server)
        sock.send(query.to_wire())
        while True:
            data = await loop.sock_recv(sock, 65535)
            response = _parse(query, data)
            if response is not None:
                return response


async def _tcp(query: dns.message.QueryMessage, server: tuple[str, int]) -> dns.message.QueryMessage:
    reader, writer = await asyncio.open_connection(*server)
    try:
        wire = query.to_wire()
        writer.write(len(wire).to_bytes(2, "big") + wire)
        size = int.from_bytes(await reader.readexactly(2), "big")
        response = _parse(query, await reader.readexactly(size))
        if response is None:
            raise EOFError("no answer to this question")
        return response
    finally:
        writer.close()


def _parse(query: dns.message.QueryMessage, data: bytes) -> dns.message.QueryMessage | None:
    """The message, if it answers this query; else None, as for a forgery."""
    try:
        response = dns.message.from_wire(data, ignore_trailing=True, raise_on_truncation=False)
    except Exception:
        return None  # dnspython raises many things on garbage
    if not isinstance(response, dns.message.QueryMessage):
        return None
    if response.rcode() == dns.rcode.FORMERR and response.id == query.id:
        return response  # may come without the question
    return response if query.is_response(response) else None


# Reading answers


def _read(name: str, rdtype: int, chain: Any) -> Answer:
    """Turn records into ours."""
    canonical = chain.canonical_name.to_text(omit_final_dot=True)
    if rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA):
        return Found(tuple(record.address for record in chain.answer), canonical)
    records: list[Any] = []
    if rdtype == dns.rdatatype.MX:
        for record in chain.answer:
            host = record.exchange.to_text(omit_final_dot=True)
            if host == ".":
                return NoAnswer(Status.NULLMX, f"Domain {name} does not accept mail (nullMX)")
            if valid_utf8_hostname(host) or _is_address(host):
                records.append(MailExchanger(record.preference, host))
        records.sort(key=lambda mx: mx.preference)
    else:
        for record in chain.answer:
            host = record.target.to_text(omit_final_dot=True)
            if valid_utf8_hostname(host) or _is_address(host):
                records.append(host)
    if not records:
        return NoAnswer(Status.INVALID, _malformed(name, rdtype).text)
    return Found(tuple(records), canonical)


def _address_type(family: int) -> int:
    return dns.rdatatype.AAAA if family == socket.AF_INET6 else dns.rdatatype.A


def _error_text(name: str, rdtype: int, reason: str) -> str:
    kind = dns.rdatatype.to_text(dns.rdatatype.RdataType.make(rdtype))
    return f"Host or domain name not found. Name service error for name={name} type={kind}: {reason}"


def _not_found(name: str, rdtype: int, status: Status) -> NoAnswer:
    reasons = {Status.RETRY: "Host not found, try again", Status.FAIL: "Non-recoverable error"}
    return NoAnswer(status, _error_text(name, rdtype, reasons.get(status, "Host not found")))


def _malformed(name: str, rdtype: int) -> NoAnswer:
    kind = dns.rdatatype.to_text(dns.rdatatype.RdataType.make(rdtype))
    return NoAnswer(
        Status.RETRY, f"Name service error for name={name} type={kind}: Malformed or unexpected name server reply"
    )


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
