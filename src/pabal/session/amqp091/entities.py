"""The exchange and queue methods of a channel (AMQP 0-9-1 §1.6, §1.7, and RabbitMQ's exchange bindings)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pabal.broker.exchange_types import check_type
from pabal.model.definitions import BindingDefinition, ExchangeDefinition
from pabal.model.errors import NotFound
from pabal.session.amqp091.faults import ChannelFault
from pabal.session.amqp091.replies import check_reply_name, is_reply_name
from pabal.wire.amqp091.errors import NOT_FOUND
from pabal.wire.amqp091.methods import (
    EXCHANGE_BIND_OK,
    EXCHANGE_DECLARE_OK,
    EXCHANGE_DELETE_OK,
    EXCHANGE_UNBIND_OK,
    QUEUE_BIND_OK,
    QUEUE_DECLARE_OK,
    QUEUE_DELETE_OK,
    QUEUE_PURGE_OK,
    QUEUE_UNBIND_OK,
    Method,
)

if TYPE_CHECKING:
    from pabal.session.amqp091.channel import Channel

Table = dict[str, Any]


def reply(channel: Channel, no_wait: bool, method: Method, *arguments: object) -> None:
    """Answers a change of definitions: when it is durable."""
    if not no_wait:
        channel.output.write_durable(channel.number, method, *arguments)


# --- Exchanges ----------------------------------------------------------------------------------------------


def exchange_declare(
    channel: Channel,
    name: str,
    kind: str,
    passive: bool,
    durable: bool,
    auto_delete: bool,
    internal: bool,
    no_wait: bool,
    arguments: Table,
) -> None:
    name = _clean(name)
    vhost = channel.vhost
    if passive:
        channel.rights.declare_exchange_passively(name)
        vhost.exchange(name)
    else:
        check_type(kind)
        channel.rights.declare_exchange(name, arguments)
        vhost.declare_exchange(ExchangeDefinition(vhost.name, name, kind, durable, auto_delete, internal, arguments))
    reply(channel, no_wait, EXCHANGE_DECLARE_OK)


def exchange_delete(channel: Channel, name: str, if_unused: bool, no_wait: bool) -> None:
    name = _clean(name)
    channel.rights.delete_exchange(name)
    channel.vhost.delete_exchange(name, if_unused)
    reply(channel, no_wait, EXCHANGE_DELETE_OK)


def exchange_bind(channel: Channel, destination: str, source: str, key: str, no_wait: bool, arguments: Table) -> None:
    channel.rights.bind(source, destination, True, key)
    channel.vhost.bind(
        BindingDefinition(channel.vhost.name, source, destination, True, key, arguments), channel.session
    )
    reply(channel, no_wait, EXCHANGE_BIND_OK)


def exchange_unbind(
    channel: Channel, destination: str, source: str, key: str, no_wait: bool, arguments: Table
) -> None:
    channel.rights.unbind(source, destination, True, key)
    channel.vhost.unbind(
        BindingDefinition(channel.vhost.name, source, destination, True, key, arguments), channel.session
    )
    reply(channel, no_wait, EXCHANGE_UNBIND_OK)


# --- Queues -------------------------------------------------------------------------------------------------


def queue_declare(
    channel: Channel,
    name: str,
    passive: bool,
    durable: bool,
    exclusive: bool,
    auto_delete: bool,
    no_wait: bool,
    arguments: Table,
) -> None:
    name = _clean(name)
    if is_reply_name(name):
        check_reply_name(channel, name)
        reply(channel, no_wait, QUEUE_DECLARE_OK, name, 0, 1)
        return
    if passive:
        channel.rights.declare_queue_passively(name)
        queue = channel.vhost.queue(name, channel.session)
    else:
        server_name = "" if name else channel.broker.name_queue()
        channel.rights.declare_queue(name or server_name, arguments)
        queue, _ = channel.vhost.declare_queue(
            name, durable, exclusive, auto_delete, arguments, channel.session, server_name
        )
    channel.last_queue = queue.name
    channel.broker.returns.complete(queue)
    reply(
        channel,
        no_wait,
        QUEUE_DECLARE_OK,
        queue.name,
        min(queue.ready, 2**32 - 1),
        len(queue.consumers),
    )


def queue_bind(channel: Channel, name: str, exchange: str, key: str, no_wait: bool, arguments: Table) -> None:
    binding = _queue_binding(channel, name, exchange, key, arguments)
    channel.rights.bind(exchange, binding.destination, False, binding.routing_key)
    channel.vhost.bind(binding, channel.session)
    reply(channel, no_wait, QUEUE_BIND_OK)


def queue_unbind(channel: Channel, name: str, exchange: str, key: str, arguments: Table) -> None:
    binding = _queue_binding(channel, name, exchange, key, arguments)
    channel.rights.unbind(exchange, binding.destination, False, binding.routing_key)
    channel.vhost.unbind(binding, channel.session)
    reply(channel, False, QUEUE_UNBIND_OK)


def queue_purge(channel: Channel, name: str, no_wait: bool) -> None:
    name = queue_name(channel, name)
    channel.rights.purge(name)
    count = channel.vhost.queue(name, channel.session).purge()
    reply(channel, no_wait, QUEUE_PURGE_OK, min(count, 2**32 - 1))


def queue_delete(channel: Channel, name: str, if_unused: bool, if_empty: bool, no_wait: bool) -> None:
    count = 0
    name = queue_name(channel, name)
    channel.rights.delete_queue(name)
    try:
        queue = channel.vhost.queue(name, channel.session)
    except NotFound:
        queue = None  # RabbitMQ does not mind
    with channel.output.notices_later():  # py-amqp cannot take basic.cancel before delete-ok
        if queue is not None:
            count = channel.vhost.delete_queue(queue, if_unused, if_empty)
        reply(channel, no_wait, QUEUE_DELETE_OK, min(count, 2**32 - 1))


def queue_name(channel: Channel, name: str) -> str:
    """This one, or when it is empty that of the queue last declared on this channel."""
    if name:
        return name
    if not channel.last_queue:
        raise ChannelFault(NOT_FOUND, "no previously declared queue")
    return channel.last_queue


def _queue_binding(
    channel: Channel, name: str, exchange: str, key: str, arguments: Mapping[str, Any]
) -> BindingDefinition:
    if not name and not key:
        key = queue_name(channel, name)  # §1.7.2.3: the key of the last queue declared is its name
    return BindingDefinition(channel.vhost.name, exchange, queue_name(channel, name), False, key, dict(arguments))


def _clean(name: str) -> str:
    """RabbitMQ takes line ends out of names that are declared."""
    return name.replace("\r", "").replace("\n", "")
