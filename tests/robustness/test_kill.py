"""kill -9 of the real process under load, restart on the same data: what the clients were promised must hold.

`PABAL_KILL_CYCLES=50 pytest tests/robustness/test_kill.py` for the long run, or
`python tests/robustness/test_kill.py --cycles 200 --seed 7`.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

import pabal

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # when run as a program

from broker_process import BrokerProcess, free_port
from robustness import peers as p
from robustness.ledger import Ledger, make_body, read_body
from robustness.load import Client, Consumer, Publisher, Rejecter, Worker

CYCLES = int(os.environ.get("PABAL_KILL_CYCLES", "5"))
SEED = int(os.environ.get("PABAL_KILL_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
STOP_SECONDS_MAX = 8.0
StartBroker = Callable[..., BrokerProcess]


# --- The load -----------------------------------------------------------------------------------------------

IN, SINGLE, KEEP, DONE = "kill.in", "kill.single", "kill.keep", "kill.done"
REJECTING, REJECTED, EXPIRING, EXPIRED = "kill.rejecting", "kill.rejected", "kill.expiring", "kill.expired"
TOPIC, FANOUT = "kill.topic", "kill.fanout"
SOURCES = ("a", "b", "c")
ROUTES = {IN: list(SOURCES), SINGLE: ["b"], KEEP: ["a"]}
"""Which publishers' messages each queue gets."""
MOVES = ((REJECTING, REJECTED, "c"), (EXPIRING, EXPIRED, "b"))
"""A queue whose messages die, where they go then, and whose they are. Nobody takes them away."""
EXPIRING_MS = 150


def declare_topology(port: int) -> None:
    with p.Peer(port) as peer:
        for queue in (IN, SINGLE, KEEP, DONE, REJECTED, EXPIRED):
            peer.declare(queue)
        dying = p.table(x_dead_letter_exchange="", x_dead_letter_routing_key=REJECTED)
        peer.declare(REJECTING, arguments=dying)
        dying = p.table(x_dead_letter_exchange="", x_dead_letter_routing_key=EXPIRED, x_message_ttl=EXPIRING_MS)
        peer.declare(EXPIRING, arguments=dying)
        peer.call(p.exchange_declare(1, TOPIC, "topic"), p.EXCHANGE_DECLARE_OK)
        peer.call(p.exchange_declare(1, FANOUT, "fanout"), p.EXCHANGE_DECLARE_OK)
        peer.call(p.queue_bind(1, IN, TOPIC, "in.#"), p.BIND_OK)
        peer.call(p.queue_bind(1, SINGLE, TOPIC, "*.b"), p.BIND_OK)
        peer.call(p.queue_bind(1, KEEP, TOPIC, "in.a"), p.BIND_OK)
        peer.call(p.queue_bind(1, KEEP, FANOUT, ""), p.BIND_OK)
        peer.call(p.queue_bind(1, REJECTING, TOPIC, "in.c"), p.BIND_OK)
        peer.call(p.queue_bind(1, EXPIRING, TOPIC, "in.b"), p.BIND_OK)


def check_topology(port: int, ledger: Ledger) -> None:
    """All of it is there: a passive declaration answers, and a fanout binding still routes."""
    with p.Peer(port) as peer:
        for queue in (IN, SINGLE, KEEP, DONE):
            peer.ready(queue)
        peer.call(p.exchange_declare(1, TOPIC, "topic", passive=True), p.EXCHANGE_DECLARE_OK)
        peer.call(p.exchange_declare(1, FANOUT, "fanout", passive=True), p.EXCHANGE_DECLARE_OK)
        for exchange, key in ((TOPIC, "in.b"), (TOPIC, "in.a"), (FANOUT, "")):
            body = make_body("probe", ledger.next_number("probe"), random.Random(1))
            peer.send(p.publish(1, exchange, key, body, mandatory=True))
        peer.call(p.basic_qos(1, 0), p.QOS_OK)
        assert not [event for event in peer.heard if event.key == p.RETURN], "a binding is gone"


