"""Where the broker listens: the sockets of every protocol, bound, served and closed in one place."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

from pabal.model.limits import CLOSE_SECONDS_MAX, HANDSHAKE_SECONDS_MAX
from pabal.server.admission import Admission, Guest, files_for_connections
from pabal.server.tls import ssl_reason

BACKLOG: Final = 1024
"""Connections that the system keeps until they are accepted."""

_SETTINGS: Final = {
    "amqp": "port",
    "amqps": "tls_port",
    "http": "http_port",
    "https": "https_port",
    "http/prometheus": "metrics_port",
}
"""Which setting has the port of each."""

_ACCEPTED_MAX: Final = 1
_ACCEPT_AGAIN_SECONDS: Final = 0.5
_COMPLAINT_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Listener:
    """`protocol`: "amqp", "amqps", "http" and so on. `port`: the one that it got, if any free one was asked for."""

    protocol: str
    address: str
    port: int
    sockets: tuple[socket.socket, ...]


class Listeners:
    """All of them, in the order in which they were opened, which is the one they are shown in.

    `bind` takes a port, so that it is known at once whether it can be had; `serve` begins to accept, when what is to
    answer is ready. Clients that come in between wait in the system's backlog.
    """

    def __init__(self, address: str, connections_per_second_max: int, log: logging.Logger) -> None:
        self.all: list[Listener] = []
        self.log = log
        self.loop = asyncio.get_running_loop()
        self.admission = Admission(connections_per_second_max, self.loop.time)
        self._address = address
        self._doors: list[_Door] = []

    def bind(self, protocol: str, port: int, address: str | None = None) -> Listener:
        """Takes `port` (0: any free one) on the address of the settings, or another. OSError when it cannot be; its
        `strerror` says all, with the address, the port and the setting."""
        host = self._address if address is None else address
        sockets: list[socket.socket] = []
        try:
            for family, at in _addresses(host):
                sockets.append(_listening(family, at, port))
                port = sockets[0].getsockname()[1]
        except OSError as error:
            for taken in sockets:
                taken.close()
            where = f"{host} port {port} ({_SETTINGS[protocol]})" if protocol in _SETTINGS else f"{host} port {port}"
            raise OSError(error.errno, f"cannot listen on {where}: {error.strerror or error}") from None
        listener = Listener(protocol, host, port, tuple(sockets))
        self.all.append(listener)
        return listener

    async def serve(
        self,
        listener: Listener,
        make_protocol: Callable[[], asyncio.BaseProtocol],
        context: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        """Accepts from now on, and calls `make_protocol` for each connection. What it makes may be a Guest.
        `context`: asked for each connection, when TLS is to be asyncio's own."""
        self._doors += [_Door(self, sock, make_protocol, context) for sock in listener.sockets]

    def status(self) -> str:
        """A line about where is listened."""
        return "listens on " + ", ".join(f"{each.protocol} {each.address}:{each.port}" for each in self.all)

    def close(self) -> None:
        """Accepts no more. Connections that there are stay, but those that are in the middle of opening."""
        for door in self._doors:
            door.close()
        self.admission.forget()
        for listener in self.all:
            for sock in listener.sockets:
                sock.close()


class _Door:
    """Accepts from one socket. asyncio would do it, but it knows no limits, goes wild without file descriptors, and
    tells of a TLS connection only when it is established."""

    def __init__(
        self,
        listeners: Listeners,
        sock: socket.socket,
        make_protocol: Callable[[], asyncio.BaseProtocol],
        context: Callable[[], ssl.SSLContext] | None,
    ) -> None:
        self._listeners = listeners
        self._loop = listeners.loop
        self._socket = sock
        self._make_protocol = make_protocol
        self._context = context
        self._arriving: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._complained = 0.0
        self._loop.add_reader(sock, self._accept)

    def close(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._socket)

    def _accept(self) -> None:
        """Some of those that wait: the loop has other things to do as well."""
        for _ in range(_ACCEPTED_MAX):
            if wait := self._listeners.admission.wait_seconds():
                self._wait(wait)
                return
            try:
                sock, address = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no file descriptor, or no memory
                self._complain(f"cannot accept connections: {error.strerror}")
                self._wait(_ACCEPT_AGAIN_SECONDS)
                return
            if sock.fileno() >= files_for_connections():
                sock.close()
                self._complain("connection refused: no file descriptors left (ulimit -n)")
                continue
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            protocol = self._make_protocol()
            task = self._loop.create_task(self._connect(sock, protocol, address))
            self._arriving.add(task)
            task.add_done_callback(self._arriving.discard)
            guest = protocol if hasattr(protocol, "opening") else _Arriving(task)
            self._listeners.admission.came(cast(Guest, guest))

    async def _connect(self, sock: socket.socket, protocol: asyncio.BaseProtocol, address: object) -> None:
        try:
            if self._context is None:
                await self._loop.connect_accepted_socket(lambda: protocol, sock)
            else:
                await self._loop.connect_accepted_socket(
                    lambda: protocol,
                    sock,
                    ssl=self._context(),
                    ssl_handshake_timeout=HANDSHAKE_SECONDS_MAX,
                    ssl_shutdown_timeout=CLOSE_SECONDS_MAX,
                )
        except OSError as error:
            sock.close()
            peer = ":".join(map(str, address[:2])) if isinstance(address, tuple) else "?"
            why = ssl_reason(error) if isinstance(error, ssl.SSLError) else error.strerror or str(error)
            self._listeners.log.info("%s refused: TLS handshake failed: %s", peer, why)

    def _wait(self, seconds: float) -> None:
        self._loop.remove_reader(self._socket)
        self._pause = self._loop.call_later(seconds, self._go_on)

    def _go_on(self) -> None:
        self._pause = None
        self._loop.add_reader(self._socket, self._accept)

    def _complain(self, line: str) -> None:
        """Not more often than it helps."""
        now = self._loop.time()
        if not self._complained or now - self._complained > _COMPLAINT_SECONDS:
            self._complained = now
            self._listeners.log.warning(line)


class _Arriving:
    """Stands for a connection whose protocol is not one that tells: it is opening as long as asyncio opens it."""

    def __init__(self, task: asyncio.Task[None]) -> None:
        self._task = task

    @property
    def opening(self) -> bool:
        return not self._task.done()

    def drop(self, why: str) -> None:
        self._task.cancel()


def _addresses(host: str) -> list[tuple[socket.AddressFamily, str]]:
    """What a name stands for; an empty one for every address of the machine."""
    found = socket.getaddrinfo(host or None, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, str(at[0])) for family, _, _, _, at in found))


def _listening(family: socket.AddressFamily, at: str, port: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setblocking(False)
        sock.bind((at, port))
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock
