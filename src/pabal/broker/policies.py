"""The policies of a vhost: which one an object has, and how a change of them reaches queues and exchanges."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pabal.model.arguments import QueueArguments
from pabal.model.definitions import PolicyDefinition
from pabal.model.patterns import Pattern
from pabal.model.policies import PatternTooComplex, compile_pattern, effective_arguments, matches_queue, merge

if TYPE_CHECKING:
    from pabal.broker.vhost import Vhost


class Applied(NamedTuple):
    """The policies that an object has, at most one of each kind, and what they say together."""

    policy: PolicyDefinition | None
    operator_policy: PolicyDefinition | None
    definition: dict[str, Any]


NONE_APPLIED = Applied(None, None, {})


def _compiled(pattern: str) -> Pattern:
    """One that an older release took and this one does not matches nothing: the broker is to start all the same."""
    try:
        return compile_pattern(pattern)
    except PatternTooComplex:
        return Pattern("(?!)")


class Policies:
    """Those of one vhost. `definitions`: by kind (True: an operator's) and name."""

    def __init__(self) -> None:
        self.definitions: dict[tuple[bool, str], PolicyDefinition] = {}
        self._ranked: tuple[list[tuple[Pattern, PolicyDefinition]], ...] = ([], [])

    def put(self, policy: PolicyDefinition) -> None:
        """Adds the policy or changes it. InvalidParameter: the pattern is no regular expression."""
        _compiled(policy.pattern)
        self.definitions[policy.operator, policy.name] = policy
        self._rank(policy.operator)

    def remove(self, policy: PolicyDefinition) -> None:
        del self.definitions[policy.operator, policy.name]
        self._rank(policy.operator)

    def _rank(self, operator: bool) -> None:
        """The highest priority first; among equals by name, where RabbitMQ leaves it open."""
        ranked = self._ranked[operator]
        ranked[:] = [(_compiled(p.pattern), p) for p in self.definitions.values() if p.operator == operator]
        ranked.sort(key=lambda pair: (-pair[1].priority, pair[1].name))

    def for_queue(self, name: str, kind: str) -> Applied:
        """`kind`: the queue's type."""
        if not self.definitions:
            return NONE_APPLIED
        policy, operator = (
            next((p for pattern, p in ranked if matches_queue(p, kind) and pattern.search(name)), None)
            for ranked in self._ranked
        )
        return _applied(policy, operator)

    def for_exchange(self, name: str) -> Applied:
        """The default exchange has none: it routes to queues and to nothing else."""
        if not self.definitions or not name:
            return NONE_APPLIED
        policy, operator = (
            next((p for pattern, p in ranked if p.apply_to in ("all", "exchanges") and pattern.search(name)), None)
            for ranked in self._ranked
        )
        return _applied(policy, operator)

    def arguments(self, name: str, arguments: dict[str, Any], declared: QueueArguments) -> QueueArguments:
        """What is in force of a queue that was declared with `arguments`, which mean `declared`."""
        definition = self.for_queue(name, declared.type).definition
        return effective_arguments(declared, arguments, definition) if definition else declared

    def alternate(self, name: str) -> str | None:
        """The alternate exchange that policies give to an exchange."""
        alternate = self.for_exchange(name).definition.get("alternate-exchange")
        return alternate if isinstance(alternate, str) else None


def _applied(policy: PolicyDefinition | None, operator: PolicyDefinition | None) -> Applied:
    return Applied(
        policy, operator, merge(policy.definition if policy else {}, operator.definition if operator else {})
    )


def apply_policies(vhost: Vhost) -> None:
    """Makes the queues and exchanges that there are what the policies now say. Those that it changes nothing for
    do not notice."""
    for exchange in vhost.exchanges.values():
        alternate = vhost.policies.alternate(exchange.name)
        if alternate != exchange.policy_alternate:
            exchange.policy_alternate = alternate
            vhost.forget_routes()
    changed = []
    for queue in vhost.queues.values():
        arguments = vhost.policies.arguments(queue.name, queue.definition.arguments, queue.declared)
        if arguments != queue.arguments:
            changed.append((queue, arguments))
    for queue, arguments in changed:
        queue.change_arguments(arguments)
