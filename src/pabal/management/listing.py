"""Lists as RabbitMQ answers them: sorted, in pages, by name, with some columns only. They are made item by item, so
that a long one holds nobody up; of a page only what it shows is made, where the order does not depend on more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

from pabal.management.call import Answer, ApiError, Call, Work, bad_request
from pabal.management.encoding import encode
from pabal.model.patterns import Pattern, TooComplex

T = TypeVar("T")
Facts = dict[str, Any]

PAGE_SIZE: Final = 100
PAGE_SIZE_MAX: Final = 500
PATTERN_CHARACTERS_MAX: Final = 1024
_STEP: Final = 32  # objects that nothing is made of, gone over between two steps
_AFTER_ALL: Final = (3,)


class Page:
    """What is asked for by `page`, `page_size`, `name` and `use_regex`."""

    def __init__(self, number: int, size: int, name: str, use_regex: bool) -> None:
        self.number = number
        self.size = size
        self.name = name
        self._pattern: Pattern | None = None
        if name and use_regex:
            try:
                self._pattern = Pattern(name[:PATTERN_CHARACTERS_MAX], re.IGNORECASE)
            except (re.error, RecursionError, OverflowError, TooComplex):
                raise bad_request("Pagination parameters are invalid") from None

    def matches(self, name: Any) -> bool:
        if not self.name:
            return True
        if self._pattern is not None:
            return self._pattern.search(str(name))
        return self.name.lower() in str(name).lower()


def asked_page(query: Mapping[str, str]) -> Page | None:
    """None when no page was asked for. Errors are RabbitMQ's."""
    try:
        number = int(query["page"]) if "page" in query else None
        size = int(query["page_size"]) if "page_size" in query else None
    except ValueError:
        raise bad_request("Pagination parameters are invalid") from None
    if number is None:
        return None
    if number < 1 or (size is not None and not 0 < size <= PAGE_SIZE_MAX):
        shown = "undefined" if size is None else size
        raise ApiError(
            400,
            "invalid_pagination_parameters",
            f"Invalid pagination parameters: page number {number}, page size {shown}",
        )
    return Page(number, size or PAGE_SIZE, query.get("name", ""), query.get("use_regex") == "true")


Chosen = dict[str, "Chosen | None"]
"""Names with what is wanted of the inside, None for all of it."""


class Columns:
    """What is asked for by `columns`: names, with dots into what is inside."""

    def __init__(self, text: str | None) -> None:
        self._wanted: Chosen | None = None
        if text is not None:
            self._wanted = {}
            for name in text.split(","):
                if name:
                    _choose(self._wanted, name.split("."))

    @property
    def names(self) -> set[str] | None:
        """The first parts, None for all."""
        return None if self._wanted is None else set(self._wanted)

    def of(self, value: Any) -> Any:
        return value if self._wanted is None else _chosen(value, self._wanted)


def _choose(wanted: Chosen, path: list[str]) -> None:
    """Adds one column. All that is inside of a column goes before a part of it."""
    for name in path[:-1]:
        inner = wanted.setdefault(name, {})
        if inner is None:
            return
        wanted = inner
    wanted[path[-1]] = None


def _chosen(value: Any, wanted: Chosen) -> Any:
    if isinstance(value, list):
        return [_chosen(each, wanted) for each in value]
    if not isinstance(value, dict):
        return value
    found: Facts = {}
    for name, inner in value.items():
        if name in wanted:
            deeper = wanted[name]
            found[name] = inner if deeper is None else _chosen(inner, deeper)
    return found


def sort_key(facts: Facts, names: Sequence[str]) -> list[tuple[Any, ...]]:
    """Orders values as Erlang does: numbers, then atoms, lists, texts; what is missing counts as 0."""
    return [_rank(_dotted(facts, name)) for name in names]


def _dotted(facts: Any, name: str) -> Any:
    for part in name.split("."):
        if not isinstance(facts, dict):
            return 0
        facts = facts.get(part, 0)
    return facts


def _rank(value: Any) -> tuple[Any, ...]:
    if isinstance(value, bool) or value is None:
        return (1, "null" if value is None else str(value).lower())
    if isinstance(value, int | float):
        return (0, value)
    if isinstance(value, str):
        return (4, value.encode("utf-8", "surrogatepass"))
    return _AFTER_ALL


def listing(
    call: Call,
    objects: Iterable[T],
    basic: Callable[[T], Facts],
    full: Callable[[T], Facts] | None = None,
    order: Sequence[str] = ("vhost", "name"),
    paged: bool = True,
) -> Work:
    """Answers with a list of the objects. `basic`: what can be said of one at no cost; what `order` names must be
    among it. `full`: all of it. `order`: how the list is sorted unless the caller says. A sort that is asked for
    comes before that."""
    page = asked_page(call.query) if paged else None
    columns = Columns(call.query.get("columns"))
    asked = call.query.get("sort")
    names = (asked, *order) if asked else tuple(order)
    if not full or call.flag("disable_stats"):
        full = basic
    rows: list[tuple[Facts, T]] = []
    extended = False
    for number, each in enumerate(objects):
        facts = basic(each)
        if asked and not rows:
            extended = asked.split(".")[0] not in facts
        if extended:
            facts = full(each)
            yield None
        elif number % _STEP == 0:
            yield None
        rows.append((facts, each))
    if asked != "":
        rows.sort(key=lambda row: sort_key(row[0], names))
        if call.query.get("sort_reverse") == "true":
            rows.reverse()
    around: Facts | None = None
    if page is not None:
        total = len(rows)
        matching: list[tuple[Facts, T]] = []
        for number, row in enumerate(rows):
            if page.matches(row[0].get("name", "")):
                matching.append(row)
            if number % _STEP == 0:
                yield None
        rows = matching
        around, rows = _cut(rows, page, total)
    cheap = columns.names is not None and bool(rows) and columns.names <= rows[0][0].keys()
    encoded: list[bytes] = []
    for facts, each in rows:
        if not (extended or cheap or full is basic):
            facts = full(each)
        encoded.append(encode(columns.of(facts)))
        yield None
    return _answer(encoded, around)


def _cut(rows: list[T], page: Page, total: int) -> tuple[Facts, list[T]]:
    first = (page.number - 1) * page.size
    if first > len(rows):
        raise ApiError(
            400,
            "page_out_of_range",
            f"Page out of range, page: {page.number} page size: {page.size}, len: {len(rows)}",
        )
    shown = rows[first : first + page.size]
    around = {
        "filtered_count": len(rows),
        "item_count": len(shown),
        "page": page.number,
        "page_count": (len(rows) + page.size - 1) // page.size,
        "page_size": page.size,
        "total_count": total,
    }
    return around, shown


def _answer(encoded: list[bytes], around: Facts | None) -> Answer:
    items = b"[" + b",".join(encoded) + b"]"
    if around is None:
        return Answer(content=items)
    return Answer(content=encode(around)[:-1] + b',"items":' + items + b"}")


def one(call: Call, facts: Facts) -> Answer:
    """Answers with one object."""
    return Answer(content=encode(Columns(call.query.get("columns")).of(facts)))
