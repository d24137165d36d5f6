"""Rows of the table of parameters: names and networks, routing, queue, logging, processes, and our own (fastmta_*)."""

from __future__ import annotations

from typing import Final

from fastmta import __version__
from fastmta.config.parameters import Kind, Parameter, State

STR, RAW, LIST, INT, SIZE, BOOL, TIME = Kind.STR, Kind.RAW, Kind.LIST, Kind.INT, Kind.SIZE, Kind.BOOL, Kind.TIME
_NO_EFFECT: Final = State.NO_EFFECT
_ONE_PROGRAM: Final = "there are no separate Postfix programs: one program does the work"
_MANAGER: Final = "for the multi-instance manager, as in Postfix: fastmta -c DIR start starts the instance"
_NO_HOP: Final = "a message stays in the process that accepted it: there is no such hop"

_NAMES: Final = (
    Parameter("compatibility_level", STR, "0", doc="which defaults apply, as a Postfix version"),
    Parameter("mail_name", STR, "Postfix", 1, doc="the name in the greeting, in Received: and in bounces"),
    Parameter("mail_version", STR, __version__, 1, doc="our version"),
    Parameter("mail_release_date", STR, "20240304", 1, doc="the release of Postfix whose defaults these are"),
    Parameter("myhostname", STR, "", 1, doc="this host's name; default: the system's, with mydomain if it has no dot"),
    Parameter("mydomain", STR, "", 1, doc="default: myhostname without its first label, else localdomain"),
    Parameter("myorigin", STR, "$myhostname", 1, doc="the domain of local addresses without one"),
    Parameter(
        "mydestination", LIST, "$myhostname, localhost.$mydomain, localhost", doc="domains delivered by local_transport"
    ),
    Parameter("mynetworks", LIST, "", doc="clients that may relay; default: from mynetworks_style"),
    Parameter(
        "mynetworks_style",
        STR,
        "${{$compatibility_level} <level {2} ? {subnet} : {host}}",
        1,
        doc="class, subnet or host: the default of mynetworks",
    ),
    Parameter("inet_interfaces", LIST, "all", 1, doc="all, loopback-only, or addresses on which to listen"),
    Parameter("inet_protocols", LIST, "all", 1, doc="all, ipv4, ipv6"),
    Parameter("proxy_interfaces", LIST, "", doc="addresses on which mail comes in through a proxy or NAT"),
    Parameter(
        "parent_domain_matches_subdomains",
        LIST,
        "debug_peer_list,fast_flush_domains,mynetworks,permit_mx_backup_networks,qmqpd_authorized_clients,relay_domains,smtpd_access_maps",
        doc="lists in which a domain stands for the names below it too",
    ),
    Parameter(
        "known_tcp_ports",
        STR,
        "lmtp=24, smtp=25, smtps=submissions=465, submission=587",
        state=State.NOT_YET,
        doc="ports by name",
    ),
    Parameter("stress", STR, "", doc="not empty in a server under stress; other defaults look at it"),
    Parameter("empty_address_recipient", STR, "MAILER-DAEMON", 1, doc="who gets mail for <>"),
    Parameter("double_bounce_sender", STR, "double-bounce", 1, doc="local part of mail that is never bounced"),
)

_ADDRESSES: Final = (
    Parameter(
        "local_header_rewrite_clients",
        LIST,
        "permit_inet_interfaces",
        doc="clients whose messages get the header fields that they lack",
    ),
    Parameter("append_at_myorigin", BOOL, "yes", doc="an address without domain gets @myorigin"),
    Parameter(
        "append_dot_mydomain",
        BOOL,
        "${{$compatibility_level} <level {1} ? {yes} : {no}}",
        doc="a domain without dot gets .mydomain",
    ),
    Parameter("swap_bangpath", BOOL, "yes", doc="site!user means user@site"),
    Parameter("allow_percent_hack", BOOL, "yes", doc="user%domain means user@domain"),
    Parameter("resolve_dequoted_address", BOOL, "yes", doc="look for @, % and ! inside a quoted local part too"),
    Parameter("resolve_null_domain", BOOL, "no", doc="user@ is local"),
    Parameter("resolve_numeric_domain", BOOL, "no", doc="user@192.0.2.1 is user@[192.0.2.1]"),
    Parameter("recipient_delimiter", STR, "", doc="what separates user and extension"),
    Parameter("allow_min_user", BOOL, "no", doc="deliver to recipients that begin with -"),
)

