"""The queue case by case: turns, leases, expiry, limits."""

from __future__ import annotations

from typing import Any

import pytest

from engine import Engine, TakingConsumer, limits, name_of, reasons_of, small_windows
from pabal.model.errors import AccessRefused, NotFound, PreconditionFailed
from pabal.model.message import Outcome


@pytest.fixture
def engine() -> Engine:
    return Engine()


def names(count: int, first: int = 1) -> list[str]:
    return [f"m{number}" for number in range(first, first + count)]


# --- Handing out --------------------------------------------------------------------------------------------


def test_consumers_take_turns(engine: Engine) -> None:
    queue = engine.queue()
    consumers = [TakingConsumer(queue, str(number)) for number in range(3)]
    for consumer in consumers:
        queue.add_consumer(consumer)
    engine.publish(*names(7))
    engine.turn()
    assert [consumer.names for consumer in consumers] == [["m1", "m4", "m7"], ["m2", "m5"], ["m3", "m6"]]
    engine.publish(*names(2, 8))
    engine.turn()
    assert [consumer.names[-1] for consumer in consumers] == ["m7", "m8", "m9"]


def test_a_slow_consumer_holds_up_nobody(engine: Engine) -> None:
    queue = engine.queue()
    slow, fast = TakingConsumer(queue, credit=1), TakingConsumer(queue, credit=1)
    queue.add_consumer(slow)
    queue.add_consumer(fast)
    for number in range(1, 11):
        engine.publish(f"m{number}")
        engine.turn()
        if fast.held:
            queue.settle([fast.held.pop()], fast, Outcome.ACCEPT)
            engine.turn()
    assert slow.names == ["m1"]
    assert fast.names == names(9, 2)
    assert (queue.ready, queue.leased) == (0, 1)


def test_steps_are_small_and_all_is_handed_out(engine: Engine) -> None:
    with limits(DISPATCH_MESSAGES_MAX=2):
        queue = engine.queue()
        consumer = TakingConsumer(queue, credit=5)
        queue.add_consumer(consumer)
        engine.publish(*names(7))
        engine.turn()
        assert consumer.names == names(5)


def test_a_turn_hands_out_its_share_and_the_next_one_goes_on(engine: Engine) -> None:
    """Whatever many consumers have room for, the others do not wait for all of it."""
    with limits(DISPATCH_MESSAGES_MAX=2, DISPATCH_BYTES_MAX=1000, TURN_DISPATCH_BYTES_MAX=2000):
        queues = [engine.queue(name) for name in ("many", "one", "few")]
        engine.publish(*names(9), key="many")
        engine.publish(*names(3), key="one")
        engine.publish(*names(2), key="few")
        engine.turn()
        consumers = [TakingConsumer(queue) for queue in (queues[0], *queues, queues[2])]
        for consumer in consumers:
            consumer.queue.add_consumer(consumer)
        taken = []
        while engine.broker.scheduled:
            engine.broker.dispatch()
            taken.append(sum(len(consumer.taken) for consumer in consumers))
            assert engine.broker.consumers_busy or not engine.broker.scheduled
        assert taken == [4, 8, 13, 14], "two steps each time, and who was left out comes first"
        assert [consumer.names for consumer in consumers] == [
            ["m1", "m3", "m5", "m7", "m9"],
            ["m2", "m4", "m6", "m8"],
            names(3),
            ["m1"],
            ["m2"],
        ]
        assert not engine.broker.consumers_busy
        engine.publish(*names(20), key="many")
        engine.broker.dispatch()
        assert not engine.broker.scheduled, "twice what comes in is handed out, else there would be more and more"
        assert not engine.broker.consumers_busy


def test_a_turn_hands_out_less_while_there_is_a_crowd(engine: Engine) -> None:
    with limits(DISPATCH_MESSAGES_MAX=1, DISPATCH_BYTES_MAX=1, TURN_DISPATCH_BYTES_CROWD_MAX=1):
        queue = engine.queue()
        consumer = TakingConsumer(queue)
        engine.publish(*names(5))
        engine.turn()
        queue.add_consumer(consumer)
        for crowded, count in ((True, 1), (False, 5)):
            engine.broker.crowded = crowded
            engine.broker.dispatch()
            assert len(consumer.taken) == count


