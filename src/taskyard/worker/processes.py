"""Worker processes that a program starts beside its own work, without a supervisor."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.process import BaseProcess
from typing import TypeAlias

from taskyard.brokers.common import SUPERVISED
from taskyard.errors import TaskyardError
from taskyard.worker.run import TaskSource, check_shared, serve
from taskyard.worker.settings import WorkerSettings

__all__ = ["start_workers"]

log = logging.getLogger("taskyard.worker")

Load: TypeAlias = Callable[[], TaskSource]


def start_workers(
    load: Load, settings: WorkerSettings, count: int, *, daemon: bool = True
) -> list[BaseProcess]:
    """Start processes that each run a worker, and return at once.

    Nobody replaces one that dies, or gives back at once what it held: that waits for its lease.
    SIGTERM (`process.terminate()`) stops one gracefully.

    Arguments:
        load: gives the tasks and the broker; called in each process. Where processes are spawned
            and not forked (`multiprocessing.set_start_method`), it must be picklable.
        settings: how they work; `processes` is not looked at.
        count: how many.
        daemon: they stop with this process, however it ends; Ctrl-C is for this process alone.
            Otherwise it waits for them at its end.

    Returns:
        The processes, started.

    Raises:
        WorkerError: a setting is wrong.
    """
    chosen = replace(settings, processes=0)
    made: list[BaseProcess] = []
    for number in range(count):
        process = multiprocessing.Process(
            target=_main,
            args=(load, chosen, daemon),
            name=f"taskyard-worker-{number}",
            daemon=daemon,
        )
        process.start()
        made.append(process)
    return made


def _main(load: Load, settings: WorkerSettings, daemon: bool) -> None:
    code = 0
    os.environ[SUPERVISED] = "1"
    signal.set_wakeup_fd(-1)  # those of the program that started this, if it was forked
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if daemon:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    watched = _parent() if daemon else None
    try:
        source = load()
        check_shared(source)
        serve(source, settings, supervisor=watched)
    except TaskyardError as error:
        log.error("a worker process cannot work: %s", error)
        code = 1
    except BaseException:
        log.exception("a worker process failed")
        code = 1
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    # A handler's thread that never ends must not keep the process: what it held was given back.
    os._exit(code)


def _parent() -> int | None:
    """A file descriptor that is readable when the program that started this process is gone."""
    parent = multiprocessing.parent_process()
    if parent is None or parent.pid is None:
        return None
    try:
        return os.pidfd_open(parent.pid)
    except (AttributeError, OSError):  # not Linux, or forbidden
        # The next best: where processes are forked, those after this one hold its other end, too.
        return parent.sentinel
