"""The settings of one smtp or lmtp service of master.cf, read once from its Config (with its -o overrides).

Made by deliver/agents.py; everything in deliver/ that speaks SMTP reads it. Names are main.cf's without "smtp_" or
"lmtp_"; times are in seconds. Raises ConfigError for values that cannot be.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

import msgspec

from fastmta._ext.smtpclient import (
    FEATURE_8BITMIME,
    FEATURE_DSN,
    FEATURE_PIPELINING,
    FEATURE_SIZE,
    FEATURE_SMTPUTF8,
    FEATURE_STARTTLS,
    STATE_DATA,
    STATE_DOT,
    STATE_EHLO,
    STATE_GREETING,
    STATE_HELO,
    STATE_MAIL,
    STATE_QUIT,
    STATE_RCPT,
    STATE_RSET,
    STATE_STARTTLS,
    STATE_TLS,
)
from fastmta.config import Config, ConfigError
from fastmta.config.machine import Interface
from fastmta.deliver.nexthop import numeric_address

EHLO_KEYWORDS = {
    "8bitmime": FEATURE_8BITMIME,
    "dsn": FEATURE_DSN,
    "pipelining": FEATURE_PIPELINING,
    "size": FEATURE_SIZE,
    "smtputf8": FEATURE_SMTPUTF8,
    "starttls": FEATURE_STARTTLS,
}

TLS_LEVELS_LATER = frozenset({"dane", "dane-only", "fingerprint", "verify", "secure"})


class SmtpSettings(msgspec.Struct, frozen=True):
    """See postconf(5) for each; the defaults are smtp's."""

    lmtp: bool = False
    ident: str = "postfix/smtp"
    myhostname: str = "localhost"
    helo_name: str = "localhost"
    tcp_port: str = "25"
    relayhost: str = ""
    fallback_relay: tuple[str, ...] = ()
    best_mx_transport: str = ""
    bind_address: str = ""
    bind_address6: str = ""
    bind_address_enforce: bool = False
    families: tuple[int, ...] = (socket.AF_INET, socket.AF_INET6)
    address_preference: str = "any"
    balance_inet_protocols: bool = True
    randomize_addresses: bool = True
    mx_address_limit: int = 5
    mx_session_limit: int = 2
    host_lookup: tuple[str, ...] = ("dns",)
    dns_enabled: bool = True
    defer_if_no_mx_address_found: bool = False
    cname_overrides_servername: bool = False
    ignore_mx_lookup_error: bool = False
    skip_5xx_greeting: bool = True
    skip_quit_response: bool = True
    always_send_ehlo: bool = True
    never_send_ehlo: bool = False
    discard_ehlo: int = 0
    line_length_limit: int = 998
    reply_line_limit: int = 2048
    soft_bounce: bool = False
    connection_cache: bool = True
    connection_cache_destinations: tuple[str, ...] = ()
    connection_cache_time_limit: float = 2.0
    connection_reuse_time_limit: float = 300.0
    connection_reuse_count_limit: int = 0
    pipeline_messages: bool = True
    connect_timeout: float = 30.0
    helo_timeout: float = 300.0
    starttls_timeout: float = 300.0
    mail_timeout: float = 300.0
    rcpt_timeout: float = 300.0
    data_init_timeout: float = 120.0
    data_xfer_timeout: float = 180.0
    data_done_timeout: float = 600.0
    rset_timeout: float = 20.0
    quit_timeout: float = 300.0
    minimal_backoff_time: float = 300.0
    tls_level: str = "none"
    tls_loglevel: int = 0

    def timeout(self, state: int) -> float:
        """How long to wait for a reply in a state of the client machine."""
        return {
            STATE_GREETING: self.helo_timeout,
            STATE_EHLO: self.helo_timeout,
            STATE_HELO: self.helo_timeout,
            STATE_STARTTLS: self.starttls_timeout,
            STATE_TLS: self.starttls_timeout,
            STATE_RSET: self.rset_timeout,
            STATE_MAIL: self.mail_timeout,
            STATE_RCPT: self.rcpt_timeout,
            STATE_DATA: self.data_init_timeout,
            STATE_DOT: self.data_done_timeout,
            STATE_QUIT: self.quit_timeout,
        }.get(state, self.quit_timeout)

    def shortest_timeout(self) -> float:
        """The shortest of the timeouts that are watched: it decides how often."""
        times = (
            self.helo_timeout,
            self.starttls_timeout,
            self.mail_timeout,
            self.rcpt_timeout,
            self.data_init_timeout,
            self.data_xfer_timeout,
            self.data_done_timeout,
            self.rset_timeout,
            self.quit_timeout,
            self.connection_cache_time_limit,
        )
        return min((time for time in times if time > 0), default=1.0)


