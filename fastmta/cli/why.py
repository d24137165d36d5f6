"""`fastmta why ID ...`: why is this message waiting? Its queue, its next attempt, and the state of what it waits for.

Asks the workers over their control sockets: only they know the state of destinations. Exit status 0 when every message
was found. Needs a running mail system, and to be allowed to see the queue (authorized_mailq_users).
"""

from __future__ import annotations

import time
from pathlib import Path

from fastmta.admin import client, protocol
from fastmta.admin.protocol import Destination, Request, Why
from fastmta.cli import script
from fastmta.config import ConfigError, load


def main(directory: Path, arguments: list[str]) -> int:
    """Answer for each queue id."""
    if not arguments:
        return script.fatal("usage: fastmta why queue_id ...")
    try:
        workers = client.connect_all(load(directory, services=False).queue_directory)
        if not workers:
            return script.fatal("the mail system is down: `postqueue -p` shows what is in the queue")
        found: dict[str, Why] = {}
        for worker in workers:
            found.update((why.queue_id, why) for why in worker.ask(Request(protocol.WHY, arguments)).why)
            worker.close()
    except (ConfigError, OSError, client.RefusedError, client.UnreachableError, client.NotAllowedError) as error:
        return script.fatal(str(error))
    missing = 0
    for queue_id in arguments:
        if queue_id in found:
            print("\n".join(explain(found[queue_id], time.time())))
        else:
            script.warning(f"{queue_id}: not in the queue")
            missing += 1
    return 1 if missing else 0


def explain(why: Why, now: float) -> list[str]:
    """The answer in words. now: Unix time in seconds."""
    people = "1 recipient" if why.recipients == 1 else f"{why.recipients} recipients"
    lines = [f"{why.queue_id}: in the {why.queue} queue, {people} left, {_attempts(why.attempts)}"]
    if why.queue == protocol.HOLD_QUEUE:
        lines.append("  waits for the postmaster: `postsuper -H` releases it")
    elif why.queue == protocol.DEFERRED:
        lines.append(f"  next attempt {_when(why.next_attempt, now)}")
    lines += [f"  last time: {reason}" for reason in why.reasons]
    for destination in why.destinations:
        lines += _state(destination, now)
    return lines


def _state(destination: Destination, now: float) -> list[str]:
    name = f"{destination.transport}:{destination.nexthop}"
    if destination.dead_until > now:
        return [f"  {name} is taken for dead, tried again {_when(destination.dead_until, now)}: {destination.reason}"]
    if not destination.window:
        return [f"  {name}: nothing under way"]
    limit = f"{destination.in_use} of {destination.window} deliveries at a time are under way"
    return [f"  {name}: {limit}, {destination.waiting} wait for their turn"]


def _attempts(count: int) -> str:
    return {0: "not tried yet", 1: "tried once"}.get(count, f"tried {count} times")


def _when(then: float, now: float) -> str:
    if then <= now:
        return "now"
    clock = time.strftime("%b %d %H:%M:%S", time.localtime(then))
    return f"at {clock} (in {int(then - now)} s)"
