"""The commands as users run them: real processes, a real file, real signals."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from tests.acceptance.programs import PATIENCE, Program
from tests.servers.server import free_port, give_port_back
from tests.variants import some_in_short

from taskyard import Yard

TASKYARD = (sys.executable, "-m", "taskyard")

HANDLERS = """
import asyncio, os, pathlib, time

def wait_for(name):
    while not pathlib.Path(name).exists():
        time.sleep(0.005)

def show(items):
    print(f"show {items}")

async def ashow(items):
    await asyncio.sleep(0)
    print(f"ashow {items}")

def fail(items):
    if not pathlib.Path("fixed").exists():
        raise ValueError(f"Failed {items}")
    print(f"no failure {items}")

def held(items):
    print(f"begin {items} in {os.getpid()}")
    wait_for("go")
    print(f"end {items} in {os.getpid()}")

def together(items):
    # Ends only if two programs are here at a time.
    pathlib.Path(f"here-{os.getppid()}").touch()
    while len(list(pathlib.Path().glob("here-*"))) < 2:
        time.sleep(0.005)
    print(f"met in {os.getppid()}")
"""

TASKS = """
import sys

from taskyard import Batch, Yard

yard = Yard("sqlite:///yard.db")
other = 3

@yard.task
def double(x: int) -> None:
    sys.stdout.write(f"double {2 * x}\\n")  # in one piece, as threads do it

@yard.task(queue="mail", batch=Batch(10, 60))
def mail(addresses: list[str]) -> None:
    sys.stdout.write(f"mail {addresses}\\n")

if __name__ == "__main__":
    double.enqueue_many(range(3))
    mail.enqueue_many(["a", "b"])
"""

SCHEDULES = """
import sys

from taskyard import Yard, cron, every

yard = Yard("sqlite:///taskyard.db")

@yard.task
def report(kind: str) -> None:
    sys.stdout.write(f"report {kind}\\n")

