"""What a change of policies costs: `python benchmarks/policy_change.py [messages]`. Engine and LMDB, no network."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from struct import pack
from typing import Any

from pabal.broker.broker import Broker
from pabal.model.definitions import PolicyDefinition
from pabal.model.message import Envelope
from pabal.session.amqp091.container import Amqp091Container
from pabal.store.lmdb_store import LmdbStore

BODY_BYTES = 100
QUEUES = 10_000
POLICIES = 11


def content() -> bytes:
    """Header and body frames as they come from a client."""
    header = pack(">HHQHB", 60, 0, BODY_BYTES, 0x1000, 2)
    frames = ((2, header), (3, bytes(BODY_BYTES)))
    return b"".join(pack(">BHI", kind, 1, len(payload)) + payload + b"\xce" for kind, payload in frames)


def timed(what: str, action: Callable[[], object]) -> None:
    begun = time.perf_counter()
    action()
    print(f"{time.perf_counter() - begun:8.3f} s  {what}")


def main(messages: int, directory: Path) -> None:
    container = Amqp091Container()
    store = LmdbStore(directory, {container.code: container})
    broker = Broker(store, time.time_ns() // 1_000_000, lambda: "token")
    broker.add_vhost("/")
    vhost = broker.vhosts["/"]

    def commit() -> None:
        while store.begin():
            store.finish()
            store.done()

    def put(pattern: str, **definition: Any) -> None:
        keys = {key.replace("_", "-"): value for key, value in definition.items()}
        broker.put_policy(PolicyDefinition("/", f"policy {pattern}", pattern, keys))

    queue, _ = vhost.declare_queue("long", True, False, False, {}, None)
    envelope, batch = Envelope("", "long", True, None, container), [content()] * 1000
    for _ in range(messages // 1000):
        vhost.publish(envelope, batch, sum(map(len, batch)))
        commit()
    timed(f"count the bytes of {queue.ready} messages", lambda: put("^long", max_length_bytes=10**15))
    timed(f"drop {queue.ready // 2} messages", lambda: put("^long", max_length=queue.ready // 2))
    timed("commit that", commit)
    for number in range(QUEUES):
        vhost.declare_queue(f"queue {number}", True, False, False, {}, None)
    for number in range(POLICIES - 2):
        put(f"^other {number}", max_length=1)
    timed(f"{POLICIES} policies over {QUEUES} queues that do not change", lambda: put("^none", max_length=1))
    store.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000, Path(name))
