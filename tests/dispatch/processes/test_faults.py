"""What goes wrong in worker processes, and what becomes of the calls."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from tests.dispatch.processes import functions
from tests.dispatch.processes.background import Background
from tests.dispatch.processes.listening import Listener, listening

from taskyard import run
from taskyard.dispatch.outcome import Status
from taskyard.dispatch.processes import child, engine, nursery
from taskyard.dispatch.result import Run
from taskyard.policy import Retry

METHODS = ["fork", "forkserver", "spawn"]
KINDS = [("fork", "processes"), ("spawn", "processes"), ("fork", "hybrid"), ("spawn", "hybrid")]


def by_status(done: Run) -> dict[Status, list[int]]:
    found: dict[Status, list[int]] = {}
    for outcome in done.log:
        found.setdefault(outcome.status, []).append(outcome.id)
    return {status: sorted(ids) for status, ids in found.items()}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["processes", "hybrid"])
def test_calls_are_made_once_each(method: Any, kind: Any) -> None:
    done = run(functions.double, 3000, workers=4, kind=kind, start_method=method)
    assert done.counts.completed == done.counts.total == 3000
    assert done.results() == [2 * number for number in range(3000)]


@pytest.mark.parametrize(("method", "kind"), KINDS)
def test_a_process_that_dies_loses_its_call(method: Any, kind: Any) -> None:
    items: list[Any] = [*range(30), "exit", *range(30), "segfault", *range(30), "kill", *range(30)]
    done = run(functions.die, items, workers=3, kind=kind, start_method=method)
    found = by_status(done)
    # In the other thread of a hybrid process something may be under way, or just be over.
    assert {31, 62, 93} <= set(found[Status.LOST])
    if kind == "processes":
        assert found[Status.LOST] == [31, 62, 93]
    gone = found[Status.LOST] + found.get(Status.UNKNOWN, [])
    assert sorted(gone + found[Status.COMPLETED]) == list(range(1, len(items) + 1))


@pytest.fixture
def listener() -> Iterator[Listener]:
    with listening() as made:
        yield made


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_results_are_handed_over_while_the_next_call_runs(method: Any, listener: Listener) -> None:
    items = [("", str(number)) for number in range(20)] + [(listener.address, "long")]
    going = Background(functions.talk, items, workers=1, kind="processes", start_method=method)
    listener.hear()
    assert [going.seen.get(timeout=30).id for _ in range(20)] == list(range(1, 21))
    listener.answer()
    assert going.result().counts.completed == 21


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_unbegun_calls_behind_a_long_one_are_made_elsewhere(
    method: Any, listener: Listener
) -> None:
    """As many short ones as make a process hold many, then one that ends when all others have."""
    items = [("", str(number)) for number in range(2000)]
    items[1000] = (listener.address, "long")
    going = Background(functions.talk, items, workers=2, kind="processes", start_method=method)
    listener.hear()
    ids = {going.seen.get(timeout=20).id for _ in range(1999)}
    assert 1001 not in ids
    listener.answer()
    assert going.result().counts.completed == 2000


def test_unbegun_calls_behind_one_that_holds_the_interpreter_are_made_elsewhere(
    listener: Listener,
) -> None:
    """So that its process cannot even be asked."""
    items = ["" for number in range(30)]
    items[9] = listener.address
    going = Background(functions.hold_fast, items, workers=2, kind="processes")
    listener.hear()
    ids = {going.seen.get(timeout=20).id for _ in range(29)}
    assert 10 not in ids
    listener.answer()
    assert going.result().counts.completed == 30


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_unbegun_calls_of_a_dead_process_are_made_by_others(
    method: Any, listener: Listener
) -> None:
    items = [("", str(number)) for number in range(3000)]
    items[1500] = (listener.address, "pid")
    going = Background(functions.talk_pid, items, workers=1, kind="processes", start_method=method)
    pid = int(listener.hear())
    os.kill(pid, signal.SIGKILL)
    done = going.result()
    assert by_status(done)[Status.LOST] == [1501]
    assert done.counts.completed + done.counts.unknown == 2999


def test_what_had_ended_and_was_not_handed_over_is_unknown() -> None:
    items = [*range(50), "kill at once", *range(50)]
    done = run(functions.end_quickly, items, workers=1, kind="processes", start_method="fork")
    found = by_status(done)
    assert found[Status.LOST] == [51]
    unknown = found.get(Status.UNKNOWN, [])
    assert unknown == list(range(51 - len(unknown), 51))
    assert done.counts.completed + done.counts.unknown == 100


@pytest.mark.parametrize(("method", "kind"), KINDS)
def test_results_that_do_not_travel_are_failures(method: Any, kind: Any) -> None:
    items = ["fine", "not picklable", "not unpicklable", "stubborn error", "exit", "fine"] * 5
    done = run(functions.give, items, workers=2, kind=kind, start_method=method)
    kinds = Counter(each.error.kind for each in done.failures() if each.error is not None)
    assert kinds == {"PicklingError": 10, "StubbornError": 5, "SystemExit": 5}
    assert done.counts.completed == 10
    texts = {each.id: each.error.message for each in done.failures() if each.error is not None}
    assert "the result, a NotPicklable, cannot be pickled: TypeError: no way" in texts[2]
    assert "the result cannot be unpickled: ValueError: not in here" in texts[3]
    assert texts[4] == "1 and 2"


def test_values_whose_pickling_ends_programs_are_failures() -> None:
    items = ["exit when pickled", "exit when unpickled", "fine"] * 5
    done = run(functions.give, items, workers=2, kind="processes", start_method="fork")
    kinds = Counter(each.error.kind for each in done.failures() if each.error is not None)
    assert kinds == {"PicklingError": 10}
    assert done.counts.completed == 5


@pytest.mark.parametrize("kind", ["processes", "hybrid"])
def test_what_a_function_forks_is_no_worker(kind: Any) -> None:
    for retries in (0, 1):
        done = run(functions.fork_twofold, 20, workers=4, kind=kind, retries=retries)
        assert done.results() == [*range(20)]
    done = run(functions.fork_and_raise, 20, workers=4, kind=kind, retries=1)
    assert {each.attempts for each in done.failures()} == {2}
    assert done.counts.failed == 20


@pytest.mark.parametrize("method", METHODS)
def test_what_a_function_forks_can_be_terminated(method: Any) -> None:
    done = run(functions.terminate_child, 2, workers=2, kind="processes", start_method=method)
    assert done.results() == [-signal.SIGTERM] * 2


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_items_that_do_not_travel_are_failures(method: Any) -> None:
    items = [1, functions.NotPicklable(), 2, functions.NotUnpicklable(), 3]
    done = run(functions.who, items, workers=1, kind="processes", start_method=method)
    texts = {each.id: each.error.message for each in done.failures() if each.error is not None}
    assert sorted(texts) == [2, 4]
    assert "the item, a NotPicklable, cannot be pickled" in texts[2]
    assert "the item cannot be unpickled" in texts[4]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_an_item_that_kills_every_process_is_lost(method: Any) -> None:
    items = [*range(5), functions.Lethal(), *range(5)]
    done = run(functions.who, items, workers=1, kind="processes", start_method=method)
    assert by_status(done)[Status.LOST] == [6]
    assert done.counts.completed == 10


def test_a_new_process_may_get_the_descriptors_of_a_dead_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is opened first after a death has the number of what the dead one was watched by."""
    lowest = [os.open(os.devnull, os.O_RDONLY)]
    watch = nursery._watch

    def watch_lowest(process: Any) -> int:
        fd = watch(process)
        if not lowest or fd == process.sentinel:
            return fd
        os.dup2(fd, lowest[0], inheritable=False)
        os.close(fd)
        return lowest.pop()

    monkeypatch.setattr(nursery, "_watch", watch_lowest)
    done = run(functions.die, ["exit", 1, 2], workers=1, kind="processes", start_method="spawn")
    for fd in lowest:
        os.close(fd)
    assert by_status(done) == {Status.LOST: [1], Status.COMPLETED: [2, 3]}


