"""The configuration as others see it: typed values, views, the machine's defaults, errors, the report."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fastmta.config import Config, ConfigError, find_directory, load, machine
from fastmta.config.machine import Interface

Read = Callable[..., Config]
SMTPD = "smtp inet n - n - - smtpd\nsmtp unix - - n - - smtp\nrelay unix - - n - - smtp\n"


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Load a configuration from the text of its two files."""

    def read(main_cf: str = "", master_cf: str = SMTPD) -> Config:
        (tmp_path / "main.cf").write_text(main_cf)
        (tmp_path / "master.cf").write_text(master_cf)
        return load(tmp_path)

    return read


# -- values


def test_types(read: Read) -> None:
    config = read(
        "compatibility_level = 3.6\nmessage_size_limit = 5000000000\nsmtpd_timeout = 2m\nsoft_bounce = Yes\n"
        "relay_domains = a.example, b.example\n\tc.example,\nsmtpd_soft_error_limit = 3\n"
        "smtpd_recipient_restrictions = { check_x, y } permit\nbounce_queue_lifetime = 2\n"
    )
    assert config.get_size("message_size_limit") == 5000000000
    assert config.get_time("smtpd_timeout") == 120.0
    assert config.get_time("bounce_queue_lifetime") == 2 * 86400.0  # the unit of its default
    assert config.get_time("queue_run_delay") == 300.0
    assert config.get_bool("soft_bounce") is True
    assert config.get_bool("smtputf8_enable") is True
    assert config.get_int("smtpd_soft_error_limit") == 3
    assert config.get_int("smtpd_hard_error_limit") == 20
    assert config.get_list("relay_domains") == ("a.example", "b.example", "c.example")
    assert config.get_list("smtpd_recipient_restrictions") == ("{ check_x, y }", "permit")
    assert config.get_str("relayhost") == ""
    with pytest.raises(KeyError):
        config.get_str("no_such_parameter")


def test_expansion_and_raw(read: Read) -> None:
    config = read("myhostname = mx.example.com\nmine = $mydomain\nrelayhost = [smart.$mine]\n")
    assert config.get_str("relayhost") == "[smart.example.com]"
    assert config.get_raw("relayhost") == "[smart.$mine]"
    assert config.get_str("smtpd_banner") == "mx.example.com ESMTP Postfix"
    assert config.expand("$mydomain ${nothing?x}${nothing:y}") == "example.com y"


def test_defaults_follow_the_compatibility_level(read: Read) -> None:
    old, new = read(), read("compatibility_level = 3.6\n")
    assert (old.get_bool("smtputf8_enable"), new.get_bool("smtputf8_enable")) == (False, True)
    assert (old.get_str("mynetworks_style"), new.get_str("mynetworks_style")) == ("subnet", "host")
    assert old.get_str("relay_domains") == old.get_str("mydestination")
    assert new.get_str("relay_domains") == ""
    assert "defer_unauth_destination" in new.get_list("smtpd_relay_restrictions")


def test_safe_defaults_of_newer_postfix(read: Read) -> None:
    config = read("mynetworks = 10.0.0.0/8\n")
    assert config.get_str("smtpd_forbid_bare_newline") == "normalize"
    assert config.get_str("smtpd_forbid_bare_newline_exclusions") == "10.0.0.0/8"
    assert config.get_bool("smtpd_forbid_unauth_pipelining") is True


def test_transport_families(read: Read) -> None:
    config = read(
        "smtp_destination_concurrency_limit = 7\ndefault_destination_concurrency_limit = 9\n"
        "relay_destination_rate_delay = 2m\nslow_initial_destination_concurrency = 1\n"
        "slow_destination_concurrency_negative_feedback = 1/concurrency\nminimal_backoff_time = 1m\n"
    )
    assert config.transport_int("smtp", "destination_concurrency_limit") == 7
    assert config.transport_int("relay", "destination_concurrency_limit") == 9
    assert config.transport_int("local", "destination_concurrency_limit") == 2
    assert config.transport_int("slow", "initial_destination_concurrency") == 1
    assert config.transport_int("smtp", "initial_destination_concurrency") == 5
    assert config.transport_time("relay", "destination_rate_delay") == 120.0
    assert config.transport_time("smtp", "destination_rate_delay") == 0.0
    assert config.transport_str("slow", "destination_concurrency_negative_feedback") == "1/concurrency"
    assert config.transport_str("smtp", "destination_concurrency_negative_feedback") == "1"
    assert config.transport_time("smtp", "minimal_backoff_time") == 60.0  # no family: one for all


