"""An inbox: a place for answers to one consumer, which nobody declares and which is gone with that consumer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pabal.broker.backlog import Backlog
from pabal.broker.consumer import Consumer
from pabal.broker.queue import Queue
from pabal.model.arguments import QueueArguments
from pabal.model.definitions import QueueDefinition
from pabal.model.limits import INBOX_BYTES_MAX, INBOX_MESSAGES_MAX
from pabal.model.message import Envelope

if TYPE_CHECKING:
    from pabal.broker.vhost import Vhost

_NEVER = 2**62  # more than the backlog can hold: it is not to page to disk


class Inbox(Queue):
    """A queue as far as messages and its consumer go, so that order, turns and a peer that does not read are dealt
    with as ever. It differs in this: it is no entity of its vhost, but reached by its name through the default
    exchange only; nothing of it ever gets to the store; and what is beyond its limit is refused."""

    def __init__(self, vhost: Vhost, name: str) -> None:
        broker = vhost.broker
        definition = QueueDefinition(vhost.name, name, broker.next_queue_id(), durable=False)
        log = broker.store.journal.queue_log(definition.queue_id)
        super().__init__(vhost, definition, QueueArguments(), log)
        self.backlog = Backlog(broker.store, log, _NEVER, _NEVER, 0)

    def publish(
        self, envelope: Envelope, contents: list[bytes], content_bytes: int, forced: bool = False
    ) -> Sequence[int]:
        waiting = len(self.backlog)
        if waiting and (
            waiting + len(contents) > INBOX_MESSAGES_MAX
            or self.backlog.content_bytes + content_bytes > INBOX_BYTES_MAX
        ):
            return range(len(contents))
        return super().publish(envelope, contents, content_bytes)

    def remove_consumer(self, consumer: Consumer) -> None:
        super().remove_consumer(consumer)
        self.vhost.close_inbox(self)

    def close(self) -> None:
        """The store knows nothing of it, so there is nothing to be removed there."""
        self.deleted = True
        self.backlog.clear()
