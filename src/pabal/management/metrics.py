"""Metrics for Prometheus, under RabbitMQ's names where it has one for the same thing, so that its Grafana dashboards
work: /metrics, /metrics/per-object and /metrics/detailed?family=…&vhost=…. What only Pabal has begins with pabal_."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final
from urllib.parse import parse_qsl

from pabal.broker.broker import Broker
from pabal.broker.vhost import Vhost
from pabal.management.exposition import PIECE_ROWS, Row, Value, group
from pabal.management.machine_metrics import identity, node_groups, own_pieces
from pabal.management.measured import ProcessFacts
from pabal.management.object_metrics import CLUSTER, DETAILED_ONLY, OWN, PLAIN, Source, Table, total

AGGREGATED: Final = ""
PER_OBJECT: Final = "per-object"
DETAILED: Final = "detailed"
KINDS: Final = (AGGREGATED, PER_OBJECT, DETAILED)
"""The ends of the paths behind /metrics."""

_PREFIX: Final = "rabbitmq_"
_DETAILED_PREFIX: Final = "rabbitmq_detailed_"
_CLUSTER_PREFIX: Final = "rabbitmq_cluster_"
_OWN_PREFIX: Final = "pabal_"


def pieces(broker: Broker, facts: ProcessFacts, kind: str = AGGREGATED, query: str = "") -> Iterator[str]:
    """The text in pieces, some of them empty, none of which takes long: other work may be done in between, and then
    some objects are seen a little later than others. `kind`: one of KINDS. `query`: of the URL; `family` and `vhost`,
    each any number of times, are for DETAILED, which shows nothing but what is asked for."""
    vhosts = list(broker.vhosts.values())
    if kind == DETAILED:
        yield from _detailed(broker, facts, vhosts, query)
        return
    apart = kind == PER_OBJECT
    for _, families, rows in node_groups(broker, facts):
        yield from group(_PREFIX, families, rows)
    for source, tables in PLAIN:
        yield from _tables(broker, vhosts, _PREFIX, source, tables, apart)
    for source, tables in OWN:
        yield from _tables(broker, vhosts, _OWN_PREFIX, source, tables, apart)
    yield from own_pieces(broker, facts)
    yield identity(facts)


def _detailed(broker: Broker, facts: ProcessFacts, vhosts: list[Vhost], query: str) -> Iterator[str]:
    asked = parse_qsl(query)
    names = {value for name, value in asked if name == "family"}
    if "queue_metrics" in names:
        names.discard("queue_consumer_count")  # which is a part of it
    only = {value for name, value in asked if name == "vhost"}
    if only:
        vhosts = [vhost for vhost in vhosts if vhost.name in only]
    for name, families, rows in node_groups(broker, facts):
        if name in names:
            yield from group(_DETAILED_PREFIX, families, rows)
    for prefix, several in ((_DETAILED_PREFIX, (*PLAIN, *DETAILED_ONLY)), (_CLUSTER_PREFIX, CLUSTER)):
        for source, tables in several:
            shown = [table for table in tables if table.name in names]
            if shown:
                yield from _tables(broker, vhosts, prefix, source, shown, apart=True)
    yield identity(facts)


def _tables(
    broker: Broker, vhosts: list[Vhost], prefix: str, source: Source, tables: Sequence[Table], apart: bool
) -> Iterator[str]:
    """Tables of the same objects: a row for each of them, or their sum when they are not to be `apart`."""
    rows: list[list[Row]] = [[] for _ in tables]
    sums: list[list[Value]] = [[0] * len(table.families) for table in tables]
    objects: list[Any] = source.objects(broker, vhosts)
    for number, each in enumerate(objects):
        if number % PIECE_ROWS == PIECE_ROWS - 1:
            yield ""
        where = source.labels(each) if apart else ""
        for place, table in enumerate(tables):
            values = table.values(each)
            if apart:
                rows[place].append((where, values))
            else:
                sums[place] = [have + more for have, more in zip(sums[place], values, strict=True)]
    for place, table in enumerate(tables):
        shown: list[Row] = rows[place] if apart else [("", total(broker, table, sums[place]))]
        yield from group(prefix, table.families, shown)
