"""The record frame: checksums, walking a segment, finding the way again after damage; queue ids."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from fastmta._ext.records import (
    DAMAGE,
    FIRST_RECORD,
    MESSAGE,
    REMOVE,
    Scanner,
    crc32c,
    crc32c_portable,
    id_number,
    long_id,
    make_record,
    make_segment_header,
    parse_segment_header,
    read_record,
    short_id,
)
from fastmta.queue.ids import BLOCK, Serials

SALT = 0x0123456789ABCDEF


def crc_bit_by_bit(data: bytes) -> int:
    """RFC 3720's CRC as its definition says it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    ("data", "expected"),
    [  # RFC 3720, B.4
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(reversed(range(32))), 0x113FDB5C),
        (b"123456789", 0xE3069283),
    ],
)
def test_crc_vectors(data: bytes, expected: int) -> None:
    assert crc32c(data) == crc32c_portable(data) == crc_bit_by_bit(data) == expected


def test_crc_of_any_length_offset_and_split() -> None:
    random.seed(7)
    data = random.randbytes(9000)
    view = memoryview(data)
    for length in [*range(70), 511, 512, 513, 1535, 1536, 1537, 3072, 4608, 4700, 8999]:
        for offset in (0, 1, 3, 7):
            piece = view[offset : offset + length]
            whole = crc32c_portable(piece)
            assert crc32c(piece) == whole
            cut = random.randrange(length + 1)
            assert crc32c(piece[cut:], crc32c(piece[:cut])) == whole
    assert crc_bit_by_bit(data[:2000]) == crc32c(data[:2000])


def chain(*records: tuple[int, bytes, bytes]) -> list[bytes]:
    """Those records one after the other, in one batch."""
    made: list[bytes] = []
    for kind, meta, content in records:
        made.append(make_record(kind, meta, content, SALT, FIRST_RECORD, FIRST_RECORD + sum(map(len, made))))
    return made


def write_segment(path: Path, *records: bytes) -> int:
    path.write_bytes(make_segment_header(3, 9, SALT, 1000, 77) + b"".join(records))
    return os.open(path, os.O_RDONLY)


def walk(fd: int, size: int) -> list[tuple[int, int, int, bytes, int, int]]:
    scanner = Scanner(fd, size, FIRST_RECORD, SALT)
    items = []
    while (item := scanner.next()) is not None:
        items.append(item)
    return items


def test_what_was_written_is_found(tmp_path: Path) -> None:
    assert parse_segment_header(make_segment_header(3, 9, SALT, 1000, 77)) == (3, 9, SALT, 1000, 77)
    contents = [b"", b"a", b"x" * 300_000, b"\r\n" * 11]
    records = chain(*((MESSAGE, b"meta%d" % k, content) for k, content in enumerate(contents)))
    fd = write_segment(tmp_path / "s", *records)
    items = walk(fd, FIRST_RECORD + sum(map(len, records)))
    assert [(item[0], item[3], item[5]) for item in items] == [
        (MESSAGE, b"meta%d" % k, len(content)) for k, content in enumerate(contents)
    ]
    for item, content in zip(items, contents, strict=True):
        assert read_record(fd, item[1], item[2]) == (MESSAGE, item[3], content)
        assert item[2] % 8 == 0
    os.close(fd)


def test_every_flipped_byte_is_noticed_and_costs_one_record(tmp_path: Path) -> None:
    records = chain(*((MESSAGE, b"meta%d" % k, b"content%d" % k) for k in range(3)))
    whole = make_segment_header(3, 9, SALT, 1000, 0) + b"".join(records)
    path = tmp_path / "s"
    start = FIRST_RECORD + len(records[0])
    padding = len(records[1]) - 48 - len(b"meta1content1")
    for at in range(start, start + len(records[1]) - padding):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x40]) + whole[at + 1 :])
        fd = os.open(path, os.O_RDONLY)
        items = walk(fd, len(whole))
        whole_items = [item[0] != DAMAGE and read_record(fd, item[1], item[2]) is not None for item in items]
        os.close(fd)
        good = [item[3] for item, is_whole in zip(items, whole_items, strict=True) if is_whole]
        assert good == [b"meta0", b"meta2"], at
        assert [item[1:3] for item, is_whole in zip(items, whole_items, strict=True) if not is_whole] == [
            (start, len(records[1]))
        ]


def test_a_content_cannot_pass_for_a_record(tmp_path: Path) -> None:
    """A client sends what looks like a record; then the record around it is damaged."""
    forged = make_record(REMOVE, b"somebody's mail", b"", SALT + 1, 0, FIRST_RECORD + 56)
    carrier, last = chain((MESSAGE, b"12345678", forged * 3), (MESSAGE, b"last", b""))
    fd = write_segment(tmp_path / "s", b"?" + carrier[1:], last)
    items = walk(fd, FIRST_RECORD + len(carrier) + len(last))
    os.close(fd)
    assert [(item[0], item[3]) for item in items] == [(DAMAGE, b""), (MESSAGE, b"last")]


def test_a_block_that_the_disk_put_elsewhere_is_no_record(tmp_path: Path) -> None:
    first, second = chain((MESSAGE, b"meta0", b"content0"), (MESSAGE, b"meta1", b"content1"))
    fd = write_segment(tmp_path / "s", first, first, second)
    items = walk(fd, FIRST_RECORD + 2 * len(first) + len(second))
    assert [item[3] for item in items if item[0] != DAMAGE] == [b"meta0"]
    assert read_record(fd, FIRST_RECORD, len(first)) is not None
    assert read_record(fd, FIRST_RECORD + len(first), len(first)) is None
    os.close(fd)


@pytest.mark.parametrize("make", [short_id, long_id])
def test_a_queue_id_holds_its_number(make: object) -> None:
    for number in (0x10000, 0x10001, 51 * 51, 2**31, 2**40 + 12345):
        queue_id = make(1700000000.25, number)  # type: ignore[operator]
        assert id_number(queue_id) == number


def test_the_forms_of_queue_ids() -> None:
    assert short_id(1700000000.0, 0x1234A) == "000001234A"
    assert short_id(1700000000.5, 0x1234A) == "7A1201234A"
    # Postfix's long form: base 52 seconds and microseconds, "z", base 51
    assert long_id(0.0, 51) == "0000000000z10"
    assert long_id(52.0, 0) == "0000100000z0"
    assert len(long_id(1700000000.123456, 0x10000).split("z")[0]) == 10
    for text in ("", "z", "12345", "7A120123G", "AEIOU12345z1", "../../etc", "7a1201234a", "0000000000z", "é" * 10):
        assert id_number(text) == -1


def test_serials_never_repeat_even_when_the_end_was_not_orderly(tmp_path: Path) -> None:
    seen: set[str] = set()
    for life in range(4):
        serials = Serials(tmp_path, 5, False)
        for _ in range(BLOCK + 10 if life == 0 else 300):
            queue_id = serials.new_id(1700000000.0)  # the clock stands still
            assert queue_id not in seen
            assert id_number(queue_id) % 16 == 5
            seen.add(queue_id)
        if life == 2:
            before = id_number(queue_id)
            serials.close()
            assert id_number(Serials(tmp_path, 5, False).new_id(0.0)) == before + 16
