"""What is counted while messages pass: a run or a batch at a time, never once a message."""

from __future__ import annotations


class Counters:
    """Totals since it was made, under RabbitMQ's names: of a queue, an exchange, a channel, a vhost or the broker.

    `publish`: messages published by clients that came here. `publish_out`: how often an exchange passed one on to a
    queue. `confirm`: confirmed or refused to the publisher. `return_unroutable`, `drop_unroutable`: of those that
    reached no queue, returned because they were mandatory, or not. `deliver`, `get`: handed to consumers, or to
    somebody who asked for one, and to be acknowledged; `..._no_ack`: acknowledged by that. `get_empty`: asked for one
    and there was none. `redeliver`: of all these, handed over before. `ack`: acknowledged by the client.
    """

    __slots__ = (
        "ack",
        "confirm",
        "deliver",
        "deliver_no_ack",
        "drop_unroutable",
        "get",
        "get_empty",
        "get_no_ack",
        "publish",
        "publish_out",
        "redeliver",
        "return_unroutable",
    )

    def __init__(self) -> None:
        self.publish = 0
        self.publish_out = 0
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

    @property
    def deliver_get(self) -> int:
        """All that was handed over."""
        return self.deliver + self.deliver_no_ack + self.get + self.get_no_ack
