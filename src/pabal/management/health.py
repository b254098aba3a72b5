"""Health checks: 200 {"status": "ok"}, or 503 and why not."""

from __future__ import annotations

from typing import Any, Final

from pabal.management.call import Answer, Call, bad_request
from pabal.management.listing import Facts
from pabal.management.routes import Route, Who

_SECONDS: Final = {"days": 86_400, "weeks": 7 * 86_400, "months": 30 * 86_400, "years": 365 * 86_400}
_PROTOCOLS: Final = {
    "amqp091": "amqp",
    "amqp0.9.1": "amqp",
    "amqp-0-9-1": "amqp",
    "amqps": "amqp/ssl",
    "amqp/tls": "amqp/ssl",
    "https": "https",
}
"""Names by which a protocol may be asked for, besides that of its listener."""


def _ok(**more: Any) -> Facts:
    return {"status": "ok", **more}


def _failed(reason: str, **more: Any) -> Answer:
    return Answer(503, {"status": "failed", "reason": reason, **more})


def alarms(call: Call) -> Any:
    raised = [{"node": call.node.name, "resource": name} for name in call.broker.alarms]
    if raised:
        return _failed("There are alarms in effect in the cluster", alarms=raised)
    return _ok()


def certificates(call: Call) -> Any:
    within, unit = call.arguments["within"], call.arguments["unit"]
    if not within.isdecimal() or unit not in _SECONDS:
        raise bad_request("Invalid expiration unit" if within.isdecimal() else "Invalid expiration value")
    until = call.broker.now_ms / 1000 + int(within[:6]) * _SECONDS[unit]
    ending = [
        {"node": call.node.name, "protocol": each.protocol, "interface": each.address, "port": str(each.port)}
        for each in call.node.listeners()
        if each.expires_s is not None and each.expires_s < until
    ]
    if ending:
        return _failed("Certificates expiring", expired=ending)
    return _ok()


def port(call: Call) -> Any:
    asked = call.arguments["port"]
    if not asked.isdecimal():
        raise bad_request("Invalid port")
    ports = [listener.port for listener in call.node.listeners()]
    if int(asked[:9]) in ports:
        return _ok(port=int(asked))
    return _failed("No active listener", missing=int(asked[:9]), ports=ports)


def protocol(call: Call) -> Any:
    asked = call.arguments["protocol"].lower()
    wanted = _PROTOCOLS.get(asked, asked)
    protocols = list(dict.fromkeys(listener.protocol for listener in call.node.listeners()))
    if wanted in protocols:
        return _ok(protocol=wanted)
    return _failed("No active listener", missing=call.arguments["protocol"], protocols=protocols)


def always(call: Call) -> Any:
    return _ok()


def single_node(call: Call) -> Any:
    return _ok(reason="single node cluster")


def aliveness(call: Call) -> Any:
    """RabbitMQ passes a message through a queue that it keeps for that; here the way a request takes is the test."""
    _ = call.vhost
    return _ok()


_CHECKS: Final = "/api/health/checks"

ROUTES: Final = (
    Route("GET", f"{_CHECKS}/alarms", Who.USER, alarms, "Fails when memory or disk space is low."),
    Route("GET", f"{_CHECKS}/local-alarms", Who.USER, alarms, "The same."),
    Route("GET", f"{_CHECKS}/certificate-expiration/{{within}}/{{unit}}", Who.USER, certificates, "Days to years."),
    Route("GET", f"{_CHECKS}/port-listener/{{port}}", Who.USER, port, "Fails when the port is not listened on."),
    Route("GET", f"{_CHECKS}/protocol-listener/{{protocol}}", Who.USER, protocol, "The same for amqp091, http …"),
    Route("GET", f"{_CHECKS}/virtual-hosts", Who.USER, always, "Fails when a vhost is down; here none can be."),
    Route("GET", f"{_CHECKS}/node-is-mirror-sync-critical", Who.USER, single_node, "There is one node."),
    Route("GET", f"{_CHECKS}/node-is-quorum-critical", Who.USER, single_node, "There is one node."),
    Route("GET", "/api/healthchecks/node", Who.USER, alarms, "An older form of alarms."),
    Route("GET", "/api/healthchecks/node/{node}", Who.USER, alarms, "The same."),
    Route("GET", "/api/aliveness-test/{vhost}", Who.VHOST, aliveness, "Whether the broker answers."),
)
