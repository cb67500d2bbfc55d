"""`run` on threads: what it calls, what it leaves, and what follows from errors."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import signal
import threading
import time
from array import array
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import pytest

import taskyard
from taskyard.dispatch.calls import Call
from taskyard.dispatch.engine import Finished, Job, Sink, Source
from taskyard.dispatch.log import Log
from taskyard.dispatch.outcome import Outcome, Status
from taskyard.dispatch.progress import Snapshot
from taskyard.dispatch.result import Run
from taskyard.errors import (
    CallFailed,
    DispatchError,
    FailMessage,
    PolicyError,
    RetryMessage,
    RunFailed,
)
from taskyard.policy import Retry


def same(item: Any) -> Any:
    return item


def odd_fails(item: int) -> int:
    if item % 2:
        raise ValueError(f"{item} is odd")
    return item


def test_each_item_is_called_once_and_results_are_in_their_order() -> None:
    run = taskyard.run(same, range(10_000), workers=7)
    assert run.results() == list(range(10_000))
    assert run.counts.completed == run.counts.total == len(run) == 10_000
    assert sorted(run.log.ids) == list(range(1, 10_001))


@pytest.mark.parametrize("workers", [1, 3])
def test_a_number_stands_for_so_many_calls(workers: int) -> None:
    assert taskyard.run(same, 5, workers=workers).results() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("items", [[], 0, iter(())])
def test_nothing_to_do_is_done(items: Any) -> None:
    run = taskyard.run(same, items)
    assert run.counts.total == 0
    assert run.results() == []
    assert not run.logs()


def test_as_many_calls_as_workers_are_under_way_at_once() -> None:
    barrier = threading.Barrier(8)
    run = taskyard.run(lambda _: barrier.wait(10), 16, workers=8)
    assert run.counts.completed == 16


def test_no_call_waits_for_a_busy_worker_while_another_one_is_idle() -> None:
    """After many calls that take no time, they are taken by the hundred; then all of them block."""
    number, workers = 5_000, 4
    barrier = threading.Barrier(workers)

    def call(item: int) -> None:
        if item >= number:
            barrier.wait(10)

    run = taskyard.run(call, number + 4 * workers, workers=workers)
    assert run.counts.completed == number + 4 * workers


def test_what_a_call_raises_is_its_outcome() -> None:
    run = taskyard.run(odd_fails, 10, workers=3)
    assert (run.counts.completed, run.counts.failed) == (5, 5)
    failures = sorted(run.failures(), key=lambda outcome: outcome.id)
    assert [outcome.id for outcome in failures] == [2, 4, 6, 8, 10]
    error = failures[0].error
    assert error is not None
    assert (error.kind, error.message) == ("ValueError", "1 is odd")
    assert isinstance(error.exception, ValueError)
    assert error.traceback.startswith("Traceback (most recent call last):\n")
    assert "in odd_fails" in error.traceback
    assert error.traceback.endswith("ValueError: 1 is odd\n")
    assert "taskyard" not in error.traceback  # only the frames of the function's own


def test_an_error_keeps_no_frames_alive() -> None:
    run = taskyard.run(odd_fails, 2)
    (failure,) = run.failures()
    assert failure.error is not None
    assert failure.error.exception is not None
    assert failure.error.exception.__traceback__ is None


def test_causes_stand_in_the_traceback() -> None:
    def call(_: int) -> None:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise RuntimeError("second") from error

    (failure,) = taskyard.run(call, 1).failures()
    assert failure.error is not None
    assert "KeyError: 'first'" in failure.error.traceback
    assert "direct cause" in failure.error.traceback
    assert failure.error.traceback.endswith("RuntimeError: second\n")


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_errors_that_end_programs_end_only_their_call(error: BaseException) -> None:
    def call(item: int) -> int:
        if item == 1:
            raise error
        return item

    run = taskyard.run(call, 4, workers=2)
    assert (run.counts.completed, run.counts.failed) == (3, 1)


def test_an_error_whose_text_cannot_be_had_is_an_outcome_too() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    def call(_: int) -> None:
        raise Broken

    (failure,) = taskyard.run(call, 1).failures()
    assert failure.error is not None
    assert "Broken" in failure.error.message


def test_results_of_a_run_with_failures_need_a_default() -> None:
    run = taskyard.run(odd_fails, 4)
    with pytest.raises(CallFailed, match="1 is odd") as raised:
        run.results()
    assert raised.value.outcome.id == 2
    assert run.results(default=None) == [0, None, 2, None]


def test_results_as_completed() -> None:
    first_may_end = threading.Event()

    def call(item: int) -> int:
        if item == 0:
            assert first_may_end.wait(30)
        return item

    run = taskyard.run(call, 2, workers=2, on_result=lambda _: first_may_end.set())
    assert run.results(order="completed") == [1, 0]
    assert run.results() == [0, 1]


def test_logs_are_dictionaries_in_the_order_of_the_items() -> None:
    run = taskyard.run(odd_fails, 2, workers=2)
    good, bad = run.logs()
    assert good["id"] == 1
    assert good["status"] == "completed"
    assert good["result"] == 0
    assert run.started <= good["started"] <= good["ended"] <= run.ended
    assert good["planned"] == good["started"]
    assert bad["status"] == "failed"
    assert bad["error"]["kind"] == "ValueError"


def test_a_run_has_a_report() -> None:
    report = taskyard.run(odd_fails, 10).report()
    assert (report.completed, report.failed) == (5, 5)


def test_items_are_consumed_as_calls_begin() -> None:
    taken = begun = 0
    ahead: list[int] = []

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(1, 21):
            taken = number
            yield number

    def call(number: int) -> None:
        nonlocal begun
        begun += 1
        ahead.append(taken - begun)
        threading.Event().wait(0.005)  # a slow call

    taskyard.run(call, items(), workers=1)
    assert begun == 20
    assert max(ahead) <= 1


def test_items_that_raise_end_the_run_after_what_was_begun() -> None:
    def items() -> Iterator[int]:
        yield from range(100)
        raise KeyError("no more")

    with pytest.raises(RunFailed, match="the items raised KeyError: 'no more'") as raised:
        taskyard.run(same, items(), workers=3)
    assert isinstance(raised.value.__cause__, KeyError)
    run = raised.value.run
    assert run.error is raised.value.__cause__
    assert run.counts.completed == 100
    assert run.report().conditions.interrupted


def test_runtime_ends_an_endless_run() -> None:
    run = taskyard.run(lambda _: threading.Event().wait(0.005), itertools.count(), runtime=1)
    assert run.counts.completed > 0
    assert run.counts.cancelled == 0
    assert run.duration < 30


def test_what_was_not_begun_within_the_runtime_is_undispatched() -> None:
    run = taskyard.run(lambda _: threading.Event().wait(0.05), 1000, workers=2, runtime=0.1)
    assert run.counts.undispatched == 1000 - run.counts.completed
    assert run.counts.undispatched > 900
    assert run.counts.total == 1000


def test_calls_that_outlive_the_grace_are_cancelled() -> None:
    release = threading.Event()
    try:
        run = taskyard.run(lambda _: release.wait(30), 3, workers=2, runtime=1.5, grace=0.05)
    finally:
        release.set()
    assert run.counts.cancelled == 2
    assert run.counts.undispatched == 1
    assert {outcome.status for outcome in run.log} == {Status.CANCELLED}


def test_a_call_that_takes_too_long_fails_and_its_thread_is_replaced() -> None:
    release = threading.Event()

    def call(item: int) -> int:
        if item == 1:
            release.wait(30)
        return item

    try:
        run = taskyard.run(call, 20, workers=1, timeout=0.5)
    finally:
        release.set()
    assert (run.counts.completed, run.counts.failed) == (19, 1)
    (failure,) = run.failures()
    assert failure.id == 2
    assert failure.error is not None
    assert failure.error.summary == "TimeoutError: it took longer than its timeout of 0.5 s"
    assert failure.duration >= 0.5


def test_a_call_that_took_too_long_is_tried_again() -> None:
    release = threading.Event()
    attempts = itertools.count(1)

    def call(item: int) -> str:
        if next(attempts) == 1:
            release.wait(30)
        return "second"

    try:
        run = taskyard.run(call, 1, timeout=0.5, retries=1)
    finally:
        release.set()
    assert run.results() == ["second"]
    assert run.log[0].attempts == 2
    assert run.log[0].duration >= 0.1


def test_failed_calls_are_tried_again() -> None:
    tried: dict[int, int] = {}

    def call(item: int) -> int:
        tried[item] = tried.get(item, 0) + 1
        if tried[item] <= item:
            raise ValueError(item)
        return item

    run = taskyard.run(call, 5, workers=2, retries=3)
    assert run.results(default="failed") == [0, 1, 2, 3, "failed"]
    attempts = {outcome.id: outcome.attempts for outcome in run.log}
    assert attempts == {1: 1, 2: 2, 3: 3, 4: 4, 5: 4}


def test_a_retry_function_decides() -> None:
    asked: list[tuple[int, str]] = []

    def decide(call: Call, error: BaseException) -> float | None:
        asked.append((call.attempt, str(error)))
        return 0.0 if call.attempt == 1 else None

    run = taskyard.run(odd_fails, [1], retries=taskyard.Retry(None, backoff=decide))  # type: ignore[arg-type]
    assert run.counts.failed == 1
    assert asked == [(1, "1 is odd"), (2, "1 is odd")]


def test_a_retry_function_that_raises_fails_the_call() -> None:
    def decide(call: Call, error: BaseException) -> float:
        raise RuntimeError("broken")

    (failure,) = taskyard.run(
        odd_fails,
        [1],
        retries=taskyard.Retry(None, backoff=decide),  # type: ignore[arg-type]
    ).failures()
    assert failure.error is not None
    assert "The retry function failed too: RuntimeError('broken')" in failure.error.traceback


@pytest.mark.parametrize(("error", "attempts"), [(FailMessage("no"), 1), (RetryMessage(), 4)])
def test_a_function_decides_about_its_call(error: Exception, attempts: int) -> None:
    def call(_: int) -> None:
        raise error

    run = taskyard.run(call, 1, retries=3)
    assert run.log[0].attempts == attempts


def test_a_function_may_know_its_call_and_note_something() -> None:
    def call(item: str, own: Call) -> int:
        own.metadata["item"] = item
        assert own.planned is None
        return own.id

    run = taskyard.run(call, ["x", "y"], context=True)
    assert run.results() == [1, 2]
    assert [log["metadata"] for log in run.logs()] == [{"item": "x"}, {"item": "y"}]


def test_on_result_sees_each_outcome_in_the_calling_thread() -> None:
    seen: list[Outcome] = []
    threads = set()

    def on_result(outcome: Outcome) -> None:
        seen.append(outcome)
        threads.add(threading.get_ident())

    run = taskyard.run(odd_fails, [10, 11, 12], workers=2, on_result=on_result)
    assert sorted((outcome.id, outcome.item) for outcome in seen) == [(1, 10), (2, 11), (3, 12)]
    assert threads == {threading.get_ident()}
    assert run.counts.failed == 1


def test_on_result_may_put_another_value_in_its_place() -> None:
    def on_result(outcome: Outcome) -> None:
        outcome.value = outcome.value * 10
        outcome.metadata["seen"] = True

    run = taskyard.run(same, 3, on_result=on_result)
    assert run.results() == [0, 10, 20]
    assert [log["metadata"] for log in run.logs()] == [{"seen": True}] * 3


def test_on_result_that_raises_ends_the_run() -> None:
    def on_result(outcome: Outcome) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RunFailed, match="on_result raised RuntimeError: enough") as raised:
        taskyard.run(same, itertools.count(), on_result=on_result, workers=2)
    assert raised.value.run.counts.completed >= 1


def test_on_done_gets_the_run_also_when_it_failed() -> None:
    seen: list[Run] = []
    run = taskyard.run(same, 3, on_done=seen.append)
    assert seen == [run]

    def items() -> Iterator[int]:
        yield 1
        raise KeyError

    with pytest.raises(RunFailed) as raised:
        taskyard.run(same, items(), on_done=seen.append)
    assert seen == [run, raised.value.run]


def test_a_run_may_run_inside_another_and_beside_the_main_thread() -> None:
    def call(item: int) -> int:
        return sum(taskyard.run(same, item, workers=2).results())

    assert taskyard.run(call, [3, 4], workers=2).results() == [3, 6]


def test_functions_of_all_kinds() -> None:
    class Adds:
        def __init__(self, by: int) -> None:
            self.by = by

        def __call__(self, item: int) -> int:
            return item + self.by

        def method(self, item: int) -> int:
            return item - self.by

    assert taskyard.run(Adds(2), 2).results() == [2, 3]
    assert taskyard.run(Adds(2).method, 2).results() == [-2, -1]
    run = taskyard.run(functools.partial(max, 1), 3)
    assert run.results() == [1, 1, 2]
    assert run.info.function == "builtins:max"
    assert taskyard.run("a".__add__, ["b"]).info.function == "builtins:str.__add__"
    assert taskyard.run(str, 2).results() == ["0", "1"]


async def anything(item: Any) -> None: ...


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"workers": 0}, "workers must be from 1 to"),
        ({"workers": True}, "workers must be a whole number"),
        ({"workers": 2.0}, "workers must be a whole number"),
        (
            {"kind": "fibers"},
            "kind must be 'threads', 'processes', 'hybrid', 'async', not 'fibers'",
        ),
        ({"rate": 0}, "rate"),
        ({"rate": -1}, "rate"),
        ({"rate": 10, "ramp": (1, 2, 3)}, "both say when calls are due"),
        ({"ramp": 3}, "ramp must be a Ramp, or"),
        ({"window": 0}, "window must be at least 1"),
        ({"window": -3}, "window must be at least 1"),
        ({"window": 2, "workers": 3}, "raise window=, or lower workers="),
        ({"timeout": 0}, "timeout must be"),
        ({"runtime": 0}, "runtime must be more than 0"),
        ({"retries": -1}, "retries must be"),
        ({"retries": True}, "retries must be"),
        ({"retries": "3"}, "retries must be"),
        ({"grace": -1}, "grace must be"),
        ({"on": "dask"}, "on must be a Yard, 'dask://host:port'"),
        ({"context": 1}, "context must be True or False"),
        ({"progress": 3}, "progress must be True, False or a function"),
        ({"on_result": anything}, "on_result is async: use arun"),
        ({"on_done": anything}, "on_done is async: use arun"),
        ({"start_method": "fork"}, "start_method= says how processes start"),
        ({"function": 3}, "function must be something to call"),
        ({"function": anything, "kind": "threads"}, "is async, and kind='threads'"),
        ({"function": len, "kind": "async"}, "kind='async' needs an async function"),
        ({"items": "abc"}, r"give \['abc'\]"),
        ({"items": -1}, "items must be 0 calls or more"),
        ({"items": True}, "items must be an iterable or a number"),
        ({"items": 3.5}, "items must be an iterable or a number"),
        ({"on_result": 5}, "on_result must be a function, not 5"),
        ({"on_done": "x"}, "on_done must be a function, not 'x'"),
        ({"resume": 5}, "resume must be the path of a file, not 5"),
    ],
)
def test_wrong_use_gets_a_clear_error(options: dict[str, Any], text: str) -> None:
    given = {"function": same, "items": 3, **options}
    with pytest.raises(PolicyError, match=text):
        taskyard.run(**given)


def test_wrong_order_of_a_stream_gets_a_clear_error() -> None:
    with pytest.raises(PolicyError, match="order must be 'items' or 'completed'"):
        taskyard.stream(same, 3, order="random")  # type: ignore[arg-type]


def test_progress_is_told() -> None:
    release = threading.Event()
    seen = []

    def show(snapshot: Any) -> None:
        seen.append(snapshot)
        release.set()

    run = taskyard.run(lambda _: release.wait(10), 3, workers=2, progress=show)
    assert run.counts.completed == 3
    assert seen[0].total == 3
    assert seen[-1].ended
    assert seen[-1].finished == 3
    assert seen[-1].p50 is not None


def test_progress_on_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    taskyard.run(same, 3, progress=True)
    assert "3 of 3 calls" in capsys.readouterr().err


def test_the_log_is_a_sequence() -> None:
    run = taskyard.run(same, 5, workers=1)
    assert [outcome.value for outcome in run.log] == [0, 1, 2, 3, 4]
    assert run.log[-1].value == 4
    assert [outcome.value for outcome in run.log[1:3]] == [1, 2]
    with pytest.raises(IndexError, match="none at 5"):
        run.log[5]


class Here:
    """The smallest engine: it makes all calls in the thread that starts it."""

    limited = 0

    def __init__(self, job: Job) -> None:
        self.function = job.function

    def prepare(self) -> None: ...

    def start(self, source: Source, sink: Sink) -> None:
        while (chunk := source.take(10)) is not None:
            now = array("d", [time.monotonic()] * len(chunk.ids))
            sink.put(Finished(chunk.ids, now, now, [self.function(item) for item in chunk.items]))
        sink.end()

    def tend(self) -> None: ...

    def stop(self) -> None: ...

    def abandon(self) -> None: ...

    def busy(self) -> int:
        return 0

    def close(self) -> None: ...


def test_calls_may_be_made_by_an_engine_of_ones_own() -> None:
    assert taskyard.run(str, 25, on=Here).results() == [str(item) for item in range(25)]


def test_an_engine_that_breaks_ends_the_run() -> None:
    class Breaks(Here):
        def start(self, source: Source, sink: Sink) -> None:
            sink.end(OSError("no room"))

    with pytest.raises(RunFailed, match="the engine broke: OSError: no room") as raised:
        taskyard.run(str, 25, on=Breaks)
    assert raised.value.run.counts.undispatched == 25


def test_calls_that_neither_completed_nor_failed_are_no_samples() -> None:
    release = threading.Event()

    def call(item: int) -> int:
        if item == 2:
            release.wait(30)
        return odd_fails(item)

    try:
        run = taskyard.run(call, 4, workers=1, runtime=1.5, grace=0.05)
    finally:
        release.set()
    samples = run.samples()
    assert list(samples.ids) == [1, 2]
    assert list(samples.success) == [1, 0]
    assert samples.kinds == {1: "ValueError"}
    assert (samples.cancelled, samples.undispatched) == (1, 1)
    assert run.report().cancelled == 1


def test_items_that_never_come_do_not_hold_up_the_end() -> None:
    never = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        never.wait(60)

    try:
        run = taskyard.run(same, items(), runtime=1)
    finally:
        never.set()
    assert run.counts.completed == 1
    assert run.duration < 30


@pytest.mark.parametrize("kind", ["threads", "async"])
def test_calls_see_the_context_of_whoever_began_the_run(kind: Any) -> None:
    variable: ContextVar[str] = ContextVar("variable", default="none")
    variable.set("ours")

    def call(_: int) -> str:
        return variable.get()

    async def acall(_: int) -> str:
        return variable.get()

    run = taskyard.run(acall if kind == "async" else call, 3)
    assert run.results() == ["ours"] * 3


@dataclasses.dataclass(frozen=True)
class Unchangeable(Exception):
    item: int


@pytest.mark.parametrize("kind", ["threads", "async"])
def test_an_error_that_cannot_be_changed_is_an_outcome_too(kind: Any) -> None:
    async def acall(item: int) -> None:
        raise Unchangeable(item)

    def call(item: int) -> None:
        raise Unchangeable(item)

    def no_delay(*_: object) -> float:
        raise ValueError("no idea")

    function: Any = acall if kind == "async" else call
    for retries in (0, Retry(1, backoff=no_delay)):
        run = taskyard.run(function, 3, kind=kind, retries=retries)
        assert run.counts.failed == 3
        assert run.log[0].error is not None
        assert run.log[0].error.exception is not None
        assert run.log[0].error.exception.__traceback__ is None


def test_a_thread_that_was_left_does_not_end_the_run() -> None:
    release = threading.Event()
    first: list[threading.Thread] = []

    def call(item: int) -> int:
        if not first:
            first.append(threading.current_thread())
            release.wait(20)
        return item

    def decide(*_: object) -> float:
        # Its thread is left, and none is in its place yet.
        release.set()
        first[0].join(20)
        return 0.0

    run = taskyard.run(call, 10, workers=1, timeout=0.5, retries=Retry(1, backoff=decide))
    assert run.results() == list(range(10))


def test_a_thread_that_was_left_in_another_attempt_takes_no_more_calls() -> None:
    left: list[threading.Thread] = []
    release, failed, gone = threading.Event(), threading.Event(), threading.Event()

    def call(item: int) -> int:
        if item == 0:
            left.append(threading.current_thread())
            release.wait(20)
        elif item % 1000 == 999 and failed.is_set() and not gone.is_set():
            release.set()  # while there are calls to be taken
            left[1].join(20)
            gone.set()
        return item

    def items() -> Iterator[int]:
        yield 0
        while not gone.is_set():
            yield from range(1, 3000)

    def decide(call: Call, _: BaseException) -> float | None:
        if call.attempt == 1:
            return 0.0
        failed.set()
        return None

    try:
        run = taskyard.run(
            call, items(), workers=2, timeout=0.5, retries=Retry(5, backoff=decide), runtime=20
        )
    finally:
        release.set()
    assert gone.is_set()
    assert run.counts.undispatched == 0
    assert [outcome.attempts for outcome in run.failures()] == [2]


def test_the_attempts_of_a_call_are_those_that_were_begun() -> None:
    release, retries = threading.Event(), Retry(1, delay=60.0)
    try:
        run = taskyard.run(
            lambda _: release.wait(20), 1, timeout=0.05, runtime=1.5, retries=retries
        )
    finally:
        release.set()
    assert [(outcome.status, outcome.attempts) for outcome in run.log] == [(Status.FAILED, 1)]


def test_a_signal_is_heeded_while_outcomes_keep_coming() -> None:
    def seen(outcome: Outcome) -> None:
        if outcome.id == 1:
            signal.raise_signal(signal.SIGINT)
        time.sleep(0.001)  # slower than the calls, so that there is always another outcome

    run = taskyard.run(same, iter(range(5000)), window=40, on_result=seen)
    assert run.info.interrupted == "SIGINT"
    assert run.counts.begun < 1000


def ended_threads() -> None:
    for thread in threading.enumerate():
        if thread.name == "taskyard-run":
            thread.join(20)


def test_a_signal_that_comes_last_is_told() -> None:
    def seen(_: Outcome) -> None:
        ended_threads()
        signal.raise_signal(signal.SIGINT)

    run = taskyard.run(same, 1, on_result=seen)
    assert run.info.interrupted == "SIGINT"
    assert run.counts.completed == 1


def test_progress_that_raises_ends_the_run() -> None:
    def show(snapshot: Snapshot) -> None:
        if snapshot.counts.completed:  # it may be told before the first call has ended
            raise OSError("the terminal is gone")

    with pytest.raises(RunFailed, match="progress raised OSError: the terminal is gone") as raised:
        taskyard.run(same, itertools.count(), window=10, progress=show)
    assert raised.value.run.counts.completed > 0


def test_items_that_raise_before_the_first_end_the_run() -> None:
    class Items:
        def __iter__(self) -> Iterator[int]:
            raise ValueError("no items today")

    with pytest.raises(RunFailed, match="the items raised ValueError: no items today") as raised:
        taskyard.run(same, Items())
    assert raised.value.run.counts.total == 0


def test_items_need_not_know_how_many_they_are() -> None:
    class Items:
        def __iter__(self) -> Iterator[int]:
            return iter(range(5))

        def __len__(self) -> int:
            raise TypeError("nobody knows")

    run = taskyard.run(same, Items())
    assert run.info.total is None
    assert run.results() == list(range(5))


def test_results_stand_at_the_places_of_their_items() -> None:
    begun = taskyard.run(same, 4)
    log = Log()
    now = array("d", [1.0, 1.0])
    log.add(Finished([4, 2], now, now, ["fourth", "second"]))
    run = Run(begun.counts, begun.info, log)
    assert run.results(default=None) == [None, "second", None, "fourth"]
    assert run.results(order="completed") == ["fourth", "second"]
    with pytest.raises(CallFailed, match="call 1 undispatched"):
        run.results()


def test_a_function_that_makes_coroutines_is_not_taken_for_a_plain_one() -> None:
    made: list[Any] = []

    async def call(item: int) -> int:
        return item

    def make(item: int) -> Any:
        made.append(call(item))
        return made[-1]

    with pytest.raises(DispatchError, match=r"makes coroutines, .* Use kind='async'"):
        taskyard.run(make, 3)
    for coroutine in made:
        coroutine.close()


async def test_options_that_are_none_are_named() -> None:
    with pytest.raises(TypeError, match=r"arun\(\) got an unexpected keyword argument 'worker'"):
        await taskyard.arun(same, 3, worker=5)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"stream\(\) got an unexpected .* 'on_result'"):
        taskyard.stream(same, 3, on_result=print)  # type: ignore[call-arg]
    with pytest.raises(PolicyError, match="on_result must be a function"):
        await taskyard.arun(same, 3, on_result=5)  # type: ignore[arg-type]
