"""A compiled list answers as a slow reading of the patterns one after the other, by match_list(3)'s rules."""

from __future__ import annotations

import ipaddress

from hypothesis import given, settings
from hypothesis import strategies as st

from fastmta.tables.matchlist import MatchList

labels = st.sampled_from(["a", "b", "com", "example", "x-1"])
names = st.lists(labels, min_size=1, max_size=4).map(".".join)
# Few addresses close to each other, so that patterns do match.
addresses = st.one_of(
    st.integers(0, 15).map(lambda n: str(ipaddress.IPv4Address(0x0A000000 + n))),
    st.integers(0, 15).map(lambda n: str(ipaddress.IPv6Address((0x20010DB8 << 96) + n))),
)


def network(address: str, up: int) -> str:
    net = ipaddress.ip_network(address)
    net = net.supernet(min(up, net.prefixlen))
    return f"[{net.network_address}]/{net.prefixlen}" if net.version == 6 else str(net)


networks = st.builds(network, addresses, st.sampled_from([0, 1, 2, 3, 8, 32, 128]))
plain = st.one_of(names, names.map(".{}".format), addresses.map("[{}]".format), networks)
patterns = st.tuples(st.sampled_from(["", "", "!", "!!"]), plain).map("".join)


def name_matches(pattern: str, name: str, parent: bool) -> bool:
    if name == pattern:
        return True
    if parent:
        return len(name) > len(pattern) + 1 and name.endswith("." + pattern)
    return pattern.startswith(".") and len(name) > len(pattern) and name.endswith(pattern)


def address_matches(pattern: str, address: str) -> bool:
    try:
        net = ipaddress.ip_network(pattern.replace("[", "").replace("]", ""))
    except ValueError:
        return False
    return ipaddress.ip_address(address) in net


@given(st.lists(patterns, max_size=12), names, addresses, st.booleans())
@settings(max_examples=600, deadline=None)
def test_same_answer_as_one_pattern_after_the_other(items: list[str], name: str, address: str, parent: bool) -> None:
    def first(by_name: bool, by_address: bool) -> bool:
        for item in items:
            pattern = item.lstrip("!")
            if (by_name and name_matches(pattern, name, parent)) or (by_address and address_matches(pattern, address)):
                return (len(item) - len(pattern)) % 2 == 0
        return False

    compiled = MatchList(" ".join(items), parent=parent)
    assert compiled.match_host(name, address) is first(True, True)
    assert compiled.match_domain(name) is first(True, False)
    assert compiled.match_address(address) is first(False, True)
