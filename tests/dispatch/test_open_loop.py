"""Calls that are due at instants, whatever became of earlier ones."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import threading
from typing import Any

import pytest

import taskyard
from taskyard.dispatch.calls import Call
from taskyard.dispatch.pace import Constant, Trace


def same(item: Any) -> Any:
    return item


async def asame(item: Any) -> Any:
    return item


@pytest.mark.parametrize("function", [same, asame])
def test_calls_begin_when_they_are_due_and_never_earlier(function: Any) -> None:
    run = taskyard.run(function, 100, rate=500)
    assert run.results() == list(range(100))
    planned = [outcome.planned for outcome in sorted(run.log, key=lambda outcome: outcome.id)]
    steps = [later - sooner for sooner, later in itertools.pairwise(planned)]
    assert steps == pytest.approx([0.002] * 99, abs=1e-6)
    assert planned[0] == pytest.approx(run.started, abs=1e-6)
    assert all(outcome.started >= outcome.planned for outcome in run.log)
    assert run.counts.total == 100
    assert run.duration >= 99 * 0.002


def test_slow_calls_delay_no_others() -> None:
    """All calls wait for the last one: in a closed loop of any size, it would never begin."""
    last = threading.Event()

    def call(item: int) -> bool:
        if item == 49:
            last.set()
        return last.wait(20)

    run = taskyard.run(call, 50, rate=2000)
    assert run.results() == [True] * 50
    assert run.info.limited == 0


def test_slow_coroutines_delay_no_others() -> None:
    last: asyncio.Event | None = None

    async def call(item: int) -> bool:
        nonlocal last
        last = last or asyncio.Event()
        if item == 49:
            last.set()
        return await last.wait()

    run = taskyard.run(call, 50, rate=2000)
    assert run.results() == [True] * 50


@pytest.mark.parametrize("kind", ["threads", "async"])
def test_a_limit_on_workers_that_delays_calls_is_counted(kind: Any) -> None:
    def call(_: int) -> None:
        threading.Event().wait(0.01)

    async def acall(_: int) -> None:
        await asyncio.sleep(0.01)

    run = taskyard.run(acall if kind == "async" else call, 20, rate=1000, workers=1)
    # Each but the first finds the only worker busy.
    assert run.info.limited == 19
    assert run.counts.completed == 20
    latest = max(run.log, key=lambda outcome: outcome.id)
    assert latest.lateness > 0.1
    report = run.report()
    assert report.conditions.limited == 19
    assert any("19" in warning for warning in report.warnings)


def test_the_planned_instant_is_known_to_the_call() -> None:
    def call(_: int, own: Call) -> float | None:
        return own.planned

    run = taskyard.run(call, 3, rate=100, context=True)
    assert run.results() == pytest.approx(
        [outcome.planned for outcome in sorted(run.log, key=lambda outcome: outcome.id)]
    )


def test_a_plan_that_ends_leaves_calls_undispatched() -> None:
    run = taskyard.run(same, 10, rate=Trace([0.0, 0.01, 0.01]))
    assert run.counts.completed == 3
    assert run.counts.undispatched == 7


def test_runtime_ends_an_endless_plan() -> None:
    run = taskyard.run(same, itertools.count(), rate=100, runtime=1)
    assert 0 < run.counts.completed <= 100
    assert all(outcome.planned - run.started < 1 for outcome in run.log)


def test_a_call_that_is_due_much_later_is_given_up_when_the_run_ends() -> None:
    run = taskyard.run(same, 2, rate=Trace([0.0, 3600.0]), runtime=1)
    assert run.counts.completed == 1
    assert run.counts.undispatched == 1
    run = taskyard.run(asame, 2, rate=Trace([0.0, 3600.0]), runtime=1)
    assert run.counts.completed == 1


def test_a_ramp_follows_its_plan() -> None:
    # 100/s rising to 1,000/s in half a second: 275 calls.
    run = taskyard.run(same, itertools.count(), ramp=(100, 1000, 0.5), runtime=0.5)
    assert run.counts.completed <= 276
    run = taskyard.run(same, 275, ramp=(100, 1000, 0.5))  # all of them, however late they begin
    instants = sorted(outcome.planned - run.started for outcome in run.log)
    assert sum(instant < 0.25 for instant in instants) == pytest.approx(81, abs=1)


def test_failures_timeouts_and_retries_under_a_plan() -> None:
    release = threading.Event()
    tried = itertools.count(1)

    def call(item: int) -> int:
        if item == 1 and next(tried) == 1:
            release.wait(30)
        if item == 2:
            raise ValueError
        return item

    try:
        run = taskyard.run(call, 4, rate=200, timeout=0.5, retries=1)
    finally:
        release.set()
    assert run.results(default=None) == [0, 1, None, 3]
    assert {outcome.id: outcome.attempts for outcome in run.log} == {1: 1, 2: 2, 3: 2, 4: 1}
    assert all(outcome.planned <= outcome.started for outcome in run.log)


def test_a_consumer_that_is_too_slow_counts_as_a_limit() -> None:
    stream = taskyard.stream(same, 20, rate=1000, window=2, workers=2)
    for _ in stream:
        threading.Event().wait(0.01)
    snapshot = stream.snapshot()
    assert snapshot is not None
    assert snapshot.limited > 0


@pytest.mark.parametrize("function", [same, asame])
def test_lateness_is_small_and_does_not_grow(function: Any) -> None:
    """Not a measurement: it would find a plan that drifts, or one call that waits for another."""
    medians = []
    while len(medians) < 10 and min(medians, default=1.0) >= 0.1:  # a busy machine may stand still
        run = taskyard.run(function, 600, rate=Constant(1000))
        ordered = sorted(run.log, key=lambda outcome: outcome.id)
        assert ordered[-1].planned - ordered[0].planned == pytest.approx(0.599, abs=1e-6)
        medians.append(statistics.median(outcome.lateness for outcome in ordered[300:]))
    assert min(medians) < 0.1


@pytest.mark.parametrize("workers", [1, 5])
def test_a_call_counts_as_limited_once(workers: int) -> None:
    async def call(_: object) -> None:
        await asyncio.sleep(0.001)

    # Both the workers and the window are too few.
    run = taskyard.run(
        call, 200, rate=1e6, workers=workers, window=workers + 1, on_result=lambda _: None
    )
    assert 100 < run.info.limited <= 200
