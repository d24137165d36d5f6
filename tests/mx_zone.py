"""A DNS zone with every kind of mail domain, a Knot DNS server for it, and what mail for each domain comes to.

Used by test_deliver_mx.py (our resolver and agent) and tests/peers/test_mx_like_postfix.py (the same in a network
namespace of its own, where servers listen on port 25, beside a live Postfix).
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from tests.delivery import Peer

GOOD = "127.0.0.11"  # a server listens
DEAD = "127.0.0.12"  # none does
MIRROR = "127.0.0.13"  # a server with our own name
OWN = "127.0.0.1"  # an address of ours

ZONE = f"""
$ORIGIN test.
$TTL 60
@ SOA ns.test. root.test. 1 3600 600 86400 30
@ NS ns.test.
ns A 127.0.0.1
simple MX 10 mx1.simple
mx1.simple A {GOOD}
second MX 10 dead.second
second MX 20 mx1.simple
dead.second A {DEAD}
plain A {GOOD}
nullmx MX 0 .
lost MX 10 nowhere.lost
txt TXT "no mail here"
alias CNAME simple
mxalias MX 10 cname.mxalias
cname.mxalias CNAME mx1.simple
me MX 10 host.me
host.me A {OWN}
backup MX 10 dead.second
backup MX 20 host.me
orphan MX 10 nowhere.orphan
orphan MX 20 host.me
literal MX 10 {GOOD}.
mirror MX 10 host.mirror
host.mirror A {MIRROR}
mirrors MX 10 host.mirror
mirrors MX 20 mx1.simple
laterself MX 10 dead.second
laterself MX 20 host.mirror
odd MX 10 -odd-.test.
six MX 10 host.six
host.six AAAA ::1
circle CNAME circle2
circle2 CNAME circle
""" + "".join(
    f"many MX {100 + number} host{number}.many\nhost{number}.many A 127.0.1.{number}\n" for number in range(80)
)

NOT_FOUND = "Host or domain name not found. Name service error for name"
DOMAINS: dict[str, str] = {
    # nexthop: what becomes of mail for it; G, D, M stand for the hosts' addresses
    "simple.test": "P:mx1.simple.test sent 2.0.0 250 2.0.0 Ok: queued as 12345",
    "second.test": "P:mx1.simple.test sent 2.0.0 250 2.0.0 Ok: queued as 12345",
    "plain.test": "P:plain.test sent 2.0.0 250 2.0.0 Ok: queued as 12345",
    "alias.test": "P:mx1.simple.test sent 2.0.0 250 2.0.0 Ok: queued as 12345",
    "mxalias.test": "P:cname.mxalias.test sent 2.0.0 250 2.0.0 Ok: queued as 12345",
    "literal.test": f"P:{GOOD} sent 2.0.0 250 2.0.0 Ok: queued as 12345",
    "[plain.test]": "P:plain.test sent 2.0.0 250 2.0.0 Ok: queued as 12345",
    f"[{GOOD}]": f"P:{GOOD} sent 2.0.0 250 2.0.0 Ok: queued as 12345",
    "nullmx.test": "none bounced 5.1.0 Domain nullmx.test does not accept mail (nullMX)",
    "nx.test": f"none bounced 5.4.4 {NOT_FOUND}=nx.test type=A: Host not found",
    "[nx.test]": f"none bounced 5.4.4 {NOT_FOUND}=nx.test type=A: Host not found",
    "txt.test": f"none bounced 5.4.4 {NOT_FOUND}=txt.test type=A: Host found but no data record of requested type",
    "lost.test": f"none bounced 5.4.4 {NOT_FOUND}=nowhere.lost.test type=A: Host not found",
    "me.test": "none bounced 5.4.6 mail for me.test loops back to myself",
    "[host.me.test]": "none bounced 5.4.6 mail for host.me.test loops back to myself",
    "backup.test": f"none deferred 4.4.1 connect to dead.second.test[{DEAD}]:25: Connection refused",
    "orphan.test": "none deferred 4.4.4 unable to find primary relay for orphan.test",
    f"[{DEAD}]": f"none deferred 4.4.1 connect to {DEAD}[{DEAD}]:25: Connection refused",
    "mirror.test": "M:host.mirror.test bounced 5.4.6 mail for mirror.test loops back to myself",
    "mirrors.test": "M:host.mirror.test bounced 5.4.6 mail for mirrors.test loops back to myself",
    "laterself.test": "M:host.mirror.test deferred 4.4.6 mail for laterself.test loops back to myself",
    "odd.test": "none bounced 5.4.4 Name service error for name=odd.test type=MX: "
    "Malformed or unexpected name server reply",
    "six.test": f"none bounced 5.4.4 {NOT_FOUND}=host.six.test type=A: Host found but no data record of requested type",
    "broken.test": f"none deferred 4.4.3 {NOT_FOUND}=broken.test type=MX: Host not found, try again",
    "elsewhere.invalid": f"none deferred 4.4.3 {NOT_FOUND}=elsewhere.invalid type=MX: Host not found, try again",
    "circle.test": "none bounced 5.4.4 Name server loop for circle.test",
    "many.test": "none deferred 4.4.1 connect to host4.many.test[127.0.1.4]:25: Connection refused",
}


def expected(nexthop: str, port: int = 25) -> tuple[str, str, str, str]:
    """(relay, status, dsn, text) with full names."""
    relay, status, dsn, text = DOMAINS[nexthop].split(" ", 3)
    if relay != "none":
        kind, name = relay.split(":")
        relay = f"{name}[{ {'P': GOOD, 'M': MIRROR}[kind] }]:{port}"
    return relay, status, dsn, text.replace("]:25:", f"]:{port}:")


async def good(peer: Peer) -> None:
    """What listens on GOOD."""
    await peer.greet("PIPELINING")
    await peer.accept()
    await peer.expect("QUIT")


async def mirror(peer: Peer) -> None:
    """What listens on MIRROR: our own name."""
    await peer.greet("PIPELINING", name="client.example")
    await peer.expect("QUIT")


class Knot:
    """A Knot DNS server."""

    def __init__(self, folder: Path, port: int) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "test.zone").write_text(ZONE)
        config = folder / "knot.conf"
        config.write_text(f"""
server:
  rundir: "{folder}"
  listen: 127.0.0.1@{port}
database:
  storage: "{folder}"
log:
- target: "{folder}/log"
  any: info
zone:
- domain: test
  storage: "{folder}"
  file: test.zone
- domain: broken.test
  storage: "{folder}"
  file: missing.zone
""")
        self.process = subprocess.Popen(
            ["knotd", "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.log = folder / "log"
        for _ in range(200):
            if self.log.exists() and "server started" in self.log.read_text():
                break
            time.sleep(0.05)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)
