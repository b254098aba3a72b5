"""What is counted while messages pass: a run or a batch at a time, never once a message."""

from __future__ import annotations

from typing import Final

from mypy_extensions import mypyc_attr

COUNTED: Final = (
    "publish",
    "publish_out",
    "publish_confirming",
    "confirm",
    "return_unroutable",
    "drop_unroutable",
    "deliver",
    "deliver_no_ack",
    "get",
    "get_no_ack",
    "get_empty",
    "redeliver",
    "ack",
    "dead_letter",
)
"""The fields of `Counters`."""


@mypyc_attr(acyclic=True)
class Counters:
    """Totals since it was made, under RabbitMQ's names: of a queue, an exchange, a channel or a vhost.

    `publish`: messages published by clients that came here, dead letters and what was delayed not among them.
    `publish_out`: how often an exchange passed one on to a queue. `publish_confirming`: of those published, how many
    are to be confirmed; `confirm`: how many were. `return_unroutable`, `drop_unroutable`: of those that reached no
    queue, returned because they were mandatory, or not. `deliver`, `get`: handed to consumers, or to somebody who
    asked for one, and to be acknowledged; `..._no_ack`: acknowledged by that. `get_empty`: asked for one and there
    was none. `redeliver`: of all these, handed over before. `ack`: acknowledged by the client. `dead_letter`: died in
    a queue, whatever became of it.
    """

    __slots__ = (
        "ack",
        "confirm",
        "dead_letter",
        "deliver",
        "deliver_no_ack",
        "drop_unroutable",
        "get",
        "get_empty",
        "get_no_ack",
        "publish",
        "publish_confirming",
        "publish_out",
        "redeliver",
        "return_unroutable",
    )

    def __init__(self) -> None:
        self.publish = 0
        self.publish_out = 0
        self.publish_confirming = 0
        self.confirm = 0
        self.return_unroutable = 0
        self.drop_unroutable = 0
        self.deliver = 0
        self.deliver_no_ack = 0
        self.get = 0
        self.get_no_ack = 0
        self.get_empty = 0
        self.redeliver = 0
        self.ack = 0
        self.dead_letter = 0

    @property
    def deliver_get(self) -> int:
        """All that was handed over."""
        return self.deliver + self.deliver_no_ack + self.get + self.get_no_ack

    def handed(self, count: int, again: int, asked: bool, settled: bool) -> None:
        """So many messages were handed over, `again` of them not for the first time; to who asked for one, or to a
        consumer; settled by that, or to be settled."""
        if asked:
            if settled:
                self.get_no_ack += count
            else:
                self.get += count
        elif settled:
            self.deliver_no_ack += count
        else:
            self.deliver += count
        self.redeliver += again

    @property
    def used(self) -> bool:
        """Anything was counted."""
        return bool(
            self.publish or self.deliver_get or self.get_empty or self.ack or self.dead_letter or self.publish_out
        )

    def add(self, other: Counters) -> None:
        """What `other` has counted, too."""
        for name, value in zip(COUNTED, other.values(), strict=True):
            setattr(self, name, getattr(self, name) + value)

    def values(self) -> tuple[int, ...]:
        """In the order of COUNTED."""
        return (
            self.publish,
            self.publish_out,
            self.publish_confirming,
            self.confirm,
            self.return_unroutable,
            self.drop_unroutable,
            self.deliver,
            self.deliver_no_ack,
            self.get,
            self.get_no_ack,
            self.get_empty,
            self.redeliver,
            self.ack,
            self.dead_letter,
        )


class Statistics:
    """What the broker as a whole counts. `gone`: what was counted in vhosts that are no more. `links_gone`: bytes
    received and sent, reads and writes of connections that have ended. `dead_letters`: by reason and by what the
    queue does with dead letters ("disabled": it has no dead-letter exchange; else "at_most_once" or
    "at_least_once"). `logins`: successful and failed ones, by protocol in RabbitMQ's words."""

    def __init__(self) -> None:
        self.gone = Counters()
        self.links_gone = (0, 0, 0, 0)
        self.connections_opened = 0
        self.connections_closed = 0
        self.channels_opened = 0
        self.channels_closed = 0
        self.queues_declared = 0
        self.queues_created = 0
        self.queues_deleted = 0
        self.leases_expired = 0
        self.late_settlements = 0
        self.dead_letters: dict[tuple[str, str], int] = {}
        self.logins: dict[str, tuple[int, int]] = {}

    def died(self, count: int, reason: str, strategy: str) -> None:
        key = (reason, strategy)
        self.dead_letters[key] = self.dead_letters.get(key, 0) + count

    def login(self, protocol: str, successful: bool) -> None:
        """Somebody tried to authenticate, by "amqp091" or "http" for example."""
        successes, failures = self.logins.get(protocol, (0, 0))
        self.logins[protocol] = (successes + successful, failures + (not successful))
