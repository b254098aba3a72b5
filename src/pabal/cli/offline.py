"""`pabal restore` and `pabal check`: what works on a data directory while no broker uses it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import click

from pabal.cli.errors import SAID_NO, die


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path), default="pabal-data")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def restore_command(file: Path, directory: Path, as_json: bool) -> None:
    """Make the data DIRECTORY (./pabal-data, unless given) from the backup FILE: complete, or not at all."""
    import json

    from pabal.cli.text import size

    backup: Any = import_module("pabal.store.backup")

    try:
        made = backup.restore(file, directory)
    except backup.BackupError as error:
        die(str(error), SAID_NO)
    except OSError as error:
        die(f"{error.filename or file}: {error.strerror}", SAID_NO)
    if as_json:
        click.echo(json.dumps({"directory": str(directory), **made._asdict()}, indent=2))
        return
    click.echo(f"{directory} is as it was at {made.time}: {size(made.data_bytes)}, of Pabal {made.version}")
    click.echo(click.style(f"start it: pabal serve --data {directory}", dim=True))


@click.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path), default="pabal-data")
@click.pass_context
def check_command(context: click.Context, directory: Path) -> Any:
    """Read all of a data DIRECTORY (./pabal-data, unless given) and say what is in it and what is wrong with it.

    Changes nothing. Ends with 0 if it is sound, 1 with faults, 2 if it cannot be checked.
    """
    audit: Any = import_module("pabal.store.audit")
    context.exit(audit.check(directory, click.echo))
