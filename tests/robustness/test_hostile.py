"""Clients that mean harm, or are broken, against a real process: each gets its answer, nobody else is harmed."""

from __future__ import annotations

import contextlib
import os
import random
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from pika.spec import Connection

from broker_process import SOURCE, BrokerProcess
from clients.raw_client import RawClient
from robustness import peers as p
from robustness.attacks import ATTACKS, GOOD_PUBLISH, local_port
from robustness.citizens import MIB, Memory, memory_under, unharmed

HANDSHAKE_SECONDS_MAX = 10
CLOSE_SECONDS_MAX = 5
LOG_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} (DEBUG|INFO|WARNING|ERROR) +127\.0\.0\.1:(\d+) .")
SLOW = os.environ.get("PABAL_SLOW") == "1"
StartBroker = Callable[..., BrokerProcess]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterable[BrokerProcess]:
    """One process for all attacks, which must survive them all."""
    broker = BrokerProcess(tmp_path_factory.mktemp("hostile"))
    broker.start()
    pid = broker.pid
    yield broker
    assert broker.is_running and broker.pid == pid
    assert "Traceback" not in broker.log()
    broker.stop()


def wait_logged(broker: BrokerProcess, since: int, port: int) -> None:
    """The log has a line about that client, and no line that is not one."""
    p.eventually(lambda: f" 127.0.0.1:{port} " in broker.log(since), f"a line about 127.0.0.1:{port}")
    for line in broker.log(since).splitlines():
        assert LOG_LINE.match(line), f"not a line of ours: {line!r}"


@pytest.mark.parametrize("name", ATTACKS)
def test_attack(shared: BrokerProcess, name: str) -> None:
    since = shared.log_size()
    port = ATTACKS[name](shared.port)
    wait_logged(shared, since, port)
    assert shared.answers()


def test_a_handshake_in_single_bytes(shared: BrokerProcess) -> None:
    with p.Peer(shared.port, handshake=False) as peer:
        data = p.PROTOCOL_HEADER + p.start_ok() + p.tune_ok() + p.connection_open() + p.channel_open(1)
        for byte in data:
            peer.send(bytes((byte,)))
        peer.expect(p.CHANNEL_OPEN_OK)


def test_the_rest_of_a_message_too_large_is_skipped(shared: BrokerProcess) -> None:
    """The client may send all of the body before it sees channel.close, or stop anywhere in it."""
    chunk = p.bodies(1, b"x" * 131_064)
    with memory_under(shared.pid, 100 * MIB), p.Peer(shared.port, channels=2) as peer:
        for sent in (0, 1, 5, 1025):
            peer.send(GOOD_PUBLISH + p.header(1, 1025 * 131_064))
            for _ in range(sent):
                peer.send(chunk)
            event = peer.next()
            assert (event.key, event.code) == (p.CHANNEL_CLOSE, 406)
            peer.send(p.channel_close_ok(1))
            peer.call(p.channel_open(1), p.CHANNEL_OPEN_OK)
            peer.declare("usable", durable=False)
            peer.send(p.publish(1, "", "usable", b"%d" % sent) + p.basic_get(1, "usable"))
            assert peer.expect(p.GET_OK).body == b"%d" % sent


def test_who_stops_talking_is_dropped_in_time(shared: BrokerProcess) -> None:
    """A peer that says nothing, stops after any step of the handshake, or does not answer connection.close."""
    begun = time.monotonic()
    since = shared.log_size()
    opening = [p.PROTOCOL_HEADER, p.start_ok(), p.tune_ok()]
    waiting = []
    for said in (b"", b"AM", *(b"".join(opening[: n + 1]) for n in range(len(opening)))):
        peer = p.Peer(shared.port, handshake=False, timeout=HANDSHAKE_SECONDS_MAX + 5)
        peer.send(said)
        waiting.append(peer)
    with p.Peer(shared.port) as unfriendly:
        unfriendly.send(p.method(1, 50, 999))
        unfriendly.end()
        assert time.monotonic() - begun < CLOSE_SECONDS_MAX + 3
    for peer in waiting:
        port = local_port(peer)
        peer.end()
        assert HANDSHAKE_SECONDS_MAX - 1 < time.monotonic() - begun < HANDSHAKE_SECONDS_MAX + 4
        peer.close()
        wait_logged(shared, since, port)


