"""Every parameter of the SMTP and LMTP clients reaches the setting that is named after it."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fastmta._ext.smtpclient import FEATURE_DSN, FEATURE_SIZE
from fastmta.config import load
from fastmta.deliver.settings import SmtpSettings, read_settings

TIMES = (
    "connection_cache_time_limit",
    "connection_reuse_time_limit",
    "connect_timeout",
    "starttls_timeout",
    "mail_timeout",
    "rcpt_timeout",
    "data_init_timeout",
    "data_xfer_timeout",
    "data_done_timeout",
    "rset_timeout",
    "quit_timeout",
)
NUMBERS = (
    "mx_address_limit",
    "mx_session_limit",
    "line_length_limit",
    "connection_reuse_count_limit",
    "tls_loglevel",
)
SWITCHES = (
    "bind_address_enforce",
    "balance_inet_protocols",
    "randomize_addresses",
    "defer_if_no_mx_address_found",
    "cname_overrides_servername",
    "skip_5xx_greeting",
    "skip_quit_response",
)
GLOBAL: dict[str, tuple[str, dict[str, Any]]] = {  # parameter: value, what it makes of the settings
    "syslog_name": ("mta", {"ident": "mta/{command}"}),
    "myhostname": ("me.example", {"myhostname": "me.example"}),
    "relayhost": ("[relay.example]", {"relayhost": "[relay.example]"}),
    "ignore_mx_lookup_error": ("yes", {"ignore_mx_lookup_error": True}),
    "soft_bounce": ("yes", {"soft_bounce": True}),
    "line_length_limit": ("3333", {"reply_line_limit": 3333}),
    "minimal_backoff_time": ("77s", {"minimal_backoff_time": 77.0}),
    "fastmta_smtp_pipeline_messages": ("no", {"pipeline_messages": False}),
}
OWN: dict[str, tuple[str, dict[str, Any]]] = {  # likewise, after smtp_ or lmtp_
    "tcp_port": ("2626", {"tcp_port": "2626"}),
    "fallback_relay": ("[one.example], two.example", {"fallback_relay": ("[one.example]", "two.example")}),
    "bind_address": ("192.0.2.7", {"bind_address": "192.0.2.7"}),
    "bind_address6": ("[2001:db8::7]", {"bind_address6": "2001:db8::7"}),
    "address_preference": ("ipv6", {"address_preference": "ipv6"}),
    "host_lookup": ("native, dns", {"host_lookup": ("native", "dns")}),
    "dns_support_level": ("disabled", {"dns_enabled": False}),
    "connection_cache_on_demand": ("no", {"connection_cache": False}),
    "connection_cache_destinations": (
        "a.example b.example",
        {"connection_cache_destinations": ("a.example", "b.example")},
    ),
    "tls_security_level": ("encrypt", {"tls_level": "encrypt"}),
}
PARTICULAR: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "smtp": {
        "best_mx_transport": ("local", {"best_mx_transport": "local"}),
        "smtp_helo_name": ("helo.example", {"helo_name": "helo.example"}),
        "smtp_helo_timeout": ("88s", {"helo_timeout": 88.0}),
        "smtp_always_send_ehlo": ("no", {"always_send_ehlo": False}),
        "smtp_never_send_ehlo": ("yes", {"never_send_ehlo": True}),
        "smtp_discard_ehlo_keywords": ("dsn, SIZE", {"discard_ehlo": FEATURE_DSN | FEATURE_SIZE}),
    },
    "lmtp": {
        "lmtp_lhlo_name": ("lhlo.example", {"helo_name": "lhlo.example"}),
        "lmtp_lhlo_timeout": ("89s", {"helo_timeout": 89.0}),
        "lmtp_discard_lhlo_keywords": ("dsn, SIZE", {"discard_ehlo": FEATURE_DSN | FEATURE_SIZE}),
    },
}


def read(folder: Path, command: str, lines: dict[str, str]) -> SmtpSettings:
    (folder / "main.cf").write_text("".join(f"{name} = {value}\n" for name, value in lines.items()))
    (folder / "master.cf").write_text("")
    return read_settings(load(folder), command)


@pytest.mark.parametrize("command", ["smtp", "lmtp"])
def test_each_parameter_sets_what_is_named_after_it_and_nothing_else(tmp_path: Path, command: str) -> None:
    base_lines = {"myhostname": "mx.example", "inet_protocols": "all", "inet_interfaces": "all"}
    base = msgspec.structs.asdict(read(tmp_path, command, base_lines))
    cases: list[tuple[str, str, dict[str, Any]]] = []
    cases += [(f"{command}_{name}", f"{number + 1000}s", {name: number + 1000.0}) for number, name in enumerate(TIMES)]
    cases += [(f"{command}_{name}", f"{number + 2000}", {name: number + 2000}) for number, name in enumerate(NUMBERS)]
    for name in SWITCHES:
        cases.append((f"{command}_{name}", "no" if base[name] else "yes", {name: not base[name]}))
    cases += [(name, value, effect) for name, (value, effect) in (GLOBAL | PARTICULAR[command]).items()]
    cases += [(f"{command}_{name}", value, effect) for name, (value, effect) in OWN.items()]
    covered: set[str] = set()
    for parameter, value, effect in cases:
        found = msgspec.structs.asdict(read(tmp_path, command, base_lines | {parameter: value}))
        changed = {name: setting for name, setting in found.items() if setting != base[name]}
        wanted = {
            name: setting.format(command=command) if name == "ident" else setting for name, setting in effect.items()
        }
        if parameter == "myhostname":
            wanted["helo_name"] = "me.example"  # $myhostname
        assert changed == wanted, parameter
        covered |= wanted.keys()
    left = {"lmtp", "families"}
    if command == "lmtp":
        left |= {"best_mx_transport", "always_send_ehlo", "never_send_ehlo"}
    assert set(base) - covered == left


def test_families_follow_inet_protocols(tmp_path: Path) -> None:
    assert read(tmp_path, "smtp", {"inet_protocols": "ipv4"}).families == (socket.AF_INET,)
    assert read(tmp_path, "smtp", {"inet_protocols": "ipv6"}).families == (socket.AF_INET6,)


@pytest.mark.parametrize(
    ("older", "level"), [("use_tls", "may"), ("enforce_tls", "encrypt")], ids=["use_tls", "enforce_tls"]
)
def test_the_older_names_of_the_security_level(tmp_path: Path, older: str, level: str) -> None:
    assert read(tmp_path, "smtp", {f"smtp_{older}": "yes"}).tls_level == level
    assert read(tmp_path, "smtp", {f"smtp_{older}": "yes", "smtp_tls_security_level": "none"}).tls_level == "none"
