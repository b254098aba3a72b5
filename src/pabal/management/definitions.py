"""Definitions: all that is declared, as one JSON document in RabbitMQ's form, out and in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from pabal.broker.vhost import Vhost
from pabal.management import bindings, exchanges, fields, parameters, policies, users, vhosts
from pabal.management.call import Answer, ApiError, Call, Job, Work, bad_request, check_depth, read_json
from pabal.management.encoding import encode, plain
from pabal.management.faults import as_api_error, escape
from pabal.management.listing import Facts
from pabal.management.multipart import form_fields
from pabal.management.routes import Route, Who
from pabal.model.definitions import BindingDefinition, ExchangeDefinition, ParameterDefinition
from pabal.model.errors import BrokerError

Entry = Mapping[str, Any]


# --- Export --------------------------------------------------------------------------------------------------


def export_all(call: Call) -> Work:
    broker = call.broker
    head = {
        "rabbit_version": call.node.rabbitmq_version,
        "rabbitmq_version": call.node.rabbitmq_version,
        "product_name": "Pabal",
        "product_version": call.node.version,
    }
    accounts = broker.accounts
    there = list(broker.vhosts.values())
    exported = _Exported()
    lists: list[tuple[str, Iterable[Facts]]] = [
        ("users", (users.facts_of(call, user) for user in list(accounts.users.values()))),
        ("vhosts", (_vhost(call, vhost) for vhost in there)),
        ("permissions", (users.permission_facts(each) for each in list(accounts.permissions.values()))),
        ("topic_permissions", (users.topic_facts(each) for each in list(accounts.topic_permissions.values()))),
        ("parameters", (facts for vhost in there for facts in parameters.of_vhost(vhost))),
        ("global_parameters", iter(parameters.global_parameters(call))),
        ("policies", (facts for vhost in there for facts in _policies(vhost))),
        ("queues", exported.queues(there)),
        ("exchanges", exported.exchanges(there)),
        ("bindings", exported.bindings(there)),
    ]
    return _export(call, head, lists)


def export_vhost(call: Call) -> Work:
    vhost = _vhost_or_400(call)
    exported = _Exported()
    lists: list[tuple[str, Iterable[Facts]]] = [
        ("parameters", iter(parameters.of_vhost(vhost))),
        ("policies", _policies(vhost)),
        ("queues", (_without_vhost(facts) for facts in exported.queues([vhost]))),
        ("exchanges", (_without_vhost(facts) for facts in exported.exchanges([vhost]))),
        ("bindings", (_without_vhost(facts) for facts in exported.bindings([vhost]))),
    ]
    return _export(call, {"rabbit_version": call.node.rabbitmq_version}, lists)


class _Exported:
    """What was exported so far: a binding goes along only with both its ends, and things change while an export is
    made."""

    def __init__(self) -> None:
        self._names: set[tuple[bool, str, str]] = set()

    def queues(self, vhosts: Iterable[Vhost]) -> Iterable[Facts]:
        return self._noted(False, (facts for vhost in vhosts for facts in _queues(vhost)))

    def exchanges(self, vhosts: Iterable[Vhost]) -> Iterable[Facts]:
        return self._noted(True, (facts for vhost in vhosts for facts in _exchanges(vhost)))

    def bindings(self, vhosts: Iterable[Vhost]) -> Iterable[Facts]:
        for vhost in vhosts:
            for binding in bindings.every(vhost):
                if self._has(True, vhost, binding.source) and self._has(
                    binding.to_exchange, vhost, binding.destination
                ):
                    facts = bindings.facts_of(binding)
                    del facts["properties_key"]
                    yield facts

    def _noted(self, exchange: bool, entries: Iterable[Facts]) -> Iterable[Facts]:
        for facts in entries:
            self._names.add((exchange, facts["vhost"], facts["name"]))
            yield facts

    def _has(self, exchange: bool, vhost: Vhost, name: str) -> bool:
        return (exchange and name.startswith("amq.")) or (exchange, vhost.name, name) in self._names


def _export(call: Call, head: Facts, lists: list[tuple[str, Iterable[Facts]]]) -> Work:
    pieces = [encode(head)[:-1]]
    for name, entries in lists:
        pieces.append(b"," + encode(name) + b":[")
        separator = b""
        for entry in entries:
            pieces += (separator, encode(entry))
            separator = b","
            yield None
        pieces.append(b"]")
    pieces.append(b"}")
    headers = {}
    if "download" in call.query:
        name = "".join(c for c in call.query["download"] if c.isascii() and c.isprintable() and c not in '";\\')
        headers["content-disposition"] = f"attachment; filename={name}"
    return Answer(content=b"".join(pieces), headers=headers)


def _vhost_or_400(call: Call) -> Vhost:
    vhost = call.broker.vhosts.get(call.arguments["vhost"])
    if vhost is None:
        raise bad_request("vhost_not_found")
    return vhost


def _vhost(call: Call, vhost: Vhost) -> Facts:
    facts = vhosts.facts_of(call, vhost)
    return {name: facts[name] for name in ("name", "description", "tags", "metadata")}


def _policies(vhost: Vhost) -> list[Facts]:
    return [policies.facts_of(each) for each in vhost.policies.definitions.values() if not each.operator]


def _queues(vhost: Vhost) -> Iterable[Facts]:
    for queue in list(vhost.queues.values()):
        if queue.owner is None:
            yield {
                "name": queue.name,
                "vhost": vhost.name,
                "durable": queue.durable,
                "auto_delete": queue.definition.auto_delete,
                "arguments": plain(queue.definition.arguments),
            }


def _exchanges(vhost: Vhost) -> Iterable[Facts]:
    for exchange in list(vhost.exchanges.values()):
        if exchange.name and not exchange.name.startswith("amq."):
            yield exchanges.facts_of(exchange)


def _without_vhost(facts: Facts) -> Facts:
    return {name: value for name, value in facts.items() if name != "vhost"}


# --- Import --------------------------------------------------------------------------------------------------


def import_all(call: Call) -> Work:
    yield from _import(call, None)


def import_vhost(call: Call) -> Work:
    vhost = call.broker.vhosts.get(call.arguments["vhost"])
    if vhost is None:
        raise ApiError(404, "not_found", "vhost_not_found")
    yield from _import(call, vhost.name)


def _import(call: Call, vhost: str | None) -> Work:
    """Takes in what there is, each list in an order in which all finds what it refers to. What is there already stays
    as it is, but for users, permissions, policies and parameters, which are changed. It stops at the first that
    cannot be, with RabbitMQ's 400 and which one; what came before it stays."""
    document = _document(call)
    steps = _STEPS if vhost is None else _VHOST_STEPS
    for name, put in steps:
        entries = document.get(name)
        if entries is None:
            continue
        if not isinstance(entries, list):
            raise bad_request(f"{name} should be a list")
        for entry in entries:
            if not isinstance(entry, dict):
                continue
            values = entry if vhost is None else {**entry, "vhost": vhost}
            try:
                check_depth(values)
                result = put(call, values)
                if result is not None:
                    yield from result
            except BrokerError as error:
                raise _named(as_api_error(error), error, name, values) from None
            except ApiError as error:
                raise _named(error, error, name, values) from None
            yield None


