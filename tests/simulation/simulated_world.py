"""The broker below its sockets, over a disk that survives: restart, turns, commits that end later, crashes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType

from simulated_client import FRAME_BYTES_MAX, Client
from simulated_ledger import Ledger

import pabal.broker.backlog
import pabal.broker.broker
import pabal.broker.priorities
import pabal.broker.queue
import pabal.broker.returns
import pabal.broker.timetable
import pabal.broker.waiting
import pabal.session.amqp091.deliveries
from pabal.broker.access import Access
from pabal.broker.broker import Broker
from pabal.model.definitions import UserDefinition
from pabal.model.errors import DiskFull, StoreError
from pabal.model.limits import PARTED_BYTES_MIN, SHARED_BYTES_MIN
from pabal.model.passwords import hash_password
from pabal.server.turn import Turn
from pabal.session.amqp091.connection import Amqp091Session
from pabal.session.amqp091.container import Amqp091Container
from pabal.session.amqp091.settings import SessionSettings
from pabal.store.interface import Store
from pabal.store.logged_store import LoggedStore
from pabal.store.memory import Disk, MemoryLog, MemoryStore

START_MS = 1_700_000_000_000
GUEST = UserDefinition("guest", hash_password("guest", b"salt", 16), ["*"])
CONTAINER = Amqp091Container()
SETTINGS = SessionSettings(frame_bytes_max=FRAME_BYTES_MAX, channel_max=10, heartbeat_seconds=0)

Finish = Callable[[], None]
Done = Callable[[StoreError | None], None]


class World:
    """One broker at a time. `clients`: those of this life. `failed`: a commit failed, so nothing may be confirmed.
    `turn_open`: something was decided and the turn has not ended. `note` is told what clients are given, if set.
    `unstored_max`: how many changes wait for a checkpoint; None: there is no log and each commit is one."""

    def __init__(
        self,
        ledger: Ledger,
        store_class: type[MemoryStore] = MemoryStore,
        counts_releases: bool = True,
        unstored_max: int | None = None,
        shared_bytes_min: int = SHARED_BYTES_MIN,
        parted_bytes_min: int = PARTED_BYTES_MIN,
    ) -> None:
        self._unstored_max = unstored_max
        self.ledger = ledger
        self._counts_releases = counts_releases
        self._large_bytes = shared_bytes_min, parted_bytes_min
        self.disk = Disk()
        self.now_ms = START_MS
        self.note: Callable[..., None] | None = None
        self._store_class = store_class
        self._token = 0
        self.start()

    def start(self) -> None:
        self.clients: list[Client] = []
        self.commit: tuple[Finish, Done] | None = None
        self.commit_finished = False
        self.failed = False
        self.turn_open = False
        base = self._store_class({CONTAINER.code: CONTAINER}, self.disk)
        self.store: Store = base
        if self._unstored_max is not None:
            self.store = LoggedStore(base, MemoryLog(self.disk), self._unstored_max)
        self.store.journal.shared_bytes_min, self.store.journal.parted_bytes_min = self._large_bytes
        self.broker = Broker(self.store, self.now_ms, self._next_token)
        self.broker.counts_releases = self._counts_releases
        self.broker.add_vhost("/")
        self.broker.accounts.put_user(GUEST)
        self.access = Access(self.broker, b"key")
        self.turn = Turn(self.broker, self.store, self._run_commit, self._fatal, lambda error: None)

    def _next_token(self) -> str:
        self._token += 1
        return str(self._token)

    def _run_commit(self, finish: Finish, done: Done) -> None:
        assert self.commit is None, "two commits at once"
        self.commit = (finish, done)
        self.commit_finished = False

    def _fatal(self, error: StoreError) -> None:
        if "planned" not in str(error):
            raise error
        self.failed = True

    def make_session(self, client: Client) -> Amqp091Session:
        self.broker.begin(self.now_ms)
        self.clients.append(client)
        return Amqp091Session(
            self.broker,
            self.access,
            SETTINGS,
            CONTAINER,
            lambda: self.turn.writes(client),
            lambda line: None,
            True,
        )

    # --- What may happen ------------------------------------------------------------------------------------

    def feed(self, client: Client, count: int | None = None) -> None:
        self.broker.begin(self.now_ms)
        client.feed(count)
        if client.session.closed:
            self.turn.writes(client)
        self.turn_open = True

    def lose(self, client: Client) -> None:
        """The client's connection breaks, maybe before what was written for it in this turn has left."""
        self.broker.begin(self.now_ms)
        client.flush()
        if client in self.clients:
            self.clients.remove(client)
        if not client.closed:
            client.lost()
        client.closed = True
        client.session.connection_lost()
        self.turn_open = True

    def end_turn(self) -> None:
        self.turn_open = False
        self.turn.end()
        self._go_on()
        self._written()

    def _go_on(self) -> None:
        """What was more than a turn's share is for the next."""
        if self.broker.unfinished and not self.failed:
            self.broker.begin(self.now_ms)
            self.turn_open = True

    def set_full(self, full: bool) -> None:
        """The disk takes nothing, or takes again what waits for room."""
        self.disk.full = full
        if not full:
            self.retry()

    def retry(self) -> None:
        """The commit that found no room is tried again."""
        self.broker.begin(self.now_ms)
        self.turn.retry()

    def finish_commit(self) -> None:
        """The disk has it, unless it is full."""
        if self.commit is not None and not self.commit_finished:
            try:
                self.commit[0]()
            except DiskFull as error:
                _, done = self.commit
                self.commit = None
                done(error)
                return
            self.commit_finished = True
            self.ledger.transactions.check(self.disk)

    def end_commit(self, error: StoreError | None = None) -> None:
        """The broker hears of it."""
        if self.commit is None:
            return
        if error is None:
            self.finish_commit()
            if self.commit is None:
                return  # the disk was full
        _, done = self.commit
        self.commit = None
        self.broker.begin(self.now_ms)
        done(error)
        self._go_on()
        self._written()

    def advance(self, ms: int) -> None:
        """Time passes; what is due is done."""
        if self.turn_open:
            self.end_turn()
        self._let_pass(ms)
        at_ms = self.turn.next_tick_ms()
        if at_ms is not None and at_ms <= self.now_ms and not self.failed:
            self.broker.tick(self.now_ms)
            self.end_turn()

    def _let_pass(self, ms: int) -> None:
        self.now_ms += ms
        if self.turn_open:  # what the last turn left: leases of what it hands out begin now, and not before
            self.broker.begin(self.now_ms)

    def wait(self, ms: int) -> None:
        """Time passes until all is done that is due by then."""
        self._let_pass(ms)
        for _ in range(10_000):
            self.settle_down()
            at_ms = self.turn.next_tick_ms()
            if self.failed or at_ms is None or at_ms > self.now_ms:
                return
            self.broker.tick(self.now_ms)
            self.turn_open = True
        raise AssertionError("a timer that is always due")

    def crash(self) -> None:
        """kill -9: only the disk is left. The ledger looks at it, and the broker starts again."""
        self.ledger.crashed(self.disk)
        self.disk.full = False
        self.now_ms += 1
        self.start()

    def settle_down(self) -> None:
        """Until nothing is to be done without new input or time; the disk has room for it."""
        self.set_full(False)
        for _ in range(10_000):
            if self.turn_open or self.broker.unfinished:
                self.end_turn()
            elif self.commit is not None:
                self.end_commit()
            elif not self.store.journal.empty or self.broker.waiters:
                self.now_ms = max(self.now_ms, self.turn.postponed_ms)
                self.broker.begin(self.now_ms)
                self.end_turn()
            else:
                return
        raise AssertionError("the broker never comes to rest")

    def _written(self) -> None:
        self.ledger.turn_written(self._is_gone)
        idle = self.commit is None and not self.turn.committing and not self.broker.returns
        if idle and self.store.journal.empty and not self.failed:
            self.ledger.everything_is_durable()
        for client in [client for client in self.clients if client.closed]:
            self.clients.remove(client)
            client.session.connection_lost()

    def _is_gone(self, name: str, tag: str) -> bool:
        return all(client.is_gone(tag) for client in self.clients if client.name == name)


@contextmanager
def limits(**values: int) -> Iterator[None]:
    """Sets limits of the broker, where they are used, and sets them back."""
    modules: tuple[ModuleType, ...] = (
        pabal.broker.broker,
        pabal.broker.queue,
        pabal.broker.priorities,
        pabal.broker.returns,
        pabal.broker.timetable,
        pabal.broker.waiting,
        pabal.broker.backlog,
        pabal.session.amqp091.deliveries,
    )
    before: list[tuple[ModuleType, str, int]] = []
    for name, value in values.items():
        users = [module for module in modules if hasattr(module, name)]
        assert users, f"no module uses {name}"
        for module in users:
            before.append((module, name, getattr(module, name)))
            setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
