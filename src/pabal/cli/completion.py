"""`pabal completion SHELL`, and the names of things that a shell completes, asked from the broker."""

from __future__ import annotations

from typing import Any

import click

_SECONDS_MAX = 1.0


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> None:
    """Print the completion of SHELL, of commands, options and the broker's names.

    \b
    bash:  echo 'eval "$(pabal completion bash)"' >> ~/.bashrc
    zsh:   echo 'eval "$(pabal completion zsh)"' >> ~/.zshrc
    fish:  pabal completion fish > ~/.config/fish/completions/pabal.fish
    """
    from click.shell_completion import get_completion_class

    from pabal.cli.main import main

    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"click knows no completion of {shell}")
    click.echo(kind(main, {}, "pabal", "_PABAL_COMPLETE").source())


def names(context: click.Context, incomplete: str, what: str) -> list[str]:
    """Names that begin so; none where the broker does not answer at once: completion never asks and never fails."""
    from pabal.cli.api import DEFAULT_URL, Api, parse_url, path
    from pabal.cli.errors import CannotReach, Refused
    from pabal.cli.options import Asked

    given = context.ensure_object(Asked).given
    try:
        address = parse_url(given.get("url") or DEFAULT_URL)
    except ValueError:
        return []
    if given.get("user") not in (None, address.user) or address.password is None:
        import os

        address = address._replace(
            user=given.get("user") or address.user, password=os.environ.get("PABAL_PASSWORD", "")
        )
    api = Api(address, ca=given.get("ca"), timeout_seconds=_SECONDS_MAX)
    # What does not say otherwise acts in "/", so that is whose names are offered.
    where = path(what, given.get("vhost") or "/") if what in ("queues", "exchanges", "policies") else what
    try:
        found = api.get(where, columns="name")
    except (CannotReach, Refused, OSError):
        return []
    if not isinstance(found, list):
        return []
    all_names = [row["name"] for row in found if isinstance(row, dict) and row.get("name")]
    return sorted(name for name in all_names if name.startswith(incomplete))


def completes(what: str) -> Any:
    """For `shell_complete` of an argument: names of `what`, a path below /api/."""

    def complete(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
        return names(context, incomplete, what)

    return complete
