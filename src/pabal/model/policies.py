"""Policies and limits of vhosts: which keys there are, what they may hold, and what is in force where the arguments
of a queue, a policy and an operator's policy speak of the same thing. The rules and the words are RabbitMQ's.

A new key is a line in KEYS. What it does is done by the queue argument of the same name (model.arguments.KNOWN).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from pabal.model.arguments import KNOWN, QueueArguments, retry_error
from pabal.model.definitions import PolicyDefinition
from pabal.model.errors import InvalidParameter
from pabal.model.limits import NAME_BYTES_MAX, PATTERN_BYTES_MAX
from pabal.model.patterns import Pattern, TooComplex

Merge = Callable[[Any, Any], Any]
Resolve = Callable[[Any, Any, str], Any]


# --- Which of two is in force --------------------------------------------------------------------------------


def _lowest(policy: Any, argument: Any, kind: str) -> Any:
    return policy if argument is None else min(policy, argument)


def _argument(policy: Any, argument: Any, kind: str) -> Any:
    return policy if argument is None else argument


def _policy(policy: Any, argument: Any, kind: str) -> Any:
    return policy


def _limit(policy: Any, argument: Any, kind: str) -> Any:
    """The lower one; but below zero means no limit, and then RabbitMQ takes the higher one."""
    return policy if argument is None else _lower_limit(policy, argument)


def _lower_limit(one: int, other: int) -> int:
    return max(one, other) if one < 0 or other < 0 else min(one, other)


def _overflow(policy: Any, argument: Any, kind: str) -> Any:
    """A classic queue's argument comes before the policy, a quorum queue's behind it."""
    if kind == "quorum":
        return "drop-head" if policy == "reject-publish-dlx" else policy  # which quorum queues do not have
    return _argument(policy, argument, kind)


def _operator(policy: Any, operator: Any) -> Any:
    return operator


# --- What values may be --------------------------------------------------------------------------------------


def _whole(value: Any, least: int | None = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and (least is None or value >= least)


def _text(value: Any) -> bool:
    """Also short enough to be the name of an exchange or a routing key, which RabbitMQ finds out later."""
    try:
        return isinstance(value, str) and len(value.encode()) <= NAME_BYTES_MAX
    except UnicodeEncodeError:
        return False


def _one_of(*values: Any) -> Callable[[Any], bool]:
    return lambda value: any(type(value) is type(known) and value == known for known in values)


def _max_age(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"0*[1-9][0-9]*[YMDhms]", value) is not None


def _nodes(value: Any) -> bool:
    return _whole(value, 1) or (isinstance(value, list) and all(isinstance(name, str) for name in value))


@dataclass(frozen=True, slots=True)
class Key:
    """A key of policies.

    `words`: what a value is called in "... is not a valid ...". `accepts`: whether a value may be, as far as the
    check of the queue argument that the key stands for does not say. `resolve(policy, argument or None, queue type)`:
    the value in force.
    `merge(policy, operator's)`: the same between two policies; without it operator policies may not have the key.
    `not_for`: types of queues that a policy with this key does not apply to, as a whole.
    """

    words: str
    accepts: Callable[[Any], bool] = lambda value: True
    resolve: Resolve = _argument
    merge: Merge | None = None
    not_for: frozenset[str] = frozenset()


_CLASSIC: Final = frozenset({"classic"})
_QUORUM: Final = frozenset({"quorum"})
_BOTH: Final = frozenset({"classic", "quorum"})

KEYS: Final[dict[str, Key]] = {
    "alternate-exchange": Key("alternate exchange name", _text),
    "dead-letter-exchange": Key("dead letter exchange name", _text),
    "dead-letter-routing-key": Key("dead letter routing key", _text),
    "dead-letter-strategy": Key("dead letter strategy", not_for=_CLASSIC),
    "message-ttl": Key("message TTL", resolve=_lowest, merge=min),
    "expires": Key("queue expiry", resolve=_lowest, merge=min),
    "max-length": Key("maximum length", resolve=_lowest, merge=min),
    "max-length-bytes": Key("maximum length in bytes", resolve=_lowest, merge=min),
    "overflow": Key("overflow value", resolve=_overflow, merge=_operator),
    "delivery-limit": Key("delivery limit", resolve=_limit, merge=_lower_limit, not_for=_CLASSIC),
    "consumer-timeout": Key("consumer timeout", resolve=_lowest),
    "delayed-retry-type": Key(
        "delayed retry type. Must be one of: all, failed, returned, disabled", resolve=_policy, merge=_operator
    ),
    "delayed-retry-min": Key("delayed retry minimum delay. Must be a positive integer", resolve=_lowest, merge=max),
    "delayed-retry-max": Key("delayed retry maximum delay. Must be a positive integer", resolve=_lowest, merge=min),
    # Without effect here: how RabbitMQ places, mirrors and holds in memory what in Pabal is one queue on disk.
    "consumer-disconnected-timeout": Key("consumer disconnected timeout", _whole),
    "queue-mode": Key("queue-mode value", _one_of("default", "lazy"), not_for=_QUORUM),
    "queue-version": Key("queue-version value", _one_of(1, 2), merge=_operator),
    "queue-leader-locator": Key(
        "queue leader locator value", _one_of("client-local", "balanced", "random", "least-leaders")
    ),
    "queue-master-locator": Key(
        "master locator", _one_of("client-local", "min-masters", "random"), merge=_operator, not_for=_QUORUM
    ),
    "max-in-memory-length": Key("maximum memory in bytes", _whole, merge=min, not_for=_CLASSIC),
    "max-in-memory-bytes": Key("maximum memory in bytes", _whole, merge=min, not_for=_CLASSIC),
    "target-group-size": Key("qq target count value", lambda value: _whole(value, 1), merge=max, not_for=_CLASSIC),
    "ha-mode": Key("ha-mode value", _one_of("all", "exactly", "nodes"), merge=_operator, not_for=_QUORUM),
    "ha-params": Key("ha-params value", _nodes, merge=_operator, not_for=_QUORUM),
    "ha-sync-mode": Key("ha-sync-mode value", _one_of("manual", "automatic"), merge=_operator, not_for=_QUORUM),
    "ha-sync-batch-size": Key("ha-sync-batch-size value", lambda value: _whole(value, 1)),
    "ha-promote-on-shutdown": Key("ha-promote-on-shutdown value", _one_of("always", "when-synced"), not_for=_QUORUM),
    "ha-promote-on-failure": Key("ha-promote-on-failure value", _one_of("always", "when-synced"), not_for=_QUORUM),
    "initial-cluster-size": Key("cluster size", _whole, not_for=_BOTH),
    "max-age": Key("max age", _max_age, not_for=_BOTH),
    "stream-max-segment-size-bytes": Key("segment size", _whole, not_for=_BOTH),
    "stream-filter-size-bytes": Key(
        "filter size. Valid range is 16-255", lambda value: _whole(value, 16) and value <= 255, not_for=_BOTH
    ),
}

APPLY_TO: Final = ("queues", "classic_queues", "quorum_queues", "streams", "exchanges", "all")
VHOST_LIMITS: Final = ("max-connections", "max-queues")


# --- What is in force ----------------------------------------------------------------------------------------


def merge(policy: Mapping[str, Any], operator: Mapping[str, Any]) -> dict[str, Any]:
    """The definition that an object has of its policy and its operator's policy."""
    merged = {**policy, **operator}
    for name in policy.keys() & operator.keys():
        key = KEYS.get(name)
        merged[name] = key.merge(policy[name], operator[name]) if key and key.merge else operator[name]
    return merged


