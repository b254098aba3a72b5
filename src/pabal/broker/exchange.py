"""Exchanges: a routing key and headers in, destinations out. One class a type."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final

from pabal.broker.statistics import Counters
from pabal.broker.topic import TopicTree
from pabal.model.arguments import type_name
from pabal.model.definitions import BindingDefinition, ExchangeDefinition, canonical
from pabal.model.errors import PreconditionFailed
from pabal.model.message import Container

if TYPE_CHECKING:
    from pabal.broker.queue import Queue

BindingKey = tuple[bool, str, str, str]
"""Destination is an exchange, its name, routing key, arguments in canonical form."""


class Binding:
    """`key`: what it is known by among the bindings from its exchange."""

    __slots__ = ("definition", "destination", "durable", "key")

    def __init__(self, definition: BindingDefinition, destination: Queue | Exchange, durable: bool) -> None:
        self.definition = definition
        self.destination = destination
        self.durable = durable
        self.key: BindingKey = binding_key(definition)


def binding_key(definition: BindingDefinition) -> BindingKey:
    """What a binding with this definition is known by."""
    return (
        definition.to_exchange,
        definition.destination,
        definition.routing_key,
        canonical(definition.arguments),
    )


class Exchange(ABC):
    """`bindings` are those from this exchange. `by_key`: where a message goes depends on its routing keys and the
    bindings alone, so the route may be remembered. `random_token` is for those that choose by chance."""

    type: ClassVar[str]

    def __init__(self, definition: ExchangeDefinition, random_token: Callable[[], str]) -> None:
        self.definition = definition
        self.name = definition.name
        self.by_key = True
        self.counters = Counters()
        self.bindings: dict[BindingKey, Binding] = {}
        self.policy_alternate: str | None = None
        """The alternate exchange that policies name."""

    @property
    def alternate(self) -> str | None:
        """The exchange that takes what this one cannot route. The argument comes before the policies."""
        name = self.definition.arguments.get("alternate-exchange", self.policy_alternate)
        return name if isinstance(name, str) else None

    def check_arguments(self) -> None:
        """PreconditionFailed when the arguments of its declaration make no sense, or not for this type."""
        alternate = self.definition.arguments.get("alternate-exchange", "")
        if not isinstance(alternate, str):
            raise PreconditionFailed(
                f"invalid type '{type_name(alternate)}' for arg 'alternate-exchange' in exchange '{self.name}' "
                f"in vhost '{self.definition.vhost}'"
            )

    def check_binding(self, definition: BindingDefinition) -> None:  # noqa: B027 - most types take any
        """PreconditionFailed when the binding's arguments make no sense for this type."""

    def close(self) -> None:  # noqa: B027 - most types hold nothing
        """It was deleted."""

    def bind(self, binding: Binding) -> bool:
        """False when it was there."""
        if binding.key in self.bindings:
            return False
        self.bindings[binding.key] = binding
        self._added(binding)
        return True

    def unbind(self, key: BindingKey) -> Binding | None:
        binding = self.bindings.pop(key, None)
        if binding is not None:
            self._removed(binding)
        return binding

    @abstractmethod
    def _added(self, binding: Binding) -> None: ...

    @abstractmethod
    def _removed(self, binding: Binding) -> None: ...

    @abstractmethod
    def route(self, keys: tuple[str, ...], container: Container, content: bytes) -> Iterable[Queue | Exchange]:
        """Where a message goes from here, a destination possibly more than once. `keys`: its routing key first,
        and then those for its copies (CC). `content` is empty when the exchange goes `by_key`."""


class DirectExchange(Exchange):
    """To the bindings with the very same key (AMQP 0-9-1 §3.1.3.1)."""

    type = "direct"

    def __init__(self, definition: ExchangeDefinition, random_token: Callable[[], str]) -> None:
        super().__init__(definition, random_token)
        self._by_key: dict[str, dict[Binding, None]] = {}

    def _added(self, binding: Binding) -> None:
        self._by_key.setdefault(binding.definition.routing_key, {})[binding] = None

    def _removed(self, binding: Binding) -> None:
        key = binding.definition.routing_key
        del self._by_key[key][binding]
        if not self._by_key[key]:
            del self._by_key[key]

    def route(self, keys: tuple[str, ...], container: Container, content: bytes) -> Iterable[Queue | Exchange]:
        return [binding.destination for key in keys for binding in self._by_key.get(key, ())]


class FanoutExchange(Exchange):
    """To every binding (§3.1.3.2)."""

    type = "fanout"

    def _added(self, binding: Binding) -> None:
        pass

    def _removed(self, binding: Binding) -> None:
        pass

    def route(self, keys: tuple[str, ...], container: Container, content: bytes) -> Iterable[Queue | Exchange]:
        return [binding.destination for binding in self.bindings.values()]


