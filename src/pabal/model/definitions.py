"""What outlives the process besides messages: vhosts, users and what they may, policies, exchanges, queues,
bindings; and how it is encoded.

Encoded as JSON, one object a definition, with the fields of the class and "kind". Values that JSON lacks are
objects with one key: {"$bytes": base64}, {"$time": seconds}, {"$decimal": text}; a key of the peer's own that
begins with "$" is written with one more. A new field gets a default here, so that older files still load.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class VhostDefinition:
    """`description`, `tags`: for people. `default_queue_type`: kept for tools that set it, "" for none."""

    name: str
    description: str = ""
    tags: list[str] = field(default_factory=list)
    default_queue_type: str = ""


@dataclass(frozen=True, slots=True)
class UserDefinition:
    """`password_hash` as model.passwords writes it, "" for one who cannot log in by a password. `tags`: what the user
    may do besides messaging ("administrator", "management" …). `vhosts`: only in files from before there were
    permissions, and for short: those where the user is to have all of them, "*" for all vhosts there are."""

    name: str
    password_hash: str
    vhosts: list[str] = field(default_factory=list)
    loopback_only: bool = False
    tags: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class PermissionDefinition:
    """What a user may do in a vhost: regular expressions, to be found anywhere in the names of the queues and
    exchanges that may be configured, written to and read from. An empty one is found in no name."""

    user: str
    vhost: str
    configure: str
    write: str
    read: str


@dataclass(frozen=True, slots=True)
class TopicPermissionDefinition:
    """The same for the routing keys that a user may publish with to a topic exchange, and bind to it with;
    "{username}" and "{vhost}" stand for those. Without one for an exchange any key will do."""

    user: str
    vhost: str
    exchange: str
    write: str
    read: str


@dataclass(frozen=True, slots=True)
class UserLimitsDefinition:
    """How many connections and channels a user may have at once; None for any number."""

    user: str
    max_connections: int | None = None
    max_channels: int | None = None


@dataclass(frozen=True, slots=True)
class ExchangeDefinition:
    """`queue_id`: as a queue's, of one that holds messages back; 0 for the others."""

    vhost: str
    name: str
    type: str
    durable: bool = True
    auto_delete: bool = False
    internal: bool = False
    arguments: dict[str, Any] = field(default_factory=dict)
    queue_id: int = 0


@dataclass(frozen=True, slots=True)
class QueueDefinition:
    """`queue_id`: the key range of its messages in the store, never used twice."""

    vhost: str
    name: str
    queue_id: int
    durable: bool = True
    auto_delete: bool = False
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BindingDefinition:
    """From the exchange `source` to `destination`, which is a queue, or an exchange when `to_exchange`."""

    vhost: str
    source: str
    destination: str
    to_exchange: bool
    routing_key: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PolicyDefinition:
    """Arguments for the queues and exchanges of a vhost whose name `pattern` matches (a regular expression, found
    anywhere in it). Of those that match the highest `priority` counts. `apply_to`: model.policies.APPLY_TO.
    `operator`: an operator's policy, which comes on top of the other kind and limits it. `from_settings`: from the
    settings file, and gone when it is there no more."""

    vhost: str
    name: str
    pattern: str
    definition: dict[str, Any]
    priority: Any = 0  # an int, which check_policy sees to
    apply_to: str = "all"
    operator: bool = False
    from_settings: bool = False


@dataclass(frozen=True, slots=True)
class ParameterDefinition:
    """Something that is kept for tools and means nothing to the broker: RabbitMQ's parameters (of plugins, in a
    vhost), and its global ones, which have neither `vhost` nor `component`. `value`: whatever JSON has."""

    vhost: str
    component: str
    name: str
    value: Any


@dataclass(frozen=True, slots=True)
class VhostLimitsDefinition:
    """How much there may be in a vhost; None for any number. `from_settings`: as a policy's."""

    vhost: str
    max_connections: int | None = None
    max_queues: int | None = None
    from_settings: bool = False


