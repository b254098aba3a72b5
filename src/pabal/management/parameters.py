"""Parameters, global parameters and the limits of vhosts. Parameters of RabbitMQ's plugins mean nothing here; those
that came with definitions are kept. Limits and operator policies are shown among them as in RabbitMQ.
"""

from __future__ import annotations

from typing import Any, Final

from pabal.broker.vhost import Vhost
from pabal.management import fields, policies
from pabal.management.call import CREATED, Answer, Call, Work, bad_request, not_authorised, not_found
from pabal.management.faults import escape
from pabal.management.listing import Facts, listing, one
from pabal.management.routes import Route, Who
from pabal.model.definitions import ParameterDefinition
from pabal.model.errors import InvalidParameter
from pabal.model.policies import VHOST_LIMITS, term

LIMITS: Final = "vhost-limits"
OPERATOR_POLICY: Final = "operator_policy"


def limits_of(vhost: Vhost) -> Facts:
    limits = {"max-connections": vhost.limits.max_connections, "max-queues": vhost.limits.max_queues}
    return {name: value for name, value in limits.items() if value is not None}


def of_vhost(vhost: Vhost) -> list[Facts]:
    """As /api/parameters and definitions have them."""
    found: list[Facts] = [
        {"value": parameter.value, "vhost": vhost.name, "component": parameter.component, "name": parameter.name}
        for parameter in vhost.broker.parameters.values()
        if parameter.vhost == vhost.name and parameter.component
    ]
    if limits := limits_of(vhost):
        found.append({"value": limits, "vhost": vhost.name, "component": LIMITS, "name": "limits"})
    for policy in vhost.policies.definitions.values():
        if policy.operator:
            value = policies.facts_of(policy)
            del value["vhost"], value["name"]
            found.append({"value": value, "vhost": vhost.name, "component": OPERATOR_POLICY, "name": policy.name})
    return found


def _all(call: Call) -> list[Facts]:
    component = call.arguments.get("component")
    found = [facts for vhost in call.asked_vhosts() for facts in of_vhost(vhost)]
    return [facts for facts in found if component in (None, facts["component"])]


def list_parameters(call: Call) -> Work:
    return listing(call, _all(call), dict, order=("vhost", "component", "name"), paged=False)


def _find(call: Call) -> Facts | None:
    name = call.arguments["name"]
    return next((facts for facts in _all(call) if facts["name"] == name), None)


def show(call: Call) -> Answer:
    facts = _find(call)
    if facts is None:
        raise not_found()
    return one(call, facts)


def _check_may_change(call: Call) -> None:
    """What a policymaker may not do under its own path is not to be done by this one either."""
    if call.arguments["component"] in (LIMITS, OPERATOR_POLICY) and not call.administrator:
        raise not_authorised(Who.ADMINISTRATOR.value)


def put(call: Call) -> Answer:
    _check_may_change(call)
    vhost, there = call.vhost, _find(call) is not None
    value = call.json("value")["value"]
    put_parameter(call, vhost, call.arguments["component"], call.arguments["name"], value, kept=there)
    return Answer(204 if there else CREATED)


def put_parameter(call: Call, vhost: Vhost, component: str, name: str, value: Any, kept: bool) -> None:
    """`kept`: it may also be of a plugin, which means nothing here."""
    if component == LIMITS:
        if not isinstance(value, dict):
            raise bad_request("limits should be an object")
        call.broker.set_vhost_limits(vhost.name, value)
    elif component == OPERATOR_POLICY:
        if not isinstance(value, dict):
            raise bad_request("an operator policy should be an object")
        call.broker.put_policy(policies.read_policy(vhost.name, name, value, operator=True))
    elif kept:
        call.broker.put_parameter(ParameterDefinition(vhost.name, component, name, value))
    else:
        raise bad_request(escape(f"Validation failed\n\ncomponent {component} not found\n"))


def delete(call: Call) -> None:
    _check_may_change(call)
    vhost, component, name = call.vhost, call.arguments["component"], call.arguments["name"]
    if _find(call) is None:
        raise not_found()
    if component == LIMITS:
        call.broker.set_vhost_limits(vhost.name, {})
    elif component == OPERATOR_POLICY:
        call.broker.delete_policy(vhost.name, name, operator=True)
    else:
        call.broker.delete_parameter(call.broker.parameters[vhost.name, component, name])


