"""What of a queue waits for its time: returned messages that are tried again later (delayed retry), and dead letters
that have no place to go yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pabal.broker.dead_letters import place
from pabal.broker.timetable import Timetable
from pabal.model.limits import DEAD_LETTER_RETRY_MS, TIMER_MESSAGES_MAX, WINDOW_MESSAGES_STORED
from pabal.model.message import PENDING, UNSTORED, Message
from pabal.store.journal import QueueLog, QueueState, position_sequence, waiting_id

if TYPE_CHECKING:
    from pabal.broker.queue import Queue

_DEAD: Final = 2**32 - 1
"""As attempts: it is a dead letter."""


class Waiting:
    """Made by its queue when it is first needed. A message that waits is in the store, and not among the queue's own
    messages: going and coming are moves, each in one commit. It keeps its position, so it comes back to its own
    place among those that are ready then."""

    def __init__(self, queue: Queue, state: QueueState | None) -> None:
        self._queue = queue
        self._broker = queue.vhost.broker
        self._log: QueueLog = self._broker.store.journal.queue_log(waiting_id(queue.log.queue_id), state, timed=True)
        self._timetable = Timetable(self._broker.store, self._log)

    def __len__(self) -> int:
        return len(self._timetable)

    def hold(self, message: Message, delay_ms: int) -> None:
        """A message that came back is to be ready again in so long."""
        self._queue.log.remove([message])
        self._timetable.add(message, self._broker.now_ms + delay_ms, message.position)

    def keep(self, letter: Message) -> None:
        """A dead letter, as it is to be published, for which there was no queue: to be tried again."""
        letter.attempts = _DEAD
        self._timetable.add(letter, self._broker.now_ms + DEAD_LETTER_RETRY_MS, letter.position)
        self._queue.schedule()  # for its timer

    def next_ms(self) -> int | None:
        """When there is something to be done. None: never, or when a consumer has taken some of what came back."""
        if self._full():
            return None
        return self._timetable.next_ms()

    def end(self) -> None:
        """Brings back what is due: a step of it, and no more than should be in memory."""
        if self._full():
            return
        due = self._timetable.take(self._broker.now_ms, TIMER_MESSAGES_MAX)
        for waiting in due:
            if waiting.attempts == _DEAD:
                if not place(self._queue.vhost, waiting.envelope, waiting.content):
                    again = Message(
                        waiting.envelope, waiting.content, position_sequence(waiting.position), 0, UNSTORED
                    )
                    self.keep(again)
            else:
                self._bring_back(waiting)
        if due:
            self._timetable.remove(due)

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
        return self._queue.backlog.returned >= WINDOW_MESSAGES_STORED

    def close(self) -> None:
        """The queue is gone."""
        self._broker.store.journal.drop_queue(self._log)
