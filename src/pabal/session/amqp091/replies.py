"""Direct reply-to: a client consumes a pseudo-queue and is sent the answers to its requests, without declaring a
queue for them (RabbitMQ, "Direct Reply-to"). Behind it is an inbox of the broker's, one a channel.

Requests say in reply_to that they are to be answered there, and leave with the inbox's name in its place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pabal.broker.inbox import Inbox
from pabal.model.errors import NotFound
from pabal.session.amqp091.faults import ChannelFault
from pabal.wire.amqp091.content import PSEUDO_QUEUE_BYTES, decode_properties, replace_properties
from pabal.wire.amqp091.errors import PRECONDITION_FAILED

if TYPE_CHECKING:
    from pabal.session.amqp091.channel import Channel

PSEUDO_QUEUE: Final = "amq.rabbitmq.reply-to"
_PREFIX: Final = PSEUDO_QUEUE + "."
_MARK: Final = bytes((PSEUDO_QUEUE_BYTES,)) + PSEUDO_QUEUE.encode()


def open_inbox(channel: Channel, no_ack: bool) -> Inbox:
    """For a consumer of the pseudo-queue: its inbox, which has a new name each time."""
    if not no_ack:
        raise ChannelFault(PRECONDITION_FAILED, "reply consumer cannot acknowledge")
    if channel.inbox is not None and not channel.inbox.deleted:
        raise ChannelFault(PRECONDITION_FAILED, "reply consumer already set")
    channel.inbox = channel.vhost.open_inbox(_PREFIX)
    return channel.inbox


def wants_reply(properties: bytes) -> bool:
    """Whether the reply_to of a request is the pseudo-queue."""
    return _MARK in properties and decode_properties(properties).get("reply_to") == PSEUDO_QUEUE


def with_reply_address(channel: Channel, content: bytes) -> bytes:
    """The request with the name of this channel's inbox as reply_to."""
    inbox = channel.inbox
    if inbox is None or inbox.deleted:
        raise ChannelFault(PRECONDITION_FAILED, "fast reply consumer does not exist")
    return replace_properties(content, reply_to=inbox.name)


def is_reply_name(name: str) -> bool:
    return name == PSEUDO_QUEUE or name.startswith(_PREFIX)


def check_reply_name(channel: Channel, name: str) -> None:
    """What queue.declare, passive or not, says of such a name: that it is there, or NotFound."""
    if name != PSEUDO_QUEUE and name not in channel.vhost.inboxes:
        raise NotFound(f"no queue '{name}' in vhost '{channel.vhost.name}'")
