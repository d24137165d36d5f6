"""The address of MAIL FROM, RCPT TO or VRFY where it is not as plain as most: quotes, comments, routes, literals.

The machine (_ext.smtpserver) reads plain addresses itself and calls parse() with any other token. The grammar is that
of RFC 822 as Postfix takes it in envelopes: comments are dropped, a route is dropped, quoted and escaped characters are
taken as themselves; one address and nothing else. What comes out is the internal form ("joe smith@example.com").
Returns None where there is no address; raises nothing. RFC 5321 section 4.1.2; Postfix's tok822_parse(3).
"""

from __future__ import annotations

from typing import Final

ATOM: Final = 1
QUOTED: Final = 2
LITERAL: Final = 3
COMMENT: Final = 4
OPERATOR: Final = 5

_OPERATORS: Final = frozenset('<>@,;:.()[]"\\')
_SPACE: Final = frozenset(" \t\n\v\f\r")

Token = tuple[int, str]


def parse(token: bytes, strict: bool) -> str | None:
    """One address in internal form, "" for "<>"; None for anything else. strict: only <address>, without comments.

    Whether the bracket is closed was checked before.
    """
    try:
        text = token.decode()
    except UnicodeDecodeError:
        return None
    if strict and not text.startswith("<"):
        return None
    tokens = _scan(text)
    found = _single(tokens, strict)
    address = None if found is None else _internal(found)
    return None if strict and address and address[0] == "@" else address


def _scan(text: str) -> list[Token]:
    """Tokens of RFC 822. What is not closed ends with the text."""
    out: list[Token] = []
    at, end = 0, len(text)
    while at < end:
        char = text[at]
        if char in _SPACE:
            at += 1
        elif char == "(":
            start = at
            depth = 0
            while at < end:
                if text[at] == "\\":
                    at += 1
                elif text[at] == "(":
                    depth += 1
                elif text[at] == ")":
                    depth -= 1
                    if not depth:
                        break
                at += 1
            at += 1
            out.append((COMMENT, text[start:at]))
        elif char == '"':
            at, word = _until(text, at + 1, '"')
            out.append((QUOTED, word))
        elif char == "[":
            close = text.find("]", at)
            if close < 0:
                close = end
            out.append((LITERAL, text[at : close + 1] if close < end else text[at:] + "]"))
            at = close + 1
        elif char in _OPERATORS and char != "\\":
            out.append((OPERATOR, char))
            at += 1
        else:
            word = ""
            while at < end and text[at] not in _SPACE and (text[at] == "\\" or text[at] not in _OPERATORS):
                if text[at] == "\\" and at + 1 < end:
                    at += 1
                word += text[at]
                at += 1
            out.append((ATOM, word))
    return out


def _until(text: str, at: int, close: str) -> tuple[int, str]:
    """Up to an unescaped character: the place behind it, and what was before, without backslashes."""
    word = ""
    while at < len(text) and text[at] != close:
        if text[at] == "\\" and at + 1 < len(text):
            at += 1
        word += text[at]
        at += 1
    return at + 1, word


def _single(tokens: list[Token], strict: bool) -> list[Token] | None:
    """The tokens of the one address, route and all, without brackets."""
    if any(kind == COMMENT for kind, _ in tokens):
        if strict:
            return None
        tokens = [token for token in tokens if token[0] != COMMENT]
    depth = 0
    inner: list[Token] = []
    opened = closed = False
    for token in tokens:
        if token == (OPERATOR, "<"):
            if closed:
                return None
            if inner and strict:
                return None
            opened = True
            inner = []
            depth += 1
        elif token == (OPERATOR, ">"):
            depth -= 1
            if not opened:
                continue
            closed = True
        elif closed:
            return None
        else:
            inner.append(token)
    return inner


def _internal(tokens: list[Token]) -> str | None:
    """Words and operators in turn; the route taken off."""
    if (OPERATOR, ";") in tokens:
        return None
    for at in range(len(tokens) - 1, -1, -1):
        if tokens[at] == (OPERATOR, ":"):
            tokens = tokens[at + 1 :]
            break
    if (OPERATOR, ",") in tokens:
        return None
    out = ""
    word = False  # the last one was a word
    for kind, text in tokens:
        if kind == OPERATOR:
            word = False
            out += text
        else:
            if word:
                return None
            word = True
            out += text
    return out
