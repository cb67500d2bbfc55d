"""`start()`: a configuration becomes a run of the core."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import click

from taskyard.compat.worker_dispatcher.config import Options, merged, options
from taskyard.compat.worker_dispatcher.console import show_begin, show_end, show_options
from taskyard.compat.worker_dispatcher.last import last
from taskyard.dispatch.calls import Call
from taskyard.dispatch.outcome import Outcome
from taskyard.dispatch.result import Run
from taskyard.dispatch.run import run
from taskyard.errors import RunFailed

__all__ = ["start"]


def start(user_config: Mapping[str, Any]) -> list[Any] | Literal[False]:
    """Call a function for each task of a list, by so many workers, and wait until all have ended.

    Arguments:
        user_config: the document's configuration; what is missing has its default.

    Returns:
        The results in the order of the tasks: of those that have ended, if `runtime` or Ctrl-C
        ended it early. In a worker process: False, so that a script whose processes import it
        again does not begin anew there.

    Raises:
        PolicyError: a value of the configuration is wrong.
        RunFailed: the tasks are an iterable that raised; the logs of what ended before are there.
    """
    config = merged(user_config)
    asked = options(config)
    if asked.kind != "threads" and _is_worker():
        return False
    last.begin(config)
    if config["debug"]:
        click.echo(f"Configuration Dictionary:\n{config}")
    if config["verbose"]:
        show_options(asked)
        show_begin(time.time())
    try:
        ended = _run(asked)
    except RunFailed as error:
        _keep(asked, config, error.run)
        raise
    results = _keep(asked, config, ended)
    if config["verbose"]:
        _show_end(ended)
    return results


def _is_worker() -> bool:
    # While a spawned process imports the script again, it has a name already, and no parent yet.
    me = multiprocessing.current_process()
    return multiprocessing.parent_process() is not None or me.name != "MainProcess"


def _run(asked: Options) -> Run:
    return run(
        _Caller(asked),
        asked.tasks,
        kind=asked.kind,
        workers=asked.workers,
        rate=asked.pace,
        runtime=asked.runtime,
        grace=None,  # what runs is waited for, as the original does
        context=True,
    )


class _Caller:
    """Calls the task function as the document says.

    Where there is an `on_done`, the worker calls it, and what it returns is the whole log.
    """

    def __init__(self, asked: Options) -> None:
        self._function = asked.function
        self._config = asked.config
        self._on_done = asked.on_done
        self._numbered = asked.numbered

    def __call__(self, task: Any, call: Call) -> Any:
        begun = time.time()
        result = self._result(task, call)
        if self._on_done is None:
            return result
        log = _log(call.id, begun, time.time(), result, call.metadata)
        try:
            log["result"] = self._on_done(id=call.id, config=self._config, result=result, log=log)
        except Exception as error:  # noqa: BLE001 - the user's; it concerns this task only
            _note(log, f"{type(error).__qualname__}: {error}")
        return log

    def _result(self, task: Any, call: Call) -> Any:
        try:
            return self._function(
                id=call.id,
                config=self._config,
                task={} if self._numbered else task,
                metadata=call.metadata,
            )
        except BaseException as error:  # also SystemExit: it is this task's end only
            if self._on_done is None:
                raise  # the core keeps it
            call.metadata.setdefault("error", f"{type(error).__qualname__}: {error}")
            return False


def _keep(asked: Options, config: dict[str, Any], ended: Run) -> list[Any]:
    logs = [
        outcome.value if asked.on_done and outcome.ok else _log_of(outcome)
        for outcome in _ended(ended)
    ]
    try:
        if asked.on_all_done is not None:
            for log in logs:
                log["result"] = asked.on_all_done(
                    id=log["task_id"], config=asked.config, result=log["result"], log=log
                )
    finally:
        results = last.end(config, logs, ended.started, ended.ended)
    return results


def _ended(ended: Run) -> Iterator[Outcome]:
    return map(ended.log.__getitem__, ended.log.order())


def _log_of(outcome: Outcome) -> dict[str, Any]:
    result = outcome.value if outcome.ok else False
    log = _log(outcome.id, outcome.started, outcome.ended, result, outcome.metadata)
    if not outcome.ok:
        _note(log, str(outcome.status) if outcome.error is None else outcome.error.summary)
    return log


def _log(
    id_: int, begun: float, ended: float, result: Any, metadata: dict[str, Any]
) -> dict[str, Any]:
    return {
        "task_id": id_,
        "started_at": begun,
        "ended_at": ended,
        "duration": ended - begun,
        "result": result,
        "metadata": metadata,
    }


def _note(log: dict[str, Any], error: str) -> None:
    log["result"] = False
    log["metadata"] = {"error": error, **log["metadata"]}


def _show_end(ended: Run) -> None:
    counts = ended.counts
    show_end(
        ended.ended,
        ended.duration,
        counts.completed + counts.failed,
        counts.cancelled + counts.lost + counts.unknown,
        counts.undispatched,
    )
