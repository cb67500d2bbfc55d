"""A run that is told to end, by Ctrl-C or by a supervisor, still gives its report."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

PROGRAM = Path(__file__).with_name("program.py")
KINDS = ["threads", "async", "processes", "hybrid"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("to_all", [False, True], ids=["main process", "all processes"])
def test_a_signal_ends_the_run_in_order(kind: str, number: signal.Signals, to_all: bool) -> None:
    """To all of its processes: so does a terminal with Ctrl-C, and so do service managers."""
    with subprocess.Popen(
        [sys.executable, str(PROGRAM), kind],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line == "working\n", line or process.communicate()[1]
            children = psutil.Process(process.pid).children(recursive=True)
            if to_all:
                os.killpg(process.pid, number)
            else:
                process.send_signal(number)
            output, errors = process.communicate(timeout=40)
        finally:
            process.kill()
    assert process.returncode == 0, errors
    assert errors.startswith(number.name)
    assert len(errors.splitlines()) == 1, "a sentence, and no traceback"
    told = json.loads(output.splitlines()[-1])
    assert told["interrupted"] == number.name
    # What was under way has ended by itself: calls are short.
    assert (told["failed"], told["cancelled"], told["lost"]) == (0, 0, 0)
    assert told["completed"] == told["reported"] == told["latencies"] >= 10
    assert number.name in told["text"] or "interrupted" in told["text"].lower()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive, "nobody is left behind"
