"""From settings to the broker: the vhosts, users, policies and limits that they name, at start and when re-read."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import fields
from typing import Final

from pabal.broker.accounts import ADMINISTRATOR
from pabal.broker.broker import Broker
from pabal.model.definitions import UserDefinition, VhostLimitsDefinition
from pabal.model.passwords import COST, hash_password
from pabal.server.settings import Settings, SettingsError

GUEST: Final = "guest"
_GUEST_COST: Final = 16
PROVISIONED = ("vhosts", "users", "policies", "vhost_limits")
"""Settings that take effect when the file is re-read. The others take a restart."""
CERTIFICATES = ("tls_certificate", "tls_key", "tls_ca", "tls_verify", "tls_login_from")
"""These do, too, where there is TLS before and after."""


def check_vhosts(broker: Broker, settings: Settings) -> None:
    """SettingsError when a policy or a limit is for a vhost that there is not, nor will be."""
    vhosts = {*broker.vhosts, *settings.vhosts}
    named = [(f"policy '{policy.name}'", policy.vhost) for policy in settings.policies]
    named += [("vhost_limits", limits.vhost) for limits in settings.vhost_limits]
    for what, vhost in named:
        if vhost not in vhosts:
            raise SettingsError(f"{what}: there is no vhost '{vhost}': name it in vhosts")


def provision(broker: Broker, settings: Settings) -> list[str]:
    """Makes what the settings name; policies and limits that came from them before and are not named any more go.
    The settings must have been checked (`check_vhosts`). Returns what it changed, a line each."""
    return [
        *_add_vhosts(broker, settings),
        *_put_users(broker, settings),
        *_change_limits(broker, settings),
        *_change_policies(broker, settings),
    ]


def restart_needed(before: Settings, after: Settings) -> list[str]:
    """Names of settings that have changed and take a restart."""
    at_once = (*PROVISIONED, *CERTIFICATES) if before.tls_certificate and after.tls_certificate else PROVISIONED
    return [
        f.name
        for f in fields(Settings)
        if f.name not in at_once and getattr(before, f.name) != getattr(after, f.name)
    ]


def _add_vhosts(broker: Broker, settings: Settings) -> Iterator[str]:
    first = not broker.vhosts  # there is nothing to tell of a data directory's first
    for name in settings.vhosts:
        if name not in broker.vhosts:
            broker.add_vhost(name)
            for user in (*settings.users, *([GUEST] if GUEST in broker.accounts.users else [])):
                if user in broker.accounts.users:
                    broker.accounts.grant_all(user, name)
            if not first:
                yield f"vhost '{name}' added"


def _put_users(broker: Broker, settings: Settings) -> Iterator[str]:
    for name, password_hash in settings.users.items():
        before = broker.accounts.users.get(name)
        vhosts = [] if before else ["*"]
        if broker.accounts.put_user(UserDefinition(name, password_hash, vhosts, tags=[ADMINISTRATOR])):
            yield f"user '{name}' {'changed' if before else 'added'}"


def add_default_user(broker: Broker, settings: Settings) -> None:
    """Where there would be no user: one who may do all. SettingsError when nobody is to be made."""
    name, password = settings.default_user, settings.default_password
    if not name:
        raise SettingsError(
            "there is no user yet, so nobody could connect. Name one, and its password, for example "
            f"PABAL_DEFAULT_USER=admin PABAL_DEFAULT_PASSWORD={secrets.token_urlsafe(12)} (made up just now), "
            "or PABAL_DEFAULT_PASSWORD_FILE=<file>"
        )
    known = name == GUEST and password == GUEST  # then its hash need not cost anything
    kept = hash_password(password, secrets.token_bytes(16), _GUEST_COST if known else COST)
    broker.accounts.put_user(UserDefinition(name, kept, ["*"], loopback_only=name == GUEST, tags=[ADMINISTRATOR]))


def _change_limits(broker: Broker, settings: Settings) -> Iterator[str]:
    wanted = {limits.vhost: limits for limits in settings.vhost_limits}
    for vhost in broker.vhosts.values():
        limits = wanted.get(vhost.name)
        if limits is None and vhost.limits.from_settings:
            limits = VhostLimitsDefinition(vhost.name)
        if limits is not None and limits != vhost.limits:
            broker.put_vhost_limits(limits)
            shown = [f"{limits.max_connections} connections"] if limits.max_connections is not None else []
            shown += [f"{limits.max_queues} queues"] if limits.max_queues is not None else []
            yield f"limits of vhost '{vhost.name}' changed: {', '.join(shown) or 'none'}"


def _change_policies(broker: Broker, settings: Settings) -> list[str]:
    wanted = {(p.vhost, p.operator, p.name): p for p in settings.policies}
    there = {
        (p.vhost, p.operator, p.name): p
        for vhost in broker.vhosts.values()
        for p in vhost.policies.definitions.values()
    }
    put = [policy for key, policy in wanted.items() if there.get(key) != policy]
    gone = [policy for key, policy in there.items() if policy.from_settings and key not in wanted]
    broker.change_policies(put, gone)
    lines = [(p, "changed" if (p.vhost, p.operator, p.name) in there else "added") for p in put]
    lines += [(p, "removed") for p in gone]
    return [f"{'operator policy' if p.operator else 'policy'} '{p.name}' of vhost '{p.vhost}' {w}" for p, w in lines]