_ROUTING: Final = (
    Parameter("relayhost", STR, "", doc="next hop of all mail that is not for us; [host] means no MX lookup"),
    Parameter(
        "relay_domains",
        LIST,
        "${{$compatibility_level} <level {2} ? {$mydestination} : {}}",
        doc="domains to which anyone may send through us",
    ),
    Parameter("relay_transport", STR, "relay", 1, doc="transport[:nexthop] for relay_domains"),
    Parameter("default_transport", STR, "smtp", 1, doc="transport[:nexthop] for everything else"),
    Parameter("local_transport", STR, "local:$myhostname", 1, doc="transport[:nexthop] for mydestination"),
    Parameter("best_mx_transport", STR, "", doc="transport for domains whose best MX host we are"),
    Parameter("defer_transports", LIST, "", doc="transports whose mail waits for postqueue -f"),
    Parameter(
        "proxy_read_maps",
        LIST,
        "$local_recipient_maps $mydestination $virtual_alias_maps $virtual_alias_domains "
        "$virtual_mailbox_maps $virtual_mailbox_domains $relay_recipient_maps $relay_domains $canonical_maps "
        "$sender_canonical_maps $recipient_canonical_maps $relocated_maps $transport_maps $mynetworks "
        "$smtpd_sender_login_maps $sender_bcc_maps $recipient_bcc_maps $smtp_generic_maps $lmtp_generic_maps "
        "$alias_maps $smtpd_client_restrictions $smtpd_helo_restrictions $smtpd_sender_restrictions "
        "$smtpd_relay_restrictions $smtpd_recipient_restrictions "
        "$address_verify_sender_dependent_default_transport_maps "
        "$address_verify_sender_dependent_relayhost_maps $address_verify_transport_maps "
        "$fallback_transport_maps $lmtp_discard_lhlo_keyword_address_maps $lmtp_pix_workaround_maps "
        "$lmtp_sasl_password_maps $lmtp_tls_policy_maps $mailbox_command_maps $mailbox_transport_maps "
        "$postscreen_discard_ehlo_keyword_address_maps $rbl_reply_maps "
        "$sender_dependent_default_transport_maps $sender_dependent_relayhost_maps "
        "$smtp_discard_ehlo_keyword_address_maps $smtp_pix_workaround_maps $smtp_sasl_password_maps "
        "$smtp_tls_policy_maps $smtpd_discard_ehlo_keyword_address_maps $smtpd_milter_maps $virtual_gid_maps "
        "$virtual_uid_maps $local_login_sender_maps $postscreen_reject_footer_maps $smtpd_reject_footer_maps "
        "$tls_server_sni_maps $tlsproxy_client_policy_maps $default_delivery_status_filter "
        "$lmtp_delivery_status_filter $lmtp_dns_reply_filter $lmtp_reply_filter $local_delivery_status_filter "
        "$pipe_delivery_status_filter $postscreen_command_filter $smtp_delivery_status_filter "
        "$smtp_dns_reply_filter $smtp_reply_filter $smtpd_command_filter $smtpd_dns_reply_filter "
        "$virtual_delivery_status_filter $body_checks $header_checks $lmtp_body_checks $lmtp_header_checks "
        "$lmtp_mime_header_checks $lmtp_nested_header_checks $milter_header_checks $mime_header_checks "
        "$nested_header_checks $smtp_body_checks $smtp_header_checks $smtp_mime_header_checks "
        "$smtp_nested_header_checks $smtpd_reject_filter_maps",
        doc="tables that may be read as proxy:type:name",
    ),
    Parameter("transport_maps", LIST, "", doc="transport and next hop by recipient"),
    Parameter("relocated_maps", LIST, "", doc="where users are now"),
    Parameter("sender_dependent_relayhost_maps", LIST, "", doc="relayhost by sender"),
    Parameter("sender_dependent_default_transport_maps", LIST, "", doc="default_transport by sender"),
    Parameter("empty_address_relayhost_maps_lookup_key", STR, "<>", 1, doc="the null sender in the first of these"),
    Parameter(
        "empty_address_default_transport_maps_lookup_key", STR, "<>", 1, doc="the null sender in the second of these"
    ),
    Parameter("owner_request_special", BOOL, "yes", doc="owner-x and x-request have no extension"),
    Parameter("disable_dns_lookups", BOOL, "no", doc="no MX lookups: next hops are hosts"),
    Parameter("ignore_mx_lookup_error", BOOL, "no", doc="a failed MX lookup is like no MX record"),
    Parameter("soft_bounce", BOOL, "no", doc="answer 4xx for 5xx, and defer what would bounce"),
)

