"""`postsuper`: delete, hold, release, requeue and expire queued mail. postsuper(1) of Postfix 3.7 and its messages.

    postsuper [-psSv] [-c config_dir] [-d|-e|-f|-h|-H|-r queue_id]... [queue ...]

A queue id of "-" reads ids from standard input, "ALL" means all messages of the named queues. -p, -s and -S have
nothing to do here: the log of a shard is checked and repaired whenever it is opened. For the superuser and the queue's
owner.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

import msgspec

from fastmta.admin import protocol
from fastmta.admin.spool import Spool, SpoolError
from fastmta.cli.tool import EX_FAILURE, Fatal, Tool, become_owner, is_queue_id
from fastmta.config import Config
from fastmta.observe.log import Log
from fastmta.queue.listing import ACTIVE, DEFERRED, HOLD, INCOMING
from fastmta.queue.settings import QueueSettings

USAGE: Final = (
    "postsuper [-c config_dir] [-d queue_id (delete)] [-e queue_id (expire)] [-f queue_id (expire and/or un-hold)] "
    "[-h queue_id (hold)] [-H queue_id (un-hold)] [-p (purge temporary files)] [-r queue_id (requeue)] "
    "[-s (structure fix)] [-S (redundant structure fix)][-v (verbose)] [queue...]"
)
MESSAGE_QUEUES: Final = (HOLD, INCOMING, ACTIVE, DEFERRED)
# folders of Postfix's queue that hold no messages here
OTHER_QUEUES: Final = ("maildrop", "trace", "defer", "bounce", "flush")


class Action(msgspec.Struct, frozen=True):
    """One of postsuper's operations: its option, its steps, each with the word that is logged, and where it looks."""

    option: str
    steps: tuple[tuple[str, str], ...]
    queues: tuple[str, ...]  # when none are named
    never: tuple[str, ...] = ()  # queues that it passes over even when they are named


_DELETE: Final = Action("d", ((protocol.DELETE, "removed"),), MESSAGE_QUEUES)
_REQUEUE: Final = Action("r", ((protocol.REQUEUE, "requeued"),), MESSAGE_QUEUES)
_HOLD: Final = Action("h", ((protocol.HOLD, "placed on hold"),), (INCOMING, ACTIVE, DEFERRED), (HOLD,))
_RELEASE: Final = Action("H", ((protocol.RELEASE, "released from hold"),), (HOLD,), (INCOMING, ACTIVE, DEFERRED))
_EXPIRE: Final = Action("e", ((protocol.EXPIRE, "expired"),), MESSAGE_QUEUES)
_EXPIRE_RELEASE: Final = Action(
    "f", ((protocol.EXPIRE, "expired"), (protocol.RELEASE, "released from hold")), MESSAGE_QUEUES
)
# the order in which Postfix does them
ACTIONS: Final = (_DELETE, _REQUEUE, _HOLD, _RELEASE, _EXPIRE, _EXPIRE_RELEASE)
# the order in which Postfix reports them: operation, text
TOTALS: Final = (
    (protocol.REQUEUE, "Requeued"),
    (protocol.DELETE, "Deleted"),
    (protocol.EXPIRE, "Force-expired"),
    (protocol.HOLD, "Placed on hold"),
    (protocol.RELEASE, "Released from hold"),
)


def main(argv: list[str]) -> int:
    """The program; argv without its name."""
    tool = Tool("postsuper", USAGE)
    return tool.run(lambda: _main(tool, argv))


