"""`taskyard run` as a user tries it."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.acceptance.programs import PATIENCE, Program

FUNCTIONS = """
import pathlib, time

def double(item):
    return 2 * item

def fail_odd(item):
    if item % 2:
        raise ValueError(f"{item} is odd")
    return item

async def awaited(item):
    return item

def held(item):
    print(f"begin {item}\\n", end="", flush=True)
    while item and not pathlib.Path("go").exists():
        time.sleep(0.005)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "load.py").write_text(FUNCTIONS)
    return tmp_path


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "taskyard", "run", *map(str, arguments)]


def taskyard(
    folder: Path, *arguments: object, code: int = 0, given: str = ""
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(*arguments),
        cwd=folder,
        input=given,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def report(folder: Path, *arguments: object, **more: Any) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(taskyard(folder, *arguments, "--json", **more).stdout)
    return made


def test_a_plan_is_followed_and_reported(folder: Path) -> None:
    files = ["--html", "out.html", "--csv", "out.csv", "--log", "out.jsonl"]
    done = taskyard(folder, "load.py:double", "--rate", 50, "-n", 50, *files)
    assert "Calls       50: 50 completed, 0 failed" in done.stdout
    assert "50 calls/s" in done.stdout
    assert "wrote out.html" in done.stderr
    assert "50 calls" in done.stderr, "how it went"
    assert (folder / "out.html").read_text().startswith("<!doctype html>")
    first, *outcomes = map(json.loads, (folder / "out.jsonl").read_text().splitlines())
    assert first["run"]["function"] == "load:double"
    assert sorted(one["result"] for one in outcomes) == [2 * number for number in range(50)]


def test_items_are_lines_of_a_file_or_of_a_pipe(folder: Path) -> None:
    lines = "".join(f"{number}\n\n" for number in range(5))
    (folder / "items.jsonl").write_text(lines)
    options = ["-w", 2, "--quiet"]
    assert report(folder, "load.py:fail_odd", "--items", "items.jsonl", *options)["failed"] == 2
    assert report(folder, "load.py:double", "--items", "-", *options, given=lines)["total"] == 5
    repeated = ["--items", "items.jsonl", "--repeat", "--rate", 10, "--duration", "2s"]
    # Not all 20 if this machine is too slow for that: then some are not begun in time.
    assert 5 < report(folder, "load.py:double", *repeated, *options)["total"] <= 20


@pytest.mark.parametrize("kind", ["threads", "processes", "hybrid"])
def test_kinds(folder: Path, kind: str) -> None:
    made = report(folder, "load.py:double", "-n", 100, "--kind", kind, "--quiet")
    assert made["completed"] == 100
    assert made["conditions"]["kind"] == kind


def test_async_functions(folder: Path) -> None:
    made = report(folder, "load:awaited", "--number", 100, "--quiet")
    assert (made["completed"], made["conditions"]["kind"]) == (100, "async")


@pytest.mark.parametrize(
    ("pace", "count", "last"),
    [
        (["--rate", "3000/1m", "-n", "25"], 25, 0.48),
        (["--ramp", "0:100:500ms", "-n", "25"], 25, 0.48),
        (["--steps", "40x250ms,80x250ms"], 30, 0.48),
        (["--trace", "trace.txt"], 3, 0.02),
    ],
)
def test_paces(folder: Path, pace: list[str], count: int, last: float) -> None:
    (folder / "trace.txt").write_text("# instants\n0\n0.01\n0.02\n")
    made = report(folder, "load.py:double", *pace, "--quiet")
    assert made["total"] == count
    assert made["duration"] > last


def test_a_duration_ends_a_pace(folder: Path) -> None:
    made = report(folder, "load.py:double", "--rate", 20, "--duration", "0.5", "--quiet")
    assert made["total"] <= 10  # less if this machine is too slow to begin them in time
    assert made["completed"] == made["total"]


def test_a_run_goes_on_where_it_was(folder: Path) -> None:
    log = ["--log", "run.jsonl", "--quiet"]
    assert report(folder, "load.py:double", "-n", 10, *log)["total"] == 10
    lines = (folder / "run.jsonl").read_text().splitlines(keepends=True)
    (folder / "run.jsonl").write_text("".join(lines[:6]))
    refused = taskyard(folder, "load.py:double", "-n", 10, *log, code=2)
    assert "run.jsonl is there already: --resume goes on with that run" in refused.stderr
    assert report(folder, "load.py:double", "-n", 10, *log, "--resume")["completed"] == 10
    assert len((folder / "run.jsonl").read_text().splitlines()) == 11


def test_a_condition_decides_the_exit_code(folder: Path) -> None:
    options = ["load.py:fail_odd", "-n", 10, "--quiet"]
    done = taskyard(folder, *options, "--fail-if", "errors > 10%", code=3)
    assert "Failed: errors is 50%, more than 10%" in done.stderr
    taskyard(folder, *options, "--fail-if", "errors > 60%")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_still_gives_the_report(folder: Path, number: signal.Signals, code: int) -> None:
    program = Program(command("load.py:held", "-n", 100, "-w", 2), folder)
    try:
        program.wait_for("begin", 3)
        program.signal(number)
        program.wait_for(f"{number.name}: no more calls are begun, 2 are under way")
        (folder / "go").touch()
        program.wait_for(r"Calls +100: 3 completed, 0 failed, 97 undispatched")
        assert program.wait() == code
    finally:
        program.destroy()


def on_a_terminal(folder: Path, *arguments: object) -> tuple[bytes, bytes]:
    """Run it with standard error on a terminal; says what was shown there, and the output."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command(*arguments), cwd=folder, stdout=subprocess.PIPE, stderr=theirs
    ) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            shown += piece
        assert process.stdout is not None
        output = process.stdout.read()
    os.close(ours)
    return shown, output


def test_what_is_printed_stays_out_of_the_display(folder: Path) -> None:
    (folder / "go").touch()
    shown, output = on_a_terminal(folder, "load.py:held", "--rate", 10, "-n", 6)
    assert b"begin 5" in output
    assert b"begin" not in shown


def test_a_terminal_is_shown_how_it_goes(folder: Path) -> None:
    shown, output = on_a_terminal(folder, "load.py:double", "--rate", 20, "-n", 40, "--json")
    assert json.loads(output)["total"] == 40
    for word in (b"under way", b"time left", b"p99", b"/s"):
        assert word in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["load.py:double"], "say how often: --items FILE, --number N or --duration TIME"),
        (["load.py:double", "-n", 1, "--items", "load.py"], "choose one"),
        (["load.py:double", "-n", 1, "--rate", 1, "--ramp", "1:2:3s"], "--rate and --ramp both"),
        (["load.py:double", "-n", 1, "--rate", "fast"], "no number of calls"),
        (["load.py:double", "-n", 1, "--rate", 0], "--rate"),
        (["load.py:double", "-n", 1, "--poisson"], "--poisson needs --rate"),
        (["load.py:double", "--duration", "soon"], "'soon' is no duration"),
        (["load.py:double", "--repeat", "-n", 1], "--repeat is for --items from a file"),
        (["load.py:double", "-n", 1, "--resume"], "--resume goes on with the run of a --log"),
        (["load.py:double", "-n", 1, "--workers", 0], "0 is not in the range"),
        (["load.py:double", "-n", 1, "--html", "x.txt"], "does not end in .html"),
        (["load.py:double", "--items", "none.jsonl"], "File 'none.jsonl' does not exist"),
        (["load.py:double", "--items", "."], "File '.' is a directory"),
    ],
)
def test_wrong_usage(folder: Path, arguments: list[object], message: str) -> None:
    assert message in " ".join(taskyard(folder, *arguments, code=2).stderr.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.py:double", "-n", 1], "there is no file"),
        (["load.py:doubles", "-n", 1], "did you mean double?"),
        (["load.py:awaited", "-n", 1, "--kind", "threads"], "awaited is async"),
        (["load.py:double", "-n", 1, "--on", "redis://x"], "on must be"),
        (["load.py:double", "-n", 1, "--html", "no/x.html"], "there is no folder no"),
        (["load.py:double", "-n", 1, "--log", "no/x.jsonl"], "cannot be opened"),
        (["load.py:double", "-n", 1, "--log", "/dev/full"], "/dev/full is no file"),
    ],
)
def test_what_cannot_be_done_is_told_before_the_run(
    folder: Path, arguments: list[object], message: str
) -> None:
    done = taskyard(folder, *arguments, code=1)
    assert message in done.stderr
    assert done.stdout == ""


def test_an_item_that_is_none_ends_the_run_with_its_report(folder: Path) -> None:
    (folder / "items.jsonl").write_text("1\n2\n{no\n4\n")
    done = taskyard(folder, "load.py:double", "--items", "items.jsonl", code=1)
    assert "Calls       2: 2 completed" in done.stdout
    assert 'items.jsonl, line 3: "{no" is no JSON value' in done.stderr
    assert "error's `run`" not in done.stderr


def test_a_line_that_is_too_long_is_named(folder: Path) -> None:
    (folder / "items.jsonl").write_text(f"1\n{'9' * (17 << 20)}\n")
    done = taskyard(folder, "load.py:double", "--items", "items.jsonl", code=1)
    assert "items.jsonl, line 2 is longer than 16 MiB" in done.stderr


def test_a_run_that_failed_is_not_judged(folder: Path) -> None:
    (folder / "items.jsonl").write_text("1\n{no\n")
    arguments = ["load.py:double", "--items", "items.jsonl", "--fail-if", "p50 > 0s"]
    assert "is no JSON value" in taskyard(folder, *arguments, code=1).stderr


def test_a_full_disk_ends_the_run_with_its_report(folder: Path) -> None:
    arguments = command("load.py:double", "-n", 100_000, "--log", "run.jsonl", "--quiet")
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 100; exec "$@"', "bash", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 1
    assert "Error: run.jsonl cannot be written: OSError: [Errno 27]" in done.stderr
    assert "Traceback" not in done.stderr
    assert re.search(r"Calls +\d[\d,]+: [\d,]+ completed", done.stdout)
    assert report(folder, *arguments[4:], "--resume")["completed"] == 100_000


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_json_is_not_mixed_with_what_the_function_prints(folder: Path, kind: str) -> None:
    done = taskyard(folder, "load.py:held", "-n", 1, "--kind", kind, "--json")
    assert json.loads(done.stdout)["completed"] == 1
    assert "begin 0" in done.stderr


def test_an_empty_file_repeats_nothing(folder: Path) -> None:
    (folder / "items.jsonl").write_text("\n")
    done = taskyard(folder, "load.py:double", "--items", "items.jsonl", "--repeat", code=1)
    assert "has no items, so there is nothing to repeat" in done.stderr
