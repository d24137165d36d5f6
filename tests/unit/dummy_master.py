"""A master whose workers only greet and echo, run as a process of its own by test_master_supervisor.py.

    python -m tests.unit.dummy_master CONFIG_DIRECTORY

Prints UP once. A worker greets with "220 GENERATION NUMBER PID SHARD", answers each byte with itself, and holds its
shard's lock. A file named in $DUMMY_FAULT makes it fail: "exit" or "raise" before it is ready, "stuck": it does not
stop.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import sys
from pathlib import Path

from fastmta._ext.shared import SharedTable
from fastmta.master.assignment import ADOPT, DRAIN, STOP, Assignment
from fastmta.master.supervisor import StartError, Supervisor


def fault() -> str:
    try:
        return Path(os.environ["DUMMY_FAULT"]).read_text()
    except FileNotFoundError:
        return ""


def lock(assignment: Assignment, shard: int) -> int | None:
    folder = assignment.config.queue_directory / f"shard-{shard:02d}"
    if not folder.exists():
        return None
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def run(assignment: Assignment) -> None:
    assignment.shared.bind(assignment.number)
    assignment.drop_privileges()
    wrong = fault()
    if wrong == "exit":
        os._exit(3)
    if wrong == "raise":
        raise OSError(28, "No space left on device", "/some/where")
    locks = {shard: fd for shard in assignment.candidates() if (fd := lock(assignment, shard)) is not None}
    assert assignment.primary_shard in locks
    listeners = {sock.fileno(): sock for _, socks in assignment.listeners for sock in socks}
    sessions: dict[int, socket.socket] = {}
    poll = select.poll()
    for fd in (*listeners, assignment.control_fd):
        poll.register(fd, select.POLLIN)
    assignment.ready()
    leaving = False
    while not (leaving and not sessions):
        for fd, _ in poll.poll():
            if fd == assignment.control_fd:
                command = os.read(fd, 1)
                if command == ADOPT:
                    for shard in assignment.candidates():
                        if shard not in locks and (held := lock(assignment, shard)) is not None:
                            locks[shard] = held
                    continue
                if command == STOP and fault() == "stuck":
                    continue
                assert command in (DRAIN, STOP, b"")
                leaving = True
                if command != DRAIN:
                    return
                for listener in listeners:
                    poll.unregister(listener)
                listeners.clear()
            elif fd in listeners:
                try:
                    sock, _ = listeners[fd].accept()
                except BlockingIOError:
                    continue
                words = ("220", assignment.generation, assignment.number, os.getpid(), assignment.primary_shard)
                sock.sendall(" ".join(map(str, words)).encode() + b"\n")
                sessions[sock.fileno()] = sock
                poll.register(sock.fileno(), select.POLLIN)
            else:
                try:
                    data = sessions[fd].recv(4096)
                except ConnectionError:
                    data = b""
                if data:
                    sessions[fd].sendall(data)
                else:
                    poll.unregister(fd)
                    sessions.pop(fd).close()


def main() -> int:
    try:
        Supervisor(Path(sys.argv[1]), run, lambda: SharedTable.create(64), lambda: print("UP", flush=True)).run()
    except StartError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