class TopicExchange(Exchange):
    """To the bindings whose pattern matches the key (§3.1.3.3)."""

    type = "topic"

    def __init__(self, definition: ExchangeDefinition, random_token: Callable[[], str]) -> None:
        super().__init__(definition, random_token)
        self._tree: TopicTree[Queue | Exchange] = TopicTree()

    def _added(self, binding: Binding) -> None:
        self._tree.add(binding.definition.routing_key, binding.destination)

    def _removed(self, binding: Binding) -> None:
        self._tree.remove(binding.definition.routing_key, binding.destination)

    def route(self, keys: tuple[str, ...], container: Container, content: bytes) -> Iterable[Queue | Exchange]:
        return [destination for key in keys for destination in self._tree.match(key)]


_Place = tuple[str, Any]
"""In the index of a headers exchange: a header's name, and its value or None for whatever value."""
_ALWAYS: Final[_Place] = ("", None)
_UNHASHABLE: Final = object()


class HeadersExchange(Exchange):
    """To the bindings whose arguments match the headers (§3.1.3.4), `x-match` in RabbitMQ's four ways. An index of
    what they want leads from a message's headers to the few that may match."""

    type = "headers"
    WAYS: ClassVar[tuple[str, ...]] = ("all", "any", "all-with-x", "any-with-x")

    def __init__(self, definition: ExchangeDefinition, random_token: Callable[[], str]) -> None:
        super().__init__(definition, random_token)
        self.by_key = False
        self._patterns: dict[BindingKey, _Pattern] = {}
        self._names: dict[str, int] = {}  # of headers that some pattern wants, and how often
        self._index: dict[_Place, dict[_Pattern, None]] = {}

    def check_binding(self, definition: BindingDefinition) -> None:
        way = definition.arguments.get("x-match", "all")
        if not isinstance(way, str):
            raise PreconditionFailed(f"Invalid x-match field type {type_name(way)} (value {way}); expected longstr")
        if way not in self.WAYS:
            raise PreconditionFailed(
                f'Invalid x-match field value <<"{way}">>; expected all, any, all-with-x, or any-with-x'
            )

    def _added(self, binding: Binding) -> None:
        pattern = self._patterns[binding.key] = _Pattern(binding)
        for name, _ in pattern.wanted:
            self._names[name] = self._names.get(name, 0) + 1
        for place in pattern.places():
            self._index.setdefault(place, {})[pattern] = None

    def _removed(self, binding: Binding) -> None:
        pattern = self._patterns.pop(binding.key)
        for name, _ in pattern.wanted:
            self._names[name] -= 1
            if not self._names[name]:
                del self._names[name]
        for place in pattern.places():
            self._index[place].pop(pattern, None)
            if not self._index[place]:
                del self._index[place]

    def route(self, keys: tuple[str, ...], container: Container, content: bytes) -> Iterable[Queue | Exchange]:
        index = self._index
        headers = container.headers(content, self._names) if self._names else {}
        found = list(index.get(_ALWAYS, ()))
        for name, value in headers.items():
            found += index.get((name, None), ())
            if value is not None:
                found += index.get((name, _shelf(value)), ())
        return [pattern.destination for pattern in found if pattern.matches(headers)]


class _Pattern:
    """What a binding wants of the headers: of the pairs `wanted` every one, or any one if `any_one`. None stands for
    whatever value."""

    __slots__ = ("any_one", "destination", "wanted")

    def __init__(self, binding: Binding) -> None:
        arguments = binding.definition.arguments
        way = arguments.get("x-match", "all")
        with_x = way.endswith("-with-x")
        self.destination = binding.destination
        self.any_one = way.startswith("any")
        self.wanted = [
            (name, value)
            for name, value in arguments.items()
            if name != "x-match" and (with_x or not name.startswith("x-"))
        ]

    def places(self) -> list[_Place]:
        """Where the index has it: only with a header found there it can match, so one that wants all needs one."""
        if not self.wanted:
            return [] if self.any_one else [_ALWAYS]
        names = self.wanted if self.any_one else self.wanted[:1]
        return [(name, None if value is None else _shelf(value)) for name, value in names]

    def matches(self, headers: Mapping[str, Any]) -> bool:
        for name, value in self.wanted:
            found = name in headers and (value is None or _alike(value, headers[name]))
            if found == self.any_one:
                return found
        return not self.any_one


def _alike(a: Any, b: Any) -> bool:
    """Numbers are compared by value, whichever types they have; true and false are no numbers."""
    if isinstance(a, str):
        return isinstance(b, str) and a == b
    numbers = (int, float)
    if isinstance(a, numbers) and isinstance(b, numbers) and not isinstance(a, bool) and not isinstance(b, bool):
        return a == b
    return type(a) is type(b) and bool(a == b)


def _shelf(value: Any) -> Any:
    """What stands for a value in the index: the same for all that are alike."""
    return _UNHASHABLE if isinstance(value, (list, dict)) else value
