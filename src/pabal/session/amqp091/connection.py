"""An AMQP 0-9-1 connection: handshake, channels, errors, heartbeats, closing. Bytes in, bytes out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from pabal.broker.access import Access, Rights
from pabal.broker.broker import Broker
from pabal.broker.vhost import Vhost
from pabal.model import errors
from pabal.model.limits import (
    ASSEMBLY_MESSAGES_MAX,
    CLOSE_SECONDS_MAX,
    HANDSHAKE_SECONDS_MAX,
)
from pabal.model.message import Container
from pabal.session.amqp091.authentication import Login
from pabal.session.amqp091.channel import Channel
from pabal.session.amqp091.client import Amqp091Client
from pabal.session.amqp091.faults import CHANNEL_CODES, CONNECTION_CODES, ChannelFault
from pabal.session.amqp091.handshake import STATES
from pabal.session.amqp091.output import Output, nothing
from pabal.session.amqp091.publishing import Target
from pabal.session.amqp091.settings import SessionSettings
from pabal.session.amqp091.trace import Trace
from pabal.wire.amqp091 import errors as codes
from pabal.wire.amqp091 import methods as m
from pabal.wire.amqp091.errors import WireError, reply_text
from pabal.wire.amqp091.frames import Scanner

_CLOSE_OK_FRAME: Final = m.encode_method(0, m.CONNECTION_CLOSE_OK)


class Amqp091Session:
    """One connection. The server gives it `receive_data`, and takes its `output` whenever `on_output` was called.

    `closed`: nothing more is to be read; once the output is written, the socket is to be closed.
    `log`: called with one line an event, never a secret. `refusal`: why this connection must not be opened. `peer`:
    its address, `loopback` whether that is on this machine. `certificate_name`: the name in the certificate that it
    has shown and that was verified, in which it may log in (EXTERNAL); "" for none. `rights`: once the vhost is open.
    """

    __deletable__ = ("_login", "client")
    __slots__ = (
        "_begun_ms",
        "_closing_channels",
        "_gone",
        "_header",
        "_held",
        "_login",
        "_lost_track",
        "_received_ms",
        "_scanner",
        "alarmed",
        "broker",
        "channel_max",
        "channels",
        "client",
        "container",
        "frame_bytes_max",
        "heartbeat_ms",
        "log",
        "output",
        "refusal",
        "rights",
        "settings",
        "state",
        "targets",
        "user",
        "vhost",
        "wants_blocked",
        "wants_cancel_notify",
    )

    def __init__(
        self,
        broker: Broker,
        access: Access,
        settings: SessionSettings,
        container: Container,
        on_output: Callable[[], None],
        log: Callable[[str], None],
        loopback: bool,
        peer: str = "",
        certificate_name: str = "",
    ) -> None:
        self.broker = broker
        self.container = container
        self.client = Amqp091Client(self)
        self.vhost: Vhost | None = None
        self.rights: Rights | None = None
        self.user = ""
        self.state = "header"
        self.frame_bytes_max = settings.frame_bytes_max
        self.wants_blocked = self.wants_cancel_notify = False
        self.refusal = ""
        self.targets: dict[bytes, Target] = {}
        """What basic.publish frames say, of all channels: see publishing."""
        self._gone = False
        self._held = False  # until it is known who the peer is
        self._login = Login(self, access, loopback, peer, certificate_name)
        self.alarmed = False  # it published during an alarm, and is not read until that is over
        self.settings = settings
        self.log = log
        self._header = b""
        self.channels: dict[int, Channel] = {}
        self._closing_channels: dict[int, None] = {}  # an empty set takes three times as much
        self.channel_max = settings.channel_max
        self.heartbeat_ms = 0
        self._begun_ms = broker.now_ms
        self._received_ms = broker.now_ms
        self._lost_track = False  # where frames begin is not known any more: only the end of the stream counts
        self._scanner = Scanner(
            self,
            settings.compatibility.handshake_frame_bytes_max or settings.frame_bytes_max,
            settings.message_bytes_max,
            ASSEMBLY_MESSAGES_MAX * settings.message_bytes_max,
        )
        self.output = Output(broker, self._scanner, on_output, self._go_on)

    @property
    def closed(self) -> bool:
        return self.state == "closed"

    # --- Back-pressure --------------------------------------------------------------------------------------

    @property
    def blocked(self) -> bool:
        """Nothing more is to be read: an answer waits for the disk, or answers for the peer to read them, or what the
        peer publishes for an alarm to end."""
        return self._scanner.paused

    def unblock(self) -> None:
        """The peer has read its output: scan on, and deliver again."""
        self.output.reset()
        self._go_on()
        if self.output.congested:
            self.output.congested = False
            for channel in self.channels.values():
                for consumer in channel.consumers.values():
                    consumer.queue.schedule()

    def _go_on(self) -> None:
        output = self.output
        held = output.awaits_commit or output.stalled or self.alarmed or self._held
        if self._scanner.paused and not held and self.state != "closed":
            self._scanner.paused = False
            self._scan(b"")

    def hold(self) -> None:
        """Nothing more is taken from the peer until `resume`."""
        self._held = True
        self._scanner.paused = True

    def resume(self) -> None:
        """What was waited for is there, and acted on. The peer is read on once the output is sent: see `unblock`."""
        if self._held:
            self._held = False
            self.output.congested = True
            self.output.wake()

    def heed_alarms(self) -> None:
        """The broker's alarms have changed. Like RabbitMQ it blocks only who publishes meanwhile, and does not take
        what was published; it tells the peers that asked to be told (connection.blocked)."""
        if self.state != "open":
            return
        alarms = self.broker.alarms
        self._scanner.hold_publishes(bool(alarms))
        if self.alarmed and not alarms:
            self.alarmed = False
            if self.wants_blocked:
                self.output.write(m.encode_method(0, m.CONNECTION_UNBLOCKED))
            self._go_on()

    def on_publish_held(self) -> None:
        """See wire.frames.Receiver."""
        self.alarmed = True
        if self.wants_blocked:
            reason = "low on " + " & ".join(self.broker.alarms)
            self.output.write(m.encode_method(0, m.CONNECTION_BLOCKED, reason))

    def excuse_silence(self) -> None:
        """The peer was not read, so that it cannot be blamed for saying nothing."""
        self._received_ms = self.broker.now_ms

    # --- Input ----------------------------------------------------------------------------------------------

    def receive_data(self, data: bytes) -> None:
        """Takes what the peer sent and acts on it."""
        if self.state == "closed":
            return
        self._received_ms = self.broker.now_ms
        if self.state == "header":
            self._header += data
            if not any(known.startswith(self._header[:8]) for known in m.PROTOCOL_HEADERS):
                self._refuse_protocol()
                return
            if len(self._header) < 8:
                return
            data, self._header = self._header[8:], b""
            self._login.start()
        self._scan(data)

    def begin_trace(self, trace: Trace) -> None:
        """Someone wants to see the frames from now on; what was received and not acted on yet is among them."""
        trace.begin(self.state != "header", self._unread)
        trace.state(self.state)

    def _unread(self) -> bytes | None:
        if self._lost_track:
            return None
        return self._header if self.state == "header" else self._scanner.unscanned()

    def _refuse_protocol(self) -> None:
        """§4.2.2: answer with the header of the protocol that is spoken here, and close."""
        self.log("refused: the first bytes are not AMQP 0-9-1")
        self.output.write(m.PROTOCOL_HEADER)
        self.state = "closed"

    def _scan(self, data: bytes) -> None:
        while self.state != "closed":
            if self._lost_track:
                if data.endswith(_CLOSE_OK_FRAME):
                    self.end()
                return
            try:
                self._scanner.receive(data)
                return
            except WireError as error:
                self._fail(error)
                self._lost_track = error.code in (codes.FRAME_ERROR, codes.RESOURCE_ERROR)
                data = b""

    def on_method(self, channel: int, method: m.Method, payload: bytes) -> None:
        """See wire.frames.Receiver."""
        try:
            self._act(channel, method, payload)
        except WireError as error:
            if not error.class_id:
                error.class_id, error.method_id = method.class_id, method.method_id
            if error.code == codes.SYNTAX_ERROR:
                error.code = codes.FRAME_ERROR  # what RabbitMQ says of arguments it cannot read
            raise

    def _act(self, channel: int, method: m.Method, payload: bytes) -> None:
        arguments = m.decode_get(payload) if method is m.BASIC_GET else m.decode_arguments(method, payload)
        if channel == 0:
            self._on_connection_method(method, arguments)
        elif self.state != "open":
            raise WireError(codes.COMMAND_INVALID, f"{method.name} before the connection is open")
        elif method.class_id == m.CONNECTION_CLOSE.class_id:
            raise WireError(codes.COMMAND_INVALID, "unimplemented method")
        elif method.class_id == m.CHANNEL_OPEN.class_id and method is not m.CHANNEL_FLOW:
            self._on_channel_method(channel, method, arguments)
        else:
            open_channel = self._channel(channel, method)
            if open_channel is not None:
                self._call(open_channel, method, lambda c: c.call(method, arguments))

    def on_publish(self, channel: int, frame: bytes, contents: list[bytes], content_bytes: int) -> None:
        """See wire.frames.Receiver."""
        self._publish(channel, lambda c: c.publisher.publish(frame, contents, content_bytes))

    def on_publish_unlike(self, channel: int, frames: list[bytes], contents: list[bytes]) -> None:
        """See wire.frames.Receiver."""
        self._publish(channel, lambda c: c.publisher.publish_unlike(frames, contents))

    def _publish(self, number: int, action: Callable[[Channel], None]) -> None:
        channel = self._channel(number, m.BASIC_PUBLISH)
        if channel is not None:
            try:
                self._call(channel, m.BASIC_PUBLISH, action)
            except WireError as error:
                error.class_id, error.method_id = m.BASIC_PUBLISH.class_id, m.BASIC_PUBLISH.method_id
                raise

    def on_acks(self, channel: int, tags: list[int]) -> None:
        """See wire.frames.Receiver."""
        open_channel = self._channel(channel, m.BASIC_ACK)
        if open_channel is not None:
            self._call(open_channel, m.BASIC_ACK, lambda c: c.ack(tags))

    def on_ack_multiple(self, channel: int, tag: int) -> None:
        """See wire.frames.Receiver."""
        open_channel = self._channel(channel, m.BASIC_ACK)
        if open_channel is not None:
            self._call(open_channel, m.BASIC_ACK, lambda c: c.ack_multiple(tag))

    def on_oversized(self, channel: int, body_bytes: int) -> None:
        """See wire.frames.Receiver. RabbitMQ's answer: the channel is closed with 406."""
        open_channel = self._channel(channel, m.BASIC_PUBLISH)
        if open_channel is not None:
            fault = ChannelFault(
                codes.PRECONDITION_FAILED,
                f"message size {body_bytes} is larger than configured max size {self.settings.message_bytes_max}",
            )
            self._fail_channel(open_channel, m.BASIC_PUBLISH, fault)

    def _call(self, channel: Channel, method: m.Method, action: Callable[[Channel], None]) -> None:
        try:
            action(channel)
        except (errors.BrokerError, ChannelFault) as error:
            self._fail_channel(channel, method, error)

    # --- The connection's own methods -----------------------------------------------------------------------

    def _on_connection_method(self, method: m.Method, arguments: tuple[Any, ...]) -> None:
        if method.key not in STATES[self.state]:
            state = "running" if self.state == "open" else self.state
            raise WireError(codes.CHANNEL_ERROR, f"unexpected method in connection state {state}")
        if method is m.CONNECTION_START_OK:
            self._login.start_ok(*arguments)
        elif method is m.CONNECTION_TUNE_OK:
            self._login.tune_ok(*arguments)
        elif method is m.CONNECTION_OPEN:
            self._login.open(*arguments)
        elif method is m.CONNECTION_UPDATE_SECRET:
            self._login.update_secret(*arguments)
        elif method is m.CONNECTION_CLOSE:
            if self.state != "closing":
                self.log("closed by the client")
            self.output.write(m.encode_method(0, m.CONNECTION_CLOSE_OK))
            self.end()
        else:  # close-ok
            self.end()

    def tune(self, channel_max: int, frame_bytes_max: int, heartbeat_seconds: int) -> None:
        """What was agreed on."""
        self.channel_max = channel_max
        self.frame_bytes_max = self._scanner.frame_bytes_max = frame_bytes_max
        self.heartbeat_ms = heartbeat_seconds * 1000

    # --- Channels -------------------------------------------------------------------------------------------

    def _on_channel_method(self, number: int, method: m.Method, arguments: tuple[Any, ...]) -> None:
        if number in self._closing_channels:
            if method is m.CHANNEL_OPEN:
                raise WireError(codes.CHANNEL_ERROR, "second 'channel.open' seen")
            if method is m.CHANNEL_CLOSE:
                self.output.write(m.encode_method(number, m.CHANNEL_CLOSE_OK))
            if method is m.CHANNEL_CLOSE_OK:
                self._closing_channels.pop(number, None)
                self._scanner.forget_channel(number)
        elif method is m.CHANNEL_OPEN:
            if number in self.channels:
                raise WireError(codes.CHANNEL_ERROR, "second 'channel.open' seen")
            if len(self.channels) + len(self._closing_channels) >= self.channel_max:
                text = (
                    f"number of channels opened ({len(self.channels)}) has reached the negotiated "
                    f"channel_max ({self.channel_max})"
                )
                self._fail(WireError(codes.NOT_ALLOWED, text))
                return
            assert self.rights is not None
            try:
                self.rights.open_channel()
            except errors.NotAllowed as error:
                raise WireError(codes.NOT_ALLOWED, str(error)) from None
            self.channels[number] = Channel(self, number)
            self.output.write(m.encode_method(number, m.CHANNEL_OPEN_OK))
        elif method is m.CHANNEL_CLOSE:
            channel = self._channel(number, method)
            if channel is not None:
                self._forget(number)
                channel.close()
                self.output.write(m.encode_method(number, m.CHANNEL_CLOSE_OK))
        elif method is m.CHANNEL_CLOSE_OK:
            self._channel(number, method)

    def _channel(self, number: int, method: m.Method) -> Channel | None:
        """The open channel; None when what comes on it is to be ignored, as it or the connection is closing."""
        channel = self.channels.get(number)
        if channel is not None and self.state == "open":
            return channel
        if self.state in ("closing", "closed") or number in self._closing_channels:
            return None
        if self.state != "open":
            raise WireError(codes.COMMAND_INVALID, f"{method.name} before the connection is open")
        raise WireError(codes.CHANNEL_ERROR, "expected 'channel.open'", method.class_id, method.method_id)

    def _forget(self, number: int) -> None:
        """The channel is open no more."""
        if self.channels.pop(number, None) is not None and self.rights is not None:
            self.rights.channels -= 1

    # --- Errors and the end ---------------------------------------------------------------------------------

    def _fail_channel(self, channel: Channel, method: m.Method, error: errors.BrokerError | ChannelFault) -> None:
        """Closes the channel with the error's code; an error of the worse kind closes the connection."""
        code = error.code if isinstance(error, ChannelFault) else CHANNEL_CODES.get(type(error), 0)
        if not code:
            raise WireError(CONNECTION_CODES[type(error)], str(error), method.class_id, method.method_id)
        text = reply_text(code, str(error))
        self.log(f"channel {channel.number} closed: {text}")
        self._forget(channel.number)
        self._closing_channels[channel.number] = None
        channel.close()
        self.output.write(
            m.encode_method(channel.number, m.CHANNEL_CLOSE, code, text, method.class_id, method.method_id)
        )

    def _fail(self, error: WireError) -> None:
        """Closes the connection with the error's code, unless that is under way."""
        if self.state not in ("closing", "closed"):
            self.close_with(error)

    def close_with(self, error: WireError, why: str = "") -> None:
        """`why`: what the log says of it, if that is not what the peer is told."""
        text = reply_text(error.code, error.text)
        self.log(why or f"closed: {text}")
        self._release()
        self.state = "closing"
        self._begun_ms = self.broker.now_ms
        self.output.forget_held()
        self.alarmed = False
        self._scanner.close()
        self._scanner.paused = self.output.stalled
        self.output.write(m.encode_method(0, m.CONNECTION_CLOSE, error.code, text, error.class_id, error.method_id))

    def shut_down(self, reason: str) -> None:
        """The broker stops: closes the connection as the specification says (§1.4.2.9)."""
        if self.state == "open":
            self.close_with(WireError(codes.CONNECTION_FORCED, reason))
        elif self.state not in ("closing", "closed"):
            self.end()

    def revoke(self, reason: str) -> None:
        """Who the peer said to be is there no more, or has been for long enough."""
        if self.state == "open":
            self.close_with(WireError(codes.CONNECTION_FORCED, reason))
            self.output.wake()

    def fail_internally(self) -> None:
        """An error of ours: this connection ends, the others do not notice."""
        if not self.closed:
            self.close_with(WireError(codes.INTERNAL_ERROR, "see the broker's log"))
            self.end()

    def connection_lost(self) -> None:
        """The socket is closed, by whom it may be. Nothing refers to this session then: its memory is free."""
        self.end()
        if not self._gone:
            self._gone = True
            self._scanner.forget()
            self.output.forget()
            self.targets.clear()
            self.client.properties = {}
            self.log = nothing
            del self._login, self.client

    def end(self) -> None:
        self.state = "closed"
        self.output.forget_held()
        self._scanner.paused = True
        self._release()

    def _release(self) -> None:
        """Gives back what the connection held: consumers first, so that nothing comes back to itself. An error of
        ours on the way does not keep the rest of it."""
        channels = list(self.channels.values())
        self.channels.clear()
        steps: list[Callable[[], None]] = [channel.stop_consumers for channel in channels if channel.consumers]
        steps += [channel.close for channel in channels]
        steps.append(lambda: self.broker.release(self))
        rights, vhost = self.rights, self.vhost
        if rights is not None and vhost is not None:
            rights.channels = 0
            steps += [rights.leave, lambda: vhost.disconnect(self)]
        failure: Exception | None = None
        for step in steps:
            try:
                step()
            except Exception as error:
                if failure is None or isinstance(error, errors.StoreError):
                    failure = error
        if failure is not None:
            raise failure

    def tick(self, now_ms: int) -> None:
        """Heartbeats (§4.2.7): one is sent after half the interval without output; a peer that was silent for
        two intervals is gone, as is one that does not finish its handshake or its close in time."""
        late_ms = now_ms - self._begun_ms
        if self.state == "closing":
            if late_ms > CLOSE_SECONDS_MAX * 1000:
                self.end()
        elif self.state != "open":
            if self.state != "closed" and late_ms > HANDSHAKE_SECONDS_MAX * 1000:
                self.log(f"closed: handshake not finished within {HANDSHAKE_SECONDS_MAX} s")
                self.end()
        elif self._login.expired(now_ms):
            self.revoke("credential expired")
        elif self.heartbeat_ms:
            if self.alarmed or self.output.awaits_commit:
                self.excuse_silence()
            if now_ms - self._received_ms > 2 * self.heartbeat_ms:
                self.log(f"closed: no heartbeat within {2 * self.heartbeat_ms // 1000} s")
                self.end()
            elif now_ms - self.output.sent_ms >= self.heartbeat_ms // 2:
                self.output.write(m.HEARTBEAT_FRAME)