class Changing:
    """Declares and deletes queues and exchanges; what was answered must be so after the kill."""

    def __init__(self) -> None:
        self.there: list[str] = []
        self.gone: list[str] = []
        self._number = itertools.count()

    def change(self, port: int) -> None:
        with p.Peer(port) as peer:
            for _ in range(3):
                name = f"kill.changing.{next(self._number)}"
                peer.declare(name)
                peer.call(p.exchange_declare(1, name, "direct"), p.EXCHANGE_DECLARE_OK)
                peer.call(p.queue_bind(1, name, name, "key"), p.BIND_OK)
                self.there.append(name)
            while len(self.there) > 5:
                name = self.there.pop(0)
                peer.call(p.queue_delete(1, name), p.DELETE_OK)
                peer.call(p.exchange_delete(1, name), p.EXCHANGE_DELETE_OK)
                self.gone.append(name)

    def check(self, port: int) -> None:
        with p.Peer(port) as peer:
            for name in self.there:
                peer.ready(name)
                peer.send(p.publish(1, name, "key", b"x", mandatory=True))
            peer.call(p.basic_qos(1, 0), p.QOS_OK)
            assert not peer.heard, f"a binding is gone: {peer.heard}"
            for name in self.there:
                assert peer.call(p.queue_purge(1, name), p.PURGE_OK).count == 1
            for name in self.gone[-5:]:
                for passive in (
                    p.queue_declare(1, name, passive=True),
                    p.exchange_declare(1, name, "direct", passive=True),
                ):
                    peer.send(passive)
                    closed = peer.next()
                    assert (closed.key, closed.code) == (p.CHANNEL_CLOSE, 404), f"{name} is back"
                    peer.send(p.channel_close_ok(1))
                    peer.call(p.channel_open(1), p.CHANNEL_OPEN_OK)


class Load:
    """Clients at work on one life of the broker. `attendance`: how likely each consumer is there."""

    def __init__(self, port: int, ledger: Ledger, seeds: random.Random, attendance: float = 1.0) -> None:
        def seed() -> int:
            return seeds.randrange(10**9)

        self.ledger = ledger
        ledger.ending = False
        consumers: list[Client] = [
            Worker(port, ledger, IN, DONE, seed()),
            Worker(port, ledger, IN, DONE, seed(), prefetch=300),
            Consumer(port, ledger, IN, seed()),
            Worker(port, ledger, SINGLE, DONE, seed(), prefetch=20),
            Rejecter(port, ledger, REJECTING, seed()),
        ]
        self.consumers = [consumer for consumer in consumers if seeds.random() < attendance]
        self.clients: list[Client] = [
            *(Publisher(port, ledger, source, TOPIC, f"in.{source}", seed()) for source in SOURCES),
            *self.consumers,
        ]
        for client in self.clients:
            client.start()
        for client in self.clients:
            assert client.ready.wait(p.WAIT_SECONDS_MAX)

    def wait(self, confirms: int) -> None:
        """Until that many more publishes have been confirmed, and some deliveries made."""
        upto = self.ledger.confirm_count + confirms
        deliveries = self.ledger.delivery_count + (confirms // 10 if self.consumers else 0)
        p.eventually(
            lambda: (
                (self.ledger.confirm_count >= upto and self.ledger.delivery_count >= deliveries)
                or any(client.failure for client in self.clients)
            ),
            f"{self.ledger.confirm_count} of {upto} confirms, {self.ledger.delivery_count} deliveries",
        )

    def end(self, killed: bool = False) -> None:
        self.ledger.ending = not killed
        for client in self.clients:
            client.halt.set()
        for client in self.clients:
            client.join(p.WAIT_SECONDS_MAX)
            assert not client.is_alive(), f"{client} hangs"
        failures = [client.failure for client in self.clients if client.failure]
        assert not failures, "\n".join(failures)


def check_moved(port: int, ledger: Ledger, dying: str, dead: str, source: str) -> int:
    """What died is in one of the two queues, never in both, never twice, never in none."""
    if dying == EXPIRING:
        with p.Peer(port) as peer:
            p.eventually(lambda: peer.ready(dying) == 0, "all have expired")
    counts = Counter(read_body(event.body) for queue in (dying, dead) for event in p.drain(port, queue))
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        ledger.problems.append(f"{dying}, {dead}: {len(twice)} are there twice: {twice[:5]}")
    lost = [number for number in sorted(ledger.confirmed[source]) if (source, number) not in counts]
    if lost:
        ledger.problems.append(f"{dying}, {dead}: {len(lost)} confirmed of {source} lost: {lost[:5]}")
    return len(counts)


def check_all(port: int, ledger: Ledger) -> dict[str, int]:
    """The end: takes what is left and compares with what is known."""
    figures: dict[str, int] = {}
    for queue, sources in ROUTES.items():
        events = p.drain(port, queue)
        figures[queue] = len(events)
        left = []
        for event in events:
            name = read_body(event.body)
            left.append(name)
            if name in ledger.marked[queue] and not event.redelivered:
                ledger.problems.append(f"{queue}: {name} came again and is not marked as redelivered")
        ledger.check(queue, sources, left)
    for dying, dead, source in MOVES:
        figures[dead] = check_moved(port, ledger, dying, dead, source)
    done = Counter(event.body for event in p.drain(port, DONE))
    proven = [f"{s}:{n}".encode() for queue in (IN, SINGLE) for s, n in ledger.settled[queue]]
    missing = [name for name in proven if not done[name]]
    if missing:
        ledger.problems.append(f"{len(missing)} confirmed 'done' messages lost: {missing[:5]}")
    figures[DONE] = sum(done.values())
    assert not ledger.problems, "\n".join(ledger.problems[:50])
    return figures


# --- Kills while starting -----------------------------------------------------------------------------------


def cpu_ticks(pid: int) -> int:
    """How much of the processor a process has had, in hundredths of a second."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return 1 << 30
    return int(fields[11]) + int(fields[12])


def spawn(broker: BrokerProcess) -> subprocess.Popen[bytes]:
    """Starts the broker's command without waiting for it."""
    environment = {**os.environ, "PYTHONPATH": str(Path(pabal.__file__).resolve().parent.parent)}
    command = [sys.executable, "-m", "pabal", "serve", "--port", str(broker.port), "--data", str(broker.data)]
    with broker.log_path.open("ab") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)


