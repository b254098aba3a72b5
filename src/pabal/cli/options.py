"""What all commands share: --url, --vhost, --json and the like, at any place of the line; how errors end.

`pabal --json queues`, `pabal queues --json` and `pabal queues show --json x` mean the same: each command and group
takes the shared options, and the one nearest to the end wins.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn, cast

import click

from pabal.cli.errors import OK, SAID_NO, UNREACHABLE, WRONG_USAGE, CannotReach, Refused, die

if TYPE_CHECKING:
    from pabal.cli.api import Api
    from pabal.cli.output import Output


class Asked:
    """The shared options of one run, and what is made from them when first needed."""

    def __init__(self) -> None:
        self.given: dict[str, Any] = {}
        self._api: Api | None = None
        self._output: Output | None = None

    @property
    def api(self) -> Api:
        if self._api is None:
            self._api = open_api(self.given.get("url"), self.given.get("user"), self.given.get("ca"))
        return self._api

    @property
    def output(self) -> Output:
        if self._output is None:
            from pabal.cli.output import Output

            self._output = Output(
                json=bool(self.given.get("json")),
                columns=self.given.get("columns") or (),
                sort=self.given.get("sort"),
                quiet=bool(self.given.get("quiet")),
            )
        return self._output

    @property
    def vhost(self) -> str:
        """Of the one thing that is named; "/" where none is given."""
        return str(self.given.get("vhost") or "/")

    @property
    def only_vhost(self) -> str | None:
        """To which a list is restricted; None: lists show all."""
        return self.given.get("vhost")


pass_asked = click.make_pass_decorator(Asked, ensure=True)


def open_api(url: str | None, user: str | None, ca: str | None) -> Api:
    """From the options; the password from the URL, PABAL_PASSWORD or a prompt, never from an option of its own."""
    from pabal.cli.api import DEFAULT_URL, Api, parse_url

    try:
        address = parse_url(url or DEFAULT_URL)
    except ValueError as error:
        die(f"--url or PABAL_URL: {error}", WRONG_USAGE)
    if user is not None and user != address.user:
        address = address._replace(user=user, password=None)
    if address.password is None:
        password = os.environ.get("PABAL_PASSWORD")
        if password is None and sys.stdin.isatty():
            password = click.prompt(f"Password of {address.user}", hide_input=True, err=True)
        if password is None:
            die(f"no password for '{address.user}': set PABAL_PASSWORD", WRONG_USAGE)
        address = address._replace(password=password)
    return Api(address, ca=ca)


def ask_password(what: str, *, from_stdin: bool, confirm: bool = True) -> str:
    """From the first line of stdin, or asked for on a terminal."""
    if from_stdin or not sys.stdin.isatty():
        password = sys.stdin.readline().rstrip("\r\n")
        if not password:
            die("no password on stdin: give it as one line, or run this on a terminal to be asked", WRONG_USAGE)
        return password
    return str(click.prompt(what, hide_input=True, confirmation_prompt=confirm, err=True))


def _keep(context: click.Context, option: click.Parameter, value: Any) -> Any:
    asked = context.ensure_object(Asked)
    if value is not None and value is not False and option.name is not None:
        name = option.name.removeprefix("shared_")
        source = context.get_parameter_source(option.name)
        variable = source is click.core.ParameterSource.ENVIRONMENT
        # A variable counts only where nobody gave the option: also not at an earlier place of the line.
        if not (variable and name in asked.given):
            asked.given[name] = value
    return value


def _columns(context: click.Context, option: click.Parameter, value: str | None) -> Any:
    if value is None:
        return None
    names = [name.strip() for name in value.split(",") if name.strip()]
    return _keep(context, option, names or None)


def _complete_vhosts(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    from pabal.cli.completion import names

    return names(context, incomplete, "vhosts")


def shared_options() -> list[click.Option]:
    """Made anew for each command. Their names cannot be those of an argument, as USER is one of some commands."""
    plain: dict[str, Any] = {"expose_value": False, "callback": _keep}
    return [
        click.Option(
            ["--url", "shared_url"],
            envvar="PABAL_URL",
            metavar="URL",
            help="The broker's HTTP API.  [env PABAL_URL; default http://guest:guest@127.0.0.1:15672]",
            **plain,
        ),
        click.Option(
            ["--user", "shared_user"],
            envvar="PABAL_USER",
            help="Another user than the URL's; asks for the password.",
            **plain,
        ),
        click.Option(
            ["--ca", "shared_ca"],
            envvar="PABAL_CA",
            type=click.Path(dir_okay=False),
            help="Who signs the certificate of an https URL (PEM).",
            **plain,
        ),
        click.Option(
            ["--vhost", "-V", "shared_vhost"],
            envvar="PABAL_VHOST",
            help="The vhost.  [default: / for one thing, all for lists]",
            shell_complete=cast(Any, _complete_vhosts),
            **plain,
        ),
        click.Option(
            ["--json", "shared_json"], is_flag=True, help="Print JSON: the objects of RabbitMQ's HTTP API.", **plain
        ),
        click.Option(
            ["--columns", "shared_columns"],
            metavar="A,B,…",
            help="Which fields to show, by their names in the JSON: name,arguments.x-max-length",
            expose_value=False,
            callback=_columns,
        ),
        click.Option(
            ["--sort", "shared_sort"],
            metavar="FIELD",
            help="Sort a list by a field; -FIELD: the largest first.",
            **plain,
        ),
        click.Option(
            ["--quiet", "-q", "shared_quiet"],
            is_flag=True,
            help="Only names in lists; nothing after a change.",
            **plain,
        ),
    ]


class ApiCommand(click.Command):
    """A command that asks the API: has the shared options, and ends with one line on an error."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += [option for option in shared_options() if not _taken(self, option)]

    def invoke(self, ctx: click.Context) -> Any:
        return errors_end(super().invoke, ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        format_options(self, ctx, formatter)


class ApiGroup(click.Group):
    """A noun: `pabal queues` lists, `pabal queues show x` does something with one of them."""

    command_class = ApiCommand

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("invoke_without_command", True)
        super().__init__(*args, **kwargs)
        self.params += [option for option in shared_options() if not _taken(self, option)]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """An option that only `list` knows means that verb: `pabal bindings --all`."""
        if "list" in self.list_commands(ctx) and self._is_for_list(ctx, args):
            args = ["list", *args]
        return super().parse_args(ctx, args)

    def _is_for_list(self, ctx: click.Context, args: list[str]) -> bool:
        known = {name: option for option in self.get_params(ctx) for name in option.opts}
        left = iter(args)
        for word in left:
            name, sign, _ = word.partition("=")
            if not word.startswith("-") or word == "--":
                return False
            option = known.get(name) or known.get(word[:2])
            if not isinstance(option, click.Option):
                return True
            if not option.is_flag and not sign and word in option.opts:
                next(left, None)
        return False

    def invoke(self, ctx: click.Context) -> Any:
        return errors_end(super().invoke, ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        format_options(self, ctx, formatter)
        self.format_commands(ctx, formatter)


def _taken(command: click.Command, option: click.Option) -> bool:
    """A command's own option of that name goes first."""
    return any(set(option.opts) & set(other.opts) for other in command.params)


def format_options(command: click.Command, ctx: click.Context, formatter: click.HelpFormatter) -> None:
    """Its own options; those of every command are told in full by `pabal --help` only."""
    shared = {option.name for option in shared_options()}
    own: list[tuple[str, str]] = []
    common: list[tuple[str, str]] = []
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is not None and record[1]:
            (common if parameter.name in shared else own).append(record)
    if own:
        with formatter.section("Options"):
            formatter.write_dl(own)
    if ctx.parent is None:
        with formatter.section("Options of every command"):
            formatter.write_dl(common)
    else:
        formatter.write_paragraph()
        formatter.write_text("And --url --user --ca --vhost --json --columns --sort --quiet: see pabal --help.")


def errors_end(invoke: Any, ctx: click.Context) -> Any:
    try:
        return invoke(ctx)
    except CannotReach as error:
        die(str(error), UNREACHABLE)
    except Refused as error:
        die(str(error), SAID_NO)
    except BrokenPipeError:  # `pabal queues | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(OK) from None


def needs_pabal(asked: Asked, command: str, error: Refused) -> NoReturn:
    """Raises what says so where another broker answers, else `error`: for what is below /api/pabal/."""
    product = asked.api.get("overview").get("product_name") or "RabbitMQ"
    if product != "Pabal":
        raise Refused(
            error.status, f"`{command}` needs Pabal; at {asked.api.address.shown} there is {product}"
        ) from None
    raise error