def test_services_have_their_own_view(read: Read) -> None:
    config = read(
        "syslog_name = mail\nwhoami = $service_name/$process_name\n",
        SMTPD
        + "587 inet n - n - - smtpd\n -o syslog_name=mail/$service_name -o smtpd_timeout=5s\n -o relayhost=$whoami\n",
    )
    submission = config.for_service(config.services[-1])
    assert submission.get_str("syslog_name") == "mail/587"
    assert submission.get_time("smtpd_timeout") == 5.0
    assert submission.get_str("relayhost") == "587/smtpd"
    assert config.get_str("syslog_name") == "mail"
    assert config.get_time("smtpd_timeout") == 300.0
    assert submission.where("smtpd_timeout") == (str(config.directory / "master.cf"), 4)


def test_stress_is_another_view(read: Read) -> None:
    config = read("smtpd_soft_error_limit = 4\n")
    stressed = config.with_values({"stress": "yes"})
    assert (stressed.get_time("smtpd_timeout"), stressed.get_int("smtpd_hard_error_limit")) == (10.0, 1)
    assert stressed.get_int("smtpd_soft_error_limit") == 4
    assert config.get_time("smtpd_timeout") == 300.0


# -- errors


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("line_length_limit = 10M", "bad numerical configuration: line_length_limit = 10M"),
        ("line_length_limit =", "bad numerical configuration: line_length_limit = "),
        ("line_length_limit = 99999999999", "bad numerical configuration: line_length_limit = 99999999999"),
        ("line_length_limit = 10", "invalid line_length_limit parameter value 10 < 512"),
        ("delay_logging_resolution_limit = 7", "invalid delay_logging_resolution_limit parameter value 7 > 6"),
        ("message_size_limit = 10k", "bad numerical configuration: message_size_limit = 10k"),
        ("queue_run_delay = 5x", "parameter queue_run_delay: bad time value or unit: 5x"),
        ("queue_run_delay = -5", "parameter queue_run_delay: bad time value or unit: -5"),
        ("queue_run_delay = 99999999w", "parameter queue_run_delay: bad time value or unit: 99999999w"),
        ("queue_run_delay = 0", "invalid queue_run_delay: 0 (min 1)"),
        ("maximal_queue_lifetime = 101d", "invalid maximal_queue_lifetime: 8726400 (max 8640000)"),
        ("soft_bounce = yes1", "bad boolean configuration: soft_bounce = yes1"),
        ("mydomain =", "bad string length 0 < 1: mydomain = "),
        ("relayhost = ${x", 'parameter relayhost: truncated macro reference: "${x"'),
        (
            "own = ${{a} ~ {b}}",
            'parameter own: "==" or "!="" or "<"" or "<="" or ">="" or ">" expected at: "...a}>>>~ {b}"',
        ),
        ("relayhost = $relayhost", 'unreasonable macro call nesting: "relayhost"'),
        ("relayhost = ${{$relayhost} == {}}", 'unreasonable macro call nesting: "relayhost"'),
        ("compatibility_level = 3a", 'parameter compatibility_level: malformed compatibility level syntax: "3a"'),
    ],
)
def test_a_bad_value_is_found_at_load(setting: str, message: str, read: Read) -> None:
    with pytest.raises(ConfigError) as caught:
        read(f"# first line\n{setting}\n")
    assert caught.value.line == 2
    assert caught.value.parameter == setting.split()[0]
    assert str(caught.value) == f"{caught.value.file}, line 2: {message}"
    assert caught.value.file.endswith("/main.cf")


def test_a_bad_value_of_a_service_is_found_at_load(read: Read) -> None:
    with pytest.raises(ConfigError) as caught:
        read("", SMTPD + "587 inet n - n - - smtpd\n  -o smtpd_timeout=never\n")
    assert caught.value.file.endswith("/master.cf")
    assert (caught.value.line, caught.value.parameter) == (4, "smtpd_timeout")


