"""Ask the workers, from another process: blocking, each with a time limit.

Called by the command-line tools and by `fastmta flush`, `status` and `reload`. A worker listens at
$queue_directory/public/worker-N (admin/control.py); a socket that nobody listens at is a leftover and does not count.
Raises `UnreachableError` when a worker that accepted the connection does not answer, `RefusedError` when it says no.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from fastmta.admin.protocol import BATCH, Answer, Request

TIMEOUT: Final = 30.0  # seconds for an answer
_CONNECT_TIMEOUT: Final = 5.0
_NUMBERS: Final = 64  # workers that there can be at one time
_GONE: Final = frozenset({errno.ECONNREFUSED, errno.ENOENT})


class UnreachableError(Exception):
    """A worker is there and does not answer."""


class NotAllowedError(Exception):
    """The folder of the sockets lets us not in."""


class RefusedError(Exception):
    """A worker answered that it does not or cannot do it."""


class Worker:
    """A connection to one worker."""

    def __init__(self, path: Path, sock: socket.socket) -> None:
        """Take over a connected socket."""
        self.path = path
        self._sock = sock
        self._file = sock.makefile("rb")
        self._encoder = msgspec.json.Encoder()
        self._decoder = msgspec.json.Decoder(Answer)

    def ask(self, request: Request, timeout: float = TIMEOUT) -> Answer:
        """One request, one answer. The answer's ok is True."""
        self._sock.settimeout(timeout)
        try:
            self._sock.sendall(self._encoder.encode(request) + b"\n")
            line = self._file.readline()
        except OSError as error:
            raise UnreachableError(f"{self.path}: {error.strerror or error}") from error
        if not line.endswith(b"\n"):
            raise UnreachableError(f"{self.path}: lost connection")
        answer = self._decoder.decode(line)
        if not answer.ok:
            raise RefusedError(answer.error)
        return answer

    def ask_about(self, op: str, ids: list[str], queues: list[str]) -> list[str]:
        """An operation on messages, BATCH of them at a time: the ids it was done to."""
        done: list[str] = []
        for start in range(0, len(ids), BATCH):
            done += self.ask(Request(op, ids[start : start + BATCH], queues)).ids
        return done

    def close(self) -> None:
        """Hang up."""
        self._file.close()
        self._sock.close()


def connect_all(queue_directory: Path) -> list[Worker]:
    """All workers that listen, in the order of their numbers; none when the mail system is down."""
    workers: list[Worker] = []
    for path in _sockets(queue_directory / "public"):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(_CONNECT_TIMEOUT)
        try:
            sock.connect(str(path))
        except OSError as error:
            sock.close()
            if error.errno in _GONE:
                continue
            for worker in workers:
                worker.close()
            if error.errno == errno.EACCES:
                raise NotAllowedError(error.strerror) from error
            raise UnreachableError(f"{path}: {error.strerror or error}") from error
        workers.append(Worker(path, sock))
    return workers


def _sockets(public: Path) -> list[Path]:
    try:
        names = [path.name for path in public.iterdir() if path.name.startswith("worker-")]
    except FileNotFoundError:
        return []
    except PermissionError:  # setgid_group may enter, and not look around
        names = [f"worker-{number}" for number in range(_NUMBERS)]
    return sorted((public / name for name in names), key=_number)


def _number(path: Path) -> tuple[int, str]:
    tail = path.name.rpartition("-")[2]
    return (int(tail) if tail.isdecimal() else 1 << 30, path.name)


@contextmanager
def all_workers(queue_directory: Path) -> Iterator[list[Worker]]:
    """All workers that listen, for the length of a block."""
    workers = connect_all(queue_directory)
    try:
        yield workers
    finally:
        for worker in workers:
            worker.close()


def ask_all(queue_directory: Path, request: Request, timeout: float = TIMEOUT) -> list[Answer]:
    """Ask every worker the same; an empty list when the mail system is down."""
    with all_workers(queue_directory) as workers:
        return [worker.ask(request, timeout) for worker in workers]
