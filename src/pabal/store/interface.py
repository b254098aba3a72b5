"""What the broker and the turn ask of a store."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from pabal.model.definitions import Definition
from pabal.model.message import Message
from pabal.store.batch import QueueState
from pabal.store.journal import Journal


@dataclass(slots=True)
class Loaded:
    """What a store held when it was opened."""

    definitions: list[Definition] = field(default_factory=list)
    queues: dict[int, QueueState] = field(default_factory=dict)
    next_queue_id: int = 1


class Size(NamedTuple):
    """What a store takes on disk: all together, what of it is in use, and what is free and will be used again."""

    file_bytes: int
    used_bytes: int
    free_bytes: int


class Store(Protocol):
    """Keeps messages and definitions. Changes are gathered in `journal` and made durable a commit at a time.

    A commit is three calls, in this order and never two at once:

    - `begin()` takes what was gathered and applies it; False when there was nothing.
    - `finish()` makes it durable. It may block and may run in another thread. StoreError: nothing of the
      commit is durable, and the store must not be used any more. But DiskFull: nothing of it is durable, and it is to
      be tried again, by `again()` and `finish()`, until there is room.
    - `done()` after it, on the thread of `begin()`: tells the queues.
    """

    journal: Journal

    @property
    def in_need(self) -> bool:
        """There is too little room left for more messages than there are: publishers are to be stopped."""

    def load(self) -> Loaded:
        """Definitions and the states of queues. Once, before anything else."""

    def read(self, queue_id: int, after: int, before: int | None, most: int, most_bytes: int) -> list[Message]:
        """Durable messages of a queue in order, from the first beyond `after` to the last below `before`.

        At most `most`, and about `most_bytes` of content, but at least one where there is one.
        """

    def size(self) -> Size:
        """As of the last commit; what is kept in memory only takes nothing."""

    def begin(self) -> bool: ...

    def finish(self) -> None: ...

    def again(self) -> None:
        """On the thread of `begin()`: the commit is made once more, and takes what was gathered since with it."""

    def relieved(self) -> bool:
        """Whether it is not, or no longer, in need: it tries to put something by again. To be asked now and then."""

    def done(self) -> None: ...

    def close(self) -> None:
        """Gives the data back to the system. What was not committed is forgotten."""
