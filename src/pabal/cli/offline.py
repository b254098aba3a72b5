"""`pabal restore` and `pabal check`: what works on a data directory while no broker uses it."""

from __future__ import annotations

import json
from pathlib import Path

import click

from pabal.cli.errors import OK, SAID_NO, WRONG_USAGE, die
from pabal.cli.options import Asked, pass_asked

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_QUIET = click.option("--quiet", "-q", is_flag=True, help="Only the exit code.")
_DIRECTORY = click.argument("directory", type=click.Path(file_okay=False, path_type=Path), default="pabal-data")


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@_DIRECTORY
@_JSON
@_QUIET
@pass_asked
def restore_command(asked: Asked, file: Path, directory: Path, as_json: bool, quiet: bool) -> None:
    """Make the data DIRECTORY (./pabal-data, unless given) from the backup FILE: complete, or not at all."""
    from pabal.cli.text import size
    from pabal.store.backup import BackupError, restore

    try:
        made = restore(file, directory)
    except BackupError as error:
        die(str(error), SAID_NO)
    except OSError as error:
        die(f"{error.filename or file}: {error.strerror}", SAID_NO)
    if as_json or asked.given.get("json"):
        click.echo(json.dumps({"directory": str(directory), **made._asdict()}, indent=2))
    elif not (quiet or asked.given.get("quiet")):
        click.echo(f"{directory} is as it was at {made.time}: {size(made.data_bytes)}, of Pabal {made.version}")


@click.command()
@_DIRECTORY
@_JSON
@_QUIET
@pass_asked
def check_command(asked: Asked, directory: Path, as_json: bool, quiet: bool) -> None:
    """Read all of a data DIRECTORY (./pabal-data, unless given) and say what is in it and what is wrong with it.

    Changes nothing. Ends with 0 if it is sound, 1 with faults, 2 if it cannot be checked.
    """
    from pabal.store.audit import check

    lines: list[str] = []
    code = check(directory, lines.append)
    if code == WRONG_USAGE:
        die("; ".join(lines), code)
    if as_json or asked.given.get("json"):
        click.echo(json.dumps({"directory": str(directory), "sound": code == OK, "lines": lines}, indent=2))
    elif not (quiet or asked.given.get("quiet")):
        click.echo("\n".join(lines))
    raise SystemExit(code)
