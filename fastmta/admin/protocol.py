"""What the tools and the workers say to each other: one JSON object a line, a request and its answer in turn.

admin/control.py answers in each worker at $queue_directory/public/worker-N; admin/client.py asks, for the tools.
An operation that names messages gets their queue ids, a few hundred at a time: "ALL" is the tool's business, which
reads the ids from the index, so that a worker never does more than one slice of such work in a turn of its loop.
Fields are only ever added, with a default: a tool and a worker of different versions understand each other.
"""

from __future__ import annotations

from typing import Final

import msgspec

from fastmta.queue import listing

# Operations that anybody who may list the queue may ask for (authorized_mailq_users)
SYNC: Final = "sync"  # make everything so far visible to readers of the index
ACTIVE: Final = "active"  # queue ids in the active queue
STATUS: Final = "status"  # counters, shards, destinations
WHY: Final = "why"  # why a message is still here

# Operations for those who may flush (authorized_flush_users)
FLUSH: Final = "flush"  # try everything now, and forget which destinations were dead
FLUSH_ID: Final = "flush_id"  # try these messages now

# Operations of the superuser and the mail system's owner
HOLD: Final = "hold"
RELEASE: Final = "release"
DELETE: Final = "delete"
REQUEUE: Final = "requeue"
EXPIRE: Final = "expire"
REOPEN_LOG: Final = "reopen_log"
DRAIN: Final = "drain"

OPEN_TO_LISTERS: Final = frozenset({SYNC, ACTIVE, STATUS, WHY})
OPEN_TO_FLUSHERS: Final = frozenset({FLUSH, FLUSH_ID})
ON_MESSAGES: Final = frozenset({FLUSH_ID, HOLD, RELEASE, DELETE, REQUEUE, EXPIRE})

MAX_LINE: Final = 1 << 20  # bytes of a request; an answer may be longer
BATCH: Final = 500  # queue ids in one request

INCOMING: Final = listing.INCOMING
ACTIVE_QUEUE: Final = listing.ACTIVE
DEFERRED: Final = listing.DEFERRED
HOLD_QUEUE: Final = listing.HOLD


class Request(msgspec.Struct, omit_defaults=True):
    """One request. queues restricts an operation on messages to those that are in one of these queues."""

    op: str
    ids: list[str] = []
    queues: list[str] = []


class Destination(msgspec.Struct, omit_defaults=True):
    """The state of one destination: what a message to it waits for.

    window is how many deliveries at once it may have, in_use how many it has, waiting how many entries are ready;
    dead_until is the Unix time at which it is tried again, 0 when it is alive; reason is why it is dead.
    """

    transport: str
    nexthop: str
    window: int = 0
    in_use: int = 0
    waiting: int = 0
    dead_until: float = 0.0
    reason: str = ""


class ShardState(msgspec.Struct, omit_defaults=True):
    """One shard of a worker: how many messages it has, and what its log takes on disk."""

    number: int
    messages: int = 0
    segments: int = 0
    bytes: int = 0
    failed: str = ""  # why it does not accept, where it does not


class Status(msgspec.Struct, omit_defaults=True):
    """What a worker tells about itself. Counters are totals since it started."""

    worker: int
    pid: int
    version: str = ""
    started: float = 0.0  # Unix time
    draining: bool = False
    memory: int = 0  # resident bytes
    sessions: int = 0  # SMTP sessions open now
    active: int = 0  # messages in the active queue
    shards: list[ShardState] = []
    destinations: list[Destination] = []
    counters: dict[str, int] = {}


class Why(msgspec.Struct, omit_defaults=True):
    """Why a message is still here: where it is, when it is tried again, and the state of what it waits for."""

    queue_id: str
    queue: str
    next_attempt: float = 0.0  # Unix time; 0 = now
    attempts: int = 0
    recipients: int = 0  # left
    reasons: list[str] = []  # of its recipients' last attempts, each once
    destinations: list[Destination] = []


class Answer(msgspec.Struct, omit_defaults=True):
    """One answer. ok is False when the request was refused or failed; then error says why, as a sentence.

    ids: for an operation on messages, those that it was done to; for `active`, all ids there.
    """

    ok: bool
    error: str = ""
    ids: list[str] = []
    status: Status | None = None
    why: list[Why] = []
