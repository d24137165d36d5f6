"""Envelope addresses into their canonical form: what trivial-rewrite does to every address before anything else looks
at it.

Called by smtpd/ for senders and recipients, by resolve.py for what hides in a local part. Addresses are in internal
form. Next comes address.resolve. Nothing is raised. RFC 5321 appendix C and F.2 (source routes); trivial-rewrite(8):
append_at_myorigin, append_dot_mydomain, swap_bangpath, allow_percent_hack.
"""

from __future__ import annotations

from typing import Self

import msgspec

from fastmta.address.quote import is_dot_string
from fastmta.config import Config


class RewriteSettings(msgspec.Struct, frozen=True):
    """From main.cf; append_dot_mydomain depends on the compatibility level."""

    myorigin: str
    mydomain: str = ""
    append_at_myorigin: bool = True
    append_dot_mydomain: bool = False
    swap_bangpath: bool = True
    allow_percent_hack: bool = True
    empty_address_recipient: str = "MAILER-DAEMON"

    @classmethod
    def from_config(cls, cfg: Config) -> Self:
        """Read it, once, at load."""
        return cls(
            myorigin=cfg.get_str("myorigin"),
            mydomain=cfg.get_str("mydomain"),
            append_at_myorigin=cfg.get_bool("append_at_myorigin"),
            append_dot_mydomain=cfg.get_bool("append_dot_mydomain"),
            swap_bangpath=cfg.get_bool("swap_bangpath"),
            allow_percent_hack=cfg.get_bool("allow_percent_hack"),
            empty_address_recipient=cfg.get_str("empty_address_recipient"),
        )


def canonical(address: str, settings: RewriteSettings) -> str:
    """The complete form: source route off, user@domain with a full domain. The null address stays null."""
    at = address.rfind("@")
    # Nearly all addresses need nothing: a local part, and a domain with a dot inside.
    if at > 0 and address[0] != "@":
        dot = address.rfind(".", at + 1)
        if at + 1 < dot < len(address) - 1:
            return address
    return _rewrite(address, settings)


def canonical_recipient(address: str, settings: RewriteSettings) -> str:
    """Likewise for a recipient, where the null address means empty_address_recipient."""
    return canonical(address or settings.empty_address_recipient, settings)


def canonical_sender(address: str, settings: RewriteSettings) -> str:
    """Likewise for a sender: MAILER-DAEMON without a domain is the null address."""
    if not address or address.upper() == "MAILER-DAEMON":
        return ""
    return canonical(address, settings)


def _rewrite(address: str, settings: RewriteSettings) -> str:
    if not address:
        return address
    if address[0] == "@":
        colon = address.find(":")
        if 0 < colon < len(address) - 1:
            address = address[colon + 1 :]
    local, at, domain = address.rpartition("@")
    if not at:
        operators = is_dot_string(address)  # what has to be quoted is one word: its operators mean nothing
        if operators and settings.swap_bangpath and "!" in address:
            domain, _, local = address.partition("!")
        elif operators and settings.allow_percent_hack and "%" in address:
            local, _, domain = address.rpartition("%")
        elif settings.append_at_myorigin:
            local, domain = address, settings.myorigin
        else:
            return address
    if not domain:  # "user@": left as it is, for the resolver
        return local + "@"
    if settings.append_dot_mydomain and settings.mydomain and "." not in domain and domain[0] != "[":
        domain = f"{domain}.{settings.mydomain}"
    if len(domain) > 1 and domain[-1] == "." and domain[-2] != ".":
        domain = domain[:-1]
    return f"{local}@{domain}"
