"""The command `task-dispenser`: `start` and `add`."""

from __future__ import annotations

from typing import Any

import click

from taskyard.brokers.urls import LOCAL_URL, redis_url
from taskyard.cli.add import add_options, add_values
from taskyard.cli.group import Commands
from taskyard.cli.load import load_function
from taskyard.cli.options import broker_options, log_options, own_server_options
from taskyard.cli.start import Names, serve_named, start_options
from taskyard.compat.task_dispenser.utils import name_here

__all__ = ["add", "main", "start", "task_dispenser"]

redis_option = broker_options(redis_url, LOCAL_URL)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="taskyard", message="task-dispenser (taskyard) %(version)s")
def task_dispenser() -> None:
    """Add values to queues in Redis, and hand them over to functions in batches.

    These are `taskyard start` and `taskyard add` with the defaults of task-dispenser: they use the
    Redis at 127.0.0.1:6379. `taskyard queues`, `taskyard dead` and the others look at the same
    queues with --broker redis://127.0.0.1:6379.

    Exit codes: 0: fine. 1: it failed. 2: wrong usage. 130: Ctrl-C.
    """


@task_dispenser.command()
@start_options(on_error="fail", bare_inboxes=True)
@redis_option
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
      task-dispenser start -t q1 print -t q2 task_dispenser.utils:failed_task \\
          -t q3 examples/simple_task.py:task_func \\
          --redis-start --procs-number 2 --on-error=log --batch-size=3
    """
    serve_named(names=Names(lambda name: load_function(name_here(name)), typed=False), **options)


@task_dispenser.command(short_help="Add values to queues.")
@add_options
@redis_option
@log_options
def add(**options: Any) -> None:
    """Add values, each written as JSON, to queues.

    Other programs may push them instead: LPUSH q1 '[1]'.

    \b
    Examples:
      task-dispenser add -t q1 1 -t q2 2 -t q3 3 -n 5
      task-dispenser add --stdin q1 < values.jsonl
    """
    add_values(**options)


def main() -> None:
    """Run the command line; the entry point of `task-dispenser`."""
    task_dispenser(prog_name="task-dispenser")