yard.schedule(report, "daily", when=cron("0 4 * * *", tz="Europe/Berlin"), name="nightly")
yard.schedule(report, "often", when=every(0.1), name="busy", catch_up="all")
"""


class Shell:
    """Runs commands in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.programs: list[Program] = []

    def begin(self, *args: str, through: Sequence[str] = ()) -> Program:
        program = Program([*through, *TASKYARD, *args], self.folder)
        self.programs.append(program)
        return program

    def start(self, *args: str) -> Program:
        """`taskyard start`, once all of its processes work."""
        program = self.begin("start", *args)
        numbers = [value for name, value in itertools.pairwise(args) if name == "-n"]
        program.wait_for("worker .* started", max(1, int(numbers[0])) if numbers else 1)
        return program

    def run(self, *args: str, input: str = "", code: int = 0) -> str:  # noqa: A002 - as subprocess
        """Run a command to its end; gives what it printed."""
        done = subprocess.run(
            [*TASKYARD, *args],
            cwd=self.folder,
            input=input,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout if code == 0 else done.stderr

    def queues(self, *args: str) -> dict[str, dict[str, Any]]:
        found = json.loads(self.run("queues", "--json", *args))
        return {queue["task"]: queue for queue in found["queues"]}

    def dead(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.run("dead", "list", "--json").splitlines()]

    def eventually(self, test: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not test():
            assert time.monotonic() < deadline, "it did not happen"


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    monkeypatch.delenv("TASKYARD_BROKER", raising=False)
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")  # as in many a container
    (tmp_path / "handlers.py").write_text(HANDLERS)
    (tmp_path / "tasks.py").write_text(TASKS)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "module.py").write_text("def call(items): print('called', items)")
    made = Shell(tmp_path)
    yield made
    for program in made.programs:
        program.destroy()


# start, add


def test_two_processes_serve_what_another_process_adds(shell: Shell) -> None:
    program = shell.start(
        *("-t", "q1", "print", "-t", "q2", "package.module:call", "-t", "q3", "handlers.py:show"),
        *("-t", "q4", "handlers:ashow", "--batch-size", "3", "--flush-interval", "0.3", "-n", "2"),
    )
    shell.run("add", "-t", "q1", "1", "-t", "q2", "2", "-t", "q3", '{"a": 3}', "-n", "4")
    shell.run("add", "-t", "q4", '"four"')
    program.wait_for(r"^\[1, 1, 1\]$")
    program.wait_for(r"^\[1\]$")
    program.wait_for(r"^called \[2, 2, 2\]$")
    program.wait_for(r"^called \[2\]$")
    program.wait_for(r"^show \[\{'a': 3\}, \{'a': 3\}, \{'a': 3\}\]$")
    program.wait_for(r"^show \[\{'a': 3\}\]$")
    program.wait_for(r"^ashow \['four'\]$")
    assert program.stop() == 0
    assert f"broker=sqlite:///{shell.folder}/taskyard.db" in program.output
    counted = shell.queues()
    assert [counted[name]["totals"]["done"] for name in ("q1", "q2", "q3", "q4")] == [4, 4, 4, 1]
    assert counted["q1"]["flushes"] == {"size": 1, "bytes": 0, "age": 1, "deadline": 0, "drain": 0}


def test_ctrl_c_ends_a_start_in_one_process(shell: Shell) -> None:
    program = shell.start("-t", "q1", "handlers:show", "-n", "0", "-b", "1")
    shell.run("add", "-t", "q1", "null")
    program.wait_for(r"^show \[None\]$")
    program.signal(signal.SIGINT)
    assert program.wait() == 0


@pytest.mark.parametrize("processes", ["0", "1"])
def test_a_running_call_ends_after_sigterm_and_the_program_right_behind_it(
    shell: Shell, processes: str
) -> None:
    program = shell.start("-t", "q1", "handlers:held", "-n", processes, "-b", "1")
    shell.run("add", "-t", "q1", "1")
    program.wait_for("^begin")
    # systemd and `timeout` send it to the children too.
    os.killpg(program.process.pid, signal.SIGTERM)
    program.wait_for("is stopping")
    (shell.folder / "go").touch()
    assert program.wait() == 0
    assert program.wait_for("^end")
    assert shell.queues()["q1"]["totals"]["done"] == 1


@pytest.mark.parametrize("processes", ["0", "1"])
def test_a_second_sigterm_waits_for_nothing_and_nothing_is_lost(
    shell: Shell, processes: str
) -> None:
    program = shell.start("-t", "q1", "handlers:held", "-n", processes, "-b", "1")
    shell.run("add", "-t", "q1", "1")
    program.wait_for("^begin")
    program.signal(signal.SIGTERM)
    program.wait_for("is stopping")
    # Two signals within half a second count as one: systemd and `timeout` may send it twice.
    with pytest.raises(subprocess.TimeoutExpired):
        program.process.wait(0.6)
    program.signal(signal.SIGTERM)
    assert program.wait() == 0
    assert shell.queues()["q1"]["waiting"] == 1


@pytest.mark.parametrize("processes", ["0", "1"])
def test_sighup_stops_it_as_sigterm_does(shell: Shell, processes: str) -> None:
    program = shell.start("-t", "q1", "handlers:held", "-n", processes, "-b", "1")
    shell.run("add", "-t", "q1", "1")
    program.wait_for("^begin")
    os.killpg(program.process.pid, signal.SIGHUP)  # the terminal was closed
    program.wait_for("is stopping")
    (shell.folder / "go").touch()
    assert program.wait() == 0
    assert shell.queues()["q1"]["totals"]["done"] == 1


@pytest.mark.parametrize("processes", ["0", "1"])
def test_under_nohup_it_goes_on_after_sighup(shell: Shell, processes: str) -> None:
    program = shell.begin(
        *("start", "-t", "q1", "handlers:show", "-n", processes, "-b", "1"), through=["nohup"]
    )
    program.wait_for("worker .* started")
    os.killpg(program.process.pid, signal.SIGHUP)
    shell.run("add", "-t", "q1", "1")
    program.wait_for(r"^show \[1\]$")
    assert program.stop() == 0
    assert "SIGHUP" not in program.output
    assert program.output.count("worker process") == int(processes)  # started


def test_a_process_stopped_while_it_imports_has_not_died(shell: Shell) -> None:
    (shell.folder / "slow.py").write_text(
        "import handlers\nprint('importing', flush=True)\nhandlers.wait_for('go')\n"
    )
    program = shell.begin("worker", "slow:yard", "-p", "1")
    program.wait_for("^importing")
    assert program.stop() == 0
    assert program.wait_for(r"was not at work ended \(SIGTERM\)")
    assert "ERROR" not in program.output
    assert program.lines.count("importing") == 1  # also not by one who gives back its claims


@pytest.mark.timeout(180)  # a dozen commands, each of which starts a Python
def test_on_error_log_keeps_the_batch_whole_and_goes_on(shell: Shell) -> None:
    program = shell.start("-t", "good", "print", "-t", "bad", "handlers:fail", "-b", "3")
    shell.run("add", "-t", "bad", "2", "-t", "good", "1", "-n", "3")
    program.wait_for(r"^\[1, 1, 1\]$")
    shell.eventually(lambda: shell.queues()["bad"]["dead"] == 3)
    (line,) = program.wait_for("ERROR taskyard.start .*queue=bad function=handlers:fail")
    assert "batch of 3" in line.string
    program.wait_for(r"ValueError: Failed \[2, 2, 2\]")
    assert "site-packages" not in program.output
    assert "taskyard/cli" not in program.output
    # Look at them, try them again, ...
    letters = shell.dead()
    assert [letter["payload"] for letter in letters] == [[2]] * 3
    assert {letter["error"]["kind"] for letter in letters} == {"ValueError"}
    assert "in fail" in letters[0]["error"]["traceback"]
    (shell.folder / "fixed").touch()
    assert shell.run("dead", "retry", "--all") == "put back 3 dead letters\n"
    program.wait_for(r"^no failure \[2, 2, 2\]$")
    assert shell.dead() == []
    # ... or discard them.
    (shell.folder / "fixed").unlink()
    shell.run("add", "-t", "bad", "5", "-n", "3")
    shell.eventually(lambda: len(shell.dead()) == 3)
    number = str(shell.dead()[0]["number"])
    assert "Failed [5, 5, 5]" in shell.run("dead", "list", number, "--full")
    assert shell.run("dead", "discard", number) == "discarded 1 dead letter\n"
    assert "no such dead letter" in shell.run("dead", "discard", number, code=1)
    assert shell.run("dead", "discard", "--queue", "bad", "--yes") == "discarded 2 dead letters\n"
    assert program.stop() == 0


@pytest.mark.parametrize("processes", ["0", "2"])
def test_on_error_fail_ends_the_program_and_keeps_the_batch(shell: Shell, processes: str) -> None:
    program = shell.start(
        *("-t", "bad", "handlers:fail", "-b", "2", "-n", processes, "--on-error", "fail")
    )
    shell.run("add", "-t", "bad", "2", "-n", "2")
    assert program.wait() == 1
    assert "Error: stopped at the first dead letter" in program.output
    assert program.output.count("Failed [2, 2]") > 1
    counted = shell.queues()["bad"]
    assert (counted["dead"], counted["running"], counted["totals"].get("done", 0)) == (2, 0, 0)


def test_the_work_of_a_killed_process_is_done_by_its_replacement(shell: Shell) -> None:
    program = shell.start("-t", "q1", "handlers:held", "-b", "1")
    shell.run("add", "-t", "q1", "1")
    (begun,) = program.wait_for(r"^begin \[1\] in (\d+)")
    os.kill(int(begun[1]), signal.SIGKILL)
    again = program.wait_for(r"^begin \[1\] in (\d+)", 2)[1]
    assert again[1] != begun[1]
    (shell.folder / "go").touch()
    program.wait_for(rf"^end \[1\] in {again[1]}")
    shell.eventually(lambda: shell.queues()["q1"]["totals"].get("done") == 1)
    assert program.stop() == 0
    assert not shell.dead()


def test_two_programs_on_one_file_share_the_work(shell: Shell) -> None:
    first = shell.start("-t", "q1", "handlers:together", "-b", "1")
    second = shell.start("-t", "q1", "handlers:together", "-b", "1")
    shell.run("add", "-t", "q1", "1", "-n", "2")
    first.wait_for(f"^met in {first.process.pid}")
    second.wait_for(f"^met in {second.process.pid}")
    assert first.stop() == second.stop() == 0


@pytest.mark.parametrize(
    ("called", "said"),
    [
        ("prnt", "no builtin function is called 'prnt'"),
        ("nowhere:f", "there is no module 'nowhere'"),
        ("nowhere.py:f", "there is no file"),
        ("handlers:shwo", "did you mean show?"),
        ("math:pi", "cannot be called"),
    ],
)
def test_start_says_what_cannot_be_called(shell: Shell, called: str, said: str) -> None:
    printed = shell.run("start", "-t", "q1", called, "-l", "error", code=1)
    assert said in printed
    assert len(printed.splitlines()) == 1


def test_ten_thousand_lines(shell: Shell) -> None:
    lines = "".join(f'{{"number": {number}}}\n' for number in range(10_000))
    assert shell.run("add", "--stdin", "q1", input=lines) == "added 10,000 messages to q1\n"
    assert shell.queues()["q1"]["waiting"] == 10_000


def test_a_bad_line_is_named_and_all_before_it_are_stored(shell: Shell) -> None:
    lines = "1\n" * 600 + "oops\n" + "2\n"
    printed = shell.run("add", "--stdin", "q1", input=lines, code=2)
    assert "line 601 is no JSON" in printed
    assert "600 messages were stored" in printed
    assert shell.queues()["q1"]["waiting"] == 600


def test_lines_are_stored_while_more_may_come(shell: Shell) -> None:
    shell.run("add", "-t", "q1", "0")
    program = shell.begin("add", "--stdin", "q1")
    program.write("1\n2\n")
    shell.eventually(lambda: shell.queues()["q1"]["waiting"] == 3)
    program.write("3\n")
    shell.eventually(lambda: shell.queues()["q1"]["waiting"] == 4)
    assert program.wait() == 0
    assert program.output == "added 3 messages to q1"


# worker


WORKERS = [
    (module, options)
    for module in ("tasks:yard", "tasks.py:yard")
    for options in ((), ("-p", "0"), ("-p", "2", "-q", "default:2,mail:1"))
]


@pytest.mark.parametrize(("module", "options"), some_in_short(WORKERS, WORKERS[::2]))
def test_a_worker_works_until_nothing_is_left(
    shell: Shell, module: str, options: tuple[str, ...]
) -> None:
    subprocess.run([sys.executable, "tasks.py"], cwd=shell.folder, check=True)
    printed = shell.run("worker", module, "--burst", *options)
    assert sorted(printed.splitlines()) == ["double 0", "double 2", "double 4", "mail ['a', 'b']"]
    counted = shell.queues("--broker", "sqlite:///yard.db")
    assert (counted["double"]["totals"]["done"], counted["mail"]["totals"]["done"]) == (3, 2)
    assert counted["mail"]["flushes"]["drain"] == 1


def test_a_worker_uses_another_broker_if_told(shell: Shell) -> None:
    subprocess.run([sys.executable, "tasks.py"], cwd=shell.folder, check=True)
    os.rename(shell.folder / "yard.db", shell.folder / "moved.db")
    printed = shell.run("worker", "tasks:yard", "--burst", "--broker", "sqlite:///moved.db")
    assert "double 4" in printed
    assert not (shell.folder / "yard.db").exists()


def test_the_log_of_a_worker_as_json_in_a_file(shell: Shell) -> None:
    subprocess.run([sys.executable, "tasks.py"], cwd=shell.folder, check=True)
    shell.run("worker", "tasks:yard", "--burst", "-f", "log", "-F", "json")
    entries = [json.loads(line) for line in (shell.folder / "log").read_text().splitlines()]
    assert {"taskyard.worker", "taskyard.supervisor"} <= {entry["logger"] for entry in entries}
    assert not any("double 2" in entry["message"] for entry in entries)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["nowhere:yard"], "there is no module 'nowhere'"),
        (["tasks:yrd"], "tasks has no 'yrd'; tasks has this Yard: yard"),
        (["tasks:other"], "tasks:other is of type int, not a Yard"),
        (["handlers:yard"], "handlers has no Yard"),
        (["tasks:yard", "-q", "nothing"], "no task uses the queue nothing"),
        (["tasks:yard", "--broker", "memory://"], "lives in one process"),
        (["tasks:yard", "--broker", "postgresql://me:secret@host"], "not in this version"),
    ],
)
def test_a_worker_says_why_it_cannot_start(shell: Shell, args: list[str], said: str) -> None:
    printed = shell.run("worker", *args, "-l", "error", code=1)
    assert said in printed
    assert len(printed.splitlines()) == 1
    assert "secret" not in printed


