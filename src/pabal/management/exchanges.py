"""Exchanges: /api/exchanges and what is below it, but for messages."""

from __future__ import annotations

from typing import Final

from pabal.broker.exchange import Exchange
from pabal.broker.vhost import Vhost
from pabal.management import fields, statistics
from pabal.management.call import CREATED, Answer, Call, Work, not_found
from pabal.management.encoding import plain
from pabal.management.listing import Facts, listing, one
from pabal.management.rates import asked_windows
from pabal.management.routes import Route, Who
from pabal.model.definitions import ExchangeDefinition


def facts_of(exchange: Exchange) -> Facts:
    definition = exchange.definition
    return {
        "name": exchange.name,
        "vhost": definition.vhost,
        "type": definition.type,
        "durable": definition.durable,
        "auto_delete": definition.auto_delete,
        "internal": definition.internal,
        "arguments": plain(definition.arguments),
    }


def full_facts(call: Call, exchange: Exchange) -> Facts:
    vhost = call.broker.vhosts.get(exchange.definition.vhost)
    policy = vhost.policies.for_exchange(exchange.name).policy if vhost is not None else None
    builtin = exchange.name == "" or exchange.name.startswith("amq.")
    return {
        **facts_of(exchange),
        "policy": policy.name if policy else None,
        "user_who_performed_action": "rmq-internal" if builtin else "",
        **statistics.exchange(call.broker, exchange, asked_windows(call.query)),
    }


def find(call: Call) -> Exchange:
    exchange = call.vhost.exchanges.get(fields.exchange_name(call.arguments["exchange"]))
    if exchange is None:
        raise not_found()
    return exchange


def list_exchanges(call: Call) -> Work:
    exchanges = [exchange for vhost in call.asked_vhosts() for exchange in vhost.exchanges.values()]
    return listing(call, exchanges, facts_of, lambda exchange: full_facts(call, exchange))


def show(call: Call) -> Answer:
    exchange = find(call)
    if call.flag("disable_stats"):
        return one(call, facts_of(exchange))
    return one(call, {**full_facts(call, exchange), "incoming": [], "outgoing": []})


def put(call: Call) -> Answer:
    vhost, name = call.vhost, fields.short("exchange name", fields.exchange_name(call.arguments["exchange"]))
    body = call.json()
    created = declare(
        call,
        vhost,
        ExchangeDefinition(
            vhost.name,
            name,
            fields.text("type", body.get("type", "direct")),
            fields.boolean(body.get("durable")),
            fields.boolean(body.get("auto_delete")),
            fields.boolean(body.get("internal")),
            fields.table("arguments", body.get("arguments")),
        ),
    )
    return Answer(CREATED if created else 204)


def declare(call: Call, vhost: Vhost, definition: ExchangeDefinition) -> bool:
    """True when it was made."""
    call.rights(vhost).declare_exchange(definition.name, definition.arguments)
    return vhost.declare_exchange(definition)


def delete(call: Call) -> None:
    exchange, vhost = find(call), call.vhost
    call.rights(vhost).delete_exchange(exchange.name)
    vhost.delete_exchange(exchange.name, call.flag("if-unused"))


_PUT: Final = "type: string; durable, auto_delete, internal: booleans; arguments: object"

ROUTES: Final = (
    Route("GET", "/api/exchanges", Who.VHOST, list_exchanges, "All exchanges that the user may see."),
    Route("GET", "/api/exchanges/{vhost}", Who.VHOST, list_exchanges, "The exchanges of a vhost."),
    Route("GET", "/api/exchanges/{vhost}/{exchange}", Who.VHOST, show, "One exchange; amq.default is the nameless."),
    Route("PUT", "/api/exchanges/{vhost}/{exchange}", Who.VHOST, put, "Declares an exchange.", _PUT),
    Route("DELETE", "/api/exchanges/{vhost}/{exchange}", Who.VHOST, delete, "Deletes an exchange; ?if-unused."),
)
