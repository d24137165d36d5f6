"""What one smtpd service needs of main.cf, read once at load: the machine's limits and the session's settings.

Called by smtpd/service.py. Raises ConfigError for values that make no sense. smtpd(8), postconf(5).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from fastmta._ext.smtpcontent import BARE_LF_ALLOWED, BARE_LF_NORMALIZE, BARE_LF_NOTE, BARE_LF_REJECT
from fastmta._ext.smtpsession import Limits
from fastmta.config import Config, ConfigError
from fastmta.config.values import to_list
from fastmta.tables.maps import Maps, Tables
from fastmta.tables.matchlist import MatchList, for_parameter
from fastmta.tables.routes import maps_parameter

# smtpd_forbid_bare_newline
BARE_NEWLINE: Final = {
    "no": BARE_LF_ALLOWED,
    "yes": BARE_LF_NORMALIZE,
    "normalize": BARE_LF_NORMALIZE,
    "reject": BARE_LF_NORMALIZE | BARE_LF_REJECT,
    "note": BARE_LF_NORMALIZE | BARE_LF_NOTE,
}

TLS_NONE: Final = 0
TLS_MAY: Final = 1
TLS_ENCRYPT: Final = 2
_TLS_LEVELS: Final = {"none": TLS_NONE, "may": TLS_MAY, "encrypt": TLS_ENCRYPT}

# smtpd_discard_ehlo_keywords: as Postfix names them in its log, in its order (one name is a slip of its own)
_EHLO_KEYWORDS: Final = {
    **{name.lower(): name for name in ("8BITMIME", "AUTH", "ETRN", "PIPELINING", "SIZE", "VERP", "VRFY")},
    **{name.lower(): name for name in ("XCLIENT", "XFORWARD", "STARTTLS", "ENHANCEDSTATUSCODES", "DSN")},
    "smtputf8": "EHLO_MASK_SMTPUTF8",
    "chunking": "CHUNKING",
}


class Ehlo(msgspec.Struct, frozen=True):
    """What EHLO answers. discarded: what is left out, for the log."""

    plain: bytes
    tls: bytes
    discarded: str


class SmtpdSettings(msgspec.Struct, frozen=True, eq=False):
    """Names are those of main.cf, without smtpd_ where all have it."""

    service_name: str
    myhostname: str
    banner: bytes
    ehlo: Ehlo
    ehlo_for: Callable[[str], Ehlo]  # the same with keywords of smtpd_discard_ehlo_keyword_address_maps left out
    ehlo_maps: Maps | None
    helo: bytes
    limits: Limits
    timeout: int
    starttls_timeout: int
    per_request_deadline: bool
    min_data_rate: int
    message_size_limit: int
    queue_minfree: int
    tls_level: int
    tls_loglevel: int
    tls_received_header: bool
    peername_lookup: bool
    soft_bounce: bool
    client_port_logging: bool
    bare_newline: int
    bare_newline_reject_code: int
    bare_newline_exclusions: MatchList
    mynetworks: MatchList
    limit_exceptions: MatchList
    connection_count_limit: int
    connection_rate_limit: int
    message_rate_limit: int
    recipient_rate_limit: int
    new_tls_rate_limit: int

    @property
    def counts_clients(self) -> bool:
        """Is anything limited per client?"""
        return bool(
            self.connection_count_limit
            or self.connection_rate_limit
            or self.message_rate_limit
            or self.recipient_rate_limit
            or self.new_tls_rate_limit
        )


def tls_level(cfg: Config) -> int:
    """smtpd_tls_security_level, or what the older parameters say."""
    text = cfg.get_str("smtpd_tls_security_level").lower()
    if not text:
        if cfg.get_bool("smtpd_enforce_tls"):
            return TLS_ENCRYPT
        return TLS_MAY if cfg.get_bool("smtpd_use_tls") else TLS_NONE
    level = _TLS_LEVELS.get(text)
    if level is None:
        raise ConfigError(
            *cfg.where("smtpd_tls_security_level"), "smtpd_tls_security_level", f'invalid TLS level "{text}"'
        )
    return level


def check(cfg: Config) -> None:
    """Raise ConfigError where a service could not be made with this."""
    read(cfg, "", lambda token, strict, utf8: None, False)


def read(
    cfg: Config,
    service_name: str,
    parse_mailbox: Callable[[bytes, bool, bool], str | None],
    ask_data: bool,
    tables: Tables | None = None,
) -> SmtpdSettings:
    """Settings of one service. ask_data: there are restrictions at DATA. tables: None where none is to be opened."""
    myhostname = cfg.get_str("myhostname")
    discard = _discarded(cfg)
    level = tls_level(cfg)
    size = cfg.get_size("message_size_limit")
    smtputf8 = cfg.get_bool("smtputf8_enable")
    vrfy_off = cfg.get_bool("disable_vrfy_command")
    words, bogus = _forbidden(cfg)
    offer_tls = level != TLS_NONE and "starttls" not in discard
    limits = Limits(
        myhostname=_encode(myhostname),
        parse_mailbox=parse_mailbox,
        line_length_limit=cfg.get_int("line_length_limit"),
        message_size_limit=size,
        recipient_limit=cfg.get_int("smtpd_recipient_limit"),
        recipient_overshoot_limit=cfg.get_int("smtpd_recipient_overshoot_limit"),
        junk_command_limit=cfg.get_int("smtpd_junk_command_limit"),
        soft_error_limit=cfg.get_int("smtpd_soft_error_limit"),
        hard_error_limit=cfg.get_int("smtpd_hard_error_limit"),
        error_sleep_time=cfg.get_time("smtpd_error_sleep_time"),
        helo_required=cfg.get_bool("smtpd_helo_required"),
        strict_rfc821_envelopes=cfg.get_bool("strict_rfc821_envelopes"),
        smtputf8_enable=smtputf8 and "smtputf8" not in discard,
        strict_smtputf8=cfg.get_bool("strict_smtputf8"),
        disable_vrfy_command=vrfy_off,
        offer_dsn="dsn" not in discard,
        offer_chunking="chunking" not in discard,
        offer_starttls=offer_tls,
        require_tls=level == TLS_ENCRYPT,
        forbid_unauth_pipelining=cfg.get_bool("smtpd_forbid_unauth_pipelining"),
        replace_stray_cr_lf=cfg.get_bool("cleanup_replace_stray_cr_lf"),
        ask_data=ask_data,
        bare_newline_reject_code=cfg.get_int("smtpd_forbid_bare_newline_reject_code"),
        noop_commands=frozenset(_encode(word.upper()) for word in cfg.get_list("smtpd_noop_commands")),
        forbidden_commands=words,
        forbid_non_letters=bogus,
        soft_bounce=cfg.get_bool("soft_bounce"),
    )
    bare = cfg.get_str("smtpd_forbid_bare_newline")
    mode = BARE_NEWLINE.get(bare.lower())
    if mode is None:
        parameter = "smtpd_forbid_bare_newline"
        raise ConfigError(*cfg.where(parameter), parameter, f'bad parameter value: "{parameter} = {bare}"')
    keywords = [
        ("pipelining", "PIPELINING"),
        ("size", f"SIZE {size}" if size else "SIZE"),
        ("vrfy", "" if vrfy_off else "VRFY"),
        ("starttls", "STARTTLS" if offer_tls else ""),
        ("enhancedstatuscodes", "ENHANCEDSTATUSCODES"),
        ("8bitmime", "8BITMIME"),
        ("dsn", "DSN"),
        ("smtputf8", "SMTPUTF8" if smtputf8 else ""),
        ("chunking", "CHUNKING"),
    ]

    def ehlo(discard: frozenset[str]) -> Ehlo:
        offered = [text for keyword, text in keywords if text and keyword not in discard]
        return Ehlo(
            _reply("250", [myhostname, *offered]),
            _reply("250", [myhostname, *(word for word in offered if word != "STARTTLS")]),
            _discarded_text(discard),
        )

    return SmtpdSettings(
        service_name=service_name,
        myhostname=myhostname,
        banner=b"220 " + _encode(cfg.get_str("smtpd_banner")) + b"\r\n",
        ehlo=ehlo(discard),
        ehlo_for=lambda words: ehlo(discarded_words(words, tables.warn if tables is not None else None)),
        ehlo_maps=_ehlo_maps(cfg, tables),
        helo=_reply("250", [myhostname]),
        limits=limits,
        timeout=max(1, int(cfg.get_time("smtpd_timeout"))),
        starttls_timeout=max(1, int(cfg.get_time("smtpd_starttls_timeout"))),
        per_request_deadline=cfg.get_bool("smtpd_per_request_deadline"),
        min_data_rate=cfg.get_int("smtpd_min_data_rate"),
        message_size_limit=size,
        queue_minfree=cfg.get_size("queue_minfree"),
        tls_level=level,
        tls_loglevel=cfg.get_int("smtpd_tls_loglevel"),
        tls_received_header=cfg.get_bool("smtpd_tls_received_header"),
        soft_bounce=cfg.get_bool("soft_bounce"),
        peername_lookup=cfg.get_bool("smtpd_peername_lookup"),
        client_port_logging=cfg.get_bool("smtpd_client_port_logging"),
        bare_newline=mode,
        bare_newline_reject_code=cfg.get_int("smtpd_forbid_bare_newline_reject_code"),
        mynetworks=for_parameter(cfg, "mynetworks", tables),  # first: others are $mynetworks
        bare_newline_exclusions=for_parameter(cfg, "smtpd_forbid_bare_newline_exclusions", tables),
        limit_exceptions=for_parameter(cfg, "smtpd_client_event_limit_exceptions", tables),
        connection_count_limit=cfg.get_int("smtpd_client_connection_count_limit"),
        connection_rate_limit=cfg.get_int("smtpd_client_connection_rate_limit"),
        message_rate_limit=cfg.get_int("smtpd_client_message_rate_limit"),
        recipient_rate_limit=cfg.get_int("smtpd_client_recipient_rate_limit"),
        new_tls_rate_limit=cfg.get_int("smtpd_client_new_tls_session_rate_limit"),
    )


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _reply(code: str, lines: list[str]) -> bytes:
    """A reply of one or more lines."""
    last = len(lines) - 1
    return b"".join(_encode(f"{code}{' ' if at == last else '-'}{line}\r\n") for at, line in enumerate(lines))


def _discarded(cfg: Config) -> frozenset[str]:
    words = frozenset(word.lower() for word in cfg.get_list("smtpd_discard_ehlo_keywords"))
    wrong = words - _EHLO_KEYWORDS.keys() - {"silent-discard"}
    if wrong:
        parameter = "smtpd_discard_ehlo_keywords"
        raise ConfigError(*cfg.where(parameter), parameter, f'unknown EHLO keyword "{min(wrong)}"')
    return words


def discarded_words(text: str, warn: Callable[[str], None] | None) -> frozenset[str]:
    """The keywords in an entry of smtpd_discard_ehlo_keyword_address_maps; an unknown one is told to the log."""
    words = frozenset(word.lower() for word in to_list(text))
    for word in sorted(words - _EHLO_KEYWORDS.keys() - {"silent-discard"}):
        if warn is not None:
            warn(f'unknown EHLO keyword "{word}" in ehlo keyword list "{text}"')
    return words


def _ehlo_maps(cfg: Config, tables: Tables | None) -> Maps | None:
    maps = maps_parameter(cfg, tables, "smtpd_discard_ehlo_keyword_address_maps") if tables is not None else None
    return maps or None


def _discarded_text(discard: frozenset[str]) -> str:
    if "silent-discard" in discard:
        return ""
    return " ".join(name for word, name in _EHLO_KEYWORDS.items() if word in discard)


def _forbidden(cfg: Config) -> tuple[frozenset[bytes], bool]:
    """smtpd_forbidden_commands: words, and Postfix's default pattern for anything that does not begin with a letter."""
    words: set[bytes] = set()
    bogus = False
    for item in cfg.get_list("smtpd_forbidden_commands"):
        if "".join(item.split()) in ("regexp:{{/^[^A-Z]/Bogus}}", "pcre:{{/^[^A-Z]/Bogus}}"):
            bogus = True
        elif ":" in item:
            parameter = "smtpd_forbidden_commands"
            raise ConfigError(*cfg.where(parameter), parameter, f"{item}: tables are not supported yet in this list")
        else:
            words.add(_encode(item.upper()))
    return frozenset(words), bogus
