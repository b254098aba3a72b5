"""An AMQP 0-9-1 client of the simulation: a codec over `pabal.wire`, and what one connection knows."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from struct import Struct
from typing import TYPE_CHECKING, Any, NamedTuple

from simulated_copies import DEAD, Copy, Violation
from simulated_transactions import Attempt, Settled

from pabal.session.amqp091.connection import Amqp091Session
from pabal.wire.amqp091 import methods as m
from pabal.wire.amqp091.content import build, decode_properties, encode_properties, property_bytes
from pabal.wire.amqp091.errors import PRECONDITION_FAILED

if TYPE_CHECKING:
    from simulated_world import World

FRAME_BYTES_MAX = 4096
CHANNEL = 1
HANDSHAKE = b"".join(
    (
        m.PROTOCOL_HEADER,
        m.encode_method(
            0,
            m.CONNECTION_START_OK,
            {"capabilities": {"consumer_cancel_notify": True}},
            "PLAIN",
            b"\0guest\0guest",
            "en_US",
        ),
        m.encode_method(0, m.CONNECTION_TUNE_OK, 10, FRAME_BYTES_MAX, 0),
        m.encode_method(0, m.CONNECTION_OPEN, "/"),
        m.encode_method(CHANNEL, m.CHANNEL_OPEN),
    )
)
_HEAD = Struct(">BHI")
_KEY = Struct(">I")
_BODY_BYTES = Struct(">Q")
_QUIET = {m.CONNECTION_START.key, m.CONNECTION_TUNE.key, m.CONNECTION_OPEN_OK.key, m.CHANNEL_OPEN_OK.key}
_FAULTS = {m.CONNECTION_CLOSE.key, m.CHANNEL_CLOSE.key, m.BASIC_RETURN.key}


@cache
def properties(persistent: bool, expiration: str | None, priority: int, delay_ms: int) -> bytes:
    return encode_properties(
        {
            "delivery_mode": 2 if persistent else 1,
            "expiration": expiration,
            "priority": priority or None,
            "headers": {"h": "x", "x-delay": delay_ms} if delay_ms else {"h": "x"},
        }
    )


class Outgoing(NamedTuple):
    """A message to be published. `queues`: those it must be routed to."""

    seq: int
    queues: list[str]
    persistent: bool
    expiration: str | None
    priority: int
    delay_ms: int


class Delivery:
    """A message this client holds. `queue`: where it came from; `until_ms`: the lease's end, None for none."""

    __slots__ = ("copy", "queue", "until_ms")

    def __init__(self, copy: Copy, queue: str, until_ms: int | None) -> None:
        self.copy = copy
        self.queue = queue
        self.until_ms = until_ms


