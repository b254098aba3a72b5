"""Prometheus' way in: /metrics and what is below it. With a password on the port of the HTTP API, where it takes the
tag `monitoring`, and without one on a port of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from pabal.management.call import Answer, Call, Work, not_found
from pabal.management.exposition import CONTENT_TYPE
from pabal.management.metrics import KINDS, pieces
from pabal.management.routes import Route, Who


def scrape(call: Call) -> Work:
    """A piece a step."""
    kind = call.arguments.get("kind", "")
    if kind not in KINDS:
        raise not_found()
    text: list[bytes] = []
    for piece in pieces(call.broker, call.node.process_facts(), kind, call.query_string):
        text.append(piece.encode())
        yield None
    return Answer(content=b"".join(text), content_type=CONTENT_TYPE)


ROUTES: Final = (
    Route("GET", "/metrics", Who.MONITOR, scrape, "Metrics for Prometheus, of all objects together."),
    Route(
        "GET",
        "/metrics/{kind}",
        Who.MONITOR,
        scrape,
        "Metrics for Prometheus: `per-object`, or `detailed` with ?family= and ?vhost=.",
    ),
)
OPEN_ROUTES: Final = tuple(replace(route, who=Who.ANYBODY) for route in ROUTES)
