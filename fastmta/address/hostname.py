"""Is this a host name, an address, an address literal? The tests that decide whether a destination makes sense.

Called by address.resolve, smtpd/ and config/. Pure functions; nothing is raised. RFC 1123 section 2.1, RFC 5321 section
4.1.3; Postfix's valid_hostname(3), which also allows underscores.
"""

from __future__ import annotations

from typing import Final

_LABEL: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
_HEX: Final = frozenset("0123456789abcdefABCDEF")
_LONGEST_NAME: Final = 255
_LONGEST_LABEL: Final = 63


def valid_hostname(name: str, wildcard: bool = False) -> bool:
    """Is it a host name? Not all numeric; labels of letters, digits, "-" and "_"; a wildcard may be the first label."""
    if not name or len(name) > _LONGEST_NAME:
        return False
    labels = name.split(".")
    if wildcard and len(labels) > 1 and labels[0] == "*":
        labels = labels[1:]
    for label in labels:
        if not 0 < len(label) <= _LONGEST_LABEL or label[0] == "-" or label[-1] == "-":
            return False
        if not _LABEL.issuperset(label):
            return False
    return not all(label.isdigit() for label in labels)


def valid_utf8_hostname(name: str) -> bool:
    """Likewise for a name that may be in UTF-8 (RFC 5890)."""
    if name.isascii():
        return valid_hostname(name)
    try:
        return valid_hostname(name.encode("idna").decode("ascii"))
    except UnicodeError:
        return False


def valid_ipv4_hostaddr(text: str) -> bool:
    """Is it a dotted quad that can be a host's? 0.0.0.0 counts, 0.1.2.3 does not."""
    octets = text.split(".")
    if len(octets) != 4:
        return False
    for octet in octets:
        if not octet.isascii() or not octet.isdigit() or int(octet) > 255:
            return False
    return int(octets[0]) != 0 or all(int(octet) == 0 for octet in octets)


def valid_ipv6_hostaddr(text: str) -> bool:
    """Does it look like an IPv6 address? As lenient as Postfix: groups may be missing without "::"."""
    groups = text.split(":")
    last = groups[-1]
    if "." in last:
        if not 3 <= len(groups) <= 7 or not valid_ipv4_hostaddr(last):
            return False
        groups[-1] = "0"
    if not 3 <= len(groups) <= 8 or text.count("::") > 1 or ":::" in text:
        return False
    if (not groups[0] and not text.startswith("::")) or (not groups[-1] and not text.endswith("::")):
        return False
    return all(len(group) <= 4 and _HEX.issuperset(group) for group in groups)


def valid_hostaddr(text: str) -> bool:
    """Is it an address of either family?"""
    return valid_ipv6_hostaddr(text) if ":" in text else valid_ipv4_hostaddr(text)


def literal_address(text: str) -> str:
    """The address in a mail domain literal, "[1.2.3.4]" or "[IPv6:::1]"; "" where it is none."""
    if len(text) < 3 or text[0] != "[" or text[-1] != "]":
        return ""
    inner = text[1:-1]
    if inner[:5].lower() == "ipv6:":
        return inner[5:] if valid_ipv6_hostaddr(inner[5:]) else ""
    return inner if valid_ipv4_hostaddr(inner) else ""
