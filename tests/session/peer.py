"""A session of AMQP 0-9-1 without socket or server: frames in and out, and a clock that the test turns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pika import frame, spec

from pabal.broker.access import Access
from pabal.broker.broker import Broker
from pabal.model.definitions import UserDefinition
from pabal.model.errors import StoreError
from pabal.model.passwords import hash_password
from pabal.server.turn import Turn
from pabal.session.amqp091.connection import Amqp091Session
from pabal.session.amqp091.container import Amqp091Container
from pabal.session.amqp091.settings import SessionSettings
from pabal.store.memory import MemoryStore

START_MS = 1_700_000_000_000
HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"
CONTAINER = Amqp091Container()

Finish = Callable[[], None]
Done = Callable[[StoreError | None], None]


class World:
    """A broker in memory. `slow`: its commits end when the test says so."""

    def __init__(self, settings: SessionSettings | None = None, slow: bool = False) -> None:
        self.settings = settings or SessionSettings()
        self.slow = slow
        self.now_ms = START_MS
        self.broker = Broker(MemoryStore({CONTAINER.code: CONTAINER}), START_MS, lambda: "token")
        self.broker.add_vhost("/")
        self.broker.accounts.put_user(UserDefinition("guest", hash_password("guest", b"salt", 16), ["*"]))
        self.access = Access(self.broker, b"key")
        self.commits: list[tuple[Finish, Done]] = []
        self.turn = Turn(self.broker, self.broker.store, self._run_commit, self._fatal)
        self.peers: list[Peer] = []
        self.turn.end()
        if slow:
            self.end_commit()

    def _run_commit(self, finish: Finish, done: Done) -> None:
        self.commits.append((finish, done))
        if not self.slow:
            self.end_commit()

    def _fatal(self, error: StoreError) -> None:
        raise error

    def end_commit(self) -> None:
        finish, done = self.commits.pop(0)
        finish()
        done(None)

    def alarm(self, *names: str) -> None:
        """There is too little of these from now on."""
        self.broker.alarms = names
        for peer in self.peers:
            peer.session.heed_alarms()
        self.turn.end()

    def advance(self, seconds: float) -> None:
        """Time passes; as in the server, sessions look at the clock once a second."""
        end_ms = self.now_ms + int(seconds * 1000)
        while self.now_ms < end_ms:
            self.now_ms = min(self.now_ms + 1000, end_ms)
            self.broker.begin(self.now_ms)
            for peer in self.peers:
                peer.session.tick(self.now_ms)
            self.turn.end()


class Peer:
    """One connection. `log`: what its session had to say for the log."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.log: list[str] = []
        self.buffer = b""
        self.session = Amqp091Session(
            world.broker,
            world.access,
            world.settings,
            CONTAINER,
            lambda: world.turn.writes(self),
            self.log.append,
            True,
        )
        world.peers.append(self)

    def flush(self) -> None:
        """See turn.Writer."""
        self.buffer += b"".join(self.session.output.take(self.world.now_ms))
        if self.session.output.drained():
            self.session.unblock()

    def send_bytes(self, data: bytes) -> None:
        self.session.receive_data(data)
        self.world.turn.end()

    def send(self, channel: int, *methods: Any) -> None:
        self.send_bytes(b"".join(frame.Method(channel, method).marshal() for method in methods))

    def publish(self, queue: str, *bodies: bytes, channel: int = 1) -> None:
        method = spec.Basic.Publish(exchange="", routing_key=queue)
        properties = spec.BasicProperties(delivery_mode=2)
        self.send_bytes(b"".join(self.message(method, properties, body, channel) for body in bodies))

    @staticmethod
    def message(method: Any, properties: Any, body: bytes, channel: int = 1) -> bytes:
        """The frames of one message."""
        header = frame.Header(channel, len(body), properties)
        return frame.Method(channel, method).marshal() + header.marshal() + frame.Body(channel, body).marshal()

    def received(self) -> list[Any]:
        """What came since the last call: methods, bodies as bytes, "heartbeat"; content headers are left out."""
        found: list[Any] = []
        while self.buffer:
            used, decoded = frame.decode_frame(self.buffer)
            assert decoded is not None, self.buffer
            self.buffer = self.buffer[used:]
            if isinstance(decoded, frame.Heartbeat):
                found.append("heartbeat")
            elif isinstance(decoded, frame.Body):
                found.append(decoded.fragment)
            elif isinstance(decoded, frame.Method):
                found.append(decoded.method)
        return found

    def names(self) -> list[str]:
        """The same, as names of methods, sizes of bodies and "heartbeat"."""
        return [
            each if isinstance(each, str) else str(len(each)) if isinstance(each, bytes) else type(each).__name__
            for each in self.received()
        ]

    def handshake(
        self,
        channel_max: int = 0,
        frame_max: int = 0,
        heartbeat: int = 0,
        properties: dict[str, Any] | None = None,
        **capabilities: bool,
    ) -> None:
        """Up to connection.open-ok; capabilities with `_` for `.`; 0: what the server proposes."""
        settings = self.world.settings
        known = {name.replace("_", "."): value for name, value in capabilities.items()}
        table = {"capabilities": known, **(properties or {})}
        self.send_bytes(b"AMQP\x00\x00\x09\x01")
        self.send(0, spec.Connection.StartOk(table, "PLAIN", "\x00guest\x00guest", "en_US"))
        tune = spec.Connection.TuneOk(
            channel_max or settings.channel_max, frame_max or settings.frame_bytes_max, heartbeat
        )
        self.send(0, tune, spec.Connection.Open("/"))
        assert self.names() == ["Start", "Tune", "OpenOk"]

    def open(self, heartbeat: int = 0, **capabilities: bool) -> Peer:
        """The handshake, and channel 1."""
        self.handshake(heartbeat=heartbeat, **capabilities)
        self.send(1, spec.Channel.Open())
        assert self.names() == ["OpenOk"]
        return self