def _named(answer: ApiError, error: Exception, name: str, entry: Entry) -> ApiError:
    which = "/".join(str(entry[key]) for key in ("vhost", "user", "component", "name", "source") if key in entry)
    reason = str(answer.reason if answer is error else error)
    return bad_request(escape(f"{reason} ({name}: {which})"))


def _document(call: Call) -> Facts:
    body = call.body
    if call.content_type.startswith("multipart/form-data"):
        body = form_fields(body, call.content_type).get("file", b"")
    if not body:
        return {}
    try:
        document = read_json(body)
    except (ValueError, RecursionError):
        raise bad_request("failed_to_parse_json") from None
    if not isinstance(document, dict):
        raise bad_request("failed_to_parse_json")
    return document


def _target(call: Call, entry: Entry) -> Vhost:
    name = entry.get("vhost")
    vhost = call.broker.vhosts.get(name) if isinstance(name, str) else None
    if vhost is None:
        if name is None:
            raise bad_request("Virtual host does not exist and is not specified in definitions file.")
        raise bad_request(f'Please create virtual host "{name}" prior to importing definitions.')
    return vhost


def _put_user(call: Call, entry: Entry) -> Work:
    name = fields.text("name", entry.get("name"))
    tags = fields.strings(entry.get("tags", []))
    if entry.get("password") is not None and entry.get("password_hash") is None:
        password, node = fields.text("password", entry["password"]), call.node
        password_hash = (yield Job(lambda: node.hash_password(password))) if password else ""
    else:
        password_hash = users.read_hash(entry.get("password_hash") or "", entry.get("hashing_algorithm"))
    users.put_user(call, name, password_hash, tags)
    limits = entry.get("limits")
    if isinstance(limits, dict) and limits:
        call.broker.accounts.set_limits(name, limits)


