"""Runs that write their log as they go, and go on from it."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.worker.support import until

import taskyard
from taskyard.dispatch.logfile import LogFile
from taskyard.dispatch.outcome import Outcome
from taskyard.errors import DispatchError, RunFailed
from taskyard.report import make_report, read_samples


def same(item: Any) -> Any:
    return item


def other(item: Any) -> Any:
    return item


def odd_fails(item: int) -> int:
    if item % 2:
        raise ValueError(f"{item} is odd")
    return item


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.jsonl"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_log_stands_in_the_file(path: Path) -> None:
    run = taskyard.run(odd_fails, 4, resume=path, workers=2)
    header, *outcomes = lines(path)
    assert header["run"]["function"] == run.info.function
    assert header["run"]["total"] == 4
    assert sorted(line["id"] for line in outcomes) == [1, 2, 3, 4]
    bad = next(line for line in outcomes if line["id"] == 2)
    assert bad["status"] == "failed"
    assert bad["error"]["kind"] == "ValueError"
    assert "in odd_fails" in bad["error"]["traceback"]
    good = next(line for line in outcomes if line["id"] == 3)
    assert good["result"] == 2
    assert run.started <= good["started"] <= good["ended"]


def test_the_file_can_be_reported_on(path: Path) -> None:
    run = taskyard.run(odd_fails, 10, resume=path, rate=1000)
    report = make_report(read_samples(path))
    assert (report.completed, report.failed) == (5, 5)
    assert report.latency.mean == pytest.approx(run.report().latency.mean)
    assert report.conditions.function == run.info.function


def test_a_log_that_was_saved_can_be_resumed_and_reported_on(path: Path) -> None:
    path.write_text("something else")
    first = taskyard.run(odd_fails, 10, runtime=60)
    first.save(path)
    assert make_report(read_samples(path)).failed == 5
    run = taskyard.run(odd_fails, 10, resume=path, on_result=lambda _: pytest.fail("a call"))
    assert run.counts == first.counts


def test_only_calls_without_an_outcome_are_made_again(path: Path) -> None:
    first = taskyard.run(odd_fails, 10, resume=path)
    kept = path.read_text().splitlines()
    gone = [line for line in kept if '"id":3,' in line or '"id":4,' in line]
    path.write_text("".join(f"{line}\n" for line in kept if line not in gone))
    made = []

    def on_result(outcome: Any) -> None:
        made.append(outcome.id)

    run = taskyard.run(odd_fails, 10, resume=path, on_result=on_result)
    assert sorted(made) == [3, 4]
    assert run.results(default=None) == first.results(default=None)
    assert run.counts == first.counts
    assert len(lines(path)) == 11
    failure = next(run.failures())
    assert failure.error is not None
    assert "in odd_fails" in failure.error.traceback
    assert failure.error.traceback.endswith("is odd\n")


def test_a_run_that_is_done_makes_no_call(path: Path) -> None:
    taskyard.run(same, range(10), resume=path)
    run = taskyard.run(same, range(10), resume=path, on_result=lambda _: pytest.fail("a call"))
    assert run.counts.completed == 10
    assert run.counts.undispatched == 0


@pytest.mark.parametrize("torn", ['{"id":3,"sta', '{"id":3', "{", '{"id":3,"status":"completed"}'])
def test_a_torn_last_line_is_cut_off(path: Path, torn: str) -> None:
    taskyard.run(same, [7, 8], resume=path)
    whole = path.read_text()
    path.write_text(whole.replace('"total":2', '"total":3') + torn)
    run = taskyard.run(same, [7, 8, 9], resume=path)
    assert run.results() == [7, 8, 9]
    assert sorted(line["id"] for line in lines(path)[1:]) == [1, 2, 3]


def test_a_torn_first_line_begins_anew(path: Path) -> None:
    path.write_text('{"run":{"fun')
    assert taskyard.run(same, 2, resume=path).results() == [0, 1]
    assert len(lines(path)) == 3


def test_what_was_cancelled_or_lost_is_made_again(path: Path) -> None:
    taskyard.run(same, 2, resume=path)
    text = path.read_text().replace('"id":2,"status":"completed"', '"id":2,"status":"lost"')
    path.write_text(text)
    run = taskyard.run(same, 2, resume=path)
    assert run.counts.completed == 2
    assert run.counts.lost == 0


@pytest.mark.parametrize(
    ("function", "items", "options", "text"),
    [
        (other, 3, {}, "of another run: it calls .*same.*this one .*other"),
        (same, 3, {"rate": 100}, "has the plan ''"),
        (same, 4, {}, "has items 3, this one 4"),
    ],
)
def test_the_log_of_another_run_is_refused(
    path: Path, function: Any, items: int, options: dict[str, Any], text: str
) -> None:
    taskyard.run(same, 3, resume=path)
    before = path.read_bytes()
    with pytest.raises(DispatchError, match=text):
        taskyard.run(function, items, resume=path, **options)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", ["hello\n", "hello", '{"id": 1}\n', "\n", '{"run": 3}\n'])
def test_a_file_that_is_no_log_is_left_alone(path: Path, content: str) -> None:
    path.write_text(content)
    with pytest.raises(DispatchError, match="no log of a run"):
        taskyard.run(same, 3, resume=path)
    assert path.read_text() == content


def test_a_broken_line_in_the_middle_is_named(path: Path) -> None:
    taskyard.run(same, 3, resume=path)
    content = path.read_text().splitlines(keepends=True)
    content[2] = "broken\n"
    path.write_text("".join(content))
    with pytest.raises(DispatchError, match=r"line 3 of .* is no outcome"):
        taskyard.run(same, 3, resume=path)
    assert path.read_text() == "".join(content)


def test_a_file_that_cannot_be_opened_gets_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DispatchError, match="cannot be opened"):
        taskyard.run(same, 3, resume=tmp_path / "missing" / "run.jsonl")


def test_a_log_that_cannot_be_written_ends_the_run(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(self: LogFile, outcomes: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LogFile, "write", write)
    with pytest.raises(RunFailed, match=r"cannot be written: OSError: .*No space left") as raised:
        taskyard.run(same, itertools.count(), resume=path)
    assert raised.value.run.counts.completed > 0
    with pytest.raises(RunFailed, match="cannot be written"):
        list(taskyard.stream(same, itertools.count(), resume=path))


def test_two_runs_do_not_share_a_file(path: Path) -> None:
    begun, release = threading.Event(), threading.Event()

    def call(_: int) -> None:
        begun.set()
        release.wait(20)

    thread = threading.Thread(target=lambda: taskyard.run(call, 1, resume=path))
    thread.start()
    try:
        assert begun.wait(10)
        with pytest.raises(DispatchError, match="another run writes"):
            taskyard.run(call, 1, resume=path)
    finally:
        release.set()
        thread.join()


def test_values_that_json_cannot_hold_are_shown(path: Path) -> None:
    class Shy:
        def __repr__(self) -> str:
            raise RuntimeError

    values = [{1, 2}, object, {(1, 2): 3}, 1 + 2j, "\ud800", Shy(), float("nan")]
    taskyard.run(same, values, resume=path, workers=1)
    found = {line["id"]: line.get("result") for line in lines(path)[1:]}
    assert len(found) == len(values)
    assert found[3] == {"(1, 2)": 3}
    assert found[4] == "(1+2j)"
    assert "Shy" in found[6]
    taskyard.run(same, values, resume=path)


def test_a_stream_goes_on_with_what_is_left(path: Path) -> None:
    for outcome in taskyard.stream(same, 10, resume=path, order="items", workers=1, window=1):
        if outcome.id == 4:
            break
    rest = [outcome.id for outcome in taskyard.stream(same, 10, resume=path, order="items")]
    assert rest[-1] == 10
    assert len(lines(path)) == 11


KILLED = """
import sys, threading, taskyard