def test_read_only_parameters_are_not_set(read: Read) -> None:
    config = read("process_name = x\nconfig_directory = /y\n")
    assert config.get_str("process_name") == "fastmta"
    assert config.get_str("config_directory") == str(config.directory)
    assert len([warning for warning in config.warnings if "read-only parameter assignment" in warning]) == 2


# -- the machine


@pytest.mark.parametrize(
    ("system", "main_cf", "hostname", "domain"),
    [
        ("mx.example.com", "", "mx.example.com", "example.com"),
        ("mx", "", "mx.localdomain", "localdomain"),
        ("mx", "mydomain = example.net\n", "mx.example.net", "example.net"),
        ("mx.a.example", "mydomain = example.net\n", "mx.a.example", "example.net"),
        ("mx", "myhostname = relay\n", "relay", "localdomain"),
        ("mx", "myhostname = relay.$mydomain\nmydomain = example.org\n", "relay.example.org", "example.org"),
        ("odd$name.example", "", "odd$name.example", "example"),
    ],
)
def test_names(
    system: str, main_cf: str, hostname: str, domain: str, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "hostname", lambda: system)
    config = read(main_cf)
    assert (config.myhostname, config.mydomain, config.myorigin) == (hostname, domain, hostname)
    assert config.get_list("mydestination") == (hostname, f"localhost.{domain}", "localhost")


def interface(address: str, length: int) -> Interface:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    packed = socket.inet_pton(family, address)
    bits = 8 * len(packed)
    mask = ((1 << bits) - 1) >> (bits - length) << (bits - length)
    return Interface(family, packed, mask.to_bytes(len(packed)))


INTERFACES = (
    interface("127.0.0.1", 8),
    interface("192.0.2.130", 25),
    interface("172.16.5.4", 24),
    interface("::1", 128),
    interface("2001:db8::7", 64),
)


@pytest.mark.parametrize(
    ("main_cf", "expected"),
    [
        ("mynetworks_style = subnet\n", "127.0.0.0/8 192.0.2.128/25 172.16.5.0/24 [::1]/128 [2001:db8::]/64"),
        ("mynetworks_style = host\n", "127.0.0.1/32 192.0.2.130/32 172.16.5.4/32 [::1]/128 [2001:db8::7]/128"),
        ("mynetworks_style = class\n", "127.0.0.0/8 192.0.2.0/24 172.16.0.0/16 [::1]/128 [2001:db8::]/64"),
        ("mynetworks_style = subnet\ninet_protocols = ipv4\n", "127.0.0.0/8 192.0.2.128/25 172.16.5.0/24"),
        ("mynetworks_style = subnet\ninet_protocols = ipv6\n", "[::1]/128 [2001:db8::]/64"),
        ("mynetworks_style = subnet\ninet_interfaces = loopback-only\n", "127.0.0.0/8 [::1]/128"),
        ("mynetworks_style = subnet\ninet_interfaces = 192.0.2.130, 127.0.0.1\n", "127.0.0.0/8 192.0.2.128/25"),
        ("mynetworks = $mydomain 10.0.0.0/8\nmydomain = x\n", "x 10.0.0.0/8"),
    ],
)
def test_mynetworks(main_cf: str, expected: str, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "interfaces", lambda: INTERFACES)
    assert read(main_cf).get_str("mynetworks") == expected


@pytest.mark.parametrize(
    ("main_cf", "message"),
    [
        ("mynetworks_style = net\n", "bad mynetworks_style value: net; specify class, subnet or host"),
        ("inet_interfaces = 203.0.113.9\n", "parameter inet_interfaces: no local interface found for 203.0.113.9"),
        ("inet_protocols = ipv5\n", 'unknown inet_protocols value "ipv5": specify all, ipv4 or ipv6'),
    ],
)
def test_bad_networks(main_cf: str, message: str, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "interfaces", lambda: INTERFACES)
    with pytest.raises(ConfigError) as caught:
        read(main_cf).get_str("mynetworks")
    assert str(caught.value) == f"{caught.value.file}, line 1: {message}"


