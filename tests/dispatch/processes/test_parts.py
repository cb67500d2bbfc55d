"""The parts of the engine of processes that decide something, without processes."""

from __future__ import annotations

import os
import socket
import threading
from typing import Any

import pytest
from tests.dispatch.processes import functions

from taskyard.dispatch.engine import Job
from taskyard.dispatch.outcome import CallError
from taskyard.dispatch.processes import carrying
from taskyard.dispatch.processes.cells import Cells
from taskyard.dispatch.processes.engine import threads_of
from taskyard.dispatch.processes.member import Lot
from taskyard.dispatch.processes.sizing import MOST, Pace, held, shares
from taskyard.dispatch.processes.wire import Broken, Line, Reader, dump, pack, send, unpack
from taskyard.errors import WorkerError

# How many calls a process holds


def pace(duration: float | None, *, limit: int = MOST, size: float = 0.0) -> Pace:
    made = Pace()
    made.duration, made.limit, made.size = duration, limit, size
    return made


@pytest.mark.parametrize(
    ("known", "threads", "planned", "expected"),
    [
        (pace(None), 1, False, 1),  # nothing is known: one for each thread
        (pace(None), 8, False, 8),
        (pace(10.0), 1, False, 1),  # slow: none ahead
        (pace(10.0), 5, False, 5),
        (pace(10.0), 100, False, 112),  # many threads do not end all at once
        (pace(0.042), 1, False, 2),  # one ahead
        (pace(0.01), 1, False, 6),  # 40 ms ahead, with one more, and the one that it is in
        (pace(0.001), 1, False, 42),
        (pace(1e-6), 1, False, MOST),
        (pace(1e-6, limit=8), 1, False, 8),  # only as far as has been tried
        (pace(1e-6, limit=8), 3, False, 24),
        (pace(1e-6, size=1e6), 1, False, 4),  # large items
        (pace(1e-6, size=1e9), 2, False, 2),
        (pace(0.01), 1, True, 1),  # planned: what waits behind a slow call is late
        (pace(0.0001), 1, True, 6),
    ],
)
def test_how_many_calls_a_process_holds(
    known: Pace, threads: int, planned: bool, expected: int
) -> None:
    assert held(known, threads, planned=planned) == expected


def test_the_pace_follows_what_ends() -> None:
    known = Pace()
    known.ended(1, 0.5)
    assert (known.duration, known.limit) == (0.5, 8)
    known.ended(8, 8 * 0.1)
    assert known.duration == pytest.approx(0.3)
    assert known.limit == 64
    for _ in range(100):
        known.ended(5000, 0.0)
    assert known.duration == pytest.approx(5e-7)
    assert known.limit == MOST


@pytest.mark.parametrize(
    ("open_", "wants", "available", "expected"),
    [
        ([], [], 5, []),
        ([0, 0], [10, 10], 0, [0, 0]),
        ([0, 0], [10, 10], 100, [10, 10]),
        ([0, 0], [10, 10], 5, [3, 2]),  # the last ones are shared out
        ([6, 0], [10, 10], 4, [0, 4]),  # who holds less is given more
        ([6, 0], [10, 10], 10, [2, 8]),
        ([0, 0, 0], [1, 1, 1], 2, [1, 1, 0]),
        ([2, 0], [3, 2], 5, [1, 2]),
    ],
)
def test_how_calls_are_shared_out(
    open_: list[int], wants: list[int], available: int, expected: list[int]
) -> None:
    assert shares(open_, wants, available) == expected


@pytest.mark.parametrize(
    ("workers", "hybrid", "per_process", "expected"),
    [
        (3, False, None, [1, 1, 1]),
        (3, False, 2, [1, 1, 1]),
        (7, True, 3, [3, 2, 2]),
        (6, True, 3, [3, 3]),
        (1, True, 20, [1]),
    ],
)
def test_threads_of_processes(
    workers: int, hybrid: bool, per_process: int | None, expected: list[int]
) -> None:
    job = Job(function=print, workers=workers, per_process=per_process)
    assert threads_of(job, hybrid=hybrid) == expected


