"""The group of all commands, each imported only when it is called: `pabal serve` starts no slower for the others."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import click

INTERRUPTED = 130
"""The exit code of a shell's command that ended by Ctrl-C."""
SECTIONS: dict[str, dict[str, tuple[str, str]]] = {
    "Run a broker": {
        "serve": ("main", "Start the broker."),
        "restore": ("offline", "Make a data directory from a backup."),
        "check": ("offline", "Verify a data directory."),
        "hash-password": ("main", "Make the hash for `users` in the settings file."),
    },
    "Look": {
        "status": ("status", "The broker on one screen."),
        "top": ("top", "Rates, ready and leased by queue, live."),
        "queues": ("queues", "List, show, declare, delete, purge."),
        "exchanges": ("exchanges", "List, show, declare, delete."),
        "bindings": ("exchanges", "List, add, delete."),
        "connections": ("connections", "List, show, close."),
        "channels": ("connections", "List, show."),
        "consumers": ("connections", "List."),
        "tap": ("tap", "The frames of a living connection, as they pass."),
    },
    "Messages": {
        "publish": ("messages", "Send messages."),
        "get": ("messages", "Take messages from a queue, or give them back."),
        "peek": ("peek", "Look at messages where they are, with filters."),
        "purge": ("queues", "Delete all ready messages of a queue."),
    },
    "Steer": {
        "users": ("users", "List, add, delete, set passwords and tags."),
        "permissions": ("permissions", "List, set, clear; of topics too."),
        "policies": ("policies", "List, set, clear; of operators too."),
        "vhosts": ("vhosts", "List, show, add, delete."),
        "limits": ("vhosts", "List, set, clear, of vhosts and users."),
        "export": ("definitions", "Write all definitions as JSON."),
        "import": ("definitions", "Take definitions from a file or a running RabbitMQ."),
        "backup": ("definitions", "Write a consistent copy of the data of a running broker."),
        "completion": ("completion", "Print the completion of a shell."),
    },
}
"""Command: its module below pabal.cli, and what --help says of it without importing that."""
_COMMANDS = {name: entry for section in SECTIONS.values() for name, entry in section.items()}


_LOCAL = frozenset({"serve", "hash-password", "--version"})
"""What asks no API: these start without the shared options, which cost milliseconds to make."""


class MainGroup(click.Group):
    """`pabal`. The modules of commands are imported at their first use."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"invoke_without_command": True, **kwargs})
        self._has_shared = False

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not self._has_shared and args and args[0] not in _LOCAL:
            from pabal.cli.options import shared_options

            self.params += shared_options()
            self._has_shared = True
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from pabal.cli.options import format_options

        format_options(self, ctx, formatter)
        self.format_commands(ctx, formatter)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        if cmd_name not in self.commands:
            module = import_module(f"pabal.cli.{_COMMANDS[cmd_name][0]}")
            command = getattr(module, cmd_name.replace("-", "_") + "_command")
            self.add_command(command, cmd_name)
        return self.commands[cmd_name]

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """A wrong line is answered by one line too, and exit code 2."""
        click_main: Any = super().main
        if not standalone_mode:
            return click_main(*args, standalone_mode=False, **extra)
        try:
            sys.exit(click_main(*args, standalone_mode=False, **extra))
        except click.UsageError as error:
            from pabal.cli.errors import WRONG_USAGE, die

            at = error.ctx.command_path if error.ctx else "pabal"
            die(f"{error.format_message().rstrip('.')}; see `{at} --help`", WRONG_USAGE)
        except click.ClickException as error:
            from pabal.cli.errors import WRONG_USAGE, die

            die(error.format_message(), WRONG_USAGE)
        except (click.Abort, KeyboardInterrupt):
            click.echo(err=True)
            sys.exit(INTERRUPTED)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """A word that is no command is told with the nearest that is."""
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            from difflib import get_close_matches

            close = get_close_matches(args[0], _COMMANDS, n=1)
            hint = f"; did you mean `pabal {close[0]}`?" if close else ""
            raise click.UsageError(f"there is no command '{args[0]}'{hint}", ctx)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """Without importing every module for its help."""
        from click.shell_completion import CompletionItem

        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return [
            CompletionItem(name, help=text) for name, (_, text) in _COMMANDS.items() if name.startswith(incomplete)
        ]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(len(name) for name in _COMMANDS)
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), text) for name, (_, text) in commands.items()])