def test_exceptions_are_outcomes_with_traceback() -> None:
    done = run(functions.raises, 4, workers=1, kind="processes")
    first, _ = done.failures()
    assert first.error is not None
    assert isinstance(first.error.exception, ValueError)
    assert first.error.summary == "ValueError: odd: 1"
    assert "in raises" in first.error.traceback
    assert "child.py" not in first.error.traceback


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_context_metadata_and_attempts(method: Any) -> None:
    done = run(functions.note, 4, workers=2, kind="processes", start_method=method, context=True)
    assert done.results() == [(1, 1), (2, 1), (3, 1), (4, 1)]
    assert {each.id: each.metadata for each in done.log} == {
        1: {"item": 0},
        2: {"item": 1},
        3: {"item": 2},
        4: {"item": 3},
    }
    again = run(functions.fails_twice, 4, workers=2, kind="hybrid", context=True, retries=2)
    assert again.results() == [3] * 4
    assert {each.attempts for each in again.log} == {3}


# Timeouts


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("how", ["hang", "spin"])
def test_a_call_that_takes_too_long_fails_and_its_process_is_replaced(
    method: Any, how: str
) -> None:
    items = [*range(10), how, *range(10)]
    done = run(functions.hang, items, workers=1, kind="processes", start_method=method, timeout=1.0)
    (failed,) = done.failures()
    assert (failed.id, failed.status) == (11, Status.FAILED)
    assert failed.error is not None
    assert failed.error.kind == "TimeoutError"
    assert 1.0 <= failed.duration < 30
    assert done.counts.completed == 20


