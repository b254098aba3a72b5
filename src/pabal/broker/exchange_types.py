"""Which types of exchanges there are, and which exchanges every vhost has."""

from __future__ import annotations

from pabal.broker.exchange import DirectExchange, Exchange, FanoutExchange, HeadersExchange, TopicExchange
from pabal.broker.hash_exchanges import ConsistentHashExchange, ModulusHashExchange, RandomExchange

EXCHANGE_TYPES: dict[str, type[Exchange]] = {
    cls.type: cls
    for cls in (
        DirectExchange,
        FanoutExchange,
        TopicExchange,
        HeadersExchange,
        ConsistentHashExchange,
        ModulusHashExchange,
        RandomExchange,
    )
}

PREDECLARED = (
    ("", "direct"),
    ("amq.direct", "direct"),
    ("amq.fanout", "fanout"),
    ("amq.headers", "headers"),
    ("amq.match", "headers"),
    ("amq.topic", "topic"),
)
"""The exchanges every vhost has (§3.1.3, and RabbitMQ's)."""
