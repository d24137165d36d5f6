"""Is a name that a client gave a host name, and a full one? For the restrictions reject_non_fqdn_ and reject_invalid_.

Pure functions; nothing is raised. smtpd(8), postconf(5).
"""

from __future__ import annotations

from fastmta.address.hostname import literal_address, valid_hostaddr, valid_utf8_hostname


def is_fqdn(name: str) -> bool:
    """A host name with a dot inside, or an address literal."""
    if name.startswith("["):
        return bool(literal_address(name))
    name = name.removesuffix(".")
    return "." in name and valid_utf8_hostname(name)


def valid_helo(name: str) -> bool:
    """A host name of any length, or an address with or without brackets."""
    if name.startswith("["):
        return bool(literal_address(name))
    return valid_hostaddr(name) or valid_utf8_hostname(name.removesuffix("."))
