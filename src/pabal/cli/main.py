"""`pabal`: the commands a person types."""

from __future__ import annotations

import gc
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click

from pabal import __version__, compiled
from pabal.cli.main_group import MainGroup

_STARTED = time.monotonic()


def _show_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        form = "compiled" if compiled() else "plain Python"
        click.echo(f"pabal {__version__} ({form}, Python {sys.version.split()[0]})")
        context.exit()


@click.group(cls=MainGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show it.")
@click.pass_context
def main(context: click.Context) -> None:
    """Pabal: a durable message queue broker that RabbitMQ's clients use unchanged."""
    if os.environ.get("NO_COLOR"):
        context.color = False
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@main.command()
@click.option("--port", type=int, help="AMQP port; 0 for any free one.  [default: 5672]")
@click.option("--bind", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--data", type=click.Path(file_okay=False), help="Data directory.  [default: ./pabal-data]")
@click.option("--memory", is_flag=True, default=None, help="Keep nothing on disk.")
@click.option("--config", type=click.Path(dir_okay=False, path_type=Path), help="A TOML file with settings.")
@click.option("--http-port", type=int, help="Port of the HTTP API; 0 for any free one.  [default: 15672]")
@click.option("--http/--no-http", default=None, help="Serve the HTTP API.  [default: yes]")
@click.option("--compat", help="Stand for rabbitmq-3.12 or rabbitmq-4.3.  [default: rabbitmq-3.12]")
@click.option("--log-level", help="debug, info, warning or error.  [default: info]")
@click.option("--log-format", help="text or json.  [default: text]")
def serve(config: Path | None, **given: Any) -> None:
    """Start the broker. Settings come from the command line, PABAL_* variables, then --config."""
    gc.disable()  # what is made until the server has started stays; then the server enables it

    from pabal.server.settings import SettingsError, load_settings

    try:
        settings = load_settings(config, os.environ, given)
    except SettingsError as error:
        _die(str(error), 2)
    from pabal.model.errors import StoreError
    from pabal.server.logs import start_log

    try:
        start_log(settings, os.environ)
    except OSError as error:
        _die(f"log_file = '{settings.log_file}': {error.strerror}", 2)

    try:
        _run(settings, lambda: load_settings(config, os.environ, given))
    except SettingsError as error:
        _die(str(error), 2)
    except StoreError as error:
        _die(str(error), 1)


def _run(settings: Any, reread: Callable[[], Any]) -> None:
    from pabal.cli.banner import announce
    from pabal.server.open_store import open_store
    from pabal.server.server import Server
    from pabal.server.service import Supervisor

    log = logging.getLogger("pabal")
    store = open_store(settings)

    async def run() -> None:
        server = Server(settings, store, log, reread, Supervisor(os.environ))
        try:
            await server.start()
        except OSError as error:
            store.close()
            _die(error.strerror or str(error), 1)
        announce(settings, server.listeners.all, server.guest, (time.monotonic() - _STARTED) * 1000)
        await server.run()
        log.info("stopped: everything confirmed is on disk" if not settings.memory else "stopped")

    _event_loop_run(run)


def _event_loop_run(main_coroutine: Any) -> None:
    try:
        import uvloop
    except ImportError:
        import asyncio

        asyncio.run(main_coroutine())
    else:
        uvloop.run(main_coroutine())


@main.command("hash-password")
def hash_password_command() -> None:
    """Ask for a password, print the hash for `users` in the settings file."""
    import getpass
    import secrets

    from pabal.model.passwords import hash_password

    password = getpass.getpass("Password: ") if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
    if not password:
        _die("an empty password is not one", 2)
    click.echo(hash_password(password, secrets.token_bytes(16)))


def _die(message: str, code: int) -> NoReturn:
    from pabal.cli.errors import die

    die(message, code)
