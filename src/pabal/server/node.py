"""The process and the machine, as the HTTP API shows them."""

from __future__ import annotations

import os
import resource
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from pabal import __version__, compiled
from pabal.broker.clients import Client
from pabal.management.call import ApiError
from pabal.management.measured import ProcessFacts
from pabal.management.node import Listener, Resources
from pabal.model.compatibility import COMPATIBILITIES
from pabal.model.passwords import hash_password
from pabal.server.certificate import expires_s
from pabal.server.resources import disk_free_bytes, machine_memory_bytes, memory_bytes
from pabal.server.tap import Tap, Taps
from pabal.session.amqp091.trace import Selection
from pabal.store.backup import BackupError

if TYPE_CHECKING:
    from pabal.server.server import Server


_ENCRYPTED: Final = ("amqps", "https")
_PROTOCOLS: Final = {"amqps": "amqp/ssl"}
"""What RabbitMQ calls them."""


class ServerNode:
    """See management.node.Node."""

    def __init__(self, server: Server, name: str) -> None:
        settings = server.settings
        self._server = server
        self.name = name
        self.version = __version__
        self.rabbitmq_version = COMPATIBILITIES[settings.compat].version
        self.python_version = sys.version.split()[0]
        self.process_id = os.getpid()
        self.processors = os.cpu_count() or 1
        self.started_ms = server.now_ms
        self.message_bytes_max = settings.message_bytes_max
        self.data = "" if settings.memory else str(Path(settings.data).resolve())
        self._certificate: tuple[object, float] | None = None
        self.config_files: Sequence[str] = ()
        self.log_files: Sequence[str] = ("<stderr>",)
        self.taps = Taps(lambda: server.now_ms)

    def listeners(self) -> Sequence[Listener]:
        return [
            Listener(
                _PROTOCOLS.get(each.protocol, each.protocol),
                each.address,
                each.port,
                self._expires_s() if each.protocol in _ENCRYPTED else None,
            )
            for each in self._server.listeners.all
        ]

    def _expires_s(self) -> float | None:
        """Of the certificate that is shown now."""
        certificates = self._server.certificates
        if certificates is None:
            return None
        context = certificates.https_context
        if self._certificate is None or self._certificate[0] is not context:
            self._certificate = (context, expires_s(context, self._server.settings.tls_certificate))
        return self._certificate[1]

    def resources(self) -> Resources:
        settings = self._server.settings
        free = None if settings.memory else disk_free_bytes(Path(settings.data))
        used = memory_bytes() or 0
        return Resources(
            memory_bytes=used,
            memory_bytes_max=self._server.alarms.memory_bytes_max,
            disk_free_bytes=free or 0,
            disk_free_bytes_min=settings.disk_free_bytes_min,
            files=_open_files(),
            files_max=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            sockets=len(self._server.connections),
            memory_parts={"other_system": used},
        )

    def tap(
        self,
        client: Client,
        names: frozenset[str],
        channels: frozenset[int],
        body_bytes: int,
        as_json: bool,
        may_watch: Callable[[], bool],
    ) -> Tap | None:
        for connection in self._server.connections:
            if connection.client is client:
                return self.taps.open(connection, Selection(channels, names, body_bytes), as_json, may_watch)
        return None

    def process_facts(self) -> ProcessFacts:
        server, settings, resources = self._server, self._server.settings, self.resources()
        used = resource.getrusage(resource.RUSAGE_SELF)
        size = server.broker.store.size()
        measures = server.measures
        return ProcessFacts(
            node=self.name,
            cluster=self.name,
            cluster_id=self.name,
            version=self.version,
            rabbitmq_version=self.rabbitmq_version,
            python_version=self.python_version,
            compiled=compiled(),
            started_ms=self.started_ms,
            memory_bytes=resources.memory_bytes,
            memory_bytes_max=resources.memory_bytes_max or machine_memory_bytes() or 0,
            disk_free_bytes=resources.disk_free_bytes,
            disk_free_bytes_min=resources.disk_free_bytes_min,
            files=resources.files,
            files_max=resources.files_max,
            sockets=resources.sockets,
            sockets_max=settings.connections_max,
            cpu_seconds=used.ru_utime + used.ru_stime,
            store_bytes=size.file_bytes,
            store_free_bytes=size.free_bytes,
            durations={"turn": measures.turns, "commit": measures.commits, "loop_lag": measures.lags},
        )

    async def backup(self) -> tuple[IO[bytes], int, str]:
        try:
            return await self._server.backups.spooled()
        except BackupError as error:
            raise ApiError(503, "service_unavailable", str(error)) from None
        except OSError as error:
            raise ApiError(503, "service_unavailable", f"no room for the backup: {error.strerror}") from None

    def hash_password(self, password: str) -> str:
        return hash_password(password, secrets.token_bytes(16))

    def extras(self) -> Mapping[str, Any]:
        return {"compiled": compiled()}


def _open_files() -> int:
    """0 where the system does not say."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0
