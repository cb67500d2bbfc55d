"""What several commands take: the broker, and where the log goes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import click
from click.core import ParameterSource

from taskyard.cli.logs import LEVELS, configure
from taskyard.errors import BrokerError, MissingExtra
from taskyard.yard import Yard

if TYPE_CHECKING:
    from taskyard.brokers.redis.server import OwnServer

__all__ = [
    "broker_option",
    "default_url",
    "json_option",
    "log_options",
    "opened",
    "own_server",
    "own_server_options",
]

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_FILE = "taskyard.db"
NOTE = "taskyard.redis"
"""A file in the current directory, as long as a server runs that was started there: its folder."""

REDIS_HOST = "127.0.0.1"
REDIS_PORT = 6379
PASSWORD = "TASKYARD_REDIS_PASS"  # noqa: S105 - only the name of the variable


# The broker


def default_url() -> str:
    """The broker that is used when none is named.

    Returns:
        The URL of the server that `taskyard start --redis-start` has running in the current
        directory; without one, that of a file there.
    """
    found = _started_here()
    if found:
        return _redis_url(found, os.environ.get(PASSWORD))
    return f"sqlite:///{quote(str(Path.cwd() / DEFAULT_FILE))}"


def broker_option(command: F) -> F:
    """Add `--broker`, and `--redis-host`, `--redis-port` and `--redis-pass`, which make it a URL.

    The command gets `url`.
    """
    options = (
        click.option(
            "--broker",
            "url",
            metavar="URL",
            envvar="TASKYARD_BROKER",
            show_envvar=True,
            default=default_url,
            show_default=f"sqlite:///{DEFAULT_FILE}",
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
            envvar=PASSWORD,
            show_envvar=True,
            is_eager=True,
            help="The password for it. Others on this machine see it here; the variable they "
            "do not.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _choose_broker(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    """Make one URL of what was given."""
    names = ("redis_host", "redis_port", "redis_pass")
    given = [name for name in names if _is_typed(ctx, name)]
    host, port, password = (ctx.params.pop(name) for name in names)
    host, port = host or REDIS_HOST, port or REDIS_PORT
    ctx.meta[NOTE] = (host, port, password)
    if not given:
        return value
    if _is_typed(ctx, parameter.name or ""):
        flag = f"--{given[0].replace('_', '-')}"
        raise click.UsageError(f"{flag} and --broker both say where messages wait: give one")
    return _redis_url(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", password)


def _is_typed(ctx: click.Context, name: str) -> bool:
    """Whether an option was given on the command line, not by a default or the environment."""
    return ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE


def _redis_url(address: str, password: str | None) -> str:
    login = f":{quote(password, safe='')}@" if password else ""
    return f"redis://{login}{address}/0"


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
    try:
        from taskyard.brokers.redis.server import OwnServer
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"--redis-start needs the package {error.name}: pip install 'taskyard[redis]'"
        ) from error
    host, port, password = ctx.meta[NOTE]
    with OwnServer(host, port, redis_datadir, password) as server:
        note = Path(NOTE).absolute()
        note.write_text(f"{server.datadir}\n")
        try:
            yield server
        finally:
            note.unlink(missing_ok=True)


def _started_here() -> str | None:
    """The address of the server that runs for this directory, if one does."""
    try:
        folder = Path(NOTE).read_text().rstrip("\n")
    except OSError:
        return None
    from taskyard.brokers.redis.server import running_server

    return running_server(folder)


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
        try:
            configure(value, ctx.params.pop("log_file"), ctx.params.pop("log_format"))
        except OSError as error:
            raise click.BadParameter(str(error), param_hint="--log-file") from error

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
            type=click.Choice(["text", "json"]),
            default="text",
            show_default=True,
            is_eager=True,
            help="A line of text, or a JSON object, per record.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


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
