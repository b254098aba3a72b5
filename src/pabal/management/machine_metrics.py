"""Metrics of the broker as a whole: what all vhosts counted, the store, turns and commits, the process, alarms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pabal.broker.broker import Broker
from pabal.broker.statistics import COUNTED
from pabal.management import families as f
from pabal.management.exposition import COUNTER, GAUGE, Family, Row, histogram, labels, single
from pabal.management.measured import ProcessFacts
from pabal.management.statistics import channels

Group = tuple[str, Sequence[Family], list[Row]]
_OWN = "pabal_"
_PROTOCOL = "amqp091"
_QUEUE_TYPE = "rabbit_classic_queue"


def node_groups(broker: Broker, facts: ProcessFacts) -> list[Group]:
    """RabbitMQ's groups that have one row or a few: their names, families and rows."""
    return [*_process_groups(broker, facts), *_message_groups(broker)]


def _process_groups(broker: Broker, facts: ProcessFacts) -> list[Group]:
    counted, journal = broker.statistics, broker.store.journal
    commits = facts.durations.get("commit")
    churn = (
        counted.connections_opened,
        counted.connections_closed,
        counted.channels_opened,
        counted.channels_closed,
        counted.queues_declared,
        counted.queues_created,
        counted.queues_deleted,
    )
    coarse = (facts.files, facts.sockets, facts.memory_bytes, facts.disk_free_bytes)
    uptime_s = max(broker.now_ms - facts.started_ms, 0) / 1000
    node = (facts.files_max, facts.sockets_max, facts.memory_bytes_max, facts.disk_free_bytes_min, uptime_s)
    syncs, sync_s = (sum(commits.counts), commits.total_s) if commits is not None else (0, 0.0)
    totals = (
        len(broker.clients),
        sum(len(client.open_channels) for client in broker.clients.values()),
        _consumers(broker),
        sum(len(vhost.queues) for vhost in broker.vhosts.values()),
    )
    return [
        ("connection_churn_metrics", f.CHURN, [("", churn)]),
        ("node_coarse_metrics", f.NODE_COARSE, [("", coarse)]),
        ("node_metrics", f.NODE, [("", node)]),
        (
            "node_persister_metrics",
            f.PERSISTER,
            [("", (syncs, sync_s, journal.messages_read, journal.messages_written))],
        ),
        ("auth_attempt_metrics", f.AUTHENTICATION, _logins(broker)),
        ("totals", f.TOTALS, [("", totals)]),
        ("alarms", f.ALARMS, [("", (0, int("disk" in broker.alarms), int("memory" in broker.alarms)))]),
    ]


def _logins(broker: Broker) -> list[Row]:
    known = {_PROTOCOL: (0, 0), **broker.statistics.logins}
    return [
        (labels(protocol=protocol), (successes + failures, successes, failures))
        for protocol, (successes, failures) in known.items()
    ]


def _consumers(broker: Broker) -> int:
    return sum(len(queue.consumers) for vhost in broker.vhosts.values() for queue in vhost.queues.values())


def _message_groups(broker: Broker) -> list[Group]:
    """RabbitMQ's global counters, of all protocols and types of queues together: the labels say the most common."""
    sums = dict(zip(COUNTED, broker.counted(), strict=True))
    publishers = sum(1 for channel in channels(broker) if channel.counters.publish)
    unroutable = sums["return_unroutable"] + sums["drop_unroutable"]
    publishing = (
        sums["publish"],
        sums["publish_confirming"],
        sums["publish"] - unroutable,
        sums["confirm"],
        sums["return_unroutable"],
        sums["drop_unroutable"],
        publishers,
        _consumers(broker),
    )
    handed = [sums[name] for name in ("deliver_no_ack", "deliver", "get_no_ack", "get")]
    delivery = (sum(handed), *handed, sums["get_empty"], sums["redeliver"], sums["ack"])
    groups: list[Group] = [
        ("global", f.GLOBAL_PUBLISHING, [(labels(protocol=_PROTOCOL), publishing)]),
        ("global", f.GLOBAL_DELIVERY, [(labels(protocol=_PROTOCOL, queue_type=_QUEUE_TYPE), delivery)]),
    ]
    for reason in f.DEAD_LETTER_REASONS:
        family = Family(f"global_messages_dead_lettered_{reason}_total", COUNTER, f"Messages that died: {reason}")
        rows: list[Row] = [
            (
                labels(queue_type=_QUEUE_TYPE, dead_letter_strategy=strategy),
                (broker.statistics.dead_letters.get((reason, strategy), 0),),
            )
            for strategy in ("at_most_once", "at_least_once", "disabled")
        ]
        groups.append(("global", (family,), rows))
    return groups


