"""Load on a real server: the report shows what its users would see.

Nothing here depends on how fast the machine is: what has to be seen at least follows from the plan
and from what the server itself wrote down.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from statistics import fmean
from typing import Any

import pytest
from tests.load.calls import acall, aget, get
from tests.load.conftest import Start, Target
from tests.load.queueing import constant, ends

import taskyard
from taskyard.dispatch.pace import FASTEST, Bursts, Pace, Poisson, Ramp, Steps, Trace
from taskyard.dispatch.result import Run

RATE, NUMBER = 100, 300
SERVICE, STALL = 0.001, 0.2
PERIOD, EVERY = 0.6, 60
"""Seconds, or calls, from one stall to the next."""
SLOW = 0.1
"""Seconds from which a call counts as slow."""
CLOCKS = 0.002
"""What the clocks of two processes, read at different moments, may differ by."""
KINDS = ["threads", "async", "processes", "hybrid"]


def call(kind: str, target: Target) -> Callable[[int], Any]:
    return partial(aget if kind == "async" else get, target.port)


def calls(number: int = NUMBER) -> range:
    """Items that name their calls: the k-th planned is number k, from 1."""
    return range(1, number + 1)


def planned(run: Run) -> list[float]:
    return [log.planned for log in sorted(run.log, key=lambda log: log.id)]


def least_slow(instants: Sequence[float], stalls: Sequence[tuple[float, float]]) -> int:
    """Calls that cannot have been fast: they were planned for when the server stood still."""
    return sum(
        any(began + CLOCKS <= instant < ended - SLOW - CLOCKS for began, ended in stalls)
        for instant in instants
    )


def share_above(percentile: str) -> float:
    """The share of calls that are slower than a percentile, such as "p99"."""
    return 1 - float(percentile.removeprefix("p")) / 100


def made_slow(run: Run, stalls: Sequence[tuple[float, float]]) -> int:
    """Calls that were slow since the server stood still: they were to be under way meanwhile."""
    return sum(
        any(outcome.planned < ended - SLOW and outcome.ended > ended for _, ended in stalls)
        for outcome in run.log
    )


@pytest.mark.parametrize("kind", KINDS)
def test_stalls_show_in_an_open_loop(start: Start, kind: str) -> None:
    target = start(service=SERVICE, stall=STALL, period=PERIOD)
    run = taskyard.run(call(kind, target), calls(), rate=RATE, kind=kind, workers=64)
    served, stalls = target.served(), target.stalls()
    assert run.counts.completed == len(served) == NUMBER
    # The plan was kept to, whatever became of the calls.
    instants = planned(run)
    plan = constant(RATE, NUMBER)
    assert [instant - instants[0] for instant in instants] == pytest.approx(plan, abs=1e-5)
    # No call was answered before the server says so, and each knows since when it was wanted.
    answered = {each.call: each.ended for each in served}
    seen = {outcome.id: outcome.latency for outcome in run.log}
    for number, instant in enumerate(instants, 1):
        assert seen[number] >= answered[number] - instant - CLOCKS
    # Stalls that are a third of the time can be seen in the percentiles. (They begin with the first
    # call that comes, so of a load that begins late there are fewer.)
    least = least_slow(instants, stalls)
    assert made_slow(run, stalls) >= least
    report = run.report()
    assert report.conditions.open_loop
    slow = {name for name in report.latency.percentiles if least > share_above(name) * NUMBER}
    assert "p99" in slow
    for name in slow:
        assert report.latency.percentiles[name] >= SLOW * 0.99, name
    # The queue that the plan and the server's own notes make is never undercut.
    modelled = ends(instants, [each.ended - each.began for each in served], stalls)
    assert report.latency.mean >= fmean(modelled) - fmean(instants) - CLOCKS


def test_a_closed_loop_does_not_see_them(start: Start) -> None:
    target = start(service=SERVICE, stall=STALL, every=EVERY)
    run = taskyard.run(call("threads", target), calls(), workers=1)
    stalls = target.stalls()
    assert len(stalls) == NUMBER // EVERY
    # Of each stall, it sees the one call that it was in; a plan has many times as many in it.
    assert made_slow(run, stalls) <= len(stalls)
    assert least_slow(constant(RATE, NUMBER), [(k, k + STALL) for k in range(3)]) > 3 * 5
    report = run.report()
    assert report.latency.max >= STALL
    assert report.latency == report.service
    assert report.lateness.count == 0
    assert not report.conditions.open_loop


@pytest.mark.parametrize("kind", ["threads", "async"])
def test_a_target_slower_than_the_rate(start: Start, kind: str) -> None:
    number, service = 200, 0.01
    target = start(service=service)
    run = taskyard.run(call(kind, target), calls(number), rate=200, kind=kind, workers=500)
    report = run.report()
    assert report.completed == number
    # A hundred a second is all it can do, and so the queue grows to the end.
    assert report.throughput <= 1 / service
    instants = planned(run)
    assert report.latency.max >= number * service - (instants[-1] - instants[0]) - CLOCKS
    assert report.latency.mean >= fmean((k + 1) * service - k / 200 for k in range(number)) - CLOCKS
    assert report.max_concurrency >= 50
    assert run.info.limited == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_limit_on_workers_is_reported_when_it_is_hit(start: Start, kind: str) -> None:
    number, service, workers = 200, 0.01, 4
    target = start(service=service)
    run = taskyard.run(call(kind, target), calls(number), rate=200, kind=kind, workers=workers)
    report = run.report()
    assert report.max_concurrency <= workers
    # The k-th call cannot begin before the one that is `workers` ahead of it has ended.
    instants = [instant - planned(run)[0] for instant in planned(run)]
    modelled = ends(instants, [service] * number)
    forced = [end - instant for end, instant in zip(modelled, instants[workers:], strict=False)]
    # (If the generator stands still before all workers are busy, they may be idle again after it:
    # those that come next find a worker, late as they are.)
    assert run.info.limited >= sum(late > CLOCKS for late in forced) - 2 * workers
    assert report.conditions.limited == run.info.limited
    assert report.lateness.max >= max(forced) - CLOCKS
    assert any("workers" in warning for warning in report.warnings)
    # What the calls themselves took is no secret either, and is something else.
    assert report.latency.mean == pytest.approx(
        report.service.mean + report.lateness.mean, abs=1e-3
    )
    assert report.latency.max >= number * service - instants[-1] - CLOCKS


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "pace",
    [
        Poisson(200, seed=1),
        Ramp(0, 300, 0.5, hold=False),
        Steps([(100, 0.2), (0, 0.2), (200, 0.2)]),
        Trace([0.1, 0.1, 0.1, 0.15, 0.4]),
        Bursts(5, 0.1, growth=2),
    ],
    ids=lambda pace: type(pace).__name__,
)
def test_calls_are_due_when_the_pace_says_and_never_begin_before(pace: Pace, kind: str) -> None:
    run = taskyard.run(acall if kind == "async" else abs, 60, kind=kind, workers=4, rate=pace)
    instants = list(islice(pace.instants(), 60))
    assert run.counts.completed == len(instants)
    assert run.counts.undispatched == 60 - len(instants)
    due = planned(run)
    assert [at - due[0] for at in due] == pytest.approx(
        [at - instants[0] for at in instants], abs=1e-5
    )
    assert due[0] - run.started == pytest.approx(instants[0], abs=1e-5)
    assert all(outcome.started >= outcome.planned for outcome in run.log)
    assert run.info.plan == run.report().conditions.plan == pace.describe()


def test_a_generator_that_cannot_keep_up_is_marked() -> None:
    run = taskyard.run(abs, 20_000, rate=FASTEST, workers=8)
    report = run.report()
    assert report.completed == 20_000
    assert report.generator_bound
    assert any("generator" in warning for warning in report.warnings)


@pytest.mark.parametrize("kind", KINDS)
def test_refusals_are_failures_of_their_kind(start: Start, kind: str) -> None:
    number, refuse = 100, 10
    target = start(refuse=refuse)
    run = taskyard.run(call(kind, target), calls(number), rate=200, kind=kind, workers=64)
    refused = {served.call for served in target.served() if served.status == 503}
    assert len(refused) == number // refuse
    assert {outcome.id for outcome in run.failures()} == refused
    report = run.report()
    assert (report.completed, report.failed) == (number - len(refused), len(refused))
    (error,) = report.errors
    assert (error.kind, error.count) == ("Refused", len(refused))
    assert report.latency.count == number
    assert report.success_latency.count == number - len(refused)
