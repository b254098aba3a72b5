"""A run: one disk that lives through some crashes, made of one seed, and what happens in it step by step."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from simulated_client import Client
from simulated_copies import DEAD, LATER, QueueSpec, Stream, Violation, check_contents, recovered
from simulated_ledger import Ledger
from simulated_world import World

from pabal.model.definitions import decode_definition, durable_ids
from pabal.model.errors import StoreError
from pabal.store.batch import owner_id
from pabal.store.memory import MemoryStore
from pabal.wire.amqp091 import methods as m

DEAD_LETTERING = (
    {"x-dead-letter-exchange": "dlx"},
    {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": DEAD},
)


KEEPS_LETTERS = {
    "x-dead-letter-exchange": "graves",
    "x-dead-letter-routing-key": "",
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
}
"""The exchange leads to the dead letters, or nowhere for a while."""
LONGEST_MS = 1000
"""Longer than anything waits."""


UNSTORED = (None, 0, 1, 3, 10, 1000)
"""How many changes wait for a checkpoint; None: there is no log."""


class Run:
    """One disk, its queues, and what happens to them. `trace` keeps the steps as text."""

    def __init__(self, seed: int, store_class: type[MemoryStore], trace: bool) -> None:
        self.chance = random.Random(seed)
        self.steps: list[str] | None = [] if trace else None
        self.specs = {spec.name: spec for spec in self._choose_queues()}
        self.work = [name for name in self.specs if name != DEAD]
        self.fans = self.work[:2] if len(self.work) > 1 else []
        self.transacting = self.chance.choice((0.0, 0.3, 0.3, 0.9))  # this part of the clients
        self.ledger = Ledger(self.specs)
        large = random.Random(seed + 1)
        shared, parted = large.choice((0, 0, 80, 10_000)), large.choice((0, 90, 10_000, 10_000))
        unstored = random.Random(seed).choice(UNSTORED)
        self.world = World(self.ledger, store_class, self.chance.random() < 0.7, unstored, shared, parted)
        self.world.note = self._note if trace else None
        self._client_count = 0
        self._note("queues", *self.specs.values(), "fan to", *self.fans)

    def _note(self, *what: object) -> None:
        if self.steps is not None:
            self.steps.append(" ".join(str(thing) for thing in what))

    def _choose_queues(self) -> list[QueueSpec]:
        chance = self.chance
        specs = [QueueSpec(DEAD)]
        for number in range(chance.choice((1, 2, 2, 3))):
            arguments: dict[str, Any] = {}
            keeps_letters = chance.random() < 0.15
            if chance.random() < 0.6:
                arguments |= chance.choice(DEAD_LETTERING)
            if chance.random() < 0.4:
                arguments["x-delivery-limit"] = chance.randint(0, 3)
            if chance.random() < 0.4:
                arguments["x-consumer-timeout"] = chance.choice((20, 100))
            if chance.random() < 0.15:
                arguments["x-message-ttl"] = chance.choice((0, 30, 200))
            if chance.random() < 0.15:
                arguments["x-max-length"] = chance.randint(1, 6)
            if chance.random() < 0.1:
                arguments["x-max-length-bytes"] = chance.choice((20, 60, 120))
            if chance.random() < 0.5:
                arguments["x-overflow"] = chance.choice(("reject-publish", "reject-publish-dlx"))
            if chance.random() < 0.25:
                arguments["x-max-priority"] = chance.choice((1, 3, 255))
            if chance.random() < 0.2:
                arguments["x-single-active-consumer"] = True
            if chance.random() < 0.25:
                arguments["x-delayed-retry-type"] = chance.choice(("all", "failed", "returned"))
                arguments["x-delayed-retry-min"] = chance.choice((10, 40))
                if chance.random() < 0.5:
                    arguments["x-delayed-retry-max"] = 100
            if keeps_letters:
                arguments |= KEEPS_LETTERS
            durable = chance.random() < 0.85
            if durable and "x-max-priority" not in arguments and chance.random() < 0.2:
                arguments["x-queue-type"] = "quorum"
            specs.append(QueueSpec(f"q{number}", durable, arguments))
        return specs

    # --- Setting up -----------------------------------------------------------------------------------------

    def set_up(self, everything: bool) -> None:
        """Declares what there is, again too, since that must make no difference; waits for each answer."""
        client = Client(self.world, "setup", temporary=True)
        if everything:
            client.call(m.EXCHANGE_DECLARE, "dlx", "direct", False, True, False, False, False, {})
            client.call(m.EXCHANGE_DECLARE, "fan", "fanout", False, True, False, False, False, {})
            client.call(m.EXCHANGE_DECLARE, "graves", "fanout", False, True, False, False, False, {})
            kind = {"x-delayed-type": "direct"}
            client.call(m.EXCHANGE_DECLARE, LATER, "x-delayed-message", False, True, False, False, False, kind)
        for spec in self.specs.values():
            if everything or not spec.durable:
                client.call(m.QUEUE_DECLARE, *self._declaration(spec), False, spec.arguments)
        for name in self.work:
            if everything or not self.specs[name].durable:
                if name in self.fans:
                    client.call(m.QUEUE_BIND, name, "fan", "", False, {})
                client.call(m.QUEUE_BIND, DEAD, "dlx", name, False, {})
                client.call(m.QUEUE_BIND, name, LATER, name, False, {})
        self.world.feed(client)
        self.world.settle_down()
        self.world.lose(client)
        self.world.settle_down()

    def _declaration(self, spec: QueueSpec) -> tuple[str, bool, bool, bool, bool]:
        return (spec.name, False, spec.durable, False, False)

    # --- Steps ----------------------------------------------------------------------------------------------

    def live(self, steps: int) -> None:
        """Random things happen."""
        chance, world = self.chance, self.world
        actions: tuple[tuple[Callable[[], None], float], ...] = (
            (self.publish, 22),
            (self.settle, 22),
            (self.end_transaction, 30 * self.transacting),
            (self.end_commit, 16),
            (self.feed_rest, 4),
            (self.connect, 7),
            (self.pass_time, 8),
            (self.disconnect, 3),
            (self.get, 3),
            (self.close_or_cancel, 2),
            (self.stall, 2),
            (self.ask_passively, 2),
            (self.purge, 0.5),
            (self.replace_queue, 0.5),
            (self.recover, 1),
            (self.move_graves, 1),
            (self.fill_disk, 1),
        )
        for _ in range(chance.randint(1, 4)):
            self.connect()
        chosen = chance.choices([a for a, _ in actions], [w for _, w in actions], k=steps)
        for action in chosen:
            action()
            if world.turn_open and chance.random() < 0.6:
                self._note("end of turn")
                world.end_turn()

    def _client(self, consuming: bool) -> Client | None:
        able = [c for c in self.world.clients if bool(c.consuming) == consuming and not c.temporary]
        return self.chance.choice(able) if able else None

    def _feed(self, client: Client, whole: bool = False) -> None:
        count = None
        if not whole and self.chance.random() < 0.1:
            count = self.chance.randint(0, len(client.waiting))
        self._note("feed", client.name, count if count is not None else "all")
        self.world.feed(client, count)

    def connect(self) -> None:
        chance = self.chance
        if len(self.world.clients) > 6:
            return
        self._client_count += 1
        transacts = chance.random() < self.transacting
        if chance.random() < 0.5:
            client = Client(self.world, f"p{self._client_count}")
            if not transacts and chance.random() < 0.75:
                client.confirm_select()
            self._note("publisher", client.name, "confirming" if client.confirming else "", transacts)
        else:
            client = Client(self.world, f"c{self._client_count}")
            if not transacts and chance.random() < 0.5:
                client.confirm_select()
            shared = chance.random() < 0.2
            for number in range(chance.choice((1, 1, 1, 2, 3))):
                queue = chance.choice(list(self.specs)) if chance.random() < 0.3 else chance.choice(self.work)
                no_ack = chance.random() < 0.1
                prefetch = chance.choice((1, 1, 2, 3, 5, 0))
                priority = chance.choice((None, None, None, 0, 1, 5))
                client.consume(queue, f"t{number}", no_ack, prefetch, shared, priority)
                self._note("consumer", client.name, queue, no_ack, prefetch, shared, priority, transacts)
        if transacts:
            client.transact()
        self._feed(client)

    def publish(self) -> None:
        """Some messages alike, or one after another; consumers do it too, on the channel they settle on."""
        chance = self.chance
        client = self._client(consuming=chance.random() < 0.25)
        if client is None:
            return
        queue = chance.choice(self.work)
        persistent = chance.random() < 0.85
        exchange, queues = "", [queue]
        if self.fans and chance.random() < 0.2:
            exchange, queues = "fan", self.fans
        delay_ms = 0
        if exchange == "" and chance.random() < 0.15:
            exchange, delay_ms = LATER, chance.choice((1, 20, 20, 70))
        kept = all(self.specs[name].dead_letters for name in queues)
        expiration = "20" if kept and chance.random() < 0.1 else None
        padding = 9000 if chance.random() < 0.03 else chance.choice((0, 0, 0, 30))
        priority = chance.choice((0, 0, 0, 1, 2, 9))
        count = chance.choice((1, 1, 2, 3, 6))
        what = queues, persistent, expiration, padding, priority, delay_ms
        self._note("publish", client.name, client.seq + 1, "x", count, *what)
        for _ in range(count):
            client.publish(exchange, queue, *what)
        self._feed(client)

    def settle(self) -> None:
        chance = self.chance
        client = self._client(consuming=True) if chance.random() < 0.8 else None
        if client is None:
            client = next((c for c in self.world.clients if c.held), None)  # one that got them
        if client is None or not client.held:
            return
        tags = list(client.held)
        tag = tags[0] if chance.random() < 0.5 else chance.choice(tags)
        kind = chance.choice(("ack", "ack", "ack", "reject", "requeue"))
        multiple = chance.random() < 0.2
        self._note(kind, client.name, tag, client.held[tag].copy.name, "and before" if multiple else "")
        client.settle(tag, kind, multiple)
        self._feed(client)

    def end_transaction(self) -> None:
        able = [client for client in self.world.clients if client.outgoing or client.settling]
        if able:
            client = self.chance.choice(able)
            commits = self.chance.random() < 0.8
            self._note("commit" if commits else "roll back", client.name)
            if commits:
                client.commit()
            else:
                client.roll_back()
            self._feed(client)

    def get(self) -> None:
        client = self._client(consuming=self.chance.random() < 0.5)
        if client is not None:
            queue = self.chance.choice(list(self.specs))
            self._note("get", client.name, queue)
            client.get(queue, self.chance.random() < 0.3)
            self._feed(client)

    def feed_rest(self) -> None:
        waiting = [client for client in self.world.clients if client.waiting]
        if waiting:
            self._feed(self.chance.choice(waiting))

    def recover(self) -> None:
        """All that the client holds goes back."""
        client = self._client(consuming=True)
        if client is not None and not client.transacting:
            self._note("recover", client.name)
            client.recover()
            self._feed(client, whole=True)

    def disconnect(self) -> None:
        if self.world.clients:
            client = self.chance.choice(self.world.clients)
            self._note("connection lost", client.name)
            self.world.lose(client)

    def close_or_cancel(self) -> None:
        client = self._client(consuming=True)
        if client is None:
            return
        if self.chance.random() < 0.5:
            tag = self.chance.choice(list(client.consuming))
            self._note("cancel", client.name, tag)
            client.cancel(tag)
        else:
            self._note("close", client.name)
            client.close()
        self._feed(client)

    def stall(self) -> None:
        """The client stops reading, or reads again."""
        if self.world.clients:
            client = self.chance.choice(self.world.clients)
            self._note("reads again" if client.stalled else "stalls", client.name)
            self.world.broker.begin(self.world.now_ms)
            if client.stalled:
                client.read_again()
            else:
                client.stall()

    def ask_passively(self) -> None:
        """A question whose answer waits for a commit, and what the client sends after it waits with it."""
        client = self._client(consuming=False)
        if client is not None and not client.held and not client.waiting:
            queue = self.chance.choice(list(self.specs))
            self._note("passive declaration", client.name, queue)
            client.call(m.QUEUE_DECLARE, queue, True, False, False, False, False, {})
            self._feed(client, whole=True)

    def purge(self) -> None:
        queue = self.chance.choice(list(self.specs))
        self._note("purge", queue)
        client = Client(self.world, "purger", temporary=True)
        self.ledger.may_be_gone(queue)
        client.call(m.QUEUE_PURGE, queue, False)
        self.world.feed(client)

    def replace_queue(self) -> None:
        """Deletes a queue and declares it again, in one step."""
        spec = self.specs[self.chance.choice(self.work)]
        self._note("delete and declare", spec.name)
        client = Client(self.world, "replacer", temporary=True)
        self.ledger.may_be_gone(spec.name)
        client.call(m.QUEUE_DELETE, spec.name, False, False, True)
        client.call(m.QUEUE_DECLARE, *self._declaration(spec), True, spec.arguments)
        if spec.name in self.fans:
            client.call(m.QUEUE_BIND, spec.name, "fan", "", True, {})
        client.call(m.QUEUE_BIND, spec.name, LATER, spec.name, True, {})
        client.call(m.QUEUE_DECLARE, spec.name, True, False, False, False, False, {})
        self.world.feed(client)

    def move_graves(self) -> None:
        """The way to the dead letters, for those who keep them otherwise, is closed or opened."""
        opens = self.chance.random() < 0.5
        self._note("graves are", "open" if opens else "closed")
        self._bind_graves(opens)

    def _bind_graves(self, binds: bool) -> None:
        client = Client(self.world, "gravedigger", temporary=True)
        if binds:
            client.call(m.QUEUE_BIND, DEAD, "graves", "", True, {})
        else:
            client.call(m.QUEUE_UNBIND, DEAD, "graves", "", {})
        self.world.feed(client)

    def pass_time(self) -> None:
        ms = self.chance.choice((0, 1, 5, 15, 40, 120))
        self._note("time passes:", ms, "ms")
        self.world.advance(ms)

    def fill_disk(self) -> None:
        """The disk becomes full; or there is room again, or a commit is tried in vain."""
        world = self.world
        if not world.disk.full or self.chance.random() < 0.5:
            self._note("the disk has room" if world.disk.full else "the disk is full")
            world.set_full(not world.disk.full)
        else:
            self._note("the commit is tried again")
            world.retry()

    def end_commit(self) -> None:
        world = self.world
        if world.commit is None:
            return
        if not world.commit_finished and self.chance.random() < 0.3:
            self._note("commit is on disk")
            world.finish_commit()
        else:
            self._note("commit is done")
            world.end_commit()

    # --- Crashes and the end --------------------------------------------------------------------------------

    def crash(self) -> None:
        """In a moment of chance's choosing; sometimes the disk fails first."""
        world, chance = self.world, self.chance
        what = chance.random()
        if world.commit is not None:
            if what < 0.1 and not world.commit_finished:
                self._note("commit fails")
                world.end_commit(StoreError("planned"))
                self.live(5)
            elif what < 0.4:
                self._note("commit is on disk")
                world.finish_commit()
        self._note("CRASH", self.ledger.life + 1)
        world.crash()
        self.set_up(everything=chance.random() < 0.2)

    def rest(self) -> None:
        """Nothing is left to do: then who waits for a confirm has it, and who can take a message has it, also if the
        last that happened is that a consumer left."""
        world = self.world
        self._note("rest")
        for client in list(world.clients):
            if client.stalled:
                client.read_again()
            world.feed(client)
        world.settle_down()
        for _ in range(self.chance.choice((0, 1, 3))):
            self.close_or_cancel()
            world.settle_down()
        for client in world.clients:
            if client.unconfirmed:
                raise Violation(f"{client.name} waits for {client.unconfirmed} confirms in vain")
            if client.attempts:
                raise Violation(f"{client.name} waits for {len(client.attempts)} commits in vain")
        for name, queue in world.broker.vhosts["/"].queues.items():
            served = queue.consumers[:1] if self.specs[name].single else queue.consumers
            if queue.ready and any(consumer.room() > 0 for consumer in served):
                raise Violation(f"{name} has {queue.ready} ready and consumers with room")

    def drain(self) -> None:
        """All clients leave; then everything is taken out, and compared with what must be there."""
        world = self.world
        self._note("all clients leave")
        while world.clients:
            world.lose(world.clients[0])
        self._bind_graves(True)
        world.settle_down()  # all is given back: from now on it waits
        world.wait(LONGEST_MS)
        self.ledger.everything_is_durable()
        if self.chance.random() < 0.5:
            self._note("CRASH at rest")
            world.crash()
            self.set_up(everything=False)
            world.wait(LONGEST_MS)
        expected = {key for key, copy in self.ledger.copies.items() if copy.must_be_kept}
        found: set[Any] = set()
        for queue in (*self.work, DEAD):
            self._note("drain", queue)
            self._drain_queue(queue, found)
        if expected - found:
            raise Violation(f"drained, and missing: {sorted(expected - found)}")
        for name, queue in world.broker.vhosts["/"].queues.items():
            if queue.ready or queue.leased:
                raise Violation(f"{name} is drained and has {queue.ready} ready and {queue.leased} leased")
        disk = recovered(world.disk)
        durable = durable_ids(map(decode_definition, disk.definitions.values()))  # others go with the next checkpoint
        left = {queue_id: kept for queue_id, kept in disk.messages.items() if owner_id(queue_id) in durable}
        if any(left.values()):
            raise Violation(f"all is drained, and on disk there is {left}")
        check_contents(disk)
        self.ledger.crashed(world.disk)

    def _drain_queue(self, name: str, found: set[Any]) -> None:
        """Those that came back are in their places again: by priority, and each publisher's in order."""
        client = Client(self.world, "drainer", temporary=True)
        client.consume(name, "drain", False, 0, False)
        last: dict[Stream, int] = {}
        level = 255
        while not found or client.waiting or client.held or self.world.turn_open:
            self.world.feed(client)
            self.world.settle_down()
            if not client.held:
                break
            for tag, delivery in list(client.held.items()):
                copy = delivery.copy
                if copy.key in found:
                    raise Violation(f"{copy.name} was there twice")
                found.add(copy.key)
                if name != DEAD:
                    order = copy.order if copy.order is not None else last.get(copy.stream, 0)
                    if order < last.get(copy.stream, 0) or copy.level > level:
                        raise Violation(f"{copy.name} of priority {copy.level} came after {last}")
                    last[copy.stream] = order
                    level = copy.level
                client.settle(tag, "ack", False)
        self.world.lose(client)
        self.world.settle_down()
