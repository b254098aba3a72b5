"""Regular expressions that others write, searched for without ever taking long.

Python's `re` tries one way after another, and an expression like (a+)+$ has more ways than there is time for, which
nothing can interrupt. What could take long is therefore matched by following all ways at once, a character at a time
(Thompson's construction); only whether it is found matters here, not where.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable
from typing import Any, Final

STATES_MAX: Final = 1000
"""Of an expression that `re` is not trusted with; `a{1000}` has a thousand."""
STEPS_MAX: Final = 100_000
"""Of one search, tens of milliseconds. What is not found by then counts as not there, as with PCRE's limit."""
_WAYS_MAX: Final = 256 * 256 * 4
"""How many ways, about, `re` may have to try at one place of a text."""
_OPEN: Final = 256  # ways of a repetition without a narrow end
_NARROW: Final = 8

_parser: Any = importlib.import_module("re._parser")  # not promised by Python: there from 3.11 to 3.14 at least
_compiler: Any = importlib.import_module("re._compiler")
_constants: Any = importlib.import_module("re._constants")

Condition = Callable[[str, int], bool]


class TooComplex(ValueError):
    """It could take too long, and is none that can be matched otherwise."""


class Pattern:
    """re.error, OverflowError, RecursionError: it is no regular expression. TooComplex."""

    __slots__ = ("_re", "_ways", "pattern")

    def __init__(self, pattern: str, flags: int = 0) -> None:
        self.pattern = pattern
        self._re = re.compile(pattern, flags)
        tree = parsed(pattern, flags)
        self._ways: Ways | None = None
        if _ways(tree) > _WAYS_MAX:
            self._ways = Ways(tree, tree.state.flags)

    def search(self, text: str) -> bool:
        """Whether it is found anywhere."""
        if self._ways is not None:
            return self._ways.search(text)
        return self._re.search(text) is not None


def parsed(pattern: str, flags: int = 0) -> Any:
    """The expression as `re` itself reads it: pairs of an operation and what it is about."""
    return _parser.parse(pattern, flags)


def _ways(tree: Iterable[tuple[Any, Any]]) -> int:
    """At least so many; more than _WAYS_MAX when it may be any number."""
    found = 1
    for op, value in tree:
        found *= _ways_of(op.name, value)
        if found > _WAYS_MAX:
            return _WAYS_MAX + 1
    return found


def _ways_of(op: str, value: Any) -> int:
    if op == "BRANCH":
        found = len(value[1])
        for each in value[1]:
            found *= _ways(each)
        return int(found)
    if op == "SUBPATTERN":
        return _ways(value[3])
    if op in ("ASSERT", "ASSERT_NOT"):
        return _ways(value[1])
    if op == "ATOMIC_GROUP":
        return _ways(value)
    if op.endswith("_REPEAT"):
        least, most, body = value
        if most > 1 and _ways(body) > 1:
            return _WAYS_MAX + 1
        width = most - least + 1
        return _ways(body) * (1 if width == 1 else 2 if width == 2 else _NARROW if width <= _NARROW else _OPEN)
    if op == "GROUPREF_EXISTS":
        return _WAYS_MAX + 1
    return 1


