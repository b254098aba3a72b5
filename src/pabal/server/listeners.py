"""Where the broker listens: the sockets of every protocol, bound, served and closed in one place."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass

BACKLOG = 1024
"""Connections that the system keeps until they are accepted."""


@dataclass(frozen=True, slots=True)
class Listener:
    """`protocol`: "amqp", "http" and so on. `port`: the one that it got, if any free one was asked for."""

    protocol: str
    address: str
    port: int
    sockets: tuple[socket.socket, ...]


class Listeners:
    """All of them, in the order in which they were opened, which is the one they are shown in.

    `bind` takes a port, so that it is known at once whether it can be had; `serve` begins to accept, when what is to
    answer is ready. Clients that come in between wait in the system's backlog.
    """

    def __init__(self, address: str) -> None:
        self.all: list[Listener] = []
        self._address = address
        self._servers: list[asyncio.Server] = []

    def bind(self, protocol: str, port: int, address: str | None = None) -> Listener:
        """Takes `port` (0: any free one) on the address of the settings, or another. OSError when it cannot be."""
        host = self._address if address is None else address
        sockets: list[socket.socket] = []
        try:
            for family, at in _addresses(host):
                sockets.append(_listening(family, at, port))
                port = sockets[0].getsockname()[1]
        except OSError:
            for taken in sockets:
                taken.close()
            raise
        listener = Listener(protocol, host, port, tuple(sockets))
        self.all.append(listener)
        return listener

    async def serve(self, listener: Listener, make_protocol: Callable[[], asyncio.BaseProtocol]) -> None:
        """Accepts from now on, and calls `make_protocol` for each connection."""
        loop = asyncio.get_running_loop()
        for sock in listener.sockets:
            self._servers.append(await loop.create_server(make_protocol, sock=sock, backlog=BACKLOG))

    def close(self) -> None:
        """Accepts no more. Connections that there are stay."""
        for server in self._servers:
            server.close()
        for listener in self.all:
            for sock in listener.sockets:
                sock.close()


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