def hand_out_much(engine: Engine) -> None:
    """So that nothing is left of this turn's share for queues that are scheduled from now on."""
    engine.publish(*names(20), key=engine.queue("much").name)
    engine.turn()
    engine.vhost.queues["much"].add_consumer(TakingConsumer(engine.vhost.queues["much"]))


def test_what_would_expire_is_handed_out_in_the_turn_in_which_it_comes(engine: Engine) -> None:
    with limits(DISPATCH_MESSAGES_MAX=1, DISPATCH_BYTES_MAX=1, TURN_DISPATCH_BYTES_MAX=1):
        queue = engine.queue()
        consumer = TakingConsumer(queue)
        queue.add_consumer(consumer)
        engine.turn()
        hand_out_much(engine)
        engine.publish(*names(3), ttl_ms=0)
        engine.broker.taken_in_bytes = 0
        engine.broker.dispatch()
        assert engine.broker.scheduled, "those of the other queue"
        engine.advance(1)
        assert consumer.names == names(3)


@pytest.mark.parametrize("overflow", ["drop-head", "reject-publish"])
def test_what_consumers_have_room_for_does_not_count_when_much_is_handed_out(engine: Engine, overflow: str) -> None:
    with limits(DISPATCH_MESSAGES_MAX=1, DISPATCH_BYTES_MAX=1, TURN_DISPATCH_BYTES_MAX=1):
        queue = engine.queue(x_max_length=4, x_overflow=overflow)
        first, second = TakingConsumer(queue, credit=3), TakingConsumer(queue, credit=4)
        queue.add_consumer(first)
        engine.publish(*names(3))
        engine.turn()
        hand_out_much(engine)
        engine.publish(*names(4, 4))
        queue.add_consumer(second)
        engine.broker.taken_in_bytes = 0
        engine.broker.dispatch()
        assert engine.broker.scheduled, "those of the other queue"
        first.credit = 0
        queue.settle(list(first.held), first, Outcome.RETURN)
        engine.turn()
        assert sorted(second.names + engine.names()) == names(7)


def test_who_gets_one_by_one_does_not_keep_consumers_waiting(engine: Engine) -> None:
    with limits(DISPATCH_MESSAGES_MAX=1, DISPATCH_BYTES_MAX=1, TURN_DISPATCH_BYTES_MAX=1):
        queue, other = engine.queue(), engine.queue("other")
        consumer, getter = TakingConsumer(queue), TakingConsumer(other)
        engine.publish(*names(3))
        engine.publish(*names(3), key="other")
        engine.turn()
        queue.add_consumer(consumer)
        for number in range(1, 4):
            other.get(getter)
            engine.broker.dispatch()
            assert consumer.names == names(number)


class SharingConsumer(TakingConsumer):
    """Consumers of one channel: together they hold `most`."""

    def __init__(self, queue: Any, group: list[SharingConsumer], most: int) -> None:
        super().__init__(queue)
        self.group = group
        self.most = most
        self.shared_credit = True
        group.append(self)

    def room(self) -> int:
        return self.most - sum(consumer.unsettled for consumer in self.group)


@pytest.mark.parametrize("most", [1, 2, 3])
def test_room_that_is_shared_is_not_given_twice_and_keeps_the_order(engine: Engine, most: int) -> None:
    queue = engine.queue()
    group: list[SharingConsumer] = []
    alone = TakingConsumer(queue, credit=4)
    for consumer in (SharingConsumer(queue, group, most), SharingConsumer(queue, group, most), alone):
        queue.add_consumer(consumer)
    engine.publish(*names(12))
    engine.turn()
    taken = sorted(int(name[1:]) for consumer in (*group, alone) for name in consumer.names)
    assert taken == list(range(1, most + 4 + 1)), "the first ones, and none left out"
    assert sum(len(consumer.taken) for consumer in group) == most
    for consumer in (*group, alone):
        assert consumer.names == sorted(consumer.names, key=lambda name: int(name[1:]))


