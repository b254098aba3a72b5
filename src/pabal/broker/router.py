"""The way of a message through a vhost: from the exchange it was published to into its queues."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from pabal.broker.exchange import Exchange
from pabal.broker.inbox import Inbox
from pabal.broker.queue import Queue
from pabal.broker.statistics import Counters
from pabal.model.errors import AccessRefused, NotFound
from pabal.model.limits import ROUTES_CACHED_MAX
from pabal.model.message import Envelope

if TYPE_CHECKING:
    from pabal.broker.broker import Broker
    from pabal.broker.delayed import DelayedExchange


class Published(NamedTuple):
    """Indexes of the published messages that reached no queue, and of those that a full queue refused."""

    unroutable: Sequence[int]
    refused: Sequence[int]


ALL_TAKEN = Published((), ())


class Router:
    """One half of a vhost; the other is vhost.Vhost, which says what the fields mean."""

    def __init__(self, broker: Broker, name: str) -> None:
        self.broker = broker
        self.name = name
        self.counters = Counters()
        self.exchanges: dict[str, Exchange] = {}
        self.queues: dict[str, Queue] = {}
        self.inboxes: dict[str, Inbox] = {}
        self._routes: dict[tuple[str, str | tuple[str, ...]], list[Queue]] = {}

    def exchange(self, name: str) -> Exchange:
        exchange = self.exchanges.get(name)
        if exchange is None:
            raise NotFound(f"no exchange '{name}' in vhost '{self.name}'")
        return exchange

    def forget_routes(self) -> None:
        """Where messages go has changed, and not by a binding."""
        self._routes.clear()

    # --- Publishing -----------------------------------------------------------------------------------------

    def publish(self, envelope: Envelope, contents: list[bytes], content_bytes: int) -> Published:
        """Routes messages that were published alike. `content_bytes`: of all contents together.

        NotFound: no such exchange. AccessRefused: it is internal.
        """
        queues = self._routes.get((envelope.exchange, envelope.routing_key))
        if queues is None or envelope.copies:
            self._check_publish(envelope.exchange)
            queues = self._cached_route(envelope)
            if queues is None:
                return self._publish_each(envelope, contents)
        if self.broker.observer is not None:
            self.broker.observer.published(self.name, envelope, contents)
        count = len(contents)
        self.counters.publish += count
        exchange = self.exchanges[envelope.exchange].counters
        exchange.publish += count
        if not queues:
            return Published(range(count), ())
        exchange.publish_out += count * len(queues)
        self.counters.publish_out += count * len(queues)
        refused = _take_in(queues, envelope, contents, content_bytes)
        return Published((), refused) if refused else ALL_TAKEN

    def route(self, envelope: Envelope, content: bytes) -> list[Queue]:
        """The queues that a message published now goes to, for who publishes it to them later. The list may be the
        same for many messages: it is not to be changed.

        NotFound: no such exchange. AccessRefused: it is internal.
        """
        self._check_publish(envelope.exchange)
        return self.targets(envelope, content)

    def targets(self, envelope: Envelope, content: bytes) -> list[Queue]:
        """The queues that a message with this envelope and content goes to now."""
        queues = self._cached_route(envelope)
        if queues is None:
            queues = self._route(envelope, content)
        assert queues is not None
        return queues

    def targets_by_key(self, envelope: Envelope) -> list[Queue] | None:
        """The same for whatever content; None when it depends on that."""
        return self._cached_route(envelope)

    def released_targets(self, exchange: DelayedExchange, envelope: Envelope, content: bytes) -> list[Queue]:
        """The queues that a message goes to which this exchange held back."""
        return self._route(envelope, content, exchange) or []

    def _publish_each(self, envelope: Envelope, contents: list[bytes]) -> Published:
        """Routes each on its own; those in a row that go the same way are taken in together."""
        ways = [self._route(envelope, content) or [] for content in contents]
        if self.broker.observer is not None:
            self.broker.observer.published(self.name, envelope, contents)
        self.count_published(envelope, len(contents), sum(map(len, ways)))
        unroutable: list[int] = []
        refused: list[int] = []
        first = 0
        for end in range(1, len(ways) + 1):
            if end == len(ways) or ways[end] != ways[first]:
                if ways[first]:
                    row = contents[first:end]
                    refusals = _take_in(ways[first], envelope, row, sum(map(len, row)))
                    refused += [first + index for index in refusals]
                else:
                    unroutable += range(first, end)
                first = end
        return Published(unroutable, refused)

    def count_published(self, envelope: Envelope, count: int, passed_on: int) -> None:
        """So many messages came from a client, and went to queues so often altogether."""
        self.counters.publish += count
        self.counters.publish_out += passed_on
        exchange = self.exchanges.get(envelope.exchange)
        if exchange is not None:
            exchange.counters.publish += count
            exchange.counters.publish_out += passed_on

    def _check_publish(self, name: str) -> None:
        exchange = self.exchange(name)
        if exchange.definition.internal:
            raise AccessRefused(f"cannot publish to internal exchange '{name}' in vhost '{self.name}'")

    def _cached_route(self, envelope: Envelope) -> list[Queue] | None:
        """The route by exchange and keys, kept until a binding changes; None when each message has its own."""
        copies = envelope.copies
        place = (envelope.exchange, (envelope.routing_key, *copies) if copies else envelope.routing_key)
        queues = self._routes.get(place)
        if queues is None:
            queues = self._route(envelope, None)
            # What is remembered is not checked again, and into an internal exchange only the broker may publish.
            if queues is not None and not self.exchanges[envelope.exchange].definition.internal:
                if len(self._routes) >= ROUTES_CACHED_MAX:
                    self._routes.clear()
                self._routes[place] = queues
        return queues

    def _route(
        self, envelope: Envelope, content: bytes | None, released: DelayedExchange | None = None
    ) -> list[Queue] | None:
        """From the exchange it was published to, or from the one that `released` it; each queue once, through
        bindings between exchanges. None without `content`, when an exchange on the way goes not by the keys alone."""
        exchange = released or self.exchanges[envelope.exchange]
        if content is None and not exchange.by_key:
            return None
        destinations = self._destinations(exchange, released, envelope, content)
        if len(destinations) == 1 and isinstance(destinations[0], Queue):
            return [destinations[0]]
        found: dict[Queue, None] = {}
        seen = {exchange.name}
        waiting: list[Exchange] = []
        while True:
            for destination in destinations:
                if isinstance(destination, Queue):
                    found[destination] = None
                else:
                    waiting.append(destination)
            if not destinations and exchange.alternate in self.exchanges:
                waiting.append(self.exchanges[exchange.alternate])
            while waiting and waiting[-1].name in seen:
                waiting.pop()
            if not waiting:
                return list(found)
            exchange = waiting.pop()
            seen.add(exchange.name)
            if content is None and not exchange.by_key:
                return None
            destinations = self._destinations(exchange, released, envelope, content)

    def _destinations(
        self, exchange: Exchange, released: DelayedExchange | None, envelope: Envelope, content: bytes | None
    ) -> list[Queue | Exchange]:
        """Where this one exchange sends a message."""
        keys = (envelope.routing_key, *envelope.copies) if envelope.copies else (envelope.routing_key,)
        if exchange.name == "":
            named = [self.queues.get(key) or self.inboxes.get(key) for key in keys]
            return [queue for queue in named if queue is not None]
        router = released.inner if released is not None and exchange is released else exchange
        return list(router.route(keys, envelope.container, content or b""))


def _take_in(queues: list[Queue], envelope: Envelope, contents: list[bytes], content_bytes: int) -> Sequence[int]:
    """Into each of the queues. Returns the indexes of those that one of them refused."""
    if len(queues) == 1:
        queues[0].counters.publish += len(contents)
        return queues[0].publish(envelope, contents, content_bytes)
    refused: set[int] = set()
    for queue in queues:
        queue.counters.publish += len(contents)
        refused.update(queue.publish(envelope, contents, content_bytes))
    return sorted(refused)