@pytest.mark.parametrize("processes", ["0", "1"])
def test_a_module_that_fails_shows_the_users_traceback(shell: Shell, processes: str) -> None:
    (shell.folder / "broken.py").write_text("import nowhere_at_all\n")
    program = shell.begin("worker", "broken:yard", "-p", processes, "-l", "error", "-f", "log")
    assert program.wait() == 1
    assert program.lines == [
        "Error: broken cannot be imported:",
        "Traceback (most recent call last):",
        f'  File "{shell.folder}/broken.py", line 1, in <module>',
        "    import nowhere_at_all",
        "ModuleNotFoundError: No module named 'nowhere_at_all'",
    ]
    assert "broken cannot be imported" in (shell.folder / "log").read_text()


# schedules


def listed(shell: Shell) -> dict[str, dict[str, Any]]:
    lines = shell.run("schedules", "list", "--json").splitlines()
    return {found["name"]: found for found in map(json.loads, lines)}


@pytest.fixture
def scheduling(shell: Shell) -> Shell:
    """A folder in which a worker has been, and has stored what its program declares."""
    (shell.folder / "scheduled.py").write_text(SCHEDULES)
    shell.run("worker", "scheduled:yard", "--burst")
    return shell


def test_a_worker_does_what_is_due_again_and_again(scheduling: Shell) -> None:
    program = scheduling.begin("worker", "scheduled:yard", "-p", "0")
    program.wait_for("^report often$", 3)
    assert program.stop() == 0
    assert "report daily" not in program.output
    assert listed(scheduling)["busy"]["last"] is not None


