"""Definitions in every store: each kind comes back as it was, odd values too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stores import Opened

from pabal.model.definitions import (
    BindingDefinition,
    Definition,
    ExchangeDefinition,
    PermissionDefinition,
    QueueDefinition,
    TopicPermissionDefinition,
    UserDefinition,
    UserLimitsDefinition,
    VhostDefinition,
    decode_definition,
    definition_key,
    encode_definition,
)

Open = Callable[[], Opened]


ODD_ARGUMENTS: dict[str, Any] = {
    "bytes": b"\x00\xff",
    "time": datetime(2026, 2, 28, 23, 59, 59, tzinfo=UTC),
    "decimal": Decimal("-12.340"),
    "none": None,
    "true": True,
    "one": 1,
    "one and a bit": 1.5,
    "large": 2**63 - 1,
    "$bytes": "not base64 at all",
    "$$time": 1,
    "$decimal": {"$decimal": "x"},
    "only": {"$bytes": 1},
    "only time": {"$time": "x"},
    "twice": {"$$bytes": b"x"},
    "list": [b"x", {"$time": 5}, [Decimal("1")], {}],
    "surrogate": "\udcff\ud800",
    "\udcff": "key",
    "": "empty key",
    "infinity": float("inf"),
}

EVERY_KIND: list[Definition] = [
    VhostDefinition("/"),
    VhostDefinition(""),
    VhostDefinition("v\udcff" * 100),
    UserDefinition("guest", "scrypt:1:2", ["*"], True),
    UserDefinition("other", "", [], tags=["management", "policymaker"]),
    PermissionDefinition("guest", "/", ".*", "", "^a$"),
    PermissionDefinition("guest", "other", ".*", "", "^a$"),
    TopicPermissionDefinition("guest", "/", "amq.topic", "^{username}", ".*"),
    UserLimitsDefinition("guest", 10, None),
    ExchangeDefinition("/", "e", "topic", True, True, True, ODD_ARGUMENTS),
    ExchangeDefinition("/", "n" * 255, "direct", False),
    QueueDefinition("/", "q", 2**40, True, True, ODD_ARGUMENTS),
    QueueDefinition("/", "a:b", 3),
    QueueDefinition("/:a", "b", 4),
    BindingDefinition("/", "e", "q", False, "k", {}),
    BindingDefinition("/", "e", "q", False, "k", ODD_ARGUMENTS),
    BindingDefinition("/", "e", "q", True, "k", {}),
    BindingDefinition("/", "e", "q", False, "", {"one": 1}),
    BindingDefinition("/", "e", "q", False, "", {"one": 1.0}),
    BindingDefinition("/", "e", "q", False, "", {"one": True}),
    BindingDefinition("/", "e", "q", False, "", {"one": b"hi"}),
    BindingDefinition("/", "e", "q", False, "", {"one": {"$bytes": "aGk="}}),
]


def same(a: Any, b: Any) -> bool:
    """Equal, of equal types all the way down; NaN is the same as NaN."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and a != a:
        return bool(b != b)
    return bool(a == b) and str(a) == str(b)


def same_definition(a: Definition, b: Definition) -> bool:
    return type(a) is type(b) and all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))


def test_definitions_of_each_kind_come_back_as_they_were(open_store: Open) -> None:
    opened = open_store()
    for definition in EVERY_KIND:
        opened.store.journal.define(definition)
    opened.commit()
    found = {definition_key(d): d for d in open_store().loaded.definitions}
    assert len(found) == len(EVERY_KIND)
    for definition in EVERY_KIND:
        assert same_definition(found[definition_key(definition)], definition)


def test_definitions_change_and_go(open_store: Open) -> None:
    opened = open_store()
    opened.store.journal.define(UserDefinition("guest", "old"))
    opened.store.journal.define(VhostDefinition("a"))
    opened.store.journal.define(VhostDefinition("b"))
    opened.commit()
    opened.store.journal.define(UserDefinition("guest", "new", ["*"]))
    opened.store.journal.undefine(VhostDefinition("a"))
    opened.store.journal.undefine(VhostDefinition("never there"))
    opened.store.journal.undefine(VhostDefinition("b"))
    opened.store.journal.define(VhostDefinition("b"))  # in one commit the last word counts
    opened.commit()
    definitions = open_store().loaded.definitions
    assert sorted(definitions, key=str) == [UserDefinition("guest", "new", ["*"]), VhostDefinition("b")]


KEYS = st.sampled_from(["$bytes", "$time", "$decimal", "$$bytes", "$", "kind", "a"]) | st.text(max_size=4)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(st.characters(), max_size=8)
    | st.binary(max_size=8)
    | st.datetimes(timezones=st.just(UTC)).filter(lambda t: t.year > 1970).map(lambda t: t.replace(microsecond=0))
    | st.decimals(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(KEYS, VALUES, max_size=4), st.text(max_size=5))
def test_any_arguments_survive_encoding(arguments: dict[str, Any], name: str) -> None:
    definition = QueueDefinition("/", name, 1, arguments=arguments)
    assert same_definition(decode_definition(encode_definition(definition)), definition)


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=3), st.dictionaries(KEYS, VALUES, max_size=3))
def test_bindings_with_different_arguments_have_different_keys(a: dict[str, Any], b: dict[str, Any]) -> None:
    first, second = (BindingDefinition("/", "e", "q", False, "k", arguments) for arguments in (a, b))
    assert (definition_key(first) == definition_key(second)) == same(a, b)


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=40) | st.sampled_from([b"{}", b"[]", b'{"kind":"queue"}', b'{"kind":"vhost"}', b"1"]))
def test_bytes_that_are_no_definition_give_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        decode_definition(data)


def test_fields_of_a_later_version_are_ignored() -> None:
    assert decode_definition(b'{"kind":"vhost","name":"a","colour":"blue"}') == VhostDefinition("a")
