"""What pflogsumm makes of our log is what was sent."""

from __future__ import annotations

import re
import shutil
import smtplib
import subprocess
from pathlib import Path

import pytest

from tests.live import LiveServer
from tests.live_sink import Sink

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(shutil.which("pflogsumm") is None, reason="pflogsumm is not installed"),
]

DELIVERED, DEFERRED, BOUNCED, REJECTED = 23, 5, 4, 3
ANSWERS = {"RCPT TO:<later": "450 4.2.0 busy", "RCPT TO:<never": "550 5.1.1 unknown"}


def totals(text: str) -> dict[str, int]:
    """The numbers under "Grand Totals"."""
    begin = text.index("Grand Totals")
    part = text[begin : text.index("Per-", begin)]
    return {
        name.strip(): int(number)
        for number, name in re.findall(r"^ *(\d+)k?  +([a-z/ ]+?)(?: \(.*| {2,}.*)?$", part, re.M)
    }


def test_its_totals_are_what_was_sent(tmp_path: Path) -> None:
    with Sink(ANSWERS) as sink:
        parameters = {
            "relayhost": sink.relayhost,
            "minimal_backoff_time": "1h",
            "maximal_backoff_time": "1h",
            "smtpd_relay_restrictions": "reject_unauth_destination",
            "relay_domains": "there.test",
        }
        with LiveServer(tmp_path, parameters, workers=2) as server:
            users = ["yes"] * DELIVERED + ["later"] * DEFERRED + ["never"] * BOUNCED
            for number, user in enumerate(users):
                with smtplib.SMTP("127.0.0.1", server.port, timeout=30) as client:
                    client.sendmail(
                        "a@here.test", [f"{user}{number}@there.test"], f"Subject: n{number}\r\n\r\nbody\r\n"
                    )
            for number in range(REJECTED):
                with smtplib.SMTP("127.0.0.1", server.port, timeout=30) as client:
                    client.ehlo()
                    client.mail("a@here.test")
                    assert client.rcpt(f"n{number}@elsewhere.test")[0] == 554
            sink.wait(DELIVERED + BOUNCED, 30)  # what bounced comes as a notification
            server.wait_log("status=deferred", count=DEFERRED)
            server.wait_log("removed", count=DELIVERED + 2 * BOUNCED)
        done = subprocess.run(["pflogsumm", str(server.log_file)], capture_output=True, text=True, check=True)
    found = totals(done.stdout)
    assert found["received"] == len(users), done.stdout
    assert found["delivered"] == DELIVERED + BOUNCED
    assert found["bounced"] == BOUNCED
    assert found["rejected"] == REJECTED
    assert found["deferred"] == DEFERRED
    assert found["senders"] >= 1
    assert found["recipients"] >= DELIVERED
    assert found["bytes delivered"] > 0
