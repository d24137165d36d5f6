"""Rows of the table of parameters: the SMTP server, and what becomes of a message on its way into the queue."""

from __future__ import annotations

from typing import Final

from fastmta.config.parameters import Kind, Parameter, State

STR, RAW, LIST, INT, SIZE, BOOL, TIME = Kind.STR, Kind.RAW, Kind.LIST, Kind.INT, Kind.SIZE, Kind.BOOL, Kind.TIME

_SESSION: Final = (
    Parameter("smtpd_banner", STR, "$myhostname ESMTP $mail_name", 1, doc="text of the greeting"),
    Parameter("smtpd_timeout", TIME, "${stress?{10}:{300}}s", 1, doc="wait for the client's next command or data"),
    Parameter("smtpd_starttls_timeout", TIME, "${stress?{10}:{300}}s", 1, doc="time for a TLS handshake"),
    Parameter(
        "smtpd_per_request_deadline",
        BOOL,
        "${smtpd_per_record_deadline?{$smtpd_per_record_deadline}:{${stress?{yes}:{no}}}}",
        doc="smtpd_timeout is for a whole command, not for each read",
    ),
    Parameter("smtpd_min_data_rate", INT, "500", 1, doc="bytes a second that prolong the deadline"),
    Parameter("line_length_limit", INT, "2048", 512, doc="bytes of a command or header line kept together"),
    Parameter("smtpd_recipient_limit", INT, "1000", 1, doc="recipients of one message"),
    Parameter(
        "smtpd_recipient_overshoot_limit",
        INT,
        "1000",
        1,
        doc="refused recipients beyond that until they count as errors",
    ),
    Parameter(
        "smtpd_junk_command_limit", INT, "${stress?{1}:{100}}", 1, doc="NOOP, VRFY, RSET ... until they count as errors"
    ),
    Parameter("smtpd_soft_error_limit", INT, "10", 1, doc="errors from which answers are delayed"),
    Parameter("smtpd_hard_error_limit", INT, "${stress?{1}:{20}}", 1, doc="errors at which the session is closed"),
    Parameter("smtpd_error_sleep_time", TIME, "1s", doc="delay of an answer after errors"),
    Parameter("smtpd_history_flush_threshold", INT, "100", 1, state=State.NO_EFFECT, doc="no session history is kept"),
    Parameter("smtpd_helo_required", BOOL, "no", doc="MAIL needs HELO or EHLO first"),
    Parameter("smtpd_discard_ehlo_keywords", LIST, "", doc="EHLO keywords not to offer"),
    Parameter("smtpd_discard_ehlo_keyword_address_maps", LIST, "", doc="EHLO keywords not to offer, by client address"),
    Parameter("smtpd_noop_commands", LIST, "", doc="commands to answer 250 and ignore"),
    Parameter(
        "smtpd_forbidden_commands",
        LIST,
        "CONNECT GET POST regexp:{{/^[^A-Z]/ Bogus}}",
        doc="commands that end the session",
    ),
    Parameter("disable_vrfy_command", BOOL, "no", doc="refuse VRFY"),
    Parameter("strict_rfc821_envelopes", BOOL, "no", doc="MAIL and RCPT need <> around a plain address"),
    Parameter("smtputf8_enable", BOOL, "${{$compatibility_level} <level {1} ? {no} : {yes}}", doc="offer SMTPUTF8"),
    Parameter("strict_smtputf8", BOOL, "no", doc="non-ASCII addresses need SMTPUTF8"),
    Parameter(
        "smtpd_forbid_bare_newline",
        STR,
        "normalize",
        1,
        doc="no, note, normalize, reject, yes: lines that end without CR",
    ),
    Parameter("smtpd_forbid_bare_newline_exclusions", LIST, "$mynetworks", doc="clients to which that does not apply"),
    Parameter("smtpd_forbid_bare_newline_reject_code", INT, "550", 400, 599, doc="reply code for it"),
    Parameter("smtpd_forbid_unauth_pipelining", BOOL, "yes", doc="refuse commands that come before they may"),
    Parameter("always_add_missing_headers", BOOL, "no", doc="add From:, Date:, Message-Id: for remote clients too"),
    Parameter("cleanup_replace_stray_cr_lf", BOOL, "yes", doc="CR and LF inside a line become spaces"),
    Parameter("smtpd_peername_lookup", BOOL, "yes", doc="look up the client's name"),
    Parameter("smtpd_client_port_logging", BOOL, "no", doc="log the client's port"),
    Parameter(
        "smtpd_delay_open_until_valid_rcpt",
        BOOL,
        "yes",
        state=State.NOT_YET,
        doc="a queue id only at the first good recipient",
    ),
    Parameter("smtpd_service_name", STR, "smtpd", 1, state=State.NOT_YET),
    Parameter("smtpd_reject_footer", RAW, "", state=State.NOT_YET, doc="text added to refusals"),
)

