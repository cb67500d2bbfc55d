"""What a run is asked to do, checked before anything begins."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from taskyard.dispatch.engine import Job, Kind, StartMethod
from taskyard.dispatch.remote.target import Target, target_of
from taskyard.errors import PolicyError
from taskyard.policy import Retry, seconds

__all__ = ["GRACE", "WINDOW", "Items", "Plan", "is_async", "make_plan", "name_of"]

Items = Iterable[Any] | AsyncIterable[Any] | int

WINDOW = 1000
"""Calls that may be taken and not yet looked at, unless there are more workers."""
GRACE = 30.0
"""Seconds for which what runs may go on when a run is stopped, unless it is given."""
MOST_WORKERS = 100_000
OPEN_LOOP_WORKERS = {"threads": 1000, "async": 10_000}
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The checked options of `run`, which documents them."""

    function: Callable[..., Any]
    items: Iterable[Any] | AsyncIterable[Any]
    total: int | None
    workers: int
    kind: str
    pace: Any = None
    runtime: float | None = None
    window: int = WINDOW
    timeout: float | None = None
    retry: Retry | None = None
    context: bool = False
    grace: float | None = GRACE
    resume: Path | None = None
    target: Target | None = None
    start_method: StartMethod | None = None
    title: str = field(default="")

    @property
    def job(self) -> Job:
        """What an engine is to know of it."""
        return Job(
            function=self.function,
            workers=self.workers,
            open_loop=self.pace is not None,
            timeout=self.timeout,
            retry=self.retry,
            context=self.context,
        )

    @property
    def name(self) -> str:
        """The name of the function."""
        return name_of(self.function)

    @property
    def pace_text(self) -> str:
        """When calls are due, in words; "": as soon as possible."""
        return "" if self.pace is None else str(self.pace.describe())

    def instants(self) -> Iterator[float] | None:
        """When calls are due, in seconds from the start; None: as soon as possible."""
        return None if self.pace is None else iter(self.pace.instants())


def make_plan(
    function: Callable[..., Any],
    items: Items,
    *,
    workers: int | None = None,
    kind: Kind | None = None,
    rate: Any = None,
    ramp: Any = None,
    runtime: float | None = None,
    window: int | None = None,
    timeout: float | None = None,
    retries: int | Retry = 0,
    context: bool = False,
    grace: float | None = GRACE,
    resume: str | os.PathLike[str] | None = None,
    on: Any = None,
    start_method: StartMethod | None = None,
) -> Plan:
    """Check what a run is asked to do.

    Raises:
        PolicyError: an option is wrong, or two contradict each other.
    """
    pace = _pace(rate, ramp)
    given, total = _items(items)
    window = None if window is None else _whole("window", window)
    target = None if on is None else _target(on, kind, function)
    if target is None:
        made_in: str = (kind := _kind(kind, function))
        workers = _workers(workers, kind, window, open_loop=pace is not None)
    else:
        made_in = target.kind
        most = target.workers(open_loop=pace is not None)
        workers = most if workers is None else _whole("workers", workers, MOST_WORKERS)
    least = WINDOW if target is None else target.window
    plan = Plan(
        function=function,
        items=given,
        total=total,
        workers=workers,
        kind=made_in,
        pace=pace,
        runtime=None if runtime is None else seconds("runtime", runtime, open_=True),
        window=max(least, 2 * workers) if window is None else window,
        timeout=None if timeout is None else seconds("timeout", timeout, least=0.001),
        retry=_retries(retries),
        context=_flag("context", context),
        grace=None if grace is None else seconds("grace", grace),
        resume=None if resume is None else _path(resume),
        target=target,
        start_method=_start_method(start_method, made_in),
    )
    if target is not None:
        target.check(plan.job)
    return plan