_QUEUE: Final = (
    Parameter("queue_directory", STR, "/var/spool/postfix", 1, doc="where the queue is kept"),
    Parameter("queue_minfree", SIZE, "0", doc="bytes that must be free for mail to be accepted"),
    Parameter("message_size_limit", SIZE, "10240000", doc="bytes; 0 means no limit"),
    Parameter("hopcount_limit", INT, "50", 1, doc="Received: headers at which a message is returned as looping"),
    Parameter("enable_long_queue_ids", BOOL, "no", doc="queue ids that are never used again"),
    Parameter("delay_logging_resolution_limit", INT, "2", 0, 6, doc="digits after the point in delays="),
    Parameter("queue_run_delay", TIME, "300s", 1, doc="how often deferred mail is looked at"),
    Parameter("minimal_backoff_time", TIME, "300s", 1, doc="least wait before the next attempt"),
    Parameter("maximal_backoff_time", TIME, "4000s", 1, doc="longest wait before the next attempt"),
    Parameter("maximal_queue_lifetime", TIME, "5d", 0, 8640000, doc="age at which mail is returned"),
    Parameter("bounce_queue_lifetime", TIME, "5d", 0, 8640000, doc="age at which a bounce is given up"),
    Parameter(
        "transport_retry_time", TIME, "60s", 1, state=State.NOT_YET, doc="wait before a broken transport is tried again"
    ),
    Parameter("qmgr_message_active_limit", INT, "20000", 1, doc="messages in memory for delivery"),
    Parameter("qmgr_message_recipient_limit", INT, "20000", 1, doc="recipients in memory for delivery"),
    Parameter(
        "qmgr_message_recipient_minimum",
        INT,
        "10",
        1,
        state=State.NOT_YET,
        doc="recipients in memory of one message, at least",
    ),
    Parameter(
        "qmgr_clog_warn_time",
        TIME,
        "300s",
        doc="least time between warnings about a full active queue",
    ),
    Parameter("initial_destination_concurrency", INT, "5", 1, doc="deliveries at a time to a new destination"),
    Parameter("default_destination_concurrency_limit", INT, "20", doc="most deliveries at a time to a destination"),
    Parameter("default_destination_concurrency_positive_feedback", STR, "1", 1, doc="growth of the window"),
    Parameter("default_destination_concurrency_negative_feedback", STR, "1", 1, doc="shrinking of the window"),
    Parameter(
        "default_destination_concurrency_failed_cohort_limit", INT, "1", doc="failed windows until a site is dead"
    ),
    Parameter("destination_concurrency_feedback_debug", BOOL, "no", state=State.NOT_YET),
    Parameter("default_destination_rate_delay", TIME, "0s", doc="pause between deliveries to a destination"),
    Parameter("default_transport_rate_delay", TIME, "0s", doc="pause between deliveries by a transport"),
    Parameter("default_destination_recipient_limit", INT, "50", doc="recipients in one transaction"),
    Parameter("default_recipient_limit", INT, "20000", doc="recipients in memory per transport"),
    Parameter(
        "default_extra_recipient_limit", INT, "1000", doc="recipients in memory beyond that, for messages that preempt"
    ),
    Parameter("default_recipient_refill_limit", INT, "100", 1, doc="recipients to read at a time"),
    Parameter("default_recipient_refill_delay", TIME, "5s", 1, doc="longest wait before more recipients are read"),
    Parameter("default_delivery_slot_cost", INT, "5", doc="deliveries that earn one slot for preemption"),
    Parameter(
        "default_delivery_slot_discount", INT, "50", 0, 100, doc="percent of the slots that need not be earned yet"
    ),
    Parameter("default_delivery_slot_loan", INT, "3", doc="slots that need not be earned yet"),
    Parameter(
        "default_minimum_delivery_slots", INT, "3", doc="slots that a message must be able to earn to be preempted"
    ),
    Parameter("local_destination_concurrency_limit", INT, "2", doc="most deliveries at a time to a local user"),
    Parameter("local_destination_recipient_limit", INT, "1", doc="recipients of one local delivery"),
    Parameter("delay_warning_time", TIME, "0h", doc="age at which the sender is told of the delay; 0 means never"),
    Parameter("2bounce_notice_recipient", STR, "postmaster", 1, doc="who gets mail that could not be returned"),
    Parameter("bounce_notice_recipient", STR, "postmaster", 1, doc="who gets copies of bounces (notify_classes)"),
    Parameter("delay_notice_recipient", STR, "postmaster", 1, doc="who gets copies of delay notices (notify_classes)"),
    Parameter("notify_classes", LIST, "resource, software", doc="what the postmaster is told of"),
    Parameter("bounce_size_limit", INT, "50000", doc="bytes of a message that a bounce returns"),
    Parameter(
        "in_flow_delay",
        TIME,
        "1s",
        0,
        10,
        state=_NO_EFFECT,
        doc="acceptance is slowed down by group commit, not by a pause",
    ),
)

