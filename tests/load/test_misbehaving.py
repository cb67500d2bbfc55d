"""Functions and items that do what nobody hopes for, with each kind of workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from tests.load.calls import (
    ENDINGS,
    ODD,
    acall,
    ahang,
    aprint,
    araise,
    hang,
    make_unpicklable,
    prints,
    raises,
    raises_unpicklable,
)

import taskyard
from taskyard.dispatch.outcome import Status
from taskyard.dispatch.result import Run
from taskyard.errors import RunFailed

NUMBER = 40
KINDS = ["threads", "async", "processes", "hybrid"]
CHILDREN = ["processes", "hybrid"]


def run(function: Callable[[int], Any], kind: str, **options: Any) -> Run:
    return taskyard.run(function, NUMBER, kind=kind, workers=2, **options)


def results(made: Run) -> list[Any]:
    return made.results(default=None)


def odd(made: Run) -> Any:
    """The outcome of the call that is not like the others, which all came back."""
    others = [outcome for outcome in made.log if outcome.id != ODD + 1]
    assert [outcome.status for outcome in others] == [Status.COMPLETED] * (NUMBER - 1)
    assert all(outcome.value == outcome.id - 1 for outcome in others)
    (outcome,) = [outcome for outcome in made.log if outcome.id == ODD + 1]
    return outcome


@pytest.mark.parametrize("kind", CHILDREN)
@pytest.mark.parametrize("function", ENDINGS, ids=lambda function: function.__name__)
def test_the_end_of_a_process_costs_the_call_that_it_was_in(
    function: Callable[[int], int], kind: str
) -> None:
    made = run(function, kind)
    ended = {outcome.id: outcome for outcome in made.log}
    assert sorted(ended) == list(range(1, NUMBER + 1)), "each call has one outcome"
    assert ended[ODD + 1].status is Status.LOST
    assert made.counts.lost >= 1
    # Beside it only what was in the same process at the same time, and what had not been told yet.
    assert made.counts.lost <= 2
    assert made.counts.completed + made.counts.unknown + made.counts.lost == NUMBER
    assert made.counts.failed == 0
    report = made.report()
    assert (report.lost, report.unknown) == (made.counts.lost, made.counts.unknown)
    assert "lost" in report.text().lower()


@pytest.mark.parametrize("kind", KINDS)
def test_what_raises_is_an_outcome_with_its_traceback(kind: str) -> None:
    outcome = odd(run(araise if kind == "async" else raises, kind))
    assert outcome.status is Status.FAILED
    assert (outcome.error.kind, outcome.error.message) == ("ValueError", f"odd: {ODD}")
    assert "in raises" in outcome.error.traceback
    assert "taskyard/dispatch" not in outcome.error.traceback.replace("\\", "/")


@pytest.mark.parametrize("kind", CHILDREN)
def test_an_exception_that_cannot_be_pickled_is_told_in_words(kind: str) -> None:
    outcome = odd(run(raises_unpicklable, kind))
    assert outcome.status is Status.FAILED
    assert (outcome.error.kind, outcome.error.message) == ("Unpicklable", "odd")
    assert "in raises_unpicklable" in outcome.error.traceback


@pytest.mark.parametrize("kind", KINDS)
def test_what_hangs_fails_when_its_time_is_over(kind: str) -> None:
    outcome = odd(run(ahang if kind == "async" else hang, kind, timeout=1.0))
    assert outcome.status is Status.FAILED
    assert "Timeout" in outcome.error.kind
    assert outcome.duration >= 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_what_prints_is_heard(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert odd(run(aprint if kind == "async" else prints, kind)).status is Status.COMPLETED
    assert capfd.readouterr().out.count(f"odd: {ODD}") == 1


def test_any_result_comes_back_from_a_thread() -> None:
    assert results(run(make_unpicklable, "threads"))[ODD]() == ODD


@pytest.mark.parametrize("kind", CHILDREN)
def test_a_result_that_cannot_be_handed_over_fails_and_says_so(kind: str) -> None:
    # (Unless it is handed over: by cloudpickle, as a copy of its code.)
    made = run(make_unpicklable, kind)
    (outcome,) = [outcome for outcome in made.log if outcome.id == ODD + 1]
    assert made.counts.completed + made.counts.failed == NUMBER
    if outcome.status is Status.FAILED:
        assert "pickle" in outcome.error.summary.lower()
    else:
        assert outcome.value() == ODD


# Items


def items_that_break(after: int) -> Iterator[int]:
    yield from range(after)
    raise OSError("the file has ended in the middle")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rate", [None, 400])
def test_items_that_raise_end_the_run_but_not_its_report(kind: str, rate: float | None) -> None:
    function = acall if kind == "async" else abs
    with pytest.raises(RunFailed, match="the file has ended in the middle") as caught:
        taskyard.run(function, items_that_break(after=30), kind=kind, workers=2, rate=rate)
    assert isinstance(caught.value.__cause__, OSError)
    made = caught.value.run
    assert made.counts.completed == 30
    assert made.results() == list(range(30))
    report = made.report()
    assert report.completed == 30
    assert report.text()


def test_items_that_raise_at_once_leave_an_empty_run() -> None:
    with pytest.raises(RunFailed) as caught:
        taskyard.run(abs, items_that_break(after=0))
    assert caught.value.run.counts.total == 0
    assert caught.value.run.report().text()


@pytest.mark.parametrize("kind", KINDS)
def test_items_without_end_are_taken_no_further_than_needed(kind: str) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield taken

    function = acall if kind == "async" else partial(abs)
    made = taskyard.run(function, items(), kind=kind, workers=2, rate=50, runtime=2, window=50)
    assert made.info.interrupted in {"", "runtime"}
    # Calls that were due while items were waited for are undispatched, though not taken.
    assert made.counts.completed + made.counts.undispatched <= 100
    assert 0 < made.counts.completed <= taken <= 100 + 50
