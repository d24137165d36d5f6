"""How the parameters of Postfix 3.11, which ours are, differ from those of the Postfix installed, Debian's 3.7."""

from __future__ import annotations

# parameters whose default changed
CHANGED = {
    "address_verify_map",  # $default_cache_db_type
    "import_environment",
    "milter_default_action",
    "postscreen_cache_map",  # $default_cache_db_type
    "proxy_read_maps",
    "smtp_tls_dane_insecure_mx_policy",
    "smtp_tls_security_level",  # may, from compatibility level 3.11
    "lmtp_tls_security_level",
    "smtpd_forbid_bare_newline",
    "smtpd_forbid_unauth_pipelining",
    "tls_eecdh_auto_curves",
    "tls_export_cipherlist",
    "tls_high_cipherlist",
    "tls_low_cipherlist",
    "tls_medium_cipherlist",
    "tls_null_cipherlist",
    "tlsproxy_client_policy_maps",  # the same value, said differently
    "tlsproxy_client_security_level",
}
REMOVED = {"tls_legacy_public_key_fingerprints"}
ADDED = {
    "allow_srv_lookup_fallback",
    "default_cache_db_type",
    "force_mime_input_conversion",
    "full_name_encoding_charset",
    "ignore_srv_lookup_error",
    "lmtp_log_tls_feature_status",
    "lmtp_requiretls_policy",
    "lmtp_sasl_password_result_delimiter",
    "lmtp_tls_enable_rpk",
    "lmtp_tls_enforce_sts_mx_patterns",
    "lmtp_tlsrpt_enable",
    "lmtp_tlsrpt_skip_reused_handshakes",
    "lmtp_tlsrpt_socket_name",
    "maillog_file_permissions",
    "non_bdb_custom_mapping",
    "non_bdb_migration_allow_root_prefixes",
    "non_bdb_migration_allow_user_prefixes",
    "non_bdb_migration_level",
    "non_bdb_service_name",
    "non_empty_end_of_header_action",
    "relocated_prefix_enable",
    "requiretls_enable",
    "requiretls_esmtp_header",
    "requiretls_redact_dsn",
    "smtp_log_tls_feature_status",
    "smtp_requiretls_policy",
    "smtp_sasl_password_result_delimiter",
    "smtp_tls_enable_rpk",
    "smtp_tls_enforce_sts_mx_patterns",
    "smtp_tlsrpt_enable",
    "smtp_tlsrpt_skip_reused_handshakes",
    "smtp_tlsrpt_socket_name",
    "smtpd_client_ipv4_prefix_length",
    "smtpd_client_ipv6_prefix_length",
    "smtpd_hide_client_session",
    "smtpd_reject_filter_maps",
    "smtpd_tls_enable_rpk",
    "socketmap_max_reply_size",
    "tls_ffdhe_auto_groups",
    "tls_required_enable",
    "tlsproxy_tls_enable_rpk",
    "use_srv_lookup",
}
