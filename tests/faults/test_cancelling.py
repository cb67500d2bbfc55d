"""A worker is killed after it was told that what it runs is cancelled."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.worker.support import until

from taskyard import Cancelled, State, Yard

PROGRAM = """
import os, time
from taskyard import Yard

yard = Yard("sqlite:///yard.db")

@yard.task
def work(name: str) -> int:
    with open("ran", "a") as file:
        file.write(f"{name} {os.getpid()}\\n")
    while name == "long":
        time.sleep(0.1)
    return 1
"""


def ran(folder: Path) -> list[tuple[str, int]]:
    """What was begun, and in which process."""
    path = folder / "ran"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [(line.split()[0], int(line.split()[1])) for line in lines]


def test_a_told_message_is_not_run_again_after_its_worker_was_killed(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(PROGRAM, encoding="utf-8")
    with Yard(f"sqlite:///{tmp_path / 'yard.db'}") as yard:

        @yard.task(name="work")
        def work(name: str) -> int:  # as the program declares it
            raise NotImplementedError

        long = work.enqueue("long")
        command = [sys.executable, "-m", "taskyard", "worker", "tasks:yard", "--concurrency", "1"]
        worker = subprocess.Popen(command, cwd=tmp_path)
        try:
            until(lambda: len(ran(tmp_path)) == 1)
            assert yard.cancel(long.id).outcome is Cancelled.TOLD
            assert yard.result(long.id).status() is State.RUNNING
            os.kill(ran(tmp_path)[0][1], signal.SIGKILL)
            until(lambda: yard.result(long.id).status() is State.CANCELLED)
            work.enqueue("next")
            until(lambda: len(ran(tmp_path)) == 2)
        finally:
            worker.send_signal(signal.SIGTERM)
            for _, process in ran(tmp_path)[:1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            worker.wait(30)
        assert [name for name, _ in ran(tmp_path)] == ["long", "next"]
        totals = yard.counts()[0].totals
        assert (totals["cancelled"], totals["lost"]) == (1, 1)
