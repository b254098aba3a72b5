"""The routes of the HTTP API: what a path and a method stand for, and who may use them.

Each module says its own with `routes.add`; table.py puts them together.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

from pabal.management.call import Call

Function = Callable[[Call], Any]


class Who(enum.Enum):
    """Who may use a route; the tags of a user decide. RabbitMQ's words for who may not."""

    ANYBODY = ""
    """Without a password."""
    USER = "Not management user"
    VHOST = "User not authorised to access virtual host"
    """Who may open the vhost that the path names."""
    VHOST_MONITOR = "User not authorised to access virtual host "
    """The same, and monitors."""
    MONITOR = "Not monitor user"
    POLICYMAKER = "User not authorised to access policies or parameters"
    """Of the vhost that the path names."""
    ADMINISTRATOR = "Not administrator user"


MANAGEMENT_TAGS: Final = frozenset({"administrator", "monitoring", "policymaker", "management"})


def may_use(who: Who, call: Call) -> bool:
    """Whether the caller may. A vhost that there is not is nobody's secret: the function says so."""
    vhost = call.arguments.get("vhost")
    unknown = vhost is None or vhost not in call.broker.vhosts
    if who is Who.ANYBODY or call.administrator:
        return True
    if MANAGEMENT_TAGS.isdisjoint(call.principal.tags):
        return False
    if who is Who.MONITOR:
        return call.monitor
    if who is Who.VHOST:
        return unknown or call.may_open(str(vhost))
    if who is Who.VHOST_MONITOR:
        return unknown or call.monitor or call.may_open(str(vhost))
    if who is Who.POLICYMAKER:
        return call.policymaker and (unknown or call.may_open(str(vhost)))
    return who is Who.USER


@dataclass(frozen=True, slots=True)
class Route:
    """`path`: of parts; those in braces are variable. `summary`: one sentence for the description of the API.
    `body`: names of the body's keys with what they are, likewise. `asks`: it changes nothing that an answer could
    promise. `waits`: answered only when what it changed is durable."""

    method: str
    path: str
    who: Who
    function: Function
    summary: str
    body: str = ""
    asks: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.path.strip("/").split("/"))

    @property
    def waits(self) -> bool:
        return self.method != "GET" and not self.asks


class _Node:
    __slots__ = ("children", "methods", "variable")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.variable: _Node | None = None
        self.methods: dict[str, Route] = {}


class Routes:
    """A tree of the parts of paths. A part that is spelled out comes before a variable one."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.all = list(routes)
        self._root = _Node()
        for route in self.all:
            node = self._root
            for part in route.parts:
                if part.startswith("{"):
                    node.variable = node = node.variable or _Node()
                else:
                    node = node.children.setdefault(part, _Node())
            assert route.method not in node.methods, route
            node.methods[route.method] = route

    def find(self, path: str) -> tuple[dict[str, Route], list[str]]:
        """By the path as it came, percent-encoded: the routes by method, none when there is no such path, and the
        decoded parts. A slash at the end is of no account."""
        parts = [unquote(part, errors="surrogateescape") for part in path.strip("/").split("/")]
        node = self._find(self._root, parts, 0)
        return (node.methods if node is not None else {}), parts

    def _find(self, node: _Node, parts: list[str], at: int) -> _Node | None:
        if at == len(parts):
            return node if node.methods else None
        child = node.children.get(parts[at])
        found = self._find(child, parts, at + 1) if child is not None else None
        if found is None and node.variable is not None and parts[at]:
            found = self._find(node.variable, parts, at + 1)
        return found


def arguments_of(route: Route, parts: list[str]) -> dict[str, str]:
    """The variable parts by their names."""
    return {name.strip("{}"): part for name, part in zip(route.parts, parts, strict=True) if name.startswith("{")}
