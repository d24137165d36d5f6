"""What the master hands to a worker that it forks, and the few bytes that they say to each other afterwards.

Made by master/supervisor.py before the fork, used by master/worker.py (`run(assignment)`) after it. The worker is a fork,
not a new program: everything here is inherited as it is, sockets and shared memory included.

From worker to master, on `ready_fd`, once: READY when the worker accepts connections; or, before it exits, the text of what is
wrong. Closed after either. From master to worker, on `control_fd`, a byte each: DRAIN, STOP, ADOPT, in any order and number.
End of file there means that the master died: the worker stops as for STOP.

Signals: the worker starts with SIGINT, SIGHUP and SIGPIPE ignored and the others at their default; the master answers for
the terminal. It ends by SIGKILL on `fastmta abort` and when it outstays its time. Exit status 0 = did as told; others are
logged, and the worker is started anew.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Final

import msgspec

from fastmta.master.identity import Identity

if TYPE_CHECKING:
    from fastmta._ext.shared import SharedTable
    from fastmta.config import Config, Service

READY: Final = b"R"  # worker: it accepts connections

DRAIN: Final = b"D"  # stop accepting, finish sessions and deliveries at leisure, then exit (a newer generation took over)
STOP: Final = b"S"  # stop accepting, answer 421 to idle sessions, finish what is in flight within fastmta_stop_timeout, exit
ADOPT: Final = b"A"  # another worker is gone: try to lock the shards that `may_adopt` allows


class Assignment(msgspec.Struct, frozen=True, eq=False):
    """One worker's share of the work.

    number is unique among all live workers and small: the column of the shared table, the N of public/worker-N. slot is its place
    in its generation, 0 to slots - 1; a worker that replaces a dead one has its slot, and its number and shard where these are
    free. primary_shard is where its new messages go: no live worker has it locked. listeners holds a service's Config key
    (the master.cf entry) and its listening sockets, which are shared with the other workers, non-blocking.
    """

    config: Config
    generation: int
    number: int
    slot: int
    slots: int
    listeners: tuple[tuple[Service, tuple[socket.socket, ...]], ...]
    shared: SharedTable
    primary_shard: int
    shards: int  # how many shards there can be
    ready_fd: int
    control_fd: int
    identity: Identity

    def may_adopt(self, shard: int) -> bool:
        """Whether this worker is to take over that shard when nobody holds its lock."""
        return shard == self.primary_shard or shard % self.slots == self.slot

    def candidates(self) -> list[int]:
        """The shards that `may_adopt` allows, the primary one first."""
        others = (shard for shard in range(self.shards) if shard % self.slots == self.slot and shard != self.primary_shard)
        return [self.primary_shard, *others]

    def ready(self) -> None:
        """Tell the master that this worker accepts connections."""
        os.write(self.ready_fd, READY)
        os.close(self.ready_fd)

    def drop_privileges(self) -> None:
        """Become mail_owner for good, when root. To be called once everything that only root may read was read."""
        self.identity.assume()
