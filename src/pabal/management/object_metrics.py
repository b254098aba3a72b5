"""Metrics of queues, channels, connections, exchanges and vhosts: what each family says of each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pabal.broker.broker import Broker
from pabal.broker.clients import Client, ClientChannel
from pabal.broker.exchange import Exchange
from pabal.broker.queue import Queue
from pabal.broker.statistics import COUNTED, Counters
from pabal.broker.vhost import Vhost
from pabal.management import families as f
from pabal.management.exposition import Family, Value, labels
from pabal.management.statistics import MESSAGE_OVERHEAD_BYTES, channel_name, channels

Values = tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """Objects of one kind: all of them, and the labels of one."""

    objects: Callable[[Broker, list[Vhost]], list[Any]]
    labels: Callable[[Any], str]


@dataclass(frozen=True, slots=True)
class Table:
    """Families that RabbitMQ shows together under a `name`. `counted`: of sums, which counters of the broker stand
    for them, since those of what has ended must not be missing: a counter that goes back misleads."""

    name: str
    families: Sequence[Family]
    values: Callable[[Any], Values]
    counted: Sequence[str] = ()


def total(broker: Broker, table: Table, sums: Sequence[Value]) -> Sequence[Value]:
    """What a table says of all objects together."""
    if table.counted:
        counted = dict(zip(COUNTED, broker.counted(), strict=True))
        return [counted[name] for name in table.counted]
    if table.name == "connection_coarse_metrics":
        received, sent, _, _ = broker.octets()
        return [received, sent]
    if table.name == "connection_metrics":
        _, _, received, sent = broker.octets()
        return [received, sent, *sums[2:]]
    if table.families is f.OWN_QUEUE:
        statistics = broker.statistics
        dead = dict(zip(COUNTED, broker.counted(), strict=True))["dead_letter"]
        return [dead, statistics.leases_expired, statistics.late_settlements, *sums[3:]]
    return sums


# --- Queues -------------------------------------------------------------------------------------------------


def _all_queues(broker: Broker, vhosts: list[Vhost]) -> list[Queue]:
    return [queue for vhost in vhosts for queue in vhost.queues.values()]


def _queue_labels(queue: Queue) -> str:
    return labels(vhost=queue.vhost.name, queue=queue.name)


def _queue_coarse(queue: Queue) -> Values:
    ready, leased = queue.ready, queue.leased
    return ready, leased, ready + leased


def _queue_consumers(queue: Queue) -> Values:
    return (len(queue.consumers),)


def _queue(queue: Queue) -> Values:
    """As in statistics.queue, which says what these are."""
    consumers = len(queue.consumers)
    if not (queue.ready or queue.leased):
        busy = 1 if consumers else 0
        return consumers, busy, busy, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
    backlog = queue.backlog
    ready, leased, on_disk, stored = queue.ready, queue.leased, backlog.on_disk, queue.log.count
    ready_bytes, leased_bytes, held_bytes = backlog.ready_bytes, queue.leased_bytes, backlog.content_bytes
    held = ready + leased - on_disk
    busy = 1 if consumers and not ready else 0
    return (
        consumers,
        busy,
        busy,
        held_bytes + leased_bytes + held * MESSAGE_OVERHEAD_BYTES,
        held,
        held_bytes + leased_bytes,
        max(ready - on_disk, 0),
        leased,
        stored,
        stored * backlog.mean_bytes,
        ready_bytes + leased_bytes,
        ready_bytes,
        leased_bytes,
        on_disk,
        ready_bytes - held_bytes,
    )


def _queue_published(queue: Queue) -> Values:
    return (queue.counters.publish,)


def _handed(counters: Counters) -> Values:
    """In the order of COUNTED_HANDED."""
    return (
        counters.get,
        counters.get_no_ack,
        counters.deliver,
        counters.deliver_no_ack,
        counters.redeliver,
        counters.ack,
        counters.get_empty,
    )


_COUNTED_HANDED: Final = ("get", "get_no_ack", "deliver", "deliver_no_ack", "redeliver", "ack", "get_empty")


def _queue_delivery(queue: Queue) -> Values:
    return _handed(queue.counters)


def _own_queue(queue: Queue) -> Values:
    return queue.counters.dead_letter, queue.expired_leases, queue.late_settlements, queue.waiting_count


# --- Channels and connections -------------------------------------------------------------------------------


def _all_channels(broker: Broker, vhosts: list[Vhost]) -> list[ClientChannel]:
    return channels(broker)


def _channel_labels(channel: ClientChannel) -> str:
    return labels(channel=channel_name(channel), vhost=channel.client.vhost_name)


def _channel(channel: ClientChannel) -> Values:
    return (
        len(channel.open_consumers),
        channel.unacknowledged,
        channel.unconfirmed,
        channel.uncommitted,
        channel.uncommitted_acknowledgements,
        channel.consumer_prefetch,
        channel.channel_prefetch,
    )


def _channel_exchange(channel: ClientChannel) -> Values:
    counters = channel.counters
    return counters.publish, counters.confirm, counters.return_unroutable, counters.drop_unroutable


def _channel_queue(channel: ClientChannel) -> Values:
    return _handed(channel.counters)


def _all_clients(broker: Broker, vhosts: list[Vhost]) -> list[Client]:
    return list(broker.clients.values())


def _client_labels(client: Client) -> str:
    return labels(connection=client.name)


def _connection_coarse(client: Client) -> Values:
    return client.link.received_bytes, client.link.sent_bytes


def _connection(client: Client) -> Values:
    link = client.link
    return link.received, link.sent, int(link.pending_bytes > 0), len(client.open_channels)


# --- Exchanges and vhosts -----------------------------------------------------------------------------------


def _all_exchanges(broker: Broker, vhosts: list[Vhost]) -> list[Exchange]:
    return [exchange for vhost in vhosts for exchange in vhost.exchanges.values()]


def _exchange_labels(exchange: Exchange) -> str:
    definition = exchange.definition
    return labels(vhost=definition.vhost, exchange=exchange.name, type=definition.type)


def _exchange_bindings(exchange: Exchange) -> Values:
    return (len(exchange.bindings),)


def _one(_: object) -> Values:
    return (1,)


def _own_exchange(exchange: Exchange) -> Values:
    return exchange.counters.publish, exchange.counters.publish_out


def _all_vhosts(broker: Broker, vhosts: list[Vhost]) -> list[Vhost]:
    return vhosts


def _vhost_labels(vhost: Vhost) -> str:
    return labels(vhost=vhost.name)


# --- Tables -------------------------------------------------------------------------------------------------

_QUEUES: Final = Source(_all_queues, _queue_labels)
_EXCHANGES: Final = Source(_all_exchanges, _exchange_labels)

Tables = Sequence[tuple[Source, Sequence[Table]]]

PLAIN: Final[Tables] = (
    (
        _QUEUES,
        (
            Table("queue_coarse_metrics", f.QUEUE_COARSE, _queue_coarse),
            Table("queue_metrics", f.QUEUE, _queue),
            Table("channel_queue_exchange_metrics", f.QUEUE_PUBLISHED, _queue_published, ("publish_out",)),
        ),
    ),
    (
        Source(_all_channels, _channel_labels),
        (
            Table("channel_metrics", f.CHANNEL, _channel),
            Table(
                "channel_exchange_metrics",
                f.CHANNEL_EXCHANGE,
                _channel_exchange,
                ("publish", "confirm", "return_unroutable", "drop_unroutable"),
            ),
            Table("channel_queue_metrics", f.CHANNEL_QUEUE, _channel_queue, _COUNTED_HANDED),
        ),
    ),
    (
        Source(_all_clients, _client_labels),
        (
            Table("connection_coarse_metrics", f.CONNECTION_COARSE, _connection_coarse),
            Table("connection_metrics", f.CONNECTION, _connection),
        ),
    ),
)
"""In /metrics and /metrics/per-object, and in /metrics/detailed if asked for."""

DETAILED_ONLY: Final[Tables] = (
    (
        _QUEUES,
        (
            Table("queue_consumer_count", f.QUEUE_CONSUMERS, _queue_consumers),
            Table("queue_delivery_metrics", f.QUEUE_DELIVERY, _queue_delivery),
        ),
    ),
)

CLUSTER: Final[Tables] = (
    (Source(_all_vhosts, _vhost_labels), (Table("vhost_status", f.VHOST_STATUS, _one),)),
    (
        _EXCHANGES,
        (
            Table("exchange_bindings", f.EXCHANGE_BINDINGS, _exchange_bindings),
            Table("exchange_names", f.EXCHANGE_NAMES, _one),
        ),
    ),
)
"""In /metrics/detailed, with a prefix of their own."""

OWN: Final[Tables] = (
    (
        _QUEUES,
        (
            Table("queues", f.OWN_QUEUE, _own_queue),
            Table("delivery", f.QUEUE_DELIVERY, _queue_delivery, _COUNTED_HANDED),
        ),
    ),
    (_EXCHANGES, (Table("exchanges", f.OWN_EXCHANGE, _own_exchange, ("publish", "publish_out")),)),
)
"""Of Pabal's own, in /metrics and /metrics/per-object."""
