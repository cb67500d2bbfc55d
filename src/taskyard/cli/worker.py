"""`taskyard worker`: work on the tasks of a yard."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import click

from taskyard.cli.load import load_yard
from taskyard.cli.metrics import Endpoints, parse_address
from taskyard.cli.options import log_options
from taskyard.cli.serving import run, settings
from taskyard.yard import Yard

__all__ = ["parse_queues", "worker"]

log = logging.getLogger("taskyard.cli")


def parse_queues(text: str) -> list[str] | dict[str, int]:
    """Read `a,b` or `a:3,b:1`.

    Returns:
        Names, or a concurrency for each.

    Raises:
        ValueError: it is neither.
    """
    names: list[str] = []
    counts: dict[str, int] = {}
    for part in text.split(","):
        name, colon, count = part.strip().rpartition(":")
        if not colon:
            name = count
        elif not count.isdecimal():
            raise ValueError(f"{count!r} in {part.strip()!r} is no whole number")
        else:
            counts[name] = int(count)
        if not name:
            raise ValueError("a name is missing")
        if name in names:
            raise ValueError(f"{name!r} is named twice")
        names.append(name)
    if counts and len(counts) < len(names):
        raise ValueError("give each queue a concurrency, or none")
    return counts or names


def _queues(
    ctx: click.Context, parameter: click.Parameter, value: str | None
) -> list[str] | dict[str, int] | None:
    del ctx, parameter
    if value is None:
        return None
    try:
        return parse_queues(value)
    except ValueError as error:
        raise click.BadParameter(f"{error}; write a,b or a:3,b:1") from None


def _address(
    ctx: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[str, int] | None:
    del ctx, parameter
    try:
        return None if value is None else parse_address(value)
    except ValueError as error:
        raise click.BadParameter(f"{error}; write PORT or HOST:PORT") from None


@click.command(short_help="Work on the tasks of a yard.")
@click.argument("yard", metavar="MODULE:YARD")
@click.option(
    "-p",
    "--processes",
    default=1,
    show_default=True,
    help="Worker processes under a supervisor; 0: work in this one.",
)
@click.option(
    "-c", "--concurrency", default=8, show_default=True, help="Handler calls at a time per process."
)
@click.option(
    "-q",
    "--queues",
    metavar="a,b | a:3,b:1",
    callback=_queues,
    help="Serve only these; with a number: that many calls at a time of this queue per process. "
    "[default: all queues of the yard's tasks]",
)
@click.option("--burst", is_flag=True, help="End when nothing is left that can be done now.")
@click.option(
    "--lease",
    type=float,
    default=30,
    show_default=True,
    help="Seconds for which messages are leased; renewed while work runs.",
)
@click.option(
    "--grace",
    type=float,
    default=30,
    show_default=True,
    help="Seconds that running handlers get to end after SIGTERM or Ctrl-C.",
)
@click.option("--max-messages", type=int, help="Replace a process after so many messages.")
@click.option("--max-memory", type=int, metavar="MB", help="Replace a process that uses more.")
@click.option(
    "--health-file",
    type=click.Path(dir_okay=False),
    help="A file that is touched as long as every process makes progress.",
)
@click.option(
    "--inboxes/--no-inboxes",
    default=True,
    show_default=True,
    help="Take in what other programs push into the queues' inboxes (Redis only).",
)
@click.option(
    "--bare-inboxes/--no-bare-inboxes",
    default=False,
    show_default=True,
    help="With these, also what they push into lists that are named like the queues.",
)
@click.option(
    "--schedules/--no-schedules",
    default=True,
    show_default=True,
    help="Do what is due by schedules, whoever declared them.",
)
@click.option(
    "--metrics",
    metavar="PORT | HOST:PORT",
    callback=_address,
    help="Show metrics to Prometheus there; without a host, to this machine only. Each further "
    "process takes the next port.",
)
@click.option("--fail-fast", is_flag=True, help="End with exit code 1 at the first dead letter.")
@click.option("--broker", "url", metavar="URL", help="Use this broker instead of the yard's own.")
@log_options
def worker(yard: str, url: str | None, metrics: tuple[str, int] | None, **options: Any) -> None:
    """Work on the tasks of a yard: YARD in MODULE, a module or a path/file.py.

    The current directory is importable. A process that dies is replaced, and what it was working
    on is done by another one.

    Ctrl-C and SIGTERM let running handlers end; a second one does not wait for them.

    \b
    Examples:
      taskyard worker tasks:yard
      taskyard worker shop.tasks:yard --processes 4 --concurrency 16
      taskyard worker path/tasks.py:yard --queues mail:3,reports:1
      taskyard worker tasks:yard --burst        # until everything is done, then exit
      taskyard worker tasks:yard --metrics 0.0.0.0:9101
    """
    module, _, attribute = yard.rpartition(":")
    if not module or not attribute:
        raise click.UsageError(
            f"{yard!r} does not say which Yard: write MODULE:YARD, as in tasks:yard or "
            f"path/tasks.py:yard"
        )
    chosen = settings(**options)
    if url is not None:
        Yard(url)  # a wrong one is noticed here
    load = partial(_load, yard, url)
    if metrics is None:
        run(load, chosen)
    else:
        run(load, chosen, Endpoints(*metrics, max(1, chosen.processes)).serve)


def _load(name: str, url: str | None) -> Yard:
    yard = load_yard(name)
    if url is not None:
        yard.use(url)
    return yard
