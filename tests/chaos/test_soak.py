"""Steady load, as fast as it is delivered, of which 5 % is deferred for long: the queue takes what its mail needs.

Some hundred megabytes in every run; FASTMTA_SOAK=600 for that many seconds of it.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from tests.chaos.load import Load
from tests.live import LiveServer, free_port

SECONDS = float(os.environ.get("FASTMTA_SOAK", "0"))
ENOUGH = 700 << 20  # bytes that make a short run long enough
LONGEST = 40.0  # seconds of a short run
SEGMENT = 64 << 20
WORKERS = 2 if SECONDS else 1
# Per worker: the segment being written, one that is being emptied, one that has not enough dead in it, and at full
# speed two that were filled meanwhile. At rest the first and the third remain.
OVERHEAD = WORKERS * 5 * SEGMENT
AT_REST = WORKERS * 2 * SEGMENT

AHEAD = 16 << 20  # bytes that may be on their way: acknowledged, not delivered

PARAMETERS = {
    "smtp_dns_support_level": "disabled",
    "initial_destination_concurrency": "20",
    "default_destination_concurrency_limit": "50",
    "smtpd_client_connection_count_limit": "0",
    "smtpd_client_connection_rate_limit": "0",
    "minimal_backoff_time": "1h",
    "maximal_backoff_time": "2h",
}


def disk_use(folder: Path) -> int:
    """Bytes of all files, which may come and go meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_blocks * 512
        except FileNotFoundError:
            continue
    return total


def test_disk_use_is_flat(tmp_path: Path) -> None:
    next_hop = free_port()
    server = LiveServer(tmp_path, {"relayhost": f"[127.0.0.1]:{next_hop}", **PARAMETERS}, workers=WORKERS)
    idle = threading.Event()
    samples: list[tuple[float, int, int, int]] = []  # seconds, on disk, acknowledged so far, of that for later
    sizes = (90_000, 110_000)
    with Load(next_hop, sessions=12, rate=1e9, sizes=sizes, later=0.05, tries=0, ahead=AHEAD) as load, server:
        ledger = load.ledger
        load.start_sending(server.port)
        began = time.monotonic()
        while True:
            idle.wait(0.25)
            now = time.monotonic() - began
            samples.append((now, disk_use(server.queue), ledger.bytes_acknowledged, ledger.bytes_later))
            if SECONDS:
                if now > SECONDS:
                    break
            elif ledger.bytes_acknowledged > ENOUGH or now > LONGEST:
                break
        load.stop_sending()
        assert load.wait_until(
            lambda: all(key in ledger.arrivals or _is_later(load, key) for key in ledger.acknowledged), 60
        )
        at_rest = 1.2 * ledger.bytes_later + AT_REST
        assert load.wait_until(lambda: disk_use(server.queue) < at_rest, 30), (
            f"{disk_use(server.queue) >> 20} MB at rest"
        )
    assert ledger.not_whole == []
    _, _, acknowledged, later = samples[-1]
    assert acknowledged > 2 * OVERHEAD  # else nothing would be shown
    assert acknowledged * 0.02 < later < acknowledged * 0.1
    peak = max(samples, key=lambda sample: sample[1] - 1.2 * sample[3])
    print(
        f"{acknowledged >> 20} MB in {samples[-1][0]:.0f} s, {later >> 20} MB of it deferred; on disk at most "
        f"{max(sample[1] for sample in samples) >> 20} MB, at the end {samples[-1][1] >> 20} MB"
    )
    assert peak[1] < 1.2 * peak[3] + OVERHEAD, f"{peak[1] >> 20} MB on disk for {peak[3] >> 20} MB of mail"


def _is_later(load: Load, key: str) -> bool:
    return f"later-{key}@dest.example" in load.put_off