def effective_arguments(
    declared: QueueArguments, arguments: Mapping[str, Any], definition: Mapping[str, Any]
) -> QueueArguments:
    """What is in force of a queue that was declared with `arguments`, which mean `declared`."""
    changes: dict[str, Any] = {}
    for name, value in definition.items():
        argument = f"x-{name}"
        field, check = KNOWN.get(argument, (None, None))
        if name in KEYS and field is not None and check is not None:
            changes[field] = check(KEYS[name].resolve(value, arguments.get(argument), declared.type))
    return replace(declared, **changes) if changes else declared


def matches_queue(policy: PolicyDefinition, kind: str) -> bool:
    """Whether it may apply to a queue of this type, whatever its name."""
    if policy.apply_to not in ("all", "queues", f"{kind}_queues"):
        return False
    return not any(name in KEYS and kind in KEYS[name].not_for for name in policy.definition)


# --- Checks --------------------------------------------------------------------------------------------------


def check_policy(policy: PolicyDefinition) -> None:
    """InvalidParameter, one line an error, when it cannot be."""
    errors = _definition_errors(policy)
    if policy.apply_to not in APPLY_TO:
        errors.append(
            f"apply-to '{policy.apply_to}' unrecognised; should be one of: 'queues', 'classic_queues', "
            f"'quorum_queues', 'streams', 'exchanges', or 'all'"
        )
    try:
        compile_pattern(policy.pattern)
    except InvalidParameter as error:
        errors.append(str(error))
    if not _whole(policy.priority, None):
        errors.append(f"priority should be a number, actually was {term(policy.priority)}")
    if not _text(policy.name) or not policy.name:
        errors.append(f"name should be a text of 1 to {NAME_BYTES_MAX} bytes, actually was {term(policy.name)}")
    if errors:
        raise InvalidParameter("\n".join(errors))