def kill_while_starting(broker: BrokerProcess, ticks: int) -> None:
    """Kills it once it has used that much of the processor, or is ready."""
    process = spawn(broker)
    p.eventually(
        lambda: process.poll() is not None or cpu_ticks(process.pid) >= ticks or broker.answers(),
        "the broker starts",
    )
    early = process.poll()
    process.kill()
    process.wait()
    assert early is None, f"the broker ended by itself with {early}:\n{broker.log()}"


# --- The tests ----------------------------------------------------------------------------------------------


def run_cycles(
    broker: BrokerProcess, cycles: int, seed: int, progress: Callable[[str], None], stop: bool = False
) -> str:
    """The whole of it: load, kill, restart, check, again and again. Returns the figures."""
    randomness = random.Random(seed)
    ledger = Ledger()
    changing = Changing()
    declare_topology(broker.port)
    restart_ms: list[float] = []
    for cycle in range(cycles):
        attendance = randomness.choice((1.0, 1.0, 0.5, 0.0)) if cycle else 1.0
        load = Load(broker.port, ledger, randomness, attendance)
        changing.change(broker.port)
        load.wait(randomness.choice((1, 50, 500, 2000, 5000)))
        if cycle == 0:  # whatever the later ones draw, something is known to be settled
            p.eventually(lambda: any(list(ledger.settled.values())), "an acknowledgement is proven to be durable")
        broker.kill()
        load.end(killed=True)
        ledger.end_life()
        for _ in range(randomness.choice((0, 0, 1, 2))):
            kill_while_starting(broker, randomness.randrange(1, 30))
        begun = time.monotonic()
        broker.start()
        restart_ms.append((time.monotonic() - begun) * 1000)
        check_topology(broker.port, ledger)
        changing.check(broker.port)
        assert not ledger.problems, "\n".join(ledger.problems[:50])
        progress(
            f"cycle {cycle + 1}: {ledger.confirm_count} confirmed, {ledger.delivery_count} delivered, "
            f"{ledger.redelivered_count} marked redelivered, {ledger.unflagged_count} again unmarked, "
            f"restart {restart_ms[-1]:.0f} ms"
        )
    left = check_all(broker.port, ledger)
    settled = sum(len(names) for names in ledger.settled.values())
    assert settled, "no settle was ever proven"
    return (
        f"{cycles} kills, seed {seed}: {ledger.confirm_count} confirmed, {ledger.delivery_count} delivered, "
        f"{settled} proven settled, left {left}, slowest restart {max(restart_ms):.0f} ms"
    )