def test_schedules_are_listed(scheduling: Shell) -> None:
    found = listed(scheduling)
    assert sorted(found) == ["busy", "nightly"]
    nightly = found["nightly"]
    coming = datetime.fromisoformat(nightly.pop("next")).astimezone(ZoneInfo("Europe/Berlin"))
    assert (coming.hour, coming.minute) == (4, 0)
    assert nightly == {
        "name": "nightly",
        "task": "report",
        "queue": "default",
        "when": "cron 0 4 * * * (Europe/Berlin)",
        "last": None,
        "paused": False,
        "catch_up": "latest",
    }
    whole = scheduling.run("schedules", "--json").splitlines()
    assert [json.loads(line)["name"] for line in whole] == ["busy", "nightly"]
    head, busy, nightly_line = scheduling.run("schedules", "list").splitlines()
    assert head.split() == ["name", "task", "queue", "when", "next", "last"]
    assert re.match(r"busy +report +default +every 0.1 s +(in|due for) [0-9.]+s +", busy)
    assert re.match(r"nightly +report +default +cron 0 4 .* +in [0-9]+[hms].* +-", nightly_line)


def test_a_schedule_is_paused_and_goes_on(scheduling: Shell) -> None:
    assert scheduling.run("schedules", "pause", "busy") == "schedule busy: paused\n"
    assert scheduling.run("schedules", "pause", "busy") == "schedule busy: was paused already\n"
    paused = listed(scheduling)["busy"]
    assert (paused["paused"], paused["next"]) == (True, None)
    assert re.search("^busy .* paused ", scheduling.run("schedules", "list"), re.MULTILINE)
    assert "report often" not in scheduling.run("worker", "scheduled:yard", "--burst")
    resumed = datetime.now(UTC)
    assert scheduling.run("schedules", "resume", "busy") == "schedule busy: goes on\n"
    assert scheduling.run("schedules", "resume", "busy") == "schedule busy: was not paused\n"
    going = listed(scheduling)["busy"]
    assert not going["paused"]
    assert datetime.fromisoformat(going["next"]) > resumed, "what was missed is left out"


