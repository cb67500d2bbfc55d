"""How calls are handed to processes, and how a run of them ends."""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from tests.dispatch.processes import functions
from tests.dispatch.processes.background import Background
from tests.dispatch.processes.listening import Listener, listening
from tests.worker.support import until

from taskyard import run, stream
from taskyard.dispatch.outcome import Status
from taskyard.dispatch.pace import Trace
from taskyard.dispatch.processes import engine
from taskyard.dispatch.processes.cells import Cells
from taskyard.errors import MissingExtra, RunFailed, WorkerError


@pytest.fixture
def listener() -> Iterator[Listener]:
    with listening() as made:
        yield made


def test_as_many_processes_as_are_needed() -> None:
    pids = {pid for pid, _ in run(functions.who, 1, workers=8, kind="processes").results()}
    assert len(pids) == 1


def test_all_workers_are_at_work_at_once(listener: Listener) -> None:
    """No call waits behind another one while there is a worker that is free."""
    going = Background(functions.talk, [(listener.address, "")] * 8, workers=4, kind="processes")
    for _ in range(2):
        talks = [listener.accept()[1] for _ in range(4)]
        for talk in talks:
            talk.sendall(b"end")
            talk.close()
    assert going.result().counts.completed == 8


def test_all_threads_of_all_processes_are_at_work_at_once(listener: Listener) -> None:
    going = Background(functions.talk, [(listener.address, "")] * 7, workers=7, kind="hybrid")
    talks = [listener.accept()[1] for _ in range(7)]
    assert going.engine.busy() == 7
    for talk in talks:
        talk.sendall(b"end")
        talk.close()
    assert going.result().counts.completed == 7


def test_a_high_limit_does_not_start_as_many_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskyard.dispatch.processes.engine.EAGER", 4)
    monkeypatch.setattr("taskyard.dispatch.processes.engine.SPARE", 2)
    going = Background(functions.who, 20, workers=500, kind="processes", rate=200)
    assert going.result().counts.completed == 20
    assert next(going.engine._numbers) <= 100, "of 500 processes"


