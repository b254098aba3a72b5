"""Which store the settings ask for."""

from __future__ import annotations

import logging
from pathlib import Path

from pabal.server.settings import Settings
from pabal.session.amqp091.container import Amqp091Container
from pabal.store.durable_store import open_durable_store
from pabal.store.interface import Store
from pabal.store.memory import MemoryStore


def open_store(settings: Settings) -> Store:
    """The store that the settings ask for. StoreError when it cannot be used."""
    container = Amqp091Container()
    containers = {container.code: container}
    if settings.memory:
        return MemoryStore(containers)
    return open_durable_store(Path(settings.data), containers, logging.getLogger("pabal").info)
