"""What is to be sent to an AMQP 0-9-1 peer, and when that means that the peer is not read on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pabal.broker.broker import Broker
from pabal.model.limits import OUTPUT_BYTES_HIGH, REPLY_BYTES_MAX
from pabal.wire.amqp091.frames import Scanner
from pabal.wire.amqp091.methods import Method, encode_method


def nothing(*_: object) -> None:
    """Takes the place of what is not to be called any more."""


class Output:
    """The output of one connection. `on_output` is called when there is some, `go_on` when the peer may be read on.

    `congested`: more is waiting to be sent than the peer reads; no deliveries until the server says otherwise.
    """

    __slots__ = (
        "_broker",
        "_bytes",
        "_go_on",
        "_held",
        "_notices",
        "_on_output",
        "_pieces",
        "_reply_bytes",
        "_scanner",
        "congested",
        "sent_ms",
        "stalled",
    )

    def __init__(
        self, broker: Broker, scanner: Scanner, on_output: Callable[[], None], go_on: Callable[[], None]
    ) -> None:
        self.congested = False
        self.stalled = False
        """The peer does not read its answers: nothing more is taken from it."""
        self.sent_ms = broker.now_ms
        """When there was output last."""
        self._broker = broker
        self._scanner = scanner
        self._on_output = on_output
        self._go_on = go_on
        self._pieces: list[bytes] = []
        self._bytes = 0
        self._reply_bytes = 0
        self._held: list[bytes] = []
        self._notices: list[bytes] | None = None

    # --- In -------------------------------------------------------------------------------------------------

    def write_delivery(self, data: bytes) -> None:
        """To be sent at the end of the turn."""
        pieces = self._pieces
        if not pieces:
            self._on_output()
        pieces.append(data)
        self._bytes += len(data)
        if self._bytes > OUTPUT_BYTES_HIGH:
            self.congested = True

    def write(self, data: bytes) -> None:
        """The same for all that the peer itself causes: when it is much, nothing more is taken from the peer
        until it has read it."""
        self._reply_bytes += len(data)
        if self._reply_bytes > REPLY_BYTES_MAX and not self.stalled:
            self.stalled = True
            self._scanner.paused = True
        self.write_delivery(data)

    def write_durable(self, channel: int, method: Method, *arguments: object) -> None:
        """An answer that promises something durable: sent, and the connection read on, after the next commit."""
        frame = encode_method(channel, method, *arguments)
        if self._broker.store.journal.durable:
            self.write(frame)
            return
        self._held.append(frame)
        self._scanner.paused = True
        self._broker.await_durable(self, 0)

    def durable(self, upto: int) -> None:
        """See broker.Waiter."""
        if self._held:
            held, self._held = self._held, []
            for frame in held:
                self.write(frame)
            self._go_on()

    def write_notice(self, data: bytes) -> None:
        """Something the peer did not ask for: at once, or behind the answer that is being made."""
        if self._notices is None:
            self.write(data)
        else:
            self._notices.append(data)

    @contextmanager
    def notices_later(self) -> Iterator[None]:
        """What is written as a notice in here follows what is written as an answer."""
        self._notices = []
        try:
            yield
        finally:
            notices, self._notices = self._notices, None
            for notice in notices:
                if self._held:
                    self._held.append(notice)
                else:
                    self.write(notice)

    def wake(self) -> None:
        """Has the server look at the session at the end of the turn: what happened was not the peer's doing."""
        if not self._pieces:
            self._on_output()

    def forget_held(self) -> None:
        """The connection ends: what waits for a commit is not promised any more."""
        self._held.clear()

    def forget(self) -> None:
        """The connection is gone, and nothing more is sent."""
        self._pieces = []
        self._bytes = 0
        self._on_output = self._go_on = nothing

    # --- Out ------------------------------------------------------------------------------------------------

    def take(self, now_ms: int) -> list[bytes]:
        """What is to be sent, in order, the pieces to be joined."""
        pieces = self._pieces
        self._pieces = []
        self._bytes = 0
        if pieces:
            self.sent_ms = now_ms
        return pieces

    def drained(self) -> bool:
        """The output was written and the peer keeps up. True: there was too much of it, so the session is to be
        unblocked."""
        self._reply_bytes = 0
        return self.stalled or self.congested

    def reset(self) -> None:
        """The peer has read it."""
        self._reply_bytes = 0
        self.stalled = False

    @property
    def awaits_commit(self) -> bool:
        """An answer waits for the disk."""
        return bool(self._held)