def security_level(cfg: Config, prefix: str) -> str:
    """smtp_tls_security_level; empty: what the older smtp_use_tls and smtp_enforce_tls say."""
    parameter = f"{prefix}_tls_security_level"
    level = cfg.get_str(parameter).lower()
    if level in TLS_LEVELS_LATER:
        raise ConfigError(*cfg.where(parameter), parameter, f"{parameter} = {level} is not supported yet")
    if level:
        return _one_of(cfg, parameter, ("none", "may", "encrypt"))
    if cfg.get_bool(f"{prefix}_enforce_tls"):
        return "encrypt"
    return "may" if cfg.get_bool(f"{prefix}_use_tls") else "none"


def _one_of(cfg: Config, parameter: str, known: Sequence[str]) -> str:
    """A word, in lower case."""
    word = cfg.get_str(parameter).lower()
    if word not in known:
        raise ConfigError(*cfg.where(parameter), parameter, f"bad parameter value: {parameter} = {word}")
    return word


def _own_address(cfg: Config, parameter: str, family: int) -> str:
    """An address to send from, without brackets; "" where none is set."""
    text = cfg.get_str(parameter).removeprefix("[").removesuffix("]")
    found = numeric_address(text)
    if text and (found is None or found[0] != family):
        raise ConfigError(*cfg.where(parameter), parameter, f"bad {parameter} parameter: {text}")
    return text


def _lookups(cfg: Config, parameter: str) -> tuple[str, ...]:
    """The ways to find a host."""
    words = tuple(word.lower() for word in cfg.get_list(parameter)) or ("dns",)
    wrong = [word for word in words if word not in ("dns", "native")]
    if wrong:
        raise ConfigError(*cfg.where(parameter), parameter, f'unknown {parameter} value: "{wrong[0]}"')
    return words


def only_address(interfaces: Sequence[Interface], family: int) -> str:
    """The one address of a family that mail is received on: a virtual host also sends from it. "" if there are
    others.
    """
    own = [interface for interface in interfaces if interface.family == family]
    return own[0].text if len(own) == 1 and not own[0].is_loopback else ""