_LIMITS: Final = (
    Parameter("smtpd_client_connection_count_limit", INT, "50", doc="connections of one client at a time"),
    Parameter("smtpd_client_connection_rate_limit", INT, "0", doc="connections of one client per time unit"),
    Parameter("smtpd_client_message_rate_limit", INT, "0", doc="messages of one client per time unit"),
    Parameter("smtpd_client_recipient_rate_limit", INT, "0", doc="recipients of one client per time unit"),
    Parameter("smtpd_client_new_tls_session_rate_limit", INT, "0", doc="new TLS sessions of one client per time unit"),
    Parameter(
        "smtpd_client_event_limit_exceptions",
        LIST,
        "${smtpd_client_connection_limit_exceptions:$mynetworks}",
        doc="clients without these limits",
    ),
    Parameter("anvil_rate_time_unit", TIME, "60s", 1, doc="the time unit of the rates"),
    Parameter("anvil_status_update_time", TIME, "600s", 1, doc="how often the highest rates are logged"),
)

_ACCESS: Final = (
    Parameter(
        "smtpd_relay_restrictions",
        LIST,
        "${{$compatibility_level} <level {1} ? {} : "
        "{permit_mynetworks, permit_sasl_authenticated, defer_unauth_destination}}",
        doc="who may relay; at RCPT",
    ),
    Parameter("smtpd_client_restrictions", LIST, "", doc="at connect, or at RCPT"),
    Parameter("smtpd_helo_restrictions", LIST, "", doc="at HELO, or at RCPT"),
    Parameter("smtpd_sender_restrictions", LIST, "", doc="at MAIL, or at RCPT"),
    Parameter("smtpd_recipient_restrictions", LIST, "", doc="at RCPT"),
    Parameter("smtpd_data_restrictions", LIST, "", doc="at DATA"),
    Parameter("smtpd_end_of_data_restrictions", LIST, "", doc="after the message"),
    Parameter(
        "smtpd_relay_before_recipient_restrictions",
        BOOL,
        "${{$compatibility_level} <level {3.6} ? {no} : {yes}}",
        doc="the order of the two",
    ),
    Parameter("smtpd_delay_reject", BOOL, "yes", doc="client, HELO and sender restrictions wait for RCPT"),
    Parameter("relay_domains_reject_code", INT, "554", doc="reply code of reject_unauth_destination"),
    Parameter("reject_code", INT, "554", doc="reply code of reject"),
    Parameter("defer_code", INT, "450", doc="reply code of defer"),
    Parameter(
        "smtpd_reject_unlisted_recipient", BOOL, "yes", doc="refuse recipients whose mail the error transport gets"
    ),
    Parameter("relay_recipient_maps", LIST, "", doc="the recipients in relay_domains; empty: all"),
    Parameter(
        "local_recipient_maps",
        LIST,
        "proxy:unix:passwd.byname $alias_maps",
        doc="the recipients in mydestination; the default is not looked at yet: all",
    ),
    Parameter("unknown_relay_recipient_reject_code", INT, "550", doc="reply code for others"),
    Parameter("unknown_local_recipient_reject_code", INT, "550", doc="reply code for others"),
    Parameter("show_user_unknown_table_name", BOOL, "yes", doc="the reply says which list does not have the user"),
    Parameter("smtpd_reject_unlisted_sender", BOOL, "no", doc="the same for senders"),
)

_TLS: Final = (
    Parameter("smtpd_tls_security_level", STR, "", doc="none, may or encrypt"),
    Parameter("smtpd_tls_cert_file", STR, "", doc="PEM file with the certificate and its chain"),
    Parameter("smtpd_tls_key_file", STR, "$smtpd_tls_cert_file", doc="PEM file with its key"),
    Parameter("smtpd_tls_eccert_file", STR, "", doc="the same for an ECDSA certificate"),
    Parameter("smtpd_tls_eckey_file", STR, "$smtpd_tls_eccert_file", doc="its key"),
    Parameter("smtpd_tls_chain_files", LIST, "", doc="PEM files with keys and chains; wins over the four above"),
    Parameter("smtpd_tls_loglevel", INT, "0", doc="1 logs a summary of each handshake"),
    Parameter("smtpd_tls_received_header", BOOL, "no", doc="Received: tells protocol and cipher"),
    Parameter("smtpd_use_tls", BOOL, "no", doc="old form of smtpd_tls_security_level = may"),
    Parameter("smtpd_enforce_tls", BOOL, "no", doc="old form of smtpd_tls_security_level = encrypt"),
)

ROWS: Final = _SESSION + _LIMITS + _ACCESS + _TLS
