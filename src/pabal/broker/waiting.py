"""What of a queue waits for its time: returned messages that are tried again later (delayed retry), dead letters that
have no place to go yet, and messages on their way through a chain of delays (relays.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pabal.broker.dead_letters import publish_letter
from pabal.broker.relays import leave_chain
from pabal.broker.timetable import Timetable
from pabal.model.limits import (
    DEAD_LETTER_RETRIES_DOUBLED_MAX,
    DEAD_LETTER_RETRY_MS,
    OVERLOAD_MS,
    TIMER_MESSAGES_MAX,
    WINDOW_BYTES_STORED,
    WINDOW_MESSAGES_STORED,
)
from pabal.model.message import PENDING, UNSTORED, Message
from pabal.store.batch import QueueState, position_kind, position_sequence, waiting_id
from pabal.store.journal import QueueLog

if TYPE_CHECKING:
    from pabal.broker.queue import Queue

# Kinds of what waits.
_RETURNED: Final = 0
_DEAD: Final = 1
_RELAYED: Final = 2

_END_OF_TIME: Final = 2**63


class Waiting:
    """Made by its queue when it is first needed. A message that waits is in the store, and not among the queue's own
    messages: going and coming are moves, each in one commit. It keeps its position, so it comes back to its own
    place among those that are ready then. `relayed`: how many are on their way through a chain."""

    def __init__(self, queue: Queue, state: QueueState | None) -> None:
        self._queue = queue
        self._broker = queue.vhost.broker
        self._log: QueueLog = self._broker.store.journal.queue_log(
            waiting_id(queue.log.queue_id), state, timed=True, durable=queue.durable
        )
        levels = self._log.levels = self._log.levels or {}
        self.relayed = levels.get(_RELAYED, 0)
        self._timetable = Timetable(self._broker.store, self._log)

    def __len__(self) -> int:
        return len(self._timetable)

    def hold(self, message: Message, delay_ms: int) -> None:
        """A message that came back is to be ready again in so long."""
        log = self._queue.log
        log.remove([message])
        log.keep_position()
        self._timetable.add(message, self._broker.now_ms + delay_ms, message.position, _RETURNED)

    def keep(self, letter: Message) -> None:
        """A dead letter, as it is to be published, for which there was no queue: to be tried again, less and less
        often."""
        delay_ms = DEAD_LETTER_RETRY_MS << min(letter.attempts, DEAD_LETTER_RETRIES_DOUBLED_MAX)
        letter.attempts += 1
        self._timetable.add(letter, self._broker.now_ms + delay_ms, kind=_DEAD)
        self._queue.schedule()  # for its timer

    def relay(self, message: Message, at_ms: int) -> None:
        """A message, which entered at the time in `expires_at_ms`, is to leave the chain then."""
        self._timetable.add(message, at_ms, kind=_RELAYED)
        self.relayed += 1

    def next_ms(self) -> int | None:
        """When there is something to be done. None: never, or when a consumer has taken some of what came back."""
        if self._full():
            return None
        at_ms = self._timetable.next_ms()
        if at_ms is not None and self._broker.overloaded:
            return max(at_ms, self._broker.now_ms + OVERLOAD_MS)
        return at_ms

    def end(self) -> bool:
        """Brings back what is due: a step of it, and no more than should be in memory. False: there was nothing."""
        if self._full() or self._broker.overloaded:
            return False
        if self.relayed and self._queue.consumers and len(self._queue.backlog) < TIMER_MESSAGES_MAX:
            self.recall()
        due = self._timetable.take(self._broker.now_ms, TIMER_MESSAGES_MAX)
        for waiting in due:
            kind = position_kind(waiting.position)
            if kind == _RELAYED:
                self.relayed -= 1
                leave_chain(self._queue, waiting, self._broker.now_ms)
            elif kind == _DEAD:
                self._place(waiting)
            else:
                self._bring_back(waiting)
        if due:
            self._timetable.remove(due)
        return bool(due)

    def recall(self) -> None:
        """Somebody looks what the queue has: of what is on its way through a chain a step is ready here now."""
        for message in self._take_relayed():
            self._queue.publish_here(message.envelope, message.content)

    def purge(self) -> int:
        """All of it is gone, as in RabbitMQ (a retry must not come back to a place that is being removed from disk).
        Returns how many these were."""
        count = 0
        while waiting := self._timetable.take(_END_OF_TIME, TIMER_MESSAGES_MAX):
            self._timetable.remove(waiting)
            count += len(waiting)
        self.relayed = 0
        return count

    def _take_relayed(self) -> list[Message]:
        """Some of them, none when there are none, which wait no more."""
        others: list[Message] = []
        relayed: list[Message] = []
        while self.relayed and not relayed:
            step = self._timetable.take(_END_OF_TIME, TIMER_MESSAGES_MAX)
            assert step, "fewer messages are on their way than were counted"
            relayed = [message for message in step if position_kind(message.position) == _RELAYED]
            others += [message for message in step if position_kind(message.position) != _RELAYED]
        for message in others:
            self._timetable.put_back(message)
        self._timetable.remove(relayed)
        self.relayed -= len(relayed)
        relayed.sort(key=lambda message: position_sequence(message.position))  # as they came
        return relayed

    def _place(self, letter: Message) -> None:
        envelope = letter.envelope.anew(letter.content)
        if not publish_letter(self._queue.vhost, envelope, letter.content):
            self.keep(letter)

    def _bring_back(self, waiting: Message) -> None:
        queue = self._queue
        stored = waiting.envelope.persistent and queue.durable
        message = Message(
            waiting.envelope,
            waiting.content,
            position_sequence(waiting.position),
            waiting.expires_at_ms,
            PENDING if stored else UNSTORED,
        )
        message.attempts = waiting.attempts
        if stored:
            queue.log.append([message], len(message.content))
        queue.take_back(message)

    def _full(self) -> bool:
        backlog = self._queue.backlog
        return backlog.returned >= WINDOW_MESSAGES_STORED or backlog.returned_bytes >= WINDOW_BYTES_STORED

    def close(self) -> None:
        """The queue is gone."""
        self._broker.store.journal.drop_queue(self._log)
