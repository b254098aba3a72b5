"""Topic patterns against a regular expression; the tree gives back what it took."""

from __future__ import annotations

import re
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pabal.broker.topic import TopicTree

WORDS = st.sampled_from(["a", "b", "", "*", "#", "ab", "a*"])
KEYS = st.lists(WORDS, max_size=6).map(".".join)


def matches(pattern: str, key: str) -> bool:
    """The twin: each word with a dot behind it, so that empty words count and the empty key has none."""
    steps = {"*": r"[^.]*\.", "#": r"([^.]*\.)*"}
    wanted = "".join(steps.get(word, re.escape(word) + r"\.") for word in words(pattern))
    return re.fullmatch(wanted, "".join(word + "." for word in words(key))) is not None


def words(text: str) -> list[str]:
    return text.split(".") if text else []


@pytest.mark.parametrize(
    ("pattern", "key", "expected"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.b.c", False),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        ("a.#", "a", True),
        ("a.#", "a.b.c", True),
        ("#", "", True),
        ("#", "a.b.c", True),
        ("*", "", False),
        ("*", "a", True),
        ("", "", True),
        ("", "a", False),
        ("#.#", "", True),
        ("#.a.#", "a", True),
        ("#.a", "b.a.a", True),
        ("*.#", "", False),
        ("#.*", "a", True),
        ("#.b.*.#.c", "a.b.x.c", True),
        ("a..b", "a..b", True),
        ("a.*.b", "a..b", True),
        ("a*", "ab", False),
        ("a.b", "A.b", False),
        ("quick.orange.*", "quick.orange.rabbit", True),
    ],
)
def test_known_cases(pattern: str, key: str, expected: bool) -> None:
    tree: TopicTree[str] = TopicTree()
    tree.add(pattern, "x")
    assert (list(tree.match(key)) == ["x"]) == expected
    assert matches(pattern, key) == expected


@settings(max_examples=400, deadline=None)
@given(st.lists(KEYS, max_size=8, unique=True), st.lists(KEYS, min_size=1, max_size=4), st.data())
def test_like_a_regular_expression(patterns: list[str], keys: list[str], data: st.DataObject) -> None:
    tree: TopicTree[str] = TopicTree()
    for pattern in patterns:
        tree.add(pattern, pattern)
    gone = data.draw(st.lists(st.sampled_from(patterns), unique=True)) if patterns else []
    for pattern in gone:
        tree.remove(pattern, pattern)
    for key in keys:
        assert set(tree.match(key)) == {p for p in patterns if p not in gone and matches(p, key)}
    for pattern in patterns:
        if pattern not in gone:
            tree.remove(pattern, pattern)
    assert not tree._root.next, "an empty tree keeps nothing"
    assert not tree._root.ends


def test_every_short_pattern_and_key() -> None:
    for size in range(5):
        for pattern in map(".".join, product("a#*", repeat=size)):
            tree: TopicTree[int] = TopicTree()
            tree.add(pattern, 1)
            for length in range(5):
                for key in map(".".join, product("ab", repeat=length)):
                    assert bool(set(tree.match(key))) == matches(pattern, key), (pattern, key)


def test_a_destination_twice_under_one_pattern_stays_until_both_are_removed() -> None:
    tree: TopicTree[str] = TopicTree()
    tree.add("a.*", "x")
    tree.add("a.*", "x")
    tree.add("a.#", "y")
    tree.remove("a.*", "x")
    assert set(tree.match("a.b")) == {"x", "y"}
    tree.remove("a.*", "x")
    assert set(tree.match("a.b")) == {"y"}


def test_many_hashes_take_no_exponential_time() -> None:
    tree: TopicTree[str] = TopicTree()
    tree.add(".".join(["#", "a"] * 30 + ["b"]), "x")
    assert list(tree.match(".".join(["a"] * 120))) == []
    assert set(tree.match(".".join(["a"] * 120 + ["b"]))) == {"x"}
