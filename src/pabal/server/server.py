"""The server: one event loop, its listeners, its connections, the clock, the commit thread, the way down."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

from pabal import __version__, compiled
from pabal.broker.access import Access, Principal, Refused
from pabal.broker.broker import Broker
from pabal.model.compatibility import COMPATIBILITIES
from pabal.model.errors import StoreError
from pabal.model.limits import (
    REFUSED_CONNECTIONS_MAX,
    RESERVED_FILES,
    SAMPLE_MS,
    SHUTDOWN_SECONDS_MAX,
    TURN_BYTES_BUSY_MAX,
    TURN_BYTES_CROWD_MAX,
    TURN_BYTES_MAX,
    TURN_BYTES_OVERLOADED_MAX,
    WAITING_MAX,
)
from pabal.server.admission import raise_files_limit
from pabal.server.alarms import Alarms
from pabal.server.backup import Backups
from pabal.server.commit_thread import CommitThread
from pabal.server.connection import Connection, printable
from pabal.server.garbage import Garbage
from pabal.server.http_listener import HttpListener, open_http, open_metrics
from pabal.server.listeners import Listeners
from pabal.server.measures import Measures
from pabal.server.node import ServerNode
from pabal.server.optional import open_traces, token_reader
from pabal.server.pace import Slices
from pabal.server.provision import GUEST, add_default_user, check_vhosts, provision, restart_needed
from pabal.server.resources import keep_freed_memory
from pabal.server.service import Supervisor
from pabal.server.settings import Settings, SettingsError
from pabal.server.tls import Certificates
from pabal.server.tls_connection import TlsConnection
from pabal.server.turn import Turn
from pabal.server.verifier import VerifierThread
from pabal.session.amqp091.codec import Amqp091Codec
from pabal.session.amqp091.connection import Amqp091Session
from pabal.session.amqp091.container import Amqp091Container
from pabal.session.amqp091.settings import SessionSettings
from pabal.store.interface import Store

_STANDSTILL_MS = 1500  # between two ticks of the connections, which are to be a second apart


def _session_settings(settings: Settings) -> SessionSettings:
    return SessionSettings(
        settings.frame_bytes_max,
        settings.channel_max,
        settings.heartbeat_seconds,
        settings.message_bytes_max,
        __version__,
        f"Python {sys.version.split()[0]}",
        COMPATIBILITIES[settings.compat],
    )


class Server:
    """Runs a broker over a store until `stop`. `listeners`: what is listened on. `reread`: reads
    the settings anew when the process is told to (SIGHUP). SettingsError: they name a vhost that there is not."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        log: logging.Logger,
        reread: Callable[[], Settings] | None = None,
        supervisor: Supervisor | None = None,
    ) -> None:
        self.settings = settings
        self._reread = reread
        self._supervisor = supervisor or Supervisor({})
        self.log = log
        self.listeners = Listeners(settings.bind, settings.connections_per_second_max, log)
        self.certificates = Certificates(settings) if settings.tls_certificate else None
        self.failure: StoreError | None = None
        self._store = store
        self._started_s = time.time() - time.monotonic()
        self.now_ms = self._clock_ms()
        self._broker = Broker(store, self.now_ms, lambda: secrets.token_urlsafe(16))
        self._prepare(settings)
        self._traces = open_traces(self._broker) if settings.tracing else None
        self._loop = asyncio.get_running_loop()
        self._verifier = VerifierThread("passwords", self._call_in_turn)
        self._token_verifier = VerifierThread("tokens", self._call_in_turn)
        self._access = Access(
            self._broker,
            secrets.token_bytes(32),
            self._verifier,
            None if settings.oauth is None else token_reader(settings.oauth),
            self._token_verifier,
        )
        self._container = Amqp091Container()
        self._session_settings = _session_settings(settings)
        self.alarms = Alarms(self, settings, store)
        self.backups = Backups(self)
        self.turn = Turn(self._broker, store, self._run_commit, self.fatal, self.alarms.disk_full)
        self.in_turn = False
        self.turn_count = 0
        self.measures = Measures()
        self._begun_s = 0.0  # when the turn began, on the monotonic clock
        self._commit_begun_s = 0.0
        self.received = memoryview(bytearray(TURN_BYTES_MAX))
        """Where connections receive, one after the other."""
        self._received_busy = self.received[:TURN_BYTES_BUSY_MAX]
        self._received_crowd = self.received[:TURN_BYTES_CROWD_MAX]
        self._received_overloaded = self.received[:TURN_BYTES_OVERLOADED_MAX]
        self.after_turn: list[Connection] = []
        """Connections that have sent their share of this turn and are read on in the next."""
        self.slices = Slices(self.begin_turn)
        self.after_commit: dict[Connection, None] = {}
        """Those that are read on when less waits for the disk."""
        self._connections: set[Connection] = set()
        self.ending = 0
        """How many of them are gone, and wait for their end."""
        self._garbage = Garbage(self.now_ms)
        self.codec = Amqp091Codec(self._container)
        self.node = ServerNode(self, f"pabal@{socket.gethostname()}")
        self.http: HttpListener | None = None
        self.metrics: HttpListener | None = None
        self._commit_thread = CommitThread()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ms = 0
        self._overloaded = False
        self._ticked_ms = self.now_ms
        self._stopped = asyncio.Event()

    def _prepare(self, settings: Settings) -> None:
        """Makes what the settings name, and the default user when there would be none."""
        compatibility = COMPATIBILITIES[settings.compat]
        self._broker.counts_releases = compatibility.counts_releases
        self._broker.transient_queues = compatibility.transient_queues
        check_vhosts(self._broker, settings)
        self._log_changes(provision(self._broker, settings))
        if not self._broker.accounts.users:
            add_default_user(self._broker, settings)

    @property
    def guest(self) -> bool:
        """Whether the user guest may still come with the password that everybody knows."""
        guest = self._broker.accounts.users.get(GUEST)
        return guest is not None and guest.loopback_only

    # --- Start and stop -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listens. OSError when the address cannot be had."""
        keep_freed_memory()
        if not compiled():
            self.log.info(
                "plain Python, about half as fast as compiled: that takes a C compiler when it is installed"
            )
        self.alarms.check()
        await self._listen()
        self.http, self.metrics = open_http(self), open_metrics(self)
        for listener in (self.http, self.metrics):
            if listener is not None:
                listener.start()
        self._loop.call_later(1.0, self._tick_connections)
        self._loop.call_later(SAMPLE_MS / 1000, self._sample)
        self._supervisor.feed_watchdog(self._loop)
        self._garbage.begin()

    async def _listen(self) -> None:
        files = raise_files_limit()
        if files < self.settings.connections_max + RESERVED_FILES:
            self.log.warning("connections_max is %d, file descriptors %d", self.settings.connections_max, files)
        listeners, settings = self.listeners, self.settings
        if settings.port >= 0:
            amqp = listeners.bind("amqp", settings.port)
            await listeners.serve(amqp, lambda: Connection(self, self._make_session))
        if self.certificates is not None and settings.tls_port:
            await listeners.serve(listeners.bind("amqps", settings.tls_port), self._make_tls_connection)

    def _make_tls_connection(self) -> TlsConnection:
        assert self.certificates is not None
        inner = Connection(self, self._make_session)
        return TlsConnection(self.certificates.context, inner, self.received, self._log_of_peer, self.slices)

    def _log_of_peer(self, peer: str, event: str) -> None:
        self.log.info("%s %s", peer, printable(event), extra={"event": printable(event), "connection": peer})

    async def run(self) -> None:
        """Until a signal, `stop`, or a failure of the store (then it raises that StoreError)."""
        for name in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(name, self.stop, f"signal {name.name}")
        if self._reread is not None:
            self._loop.add_signal_handler(signal.SIGHUP, self.reload)
        self._supervisor.ready(self.listeners.status())
        await self._stopped.wait()
        await self._shut_down()
        if self.failure is not None:
            raise self.failure

    def reload(self) -> None:
        self._supervisor.reloading()
        self._reload()
        self._supervisor.ready(self.listeners.status())

    def _reload(self) -> None:
        """Reads the settings again and makes what they name now. When they are not valid, nothing changes."""
        assert self._reread is not None
        self.begin_turn()
        try:
            settings = self._reread()
            check_vhosts(self._broker, settings)
        except Exception as error:  # SettingsError, or whatever else a file can make the parser say
            why = str(error) if isinstance(error, SettingsError) else repr(error)
            self.log.error("settings refused, nothing changed: %s", printable(why))
            return
        if self.certificates is not None and settings.tls_certificate:
            error_of_files = self.certificates.renewed(settings)
            why = (
                f"refused, the old one stays: {error_of_files}" if error_of_files else "re-read, for new connections"
            )
            self.log.log(logging.ERROR if error_of_files else logging.INFO, "certificate %s", printable(why))
        changes: list[str] = []
        with self._fatal_errors():
            changes = provision(self._broker, settings)
        for name in restart_needed(self.settings, settings):
            self.log.warning("setting %s has changed: that takes a restart", name)
        self.log.info("settings re-read, %s", "with changes:" if changes else "no changes")
        self._log_changes(changes)

    def _log_changes(self, changes: list[str]) -> None:
        for change in changes:
            self.log.info("%s", printable(change))

    def stop(self, reason: str) -> None:
        self.log.info("stopping: %s", reason)
        self._supervisor.stopping(reason)
        self._stopped.set()

    def fatal(self, error: StoreError) -> None:
        """The store cannot go on: take nothing more, confirm nothing more, end."""
        if self.failure is None:
            self.failure = error
            self._supervisor.stopping(str(error))
            self.turn.failed = True
            self.log.error("%s", error)
            self._stopped.set()

    @property
    def _busy(self) -> bool:
        """Something that connections have caused is not done yet."""
        return self.in_turn or self.turn.disk_busy or bool(self._broker.returns)

    async def _shut_down(self) -> None:
        """Stops accepting, commits, closes the clients as their protocol says."""
        self.listeners.close()
        self.node.taps.end("the broker stops")
        for listener in (self.http, self.metrics):
            if listener is not None:
                await listener.stop()
        if self.failure is None:
            self.begin_turn()
            for connection in list(self._connections):
                connection.session.shut_down("broker forced connection closure with reason 'shutdown'")
                connection.after_input()
            deadline = self._loop.time() + SHUTDOWN_SECONDS_MAX
            while (self._connections or self._busy) and not self.failure:
                if self._loop.time() > deadline:
                    break
                await asyncio.sleep(0.01)
        for connection in list(self._connections):
            connection.abort()
        while (self._connections or self.turn.disk_busy) and self.failure is None:
            await asyncio.sleep(0.01)
        self.turn.failed = True  # a turn that is still to end comes too late
        if self.failure is None:
            self.backups.stop()
            self.alarms.commit_last(self._store)
        self._verifier.stop()
        self._token_verifier.stop()
        self._commit_thread.stop()
        if self._traces is not None:
            self._traces.stop()
        if self.failure is None:
            self._store.close()

    # --- For the HTTP API -----------------------------------------------------------------------------------

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    @property
    def store(self) -> Store:
        return self._store

    @property
    def broker(self) -> Broker:
        return self._broker

    @property
    def connections(self) -> set[Connection]:
        return self._connections

    async def login(self, name: str, secret: str, peer: str, loopback: bool) -> Principal | Refused:
        """Who comes with this name and secret. `peer`: the address."""
        found: asyncio.Future[Principal | Refused] = self._loop.create_future()

        def done(answer: Principal | Refused) -> None:
            if not found.done():
                found.set_result(answer)

        self.begin_turn()
        self._access.authenticate(name, secret, peer, loopback, done)
        return await found

    # --- Turns ----------------------------------------------------------------------------------------------

    @property
    def overloaded(self) -> bool:
        """Nothing more is taken in until a commit is done."""
        if not self._overloaded:
            self._overloaded = self._broker.overloaded
        return self._overloaded

    def share(self) -> memoryview:
        """Where to receive what one connection may send in this turn: less when many wait already, whose bytes are
        in memory meanwhile."""
        waiting = self.slices.waiting
        if self.overloaded or waiting > WAITING_MAX:
            return self._received_overloaded
        if self.slices.crowded:
            return self._received_crowd
        return self._received_busy if waiting or self._broker.consumers_busy else self.received

    def begin_turn(self) -> None:
        """Something is about to be decided: sees to it that the turn ends after this pass of the loop."""
        if not self.in_turn:
            self.in_turn = True
            self._begun_s = time.monotonic()
            self.now_ms = int((self._started_s + self._begun_s) * 1000)
            self._broker.begin(self.now_ms)
            self._loop.call_soon(self._end_turn)

    def _end_turn(self) -> None:
        self.in_turn = False
        self.turn_count += 1
        with self._fatal_errors():
            self.turn.end()
        waiting, self.after_turn = self.after_turn, []
        for connection in waiting:
            connection.after_input()
        waited = self.slices.serve(self.now_ms)
        self._broker.crowded = self.slices.crowded
        if waited or (self._broker.unfinished and not self.turn.failed):
            self._loop.call_soon(self.begin_turn)  # for the next of them, whether these have sent more or not
        self._set_timer()
        self.measures.turns.add(time.monotonic() - self._begun_s)

    @contextlib.contextmanager
    def _fatal_errors(self) -> Iterator[None]:
        """An error of ours between connections leaves queues in doubt. What is on disk is not: stop."""
        try:
            yield
        except StoreError as error:
            self.fatal(error)
        except Exception as error:
            self.log.exception("internal error")
            self.fatal(StoreError(f"stopped after an internal error: {error!r}"))

    def _call_in_turn(self, action: Callable[[], None]) -> None:
        """From another thread."""

        def call() -> None:
            self.begin_turn()
            with self._fatal_errors():
                action()

        self._loop.call_soon_threadsafe(call)

    def _run_commit(self, finish: Callable[[], None], done: Callable[[StoreError | None], None]) -> None:
        def finished(error: BaseException | None) -> None:
            self._loop.call_soon_threadsafe(self._committed, done, error)

        self._commit_begun_s = time.monotonic()
        self._commit_thread.run(finish, finished)

    def _committed(self, done: Callable[[StoreError | None], None], error: BaseException | None) -> None:
        self.now_ms = self._clock_ms()
        self._broker.begin(self.now_ms)
        self.measures.commits.add(time.monotonic() - self._commit_begun_s)
        if error is not None and not isinstance(error, StoreError):
            self.log.error("the commit failed", exc_info=error)
            error = StoreError(f"the commit failed: {error!r}")
        with self._fatal_errors():
            done(error)
        if self._broker.unfinished and not self.turn.failed:
            self.begin_turn()
        if self._overloaded and not self._broker.overloaded:
            self._overloaded = False
            self.read_on()
        self.alarms.committed(self._store.in_need)
        self._set_timer()

    # --- Time -----------------------------------------------------------------------------------------------

    def _clock_ms(self) -> int:
        """Milliseconds since the epoch as of the start, running evenly whatever is done to the system's clock."""
        return int((self._started_s + time.monotonic()) * 1000)

    def _set_timer(self) -> None:
        at_ms = self.turn.next_tick_ms() or 0
        if at_ms == self._timer_ms:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self._timer_ms = at_ms
        if at_ms:
            delay = max(0.0, (at_ms - self._clock_ms()) / 1000)
            self._timer = self._loop.call_later(delay, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._timer_ms = 0
        self.begin_turn()
        with self._fatal_errors():
            self._broker.tick(self.now_ms)

    def _tick_connections(self) -> None:
        self._loop.call_later(1.0, self._tick_connections)
        self.begin_turn()
        self.listeners.admission.tidy()
        # After a standstill (SIGSTOP, a busy machine) what peers sent meanwhile is still to be read.
        stood_still = self.now_ms - self._ticked_ms > _STANDSTILL_MS
        self.measures.lags.add(max(self.now_ms - self._ticked_ms - 1000, 0) / 1000)
        self._ticked_ms = self.now_ms
        for connection in list(self._connections):
            connection.tick(self.now_ms, stood_still)
        self.node.taps.tick()
        self._garbage.tidy(self.now_ms)

    def _sample(self) -> None:
        """Rates are worked out from these."""
        self._loop.call_later(SAMPLE_MS / 1000, self._sample)
        self._broker.sample(self._clock_ms())

    def heed_alarms(self) -> None:
        for connection in list(self._connections):
            connection.heed_alarms()

    def read_on(self) -> None:
        """Those that waited for a commit. Who could send least goes first: there may be more of them than there is
        room for."""
        waiting, self.after_commit = self.after_commit, {}
        for connection in sorted(waiting, key=Connection.last_bytes):
            connection.after_input()

    # --- Connections ----------------------------------------------------------------------------------------

    def _make_session(self, connection: Connection, loopback: bool) -> Amqp091Session:
        return Amqp091Session(
            self._broker,
            self._access,
            self._session_settings,
            self._container,
            partial(self.turn.writes, connection),
            connection.log,
            loopback,
            connection.peer.rpartition(":")[0],
            connection.certificate_name,
        )

    def add(self, connection: Connection) -> None:
        self._connections.add(connection)
        self._broker.accept(connection.client)
        most = self.settings.connections_max
        count = len(self._connections) - self.ending
        if count > most:
            connection.log(f"refused: there are {most} connections already")
            connection.session.refusal = f"connection refused: node connection limit ({most}) is reached"
        if count > most + REFUSED_CONNECTIONS_MAX:
            connection.abort()

    def remove(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._broker.forget(connection.client)
        self.after_commit.pop(connection, None)