def test_neighbours_of_a_call_that_takes_too_long_end() -> None:
    """In the same process: they are not killed with it. Two processes have two threads each."""
    items: list[Any] = [0.5, "hang", 0.3, 0.45, *range(20)]
    done = run(functions.hang, items, workers=4, kind="hybrid", timeout=3.5)
    (failed,) = done.failures()
    assert failed.id == 2
    assert done.counts.completed == 23


def test_what_ended_before_a_call_that_takes_too_long_is_handed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also if nothing is handed over until it is asked for, and then not at once."""
    give_back = child._Child._give_back

    def hesitate(self: Any, until: int) -> None:
        time.sleep(0.1)
        give_back(self, until)

    monkeypatch.setattr(child, "HAND_OVER_EVERY", 1000.0)
    monkeypatch.setattr(child, "AT_LEAST", 1000.0)
    monkeypatch.setattr(child, "CLERK_EVERY", 1000.0)
    monkeypatch.setattr(child._Child, "_give_back", hesitate)
    monkeypatch.setattr(engine, "HAND_OVER_WITHIN", 10.0)
    monkeypatch.setattr(engine, "held", lambda *_, **__: 20)
    items = [*range(5), "hang", *range(5)]
    # Forked, so that it holds for the processes, too.
    options: Any = {"kind": "processes", "start_method": "fork"}
    done = run(functions.hang, items, workers=1, timeout=1.0, **options)
    assert by_status(done)[Status.FAILED] == [6]
    assert done.counts.completed == 10


def test_a_call_that_took_too_long_is_tried_again() -> None:
    done = run(
        functions.hang_once,
        ["a"],
        workers=1,
        kind="processes",
        timeout=1.0,
        retries=Retry(1, delay=0.0),
        context=True,
    )
    assert done.results() == [2]
    assert done.log[0].attempts == 2
    assert done.log[0].duration >= 1.0


def test_attempts_count_wherever_they_are_made() -> None:
    done = run(
        functions.fail_and_hang,
        ["a"],
        workers=1,
        kind="processes",
        timeout=0.3,
        retries=1,
        context=True,
    )
    (failed,) = done.failures()
    assert (failed.error and failed.error.kind, failed.attempts) == ("TimeoutError", 2)
