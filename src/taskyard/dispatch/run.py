"""`run`, `arun` and `stream`: the ways in."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypedDict

from taskyard.dispatch.conduct import Conductor
from taskyard.dispatch.engine import Kind, StartMethod
from taskyard.dispatch.outcome import Outcome
from taskyard.dispatch.pace import Pace, Ramp
from taskyard.dispatch.plan import GRACE, Items, is_async, make_plan
from taskyard.dispatch.progress import Show, show_line
from taskyard.dispatch.result import Order, Run
from taskyard.dispatch.streaming import Stream
from taskyard.errors import PolicyError
from taskyard.policy import Retry

if TYPE_CHECKING:
    from typing import Unpack

__all__ = ["Options", "RunOptions", "arun", "run", "stream"]


class Options(TypedDict, total=False):
    """The options of `stream`, as `run` describes them."""

    workers: int | None
    kind: Kind | None
    rate: float | Pace | None
    ramp: tuple[float, float, float] | Ramp | None
    runtime: float | None
    window: int | None
    timeout: float | None
    retries: int | Retry
    resume: str | os.PathLike[str] | None
    context: bool
    grace: float | None
    on: Any
    start_method: StartMethod | None


class RunOptions(Options, total=False):
    """The options of `arun`, as `run` describes them."""

    on_result: Callable[[Outcome], object] | None
    on_done: Callable[[Run], object] | None
    progress: bool | Show


def run(
    function: Callable[..., Any],
    items: Items,
    *,
    workers: int | None = None,
    kind: Kind | None = None,
    rate: float | Pace | None = None,
    ramp: tuple[float, float, float] | Ramp | None = None,
    runtime: float | None = None,
    on_result: Callable[[Outcome], object] | None = None,
    on_done: Callable[[Run], object] | None = None,
    window: int | None = None,
    timeout: float | None = None,
    retries: int | Retry = 0,
    progress: bool | Show = False,
    resume: str | os.PathLike[str] | None = None,
    context: bool = False,
    grace: float | None = GRACE,
    on: Any = None,
    start_method: StartMethod | None = None,
) -> Run:
    """Call a function with each item, here and now, and wait until all calls have ended.

    What a call raises is its outcome, and does not end the run. Ctrl-C and SIGTERM end it in order:
    no more calls are begun, those that run may end, and the `Run` is returned, with
    `info.interrupted`. The second signal waits for no call, the third one has its usual effect.
    (Only in the main thread, and only if the program has no handlers of its own.)

    Arguments:
        function: what to call with each item. With `kind="async"` it is an async function.
        items: any iterable, also an endless or an async one, taken from as calls begin; or a number
            of calls, whose items are 0, 1, 2…
        workers: how many calls are under way at most. Without a plan: as many as that, always
            (closed loop). With `rate` or `ramp`: a limit, which is counted when it delays a call.
            If left out: as many threads as `ThreadPoolExecutor` has, a process per processor, 100
            coroutines; with a plan 1,000 threads or 10,000 coroutines.
        kind: what calls are made in: `"threads"`, `"processes"`, `"hybrid"` (processes with
            threads) or `"async"`; if left out, `"async"` for an async function and `"threads"` for
            any other.
        rate: calls per second, or a `taskyard.dispatch.pace.Pace`. Calls begin when they are due,
            whether or not earlier ones have ended (open loop).
        ramp: calls per second at first, at last, and the seconds from the one to the other; or a
            `Ramp`.
        runtime: seconds after which no more calls begin; what is left counts as undispatched.
        on_result: called with each outcome, in this thread, in the order in which calls end. It may
            put another `value` into it. If it raises, the run ends in order, with `RunFailed`.
        on_done: called with the `Run` at the end, also when it failed.
        window: how many items may be taken from `items` for calls that have not ended, or whose
            outcome has not been handed to `on_result` yet. 1,000, or twice the workers, if left
            out.
        timeout: seconds that an attempt may take. A call that takes longer has failed, with
            `TimeoutError`. A coroutine is cancelled and a process ended; a thread cannot be: it is
            left alone, and another one takes its place.
        retries: how often a failed call is tried again: a number (at once), or a `Retry`. Who waits
            for another attempt keeps its worker.
        progress: True: a line on standard error; or a function, called with a `Snapshot` four times
            a second.
        resume: a file that the log is written to as calls end. If it exists, only calls that have
            no outcome in it are made, and the `Run` has both.
        context: whether the function gets a second argument, a `taskyard.dispatch.calls.Call`: the
            number of the call, and a dictionary for what its log is to keep.
        grace: seconds for which calls that run may go on when the run is ended early; None: as
            long as they like.
        on: where calls are made instead: `"dask://host:port"` or a `distributed.Client`; a `Yard`,
            for one of its tasks; or a function that takes a `taskyard.dispatch.engine.Job` and
            gives an `Engine`.
        start_method: `"fork"`, `"forkserver"` or `"spawn"`, for processes.

    Returns:
        Results, outcomes, counts and a report.

    Raises:
        PolicyError: an option is wrong, or two contradict each other.
        DispatchError: the file of `resume` is of another run.
        RunFailed: the items, `on_result` or `progress` raised, or the log could not be written any
            more, or calls cannot be made any longer where they are made. Its `run` has what was
            done.
    """
    for name, callback in (("on_result", on_result), ("on_done", on_done)):
        _check_callback(name, callback)
        if callback is not None and is_async(callback):
            raise PolicyError(f"{name} is async: use arun(), or give a function that is not")
    plan = make_plan(
        function,
        items,
        workers=workers,
        kind=kind,
        rate=rate,
        ramp=ramp,
        runtime=runtime,
        window=window,
        timeout=timeout,
        retries=retries,
        context=context,
        grace=grace,
        resume=resume,
        on=on,
        start_method=start_method,
    )
    return Conductor(plan, on_result=on_result, on_done=on_done, show=_show(progress)).run()


async def arun(function: Callable[..., Any], items: Items, **options: Unpack[RunOptions]) -> Run:
    """As `run`, in a running event loop, which goes on meanwhile.

    With `kind="async"` calls are made in this loop, and `on_result` and `on_done` may be async.
    If it is cancelled, so are its calls.

    Arguments:
        function: as for `run`.
        items: as for `run`. A generator that is not async is asked in the loop, and should not
            wait.
        options: as for `run`.
    """
    loop = asyncio.get_running_loop()
    _check_names("arun", options, RunOptions)
    for name in ("on_result", "on_done"):
        _check_callback(name, options.get(name))
    conductor = Conductor(
        make_plan(function, items, **_without(options, "on_result", "on_done", "progress")),
        on_result=options.get("on_result"),
        on_done=options.get("on_done"),
        show=_show(options.get("progress", False)),
        loop=loop,
    )
    return await conductor.arun()


def stream(
    function: Callable[..., Any],
    items: Items,
    *,
    order: Order = "completed",
    **options: Unpack[Options],
) -> Stream:
    """Call a function with each item, and go through the outcomes while calls are made.

    `for outcome in stream(…)`, or `async for`. Nothing is kept: memory is bounded by the window,
    whatever the number of items. No more calls begin than fit into the window, as long as outcomes
    have not been looked at.

    Arguments:
        function: as for `run`.
        items: as for `run`.
        order: `"completed"`: as calls end; `"items"`: in the order of the items, which may mean to
            wait for one call while the window fills.
        options: as for `run`. Signals are left alone: Ctrl-C raises in the loop's body.

    Returns:
        An iterator of outcomes. Leaving the loop ends the run in order.

    Raises:
        PolicyError: an option is wrong, or two contradict each other.
    """
    _check_names("stream", options, Options)
    if order not in ("items", "completed"):
        raise PolicyError(f"order must be 'items' or 'completed', not {order!r}")
    return Stream(make_plan(function, items, **options), order)


def _without(options: RunOptions, *names: str) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in names}


def _check_names(function: str, options: Mapping[str, Any], known: type) -> None:
    for name in sorted(options.keys() - known.__annotations__.keys()):
        raise TypeError(f"{function}() got an unexpected keyword argument {name!r}")


def _check_callback(name: str, given: object) -> None:
    if given is not None and not callable(given):
        raise PolicyError(f"{name} must be a function, not {given!r}")


def _show(progress: bool | Show) -> Show | None:
    if callable(progress):
        return progress
    if not isinstance(progress, bool):
        raise PolicyError(
            f"progress must be True, False or a function that takes a Snapshot, not {progress!r}"
        )
    return show_line() if progress else None
