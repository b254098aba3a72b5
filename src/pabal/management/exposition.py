"""Prometheus' text format, in pieces: with ten thousand queues it is megabytes, and nobody is to wait for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
PIECE_ROWS: Final = 256
"""Rows worked on in one piece, which takes a millisecond or two."""

Value = int | float
Row = tuple[str, Sequence[Value]]
"""Labels as `labels` writes them, and a value for each family of a group."""
COUNTER: Final = "counter"
GAUGE: Final = "gauge"


class Family(NamedTuple):
    """A metric's name without its prefix, its type, and what it is."""

    name: str
    type: str
    help: str


def labels(**values: str) -> str:
    """As they stand between name and value, braces included."""
    shown = ",".join(f'{name}="{_escaped(value)}"' for name, value in values.items())
    return "{" + shown + "}"


def _escaped(value: str) -> str:
    if "\\" in value or '"' in value or "\n" in value:
        return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return value


def header(prefix: str, family: Family) -> str:
    name = prefix + family.name
    return f"# HELP {name} {family.help}\n# TYPE {name} {family.type}\n"


def group(prefix: str, families: Sequence[Family], rows: Sequence[Row]) -> Iterator[str]:
    """Several families that each of the rows has a value for. All samples of a family are together, as the format
    wants it."""
    for place, family in enumerate(families):
        name = prefix + family.name
        text = header(prefix, family)
        for first in range(0, len(rows), PIECE_ROWS):
            lines = [f"{name}{where} {values[place]}\n" for where, values in rows[first : first + PIECE_ROWS]]
            yield text + "".join(lines)
            text = ""
        if text:
            yield text


def single(prefix: str, family: Family, *rows: tuple[str, Value]) -> str:
    """A family with a value or a few."""
    return header(prefix, family) + "".join(f"{prefix}{family.name}{where} {value}\n" for where, value in rows)


def histogram(prefix: str, family: Family, bounds: Sequence[float], counts: Sequence[int], total: float) -> str:
    """`counts`: up to each bound but beyond the one before, and one more for the rest."""
    name = prefix + family.name
    lines = [header(prefix, family)]
    below = 0
    for bound, count in zip((*bounds, float("inf")), counts, strict=True):
        below += count
        shown = "+Inf" if bound == float("inf") else repr(bound)
        lines.append(f'{name}_bucket{{le="{shown}"}} {below}\n')
    lines.append(f"{name}_sum {total}\n{name}_count {below}\n")
    return "".join(lines)
