"""Worker processes beside a program, and what `run_worker` tells of its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from tests.worker.support import until

from taskyard import Yard
from taskyard.errors import WorkerError
from taskyard.worker import WorkerSettings, start_workers


def make_yard(url: str) -> Yard:
    yard = Yard(url)

    @yard.task(name="pid")
    def pid() -> int:
        return os.getpid()

    return yard


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'yard.db'}?synchronous=off"


@pytest.mark.parametrize("daemon", [True, False])
def test_processes_that_are_started_and_terminated(url: str, daemon: bool) -> None:
    yard = make_yard(url)
    processes = start_workers(
        partial(make_yard, url), WorkerSettings(processes=7), 2, daemon=daemon
    )
    try:
        pids = {process.pid for process in processes}
        until(lambda: {one.pid for one in yard.workers()} == pids)
        assert yard.tasks["pid"].enqueue().get(20) in pids
        assert {process.daemon for process in processes} == {daemon}
    finally:
        for process in processes:
            process.terminate()
            process.join(20)
    assert [process.exitcode for process in processes] == [0, 0]
    assert yard.workers() == []
    yard.close()


def test_a_process_that_cannot_work_ends_with_code_1(caplog: pytest.LogCaptureFixture) -> None:
    (process,) = start_workers(partial(make_yard, "memory://"), WorkerSettings(), 1)
    process.join(20)
    assert process.exitcode == 1


PROGRAM = """
import multiprocessing, sys
from functools import partial
from tests.worker.test_processes import make_yard
from taskyard.worker import WorkerSettings, start_workers

if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    yard = make_yard(sys.argv[1])
    start_workers(partial(make_yard, sys.argv[1]), WorkerSettings(), 1)
    assert yard.tasks["pid"].enqueue().get(30) > 0
"""


def test_processes_that_are_spawned_and_end_with_the_program(url: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    done = subprocess.run(
        [sys.executable, str(program), url],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    yard = make_yard(url)
    assert yard.workers() == []
    yard.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_worker_tells_the_signal_that_ended_it(url: str, number: signal.Signals) -> None:
    yard = Yard(url)

    @yard.task(name="stop")
    def stop() -> None:
        os.kill(os.getpid(), number)

    stop.enqueue()
    assert yard.run_worker() is number
    assert yard.run_worker(burst=True) is None
    yard.close()


def test_only_a_supervisor_replaces(url: str) -> None:
    with pytest.raises(WorkerError, match="should_replace is asked by the supervisor"):
        make_yard(url).run_worker(should_replace=lambda process: True)