Definition = (
    VhostDefinition
    | UserDefinition
    | PermissionDefinition
    | TopicPermissionDefinition
    | UserLimitsDefinition
    | PolicyDefinition
    | ParameterDefinition
    | VhostLimitsDefinition
    | ExchangeDefinition
    | QueueDefinition
    | BindingDefinition
)

KINDS: dict[str, type[Any]] = {
    "vhost": VhostDefinition,
    "user": UserDefinition,
    "permission": PermissionDefinition,
    "topic-permission": TopicPermissionDefinition,
    "user-limits": UserLimitsDefinition,
    "policy": PolicyDefinition,
    "parameter": ParameterDefinition,
    "vhost-limits": VhostLimitsDefinition,
    "exchange": ExchangeDefinition,
    "queue": QueueDefinition,
    "binding": BindingDefinition,
}
_KIND_OF = {cls: kind for kind, cls in KINDS.items()}
_FIELDS = {cls: [f.name for f in fields(cls)] for cls in KINDS.values()}
_IDENTITY = {
    VhostDefinition: ("name",),
    UserDefinition: ("name",),
    PermissionDefinition: ("user", "vhost"),
    TopicPermissionDefinition: ("user", "vhost", "exchange"),
    UserLimitsDefinition: ("user",),
    PolicyDefinition: ("vhost", "operator", "name"),
    ParameterDefinition: ("vhost", "component", "name"),
    VhostLimitsDefinition: ("vhost",),
    ExchangeDefinition: ("vhost", "name"),
    QueueDefinition: ("vhost", "name"),
    BindingDefinition: ("vhost", "source", "destination", "to_exchange", "routing_key", "arguments"),
}


def durable_ids(definitions: Iterable[Definition]) -> set[int]:
    """The ids of all that is defined and may have messages in the store."""
    return {d.queue_id for d in definitions if isinstance(d, QueueDefinition | ExchangeDefinition) and d.queue_id}


def definition_key(definition: Definition) -> bytes:
    """The key a definition is stored under: its kind, and a digest of what names it (names may be long)."""
    kind = _KIND_OF[type(definition)]
    names = [getattr(definition, name) for name in _IDENTITY[type(definition)]]
    return kind.encode() + b":" + hashlib.blake2b(canonical(names).encode(), digest_size=20).digest()


def encode_definition(definition: Definition) -> bytes:
    return canonical({"kind": _KIND_OF[type(definition)], **asdict(definition)}).encode()


def decode_definition(data: bytes) -> Definition:
    """ValueError when the bytes are no definition. Fields of a later version are ignored."""
    value = _DECODER.decode(data.decode())
    if not isinstance(value, dict) or value.get("kind") not in KINDS:
        raise ValueError("not a definition")
    cls = KINDS[value["kind"]]
    names = _FIELDS[cls]
    try:
        definition: Definition = cls(**{name: value[name] for name in names if name in value})
    except TypeError as error:
        raise ValueError(str(error)) from None
    return definition


def canonical(value: Any) -> str:
    """The same text for equal values and for no others: keys sorted, no spaces, only ASCII."""
    return _ENCODER.encode(_escaped(value)) if value != {} else "{}"


def _escaped(value: Any) -> Any:
    if isinstance(value, dict):
        return {"$" + k if k.startswith("$") else k: _escaped(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_escaped(v) for v in value]
    return value


def _to_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, datetime):
        return {"$time": int(value.timestamp())}
    if isinstance(value, Decimal):
        return {"$decimal": str(value)}
    raise TypeError(f"{type(value).__name__} cannot be stored in a definition")


def _from_json(value: dict[str, Any]) -> Any:
    if len(value) == 1:
        [(key, inner)] = value.items()
        if key == "$bytes":
            return base64.b64decode(inner)
        if key == "$time":
            return datetime.fromtimestamp(inner, UTC)
        if key == "$decimal":
            return Decimal(inner)
    return {k[1:] if k.startswith("$") else k: v for k, v in value.items()}


_ENCODER: Final = json.JSONEncoder(default=_to_json, sort_keys=True, separators=(",", ":"))
_DECODER: Final = json.JSONDecoder(object_hook=_from_json)
