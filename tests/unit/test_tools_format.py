"""What the listings, postcat and qshape print: golden forms, and the real programs reading the same queue.

The real programs read queue files that are made here from the same messages: admin/queuefile.py gives their records.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import time
from itertools import pairwise
from pathlib import Path

import pytest

from fastmta.admin.queuefile import ATTR, Record, Show, lines, path_of, records, show
from fastmta.admin.shape import Buckets, Shape
from fastmta.admin.showq import JsonFormat, MailqFormat, recipients
from fastmta.model.envelope import CONTENT_HEADER_8BIT, Envelope, Origin, Recipient
from fastmta.model.message import FLAG_EXPIRE
from fastmta.model.outcome import Deferred, Result
from fastmta.queue.listing import Entry

REFUSED = Deferred("4.4.1", "connect to 127.0.0.1[127.0.0.1]:21501: Connection refused")
BUSY = Deferred(
    "4.2.2", 'host a[1.2.3.4] said: 450 4.2.2 <x>: try\tlater "quoted" \\ back (in reply to RCPT TO command)'
)
ARRIVAL = 1795422449.425041
ORIGIN = Origin("localhost", "127.0.0.1", 44120, "[127.0.0.1]", "ESMTP")


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


def entry(
    queue_id: str = "E104320C084",
    *to: str | Recipient,
    queue: str = "deferred",
    sender: str = "alice@a.example",
    size: int = 313,
    flags: int = 0,
    done: bytes | None = None,
    deferred: dict[int, Result] | None = None,
    body: str = "",
    content_flags: int = 0,
    arrival: float = ARRIVAL,
    envid: str = "",
    origin: Origin = ORIGIN,
) -> Entry:
    all_recipients = tuple(one if isinstance(one, Recipient) else Recipient(one) for one in to or ("bob@b.example",))
    envelope = Envelope(
        queue_id, arrival, sender, all_recipients, size, content_flags, body, dsn_envid=envid, origin=origin
    )
    return Entry(queue, envelope, flags, done, deferred)


def mailq(*entries: Entry, long_ids: bool = False) -> str:
    form = MailqFormat(long_ids=long_ids, empty_address="MAILER-DAEMON")
    return "".join(form.message(one) for one in entries) + form.end()


def test_mailq_short_ids() -> None:
    listed = mailq(
        entry("60A7220C133", queue="active", size=309),
        entry(
            "E104320C084",
            "bob@b.example",
            "quoted user@c.example",
            "carol@sub.d.example",
            deferred={0: REFUSED, 1: REFUSED, 2: BUSY},
        ),
        entry("E28E120C121", queue="hold", flags=FLAG_EXPIRE, sender="", size=1200, deferred={0: REFUSED}),
    )
    assert listed == (
        "-Queue ID-  --Size-- ----Arrival Time---- -Sender/Recipient-------\n"
        "60A7220C133*     309 Mon Nov 23 08:27:29  alice@a.example\n"
        "                                         bob@b.example\n"
        "\n"
        "E104320C084     313 Mon Nov 23 08:27:29  alice@a.example\n"
        "                   (connect to 127.0.0.1[127.0.0.1]:21501: Connection refused)\n"
        "                                         bob@b.example\n"
        '                                         "quoted user"@c.example\n'
        '(host a[1.2.3.4] said: 450 4.2.2 <x>: try?later "quoted" \\ back (in reply to RCPT TO command))\n'
        "                                         carol@sub.d.example\n"
        "\n"
        "E28E120C121!#    1200 Mon Nov 23 08:27:29  MAILER-DAEMON\n"
        "                   (connect to 127.0.0.1[127.0.0.1]:21501: Connection refused)\n"
        "                                         bob@b.example\n"
        "\n"
        "-- 1 Kbytes in 3 Requests.\n"
    )


def test_mailq_long_ids() -> None:
    assert mailq(entry("4bFJXT1ZhYzH", size=12345), long_ids=True) == (
        "----Queue ID----- --Size-- ---Arrival Time---- --Sender/Recipient------\n"
        "4bFJXT1ZhYzH         12345 Mon Nov 23 08:27:29 alice@a.example\n"
        "                                               bob@b.example\n"
        "\n"
        "-- 12 Kbytes in 1 Request.\n"
    )


def test_an_empty_queue() -> None:
    assert mailq() == "Mail queue is empty\n"


def test_finished_recipients_are_not_listed_and_those_without_a_reason_come_last() -> None:
    one = entry("E104320C084", "a@x", "b@x", "c@x", "d@x", done=b"\0\1\0\0", deferred={3: REFUSED, 1: BUSY, 2: REFUSED})
    assert [(recipient.address, bool(reason)) for recipient, reason in recipients(one)] == [
        ("d@x", True),
        ("c@x", True),
        ("a@x", False),
    ]
    assert "                                                          (reason unavailable)\n" in mailq(one)


def test_json() -> None:
    form = JsonFormat(empty_address="MAILER-DAEMON")
    line = form.message(
        entry(
            "E104320C084",
            "t450@s.example",
            Recipient("slow@s.example", orig_to="alias@s.example"),
            'we"ird@s.example',
            deferred={0: BUSY, 1: REFUSED},
            flags=FLAG_EXPIRE,
        )
    )
    assert line == (
        '{"queue_name": "deferred", "queue_id": "E104320C084", "arrival_time": 1795422449, "message_size": 313, '
        '"forced_expire": true, "sender": "alice@a.example", "recipients": ['
        '{"address": "t450@s.example", "delay_reason": "host a[1.2.3.4] said: 450 4.2.2 <x>: try?later '
        '\\"quoted\\" \\\\ back (in reply to RCPT TO command)"}, '
        '{"orig_address": "alias@s.example", "address": "slow@s.example", '
        '"delay_reason": "connect to 127.0.0.1[127.0.0.1]:21501: Connection refused"}, '
        '{"address": "\\"we\\\\\\"ird\\"@s.example"}]}\n'
    )
    assert form.message(entry(sender="")).count('"sender": "MAILER-DAEMON"') == 1
    assert form.end() == ""


@pytest.mark.parametrize("text", ["plain", "tab\there", "nul\0", "del\x7f", "bü", "bad\udcff", 'q"\\', "日本"])
def test_json_is_json_whatever_it_holds(text: str) -> None:
    line = JsonFormat(empty_address="x").message(
        entry("AAAAAA1", f"{text}@x", sender=f"{text}@y", deferred={0: Deferred("4.0.0", text)})
    )
    loaded = json.loads(line.encode("utf-8"))
    reason = loaded["recipients"][0]["delay_reason"]
    assert len(reason) == len(text)
    assert all(got == wanted or got == "?" for got, wanted in zip(reason, text, strict=True))


# postcat


CONTENT = [
    b"Received: from x\r\n\tby y\r\nSubject: t\r\n",
    b"\r\nhello\r\n..dot\r\n",
    b"..\r",
    b"\n" + b"y" * 5000 + b"\r\n",
]


def postcat(one: Entry, what: Show, content: list[bytes] = CONTENT) -> str:
    path = path_of(one.queue, one.envelope.queue_id)
    return b"".join(show(path, one, lambda: content, what, 2048)).decode()


def test_postcat_envelope() -> None:
    one = entry(
        "E104320C084",
        Recipient("bob@b.example", "alias@b.example", "rfc822;orig@o.example", 10),
        "carol@c.example",
        done=b"\0\1",
        body="8BITMIME",
        content_flags=CONTENT_HEADER_8BIT,
        envid="abc+def",
    )
    assert postcat(one, Show(header=False, body=False)) == (
        "*** ENVELOPE RECORDS deferred/E/E104320C084 ***\n"
        f"message_size: {313:15} {669:15} {2:15} {0:15} {313:15} {2:15}\n"
        "message_arrival_time: Mon Nov 23 08:27:29 2026\n"
        "create_time: Mon Nov 23 08:27:29 2026\n"
        "named_attribute: log_ident=E104320C084\n"
        "named_attribute: rewrite_context=local\n"
        "named_attribute: envelope_id=abc+def\n"
        "sender: alice@a.example\n"
        "named_attribute: encoding=8bit\n"
        "named_attribute: log_client_name=localhost\n"
        "named_attribute: log_client_address=127.0.0.1\n"
        "named_attribute: log_client_port=44120\n"
        "named_attribute: log_message_origin=localhost[127.0.0.1]\n"
        "named_attribute: log_helo_name=[127.0.0.1]\n"
        "named_attribute: log_protocol_name=ESMTP\n"
        "named_attribute: client_name=localhost\n"
        "named_attribute: client_address=127.0.0.1\n"
        "named_attribute: client_port=44120\n"
        "named_attribute: helo_name=[127.0.0.1]\n"
        "named_attribute: protocol_name=ESMTP\n"
        "named_attribute: client_address_type=2\n"
        "named_attribute: notify_flags=10\n"
        "named_attribute: dsn_orig_rcpt=rfc822;orig@o.example\n"
        "original_recipient: alias@b.example\n"
        "recipient: bob@b.example\n"
        "original_recipient: carol@c.example\n"
        "done_recipient: carol@c.example\n"
        "*** MESSAGE CONTENTS deferred/E/E104320C084 ***\n"
        "*** HEADER EXTRACTED deferred/E/E104320C084 ***\n"
        "named_attribute: encoding=8bit\n"
        "*** MESSAGE FILE END deferred/E/E104320C084 ***\n"
    )


def test_postcat_content_has_lf_and_single_dots() -> None:
    long_line = "y" * 5000
    assert postcat(entry(), Show(envelope=False)) == (
        f"Received: from x\n\tby y\nSubject: t\n\nhello\n.dot\n.\n{long_line}\n"
    )
    assert postcat(entry(), Show(envelope=False, body=False)) == "Received: from x\n\tby y\nSubject: t\n"
    assert postcat(entry(), Show(envelope=False, header=False)) == f"\nhello\n.dot\n.\n{long_line}\n"


def test_lines_survive_any_split() -> None:
    text = b"a\r\n..b\r\n\r\n..\r\nlone\rcr\r\n"
    whole = [b"a", b".b", b"", b".", b"lone\rcr"]
    for cut in range(len(text) + 1):
        assert list(lines([text[:cut], text[cut:]])) == whole
    assert list(lines([bytes((byte,)) for byte in text])) == whole


def test_paths_are_those_of_postfix() -> None:
    assert path_of("deferred", "E104320C084") == "deferred/E/E104320C084"
    assert path_of("active", "E104320C084") == "active/E104320C084"


# qshape


def table(shape: Shape, width: int = 80, top: int = 0) -> str:
    return "".join(shape.table(width, top))


def test_qshape() -> None:
    shape = Shape(Buckets())
    shape.add(10, ["bob@B.Example", "quoted user@c.example", "carol@sub.d.example"])
    shape.add(301, ["bob@b.example"])
    shape.add(10 * 86400, [""])
    assert table(shape) == (
        "                                         T  5 10 20 40 80 160 320 640 1280 1280+\n"
        "                                  TOTAL  5  3  1  0  0  0   0   0   0    0     1\n"
        "                              b.example  2  1  1  0  0  0   0   0   0    0     0\n"
        "                              c.example  1  1  0  0  0  0   0   0   0    0     0\n"
        "                          MAILER-DAEMON  1  0  0  0  0  0   0   0   0    0     1\n"
        "                          sub.d.example  1  1  0  0  0  0   0   0   0    0     0\n"
    )


def test_qshape_of_nothing_and_linear_ages() -> None:
    assert table(Shape(Buckets(5, 1, linear=True))) == (
        "                                                                T  1  2  3  4 4+\n"
        "                                                         TOTAL  0  0  0  0  0  0\n"
    )


def test_qshape_cuts_long_names_from_the_left() -> None:
    shape = Shape(Buckets(20), parents=True, min_subdomains=1)
    shape.add(10, ["x@one.a-rather-long-name.example", "x@two.a-rather-long-name.example"])
    names = [line[:18] for line in table(shape, 100).splitlines()]
    assert names == [
        " " * 18,
        " " * 13 + "TOTAL",
        ".+ong-name.example",
        "+long-name.example",
        "+long-name.example",
    ]
    assert len(table(shape, 80, top=2).splitlines()) == 3


# the real programs


def content_size(content: list[bytes]) -> int:
    """As Postfix counts: what the content's records take in the file."""
    made = list(records(entry(), content))
    begin = next(record.offset for record in made if record.type in b"LN")
    return next(record.offset for record in made if record.type in b"X") - begin


