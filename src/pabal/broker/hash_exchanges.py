"""Exchanges that send each message to one of their destinations: by a hash of it (RabbitMQ's plugins
consistent_hash_exchange and sharding) or by chance (random_exchange).

Which one it is depends on nothing but the message and the bindings that there are: not on their order, so a
restart changes nothing, and not on the process, so every one of them agrees.
"""

from __future__ import annotations

import hashlib
import math
import re
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

from pabal.broker.exchange import Binding, Exchange
from pabal.model.arguments import type_name
from pabal.model.definitions import BindingDefinition, ExchangeDefinition, canonical
from pabal.model.errors import PreconditionFailed
from pabal.model.message import Container

if TYPE_CHECKING:
    from pabal.broker.queue import Queue

_MASK: Final = 2**64 - 1
_UNIT: Final = 2.0**-53
PROPERTIES: Final = ("correlation_id", "message_id", "timestamp")
"""What `hash-property` may name."""


class Share(NamedTuple):
    """A destination, the share of messages it is to have, and a number of its own to hash with."""

    destination: Queue | Exchange
    weight: int
    salt: int


class OneOfExchange(Exchange):
    """Sends a message to one of its destinations. With several keys (CC) only the first counts: copies of a
    message that goes to one place would not."""

    def __init__(self, definition: ExchangeDefinition, random_token: Callable[[], str]) -> None:
        super().__init__(definition, random_token)
        self._shares: list[Share] | None = None

    def _added(self, binding: Binding) -> None:
        self._shares = None

    def _removed(self, binding: Binding) -> None:
        self._shares = None

    def _weight(self, binding: Binding) -> int:
        return 1

    def shares(self) -> list[Share]:
        """The destinations, each once however often it is bound, in the order of their names."""
        if self._shares is None:
            weights: dict[tuple[bool, str], int] = {}
            destinations: dict[tuple[bool, str], Queue | Exchange] = {}
            for binding in self.bindings.values():
                name = (binding.definition.to_exchange, binding.definition.destination)
                weights[name] = weights.get(name, 0) + self._weight(binding)
                destinations[name] = binding.destination
            self._shares = [
                Share(destinations[name], weights[name], hash_of(f"{'x' if name[0] else 'q'}:{name[1]}"))
                for name in sorted(weights)
            ]
        return self._shares

    def route(self, keys: tuple[str, ...], container: Container, content: bytes) -> Iterable[Queue | Exchange]:
        shares = self.shares()
        return [self._choose(shares, keys[0], container, content)] if shares else []

    @abstractmethod
    def _choose(self, shares: list[Share], key: str, container: Container, content: bytes) -> Queue | Exchange: ...


class ConsistentHashExchange(OneOfExchange):
    """By the hash of the routing key, or of what the exchange's argument `hash-header` or `hash-property` names;
    messages without that are all alike. A binding's key is its weight, and the weights of a destination add up.

    Weighted rendezvous hashing: every destination draws a number from the message's hash, and the lowest
    in proportion to its weight wins. So the shares are exact in the mean, and when a binding comes or goes, only
    messages that go to its destination, or went there, move. It costs a look at each destination.
    """

    type: ClassVar[str] = "x-consistent-hash"

    def __init__(self, definition: ExchangeDefinition, random_token: Callable[[], str]) -> None:
        super().__init__(definition, random_token)
        self._header = definition.arguments.get("hash-header")
        self._property = definition.arguments.get("hash-property")
        self.by_key = self._header is None and self._property is None

    def check_arguments(self) -> None:
        super().check_arguments()
        for name, value in (("hash-header", self._header), ("hash-property", self._property)):
            if value is not None and not isinstance(value, str):
                raise PreconditionFailed(
                    f"invalid arg '{name}' for exchange '{self.name}' in vhost '{self.definition.vhost}': "
                    f"{{unacceptable_type,{type_name(value)}}}"
                )
        if self._header is not None and self._property is not None:
            raise PreconditionFailed("hash-header and hash-property are mutually exclusive")
        if self._property is not None and self._property not in PROPERTIES:
            raise PreconditionFailed(f"Unsupported property: {self._property}")

    def check_binding(self, definition: BindingDefinition) -> None:
        weight = definition.routing_key
        if re.fullmatch(r"[+-]?[0-9]+", weight) is None:
            shown = f'<<"{weight}">>' if weight else "<<>>"
            raise PreconditionFailed(f"The binding key must be an integer: {shown}")
        if int(weight) < 1:
            raise PreconditionFailed("The binding key must be greater than 0")

    def _weight(self, binding: Binding) -> int:
        return int(binding.definition.routing_key)

    def _choose(self, shares: list[Share], key: str, container: Container, content: bytes) -> Queue | Exchange:
        if self._header is not None:
            key = _text(container.headers(content, (self._header,)).get(self._header))
        elif self._property is not None:
            key = container.property(content, self._property) or ""
        hashed = hash_of(key)
        chosen = shares[0].destination
        lowest = math.inf
        for destination, weight, salt in shares:
            # Two rounds of multiply and fold, as in splitmix64: from related numbers to unrelated ones.
            drawn = (hashed ^ salt) * 0x9E3779B97F4A7C15 & _MASK
            drawn = (drawn ^ drawn >> 30) * 0xBF58476D1CE4E5B9 & _MASK
            drawn = (drawn ^ drawn >> 27) * 0x94D049BB133111EB & _MASK
            # Exponential with the rate `weight`, so the lowest is this one's with the chance weight / sum of weights.
            waited = -math.log(((drawn >> 11) + 0.5) * _UNIT) / weight
            if waited < lowest:
                lowest = waited
                chosen = destination
        return chosen


class ModulusHashExchange(OneOfExchange):
    """By the hash of the routing key modulo the number of destinations. A new one moves nearly every key."""

    type: ClassVar[str] = "x-modulus-hash"

    def _choose(self, shares: list[Share], key: str, container: Container, content: bytes) -> Queue | Exchange:
        return shares[hash_of(key) % len(shares)].destination


class RandomExchange(OneOfExchange):
    """By chance, each destination as likely as the others."""

    type: ClassVar[str] = "x-random"

    def __init__(self, definition: ExchangeDefinition, random_token: Callable[[], str]) -> None:
        super().__init__(definition, random_token)
        self.by_key = False
        self._seed = random_token()
        self._drawn = 0

    def _choose(self, shares: list[Share], key: str, container: Container, content: bytes) -> Queue | Exchange:
        self._drawn += 1
        return shares[hash_of(f"{self._seed}:{self._drawn}") % len(shares)].destination


def hash_of(text: str) -> int:
    """64 bits, the same wherever and whenever they are asked for."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def _text(value: Any) -> str:
    """A header's value to be hashed: strings as they are, other types in their one written form."""
    if value is None:
        return ""
    return value if isinstance(value, str) else canonical(value)
