"""What the patterns of permissions and scopes match: RabbitMQ's regular expressions, and the wildcards of tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pabal.broker.access import matches
from pabal.model.scopes import Scopes, wildcard_match


@pytest.mark.parametrize(
    ("pattern", "name", "found"),
    [
        ("", "q", False),
        ("", "", True),
        (".*", "", True),
        (".*", "with\nline", True),
        ("^$", "q", False),
        ("q", "a-q-b", True),  # anywhere
        ("^q", "a-q-b", False),
        ("^(amq\\.gen.*|amq\\.default)$", "amq.default", True),
        ("^a$", "A", False),
        ("(?i)^a$", "A", True),
        ("(", "(", False),  # none at all, as from a damaged file
        ("[[:alpha:]]", "a", False),  # means something else here: nothing is granted by it
    ],
)
def test_regular_expressions_of_permissions(pattern: str, name: str, found: bool) -> None:
    assert matches(pattern, name) is found


NAMES = st.text("ab./*%{}", max_size=8)


@given(NAMES, NAMES, NAMES)
def test_an_escaped_name_matches_itself_between_anchors_and_nothing_else(name: str, other: str, text: str) -> None:
    import re

    assert matches(f"^{re.escape(name)}$", name)
    assert matches(f"^{re.escape(name)}$", other) is (name == other)
    assert matches(re.escape(name) or ".*", text + name + other)


@pytest.mark.parametrize(
    ("pattern", "subject", "found"),
    [
        ("*", "", True),
        ("*", "anything", True),
        ("", "", True),
        ("", "a", False),
        ("a", "a", True),
        ("a", "ab", False),
        ("a*", "ab", True),
        ("a*", "a", True),
        ("a*", "ba", False),
        ("*b", "ab", True),
        ("*b", "abc", False),
        ("*.log", "a.log.log", False),  # found the first time it is there, as RabbitMQ does
        ("a*b*c", "axbyc", True),
        ("a*b*c", "axcyb", False),
        ("**", "x", True),
        ("a**", "a", False),
        ("%2Fa", "/a", True),
        ("%2A", "*", True),
        ("%2A", "a", False),
        ("%zz", "%zz", False),
        ("a+b", "a b", True),
        ("vhost%C3%A9", "vhosté", True),
    ],
)
def test_wildcards_of_scopes(pattern: str, subject: str, found: bool) -> None:
    assert wildcard_match(subject, pattern) is found


@given(st.lists(st.text("ab", max_size=3), min_size=1, max_size=4), st.data())
def test_a_wildcard_matches_what_it_was_made_from_when_parts_differ(parts: list[str], data: st.DataObject) -> None:
    """The stars replaced by what is in no part."""
    subject = parts[0] + "".join("-" + part for part in parts[1:])
    expected = all(parts[1:]) or len(parts) == 1 or (all(parts[1:-1]) and not parts[-1])
    if expected:
        assert wildcard_match(subject, "*".join(parts))


def test_scopes_that_are_none_grant_nothing() -> None:
    scopes = Scopes(["read", "read:a", "read:a/b/c/d", "own:a/b", "", "tag:x", ":", "read:/"], {})
    assert scopes.tags == ("x",)
    assert not scopes.opens("a")
    assert not scopes.allows("read", "a", "b")
    assert scopes.allows("read", "", "")


def test_scopes_with_three_parts_are_for_names_too() -> None:
    scopes = Scopes(["write:v/x/k.*"], {})
    assert scopes.opens("v")
    assert scopes.allows("write", "v", "x")
    assert scopes.allows_topic("write", "v", "x", "k.1")
    assert not scopes.allows_topic("write", "v", "x", "l.1")
    assert not Scopes(["write:v/x"], {}).allows_topic("write", "v", "x", "k.1")


def test_scopes_name_the_vhost_and_claims() -> None:
    scopes = Scopes(["read:{vhost}/{sub}-*"], {"sub": "ann", "vhost": "not this"})
    assert scopes.allows("read", "v", "ann-1")
    assert not scopes.allows("read", "v", "bob-1")
