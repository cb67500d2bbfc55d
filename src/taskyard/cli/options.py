"""What several commands take: the broker, and where the log goes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import click
from click.core import ParameterSource

from taskyard.brokers.started import start_here, started_here
from taskyard.brokers.urls import REDIS_HOST, REDIS_PASSWORD, REDIS_PORT, redis_url
from taskyard.cli.logs import LEVELS, configure
from taskyard.errors import BrokerError
from taskyard.yard import Yard

if TYPE_CHECKING:
    from taskyard.brokers.redis.server import OwnServer

__all__ = [
    "broker_option",
    "broker_options",
    "default_url",
    "json_option",
    "log_options",
    "opened",
    "own_server",
    "own_server_options",
    "refuse_options",
]

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_FILE = "taskyard.db"
PLACE = "taskyard.cli.redis"
"""Under this a running command knows host, port and password of its Redis."""


# The broker


def default_url() -> str:
    """The broker that is used when none is named.

    Returns:
        The URL of the server that `taskyard start --redis-start` has running in the current
        directory; without one, that of a file there.
    """
    found = started_here()
    if found:
        host, _, port = found.rpartition(":")
        return redis_url(host.strip("[]"), int(port))
    return f"sqlite:///{quote(str(Path.cwd() / DEFAULT_FILE))}"


def broker_options(default: Callable[[], str], shown: str) -> Callable[[F], F]:
    """Add `--broker`, and `--redis-host`, `--redis-port` and `--redis-pass`, which make it a URL.

    The command gets `url`.

    Arguments:
        default: gives the broker that is used when none is named.
        shown: how the help describes it.
    """
    options = (
        click.option(
            "--broker",
            "url",
            metavar="URL",
            envvar="TASKYARD_BROKER",
            show_envvar=True,
            default=default,
            show_default=shown,
            callback=_choose_broker,
            help="Where messages wait.",
        ),
        # Eager ones have their values when the one above is looked at.
        click.option(
            "-H",
            "--redis-host",
            metavar="HOST",
            is_eager=True,
            help=f"Use the Redis at this host, without --broker. [default with -P or -p: "
            f"{REDIS_HOST}]",
        ),
        click.option(
            "-P",
            "--redis-port",
            type=click.IntRange(1, 65_535),
            metavar="PORT",
            is_eager=True,
            help=f"Use the Redis at this port. [default with -H or -p: {REDIS_PORT}]",
        ),
        click.option(
            "-p",
            "--redis-pass",
            metavar="PASSWORD",
            envvar=REDIS_PASSWORD,
            show_envvar=True,
            is_eager=True,
            help="The password for it. Others on this machine see it here; the variable they "
            "do not.",
        ),
    )

    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def broker_option(command: F) -> F:
    """Add the `broker_options` of the commands of `taskyard`."""
    return broker_options(default_url, f"sqlite:///{DEFAULT_FILE}")(command)


def _choose_broker(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    """Make one URL of what was given."""
    names = ("redis_host", "redis_port", "redis_pass")
    given = [name for name in names if _is_typed(ctx, name)]
    host, port, password = (ctx.params.pop(name) for name in names)
    host, port = host or REDIS_HOST, port or REDIS_PORT
    ctx.meta[PLACE] = (host, port, password)
    if not given:
        return value
    if _is_typed(ctx, parameter.name or ""):
        flag = f"--{given[0].replace('_', '-')}"
        raise click.UsageError(f"{flag} and --broker both say where messages wait: give one")
    return redis_url(host, port, password)


def _is_typed(ctx: click.Context, name: str) -> bool:
    """Whether an option was given on the command line, not by a default or the environment."""
    return ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE


# A server of one's own


def own_server_options(command: F) -> F:
    """Add `--redis-start` and `--redis-datadir`; goes with `broker_option` and `own_server`."""
    options = (
        click.option(
            "-S",
            "--redis-start",
            is_flag=True,
            help="Start a Redis server of one's own, use it, and stop it in the end. The other "
            "commands find it when they run in the same directory.",
        ),
        click.option(
            "-D",
            "--redis-datadir",
            type=click.Path(file_okay=False),
            metavar="DIR",
            help="Where it keeps its data. [default: taskyard-redis]",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@contextlib.contextmanager
def own_server(*, redis_start: bool, redis_datadir: str | None) -> Iterator[OwnServer | None]:
    """Have the server run that was asked for with `--redis-start`, if it was.

    Arguments:
        redis_start: what the running command was given.
        redis_datadir: the same.

    Raises:
        UsageError: the options contradict each other.
        MissingExtra: redis-py is not installed, or there is no server to start.
        BrokerError: it did not start.
    """
    ctx = click.get_current_context()
    if not redis_start:
        if redis_datadir is not None:
            raise click.UsageError("--redis-datadir needs --redis-start")
        yield None
        return
    if _is_typed(ctx, "url"):
        raise click.UsageError("--redis-start starts the broker: leave out --broker")
    host, port, password = ctx.meta[PLACE]
    with start_here(host, port, redis_datadir, password, what="--redis-start") as server:
        yield server


# Others


def json_option(help_: str) -> Callable[[F], F]:
    """Add `--json`.

    Arguments:
        help_: what is printed then.
    """
    return click.option("--json", "as_json", is_flag=True, help=help_)


def log_options(command: F) -> F:
    """Add `--log-level`, `--log-file` and `--log-format`; they are applied before the command."""

    def apply(ctx: click.Context, parameter: click.Parameter, value: str) -> None:
        # Eager parameters are processed first, so the other two have their values by now.
        del parameter
        form = ctx.params.pop("log_format")
        try:
            configure(value, ctx.params.pop("log_file"), form)
        except OSError as error:
            raise click.BadParameter(str(error), param_hint="--log-file") from error
        except ValueError as error:
            raise click.BadParameter(
                f"{form!r} is neither text nor json, nor a format as in "
                f"'%(asctime)s %(levelname)s %(message)s': {error}",
                param_hint="--log-format",
            ) from error

    options = (
        click.option(
            "-l",
            "--log-level",
            type=click.Choice(LEVELS, case_sensitive=False),
            default="info",
            show_default=True,
            expose_value=False,
            callback=apply,
            help="The least level that is logged.",
        ),
        click.option(
            "-f",
            "--log-file",
            type=click.Path(dir_okay=False, writable=True),
            is_eager=True,
            help="Log there instead of to stderr.",
        ),
        click.option(
            "-F",
            "--log-format",
            metavar="text | json | FORMAT",
            default="text",
            show_default=True,
            is_eager=True,
            help="A line of text, or a JSON object, per record; or a format of Python's logging.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def refuse_options(ctx: click.Context) -> None:
    """Say where the options of a group belong that stand before one of its commands."""
    for parameter in ctx.command.params:
        name = parameter.name or ""
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(
                f"{parameter.opts[-1]} stands behind the command: taskyard {ctx.info_name} "
                f"{ctx.invoked_subcommand} {parameter.opts[-1]}…"
            )


@contextlib.contextmanager
def opened(url: str, *, create: bool = False) -> Iterator[Yard]:
    """A yard without tasks, to look at a broker or add to it.

    Arguments:
        url: the broker.
        create: whether a missing file is made.

    Raises:
        BrokerError: the URL is wrong, or there is nothing to open.
    """
    yard = Yard(url)
    if not yard.broker.shared:
        raise BrokerError(
            f"{yard.broker.url} lives and ends with its process, so this command would always "
            f"find it empty: give a broker that processes share, as in sqlite:///yard.db"
        )
    path = getattr(yard.broker, "path", None)  # brokers on servers have none
    if isinstance(path, Path) and not create and not path.exists():
        raise BrokerError(
            f"{path}: no such file. It is made by the first `taskyard add` or `start`; is "
            f"--broker or TASKYARD_BROKER right?"
        )
    with yard:
        yield yard