def _definition_errors(policy: PolicyDefinition) -> list[str]:
    definition: Any = policy.definition
    if not isinstance(definition, dict):
        return [f"definition must be a dictionary: {term(definition)}"]
    if not definition:
        return ["no policy provided"]
    names = sorted(definition)
    known = [name for name in names if name in KEYS and (KEYS[name].merge or not policy.operator)]
    for name in known:
        if not _accepts(name, definition[name]):
            return [f"{term(definition[name])} is not a valid {KEYS[name].words}"]
    unknown = [f"{{{term(name)},{term(definition[name])}}}" for name in names if name not in known]
    if unknown:
        return [f"[{','.join(unknown)}] are not recognised policy settings"]
    kind = definition.get("delayed-retry-type", "disabled")
    error = retry_error(kind, definition.get("delayed-retry-min"), definition.get("delayed-retry-max"))
    return [error[1]] if error else []


def _accepts(name: str, value: Any) -> bool:
    if not KEYS[name].accepts(value):
        return False
    field, check = KNOWN.get(f"x-{name}", (None, None))
    if field is None or check is None:
        return True
    try:
        check(value)
    except (ValueError, TypeError):
        return False
    return True


class PatternTooComplex(InvalidParameter):
    """It could take for ever to match."""


def compile_pattern(pattern: Any) -> Pattern:
    """The regular expression, to be searched for in names. InvalidParameter when it is none, or means something
    else in Python than in RabbitMQ's PCRE (classes like [[:alpha:]]), or could take for ever to match."""
    if not isinstance(pattern, str):
        raise InvalidParameter(f"pattern should be a binary but was {term(pattern)}")
    if len(pattern.encode("utf-8", "surrogatepass")) > PATTERN_BYTES_MAX:
        raise InvalidParameter(f"pattern must not exceed {PATTERN_BYTES_MAX} bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)
            return Pattern(pattern)
    except re.error as error:
        what = f'{{"{error.msg}",{error.pos or 0}}}'
    except (FutureWarning, RecursionError, OverflowError) as error:
        what = f'"{error}"'
    except TooComplex as error:
        raise PatternTooComplex(f"pattern should be regular expression but {error}") from None
    raise InvalidParameter(f"pattern should be regular expression but is invalid: {what}")


def check_vhost_limits(limits: Mapping[str, Any]) -> dict[str, int]:
    """Those that limit something: a number below zero means no limit. InvalidParameter when one cannot be."""
    return check_limits(limits, VHOST_LIMITS)


def check_limits(limits: Mapping[str, Any], known: Sequence[str]) -> dict[str, int]:
    """The same of limits with other names."""
    errors = [
        f"{name} should be a number, actually was {term(limits[name])}"
        for name in known
        if name in limits and not _whole(limits[name], None)
    ]
    unknown = [f"{{{term(name)},{term(limits[name])}}}" for name in sorted(limits) if name not in known]
    if unknown:
        errors.append(f"Unrecognised terms [{','.join(unknown)}] in limits")
    if errors:
        raise InvalidParameter("\n".join(errors))
    return {name: value for name, value in limits.items() if value >= 0}


def term(value: Any) -> str:
    """A value as RabbitMQ writes it in its errors."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    if isinstance(value, str):
        return '<<"' + value.replace("\\", "\\\\").replace('"', '\\"') + '">>' if value else "<<>>"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(term, value))}]"
    if isinstance(value, dict):
        return f"#{{{','.join(f'{term(k)} => {term(v)}' for k, v in value.items())}}}"
    return str(value)
