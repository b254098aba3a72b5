"""All routes of the HTTP API."""

from __future__ import annotations

from typing import Final

from pabal.management import overview
from pabal.management.routes import Route

ROUTES: Final[tuple[Route, ...]] = (*overview.ROUTES,)