_LOGGING: Final = (
    Parameter("maillog_file", STR, "", doc="file to log to; default: syslog"),
    Parameter("maillog_file_prefixes", LIST, "/var, /dev/stdout", 1, doc="what maillog_file may begin with"),
    Parameter("syslog_name", STR, "${multi_instance_name?{$multi_instance_name}:{postfix}}", 1, doc="tag of log lines"),
    Parameter("syslog_facility", STR, "mail", 1, doc="facility of log lines"),
)

_PROCESSES: Final = (
    Parameter("mail_owner", STR, "postfix", 1, doc="the user that workers run as"),
    Parameter("setgid_group", STR, "postdrop", 1, doc="the group that may ask the workers"),
    Parameter("authorized_flush_users", LIST, "static:anyone", doc="who may use postqueue -f and -i"),
    Parameter("authorized_mailq_users", LIST, "static:anyone", doc="who may list the queue"),
    Parameter("daemon_timeout", TIME, "18000s", 1, doc="how long one delivery may take until it is given up as lost"),
    Parameter(
        "import_environment",
        LIST,
        "MAIL_CONFIG MAIL_DEBUG MAIL_LOGTAG TZ XAUTHORITY DISPLAY LANG=C POSTLOG_SERVICE POSTLOG_HOSTNAME "
        "XDG_RUNTIME_DIR",
        doc="what the master keeps of its environment, and what it sets there",
    ),
    Parameter("export_environment", LIST, "TZ MAIL_CONFIG LANG", doc="what commands get of it"),
    Parameter("master_service_disable", LIST, "", doc="services that are off: type, name/type, !name/type"),
    Parameter("multi_instance_name", STR, "", doc="the default of syslog_name"),
    Parameter("multi_instance_group", STR, "", state=_NO_EFFECT, doc=_MANAGER),
    Parameter("multi_instance_enable", BOOL, "no", state=_NO_EFFECT, doc=_MANAGER),
    Parameter(
        "alternate_config_directories",
        LIST,
        "",
        state=_NO_EFFECT,
        doc="commands have no privileges of their own: option -c may name any folder",
    ),
    Parameter("process_id_directory", STR, "pid", 1, state=_NO_EFFECT, doc="always pid, under queue_directory"),
    Parameter("data_directory", STR, "/var/lib/postfix", 1, state=_NO_EFFECT, doc="all state is in queue_directory"),
    Parameter("daemon_directory", STR, "/usr/lib/postfix/sbin", 1, state=_NO_EFFECT, doc=_ONE_PROGRAM),
    Parameter("command_directory", STR, "/usr/sbin", 1, state=_NO_EFFECT, doc=_ONE_PROGRAM),
    Parameter("shlib_directory", STR, "/usr/lib/postfix", state=_NO_EFFECT, doc=_ONE_PROGRAM),
    Parameter("meta_directory", STR, "/etc/postfix", 1, state=_NO_EFFECT, doc=_ONE_PROGRAM),
    Parameter("sendmail_path", STR, "/usr/sbin/sendmail", state=_NO_EFFECT, doc=_ONE_PROGRAM),
    Parameter("newaliases_path", STR, "/usr/bin/newaliases", state=_NO_EFFECT, doc=_ONE_PROGRAM),
    Parameter("mailq_path", STR, "/usr/bin/mailq", state=_NO_EFFECT, doc=_ONE_PROGRAM),
    Parameter("html_directory", STR, "/usr/share/doc/postfix/html", state=_NO_EFFECT, doc="installation only"),
    Parameter("manpage_directory", STR, "/usr/share/man", state=_NO_EFFECT, doc="installation only"),
    Parameter("readme_directory", STR, "/usr/share/doc/postfix", state=_NO_EFFECT, doc="installation only"),
    Parameter("sample_directory", STR, "/etc/postfix", state=_NO_EFFECT, doc="installation only"),
    Parameter(
        "default_process_limit",
        INT,
        "100",
        1,
        doc="deliveries of a transport at a time, where master.cf says -",
    ),
    Parameter("max_idle", TIME, "100s", 1, state=_NO_EFFECT, doc="workers are not stopped when idle"),
    Parameter("max_use", INT, "100", 1, state=_NO_EFFECT, doc="workers are not replaced after some use"),
    Parameter("ipc_idle", TIME, "5s", 1, state=_NO_EFFECT, doc=_NO_HOP),
    Parameter("ipc_timeout", TIME, "3600s", 1, state=_NO_EFFECT, doc=_NO_HOP),
    Parameter("ipc_ttl", TIME, "1000s", 1, state=_NO_EFFECT, doc=_NO_HOP),
    Parameter("qmgr_ipc_timeout", TIME, "60s", 1, state=_NO_EFFECT, doc=_NO_HOP),
    Parameter("trigger_timeout", TIME, "10s", 1, state=_NO_EFFECT, doc=_NO_HOP),
    Parameter(
        "hash_queue_names", LIST, "deferred, defer", 1, state=_NO_EFFECT, doc="the queue is a log, not a tree of files"
    ),
    Parameter("hash_queue_depth", INT, "1", 1, state=_NO_EFFECT, doc="the queue is a log, not a tree of files"),
)

