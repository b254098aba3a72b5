"""Accounts: what is kept of users and their permissions, what goes with what, and older files."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from engine import PLAIN
from pabal.broker.accounts import TAGS_MAX
from pabal.broker.broker import Broker
from pabal.model.definitions import (
    PermissionDefinition,
    TopicPermissionDefinition,
    UserDefinition,
    UserLimitsDefinition,
    VhostDefinition,
)
from pabal.model.errors import InvalidParameter, NotFound
from pabal.store.memory import MemoryStore

NOW_MS = 1_700_000_000_000


def commit(store: MemoryStore) -> None:
    if store.begin():
        store.finish()
        store.done()


def open_broker(store: MemoryStore) -> Broker:
    return Broker(store, NOW_MS, lambda: "token")


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore({PLAIN.code: PLAIN})


@pytest.fixture
def broker(store: MemoryStore) -> Broker:
    broker = open_broker(store)
    broker.add_vhost("/")
    broker.add_vhost("other")
    broker.accounts.put_user(UserDefinition("ann", "hash", tags=["management"]))
    return broker


def fill(broker: Broker) -> None:
    broker.accounts.put_permission(PermissionDefinition("ann", "/", "^a", "^b", "^c"))
    broker.accounts.put_permission(PermissionDefinition("ann", "other", "", "", ""))
    broker.accounts.put_topic_permission(TopicPermissionDefinition("ann", "/", "amq.topic", "^x", "^y"))
    broker.accounts.put_topic_permission(TopicPermissionDefinition("ann", "/", "t", "^x", "^y"))
    broker.accounts.set_limits("ann", {"max-connections": 3})


def test_everything_is_there_after_a_restart(broker: Broker, store: MemoryStore) -> None:
    fill(broker)
    commit(store)
    after = open_broker(store).accounts
    assert after.users == broker.accounts.users
    assert after.permissions == broker.accounts.permissions
    assert after.topic_permissions == broker.accounts.topic_permissions
    assert after.limits == {"ann": UserLimitsDefinition("ann", 3, None)}


def test_with_a_user_goes_all_that_was_said_of_it(broker: Broker, store: MemoryStore) -> None:
    fill(broker)
    broker.accounts.delete_user("ann")
    commit(store)
    for accounts in (broker.accounts, open_broker(store).accounts):
        assert not (accounts.users or accounts.permissions or accounts.topic_permissions or accounts.limits)


def test_with_a_vhost_go_its_permissions(broker: Broker, store: MemoryStore) -> None:
    fill(broker)
    broker.accounts.forget_vhost("/")
    commit(store)
    for accounts in (broker.accounts, open_broker(store).accounts):
        assert list(accounts.permissions) == [("ann", "other")]
        assert not accounts.topic_permissions


def test_topic_permissions_go_one_by_one_or_by_vhost(broker: Broker) -> None:
    fill(broker)
    broker.accounts.delete_topic_permissions("ann", "/", "t")
    assert list(broker.accounts.topic_permissions) == [("ann", "/", "amq.topic")]
    broker.accounts.delete_topic_permissions("ann", "other")
    assert broker.accounts.topic_permissions
    broker.accounts.delete_topic_permissions("ann", "/")
    assert not broker.accounts.topic_permissions


def test_limits_are_set_and_taken_away_one_by_one(broker: Broker) -> None:
    accounts = broker.accounts
    accounts.set_limits("ann", {"max-connections": 3})
    accounts.set_limits("ann", {"max-channels": 0})
    assert accounts.limits["ann"] == UserLimitsDefinition("ann", 3, 0)
    accounts.set_limits("ann", {"max-connections": -1})
    assert accounts.limits["ann"] == UserLimitsDefinition("ann", None, 0)
    accounts.delete_limits("ann")
    accounts.delete_limits("ann")
    assert not accounts.limits


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda a: a.put_permission(PermissionDefinition("nobody", "/", "", "", "")), NotFound),
        (lambda a: a.put_permission(PermissionDefinition("ann", "nowhere", "", "", "")), NotFound),
        (lambda a: a.put_permission(PermissionDefinition("ann", "/", "(", "", "")), InvalidParameter),
        (lambda a: a.put_permission(PermissionDefinition("ann", "/", "", "x" * 1025, "")), InvalidParameter),
        (lambda a: a.put_topic_permission(TopicPermissionDefinition("ann", "/", "t", "", "[")), InvalidParameter),
        (lambda a: a.put_topic_permission(TopicPermissionDefinition("nobody", "/", "t", "", "")), NotFound),
        (lambda a: a.set_limits("ann", {"max-connections": "3"}), InvalidParameter),
        (lambda a: a.set_limits("ann", {"max-queues": 3}), InvalidParameter),
        (lambda a: a.set_limits("nobody", {"max-channels": 3}), NotFound),
        (lambda a: a.delete_user("nobody"), NotFound),
        (lambda a: a.put_user(UserDefinition("bob", "", tags=["t"] * (TAGS_MAX + 1))), InvalidParameter),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(
    broker: Broker, store: MemoryStore, change: Callable[[object], None], error: type[Exception]
) -> None:
    commit(store)
    with pytest.raises(error):
        change(broker.accounts)
    assert not store.begin()
    assert not broker.accounts.permissions
    assert list(broker.accounts.users) == ["ann"]


def test_a_user_of_an_older_file_keeps_its_vhosts_and_becomes_an_administrator(store: MemoryStore) -> None:
    for definition in (
        VhostDefinition("/"),
        VhostDefinition("other"),
        UserDefinition("ann", "hash", ["*"], loopback_only=True),
        UserDefinition("bob", "hash", ["other", "gone"]),
    ):
        store.journal.define(definition)
    commit(store)
    broker = open_broker(store)
    commit(store)
    for accounts in (broker.accounts, open_broker(store).accounts):
        assert accounts.users["ann"] == UserDefinition("ann", "hash", [], True, ["administrator"])
        assert set(accounts.permissions) == {("ann", "/"), ("ann", "other"), ("bob", "other")}
        assert accounts.permissions["bob", "other"] == PermissionDefinition("bob", "other", ".*", ".*", ".*")
