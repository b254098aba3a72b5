"""Answers of RabbitMQ 3.10.8's management API, recorded and cut to what is needed."""

from __future__ import annotations

from typing import Any


def rates(**values: float) -> dict[str, Any]:
    return {f"{name}_details": {"rate": value} for name, value in values.items()}


WORK = {
    "name": "work",
    "vhost": "/",
    "type": "classic",
    "state": "running",
    "durable": True,
    "exclusive": False,
    "auto_delete": False,
    "arguments": {"x-message-ttl": 60000},
    "policy": None,
    "messages": 1005,
    "messages_ready": 1000,
    "messages_unacknowledged": 5,
    "consumers": 1,
    "message_bytes": 1_500_000,
    "memory": 2_000_000,
    "message_stats": {"publish": 7, **rates(publish=12.4, deliver_get=3000.0, ack=2999.0)},
}
ORDERS = {
    **WORK,
    "name": "orders",
    "vhost": "shop",
    "type": "quorum",
    "arguments": {},
    "messages": 3,
    "messages_ready": 3,
    "messages_unacknowledged": 0,
    "consumers": 0,
    "message_bytes": 30,
    "memory": 1000,
    "policy": "retries",
    "message_stats": {},
}
OVERVIEW = {
    "product_name": "Pabal",
    "product_version": "0.1.0",
    "rabbitmq_version": "3.12.14",
    "node": "pabal@here",
    "message_stats": rates(publish=1234.0, deliver_get=5.5, ack=0.0),
    "queue_totals": {"messages": 1008, "messages_ready": 1003, "messages_unacknowledged": 5},
    "object_totals": {"channels": 1, "connections": 1, "consumers": 1, "exchanges": 7, "queues": 2},
    "listeners": [
        {"node": "pabal@here", "protocol": "amqp", "ip_address": "127.0.0.1", "port": 5672},
        {"node": "pabal@here", "protocol": "http", "ip_address": "::", "port": 15672},
    ],
}
NODE = {
    "name": "pabal@here",
    "compiled": True,
    "uptime": 93_784_000,
    "mem_used": 36 * 1024 * 1024,
    "mem_limit": 0,
    "mem_alarm": False,
    "disk_free": 70 * 1024**3,
    "disk_free_limit": 50_000_000,
    "disk_free_alarm": False,
    "fd_used": 41,
    "fd_total": 20000,
}
CONNECTION = {
    "name": "127.0.0.1:38526 -> 127.0.0.1:5672",
    "vhost": "/",
    "user": "guest",
    "protocol": "AMQP 0-9-1",
    "state": "running",
    "ssl": False,
    "channels": 1,
    "connected_at": 1795396403838,
    "client_properties": {"product": "Pika", "version": "1.4.4", "connection_name": "billing"},
    **rates(recv_oct=52.0, send_oct=0.0),
}
USER = {
    "name": "ann",
    "password_hash": "SECRETHASH",
    "hashing_algorithm": "rabbit_password_hashing_sha256",
    "tags": [],
}
MESSAGE = {
    "payload_bytes": 5,
    "redelivered": True,
    "exchange": "",
    "routing_key": "work",
    "message_count": 2,
    "properties": {"delivery_mode": 2, "headers": {"a": 1}, "message_id": "m1"},
    "payload": "hello",
    "payload_encoding": "string",
}
