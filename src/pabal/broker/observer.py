"""Who watches messages come and go, for traces: nothing is decided here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pabal.broker.consumer import Consumer
from pabal.model.message import Envelope, Message, Outcome

if TYPE_CHECKING:
    from pabal.broker.queue import Queue


class Observer(Protocol):
    """`Broker.observer`, if there is one. Called once a run or batch; it may not raise, and changes nothing."""

    def published(self, vhost: str, envelope: Envelope, contents: list[bytes]) -> None:
        """A client published these alike; they are about to be taken in by the queues that they go to, if any."""

    def delivered(self, queue: Queue, consumer: Consumer, messages: list[Message]) -> None:
        """These were handed over."""

    def settled(self, queue: Queue, messages: list[Message], outcome: Outcome) -> None:
        """Of these it was said what became of them."""
