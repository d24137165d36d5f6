"""The control socket of a worker: what postqueue, postsuper and `fastmta status` ask goes through here.

master/worker.py makes one `ControlServer` and hands it a `ControlTarget`: the worker's own operations. Runs on the
worker's loop, without tasks: a request is a line, its answer a line, and a request for many messages is done a slice at
a time so that mail keeps moving meanwhile. Who may ask what is decided by the peer's uid (SO_PEERCRED): the superuser
and the worker's own user may do all; others what authorized_flush_users and authorized_mailq_users let them.
A request that is not understood is answered with an error; an operation that fails raises nothing here: it is answered
as failed, and logged by `target.control_failed`. Manual pages: postqueue(1), postsuper(1).
"""

from __future__ import annotations

import asyncio
import os
import pwd
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Protocol, cast

import msgspec

from fastmta.admin import protocol
from fastmta.admin.protocol import MAX_LINE, Answer, Request, Status, Why

SLICE: Final = 32  # messages that one turn of the loop works on
_UCRED: Final = struct.Struct("3i")  # pid, uid, gid
_NOBODY: Final = 0xFFFFFFFF  # uid of a peer whose credentials cannot be had


class ControlTarget(Protocol):
    """What a worker can be asked to do.

    An operation on a message answers whether it was done: the message is here, and was not so before.
    """

    def sync(self, done: Callable[[], None]) -> None:
        """Make all state so far visible to readers of the index, then call done()."""

    def active_ids(self) -> list[str]:
        """The messages in the active queue."""

    def queue_of(self, queue_id: str) -> str | None:
        """The queue that holds this message: incoming, active, deferred or hold; None when it is not here."""

    def flush(self) -> None:
        """Try all deferred mail now, dead destinations too."""

    def flush_id(self, queue_id: str) -> bool:
        """Try this message now."""

    def hold(self, queue_id: str) -> bool:
        """Put it on hold; False when it is on hold."""

    def release(self, queue_id: str) -> bool:
        """Release it from hold; False when it is not on hold."""

    def delete(self, queue_id: str) -> bool:
        """Remove it without a notification."""

    def requeue(self, queue_id: str) -> bool:
        """Start over with it: forget the reasons, resolve its recipients again, try it now."""

    def expire(self, queue_id: str) -> bool:
        """Return it to its sender at the next attempt; False when that was asked before."""

    def status(self) -> Status:
        """Counters, shards, destinations."""

    def why(self, queue_id: str) -> Why | None:
        """Why it is still here."""

    def reopen_log(self) -> None:
        """Open the log file by its name again."""

    def drain(self) -> None:
        """Accept nothing more, finish, exit."""

    def control_failed(self, op: str, error: Exception) -> None:
        """Log that an operation failed in a way that nobody foresaw."""


class ControlSettings(msgspec.Struct, frozen=True):
    """Who may do what. Entries as in the parameters: a user name, "!name", "static:anyone" or "static:all"."""

    flush_users: tuple[str, ...] = ("static:anyone",)  # authorized_flush_users
    mailq_users: tuple[str, ...] = ("static:anyone",)  # authorized_mailq_users
    owner_uid: int = -1  # may do all, beside the superuser; -1 = the user of this process


def is_listed(entries: tuple[str, ...], uid: int) -> bool:
    """Whether a list of users, as in authorized_mailq_users, has this one. The first entry that matches decides."""
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = "unknown"
    for entry in entries:
        negated = entry.startswith("!")
        pattern = entry.lstrip("!")
        if pattern.startswith("static:") or pattern.lower() == name.lower():
            return not negated
    return False


