"""A backup of the living broker, sent as it is asked for."""

from __future__ import annotations

from typing import Final

from pabal.management.call import Answer, Call, Until, Work
from pabal.management.routes import Route, Who


def backup(call: Call) -> Work:
    file, size, name = yield Until(call.node.backup())
    headers = {"content-length": str(size), "content-disposition": f'attachment; filename="{name}"'}
    return Answer(content_type="application/x-tar", headers=headers, file=file)


ROUTES: Final = (
    Route("POST", "/api/pabal/backup", Who.ADMINISTRATOR, backup, "A copy of all data as of one moment, as a tar."),
)
