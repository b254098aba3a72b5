"""Listens for HTTP in the broker's event loop: the ports, uvicorn's connections with limits on slow clients."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from pabal.model.limits import (
    HTTP_CONNECTIONS_MAX,
    HTTP_HEADER_BYTES_MAX,
    HTTP_HEADER_SECONDS_MAX,
    HTTP_IDLE_SECONDS_MAX,
    HTTP_STALLED_SECONDS_MAX,
)
from pabal.server.settings import UNSET_PORT

if TYPE_CHECKING:
    import ssl

    from pabal.server.listeners import Listener
    from pabal.server.server import Server

DEFAULT_PORT = 15_672
DEFAULT_HTTPS_PORT = 15_671
DEFAULT_METRICS_PORT = 15_692


def open_http(server: Server) -> HttpListener | None:
    """What the settings ask for. OSError: a port that was given cannot be had; without a given one there is a warning
    and no HTTP API."""
    settings = server.settings
    if not settings.http:
        return None
    given = settings.http_port != UNSET_PORT
    port = settings.http_port if given else DEFAULT_PORT if settings.port else 0
    listener = _bind(server, "http", port, given, "HTTP API")
    if listener is None:
        return None
    found = HttpListener(server, listener, settings.http_origins)
    if server.certificates is not None and settings.https_port:
        found.encrypted = _open_https(server)
    return found


def _open_https(server: Server) -> Listener | None:
    """As above."""
    port = server.settings.https_port
    given = port != DEFAULT_HTTPS_PORT
    return _bind(server, "https", port if server.settings.port or given else 0, given, "HTTPS")


def _bind(server: Server, protocol: str, port: int, given: bool, what: str) -> Listener | None:
    """OSError when a port that was `given` cannot be had; else a warning that there is no `what`."""
    try:
        return server.listeners.bind(protocol, port)
    except OSError as error:
        if given:
            raise
        server.log.warning("no %s: %s", what, error.strerror or error)
        return None


def open_metrics(server: Server) -> HttpListener | None:
    """The port that serves metrics to anybody, and nothing else. OSError as above."""
    settings = server.settings
    if not (settings.http and settings.metrics):
        return None
    given = settings.metrics_port != UNSET_PORT
    port = settings.metrics_port if given else DEFAULT_METRICS_PORT if settings.port else 0
    listener = _bind(server, "http/prometheus", port, given, "port for metrics")
    return None if listener is None else HttpListener(server, listener, (), metrics_only=True)


class HttpListener:
    """`port`: the one that it listens on. `metrics_only`: without a password, and nothing else. Connections are
    taken from the moment it is bound, and answered once what that takes has been imported."""

    def __init__(
        self, server: Server, listener: Listener, origins: tuple[str, ...], metrics_only: bool = False
    ) -> None:
        self._metrics_only = metrics_only
        self._server = server
        self._listener = listener
        self._origins = origins
        self._state: Any = None
        self._starting: asyncio.Task[None] | None = None
        self.port = listener.port
        self.encrypted: Listener | None = None
        """That of HTTPS."""

    def start(self) -> None:
        """Returns at once."""
        self._starting = asyncio.get_running_loop().create_task(self._serve())

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            protocol = await loop.run_in_executor(None, self._load)
        except ImportError as error:
            self._server.log.error("no HTTP API: %s", error)
            return
        server = self._server
        await server.listeners.serve(self._listener, protocol)
        if self.encrypted is not None:
            await server.listeners.serve(self.encrypted, protocol, self._context)

    def _context(self) -> ssl.SSLContext:
        """For a connection that begins now: certificates are renewed meanwhile."""
        assert self._server.certificates is not None
        return self._server.certificates.https_context

    def _load(self) -> Any:
        """On a thread: the imports take tenths of a second. Returns what makes a connection."""
        from uvicorn.config import Config
        from uvicorn.server import ServerState

        from pabal.management.scrape import OPEN_ROUTES
        from pabal.management.table import ROUTES
        from pabal.server.http import Api
        from pabal.server.http_connection import HttpConnection

        api = Api(self._server, self._origins, OPEN_ROUTES if self._metrics_only else ROUTES)
        config = Config(
            api.application,
            interface="asgi3",
            http=HttpConnection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=HTTP_IDLE_SECONDS_MAX,
            h11_max_incomplete_event_size=HTTP_HEADER_BYTES_MAX,
        )
        config.load()
        self._state = state = ServerState()
        limits = (HTTP_CONNECTIONS_MAX, HTTP_HEADER_SECONDS_MAX, HTTP_STALLED_SECONDS_MAX)
        return lambda: HttpConnection(config, state, {}, limits=limits)

    async def stop(self) -> None:
        """Ends the connections that there are."""
        if self._starting is not None:
            self._starting.cancel()
        if self._state is not None:
            for connection in list(self._state.connections):
                connection.shutdown()
            deadline = asyncio.get_running_loop().time() + 1.0
            while self._state.tasks and asyncio.get_running_loop().time() < deadline:
                await asyncio.sleep(0.01)
            for connection in list(self._state.connections):
                connection.transport.abort()