def test_addresses_of_our_own_and_to_listen_on(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "interfaces", lambda: INTERFACES)
    config = read("proxy_interfaces = 198.51.100.1\ninet_protocols = ipv4\n")
    assert config.own_addresses() == ("127.0.0.1", "192.0.2.130", "172.16.5.4", "198.51.100.1")
    assert config.listen_addresses() == ("0.0.0.0",)
    assert read("inet_interfaces = loopback-only\n").listen_addresses() == ("127.0.0.1", "::1")


def test_the_real_interfaces_have_the_loopback() -> None:
    assert interface("127.0.0.1", 8) in machine.interfaces()


# -- the whole


def test_a_copy_by_pickle_is_equal(read: Read) -> None:
    config = read("myhostname = mx.example.com\n", SMTPD + "587 inet n - n - - smtpd -o smtpd_timeout=5\n")
    config.get_str("mynetworks")
    copy = pickle.loads(pickle.dumps(config.for_service(config.services[-1])))
    assert copy.get_time("smtpd_timeout") == 5.0
    assert copy.services == config.services
    assert copy.get_str("smtpd_banner") == "mx.example.com ESMTP Postfix"


def test_a_child_process_sees_the_same(read: Read) -> None:
    config = read("myhostname = mx.example.com\n")
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, config.myhostname.encode())
        os._exit(0)
    assert os.waitpid(child, 0) == (child, 0)
    assert os.read(reader, 100) == b"mx.example.com"
    os.close(reader)
    os.close(writer)


def test_load_is_quick(read: Read) -> None:
    text = "".join(f"relay_{n} = $relay_{n - 1} x\n" if n else "relay_0 = x\n" for n in range(60))
    config = read("compatibility_level = 3.6\n" + text)
    best = 1.0
    for _ in range(5):
        began = time.perf_counter()
        load(config.directory)
        best = min(best, time.perf_counter() - began)
    assert best < 0.05


def test_loading_imports_little() -> None:
    code = "import sys, fastmta.config; print(*sorted(name for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"msgspec", "uvloop", "asyncio", "ctypes", "lmdb", "dns", "ssl"} & set(done.stdout.split())


def test_where_the_configuration_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAIL_CONFIG", "/somewhere")
    assert find_directory(str(tmp_path)) == tmp_path
    assert find_directory() == Path("/somewhere")
    monkeypatch.delenv("MAIL_CONFIG")
    assert find_directory() in (Path("/etc/fastmta"), Path("/etc/postfix"))


LOOPS = {
    "itself": "relayhost = $relayhost\n",
    "each_other": "relayhost = a $relay_transport\nrelay_transport = b ${relayhost}\n",
    "in_a_condition": "relayhost = ${{$relayhost} == {x} ? {y} : {z}}\n",
    "doubling": "".join(f"x{n} = $x{n + 1} $x{n + 1}\n" for n in range(60)) + "x60 = y\nrelayhost = $x0\n",
    "growing": f"y0 = {'x' * 100_000}\n"
    + "".join(f"y{n + 1} = $y{n}$y{n}$y{n}$y{n}\n" for n in range(9))
    + "relayhost = $y9\n",
    "deep": "".join(f"x{n} = $x{n + 1}\n" for n in range(2000)) + "x2000 = y\nrelayhost = $x0\n",
}


@pytest.mark.parametrize("name", LOOPS)
def test_values_without_end_are_an_error(name: str, read: Read) -> None:
    started = time.monotonic()
    with pytest.raises(ConfigError, match=r"main\.cf, line \d+: .*unreasonable macro call nesting"):
        read(LOOPS[name])
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("main_cf", "name"),
    [
        ("mydomain = x.$myhostname\n", "mydomain"),
        ("inet_interfaces = $mynetworks\n", "mynetworks"),
        ("mynetworks_style = $mynetworks\n", "mynetworks"),
        ("inet_interfaces = ${{$mynetworks} == {} ? all : all}\n", "mynetworks"),
    ],
)
def test_defaults_made_of_themselves_are_an_error(
    main_cf: str, name: str, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "hostname", lambda: "here")
    with pytest.raises(ConfigError, match=r"main\.cf, line 1: .*the default of my\w+ depends on itself"):
        read(main_cf).get_str(name)


