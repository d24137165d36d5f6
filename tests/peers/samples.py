"""Messages that are hard to keep whole, and what is left of them when a server has put trace fields in front."""

from __future__ import annotations

import random
import re

TRACE = re.compile(
    rb"\A(?:(?:Received|Return-Path|Delivered-To|X-Original-To|Envelope-to|Delivery-date):[^\n]*\n(?:[ \t][^\n]*\n)*)*"
)

HEADER = (
    "From: Ärger <sender@client.test>\r\nTo: someone@client.test\r\nSubject: Grüße\r\n"
    "Date: Mon, 2 Feb 2026 10:00:00 +0000\r\nMessage-ID: <{token}@client.test>\r\nMIME-Version: 1.0\r\n"
    "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
)

DOTS = b".\r\n..\r\n...\r\n.x\r\n. \r\n .\r\nx.\r\n\r\n.\r\n"
EIGHT_BIT = "naïve café, Привет, 你好, 🙂\r\n".encode()


def header(token: str) -> bytes:
    """A complete header, so that no server adds to it, that ends with an empty line."""
    return HEADER.format(token=token).encode()


def samples(token: str) -> dict[str, bytes]:
    """Contents in wire form without dot stuffing, by name. Each has its own Message-ID, token-name."""
    every = b"".join(bytes([number]) * 3 for number in range(1, 256) if number not in (10, 13))
    noise = random.Random(7)
    big = b"".join(
        noise.choice((b"", b".", b"..", b"From ")) + noise.randbytes(60).hex().encode() + b"\r\n" for _ in range(20000)
    )
    bodies = {
        "dots": DOTS + EIGHT_BIT,
        "bytes": every + b"\r\n" + b"trailing blanks \t \r\n\r\n\tindented\r\nFrom the start\r\n>From quoted\r\n",
        "long": b"x" * 998 + b"\r\n" + b"." * 997 + b"\r\n" + "ä".encode() * 499 + b"\r\n",
        "blank": b"\r\n\r\n\r\n",
        "empty": b"",
        "last_dot": DOTS,
        "big": big + DOTS + b"the end\r\n",
    }
    return {name: header(f"{token}-{name}") + body for name, body in bodies.items()}


def without_trace(content: bytes) -> bytes:
    """The content after the fields that servers prepend."""
    return content[TRACE.match(content).end() :]  # type: ignore[union-attr]
