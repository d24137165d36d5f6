"""What the log's records and the index's entries hold, as types. The grammar of the log is in ext/records.pyx.

Used by the other modules of this package. All is MessagePack; structs are arrays, new fields go at the end with a
default. An index value is the CRC-32C of the rest, little-endian, and then an Entry.
"""

from __future__ import annotations

import msgspec

from fastmta.model.envelope import Envelope
from fastmta.model.message import Message, Place
from fastmta.model.outcome import Result


class State(msgspec.Struct, array_like=True, gc=False):
    """All that changes in the life of a message; see model.Message for the fields."""

    flags: int = 0
    next_attempt: float = 0.0
    attempts: int = 0
    done: bytearray | None = None
    deferred: dict[int, Result] | None = None


class Entry(msgspec.Struct, array_like=True, gc=False):
    """A message in the index. state_segment: where its last OUTCOME lies, or its home when it has none."""

    segment: int
    offset: int
    length: int
    state_segment: int
    envelope: Envelope
    state: State | None = None


class EntryHead(msgspec.Struct, array_like=True, gc=False):
    """The first fields of an Entry, for those who need no more."""

    segment: int
    offset: int
    length: int
    state_segment: int


MessageMeta = tuple[Envelope, State | None]
MovedMeta = tuple[Envelope, State | None, int]
OutcomeMeta = tuple[str, int, State]
RemoveMeta = tuple[str, int]

encode = msgspec.msgpack.Encoder().encode
decode_message = msgspec.msgpack.Decoder(MessageMeta).decode
decode_moved = msgspec.msgpack.Decoder(MovedMeta).decode
decode_outcome = msgspec.msgpack.Decoder(OutcomeMeta).decode
decode_remove = msgspec.msgpack.Decoder(RemoveMeta).decode
decode_entry = msgspec.msgpack.Decoder(Entry).decode
decode_entry_head = msgspec.msgpack.Decoder(EntryHead).decode


def state_of(message: Message) -> State | None:
    """The state of a message in memory as it is kept; None while nothing happened to it."""
    if not (message.flags or message.next_attempt or message.attempts or message.done or message.deferred):
        return None
    return State(message.flags, message.next_attempt, message.attempts, message.done, message.deferred)


def copy_state(message: Message) -> State:
    """The state of a message as it is now, whatever becomes of the message."""
    return State(
        message.flags,
        message.next_attempt,
        message.attempts,
        None if message.done is None else bytearray(message.done),
        None if message.deferred is None else dict(message.deferred),
    )


def message_of(entry: Entry, shard: int) -> Message:
    """The message of an index entry, its content still on disk."""
    place = Place(entry.segment, entry.offset, entry.length)
    message = Message(entry.envelope, None, place, shard)
    state = entry.state
    if state is not None:
        message.flags = state.flags
        message.next_attempt = state.next_attempt
        message.attempts = state.attempts
        message.done = state.done
        message.deferred = state.deferred
    return message
