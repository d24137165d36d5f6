"""Rows of the table of parameters: the SMTP client, and the twin of each for LMTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from fastmta.config.parameters import Kind, Parameter, State

STR, LIST, INT, BOOL, TIME = Kind.STR, Kind.LIST, Kind.INT, Kind.BOOL, Kind.TIME

_SMTP: Final = (
    Parameter("smtp_helo_name", STR, "$myhostname", 1, doc="our name in EHLO and HELO"),
    Parameter("smtp_tcp_port", STR, "smtp", doc="port where the next hop names none"),
    Parameter("smtp_bind_address", STR, "", doc="IPv4 address to connect from"),
    Parameter("smtp_bind_address6", STR, "", doc="IPv6 address to connect from"),
    Parameter("smtp_bind_address_enforce", BOOL, "no", doc="defer mail when that address cannot be used"),
    Parameter("smtp_address_preference", STR, "any", 1, doc="any, ipv4 or ipv6 first"),
    Parameter(
        "smtp_balance_inet_protocols",
        BOOL,
        "yes",
        doc="keep places for both address families among the first addresses",
    ),
    Parameter("smtp_host_lookup", LIST, "dns", 1, doc="dns, native: where host names are looked up"),
    Parameter("smtp_dns_support_level", STR, "", doc="disabled, enabled, dnssec"),
    Parameter("smtp_dns_resolver_options", LIST, "", state=State.NOT_YET),
    Parameter("smtp_defer_if_no_mx_address_found", BOOL, "no", doc="MX hosts without address: defer instead of bounce"),
    Parameter("smtp_fallback_relay", LIST, "$fallback_relay", doc="hosts to try when all others fail"),
    Parameter("smtp_randomize_addresses", BOOL, "yes", doc="random order among equals"),
    Parameter("smtp_mx_address_limit", INT, "5", doc="addresses to try for a destination"),
    Parameter("smtp_mx_session_limit", INT, "2", doc="sessions to try for a destination"),
    Parameter("smtp_connect_timeout", TIME, "30s", doc="wait for a connection"),
    Parameter("smtp_helo_timeout", TIME, "300s", 1, doc="wait for the greeting and the reply to EHLO"),
    Parameter("smtp_starttls_timeout", TIME, "300s", 1, doc="wait for a TLS handshake"),
    Parameter("smtp_mail_timeout", TIME, "300s", 1, doc="wait for the reply to MAIL"),
    Parameter("smtp_rcpt_timeout", TIME, "300s", 1, doc="wait for the reply to RCPT"),
    Parameter("smtp_data_init_timeout", TIME, "120s", 1, doc="wait for the reply to DATA"),
    Parameter("smtp_data_xfer_timeout", TIME, "180s", 1, doc="wait for the peer to read on"),
    Parameter("smtp_data_done_timeout", TIME, "600s", 1, doc="wait for the reply to the final dot"),
    Parameter("smtp_rset_timeout", TIME, "20s", 1, doc="wait for the reply to RSET"),
    Parameter("smtp_quit_timeout", TIME, "300s", 1, doc="wait for the reply to QUIT"),
    Parameter(
        "smtp_per_request_deadline",
        BOOL,
        "${smtp_per_record_deadline?{$smtp_per_record_deadline}:{no}}",
        state=State.NO_EFFECT,
        doc="a timeout is always for a whole reply, however slowly it comes",
    ),
    Parameter("smtp_min_data_rate", INT, "500", 1, state=State.NOT_YET),
    Parameter("smtp_line_length_limit", INT, "998", doc="longer lines are broken; 0 means never"),
    Parameter("smtp_skip_5xx_greeting", BOOL, "yes", doc="a 5xx greeting: try the next server"),
    Parameter("smtp_skip_quit_response", BOOL, "yes", doc="do not wait for the reply to QUIT"),
    Parameter("smtp_always_send_ehlo", BOOL, "yes", doc="EHLO even where the greeting does not say ESMTP"),
    Parameter("smtp_never_send_ehlo", BOOL, "no", doc="HELO only"),
    Parameter(
        "smtp_quote_rfc821_envelope",
        BOOL,
        "yes",
        state=State.NOT_YET,
        doc="quote addresses in MAIL and RCPT where needed",
    ),
    Parameter("smtp_discard_ehlo_keywords", LIST, "", doc="offers of the peer to ignore"),
    Parameter("smtp_connection_cache_on_demand", BOOL, "yes", doc="keep connections while there is mail for them"),
    Parameter(
        "smtp_connection_cache_destinations",
        LIST,
        "",
        doc="destinations whose connections are always kept",
    ),
    Parameter("smtp_connection_cache_time_limit", TIME, "2s", 1, doc="how long an idle connection is kept"),
    Parameter("smtp_connection_reuse_time_limit", TIME, "300s", 1, doc="how long a connection is used"),
    Parameter("smtp_connection_reuse_count_limit", INT, "0", doc="messages over one connection; 0 means no limit"),
    Parameter("smtp_cname_overrides_servername", BOOL, "no", doc="use the name that a CNAME points to"),
    Parameter("smtp_send_xforward_command", BOOL, "no", state=State.NOT_YET),
    Parameter(
        "smtp_tls_security_level",
        STR,
        "${{$compatibility_level} <level {3.11} ? {} : {may}}",
        doc="none, may or encrypt",
    ),
    Parameter("smtp_tls_cert_file", STR, "", doc="PEM file with our client certificate"),
    Parameter("smtp_tls_key_file", STR, "$smtp_tls_cert_file", doc="its key"),
    Parameter("smtp_tls_eccert_file", STR, "", doc="the same for an ECDSA certificate"),
    Parameter("smtp_tls_eckey_file", STR, "$smtp_tls_eccert_file", doc="its key"),
    Parameter("smtp_tls_chain_files", LIST, "", doc="PEM files with keys and chains; wins over the four above"),
    Parameter("smtp_tls_CAfile", STR, "", doc="PEM file of trusted roots"),
    Parameter("smtp_tls_CApath", STR, "", doc="folder of trusted roots"),
    Parameter("smtp_tls_loglevel", INT, "0", doc="1 logs a summary of each handshake"),
    Parameter("smtp_tls_note_starttls_offer", BOOL, "no", state=State.NOT_YET),
    Parameter("smtp_use_tls", BOOL, "no", doc="old form of smtp_tls_security_level = may"),
    Parameter("smtp_enforce_tls", BOOL, "no", doc="old form of smtp_tls_security_level = encrypt"),
)

# Where LMTP's default differs from SMTP's.
_LMTP: Final[dict[str, str]] = {
    "tcp_port": "24",
    "connect_timeout": "0s",
    "skip_quit_response": "no",
    "fallback_relay": "",
    "per_request_deadline": "${lmtp_per_record_deadline?{$lmtp_per_record_deadline}:{no}}",
    "discard_ehlo_keywords": "",
}
_LMTP_OWN: Final = (
    Parameter("lmtp_lhlo_name", STR, "$myhostname", 1, doc="our name in LHLO"),
    Parameter("lmtp_lhlo_timeout", TIME, "300s", 1, doc="wait for the greeting and the reply to LHLO"),
)
_SMTP_ONLY: Final = frozenset({"helo_name", "helo_timeout", "always_send_ehlo", "never_send_ehlo"})


def _lmtp_rows() -> Iterator[Parameter]:
    for row in _SMTP:
        name = row.name.removeprefix("smtp_")
        if name not in _SMTP_ONLY:
            default = _LMTP.get(name, row.default.replace("$smtp_", "$lmtp_"))
            yield row._replace(name="lmtp_" + name.replace("ehlo", "lhlo"), default=default)


ROWS: Final = _SMTP + _LMTP_OWN + tuple(_lmtp_rows())
