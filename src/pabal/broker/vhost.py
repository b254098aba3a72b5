"""A virtual host: its exchanges, queues and bindings, and the way of a message from one to the other."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pabal.broker.delayed import Delay, DelayedExchange
from pabal.broker.exchange import Binding, BindingKey, Exchange, binding_key
from pabal.broker.exchange_types import PREDECLARED, check_type, make_exchange
from pabal.broker.inbox import Inbox
from pabal.broker.policies import Policies
from pabal.broker.queue import Queue
from pabal.broker.router import Router
from pabal.model.arguments import DEFAULTS, KNOWN, check_quorum, compare, compare_flag, parse_queue_arguments
from pabal.model.definitions import (
    BindingDefinition,
    ExchangeDefinition,
    QueueDefinition,
    VhostDefinition,
    VhostLimitsDefinition,
)
from pabal.model.errors import (
    AccessRefused,
    Deprecated,
    Locked,
    NotAllowed,
    NotFound,
    PreconditionFailed,
)
from pabal.store.batch import QueueState

if TYPE_CHECKING:
    from pabal.broker.broker import Broker


class Vhost(Router):
    def __init__(self, broker: Broker, definition: VhostDefinition) -> None:
        super().__init__(broker, definition.name)
        self.definition = definition
        self.policies = Policies()
        self.limits = VhostLimitsDefinition(definition.name)
        self.connections: set[object] = set()
        self._bindings_to: dict[Queue | Exchange, dict[tuple[str, BindingKey], Binding]] = {}
        for exchange, kind in PREDECLARED:
            self.add_exchange(ExchangeDefinition(definition.name, exchange, kind))

    def connect(self, connection: object, user: str) -> None:
        """A connection begins to use the vhost, until `disconnect`. NotAllowed: there are as many as
        there may be."""
        most = self.limits.max_connections
        if most is not None and len(self.connections) >= most:
            raise NotAllowed(
                f"access to vhost '{self.name}' refused for user '{user}': connection limit ({most}) is reached"
            )
        self.connections.add(connection)
        self.broker.statistics.connections_opened += 1

    def disconnect(self, connection: object) -> None:
        """It ended."""
        if connection in self.connections:
            self.connections.discard(connection)
            self.broker.statistics.connections_closed += 1

    def clear(self) -> None:
        """It is being deleted: so is all that is in it."""
        for queue in list(self.queues.values()):
            self.delete_queue(queue)
        for exchange in list(self.exchanges.values()):
            self._remove_exchange(exchange)
        for inbox in list(self.inboxes.values()):
            self.close_inbox(inbox)

    # --- Exchanges ------------------------------------------------------------------------------------------

    def declare_exchange(self, definition: ExchangeDefinition) -> bool:
        """True when it was made, False when the same one was there already."""
        name = definition.name
        check_type(definition.type)
        existing = self.exchanges.get(name)
        if existing is not None:
            current = existing.definition
            compare_flag("exchange", name, self.name, "type", current.type, definition.type)
            compare_flag("exchange", name, self.name, "durable", current.durable, definition.durable)
            compare_flag("exchange", name, self.name, "auto_delete", current.auto_delete, definition.auto_delete)
            compare_flag("exchange", name, self.name, "internal", current.internal, definition.internal)
            compare("exchange", name, self.name, current.arguments, definition.arguments, ["alternate-exchange"])
            return False
        if name.startswith("amq."):
            raise AccessRefused(f"exchange name '{name}' contains reserved prefix 'amq.*'")
        if definition.type == DelayedExchange.type:
            definition = replace(definition, queue_id=self.broker.next_queue_id())
        self.add_exchange(definition, check=True)
        if definition.durable:
            self.broker.store.journal.define(definition)
        return True

    def add_exchange(
        self, definition: ExchangeDefinition, check: bool = False, waiting: QueueState | None = None
    ) -> None:
        """`waiting`: the state in the store of what it held back. `check`: it is new, so check its arguments."""
        exchange = make_exchange(definition, self.broker.random_token)
        if check:
            exchange.check_arguments()
        if isinstance(exchange, DelayedExchange):
            exchange.delay = Delay(self, exchange, definition.queue_id, waiting)
            exchange.delay.schedule()
        exchange.policy_alternate = self.policies.alternate(definition.name)
        self.exchanges[definition.name] = exchange
        if check and definition.type == "topic":
            self.broker.accounts.topic_exchange_made()
        self._routes.clear()

    def delete_exchange(self, name: str, if_unused: bool = False) -> bool:
        """False when there was none (RabbitMQ does not mind)."""
        if any(name == predeclared for predeclared, _ in PREDECLARED):
            raise AccessRefused(
                f"deletion of system exchange '{name}' in vhost '{self.name}' not allowed"
                if name
                else "operation not permitted on the default exchange"
            )
        exchange = self.exchanges.get(name)
        if exchange is None:
            return False
        if if_unused and exchange.bindings:
            raise PreconditionFailed(f"exchange '{name}' in vhost '{self.name}' in use")
        self._remove_exchange(exchange)
        return True

    def _remove_exchange(self, exchange: Exchange) -> None:
        """And with it its bindings, and the auto-delete exchanges that have none left then, and so on."""
        waiting = [exchange]
        while waiting:
            gone = waiting.pop()
            if self.exchanges.pop(gone.name, None) is None:
                continue
            for binding in list(gone.bindings.values()):
                self._remove_binding(gone, binding)
            waiting += self._remove_bindings_to(gone)
            if gone.definition.durable:
                self.broker.store.journal.undefine(gone.definition)
            gone.close()
        self._routes.clear()

    # --- Queues ---------------------------------------------------------------------------------------------

    def queue(self, name: str, owner: object | None = None) -> Queue:
        """The queue, for a connection `owner`. Locked: it is another connection's."""
        queue = self._find(name)
        if queue.owner is not None and queue.owner is not owner:
            raise self._locked(name)
        return queue

    def _find(self, name: str) -> Queue:
        queue = self.queues.get(name)
        if queue is None:
            raise NotFound(f"no queue '{name}' in vhost '{self.name}'")
        return queue

    def _locked(self, name: str) -> Locked:
        return Locked(
            f"cannot obtain exclusive access to locked queue '{name}' in vhost '{self.name}'. It could be "
            f"originally declared on another connection or the exclusive property value does not match "
            f"that of the original declaration."
        )

    def declare_queue(
        self,
        name: str,
        durable: bool,
        exclusive: bool,
        auto_delete: bool,
        arguments: dict[str, Any],
        owner: object,
        server_name: str = "",
    ) -> tuple[Queue, bool]:
        """The queue, and whether it was made. An empty name asks for one of the broker's making, `server_name`."""
        durable = durable and not exclusive  # as in RabbitMQ: it could not outlive its connection anyway
        quorum = arguments.get("x-queue-type") == "quorum"
        if not name:
            if quorum:
                raise PreconditionFailed("Cannot declare a server-named queue for type rabbit_quorum_queue")
            name = server_name or self.broker.name_queue()
        elif name in self.queues:
            queue = self.queue(name, owner)
            if exclusive != (queue.owner is not None):
                raise self._locked(name)
            current = queue.definition
            compare_flag("queue", name, self.name, "durable", current.durable, durable)
            compare_flag("queue", name, self.name, "auto_delete", current.auto_delete, auto_delete)
            compare(
                "queue",
                name,
                self.name,
                DEFAULTS | current.arguments,
                DEFAULTS | arguments,
                KNOWN,
            )
            queue.use()
            self.broker.statistics.queues_declared += 1
            return queue, False
        elif name.startswith("amq."):
            raise AccessRefused(f"queue name '{name}' contains reserved prefix 'amq.*'")
        parse_queue_arguments(arguments, name, self.name)
        if quorum:
            check_quorum(name, self.name, durable, exclusive, auto_delete)
        if self.limits.max_queues is not None and len(self.queues) >= self.limits.max_queues:
            raise PreconditionFailed(
                f"cannot declare queue '{name}': queue limit in vhost '{self.name}' ({self.limits.max_queues}) "
                f"is reached"
            )
        if not (durable or exclusive or self.broker.transient_queues):
            raise Deprecated("transient_nonexcl_queues")
        definition = QueueDefinition(self.name, name, self.broker.next_queue_id(), durable, auto_delete, arguments)
        queue = self.add_queue(definition, None, owner if exclusive else None)
        if exclusive:
            self.broker.own(owner, queue)
        elif durable:
            self.broker.store.journal.define(definition)
        self.broker.statistics.queues_declared += 1
        self.broker.statistics.queues_created += 1
        return queue, True

    def add_queue(
        self,
        definition: QueueDefinition,
        state: QueueState | None,
        owner: object | None = None,
        waiting: QueueState | None = None,
    ) -> Queue:
        parsed = parse_queue_arguments(definition.arguments, definition.name, self.name)
        effective = self.policies.arguments(definition.name, definition.arguments, parsed)
        log = self.broker.store.journal.queue_log(definition.queue_id, state, durable=definition.durable)
        queue = Queue(self, definition, effective, log, owner, waiting)
        queue.declared = parsed
        self.queues[definition.name] = queue
        self._routes.clear()
        queue.use()
        if not queue.empty:
            queue.schedule()  # sets the timer of the first message, should that expire, and of what waits
        return queue

    def delete_queue(self, queue: Queue, if_unused: bool = False, if_empty: bool = False) -> int:
        """Returns how many ready messages it had."""
        if queue.deleted:
            return 0
        if if_unused and queue.consumers:
            raise PreconditionFailed(f"queue '{queue.name}' in vhost '{self.name}' in use")
        if queue.owner is None or queue.arguments.delivery_limit is not None:
            self.broker.returns.complete(queue)  # they count, and some may be dead letters
        if if_empty and not queue.empty:
            raise PreconditionFailed(f"queue '{queue.name}' in vhost '{self.name}' not empty")
        ready = queue.ready
        self.broker.statistics.queues_deleted += 1
        del self.queues[queue.name]
        self._routes.clear()
        if queue.durable and queue.owner is None:
            self.broker.store.journal.undefine(queue.definition)
        for exchange in self._remove_bindings_to(queue):
            self._remove_exchange(exchange)
        queue.close()
        return ready

    # --- Inboxes --------------------------------------------------------------------------------------------

    def open_inbox(self, prefix: str) -> Inbox:
        """An inbox with a name that begins so. It closes when its consumer is removed."""
        inbox = Inbox(self, self.broker.name_inbox(prefix))
        self.inboxes[inbox.name] = inbox
        self._routes.clear()
        return inbox

    def close_inbox(self, inbox: Inbox) -> None:
        if self.inboxes.pop(inbox.name, None) is not None:
            self._routes.clear()
            inbox.close()

    # --- Bindings -------------------------------------------------------------------------------------------

    def bind(self, definition: BindingDefinition, owner: object | None = None) -> bool:
        """False when it was there. The default exchange takes no bindings."""
        if definition.source == "" or (definition.to_exchange and definition.destination == ""):
            raise AccessRefused("operation not permitted on the default exchange")
        source = self.exchange(definition.source)
        destination: Queue | Exchange = (
            self.exchange(definition.destination) if definition.to_exchange else self._find(definition.destination)
        )
        source.check_binding(definition)
        self._check_binding_owner(definition, owner)
        return self._add_binding(source, destination, definition, store=True)

    def _check_binding_owner(self, definition: BindingDefinition, owner: object | None) -> None:
        """Locked: the binding's destination is another connection's queue."""
        if not definition.to_exchange:
            self.queue(definition.destination, owner)

    def add_binding(self, definition: BindingDefinition) -> None:
        """One that the store had."""
        destination: Queue | Exchange = (
            self.exchanges[definition.destination] if definition.to_exchange else self.queues[definition.destination]
        )
        self._add_binding(self.exchanges[definition.source], destination, definition, store=False)

    def _add_binding(
        self, source: Exchange, destination: Queue | Exchange, definition: BindingDefinition, store: bool
    ) -> bool:
        durable = source.definition.durable and destination.definition.durable
        if isinstance(destination, Queue) and destination.owner is not None:
            durable = False
        binding = Binding(definition, destination, durable)
        if not source.bind(binding):
            return False
        self._bindings_to.setdefault(destination, {})[(source.name, binding.key)] = binding
        self._routes.clear()
        if durable and store:
            self.broker.store.journal.define(definition)
        return True

    def unbind(self, definition: BindingDefinition, owner: object | None = None) -> bool:
        """False when there was none (RabbitMQ does not mind)."""
        if definition.source == "" or (definition.to_exchange and definition.destination == ""):
            raise AccessRefused("operation not permitted on the default exchange")
        source = self.exchanges.get(definition.source)
        if source is None:
            return False
        binding = source.bindings.get(binding_key(definition))
        if binding is None:
            return False
        self._check_binding_owner(definition, owner)
        self._remove_binding(source, binding)
        if _is_unused(source):
            self._remove_exchange(source)
        return True

    def bindings_to(self, name: str, to_exchange: bool) -> list[BindingDefinition]:
        """Those to the queue, or exchange, of this name; but for that of every queue from the default exchange."""
        destination: Queue | Exchange | None = (self.exchanges if to_exchange else self.queues).get(name)
        if destination is None:
            return []
        return [binding.definition for binding in self._bindings_to.get(destination, {}).values()]

    def _remove_binding(self, source: Exchange, binding: Binding) -> None:
        source.unbind(binding.key)
        others = self._bindings_to[binding.destination]
        del others[(source.name, binding.key)]
        if not others:
            del self._bindings_to[binding.destination]
        if binding.durable:
            self.broker.store.journal.undefine(binding.definition)
        self._routes.clear()

    def _remove_bindings_to(self, destination: Queue | Exchange) -> list[Exchange]:
        """Returns the exchanges that are to go with their last binding."""
        unused: list[Exchange] = []
        for (name, _), binding in list(self._bindings_to.get(destination, {}).items()):
            source = self.exchanges.get(name)
            if source is not None:
                self._remove_binding(source, binding)
                if _is_unused(source):
                    unused.append(source)
        return unused


def _is_unused(exchange: Exchange) -> bool:
    return exchange.definition.auto_delete and not exchange.bindings
