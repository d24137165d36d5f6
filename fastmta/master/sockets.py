"""The listening sockets of master.cf: which addresses an inet service stands for, and the sockets bound to them.

Used by master/supervisor.py alone. A socket that two configurations have in common is the same object in both, so that
a reload refuses no connection. Forms of a service name (master(5)): `port`, `host:port`, `[address]:port`, with a
number or a name of services(5) for the port; without a host, inet_interfaces says where. Raises ConfigError.
"""

from __future__ import annotations

import errno
import socket
import time
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from fastmta.config import ConfigError
from fastmta.config.served import is_disabled

if TYPE_CHECKING:
    from fastmta.config import Config, Service

Bound: TypeAlias = tuple[tuple["Service", tuple[socket.socket, ...]], ...]

RETRY_INTERVAL: Final = 0.1  # seconds
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


def open_socket(endpoint: Endpoint, backlog: int) -> socket.socket:
    """A listening socket there. Raises OSError."""
    sock = socket.socket(endpoint.family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if endpoint.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setblocking(False)
        sock.bind((endpoint.address, endpoint.port))
        sock.listen(backlog)
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
        bound = []
        try:
            for service in smtpd_services(config):
                socks = []
                for endpoint in service_endpoints(service, config):
                    other = taken.setdefault(endpoint.key, service)
                    if other is not service:
                        raise _wrong(service, f"line {other.line} listens at {endpoint}, too")
                    sock = self._open.get(endpoint.key) or _open_patiently(endpoint, backlog, give_up, service)
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


def _open_patiently(endpoint: Endpoint, backlog: int, give_up: float, service: Service) -> socket.socket | None:
    while True:
        try:
            return open_socket(endpoint, backlog)
        except OSError as error:
            if endpoint.optional and error.errno in NOT_HERE:
                return None
            if error.errno != errno.EADDRINUSE or time.monotonic() > give_up:
                text = f"bind {endpoint.address} port {endpoint.port}: {error.strerror}"
                raise _wrong(service, text) from None
        time.sleep(RETRY_INTERVAL)


def _wrong(service: Service, text: str) -> ConfigError:
    return ConfigError(service.file, service.line, "", text)
