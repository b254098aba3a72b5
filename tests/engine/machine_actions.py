"""What may happen to the queues of the state machine: a setup, and actions with how often each is chosen.

All of it is chosen by a function `pick`, which takes one of some options: Hypothesis's, or a random one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from queue_twin import TwinMessage

Pick = Callable[[Sequence[Any]], Any]
Action = tuple[str, dict[str, Any]]
"""The name of a method of QueueMachine, and its arguments."""

LIMITS: dict[str, Any] = {
    "x-max-length": [0, 1, 2, 3, 4, 4],
    "x-max-length-bytes": [0, 10, 25, 25, 40],
    "x-overflow": ["drop-head", "reject-publish", "reject-publish-dlx"],
    "x-max-priority": [0, 1, 2, 255],
    "x-delivery-limit": [0, 1, 2],
    "x-queue-type": ["quorum"],
}
RETRIES: dict[str, Any] = {
    "x-delayed-retry-type": [
        {"x-delayed-retry-type": kind, "x-delayed-retry-min": 20, **most}
        for kind in ("all", "failed", "returned")
        for most in ({}, {"x-delayed-retry-max": 30})
    ]
}
DYING: dict[str, Any] = {
    "x-message-ttl": [0, 40, 40, 40],
    "x-dead-letter-exchange": [""],
    "x-dead-letter-strategy": [
        {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish", "x-dead-letter-exchange": ""}
    ],
}
CONSUMING: dict[str, Any] = {
    "x-consumer-timeout": [30],
    "x-single-active-consumer": [True],
    "x-expires": [60],
}
ALLOWED = {
    "q": LIMITS | RETRIES | DYING | CONSUMING,
    "dead": LIMITS | DYING,
    "other": LIMITS | RETRIES | CONSUMING,
}
"""By queue. Where the values are dictionaries, several arguments need each other."""
OFTEN = {"x-dead-letter-exchange": 4, "x-delayed-retry-type": 3, "x-delivery-limit": 2, "x-consumer-timeout": 2}
MOST = {"q": 5, "dead": 2, "other": 2}
"""Arguments that a queue has: with more of them one hides what the others do."""
NAMES = ["q", "q", "q", "other", "dead"]
CHANNELS = (False, True)
"""Whether each has transactions."""


class Publication(NamedTuple):
    """Some messages published alike. `held`: by the transaction."""

    queue: str
    sizes: list[int]
    persistent: bool
    priority: int
    ttl_ms: int | None
    delay_ms: int
    held: bool

    def message(self, name: str, size: int) -> TwinMessage:
        size = max(size, len(name) + 2)
        return TwinMessage(name, size, self.persistent, self.ttl_ms, self.priority, self.delay_ms)


class Newcomer(NamedTuple):
    """A consumer to be. `channel`: the index of its channel."""

    queue: str
    channel: int
    credit: int
    auto: bool = False
    exclusive: bool = False
    priority: int = 0
    lease_ms: int | None = None


class Setup(NamedTuple):
    """`durable`: q. `regulars`: consumers that are there from the beginning, and again after each restart. The rest
    are limits: how much of a queue is in memory, how much is read or handed out at once."""

    arguments: dict[str, dict[str, Any]]
    durable: bool
    counts_releases: bool
    regulars: list[Newcomer]
    stored: int
    transient: int
    load: int
    step: int


def pick_arguments(pick: Pick, queue: str) -> dict[str, Any]:
    """Those that others need are chosen more often."""
    names = [name for name in sorted(ALLOWED[queue]) for _ in range(OFTEN.get(name, 1))]
    arguments: dict[str, Any] = {}
    for name in dict.fromkeys(pick(names) for _ in range(pick(range(MOST[queue] + 1)))):
        value = pick(ALLOWED[queue][name])
        arguments |= value if isinstance(value, dict) else {name: value}
    if arguments.get("x-queue-type") == "quorum":
        arguments.pop("x-max-priority", None)  # which it does not take
    return arguments


def pick_setup(pick: Pick) -> Setup:
    return Setup(
        arguments={queue: pick_arguments(pick, queue) for queue in ALLOWED},
        durable=pick([True, True, True, False]),
        counts_releases=pick([True, False]),
        regulars=[pick_newcomer(pick) for _ in range(pick(range(4)))],
        stored=pick([1, 2, 4, 30]),
        transient=pick([1, 2, 30]),
        load=pick([1, 2, 3]),
        step=pick([1, 2, 3]),
    )


def pick_publication(pick: Pick) -> Publication:
    return Publication(
        queue=pick(NAMES),
        sizes=[pick([5, 5, 12]) for _ in range(pick([1, 2, 3, 4]))],
        persistent=pick([True, True, False]),
        priority=pick([0, 0, 1, 2, 9]),
        ttl_ms=pick([None, None, None, None, 20]),
        delay_ms=pick([0, 0, 0, 0, 0, 11, 61]),
        held=pick([False, False, True]),
    )


def pick_newcomer(pick: Pick) -> Newcomer:
    return Newcomer(
        queue=pick(NAMES),
        channel=pick(range(len(CHANNELS))),
        credit=pick([0, 1, 2, 3, 4, 4]),
        auto=pick([False, False, False, True]),
        exclusive=pick([False] * 7 + [True]),
        priority=pick([0, 0, 0, 1, -1]),
        lease_ms=pick([None, None, None, 15]),
    )


def pick_settlement(pick: Pick) -> dict[str, Any]:
    """`which`, `place`, `more`: one of those there are, counted round."""
    return {
        "which": pick(range(8)),
        "place": pick(range(8)),
        "more": pick(range(8)),
        "outcome": pick(["accept", "accept", "return", "release", "reject"]),
        "multiple": pick([False, True]),
    }


ACTIONS: dict[str, tuple[int, Callable[[Pick], dict[str, Any]]]] = {
    "advance": (5, lambda pick: {"ms": pick([0, 1, 10, 25, 25, 60, 100])}),
    "publish": (6, lambda pick: {"publication": pick_publication(pick)}),
    "settle": (8, pick_settlement),
    "end_transaction": (2, lambda pick: {"commits": pick([True, True, True, False])}),
    "recover": (1, lambda pick: {"which": pick(range(8))}),
    "consume": (3, lambda pick: {"newcomer": pick_newcomer(pick)}),
    "change_credit": (1, lambda pick: {"which": pick(range(8)), "more": pick([-1, 0, 1, 2, 3])}),
    "cancel": (1, lambda pick: {"which": pick(range(8))}),
    "close": (1, lambda pick: {"index": pick(range(len(CHANNELS)))}),
    "get": (1, lambda pick: {"newcomer": pick_newcomer(pick)}),
    "declare": (1, lambda pick: {"name": pick(NAMES)}),
    "purge_or_delete": (
        1,
        lambda pick: {"name": pick(["q", "other", "dead", "dead"]), "deletes": pick([False, True])},
    ),
    "commit": (4, lambda pick: {"steps": pick([1, 2, 3])}),
    "restart": (1, lambda pick: {"steps": pick(range(6))}),
}
"""How often in proportion, and with what. The first can be nothing at all, which is what failures shrink to."""
NAMES_OF_ACTIONS = [name for name, (weight, _) in ACTIONS.items() for _ in range(weight)]


def pick_action(pick: Pick) -> Action:
    name = pick(NAMES_OF_ACTIONS)
    return name, ACTIONS[name][1](pick)
