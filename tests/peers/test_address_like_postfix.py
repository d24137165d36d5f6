"""The same addresses for a live trivial-rewrite and for ours: the same rewriting, transport, next hop and recipient."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastmta.address.quote import quote_822_local, unquote_822_local
from fastmta.address.resolve import Resolved, Resolver, ResolveSettings
from fastmta.address.rewrite import RewriteSettings, canonical
from tests.peers import postfix_relay

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(not postfix_relay.AVAILABLE, reason="needs Postfix and root"),
]

PORT, SINK_PORT = 21450, 21451
RESOLVE_FLAG_ERROR = 4

SETTINGS = """
mydestination = mx.example.org, localhost.example.org, localhost
relay_domains = relay.example
relayhost =
local_transport = local
default_transport = smtp
relay_transport = relay
"""
VARIANTS = {
    "default": ("", {}),
    "relayhost": (
        "relayhost = [Out.Example]:587\nlocal_transport = lmtp:unix:Private/Lmtp\nrelay_transport = lmtp:[Inner]:24\n",
        {
            "relayhost": "[Out.Example]:587",
            "local_transport": "lmtp:unix:Private/Lmtp",
            "relay_transport": "lmtp:[Inner]:24",
        },
    ),
    "error": (
        "default_transport = error:5.1.2 No Outside\nresolve_numeric_domain = yes\n",
        {"default_transport": "error:5.1.2 No Outside", "resolve_numeric_domain": True},
    ),
}
ADDRESSES = [
    "foo@bar.example",
    "foo@BAR.Example",
    "foo@relay.example",
    "foo@sub.relay.example",
    "foo@xrelay.example",
    "foo@mx.example.org",
    "foo@LOCALHOST",
    "foo",
    "foo%bar.example@mx.example.org",
    "foo%bar.example",
    "bar.example!foo@mx.example.org",
    "bar.example!foo",
    "a!b!c@localhost",
    "a%b%c@localhost",
    "foo%bar.example@other.example",
    "foo@bar@localhost",
    "foo@bar.example@localhost",
    "foo@localhost@bar.example",
    "foo@bar.example.",
    "foo@bar..example",
    "foo@bar.example..",
    "foo@",
    "@bar.example",
    "@localhost",
    "@a.example,@b.example:foo@c.example",
    "@a.example:foo",
    "foo@[127.0.0.1]",
    "foo@[1.2.3.4]",
    "foo@[ipv6:::1]",
    "foo@[IPv6:2001:db8::1]",
    "foo@[1.2.3]",
    "foo@[bogus]",
    "foo@1.2.3.4",
    "foo@a_b.example",
    "foo@-a.example",
    "foo@b\u00fccher.example",
    "foo bar@mx.example.org",
    "foo bar@bar.example",
    '"quoted"@mx.example.org',
    "foo@bar",
    "foo@host.",
    "foo%@localhost",
    "%foo@localhost",
    "!foo@localhost",
    "foo!@localhost",
    "foo..bar@localhost",
    ".foo@localhost",
    "a%b@localhost@localhost",
    "x@localhost%localhost@localhost",
    "a b!c d@localhost",
    "a b%c d@localhost",
    "foo%bar baz@localhost",
    "foo%a.example%localhost@localhost",
    "postmaster@[127.0.0.1]",
    "!foo",
    "foo!",
    "foo%",
    "%foo",
    "a!b@c!d",
    "foo!bar%baz",
    "a b!c d",
    "a\\b@localhost",
]


@pytest.fixture(scope="module", params=VARIANTS)
def sides(request: pytest.FixtureRequest) -> Iterator[tuple[Path, RewriteSettings, Resolver]]:
    text, ours = VARIANTS[request.param]
    server = postfix_relay.Postfix(PORT, SINK_PORT, SETTINGS + text)
    rewrite = RewriteSettings("origin.example", "example.org")
    local = {"mx.example.org", "localhost.example.org", "localhost"}
    settings = ResolveSettings(rewrite, "mx.example.org", **{"local_transport": "local", **ours})  # type: ignore[arg-type]
    resolver = Resolver(
        settings,
        local.__contains__,
        lambda name: name == "relay.example" or name.endswith(".relay.example"),
        lambda address: address == "127.0.0.1",
    )
    yield server.folder / "queue/private/rewrite", rewrite, resolver
    server.stop()


def ask(path: Path, **question: str) -> dict[str, str]:
    """One question in Postfix's attribute protocol; its greeting comes first."""
    with socket.socket(socket.AF_UNIX) as server:
        server.settimeout(10)
        server.connect(str(path))
        server.sendall(b"".join(f"{name}\0{value}\0".encode() for name, value in question.items()) + b"\0")
        answer: dict[str, str] = {}
        with server.makefile("rb") as stream:

            def word() -> str:
                out = b""
                while (char := stream.read(1)) not in (b"", b"\0"):
                    out += char
                return out.decode()

            for _ in range(2):
                while name := word():
                    answer[name] = word()
        return answer


@pytest.mark.parametrize("address", ADDRESSES)
def test_rewrite_and_resolve(sides: tuple[Path, RewriteSettings, Resolver], address: str) -> None:
    path, rewrite, resolver = sides
    theirs = ask(path, request="rewrite", rule="local", address=quote_822_local(address))["address"]
    assert quote_822_local(canonical(address, rewrite)) == theirs
    complete = unquote_822_local(theirs)
    answer = ask(path, request="resolve", sender="", address=complete)
    ours = resolver.resolve(complete)
    if int(answer["flags"]) & RESOLVE_FLAG_ERROR:
        assert not isinstance(ours, Resolved) and ours.dsn == "5.1.3"
        return
    assert isinstance(ours, Resolved)
    nexthop = answer["nexthop"]
    assert (ours.transport, ours.nexthop, ours.recipient) == (answer["transport"], nexthop, answer["recipient"])