class Client:
    """`held`: deliveries by tag, not settled. `published`: copies of each message by sequence number.
    `replies`: methods the broker answered with, but for those below. `temporary`: it is there for one thing only.
    `outgoing`, `settling`: what its open transaction holds. `attempts`: those it wants committed, not answered."""

    def __init__(self, world: World, name: str, temporary: bool = False) -> None:
        self.world = world
        self.name = name
        self.temporary = temporary
        self.confirming = False
        self.transacting = False
        self.stalled = False
        self.leaving = False
        self.closed = False
        self.held: dict[int, Delivery] = {}
        self.published: list[list[Copy]] = []
        self.replies: list[m.Method] = []
        self.consuming: dict[str, tuple[str, bool]] = {}
        self.cancelled: set[str] = set()
        self.outgoing: list[Outgoing] = []
        self.settling: list[tuple[int, Delivery, str, bool]] = []
        self.attempts: list[Attempt] = []
        self.getting: list[tuple[str, bool]] = []
        self.seq = 0
        self.waiting = bytearray()
        self._waiting_at = 0
        self._effects: list[tuple[int, Callable[[], None]]] = []
        self._first_unconfirmed = 1
        self._settles: list[tuple[int, Copy]] = []  # how much was published before it, and what it settled
        self.session: Amqp091Session = world.make_session(self)
        self.send(HANDSHAKE)

    # --- Sending --------------------------------------------------------------------------------------------

    def send(self, data: bytes, effect: Callable[[], None] | None = None) -> None:
        """To be sent; `effect` is called when the last byte has been."""
        self.waiting += data
        if effect is not None:
            self._effects.append((self._waiting_at + len(self.waiting), effect))

    def call(self, method: m.Method, *arguments: object, effect: Callable[[], None] | None = None) -> None:
        self.send(m.encode_method(CHANNEL, method, *arguments), effect)

    def feed(self, count: int | None = None) -> None:
        """The broker reads `count` bytes of what was sent, or all."""
        data = bytes(self.waiting if count is None else self.waiting[:count])
        del self.waiting[: len(data)]
        self._waiting_at += len(data)
        while self._effects and self._effects[0][0] <= self._waiting_at:
            self._effects.pop(0)[1]()
        if data and not self.closed:
            self.session.receive_data(data)

    def confirm_select(self) -> None:
        self.confirming = True
        self.call(m.CONFIRM_SELECT, True)

    def publish(
        self,
        exchange: str,
        key: str,
        queues: list[str],
        persistent: bool,
        expiration: str | None = None,
        padding: int = 0,
        priority: int = 0,
        delay_ms: int = 0,
    ) -> None:
        """`queues`: those it must be routed to."""
        self.seq += 1
        outgoing = Outgoing(self.seq, queues, persistent, expiration, priority, delay_ms)
        body = b"id=%s-%06d;" % (self.name.encode(), self.seq) + bytes(padding)

        def sent() -> None:
            if not self.leaving:
                copies = self._sent(outgoing, not self.session.blocked)
                if self.confirming:
                    self.published.append(copies)

        frame = m.encode_method(CHANNEL, m.BASIC_PUBLISH, exchange, key, False, False)
        content = build(properties(persistent, expiration, priority, delay_ms), body, CHANNEL, FRAME_BYTES_MAX)
        self.send(frame + content, None if self.transacting else sent)
        if self.transacting:
            self.outgoing.append(outgoing)

    def _sent(self, outgoing: Outgoing, certain: bool) -> list[Copy]:
        """The ledger's side of a publish. `certain`: the broker acts on it now."""
        seq, queues, persistent, expiration, priority, delay_ms = outgoing
        copies = self.world.ledger.sent(self.name, seq, queues, persistent, priority)
        if expiration is not None:
            self.world.ledger.may_expire(copies)
        if delay_ms:
            for copy in copies:
                copy.is_delayed(self.world.now_ms + delay_ms, certain)
        return copies

    def consume(
        self, queue: str, tag: str, no_ack: bool, prefetch: int, shared: bool, priority: int | None = None
    ) -> None:
        self.call(m.BASIC_QOS, 0, prefetch, shared)
        self.consuming[tag] = (queue, no_ack)
        arguments = {} if priority is None else {"x-priority": priority}
        self.call(m.BASIC_CONSUME, queue, tag, False, no_ack, False, True, arguments)

    def cancel(self, tag: str) -> None:
        """Deliveries may still be under way: it stays in `consuming`."""
        self.call(m.BASIC_CANCEL, tag, True, effect=lambda: self.cancelled.add(tag))

    def is_gone(self, tag: str) -> bool:
        """The broker should know that this consumer wants nothing any more."""
        return self.closed or self.leaving or tag in self.cancelled or tag not in self.consuming

    def get(self, queue: str, no_ack: bool) -> None:
        self.getting.append((queue, no_ack))
        self.call(m.BASIC_GET, queue, no_ack)

    def close(self) -> None:
        def sent() -> None:
            self.leaving = True

        self.send(m.encode_method(0, m.CONNECTION_CLOSE, 200, "bye", 0, 0), sent)

    def recover(self) -> None:
        """All that it holds goes back."""
        self.held.clear()
        self.call(m.BASIC_RECOVER, True)

    def settle(self, tag: int, kind: str, multiple: bool) -> None:
        """`kind`: ack, reject, requeue."""
        tags = [t for t in self.held if t <= tag] if multiple else [tag]
        deliveries = [self.held.pop(t) for t in tags]

        def sent() -> None:
            if not self.transacting:
                for delivery in deliveries:
                    self._settled(delivery, kind, failed=not multiple)

        if self.transacting:
            failed = not multiple
            self.settling += [(t, delivery, kind, failed) for t, delivery in zip(tags, deliveries, strict=True)]
        if kind == "ack":
            self.call(m.BASIC_ACK, tag, multiple, effect=sent)
        elif multiple:
            self.call(m.BASIC_NACK, tag, True, kind == "requeue", effect=sent)
        else:
            self.call(m.BASIC_REJECT, tag, kind == "requeue", effect=sent)

    def _settled(self, delivery: Delivery, kind: str, failed: bool) -> None:
        """The ledger's side of a settle: whether it ends the copy, and whether that is certain. `failed`: it comes
        back by basic.reject, which says that it was tried."""
        copy = delivery.copy
        if self.leaving:
            return  # nobody reads it any more
        if kind == "requeue" and not self._is_late(delivery) and not self.session.blocked:
            self.world.ledger.returned(copy, delivery.queue, failed, self.world.now_ms)
        if kind == "requeue" or (kind == "reject" and delivery.queue != DEAD and copy.spec.dead_letters):
            return
        if self._is_late(delivery) or self.session.blocked:
            copy.may_go = True  # the lease may have run out when this is read: then it is ignored
            return
        self.world.ledger.settled(copy)
        if self.confirming:
            self._settles.append((len(self.published), copy))

    def _is_late(self, delivery: Delivery) -> bool:
        return delivery.until_ms is not None and self.world.now_ms >= delivery.until_ms

    def lost(self) -> None:
        """The broker sees that the connection is gone: what the client has not settled counts as tried in vain."""
        if self.leaving:
            return  # it has known that for a while
        for delivery in (*self.held.values(), *(delivery for _, delivery, _, _ in self.settling)):
            if not self._is_late(delivery):
                self.world.ledger.returned(delivery.copy, delivery.queue, True, self.world.now_ms)

    # --- Transactions ---------------------------------------------------------------------------------------

    def transact(self) -> None:
        self.transacting = True
        self.call(m.TX_SELECT)

    def commit(self) -> None:
        """Until the broker has read all of this, nothing of the transaction may be seen anywhere."""
        outgoing, self.outgoing = self.outgoing, []
        settling, self.settling = self.settling, []
        attempt = Attempt(f"the transaction of {self.name} up to {self.seq}")
        alone = not self.attempts
        self.attempts.append(attempt)

        def sent() -> None:
            if self.leaving:
                return
            certain = alone and not self.session.blocked
            for message in outgoing:
                attempt.published += self._sent(message, certain)
            for _, delivery, kind, failed in settling:
                if kind != "requeue":
                    attempt.settled.append(Settled(delivery.copy, delivery.queue, kind))
                    attempt.settled[-1].sure = not self._is_late(delivery)
                elif not self._is_late(delivery):
                    attempt.returned.append((delivery.copy, delivery.queue, failed))
            self.world.ledger.transactions.begun(attempt, certain, self.world.now_ms)

        self.call(m.TX_COMMIT, effect=sent)

    def roll_back(self) -> None:
        """What it settled is its own again."""
        self.held |= {tag: delivery for tag, delivery, _, _ in self.settling}
        self.held = dict(sorted(self.held.items()))
        self.outgoing, self.settling = [], []
        self.call(m.TX_ROLLBACK)

    def _refused(self, text: str) -> None:
        """The channel was closed: a transaction could not be done. Others behind it were never looked at."""
        for attempt in self.attempts:
            self.world.ledger.transactions.refused(attempt)
        attempt, self.attempts = self.attempts[0], []
        full = any(copy.spec.refuses for copy in attempt.published)
        late = any(settled.copy.spec.lease_ms is not None for settled in attempt.settled)
        if not ("is full" in text and full) and not ("ran out" in text and late):
            raise Violation(f"{attempt.name} was refused in vain: {text}")
        self.closed = True  # and goes

    @property
    def unconfirmed(self) -> int:
        """How many messages the broker has had and not confirmed."""
        return len(self.published) + 1 - self._first_unconfirmed

    # --- Receiving ------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """See turn.Writer: what the session wrote reaches the client at once."""
        session = self.session
        data = b"".join(session.output.take(self.world.now_ms))
        position = 0
        while position < len(data):
            position = self._receive(data, position)
        if session.closed:
            self.closed = True
        elif not self.stalled and session.output.drained():
            self.read_again()

    def stall(self) -> None:
        """The client does not read: the server has more to write than the socket takes."""
        self.stalled = True
        self.session.output.congested = True

    def read_again(self) -> None:
        self.stalled = False
        self.session.unblock()
        self.world.turn_open = True

    def _receive(self, data: bytes, position: int) -> int:
        kind, channel, size = _HEAD.unpack_from(data, position)
        end: int = position + size + 8
        if data[end - 1] != m.FRAME_END or size + 8 > FRAME_BYTES_MAX:
            raise Violation(f"a bad frame: {data[position:end]!r}")
        if kind == m.FRAME_HEARTBEAT:
            return end
        key: int = _KEY.unpack_from(data, position + 7)[0]
        method = m.METHODS[key]
        arguments: Any = m.decode_arguments(method, data[position + 7 : end - 1])
        if method.has_content:
            start = end
            left: int = _BODY_BYTES.unpack_from(data, start + 11)[0]
            end = start + _HEAD.unpack_from(data, start)[2] + 8
            while left:
                _, body_channel, size = _HEAD.unpack_from(data, end)
                if body_channel != channel or size + 8 > FRAME_BYTES_MAX:
                    raise Violation(f"a bad body frame: {data[end : end + size + 8]!r}")
                left -= size
                end += size + 8
            self._delivered(method, arguments, data[start:end])
        elif key in (m.BASIC_ACK.key, m.BASIC_NACK.key):
            self._confirmed(arguments[0], arguments[1], key == m.BASIC_ACK.key)
        elif key == m.BASIC_CANCEL.key:
            self.consuming.pop(arguments[0], None)
        elif key == m.CHANNEL_CLOSE.key and self.attempts and arguments[0] == PRECONDITION_FAILED:
            self._refused(arguments[1])
        elif key == m.TX_COMMIT_OK.key:
            if self.world.failed:
                raise Violation(f"{self.name} got tx.commit-ok after the commit failed")
            self._note("gets tx.commit-ok")
            self.world.ledger.transactions.answered(self.attempts.pop(0), self.world.disk)
        elif key in _FAULTS:
            raise Violation(f"{self.name} got {method.name}: {arguments}")
        elif key == m.BASIC_RECOVER_OK.key:
            self.held.clear()  # what was on its way when the broker took all back
        elif key == m.BASIC_GET_EMPTY.key:
            self.getting.pop(0)
        elif key not in _QUIET:
            self.replies.append(method)
        return end

    def _delivered(self, method: m.Method, arguments: Any, content: bytes) -> None:
        if method is m.BASIC_DELIVER:
            consumer, tag, redelivered, _, _ = arguments
            queue, no_ack = self.consuming[consumer]
        else:
            tag, redelivered, _, _, _ = arguments
            consumer = "get"
            queue, no_ack = self.getting.pop(0)
        ledger = self.world.ledger
        copy = ledger.delivered((self.name, consumer), queue, content, redelivered, self.world.now_ms)
        self._note(consumer, "gets", copy.name, "as", tag, "again" if redelivered else "")
        spec = ledger.specs[queue]
        if spec.limit is not None:
            self._check_attempts(copy, spec.limit, content)
        if no_ack:
            ledger.settled(copy)
        else:
            until_ms = None if spec.lease_ms is None else self.world.now_ms + spec.lease_ms
            self.held[tag] = Delivery(copy, queue, until_ms)

    def _note(self, *what: object) -> None:
        if self.world.note is not None:
            self.world.note("   ", self.name, *what)

    def _check_attempts(self, copy: Copy, limit: int, content: bytes) -> None:
        headers: Any = decode_properties(property_bytes(content)).get("headers", {})
        attempts = headers.get("x-delivery-count", 0)
        if attempts > limit:
            raise Violation(f"{copy.name} is delivered after {attempts} attempts, and {limit} is the limit")
        self.world.ledger.counted.append((copy, attempts))

    def _confirmed(self, upto: int, multiple: bool, taken: bool) -> None:
        if self.world.failed:
            raise Violation(f"{self.name} got a confirm after the commit failed")
        self._note("gets", "ack" if taken else "nack", upto, "and before" if multiple else "")
        first = self._first_unconfirmed if multiple else upto
        if first <= self._first_unconfirmed:
            self._first_unconfirmed = max(self._first_unconfirmed, upto + 1)
        copies: list[Copy] = []
        for seq in range(first, upto + 1):
            copies += self.published[seq - 1]
            self.published[seq - 1] = []
        if taken:
            self.world.ledger.confirmed(copies, self.world.disk)
            durable = [copy for before, copy in self._settles if before < upto]
            if durable:
                self._settles = [mark for mark in self._settles if mark[0] >= upto]
                for copy in durable:
                    self.world.ledger.settle_is_durable(copy)
        elif len(copies) == 1:
            self.world.ledger.refused(copies[0])
