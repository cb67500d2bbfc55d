"""What several commands take: the broker, and where the log goes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import click

from taskyard.cli.logs import LEVELS, configure
from taskyard.errors import BrokerError
from taskyard.yard import Yard

__all__ = ["broker_option", "default_url", "json_option", "log_options", "opened"]

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_FILE = "taskyard.db"


def default_url() -> str:
    """The broker that is used when none is named: a file in the current directory."""
    return f"sqlite:///{quote(str(Path.cwd() / DEFAULT_FILE))}"


def broker_option(command: F) -> F:
    """Add `--broker`."""
    return click.option(
        "--broker",
        "url",
        metavar="URL",
        envvar="TASKYARD_BROKER",
        show_envvar=True,
        default=default_url,
        show_default=f"sqlite:///{DEFAULT_FILE}",
        help="Where messages wait.",
    )(command)


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
