"""What a function of the HTTP API is given, and what it may answer."""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, Final, TypeVar

from pabal.broker.access import Principal, Rights
from pabal.broker.broker import Broker
from pabal.broker.vhost import Vhost
from pabal.management.node import Node, Stream
from pabal.model.codec import MessageCodec
from pabal.model.errors import NotAllowed

T = TypeVar("T")
DEPTH_MAX: Final = 64
"""How deep objects and lists in a body may be nested."""
VALUES_MAX: Final = 200_000
"""In a body, but for definitions: reading it holds everybody up."""
_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)


class ApiError(Exception):
    """The request cannot be done. `status`: of HTTP; `error` and `reason` are what the answer's JSON says."""

    def __init__(self, status: int, error: str, reason: Any) -> None:
        super().__init__(reason)
        self.status = status
        self.error = error
        self.reason = reason


def bad_request(reason: Any) -> ApiError:
    return ApiError(400, "bad_request", reason)


def not_found() -> ApiError:
    """RabbitMQ's words, also for a path that there is not."""
    return ApiError(404, "Object Not Found", "Not Found")


def not_authorised(reason: str) -> ApiError:
    return ApiError(401, "not_authorised", reason)


@dataclass(slots=True)
class Answer:
    """`value`: to be sent as JSON, unless there is `content` or `file`, which is closed at the end. `after`: told
    at the end, within a turn, whether the answer went out to a client that was still there."""

    status: int = 200
    value: Any = None
    content: bytes | None = None
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    stream: Stream | None = None
    """Further content, made while it is sent."""
    after: Callable[[bool], None] | None = None
    file: IO[bytes] | None = None


CREATED = 201
NO_CONTENT = 204


class Job:
    """Something that takes long and touches nothing of the broker's: yielded, it is done on another thread, and the
    result sent back."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work = work


class Until:
    """Something of the broker's own that takes long: yielded, its result is sent back when it is there."""

    def __init__(self, result: Awaitable[Any]) -> None:
        self.result = result


Work = Generator[Job | Until | None, Any, Any]
"""A function in steps. At each `yield` the broker may go on with other things: nothing read before it need still be
true behind it."""


@dataclass(slots=True)
class Call:
    """One request. `arguments`: the variable parts of the path. `query`: the last value of each name;
    `query_string`: all of them, as they came. `path`: as it came, without the query. `reason`: what the header
    X-Reason says; `accept`: what Accept does."""

    broker: Broker
    node: Node
    codec: MessageCodec
    principal: Principal
    method: str
    path: str
    arguments: Mapping[str, str]
    query: Mapping[str, str]
    body: bytes = b""
    content_type: str = ""
    reason: str = ""
    accept: str = ""
    query_string: str = ""

    # --- What was asked for ---------------------------------------------------------------------------------

    def json(self, *required: str) -> dict[str, Any]:
        """The body as an object that has these keys; without a body an empty one."""
        value = decode_body(self.body)
        missing = [name for name in required if name not in value]
        if missing:
            raise bad_request(f"[{','.join(f'{{key_missing,{name}}}' for name in missing)}]")
        return value

    def flag(self, name: str) -> bool:
        return self.query.get(name) == "true"

    @property
    def vhost(self) -> Vhost:
        """The one that the path names."""
        vhost = self.broker.vhosts.get(self.arguments["vhost"])
        if vhost is None:
            raise not_found()
        return vhost

    def rights(self, vhost: Vhost) -> Rights:
        return Rights(self.principal, vhost)

    # --- Who asks -------------------------------------------------------------------------------------------

    @property
    def administrator(self) -> bool:
        return "administrator" in self.principal.tags

    @property
    def monitor(self) -> bool:
        """May see what others do."""
        return not {"administrator", "monitoring"}.isdisjoint(self.principal.tags)

    @property
    def policymaker(self) -> bool:
        return not {"administrator", "policymaker"}.isdisjoint(self.principal.tags)

    def may_open(self, vhost: str) -> bool:
        there = self.broker.vhosts.get(vhost)
        if there is None:
            return False
        try:
            Rights(self.principal, there).open_vhost()
        except NotAllowed:
            return False
        return True

    def visible_vhosts(self) -> list[Vhost]:
        """Those whose contents the caller may list: monitors do not see into all of them, administrators do."""
        vhosts = list(self.broker.vhosts.values())
        return vhosts if self.administrator else [vhost for vhost in vhosts if self.may_open(vhost.name)]

    def asked_vhosts(self) -> list[Vhost]:
        """The one of the path, or of the header that RabbitMQ's pages send, or all that the caller may see."""
        return [self.vhost] if "vhost" in self.arguments else self.visible_vhosts()


def decode_body(body: bytes) -> dict[str, Any]:
    """A JSON object; nothing and null stand for an empty one, as in RabbitMQ."""
    if body in (b"", b"null", b"undefined"):
        return {}
    if _separators(body) > VALUES_MAX and _separators(_STRING.sub(b"", body)) > VALUES_MAX:
        raise bad_request(f"more than {VALUES_MAX} values")
    try:
        value = read_json(body)
    except (ValueError, RecursionError):
        raise bad_request("not_json") from None
    if isinstance(value, str):
        raise bad_request(
            "invalid payload: the request body JSON-decoded to a string. Is the input doubly-JSON-encoded?"
        )
    if value is None or isinstance(value, bool):
        return {}
    if not isinstance(value, dict):
        raise bad_request("not_json")
    check_depth(value)
    return value


def _separators(body: bytes) -> int:
    return body.count(b",") + body.count(b"[") + body.count(b"{")


def read_json(body: bytes) -> Any:
    """ValueError, RecursionError. Of a large one the most time goes into looking for garbage among what is made."""
    collects = gc.isenabled()
    gc.disable()
    try:
        return json.loads(body)
    finally:
        if collects:
            gc.enable()


def check_depth(value: Any) -> None:
    """What is nested deeper than anybody needs could be neither kept nor shown."""
    layer, depth = [value], 0
    while layer := [each for each in layer if isinstance(each, dict | list)]:
        depth += 1
        if depth > DEPTH_MAX:
            raise bad_request("nested too deeply")
        layer = [inner for each in layer for inner in (each.values() if isinstance(each, dict) else each)]
