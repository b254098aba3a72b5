"""Queues: /api/queues and what is below it, but for messages."""

from __future__ import annotations

from typing import Final

from pabal.broker.queue import Queue
from pabal.broker.vhost import Vhost
from pabal.management import connections, fields, statistics
from pabal.management.call import CREATED, Answer, Call, Work, bad_request, not_found
from pabal.management.encoding import plain
from pabal.management.listing import Facts, listing, one
from pabal.management.rates import asked_windows
from pabal.management.routes import Route, Who


def basic_facts(call: Call, queue: Queue) -> Facts:
    definition = queue.definition
    facts: Facts = {
        "name": queue.name,
        "vhost": queue.vhost.name,
        "type": queue.declared.type,
        "durable": queue.durable,
        "auto_delete": definition.auto_delete,
        "exclusive": queue.owner is not None,
        "arguments": plain(definition.arguments),
        "node": call.node.name,
        "state": "running",
    }
    if call.flag("enable_queue_totals"):
        facts |= totals(queue)
    return facts


def totals(queue: Queue) -> Facts:
    return {
        "messages": queue.ready + queue.leased,
        "messages_ready": queue.ready,
        "messages_unacknowledged": queue.leased,
    }


def full_facts(call: Call, queue: Queue) -> Facts:
    applied = queue.vhost.policies.for_queue(queue.name, queue.declared.type)
    active = queue.consumers[0] if queue.consumers else None
    alone = next((consumer.tag for consumer in queue.consumers if consumer.exclusive), None)
    single = queue.arguments.single_active_consumer
    return {
        **basic_facts(call, queue),
        **statistics.queue(call.broker, queue, asked_windows(call.query)),
        "policy": applied.policy.name if applied.policy else None,
        "operator_policy": applied.operator_policy.name if applied.operator_policy else None,
        "effective_policy_definition": applied.definition,
        "exclusive_consumer_tag": alone,
        "single_active_consumer_tag": active.tag if active is not None and single else None,
    }


def find(call: Call) -> Queue:
    queue = call.vhost.queues.get(call.arguments["queue"])
    if queue is None:
        raise not_found()
    return queue


def list_queues(call: Call) -> Work:
    queues = [queue for vhost in call.asked_vhosts() for queue in vhost.queues.values()]
    return listing(call, queues, lambda queue: basic_facts(call, queue), lambda queue: full_facts(call, queue))


def show(call: Call) -> Answer:
    queue = find(call)
    if call.flag("disable_stats"):
        return one(call, basic_facts(call, queue))
    facts = full_facts(call, queue)
    facts |= {"consumer_details": connections.consumers_of(call, queue), "incoming": [], "deliveries": []}
    return one(call, facts)


def put(call: Call) -> Answer:
    vhost, name = call.vhost, fields.short("queue name", call.arguments["queue"])
    body = call.json()
    created = declare(
        call,
        vhost,
        name,
        fields.boolean(body.get("durable")),
        fields.boolean(body.get("auto_delete")),
        fields.table("arguments", body.get("arguments")),
    )
    return Answer(CREATED if created else 204)


def declare(call: Call, vhost: Vhost, name: str, durable: bool, auto_delete: bool, arguments: Facts) -> bool:
    """True when it was made."""
    if not name:
        raise bad_request("a queue needs a name")
    call.rights(vhost).declare_queue(name, arguments)
    return vhost.declare_queue(name, durable, False, auto_delete, arguments, None)[1]


def delete(call: Call) -> None:
    queue = find(call)
    vhost = queue.vhost
    call.rights(vhost).delete_queue(queue.name)
    vhost.delete_queue(vhost.queue(queue.name), call.flag("if-unused"), call.flag("if-empty"))


def purge(call: Call) -> None:
    queue = find(call)
    call.rights(queue.vhost).purge(queue.name)
    queue.vhost.queue(queue.name).purge()


def act(call: Call) -> None:
    """RabbitMQ's actions are about mirrors, which there are none of."""
    find(call)
    action = call.json("action")["action"]
    if action not in ("sync", "cancel_sync"):
        raise bad_request(["unknown", action])


_PUT: Final = "durable, auto_delete: booleans; arguments: object"

ROUTES: Final = (
    Route("GET", "/api/queues", Who.VHOST, list_queues, "All queues that the user may see."),
    Route("GET", "/api/queues/{vhost}", Who.VHOST, list_queues, "The queues of a vhost."),
    Route("GET", "/api/queues/{vhost}/{queue}", Who.VHOST, show, "One queue."),
    Route("PUT", "/api/queues/{vhost}/{queue}", Who.VHOST, put, "Declares a queue.", _PUT),
    Route("DELETE", "/api/queues/{vhost}/{queue}", Who.VHOST, delete, "Deletes a queue; ?if-empty, ?if-unused."),
    Route("DELETE", "/api/queues/{vhost}/{queue}/contents", Who.VHOST, purge, "Removes all ready messages."),
    Route("POST", "/api/queues/{vhost}/{queue}/actions", Who.ADMINISTRATOR, act, "Nothing to do.", "action: sync"),
)
