"""What the machine says: its name, and the addresses of its interfaces, for the defaults of myhostname and mynetworks.

Called by Config when such a default or an interface list is asked for, and not before: the list of interfaces costs a
few milliseconds. Raises OSError if the system does not give it.
"""

from __future__ import annotations

import socket
from functools import cache
from typing import Final, NamedTuple

_IFF_UP: Final = 1


class Interface(NamedTuple):
    """One address of an interface that is up: AF_INET or AF_INET6, the address and its mask in network order."""

    family: int
    address: bytes
    mask: bytes

    @property
    def is_loopback(self) -> bool:
        """127.0.0.0/8 or ::1."""
        return self.address[0] == 127 if self.family == socket.AF_INET else self.address == b"\0" * 15 + b"\1"

    @property
    def text(self) -> str:
        """The address as text, without a scope."""
        return socket.inet_ntop(self.family, self.address)


def hostname() -> str:
    """The system's name for itself, as gethostname(2) has it."""
    return socket.gethostname() or "localhost"


@cache
def interfaces() -> tuple[Interface, ...]:
    """Every address of every interface that is up, in the system's order. Asked for once per process."""
    import ctypes

    class SockAddr(ctypes.Structure):
        _fields_ = (("sa_family", ctypes.c_ushort), ("sa_data", ctypes.c_ubyte * 26))

    class IfAddrs(ctypes.Structure):
        pass

    IfAddrs._fields_ = (
        ("ifa_next", ctypes.POINTER(IfAddrs)),
        ("ifa_name", ctypes.c_char_p),
        ("ifa_flags", ctypes.c_uint),
        ("ifa_addr", ctypes.POINTER(SockAddr)),
        ("ifa_netmask", ctypes.POINTER(SockAddr)),
        ("ifa_broadaddr", ctypes.c_void_p),
        ("ifa_data", ctypes.c_void_p),
    )

    def address_bytes(family: int, sockaddr: SockAddr) -> bytes:
        data = bytes(sockaddr.sa_data)
        return data[2:6] if family == socket.AF_INET else data[6:22]

    libc = ctypes.CDLL(None, use_errno=True)
    head = ctypes.POINTER(IfAddrs)()
    if libc.getifaddrs(ctypes.byref(head)) != 0:
        raise OSError(ctypes.get_errno(), "getifaddrs")
    found: list[Interface] = []
    try:
        entry = head
        while entry:
            item = entry.contents
            if item.ifa_addr and item.ifa_flags & _IFF_UP:
                family = item.ifa_addr.contents.sa_family
                if family in (socket.AF_INET, socket.AF_INET6):
                    address = address_bytes(family, item.ifa_addr.contents)
                    mask = (
                        address_bytes(family, item.ifa_netmask.contents) if item.ifa_netmask else b"\xff" * len(address)
                    )
                    found.append(Interface(family, address, mask))
            entry = item.ifa_next
    finally:
        libc.freeifaddrs(head)
    return tuple(found)


def network_pattern(interface: Interface, style: str) -> str:
    """An interface's network as mynetworks writes it, by class, subnet or host. ValueError: bad address class."""
    bits = 8 * len(interface.address)
    if style == "host":
        length = bits
    elif style == "class" and interface.family == socket.AF_INET:
        length = _class_length(interface)
    else:
        length = int.from_bytes(interface.mask).bit_count()
    network = int.from_bytes(interface.address) >> (bits - length) << (bits - length)
    text = socket.inet_ntop(interface.family, network.to_bytes(len(interface.address)))
    return f"[{text}]/{length}" if interface.family == socket.AF_INET6 else f"{text}/{length}"


def _class_length(interface: Interface) -> int:
    first = interface.address[0]
    if first < 128:
        return 8
    if first < 192:
        return 16
    if first < 224:
        return 24
    if first < 240:
        return 4
    raise ValueError(f"bad address class: {interface.text}")
