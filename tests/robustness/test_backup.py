"""A backup of the living broker under load: what was confirmed before it began and not settled is in it, in order and
once; and what is refused when it is restored."""

from __future__ import annotations

import base64
import contextlib
import shutil
import subprocess
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pika
import pytest

from broker_process import BrokerProcess, free_port
from pabal.store.audit import check
from pabal.store.backup import BackupError, restore

StartBroker = Callable[..., BrokerProcess]
PERSISTENT = pika.BasicProperties(delivery_mode=2)
READY = 3000


def fetch(port: int, path: Path) -> None:
    """POST /api/pabal/backup into a file."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/api/pabal/backup", b"", method="POST")
    request.add_header("authorization", "Basic " + base64.b64encode(b"guest:guest").decode())
    with urllib.request.urlopen(request, timeout=60) as answer, path.open("wb") as file:
        shutil.copyfileobj(answer, file)


class Load(threading.Thread):
    """Publishes to "flow" with confirms, and takes every other message away again. `confirmed`: those left alone."""

    def __init__(self, broker: BrokerProcess) -> None:
        super().__init__(daemon=True)
        self.broker = broker
        self.confirmed: list[int] = []
        self.halt = False
        self.failure: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            connection = pika.BlockingConnection(pika.URLParameters(self.broker.url))
            channel = connection.channel()
            channel.confirm_delivery()
            number = 0
            while not self.halt:
                number += 1
                channel.basic_publish("", "flow", b"%d" % number, PERSISTENT)
                self.confirmed.append(number)
                channel.basic_publish("", "settled", b"x" * 3000, PERSISTENT)
                method, _, _ = channel.basic_get("settled", auto_ack=False)
                channel.basic_ack(method.delivery_tag)
            connection.close()
        except Exception as error:
            self.failure = error


def bodies(broker: BrokerProcess, queue: str) -> list[bytes]:
    connection = pika.BlockingConnection(pika.URLParameters(broker.url))
    channel = connection.channel()
    found = []
    while True:
        method, _, body = channel.basic_get(queue, auto_ack=True)
        if method is None:
            break
        found.append(body)
    connection.close()
    return found


@pytest.fixture
def backup_file(start_broker: StartBroker, tmp_path: Path) -> tuple[Path, Load, int, int]:
    """Of a broker under load: the file, the load, and how much of it was confirmed before and by the end."""
    port = free_port()
    broker = start_broker(http_port=port)
    connection = pika.BlockingConnection(pika.URLParameters(broker.url))
    channel = connection.channel()
    for queue in ("ready", "flow", "settled", "fan"):
        channel.queue_declare(queue, durable=True)
    for queue in ("ready", "fan"):
        channel.queue_bind(queue, "amq.fanout")
    channel.confirm_delivery()
    for number in range(READY):
        channel.basic_publish("amq.fanout", "", b"%d" % number + bytes(5000 if number % 9 == 0 else 50), PERSISTENT)
    load = Load(broker)
    while len(load.confirmed) < 200:
        assert load.failure is None
    file = tmp_path / "backup.tar"
    before = len(load.confirmed)
    fetch(port, file)
    after = len(load.confirmed)
    load.halt = True
    load.join(20)
    assert load.failure is None
    connection.close()
    broker.stop()
    assert not (broker.data / "pabal.backup").exists()
    return file, load, before, after


def test_a_backup_under_load(
    backup_file: tuple[Path, Load, int, int], start_broker: StartBroker, tmp_path: Path
) -> None:
    file, load, before, _ = backup_file
    subprocess.run(["tar", "-xf", file, "-C", tmp_path], check=True)
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path, check=True)
    (tmp_path / "broker-1").mkdir()
    restore(file, tmp_path / "broker-1" / "data")
    lines: list[str] = []
    assert check(tmp_path / "broker-1" / "data", lines.append) == 0, lines
    restored = start_broker()
    expected = [b"%d" % number + bytes(5000 if number % 9 == 0 else 50) for number in range(READY)]
    assert bodies(restored, "ready") == expected
    assert bodies(restored, "fan") == expected
    flow = [int(body) for body in bodies(restored, "flow")]
    assert flow == list(range(1, len(flow) + 1)), "in order, each once"
    assert before <= len(flow) <= len(load.confirmed)
    assert len(bodies(restored, "settled")) <= 1
    restored.stop()


def test_what_cannot_be_restored(backup_file: tuple[Path, Load, int, int], tmp_path: Path) -> None:
    file = backup_file[0]
    data = file.read_bytes()
    target = tmp_path / "target"
    for number, broken in enumerate((data[: len(data) // 2], data[:600], b"", b"no tar at all", _flipped(data))):
        path = tmp_path / f"broken{number}.tar"
        path.write_bytes(broken)
        with pytest.raises(BackupError):
            restore(path, target)
        assert [each.name for each in target.iterdir()] in ([], ["pabal.lock"]), "or not at all"
    with pytest.raises(BackupError, match=r"missing\.tar"):
        restore(tmp_path / "missing.tar", target)
    restore(file, target)
    with pytest.raises(BackupError, match="has data"):
        restore(file, target)


def _flipped(data: bytes) -> bytes:
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_a_broker_that_is_stopped_gives_up_its_backup(start_broker: StartBroker, tmp_path: Path) -> None:
    port = free_port()
    broker = start_broker(http_port=port)
    connection = pika.BlockingConnection(pika.URLParameters(broker.url))
    channel = connection.channel()
    channel.queue_declare("q", durable=True)
    for _ in range(3000):
        channel.basic_publish("", "q", bytes(50_000), PERSISTENT)
    channel.queue_declare("q", passive=True)
    asked = threading.Thread(target=_fetch_quietly, args=(port, tmp_path / "backup.tar"), daemon=True)
    asked.start()
    while not list(broker.data.glob("pabal.backup")) and asked.is_alive() and broker.log().count("backup made") == 0:
        pass
    broker.stop()
    broker.start()
    channel = pika.BlockingConnection(pika.URLParameters(broker.url)).channel()
    assert channel.queue_declare("q", passive=True).method.message_count == 3000
    broker.stop()


def _fetch_quietly(port: int, path: Path) -> None:
    with contextlib.suppress(OSError):
        fetch(port, path)