# -- the report


def test_report_names_what_has_no_effect(read: Read) -> None:
    config = read(
        "myhostname = mx.example.com\n"  # works
        "alias_maps = hash:/etc/aliases\n"  # not supported yet
        "virtual_alias_maps =\n"  # its default
        "max_use = 100\n"  # its default, no effect
        "max_idle = 10s\n"  # no effect
        "smtpd_tpyo = 1\n"  # unknown
        "mine = mx\n"  # used below
        "relayhost = $mine\n"
        "smtp_destination_concurrency_limit = 3\n"  # family of a transport that exists
        "slow_destination_concurrency_limit = 3\n"  # of one that does not
        "fallback_relay = x\n"  # old name that a default still mentions
        "smtpd_restriction_classes = strict\n"
        "strict = reject\n",
        SMTPD + "587 inet n - n - - smtpd\n -o smtpd_sasl_auth_enable=yes -o smtpd_sasl_type=cyrus\n -o other=1\n",
    )
    main_cf, master_cf = config.directory / "main.cf", config.directory / "master.cf"
    assert config.report() == [
        f"{main_cf}, line 2: not supported yet: alias_maps=hash:/etc/aliases",
        f"{main_cf}, line 6: unused parameter: smtpd_tpyo=1",
        f"{main_cf}, line 10: unused parameter: slow_destination_concurrency_limit=3",
        f"{main_cf}, line 12: not supported yet: smtpd_restriction_classes=strict",
        f"{master_cf}, line 4: 587/inet: not supported yet: smtpd_sasl_auth_enable=yes",
        f"{master_cf}, line 4: 587/inet: unused parameter: other=1",
    ]
    assert config.notes() == [f"{main_cf}, line 5: no effect: max_idle=10s (workers are not stopped when idle)"]


def test_nothing_to_report(read: Read) -> None:
    assert read("compatibility_level = 3.6\nmydestination =\nlocal_recipient_maps =\nalias_maps =\n").report() == []


def test_a_level_that_is_none_is_an_error_for_a_service_too(tmp_path: Path) -> None:
    (tmp_path / "main.cf").touch()
    (tmp_path / "master.cf").write_text("# x\n25 inet n - n - - smtpd -o compatibility_level=!\n")
    with pytest.raises(ConfigError, match=r"master\.cf, line 2: .*compatibility_level.*: malformed.*\"!\""):
        load(tmp_path)


def test_what_is_wrong_in_the_files_of_tables_is_reported_with_its_line(tmp_path: Path) -> None:
    """And is no error: at a reload, it would come when there is no way back any more."""
    bad, odd = tmp_path / "bad.cf", tmp_path / "odd.cf"
    bad.write_text("server_host = a\nno such thing\n")
    odd.write_text("# comment\nserver_host = a\ntypo = 1\n")
    (tmp_path / "main.cf").write_text(
        f"virtual_alias_maps = ldap:{bad} ldap:{odd} ldap:/nowhere.cf ldap:own\nown_server_host = b # c\n"
    )
    (tmp_path / "master.cf").write_text("25 inet n - n - - smtpd -o { process_name = ${{1} ==> {2} ? a} }\n")
    report = load(tmp_path).report()
    assert f"{bad}, line 2: missing '=' after attribute name: \"no such thing\"" in report
    assert f"{odd}, line 3: unused parameter: typo=1" in report
    assert f"{tmp_path}/main.cf, line 2: #comment after other text is not allowed: # c..." in report
    assert not any("own_server_host" in line for line in report)


def test_options_of_tables_are_not_unused(tmp_path: Path) -> None:
    (tmp_path / "main.cf").write_text(
        "virtual_alias_maps = proxy:ldap:accounts\naccounts_search_base = dc=example\naccounts_serach_base = x\n"
    )
    (tmp_path / "master.cf").write_text(
        "smtp inet n - n - - smtpd\n -o x=mysql:own -o smtpd_client_restrictions=$x -o own_user=me -o own_usr=me\n"
    )
    unused = {line.rpartition(": ")[2] for line in load(tmp_path).report() if "unused" in line}
    assert unused == {"accounts_serach_base=x", "own_usr=me"}
