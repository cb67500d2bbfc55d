"""Running worker processes for a command."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import click

from taskyard.errors import TaskyardError, WorkerError
from taskyard.worker.run import Prepare, prepare_nothing, serve
from taskyard.worker.settings import WorkerSettings
from taskyard.worker.supervisor import Supervisor
from taskyard.yard import Yard

__all__ = ["run", "settings"]

log = logging.getLogger("taskyard.cli")

LINGER = 0.2
"""Seconds that a handler's thread gets to end when everything else has ended."""


def settings(**given: Any) -> WorkerSettings:
    """Make the settings of a worker.

    Arguments:
        given: the fields of `WorkerSettings`.

    Raises:
        UsageError: one is wrong.
    """
    try:
        return WorkerSettings(**given)
    except WorkerError as error:
        raise click.UsageError(str(error)) from error


def run(
    load: Callable[[], Yard], chosen: WorkerSettings, prepare: Prepare = prepare_nothing
) -> None:
    """Work until a signal or, with `burst`, until nothing is left.

    Arguments:
        load: gives the yard; called in each process that works, so that an error in the user's
            modules, or what they open, stays there.
        chosen: how to work.
        prepare: called in each of these processes before it works, with the yard and its number.

    Raises:
        TaskyardError: the worker could not start, or go on.
    """
    # What handlers print is seen line by line, into a pipe or a file too; and in whole lines, even
    # with PYTHONUNBUFFERED, or those of several processes would run into one another.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(line_buffering=True, write_through=False)
    try:
        if chosen.processes:
            Supervisor(load, chosen, prepare).run()
        else:
            yard = load()
            prepare(yard, 0)
            serve(yard, chosen)
            _leave_handlers()
    except TaskyardError as error:
        if not _logs_to_stderr():
            log.error("%s", error)
        raise


def _leave_handlers() -> None:
    """End this process even if a handler's thread, which nothing can stop, does not end."""
    threads = [item for item in threading.enumerate() if item.name.startswith("taskyard-handler")]
    for thread in threads:
        thread.join(LINGER)
    if any(thread.is_alive() for thread in threads):
        log.warning("a handler does not end; it is left behind, what it held was given back")
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _logs_to_stderr() -> bool:
    return any(
        getattr(handler, "stream", None) is sys.stderr for handler in logging.getLogger().handlers
    )
