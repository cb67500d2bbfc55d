"""`taskyard start`: serve queues with plain functions, without a line of code."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeVar

import click

from taskyard.cli.load import load_function
from taskyard.cli.options import broker_option, log_options, own_server, own_server_options
from taskyard.cli.serving import run, settings
from taskyard.errors import PolicyError
from taskyard.plain import batch_of, serve_plain
from taskyard.yard import Yard

__all__ = ["Names", "serve_named", "start", "start_options"]

log = logging.getLogger("taskyard.start")

F = TypeVar("F", bound=Callable[..., Any])


def start_options(*, on_error: str, bare_inboxes: bool) -> Callable[[F], F]:
    """Add what says which functions serve which queues, and how; goes with `serve_named`.

    Arguments:
        on_error: the default of `--on-error`.
        bare_inboxes: that of `--bare-inboxes`.
    """
    options = (
        click.option(
            "-t",
            "--task",
            "tasks",
            nargs=2,
            multiple=True,
            required=True,
            metavar="NAME CALLABLE",
            help="A queue, and what to call with a list of its messages. Can be given several "
            "times.",
        ),
        click.option(
            "-b",
            "--batch-size",
            default=20,
            show_default=True,
            help="Messages of one call at most.",
        ),
        click.option(
            "-i",
            "--flush-interval",
            type=float,
            default=5,
            show_default=True,
            help="Seconds after which a batch is handed over even if it is not full.",
        ),
        click.option(
            "-n",
            "--procs-number",
            "processes",
            default=1,
            show_default=True,
            help="Worker processes; 0: work in this one.",
        ),
        click.option(
            "-c",
            "--concurrency",
            default=1,
            show_default=True,
            help="Calls at a time in each process; with more than 1, functions must be "
            "thread-safe.",
        ),
        click.option(
            "-e",
            "--on-error",
            type=click.Choice(["log", "fail"]),
            default=on_error,
            show_default=True,
            help="When a call raises: log it and go on, or end the program with exit code 1.",
        ),
        click.option(
            "--lease",
            type=float,
            default=30,
            show_default=True,
            help="Seconds for which messages are leased; renewed while work runs.",
        ),
        click.option(
            "--grace",
            type=float,
            default=30,
            show_default=True,
            help="Seconds that running calls get to end after SIGTERM or Ctrl-C.",
        ),
        click.option(
            "--inboxes/--no-inboxes",
            default=True,
            show_default=True,
            help="Take in what other programs push into the queues' inboxes (Redis only).",
        ),
        click.option(
            "--bare-inboxes/--no-bare-inboxes",
            default=bare_inboxes,
            show_default=True,
            help="With these, also what they push into lists that are named like the queues.",
        ),
    )

    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


@click.command()
@start_options(on_error="log", bare_inboxes=False)
@broker_option
@own_server_options
@log_options
def start(**options: Any) -> None:
    """Serve queues with functions that take a list.

    CALLABLE is a builtin (print), a function of a module (package.module:function) or of a file
    (path/file.py:function), plain or async. It is called with the list of what was added.

    A batch whose call raises is kept, whole, as dead letters: see `taskyard dead --help`.

    Ctrl-C and SIGTERM let running calls end; a second one does not wait for them.

    \b
    Examples:
      taskyard start -t q1 print
      taskyard start -t q1 print -t q2 shop.orders:save -t q3 examples/simple_task.py:task_func \\
          --batch-size 3 --flush-interval 5 --procs-number 2 --on-error fail
      taskyard start -t q1 print --redis-start       # on a Redis server of its own
      taskyard add -t q1 1 -t q3 '{"a": 2}' -n 5      # in another terminal
    """
    serve_named(**options)


class Names(NamedTuple):
    """How names of functions become handlers.

    Attributes:
        load: from a name to its function; called in the processes that work.
        typed: whether messages are checked against its annotations.
    """

    load: Callable[[str], Any] = load_function
    typed: bool = True


NAMES = Names()


@dataclass(frozen=True)
class _Plan:
    tasks: Sequence[tuple[str, str]]
    size: int
    within: float
    url: str = field(repr=False)  # there may be a password in it
    names: Names


def serve_named(
    *,
    tasks: Sequence[tuple[str, str]],
    batch_size: int,
    flush_interval: float,
    on_error: str,
    url: str,
    redis_start: bool,
    redis_datadir: str | None,
    names: Names = NAMES,
    **options: Any,
) -> None:
    """Serve queues until a signal, as a command was told to.

    Arguments:
        tasks: queues, and the names of functions.
        batch_size: messages of one call at most.
        flush_interval: seconds after which a call gets what is there.
        on_error: "log" or "fail".
        url: the broker, unless a server is started.
        redis_start: whether one is.
        redis_datadir: the folder of its data.
        names: how names of functions become handlers.
        options: other settings of the worker.

    Raises:
        UsageError: one of them is wrong.
        TaskyardError: the worker could not start, or go on.
    """
    queues = [name for name, _ in tasks]
    twice = sorted({name for name in queues if queues.count(name) > 1})
    if twice:
        raise click.UsageError(f"-t names the queue {', '.join(twice)} twice")
    try:
        batch_of(batch_size, flush_interval)
    except PolicyError as error:
        raise click.UsageError(str(error)) from error
    chosen = settings(fail_fast=on_error == "fail", **options)
    with own_server(redis_start=redis_start, redis_datadir=redis_datadir) as server:
        url = server.url if server else url
        log.info("serving %s", ", ".join(queues), extra={"broker": Yard(url).broker.url})
        plan = _Plan(tuple(tasks), batch_size, flush_interval, url, names)
        run(partial(_make_yard, plan), chosen)


def _make_yard(plan: _Plan) -> Yard:
    yard = Yard(plan.url)
    for queue, called in plan.tasks:
        serve_plain(
            yard,
            queue,
            plan.names.load(called),
            called=called,
            size=plan.size,
            within=plan.within,
            typed=plan.names.typed,
        )
    return yard
