"""Vhosts: /api/vhosts, but for the permissions and connections of one."""

from __future__ import annotations

from typing import Final

from pabal.broker.vhost import Vhost
from pabal.management import fields, statistics
from pabal.management.call import CREATED, Answer, Call, Work, bad_request
from pabal.management.listing import Facts, listing, one
from pabal.management.rates import asked_windows
from pabal.management.routes import Route, Who
from pabal.model.definitions import VhostDefinition
from pabal.model.limits import NAME_BYTES_MAX


def facts_of(call: Call, vhost: Vhost) -> Facts:
    definition = vhost.definition
    description = definition.description or ("Default virtual host" if vhost.name == "/" else "")
    return {
        "name": vhost.name,
        "description": description,
        "tags": definition.tags,
        "default_queue_type": definition.default_queue_type or "undefined",
        "metadata": {"description": description, "tags": definition.tags},
        "tracing": False,
        "cluster_state": {call.node.name: "running"},
    }


def full_facts(call: Call, vhost: Vhost) -> Facts:
    if call.flag("disable_stats"):
        return facts_of(call, vhost)
    return {**facts_of(call, vhost), **statistics.vhost(call.broker, vhost, asked_windows(call.query))}


def list_vhosts(call: Call) -> Work:
    vhosts = list(call.broker.vhosts.values()) if call.monitor else call.visible_vhosts()
    return listing(
        call, vhosts, lambda vhost: facts_of(call, vhost), lambda vhost: full_facts(call, vhost), order=("name",)
    )


def show(call: Call) -> Answer:
    return one(call, full_facts(call, call.vhost))


def put(call: Call) -> Answer:
    name = call.arguments["vhost"]
    body = call.json()
    fields.boolean(body.get("tracing"))
    created = put_vhost(call, name, body)
    return Answer(CREATED if created else 204)


def put_vhost(call: Call, name: str, body: Facts) -> bool:
    """True when it was made; who makes it may do everything there."""
    if len(fields.text("name", name).encode()) > NAME_BYTES_MAX or not name:
        raise bad_request(f"the name of a vhost has 1 to {NAME_BYTES_MAX} bytes")
    vhost = call.broker.vhosts.get(name)
    before = vhost.definition if vhost is not None else VhostDefinition(name)
    metadata = body.get("metadata")
    values = {**(metadata if isinstance(metadata, dict) else {}), **body}
    kind = values.get("default_queue_type", values.get("defaultqueuetype", before.default_queue_type))
    if kind in (None, "undefined"):
        kind = ""
    if kind not in ("", "classic", "quorum", "stream"):
        raise bad_request(f"unsupported queue type {kind!r}")
    definition = VhostDefinition(
        name,
        fields.text("description", values.get("description", before.description)),
        fields.strings(values.get("tags", before.tags)),
        kind,
    )
    if not call.broker.put_vhost(definition):
        return False
    grant_all(call, name)
    return True


def grant_all(call: Call, vhost: str) -> None:
    """What who makes a vhost has there. Who came with a token need not be a user here."""
    if call.principal.name in call.broker.accounts.users:
        call.broker.accounts.grant_all(call.principal.name, vhost)


def delete(call: Call) -> None:
    call.broker.delete_vhost(call.vhost.name)


def start(call: Call) -> None:
    """It runs."""
    _ = call.vhost


_PUT: Final = "description: string; tags: strings; default_queue_type: string"

ROUTES: Final = (
    Route("GET", "/api/vhosts", Who.USER, list_vhosts, "All vhosts that the user may see."),
    Route("GET", "/api/vhosts/{vhost}", Who.ADMINISTRATOR, show, "One vhost."),
    Route("PUT", "/api/vhosts/{vhost}", Who.ADMINISTRATOR, put, "Adds a vhost or changes it.", _PUT),
    Route("DELETE", "/api/vhosts/{vhost}", Who.ADMINISTRATOR, delete, "Deletes a vhost and all that is in it."),
    Route("POST", "/api/vhosts/{vhost}/start/{node}", Who.ADMINISTRATOR, start, "Nothing to do."),
)