class ControlServer:
    """Listens at public/worker-N for the life of the worker."""

    def __init__(self, target: ControlTarget, settings: ControlSettings) -> None:
        """Nothing happens before `start`."""
        self._target = target
        self._settings = settings
        self._server: asyncio.AbstractServer | None = None
        self._path: Path | None = None
        self._inode = 0
        self._sessions: set[ControlSession] = set()

    async def start(self, path: Path, gid: int = -1) -> None:
        """Bind and listen. The folder says who may connect, as Postfix's public/ does; gid is that of setgid_group."""
        loop = asyncio.get_running_loop()
        path.unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.bind(str(path))
            if gid >= 0 and os.geteuid() == 0:
                os.chown(path, -1, gid)
            path.chmod(0o666)
            self._inode = path.stat().st_ino
            self._server = await loop.create_unix_server(self._session, sock=sock)
        except BaseException:
            sock.close()
            raise
        self._path = path

    def close(self) -> None:
        """Stop listening, drop the sessions, remove the socket if it is still ours."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for session in list(self._sessions):
            session.abort()
        if self._path is not None:
            try:
                if self._path.stat().st_ino == self._inode:
                    self._path.unlink()
            except FileNotFoundError:
                pass  # a successor with our number removed it
            self._path = None

    def _session(self) -> ControlSession:
        return ControlSession(self._target, self._settings, self._sessions)


class ControlSession(asyncio.Protocol):
    """One connection: requests in turn, each answered before the next is looked at."""

    def __init__(self, target: ControlTarget, settings: ControlSettings, sessions: set[ControlSession]) -> None:
        """Sessions is where this one enters itself while it lasts."""
        self._target = target
        self._sessions = sessions
        self._flush_users = settings.flush_users
        self._mailq_users = settings.mailq_users
        self._owner = settings.owner_uid if settings.owner_uid >= 0 else os.geteuid()
        self._uid = _NOBODY
        self._buffer = bytearray()
        self._busy = False
        self._ended = False
        self._transport: asyncio.Transport | None = None
        self._decoder = msgspec.json.Decoder(Request)
        self._encoder = msgspec.json.Encoder()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Learn who asks."""
        self._transport = cast("asyncio.Transport", transport)
        self._sessions.add(self)
        sock = transport.get_extra_info("socket")
        _, self._uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))

    def data_received(self, data: bytes) -> None:
        """Collect lines."""
        self._buffer += data
        if len(self._buffer) > MAX_LINE and b"\n" not in self._buffer:
            self._buffer.clear()
            self._answer(Answer(ok=False, error="request too long"))
            self._close()
        elif not self._busy:
            self._next()

    def eof_received(self) -> bool:
        """The peer asks nothing more: answer what it asked, then close."""
        self._ended = True
        return self._busy

    def connection_lost(self, exc: Exception | None) -> None:
        """The peer is gone: a request under way ends with its slice."""
        self._transport = None
        self._sessions.discard(self)

    def abort(self) -> None:
        """The worker ends."""
        if self._transport is not None:
            self._transport.abort()

    def _next(self) -> None:
        while not self._busy and self._transport is not None:
            end = self._buffer.find(b"\n")
            if end < 0:
                if self._ended:
                    self._close()
                return
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            try:
                request = self._decoder.decode(line)
            except msgspec.MsgspecError as error:
                self._answer(Answer(ok=False, error=f"bad request: {error}"))
                continue
            self._handle(request)

    def _handle(self, request: Request) -> None:
        refusal = self._refusal(request.op)
        if refusal:
            self._answer(Answer(ok=False, error=refusal))
            return
        if request.op in protocol.ON_MESSAGES:
            self._busy = True
            self._slice(request, self._operation(request.op), iter(request.ids), [])
            return
        try:
            if request.op == protocol.SYNC:
                self._busy = True
                self._target.sync(self._synced)
                return
            answer = self._simple(request)
        except Exception as error:
            self._busy = False
            self._target.control_failed(request.op, error)
            answer = Answer(ok=False, error="internal error")
        self._answer(answer)

    def _synced(self) -> None:
        if self._busy:
            self._finish(Answer(ok=True))

    def _refusal(self, op: str) -> str:
        if self._uid in (0, self._owner):
            return ""
        if op in protocol.OPEN_TO_LISTERS:
            return "" if is_listed(self._mailq_users, self._uid) else "not allowed to view the mail queue"
        if op in protocol.OPEN_TO_FLUSHERS:
            return "" if is_listed(self._flush_users, self._uid) else "not allowed to flush the mail queue"
        return "use of this command is reserved for the superuser"

    def _simple(self, request: Request) -> Answer:
        target = self._target
        match request.op:
            case protocol.ACTIVE:
                return Answer(ok=True, ids=target.active_ids())
            case protocol.STATUS:
                return Answer(ok=True, status=target.status())
            case protocol.WHY:
                found = [why for queue_id in request.ids[:SLICE] if (why := target.why(queue_id)) is not None]
                return Answer(ok=True, why=found)
            case protocol.FLUSH:
                target.flush()
            case protocol.REOPEN_LOG:
                target.reopen_log()
            case protocol.DRAIN:
                target.drain()
            case _:
                return Answer(ok=False, error=f"unknown operation: {request.op}")
        return Answer(ok=True)

    def _operation(self, op: str) -> Callable[[str], bool]:
        target = self._target
        return {
            protocol.FLUSH_ID: target.flush_id,
            protocol.HOLD: target.hold,
            protocol.RELEASE: target.release,
            protocol.DELETE: target.delete,
            protocol.REQUEUE: target.requeue,
            protocol.EXPIRE: target.expire,
        }[op]

    def _slice(self, request: Request, operation: Callable[[str], bool], ids: Iterator[str], done: list[str]) -> None:
        """Do up to SLICE of the ids, then let the loop do other work; answer after the last."""
        queues = request.queues
        try:
            for _ in range(SLICE):
                queue_id = next(ids, None)
                if queue_id is None:
                    self._finish(Answer(ok=True, ids=done))
                    return
                if queues and self._target.queue_of(queue_id) not in queues:
                    continue
                if operation(queue_id):
                    done.append(queue_id)
        except Exception as error:
            self._target.control_failed(request.op, error)
            self._finish(Answer(ok=False, error="internal error", ids=done))
            return
        asyncio.get_running_loop().call_soon(self._slice, request, operation, ids, done)

    def _finish(self, answer: Answer) -> None:
        self._busy = False
        self._answer(answer)
        self._next()

    def _answer(self, answer: Answer) -> None:
        if self._transport is not None:
            self._transport.write(self._encoder.encode(answer) + b"\n")

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()
