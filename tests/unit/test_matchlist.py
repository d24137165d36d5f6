"""Lists of networks, hosts and domains: what matches, the order, files, and what is refused at load."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastmta.config import ConfigError, load
from fastmta.tables.lookup import TempFail
from fastmta.tables.maps import Tables
from fastmta.tables.matchlist import MatchList, PatternError, for_parameter


@pytest.mark.parametrize(
    ("patterns", "address", "expected"),
    [
        ("127.0.0.0/8", "127.255.0.1", True),
        ("127.0.0.0/8", "128.0.0.1", False),
        ("0.0.0.0/0", "203.0.113.9", True),
        ("0.0.0.0/0", "2001:db8::1", False),
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.10", False),
        ("[192.0.2.1]", "192.0.2.1", True),
        ("[192.0.2.0]/24", "192.0.2.9", True),
        ("[192.0.2.0/24]", "192.0.2.9", True),
        ("[::1]/128", "::1", True),
        ("[::1]", "::1", True),
        ("[2001:DB8::]/32", "2001:db8:1::5", True),
        ("[2001:db8:0:0::1]", "2001:db8::1", True),
        ("[2001:db8::]/33", "2001:db8:8000::1", False),
        ("[::]/0", "192.0.2.1", False),
        ("10.0.0.0/8, 192.168.0.0/16\t172.16.0.0/12", "172.31.255.255", True),
        ("!192.0.2.7 192.0.2.0/24", "192.0.2.7", False),
        ("!192.0.2.7 192.0.2.0/24", "192.0.2.8", True),
        ("192.0.2.0/24 !192.0.2.7", "192.0.2.7", True),
        ("!!192.0.2.7", "192.0.2.7", True),
        ("!192.0.2.0/25 !10.0.0.0/8 0.0.0.0/0", "10.1.1.1", False),
        ("!192.0.2.0/25 !10.0.0.0/8 0.0.0.0/0", "192.0.2.128", True),
        ("example.com", "192.0.2.1", False),
        ("192.0.2.0/24", "unknown", False),
        ("192.0.2.0/24", "", False),
        ("192.0.2.0/24", "192.0.2.1\0", False),
        ("", "192.0.2.1", False),
    ],
)
def test_addresses(patterns: str, address: str, expected: bool) -> None:
    hosts = MatchList(patterns)
    assert hosts.match_address(address) is expected
    assert hosts.match_address(address) is expected  # from the cache
    assert hosts.match_host("unknown", address) is expected


@pytest.mark.parametrize(
    ("patterns", "parent", "name", "expected"),
    [
        ("example.com", False, "example.com", True),
        ("example.com", False, "EXAMPLE.Com", True),
        ("Example.COM", False, "example.com", True),
        ("example.com", False, "a.example.com", False),
        ("example.com", True, "a.example.com", True),
        ("example.com", True, "a.b.example.com", True),
        ("example.com", True, "notexample.com", False),
        (".example.com", False, "a.example.com", True),
        (".example.com", False, "a.b.example.com", True),
        (".example.com", False, "example.com", False),
        (".example.com", True, "a.example.com", False),
        ("!a.example.com example.com", True, "a.example.com", False),
        ("!a.example.com example.com", True, "x.a.example.com", False),
        ("!a.example.com example.com", True, "b.example.com", True),
        ("!a.example.com, .example.com", False, "x.a.example.com", True),
        ("com", True, "example.com", True),
        ("", True, "example.com", False),
        ("example.com", True, "", False),
        ("example.com", True, ".example.com", False),
    ],
)
def test_domains(patterns: str, parent: bool, name: str, expected: bool) -> None:
    domains = MatchList(patterns, parent=parent)
    assert domains.match_domain(name) is expected
    assert domains.match_domain(name) is expected
    assert domains.match_host(name, "203.0.113.1") is expected


def test_the_first_pattern_decides_by_name_or_by_address() -> None:
    hosts = MatchList("!bad.example.com 192.0.2.0/24 .example.com")
    assert not hosts.match_host("bad.example.com", "192.0.2.1")
    assert hosts.match_host("good.example.com", "203.0.113.1")
    assert hosts.match_host("unknown", "192.0.2.1")
    other = MatchList("192.0.2.0/24 !bad.example.com")
    assert other.match_host("bad.example.com", "192.0.2.1")


def test_strings_match_as_a_whole() -> None:
    names = MatchList("mx.example.com .example.org !no.example", parent=True)
    assert names.match_string("MX.example.com")
    assert not names.match_string("a.mx.example.com")
    assert not names.match_string("a.example.org")
    assert not names.match_string("no.example")


def test_the_cache_does_not_grow_without_bound() -> None:
    hosts = MatchList("10.0.0.0/8")
    for number in range(40000):
        assert hosts.match_host("unknown", f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(hosts._cache) <= 16384


def test_files(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.write_text("192.0.2.0/24\n")
    outer = tmp_path / "outer"
    outer.write_text(f"# comment\nfoo !bar\n  # another\nbaz, {inner} #tail\n\n")
    names = MatchList(f"{outer} 10.0.0.0/8")
    answers = {name: names.match_host(name, "203.0.113.1") for name in ("foo", "bar", "baz", "#tail", "comment")}
    assert answers == {"foo": True, "bar": False, "baz": True, "#tail": False, "comment": False}
    assert names.match_address("192.0.2.200")
    assert names.match_address("10.2.3.4")
    assert names.warnings == [f"{outer}: #comment after other text is not allowed: #tail ..."]
    commented = MatchList("foo # bar, but not always")
    assert (commented.match_domain("foo"), commented.match_domain("bar")) == (True, False)
    assert commented.warnings == ["#comment after other text is not allowed: # bar, but not always..."]
    none_of_them = MatchList(f"!{outer} foo bar")
    assert [none_of_them.match_domain(name) for name in ("foo", "bar", "baz")] == [False, True, False]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("168.100.3.0/98", 'bad mask length in "168.100.3.0/98"'),
        ("168.100.589.0/28", 'bad network value in "168.100.589.0/28"'),
        ("be/be", 'bad mask value in "be/be"'),
        ("[be:be]", 'bad address pattern: "be:be"'),
        ("[::1", "missing ']' character after \"[::1\""),
        ("[::1]5/3", 'garbage after "[::1]"'),
        ("192.0.2.1/24", 'non-null host address bits in "192.0.2.1/24", perhaps you should use "192.0.2.0/24" instead'),
        (
            "[2001:240:5c7:0:2d0:b7ff:fe88:2ca7]/64",
            'non-null host address bits in "2001:240:5c7:0:2d0:b7ff:fe88:2ca7/64", '
            'perhaps you should use "2001:240:5c7::/64" instead',
        ),
        ("2001:db8::/32", "unsupported dictionary type: 2001; write an IPv6 address as [2001:db8::/32]"),
        ("!", "no pattern after '!'"),
        ("/no/such/file", "open file /no/such/file: No such file or directory"),
    ],
)
def test_a_bad_pattern_is_refused_at_load(pattern: str, message: str) -> None:
    with pytest.raises(PatternError) as caught:
        MatchList(f"192.0.2.0/24 {pattern} example.com")
    assert str(caught.value) == message


def test_a_file_that_names_itself(tmp_path: Path) -> None:
    file = tmp_path / "list"
    file.write_text(f"{file}\n")
    with pytest.raises(PatternError, match="in a circle"):
        MatchList(str(file))


def test_lists_of_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "main.cf").write_text(
        "relay_domains = example.com\nmynetworks = 10.0.0.0/8\nproxy_interfaces =\nfast_flush_domains = hash:/x\n"
        "smtpd_forbid_bare_newline_exclusions = $mynetworks\n"
    )
    config = load(tmp_path, services=False)
    assert for_parameter(config, "relay_domains").match_domain("sub.example.com")
    assert for_parameter(config, "smtpd_forbid_bare_newline_exclusions").match_host("unknown", "10.1.1.1")
    assert for_parameter(config, "proxy_interfaces").empty
    strict = config.with_values({"parent_domain_matches_subdomains": ""})
    assert not for_parameter(strict, "relay_domains").match_domain("sub.example.com")
    bad = config.with_values({"relay_domains": "192.0.2.1/24"})
    with pytest.raises(ConfigError) as caught:
        for_parameter(bad, "relay_domains")
    assert caught.value.parameter == "relay_domains"


def test_tables_in_a_list(tmp_path: Path) -> None:
    (tmp_path / "main.cf").write_text(
        "relay_domains = static.example, !inline:{bad.example=x}, inline:{{example=1}}, regexp:"
        + str(tmp_path / "re")
        + ", fail:x, behind.test\n"
    )
    (tmp_path / "re").write_text("/^re\\.test$/ ok\n")
    warnings: list[str] = []
    config = load(tmp_path, services=False)
    domains = for_parameter(config, "relay_domains", Tables(config, warnings.append))
    assert domains.match_domain("static.example")
    assert not domains.match_domain("bad.example")
    assert not domains.match_domain("a.bad.example")
    assert domains.match_domain("other.example")
    assert domains.match_domain("RE.test")
    for name in ("x.re.test", "behind.test"):  # patterns are asked with the whole name
        with pytest.raises(TempFail):
            domains.match_domain(name)
    assert warnings == ["relay_domains: fail:x: table lookup problem"] * 2
