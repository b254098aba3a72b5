"""The description of the API: OpenAPI 3.1, and a page to read, both made from the table of routes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from html import escape
from typing import Any, Final

from pabal.management.call import Answer, Call
from pabal.management.routes import Route, Who

_WHO: Final = {
    Who.ANYBODY: "anybody, without a password",
    Who.USER: "any user with a tag",
    Who.VHOST: "who may open the vhost",
    Who.VHOST_MONITOR: "who may open the vhost, and monitoring",
    Who.MONITOR: "monitoring",
    Who.POLICYMAKER: "policymaker",
    Who.ADMINISTRATOR: "administrator",
}
_LIST_QUERY: Final = ("page", "page_size", "name", "use_regex", "sort", "sort_reverse", "columns")
_STYLE: Final = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;width:100%}td{padding:.2rem .6rem .2rem 0;vertical-align:top;"
    "border-top:1px solid #ddd}code{font-size:13px}small{color:#666}@media(prefers-color-scheme:dark)"
    "{body{background:#111;color:#ddd}td{border-color:#333}a{color:#8bf}small{color:#999}}"
)


def description(routes: Iterable[Route], version: str) -> dict[str, Any]:
    """The OpenAPI document."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Pabal",
            "version": version,
            "description": "RabbitMQ's management API, and Pabal's own below /api/pabal.",
        },
        "components": {
            "securitySchemes": {
                "basic": {"type": "http", "scheme": "basic"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
            "schemas": {
                "Error": {
                    "type": "object",
                    "properties": {"error": {"type": "string"}, "reason": {}},
                    "required": ["error", "reason"],
                }
            },
        },
        "security": [{"basic": []}, {"bearer": []}],
        "paths": paths,
    }


def _operation(route: Route) -> dict[str, Any]:
    parts = route.parts
    variables = [part.strip("{}") for part in parts if part.startswith("{")]
    names = [part.strip("{}").replace("-", "_").replace(".", "_") for part in parts[1:] or (parts[0] or "root",)]
    error = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in variables
    ]
    if route.method == "GET":
        parameters += [{"name": name, "in": "query", "schema": {"type": "string"}} for name in _LIST_QUERY]
        responses: dict[str, Any] = {"200": {"description": "OK"}}
    elif route.method == "PUT":
        responses = {"201": {"description": "It is new."}, "204": {"description": "It was changed, or there."}}
    else:
        responses = {"2XX": {"description": "Done."}}
    operation: dict[str, Any] = {
        "operationId": "_".join([route.method.lower(), *names]),
        "tags": [parts[1] if len(parts) > 1 else "api"],
        "summary": route.summary,
        "description": f"For {_WHO[route.who]}.",
        "parameters": parameters,
        "responses": {**responses, "4XX": {"description": "Refused, and why.", **error}},
    }
    if route.who is Who.ANYBODY:
        operation["security"] = []
    if route.body:
        schema = {"type": "object", "description": route.body}
        operation["requestBody"] = {"content": {"application/json": {"schema": schema}}}
    return operation


def page(routes: Iterable[Route], version: str) -> bytes:
    """The same for people."""
    rows = []
    for route in routes:
        body = f"<br><small>body: {escape(route.body)}</small>" if route.body else ""
        rows.append(
            f"<tr><td><code>{route.method}</code></td><td><code>{escape(route.path)}</code>{body}</td>"
            f"<td>{escape(route.summary)} <small>For {escape(_WHO[route.who])}.</small></td></tr>"
        )
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Pabal's HTTP API</title><style>{_STYLE}</style>"
        f"<h1>Pabal's HTTP API</h1><p>Pabal {escape(version)}. The API of RabbitMQ's management plugin: tools and "
        f"clients work unchanged. Names in paths are percent-encoded (<code>/</code> is <code>%2F</code>). "
        f"<a href=/api/openapi.json>OpenAPI description</a>.</p><table>{''.join(rows)}</table></html>"
    ).encode()


def routes_about(others: Callable[[], Iterable[Route]]) -> tuple[Route, ...]:
    """`others`: all routes, these included."""

    def show_description(call: Call) -> Any:
        return description(others(), call.node.version)

    def show_page(call: Call) -> Answer:
        return Answer(content=page(others(), call.node.version), content_type="text/html; charset=utf-8")

    def redirect(call: Call) -> Answer:
        return Answer(307, headers={"location": "/api/"}, content=b"")

    return (
        Route("GET", "/", Who.ANYBODY, redirect, "Leads to the page."),
        Route("GET", "/api", Who.ANYBODY, show_page, "A page to read about this API."),
        Route("GET", "/api/openapi.json", Who.ANYBODY, show_description, "The OpenAPI description of this API."),
    )
