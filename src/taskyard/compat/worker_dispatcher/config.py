"""The document's configuration: its defaults, and what it asks the core for."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sized
from typing import Any

import click
import msgspec

from taskyard.dispatch.engine import Kind
from taskyard.dispatch.pace import Bursts
from taskyard.errors import PolicyError
from taskyard.policy import seconds

__all__ = ["Options", "default_config", "merged", "options", "task_function_sample"]

MOST_WORKERS = 32766
"""The original's ceiling of concurrency."""
MOST_PROCESSES = 256
"""Processes of `frequency_mode`, unless `max_workers` says another number."""


def task_function_sample(
    id: int,  # noqa: A002 - the document's name
    config: Any = None,  # noqa: ARG001
    task: Any = None,  # noqa: ARG001
    metadata: dict[str, Any] | None = None,  # noqa: ARG001
) -> dict[str, int]:
    """What is called where no function is given."""
    if id == 1:
        click.echo("Running the sample task function: give your own as config['task']['function']")
    return {"taskId": id}


default_config: dict[str, Any] = {
    "debug": False,
    "task": {
        "list": [],
        "function": task_function_sample,
        "config": {},
        "callback": {"on_done": False, "on_all_done": False},
    },
    "worker": {
        "number": os.cpu_count() or 1,
        "frequency_mode": {
            "enabled": False,
            "interval": 1,
            "accumulated_workers": 0,
            "max_workers": None,
        },
        "use_processing": False,
        "parallel_processing": {"enabled": False, "use_queue": False},
    },
    "runtime": None,
    "verbose": True,
}
"""Every option of the document, with its default."""


class Options(msgspec.Struct, kw_only=True):
    """What a configuration means.

    Attributes:
        tasks: what the function is called with, or their number.
        total: how many there are; None: nobody knows.
        function: called with `id`, `config`, `task` and `metadata`.
        config: the custom variable of the tasks.
        on_done: called with each result in the worker; None: nothing is.
        on_all_done: called with each result after all tasks; None: nothing is.
        kind: what the workers are.
        number: how many calls are under way at once or, with bursts, begin at once.
        workers: how many calls are under way at most.
        processes: how many processes these are shared by; 0: none.
        pace: when calls begin; None: as soon as a worker is free.
        given: the number of workers that was asked for.
        shared: whether a process takes from one queue what it has a thread for.
        runtime: seconds after which nothing is begun any more; None: there is no limit.
    """

    tasks: Iterable[Any] | int
    total: int | None
    function: Callable[..., Any]
    config: Any
    on_done: Callable[..., Any] | None
    on_all_done: Callable[..., Any] | None
    kind: Kind
    number: int
    workers: int
    processes: int
    pace: Bursts | None
    given: int
    shared: bool
    runtime: float | None

    @property
    def numbered(self) -> bool:
        """Whether the tasks are a number only: each is `{}` then."""
        return isinstance(self.tasks, int)


def merged(given: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with all defaults.

    Raises:
        PolicyError: it is no dictionary, or has a value in place of one.
    """
    return _merged(default_config, given, "config")


def _merged(default: Mapping[str, Any], given: object, where: str) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise PolicyError(f"{where} must be a dictionary with {', '.join(default)}, not {given!r}")
    made: dict[str, Any] = copy.deepcopy(dict(default))
    for key, value in given.items():
        inner = default.get(key)
        if isinstance(inner, dict) and key != "config":
            made[key] = _merged(inner, value, f"{where}[{key!r}]")
        else:
            made[key] = value
    return made


def options(config: Mapping[str, Any]) -> Options:
    """Say what a configuration with all defaults means.

    Raises:
        PolicyError: a value is wrong.
    """
    task, worker = config["task"], config["worker"]
    tasks, total = _tasks(task["list"])
    given = _count("worker.number", worker["number"])
    parallel = worker["parallel_processing"]
    hybrid = bool(parallel["enabled"])
    processes = min(given, os.cpu_count() or 1) if hybrid else 0
    rounded = processes if hybrid and not parallel["use_queue"] else 1
    number = given // rounded * rounded
    kind: Kind = "hybrid" if hybrid else "processes" if worker["use_processing"] else "threads"
    most = MOST_PROCESSES if kind == "processes" else MOST_WORKERS
    if total is not None:
        most = max(1, min(total, most))
    pace, workers = _bursts(worker["frequency_mode"], number, rounded, most)
    return Options(
        tasks=tasks,
        total=total,
        function=_function("function", task["function"]),
        config=task["config"],
        on_done=_callback(task["callback"], "on_done"),
        on_all_done=_callback(task["callback"], "on_all_done"),
        kind=kind,
        number=number,
        workers=workers,
        processes=workers if kind == "processes" else processes,
        pace=pace,
        given=given,
        shared=bool(parallel["use_queue"]),
        runtime=seconds("runtime", config["runtime"], open_=True) if config["runtime"] else None,
    )


def _tasks(given: object) -> tuple[Iterable[Any] | int, int | None]:
    if isinstance(given, int) and not isinstance(given, bool):
        return given, given
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
        raise PolicyError(f"task.list must be a list or a number of tasks, not {given!r}")
    return given, len(given) if isinstance(given, Sized) else None


def _bursts(
    mode: Mapping[str, Any], number: int, rounded: int, ceiling: int
) -> tuple[Bursts | None, int]:
    if not (mode["enabled"] and mode["interval"]):
        return None, number
    growth = math.floor(mode["accumulated_workers"] or 0) // rounded * rounded
    most = mode["max_workers"]
    workers = ceiling if not most else min(_count("max_workers", most), MOST_WORKERS)
    return Bursts(number, mode["interval"], growth), max(rounded, workers // rounded * rounded)


def _count(name: str, given: object) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise PolicyError(f"{name} must be a whole number from 1, not {given!r}")
    return given


def _callback(callbacks: Mapping[str, Any], name: str) -> Callable[..., Any] | None:
    given = callbacks[name]
    return _function(f"callback.{name}", given) if given else None


def _function(name: str, given: Any) -> Callable[..., Any]:
    if not callable(given):
        raise PolicyError(f"task.{name} must be a function, not {given!r}")
    made: Callable[..., Any] = given
    return made
