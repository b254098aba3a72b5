"""All routes of the HTTP API."""

from __future__ import annotations

from typing import Final

from pabal.management import (
    backup,
    bindings,
    browsing,
    connections,
    definitions,
    exchanges,
    health,
    messages,
    openapi,
    overview,
    parameters,
    policies,
    queues,
    scrape,
    tapping,
    users,
    vhosts,
)
from pabal.management.routes import Route


def _all() -> tuple[Route, ...]:
    return ROUTES


ROUTES: Final[tuple[Route, ...]] = (
    *openapi.routes_about(_all),
    *overview.ROUTES,
    *vhosts.ROUTES,
    *users.ROUTES,
    *connections.ROUTES,
    *exchanges.ROUTES,
    *queues.ROUTES,
    *bindings.ROUTES,
    *messages.ROUTES,
    *browsing.ROUTES,
    *policies.ROUTES,
    *parameters.ROUTES,
    *definitions.ROUTES,
    *health.ROUTES,
    *tapping.ROUTES,
    *scrape.ROUTES,
    *backup.ROUTES,
)
