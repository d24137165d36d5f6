"""Where DNS questions go: resolv.conf(5), or fastmta_dns_servers.

Called by master/worker.py once at start. A missing or unreadable file means the server of this machine, as the C
library has it. Raises ValueError for a server in fastmta_dns_servers that is no address.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec


class DnsSettings(msgspec.Struct, frozen=True):
    """servers are (address, port); timeout is per question and server, in seconds; attempts how often each is asked."""

    servers: tuple[tuple[str, int], ...] = (("127.0.0.1", 53),)
    timeout: float = 5.0
    attempts: int = 2
    rotate: bool = False
    cache_size: int = 10000


def parse_server(text: str) -> tuple[str, int]:
    """Read "addr", "addr:port", "[v6addr]:port" or "v6addr"."""
    host, port = text, "53"
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":") or "53"
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"bad port in DNS server: {text}")
    return str(ipaddress.ip_address(host)), int(port)


class Parameters(Protocol):
    """The part of config.Config that is needed here."""

    def get_list(self, name: str) -> tuple[str, ...]:
        """A list."""

    def get_int(self, name: str) -> int:
        """A number."""

    def get_time(self, name: str) -> float:
        """Seconds."""

    def is_set(self, name: str) -> bool:
        """Whether main.cf has it."""


def read_dns_settings(cfg: Parameters, path: Path = Path("/etc/resolv.conf")) -> DnsSettings:
    """The settings: those of main.cf where they are set, else of the file."""
    settings = dns_settings(cfg.get_list("fastmta_dns_servers"), path)
    return msgspec.structs.replace(
        settings,
        cache_size=max(1, cfg.get_int("fastmta_dns_cache_size")),
        timeout=cfg.get_time("fastmta_dns_timeout") if cfg.is_set("fastmta_dns_timeout") else settings.timeout,
    )


def dns_settings(servers: Sequence[str] = (), path: Path = Path("/etc/resolv.conf")) -> DnsSettings:
    """The settings: servers replaces those of the file, options of the file apply to both."""
    named: list[tuple[str, int]] = []
    options: dict[str, str] = {}
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        words = line.split("#", 1)[0].split(";", 1)[0].split()
        if len(words) >= 2 and words[0] == "nameserver" and len(named) < 3:
            address = words[1].partition("%")[0]
            try:
                named.append((str(ipaddress.ip_address(address)), 53))
            except ValueError:
                continue
        elif words[:1] == ["options"]:
            for word in words[1:]:
                name, _, value = word.partition(":")
                options[name] = value
    chosen = [parse_server(server) for server in servers] or named or [("127.0.0.1", 53)]
    timeout, attempts = options.get("timeout", ""), options.get("attempts", "")
    return DnsSettings(
        servers=tuple(chosen),
        timeout=float(min(int(timeout), 30)) if timeout.isdigit() and int(timeout) else 5.0,
        attempts=min(int(attempts), 5) if attempts.isdigit() and int(attempts) else 2,
        rotate="rotate" in options,
    )