class Ways:
    """An expression as states: of each, what it takes to leave it, and where to. `_tests`: takes a character;
    `_conditions`: takes none, but must hold at the place. A state with neither only leads on."""

    def __init__(self, tree: Any, flags: int, outer: Ways | None = None) -> None:
        self._budget: list[int] = [STATES_MAX] if outer is None else outer._budget
        self._steps: list[int] = [0] if outer is None else outer._steps
        self._tests: list[Callable[[str], object] | None] = []
        self._conditions: list[Condition | None] = []
        self._next: list[tuple[int, ...]] = []
        self._state: Any = tree.state
        self._end = self._add(None, None)
        self._start = self._sequence(tree, flags, self._end)
        self._state = None

    # --- Building, from the end on --------------------------------------------------------------------------

    def _add(self, test: Callable[[str], object] | None, condition: Condition | None, *following: int) -> int:
        if self._budget[0] <= 0:
            raise TooComplex("it is too complex")
        self._budget[0] -= 1
        self._tests.append(test)
        self._conditions.append(condition)
        self._next.append(following)
        return len(self._next) - 1

    def _sequence(self, tree: Any, flags: int, following: int) -> int:
        items: list[tuple[Any, Any]] = list(tree)
        items.reverse()
        for op, value in items:
            following = self._one(op.name, op, value, flags, following)
        return following

    def _one(self, name: str, op: Any, value: Any, flags: int, following: int) -> int:
        if name in ("LITERAL", "NOT_LITERAL", "ANY", "IN"):
            return self._add(self._alone(op, value, flags).fullmatch, None, following)
        if name == "AT":
            at = self._alone(op, value, flags)
            return self._add(None, lambda text, place: at.match(text, place) is not None, following)
        if name == "BRANCH":
            branch = self._add(None, None)
            self._next[branch] = tuple([self._sequence(each, flags, following) for each in value[1]])
            return branch
        if name == "SUBPATTERN":
            _, added, taken, body = value
            return self._sequence(body, (flags | added) & ~taken, following)
        if name in ("MAX_REPEAT", "MIN_REPEAT"):
            return self._repetition(value[0], value[1], value[2], flags, following)
        if name in ("ASSERT", "ASSERT_NOT"):
            return self._add(None, self._assertion(name == "ASSERT", value[0], value[1], flags), following)
        raise TooComplex("it is too complex")  # back references, atomic groups

    def _alone(self, op: Any, value: Any, flags: int) -> re.Pattern[str]:
        """What takes one character, or none, as an expression of its own."""
        tree = _parser.SubPattern(self._state, [(op, value)])
        found: re.Pattern[str] = _compiler.compile(tree, flags)
        return found

    def _repetition(self, least: int, most: int, body: Any, flags: int, following: int) -> int:
        if most is _constants.MAXREPEAT or most > STATES_MAX:
            loop = self._add(None, None)
            self._next[loop] = (self._sequence(body, flags, loop), following)
            following = loop
        else:
            after = following
            for _ in range(most - least):
                following = self._add(None, None, self._sequence(body, flags, following), after)
        for _ in range(least):
            before = len(self._next)
            following = self._sequence(body, flags, following)
            if len(self._next) == before:
                break  # an empty body, however often
        return following

    def _assertion(self, wanted: bool, direction: int, body: Any, flags: int) -> Condition:
        inner = Ways(body, flags, self)
        back = body.getwidth()[0] if direction < 0 else 0  # what is looked for behind has one width only
        known: dict[int, bool] = {}  # or assertions in assertions would be looked at over and over
        of = [""]

        def holds(text: str, place: int) -> bool:
            if of[0] != text:
                of[0] = text
                known.clear()
            if place not in known:
                known[place] = (place >= back and inner.at(text, place - back)) is wanted
            return known[place]

        return holds

    # --- Searching ------------------------------------------------------------------------------------------

    def search(self, text: str) -> bool:
        self._steps[0] = STEPS_MAX
        try:
            return self._run(text, 0, anywhere=True)
        except TooComplex:
            return False

    def at(self, text: str, place: int) -> bool:
        return self._run(text, place, anywhere=False)

    def _run(self, text: str, place: int, anywhere: bool) -> bool:
        here: set[int] = set()
        self._reach(self._start, text, place, here)
        while self._end not in here:
            if place == len(text) or not (here or anywhere):
                return False
            self._steps[0] -= len(here)
            if self._steps[0] < 0:
                raise TooComplex("it takes too long")
            character, place = text[place], place + 1
            there: set[int] = set()
            for state in here:
                test = self._tests[state]
                if test is not None and test(character):
                    self._reach(self._next[state][0], text, place, there)
            if anywhere:
                self._reach(self._start, text, place, there)
            here = there
        return True

    def _reach(self, state: int, text: str, place: int, found: set[int]) -> None:
        """Adds all states that one comes to from here without another character."""
        pending = [state]
        while pending:
            state = pending.pop()
            if state in found:
                continue
            condition = self._conditions[state]
            if condition is not None and not condition(text, place):
                continue
            found.add(state)
            if self._tests[state] is None:
                pending += self._next[state]
