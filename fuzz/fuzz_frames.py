"""Feeds mutated AMQP 0-9-1 conversations to whole sessions over a real broker, store and turn; no sockets.

    python fuzz/fuzz_frames.py --seconds 60            another seed each time, printed
    python fuzz/fuzz_frames.py --seed 7 --cases 1000
    python fuzz/fuzz_frames.py --case FILE             once more what failed

A case is a conversation made from a seed and broken in a few places. It is played three times: in one piece, cut
anywhere, and cut with turns, commits and time between the cuts. Nothing but an answer of the protocol may come of
it; the first two must say and do the same to the byte; and each time what the broker and its store know must agree,
a client that was there before must be served, and so must one that comes after; and after a restart too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from pabal.broker.access import Access
from pabal.broker.broker import Broker
from pabal.model.definitions import UserDefinition
from pabal.model.errors import StoreError
from pabal.model.passwords import hash_password
from pabal.server.turn import Turn
from pabal.session.amqp091.connection import Amqp091Session
from pabal.session.amqp091.container import Amqp091Container
from pabal.session.amqp091.settings import SessionSettings
from pabal.store.batch import owner_id
from pabal.store.memory import Disk, MemoryStore
from pabal.wire.amqp091 import methods as m
from pabal.wire.amqp091.content import build, encode_properties
from pabal.wire.amqp091.methods import encode_frame, encode_method

FRAME_BYTES_MAX = 4096
MESSAGE_BYTES_MAX = 50_000
START_MS = 1_800_000_000_000
CASE_SECONDS_MAX = 10
ROUNDS_MAX = 20_000
OUTPUT_BYTES_MAX = 64 * 1024 * 1024
MEMORY_BYTES_MAX = 700 * 1024 * 1024
PASSWORD = hash_password("guest", b"0123456789abcdef", 16)


class Failure(Exception):
    """What a case must not do."""


# --- The world -------------------------------------------------------------------------------------------------


class Link:
    """A session and the socket it does not have."""

    def __init__(self, world: World, settings: SessionSettings) -> None:
        self._world = world
        self.output = bytearray()
        self.log: list[str] = []
        self.session = Amqp091Session(
            world.broker,
            world.access,
            settings,
            world.container,
            lambda: world.turn.writes(self),
            self.log.append,
            True,
        )

    def flush(self) -> None:
        """As server.connection.Connection does it, with a peer that always reads."""
        for piece in self.session.output.take(self._world.now_ms):
            self.output += piece
        if len(self.output) > OUTPUT_BYTES_MAX:
            raise Failure(f"{len(self.output)} bytes of output")
        if not self.session.closed and self.session.output.drained():
            self.session.unblock()

    def say(self, data: bytes) -> None:
        self.session.receive_data(data)


class World:
    """A broker, its store, its turn and a clock; what the server is without asyncio."""

    def __init__(self, disk: Disk | None = None) -> None:
        self.now_ms = START_MS
        self._names = 0
        self._commits: list[tuple[Callable[[], None], Callable[[StoreError | None], None]]] = []
        self.container = Amqp091Container()
        self.store = MemoryStore({self.container.code: self.container}, disk)
        self.broker = Broker(self.store, self.now_ms, self._token)
        self.access = Access(self.broker, b"key")
        self.turn = Turn(self.broker, self.store, lambda *commit: self._commits.append(commit), self._fatal)
        if disk is None:
            self.broker.add_vhost("/")
            self.broker.add_vhost("other")
            self.broker.accounts.put_user(UserDefinition("guest", PASSWORD, ["*"], loopback_only=True))
        self.settle()

    def _token(self) -> str:
        self._names += 1
        return f"name-{self._names}"

    def _fatal(self, error: StoreError) -> None:
        raise Failure(f"the store failed: {error}")

    def link(self) -> Link:
        settings = SessionSettings(FRAME_BYTES_MAX, 100, 60, MESSAGE_BYTES_MAX)
        return Link(self, settings)

    def end_turn(self) -> None:
        self.turn.end()

    def commit(self) -> bool:
        """Finishes one commit that is under way."""
        if not self._commits:
            return False
        finish, done = self._commits.pop(0)
        finish()
        done(None)
        return True

    def settle(self) -> None:
        """Turns and commits until nothing is left to do."""
        self.end_turn()
        rounds = 0
        while self.commit() or self.broker.unfinished or self.broker.waiters:
            self.end_turn()
            rounds += 1
            if rounds > ROUNDS_MAX:
                raise Failure("turns without end")

    def pass_time(self, ms: int) -> None:
        """Ticks as the server would on the way."""
        until = self.now_ms + ms
        for _ in range(ROUNDS_MAX):
            at_ms = self.broker.next_tick_ms()
            if at_ms is None or at_ms > until:
                self.now_ms = until
                self.broker.begin(until)
                return
            self.now_ms = max(self.now_ms, at_ms)
            self.broker.begin(self.now_ms)
            self.broker.tick(self.now_ms)
            self.settle()
        raise Failure("timers without end")

    # --- What it knows --------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Everything is committed and no client is there: broker and store must agree."""
        disk = self.store.disk
        for vhost in self.broker.vhosts.values():
            for queue in vhost.queues.values():
                where = f"queue {queue.name!r}"
                if queue.owner is not None:
                    raise Failure(f"{where} is exclusive to a connection that is gone")
                if queue.leased or queue.consumers:
                    raise Failure(f"{where} has {queue.leased} leased, {len(queue.consumers)} consumers")
                stored = len(disk.messages.get(queue.definition.queue_id, {}))
                if queue.log.count != stored:
                    raise Failure(f"{where} counts {queue.log.count} in the store, which has {stored}")
                if queue.ready < stored:
                    raise Failure(f"{where} has {queue.ready} ready and {stored} in the store")
        used = {q.definition.queue_id for v in self.broker.vhosts.values() for q in v.queues.values()}
        for queue_id, messages in disk.messages.items():
            if messages and owner_id(queue_id) not in used:  # what waits for its time has an id of its own
                raise Failure(f"{len(messages)} messages in the store of a queue that is gone")

    def contents(self, stored_only: bool) -> dict[str, list[Any]]:
        """What is in the queues, taken out of them."""
        found: dict[str, list[Any]] = {}
        for vhost in self.broker.vhosts.values():
            for queue in vhost.queues.values():
                if stored_only and not queue.durable:
                    continue
                taken = []
                while messages := queue.backlog.take(1_000_000):
                    taken += [
                        (message.position, message.attempts, message.expires_at_ms, message.content)
                        for message in messages
                        if not stored_only or message.state != 0
                    ]
                found[f"{vhost.name} {queue.name}"] = taken
        return found