def test_a_schedule_is_fired_by_hand(scheduling: Shell) -> None:
    scheduling.run("schedules", "pause", "nightly")
    before = listed(scheduling)["nightly"]
    printed = scheduling.run("schedules", "fire", "nightly")
    assert re.fullmatch(r"schedule nightly: put message nightly@\S+Z\n", printed)
    assert "report daily" in scheduling.run("worker", "scheduled:yard", "--burst")
    assert listed(scheduling)["nightly"] == before


def test_a_removed_schedule_is_stored_again_by_a_worker_that_declares_it(scheduling: Shell) -> None:
    for name in ("busy", "nightly"):
        assert scheduling.run("schedules", "remove", name) == f"schedule {name}: removed\n"
    assert listed(scheduling) == {}
    assert scheduling.run("schedules", "list") == ""
    scheduling.run("worker", "scheduled:yard", "--burst")
    assert sorted(listed(scheduling)) == ["busy", "nightly"]


def test_a_schedule_that_is_not_there(shell: Shell) -> None:
    commands = ["pause", "resume", "fire", "remove"]
    for command in commands:
        assert "no such file" in shell.run("schedules", command, "nightly", code=1)
    shell.run("add", "-t", "q1", "1")
    assert shell.run("schedules", "list", "--json") == ""
    for command in commands:
        assert shell.run("schedules", command, "nightly", code=1) == (
            "Error: there is no schedule 'nightly': `taskyard schedules list` shows them\n"
        )


