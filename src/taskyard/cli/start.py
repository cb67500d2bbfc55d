"""`taskyard start`: serve queues with plain functions, without a line of code."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import click

from taskyard.cli.load import load_function
from taskyard.cli.options import broker_option, log_options, own_server, own_server_options
from taskyard.cli.serving import run, settings
from taskyard.errors import BatchFailed, PolicyError, Verdict
from taskyard.policy import Batch
from taskyard.task import Task
from taskyard.yard import Yard

__all__ = ["handler_of", "start"]

log = logging.getLogger("taskyard.start")

Function = Callable[..., Any]


@click.command()
@click.option(
    "-t",
    "--task",
    "tasks",
    nargs=2,
    multiple=True,
    required=True,
    metavar="NAME CALLABLE",
    help="A queue, and what to call with a list of its messages. Can be given several times.",
)
@click.option(
    "-b", "--batch-size", default=20, show_default=True, help="Messages of one call at most."
)
@click.option(
    "-i",
    "--flush-interval",
    type=float,
    default=5,
    show_default=True,
    help="Seconds after which a batch is handed over even if it is not full.",
)
@click.option(
    "-n",
    "--procs-number",
    "processes",
    default=1,
    show_default=True,
    help="Worker processes; 0: work in this one.",
)
@click.option(
    "-c",
    "--concurrency",
    default=1,
    show_default=True,
    help="Calls at a time in each process; with more than 1, functions must be thread-safe.",
)
@click.option(
    "-e",
    "--on-error",
    type=click.Choice(["log", "fail"]),
    default="log",
    show_default=True,
    help="When a call raises: log it and go on, or end the program with exit code 1.",
)
@click.option(
    "--grace",
    type=float,
    default=30,
    show_default=True,
    help="Seconds that running calls get to end after SIGTERM or Ctrl-C.",
)
@click.option(
    "--inboxes/--no-inboxes",
    default=True,
    show_default=True,
    help="Take in what other programs push into the queues' inboxes (Redis only).",
)
@broker_option
@own_server_options
@log_options
def start(
    tasks: Sequence[tuple[str, str]],
    batch_size: int,
    flush_interval: float,
    on_error: str,
    url: str,
    redis_start: bool,
    redis_datadir: str | None,
    **options: Any,
) -> None:
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
    queues = [name for name, _ in tasks]
    twice = sorted({name for name in queues if queues.count(name) > 1})
    if twice:
        raise click.UsageError(f"-t names the queue {', '.join(twice)} twice")
    try:
        # A batch of one is full at once, so it waits for nothing.
        batch = Batch(batch_size, flush_interval if batch_size != 1 else 0)
    except PolicyError as error:
        raise click.UsageError(str(error)) from error
    chosen = settings(fail_fast=on_error == "fail", **options)
    with own_server(redis_start=redis_start, redis_datadir=redis_datadir) as server:
        url = server.url if server else url
        log.info("serving %s", ", ".join(queues), extra={"broker": Yard(url).broker.url})
        run(partial(_make_yard, _Plan(tuple(tasks), batch, url)), chosen)


@dataclass(frozen=True)
class _Plan:
    tasks: Sequence[tuple[str, str]]
    batch: Batch
    url: str = field(repr=False)  # there may be a password in it


def _make_yard(plan: _Plan) -> Yard:
    yard = Yard(plan.url)
    for queue, called in plan.tasks:
        handler = handler_of(load_function(called), queue=queue, called=called)
        yard.task(name=queue, queue=queue, batch=plan.batch, retry=0, result_ttl=None)(handler)
    return yard


def handler_of(function: Function, *, queue: str, called: str) -> Function:
    """Make a batch handler of any function that takes a list.

    Whatever it returns is ignored. If it raises, the error is logged and the whole batch has
    failed: the function was not written to be called again with halves of it.

    Arguments:
        function: plain or async.
        queue: the queue that it serves.
        called: what the user calls it.
    """
    if isinstance(function, Task):
        function = function.function

    def failed(items: Sequence[Any], error: BaseException) -> BatchFailed:
        trace = error.__traceback__ and error.__traceback__.tb_next  # without our own frame
        log.error(
            "%s failed with a batch of %s: it is kept as dead letters",
            called,
            len(items),
            exc_info=(type(error), error.with_traceback(trace), trace),
            extra={"queue": queue, "function": called},
        )
        return BatchFailed(dict.fromkeys(range(len(items)), error))

    handle: Function
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - whether calling it gives a coroutine
    ):

        async def handle(items: Sequence[Any]) -> None:
            try:
                await function(items)
            except (BatchFailed, Verdict):
                raise
            except (Exception, SystemExit) as error:
                raise failed(items, error) from error

    else:

        def handle(items: Sequence[Any]) -> None:
            try:
                function(items)
            except (BatchFailed, Verdict):
                raise
            except (Exception, SystemExit) as error:
                raise failed(items, error) from error

    _describe(handle, function)
    return handle


def _describe(handle: Any, function: Function) -> None:
    """Let the messages be typed by the function's annotations, but not its result."""
    handle.__wrapped__ = function
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a builtin that does not tell
        signature = inspect.signature(handle, follow_wrapped=False)
    handle.__signature__ = signature.replace(return_annotation=inspect.Signature.empty)