def test_all_channels_of_a_connection(shared: BrokerProcess) -> None:
    with memory_under(shared.pid, 150 * MIB), p.Peer(shared.port, channels=0) as peer:
        peer.send(b"".join(map(p.channel_open, range(1, 2048))))
        for _ in range(1, 2048):
            peer.expect(p.CHANNEL_OPEN_OK)
        peer.send(b"".join([p.channel_close(n) + p.channel_open(n) for n in range(1, 2048)] * 3))
        for _ in range(3 * 2047):
            peer.expect(p.CHANNEL_OPEN_OK)
        peer.send(p.channel_open(2048))
        assert peer.expect_close(530)


@pytest.mark.parametrize(
    "junk",
    [
        pytest.param(p.method(1, 50, 999), id="methods"),
        pytest.param(p.HEARTBEAT, id="heartbeats"),
        pytest.param(GOOD_PUBLISH, id="publishes"),
    ],
)
def test_junk_after_an_error_costs_nobody_time(shared: BrokerProcess, junk: bytes) -> None:
    """The smallest wrong frames, as many as the socket takes, while connection.close awaits its answer."""
    with unharmed(shared, slowest_seconds=1.0, queue="junk"), p.Peer(shared.port, timeout=1.0) as peer:
        peer.send(p.method(1, 50, 999))
        junk *= 200_000
        try:
            for _ in range(20):
                peer.send(junk)
        except (ConnectionError, TimeoutError):
            pass


