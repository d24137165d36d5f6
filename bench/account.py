"""What was acknowledged held against what arrived: `python -m bench.account GENERATOR.json SINK.json`.

Reads the reports of bench/generator.py and bench/sink.py, says what was lost, came twice, or was not whole, and ends
with 1 when there was any. Ranges of numbers are written "0-4,7".
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import msgspec


class Sent(msgspec.Struct):
    """The report of a generator. Times in seconds, latencies in milliseconds; codes are counted by command."""

    run: str
    recipients: int
    seconds: float = 0.0
    rate: float = 0.0  # messages acknowledged per second
    acknowledged: str = ""  # numbers that were answered 250 after the dot
    unknown: str = ""  # numbers whose connection ended after the dot and before the answer: they may arrive
    refused: str = ""  # numbers that were answered 4xx or 5xx
    messages: int = 0  # acknowledged
    sessions: int = 0
    lost: int = 0  # connections that ended without being asked to
    replies: dict[str, dict[str, int]] = {}
    latency: dict[str, float] = {}  # from the dot to its answer
    from_due: dict[str, float] = {}  # from the time at which the message was to be sent (open loop) to its answer
    histogram: dict[str, int] = {}  # answers within so many milliseconds, above the bound before
    behind: float = 0.0  # the most seconds that the generator itself was late
    refused_recipients: dict[str, list[int]] = {}  # number: recipients that were refused while others were not


class Arrived(msgspec.Struct):
    """The report of a sink. Deliveries are recipients, transactions are messages as they came over the wire."""

    seconds: float = 0.0  # from the first to the last
    rate: float = 0.0  # transactions per second
    sessions: int = 0
    transactions: int = 0
    deliveries: int = 0
    bytes: int = 0
    duplicates: int = 0
    duplicate: list[str] = []  # the first of them: "run/number/recipient"
    damaged: int = 0
    damage: list[str] = []
    unnumbered: int = 0  # none of a generator's
    unasked: int = 0  # commands that were pipelined though that was not offered
    replies: dict[str, dict[str, int]] = {}
    whole: dict[str, str] = {}  # by run: numbers that arrived whole for all their recipients
    partial: dict[str, dict[str, list[int]]] = {}  # by run and number: the recipients that they arrived for


def ranges(numbers: Iterable[int]) -> str:
    """Numbers in ascending order as "0-4,7"."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def numbers(text: str) -> set[int]:
    """The reverse of `ranges`."""
    found: set[int] = set()
    for part in text.split(",") if text else []:
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def complaints(sent: Sent, arrived: Arrived, *, again: int = 0) -> list[str]:
    """What is wrong, in words; empty when every byte of every acknowledged message arrived once.

    again: how many duplicates are no fault, since the sink itself ended sessions before it answered.
    """
    found = []
    whole = numbers(arrived.whole.get(sent.run, ""))
    partial = arrived.partial.get(sent.run, {})
    everyone = set(range(sent.recipients))
    lost = []
    for number in sorted(numbers(sent.acknowledged) - whole):
        wanted = everyone - set(sent.refused_recipients.get(str(number), []))
        if not wanted <= set(partial.get(str(number), [])):
            lost.append(number)
    if lost:
        found.append(f"{len(lost)} acknowledged messages did not arrive: {ranges(lost)[:200]}")
    if arrived.duplicates > again:
        found.append(f"{arrived.duplicates} came twice: {', '.join(arrived.duplicate[:10])}")
    if arrived.damaged:
        found.append(f"{arrived.damaged} were not whole: {', '.join(arrived.damage[:10])}")
    if arrived.unnumbered:
        found.append(f"{arrived.unnumbered} messages are nobody's")
    if refused := sorted(numbers(sent.refused) & whole):
        found.append(f"{len(refused)} refused messages arrived: {ranges(refused)[:200]}")
    return found


def main() -> int:
    """Compare two reports."""
    if len(sys.argv) != 3:
        print("usage: python -m bench.account GENERATOR.json SINK.json", file=sys.stderr)
        return 2
    sent = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Sent)
    arrived = msgspec.json.decode(Path(sys.argv[2]).read_bytes(), type=Arrived)
    found = complaints(sent, arrived)
    for line in found:
        print(line)
    if not found:
        print(f"{sent.messages} messages acknowledged, every byte of them arrived once")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
