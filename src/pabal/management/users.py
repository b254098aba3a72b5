"""Users, their permissions, topic permissions and limits."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable
from typing import Any, Final

from pabal.management import fields
from pabal.management.call import CREATED, Answer, ApiError, Call, Job, Work, bad_request, not_found
from pabal.management.listing import Facts, listing, one
from pabal.management.routes import Route, Who
from pabal.model.definitions import (
    PermissionDefinition,
    TopicPermissionDefinition,
    UserDefinition,
    UserLimitsDefinition,
)
from pabal.model.errors import InvalidParameter
from pabal.model.limits import NAME_BYTES_MAX
from pabal.model.passwords import SCRYPT, export_hash, import_hash
from pabal.model.policies import term

DEFAULT_ALGORITHM: Final = "rabbit_password_hashing_sha256"
LIMITS: Final = ("max-connections", "max-channels")


# --- Users ---------------------------------------------------------------------------------------------------


def limits_of(limits: UserLimitsDefinition | None) -> Facts:
    if limits is None:
        return {}
    found = {"max-connections": limits.max_connections, "max-channels": limits.max_channels}
    return {name: value for name, value in found.items() if value is not None}


def facts_of(call: Call, user: UserDefinition) -> Facts:
    """The hash of Pabal's own kind is shown in a form that RabbitMQ takes in too, where nobody can log in by it."""
    password_hash, algorithm = export_hash(user.password_hash)
    if algorithm == SCRYPT:
        password_hash = base64.b64encode(password_hash.encode()).decode()
        algorithm = DEFAULT_ALGORITHM
    return {
        "name": user.name,
        "password_hash": password_hash,
        "hashing_algorithm": algorithm,
        "tags": list(user.tags),
        "limits": limits_of(call.broker.accounts.limits.get(user.name)),
    }


def read_hash(password_hash: Any, algorithm: Any) -> str:
    """The other way. What RabbitMQ exported has no algorithm only if it is older than 3.6."""
    if not isinstance(password_hash, str) or not isinstance(algorithm, str | None):
        raise bad_request("password_hash and hashing_algorithm should be strings")
    try:
        decoded = base64.b64decode(password_hash, validate=True)
    except (binascii.Error, ValueError):
        decoded = b""
    try:
        if decoded.startswith(b"scrypt:"):
            return import_hash(decoded.decode("ascii"), SCRYPT)
        return import_hash(password_hash, algorithm or DEFAULT_ALGORITHM)
    except ValueError as error:
        raise bad_request(f"password_hash: {error}") from None


def _without_permissions(call: Call) -> list[UserDefinition]:
    accounts = call.broker.accounts
    permitted = {user for user, _ in accounts.permissions}
    return [user for user in accounts.users.values() if user.name not in permitted]


def list_users(call: Call) -> Work:
    users = list(call.broker.accounts.users.values())
    return listing(call, users, lambda user: facts_of(call, user), order=("name",), paged=False)


def list_without_permissions(call: Call) -> Work:
    return listing(call, _without_permissions(call), lambda u: facts_of(call, u), order=("name",), paged=False)


def find(call: Call) -> UserDefinition:
    user = call.broker.accounts.users.get(call.arguments["user"])
    if user is None:
        raise not_found()
    return user


def show(call: Call) -> Answer:
    return one(call, facts_of(call, find(call)))


def put(call: Call) -> Work:
    name = call.arguments["user"]
    body = call.json()
    if "tags" not in body and "administrator" not in body:
        raise bad_request("tags_not_present")
    tags = fields.strings(body["tags"]) if "tags" in body else ["administrator"]
    password_hash = ""
    if body.get("password") is not None:
        password = fields.text("password", body["password"])
        node = call.node
        password_hash = (yield Job(lambda: node.hash_password(password))) if password else ""
    elif body.get("password_hash") is not None:
        password_hash = read_hash(body["password_hash"], body.get("hashing_algorithm"))
    there = name in call.broker.accounts.users
    put_user(call, name, password_hash, tags)
    return Answer(204 if there else CREATED)


def put_user(call: Call, name: str, password_hash: str, tags: list[str]) -> None:
    """Whatever its password, `guest` may log in from this machine only, as in RabbitMQ."""
    if not 0 < len(fields.text("name", name).encode()) <= NAME_BYTES_MAX:
        raise bad_request(f"the name of a user has 1 to {NAME_BYTES_MAX} bytes")
    before = call.broker.accounts.users.get(name)
    loopback_only = before.loopback_only if before is not None else name == "guest"
    call.broker.accounts.put_user(UserDefinition(name, password_hash, [], loopback_only, tags))