def write_queue_file(directory: Path, one: Entry, content: list[bytes]) -> None:
    """What Postfix would have written."""
    path = directory / path_of(one.queue, one.envelope.queue_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for record in records(one, content):
            assert file.tell() == record.offset
            length = len(record.value)
            file.write(bytes((record.type,)))
            while length >= 128:
                file.write(bytes((length & 0x7F | 0x80,)))
                length >>= 7
            file.write(bytes((length,)) + record.value)
    path.chmod(0o700)


def main_cf(tmp_path: Path, **parameters: str) -> Path:
    config = tmp_path / "conf"
    config.mkdir()
    values = {
        "compatibility_level": "3.6",
        "myhostname": "mx.example",
        "queue_directory": str(tmp_path / "queue"),
        **parameters,
    }
    (config / "main.cf").write_text("".join(f"{name} = {value}\n" for name, value in values.items()))
    os.utime(config / "main.cf", (1, 1))  # Postfix waits while a fresh file might still change
    return config


def random_entries(seed: int, count: int) -> list[Entry]:
    chance = random.Random(seed)
    names = ["example.com", "a.example.com", "b.example.com", "c.d.example.org", "x", "example.org", "Mixed.Example"]
    made = []
    for number in range(count):
        sender = chance.choice(["", "u@example.com", 'we"ird@a.example.com', "u@x"])
        to = [f"r{k}@{chance.choice(names)}" for k in range(chance.randint(1, 4))]
        done = bytes(chance.choice((0, 0, 1)) for _ in to)
        age = chance.choice((1, 400, 2000, 80000, 10**6))
        size = content_size(CONTENT)
        made.append(
            entry(
                f"{number:05X}{number + 4096:X}",
                *to,
                sender=sender,
                arrival=time.time() - age,
                done=done,
                size=size,
                queue=chance.choice(("deferred", "active", "hold")),
            )
        )
    return made


@pytest.mark.peer
@pytest.mark.skipif(not shutil.which("postcat"), reason="needs Postfix")
@pytest.mark.parametrize("flags", ["", "b", "h", "e", "bh", "eh", "d", "o", "do", "eo", "hd", "bo"])
def test_the_real_postcat_reads_the_same(tmp_path: Path, flags: str) -> None:
    config = main_cf(tmp_path)
    one = entry(
        "E104320C084",
        Recipient("bob@b.example", "alias@b.example", "rfc822;orig@o.example", 10),
        "carol@c.example",
        done=b"\0\1",
        body="8BITMIME",
        envid="abc+def",
        size=content_size(CONTENT),
        origin=Origin("mx.example", "2001:db8::1", 25, "h" * 200, "ESMTPS"),
    )
    write_queue_file(tmp_path / "queue", one, CONTENT)
    real = subprocess.run(
        ["postcat", "-c", str(config), *([f"-{flags}"] if flags else []), path_of("deferred", "E104320C084")],
        cwd=tmp_path / "queue",
        env={**os.environ, "TZ": "UTC"},
        capture_output=True,
        timeout=30,
        check=True,
    )
    shown = set("bhe") & set(flags)
    what = Show(
        envelope="e" in flags or not shown,
        header="h" in flags or not shown,
        body="b" in flags or not shown,
        offsets="o" in flags,
        types="d" in flags,
    )
    assert postcat(one, what) == real.stdout.decode()


@pytest.mark.peer
@pytest.mark.skipif(not shutil.which("qshape"), reason="needs Postfix")
@pytest.mark.parametrize(
    "options",
    [[], ["-s"], ["-p", "-m", "1"], ["-p", "-m", "2", "-s"], ["-l", "-b", "4", "-t", "30"], ["-b", "15", "-w", "90"]],
)
def test_the_real_qshape_counts_the_same(tmp_path: Path, options: list[str]) -> None:
    made = random_entries(7, 120)
    for one in made:
        write_queue_file(tmp_path, one, CONTENT)
    real = subprocess.run(
        ["qshape", *options, *(str(tmp_path / queue) for queue in ("deferred", "active", "hold"))],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    values = dict(pairwise(options))
    shape = Shape(
        Buckets(int(values.get("-b", 10)), int(values.get("-t", 5)), "-l" in options),
        parents="-p" in options,
        min_subdomains=int(values.get("-m", 5)),
    )
    for one in made:
        left = [recipient.address for recipient, _ in recipients(one)]
        # a message without recipients left is none in Postfix's eyes
        if left:
            shape.add(time.time() - one.envelope.arrival, [one.envelope.sender] if "-s" in options else left)
    ours = table(shape, int(values.get("-w", 80))).splitlines()
    theirs = real.stdout.splitlines()
    assert ours[:2] == theirs[:2]
    # rows of equal count and length come in any order there
    assert sorted(ours) == sorted(theirs)
    assert [row.split()[1] for row in ours[1:]] == [row.split()[1] for row in theirs[1:]]


@pytest.mark.peer
@pytest.mark.skipif(not shutil.which("postqueue") or os.geteuid() != 0, reason="needs Postfix and the superuser")
@pytest.mark.parametrize("long_ids", [False, True])
def test_the_real_postqueue_lists_the_same(tmp_path: Path, long_ids: bool) -> None:
    config = main_cf(
        tmp_path,
        enable_long_queue_ids="yes" if long_ids else "no",
        hash_queue_names="deferred",
        data_directory=str(tmp_path / "data"),
    )
    made = [one for one in random_entries(11, 60) if any(True for _ in recipients(one))]
    queue = tmp_path / "queue"
    for folder in ("maildrop", "incoming", "active", "deferred", "hold", "defer", "pid", "public"):
        (queue / folder).mkdir(parents=True)
    for path in (tmp_path, *tmp_path.parents[:-2]):
        path.chmod(path.stat().st_mode | 0o755)
    for number, one in enumerate(made):
        if number % 3 == 0:
            one.deferred = {
                index: REFUSED if index % 2 else BUSY
                for index in range(len(one.envelope.recipients))
                if not one.done or not one.done[index]
            }
            log = queue / "defer" / one.envelope.queue_id
            log.write_text(
                "".join(
                    f"recipient={one.envelope.recipients[index].address}\noffset=1\nstatus=4.0.0\naction=delayed\n"
                    f"reason={result.text}\n\n"
                    for index, result in one.deferred.items()
                )
            )
            log.chmod(0o600)
        write_queue_file(queue, one, CONTENT)
        path = queue / path_of(one.queue, one.envelope.queue_id)
        path.chmod(0o700)
        if number % 5 == 0:
            one.flags = FLAG_EXPIRE
            path.chmod(0o710)
    for path in (queue, *queue.rglob("*")):
        shutil.chown(path, "postfix")
    shutil.chown(queue, "root")
    shutil.chown(queue / "pid", "root")

    def real(option: str) -> str:
        done = subprocess.run(
            ["postqueue", "-c", str(config), option],
            env={**os.environ, "TZ": "UTC"},
            capture_output=True,
            timeout=30,
            check=True,
        )
        return done.stdout.decode()

    form = JsonFormat(empty_address="MAILER-DAEMON")
    assert sorted(form.message(one) for one in made) == sorted(real("-j").splitlines(keepends=True))
    ours = mailq(*made, long_ids=long_ids).split("\n\n")
    theirs = real("-p").split("\n\n")
    assert ours[-1] == theirs[-1]
    heading = ours[0].splitlines()[0]
    assert theirs[0].splitlines()[0] == heading
    assert sorted(one.removeprefix(heading + "\n") for one in ours) == sorted(
        one.removeprefix(heading + "\n") for one in theirs
    )


def test_record_offsets_follow_from_their_lengths() -> None:
    made = list(records(entry(), [b"x" * 300 + b"\r\n"]))
    assert made[0] == Record(ord("C"), made[0].value, 0)
    for before, after in pairwise(made):
        extra = 1 if len(before.value) >= 128 else 0
        assert after.offset == before.offset + 2 + extra + len(before.value)
    assert sum(record.type == ATTR for record in made) > 5
