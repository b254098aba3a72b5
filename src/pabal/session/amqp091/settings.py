"""What a session is set up with."""

from __future__ import annotations

from dataclasses import dataclass

from pabal.model import limits
from pabal.model.compatibility import RABBITMQ_3_12, Compatibility


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """Proposals of connection.tune, limits, and what connection.start says of the server. 0 heartbeat: none."""

    frame_bytes_max: int = limits.FRAME_BYTES_MAX
    channel_max: int = limits.CHANNEL_MAX
    heartbeat_seconds: int = limits.HEARTBEAT_SECONDS
    message_bytes_max: int = limits.MESSAGE_BYTES_MAX
    version: str = "0"
    platform: str = "Python"
    compatibility: Compatibility = RABBITMQ_3_12
