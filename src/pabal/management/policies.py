"""Policies and operator policies: /api/policies, /api/operator-policies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from pabal.management import fields
from pabal.management.call import CREATED, Answer, Call, Work, not_found
from pabal.management.listing import Facts, listing, one
from pabal.management.routes import Function, Route, Who
from pabal.model.definitions import PolicyDefinition
from pabal.model.errors import InvalidParameter
from pabal.model.policies import compile_pattern, term


def facts_of(policy: PolicyDefinition) -> Facts:
    return {
        "vhost": policy.vhost,
        "name": policy.name,
        "pattern": policy.pattern,
        "apply-to": policy.apply_to,
        "definition": policy.definition,
        "priority": policy.priority,
    }


def of_vhosts(call: Call, operator: bool) -> list[PolicyDefinition]:
    return [
        policy
        for vhost in call.asked_vhosts()
        for policy in vhost.policies.definitions.values()
        if policy.operator == operator
    ]


def _lister(operator: bool) -> Function:
    def list_policies(call: Call) -> Work:
        return listing(call, of_vhosts(call, operator), facts_of, paged=False)

    return list_policies


def _find(call: Call, operator: bool) -> PolicyDefinition | None:
    return call.vhost.policies.definitions.get((operator, call.arguments["name"]))


def _shower(operator: bool) -> Function:
    def show(call: Call) -> Answer:
        policy = _find(call, operator)
        if policy is None:
            raise not_found()
        return one(call, facts_of(policy))

    return show


def _putter(operator: bool) -> Function:
    def put(call: Call) -> Answer:
        there = _find(call, operator) is not None
        body = call.json("pattern", "definition")
        call.broker.put_policy(read_policy(call.vhost.name, call.arguments["name"], body, operator))
        return Answer(204 if there else CREATED)

    return put


def read_policy(vhost: str, name: str, body: Facts, operator: bool) -> PolicyDefinition:
    """What the body says, each value of its type; whether it can be is checked when it is put. InvalidParameter."""
    priority = body.get("priority")
    pattern = body.get("pattern", "")
    compile_pattern(pattern)
    return PolicyDefinition(
        vhost,
        name,
        pattern,
        _definition(body.get("definition")),
        fields.whole("priority", priority) if isinstance(priority, str) else 0 if priority is None else priority,
        fields.text("apply-to", body.get("apply-to") or "all"),
        operator,
    )


def _definition(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidParameter(f"definition must be a dictionary: {term(value)}")
    return {name: inner for name, inner in value.items() if inner is not None}


def _deleter(operator: bool) -> Function:
    def delete(call: Call) -> None:
        if _find(call, operator) is None:
            raise not_found()
        call.broker.delete_policy(call.vhost.name, call.arguments["name"], operator)

    return delete


_BODY: Final = "pattern: string; definition: object; priority: integer; apply-to: queues, exchanges or all"


def _routes(base: str, what: str, operator: bool, who: Who) -> tuple[Route, ...]:
    named = f"{base}/{{vhost}}/{{name}}"
    lists: Callable[[Call], Work] = _lister(operator)
    read = Who.POLICYMAKER if not operator else Who.ADMINISTRATOR
    return (
        Route("GET", base, Who.VHOST, lists, f"All {what}."),
        Route("GET", f"{base}/{{vhost}}", Who.VHOST, lists, f"The {what} of a vhost."),
        Route("GET", named, read, _shower(operator), "One of them."),
        Route("PUT", named, who, _putter(operator), "Adds it or changes it.", _BODY),
        Route("DELETE", named, who, _deleter(operator), "Deletes it."),
    )


ROUTES: Final = (
    *_routes("/api/policies", "policies", False, Who.POLICYMAKER),
    *_routes("/api/operator-policies", "operator policies", True, Who.ADMINISTRATOR),
)
