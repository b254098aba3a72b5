"""The frames of a living connection, as they pass."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from pabal.broker.access import as_of_now
from pabal.management.call import Answer, ApiError, Call, bad_request, not_authorised, not_found
from pabal.management.routes import Route, Who
from pabal.model.limits import TAP_BODY_BYTES_MAX


def tap(call: Call) -> Answer:
    """A line for each frame, from now until the connection ends. Bodies are for administrators."""
    body_bytes = _body_bytes(call.query.get("bodies", "0"))
    if not _may_see(call, body_bytes):
        raise not_authorised(Who.ADMINISTRATOR.value)
    client = call.broker.clients.get(call.arguments["connection"])
    if client is None:
        raise not_found()
    as_json = "json" in call.accept

    def may_watch() -> bool:
        now = as_of_now(call.principal, call.broker)
        return now is not None and _may_see(replace(call, principal=now), body_bytes)

    try:
        stream = call.node.tap(
            client, frozenset(_listed(call, "only")), frozenset(_channels(call)), body_bytes, as_json, may_watch
        )
    except ValueError as error:
        raise bad_request(str(error)) from None
    if stream is None:
        raise ApiError(503, "service_unavailable", "There are too many taps at once")
    kind = "application/x-ndjson" if as_json else "text/plain; charset=utf-8"
    return Answer(headers={"content-type": kind}, stream=stream)


def _may_see(call: Call, body_bytes: int) -> bool:
    return call.administrator or (call.monitor and not body_bytes)


def _body_bytes(text: str) -> int:
    if not text.isdecimal() or len(text) > 9 or int(text) > TAP_BODY_BYTES_MAX:
        raise bad_request(f"bodies should be 0 to {TAP_BODY_BYTES_MAX}")
    return int(text)


def _channels(call: Call) -> list[int]:
    channels = _listed(call, "channel")
    if not all(text.isdecimal() and len(text) <= 5 and int(text) <= 65_535 for text in channels):
        raise bad_request("channel should be numbers, separated by commas")
    return [int(text) for text in channels]


def _listed(call: Call, name: str) -> list[str]:
    return [text.strip() for text in call.query.get(name, "").split(",") if text.strip()]


_TAP: Final = "Its frames as they pass, a line each: ?channel=1,2&only=publish,deliver&bodies=100."

ROUTES: Final = (Route("GET", "/api/pabal/connections/{connection}/tap", Who.MONITOR, tap, _TAP),)
