"""Reading of records whose positions follow one another."""

from __future__ import annotations

from itertools import islice
from typing import Any

from pabal.store.batch import PLAIN_KEY_BYTES


def read_in_a_row(cursor: Any, count: int, end: bytes) -> list[bytes]:
    """The `count` records from the cursor's on, if they are below `end` and their positions follow one another: then
    no key has to be read but the first and the last, where the cursor is left. Else nothing."""
    first = bytes(cursor.key())
    records: list[bytes] = list(islice(cursor.iternext(keys=False), count))
    last = bytes(cursor.key())
    if len(records) < count or last >= end or len(last) != PLAIN_KEY_BYTES or len(first) != PLAIN_KEY_BYTES:
        return []
    return records if int.from_bytes(last, "big") - int.from_bytes(first, "big") == count - 1 else []