def test_a_hybrid_has_a_process_per_processor() -> None:
    made = threads_of(Job(function=print, workers=1000), hybrid=True)
    assert sum(made) == 1000
    assert len(made) == len(os.sched_getaffinity(0))


# The wire


def test_values_of_pythons_own_kinds_go_together() -> None:
    values = [1, "a", None, [1, {"b": (2.5, b"c")}], {3}]
    packed = pack(values, "it")
    assert isinstance(packed, bytes)
    assert unpack(packed, "it") == values


def test_values_of_other_kinds_go_one_by_one() -> None:
    values = [1, functions.NotPicklable(), functions.NotUnpicklable(), CallError("kind"), len]
    packed = pack(values, "the thing")
    assert isinstance(packed, list)
    got = unpack(packed, "the thing")
    assert [got[0], got[3], got[4]] == [1, CallError("kind"), len]
    assert isinstance(got[1], Broken)
    assert got[1].error.message.startswith("the thing, a NotPicklable, cannot be pickled")
    assert isinstance(got[2], Broken)
    assert got[2].error.message.startswith("the thing cannot be unpickled")


@pytest.fixture
def sockets() -> Any:
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


def test_the_parent_never_waits_to_send(sockets: Any) -> None:
    line, reader = Line(sockets[0]), Reader(sockets[1])
    contents = [b"a" * 10, b"b" * 5_000_000, b"c"]
    for one in contents:
        line.send(dump(one))
    assert line.backlog
    got: list[Any] = []
    reading = threading.Thread(target=lambda: got.extend(reader.read() for _ in contents))
    reading.start()
    sockets[0].setblocking(True)  # so that this test needs no selector
    line.push()
    reading.join()
    assert got == contents
    assert not line.backlog


def test_frames_that_come_in_pieces_and_a_torn_one(sockets: Any) -> None:
    line = Line(sockets[0])
    assert list(line.frames()) == []
    sending = threading.Thread(
        target=lambda: [send(sockets[1], dump(one)) for one in ("a", b"b" * 3_000_000, "c")]
    )
    sending.start()
    got: list[Any] = []
    while len(got) < 3:
        got += line.frames()
    sending.join()
    assert got == ["a", b"b" * 3_000_000, "c"]
    sockets[1].sendall(b"\x09\0\0\0\0\0\0\0half")
    sockets[1].shutdown(socket.SHUT_WR)
    assert list(line.frames(rest=True)) == []
    assert line.ended


# What is shared, and what is carried


def test_cells_tell_what_was_begun() -> None:
    fd = Cells.create(3)
    ours, theirs = Cells(fd, 3), Cells(fd, 3)
    os.close(fd)
    assert (ours.running(), ours.reached(), ours.waiting()) == ([], 0, [])
    theirs.calls[0], theirs.calls[1] = 5, -7  # in the fifth, the seventh has ended
    theirs.waits[2] = 6
    theirs.waits[0] = 5  # it has begun
    assert (ours.running(), ours.reached(), ours.waiting()) == ([5], 7, [6])


def test_lots_are_cut_and_picked() -> None:
    lot = Lot(range(1, 6), list("abcde"), [0.1, 0.2, 0.3, 0.4, 0.5], attempt=2, deaths=1)
    first, rest = lot.cut(2)
    assert rest is not None
    assert (list(first.ids), first.items, first.planned) == ([1, 2], ["a", "b"], [0.1, 0.2])
    assert (list(rest.ids), rest.attempt, rest.deaths) == ([3, 4, 5], 2, 1)
    assert lot.cut(5) == (lot, None)
    picked = lot.picked([0, 4])
    assert (picked.ids, picked.items, picked.planned) == ([1, 5], ["a", "e"], [0.1, 0.5])


def test_what_is_carried() -> None:
    job = Job(function=functions.double, workers=1)
    assert carrying.unpacked(carrying.carried(job, job.function)) == job
    closure = Job(function=lambda item: item + job.workers, workers=1)
    assert carrying.unpacked(carrying.carried(closure, closure.function)).function(2) == 3


def test_what_cannot_be_carried() -> None:
    lock = threading.Lock()
    job = Job(function=lambda item: lock, workers=1)
    with pytest.raises(WorkerError, match="it refers to cannot be pickled"):
        carrying.carried(job, job.function)
