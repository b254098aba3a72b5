"""Metrics for Prometheus: as its own parser reads them, exact, and those that RabbitMQ's dashboards ask for."""

from __future__ import annotations

import gc
import re
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from engine import Engine, TakingConsumer
from pabal.broker.broker import Broker
from pabal.management.measured import Durations, ProcessFacts
from pabal.management.metrics import AGGREGATED, DETAILED, PER_OBJECT, pieces
from pabal.model.message import Outcome

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
DASHBOARD_METRICS = Path(__file__).parent / "dashboard_metrics.txt"
"""Every name in the expressions of RabbitMQ-Overview.json, of RabbitMQ 3.10 and of 4.1 together."""
NOT_THERE = {f"rabbitmq_message_size_bytes_{part}" for part in ("bucket", "sum", "count")}
"""Of RabbitMQ 4.1's: see the page."""
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def metrics_text(broker: Broker, facts: ProcessFacts, kind: str = AGGREGATED, query: str = "") -> str:
    return "".join(pieces(broker, facts, kind, query))


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def facts() -> ProcessFacts:
    durations = {name: Durations([0.001, 0.01]) for name in ("turn", "commit", "loop_lag")}
    return ProcessFacts(node="pabal@here", cluster="here", memory_bytes=5, durations=durations)


def read(text: str) -> Samples:
    """Every sample by its name and labels. Each family comes once, and says its type."""
    found: Samples = {}
    seen: set[str] = set()
    for family in text_string_to_metric_families(text):
        assert family.name not in seen
        assert family.type != "unknown"
        seen.add(family.name)
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[(name, frozenset(labels.items()))]


def names(samples: Samples) -> set[str]:
    return {name for name, _ in samples}


def work(engine: Engine) -> None:
    """Five messages to q: two acknowledged, one rejected, two with a consumer; one waits in `other`."""
    queue = engine.queue()
    engine.queue("other")
    engine.publish(*"abcde")
    engine.publish("f", key="other")
    consumer = TakingConsumer(queue)
    queue.add_consumer(consumer)
    engine.turn()
    queue.settle(consumer.held[:2], consumer, Outcome.ACCEPT)
    queue.settle(consumer.held[2:3], consumer, Outcome.REJECT)
    engine.commit()


def test_sums(engine: Engine, facts: ProcessFacts) -> None:
    work(engine)
    found = read(metrics_text(engine.broker, facts))
    for name, expected in {
        "rabbitmq_queues": 2,
        "rabbitmq_consumers": 1,
        "rabbitmq_queue_messages_ready": 1,
        "rabbitmq_queue_messages_unacked": 2,
        "rabbitmq_queue_messages": 3,
        "rabbitmq_queue_messages_published_total": 6,
        "rabbitmq_queue_consumers": 1,
        "rabbitmq_queues_created_total": 2,
        "rabbitmq_process_resident_memory_bytes": 5,
        "rabbitmq_channel_messages_acked_total": 2,
        "pabal_queue_messages_delivered_ack_total": 5,
        "pabal_queue_dead_letters_total": 1,
        "pabal_exchange_messages_in_total": 6,
        "pabal_exchange_messages_out_total": 6,
    }.items():
        assert value(found, name) == expected, name
    assert value(found, "rabbitmq_global_messages_received_total", protocol="amqp091") == 6
    assert value(found, "rabbitmq_global_messages_routed_total", protocol="amqp091") == 6
    assert value(found, "pabal_dead_letters_total", reason="rejected", strategy="disabled") == 1


def test_sums_never_go_back(engine: Engine, facts: ProcessFacts) -> None:
    work(engine)
    before = read(metrics_text(engine.broker, facts))
    for name in ("q", "other"):
        engine.vhost.delete_queue(engine.vhost.queues[name])
    after = read(metrics_text(engine.broker, facts))
    engine.broker.delete_vhost("/")
    later = read(metrics_text(engine.broker, facts))
    assert value(later, "rabbitmq_global_messages_received_total", protocol="amqp091") == 6
    for (name, labels), count in before.items():
        if name.endswith("_total"):
            assert after[(name, labels)] >= count, name


def test_each_object(engine: Engine, facts: ProcessFacts) -> None:
    work(engine)
    found = read(metrics_text(engine.broker, facts, PER_OBJECT))
    assert value(found, "rabbitmq_queue_messages_unacked", vhost="/", queue="q") == 2
    assert value(found, "rabbitmq_queue_messages_unacked", vhost="/", queue="other") == 0
    assert value(found, "rabbitmq_queue_messages_ready", vhost="/", queue="other") == 1
    assert value(found, "pabal_queue_messages_acked_total", vhost="/", queue="q") == 2
    assert value(found, "pabal_exchange_messages_in_total", vhost="/", exchange="", type="direct") == 6


