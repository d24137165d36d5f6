"""The two places that log lines can go: a file (or standard output) and the syslog socket.

Made and fed by observe.log.Log, once per turn of the event loop. put() takes finished lines, each ended by a line feed;
it never raises and never waits: what cannot be written now is kept up to a limit and tried again with the next lines,
the oldest beyond the limit are dropped and counted in `dropped`. Reference: postlogd(8), syslog(3), RFC 3164.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

STDOUT: Final = "/dev/stdout"
_KEPT_BYTES: Final = 4 << 20  # of lines that could not be written yet
_KEPT_LINES: Final = 10_000


class FileSink:
    """Appends to a file. Opens it anew when it was renamed or removed: looked at once a second, when lines come.

    Several processes may append to one file: each put() is one write() with O_APPEND.
    """

    def __init__(
        self, name: str, permissions: int, owner: int = -1, open_file: Callable[[], int] | None = None
    ) -> None:
        """Open the file. One that has to be made gets these permissions and, when we are root, this owner (-1: root).

        open_file returns a descriptor for it; by default it is opened here, by name.
        """
        self._name = name
        self._permissions = permissions
        self._owner = owner
        self._open_file = open_file or self._open_by_name
        self._fd = -1
        self._identity: tuple[int, int] = (0, 0)  # device and inode
        self._regular = False
        self._checked = 0
        self._kept = b""
        self.dropped = 0
        self.reopen()

    def put(self, data: bytes, second: int) -> None:
        """Write lines; second is the current Unix time."""
        if second != self._checked:
            self._checked = second
            self._look()
        if self._kept:
            data = self._kept + data
            self._kept = b""
        while data:
            written = self._write(data)
            if written <= 0:
                break
            data = data[written:]
        if data:
            self._keep(data)

    def idle(self) -> bool:
        """Is nothing kept back?"""
        return not self._kept

    def reopen(self) -> None:
        """Open the file; where that fails, go on with the old one and try again within a second."""
        try:
            fd = self._open_file()
            found = os.fstat(fd)
        except OSError:
            return
        self.close()
        self._fd = fd
        self._identity = (found.st_dev, found.st_ino)
        self._regular = stat.S_ISREG(found.st_mode)

    def close(self) -> None:
        """Close the file; the next put() opens it again."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = -1

    def _open_by_name(self) -> int:
        # O_NONBLOCK: a full pipe behind standard output must not stop the event loop
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        if self._name == STDOUT:
            try:
                return os.open(STDOUT, flags & ~os.O_CREAT)
            except OSError:  # a socket, or another user's terminal
                return os.dup(1)
        try:
            return os.open(self._name, flags & ~os.O_CREAT)
        except FileNotFoundError:
            fd = os.open(self._name, flags, self._permissions)
        with contextlib.suppress(OSError):
            os.fchmod(fd, self._permissions)  # whatever the umask is
            if self._owner >= 0 and os.geteuid() == 0:
                os.fchown(fd, self._owner, -1)
        return fd

    def _look(self) -> None:
        if self._fd >= 0 and not self._regular:
            return
        try:
            found = Path(self._name).stat()
            same = (found.st_dev, found.st_ino) == self._identity
        except OSError:
            same = False
        if not same or self._fd < 0:
            self.reopen()

    def _write(self, data: bytes) -> int:
        if self._fd < 0:
            return 0
        try:
            if not self._regular and not select.select([], [self._fd], [], 0)[1]:
                return 0
            return os.write(self._fd, data if self._regular else data[:4096])
        except (OSError, ValueError):
            return 0

    def _keep(self, data: bytes) -> None:
        if len(data) > _KEPT_BYTES:
            cut = data.find(b"\n", len(data) - _KEPT_BYTES) + 1
            self.dropped += data.count(b"\n", 0, cut)
            data = data[cut:]
        self._kept = data


class SyslogSink:
    """Sends each line as a datagram to the syslog socket, and connects again (once a second at most) when syslogd went
    away.
    """

    def __init__(self, path: str) -> None:
        """Nothing is opened yet: path is where syslogd listens."""
        self._path = path
        self._socket: socket.socket | None = None
        self._tried = 0
        self._queue: deque[bytes] = deque()
        self.dropped = 0

    def put(self, data: bytes, second: int) -> None:
        """Send lines; second is the current Unix time."""
        queue = self._queue
        queue.extend(data.split(b"\n")[:-1])
        while queue and self._send(queue[0], second):
            queue.popleft()
        while len(queue) > _KEPT_LINES:
            queue.popleft()
            self.dropped += 1

    def idle(self) -> bool:
        """Is nothing kept back?"""
        return not self._queue

    def reopen(self) -> None:
        """Connect anew with the next line."""
        self.close()
        self._tried = 0

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, datagram: bytes, second: int) -> bool:
        for _ in range(2):  # a second time on a fresh connection: syslogd was restarted
            if self._socket is None and not self._connect(second):
                return False
            assert self._socket is not None
            try:
                self._socket.send(datagram)
            except BlockingIOError:  # syslogd is behind
                return False
            except OSError:
                self.close()
                continue
            return True
        return False

    def _connect(self, second: int) -> bool:
        if second == self._tried:
            return False
        candidate = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        candidate.setblocking(False)
        try:
            candidate.connect(self._path)
        except OSError:
            candidate.close()
            self._tried = second
            return False
        self._socket = candidate
        return True