def test_more_processes_are_started_as_planned_calls_need_them(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskyard.dispatch.processes.engine.EAGER", 2)
    items = [(listener.address, "")] * 12
    going = Background(functions.talk, items, workers=12, kind="processes", rate=100)
    talks = [listener.accept()[1] for _ in range(12)]
    for talk in talks:
        talk.sendall(b"end")
        talk.close()
    assert going.result().counts.completed == 12


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("kind", ["processes", "hybrid"])
def test_planned_calls_begin_when_they_are_due(method: Any, kind: Any) -> None:
    instants = [0.002 * number for number in range(100)]
    done = run(
        functions.double, 100, workers=4, kind=kind, rate=Trace(instants), start_method=method
    )
    outcomes = sorted(done.log, key=lambda each: each.id)
    planned = [each.planned - outcomes[0].planned for each in outcomes]
    assert planned == pytest.approx(instants, abs=1e-5)
    assert all(each.started >= each.planned for each in outcomes)
    assert done.counts.completed == 100


def test_planned_calls_go_to_who_is_free_when_others_hang(listener: Listener) -> None:
    items = [(listener.address, "stall"), *[("", str(number)) for number in range(100)]]
    going = Background(functions.talk, items, workers=2, kind="processes", rate=1000)
    listener.hear()
    ids = {going.seen.get(timeout=20).id for _ in range(100)}
    assert 1 not in ids
    listener.answer()
    done = going.result()
    assert done.counts.completed == 101


def test_planned_calls_that_wait_for_a_worker_are_counted(listener: Listener) -> None:
    items = [(listener.address, "stall"), *[("", str(number)) for number in range(5)]]
    going = Background(functions.talk, items, workers=1, kind="processes", rate=Trace([0.0] * 6))
    listener.hear()
    listener.answer()
    assert going.result().info.limited == 5


def test_a_call_that_is_tried_again_is_counted_once() -> None:
    options: dict[str, Any] = {"timeout": 0.05, "retries": 2, "grace": 5.0}
    done = run(functions.hang, ["hang"] * 6, workers=1, kind="processes", rate=1000, **options)
    assert (done.counts.failed, done.log[0].attempts) == (6, 3)
    assert 1 <= done.info.limited <= 5


def test_a_stop_gives_back_what_was_not_begun(listener: Listener) -> None:
    items = [*[("", "")] * 200, (listener.address, "last"), *[("", "")] * 5000]
    going = Background(functions.talk, items, workers=1, kind="processes")
    listener.hear()
    going.stop()
    until(lambda: going.held() == 1)
    listener.answer()
    done = going.result()
    assert done.counts.completed == 201
    assert done.counts.undispatched == 5000


def test_what_is_abandoned_is_cancelled(listener: Listener) -> None:
    items = [(listener.address, "stays"), *[("", "")] * 50]
    going = Background(functions.talk, items, workers=1, kind="processes", grace=0.0)
    _, talk = listener.accept()
    going.stop()
    done = going.result()
    talk.close()
    assert [(each.id, each.status) for each in done.log] == [(1, Status.CANCELLED)]
    assert done.counts.undispatched == 50


def test_output_appears(capfd: pytest.CaptureFixture[str]) -> None:
    run(functions.shout, 3, workers=2, kind="processes", start_method="spawn")
    assert sorted(capfd.readouterr().out.split("\n")) == ["", "printed 0", "printed 1", "printed 2"]


# What cannot start


def test_processes_that_die_at_once_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from taskyard.dispatch.processes import nursery

    monkeypatch.setattr(nursery, "run_child", functions.die_at_once)  # forked with it
    with pytest.raises(RunFailed, match="end before they can work: the last one ended with code 9"):
        run(functions.double, 10, workers=2, kind="processes", start_method="fork")


def test_more_processes_than_the_nursery_can_be_told_of_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = socket.socketpair

    def narrow() -> tuple[socket.socket, socket.socket]:
        pair = made()
        for each in pair:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        return pair

    monkeypatch.setattr(socket, "socketpair", narrow)
    monkeypatch.setattr(engine, "PATIENCE", 20.0)
    done = run(functions.double, 50, workers=30, kind="processes", start_method="fork", rate=5000)
    assert done.counts.completed == 50


@pytest.mark.parametrize("rate", [None, 100])
def test_too_few_files_are_an_error_that_says_so(
    monkeypatch: pytest.MonkeyPatch, rate: float | None
) -> None:
    def none_left(threads: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Cells, "create", none_left)
    with pytest.raises((RunFailed, WorkerError), match="fewer workers, or allow it more"):
        run(functions.double, 10, workers=2, kind="processes", rate=rate)


def test_a_function_that_cannot_be_loaded_there_is_an_error() -> None:
    function = functions.Unloadable()
    with pytest.raises(RunFailed, match="cannot load the function: ImportError: not in here"):
        run(function, 10, workers=1, kind="processes", start_method="spawn")
    with pytest.raises(WorkerError, match="cannot load the function"):  # before the plan begins
        run(function, 10, workers=1, kind="processes", start_method="forkserver", rate=10)


def test_a_stream_that_cannot_start_is_over_at_once() -> None:
    outcomes = stream(
        functions.Unloadable(), 10, workers=1, kind="processes", start_method="forkserver", rate=10
    )
    with pytest.raises(WorkerError, match="cannot load the function"), outcomes:
        next(outcomes)
    assert outcomes.snapshot() is None, "nothing began, so there is no end to wait for"
    assert list(outcomes) == []


def test_without_cloudpickle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    with pytest.raises(MissingExtra, match=r"install cloudpickle \(pip install"):
        run(lambda item: item, 3, workers=1, kind="processes", start_method="spawn")
    assert run(
        lambda item: item, 3, workers=1, kind="processes", start_method="fork"
    ).results() == [0, 1, 2]
