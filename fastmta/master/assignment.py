"""What the master hands to a worker that it forks, and the few bytes that they say to each other afterwards.

Made by master/supervisor.py before the fork, used by master/worker.py (`run(assignment)`) after it. The worker is a
fork, not a new program: everything here is inherited as it is, sockets and shared memory included.

From worker to master, on `ready_fd`, once: READY when the worker accepts connections; or, before it exits, the text of
what is wrong. From master to worker, on `control_fd`, a byte each: DRAIN, STOP, ADOPT, in any order and number. End of
file there means that the master died: the worker then does as for STOP.

Signals: a worker begins with SIGINT, SIGHUP and SIGPIPE ignored and the others at their default: the master answers
for the terminal. It is killed with SIGKILL by `fastmta abort` and when it outstays its time. Exit status 0 means that
it did as told; any other end is logged, and the worker is started anew.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING, Final

import msgspec

from fastmta.master.identity import Identity
from fastmta.observe.log import LogSettings
from fastmta.queue.ids import SHARDS_MOST

if TYPE_CHECKING:
    from fastmta._ext.shared import SharedTable
    from fastmta.config import Config, Service

READY: Final = b"\0"  # worker: it accepts connections

DRAIN: Final = b"D"  # a newer generation took over: accept no more, finish sessions and deliveries at leisure, exit
STOP: Final = b"S"  # accept no more, 421 to sessions, finish what is in flight within fastmta_stop_timeout, exit
ADOPT: Final = b"A"  # another worker is gone: try to lock the shards that `may_adopt` allows


class Assignment(msgspec.Struct, frozen=True, eq=False):
    """One worker's share of the work.

    number is unique among all live workers, and small: its column of the shared table and the N of public/worker-N.
    slot is its place in its generation, 0 to slots - 1; a worker that replaces a dead one has the same slot.
    primary_shard is where its new messages go; no live worker has its lock when the worker is forked. listeners: the
    services of master.cf that run smtpd, each with its listening sockets (non-blocking, shared with other workers).
    """

    config: Config
    generation: int
    number: int
    slot: int
    slots: int
    listeners: tuple[tuple[Service, tuple[socket.socket, ...]], ...]
    shared: SharedTable
    primary_shard: int
    ready_fd: int
    control_fd: int
    identity: Identity
    log: LogSettings

    def may_adopt(self, shard: int) -> bool:
        """Whether this worker is to take over that shard when nobody holds its lock."""
        return shard == self.primary_shard or shard % self.slots == self.slot

    def candidates(self) -> list[int]:
        """The shards that `may_adopt` allows, the primary one first; those too that fastmta_queue_shards had once."""
        others = range(self.slot, SHARDS_MOST, self.slots)
        return [self.primary_shard, *(shard for shard in others if shard != self.primary_shard)]

    def ready(self) -> None:
        """Tell the master that this worker accepts connections."""
        with contextlib.suppress(BrokenPipeError):  # the master is gone: control_fd tells
            os.write(self.ready_fd, READY)
        os.close(self.ready_fd)

    def drop_privileges(self) -> None:
        """Become mail_owner for good, when root: to be called once what only root may read was read."""
        self.identity.assume()
