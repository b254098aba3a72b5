"""basic.qos with `global`: what a cancelled consumer holds still counts, and nobody with room is forgotten."""

from __future__ import annotations

import pytest
from simulated_client import Client
from simulated_copies import DEAD, QueueSpec
from simulated_ledger import Ledger
from simulated_world import World

from pabal.wire.amqp091 import methods as m


class Shared:
    """A channel that may hold one message, consuming from two queues with two messages each."""

    def __init__(self) -> None:
        specs = {name: QueueSpec(name) for name in (DEAD, "one", "two")}
        self.world = World(Ledger(specs))
        admin = Client(self.world, "admin")
        for name in specs:
            admin.call(m.QUEUE_DECLARE, name, False, True, False, False, False, {})
        self.step(admin)
        self.client = Client(self.world, "c1")
        for name in ("one", "two"):
            self.client.consume(name, name, False, 1, True)
        self.step(self.client)
        publisher = Client(self.world, "p1")
        for name in ("one", "one", "two", "two"):
            publisher.publish("", name, [name], True, None, 0)
        self.step(publisher)
        assert [delivery.queue for delivery in self.client.held.values()] == ["one"]

    def step(self, client: Client) -> None:
        self.world.feed(client)
        self.world.settle_down()

    @property
    def forgotten(self) -> list[str]:
        """Queues with messages for a consumer that has room."""
        queues = self.world.broker.vhosts["/"].queues.values()
        return [queue.name for queue in queues if queue.ready and any(c.room() > 0 for c in queue.consumers)]


@pytest.fixture
def shared() -> Shared:
    return Shared()


def test_what_a_cancelled_consumer_holds_still_counts(shared: Shared) -> None:
    client = shared.client
    client.call(m.BASIC_CANCEL, "one", True)
    shared.step(client)
    assert len(client.held) == 1
    assert not shared.forgotten
    client.settle(next(iter(client.held)), "ack", False)
    shared.step(client)
    assert [delivery.queue for delivery in client.held.values()] == ["two"]


def test_a_deleted_queue_leaves_nobody_forgotten(shared: Shared) -> None:
    admin = Client(shared.world, "admin")
    admin.call(m.QUEUE_DELETE, "one", False, False, False)
    shared.step(admin)
    assert not shared.forgotten
    client = shared.client
    first = next(iter(client.held))
    client.settle(first, "ack", False)
    shared.step(client)
    assert [delivery.queue for delivery in client.held.values()] == ["two"]
    assert not shared.forgotten
