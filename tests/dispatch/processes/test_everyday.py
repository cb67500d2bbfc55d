"""What programs do all day: slow items, logging, main modules without a file, other processes."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.dispatch.processes import functions
from tests.dispatch.processes.listening import Listener, listening

from taskyard.dispatch.engine import Job
from taskyard.dispatch.processes.child import Given
from taskyard.dispatch.processes.member import Lot, Member
from taskyard.dispatch.processes.nursery import begin
from taskyard.dispatch.processes.wire import Line
from taskyard.dispatch.run import run

ROOT = Path(__file__).parents[3]
PATHS = [str(ROOT), str(ROOT / "src"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
ENV = {**os.environ, "PYTHONPATH": os.pathsep.join(PATHS)}


@pytest.fixture
def listener() -> Iterator[Listener]:
    with listening() as made:
        yield made


# Items that are not in hand at once


class Slow:
    """Takes its time to be unpickled, as a model of machine learning does."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __setstate__(self, state: dict[str, Any]) -> None:
        time.sleep(0.05)
        self.__dict__.update(state)


def number_of(item: Slow) -> int:
    return item.number


@pytest.mark.parametrize("kind", ["processes", "hybrid"])
def test_items_that_are_slow_to_unpickle_are_not_sent_to_and_fro(kind: Any) -> None:
    done = run(number_of, map(Slow, range(5)), workers=2, kind=kind, runtime=40, grace=0)
    assert done.results() == [0, 1, 2, 3, 4]


def test_items_that_are_large_are_not_sent_to_and_fro() -> None:
    large = (bytes(30_000_000) for _ in range(4))
    done = run(len, large, workers=2, kind="processes", runtime=50, grace=0)
    assert done.results() == [30_000_000] * 4


class Nobody:
    apart = False

    def start(self, post: Any) -> None:
        """Starts nothing."""


def test_what_was_given_back_does_not_count_as_unbegun() -> None:
    member: Any = Member(1, 1, Nobody())  # type: ignore[arg-type]
    member.send(Lot([1, 2], ["a", "b"]), with_ids=False)
    assert member.unbegun() == 2
    assert member.seen[1] > 0  # it was not stuck before
    member.recall()
    (back,) = member.given_back(Given(b"", 1, 3))
    assert (member.unbegun(), member.recalling) == (0, False)
    assert (back.items, back.moves) == (["a", "b"], 1)
    assert [part.moves for part in back.cut(1) if part is not None] == [1, 1]
    member.close()


# What is shared with other processes


LOGGING = """
import logging
import sys
from logging.handlers import MemoryHandler
from taskyard import run

def call(item):
    logging.info("call %d", item)

if __name__ == "__main__":
    shown = MemoryHandler(1000, target=logging.StreamHandler(sys.stdout))
    logging.basicConfig(level=logging.INFO, handlers=[shown])
    logging.info("the program's")
    run(call, 3, workers=2, kind="processes", start_method="fork")
"""


def test_records_that_wait_in_a_handler_are_shown_once() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOGGING],
        env=ENV,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert sorted(done.stdout.splitlines()) == ["call 0", "call 1", "call 2", "the program's"]


def test_a_connection_is_closed_though_another_process_has_a_copy_of_it() -> None:
    ours, theirs = socket.socketpair()
    with ours.dup(), theirs:
        line = Line(ours)
        line.close()
        theirs.settimeout(30)
        assert theirs.recv(1) == b""


FORKS = """
import os
import signal
import sys
from taskyard import run
from tests.dispatch.processes import functions

def seen(outcome):
    if outcome.id == 1:
        helper = os.fork()
        if not helper:
            signal.pause()
        sys.stdout.write(f"{helper}\\n")
        sys.stdout.flush()

if __name__ == "__main__":
    items = [("", "first"), (sys.argv[2], "a"), (sys.argv[2], "b")]
    options = dict(workers=2, kind="processes", start_method=sys.argv[1])
    run(functions.talk, items, on_result=seen, **options)
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_end_with_a_killed_program_that_has_forked(
    tmp_path: Path, listener: Listener, method: str
) -> None:
    (tmp_path / "program.py").write_text(FORKS)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py"), method, listener.address],
        env=ENV,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout:
        helper = int(process.stdout.readline())
        try:
            talks = [listener.accept()[1], listener.accept()[1]]
            process.kill()
            process.wait()
            for talk in talks:
                talk.settimeout(30)
                assert talk.recv(1) == b""
                talk.close()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(helper, signal.SIGKILL)


def test_a_fresh_interpreter_is_started_without_a_touch_of_the_warnings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def touched(*args: Any, **options: Any) -> None:
        raise AssertionError("other threads may do so, too")

    monkeypatch.setattr(warnings, "catch_warnings", touched)
    done = run(functions.double, 2, workers=1, kind="processes", start_method="spawn")
    assert done.results() == [0, 2]


# Main modules that others do not have


MAIN = """
from taskyard import run

class Thing:
    def __init__(self, number):
        self.number = number

def triple(thing):
    assert isinstance(thing, Thing)
    return Thing(thing.number * 3)

done = run(triple, [Thing(1), Thing(2)], workers=1, kind="processes", start_method=METHOD)
print([(type(each) is Thing, each.number) for each in done.results()])
"""


@pytest.mark.parametrize("how", ["-c", "-", "-m"])
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_classes_of_a_main_module_that_cannot_be_imported(
    tmp_path: Path, how: str, method: str
) -> None:
    program = MAIN.replace("METHOD", repr(method))
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__main__.py").write_text(program)
    args = {"-c": ["-c", program], "-": ["-"], "-m": ["-m", "package"]}[how]
    done = subprocess.run(
        [sys.executable, *args],
        input=program if how == "-" else "",
        cwd=tmp_path,
        env=ENV,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("[(True, 3), (True, 6)]\n", "")


# Ends


def test_what_was_watched_is_open_until_its_end_was_heard() -> None:
    job = Job(function=functions.double, workers=1)
    births = begin(job, 0.0, "spawn")
    member = Member(1, 1, births)
    (fd,) = births.watched()
    births.kill(1)
    ends = []
    while not ends:
        select.select([fd], [], [])
        for end in births.hear():
            assert births.watched() == []
            os.fstat(fd)  # it could be the number of a socket that is registered next
            ends.append((end.number, end.code))
    assert ends == [(1, -signal.SIGKILL)]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    member.close()
    births.close()
