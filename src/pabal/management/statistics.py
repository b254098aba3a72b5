"""Connections, channels and consumers as RabbitMQ's HTTP API shows them, and what queues, exchanges, vhosts and the
broker counted: `message_stats`, `queue_totals` and the like."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

from pabal.broker.broker import Broker
from pabal.broker.clients import Client, ClientChannel
from pabal.broker.consumer import Consumer
from pabal.broker.exchange import Exchange
from pabal.broker.queue import Queue
from pabal.broker.samples import TOTALS
from pabal.broker.statistics import COUNTED, Counters
from pabal.broker.vhost import Vhost
from pabal.management.rates import RATES_ONLY, Facts, Series, Windows

_PUBLISHING: Final = ("publish", "confirm", "return_unroutable", "drop_unroutable")
_HANDING: Final = (
    "deliver",
    "deliver_no_ack",
    "get",
    "get_no_ack",
    "deliver_get",
    "redeliver",
    "ack",
    "get_empty",
)
_CHURN: Final = (
    "connection_created",
    "connection_closed",
    "channel_created",
    "channel_closed",
    "queue_declared",
    "queue_created",
    "queue_deleted",
)
NO_COLLECTION: Final = {
    "max_heap_size": -1,
    "min_bin_vheap_size": -1,
    "min_heap_size": -1,
    "fullsweep_after": -1,
    "minor_gcs": -1,
}
"""What RabbitMQ says of an Erlang process that it knows nothing of."""
_NO_REDUCTIONS: Final = {"reductions": 0, "reductions_details": {"rate": 0.0}}
MESSAGE_OVERHEAD_BYTES: Final = 250
"""What a message in memory takes besides its content, about."""


def iso_time(at_ms: int) -> str:
    """As RabbitMQ writes a time in `idle_since`."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")


# --- Connections, channels, consumers -----------------------------------------------------------------------


def connection(broker: Broker, client: Client, node: str, windows: Windows = RATES_ONLY) -> Facts:
    """A connection, for /api/connections. Before it has opened a vhost, or without encryption, some are None."""
    link, tls = client.link, client.link.encryption
    series = Series(broker.samples, [broker.samples.links.get(client.name)], windows.data)
    exchange, cipher, digest = _cipher(tls.cipher) if tls is not None else (None, None, None)
    return {
        "name": client.name,
        "node": node,
        "type": "network",
        "protocol": client.protocol,
        "state": client.public_state,
        "user": client.user or None,
        "user_who_performed_action": client.user or None,
        "vhost": client.vhost_name or None,
        "user_provided_name": client.properties.get("connection_name"),
        "client_properties": client.properties,
        "auth_mechanism": client.mechanism or None,
        "connected_at": client.since_ms,
        "channels": len(client.open_channels),
        "channel_max": client.channel_max,
        "frame_max": client.frame_bytes_max,
        "timeout": client.heartbeat_seconds,
        "host": link.host,
        "port": link.port,
        "peer_host": link.peer_host,
        "peer_port": link.peer_port,
        "ssl": tls is not None,
        "ssl_protocol": tls.protocol.lower() if tls is not None else None,
        "ssl_cipher": cipher,
        "ssl_hash": digest,
        "ssl_key_exchange": exchange,
        "peer_cert_subject": tls.subject or None if tls is not None else None,
        "peer_cert_issuer": tls.issuer or None if tls is not None else None,
        "peer_cert_validity": tls.validity or None if tls is not None else None,
        "recv_cnt": link.received,
        "send_cnt": link.sent,
        "send_pend": link.pending_bytes,
        **series.with_details({"recv_oct": link.received_bytes, "send_oct": link.sent_bytes}),
        **_NO_REDUCTIONS,
        "garbage_collection": NO_COLLECTION,
    }


def _cipher(name: str) -> tuple[str, str, str]:
    """Key exchange, cipher and hash, of "TLS_AES_256_GCM_SHA384" or "ECDHE-RSA-AES256-GCM-SHA384" for example."""
    if name.startswith("TLS_"):
        _, *middle, digest = name.lower().split("_")
        return "any", "_".join(middle), digest
    parts = name.lower().split("-")
    if len(parts) < 4:
        return "", name.lower(), ""
    first, second, *middle, digest = parts
    return f"{first}_{second}", "_".join(middle).replace("aes", "aes_"), digest


def _connection_details(client: Client) -> Facts:
    link = client.link
    return {"name": client.name, "peer_host": link.peer_host, "peer_port": link.peer_port}