def own_pieces(broker: Broker, facts: ProcessFacts) -> Iterator[str]:
    """What only Pabal has."""
    statistics, journal = broker.statistics, broker.store.journal
    dead = [
        (labels(reason=reason, strategy=strategy), count)
        for (reason, strategy), count in statistics.dead_letters.items()
    ]
    yield single(_OWN, Family("dead_letters_total", COUNTER, "Messages that died in a queue, by reason"), *dead)
    form = labels(version=facts.version, python=facts.python_version, compiled=str(facts.compiled).lower())
    yield single(_OWN, Family("build_info", GAUGE, "What runs"), (form, 1))
    for name, kind, text, value in (
        ("leases_expired_total", COUNTER, "Leases that ran out", statistics.leases_expired),
        ("late_settlements_total", COUNTER, "Settlements that came after that", statistics.late_settlements),
        ("log_entries_total", COUNTER, "Commits to the write-ahead log", journal.entries),
        ("checkpoints_total", COUNTER, "Commits to the data file", journal.checkpoints),
        ("unsaved_bytes", GAUGE, "Contents that wait for a commit", journal.unsaved_bytes),
        ("unstored_bytes", GAUGE, "Contents that wait for a checkpoint", journal.unstored_bytes),
        ("store_bytes", GAUGE, "Size of the data file", facts.store_bytes),
        ("store_free_bytes", GAUGE, "What of it is free", facts.store_free_bytes),
        ("vhosts", GAUGE, "Vhosts", len(broker.vhosts)),
    ):
        yield single(_OWN, Family(name, kind, text), ("", value))
    for name, text in (
        ("turn", "From the first thing decided in a pass of the loop to the end of its turn"),
        ("commit", "From the begin of a commit to when it is known to be durable"),
        ("loop_lag", "How late the event loop serves a timer of every second"),
    ):
        durations = facts.durations.get(name)
        if durations is not None:
            family = Family(f"{name}_seconds", "histogram", text)
            yield histogram(_OWN, family, durations.bounds, durations.counts, durations.total_s)
    cpu = Family("process_cpu_seconds_total", COUNTER, "CPU time of the process")
    start = Family("process_start_time_seconds", GAUGE, "When it started, since the epoch")
    yield single("", cpu, ("", facts.cpu_seconds)) + single("", start, ("", facts.started_ms / 1000))


def identity(facts: ProcessFacts) -> str:
    """What the dashboards join everything with."""
    built = labels(
        rabbitmq_version=facts.rabbitmq_version,
        prometheus_plugin_version=facts.rabbitmq_version,
        prometheus_client_version=facts.version,
        erlang_version=f"Python {facts.python_version}",
        product_name="Pabal",
        product_version=facts.version,
    )
    named = labels(
        rabbitmq_node=facts.node, rabbitmq_cluster=facts.cluster, rabbitmq_cluster_permanent_id=facts.cluster_id
    )
    return single("rabbitmq_", Family("build_info", GAUGE, "What runs"), (built, 1)) + single(
        "rabbitmq_", Family("identity_info", GAUGE, "Which broker this is"), (named, 1)
    )
