"""An entry of the write-ahead log: what one commit changed, in few bytes.

Big-endian; sections one after the other, each beginning with its kind:

    1 queue       id u64 | state u32 + bytes | removed u32, each first key + count u32 | runs u32, each
                  first key + messages u32 + head u32 + bytes + each content's size u32 + the contents
    2 definition  key u32 + bytes | 0, or 1 and value u32 + bytes
    3 range       id u64 | first u64 | last u64: a range of messages that goes
    4 queue gone  id u64

A key is u8 + bytes (batch.pack_position). A run is of messages that follow one another and whose records (record.py)
begin alike: one head for all. The state is as in the data file (batch.encode_state).
"""

from __future__ import annotations

from struct import Struct
from struct import error as StructError
from typing import Final

from pabal.model.errors import StoreError
from pabal.model.message import Message
from pabal.store.batch import Batch, QueueState, decode_state, encode_state, key_prefix, pack_position
from pabal.store.record import encode_head

_QUEUE: Final = 1
_DEFINITION: Final = 2
_RANGE: Final = 3
_GONE: Final = 4

_U8 = Struct(">B")
_U32 = Struct(">I")
_U64 = Struct(">Q")
_ID = Struct(">BQ")
_DROP = Struct(">BQQQ")
_KEY_BYTES: Final = (8, 17)


def encode_queue(
    queue_id: int, state: QueueState, removed: list[int], runs: list[bytes], run_count: int
) -> list[bytes]:
    """One queue's section. `removed`: positions. `runs`: from `encode_runs`."""
    encoded = encode_state(state)
    ranges = _ranges(removed)
    chunks = [_ID.pack(_QUEUE, queue_id), _U32.pack(len(encoded)), encoded, _U32.pack(len(ranges))]
    for first, count in ranges:
        chunks += (_encode_key(first), _U32.pack(count))
    chunks.append(_U32.pack(run_count))
    chunks += runs
    return chunks


def encode_runs(messages: list[Message], leases: bool, chunks: list[bytes]) -> int:
    """Adds to `chunks` the runs that these messages form. Returns how many runs. `leases`: one that is with a
    consumer now counts as attempted once more."""
    runs = 0
    at, end = 0, len(messages)
    while at < end:
        first = messages[at]
        envelope, position = first.envelope, first.position
        attempts, expires_at_ms = first.attempts, first.expires_at_ms
        begun = leases and first.consumer is not None
        stop = at + 1
        while stop < end:
            message = messages[stop]
            if (
                message.envelope is not envelope
                or message.position != position + stop - at
                or message.attempts != attempts
                or message.expires_at_ms != expires_at_ms
                or (leases and (message.consumer is not None) is not begun)
            ):
                break
            stop += 1
        head = encode_head(first, 1 if begun else 0)
        contents = [message.content for message in (messages[at:stop] if stop - at < end else messages)]
        chunks += (_encode_key(position), _U32.pack(len(contents)), _U32.pack(len(head)), head)
        chunks.append(Struct(f">{len(contents)}I").pack(*map(len, contents)))
        chunks += contents
        runs += 1
        at = stop
    return runs


def encode_definition_change(name: bytes, value: bytes | None) -> list[bytes]:
    chunks = [_U8.pack(_DEFINITION), _U32.pack(len(name)), name, _U8.pack(value is not None)]
    if value is not None:
        chunks += (_U32.pack(len(value)), value)
    return chunks


def encode_drop(queue_id: int, first: int, last: int) -> bytes:
    return _DROP.pack(_RANGE, queue_id, first, last)


def encode_gone(queue_id: int) -> bytes:
    return _ID.pack(_GONE, queue_id)


def decode_entry(data: bytes) -> Batch:
    """What the commit changed. StoreError when it cannot be read."""
    batch = Batch(released=None)
    at = 0
    try:
        while at < len(data):
            kind = data[at]
            if kind == _QUEUE:
                at = _decode_queue(data, at, batch)
            elif kind == _DEFINITION:
                at = _decode_definition(data, at + 1, batch)
            elif kind == _RANGE:
                _, queue_id, first, last = _DROP.unpack_from(data, at)
                batch.drops.append((queue_id, first, last))
                at += _DROP.size
            elif kind == _GONE:
                batch.gone.append(_ID.unpack_from(data, at)[1])
                at += _ID.size
            else:
                raise StoreError(f"the log has an entry with a section of kind {kind}: a newer Pabal wrote it")
    except (StructError, IndexError, ValueError) as error:
        raise StoreError(f"the log is damaged: {error}") from None
    return batch


def _decode_queue(data: bytes, at: int, batch: Batch) -> int:
    _, queue_id = _ID.unpack_from(data, at)
    at += _ID.size
    (size,) = _U32.unpack_from(data, at)
    at += 4
    batch.states.append((queue_id, decode_state(_slice(data, at, size))))
    at += size
    prefix = key_prefix(queue_id)
    (ranges,) = _U32.unpack_from(data, at)
    at += 4
    for _ in range(ranges):
        first, at = _decode_key(data, at)
        (count,) = _U32.unpack_from(data, at)
        at += 4
        batch.deletes += [prefix + _behind(first, index) for index in range(count)]
    (runs,) = _U32.unpack_from(data, at)
    at += 4
    for _ in range(runs):
        at = _decode_run(data, at, prefix, batch)
    return at


def _decode_run(data: bytes, at: int, prefix: bytes, batch: Batch) -> int:
    first, at = _decode_key(data, at)
    (count,) = _U32.unpack_from(data, at)
    (head_bytes,) = _U32.unpack_from(data, at + 4)
    at += 8
    head = _slice(data, at, head_bytes)
    at += head_bytes
    sizes = Struct(f">{count}I").unpack_from(data, at)
    at += 4 * count
    for index, size in enumerate(sizes):
        batch.puts.append((prefix + _behind(first, index), head + _slice(data, at, size)))
        at += size
    return at


def _decode_definition(data: bytes, at: int, batch: Batch) -> int:
    (size,) = _U32.unpack_from(data, at)
    name = _slice(data, at + 4, size)
    at += 4 + size
    if not data[at]:
        batch.definitions.append((name, None))
        return at + 1
    at += 1
    (size,) = _U32.unpack_from(data, at)
    at += 4
    batch.definitions.append((name, _slice(data, at, size)))
    return at + int(size)


def _encode_key(position: int) -> bytes:
    key = pack_position(position)
    return _U8.pack(len(key)) + key


def _decode_key(data: bytes, at: int) -> tuple[bytes, int]:
    size = data[at]
    if size not in _KEY_BYTES:
        raise ValueError(f"a key of {size} bytes")
    return _slice(data, at + 1, size), at + 1 + size


def _behind(key: bytes, count: int) -> bytes:
    """The key `count` places behind this one."""
    return (int.from_bytes(key, "big") + count).to_bytes(len(key), "big") if count else key


def _slice(data: bytes, at: int, size: int) -> bytes:
    if at + size > len(data):
        raise ValueError(f"it ends {at + size - len(data)} bytes too soon")
    return data[at : at + size]


def _ranges(positions: list[int]) -> list[tuple[int, int]]:
    """The positions in runs: first, count. Positions that were settled in order are few of them."""
    ranges: list[tuple[int, int]] = []
    at, end = 0, len(positions)
    while at < end:
        first = positions[at]
        stop = at + 1
        while stop < end and positions[stop] - first == stop - at:
            stop += 1
        ranges.append((first, stop - at))
        at = stop
    return ranges
