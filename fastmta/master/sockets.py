"""The listening sockets of master.cf: which addresses an inet service stands for, and the sockets bound to them.

Used by master/supervisor.py alone. A socket that two configurations have in common is the same object in both, so that
a reload refuses no connection; an address and the wildcard that takes its place, or gives it, are open at the same time
until the old one is left. Forms of a service name (master(5)): `port`, `host:port`, `[address]:port`, with a
number or a name of services(5) for the port; without a host, inet_interfaces says where. Raises ConfigError.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from fastmta.config import ConfigError
from fastmta.config.served import is_disabled

if TYPE_CHECKING:
    from fastmta.config import Config, Service

Bound: TypeAlias = tuple[tuple["Service", tuple[socket.socket, ...]], ...]

RETRY_INTERVAL: Final = 0.1  # seconds
SO_ATTACH_FILTER: Final = 26
SO_GET_FILTER: Final = SO_ATTACH_FILTER
# In the language of bpf(4): load the flags of the TCP header; with SYN among them, drop; else let all of it through.
_NO_SYN: Final = struct.pack("=HBBIHBBIHBBIHBBI", 0x30, 0, 0, 13, 0x45, 0, 1, 2, 6, 0, 0, 0, 6, 0, 0, 0xFFFFFFFF)
WILDCARDS: Final = frozenset({"0.0.0.0", "::"})
NOT_HERE: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class Endpoint(msgspec.Struct, frozen=True):
    """An address to listen at. optional: one of several that a name stands for, which this host need not have."""

    family: int
    address: str
    port: int
    optional: bool = False

    @property
    def key(self) -> tuple[int, str, int]:
        """What makes it the same socket."""
        return (self.family, self.address, self.port)

    def __str__(self) -> str:
        """As users write it."""
        host = f"[{self.address}]" if self.family == socket.AF_INET6 else self.address
        return f"{host}:{self.port}"


def port_number(text: str) -> int:
    """The TCP port that a service name's last part stands for. Raises ValueError."""
    if text.isascii() and text.isdigit():
        if 0 < int(text) < 65536:
            return int(text)
    else:
        try:
            return socket.getservbyname(text, "tcp")
        except OSError:
            pass
    raise ValueError(f"unknown TCP port or service: {text}")


def split_name(name: str) -> tuple[str, str]:
    """(host, port) of an inet service's name; host is "" where there is none. Raises ValueError."""
    if name.startswith("["):
        host, bracket, port = name[1:].partition("]:")
        if not bracket or not host:
            raise ValueError(f"bad service name: {name}")
        return host, port
    host, _, port = name.rpartition(":")
    return host, port


def endpoints(name: str, own: tuple[str, ...], families: tuple[int, ...]) -> list[Endpoint]:
    """Every address that a service of that name listens at; own are the addresses for one without a host.

    Raises ValueError.
    """
    host, text = split_name(name)
    port = port_number(text)
    if host:
        return _resolve(host, port, families)
    return [Endpoint(socket.AF_INET6 if ":" in address else socket.AF_INET, address, port) for address in own]


def _resolve(host: str, port: int, families: tuple[int, ...]) -> list[Endpoint]:
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ValueError(f"host not found: {host}: {error.strerror}") from None
    usable = dict.fromkeys((int(info[0]), str(info[4][0])) for info in infos if info[0] in families)
    if not usable:
        raise ValueError(f"{host}: no address of the families that inet_protocols allows")
    return [Endpoint(family, address, port, len(usable) > 1) for family, address in usable]


def open_socket(endpoint: Endpoint, backlog: int, at_once: bool = False) -> socket.socket:
    """A listening socket there, at_once with others that allow it by SO_REUSEPORT. Raises OSError."""
    sock = socket.socket(endpoint.family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if endpoint.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, at_once)
        sock.bind((endpoint.address, endpoint.port))
        sock.listen(backlog)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)  # nobody else is to join in
    except BaseException:
        sock.close()
        raise
    return sock