def channel_name(channel: ClientChannel) -> str:
    """As RabbitMQ names it: the connection's name and the number."""
    return f"{channel.client.name} ({channel.number})"


def channel(broker: Broker, channel: ClientChannel, node: str, windows: Windows = RATES_ONLY) -> Facts:
    """A channel, for /api/channels. For one of them RabbitMQ adds `consumer_details`, see `consumer`, and
    `deliveries` and `publishes`, which are not kept here."""
    client = channel.client
    history = broker.samples.histories.get(channel.counters)
    facts = {
        "name": channel_name(channel),
        "number": channel.number,
        "node": node,
        "connection_details": _connection_details(client),
        "user": client.user,
        "user_who_performed_action": client.user,
        "vhost": client.vhost_name,
        "state": "running" if client.public_state == "running" else client.public_state,
        "confirm": channel.confirming,
        "transactional": channel.transactional,
        "prefetch_count": channel.consumer_prefetch,
        "global_prefetch_count": channel.channel_prefetch,
        "consumer_count": len(channel.open_consumers),
        "messages_unacknowledged": channel.unacknowledged,
        "messages_unconfirmed": channel.unconfirmed,
        "messages_uncommitted": channel.uncommitted,
        "acks_uncommitted": channel.uncommitted_acknowledgements,
        "pending_raft_commands": 0,
        **_NO_REDUCTIONS,
        "garbage_collection": NO_COLLECTION,
    }
    last_ms = history.last_ms if history is not None else channel.since_ms
    if last_ms < broker.samples.last_ms:
        facts["idle_since"] = iso_time(last_ms)
    return facts | _message_stats(broker, channel.counters, (_PUBLISHING, _HANDING), windows)


def channels(broker: Broker) -> list[ClientChannel]:
    """All of them."""
    return [channel for client in broker.clients.values() for channel in client.open_channels]


def consumer(consumer: Consumer, node: str) -> Facts:
    """A consumer, for /api/consumers and `consumer_details`."""
    queue, home = consumer.queue, consumer.home
    single = queue.arguments.single_active_consumer
    active = not single or (bool(queue.consumers) and queue.consumers[0] is consumer)
    status = "up" if not single else "single_active" if active else "waiting"
    details: Facts = {}
    if home is not None:
        link = home.client.link
        details = {
            "name": channel_name(home),
            "number": home.number,
            "node": node,
            "connection_name": home.client.name,
            "peer_host": link.peer_host,
            "peer_port": link.peer_port,
            "user": home.client.user,
        }
    return {
        "consumer_tag": consumer.tag,
        "queue": {"name": queue.name, "vhost": queue.vhost.name},
        "channel_details": details,
        "ack_required": not consumer.auto_settle,
        "exclusive": consumer.exclusive,
        "prefetch_count": consumer.prefetch,
        "arguments": consumer.table,
        "active": active,
        "activity_status": status,
    }


# --- Queues, exchanges, vhosts, the broker ------------------------------------------------------------------


def queue(broker: Broker, queue: Queue, windows: Windows = RATES_ONLY) -> Facts:
    """What is counted and measured of a queue, to go with what it was declared as. Bytes are those of whole contents,
    properties included; of what is on disk or with consumers they are taken from the mean."""
    samples = broker.samples
    history = samples.histories.get(queue.counters)
    ready, leased = queue.ready, queue.leased
    backlog = queue.backlog
    ready_bytes, leased_bytes, held_bytes = backlog.ready_bytes, queue.leased_bytes, backlog.content_bytes
    on_disk = backlog.on_disk
    busy = 1.0 if queue.consumers and not ready else 0.0
    last_ms = history.last_ms if history is not None else 0
    lengths = {"messages": ready + leased, "messages_ready": ready, "messages_unacknowledged": leased}
    facts = {
        **Series(samples, [history], windows.lengths).with_details(lengths),
        "messages_ram": ready + leased - on_disk,
        "messages_ready_ram": max(ready - on_disk, 0),
        "messages_unacknowledged_ram": leased,
        "messages_persistent": queue.log.count,
        "messages_paged_out": on_disk,
        "message_bytes": ready_bytes + leased_bytes,
        "message_bytes_ready": ready_bytes,
        "message_bytes_unacknowledged": leased_bytes,
        "message_bytes_ram": held_bytes + leased_bytes,
        "message_bytes_persistent": queue.log.count * backlog.mean_bytes,
        "message_bytes_paged_out": ready_bytes - held_bytes,
        "memory": held_bytes + leased_bytes + (ready + leased - on_disk) * MESSAGE_OVERHEAD_BYTES,
        "consumers": len(queue.consumers),
        "consumer_capacity": busy,
        "consumer_utilisation": busy,
        "head_message_timestamp": None,
        "recoverable_slaves": None,
        **_NO_REDUCTIONS,
        "garbage_collection": NO_COLLECTION,
    }
    if last_ms < samples.last_ms:
        facts["idle_since"] = iso_time(last_ms or samples.last_ms)
    return facts | _message_stats(broker, queue.counters, (("publish",), _HANDING), windows)


