"""Transactions on a disk that is looked at after every step: each is there as a whole or not at all, and is there
when tx.commit-ok is sent."""

from __future__ import annotations

import random
from collections import Counter
from struct import Struct
from typing import Any, cast

import pytest
from simulated_client import CHANNEL, FRAME_BYTES_MAX, HANDSHAKE
from simulated_ledger import Ledger, Violation
from simulated_world import World

from pabal.model.definitions import QueueDefinition, decode_definition
from pabal.model.message import Outcome
from pabal.session.amqp091.channel import Channel
from pabal.session.amqp091.connection import Amqp091Session
from pabal.session.amqp091.output import Output
from pabal.wire.amqp091 import methods as m
from pabal.wire.amqp091.content import build, encode_properties

JOBS = 400
COPIES = 3
STEPS = 800
PERSISTENT = encode_properties({"delivery_mode": 2})
TARGETS = (b"left", b"right")

_HEAD = Struct(">BHI")


class NoLedger:
    """The world's ledger knows nothing of transactions."""

    def turn_written(self) -> None: ...
    def everything_is_durable(self) -> None: ...
    def crashed(self, disk: object) -> None: ...


class Peer:
    """A client that works on jobs, a few a transaction, and sends the next when it was answered."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.closed = False
        self.waiting = HANDSHAKE
        self.held: dict[int, bytes] = {}
        self.committing: bytes | None = None
        self.answered = True
        self._tag = 0
        self.session: Amqp091Session = run.world.make_session(cast(Any, self))

    def call(self, method: m.Method, *arguments: object) -> None:
        self.waiting += m.encode_method(CHANNEL, method, *arguments)

    def publish(self, queue: str, body: bytes) -> None:
        self.call(m.BASIC_PUBLISH, "", queue, False, False)
        self.waiting += build(PERSISTENT, body, CHANNEL, FRAME_BYTES_MAX)

    def feed(self, count: int | None = None) -> None:
        data, self.waiting = self.waiting[:count], self.waiting[len(self.waiting[:count]) :]
        if data and not self.closed:
            self.session.receive_data(data)

    def work(self, chance: random.Random) -> None:
        if not self.held or not self.answered:
            return
        tags = sorted(self.held)[: chance.randint(1, 4)]
        name = self.run.begin([self.held[tag] for tag in tags])
        for target in TARGETS:
            for _ in range(COPIES):
                self.publish(target.decode(), name)
        for tag in tags:
            if chance.random() < 0.1:
                self.call(m.BASIC_NACK, tag, True, False)  # rejected: gone as well
            else:
                self.call(m.BASIC_ACK, tag, True)
        self.answered = False
        if chance.random() < 0.25:
            self.call(m.TX_ROLLBACK)
        else:
            self.call(m.TX_COMMIT)
            self.committing = name
            for tag in tags:
                del self.held[tag]

    def flush(self) -> None:
        data = b"".join(self.session.output.take(self.run.world.now_ms))
        position = 0
        while position < len(data):
            kind, _, size = _HEAD.unpack_from(data, position)
            payload = data[position + 7 : position + 7 + size]
            position += size + 8
            if kind == m.FRAME_METHOD:
                self._answer(payload)
            elif kind == m.FRAME_BODY:
                self.held[self._tag] = payload
        self.closed = self.session.closed

    def _answer(self, payload: bytes) -> None:
        method = m.METHODS[int.from_bytes(payload[:4], "big")]
        if method is m.BASIC_DELIVER:
            self._tag = cast(int, m.decode_arguments(method, payload)[1])
        elif method is m.TX_COMMIT_OK:
            assert self.committing is not None
            self.run.committed(self.committing)
            self.committing = None
            self.answered = True
        elif method is m.TX_ROLLBACK_OK:
            self.answered = True
        elif method in (m.CHANNEL_CLOSE, m.CONNECTION_CLOSE):
            raise AssertionError(m.decode_arguments(method, payload))


class Run:
    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.world = World(cast(Ledger, NoLedger()))
        self.tried: dict[bytes, list[bytes]] = {}
        self.done: set[bytes] = set()
        maker = Peer(self)
        for queue in ("jobs", "left", "right"):
            maker.call(m.QUEUE_DECLARE, queue, False, True, False, False, True, {})
        for n in range(JOBS):
            maker.publish("jobs", b"job %d;" % n)
        self.world.feed(cast(Any, maker))
        self.world.settle_down()
        self.world.lose(cast(Any, maker))

    def begin(self, jobs: list[bytes]) -> bytes:
        name = b"transaction %d;" % len(self.tried)
        self.tried[name] = jobs
        return name

    def committed(self, name: bytes) -> None:
        self.done.add(name)
        self.check()

    def connect(self) -> None:
        peer = Peer(self)
        peer.call(m.TX_SELECT)
        peer.call(m.BASIC_QOS, 0, self.chance.choice((1, 5, 0)), False)
        peer.call(m.BASIC_CONSUME, "jobs", "", False, False, False, True, {})
        self.world.feed(cast(Any, peer))

    def live(self) -> None:
        world, chance = self.world, self.chance
        for _ in range(STEPS):
            peer = cast(Any, chance.choice(world.clients)) if world.clients else None
            what = chance.random()
            if peer is None or (what < 0.05 and len(world.clients) < 4):
                self.connect()
            elif what < 0.08:
                world.lose(peer)
            elif what < 0.1:
                world.crash()
            elif what < 0.5:
                peer.work(chance)
                world.feed(peer, chance.choice((None, None, chance.randint(0, 400))))
            elif what < 0.6:
                world.feed(peer)
            elif what < 0.8:
                world.end_turn()
            elif what < 0.85:
                world.finish_commit()
            else:
                world.end_commit()
            self.check()

    def check(self) -> None:
        """Each transaction is on disk with all that it published and without all that it settled, or neither."""
        there = self._on_disk()
        for name, jobs in self.tried.items():
            counts = {there[target, name] for target in TARGETS}
            whole = counts == {COPIES}
            if not whole and counts != {0}:
                raise Violation(f"{name!r} is there in part: {counts}")
            if whole and any(there[b"jobs", job] for job in jobs):
                raise Violation(f"{name!r} is there and so is what it settled")
            if name in self.done and not whole:
                raise Violation(f"{name!r} was answered and is not there")
        settled = sum(len(jobs) for name, jobs in self.tried.items() if there[b"left", name])
        left = sum(count for (queue, _), count in there.items() if queue == b"jobs")
        if left + settled != JOBS:
            raise Violation(
                f"{settled} jobs were settled in transactions that are there, and {left} of {JOBS} are left"
            )

    def _on_disk(self) -> Counter[tuple[bytes, bytes]]:
        found: Counter[tuple[bytes, bytes]] = Counter()
        disk = self.world.disk
        for data in disk.definitions.values():
            definition = decode_definition(data)
            if isinstance(definition, QueueDefinition):
                for record in disk.messages.get(definition.queue_id, {}).values():
                    at = max(record.rfind(b"job "), record.rfind(b"transaction "))
                    found[definition.name.encode(), record[at : record.index(b";", at) + 1]] += 1
        return found


@pytest.mark.parametrize("seed", range(10))
def test_all_or_nothing_is_on_disk(seed: int) -> None:
    run = Run(seed)
    run.live()
    assert len(run.done) > 12, "so little happens that it proves nothing"


def test_an_answer_before_the_commit_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def write_at_once(self: Output, channel: int, method: m.Method, *arguments: object) -> None:
        self.write(m.encode_method(channel, method, *arguments))

    monkeypatch.setattr(Output, "write_durable", write_at_once)
    with pytest.raises(Violation, match="was answered and is not there"):
        Run(1).live()


def test_settling_in_the_next_commit_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Channel.settle

    class Later:
        def __init__(self, *arguments: Any) -> None:
            self.arguments = arguments

        def durable(self, upto: int) -> None:
            original(*self.arguments)

    def settle(self: Any, deliveries: Any, tags: list[int], outcome: Outcome) -> None:
        if deliveries is self.unsettled_deliveries:
            original(self, deliveries, tags, outcome)
        else:
            self.broker.await_durable(Later(self, deliveries, tags, outcome), 0)

    monkeypatch.setattr(Channel, "settle", settle)
    with pytest.raises(Violation, match="and so is what it settled"):
        Run(1).live()
