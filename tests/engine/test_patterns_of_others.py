"""Regular expressions that users write: none of them keeps the broker busy, and all of them mean what they say."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pabal.model.errors import InvalidParameter
from pabal.model.patterns import Pattern, TooComplex, Ways, parsed
from pabal.model.policies import compile_pattern

SECONDS_MAX = 2.0

ATOMS = st.sampled_from(["a", "b", ".", "[ab]", "[^a]", r"\b", r"\B", "^", "$", r"\w", "(?:)"])
REPEATS = st.sampled_from(["*", "+", "?", "*?", "{2}", "{1,3}", "{0}", "{2,}"])
LOOKS = st.sampled_from(["(?=", "(?!", "(?i:"])
EXPRESSIONS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.builds(lambda one, other: one + other, inner, inner),
        st.builds(lambda one, other: f"(?:{one}|{other})", inner, inner),
        st.builds(lambda one, repeat: f"(?:{one}){repeat}", inner, REPEATS),
        st.builds(lambda one, look: f"{look}{one})", inner, LOOKS),
    ),
    max_leaves=8,
)


@given(EXPRESSIONS, st.text("abA \n", max_size=8))
def test_all_ways_at_once_find_what_one_after_another_does(expression: str, text: str) -> None:
    tree = parsed(expression)
    try:
        found = Ways(tree, tree.state.flags).search(text)
    except TooComplex:
        return
    assert found is (re.search(expression, text) is not None)


@pytest.mark.parametrize(
    "expression",
    [
        "(a+)+$",
        "^(a|aa)+$",
        "a*a*a*a*a*a*b",
        "(?:aa?)" * 30 + "b",
        "^(?=(a+)+$)",
        "|".join(["(?=a*b)"] * 127),
        "(?:a?){400}b",
    ],
)
def test_none_takes_long(expression: str) -> None:
    pattern = compile_pattern(expression)
    began = time.monotonic()
    assert not pattern.search("a" * 254 + "!")
    assert time.monotonic() - began < SECONDS_MAX


@pytest.mark.parametrize("expression", ["(((a{1,99}){1,99}){1,99})b", r"(a+)+\1$", "(?>(a+)+)$"])
def test_what_could_is_refused(expression: str) -> None:
    with pytest.raises(InvalidParameter, match="too complex"):
        compile_pattern(expression)


@pytest.mark.parametrize("expression", [".*", r"^(amq\.gen.*|amq\.default)$", r"^(?!amq\.).*", r"(a)\1", "^.*-.*$"])
def test_the_usual_ones_are_left_to_re(expression: str) -> None:
    assert Pattern(expression)._ways is None
