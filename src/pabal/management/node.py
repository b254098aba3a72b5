"""What the functions of the HTTP API may know of the process and the machine around the broker."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Protocol

from pabal.broker.clients import Client
from pabal.management.measured import ProcessFacts


@dataclass(frozen=True, slots=True)
class Listener:
    """Where something is listened for. `protocol`: "amqp", "http" and so on, as RabbitMQ calls it. `expires_s`:
    when the certificate it shows ends, in seconds since the epoch, if it shows one."""

    protocol: str
    address: str
    port: int
    expires_s: float | None = None


@dataclass(frozen=True, slots=True)
class Resources:
    """What the process has of the machine. A limit of 0 is none."""

    memory_bytes: int = 0
    memory_bytes_max: int = 0
    disk_free_bytes: int = 0
    disk_free_bytes_min: int = 0
    files: int = 0
    files_max: int = 0
    sockets: int = 0
    memory_parts: Mapping[str, int] = field(default_factory=dict)
    """The memory by what it is for, as far as that is known."""


class Stream(Protocol):
    """An answer that is made while it is sent."""

    def next(self) -> Awaitable[bytes]:
        """Its next piece, as soon as there is one; b"" at the end."""

    def close(self) -> None:
        """Nobody wants the rest."""


class Node(Protocol):
    """`name`: "pabal@host". `version`: Pabal's own; `rabbitmq_version`: the release it stands for.
    `started_ms`: since the epoch."""

    name: str
    version: str
    rabbitmq_version: str
    python_version: str
    process_id: int
    processors: int
    started_ms: int
    message_bytes_max: int
    data: str
    config_files: Sequence[str]
    log_files: Sequence[str]

    def listeners(self) -> Sequence[Listener]: ...

    def resources(self) -> Resources: ...

    def tap(
        self,
        client: Client,
        names: frozenset[str],
        channels: frozenset[int],
        body_bytes: int,
        as_json: bool,
        may_watch: Callable[[], bool],
    ) -> Stream | None:
        """The frames of that connection from now on, a line each; None: too many are watched already. Of these
        channels and these names only, if there are any, and so much of each body. It ends when whoever asked
        `may_watch` no more. ValueError: there is nothing of such a name."""

    def process_facts(self) -> ProcessFacts:
        """For metrics."""

    def backup(self) -> Awaitable[tuple[IO[bytes], int, str]]:
        """A backup in a file of its own, from its beginning; its bytes, and a name for it. ApiError when there can be
        none now."""

    def hash_password(self, password: str) -> str:
        """Takes tens of milliseconds: only within a Job."""

    def extras(self) -> Mapping[str, Any]:
        """Further facts for /api/nodes."""
