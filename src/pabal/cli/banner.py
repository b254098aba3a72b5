"""What `pabal serve` says when it is ready: on a terminal for people to read, otherwise as lines of the log."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pabal import __version__
from pabal.server.logs import goes_to_journal
from pabal.server.settings import Settings

if TYPE_CHECKING:
    from pabal.server.listeners import Listener

_NAMES = {
    "amqp": "AMQP 0-9-1",
    "amqps": "AMQP TLS",
    "http": "HTTP API",
    "https": "HTTPS API",
    "http/prometheus": "metrics",
}
_SCHEMES = {"http": "http://{}/api/", "https": "https://{}/api/", "http/prometheus": "http://{}/metrics"}
_EVERY_OR_LOOPBACK = ("127.0.0.1", "0.0.0.0", "::1", "::", "")


def announce(settings: Settings, listeners: Iterable[Listener], guest: bool, ready_ms: float) -> None:
    """`guest`: the user guest can connect."""
    where = "nowhere: everything is forgotten at the end" if settings.memory else str(Path(settings.data).resolve())
    rows = [(_NAMES.get(li.protocol, li.protocol), _address(li)) for li in listeners]
    if settings.log_format != "text" or settings.log_file or goes_to_journal(os.environ, sys.stderr):
        log = logging.getLogger("pabal")
        for name, value in rows:
            log.info("listens for %s at %s", name, value)
        log.info("pabal %s ready in %.0f ms, data: %s", __version__, ready_ms, where)
        return
    amqp = next(((i, li) for i, li in enumerate(listeners) if li.protocol in ("amqp", "amqps")), None)
    if amqp is not None:
        rows.insert(amqp[0] + 1, ("connect", _url(amqp[1], guest)))
    rows.append(("data", where))
    click.echo(click.style(f"\n  pabal {__version__}", bold=True) + f"  ready in {ready_ms:.0f} ms\n")
    for name, value in rows:
        click.echo(f"  {click.style(f'{name:<11}', dim=True)} {value}")
    click.echo(click.style("\n  Ctrl-C stops it.\n", dim=True))
    sys.stdout.flush()


def _host(listener: Listener) -> str:
    return f"[{listener.address}]" if ":" in listener.address else listener.address or "*"


def _address(listener: Listener) -> str:
    return _SCHEMES.get(listener.protocol, "{}").format(f"{_host(listener)}:{listener.port}")


def _url(listener: Listener, guest: bool) -> str:
    host = "localhost" if listener.address in _EVERY_OR_LOOPBACK else _host(listener)
    return f"{listener.protocol}://{'guest:guest' if guest else 'USER:PASSWORD'}@{host}:{listener.port}/"
