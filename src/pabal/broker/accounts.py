"""The accounts of a broker: its users, what each may do where, and how much at once. All of it is in the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Protocol

from pabal.model.definitions import (
    PermissionDefinition,
    TopicPermissionDefinition,
    UserDefinition,
    UserLimitsDefinition,
)
from pabal.model.errors import InvalidParameter, NotFound
from pabal.model.policies import check_limits, compile_pattern

if TYPE_CHECKING:
    from pabal.broker.broker import Broker

ADMINISTRATOR: Final = "administrator"
TAGS_MAX: Final = 32
"""Of a user, as in RabbitMQ."""
USER_LIMITS: Final = ("max-connections", "max-channels")

AccountDefinition = UserDefinition | PermissionDefinition | TopicPermissionDefinition | UserLimitsDefinition


class Holder(Protocol):
    """Somebody who is here as a user: a connection. `name`: the user's. `by_token`: what it may do is in a token."""

    name: str
    channels: int

    @property
    def by_token(self) -> bool: ...

    def changed(self) -> None:
        """What this user may do has changed."""

    def revoked(self, reason: str) -> None:
        """The user is there no more."""


class Accounts:
    """`permissions` by user and vhost; `topic_permissions` by user, vhost and exchange; `limits` by user. They are
    to be read by anybody and changed only by the methods here. `holders`: the connections of each user."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.users: dict[str, UserDefinition] = {}
        self.permissions: dict[tuple[str, str], PermissionDefinition] = {}
        self.topic_permissions: dict[tuple[str, str, str], TopicPermissionDefinition] = {}
        self.limits: dict[str, UserLimitsDefinition] = {}
        self.holders: dict[str, dict[Holder, None]] = {}

    # --- Users ----------------------------------------------------------------------------------------------

    def put_user(self, user: UserDefinition) -> bool:
        """Adds the user or changes it; False when it is so already. One who is added with `vhosts` is granted all
        permissions there. InvalidParameter: too many tags."""
        if len(user.tags) > TAGS_MAX:
            raise InvalidParameter(f"user tags must not exceed {TAGS_MAX}")
        vhosts, user = user.vhosts, replace(user, vhosts=[])
        changed = self.users.get(user.name) != user
        if changed:
            self.users[user.name] = user
            self._broker.store.journal.define(user)
            self._tell(user.name)
        for vhost in list(self._broker.vhosts) if "*" in vhosts else vhosts:
            if (user.name, vhost) not in self.permissions:
                self.grant_all(user.name, vhost)
        return changed

    def delete_user(self, name: str) -> None:
        """And all that was said of the user; its connections are closed. NotFound."""
        user = self._user(name)
        for permission in [p for p in self.permissions.values() if p.user == name]:
            self.delete_permission(name, permission.vhost)
        self.delete_topic_permissions(name)
        self.delete_limits(name)
        del self.users[name]
        self._broker.store.journal.undefine(user)
        for holder in list(self.holders.get(name, ())):
            holder.revoked(f"user '{name}' is deleted")

    def _user(self, name: str) -> UserDefinition:
        user = self.users.get(name)
        if user is None:
            raise NotFound(f"no such user '{name}'")
        return user

    # --- Permissions ----------------------------------------------------------------------------------------

    def put_permission(self, permission: PermissionDefinition) -> None:
        """Adds it or changes it, for connections that there are too. NotFound: no such user or vhost.
        InvalidParameter: not a regular expression, or too long a one."""
        self._user(permission.user)
        self._broker.vhost(permission.vhost)
        for pattern in (permission.configure, permission.write, permission.read):
            compile_pattern(pattern)
        self.permissions[permission.user, permission.vhost] = permission
        self._broker.store.journal.define(permission)
        self._tell(permission.user)

    def grant_all(self, user: str, vhost: str) -> None:
        """What who makes a vhost has there."""
        self.put_permission(PermissionDefinition(user, vhost, ".*", ".*", ".*"))

    def delete_permission(self, user: str, vhost: str) -> None:
        """Nothing when there is none: connections stay, but may do nothing any more."""
        permission = self.permissions.pop((user, vhost), None)
        if permission is not None:
            self._broker.store.journal.undefine(permission)
            self._tell(user)

    def put_topic_permission(self, permission: TopicPermissionDefinition) -> None:
        """As `put_permission`. The exchange need not be there."""
        self._user(permission.user)
        self._broker.vhost(permission.vhost)
        for pattern in (permission.write, permission.read):
            compile_pattern(pattern)
        self.topic_permissions[permission.user, permission.vhost, permission.exchange] = permission
        self._broker.store.journal.define(permission)
        self._tell(permission.user)

    def delete_topic_permissions(self, user: str, vhost: str | None = None, exchange: str | None = None) -> None:
        """Those of a user, of one vhost or one exchange of it if given."""
        for key, permission in list(self.topic_permissions.items()):
            if permission.user == user and vhost in (None, permission.vhost) and exchange in (None, key[2]):
                del self.topic_permissions[key]
                self._broker.store.journal.undefine(permission)
        self._tell(user)

    def forget_vhost(self, vhost: str) -> None:
        """It is being deleted: what users may do there goes with it."""
        for permission in [p for p in self.permissions.values() if p.vhost == vhost]:
            self.delete_permission(permission.user, vhost)
        for user in {p.user for p in self.topic_permissions.values() if p.vhost == vhost}:
            self.delete_topic_permissions(user, vhost)

    # --- Limits ---------------------------------------------------------------------------------------------

    def set_limits(self, user: str, limits: Mapping[str, Any]) -> None:
        """Sets "max-connections" and "max-channels"; one that is left out stays, one below zero goes. Connections
        and channels that there are stay. InvalidParameter, NotFound."""
        before = self.limits.get(user, UserLimitsDefinition(user))
        checked = check_limits(limits, USER_LIMITS)
        self.put_limits(
            UserLimitsDefinition(
                user,
                checked.get("max-connections") if "max-connections" in limits else before.max_connections,
                checked.get("max-channels") if "max-channels" in limits else before.max_channels,
            )
        )

    def put_limits(self, limits: UserLimitsDefinition) -> None:
        """The same with all limits of a user, checked. NotFound."""
        self._user(limits.user)
        if limits == UserLimitsDefinition(limits.user):
            self.delete_limits(limits.user)
        else:
            self.limits[limits.user] = limits
            self._broker.store.journal.define(limits)

    def delete_limits(self, user: str) -> None:
        limits = self.limits.pop(user, None)
        if limits is not None:
            self._broker.store.journal.undefine(limits)

    # --- Who is here ----------------------------------------------------------------------------------------

    def enter(self, holder: Holder) -> None:
        self.holders.setdefault(holder.name, {})[holder] = None

    def leave(self, holder: Holder) -> None:
        holders = self.holders.get(holder.name)
        if holders is not None:
            holders.pop(holder, None)
            if not holders:
                del self.holders[holder.name]

    def topic_exchange_made(self) -> None:
        """Whose rights depend on routing keys must look again."""
        for name, holders in list(self.holders.items()):
            if self.topic_permissions or any(holder.by_token for holder in holders):
                self._tell(name)

    def _tell(self, user: str) -> None:
        for holder in list(self.holders.get(user, ())):
            holder.changed()

    # --- Restart --------------------------------------------------------------------------------------------

    def restore(self, definition: AccountDefinition) -> None:
        """One that the store had. Users come first."""
        if isinstance(definition, UserDefinition):
            self.users[definition.name] = definition
        elif isinstance(definition, PermissionDefinition):
            self.permissions[definition.user, definition.vhost] = definition
        elif isinstance(definition, TopicPermissionDefinition):
            self.topic_permissions[definition.user, definition.vhost, definition.exchange] = definition
        else:
            self.limits[definition.user] = definition

    def convert(self) -> None:
        """Users of a file from before there were permissions: all of them came from the settings, and could do
        everything."""
        for user in list(self.users.values()):
            if user.vhosts:
                vhosts = [vhost for vhost in user.vhosts if vhost == "*" or vhost in self._broker.vhosts]
                self.put_user(replace(user, vhosts=vhosts, tags=user.tags or [ADMINISTRATOR]))
