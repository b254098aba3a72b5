"""What every scenario has: a name, the brokers it makes sense for, and a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from amqp import AMQP
from brokers import Broker
from outcome import Outcome

QUICK_SHARE = 4


class Kept(Enum):
    """When a scenario is run without being named."""

    ALWAYS = "always"
    FULL = "with --full"
    NAMED = "only when named"


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of a scenario is wanted.

    Attributes:
        messages: instead of each scenario's own number; None for that.
        size_bytes: of a body, where the scenario leaves that open.
        quick: a quarter of the messages.
        data: a directory on the disk that the brokers' data is on.
    """

    messages: int | None
    size_bytes: int
    quick: bool
    data: Path

    def of(self, messages: int) -> int:
        """How many messages to send where a scenario has so many."""
        return self.messages or (messages // QUICK_SHARE if self.quick else messages)


class Scenario(ABC):
    """Something that is measured.

    Attributes:
        name: for the command line.
        kept: whether it is part of every run.
        rounds_max: more rounds of it are not run.
    """

    def __init__(self, name: str, kept: Kept = Kept.ALWAYS, rounds_max: int = 100) -> None:
        self.name = name
        self.kept = kept
        self.rounds_max = rounds_max

    def can(self, broker: Broker) -> bool:
        """Whether it has a meaning for this broker."""
        return broker.protocol is AMQP

    @abstractmethod
    def run(self, broker: Broker, scale: Scale) -> Outcome:
        """Run it once.

        Raises:
            LoadError: the broker refused, lost or multiplied something, or took too long.
        """