def test_get_takes_the_first(engine: Engine) -> None:
    queue = engine.queue()
    consumer = TakingConsumer(queue, credit=0)
    assert queue.get(consumer) is None
    engine.publish("m1", "m2")
    message = queue.get(consumer)
    assert message is not None
    assert name_of(message) == "m1"
    assert (queue.ready, queue.leased, consumer.unsettled) == (1, 1, 1)
    queue.settle([message], consumer, Outcome.RETURN)
    again = queue.get(consumer)
    assert again is message
    assert again.redelivered


def test_an_exclusive_consumer_is_alone(engine: Engine) -> None:
    queue = engine.queue()
    first = TakingConsumer(queue, exclusive=True)
    queue.add_consumer(first)
    with pytest.raises(AccessRefused, match="exclusive use"):
        queue.add_consumer(TakingConsumer(queue))
    queue.remove_consumer(first)
    queue.add_consumer(TakingConsumer(queue))
    with pytest.raises(AccessRefused, match="exclusive use"):
        queue.add_consumer(TakingConsumer(queue, exclusive=True))


def test_an_auto_delete_queue_goes_with_its_last_consumer(engine: Engine) -> None:
    queue, made = engine.vhost.declare_queue("q", True, False, True, {}, None)
    assert made
    consumers = [TakingConsumer(queue), TakingConsumer(queue)]
    for consumer in consumers:
        queue.add_consumer(consumer)
    queue.remove_consumer(consumers[0])
    assert "q" in engine.vhost.queues
    queue.remove_consumer(consumers[1])
    assert "q" not in engine.vhost.queues
    engine.commit()
    engine.restart()
    assert "q" not in engine.vhost.queues


def test_deleting_a_queue_cancels_its_consumers_and_forgets_what_they_hold(engine: Engine) -> None:
    queue = engine.queue(x_consumer_timeout=50)
    consumer = TakingConsumer(queue, credit=1)
    queue.add_consumer(consumer)
    engine.publish("m1", "m2")
    engine.turn()
    with pytest.raises(PreconditionFailed):
        engine.vhost.delete_queue(queue, if_unused=True)
    with pytest.raises(PreconditionFailed):
        engine.vhost.delete_queue(queue, if_empty=True)
    assert engine.vhost.delete_queue(queue) == 1
    assert consumer.was_cancelled
    queue.settle([consumer.held[0]], consumer, Outcome.REJECT)
    engine.advance(100)
    assert consumer.unsettled == 0
    assert not consumer.lost
    engine.commit()
    assert not any(engine.disk.messages.values())
    assert engine.vhost.delete_queue(queue) == 0


# --- Leases -------------------------------------------------------------------------------------------------


def test_a_lease_that_runs_out_gives_the_message_to_another(engine: Engine) -> None:
    queue = engine.queue(x_consumer_timeout=100)
    first, second = TakingConsumer(queue, credit=1), TakingConsumer(queue, credit=0)
    queue.add_consumer(first)
    queue.add_consumer(second)
    engine.publish("m1", "m2")
    engine.turn()
    engine.advance(99)
    assert first.names == ["m1"]
    assert not first.lost
    second.credit = 1
    engine.advance(1)
    assert [name_of(m) for m in first.lost] == ["m1"]
    assert second.names == ["m1"]
    assert second.taken[0].redelivered
    assert second.taken[0].attempts == 1
    assert (queue.ready, queue.leased) == (1, 1)
    queue.late(first)
    assert queue.late_settlements == 1
    engine.turn()
    assert first.names == ["m1", "m2"], "who has spoken has room again"
    queue.settle([second.held.pop()], second, Outcome.ACCEPT)
    assert (queue.ready, queue.leased) == (0, 1)


def test_leases_end_in_their_order_a_few_at_a_time(engine: Engine) -> None:
    with limits(TIMER_MESSAGES_MAX=2):
        queue = engine.queue(x_consumer_timeout=100)
        consumer = TakingConsumer(queue, credit=5)
        queue.add_consumer(consumer)
        engine.publish(*names(5))
        engine.turn()
        engine.advance(100)
        assert [name_of(m) for m in consumer.lost] == names(5)
        assert queue.ready == 5
        assert engine.names() == names(5)