@pytest.mark.timeout(60 + 20 * CYCLES)
def test_kill_under_load_again_and_again(start_broker: StartBroker) -> None:
    print(f"PABAL_KILL_SEED={SEED}")
    print(run_cycles(start_broker(), CYCLES, SEED, print))


def test_kill_while_starting(start_broker: StartBroker) -> None:
    broker = start_broker()
    with p.Peer(broker.port) as peer:
        peer.declare("q")
        peer.declare("gone", durable=False)
    p.fill(broker.port, "q", (b"%d" % n for n in range(20_000)))
    p.fill(broker.port, "gone", (b"x" * 5000 for _ in range(15_000)))  # so many that some are on disk
    broker.kill()
    for ticks in (1, 6, 9, 11, 13, 15, 18, 22):
        kill_while_starting(broker, ticks)
    broker.start()
    assert [event.body for event in p.drain(broker.port, "q")] == [b"%d" % n for n in range(20_000)]
    with p.Peer(broker.port) as peer:
        assert peer.declare("gone").count == 0


@pytest.mark.parametrize("verb", ["purge", "delete"])
def test_kill_while_a_large_queue_is_removed(start_broker: StartBroker, verb: str) -> None:
    """The answer says that they are gone, though removing them from disk takes many commits after it."""
    broker = start_broker()
    for _ in range(2):
        with p.Peer(broker.port) as peer:
            peer.declare("q")
            p.fill(broker.port, "q", (b"old" for _ in range(40_000)))
            if verb == "purge":
                assert peer.call(p.queue_purge(1, "q"), p.PURGE_OK).count == 40_000
            else:
                assert peer.call(p.queue_delete(1, "q"), p.DELETE_OK).count == 40_000
                assert peer.declare("q").count == 0
            p.fill(broker.port, "q", (b"new %d" % n for n in range(7)))
        broker.restart(kill=True)
        assert [event.body for event in p.drain(broker.port, "q")] == [b"new %d" % n for n in range(7)]
        broker.restart(kill=True)
        with p.Peer(broker.port) as peer:
            assert peer.ready("q") == 0


def test_purge_again_while_the_last_purge_is_still_being_removed(start_broker: StartBroker) -> None:
    broker = start_broker()
    with p.Peer(broker.port) as peer:
        peer.declare("q")
    p.fill(broker.port, "q", (b"first" for _ in range(60_000)))
    with p.Peer(broker.port) as peer:
        peer.call(p.queue_purge(1, "q"), p.PURGE_OK)
    broker.restart(kill=True)
    for n in range(3):
        p.fill(broker.port, "q", (b"second" for _ in range(12_000)))
        with p.Peer(broker.port) as peer:
            assert peer.call(p.queue_purge(1, "q"), p.PURGE_OK).count == 12_000, n
        broker.restart(kill=True)
    p.fill(broker.port, "q", (b"third %d" % n for n in range(5000)))
    broker.restart(kill=True)
    assert [event.body for event in p.drain(broker.port, "q")] == [b"third %d" % n for n in range(5000)]


def test_a_purge_that_was_not_answered_is_whole_or_not_at_all(start_broker: StartBroker) -> None:
    broker = start_broker()
    with p.Peer(broker.port) as peer:
        peer.declare("q")
        p.fill(broker.port, "q", (b"%d" % n for n in range(30_000)))
        peer.send(p.queue_purge(1, "q"))
        broker.kill()
    broker.start()
    assert len(p.drain(broker.port, "q")) in (0, 30_000)