# --- Global ones ---------------------------------------------------------------------------------------------


def global_parameters(call: Call) -> list[Facts]:
    found = [p for p in call.broker.parameters.values() if not p.component]
    return [{"name": parameter.name, "value": parameter.value} for parameter in found]


def list_global(call: Call) -> Work:
    return listing(call, global_parameters(call), dict, order=("name",), paged=False)


def _find_global(call: Call) -> ParameterDefinition:
    parameter = call.broker.parameters.get(("", "", call.arguments["name"]))
    if parameter is None:
        raise not_found()
    return parameter


def show_global(call: Call) -> Answer:
    parameter = _find_global(call)
    return one(call, {"name": parameter.name, "value": parameter.value})


def put_global(call: Call) -> Answer:
    value = call.json("value")["value"]
    name = fields.text("name", call.arguments["name"])
    added = call.broker.put_parameter(ParameterDefinition("", "", name, value))
    return Answer(CREATED if added else 204)


def delete_global(call: Call) -> None:
    call.broker.delete_parameter(_find_global(call))


# --- Limits of vhosts ----------------------------------------------------------------------------------------


def list_limits(call: Call) -> Work:
    if "vhost" in call.arguments:
        vhosts = [call.vhost]
    else:
        vhosts = list(call.broker.vhosts.values()) if call.monitor else call.visible_vhosts()
    found: list[Facts] = [{"vhost": v.name, "value": limits_of(v)} for v in vhosts if limits_of(v)]
    return listing(call, found, dict, order=("vhost",), paged=False)


def put_limit(call: Call) -> None:
    vhost, name = call.vhost, call.arguments["name"]
    value = call.json("value")["value"]
    if name not in VHOST_LIMITS:
        raise InvalidParameter(f"Unrecognised terms [{{{term(name)},{term(value)}}}] in limits")
    call.broker.set_vhost_limits(vhost.name, {**limits_of(vhost), name: value})


def delete_limit(call: Call) -> None:
    vhost = call.vhost
    limits = limits_of(vhost)
    limits.pop(call.arguments["name"], None)
    call.broker.set_vhost_limits(vhost.name, limits)


_VALUE: Final = "value: anything"
_ONE: Final = "/api/parameters/{component}/{vhost}/{name}"

ROUTES: Final = (
    Route("GET", "/api/parameters", Who.POLICYMAKER, list_parameters, "Parameters of vhosts."),
    Route("GET", "/api/parameters/{component}", Who.POLICYMAKER, list_parameters, "Those of a component."),
    Route("GET", "/api/parameters/{component}/{vhost}", Who.POLICYMAKER, list_parameters, "And of a vhost."),
    Route("GET", _ONE, Who.POLICYMAKER, show, "One parameter."),
    Route("PUT", _ONE, Who.POLICYMAKER, put, "Changes it, if there is such a component.", _VALUE),
    Route("DELETE", _ONE, Who.POLICYMAKER, delete, "Deletes it."),
    Route("GET", "/api/global-parameters", Who.POLICYMAKER, list_global, "What tools keep here."),
    Route("GET", "/api/global-parameters/{name}", Who.POLICYMAKER, show_global, "One of them."),
    Route("PUT", "/api/global-parameters/{name}", Who.POLICYMAKER, put_global, "Adds or changes it.", _VALUE),
    Route("DELETE", "/api/global-parameters/{name}", Who.POLICYMAKER, delete_global, "Deletes it."),
    Route("GET", "/api/vhost-limits", Who.VHOST_MONITOR, list_limits, "Limits of vhosts that have some."),
    Route("GET", "/api/vhost-limits/{vhost}", Who.VHOST_MONITOR, list_limits, "Those of one."),
    Route("PUT", "/api/vhost-limits/{vhost}/{name}", Who.ADMINISTRATOR, put_limit, "Sets one.", "value: integer"),
    Route("DELETE", "/api/vhost-limits/{vhost}/{name}", Who.ADMINISTRATOR, delete_limit, "Takes one away."),
)
