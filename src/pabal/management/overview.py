"""The broker and its node as a whole: /api/overview, /api/nodes, /api/whoami and the like."""

from __future__ import annotations

from typing import Any, Final

from pabal.broker.exchange_types import EXCHANGE_TYPES
from pabal.management import fields, statistics
from pabal.management.call import Answer, Call, Work, not_found
from pabal.management.listing import Facts, listing, one
from pabal.management.rates import asked_windows
from pabal.management.routes import Route, Who
from pabal.model.definitions import ParameterDefinition

_DESCRIPTIONS: Final = {
    "direct": "AMQP direct exchange, as per the AMQP specification",
    "fanout": "AMQP fanout exchange, as per the AMQP specification",
    "headers": "AMQP headers exchange, as per the AMQP specification",
    "topic": "AMQP topic exchange, as per the AMQP specification",
    "x-consistent-hash": "Consistent Hashing Exchange",
    "x-modulus-hash": "Modulus Hashing Exchange",
    "x-random": "Random Exchange",
    "x-delayed-message": "Delayed Message Exchange.",
}
_MECHANISMS: Final = {
    "PLAIN": "SASL PLAIN authentication mechanism",
    "AMQPLAIN": "QPid AMQPLAIN mechanism",
}
_FEATURE_FLAGS: Final = {
    "classic_mirrored_queue_version": "Support setting version for classic mirrored queues",
    "drop_unroutable_metric": "Count unroutable publishes to be dropped in stats",
    "empty_basic_get_metric": "Count AMQP `basic.get` on empty queues in stats",
    "implicit_default_bindings": "Default bindings are now implicit, instead of being stored in the database",
    "maintenance_mode_status": "Maintenance mode status",
    "quorum_queue": "Support queues of type `quorum`",
    "user_limits": "Configure connection and channel limits for a user",
    "virtual_host_metadata": "Virtual host metadata (description, tags, etc)",
}
"""Of RabbitMQ 3.10's, those whose behaviour there is."""
CLUSTER_NAME: Final = "cluster_name"
"""The global parameter that holds it."""


def overview(call: Call) -> Answer:
    node = call.node
    vhosts = list(call.broker.vhosts.values()) if call.monitor else call.visible_vhosts()
    facts: Facts = {
        "management_version": node.rabbitmq_version,
        "rates_mode": "basic",
        "sample_retention_policies": {"global": [600], "basic": [600], "detailed": [600]},
        "exchange_types": exchange_types(),
        "product_version": node.version,
        "product_name": "Pabal",
        "rabbitmq_version": node.rabbitmq_version,
        "cluster_name": cluster_name(call),
        "erlang_version": node.python_version,
        "erlang_full_version": f"none: Python {node.python_version}",
        "release_series_support_status": "supported",
        "disable_stats": call.flag("disable_stats"),
        "enable_queue_totals": call.flag("enable_queue_totals"),
        **statistics.overview(call.broker, vhosts, asked_windows(call.query)),
        "statistics_db_event_queue": 0,
        "node": node.name,
    }
    if call.monitor:
        facts["listeners"] = listeners(call)
        facts["contexts"] = contexts(call)
    return one(call, facts)


def exchange_types() -> list[Facts]:
    return [
        {"name": name, "description": _DESCRIPTIONS.get(name, name), "enabled": True}
        for name in sorted(EXCHANGE_TYPES)
    ]


def listeners(call: Call) -> list[Facts]:
    return [
        {
            "node": call.node.name,
            "protocol": listener.protocol,
            "ip_address": listener.address,
            "port": listener.port,
            "socket_opts": {"nodelay": True},
        }
        for listener in call.node.listeners()
    ]


def contexts(call: Call) -> list[Facts]:
    return [
        {
            "ssl_opts": [],
            "node": call.node.name,
            "description": "RabbitMQ Management",
            "path": "/",
            "cowboy_opts": "[]",
            "ip": listener.address,
            "port": str(listener.port),
        }
        for listener in call.node.listeners()
        if listener.protocol in ("http", "https")
    ]


def cluster_name(call: Call) -> Any:
    parameter = call.broker.parameters.get(("", "", CLUSTER_NAME))
    return call.node.name if parameter is None else parameter.value


def nodes(call: Call) -> Work:
    return listing(call, [call.node], lambda _: node_facts(call), order=("name",), paged=False)


def node(call: Call) -> Answer:
    _check_node(call)
    facts = node_facts(call)
    if call.flag("memory"):
        facts["memory"] = memory_parts(call)
    return one(call, facts)


def _check_node(call: Call) -> None:
    if call.arguments["node"] != call.node.name:
        raise not_found()


