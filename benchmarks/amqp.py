"""AMQP 0-9-1 as a protocol of the benchmark: how queues are made, and who publishes and consumes."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Iterator

from client import Connection
from consumer import consume
from publisher import publish
from shapes import bindings, exchange_of
from spec import Load, LoadError, Protocol

_run_number = itertools.count(1)


def fresh_names(count: int) -> list[str]:
    """Names for queues that no run had before; all of one length."""
    number = next(_run_number)
    return [f"bench.{os.getpid()}.{number}.{each:05}" for each in range(count)]


@contextlib.contextmanager
def fresh_queues(load: Load) -> Iterator[list[str]]:
    """Fresh, empty queues; deleted at the end. A queue that is not empty after a good run is an error."""
    names = fresh_names(load.queues)
    control = Connection(load.port)
    try:
        for name in names:
            control.declare(name, durable=load.durable)
            control.purge(name)
            if load.exchange:
                control.declare_exchange(exchange_of(load, name), load.exchange)
                for key, arguments in bindings(load):
                    control.bind(name, exchange_of(load, name), key, arguments)
        yield names
        for name in names:
            wait_empty(control, name)
        _delete(control, load, names)
        control.close()
    except BaseException:
        with contextlib.suppress(LoadError):
            _delete(control, load, names)
        control.sock.close()
        raise


def wait_empty(control: Connection, queue: str) -> None:
    """Wait a little until a queue is empty.

    Raises:
        LoadError: it is not.
    """
    patience = time.monotonic() + 2.0
    while left := control.declare(queue, passive=True):
        if time.monotonic() > patience:
            raise LoadError(f"{left} messages are left in {queue} after all were consumed")
        time.sleep(0.02)


def _delete(control: Connection, load: Load, names: list[str]) -> None:
    for name in names:
        control.delete(name)
        if load.exchange:
            control.delete_exchange(exchange_of(load, name))


def _greet(port: int) -> str:
    connection = Connection(port, timeout_s=10.0)
    connection.close()
    return connection.version


AMQP = Protocol(publish, consume, fresh_queues, _greet, lambda load: True)
