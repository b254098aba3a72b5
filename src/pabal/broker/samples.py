"""What counters and lengths were every five seconds, for rates and charts: of the broker, its vhosts, and all that
was busy of late. Who is idle costs a look at it, and nothing is kept of who never did anything."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from struct import Struct
from typing import TYPE_CHECKING, Final

from pabal.broker.statistics import COUNTED, Counters
from pabal.model.limits import SAMPLE_MS, SAMPLES_MAX, SAMPLES_TOTAL_MAX

if TYPE_CHECKING:
    from pabal.broker.broker import Broker

SAMPLED: Final = (*COUNTED, "messages_ready", "messages_unacknowledged", "recv_oct", "send_oct")
"""What a sample of an object has, in this order; what it has not is 0."""
TOTALS: Final = (
    *SAMPLED,
    "connection_created",
    "connection_closed",
    "channel_created",
    "channel_closed",
    "queue_declared",
    "queue_created",
    "queue_deleted",
    "disk_reads",
    "disk_writes",
)
"""The same for the broker."""
_SAMPLE: Final = Struct(f"={len(SAMPLED)}q")
_TOTAL: Final = Struct(f"={len(TOTALS)}q")


class History:
    """Samples of one object, the oldest first; a new one only when something has changed. `wide`: it is the
    broker's."""

    __slots__ = ("_points", "_wide")

    def __init__(self, most: int, wide: bool = False) -> None:
        self._wide = wide
        self._points: deque[tuple[int, bytes]] = deque(maxlen=most)

    def add(self, at_ms: int, before_ms: int, values: Sequence[int]) -> None:
        """A sample at that time; the one before was taken at `before_ms`."""
        packed = (_TOTAL if self._wide else _SAMPLE).pack(*values)
        points = self._points
        if points:
            last_ms, last = points[-1]
            if last == packed:
                if len(points) > 1 and at_ms - last_ms > SAMPLE_MS * SAMPLES_MAX and not self._wide:
                    points.clear()  # idle for as long as anybody could ask for
                    points.append((last_ms, last))
                return
            if last_ms < before_ms:
                points.append((before_ms, last))
        points.append((at_ms, packed))

    @property
    def last_ms(self) -> int:
        """When something had changed last; 0 for never."""
        return self._points[-1][0] if self._points else 0

    def at(self, times_ms: Sequence[int]) -> list[tuple[int, ...]]:
        """What the values were at these times; before all samples, as in the first."""
        if not self._points:
            return []
        unpack = (_TOTAL if self._wide else _SAMPLE).unpack
        known = [at_ms for at_ms, _ in self._points]
        return [unpack(self._points[max(0, bisect_right(known, at_ms) - 1)][1]) for at_ms in times_ms]


class Samples:
    """The broker's. `histories`: by the counters of queues, exchanges, channels and vhosts; `links`: by connection
    name; `total`: of all together. `last_ms`: when the last samples were taken."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.last_ms = 0
        self.before_ms = 0
        self.total = History(SAMPLES_TOTAL_MAX, wide=True)
        self.histories: dict[Counters, History] = {}
        self.links: dict[str, History] = {}

    def take(self) -> None:
        """Of all there is, now."""
        broker = self._broker
        self.before_ms = self.last_ms or broker.now_ms - SAMPLE_MS
        self.last_ms = broker.now_ms
        kept: dict[Counters, History] = {}
        links: dict[str, History] = {}
        octets: dict[str, tuple[int, int]] = {}
        for name, client in broker.clients.items():
            link = client.link
            vhost_name = client.vhost_name
            received, sent = octets.get(vhost_name, (0, 0))
            octets[vhost_name] = (received + link.received_bytes, sent + link.sent_bytes)
            history = self.links.get(name)
            if history is None:
                history = History(SAMPLES_MAX)
                history.add(self.before_ms, self.before_ms, _NOTHING)
            history.add(self.last_ms, self.before_ms, (*_NO_COUNTS, 0, 0, link.received_bytes, link.sent_bytes))
            links[name] = history
            for channel in client.open_channels:
                self._sample(kept, channel.counters, 0, channel.unacknowledged)
        ready = leased = 0
        for vhost in broker.vhosts.values():
            vhost_ready = vhost_leased = 0
            for queue in vhost.queues.values():
                count = queue.ready
                vhost_ready += count
                vhost_leased += queue.leased
                self._sample(kept, queue.counters, count, queue.leased)
            for exchange in vhost.exchanges.values():
                self._sample(kept, exchange.counters, 0, 0)
            received, sent = octets.get(vhost.name, (0, 0))
            self._sample(kept, vhost.counters, vhost_ready, vhost_leased, received, sent, SAMPLES_TOTAL_MAX)
            ready += vhost_ready
            leased += vhost_leased
        self.histories = kept
        self.links = links
        if not self.total.last_ms:  # what was there at the start has not come in
            nothing = (*_NO_COUNTS, ready, leased, *([0] * (len(TOTALS) - len(COUNTED) - 2)))
            self.total.add(self.before_ms, self.before_ms, nothing)
        self.total.add(self.last_ms, self.before_ms, self.totals(ready, leased))

    def totals(self, ready: int, leased: int) -> tuple[int, ...]:
        """Of the broker now, in the order of TOTALS."""
        broker = self._broker
        statistics = broker.statistics
        sums = broker.counted()
        received, sent, _, _ = broker.octets()
        journal = broker.store.journal
        return (
            *sums,
            ready,
            leased,
            received,
            sent,
            statistics.connections_opened,
            statistics.connections_closed,
            statistics.channels_opened,
            statistics.channels_closed,
            statistics.queues_declared,
            statistics.queues_created,
            statistics.queues_deleted,
            journal.messages_read,
            journal.messages_written,
        )

    def _sample(
        self,
        kept: dict[Counters, History],
        counters: Counters,
        ready: int,
        leased: int,
        received: int = 0,
        sent: int = 0,
        most: int = SAMPLES_MAX,
    ) -> None:
        history = self.histories.get(counters)
        if history is None:
            if not (ready or leased or counters.used):
                return
            history = History(most)
            if counters.used:
                history.add(self.before_ms, self.before_ms, _NOTHING)
        kept[counters] = history
        history.add(self.last_ms, self.before_ms, (*counters.values(), ready, leased, received, sent))


_NO_COUNTS: Final = (0,) * len(COUNTED)
_NOTHING: Final = (0,) * len(SAMPLED)