def test_a_settled_message_has_no_lease(engine: Engine) -> None:
    queue = engine.queue(x_consumer_timeout=100)
    consumer = TakingConsumer(queue)
    queue.add_consumer(consumer)
    engine.publish("m1", "m2")
    engine.turn()
    queue.settle([consumer.held[0]], consumer, Outcome.ACCEPT)
    engine.advance(1000)
    assert [name_of(m) for m in consumer.lost] == ["m2"]


def test_a_message_that_nobody_can_do_is_dead_lettered_by_the_limit(engine: Engine) -> None:
    engine.queue("dead")
    queue = engine.queue(
        x_delivery_limit=2, x_consumer_timeout=10, x_dead_letter_exchange="", x_dead_letter_routing_key="dead"
    )
    consumer = TakingConsumer(queue)
    queue.add_consumer(consumer)
    engine.publish("m1")
    engine.turn()
    for _ in range(3):
        engine.advance(10)
    assert consumer.names == ["m1"] * 3
    assert (queue.ready, queue.leased) == (0, 0)
    [letter] = engine.drain("dead")
    assert reasons_of(letter) == [("q", "lease_expired")]


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_the_limit_counts_hand_outs_that_a_crash_ended(engine: Engine, limit: int) -> None:
    """A message that brings the broker down each time does not do so for ever."""
    engine.queue("dead")
    engine.queue(x_delivery_limit=limit, x_dead_letter_exchange="", x_dead_letter_routing_key="dead")
    engine.publish("m1")
    engine.commit()
    crashes = 0
    while True:
        queue = engine.vhost.queues["q"]
        consumer = TakingConsumer(queue)
        queue.add_consumer(consumer)
        engine.turn()
        if not consumer.taken:
            break
        assert consumer.taken[0].attempts == crashes
        engine.commit()
        engine.restart()
        crashes += 1
        assert crashes <= limit + 1
    assert crashes == limit + 1
    [letter] = engine.drain("dead")
    assert reasons_of(letter) == [("q", "delivery_limit")]


# --- Expiry -------------------------------------------------------------------------------------------------


def test_the_shorter_of_two_times_counts(engine: Engine) -> None:
    queue = engine.queue(x_message_ttl=100)
    engine.publish("short", ttl_ms=50)
    engine.publish("long", ttl_ms=1000)
    engine.turn()
    engine.advance(50)
    assert queue.ready == 2, "at its last millisecond it may still be delivered"
    engine.advance(1)
    assert queue.ready == 1
    engine.advance(49)
    assert queue.ready == 1
    engine.advance(1)
    assert queue.ready == 0


def test_expiry_at_the_head_only(engine: Engine) -> None:
    """As in RabbitMQ: what is behind a living message waits for it."""
    queue = engine.queue()
    engine.publish("living")
    engine.publish("dying", ttl_ms=10)
    engine.turn()
    engine.advance(1000)
    assert queue.ready == 2
    consumer = TakingConsumer(queue, credit=1)
    queue.add_consumer(consumer)
    engine.turn()
    assert consumer.names == ["living"]
    assert queue.ready == 0, "now it was at the head"


def test_what_has_expired_is_never_handed_out(engine: Engine) -> None:
    queue = engine.queue()
    engine.publish("living")
    engine.publish(*names(3), ttl_ms=10)
    engine.publish("last")
    engine.turn()
    engine.advance(11)
    consumer = TakingConsumer(queue)
    queue.add_consumer(consumer)
    engine.turn()
    assert consumer.names == ["living", "last"]


def test_a_message_that_lives_zero_milliseconds_is_for_who_waits_for_it(engine: Engine) -> None:
    queue = engine.queue(x_message_ttl=0)
    engine.publish("nobody waits")
    engine.turn()
    engine.advance(1)
    assert queue.ready == 0
    consumer = TakingConsumer(queue)
    queue.add_consumer(consumer)
    engine.publish("m1")
    engine.turn()
    assert consumer.names == ["m1"]


def test_a_message_that_comes_back_expires_too(engine: Engine) -> None:
    queue = engine.queue()
    consumer = TakingConsumer(queue, credit=1)
    queue.add_consumer(consumer)
    engine.publish("m1", ttl_ms=50)
    engine.turn()
    engine.advance(100)
    consumer.credit = 0
    queue.settle([consumer.held.pop()], consumer, Outcome.RETURN)
    engine.turn()
    assert (queue.ready, queue.leased) == (0, 0)


