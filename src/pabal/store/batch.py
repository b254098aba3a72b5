"""What a commit to the data file consists of, and the keys under which messages are kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from struct import Struct
from typing import Final, NamedTuple

_PREFIX = Struct(">Q")
_POSITION = Struct(">Q")
_TIMED_POSITION = Struct(">QBQ")
PLAIN_KEY_BYTES: Final = 16
"""Of the key of a message at a place that is no time."""
_STATE = Struct(">QQQQ")
_LEVEL = Struct(">BQ")
_KIND_SHIFT: Final = 64
_TIME_SHIFT: Final = 72
_WAITING: Final = 1 << 63


def key_prefix(queue_id: int) -> bytes:
    """With which the keys of a queue's messages begin."""
    return _PREFIX.pack(queue_id)


def pack_position(position: int) -> bytes:
    """The rest of the key: sorts as positions do."""
    if position >> _TIME_SHIFT:
        return _TIMED_POSITION.pack(position_ms(position), position_kind(position), position_sequence(position))
    return _POSITION.pack(position)


def unpack_positions(keys: list[bytes]) -> list[int]:
    """The positions in keys of messages."""
    joined = b"".join(keys)
    if len(joined) == PLAIN_KEY_BYTES * len(keys):
        return list(Struct(f">{2 * len(keys)}Q").unpack(joined)[1::2])
    return [int.from_bytes(key[_PREFIX.size :], "big") for key in keys]


def unpack_key(key: bytes) -> tuple[int, int]:
    """The queue id and the position in the key of a message."""
    return int.from_bytes(key[: _PREFIX.size], "big"), int.from_bytes(key[_PREFIX.size :], "big")


def message_key(queue_id: int, position: int) -> bytes:
    """The key of a message: sorts by queue, then by place in it."""
    return _PREFIX.pack(queue_id) + pack_position(position)


def waiting_id(queue_id: int) -> int:
    """The id under which the messages of a queue that wait for their time are kept, in a range of their own."""
    return queue_id | _WAITING


def owner_id(queue_id: int) -> int:
    """The id of the queue to which a range belongs: the inverse of `waiting_id`."""
    return queue_id & ~_WAITING


def timed_position(at_ms: int, sequence: int, kind: int = 0) -> int:
    """A place in a range that is sorted by time: `at_ms` (since the epoch, above 0), then `kind` (what it is that
    waits, 8 bits), then `sequence` (64 bits)."""
    return at_ms << _TIME_SHIFT | kind << _KIND_SHIFT | sequence


def position_ms(position: int) -> int:
    """The time in such a place."""
    return position >> _TIME_SHIFT


def position_kind(position: int) -> int:
    """The kind in it."""
    return position >> _KIND_SHIFT & 0xFF


def position_sequence(position: int) -> int:
    """The sequence in it."""
    return position & (1 << _KIND_SHIFT) - 1


class QueueState(NamedTuple):
    """What is kept of a queue beside its messages, written with each commit that touches it.

    `messages`: how many are in the store, ready and leased. `delivered_position`: no message beyond it was ever
    delivered, so after a crash those up to it may have been. `body_bytes`: of these messages, if the queue counts
    them, else 0. `levels`: of a priority queue, how many messages there are of each priority; of what waits,
    of each kind.
    """

    next_position: int
    messages: int
    delivered_position: int
    body_bytes: int = 0
    levels: tuple[tuple[int, int], ...] = ()


def encode_state(state: QueueState) -> bytes:
    """Four u64, then each level as u8 + u64."""
    *numbers, levels = state
    return _STATE.pack(*numbers) + b"".join([_LEVEL.pack(*level) for level in levels])


def decode_state(value: bytes) -> QueueState:
    """struct.error when it has another size."""
    next_position, messages, delivered_position, body_bytes = _STATE.unpack_from(value)
    levels = tuple(_LEVEL.iter_unpack(value[_STATE.size :]))
    return QueueState(next_position, messages, delivered_position, body_bytes, levels)


@dataclass(slots=True)
class Batch:
    """One commit, whole: it could be encoded and applied elsewhere. Deletes go before puts (a message may leave and
    come back to its place between two commits), drops come last: each record removed by one that refers to a content
    is a reference less to it."""

    puts: list[tuple[bytes, bytes]] = field(default_factory=list)
    deletes: list[bytes] = field(default_factory=list)
    rows: list[tuple[int, int, int]] = field(default_factory=list)
    """Deletes of messages at all the positions from one to another: queue id, first position, last position. Each of
    them is there, and so they take less time than the same keys would."""
    contents: list[tuple[int, bytes, int]] = field(default_factory=list)
    """Contents kept by themselves: id, bytes, how many of the puts refer to it."""
    released: list[int] | None = field(default_factory=list)
    """Ids of contents to which the deletes referred, one for each; without a reference left a content goes too. None:
    what the records that are deleted or put anew refer to."""
    states: list[tuple[int, QueueState]] = field(default_factory=list)
    definitions: list[tuple[bytes, bytes | None]] = field(default_factory=list)
    drops: list[tuple[int, int, int]] = field(default_factory=list)
    """Ranges to remove: queue id, first position, last position; the state goes too when it is the whole queue."""
    gone: list[int] = field(default_factory=list)
    """Ids of deleted queues, whose state goes."""