def test_200_connections_at_once(shared: BrokerProcess) -> None:
    """Each does one thing after the other that it should not, while good clients work."""
    since = shared.log_size()
    failures: list[str] = []
    names = [name for name in ATTACKS if name != "much random bytes"]
    ports: list[int] = []

    def misbehave(seed: int) -> None:
        randomness = random.Random(seed)
        for name in randomness.sample(names, 3):
            try:
                ports.append(ATTACKS[name](shared.port))
            except Exception as error:
                failures.append(f"{name}: {error!r}")

    with memory_under(shared.pid, 200 * MIB), unharmed(shared):
        threads = [threading.Thread(target=misbehave, args=(seed,)) for seed in range(200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures, failures
    log = shared.log(since)
    assert [port for port in ports if f" 127.0.0.1:{port} " not in log] == []


def test_more_connections_than_files(start_broker: StartBroker) -> None:
    """When the system has no file left for a connection, those that are there go on, and later ones come in."""
    broker = start_broker()
    with unharmed(broker, queue="files"):
        p.open_files_limit(broker.pid, 64)
        crowd = [socket.create_connection(("127.0.0.1", broker.port), timeout=5) for _ in range(200)]
        with p.Peer(broker.port, handshake=False, timeout=0.5) as late:
            late.send(p.PROTOCOL_HEADER)
            with pytest.raises((TimeoutError, p.Closed)):
                late.receive()
        for one in crowd:
            one.close()
        p.eventually(broker.answers, "new connections are taken again")


def test_connections_max(start_broker: StartBroker) -> None:
    broker = start_broker(environment={"PABAL_CONNECTIONS_MAX": "20"})
    peers = [p.Peer(broker.port) for _ in range(20)]
    with RawClient("127.0.0.1", broker.port) as late:
        late.start()
        late.start_ok()
        late.tune()
        late.send(0, Connection.TuneOk(2047, 131072, 0))
        late.send(0, Connection.Open("/"))
        close = late.expect(Connection.Close)
        text = "NOT_ALLOWED - connection refused: node connection limit (20) is reached"
        assert (close.reply_code, close.reply_text) == (530, text)
    waiting = [p.Peer(broker.port, handshake=False) for _ in range(100)]
    with p.Peer(broker.port, handshake=False) as late:
        assert late.end() == b"", "not even told"
    for one in waiting:
        one.close()
    peers[0].declare("q")
    peers.pop().close()

    def has_room() -> bool:
        with contextlib.suppress(AssertionError):  # the broker may not have noticed yet that the others are gone
            return broker.answers()
        return False

    p.eventually(has_room, "there is room again")
    for peer in peers:
        peer.close()


# --- Who does not read -------------------------------------------------------------------------------------------


def blocked_after(peer: p.Peer, data: bytes, most_bytes: int, seconds: float = 0.5) -> int:
    """Sends `data` again and again until nothing more is taken. Fails when that does not come."""
    peer.socket.settimeout(seconds)
    sent = 0
    view = memoryview(data)
    try:
        while sent < most_bytes:
            at = 0
            while at < len(data):
                done = peer.socket.send(view[at:])
                at += done
                sent += done
    except TimeoutError:
        return sent
    raise AssertionError(f"{sent} bytes were taken of a client that does not read")


FULL = p.long(b"\x0cx-max-lengthI\0\0\0\x01" + b"\x0ax-overflowS" + p.long(b"reject-publish"))


def test_a_publisher_that_never_reads_its_confirms(start_broker: StartBroker) -> None:
    """As long as the broker can say it in few bytes it goes on; every publish is confirmed in the end."""
    broker = start_broker()
    most = 2_000_000 if SLOW else 300_000
    with (
        memory_under(broker.pid, 150 * MIB),
        unharmed(broker),
        p.Peer(broker.port, receive_bytes=4096) as peer,
    ):
        peer.declare("confirms")
        peer.call(p.confirm_select(1), p.CONFIRM_OK)
        data = p.publish(1, "", "confirms", b"x", p.PERSISTENT) * 1000
        for _ in range(most // 1000):
            peer.send(data)
        peer.confirm(most)
        with p.Peer(broker.port) as other:
            assert other.ready("confirms") == most


def test_a_publisher_that_never_reads_its_nacks(start_broker: StartBroker) -> None:
    broker = start_broker()
    with (
        memory_under(broker.pid, 150 * MIB),
        unharmed(broker),
        p.Peer(broker.port, receive_bytes=4096) as peer,
    ):
        peer.call(p.method(1, 50, 10, b"\0\0" + p.short("full") + b"\x02" + FULL), p.DECLARE_OK)
        peer.call(p.confirm_select(1), p.CONFIRM_OK)
        print(blocked_after(peer, p.publish(1, "", "full", b"x") * 1000, 100 * MIB), "bytes taken")


def test_a_publisher_that_never_reads_its_returns(start_broker: StartBroker) -> None:
    broker = start_broker()
    with (
        memory_under(broker.pid, 150 * MIB),
        unharmed(broker),
        p.Peer(broker.port, receive_bytes=4096) as peer,
    ):
        data = p.publish(1, "", "nowhere", b"x" * 1000, mandatory=True) * 100
        print(blocked_after(peer, data, 400 * MIB), "bytes taken")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(p.method(0, 10, 70, p.long(b"secret") + p.short("why")), id="update-secret"),
        pytest.param(p.basic_qos(1, 1), id="qos"),
        pytest.param(p.channel_open(2) + p.channel_close(2), id="channels"),
        pytest.param(p.queue_declare(1, "again", durable=False), id="declare"),
        pytest.param(p.basic_get(1, "again"), id="get"),
        pytest.param(p.basic_consume(1, "again", "c") + p.method(1, 60, 30, p.short("c") + b"\0"), id="consume"),
        pytest.param(
            p.queue_declare(1, "gone", durable=False) + p.basic_consume(1, "gone", "") + p.queue_delete(1, "gone"),
            id="delete",
        ),
        pytest.param(p.method(1, 60, 110, b"\x01"), id="recover"),
        pytest.param(p.method(1, 20, 20, b"\x01"), id="flow"),
    ],
)
def test_who_never_reads_the_answers(shared: BrokerProcess, data: bytes) -> None:
    with memory_under(shared.pid, 150 * MIB), p.Peer(shared.port, receive_bytes=4096) as peer:
        peer.declare("again", durable=False)
        print(blocked_after(peer, data * (65_536 // len(data)), 200 * MIB), "bytes taken")
    assert shared.answers()


@pytest.mark.parametrize("no_ack", [False, True])
def test_gets_that_are_never_read(start_broker: StartBroker, no_ack: bool) -> None:
    """A few bytes ask for 300 MB."""
    broker = start_broker()
    with p.Peer(broker.port) as peer:
        peer.declare("large")
    p.fill(broker.port, "large", (b"x" * MIB for _ in range(300)))
    broker.restart()
    with memory_under(broker.pid, 150 * MIB), unharmed(broker), p.Peer(broker.port, receive_bytes=4096) as peer:
        peer.send(p.basic_get(1, "large", no_ack) * 300)
        with p.Peer(broker.port) as other:
            settled = -1
            while settled != (settled := other.ready("large")):  # as many as it takes, then no more
                threading.Event().wait(0.3)
        peer.socket.settimeout(p.WAIT_SECONDS_MAX)
        for _ in range(20):
            assert len(peer.expect(p.GET_OK).body) == MIB


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("no_ack", [True, False])
def test_a_consumer_that_never_reads(start_broker: StartBroker, durable: bool, no_ack: bool) -> None:
    """200 MB for it, and only for it: a transient queue keeps 64 MiB in memory, a durable one 8."""
    broker = start_broker()
    with (
        memory_under(broker.pid, 150 * MIB if durable else 250 * MIB),
        unharmed(broker),
        p.Peer(broker.port, receive_bytes=4096) as deaf,
    ):
        deaf.declare("deaf", durable=durable)
        deaf.call(p.basic_consume(1, "deaf", no_ack=no_ack), p.CONSUME_OK)
        p.fill(broker.port, "deaf", (b"x" * 10_000 for _ in range(20_000)), p.PERSISTENT if durable else p.TRANSIENT)
        with p.Peer(broker.port) as other:
            assert other.ready("deaf") > 15_000  # not poured into the deaf one's socket buffers
        if no_ack:
            return
        deaf.close()
        p.eventually(lambda: p.Peer(broker.port).ready("deaf") == 20_000, "all came back")


def test_a_consumer_that_reads_slowly(start_broker: StartBroker) -> None:
    """It gets all of it in order, and the others do not wait for it."""
    broker = start_broker()
    count = 4000
    with memory_under(broker.pid, 150 * MIB), unharmed(broker), p.Peer(broker.port, receive_bytes=8192) as slow:
        slow.declare("slow")
        slow.call(p.basic_consume(1, "slow"), p.CONSUME_OK)
        p.fill(broker.port, "slow", (b"%05d" % n + b"x" * 5000 for n in range(count)))
        for n in range(count):
            event = slow.expect(p.DELIVER)
            assert event.body[:5] == b"%05d" % n
            if n % 100 == 99:
                slow.send(p.ack(1, event.tag, multiple=True))
            if n % 1000 == 0:
                with p.Peer(broker.port) as other:  # a round trip of somebody else between two reads
                    other.ready("slow")


def test_consuming_and_acking_with_a_blocking_socket(start_broker: StartBroker) -> None:
    """No prefetch: the broker pours, the client reads one, acks it with a blocking send, reads the next."""
    broker = start_broker()
    count = 50_000
    with memory_under(broker.pid, 150 * MIB), p.Peer(broker.port, receive_bytes=16_384, send_bytes=8192) as peer:
        peer.declare("q")
        p.fill(broker.port, "q", (b"%d" % n + b"x" * 200 for n in range(count)))
        peer.send(p.basic_consume(1, "q"))
        taken = 0
        while taken < count:
            for event in peer.receive():
                if event.key == p.DELIVER:
                    peer.send(p.ack(1, event.tag))
                    taken += 1
        assert peer.ready("q") == 0
    assert p.Peer(broker.port).ready("q") == 0


def test_consuming_and_publishing_with_a_blocking_socket(start_broker: StartBroker) -> None:
    """What is read is published again, larger, with confirms, before the next is read: nobody waits for ever."""
    broker = start_broker()
    count = 10_000
    with memory_under(broker.pid, 200 * MIB), p.Peer(broker.port, receive_bytes=16_384, send_bytes=8192) as peer:
        peer.declare("from")
        peer.declare("to")
        peer.call(p.confirm_select(1), p.CONFIRM_OK)
        p.fill(broker.port, "from", (b"%d" % n + b"x" * 1000 for n in range(count)))
        peer.send(p.basic_consume(1, "from"))
        taken = confirmed = 0
        while confirmed < count:
            for event in peer.receive():
                if event.key == p.DELIVER:
                    again = p.publish(1, "", "to", event.body * 3, p.PERSISTENT)
                    peer.send(again + p.ack(1, event.tag))
                    taken += 1
                elif event.key == p.ACK:
                    confirmed = event.tag
    assert taken == count
    assert p.Peer(broker.port).ready("to") == count


def test_much_that_is_given_back_at_once(start_broker: StartBroker) -> None:
    """A consumer without prefetch took 100 MiB and dies: giving them back does not copy them all at once."""
    broker = start_broker()
    with p.Peer(broker.port) as peer:
        peer.declare("back")
    p.fill(broker.port, "back", (b"x" * MIB for _ in range(100)))
    broker.restart()
    with memory_under(broker.pid, 250 * MIB), unharmed(broker, slowest_seconds=1.5):
        with p.Peer(broker.port) as peer:
            peer.send(p.basic_consume(1, "back"))
            for _ in range(100):
                peer.expect(p.DELIVER)
        with p.Peer(broker.port) as peer:
            p.eventually(lambda: peer.ready("back") == 100, "all came back")
            peer.send(p.basic_get(1, "back"))
            assert peer.expect(p.GET_OK).redelivered


# --- Contents that do not end, or hold much ---------------------------------------------------------------------


def test_a_body_in_single_bytes_does_not_grow(start_broker: StartBroker) -> None:
    """Nine bytes of frame for one of body: what it costs to keep them counts against the limit as well, 506."""
    broker = start_broker()
    with memory_under(broker.pid, 350 * MIB), p.Peer(broker.port) as peer:
        peer.send(GOOD_PUBLISH + p.header(1, 100 * MIB))
        piece = p.bodies(1, b"x") * 10_000
        with contextlib.suppress(ConnectionError):
            for _ in range(450):
                peer.send(piece)
        assert (event := peer.next()).code == 506, event
    assert broker.answers()


def test_contents_begun_on_all_channels(start_broker: StartBroker) -> None:
    """256 MiB of unfinished contents is the limit of one connection: 506. Then all of it is given back."""
    broker = start_broker()
    with memory_under(broker.pid, 350 * MIB) as memory:
        with p.Peer(broker.port, channels=2000) as peer:
            try:
                for channel in range(1, 2001):
                    filler = p.frame(1, channel, b"\0\x3c\0\x28" + b"\0" * 131_000)  # a publish with much behind
                    properties = b"\x20\0" + p.long(b"\x01xx" + p.long(b"h" * 65_000))
                    peer.send(filler + p.header(channel, 100_000, properties) + p.bodies(channel, b"x" * 80_000))
            except ConnectionError:
                pass
            event = peer.next()
            assert (event.key, event.code) == (p.CONNECTION_CLOSE, 506), event
        print(f"at most {memory.most / MIB:.0f} MiB")
    assert broker.answers()


def test_a_message_of_128_mib(start_broker: StartBroker) -> None:
    broker = start_broker()
    body = random.Random(1).randbytes(MIB) * 128
    with p.Peer(broker.port, timeout=60) as peer:
        peer.declare("huge")
        peer.call(p.confirm_select(1), p.CONFIRM_OK)
        peer.send(p.publish(1, "", "huge", body, p.PERSISTENT))
        peer.confirm(1)
    broker.restart(kill=True)
    with p.Peer(broker.port, timeout=60) as peer:
        peer.send(p.basic_consume(1, "huge"))
        event = peer.expect(p.DELIVER)
        assert event.body == body
        peer.send(p.ack(1, event.tag))
        assert peer.ready("huge") == 0


@pytest.mark.parametrize("source", ["environment", "file"])
def test_the_message_limit_is_a_setting(start_broker: StartBroker, tmp_path: Path, source: str) -> None:
    if source == "file":
        file = tmp_path / "pabal.toml"
        file.write_text("message_bytes_max = 5000\n")
        broker = start_broker(arguments=["--config", str(file)])
    else:
        broker = start_broker(environment={"PABAL_MESSAGE_BYTES_MAX": "5000"})
    with p.Peer(broker.port, channels=2) as peer:
        peer.declare("q")
        peer.call(p.confirm_select(2), p.CONFIRM_OK)
        peer.send(p.publish(1, "", "q", b"x" * 5000) + p.publish(1, "", "q", b"x" * 5001))
        event = peer.next()
        assert (event.key, event.code, event.channel) == (p.CHANNEL_CLOSE, 406, 1)
        assert "5001" in event.text and "5000" in event.text
        peer.send(p.publish(2, "", "q", b"x" * 5000, p.PERSISTENT))
        peer.confirm(1)
        assert peer.call(p.queue_declare(2, "q", passive=True), p.DECLARE_OK).count == 2


# --- A slow disk --------------------------------------------------------------------------------------------------

SLOW_DISK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <unistd.h>
static void wait_some(void) { usleep(access("slow", F_OK) == 0 ? 1000000 : 0); }
int fdatasync(int fd) { wait_some(); return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd); }
int fsync(int fd) { wait_some(); return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd); }
int msync(void *at, size_t size, int flags)
{ wait_some(); return ((int (*)(void *, size_t, int))dlsym(RTLD_NEXT, "msync"))(at, size, flags); }
"""


@pytest.fixture
def slow_disk(start_broker: StartBroker, tmp_path: Path) -> BrokerProcess:
    """A broker whose every sync of a file takes 1 s as long as a file "slow" lies beside its data."""
    source = tmp_path / "slow.c"
    source.write_text(SLOW_DISK)
    try:
        subprocess.run(
            ["cc", "-shared", "-fPIC", "-o", str(tmp_path / "slow.so"), str(source), "-ldl"],
            check=True,
            capture_output=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no C compiler: {error}")
    return start_broker(environment={"LD_PRELOAD": str(tmp_path / "slow.so"), "PYTHONPATH": str(SOURCE)})


def test_a_slow_disk_and_a_client_that_does_not_wait(slow_disk: BrokerProcess) -> None:
    """While a declaration's commit takes its time, what the client goes on sending is not gathered without end."""
    with memory_under(slow_disk.pid, 150 * MIB), p.Peer(slow_disk.port) as peer:
        (slow_disk.directory / "slow").touch()
        peer.send(p.queue_declare(1, "q"))
        data = p.publish(1, "", "nowhere", b"x" * 100_000) * 10
        begun = time.monotonic()
        for _ in range(400):
            peer.send(data)
            if time.monotonic() - begun > 5:
                break
        peer.expect(p.DECLARE_OK)
        (slow_disk.directory / "slow").unlink()


def test_a_slow_disk_and_fast_publishers(slow_disk: BrokerProcess) -> None:
    """What waits for the disk is bounded, and all of it is there in the end."""
    with memory_under(slow_disk.pid, 300 * MIB), p.Peer(slow_disk.port) as peer:
        peer.declare("q")
        (slow_disk.directory / "slow").touch()
        count = p.fill(slow_disk.port, "q", (b"x" * 50_000 for _ in range(800)))
        assert peer.ready("q") == count
        (slow_disk.directory / "slow").unlink()


# --- A million ------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not SLOW, reason="takes a minute: PABAL_SLOW=1")
@pytest.mark.timeout(300)
def test_a_million_durable_messages(start_broker: StartBroker) -> None:
    """Little memory, and after kill -9 the first of them is delivered within a second."""
    broker = start_broker()
    count = 1_000_000
    memory = Memory(broker.pid)
    with p.Peer(broker.port) as peer:
        peer.declare("million")
    begun = time.monotonic()
    p.fill(broker.port, "million", (b"%010d" % n + b"x" * 90 for n in range(count)))
    print(f"filled in {time.monotonic() - begun:.1f} s, {memory.most / MIB:.0f} MiB")
    broker.kill()
    memory.stop()
    memory.check(200 * MIB)
    begun = time.monotonic()
    broker.start()
    accepting = time.monotonic()
    with p.Peer(broker.port) as peer:
        peer.send(p.basic_consume(1, "million"))
        first = peer.expect(p.DELIVER)
        delivered = time.monotonic()
        assert first.body[:10] == b"%010d" % 0
    print(f"accepting {accepting - begun:.2f} s after its start, first delivery {delivered - accepting:.3f} s later")
    assert delivered - accepting < 1.0
    with p.Peer(broker.port) as peer:
        p.eventually(lambda: peer.ready("million") == count, "all are ready again")
    memory = Memory(broker.pid)
    seen = 0
    with p.Peer(broker.port) as peer:
        peer.call(p.basic_qos(1, 2000), p.QOS_OK)
        peer.send(p.basic_consume(1, "million"))
        while seen < count:
            events = [event for event in peer.receive() if event.key == p.DELIVER]
            for event in events:
                assert event.body[:10] == b"%010d" % seen
                seen += 1
            if events:
                peer.send(p.ack(1, events[-1].tag, multiple=True))
        p.eventually(lambda: peer.ready("million") == 0, "the queue is empty")
    memory.stop()
    print(f"drained with {memory.most / MIB:.0f} MiB, with mapped files {memory.most_mapped / MIB:.0f} MiB")
    memory.check(200 * MIB)
