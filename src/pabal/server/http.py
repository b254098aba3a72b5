"""The HTTP API's way in: who asks, what for, and the answer. Runs the functions of management in the broker's turns.

Starlette and uvicorn are imported here, so this module itself is imported on a thread after AMQP is listened for
(see http_listener.py).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from pabal.broker.access import Principal, Refused
from pabal.management.call import NO_CONTENT, Answer, ApiError, Call, Job, Until, not_authorised, not_found
from pabal.management.encoding import encode
from pabal.management.faults import as_api_error
from pabal.management.routes import Route, Routes, Who, arguments_of, may_use
from pabal.management.table import ROUTES
from pabal.model.errors import BrokerError, StoreError
from pabal.model.limits import HTTP_BODIES_BYTES_MAX, HTTP_BODY_BYTES_MAX, HTTP_BODY_SECONDS_MAX, HTTP_SLICE_MS
from pabal.server.connection import printable
from pabal.server.http_origin import allowed, forged, rebound
from pabal.server.http_stream import Streamed

if TYPE_CHECKING:
    from pabal.server.server import Server

METHODS: Final = ("GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS")
_PIECE_BYTES: Final = 256 * 1024
_REALM: Final = {"www-authenticate": 'Basic realm="Pabal"'}


class _Durable:
    """Waits for the commit of a turn (broker.Waiter)."""

    def __init__(self, done: asyncio.Future[None]) -> None:
        self._done = done

    def durable(self, upto: int) -> None:
        if not self._done.done():
            self._done.set_result(None)


class Api:
    """`application`: for an ASGI server. `origins`: whose pages may call it from a browser."""

    def __init__(self, server: Server, origins: tuple[str, ...], routes: Sequence[Route] = ROUTES) -> None:
        self._server = server
        self._routes = Routes(routes)
        self._origins = origins
        self._bodies_bytes = 0

    # --- A request ------------------------------------------------------------------------------------------

    async def application(self, scope: Any, receive: Any, send: Any) -> None:
        answer = await self._serve(Request(scope, receive))
        await answer(scope, receive, send)

    async def _serve(self, request: Request) -> Response | _Sent | Streamed:
        methods, parts = self._routes.find(request.scope["raw_path"].decode("ascii"))
        try:
            if not methods:
                raise not_found()
            usable = _allowed(methods)
            if _is_ambiguous(request):
                raise ApiError(400, "bad_request", "Both a length and a transfer encoding")
            if forged(request.method, request.headers, self._origins):
                raise ApiError(403, "forbidden", "Pages of this origin may change nothing (http_origins)")
            if request.method == "OPTIONS":
                return self._finished(request, Answer(headers={"allow": usable}, content=b""))
            route = methods.get("GET" if request.method == "HEAD" else request.method)
            if route is None:
                return self._finished(request, Answer(405, headers={"allow": usable}, content=b""))
            call = await self._call(request, route, arguments_of(route, parts))
            call.body = await self._read_body(request)
            try:
                answer = await self._work(route, call)
            finally:
                self._bodies_bytes -= len(call.body)
        except ApiError as error:
            answer = _error_answer(error)
        except ClientDisconnect:
            return Response(status_code=400)
        if answer.stream is not None:
            return Streamed(self._finished(request, answer), answer.stream)
        if answer.file is not None:
            return StreamingResponse(_pieces(answer.file), 200, answer.headers, answer.content_type)
        if answer.after is not None:
            return _Sent(self._finished(request, answer), self._told(answer.after))
        return self._finished(request, answer)

    async def _call(self, request: Request, route: Route, arguments: dict[str, str]) -> Call:
        """Who asks what. ApiError 401: nobody who may."""
        principal = await self._principal(request, route)
        server = self._server
        call = Call(
            server.broker,
            server.node,
            server.codec,
            principal,
            request.method,
            request.scope["raw_path"].decode("ascii"),
            arguments,
            dict(parse_qsl(request.scope["query_string"].decode("latin-1"), keep_blank_values=True)),
            content_type=request.headers.get("content-type", ""),
            reason=request.headers.get("x-reason", ""),
            accept=request.headers.get("accept", ""),
            query_string=request.scope["query_string"].decode("latin-1"),
        )
        if not may_use(route.who, call):
            raise not_authorised(route.who.value.strip())
        return call

    async def _principal(self, request: Request, route: Route) -> Principal:
        header = request.headers.get("authorization", "")
        kind, _, given = header.partition(" ")
        peer = request.client.host if request.client is not None else ""
        loopback = peer == "::1" or peer.removeprefix("::ffff:").startswith("127.")
        if route.who is Who.ANYBODY:
            return Principal("")
        name, secret = ("", given) if kind.lower() == "bearer" else _basic(given)
        answer: Principal | Refused = Refused("no credentials")
        if kind.lower() in ("basic", "bearer"):
            answer = await self._server.login(name, secret, peer, loopback)
        if header:
            self._server.broker.statistics.login("http", not isinstance(answer, Refused))
        if isinstance(answer, Refused):
            if header:
                self._server.log.warning("%s", printable(f"{peer} HTTP: login refused: {answer.reason}"))
            raise ApiError(401, "not_authorized", "Login failed")
        user = self._server.broker.accounts.users.get(answer.name)
        if user is not None and user.loopback_only and rebound(request.headers, self._origins):
            raise ApiError(421, "misdirected_request", "This user may not come by this name (http_origins)")
        return answer

    async def _read_body(self, request: Request) -> bytes:
        """ApiError: it is larger than may be, takes too long, or there are too many at once."""
        pieces: list[bytes] = []
        size = 0

        async def read() -> None:
            nonlocal size
            async for piece in request.stream():
                size += len(piece)
                self._bodies_bytes += len(piece)
                if size > HTTP_BODY_BYTES_MAX:
                    raise ApiError(400, "bad_request", "Exceeded HTTP request body size limit")
                if self._bodies_bytes > HTTP_BODIES_BYTES_MAX:
                    raise ApiError(503, "service_unavailable", "There are too many large requests at once")
                pieces.append(piece)

        try:
            await asyncio.wait_for(read(), HTTP_BODY_SECONDS_MAX)
        except TimeoutError:
            self._bodies_bytes -= size
            raise ApiError(408, "request_timeout", "The request's body took too long") from None
        except BaseException:
            self._bodies_bytes -= size
            raise
        return b"".join(pieces)

    # --- In turns -------------------------------------------------------------------------------------------

    async def _work(self, route: Route, call: Call) -> Answer:
        """Runs the function of the route, a slice a turn; what it changed is durable when this returns."""
        try:
            self._server.begin_turn()
            result = route.function(call)
            if isinstance(result, Generator):
                result = await self._drive(result)
            if route.waits:
                await self._until_durable()
        except BrokerError as error:
            raise as_api_error(error) from None
        except (ApiError, ClientDisconnect):
            raise
        except StoreError as error:
            self._server.fatal(error)
            raise ApiError(500, "internal_server_error", "The store failed") from None
        except Exception as error:
            self._server.log.error("HTTP API: internal error in %s %s", call.method, route.path, exc_info=error)
            raise ApiError(500, "internal_server_error", "Internal server error") from None
        if isinstance(result, Answer):
            return result
        return Answer(NO_CONTENT) if result is None else Answer(value=result)

    async def _drive(self, work: Generator[Job | Until | None, Any, Any]) -> Any:
        """A slice, then all others their turn, and so on."""
        result: Any = None
        until = time.monotonic() + HTTP_SLICE_MS / 1000
        try:
            while True:
                job = work.send(result)
                result = None
                if isinstance(job, Until):
                    result = await job.result
                elif job is not None:
                    result = await asyncio.get_running_loop().run_in_executor(None, job.work)
                elif time.monotonic() < until:
                    continue
                else:
                    await asyncio.sleep(0)
                self._server.begin_turn()
                until = time.monotonic() + HTTP_SLICE_MS / 1000
        except StopIteration as end:
            return end.value
        finally:
            self._server.begin_turn()
            work.close()

    async def _until_durable(self) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._server.begin_turn()
        self._server.broker.await_durable(_Durable(done), 0)
        await done

    def _told(self, after: Callable[[bool], None]) -> Callable[[bool], None]:
        def tell(arrived: bool) -> None:
            self._server.begin_turn()
            after(arrived)

        return tell

    # --- Answers --------------------------------------------------------------------------------------------

    def _finished(self, request: Request, answer: Answer) -> Response:
        headers = {"cache-control": "no-cache", "vary": "accept-encoding, origin", **answer.headers}
        if _is_ambiguous(request):
            headers["connection"] = "close"
        origin = request.headers.get("origin")
        if origin is not None and allowed(origin, self._origins):
            headers["access-control-allow-origin"] = origin
            headers["access-control-allow-credentials"] = "true"
            headers["access-control-allow-headers"] = "authorization, content-type"
            headers["access-control-allow-methods"] = ", ".join(METHODS)
        content = answer.content
        if content is None and answer.value is not None:
            content = encode(answer.value)
        media_type = answer.content_type if content else None
        return Response(content or b"", answer.status, headers, media_type)


class _Sent:
    """An answer that something depends on: `tell` hears whether the client was still there when all but the last byte
    of it had gone out. Who has that last byte can rely on what was told."""

    def __init__(self, response: Response, tell: Callable[[bool], None]) -> None:
        self._response = response
        self._tell = tell

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        response = self._response
        body = bytes(response.body)
        arrived = False
        try:
            await send(
                {"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers}
            )
            await send({"type": "http.response.body", "body": body[:-1], "more_body": True})
            await asyncio.sleep(0)
            # Waits until the system has taken all of it: see http_connection.py.
            await send({"type": "http.response.body", "body": b"", "more_body": True})
            arrived = not await Request(scope, receive).is_disconnected()
        finally:
            self._tell(arrived)
        await send({"type": "http.response.body", "body": body[-1:], "more_body": False})


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    """Read on other threads, as fast as the client takes them."""
    with file:
        while piece := file.read(_PIECE_BYTES):
            yield piece


def _is_ambiguous(request: Request) -> bool:
    """A proxy before us may see its end elsewhere, and so another request in what follows (RFC 9112 §6.1)."""
    return "transfer-encoding" in request.headers and "content-length" in request.headers


def _allowed(methods: dict[str, Route]) -> str:
    return ", ".join(method for method in METHODS if _has(methods, method))


def _has(methods: dict[str, Route], method: str) -> bool:
    return method == "OPTIONS" or method in methods or (method == "HEAD" and "GET" in methods)


def _error_answer(error: ApiError) -> Answer:
    headers = dict(_REALM) if error.status == 401 and error.error == "not_authorized" else {}
    return Answer(error.status, {"error": error.error, "reason": error.reason}, headers=headers)


def _basic(given: str) -> tuple[str, str]:
    """Name and password (RFC 7617), empty when it cannot be read."""
    try:
        text = base64.b64decode(given.strip(), validate=True).decode("utf-8", "surrogateescape")
    except (binascii.Error, ValueError):
        return "", ""
    name, _, password = text.partition(":")
    return name, password