# --- Good clients ------------------------------------------------------------------------------------------------


def handshake(vhost: str = "/") -> list[bytes]:
    return [
        m.PROTOCOL_HEADER,
        encode_method(0, m.CONNECTION_START_OK, {"product": "fuzz"}, "PLAIN", b"\0guest\0guest", "en_US"),
        encode_method(0, m.CONNECTION_TUNE_OK, 100, FRAME_BYTES_MAX, 60),
        encode_method(0, m.CONNECTION_OPEN, vhost),
    ]


def message(
    channel: int, exchange: str, key: str, body: bytes, mandatory: bool = False, **properties: Any
) -> list[bytes]:
    """The frames of one publish."""
    content = build(encode_properties(properties), body, channel, FRAME_BYTES_MAX)
    return [encode_method(channel, m.BASIC_PUBLISH, exchange, key, mandatory, False), *frames_of(content)]


def frames_of(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        end = at + 8 + struct.unpack_from(">I", data, at + 3)[0]
        yield data[at:end]
        at = end


def keys_of(output: bytes) -> list[tuple[int, int]]:
    """Class and method of each method in some output, which must be whole frames."""
    keys = []
    for one in frames_of(output):
        if one[-1] != 0xCE or len(one) < 8:
            raise Failure(f"the output is no frames: {one[:40]!r}")
        if one[0] == 1:
            keys.append(struct.unpack_from(">HH", one, 7))
    return keys


class Citizen:
    """A client that behaves, with a durable queue of its own. `serve` publishes, consumes and acks."""

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self._name = name
        self._served = 0
        self.link = world.link()
        steps = [
            *handshake(),
            encode_method(1, m.CHANNEL_OPEN),
            encode_method(1, m.CONFIRM_SELECT, False),
            encode_method(1, m.QUEUE_DECLARE, name, False, True, False, False, False, {}),
            encode_method(1, m.BASIC_CONSUME, name, "tag", False, False, False, False, {}),
        ]
        self._ask(b"".join(steps), 7)

    def _ask(self, data: bytes, answers: int) -> None:
        before = len(self.link.output)
        self.link.say(data)
        self._world.settle()
        keys = keys_of(bytes(self.link.output[before:]))
        if len(keys) != answers:
            raise Failure(f"the good client {self._name!r} got {keys} instead of {answers} answers")

    def serve(self) -> None:
        bodies = [f"{self._name} {self._served + n}".encode() for n in range(3)]
        data = b"".join(f for body in bodies for f in message(1, "", self._name, body, delivery_mode=2))
        before = len(self.link.output)
        self.link.say(data)
        self._world.settle()
        output = bytes(self.link.output[before:])
        at = -1
        for body in bodies:
            at = output.find(body, at + 1)
            if at < 0:
                raise Failure(f"the good client {self._name!r} did not get {body!r}")
        keys = keys_of(output)
        if keys.count((60, 60)) != 3 or keys.count((60, 80)) != 1:
            raise Failure(f"the good client {self._name!r} got {keys}")
        self._served += 3
        self.link.say(encode_method(1, m.BASIC_ACK, self._served, True))
        self._world.settle()

    def leave(self) -> None:
        self._ask(encode_method(1, m.QUEUE_DELETE, self._name, False, False, False), 1)
        self._ask(encode_method(0, m.CONNECTION_CLOSE, 200, "", 0, 0), 1)
        self.link.session.connection_lost()
        self._world.settle()


# --- Conversations -----------------------------------------------------------------------------------------------

QUEUES = ("q0", "q1", "q2", "dead")
EXCHANGES = ("x0", "x1", "x2", "amq.topic", "amq.fanout", "amq.headers", "")
TYPES = ("direct", "fanout", "topic", "headers")
KEYS = ("q0", "q1", "q2", "dead", "a.b", "a.*", "#", "a.#.b", "", "nowhere")
BODIES = (b"", b"x", b"body", b"y" * 100, b"z" * 4088, b"w" * 9000, b"\xce" * 50)
ARGUMENTS: tuple[dict[str, Any], ...] = (
    {},
    {},
    {"x-message-ttl": 0},
    {"x-message-ttl": 50, "x-dead-letter-exchange": ""},
    {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"},
    {"x-dead-letter-exchange": "x0", "x-message-ttl": 1},
    {"x-dead-letter-exchange": "amq.headers", "x-message-ttl": 1},
    {"x-max-length": 2},
    {"x-max-length": 1, "x-overflow": "reject-publish"},
    {"x-max-length": 1, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "q0"},
    {"x-max-length": 0},
    {"x-delivery-limit": 1, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"},
    {"x-consumer-timeout": 100},
    {"x-queue-type": "quorum"},
    {"x-expires": 100},
    {"x": [1, {"y": None}], "t": True, "f": 1.5, "b": b"\xff"},
    {"alternate-exchange": "x1"},
)
HEADERS: tuple[dict[str, Any], ...] = (
    {},
    {"a": 1},
    {"a": 1, "b": "two", "c": [1, 2, {"d": None}]},
    {"x-death": [{"queue": "q0", "reason": "expired", "count": 2**63 - 1, "exchange": "", "routing-keys": ["q0"]}]},
    {"x-death": [{"queue": 1, "reason": [], "count": "x", "time": 5}, 7, None]},
    {"x-death": "none"},
    {"CC": ["q1", "q2"], "BCC": ["dead"]},
    {"x-delivery-count": 99, "x-match": "any"},
)


class Talk:
    """Makes a conversation: frames in an order that makes sense, mostly."""

    def __init__(self, randomness: random.Random) -> None:
        self.random = randomness
        self.pick = randomness.choice
        self.queues: list[str] = []
        self.exchanges = ["", "", "amq.topic", "amq.fanout", "amq.headers"]
        self.channels: list[int] = []
        self.tags: dict[int, int] = {}
        self.consumers = 0

    def flag(self, odds: float = 0.5) -> bool:
        return self.random.random() < odds

    def queue(self) -> str:
        """One that was declared, mostly: an unknown one ends the channel."""
        return self.pick(self.queues) if self.queues and self.flag(0.97) else self.pick(QUEUES)

    def exchange(self) -> str:
        return self.pick(self.exchanges) if self.flag(0.97) else self.pick(EXCHANGES)

    def frames(self) -> list[bytes]:
        frames = handshake(self.pick(("/", "/", "/", "other")))
        frames += self.open() + self.open()
        if self.flag(0.9):
            frames += [frame for name in QUEUES for frame in self.declare_queue(1, name)]
            frames += [frame for name in EXCHANGES[:3] for frame in self.declare_exchange(1, name)]
            frames += self.bind(1) + self.bind(1)
        for _ in range(self.random.randint(3, 40)):
            if self.flag(0.08):
                frames += self.open()
            frames += self.step(self.pick(self.channels[-2:]))
        if self.flag(0.3):
            frames.append(encode_method(0, m.CONNECTION_CLOSE, 200, "bye", 0, 0))
        return frames

    def open(self) -> list[bytes]:
        """One more channel: an older one may be closed by an error."""
        number = len(self.channels) + 1
        self.channels.append(number)
        self.tags[number] = 0
        frames = [encode_method(number, m.CHANNEL_OPEN)]
        if self.flag():
            frames.append(encode_method(number, m.CONFIRM_SELECT, self.flag(0.1)))
        return frames

    def step(self, channel: int) -> list[bytes]:
        steps = (
            *(self.publish,) * 8,
            self.declare_queue,
            self.declare_exchange,
            *(self.bind,) * 2,
            *(self.consume,) * 3,
            *(self.take,) * 4,
            *(self.settle,) * 5,
            self.remove,
            self.other,
        )
        return self.pick(steps)(channel)

    def publish(self, channel: int) -> list[bytes]:
        properties: dict[str, Any] = {}
        if self.flag():
            properties["delivery_mode"] = self.pick((0, 1, 2, 2, 2, 255))
        if self.flag(0.4):
            properties["headers"] = self.pick(HEADERS)
        if self.flag(0.2):
            bad = self.flag(0.05)
            properties["expiration"] = self.pick(
                ("-1", "0" * 30 + "9" * 30) if bad else ("0", "1", "50", "4294967295")
            )
        if self.flag(0.1):
            properties |= {"priority": 9, "correlation_id": "c", "reply_to": "r", "message_id": "m" * 255}
        if self.flag(0.1):
            properties |= {"timestamp": 2**64 - 1, "type": "t", "user_id": "guest", "app_id": ""}
        exchange, key = ("", self.queue()) if self.flag(0.7) else (self.exchange(), self.pick(KEYS))
        frames = message(channel, exchange, key, self.pick(BODIES), self.flag(0.2), **properties)
        return frames * self.pick((1, 1, 1, 2, 5))

    def declare_queue(self, channel: int, name: str = "") -> list[bytes]:
        if not name and self.flag(0.7):
            name = f"q{len(self.queues)}"
        if name:
            self.queues.append(name)
        flags = self.flag(0.003), self.flag(0.6), self.flag(0.1), self.flag(0.1), self.flag(0.1)
        return [encode_method(channel, m.QUEUE_DECLARE, name, *flags, self.pick(ARGUMENTS))]

    def declare_exchange(self, channel: int, name: str = "") -> list[bytes]:
        name = name or f"x{len(self.exchanges)}"
        self.exchanges.append(name)
        flags = self.flag(0.003), self.flag(0.6), self.flag(0.1), self.flag(0.05), self.flag(0.1)
        arguments = self.pick(({}, {}, {"alternate-exchange": "x1"}, {"alternate-exchange": "x0"}))
        return [encode_method(channel, m.EXCHANGE_DECLARE, name, self.pick(TYPES), *flags, arguments)]

    def bind(self, channel: int) -> list[bytes]:
        arguments = self.pick(({}, {}, {"x-match": "any", "a": 1}, {"x-match": "all", "b": None}))
        source, key = self.pick(self.exchanges[2:]), self.pick(KEYS)
        verb = self.random.randrange(8)
        if verb == 0:
            return [
                encode_method(channel, m.EXCHANGE_BIND, self.pick(self.exchanges[2:]), source, key, False, arguments)
            ]
        if verb == 1:
            return [
                encode_method(
                    channel, m.EXCHANGE_UNBIND, self.pick(self.exchanges[2:]), source, key, False, arguments
                )
            ]
        if verb == 2:
            return [encode_method(channel, m.QUEUE_UNBIND, self.queue(), source, key, arguments)]
        return [encode_method(channel, m.QUEUE_BIND, self.queue(), source, key, self.flag(0.1), arguments)]

    def consume(self, channel: int) -> list[bytes]:
        frames = []
        if self.flag(0.4):
            frames.append(encode_method(channel, m.BASIC_QOS, 0, self.pick((0, 1, 2, 100)), self.flag(0.3)))
        self.consumers += 1
        tag = self.pick(("", f"c{self.consumers}"))
        flags = False, self.flag(0.3), self.flag(0.1), self.flag(0.1)
        return [*frames, encode_method(channel, m.BASIC_CONSUME, self.queue(), tag, *flags, {})]

    def settle(self, channel: int) -> list[bytes]:
        """Of deliveries that may have been made, by basic.get or to a consumer."""
        last = self.tags[channel]
        verb = self.random.randrange(10)
        if verb == 0:
            return [encode_method(channel, m.BASIC_RECOVER, self.flag(0.98))]
        if verb == 1:
            return [encode_method(channel, m.BASIC_NACK, 0, True, self.flag())]
        if verb == 2:
            return [encode_method(channel, m.BASIC_ACK, 0, True)]
        if not last and self.flag(0.9):
            return self.take(channel)
        tag = max(1, last - self.random.randint(0, 1))
        if verb == 3:
            return [encode_method(channel, m.BASIC_NACK, tag, self.flag(), self.flag())]
        if verb == 4:
            return [encode_method(channel, m.BASIC_REJECT, tag, self.flag())]
        if verb == 5:
            return [encode_method(channel, m.BASIC_ACK, tag + n, False) for n in range(3)]
        return [encode_method(channel, m.BASIC_ACK, tag, self.flag(0.3))]

    def take(self, channel: int) -> list[bytes]:
        count = self.pick((1, 1, 3))
        no_ack = self.flag(0.3)
        if not no_ack:
            self.tags[channel] += count
        return [encode_method(channel, m.BASIC_GET, self.queue(), no_ack)] * count

    def remove(self, channel: int) -> list[bytes]:
        verb = self.random.randrange(4)
        if verb == 0:
            return [encode_method(channel, m.QUEUE_PURGE, self.queue(), self.flag(0.1))]
        if verb == 1:
            flags = self.flag(0.2), self.flag(0.2), self.flag(0.1)
            return [encode_method(channel, m.QUEUE_DELETE, self.queue(), *flags)]
        if verb == 2:
            return [
                encode_method(
                    channel,
                    m.EXCHANGE_DELETE,
                    self.pick(self.exchanges[5:] or self.exchanges),
                    self.flag(0.2),
                    self.flag(0.1),
                )
            ]
        return [
            encode_method(channel, m.BASIC_CANCEL, f"c{self.random.randint(1, self.consumers + 1)}", self.flag(0.1))
        ]

    def other(self, channel: int) -> list[bytes]:
        again = [encode_method(channel, m.CHANNEL_CLOSE, 200, "", 0, 0), encode_method(channel, m.CHANNEL_OPEN)]
        if self.flag(0.3):
            return [encode_method(channel, m.CHANNEL_CLOSE_OK), *self.open()]
        return self.pick(
            (
                again,
                [encode_method(channel, m.CHANNEL_FLOW, self.flag(0.9))],
                [encode_method(0, m.CONNECTION_UPDATE_SECRET, b"secret", "why")],
                [encode_method(channel, m.ACCESS_REQUEST, "/", False, False, True, True, True)],
                [encode_method(channel, m.CONFIRM_SELECT, False)],
                [m.HEARTBEAT_FRAME],
                message(channel, "", "q0", b"v" * (MESSAGE_BYTES_MAX + 1)),
            )
        )


# --- Mutations ---------------------------------------------------------------------------------------------------

INTERESTING = (
    b"\xce",
    b"\x00",
    b"\xff",
    b"\xff\xff\xff\xff",
    b"\x80\0\0\0",
    b"\0\0\0\0",
    b"\x7f\xff\xff\xff",
    b"\r\n",
)


def mutate(frames: list[bytes], other: list[bytes], randomness: random.Random) -> list[bytes]:
    """`frames` broken in some places; `other` is a conversation to take pieces from."""
    frames = list(frames)
    for _ in range(min(int(randomness.expovariate(0.5)), 8)):
        if not frames:
            break
        # The handshake is left alone, mostly: little happens behind a broken one.
        first = 0 if randomness.random() < 0.1 else min(22, len(frames) - 1)
        at = randomness.randrange(first, len(frames))
        MUTATIONS[randomness.randrange(len(MUTATIONS))](frames, at, other, randomness)
    return frames


def _flip(frames: list[bytes], at: int, other: list[bytes], randomness: random.Random) -> None:
    data = bytearray(frames[at] or b"\0")
    data[randomness.randrange(len(data))] ^= 1 << randomness.randrange(8)
    frames[at] = bytes(data)


def _payload(frames: list[bytes], at: int, other: list[bytes], randomness: random.Random) -> None:
    """Breaks the inside of a frame that stays one."""
    whole = frames[at]
    if len(whole) < 9:
        return
    inside = bytearray(whole[7:-1])
    place = randomness.randrange(len(inside))
    verb = randomness.randrange(5)
    if verb == 0:
        inside[place] = randomness.randrange(256)
    elif verb == 1:
        del inside[place : place + randomness.randint(1, 8)]
    elif verb == 2:
        inside[place:place] = randomness.choice(INTERESTING)
    elif verb == 3:
        piece = randomness.choice(INTERESTING)
        inside[place : place + len(piece)] = piece
    else:
        inside[place:place] = inside[place : place + randomness.randint(1, 30)]
    frames[at] = encode_frame(whole[0], struct.unpack_from(">H", whole, 1)[0], bytes(inside))


def _size(frames: list[bytes], at: int, other: list[bytes], randomness: random.Random) -> None:
    """The frame's size lies; or, of a content header, the body's."""
    data = bytearray(frames[at])
    if len(data) >= 19 and data[0] == 2 and randomness.random() < 0.7:
        size = randomness.choice((0, 1, 4088, 50_000, 50_001, 2**63, 2**64 - 1, randomness.randrange(20)))
        data[11:19] = struct.pack(">Q", size)
    elif len(data) >= 7:
        (size,) = struct.unpack_from(">I", data, 3)
        size = randomness.choice((size - 1, size + 1, 0, FRAME_BYTES_MAX, 2**32 - 1, size * 2)) % 2**32
        data[3:7] = struct.pack(">I", size)
    frames[at] = bytes(data)


def _channel(frames: list[bytes], at: int, other: list[bytes], randomness: random.Random) -> None:
    if len(frames[at]) >= 3:
        channel = struct.pack(">H", randomness.choice((0, 1, 2, 3, 100, 101, 65_535)))
        frames[at] = frames[at][:1] + channel + frames[at][3:]


def _cut(frames: list[bytes], at: int, other: list[bytes], randomness: random.Random) -> None:
    frames[at] = frames[at][: randomness.randrange(len(frames[at]) + 1)]


def _remove(frames: list[bytes], at: int, other: list[bytes], randomness: random.Random) -> None:
    del frames[at : at + randomness.randint(1, 3)]


def _repeat(frames: list[bytes], at: int, other: list[bytes], randomness: random.Random) -> None:
    count = randomness.choice((1, 1, 2, 5, 60))
    frames[at:at] = frames[at : at + randomness.randint(1, 4)] * count


def _swap(frames: list[bytes], at: int, other: list[bytes], randomness: random.Random) -> None:
    to = randomness.randrange(len(frames))
    frames[at], frames[to] = frames[to], frames[at]


def _splice(frames: list[bytes], at: int, other: list[bytes], randomness: random.Random) -> None:
    start = randomness.randrange(len(other))
    frames[at:at] = other[start : start + randomness.randint(1, 6)]


def _insert(frames: list[bytes], at: int, other: list[bytes], randomness: random.Random) -> None:
    piece = (
        randomness.choice(INTERESTING)
        if randomness.random() < 0.5
        else randomness.randbytes(randomness.randint(1, 20))
    )
    frames.insert(at, piece)


MUTATIONS = (
    _flip,
    _payload,
    _payload,
    _payload,
    _payload,
    _size,
    _channel,
    _cut,
    _remove,
    _repeat,
    _swap,
    _splice,
    _insert,
)


# --- A case ------------------------------------------------------------------------------------------------------


def make_case(seed: int) -> bytes:
    randomness = random.Random(seed)
    frames = Talk(randomness).frames()
    return b"".join(mutate(frames, Talk(randomness).frames(), randomness))


def cut(data: bytes, randomness: random.Random) -> list[bytes]:
    """`data` in pieces: single bytes, few, or many."""
    if randomness.random() < 0.2 and len(data) < 5000:
        return [data[at : at + 1] for at in range(len(data))]
    places = sorted(randomness.randrange(len(data) + 1) for _ in range(randomness.randint(1, 40)))
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


def play(
    data: bytes, pieces: list[bytes], steps: random.Random | None
) -> tuple[bytes, str, list[str], dict[str, list[Any]]]:
    """One run in a world of its own. Without `steps` all of it is one turn; with them turns, commits and time come
    between the pieces. Returns what was answered, the state and the log of the session, and what is in the queues."""
    world = World()
    witness = Citizen(world, "witness")
    witness.serve()
    hostile = world.link()
    for piece in pieces:
        if steps is not None and not hostile.session.closed:
            for _ in range(ROUNDS_MAX):  # the server reads nothing while the session is blocked
                if not hostile.session.blocked:
                    break
                world.settle()
        hostile.say(piece)
        if steps is not None:
            choice = steps.random()
            if choice < 0.5:
                world.end_turn()
            if choice < 0.25:
                world.commit()
            if choice < 0.1:
                world.settle()
            if choice < 0.05:
                world.pass_time(steps.choice((1, 60, 1000)))
                hostile.session.tick(world.now_ms)
    world.settle()
    state = hostile.session.state
    output = bytes(hostile.output)
    if output[:4] != b"AMQP":
        keys_of(output)
    witness.serve()
    if steps is not None:
        world.pass_time(steps.choice((0, 100, 5000)))
        hostile.session.tick(world.now_ms)
        world.settle()
    hostile.session.connection_lost()
    world.settle()
    witness.serve()
    late = Citizen(world, "late")
    late.serve()
    late.leave()
    witness.leave()
    world.check()
    restarted = World(world.store.disk)
    stored = restarted.contents(stored_only=True)
    contents = world.contents(stored_only=False)
    for name, taken in stored.items():
        positions = {one[0] for one in contents[name]}
        lost = [one for one in taken if one[0] not in positions]
        if lost:
            raise Failure(f"{name!r} has {len(lost)} messages after the restart that it did not have before it")
    return output, state, hostile.log, contents


def run_case(data: bytes, seed: int) -> None:
    """Raises whatever is wrong."""
    randomness = random.Random(seed)
    whole = play(data, [data], None)
    in_pieces = play(data, cut(data, randomness), None)
    for what, one, other in zip(("output", "state", "log", "queues"), whole, in_pieces, strict=True):
        if one != other:
            raise Failure(f"the {what} depends on how the bytes were cut:\n  {one!r}\n  {other!r}")
    play(data, cut(data, randomness), randomness)


def watched(data: bytes, seed: int) -> str:
    """Runs a case and returns its traceback, or nothing."""

    def hang(*_: object) -> None:
        raise Failure(f"not done within {CASE_SECONDS_MAX} s")

    before = signal.signal(signal.SIGALRM, hang)
    signal.setitimer(signal.ITIMER_REAL, CASE_SECONDS_MAX)
    try:
        run_case(data, seed)
    except Exception:
        return traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return ""


def memory_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def keep(directory: Path, data: bytes, seed: int, trace: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"case-{hashlib.sha256(data).hexdigest()[:12]}.json"
    path.write_text(json.dumps({"seed": seed, "data": data.hex(), "traceback": trace.splitlines()}, indent=1))
    return path


def fuzz(seed: int, seconds: float, cases: int, directory: Path, failures_max: int = 1) -> tuple[int, list[Path]]:
    """Returns how many cases were run, and files of those that failed, one for each last line of a traceback."""
    deadline = time.monotonic() + seconds
    done = 0
    failures: dict[str, Path] = {}
    while time.monotonic() < deadline and done < cases and len(failures) < failures_max:
        case_seed = seed * 1_000_003 + done
        data = make_case(case_seed)
        trace = watched(data, case_seed)
        done += 1
        if trace:
            kind = " | ".join([*trace.splitlines()[-3:-1], trace.splitlines()[-1][:60]])
            if kind not in failures:
                failures[kind] = keep(directory, data, case_seed, trace)
                print(f"case {done} fails:\n{trace[-3000:]}\n  kept in {failures[kind]}", file=sys.stderr)
    if memory_bytes() > MEMORY_BYTES_MAX:
        raise Failure(f"{memory_bytes() // 1024**2} MiB of memory")
    return done, list(failures.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--cases", type=int, default=sys.maxsize, help="at most so many")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**9))
    parser.add_argument("--failures", type=int, default=5, help="stop after so many different ones")
    parser.add_argument("--case", type=Path, help="a file of a case that failed")
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()) / "pabal-fuzz")
    options = parser.parse_args()
    if options.case:
        kept = json.loads(options.case.read_text())
        trace = watched(bytes.fromhex(kept["data"]), kept["seed"])
        print(trace or "this case passes")
        return bool(trace)
    print(f"seed {options.seed}", flush=True)
    begun = time.monotonic()
    done, failures = fuzz(options.seed, options.seconds, options.cases, options.directory, options.failures)
    print(
        f"{done} cases in {time.monotonic() - begun:.0f} s, {len(failures)} different failures, "
        f"{memory_bytes() // 1024**2} MiB of memory at most"
    )
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