def read_settings(cfg: Config, command: str) -> SmtpSettings:
    """Read the parameters of one service; command is "smtp" or "lmtp"."""
    lmtp = command == "lmtp"
    p = command
    hello = "lhlo" if lmtp else "helo"
    discard = cfg.get_list(f"{p}_discard_{'lhlo' if lmtp else 'ehlo'}_keywords")
    families = tuple(int(family) for family in cfg.families())
    interfaces = cfg.own_interfaces()
    support = _one_of(cfg, f"{p}_dns_support_level", ("", "disabled", "enabled", "dnssec"))
    preference = _one_of(cfg, f"{p}_address_preference", ("any", "ipv4", "ipv6"))
    return SmtpSettings(
        lmtp=lmtp,
        ident=f"{cfg.get_str('syslog_name')}/{command}",
        myhostname=cfg.get_str("myhostname"),
        helo_name=cfg.get_str(f"{p}_{hello}_name"),
        tcp_port=cfg.get_str(f"{p}_tcp_port"),
        relayhost=cfg.get_str("relayhost"),
        fallback_relay=cfg.get_list(f"{p}_fallback_relay"),
        best_mx_transport="" if lmtp else cfg.get_str("best_mx_transport"),
        bind_address=_own_address(cfg, f"{p}_bind_address", socket.AF_INET) or only_address(interfaces, socket.AF_INET),
        bind_address6=_own_address(cfg, f"{p}_bind_address6", socket.AF_INET6)
        or only_address(interfaces, socket.AF_INET6),
        bind_address_enforce=cfg.get_bool(f"{p}_bind_address_enforce"),
        families=families,
        address_preference=preference if len(families) > 1 else "any",
        balance_inet_protocols=cfg.get_bool(f"{p}_balance_inet_protocols"),
        randomize_addresses=cfg.get_bool(f"{p}_randomize_addresses"),
        mx_address_limit=cfg.get_int(f"{p}_mx_address_limit"),
        mx_session_limit=cfg.get_int(f"{p}_mx_session_limit"),
        host_lookup=_lookups(cfg, f"{p}_host_lookup"),
        dns_enabled=support != "disabled" and not (support == "" and cfg.get_bool("disable_dns_lookups")),
        defer_if_no_mx_address_found=cfg.get_bool(f"{p}_defer_if_no_mx_address_found"),
        cname_overrides_servername=cfg.get_bool(f"{p}_cname_overrides_servername"),
        ignore_mx_lookup_error=cfg.get_bool("ignore_mx_lookup_error"),
        skip_5xx_greeting=cfg.get_bool(f"{p}_skip_5xx_greeting"),
        skip_quit_response=cfg.get_bool(f"{p}_skip_quit_response"),
        always_send_ehlo=True if lmtp else cfg.get_bool("smtp_always_send_ehlo"),
        never_send_ehlo=False if lmtp else cfg.get_bool("smtp_never_send_ehlo"),
        discard_ehlo=sum({EHLO_KEYWORDS.get(word.lower(), 0) for word in discard}),
        line_length_limit=cfg.get_int(f"{p}_line_length_limit"),
        reply_line_limit=cfg.get_int("line_length_limit"),
        soft_bounce=cfg.get_bool("soft_bounce"),
        connection_cache=cfg.get_bool(f"{p}_connection_cache_on_demand"),
        connection_cache_destinations=cfg.get_list(f"{p}_connection_cache_destinations"),
        connection_cache_time_limit=cfg.get_time(f"{p}_connection_cache_time_limit"),
        connection_reuse_time_limit=cfg.get_time(f"{p}_connection_reuse_time_limit"),
        connection_reuse_count_limit=cfg.get_int(f"{p}_connection_reuse_count_limit"),
        pipeline_messages=cfg.get_bool("fastmta_smtp_pipeline_messages"),
        connect_timeout=cfg.get_time(f"{p}_connect_timeout"),
        helo_timeout=cfg.get_time(f"{p}_{hello}_timeout"),
        starttls_timeout=cfg.get_time(f"{p}_starttls_timeout"),
        mail_timeout=cfg.get_time(f"{p}_mail_timeout"),
        rcpt_timeout=cfg.get_time(f"{p}_rcpt_timeout"),
        data_init_timeout=cfg.get_time(f"{p}_data_init_timeout"),
        data_xfer_timeout=cfg.get_time(f"{p}_data_xfer_timeout"),
        data_done_timeout=cfg.get_time(f"{p}_data_done_timeout"),
        rset_timeout=cfg.get_time(f"{p}_rset_timeout"),
        quit_timeout=cfg.get_time(f"{p}_quit_timeout"),
        minimal_backoff_time=cfg.get_time("minimal_backoff_time"),
        tls_level=security_level(cfg, p),
        tls_loglevel=cfg.get_int(f"{p}_tls_loglevel"),
    )