def test_expiry_outlives_a_restart(engine: Engine) -> None:
    engine.queue()
    engine.publish("m1", ttl_ms=50)
    engine.publish("m2")
    engine.commit()
    engine.now_ms += 51
    engine.restart()
    assert engine.names() == ["m2"]


def test_the_timer_is_set_anew_after_a_restart(engine: Engine) -> None:
    engine.queue()
    engine.publish("m1", ttl_ms=50)
    engine.commit()
    engine.restart()
    at_ms = engine.broker.next_tick_ms()
    assert at_ms == engine.now_ms + 51
    engine.advance(51)
    assert engine.vhost.queues["q"].ready == 0
    assert engine.broker.next_tick_ms() is None


def test_many_that_expire_at_once_go_bit_by_bit(engine: Engine) -> None:
    with limits(TIMER_MESSAGES_MAX=3), small_windows():
        queue = engine.queue(x_message_ttl=10)
        engine.publish(*names(20))
        engine.commit()
        engine.advance(11)
        assert queue.ready == 0
        engine.commit()
        assert not any(engine.disk.messages.values())


def test_an_unused_queue_expires(engine: Engine) -> None:
    queue = engine.queue(x_expires=100)
    engine.turn()
    engine.advance(99)
    queue.get(TakingConsumer(queue))
    engine.advance(99)
    consumer = TakingConsumer(queue)
    queue.add_consumer(consumer)
    engine.advance(1000)
    queue.remove_consumer(consumer)
    engine.advance(99)
    engine.queue(x_expires=100)
    engine.advance(99)
    assert "q" in engine.vhost.queues
    engine.advance(1)
    assert "q" not in engine.vhost.queues
    with pytest.raises(NotFound):
        engine.vhost.queue("q")


# --- Length -------------------------------------------------------------------------------------------------


def test_drop_head(engine: Engine) -> None:
    queue = engine.queue(x_max_length=3)
    assert engine.publish(*names(5)).refused == ()
    assert queue.ready == 3
    assert engine.names() == ["m3", "m4", "m5"]


@pytest.mark.parametrize("overflow", ["reject-publish", "reject-publish-dlx"])
def test_reject_publish(engine: Engine, overflow: str) -> None:
    engine.queue("dead")
    queue = engine.queue(
        x_max_length=3, x_overflow=overflow, x_dead_letter_exchange="", x_dead_letter_routing_key="dead"
    )
    assert list(engine.publish(*names(5)).refused) == [3, 4]
    assert list(engine.publish(*names(2)).refused) == [0, 1]
    assert engine.vhost.queues["dead"].ready == (4 if overflow.endswith("dlx") else 0)
    queue.get(TakingConsumer(queue))
    assert list(engine.publish(*names(2)).refused) == [1]


def test_what_a_consumer_takes_at_once_does_not_count(engine: Engine) -> None:
    queue = engine.queue(x_max_length=0)
    consumer = TakingConsumer(queue, credit=3)
    queue.add_consumer(consumer)
    engine.publish(*names(5))
    engine.turn()
    assert consumer.names == names(3)
    assert queue.ready == 0


def test_a_queue_that_is_full_again_by_a_return_drops_its_head(engine: Engine) -> None:
    queue = engine.queue(x_max_length=2)
    consumer = TakingConsumer(queue, credit=1)
    queue.add_consumer(consumer)
    engine.publish(*names(3))
    engine.turn()
    consumer.credit = 0
    queue.settle([consumer.held.pop()], consumer, Outcome.RETURN)
    engine.turn()
    assert engine.names() == ["m2", "m3"]


def test_one_full_queue_of_two(engine: Engine) -> None:
    engine.queue("full", x_max_length=1, x_overflow="reject-publish")
    engine.queue("other")
    engine.bind("amq.fanout", "full")
    engine.bind("amq.fanout", "other")
    assert list(engine.publish("m1", "m2", "m3", exchange="amq.fanout").refused) == [1, 2]
    assert engine.names("full") == ["m1"]
    assert engine.names("other") == ["m1", "m2", "m3"]
