"""From what the broker refuses to HTTP, in RabbitMQ's words."""

from __future__ import annotations

from typing import Final

from pabal.management.call import ApiError, bad_request
from pabal.model import errors

_CODES: Final[dict[type[errors.BrokerError], str]] = {
    errors.PreconditionFailed: "406 PRECONDITION_FAILED",
    errors.Locked: "405 RESOURCE_LOCKED",
    errors.InvalidCommand: "503 COMMAND_INVALID",
    errors.Deprecated: "541 INTERNAL_ERROR",
}


def as_api_error(error: errors.BrokerError) -> ApiError:
    """Of a change of definitions."""
    if isinstance(error, errors.NotFound):
        return ApiError(404, "not_found", str(error))
    if isinstance(error, errors.AccessRefused | errors.NotAllowed):
        return ApiError(401, "not_authorised", "Access refused.")
    if isinstance(error, errors.InvalidParameter):
        return bad_request(escape(f"Validation failed\n\n{error}\n"))
    return bad_request(str(error))


def as_message_error(error: errors.BrokerError) -> ApiError:
    """Of publishing and getting, which RabbitMQ does over a channel."""
    if isinstance(error, errors.NotFound):
        return ApiError(404, "not_found", f"NOT_FOUND - {error}")
    if isinstance(error, errors.AccessRefused | errors.NotAllowed):
        return ApiError(401, "not_authorised", f"ACCESS_REFUSED - {error}")
    if isinstance(error, errors.InvalidParameter):
        return bad_request(str(error))
    return bad_request(f"{_CODES.get(type(error), '406 PRECONDITION_FAILED')} - {error}")


def escape(text: str) -> str:
    """Without tags of HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
