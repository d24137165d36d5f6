"""Mail addresses between their internal form and the two external ones: quoting and unquoting of the local part.

Internal form: what the user means, `joe smith@example.com`; external form: what goes on the wire, `"joe
smith"@example.com`. Called by smtpd/ (unquote what the client said), deliver/ and bounce/ (quote it again), observe/
(logs show the external form). Bytes above 127 stay as they are. Raises nothing. RFC 5321 section 4.1.2, RFC 5322
section 3.4.1; Postfix's quote_822_local(3) and quote_821_local(3).
"""

from __future__ import annotations

from typing import Final

# RFC 5322 specials, with the space; a control character is unsafe too
_SPECIALS: Final = frozenset('()<>@,;:\\".[] ') - {"."}
_UNSAFE: Final = _SPECIALS | {chr(code) for code in range(33)} | {"\x7f"}
_QUOTE_822: Final = str.maketrans({'"': '\\"', "\\": "\\\\", "\r": "\\\r"})
_QUOTE_821: Final = str.maketrans({'"': '\\"', "\\": "\\\\", "\r": "\\\r", "\n": "\\\n"})


def is_dot_string(local: str) -> bool:
    """Can this local part stand without quotes?"""
    if not local or local[0] == "." or local[-1] == "." or ".." in local:
        return False
    return _UNSAFE.isdisjoint(local)


def quote_822_local(address: str) -> str:
    """Internal form -> external form as in a header. The null address stays empty."""
    return _quote(address, _QUOTE_822)


def quote_821_local(address: str) -> str:
    """Internal form -> external form as in MAIL FROM and RCPT TO."""
    return _quote(address, _QUOTE_821)


def _quote(address: str, table: dict[int, str]) -> str:
    if not address:
        return address
    route, rest = _route(address)
    local, at, domain = rest.rpartition("@")
    if not at:
        local, domain = rest, ""
    if is_dot_string(local):
        return address
    return f'{route}"{local.translate(table)}"{at}{domain}'


def _route(address: str) -> tuple[str, str]:
    """Split off a source route, "@a,@b:"."""
    if address[:1] == "@":
        head, colon, tail = address.partition(":")
        if colon:
            return head + colon, tail
    return "", address


def unquote_822_local(address: str) -> str:
    """External form -> internal form: quotes off, backslashes resolved, in the local part only.

    The domain is what follows the last "@" outside quotes; it stays as it is.
    """
    if '"' not in address and "\\" not in address:
        return address
    route, rest = _route(address)
    out: list[str] = []
    quoted = False
    domain = ""
    local_length = -1
    i, n = 0, len(rest)
    while i < n:
        char = rest[i]
        if char == '"':
            quoted = not quoted
        else:
            if char == "@" and not quoted:
                local_length, domain = len(out), rest[i:]
            elif char == "\\":
                i += 1
                if i == n:
                    break
                char = rest[i]
            out.append(char)
        i += 1
    if local_length >= 0:
        return route + "".join(out[:local_length]) + domain
    return route + "".join(out)
