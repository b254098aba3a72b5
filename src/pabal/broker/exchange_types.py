"""Which types of exchanges there are, and which exchanges every vhost has."""

from __future__ import annotations

from collections.abc import Callable

from pabal.broker.delayed import DelayedExchange
from pabal.broker.exchange import DirectExchange, Exchange, FanoutExchange, HeadersExchange, TopicExchange
from pabal.broker.hash_exchanges import ConsistentHashExchange, ModulusHashExchange, RandomExchange
from pabal.model.definitions import ExchangeDefinition
from pabal.model.errors import InvalidCommand

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
        DelayedExchange,
    )
}


def check_type(kind: str) -> None:
    """InvalidCommand: no exchange can be of this type."""
    if kind not in EXCHANGE_TYPES:
        raise InvalidCommand(f"unknown exchange type '{kind}'")


def make_exchange(definition: ExchangeDefinition, random_token: Callable[[], str]) -> Exchange:
    """Of a type that there is. PreconditionFailed, InvalidCommand: the type that it is to delay cannot be."""
    exchange = EXCHANGE_TYPES[definition.type](definition, random_token)
    if isinstance(exchange, DelayedExchange):
        exchange.set_inner(EXCHANGE_TYPES, random_token)
    return exchange


PREDECLARED = (
    ("", "direct"),
    ("amq.direct", "direct"),
    ("amq.fanout", "fanout"),
    ("amq.headers", "headers"),
    ("amq.match", "headers"),
    ("amq.topic", "topic"),
)
"""The exchanges every vhost has (§3.1.3, and RabbitMQ's)."""