def test_stop_and_continue_under_load(start_broker: StartBroker) -> None:
    """SIGSTOP for longer than the heartbeats allow: who went on sending them is still welcome after it."""
    broker = start_broker()
    ledger = Ledger()
    declare_topology(broker.port)
    load = Load(broker.port, ledger, random.Random(SEED))
    load.wait(500)
    with p.Peer(broker.port, heartbeat=1) as beating:
        os.kill(broker.pid, signal.SIGSTOP)
        stopped_at = time.monotonic()

        def beat() -> bool:
            beating.send(p.HEARTBEAT)
            time.sleep(0.2)
            return time.monotonic() - stopped_at > 3.5

        p.eventually(beat, "three and a half seconds")
        os.kill(broker.pid, signal.SIGCONT)
        beating.declare("still.here")
    load.wait(500)
    load.end()
    broker.restart(kill=True)
    ledger.end_life()
    check_all(broker.port, ledger)


def test_sigterm_under_load(start_broker: StartBroker) -> None:
    """Exit 0 in seconds, each client is told so, nothing that was confirmed is lost."""
    broker = start_broker()
    ledger = Ledger()
    declare_topology(broker.port)
    for _ in range(2):
        load = Load(broker.port, ledger, random.Random(SEED))
        load.wait(1000)
        begun = time.monotonic()
        broker.stop()
        assert time.monotonic() - begun < STOP_SECONDS_MAX
        load.end()
        ledger.end_life()
        assert [client.close_code for client in load.clients] == [320] * len(load.clients)
        assert "Traceback" not in broker.log()
        broker.start()
    check_all(broker.port, ledger)


def test_sigterm_does_not_wait_for_those_who_do_not_read(start_broker: StartBroker) -> None:
    broker = start_broker()
    with (
        p.Peer(broker.port, receive_bytes=4096) as deaf,
        p.Peer(broker.port) as silent,
        p.Peer(broker.port, handshake=False) as half,
    ):
        deaf.declare("q")
        p.fill(broker.port, "q", (b"x" * 10_000 for _ in range(1000)))
        deaf.send(p.basic_consume(1, "q"))
        half.send(p.PROTOCOL_HEADER)
        p.eventually(lambda: half.receive(), "connection.start")
        silent.declare("q")
        begun = time.monotonic()
        broker.stop()
        assert time.monotonic() - begun < STOP_SECONDS_MAX
    broker.start()
    assert len(p.drain(broker.port, "q")) == 1000


# --- Data that cannot be used -------------------------------------------------------------------------------


def refused(broker: BrokerProcess) -> str:
    """Starts the broker's command, which must end with 1 and say why in one line."""
    environment = {**os.environ, "PYTHONPATH": str(Path(pabal.__file__).resolve().parent.parent)}
    command = [sys.executable, "-m", "pabal", "serve", "--port", str(free_port()), "--data", str(broker.data)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=environment,
        timeout=p.WAIT_SECONDS_MAX,
        preexec_fn=_obey_modes if os.geteuid() == 0 else None,
    )
    assert done.returncode == 1, f"exit code {done.returncode}: {done.stderr}"
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("pabal: ")
    assert str(broker.data) in lines[0], "does not say which data"
    return lines[0]


@pytest.fixture
def stopped(start_broker: StartBroker) -> BrokerProcess:
    """A broker that was stopped, with messages in its data file: a start puts there what was in the log."""
    broker = start_broker()
    with p.Peer(broker.port) as peer:
        peer.declare("q")
    p.fill(broker.port, "q", (b"%d" % n * 100 for n in range(3000)))
    broker.restart()
    broker.stop()
    return broker


def test_a_second_process_is_refused(start_broker: StartBroker) -> None:
    broker = start_broker()
    ledger = Ledger()
    declare_topology(broker.port)
    load = Load(broker.port, ledger, random.Random(SEED))
    load.wait(100)
    for _ in range(2):
        line = refused(broker)
        assert f"in use by another Pabal (process {broker.pid})" in line
    load.wait(500)
    load.end()
    broker.restart(kill=True)
    ledger.end_life()
    check_all(broker.port, ledger)