def test_only_what_is_asked_for(engine: Engine, facts: ProcessFacts) -> None:
    work(engine)
    engine.broker.add_vhost("there")
    query = "family=queue_coarse_metrics&family=queue_consumer_count&vhost=%2F"
    found = read(metrics_text(engine.broker, facts, DETAILED, query))
    assert names(found) == {
        "rabbitmq_detailed_queue_messages_ready",
        "rabbitmq_detailed_queue_messages_unacked",
        "rabbitmq_detailed_queue_messages",
        "rabbitmq_detailed_queue_consumers",
        "rabbitmq_build_info",
        "rabbitmq_identity_info",
    }
    assert value(found, "rabbitmq_detailed_queue_consumers", vhost="/", queue="q") == 1
    other = read(metrics_text(engine.broker, facts, DETAILED, "family=queue_coarse_metrics&vhost=there"))
    assert not any(labels for name, labels in other if "queue" in name)
    cluster = read(metrics_text(engine.broker, facts, DETAILED, "family=vhost_status&family=exchange_bindings"))
    assert value(cluster, "rabbitmq_cluster_vhost_status", vhost="there") == 1
    assert value(cluster, "rabbitmq_cluster_exchange_bindings", vhost="/", exchange="amq.topic", type="topic") == 0


def test_names_with_anything_in_them(engine: Engine, facts: ProcessFacts) -> None:
    name = 'a "quote", a \\ and\na line'
    engine.queue(name)
    assert (
        value(read(metrics_text(engine.broker, facts, PER_OBJECT)), "rabbitmq_queue_messages", vhost="/", queue=name)
        == 0
    )


def test_durations(engine: Engine, facts: ProcessFacts) -> None:
    for seconds in (0.0005, 0.001, 0.005, 2.0):
        facts.durations["commit"].add(seconds)
    found = read(metrics_text(engine.broker, facts))
    buckets = [value(found, "pabal_commit_seconds_bucket", le=bound) for bound in ("0.001", "0.01", "+Inf")]
    assert buckets == [2, 3, 4]
    assert value(found, "pabal_commit_seconds_count") == 4
    assert value(found, "pabal_commit_seconds_sum") == pytest.approx(2.0065)
    assert value(found, "rabbitmq_io_sync_ops_total") == 4


def test_alarms(engine: Engine, facts: ProcessFacts) -> None:
    engine.broker.alarms = ("disk",)
    found = read(metrics_text(engine.broker, facts))
    assert value(found, "rabbitmq_alarms_free_disk_space_watermark") == 1
    assert value(found, "rabbitmq_alarms_memory_used_watermark") == 0


def test_the_dashboards_find_what_they_ask_for(engine: Engine, facts: ProcessFacts) -> None:
    """... with the labels that they join by."""
    found = read(metrics_text(engine.broker, facts, AGGREGATED))
    asked = set(DASHBOARD_METRICS.read_text().split())
    assert len(asked) > 30
    missing = asked - names(found)
    assert missing == NOT_THERE
    [identity] = [dict(labels) for name, labels in found if name == "rabbitmq_identity_info"]
    assert {"rabbitmq_node", "rabbitmq_cluster"} <= identity.keys()
    [build] = [dict(labels) for name, labels in found if name == "rabbitmq_build_info"]
    assert {"rabbitmq_version", "erlang_version"} <= build.keys()


def test_the_page_names_every_metric(engine: Engine, facts: ProcessFacts) -> None:
    work(engine)
    every = names(read(metrics_text(engine.broker, facts, PER_OBJECT)))
    text = PAGE.read_text()
    shown = {re.sub("_(bucket|sum|count)$", "", name) for name in every}
    assert [name for name in sorted(shown) if f"`{name}`" not in text] == []
    assert all(re.sub("_(bucket|sum|count)$", "", name) in text for name in NOT_THERE)


def test_no_piece_takes_long_with_ten_thousand_queues(engine: Engine, facts: ProcessFacts) -> None:
    for number in range(10_000):
        engine.queue(f"queue-{number}", durable=False)
    engine.publish(*"abc", key="queue-7")
    gc.collect()
    gc.disable()
    try:
        for kind in (AGGREGATED, PER_OBJECT):
            slowest = 0.0
            begun = time.thread_time()
            for _ in pieces(engine.broker, facts, kind):
                slowest = max(slowest, time.thread_time() - begun)
                begun = time.thread_time()
            assert slowest < 0.25  # of the processor's time: a hundredth of that, mostly
    finally:
        gc.enable()