def name_of(function: Callable[..., Any]) -> str:
    """What to call a function: its module and its name, where it has one."""
    at: Any = function
    while isinstance(at, functools.partial):
        at = at.func
    if not hasattr(at, "__qualname__"):
        at = getattr(at, "function", type(at))  # of a task, its handler
    module = getattr(at, "__module__", None) or type(at).__module__  # a built-in method has none
    return f"{module}:{at.__qualname__}"


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling it makes a coroutine, as far as that can be seen."""
    at: Any = function
    while isinstance(at, functools.partial):
        at = at.func
    return inspect.iscoroutinefunction(at) or inspect.iscoroutinefunction(
        getattr(at, "__call__", None)  # noqa: B004 - the method is wanted, not whether there is one
    )


def _target(on: Any, kind: Kind | None, function: Callable[..., Any]) -> Target:
    if kind is not None:
        raise PolicyError(
            f"kind={kind!r} is about this machine, and on= about others: drop one of them"
        )
    if not callable(function):
        raise PolicyError(f"function must be something to call with an item, not {function!r}")
    if is_async(function):
        raise PolicyError(
            f"{name_of(function)} is async, and on= takes plain functions, or tasks of a yard"
        )
    return target_of(on, function)


def _kind(kind: Kind | None, function: Callable[..., Any]) -> Kind:
    if not callable(function):
        raise PolicyError(
            f"function must be something to call with an item, not {function!r}; "
            f"if it has arguments of its own, use functools.partial or a lambda"
        )
    coroutine = is_async(function)
    if kind is None:
        return "async" if coroutine else "threads"
    if kind not in KINDS:
        raise PolicyError(f"kind must be {', '.join(map(repr, KINDS))}, not {kind!r}")
    if coroutine and kind != "async":
        raise PolicyError(
            f"{name_of(function)} is async, and kind={kind!r} would only make coroutines that "
            f"nobody awaits: use kind='async', or leave kind= out"
        )
    if kind == "async" and inspect.isbuiltin(function):
        raise PolicyError(
            f"kind='async' needs an async function, not {name_of(function)}: use kind='threads'"
        )
    return kind


def _pace(rate: Any, ramp: Any) -> Any:
    if rate is not None and ramp is not None:
        raise PolicyError("rate= and ramp= both say when calls are due: drop one of them")
    if rate is None and ramp is None:
        return None
    from taskyard.dispatch.pace import Constant, Ramp

    if ramp is not None:
        if hasattr(ramp, "instants"):
            return ramp
        if not isinstance(ramp, tuple) or len(ramp) != 3:
            raise PolicyError(
                f"ramp must be a Ramp, or (calls a second at first, at last, seconds from one to "
                f"the other), not {ramp!r}"
            )
        return Ramp(*ramp)
    if hasattr(rate, "instants"):
        return rate
    return Constant(rate)


def _items(items: Items) -> tuple[Iterable[Any] | AsyncIterable[Any], int | None]:
    if isinstance(items, (bool, str, bytes)):
        raise PolicyError(
            f"items must be an iterable or a number of calls, not {items!r}; for a single call "
            f"with it, give [{items!r}]"
        )
    if isinstance(items, int):
        if items < 0:
            raise PolicyError(f"items must be 0 calls or more, not {items}")
        return range(items), items
    if isinstance(items, AsyncIterable):
        return items, None
    given: object = items
    if not isinstance(given, Iterable):
        raise PolicyError(f"items must be an iterable or a number of calls, not {items!r}")
    return items, _length(items)


def _length(items: Iterable[Any]) -> int | None:
    if not isinstance(items, Sized):
        return None
    try:
        return len(items)
    except Exception:  # noqa: BLE001 - a class may have __len__ and not know, as endless data sets
        return None


def _workers(workers: int | None, kind: Kind, window: int | None, *, open_loop: bool) -> int:
    if workers is None:
        most = _usual_workers(kind, open_loop=open_loop)
        return most if window is None else min(most, window)
    _whole("workers", workers, MOST_WORKERS)
    if window is not None and window < workers:
        raise PolicyError(
            f"window={window} leaves calls for no more than {window} of {workers} workers: raise "
            f"window=, or lower workers="
        )
    return workers


def _usual_workers(kind: Kind, *, open_loop: bool) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = cores or 1
    if open_loop and kind in OPEN_LOOP_WORKERS:
        return OPEN_LOOP_WORKERS[kind]
    match kind:
        case "threads":
            return min(32, cores + 4)
        case "async":
            return 100
        case "processes":
            return cores
        case _:
            return cores * 8


def _path(resume: object) -> Path:
    if not isinstance(resume, (str, os.PathLike)):
        raise PolicyError(f"resume must be the path of a file, not {resume!r}")
    return Path(resume)


def _whole(name: str, value: object, most: int | None = None) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise PolicyError(f"{name} must be a whole number, not {value!r}")
    if value < 1 or (most is not None and value > most):
        limit = "at least 1" if most is None else f"from 1 to {most:,}"
        raise PolicyError(f"{name} must be {limit}, not {value!r}")
    return value


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise PolicyError(f"{name} must be True or False, not {value!r}")
    return value


def _start_method(method: StartMethod | None, kind: str) -> StartMethod | None:
    if method is None:
        return None
    if method not in get_args(StartMethod):
        known = ", ".join(map(repr, get_args(StartMethod)))
        raise PolicyError(f"start_method must be {known}, not {method!r}")
    if kind not in {"processes", "hybrid"}:
        raise PolicyError(
            f"start_method= says how processes start, and kind={kind!r} has none: drop it, or use "
            f"kind='processes' or 'hybrid'"
        )
    return method


def _retries(retries: object) -> Retry | None:
    if isinstance(retries, Retry):
        return retries
    if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
        raise PolicyError(
            f"retries must be a number from 0 (again at once) or a Retry (with back-off), "
            f"not {retries!r}"
        )
    return Retry(retries, backoff="constant", delay=0.0) if retries else None