# Bounded queues


def test_a_queue_is_bounded_and_lifted(shell: Shell) -> None:
    shell.run("add", "-t", "q1", "1")
    told = shell.run("bound", "q1", "--max-length", "2", "--overflow", "drop")
    assert told == "queue q1 holds 2, drop\n"
    shell.run("add", "-t", "q1", "2", "-n", "2")
    assert "dropped" in shell.run("dead", "list")
    assert re.search("^q1 .* 2, drop ", shell.run("queues"), re.MULTILINE)
    assert shell.queues()["q1"]["bounds"] == {
        "max_length": 2,
        "shard_max_length": None,
        "overflow": "drop",
        "block_timeout": None,
    }
    shell.run("bound", "q1", "--shard-max-length", "2", "--overflow", "block", "--block-timeout=.1")
    assert "is full" in shell.run("add", "-t", "q1", "4", code=1)
    assert shell.run("bound", "q1", "--none") == "queue q1 holds any number\n"
    shell.run("add", "-t", "q1", "4")
    assert shell.queues()["q1"]["bounds"] is None
    assert shell.run("bound", "q1", "--as-declared") == "queue q1 holds what programs declare\n"


def test_a_bound_that_makes_no_sense(shell: Shell) -> None:
    shell.run("add", "-t", "q1", "1")
    for wrong in ([], ["--none", "--as-declared"], ["--max-length", "1", "--none"]):
        assert "--as-declared" in shell.run("bound", "q1", *wrong, code=2)
    assert "1 or more" in shell.run("bound", "q1", "--max-length", "0", code=1)
    assert "overflow" in shell.run("bound", "q1", "--max-length", "1", "--block-timeout=1", code=1)


# The rest


