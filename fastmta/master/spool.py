"""The folders under $queue_directory that the master looks after, its lock and its state.

    pid/master.pid      locked (flock) while a master lives, its process id on the first line: as Postfix has it, so
                        that a Postfix and a FastMTA never run on one queue directory
    pid/master.status   State as JSON: what `fastmta status` and `fastmta reload` read; replaced as a whole
    public/             the workers' control sockets; mail_owner's, and setgid_group may enter
    shard-NN/           mail_owner's alone; made here because the queue directory itself is root's

Used by master/supervisor.py; the functions that ask (`running`, `read_state`) by cli/. Raises OSError with the path,
and AlreadyRunning.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path
from typing import Final

import msgspec

from fastmta.master.identity import Identity

LOCK_PATIENCE: Final = 0.5  # seconds; a `fastmta status` holds the lock for an instant
PID_WIDTH: Final = 32


class AlreadyRunning(Exception):
    """Another master holds the lock."""


class State(msgspec.Struct):
    """What the master tells about itself."""

    pid: int
    version: str
    config_directory: str
    generation: int  # of the workers that accept
    reloads: int  # requests for a reload that were answered, well or not
    error: str  # why the last one was not, or ""
    listening: list[str]  # "127.0.0.1:2525"
    workers: list[tuple[int, int, int, str]]  # number, process id, generation, "starting" | "ready" | ...


def pid_file(queue_directory: Path) -> Path:
    """Where the master's process id is."""
    return queue_directory / "pid" / "master.pid"


def status_file(queue_directory: Path) -> Path:
    """Where the master's State is."""
    return queue_directory / "pid" / "master.status"


def running(queue_directory: Path) -> int | None:
    """The process id of the master that runs there, or None."""
    try:
        fd = os.open(pid_file(queue_directory), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(os.read(fd, 64) or b"0")
    finally:
        os.close(fd)
    return None


def read_state(queue_directory: Path) -> State | None:
    """What the master last told, or None."""
    try:
        return msgspec.json.decode(status_file(queue_directory).read_bytes(), type=State)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


class Spool:
    """The master's side: makes the folders, holds the lock, writes the state."""

    def __init__(self, queue_directory: Path) -> None:
        """Touches nothing yet."""
        self.directory = queue_directory
        self.lock_fd = -1
        self.unclean = False  # the last master did not end in an orderly way

    def prepare(self, identity: Identity, public_gid: int) -> None:
        """Make the folders, or set right who owns them."""
        self.directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        (self.directory / "pid").mkdir(mode=0o755, exist_ok=True)
        corrupt = self.directory / "corrupt"  # what is damaged is put there, by who may not make it
        corrupt.mkdir(mode=0o700, exist_ok=True)
        identity.give(corrupt)
        public = self.directory / "public"
        public.mkdir(mode=0o710, exist_ok=True)
        identity.give(public, public_gid)

    def make_shard(self, number: int, identity: Identity) -> None:
        """Make the folder of a shard before the worker, which may not, needs it."""
        shard = self.shard(number)
        shard.mkdir(mode=0o700, exist_ok=True)
        identity.give(shard)

    def shard(self, number: int) -> Path:
        """The folder of a shard."""
        return self.directory / f"shard-{number:02d}"

    def lock(self) -> None:
        """Take the lock for as long as this process lives. Raises AlreadyRunning."""
        fd = os.open(pid_file(self.directory), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        give_up = time.monotonic() + LOCK_PATIENCE
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > give_up:
                    os.close(fd)
                    raise AlreadyRunning from None
                time.sleep(0.02)
        self.unclean = bool(os.pread(fd, 64, 0).strip())
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%*d\n" % (PID_WIDTH, os.getpid()), 0)
        self.lock_fd = fd

    def publish(self, state: State) -> None:
        """Replace the state on disk."""
        new = status_file(self.directory).with_suffix(".new")
        new.write_bytes(msgspec.json.encode(state))
        new.replace(status_file(self.directory))

    def unlock(self) -> None:
        """Leave in order: an empty pid file says so to the next master."""
        if self.lock_fd < 0:
            return
        with contextlib.suppress(OSError):
            status_file(self.directory).unlink()
        os.ftruncate(self.lock_fd, 0)
        os.close(self.lock_fd)
        self.lock_fd = -1