def _main(tool: Tool, argv: list[str]) -> int:
    options, queues = tool.options(argv, "c:d:e:f:h:H:pr:sSv")
    directory: str | None = None
    names: dict[str, list[str]] = {}
    for option, value in options:
        if option == "c":
            if not value.startswith("/"):
                raise Fatal("-c requires absolute pathname")
            directory = value
        elif option == "v":
            tool.verbose += 1
        elif value:
            names.setdefault(option, []).append(value)
        elif option not in "psS":
            names.setdefault(option, []).append("")
    config = tool.configuration(directory)
    _check_user(config)
    for queue in queues:
        if queue not in MESSAGE_QUEUES and queue not in OTHER_QUEUES:
            raise Fatal(f"invalid directory name: {queue}")
    if not names:
        return 0
    journal = _Journal(tool, config)
    become_owner(config)
    try:
        spool = Spool(config.queue_directory, QueueSettings.from_config(config))
    except SpoolError as error:
        raise Fatal(str(error)) from error
    counts: dict[str, int] = {}
    with spool:
        run = _Run(spool, journal, tool, queues, counts)
        # as in Postfix: first all that goes for whole queues, then all that names messages
        for action in ACTIONS:
            if "ALL" in names.get(action.option, ()):
                run.all(action)
        for action in ACTIONS:
            wanted = names.get(action.option, [])
            if wanted and "ALL" not in wanted:
                for name in wanted:
                    run.some(action, (line.rstrip("\n") for line in sys.stdin) if name == "-" else [name])
    for text in (*spool.notes, *spool.problems):
        tool.say(f"warning: {text}")
    for op, text in TOTALS:
        if op in counts:
            journal.tell(f"{text}: {counts[op]} message{'' if counts[op] == 1 else 's'}")
    journal.close()
    return EX_FAILURE if spool.problems else 0


class _Run:
    """The operations of one command."""

    def __init__(self, spool: Spool, journal: _Journal, tool: Tool, queues: list[str], counts: dict[str, int]) -> None:
        self._spool = spool
        self._journal = journal
        self._tool = tool
        self._queues = queues
        self._counts = counts

    def all(self, action: Action) -> None:
        """The action on whole queues."""
        queues = self._where(action)
        for op, _ in action.steps:
            self._count(op, self._spool.apply_where(op, [HOLD] if op == protocol.RELEASE else queues) if queues else 0)

    def some(self, action: Action, ids: Iterable[str]) -> None:
        """The action on these messages, wherever they are in the action's queues."""
        queues = self._where(action)
        for batch in _batches(self._valid(ids), protocol.BATCH):
            done: dict[str, list[str]] = {}
            for op, word in action.steps:
                for queue_id in self._spool.apply(op, batch, _only(op, queues)) if queues else ():
                    done.setdefault(queue_id, []).append(word)
                    self._count(op, 1)
            for queue_id, words in done.items():
                for word in words:
                    self._journal.tell(f"{queue_id}: {word}")
        for op, _ in action.steps:
            self._count(op, 0)

    def _where(self, action: Action) -> list[str]:
        return [
            queue for queue in self._queues or action.queues if queue in MESSAGE_QUEUES and queue not in action.never
        ]

    def _valid(self, ids: Iterable[str]) -> Iterator[str]:
        for queue_id in ids:
            if is_queue_id(queue_id):
                yield queue_id
            else:
                self._tool.say(f"warning: invalid mail queue id: {queue_id}")

    def _count(self, op: str, number: int) -> None:
        self._counts[op] = self._counts.get(op, 0) + number


def _only(op: str, queues: list[str]) -> list[str]:
    """Where a step looks. A release concerns held messages only, and one in delivery counts as active: anywhere."""
    return [] if op == protocol.RELEASE else queues


def _batches(items: Iterator[str], size: int) -> Iterator[list[str]]:
    while batch := list(islice(items, size)):
        yield batch


def _check_user(config: Config) -> None:
    """Only root, and whoever runs a FastMTA of his own."""
    uid = os.getuid()
    if uid == 0:
        return
    try:
        owner = config.queue_directory.stat().st_uid
    except OSError as error:
        raise Fatal(f"chdir {config.queue_directory}: {error.strerror}") from error
    if uid != owner:
        raise Fatal("use of this command is reserved for the superuser")


class _Journal:
    """Says it on stderr and in the mail log."""

    def __init__(self, tool: Tool, config: Config) -> None:
        from fastmta.master import identity
        from fastmta.master.journal import log_settings

        self._tool = tool
        self._log = Log(log_settings(config, identity.find(config.get_str("mail_owner"))))

    def tell(self, text: str) -> None:
        self._tool.say(text)
        self._log.write("postsuper", text)

    def close(self) -> None:
        self._log.close()
