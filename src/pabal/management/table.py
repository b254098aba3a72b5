"""All routes of the HTTP API."""

from __future__ import annotations

from typing import Final

from pabal.management import (
    bindings,
    definitions,
    exchanges,
    health,
    messages,
    overview,
    parameters,
    policies,
    queues,
    users,
    vhosts,
)
from pabal.management.routes import Route

ROUTES: Final[tuple[Route, ...]] = (
    *overview.ROUTES,
    *vhosts.ROUTES,
    *exchanges.ROUTES,
    *queues.ROUTES,
    *bindings.ROUTES,
    *messages.ROUTES,
    *policies.ROUTES,
    *parameters.ROUTES,
    *health.ROUTES,
    *users.ROUTES,
    *definitions.ROUTES,
)
