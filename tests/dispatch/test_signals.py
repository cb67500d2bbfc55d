"""Ctrl-C and SIGTERM end a run in order, and it is returned."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

PROGRAM = """
import asyncio, itertools, sys, threading, time, taskyard

WORKERS = 3
begun = itertools.count(1)

def tell(item):
    if next(begun) == WORKERS:
        print("begun", flush=True)

def short(item):
    tell(item)
    time.sleep(0.01)

def endless(item):
    tell(item)
    threading.Event().wait()

async def ashort(item):
    tell(item)
    await asyncio.sleep(0.01)

async def aendless(item):
    tell(item)
    await asyncio.Event().wait()

async def main(function):
    return await taskyard.arun(function, itertools.count(), workers=WORKERS)

if __name__ == "__main__":
    how, function = sys.argv[1], globals()[sys.argv[2]]
    if how == "arun":
        run = asyncio.run(main(function))
    elif how == "stream":
        try:
            for outcome in taskyard.stream(function, itertools.count(), workers=WORKERS):
                pass
        except KeyboardInterrupt:
            print("interrupted", flush=True)
            sys.exit()
    else:
        run = taskyard.run(function, itertools.count(), workers=WORKERS)
    print(run.info.interrupted, run.counts.cancelled, run.counts.completed > 0, flush=True)
    run.report().text()
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, program, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ,
        )
        started.append(process)
        assert _line(process.stdout) == "begun"
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def _line(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline().strip()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("how", "function"),
    [("run", "short"), ("run", "ashort"), ("arun", "short"), ("arun", "ashort")],
)
def test_the_first_signal_lets_calls_end(
    start: Start, how: str, function: str, number: signal.Signals
) -> None:
    process = start(how, function)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert out == f"{number.name} 0 True\n", err
    assert f"{number.name}: no more calls are begun" in err
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("how", "function"), [("run", "endless"), ("run", "aendless"), ("arun", "aendless")]
)
def test_the_second_signal_waits_for_no_call(start: Start, how: str, function: str) -> None:
    process = start(how, function)
    process.send_signal(signal.SIGINT)
    assert "no more calls are begun" in _line(process.stderr)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert out == "SIGINT 3 False\n", err
    assert process.returncode == 0


def test_in_a_stream_ctrl_c_is_the_loops(start: Start) -> None:
    process = start("stream", "endless")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert out == "interrupted\n", err