def exchange(broker: Broker, exchange: Exchange, windows: Windows = RATES_ONLY) -> Facts:
    """`message_stats`, if there are any."""
    counters = exchange.counters
    if not counters.publish:
        return {}
    series = Series(broker.samples, [broker.samples.histories.get(counters)], windows.messages)
    values = {"publish_in": counters.publish, "publish_out": counters.publish_out}
    return {"message_stats": series.with_details(values)}


def vhost(broker: Broker, vhost: Vhost, windows: Windows = RATES_ONLY) -> Facts:
    """Messages, bytes over its connections, and `message_stats` if there are any."""
    samples = broker.samples
    history = samples.histories.get(vhost.counters)
    links = [client.link for client in broker.clients.values() if client.vhost_name == vhost.name]
    octets = {
        "recv_oct": sum(link.received_bytes for link in links),
        "send_oct": sum(link.sent_bytes for link in links),
    }
    return {
        **Series(samples, [history], windows.lengths).with_details(_lengths([vhost])),
        **Series(samples, [history], windows.data).with_details(octets),
        **_message_stats(broker, vhost.counters, (_PUBLISHING, _HANDING), windows),
    }


def overview(broker: Broker, vhosts: Sequence[Vhost], windows: Windows = RATES_ONLY) -> Facts:
    """`message_stats`, `churn_rates`, `queue_totals` and `object_totals`, of the vhosts that somebody may see."""
    samples = broker.samples
    names = {vhost.name for vhost in vhosts}
    everything = len(vhosts) == len(broker.vhosts)
    histories = [samples.total] if everything else [samples.histories.get(vhost.counters) for vhost in vhosts]
    clients = [client for client in broker.clients.values() if everything or client.vhost_name in names]
    queues = sum(len(vhost.queues) for vhost in vhosts)
    messages = Series(samples, histories, windows.messages)
    stats: Facts = {}
    if everything:
        totals = dict(zip(TOTALS, samples.totals(0, 0), strict=True))
        stats = messages.with_details({name: totals[name] for name in ("disk_reads", "disk_writes")})
        counted = broker.counted()
    else:
        totals = {}
        counted = [sum(column) for column in zip(*(vhost.counters.values() for vhost in vhosts), strict=True)]
    values = dict(zip(COUNTED, counted, strict=False))
    values["deliver_get"] = sum(values.get(name, 0) for name in _HANDING[:4])
    for group in (_PUBLISHING, _HANDING):
        if any(values.get(name) for name in group):
            stats |= messages.with_details({name: values[name] for name in group})
    churn = Series(samples, [samples.total], windows.messages)
    return {
        "message_stats": stats if any(stats[name] for name in values if name in stats) else {},
        "churn_rates": churn.with_details({name: totals[name] for name in _CHURN}) if everything else {},
        "queue_totals": Series(samples, histories, windows.lengths).with_details(_lengths(vhosts)) if queues else {},
        "object_totals": {
            "channels": sum(len(client.open_channels) for client in clients),
            "connections": len(clients),
            "consumers": sum(len(queue.consumers) for vhost in vhosts for queue in vhost.queues.values()),
            "exchanges": sum(len(vhost.exchanges) for vhost in vhosts),
            "queues": queues,
        },
    }


def _lengths(vhosts: Iterable[Vhost]) -> dict[str, int]:
    ready = leased = 0
    for vhost in vhosts:
        for queue in vhost.queues.values():
            ready += queue.ready
            leased += queue.leased
    return {"messages": ready + leased, "messages_ready": ready, "messages_unacknowledged": leased}


def _message_stats(broker: Broker, counters: Counters, groups: Sequence[Sequence[str]], windows: Windows) -> Facts:
    """`message_stats` with those groups of which anything was counted; nothing when there are none."""
    series: Series | None = None
    stats: Facts = {}
    for group in groups:
        values: dict[str, int] = {name: getattr(counters, name) for name in group}
        if any(values.values()):
            if series is None:
                series = Series(broker.samples, [broker.samples.histories.get(counters)], windows.messages)
            stats |= series.with_details(values)
    return {"message_stats": stats} if stats else {}
