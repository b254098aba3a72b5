"""`pabal export`, `pabal import` and `pabal backup`: what goes to files and comes from them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from pabal.cli.api import path
from pabal.cli.errors import SAID_NO, WRONG_USAGE, Refused, die
from pabal.cli.options import ApiCommand, Asked, needs_pabal, open_api, pass_asked
from pabal.cli.text import amount, size

_KINDS = {
    "vhosts": "vhost",
    "users": "user",
    "permissions": "permission",
    "topic_permissions": "topic permission",
    "parameters": "parameter",
    "global_parameters": "global parameter",
    "policies": "policy",
    "exchanges": "exchange",
    "queues": "queue",
    "bindings": "binding",
}
"""The parts of definitions, in the order of RabbitMQ's file."""


@click.command("export", cls=ApiCommand)
@click.argument("file", required=False, type=click.Path(dir_okay=False))
@pass_asked
def export_command(asked: Asked, file: str | None) -> None:
    """Write all definitions (those of one vhost with -V) as RabbitMQ's JSON, to FILE or stdout. They hold the users'
    password hashes: FILE is readable by its owner only."""
    definitions = asked.api.get(path("definitions", asked.only_vhost) if asked.only_vhost else "definitions")
    text = json.dumps(definitions, indent=2, ensure_ascii=False) + "\n"
    if file is None or file == "-":
        click.echo(text, nl=False)
        return
    with _Whole(Path(file)) as whole:
        whole.write(text.encode("utf-8", "surrogatepass"))
    asked.output.did(f"{_summary(definitions)} written to {file}", file=file, **_counts(definitions))


@click.command("import", cls=ApiCommand)
@click.argument("source")
@click.option("--dry-run", is_flag=True, help="Only say what it holds.")
@pass_asked
def import_command(asked: Asked, source: str, dry_run: bool) -> None:
    """Take definitions from SOURCE: a file, - for stdin, or the URL of the HTTP API of a running RabbitMQ or Pabal.

    \b
    pabal import definitions.json
    pabal import http://admin@rabbit:15672       (asks for the password)

    What is there already and is not in SOURCE stays. With -V only one vhost's queues, exchanges, bindings and
    policies are taken.
    """
    definitions = _read(asked, source)
    counts = _counts(definitions)
    if not counts:
        die(f"{source}: no definitions in it; expected what `pabal export` or RabbitMQ's export writes", WRONG_USAGE)
    if dry_run:
        asked.output.did(f"{source} holds {_summary(definitions)}", source=_shown(source), **counts)
        return
    asked.api.post(path("definitions", asked.only_vhost) if asked.only_vhost else "definitions", definitions)
    asked.output.did(f"{_summary(definitions)} taken from {_shown(source)}", source=_shown(source), **counts)


def _read(asked: Asked, source: str) -> dict[str, Any]:
    if source.startswith(("http://", "https://")):
        api = open_api(source, None, asked.given.get("ca"))
        found = api.get(path("definitions", asked.only_vhost) if asked.only_vhost else "definitions")
    else:
        try:
            text = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
        except OSError as error:
            die(f"{source}: {error.strerror}", WRONG_USAGE)
        try:
            found = json.loads(text)
        except ValueError as error:
            die(f"{source}: not JSON: {error}", WRONG_USAGE)
    if not isinstance(found, dict):
        die(f"{source}: expected a JSON object, as `pabal export` writes it", WRONG_USAGE)
    return found


def _shown(source: str) -> str:
    """Without the password."""
    if not source.startswith(("http://", "https://")):
        return source
    from pabal.cli.api import parse_url

    return parse_url(source).shown


def _counts(definitions: dict[str, Any]) -> dict[str, int]:
    return {kind: len(definitions[kind]) for kind in _KINDS if isinstance(definitions.get(kind), list)}


def _summary(definitions: dict[str, Any]) -> str:
    parts = [amount(count, _KINDS[kind]) for kind, count in _counts(definitions).items() if count]
    return ", ".join(parts) or "nothing"


@click.command("backup", cls=ApiCommand)
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--force", is_flag=True, help="Replace FILE.")
@pass_asked
def backup_command(asked: Asked, file: str, force: bool) -> None:
    """Write all data of the running broker, as of one moment, to FILE (a tar). `pabal restore` is the way back.

    FILE appears only when it is whole. The broker goes on; publishers wait if much gathers before the copy is done.
    """
    target = Path(file)
    if target.exists() and not force:
        die(f"{file} is there already: another name, or --force", WRONG_USAGE)
    try:
        with _Whole(target) as whole:
            for piece in asked.api.stream("POST", path("pabal", "backup")):
                whole.write(piece)
    except Refused as error:
        needs_pabal(asked, "pabal backup", error)
    asked.output.did(f"{size(whole.bytes)} written to {file}", file=file, bytes=whole.bytes)


class _Whole:
    """A file that is there only when all is written and on disk. For its owner's eyes."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._part = target.with_name(f".{target.name}.{os.getpid()}.part")
        self.bytes = 0

    def __enter__(self) -> _Whole:
        try:
            self._file = open(os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        except OSError as error:
            die(f"{self._target}: {error.strerror}", SAID_NO)
        return self

    def write(self, piece: bytes) -> None:
        try:
            self._file.write(piece)
        except OSError as error:
            raise self._not_written(error) from None
        self.bytes += len(piece)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()
                os.replace(self._part, self._target)
                directory = os.open(self._target.parent, os.O_RDONLY)
                try:
                    os.fsync(directory)
                finally:
                    os.close(directory)
        except OSError as error:
            raise self._not_written(error) from None
        finally:
            self._drop()

    def _drop(self) -> None:
        import contextlib

        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(FileNotFoundError):
            self._part.unlink()

    def _not_written(self, error: OSError) -> Refused:
        return Refused(0, f"{self._target}: {error.strerror}; nothing was written")