def node_facts(call: Call) -> Facts:
    node, resources = call.node, call.node.resources()
    alarms = call.broker.alarms
    return {
        "partitions": [],
        "os_pid": str(node.process_id),
        "fd_total": resources.files_max,
        "sockets_total": resources.files_max,
        "mem_limit": resources.memory_bytes_max,
        "mem_alarm": "memory" in alarms,
        "disk_free_limit": resources.disk_free_bytes_min,
        "disk_free_alarm": "disk" in alarms,
        "proc_total": 1,
        "rates_mode": "basic",
        "uptime": call.broker.now_ms - node.started_ms,
        "run_queue": 0,
        "processors": node.processors,
        "exchange_types": exchange_types(),
        "auth_mechanisms": [
            {"name": name, "description": description, "enabled": True} for name, description in _MECHANISMS.items()
        ],
        "applications": [
            {"name": "pabal", "description": "Pabal", "version": node.version},
            {"name": "rabbit", "description": "RabbitMQ, as clients see it", "version": node.rabbitmq_version},
        ],
        "contexts": contexts(call),
        "log_files": list(node.log_files),
        "db_dir": node.data,
        "config_files": list(node.config_files),
        "net_ticktime": 60,
        "enabled_plugins": ["rabbitmq_management"],
        "mem_calculation_strategy": "rss",
        "name": node.name,
        "type": "disc",
        "running": True,
        "mem_used": resources.memory_bytes,
        "fd_used": resources.files,
        "sockets_used": resources.sockets,
        "proc_used": 1,
        "disk_free": resources.disk_free_bytes,
        "cluster_links": [],
        **node.extras(),
    }


def memory_parts(call: Call) -> Facts:
    resources = call.node.resources()
    total = {"erlang": resources.memory_bytes, "rss": resources.memory_bytes, "allocated": resources.memory_bytes}
    return {**resources.memory_parts, "total": total, "strategy": "rss"}


def memory(call: Call) -> Answer:
    _check_node(call)
    return one(call, {"memory": memory_parts(call)})


def memory_relative(call: Call) -> Answer:
    _check_node(call)
    parts = call.node.resources().memory_parts
    total = sum(parts.values()) or 1
    return one(call, {"memory": {**{name: 100 * size // total for name, size in parts.items()}, "total": 100}})


def whoami(call: Call) -> Answer:
    return one(call, {"name": call.principal.name, "tags": list(call.principal.tags)})


def extensions(call: Call) -> Any:
    """RabbitMQ's has its web pages' script here, which there is none of."""
    return [{"javascript": "dispatcher.js"}]


def feature_flags(call: Call) -> Any:
    return [
        {
            "name": name,
            "desc": description,
            "doc_url": "",
            "stability": "stable",
            "state": "enabled",
            "provided_by": "rabbit",
        }
        for name, description in _FEATURE_FLAGS.items()
    ]


def enable_feature_flag(call: Call) -> None:
    if call.arguments["name"] not in _FEATURE_FLAGS:
        raise not_found()


def auth(call: Call) -> Any:
    return {"oauth_enabled": False}


def rebalance(call: Call) -> None:
    """There is one node, so every queue is where it is best."""


def reset(call: Call) -> None:
    """RabbitMQ forgets its statistics; what is counted here is only ever the total."""


def nothing(call: Call) -> Any:
    """What one node has none of."""
    return []


def show_cluster_name(call: Call) -> Any:
    return {"name": cluster_name(call)}


def put_cluster_name(call: Call) -> None:
    name = fields.text("name", call.json("name")["name"])
    call.broker.put_parameter(ParameterDefinition("", "", CLUSTER_NAME, name))


ROUTES: Final = (
    Route("GET", "/api/overview", Who.USER, overview, "The broker as a whole: versions, totals, rates, listeners."),
    Route("GET", "/api/cluster-name", Who.USER, show_cluster_name, "The name of this broker."),
    Route("PUT", "/api/cluster-name", Who.ADMINISTRATOR, put_cluster_name, "Names it.", "name: string"),
    Route("GET", "/api/nodes", Who.MONITOR, nodes, "The node: memory, disk, files, uptime. There is one."),
    Route("GET", "/api/nodes/{node}", Who.MONITOR, node, "One node; with ?memory=true what its memory is for."),
    Route("GET", "/api/nodes/{node}/memory", Who.MONITOR, memory, "What the memory of a node is for."),
    Route("GET", "/api/nodes/{node}/memory/relative", Who.MONITOR, memory_relative, "The same in per cent."),
    Route("GET", "/api/extensions", Who.USER, extensions, "Extensions of RabbitMQ's web pages."),
    Route("GET", "/api/whoami", Who.USER, whoami, "The user who asks."),
    Route("GET", "/api/auth", Who.ANYBODY, auth, "How RabbitMQ's web pages would log in."),
    Route("GET", "/api/feature-flags", Who.ADMINISTRATOR, feature_flags, "RabbitMQ's feature flags, all enabled."),
    Route("PUT", "/api/feature-flags/{name}/enable", Who.ADMINISTRATOR, enable_feature_flag, "Nothing to do."),
    Route("POST", "/api/rebalance/queues", Who.ADMINISTRATOR, rebalance, "Nothing to do on one node."),
    Route("DELETE", "/api/reset", Who.ADMINISTRATOR, reset, "Nothing to do."),
    Route("DELETE", "/api/reset/{node}", Who.ADMINISTRATOR, reset, "Nothing to do."),
    Route("GET", "/api/federation-links", Who.MONITOR, nothing, "There are none."),
    Route("GET", "/api/federation-links/{vhost}", Who.MONITOR, nothing, "There are none."),
    Route("GET", "/api/shovels", Who.MONITOR, nothing, "There are none."),
    Route("GET", "/api/shovels/{vhost}", Who.MONITOR, nothing, "There are none."),
)
