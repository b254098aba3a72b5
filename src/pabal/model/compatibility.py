"""The releases of RabbitMQ that the broker can stand for, and what they do differently."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pabal.model.limits import FRAME_BYTES_MIN


@dataclass(frozen=True, slots=True)
class Compatibility:
    """`version`: what clients are told. The defaults are those of 3.12."""

    version: str
    transient_queues: bool = True
    """A queue may be neither durable nor exclusive."""
    shared_prefetch: bool = True
    """basic.qos with `global` limits all of a channel's consumers together; otherwise each."""
    counts_releases: bool = True
    """A message that comes back without having been tried counts as attempted."""
    frame_bytes_min: int = FRAME_BYTES_MIN
    """The smallest frame_max a client may ask for."""
    handshake_frame_bytes_max: int = 0
    """Larger frames are refused before connection.tune-ok; 0: those larger than the proposed frame_max."""


RABBITMQ_3_12: Final = Compatibility("3.12.14")
RABBITMQ_4_3: Final = Compatibility(
    "4.3.0",
    transient_queues=False,
    shared_prefetch=False,
    counts_releases=False,
    frame_bytes_min=8192,
    handshake_frame_bytes_max=8192,
)

COMPATIBILITIES: Final = {"rabbitmq-3.12": RABBITMQ_3_12, "rabbitmq-4.3": RABBITMQ_4_3}
"""By the values of the setting `compat`."""
