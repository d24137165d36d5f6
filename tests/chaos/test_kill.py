"""Kill workers and master at random moments, under load: nothing acknowledged is lost, nothing arrives damaged.

A few kills in every run; FASTMTA_KILLS=300 for hundreds. FASTMTA_SEED repeats a run's choices (not its timing).
"""

from __future__ import annotations

import bisect
import os
import random
import signal
import threading
import time
from pathlib import Path

from tests.chaos.load import Load, body_of, check, message
from tests.live import LiveServer, free_port, wait_for

KILLS = int(os.environ.get("FASTMTA_KILLS", "12"))
SEED = int(os.environ.get("FASTMTA_SEED", "0")) or int(time.time())
WORKERS = 3
OLD_ENOUGH = 2.2  # seconds: the master takes a worker that dies younger for one that cannot start, and waits
IN_FLIGHT = 1.0  # seconds before a kill in which a delivery may not have been recorded for good

PARAMETERS = {
    "smtp_dns_support_level": "disabled",
    "initial_destination_concurrency": "20",
    "default_destination_concurrency_limit": "50",
    "smtpd_client_connection_count_limit": "0",
    "smtpd_client_connection_rate_limit": "0",
    "minimal_backoff_time": "1s",
    "maximal_backoff_time": "2s",
    "queue_run_delay": "1s",
}


class Killer:
    """Kills, and remembers when."""

    def __init__(self, server: LiveServer, chance: random.Random) -> None:
        self.server = server
        self.chance = chance
        self.times: list[float] = []
        self.workers = 0
        self.masters = 0
        self._born: dict[int, float] = {}

    def _old_workers(self) -> list[int]:
        now = time.monotonic()
        pids = self.server.worker_pids()
        self._born = {pid: self._born.get(pid, now) for pid in pids}
        return [pid for pid, born in self._born.items() if now - born > OLD_ENOUGH]

    def kill_worker(self) -> None:
        """One worker, or now and then all of them."""
        wait_for(lambda: bool(self._old_workers()), 30, "a worker that is old enough")
        victims = self._old_workers()
        if self.chance.random() > 0.1:
            victims = [self.chance.choice(victims)]
        self._now(victims)
        self.workers += len(victims)

    def kill_master(self) -> None:
        """The master alone, whose workers then stop in order; or everything, as a power cut would. Then start anew."""
        master = self.server.master_pid()
        workers = self.server.worker_pids()
        assert master
        self._now([master, *workers] if self.chance.random() < 0.5 else [master])
        self.masters += 1
        wait_for(lambda: not self.server.master_pid(), 10, "the end of the master")
        self.server.start()
        self._born.clear()

    def _now(self, pids: list[int]) -> None:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        self.times.append(time.monotonic())


def test_the_next_hop_sees_every_changed_byte() -> None:
    wire = message("m1", body_of(300, random.Random(5)))[:-3]
    assert check(wire) == ("m1", True)
    body = wire.index(b"\r\n\r\n") + 4
    for place in range(body, len(wire)):
        changed = wire[:place] + bytes((wire[place] ^ 1,)) + wire[place + 1 :]
        assert check(changed) == ("m1", False)
        assert check(wire[:place]) == ("m1", False)


def test_no_acknowledged_message_is_lost_whatever_is_killed(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    print(f"seed {SEED}")
    next_hop = free_port()
    idle = threading.Event()
    server = LiveServer(tmp_path, {"relayhost": f"[127.0.0.1]:{next_hop}", **PARAMETERS}, workers=WORKERS)
    with Load(next_hop, rate=500, seed=SEED) as load:
        server.start()
        try:
            load.start_sending(server.port)
            killer = Killer(server, chance)
            while killer.workers + killer.masters < KILLS:
                idle.wait(chance.uniform(0.05, 0.7))
                if len(killer.times) % 5 == 2:
                    killer.kill_master()
                else:
                    killer.kill_worker()
            idle.wait(0.5)
            load.stop_sending()
            ledger = load.ledger
            load.wait_until(lambda: not ledger.missing(), 60)
            missing = ledger.missing()
            listing = server.run("postqueue", "-j").stdout
            assert not missing, (
                f"{len(missing)} lost, as {missing[:5]}; in the queue: {listing[:2000]}\n{server.log()[-4000:]}"
            )
            # what was not acknowledged may be there, too: it must not stay for ever
            wait_for(lambda: server.run("postqueue", "-p").stdout == "Mail queue is empty\n", 30, "an empty queue")
        finally:
            server.stop()
    assert ledger.not_whole == []
    # a server that stops in order, because its master is gone, may say so to who waits for an answer
    assert all(answer.startswith(b"421 ") for answer in ledger.refused), ledger.refused
    assert len(ledger.acknowledged) > 20 * KILLS  # there was load
    late = [key for key, times in ledger.duplicates().items() if not _in_flight(times[0], killer.times)]
    print(
        f"{killer.workers} workers and {killer.masters} masters killed; {len(ledger.acknowledged)} acknowledged, "
        f"{len(ledger.arrivals)} arrived, {len(ledger.duplicates())} more than once"
    )
    assert not late, f"arrived twice without a kill near: {late[:5]}"
    log = server.log()
    assert "panic" not in log
    assert "Traceback" not in log


def _in_flight(delivered: float, kills: list[float]) -> bool:
    """Whether something was killed soon after that delivery."""
    place = bisect.bisect_left(kills, delivered - 0.05)
    return place < len(kills) and kills[place] - delivered < IN_FLIGHT