_OURS: Final = (
    Parameter("fastmta_workers", STR, "auto", 1, doc="worker processes; auto: one for each core"),
    Parameter(
        "fastmta_dns_servers", LIST, "", doc="addresses (or [address]:port) to ask; default: those of resolv.conf"
    ),
    Parameter("fastmta_dns_timeout", TIME, "5s", 1, doc="wait for an answer before the next server is asked"),
    Parameter("fastmta_dns_cache_size", INT, "20000", 0, doc="answers kept per worker"),
    Parameter(
        "fastmta_smtp_pipeline_messages",
        BOOL,
        "yes",
        doc="send the commands of the next message behind the content of the one before, where PIPELINING is offered",
    ),
    Parameter("fastmta_queue_shards", INT, "16", 1, 16, doc="folders that the queue is divided into, at most"),
    Parameter(
        "fastmta_queue_segment_size", SIZE, "67108864", 65536, doc="bytes at which a log file of the queue is closed"
    ),
    Parameter(
        "fastmta_queue_memory_limit", SIZE, "67108864", 0, doc="bytes of message content kept in memory, per shard"
    ),
    Parameter(
        "fastmta_queue_index_size", SIZE, "68719476736", 1048576, doc="most bytes of a shard's index, as address space"
    ),
    Parameter("fastmta_stop_timeout", TIME, "30s", 0, doc="time that deliveries under way have at stop"),
    Parameter(
        "fastmta_drain_timeout",
        TIME,
        "1h",
        0,
        doc="time that sessions and deliveries of old workers have after a reload",
    ),
    Parameter("fastmta_listen_backlog", INT, "4096", 1, doc="connections that may wait to be accepted"),
)

_TABLE_FILES: Final = (
    Parameter("lmdb_map_size", SIZE, "16777216", 8192, doc="first size limit of an LMDB file that is made; it doubles"),
    Parameter(
        "berkeley_db_create_buffer_size",
        INT,
        "16777216",
        1,
        doc="memory to make a hash or btree file, in bytes",
    ),
    Parameter("berkeley_db_read_buffer_size", INT, "131072", 1, doc="memory to read a hash or btree table, in bytes"),
)

ROWS: Final = _NAMES + _ADDRESSES + _ROUTING + _QUEUE + _LOGGING + _PROCESSES + _TABLE_FILES + _OURS