def _put_vhost(call: Call, entry: Entry) -> None:
    vhosts.put_vhost(call, fields.text("name", entry.get("name")), dict(entry))


def _put_permission(call: Call, entry: Entry) -> None:
    users.grant(call, dict(entry))


def _put_topic_permission(call: Call, entry: Entry) -> None:
    users.grant_topic(call, dict(entry))


def _put_global_parameter(call: Call, entry: Entry) -> None:
    name = fields.text("name", entry.get("name"))
    call.broker.put_parameter(ParameterDefinition("", "", name, entry.get("value")))


def _put_policy(call: Call, entry: Entry) -> None:
    vhost, name = _target(call, entry), fields.text("name", entry.get("name"))
    call.broker.put_policy(policies.read_policy(vhost.name, name, dict(entry), operator=False))


def _put_parameter(call: Call, entry: Entry) -> None:
    component, name = fields.text("component", entry.get("component")), fields.text("name", entry.get("name"))
    parameters.put_parameter(call, _target(call, entry), component, name, entry.get("value"), kept=True)


def _put_exchange(call: Call, entry: Entry) -> None:
    vhost, name = _target(call, entry), fields.short("name", entry.get("name"))
    if name and not name.startswith("amq.") and name not in vhost.exchanges:
        vhost.declare_exchange(
            ExchangeDefinition(
                vhost.name,
                name,
                fields.text("type", entry.get("type")),
                fields.boolean(entry.get("durable")),
                fields.boolean(entry.get("auto_delete")),
                fields.boolean(entry.get("internal")),
                fields.table("arguments", entry.get("arguments")),
            )
        )


def _put_queue(call: Call, entry: Entry) -> None:
    vhost, name = _target(call, entry), fields.short("name", entry.get("name"))
    if name and not name.startswith("amq.") and name not in vhost.queues:
        vhost.declare_queue(
            name,
            fields.boolean(entry.get("durable")),
            False,
            fields.boolean(entry.get("auto_delete")),
            fields.table("arguments", entry.get("arguments")),
            None,
        )


def _put_binding(call: Call, entry: Entry) -> None:
    vhost = _target(call, entry)
    vhost.bind(
        BindingDefinition(
            vhost.name,
            fields.text("source", entry.get("source")),
            fields.text("destination", entry.get("destination")),
            entry.get("destination_type") == "exchange",
            fields.short("routing_key", entry.get("routing_key") or ""),
            fields.table("arguments", entry.get("arguments")),
        )
    )


_VHOST_STEPS: Final[tuple[tuple[str, Callable[[Call, Entry], Work | None]], ...]] = (
    ("exchanges", _put_exchange),
    ("parameters", _put_parameter),
    ("policies", _put_policy),
    ("queues", _put_queue),
    ("bindings", _put_binding),
)
_STEPS: Final[tuple[tuple[str, Callable[[Call, Entry], Work | None]], ...]] = (
    ("users", _put_user),
    ("vhosts", _put_vhost),
    ("permissions", _put_permission),
    ("topic_permissions", _put_topic_permission),
    ("global_parameters", _put_global_parameter),
    *_VHOST_STEPS,
)
_BODY: Final = "what GET answers"

ROUTES: Final = (
    Route("GET", "/api/definitions", Who.ADMINISTRATOR, export_all, "All that is declared, in one document."),
    Route("POST", "/api/definitions", Who.ADMINISTRATOR, import_all, "Takes such a document in.", _BODY),
    Route("GET", "/api/definitions/{vhost}", Who.ADMINISTRATOR, export_vhost, "The same of one vhost."),
    Route("POST", "/api/definitions/{vhost}", Who.ADMINISTRATOR, import_vhost, "Into one vhost.", _BODY),
    Route("GET", "/api/all-configuration", Who.ADMINISTRATOR, export_all, "An older name of definitions."),
    Route("POST", "/api/all-configuration", Who.ADMINISTRATOR, import_all, "The same.", _BODY),
)