class Listeners:
    """All listening sockets of this master, by address."""

    def __init__(self) -> None:
        """None yet."""
        self._open: dict[tuple[int, str, int], socket.socket] = {}

    def bind(self, config: Config, backlog: int, patience: float = 0.0) -> Bound:
        """The sockets of that configuration's smtpd services: those that are open already, and new ones.

        An address in use is tried for `patience` seconds: workers of a master that died are about to leave it. On
        ConfigError the sockets that were open before are as they were.
        """
        before = dict(self._open)
        give_up = time.monotonic() + patience
        taken: dict[tuple[int, str, int], Service] = {}
        wanted = [(service, service_endpoints(service, config)) for service in smtpd_services(config)]
        for service, places in wanted:
            for endpoint in places:
                other = taken.setdefault(endpoint.key, service)
                if other is not service:
                    raise _wrong(service, f"line {other.line} listens at {endpoint}, too")
        bound = []
        try:
            for service, places in wanted:
                socks = []
                for endpoint in places:
                    sock = self._open.get(endpoint.key)
                    if sock is None:
                        with _shared(self._left_to(endpoint, taken)) as at_once:
                            sock = _open_patiently(endpoint, backlog, give_up, service, at_once)
                    if sock is not None:
                        self._open[endpoint.key] = sock
                        sock.listen(backlog)
                        socks.append(sock)
                if not socks:
                    raise _wrong(service, f"this host has none of the addresses of service {service.name}")
                bound.append((service, tuple(socks)))
        except BaseException:
            for key in self._open.keys() - before.keys():
                self._open.pop(key).close()
            raise
        return tuple(bound)

    def _left_to(self, endpoint: Endpoint, wanted: Iterable[tuple[int, str, int]]) -> list[socket.socket]:
        """What is open now, is to be left, and keeps the endpoint from being bound: a wildcard or what it covers."""
        return [
            sock
            for key, sock in self._open.items()
            if key not in wanted
            and (key[0], key[2]) == (endpoint.family, endpoint.port)
            and not WILDCARDS.isdisjoint((key[1], endpoint.address))
        ]

    def leave(self, bound: Bound) -> None:
        """The same as keep, where workers have those sockets, too: nobody new gets a connection there."""
        kept = {sock.fileno() for _, socks in bound for sock in socks}
        for sock in self._open.values():
            if sock.fileno() not in kept:
                _leave(sock)
        self.keep(bound)

    def keep(self, bound: Bound) -> None:
        """Close the sockets that are not of that set."""
        kept = {sock.fileno() for _, socks in bound for sock in socks}
        for key, sock in list(self._open.items()):
            if sock.fileno() not in kept:
                del self._open[key]
                sock.close()

    def addresses(self) -> list[str]:
        """Where this master listens, as users write it."""
        return [str(Endpoint(*key)) for key in self._open]

    def close(self) -> None:
        """Close them all."""
        self.keep(())


def smtpd_services(config: Config) -> list[Service]:
    """The inet services of master.cf that run smtpd, but for those that master_service_disable turns off."""
    disabled = config.get_list("master_service_disable")
    return [
        service
        for service in config.services
        if service.type == "inet" and service.program == "smtpd" and not is_disabled(service, disabled)
    ]


def service_endpoints(service: Service, config: Config) -> list[Endpoint]:
    """Where that service listens. Raises ConfigError."""
    try:
        found = endpoints(service.name, config.listen_addresses(), config.families())
    except ValueError as error:
        raise _wrong(service, str(error)) from None
    if not found:
        raise _wrong(service, "inet_interfaces and inet_protocols leave no address to listen at")
    return found


def _leave(sock: socket.socket) -> None:
    """Drop what would open another connection there; it comes again in a second, to whoever listens then.

    Connections that are being opened or wait to be accepted are not touched. Without this, the one that comes between
    the last accept and the close would be cut.
    """
    program = ctypes.create_string_buffer(_NO_SYN)
    where = struct.pack("@HP", len(_NO_SYN) // 8, ctypes.addressof(program))
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, where)


def is_left(sock: socket.socket) -> bool:
    """Whether the master has left a listening socket: once those who have it close it, it is gone."""
    try:
        return bool(sock.getsockopt(socket.SOL_SOCKET, SO_GET_FILTER, 64))
    except OSError:
        return False


@contextmanager
def _shared(socks: list[socket.socket]) -> Iterator[bool]:
    """Let another socket be bound beside these; whether there are any."""
    try:
        for sock in socks:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        yield bool(socks)
    finally:
        for sock in socks:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)


def _open_patiently(
    endpoint: Endpoint, backlog: int, give_up: float, service: Service, at_once: bool
) -> socket.socket | None:
    while True:
        try:
            return open_socket(endpoint, backlog, at_once)
        except OSError as error:
            if endpoint.optional and error.errno in NOT_HERE:
                return None
            if error.errno != errno.EADDRINUSE or time.monotonic() > give_up:
                text = f"bind {endpoint.address} port {endpoint.port}: {error.strerror}"
                raise _wrong(service, text) from None
        time.sleep(RETRY_INTERVAL)


def _wrong(service: Service, text: str) -> ConfigError:
    return ConfigError(service.file, service.line, "", text)
