"""Bindings, in all the forms that RabbitMQ lists them in. A binding between two given ends is known by its
`properties_key`: the routing key, "~" for an empty one, and behind another "~" a digest of its arguments if it has
any.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, Final
from urllib.parse import unquote_plus

from pabal.broker.vhost import Vhost
from pabal.management import fields
from pabal.management.call import CREATED, Answer, Call, Work, bad_request, not_found
from pabal.management.encoding import plain
from pabal.management.listing import Facts, listing, one
from pabal.management.routes import Route, Who
from pabal.model.definitions import BindingDefinition, canonical

_ORDER: Final = ("vhost", "source", "type", "destination", "routing_key", "properties_key")


def digest(arguments: Any) -> str:
    found = hashlib.blake2b(canonical(arguments).encode(), digest_size=4).digest()
    return base64.urlsafe_b64encode(found).decode().rstrip("=")


def properties_key(binding: BindingDefinition) -> str:
    if not binding.arguments:
        return fields.quoted(binding.routing_key) or "~"
    return f"{fields.quoted(binding.routing_key)}~{fields.quoted(digest(binding.arguments))}"


def facts_of(binding: BindingDefinition) -> Facts:
    return {
        "source": binding.source,
        "vhost": binding.vhost,
        "destination": binding.destination,
        "destination_type": "exchange" if binding.to_exchange else "queue",
        "routing_key": binding.routing_key,
        "arguments": plain(binding.arguments),
        "properties_key": properties_key(binding),
    }


def default_binding(vhost: Vhost, queue: str) -> BindingDefinition:
    """Each queue is bound to the nameless exchange by its name."""
    return BindingDefinition(vhost.name, "", queue, False, queue)


def from_exchange(vhost: Vhost, name: str) -> Iterator[BindingDefinition]:
    if name == "":
        for queue in list(vhost.queues):
            yield default_binding(vhost, queue)
    exchange = vhost.exchanges.get(name)
    if exchange is not None:
        yield from [binding.definition for binding in exchange.bindings.values()]


def to_destination(vhost: Vhost, name: str, to_exchange: bool) -> Iterator[BindingDefinition]:
    if not to_exchange and name in vhost.queues:
        yield default_binding(vhost, name)
    yield from vhost.bindings_to(name, to_exchange)


def every(vhost: Vhost) -> Iterator[BindingDefinition]:
    for exchange in list(vhost.exchanges):
        yield from from_exchange(vhost, exchange)


def _listed(call: Call, found: Iterable[BindingDefinition]) -> Work:
    return listing(call, found, facts_of, order=_ORDER, paged=False)


def list_all(call: Call) -> Work:
    return _listed(call, (binding for vhost in call.asked_vhosts() for binding in every(vhost)))


def list_from_exchange(call: Call) -> Work:
    return _listed(call, from_exchange(call.vhost, fields.exchange_name(call.arguments["exchange"])))


def list_to_exchange(call: Call) -> Work:
    return _listed(call, to_destination(call.vhost, fields.exchange_name(call.arguments["exchange"]), True))


def list_to_queue(call: Call) -> Work:
    return _listed(call, to_destination(call.vhost, call.arguments["queue"], False))


def _ends(call: Call) -> tuple[str, str, bool]:
    kind = call.arguments["kind"]
    if kind not in ("q", "e"):
        raise not_found()
    to_exchange = kind == "e"
    destination = call.arguments["destination"]
    source = fields.exchange_name(call.arguments["source"])
    return source, fields.exchange_name(destination) if to_exchange else destination, to_exchange


def _between(call: Call) -> list[BindingDefinition]:
    source, destination, to_exchange = _ends(call)
    return [each for each in to_destination(call.vhost, destination, to_exchange) if each.source == source]


def list_between(call: Call) -> Work:
    return _listed(call, _between(call))


def post(call: Call) -> Answer:
    vhost = call.vhost
    source, destination, to_exchange = _ends(call)
    body = call.json()
    key = fields.short("routing key", body.get("routing_key") or "")
    arguments = fields.table("arguments", body.get("arguments"))
    definition = BindingDefinition(vhost.name, source, destination, to_exchange, key, arguments)
    bind(call, vhost, definition)
    last = call.path.rstrip("/").rsplit("/", 1)[-1]
    return Answer(CREATED, headers={"location": f"{last}/{_once_more(properties_key(definition))}"})


def _once_more(key: str) -> str:
    """A properties key in a path. It is quoted by itself, and so twice there."""
    return "~".join(fields.quoted(part) for part in key.split("~"))


def bind(call: Call, vhost: Vhost, definition: BindingDefinition) -> None:
    call.rights(vhost).bind(definition.source, definition.destination, definition.to_exchange, definition.routing_key)
    vhost.bind(definition)


def _find(call: Call) -> BindingDefinition:
    wanted = call.arguments["properties"]
    if wanted.count("~") > 1:
        raise bad_request(["too_many_tokens", wanted])
    key, _, found_digest = wanted.partition("~")
    for binding in _between(call):
        if binding.routing_key == unquote_plus(key, errors="surrogateescape") and (
            digest(binding.arguments) == unquote_plus(found_digest) if found_digest else not binding.arguments
        ):
            return binding
    raise not_found()


def show(call: Call) -> Answer:
    return one(call, facts_of(_find(call)))


def delete(call: Call) -> None:
    vhost, binding = call.vhost, _find(call)
    call.rights(vhost).unbind(binding.source, binding.destination, binding.to_exchange, binding.routing_key)
    vhost.unbind(binding)


_BETWEEN: Final = "/api/bindings/{vhost}/e/{source}/{kind}/{destination}"
_POST: Final = "routing_key: string; arguments: object"

ROUTES: Final = (
    Route("GET", "/api/bindings", Who.VHOST, list_all, "All bindings that the user may see."),
    Route("GET", "/api/bindings/{vhost}", Who.VHOST, list_all, "The bindings of a vhost."),
    Route("GET", _BETWEEN, Who.VHOST, list_between, "Those from an exchange to a queue (kind q) or exchange (e)."),
    Route("POST", _BETWEEN, Who.VHOST, post, "Binds.", _POST),
    Route("GET", _BETWEEN + "/{properties}", Who.VHOST, show, "One binding, by its properties_key."),
    Route("DELETE", _BETWEEN + "/{properties}", Who.VHOST, delete, "Unbinds."),
    Route("GET", "/api/exchanges/{vhost}/{exchange}/bindings/source", Who.VHOST, list_from_exchange, "From it."),
    Route("GET", "/api/exchanges/{vhost}/{exchange}/bindings/destination", Who.VHOST, list_to_exchange, "To it."),
    Route("GET", "/api/queues/{vhost}/{queue}/bindings", Who.VHOST, list_to_queue, "Bindings to a queue."),
)