def delete(call: Call) -> None:
    call.broker.accounts.delete_user(find(call).name)


def bulk_delete(call: Call) -> None:
    names = call.json("users")["users"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise bad_request("users should be a list of strings")
    accounts = call.broker.accounts
    for name in names:
        if name not in accounts.users:
            raise bad_request(["no_such_user", name])
    for name in dict.fromkeys(names):
        accounts.delete_user(name)


# --- Permissions ---------------------------------------------------------------------------------------------


def permission_facts(permission: PermissionDefinition) -> Facts:
    return {
        "user": permission.user,
        "vhost": permission.vhost,
        "configure": permission.configure,
        "write": permission.write,
        "read": permission.read,
    }


def topic_facts(permission: TopicPermissionDefinition) -> Facts:
    return {
        "user": permission.user,
        "vhost": permission.vhost,
        "exchange": permission.exchange,
        "write": permission.write,
        "read": permission.read,
    }


def _asked(call: Call, found: Iterable[Any]) -> list[Any]:
    """Those of the vhost or the user that the path names."""
    if "vhost" in call.arguments:
        _ = call.vhost
    if "user" in call.arguments:
        find(call)
    return [
        each
        for each in found
        if call.arguments.get("vhost", each.vhost) == each.vhost
        and call.arguments.get("user", each.user) == each.user
    ]


def _lister(kept: Callable[[Call], Iterable[Any]], facts: Callable[[Any], Facts]) -> Callable[[Call], Work]:
    def list_permissions(call: Call) -> Work:
        return listing(call, _asked(call, list(kept(call))), facts, order=("vhost", "user"), paged=False)

    return list_permissions


list_permissions: Final = _lister(lambda call: call.broker.accounts.permissions.values(), permission_facts)
list_topic_permissions: Final = _lister(lambda call: call.broker.accounts.topic_permissions.values(), topic_facts)


def _permission(call: Call) -> PermissionDefinition | None:
    return call.broker.accounts.permissions.get((call.arguments["user"], call.arguments["vhost"]))


def show_permission(call: Call) -> Answer:
    permission = _permission(call)
    if permission is None:
        raise not_found()
    return one(call, permission_facts(permission))


def _check_known(call: Call) -> None:
    if call.arguments["vhost"] not in call.broker.vhosts or call.arguments["user"] not in call.broker.accounts.users:
        raise bad_request("vhost_or_user_not_found")


def put_permission(call: Call) -> Answer:
    _check_known(call)
    there = _permission(call) is not None
    grant(call, {**call.json("configure", "write", "read"), **call.arguments})
    return Answer(204 if there else CREATED)


def grant(call: Call, body: Facts) -> None:
    texts = [fields.text(name, body.get(name)) for name in ("user", "vhost", "configure", "write", "read")]
    with_regexp_error(lambda: call.broker.accounts.put_permission(PermissionDefinition(*texts)))


def grant_topic(call: Call, body: Facts) -> None:
    texts = [fields.text(name, body.get(name)) for name in ("user", "vhost", "exchange", "write", "read")]
    with_regexp_error(lambda: call.broker.accounts.put_topic_permission(TopicPermissionDefinition(*texts)))


def with_regexp_error(change: Callable[[], None]) -> None:
    try:
        change()
    except InvalidParameter as error:
        raise bad_request(["invalid_regexp", str(error)]) from None


def delete_permission(call: Call) -> None:
    if _permission(call) is None:
        raise not_found()
    call.broker.accounts.delete_permission(call.arguments["user"], call.arguments["vhost"])


def _topic_permissions(call: Call) -> list[TopicPermissionDefinition]:
    return [
        each
        for each in _asked(call, call.broker.accounts.topic_permissions.values())
        if call.arguments.get("exchange", each.exchange) == each.exchange
    ]


def show_topic_permissions(call: Call) -> Work:
    found = _topic_permissions(call)
    if not found:
        raise not_found()
    return listing(call, found, topic_facts, order=("exchange",), paged=False)


def put_topic_permission(call: Call) -> Answer:
    _check_known(call)
    there = bool(_topic_permissions(call))
    grant_topic(call, {**call.json("exchange", "write", "read"), **call.arguments})
    return Answer(204 if there else CREATED)


def delete_topic_permissions(call: Call) -> None:
    if not _topic_permissions(call):
        raise not_found()
    call.broker.accounts.delete_topic_permissions(
        call.arguments["user"], call.arguments["vhost"], call.arguments.get("exchange")
    )


# --- Limits --------------------------------------------------------------------------------------------------


def list_limits(call: Call) -> Work:
    names = [find(call).name] if "user" in call.arguments else list(call.broker.accounts.limits)
    limits = call.broker.accounts.limits
    found: list[Facts] = [{"user": name, "value": limits_of(limits[name])} for name in names if name in limits]
    return listing(call, found, dict, order=("user",), paged=False)


def put_limit(call: Call) -> None:
    user, name = find(call), call.arguments["name"]
    value = call.json("value")["value"]
    if name not in LIMITS:
        raise InvalidParameter(f"Unrecognised terms [{{{term(name)},{term(value)}}}] in user-limits")
    call.broker.accounts.set_limits(user.name, {name: value})


def delete_limit(call: Call) -> None:
    user, name = find(call), call.arguments["name"]
    if name not in LIMITS:
        raise ApiError(404, "Object Not Found", "Not Found")
    call.broker.accounts.set_limits(user.name, {name: -1})


_USER: Final = "password, or password_hash and hashing_algorithm: strings; tags: strings"
_THREE: Final = "configure, write, read: regular expressions"
_TOPIC: Final = "exchange: string; write, read: regular expressions"
_PAIR: Final = "/api/permissions/{vhost}/{user}"
_TOPIC_PAIR: Final = "/api/topic-permissions/{vhost}/{user}"
_ADMIN: Final = Who.ADMINISTRATOR

ROUTES: Final = (
    Route("GET", "/api/users", _ADMIN, list_users, "All users."),
    Route("GET", "/api/users/without-permissions", _ADMIN, list_without_permissions, "Those who may do nothing."),
    Route("POST", "/api/users/bulk-delete", _ADMIN, bulk_delete, "Deletes several users.", "users: names"),
    Route("GET", "/api/users/{user}", _ADMIN, show, "One user."),
    Route("PUT", "/api/users/{user}", _ADMIN, put, "Adds a user or changes it.", _USER),
    Route("DELETE", "/api/users/{user}", _ADMIN, delete, "Deletes a user and closes its connections."),
    Route("GET", "/api/users/{user}/permissions", _ADMIN, list_permissions, "The permissions of a user."),
    Route("GET", "/api/users/{user}/topic-permissions", _ADMIN, list_topic_permissions, "And for routing keys."),
    Route("GET", "/api/vhosts/{vhost}/permissions", _ADMIN, list_permissions, "The permissions in a vhost."),
    Route("GET", "/api/vhosts/{vhost}/topic-permissions", _ADMIN, list_topic_permissions, "For routing keys."),
    Route("GET", "/api/permissions", _ADMIN, list_permissions, "All permissions."),
    Route("GET", _PAIR, _ADMIN, show_permission, "What a user may do in a vhost."),
    Route("PUT", _PAIR, _ADMIN, put_permission, "Sets it.", _THREE),
    Route("DELETE", _PAIR, _ADMIN, delete_permission, "Takes it away."),
    Route("GET", "/api/topic-permissions", _ADMIN, list_topic_permissions, "All permissions for routing keys."),
    Route("GET", _TOPIC_PAIR, _ADMIN, show_topic_permissions, "Those of a user in a vhost."),
    Route("PUT", _TOPIC_PAIR, _ADMIN, put_topic_permission, "Sets one.", _TOPIC),
    Route("DELETE", _TOPIC_PAIR, _ADMIN, delete_topic_permissions, "Takes them away."),
    Route("DELETE", f"{_TOPIC_PAIR}/{{exchange}}", _ADMIN, delete_topic_permissions, "Takes one away."),
    Route("GET", "/api/user-limits", Who.VHOST_MONITOR, list_limits, "Limits of users who have some."),
    Route("GET", "/api/user-limits/{user}", Who.VHOST_MONITOR, list_limits, "Those of one."),
    Route("PUT", "/api/user-limits/{user}/{name}", _ADMIN, put_limit, "Sets one.", "value: integer"),
    Route("DELETE", "/api/user-limits/{user}/{name}", _ADMIN, delete_limit, "Takes one away."),
)
