"""Workers that are seen, paused, resumed and shut down by others."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
from tests.worker.support import Another, Clock, until, wait_for, working

from taskyard import Batch, State, Yard
from taskyard.brokers.base import AsyncDriver, Broker, Listener, Operation
from taskyard.brokers.workers import (
    KEPT,
    SILENT,
    Command,
    ControlMessage,
    Report,
    WorkerInfo,
    WorkerState,
    knows,
)
from taskyard.errors import NotFound, TaskyardError, WorkerError
from taskyard.worker.attendance import Attendance, paused_after, report_of, state_of

SILENCE, EXPIRY = SILENT / 1e6, KEPT / 1e6


def note(number: int) -> int:
    return number


class Gate:
    """A handler that stays inside until it may go on."""

    def __init__(self) -> None:
        self.inside, self.may_end = threading.Event(), threading.Event()

    def __call__(self, number: int) -> int:
        self.inside.set()
        wait_for(self.may_end)
        return number


def only(yard: Yard, holds: Callable[[WorkerInfo], bool] = lambda _: True) -> WorkerInfo:
    """The only worker, once it is there, and like that."""
    found: list[WorkerInfo] = []

    def is_there() -> bool:
        found[:] = yard.workers()
        return len(found) == 1 and holds(found[0])

    until(is_there)
    return found[0]


def state(wanted: WorkerState) -> Callable[[WorkerInfo], bool]:
    return lambda worker: worker.state == wanted


# Being seen


def test_a_worker_is_seen_from_its_start_to_its_end(yard: Yard) -> None:
    yard.task(name="note", queue="notes")(note)
    yard.task(name="other", queue="others")(note)
    assert yard.workers() == []
    with working(yard, queues={"notes": 2, "others": 1}) as thread:
        worker = only(yard)
        assert worker.id == thread.worker.owner
        assert worker.id.startswith(worker.host)
        assert worker.serves == {"notes": ["note"], "others": ["other"]}
        assert (worker.queues, worker.tasks) == (
            ["notes", "others"],
            ["notes/note", "others/other"],
        )
        assert (worker.slots, worker.running, worker.calls, worker.paused) == (3, 0, [], [])
        assert (worker.state, worker.silent, worker.progress) == ("running", False, None)
        assert worker.started <= worker.seen
    assert yard.workers() == []


def test_what_runs_is_seen(yard: Yard, clock: Clock) -> None:
    gate = Gate()
    task = yard.task(name="gate")(gate)
    with working(yard, concurrency=2):
        only(yard)
        result = task.enqueue(1)
        wait_for(gate.inside)
        yard.tell("all", "pause", "default")  # so that it is refreshed
        worker = only(yard, lambda worker: bool(worker.calls))
        assert (worker.running, worker.state) == (1, "pausing")
        assert (worker.calls[0].task, worker.calls[0].id, worker.calls[0].messages) == (
            "gate",
            result.id,
            1,
        )
        assert worker.progress is not None
        assert worker.started <= worker.progress <= worker.calls[0].since <= worker.seen
        gate.may_end.set()
        assert result.get(20) == 1


def test_a_batch_is_seen_by_its_first_message(yard: Yard) -> None:
    inside, may_end = threading.Event(), threading.Event()

    @yard.task(name="batch", batch=Batch(3), result_ttl=60)
    def batch(numbers: list[int]) -> list[int]:
        inside.set()
        wait_for(may_end)
        return numbers

    with working(yard):
        only(yard)
        results = list(batch.enqueue_many([1, 2, 3]))
        wait_for(inside)
        yard.tell("all", "pause")
        (call,) = only(yard, lambda worker: bool(worker.calls)).calls
        assert (call.id, call.messages) == (results[0].id, 3)
        may_end.set()
        assert [result.get(20) for result in results] == [1, 2, 3]


def test_two_workers_of_one_process_are_two(yard: Yard) -> None:
    yard.task(name="note")(note)
    with working(yard) as one, working(yard) as other:
        until(lambda: len(yard.workers()) == 2)
        workers = yard.workers()
        assert {worker.id for worker in workers} == {one.worker.owner, other.worker.owner}
        assert len({(worker.host, worker.pid) for worker in workers}) == 1
        yard.tell(one.worker.owner, "shutdown")
        one.join()
        assert [worker.id for worker in yard.workers()] == [other.worker.owner]
        assert not other.worker.stopping


def test_who_is_killed_is_silent_then_expires(yard: Yard, clock: Clock) -> None:
    yard.task(name="note", queue="notes")(note)
    with working(yard):
        entry = only(yard)
        assert knows(yard.workers(), "notes", "note")
        assert not knows(yard.workers(), "notes", "other")
        assert not knows(yard.workers(), "note", "note")
        report = yard.driver.run(yard.broker.workers.find()).workers[0].report
    # What is left of one that was killed: an entry that nobody refreshes.
    yard.driver.run(yard.broker.workers.attend("killed", report, "", 0))
    clock.forward(SILENCE - 5)
    assert not only(yard).silent
    clock.forward(10)
    silent = only(yard)
    assert (silent.id, silent.silent, silent.pid) == ("killed", True, entry.pid)
    assert not knows([silent], "notes", "note")
    clock.forward(EXPIRY)
    assert yard.workers() == []
    with pytest.raises(NotFound, match="no worker killed"):
        yard.tell("killed", "shutdown")


def test_an_entry_of_a_newer_worker_is_read(yard: Yard, caplog: pytest.LogCaptureFixture) -> None:
    import msgspec

    report = {
        "host": "h",
        "pid": 1,
        "version": "9",
        "serves": {},
        "slots": 1,
        "age": 0,
        "state": "dancing",
        "tune": [1],
    }
    for name, encoded in (("new", msgspec.msgpack.encode(report)), ("bad", b"\xc1")):
        yard.driver.run(yard.broker.workers.attend(name, encoded, "", 0))
    assert [(worker.id, worker.state) for worker in yard.workers()] == [("new", "dancing")]
    assert "worker bad cannot be read" in caplog.text


async def test_coroutines_see_and_tell(yard: Yard) -> None:
    yard.task(name="note")(note)
    assert await yard.aworkers() == []
    with working(yard) as thread:
        await asyncio.to_thread(only, yard)
        assert [worker.id for worker in await yard.aworkers()] == [thread.worker.owner]
        assert await yard.atell("all", Command.SHUTDOWN) == [thread.worker.owner]
        await asyncio.to_thread(thread.join)
    assert await yard.aworkers() == []


# Pausing


def test_a_paused_worker_takes_nothing_until_it_is_resumed(yard: Yard) -> None:
    task = yard.task(name="note", queue="notes")(note)
    with working(yard) as thread:
        only(yard)
        assert yard.tell("all", "pause") == [thread.worker.owner]
        assert only(yard, state(WorkerState.PAUSED)).paused == ["notes"]
        result = task.enqueue(1)
        with pytest.raises(TaskyardError):
            result.get(0.1)
        assert yard.counts()[0].waiting == 1
        yard.tell(thread.worker.owner, "resume")
        assert result.get(20) == 1
        assert only(yard, state(WorkerState.RUNNING)).paused == []


def test_a_queue_is_paused_for_one_worker(yard: Yard, another: Another) -> None:
    one, two = (yard.task(name=name, queue=name)(note) for name in ("one", "two"))
    with working(yard) as thread:
        only(yard)
        yard.tell("all", "pause", "one")
        yard.tell("all", "pause", "three")
        worker = only(yard, lambda worker: worker.paused == ["one"])
        assert worker.state == "running"
        held = one.enqueue(1)
        assert two.enqueue(2).get(20) == 2
        assert held.status() is State.WAITING
        other = another()
        other.task(name="one", queue="one")(note)
        with working(other):
            assert held.get(20) == 1, "others take it, and are woken for it"
            until(lambda: len(yard.workers()) == 2)
        held = one.enqueue(3)
        yard.tell(thread.worker.owner, "resume", "one")
        assert held.get(20) == 3


def test_a_wake_up_is_not_kept_from_others(yard: Yard, another: Another) -> None:
    """The worker that is paused has slept longest."""
    task = yard.task(name="note")(note)
    with working(yard) as thread:
        only(yard)
        other = another()
        other.task(name="note")(note)
        with working(other):
            until(lambda: len(yard.workers()) == 2)
            yard.tell(thread.worker.owner, "pause")
            until(lambda: any(worker.state == "paused" for worker in yard.workers()))
            for number in range(5):
                assert task.enqueue(number).get(5) == number


def test_what_runs_goes_on(yard: Yard) -> None:
    gate = Gate()
    task = yard.task(name="gate")(gate)
    with working(yard, concurrency=1):
        only(yard)
        running, waiting = task.enqueue(1), task.enqueue(2)
        wait_for(gate.inside)
        yard.tell("all", "pause")
        only(yard, state(WorkerState.PAUSING))
        gate.may_end.set()
        assert running.get(20) == 1
        only(yard, state(WorkerState.PAUSED))
        yard.tell("all", "resume")
        assert waiting.get(20) == 2


# Shutting down


def test_shutdown_lets_what_runs_end_and_gives_the_rest_back(yard: Yard) -> None:
    gate = Gate()
    task = yard.task(name="gate")(gate)
    with working(yard, concurrency=1, slice=5) as thread:
        only(yard)
        result = task.enqueue(0)
        wait_for(gate.inside)
        yard.tell(thread.worker.owner, "shutdown")
        only(yard, state(WorkerState.STOPPING))
        later = task.enqueue(1)
        gate.may_end.set()
        thread.join()
        assert thread.worker.dismissed
    assert result.get(5) == 0
    assert later.status() is State.WAITING
    assert yard.workers() == []


def test_a_queue_is_left_for_good_and_the_last_one_ends_the_worker(yard: Yard) -> None:
    one, other = (yard.task(name=name, queue=name)(note) for name in ("one", "other"))
    with working(yard, queues={"one": 1, "other": 1}) as thread:
        yard.tell(only(yard).id, "shutdown", "nowhere")
        yard.tell(thread.worker.owner, "shutdown", "one")
        only(yard, lambda info: info.paused == ["one"])
        yard.tell("all", "resume")
        yard.tell("all", "pause", "other")
        only(yard, state(WorkerState.PAUSED))
        yard.tell("all", "resume")
        only(yard, lambda info: info.paused == ["one"])
        left = one.enqueue(1)
        assert other.enqueue(2).get(20) == 2
        yard.tell("all", "shutdown", "other")
        thread.join()
        assert thread.worker.dismissed
    assert left.status() is State.WAITING
    assert yard.workers() == []


def test_another_run_is_not_concerned(yard: Yard) -> None:
    task = yard.task(name="note")(note)
    with working(yard) as thread:
        first = only(yard).id
        yard.tell(first, "shutdown")
        thread.join()
    with working(yard):
        assert only(yard).id != first
        assert task.enqueue(1).get(20) == 1
        with pytest.raises(NotFound, match="no worker"):
            yard.tell([first, only(yard).id], "pause")
        only(yard, state(WorkerState.PAUSED))


def test_a_lost_wake_up_is_made_up_for(
    yard: Yard, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskyard.worker.worker.TIDY_EVERY", 0.1)
    attend = broker.workers.attend

    def deaf(worker: str, report: bytes, listener: str, heard: int) -> Any:
        return attend(worker, report, "", heard)

    monkeypatch.setattr(broker.workers, "attend", deaf)
    yard.task(name="note")(note)
    with working(yard) as thread:
        only(yard)
        yard.tell("all", "shutdown")
        thread.join()


def test_unknown_commands_are_dropped(yard: Yard, caplog: pytest.LogCaptureFixture) -> None:
    task = yard.task(name="note")(note)
    with working(yard) as thread:
        only(yard)
        yard.driver.run(yard.broker.workers.tell([thread.worker.owner], "os.system", "rm"))
        yard.tell("all", "pause")
        only(yard, state(WorkerState.PAUSED))
        yard.tell("all", "resume")
        assert task.enqueue(1).get(20) == 1
    assert "an unknown control message is dropped: 'os.system'" in caplog.text


def test_wrong_use_says_what_is_right(yard: Yard) -> None:
    with pytest.raises(WorkerError, match="told shutdown, pause, resume, not 'stop'"):
        yard.tell("all", "stop")
    with pytest.raises(TaskyardError):
        yard.tell("all", "pause", "")
    nobody: list[Any] = [None, 1, ["x", None], [[]]]
    for whom in nobody:
        with pytest.raises(WorkerError, match="told by its id"):
            yard.tell(whom, "pause")
    with pytest.raises(NotFound, match="no worker x, y"):
        yard.tell(["x", "y"], "pause")
    assert yard.tell("all", "pause") == []
    assert yard.tell([], "pause") == []


# While the broker is away


def test_it_is_there_again_when_the_broker_is(
    yard: Yard, broker: Broker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from taskyard.errors import BrokerError, BrokerUnavailable

    monkeypatch.setattr("taskyard.worker.worker.TIDY_EVERY", 0.05)
    attend = broker.workers.attend
    failed = threading.Event()
    errors: list[BrokerError] = [BrokerUnavailable("away"), BrokerError("refused")]

    def failing(*given: Any) -> Any:
        if errors:
            error = errors.pop(0)
            if not errors:
                failed.set()
            raise error
        return (yield from attend(*given))

    monkeypatch.setattr(broker.workers, "attend", failing)
    task = yard.task(name="note")(note)
    with caplog.at_level(logging.WARNING), working(yard):
        assert task.enqueue(1).get(20) == 1
        wait_for(failed)
        only(yard)
    assert "refused" in caplog.text
    assert "away" not in caplog.text
    assert yard.workers() == []


def test_it_leaves_though_it_is_stopped_while_it_is_being_registered(
    yard: Yard, broker: Broker
) -> None:
    async def stop_while_it_is_stored() -> None:
        attendance = Attendance(Host("w1"), broker.workers, driver := Slow(broker.async_driver()))
        running = asyncio.ensure_future(attendance.run(lambda: 60.0))
        await driver.asked.wait()
        running.cancel()
        await asyncio.wait({running})
        driver.may_answer.set()
        await attendance.leave()
        await driver.close()

    asyncio.run(stop_while_it_is_stored())
    assert yard.workers() == []


class Host:
    """What an attendance needs of a worker."""

    is_paused = False

    def __init__(self, owner: str) -> None:
        self.owner = owner

    def report(self) -> Report:
        return report_of(
            serves={"q": ["note"]},
            slots=1,
            started=0.0,
            progressed=None,
            paused=(),
            stopping=False,
            executions=(),
        )

    def obey(self, message: ControlMessage, command: Command) -> None:
        raise AssertionError("nobody told it anything")

    def note_progress(self, messages: int = 0) -> None:
        raise AssertionError("it is not paused")


class Slow:
    """A driver whose first operation is done, but answered only when that is wanted."""

    def __init__(self, driver: AsyncDriver) -> None:
        self._driver = driver
        self.asked, self.may_answer = asyncio.Event(), asyncio.Event()

    async def run(self, operation: Operation[Any]) -> Any:
        answer = await self._driver.run(operation)
        self.asked.set()
        await self.may_answer.wait()
        return answer

    def listener(self) -> Listener:
        return self._driver.listener()

    async def close(self) -> None:
        await self._driver.close()

    def shut_down(self) -> None:
        self._driver.shut_down()


# What follows from what


@pytest.mark.parametrize(
    ("paused", "command", "queue", "then"),
    [
        ("", "pause", "a", "a"),
        ("", "pause", "", "ab"),
        ("", "pause", "c", ""),
        ("a", "pause", "b", "ab"),
        ("ab", "resume", "a", "b"),
        ("ab", "resume", "", ""),
        ("a", "resume", "b", "a"),
        ("a", "shutdown", "", "a"),
    ],
)
def test_what_is_paused(paused: str, command: str, queue: str, then: str) -> None:
    found = paused_after(frozenset(paused), frozenset("ab"), Command(command), queue)
    assert found == frozenset(then)


@pytest.mark.parametrize(
    ("stopping", "paused", "running", "state"),
    [
        (False, False, False, "running"),
        (False, False, True, "running"),
        (False, True, True, "pausing"),
        (False, True, False, "paused"),
        (True, True, False, "stopping"),
        (True, False, True, "stopping"),
    ],
)
def test_states(stopping: bool, paused: bool, running: bool, state: str) -> None:
    assert state_of(stopping=stopping, paused=paused, running=running) == state
