"""Policies and limits of vhosts in the settings file: [[policies]], [[operator_policies]], [vhost_limits."/"]."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pabal.model.definitions import PolicyDefinition, VhostLimitsDefinition
from pabal.model.errors import InvalidParameter
from pabal.model.policies import check_policy, check_vhost_limits

POLICY_TABLES: Final = {"policies": False, "operator_policies": True}
"""Name of the table to whether its policies are operators'."""
_KEYS: Final = {"name": str, "vhost": str, "pattern": str, "definition": dict, "priority": int, "apply_to": str}
_REQUIRED: Final = ("name", "pattern", "definition")
_KIND_NAMES: Final = {str: "a text", dict: "a table", int: "a whole number"}


def take_policies(values: dict[str, Any]) -> tuple[PolicyDefinition, ...]:
    """Takes both lists of policies out of the file's `values`. ValueError, saying which and why, when one is not
    valid."""
    found: dict[tuple[bool, str, str], PolicyDefinition] = {}
    for table, operator in POLICY_TABLES.items():
        entries = values.pop(table, [])
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise ValueError(f"{table}: expected tables, each beginning with [[{table}]]")
        for number, entry in enumerate(entries, 1):
            where = f"{table}, the {entry['name']!r} one" if isinstance(entry.get("name"), str) else table
            policy = _policy(entry, operator, where if "name" in entry else f"{table}, number {number}")
            identity = (operator, policy.vhost, policy.name)
            if identity in found:
                raise ValueError(f"{where}: there are two of that name in vhost '{policy.vhost}'")
            found[identity] = policy
    return tuple(found.values())


def _policy(entry: Mapping[str, Any], operator: bool, where: str) -> PolicyDefinition:
    for name, value in entry.items():
        kind = _KEYS.get(name)
        if kind is None:
            raise ValueError(f"{where}: there is no '{name}'; expected {', '.join(_KEYS)}")
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"{where}: {name} = {value!r}: expected {_KIND_NAMES[kind]}")
    for name in _REQUIRED:
        if name not in entry:
            raise ValueError(f"{where}: '{name}' is missing")
    policy = PolicyDefinition(**{"vhost": "/", **entry}, operator=operator, from_settings=True)
    try:
        check_policy(policy)
    except InvalidParameter as error:
        raise ValueError(f"{where}: {'; '.join(str(error).splitlines())}") from None
    return policy


def take_vhost_limits(values: dict[str, Any]) -> tuple[VhostLimitsDefinition, ...]:
    """Takes the limits of vhosts out of the file's `values`. ValueError as above."""
    tables = values.pop("vhost_limits", {})
    if not isinstance(tables, dict) or not all(isinstance(limits, dict) for limits in tables.values()):
        raise ValueError('vhost_limits: expected tables, each beginning with [vhost_limits."NAME"]')
    found = []
    for vhost, limits in tables.items():
        try:
            checked = check_vhost_limits(limits)
        except InvalidParameter as error:
            raise ValueError(f"vhost_limits, vhost '{vhost}': {'; '.join(str(error).splitlines())}") from None
        found.append(
            VhostLimitsDefinition(
                vhost, checked.get("max-connections"), checked.get("max-queues"), from_settings=True
            )
        )
    return tuple(found)