def test_a_newer_data_file_is_refused(stopped: BrokerProcess) -> None:
    import lmdb

    path = stopped.data / "pabal.mdb"

    def write_format(step: int) -> None:
        env = lmdb.open(str(path), subdir=False, max_dbs=8, lock=False)
        meta = env.open_db(b"meta")
        with env.begin(write=True) as transaction:
            version = int(transaction.get(b"format", db=meta))
            transaction.put(b"format", b"%d" % (version + step), db=meta)
        env.close()

    write_format(1)
    assert "newer" in refused(stopped)
    write_format(-1)
    stopped.start()
    assert len(p.drain(stopped.port, "q")) == 3000


def _garbage(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(random.Random(1).randbytes(16_384))


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _truncate_to_head(path: Path) -> None:
    os.truncate(path, 8192)


def _truncate_a_page(path: Path) -> None:
    os.truncate(path, 4096)


def _text(path: Path) -> None:
    path.write_text("This is no data file.\n" * 1000)


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _definitions(path: Path) -> None:
    """Good LMDB, but what it says makes no sense."""
    import lmdb

    env = lmdb.open(str(path), subdir=False, max_dbs=8, lock=False)
    definitions = env.open_db(b"definitions")
    with env.begin(write=True) as transaction:
        keys = [key for key, _ in transaction.cursor(db=definitions)]
        for key in keys:
            transaction.put(key, b"{", db=definitions)
    env.close()


def _queue_state(path: Path) -> None:
    import lmdb

    env = lmdb.open(str(path), subdir=False, max_dbs=8, lock=False)
    queues = env.open_db(b"queues")
    with env.begin(write=True) as transaction:
        for key in [key for key, _ in transaction.cursor(db=queues)]:
            transaction.put(key, b"\1", db=queues)
    env.close()


def _not_ours(path: Path) -> None:
    """A good LMDB file of some other program."""
    import lmdb

    path.unlink()
    env = lmdb.open(str(path), subdir=False, max_dbs=8, lock=False)
    other = env.open_db(b"messages")
    with env.begin(write=True) as transaction:
        transaction.put(b"hello", b"there", db=other)
    env.close()


@pytest.mark.parametrize(
    "damage",
    [
        _garbage,
        _truncate,
        _truncate_to_head,
        _truncate_a_page,
        _text,
        _directory,
        _definitions,
        _queue_state,
        _not_ours,
    ],
)
def test_damaged_data_is_refused(stopped: BrokerProcess, damage: Callable[[Path], None]) -> None:
    damage(stopped.data / "pabal.mdb")
    refused(stopped)
    refused(stopped)  # and was not made a fresh one by the first attempt


def _obey_modes() -> None:
    """In a child of root: gives up the capabilities by which root may write what nobody may."""
    libc = ctypes.CDLL(None)
    for capability in (1, 2, 3):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER
        libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


def test_a_data_directory_that_cannot_be_written_is_refused(stopped: BrokerProcess) -> None:
    lock, log, data = (stopped.data / f"pabal.{kind}" for kind in ("lock", "log", "mdb"))
    try:
        for path in (lock, log, data):
            path.chmod(0o444)
        stopped.data.chmod(0o555)
        refused(stopped)
        lock.chmod(0o644)
        refused(stopped)
        for path in (lock, log, data, stopped.data / "pabal.reserve"):
            path.unlink()
        refused(stopped)
        stopped.data.rmdir()
        stopped.directory.chmod(0o555)
        refused(stopped)
    finally:
        stopped.directory.chmod(0o755)


def test_data_that_is_a_file_is_refused(stopped: BrokerProcess) -> None:
    stopped.data = stopped.data / "pabal.mdb" / "below"
    refused(stopped)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=50)
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pabal-kill-") as directory:
        broker = BrokerProcess(Path(directory))
        try:
            broker.start()
            print(run_cycles(broker, options.cycles, options.seed, lambda line: print(line, flush=True)))
        except BaseException:
            print(f"seed {options.seed}; the broker's log:\n{broker.log()[-5000:]}", file=sys.stderr)
            raise
        finally:
            broker.kill()


if __name__ == "__main__":
    main()
