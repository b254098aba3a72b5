"""The columns of a table, and which and how wide fit a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from pabal.cli.text import count, plain


class Column(NamedTuple):
    """`field`: dotted, in the JSON. `form`: makes its text. `style`: of rich. `number`: set to the right."""

    title: str
    field: str
    form: Callable[[Any], str] = plain
    number: bool = False
    style: str = ""


def number(title: str, field: str, form: Callable[[Any], str] | None = None, style: str = "") -> Column:
    return Column(title, field, form or count, True, style)


_GAP = 2
_SHRUNK_MIN = 14


def fitted(
    columns: Sequence[Column], cells: Sequence[Sequence[str]], width: int, *, keep_all: bool
) -> tuple[list[int], list[int]]:
    """Which columns a terminal of that width shows, and how wide each is. Texts give way before numbers, the longest
    first; then the last columns are left out. What is empty in all rows is left out from the start."""
    from rich.cells import cell_len

    shown = [at for at in range(len(columns)) if keep_all or at == 0 or any(row[at] for row in cells)]
    widths = [
        max(cell_len(text) for text in (column.title, *(row[at] for row in cells)))
        for at, column in enumerate(columns)
    ]
    least = [
        widths[at] if column.number else min(widths[at], max(len(column.title), _SHRUNK_MIN))
        for at, column in enumerate(columns)
    ]
    while len(shown) > 1 and sum(least[at] + _GAP for at in shown) - _GAP > width:
        shown.pop()
    while (excess := sum(widths[at] + _GAP for at in shown) - _GAP - width) > 0:
        giving = [at for at in shown if widths[at] > least[at]]
        if not giving:
            break
        longest = max(giving, key=lambda at: widths[at])
        others = [widths[at] for at in giving if at != longest]
        down_to = max(least[longest], max(others, default=0), widths[longest] - excess)
        widths[longest] = min(down_to, widths[longest] - 1)
    return shown, widths


def style_of(column: Column, at: int, text: str) -> str:
    if column.number and text in ("0", "", "0 B"):
        return "dim"
    return column.style or ("bold" if at == 0 else "")