def test_a_reader_that_goes_away_is_no_failure_of_ours(shell: Shell) -> None:
    shell.run("add", "-t", "q1", "1")
    command = " ".join((*TASKYARD, "queues", "--watch", "0.1", "--json"))
    done = subprocess.run(
        ["sh", "-c", f"{command} | head -n 2"],
        cwd=shell.folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr == ""


def test_the_version() -> None:
    done = subprocess.run([*TASKYARD, "--version"], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"taskyard \d+\.\d+\.\d+\S*\n", done.stdout)


# explain


def test_a_message_is_explained_on_its_way(shell: Shell) -> None:
    with Yard(f"sqlite:///{shell.folder / 'taskyard.db'}") as yard:
        ids = [yard.remote("q1", queue="q1", batch=True).enqueue(one).id for one in "ab"]

    def explained(id_: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(shell.run("explain", id_, "--json"))
        return found

    assert {explained(id_)["reason"] for id_ in ids} == {"no worker"}
    program = shell.start("-t", "q1", "handlers:held", "-b", "1")
    program.wait_for("^begin")
    running, following = map(explained, ids)
    assert running["reason"] == "running"
    assert [running["worker"]] == [one["id"] for one in workers(shell, 1, "taskyard.db")]
    assert following["reason"] == "next"
    assert "waits until one of 1 worker gets free" in shell.run("explain", ids[1])
    (shell.folder / "go").touch()
    program.wait_for("^end", 2)
    shell.eventually(lambda: shell.queues()["q1"]["totals"]["done"] == 2)
    shell.run("explain", ids[0], code=1)


# workers


def workers(shell: Shell, count: int, file: str = "yard.db") -> list[dict[str, Any]]:
    """So many workers, once they are there."""
    found: list[dict[str, Any]] = []

    def are_there() -> bool:
        lines = shell.run("workers", "--json", "--broker", f"sqlite:///{file}").splitlines()
        found[:] = map(json.loads, lines)
        return len(found) == count

    shell.eventually(are_there)
    return found


def test_workers_are_seen_and_shut_down_for_good(shell: Shell) -> None:
    program = shell.begin("worker", "tasks:yard", "-p", "2")
    program.wait_for("worker .* started", 2)
    one, other = workers(shell, 2)
    assert one["queues"] == {"default": ["double"], "mail": ["mail"]}
    assert one["pid"] != other["pid"]
    broker = ("--broker", "sqlite:///yard.db")
    assert one["id"] in shell.run("workers", *broker)
    shell.run("workers", "pause", one["id"], "-q", "mail", *broker)
    program.wait_for(f"worker {one['id']} was told: pause mail")
    shell.run("workers", "shutdown", one["id"], *broker)
    program.wait_for(f"worker {one['id']} ended")
    assert [worker["id"] for worker in workers(shell, 1)] == [other["id"]]
    shell.run("workers", "shutdown", "--all", *broker)
    assert program.wait() == 0
    assert program.output.count("started worker process") == 2
    assert workers(shell, 0) == []


def test_a_worker_that_died_is_replaced_and_forgotten(shell: Shell) -> None:
    program = shell.begin("worker", "tasks:yard")
    program.wait_for("worker .* started")
    (first,) = workers(shell, 1)
    os.kill(first["pid"], signal.SIGKILL)
    program.wait_for("worker .* started", 2)
    (second,) = workers(shell, 1)
    assert second["id"] != first["id"]
    assert program.stop() == 0


def test_a_worker_that_is_killed_with_its_supervisor_stays_in_the_list(shell: Shell) -> None:
    program = shell.begin("worker", "tasks:yard", "-p", "0")
    program.wait_for("worker .* started")
    (worker,) = workers(shell, 1)
    program.signal(signal.SIGKILL)
    program.wait()
    assert [one["id"] for one in workers(shell, 1)] == [worker["id"]]


@pytest.fixture
def ports() -> Iterator[int]:
    """The first of two ports that nobody uses, nor gets for an outgoing connection meanwhile."""
    for port in iter(free_port, None):
        with contextlib.suppress(OSError):
            socket.create_server(("127.0.0.1", port + 1)).close()
            yield port
            give_port_back(port)
            return
        give_port_back(port)


def scraped(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE) as reply:
        text: str = reply.read().decode()
        return text


def test_each_process_shows_its_metrics(shell: Shell, ports: int) -> None:
    port = ports
    program = shell.begin("worker", "tasks:yard", "-p", "2", "--metrics", str(port))
    program.wait_for("worker .* started", 2)
    program.wait_for(rf"metrics at http://127\.0\.0\.1:{port}/metrics")
    program.wait_for(rf"metrics at http://127\.0\.0\.1:{port + 1}/metrics")
    subprocess.run([sys.executable, "tasks.py"], cwd=shell.folder, check=True)
    program.wait_for("double 4")
    done = re.compile(
        r'^taskyard_messages_total{outcome="done",queue="default",task="double"} (\d+)',
        re.MULTILINE,
    )

    def have_counted() -> bool:
        return sum(int(n) for one in (0, 1) for n in done.findall(scraped(port + one))) == 3

    shell.eventually(have_counted)
    assert "taskyard_broker_up 1.0" in scraped(port)
    assert "taskyard_broker_up" not in scraped(port + 1)
    started = len(program.wait_for("worker .* started"))
    first = next(worker for worker in workers(shell, 2))
    os.kill(first["pid"], signal.SIGKILL)
    program.wait_for("worker .* started", started + 1)
    assert "python_info" in scraped(port) + scraped(port + 1)
    assert program.stop() == 0


def test_a_worker_may_leave_schedules_to_others(scheduling: Shell) -> None:
    before = listed(scheduling)["busy"]["last"]
    left = scheduling.run("worker", "scheduled:yard", "--burst", "--no-schedules")
    assert "report" not in left
    assert listed(scheduling)["busy"]["last"] == before
    assert "report often" in scheduling.run("worker", "scheduled:yard", "--burst")