def call(item):
    if item == 50:
        print("there", flush=True)
        threading.Event().wait()
    return item

if __name__ == "__main__":
    taskyard.run(call, 100, workers=1, resume=sys.argv[1])
"""


def test_a_killed_run_goes_on_from_its_log(path: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(KILLED)
    process = subprocess.Popen(
        [sys.executable, program, path], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    # What ended before is handed over while the last call hangs.
    until(lambda: path.read_bytes().count(b"\n") == 51)  # entire ones: the last may be half there
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    program.write_text(program.read_text().replace("item == 50", "item < 50"))
    # The second program would hang if it made one of the first 50 calls again.
    subprocess.run([sys.executable, program, path], check=True, timeout=40)
    assert sorted(line["id"] for line in lines(path)[1:]) == list(range(1, 101))


def test_what_has_ended_is_logged_whatever_ends_the_program(path: Path) -> None:
    def leave(_: Outcome) -> None:
        for thread in threading.enumerate():
            if thread.name == "taskyard-run":
                thread.join(20)
        raise SystemExit

    with pytest.raises(SystemExit):
        taskyard.run(same, 50, workers=2, resume=path, on_result=leave)
    assert sorted(line["id"] for line in lines(path)[1:]) == list(range(1, 51))


FULL_DISK = """
import resource, sys, taskyard

resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), -1))
try:
    taskyard.run(str, 200, resume=sys.argv[1])
except taskyard.errors.DispatchError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no limits of files")
@pytest.mark.parametrize(
    ("size", "text"), [(5000, "RunFailed {} cannot be written: "), (10, "DispatchError the log {}")]
)
def test_a_disk_that_is_full(path: Path, size: int, text: str) -> None:
    command = [sys.executable, "-W", "error", "-c", FULL_DISK, str(path), str(size)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ended.stdout.startswith(text.format(path))
    assert not ended.stderr
    run = taskyard.run(str, 200, resume=path)
    assert run.results() == [str(number) for number in range(200)]


def test_a_log_has_to_be_a_file() -> None:
    with pytest.raises(
        DispatchError, match="the log /dev/null is no file that a run could go on from"
    ):
        taskyard.run(same, 3, resume="/dev/null")


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        ([1, 1], "line 3 of .* is of call 1, which is twice in this run"),
        ([0], "line 2 of .* is of call 0, which is none in this run"),
        ([2, 11], "line 3 of .* is of call 11, which is none"),
        ([2**70], "line 2 of .* is of call 1180591620717411303424, which is none"),
    ],
)
def test_calls_that_cannot_be_in_a_log_are_named(path: Path, ids: list[int], text: str) -> None:
    taskyard.run(same, 10, resume=path)
    begin = lines(path)[0]
    outcomes = [{"id": id_, "started": 1.0, "ended": 2.0} for id_ in ids]
    path.write_text("".join(json.dumps(line) + "\n" for line in [begin, *outcomes]))
    with pytest.raises(DispatchError, match=text):
        taskyard.run(same, 10, resume=path)
