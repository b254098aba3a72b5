"""The broker: its vhosts and users, the queues that have something to hand out, the timers, the clock.

The server drives it: `begin` with the time when a turn begins, `dispatch` at its end, `tick` when a timer is due.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from heapq import heappop, heappush
from typing import Any, Protocol

from pabal.broker.accounts import Accounts
from pabal.broker.clients import Client
from pabal.broker.dead_letters import DeadLetters
from pabal.broker.exchange_types import EXCHANGE_TYPES
from pabal.broker.observer import Observer
from pabal.broker.policies import apply_policies
from pabal.broker.queue import Queue
from pabal.broker.returns import Returns
from pabal.broker.samples import Samples
from pabal.broker.statistics import Statistics
from pabal.broker.vhost import Vhost
from pabal.model.definitions import (
    BindingDefinition,
    Definition,
    ExchangeDefinition,
    ParameterDefinition,
    PermissionDefinition,
    PolicyDefinition,
    QueueDefinition,
    TopicPermissionDefinition,
    UserDefinition,
    UserLimitsDefinition,
    VhostDefinition,
    VhostLimitsDefinition,
)
from pabal.model.errors import InvalidParameter, NotFound, StoreError
from pabal.model.limits import TURN_DISPATCH_BYTES_CROWD_MAX, TURN_DISPATCH_BYTES_MAX, UNSAVED_BYTES_MAX
from pabal.model.message import Message
from pabal.model.policies import check_policy, check_vhost_limits
from pabal.store.batch import waiting_id
from pabal.store.interface import Loaded, Store


class Waiter(Protocol):
    """Somebody who must not speak before the changes of this turn are durable."""

    def durable(self, upto: int) -> None:
        """They are. `upto` is what was given to `Broker.await_durable` last."""


class Broker:
    """`now_ms`: the time of this turn, in ms since the epoch. `random_token`: makes the changing part of
    server-made names, and is where all chance comes from."""

    def __init__(self, store: Store, now_ms: int, random_token: Callable[[], str]) -> None:
        self.store = store
        self.now_ms = now_ms
        self.vhosts: dict[str, Vhost] = {}
        self.accounts = Accounts(self)
        self.statistics = Statistics()
        self.samples = Samples(self)
        self.clients: dict[str, Client] = {}
        """All connections, from accept to end."""
        self.parameters: dict[tuple[str, str, str], ParameterDefinition] = {}
        """By vhost, component and name; global ones have neither of the first two."""
        self.scheduled: list[Queue] = []
        self.returns = Returns()
        self.waiters: dict[Waiter, int] = {}
        self.random_token = random_token
        self.alarms: tuple[str, ...] = ()
        """What the machine has too little of, "disk" or "memory": publishers are to be made to wait."""
        self.observer: Observer | None = None
        self.consumers_busy = False
        """A queue of the last turn has messages left for which its consumers, or the turn, had no room."""
        self.transient_queues = True
        """A queue may be neither durable nor exclusive (RabbitMQ before 4.3)."""
        self.counts_releases = True
        """A message that comes back without having been tried counts as attempted (RabbitMQ before 4.3)."""
        self.handed_out_bytes = 0
        """By all queues so far, see limits.DISPATCH_MESSAGE_BYTES."""
        self.taken_in_bytes = 0
        """The same of what they took in since the last dispatch."""
        self.crowded = False
        """Turns are to be short, see limits.CROWD_MIN."""
        self._dead_letters = DeadLetters()
        self._owned: dict[object, list[Queue]] = {}
        self._timers: list[tuple[int, int, Queue]] = []
        self._timer_count = 0
        loaded = store.load()
        self._next_queue_id = loaded.next_queue_id
        self._restore(loaded)

    # --- The turn -------------------------------------------------------------------------------------------

    def begin(self, now_ms: int) -> None:
        self.now_ms = now_ms

    def dispatch(self) -> None:
        """Lets the queues that may have something to hand out do so in turn, a step each, until nobody has or it was
        enough for this turn. Then it is `unfinished`: another turn must follow."""
        self.returns.step()
        expected = self.returns.expected
        if self.scheduled:
            self.consumers_busy = False
        share_bytes = TURN_DISPATCH_BYTES_CROWD_MAX if self.crowded else TURN_DISPATCH_BYTES_MAX
        upto_bytes = self.handed_out_bytes + max(share_bytes, 2 * self.taken_in_bytes)
        self.taken_in_bytes = 0
        left: list[Queue] = []
        while self.scheduled:
            queues, self.scheduled = self.scheduled, []
            for queue in queues:
                if queue in expected:
                    if not queue.at_once:
                        queue.scheduled = False  # until it has all back
                        continue
                    self.returns.complete(queue)
                if self.handed_out_bytes < upto_bytes or queue.at_once:
                    queue.scheduled = False
                    queue.dispatch()
                else:
                    left.append(queue)
        self.scheduled = left
        if self.unfinished:
            self.consumers_busy = True

    @property
    def unfinished(self) -> bool:
        """There is more to hand out or to give back than was for this turn."""
        return bool(self.scheduled) or bool(self.returns)

    @property
    def overloaded(self) -> bool:
        """More waits for the disk than should be in memory: nothing is to be taken in before a commit is done."""
        return self.store.journal.unsaved_bytes > UNSAVED_BYTES_MAX

    def await_durable(self, waiter: Waiter, upto: int) -> None:
        self.waiters[waiter] = upto

    def dead_letter(self, queue: Queue, messages: list[Message], reason: str) -> None:
        self._dead_letters.add(queue, messages, reason)

    # --- Time -----------------------------------------------------------------------------------------------

    def wake(self, queue: Queue, at_ms: int) -> None:
        """Calls the queue's tick then, or sooner when it asked for that before."""
        if not queue.wake_at_ms or at_ms < queue.wake_at_ms:
            queue.wake_at_ms = at_ms
            self._timer_count += 1
            heappush(self._timers, (at_ms, self._timer_count, queue))

    def tick(self, now_ms: int) -> None:
        """Does what is due. The queues concerned are scheduled: a dispatch must follow."""
        self.now_ms = now_ms
        due: list[Queue] = []
        while self._timers and self._timers[0][0] <= now_ms:
            at_ms, _, queue = heappop(self._timers)
            if at_ms == queue.wake_at_ms:
                queue.wake_at_ms = 0
                due.append(queue)
        for queue in due:
            queue.tick()

    def next_tick_ms(self) -> int | None:
        """When the next timer is due."""
        while self._timers and self._timers[0][0] != self._timers[0][2].wake_at_ms:
            heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def sample(self, now_ms: int) -> None:
        """Notes what was counted up to now: to be called every SAMPLE_MS."""
        self.now_ms = now_ms
        self.samples.take()

    def counted(self) -> list[int]:
        """What was counted in all vhosts, in the order of COUNTED."""
        counters = [self.statistics.gone, *(vhost.counters for vhost in self.vhosts.values())]
        return [sum(column) for column in zip(*(each.values() for each in counters), strict=True)]

    def octets(self) -> tuple[int, int, int, int]:
        """Bytes received and sent over all connections that there were, and how often something was."""
        received, sent, reads, writes = self.statistics.links_gone
        for client in self.clients.values():
            link = client.link
            received += link.received_bytes
            sent += link.sent_bytes
            reads += link.received
            writes += link.sent
        return received, sent, reads, writes

    def accept(self, client: Client) -> None:
        """A connection begins."""
        self.clients[client.name] = client

    def forget(self, client: Client) -> None:
        """It has ended."""
        if self.clients.get(client.name) is client:
            received, sent, reads, writes = self.statistics.links_gone
            link = client.link
            self.statistics.links_gone = (
                received + link.received_bytes,
                sent + link.sent_bytes,
                reads + link.received,
                writes + link.sent,
            )
            del self.clients[client.name]

    # --- Names ----------------------------------------------------------------------------------------------

    def vhost(self, name: str) -> Vhost:
        vhost = self.vhosts.get(name)
        if vhost is None:
            raise NotFound(f"vhost {name} not found")
        return vhost

    def add_vhost(self, name: str) -> None:
        """Nothing when it is there."""
        if name not in self.vhosts:
            self.put_vhost(VhostDefinition(name))

    def put_vhost(self, definition: VhostDefinition) -> bool:
        """Adds the vhost or changes what is said of it; True when it was added."""
        vhost = self.vhosts.get(definition.name)
        if vhost is None:
            self.vhosts[definition.name] = Vhost(self, definition)
        elif vhost.definition == definition:
            return False
        else:
            vhost.definition = definition
        self.store.journal.define(definition)
        return vhost is None

    def delete_vhost(self, name: str) -> None:
        """With all that is in it and was said of it. NotFound."""
        vhost = self.vhost(name)
        for client in list(self.clients.values()):
            if client.vhost_name == name:
                client.close(f"vhost '{name}' is deleted")
        vhost.clear()
        self.change_policies((), vhost.policies.definitions.values())
        self.put_vhost_limits(VhostLimitsDefinition(name))
        for parameter in [p for p in self.parameters.values() if p.vhost == name]:
            self.delete_parameter(parameter)
        self.accounts.forget_vhost(name)
        del self.vhosts[name]
        self.statistics.gone.add(vhost.counters)
        self.store.journal.undefine(vhost.definition)

    def put_parameter(self, parameter: ParameterDefinition) -> bool:
        """Keeps it; True when there was none of that name."""
        place = (parameter.vhost, parameter.component, parameter.name)
        before = self.parameters.get(place)
        if before != parameter:
            self.parameters[place] = parameter
            self.store.journal.define(parameter)
        return before is None

    def delete_parameter(self, parameter: ParameterDefinition) -> None:
        del self.parameters[parameter.vhost, parameter.component, parameter.name]
        self.store.journal.undefine(parameter)

    def change_policies(self, put: Iterable[PolicyDefinition], remove: Iterable[PolicyDefinition] = ()) -> None:
        """Adds or changes some policies and takes others away, all in one step: no queue ever sees a part of it.
        InvalidParameter, NotFound: one cannot be, or there is no such vhost; then nothing was changed."""
        put, remove = list(put), list(remove)
        for policy in put:
            self.vhost(policy.vhost)
            check_policy(policy)
        for policy in remove:
            self.vhost(policy.vhost).policies.remove(policy)
            self.store.journal.undefine(policy)
        for policy in put:
            self.vhost(policy.vhost).policies.put(policy)
            self.store.journal.define(policy)
        for name in dict.fromkeys(policy.vhost for policy in (*put, *remove)):
            apply_policies(self.vhosts[name])

    def put_policy(self, policy: PolicyDefinition) -> None:
        """Adds the policy or changes it, for the queues and exchanges that there are too."""
        self.change_policies([policy])

    def delete_policy(self, vhost: str, name: str, operator: bool = False) -> None:
        """NotFound when there is none."""
        policy = self.vhost(vhost).policies.definitions.get((operator, name))
        if policy is None:
            raise NotFound("Parameter does not exist")
        self.change_policies([], [policy])

    def set_vhost_limits(self, vhost: str, limits: Mapping[str, Any]) -> None:
        """Sets "max-connections" and "max-queues"; one that is left out or below zero is no limit. What is there
        already stays. InvalidParameter, NotFound."""
        checked = check_vhost_limits(limits)
        self.put_vhost_limits(VhostLimitsDefinition(vhost, checked.get("max-connections"), checked.get("max-queues")))

    def put_vhost_limits(self, limits: VhostLimitsDefinition) -> None:
        """The same with limits that were checked."""
        self.vhost(limits.vhost).limits = limits
        if limits == VhostLimitsDefinition(limits.vhost):
            self.store.journal.undefine(limits)
        else:
            self.store.journal.define(limits)

    def next_queue_id(self) -> int:
        queue_id = self._next_queue_id
        self._next_queue_id += 1
        return queue_id

    def name_queue(self) -> str:
        return f"amq.gen-{self.random_token()}"

    def name_inbox(self, prefix: str) -> str:
        """Nobody can guess it: to know the name is to be allowed to write there."""
        return prefix + self.random_token()

    def name_consumer(self) -> str:
        return f"amq.ctag-{self.random_token()}"

    def own(self, owner: object, queue: Queue) -> None:
        """The queue is exclusive to the connection `owner`."""
        self._owned.setdefault(owner, []).append(queue)

    def release(self, owner: object) -> None:
        """A connection ended: its exclusive queues go."""
        for queue in self._owned.pop(owner, []):
            queue.vhost.delete_queue(queue)

    # --- Restart --------------------------------------------------------------------------------------------

    def _restore(self, loaded: Loaded) -> None:
        """Makes what was defined, in an order in which each finds what it refers to."""
        kinds: tuple[type[Definition], ...] = (
            VhostDefinition,
            UserDefinition,
            PermissionDefinition,
            TopicPermissionDefinition,
            UserLimitsDefinition,
            VhostLimitsDefinition,
            PolicyDefinition,
            ParameterDefinition,
            ExchangeDefinition,
            QueueDefinition,
            BindingDefinition,
        )
        for kind in kinds:
            for definition in loaded.definitions:
                if type(definition) is kind:
                    try:
                        self._restore_one(definition, loaded)
                    except KeyError as error:
                        raise StoreError(f"{definition} refers to {error}, which is not there") from None
                    except InvalidParameter as error:
                        raise StoreError(f"{definition}: {error}") from None
        self.accounts.convert()

    def _restore_one(self, definition: Definition, loaded: Loaded) -> None:
        if isinstance(definition, VhostDefinition):
            self.vhosts[definition.name] = Vhost(self, definition)
        elif isinstance(definition, ParameterDefinition):
            self.parameters[definition.vhost, definition.component, definition.name] = definition
        elif isinstance(
            definition, UserDefinition | PermissionDefinition | TopicPermissionDefinition | UserLimitsDefinition
        ):
            self.accounts.restore(definition)
        elif isinstance(definition, VhostLimitsDefinition):
            self.vhosts[definition.vhost].limits = definition
        elif isinstance(definition, PolicyDefinition):
            vhost = self.vhosts[definition.vhost]
            vhost.policies.put(definition)
            apply_policies(vhost)  # to the exchanges that every vhost has; queues come later
        elif isinstance(definition, ExchangeDefinition):
            if definition.type not in EXCHANGE_TYPES:
                raise StoreError(f"exchange '{definition.name}' has the unknown type '{definition.type}'")
            waiting = loaded.queues.get(waiting_id(definition.queue_id))
            self.vhosts[definition.vhost].add_exchange(definition, waiting=waiting)
        elif isinstance(definition, QueueDefinition):
            state = loaded.queues.get(definition.queue_id)
            waiting = loaded.queues.get(waiting_id(definition.queue_id))
            self.vhosts[definition.vhost].add_queue(definition, state, waiting=waiting)
        else:
            self.vhosts[definition.vhost].add_binding(definition)
