"""What may happen to the queues of the state machine: arguments, and actions with how often each is chosen."""

from __future__ import annotations

from typing import Any, NamedTuple

from hypothesis import strategies as st
from queue_twin import TwinMessage

LIMITS: dict[str, Any] = {
    "x-max-length": st.sampled_from([0, 1, 2, 3, 4, 4]),
    "x-max-length-bytes": st.sampled_from([0, 10, 25, 25, 40]),
    "x-overflow": st.sampled_from(["drop-head", "reject-publish", "reject-publish-dlx"]),
    "x-max-priority": st.sampled_from([0, 1, 2, 255]),
    "x-delivery-limit": st.integers(0, 2),
}
DYING: dict[str, Any] = {
    "x-message-ttl": st.sampled_from([0, 40, 40, 40]),
    "x-dead-letter-exchange": st.just(""),
}
CONSUMING: dict[str, Any] = {
    "x-consumer-timeout": st.just(30),
    "x-single-active-consumer": st.just(True),
    "x-expires": st.just(60),
}
ALLOWED = {"q": LIMITS | DYING | CONSUMING, "dead": LIMITS | DYING, "other": LIMITS | CONSUMING}
OFTEN = {"x-dead-letter-exchange": 4, "x-delivery-limit": 2, "x-consumer-timeout": 2}
DEAD_LETTERS_TO = {"q": "dead", "dead": "q"}
NAMES = st.sampled_from(["q", "q", "q", "other", "dead"])
CHANNELS = (False, True)
"""Whether each has transactions."""


@st.composite
def arguments_of(draw: Any, queue: str, most: int) -> dict[str, Any]:
    """At most so many, lest one hides what the others do; those that others need are chosen more often."""
    names = [name for name in sorted(ALLOWED[queue]) for _ in range(OFTEN.get(name, 1))]
    names = draw(st.lists(st.sampled_from(names), max_size=most, unique=True))
    return {name: draw(ALLOWED[queue][name]) for name in names}


class Publication(NamedTuple):
    """Some messages published alike. `held`: by the transaction."""

    queue: str
    sizes: list[int]
    persistent: bool
    priority: int
    ttl_ms: int | None
    held: bool

    def message(self, name: str, size: int) -> TwinMessage:
        return TwinMessage(name, max(size, len(name) + 2), self.persistent, self.ttl_ms, self.priority)


class Newcomer(NamedTuple):
    """A consumer to be. `channel`: the index of its channel."""

    queue: str
    channel: int
    credit: int
    auto: bool = False
    exclusive: bool = False
    priority: int = 0


PUBLICATIONS = st.builds(
    Publication,
    queue=NAMES,
    sizes=st.lists(st.sampled_from([5, 5, 12]), min_size=1, max_size=4),
    persistent=st.sampled_from([True, True, False]),
    priority=st.sampled_from([0, 0, 1, 2, 9]),
    ttl_ms=st.sampled_from([None, None, None, None, 20]),
    held=st.sampled_from([False, False, True]),
)
NEWCOMERS = st.builds(
    Newcomer,
    queue=NAMES,
    channel=st.integers(0, len(CHANNELS) - 1),
    credit=st.integers(0, 4),
    auto=st.sampled_from([False, False, False, True]),
    exclusive=st.sampled_from([False] * 7 + [True]),
    priority=st.sampled_from([0, 0, 0, 1, -1]),
)
OUTCOMES = st.sampled_from(["accept", "accept", "return", "reject"])
WHICH = st.integers(0, 7)
"""One of those there are, counted round."""

ACTIONS: dict[str, tuple[int, dict[str, Any]]] = {
    "advance": (3, {"ms": st.sampled_from([0, 1, 10, 25, 100])}),
    "publish": (6, {"publication": PUBLICATIONS}),
    "settle": (6, {"which": WHICH, "place": WHICH, "more": WHICH, "outcome": OUTCOMES, "multiple": st.booleans()}),
    "end_transaction": (2, {"commits": st.sampled_from([True, True, True, False])}),
    "recover": (1, {"which": WHICH}),
    "consume": (3, {"newcomer": NEWCOMERS}),
    "change_credit": (1, {"which": WHICH, "more": st.integers(-1, 3)}),
    "cancel": (1, {"which": WHICH}),
    "close": (1, {"index": st.integers(0, len(CHANNELS) - 1)}),
    "get": (1, {"newcomer": NEWCOMERS}),
    "declare": (1, {"name": NAMES}),
    "purge_or_delete": (1, {"name": NAMES, "deletes": st.booleans()}),
    "commit": (4, {"steps": st.integers(1, 3)}),
    "restart": (1, {"steps": st.integers(0, 5)}),
}
"""How often in proportion, and with what. The first can be nothing at all, which is what failures shrink to."""


@st.composite
def actions(draw: Any) -> tuple[str, dict[str, Any]]:
    name = draw(st.sampled_from([name for name, (weight, _) in ACTIONS.items() for _ in range(weight)]))
    return name, draw(st.fixed_dictionaries(ACTIONS[name][1]))
