"""`taskyard workers`, and the new options of `taskyard worker`, in this process."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from taskyard import Yard
from taskyard.brokers.sqlite import SQLiteBroker
from taskyard.brokers.workers import SILENT, CallReport, Report
from taskyard.cli.group import taskyard
from taskyard.cli.metrics import Endpoints, parse_address
from taskyard.errors import MissingExtra, WorkerError

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TASKYARD_BROKER", raising=False)

    def invoke(*args: str, code: int = 0) -> Result:
        found = CliRunner().invoke(taskyard, args, prog_name="taskyard")
        assert found.exit_code == code, found.output
        return found

    return invoke


@pytest.fixture
def yard(run: Run) -> Iterator[Yard]:
    with Yard("sqlite:///taskyard.db") as made:
        made.counts()
        yield made


def register(yard: Yard, worker: str, **fields: object) -> None:
    report = Report(
        **{  # type: ignore[arg-type]
            "host": "web-1",
            "pid": 4711,
            "version": "1.2",
            "serves": {"mail": ["send"], "q": ["do"]},
            "slots": 8,
            "age": 5_000_000,
            **fields,
        }
    )
    encoded = msgspec.msgpack.encode(report)
    yard.driver.run(yard.broker.workers.attend(worker, encoded, "", 0))


def mail(yard: Yard, worker: str) -> list[tuple[str, str]]:
    found = yard.driver.run(yard.broker.workers.mail(worker, 0))
    return [(message.command, message.queue) for message in found]


# Looking


def test_nobody_works(run: Run, yard: Yard) -> None:
    found = run("workers")
    assert (found.stdout, found.stderr) == ("", "no workers\n")
    assert run("workers", "--json").output == ""


def test_a_table(run: Run, yard: Yard) -> None:
    register(yard, "web-1:a", idle=65_000_000, running=3, paused=["mail"])
    register(yard, "web-1:b", state="paused", paused=["mail", "q"])
    head, one, two = run("workers").stdout.splitlines()
    assert head.split() == ["worker", "host", "pid", "queues", "running", "progress", "state"]
    for part in ("web-1:a", "web-1", "4711", "mail (paused), q", "3/8", "running"):
        assert part in one
    assert re.search(r" 1m \d+s ago ", one), one  # what passed since is told too
    for part in ("web-1:b", "mail (paused), q (paused)", "0/8", "never", "paused"):
        assert part in two


def test_json(run: Run, yard: Yard) -> None:
    register(yard, "web-1:a", running=1, calls=[CallReport("do", "id-1", 3, 1_000_000)])
    found = json.loads(run("workers", "--json").stdout)
    times = {name: found.pop(name) for name in ("started", "seen")}
    assert times["started"] < found["calls"][0].pop("since") < times["seen"]
    assert found == {
        "id": "web-1:a",
        "host": "web-1",
        "pid": 4711,
        "version": "1.2",
        "queues": {"mail": ["send"], "q": ["do"]},
        "slots": 8,
        "running": 1,
        "calls": [{"task": "do", "id": "id-1", "messages": 3}],
        "state": "running",
        "paused": [],
        "silent": False,
        "progress": None,
    }


def test_who_is_silent_is_shown_and_may_be_told(run: Run, tmp_path: Path) -> None:
    from taskyard.brokers.clock import wall_clock

    past = SQLiteBroker(tmp_path / "taskyard.db", clock=lambda: wall_clock() - SILENT - 5_000_000)
    with Yard(past) as yard:
        register(yard, "web-1:a")
    assert re.search(r"silent for 1m \d+s", run("workers").stdout)
    shown = run("workers", "shutdown", "web-1:a").stdout
    assert shown == "worker web-1:a was told: shutdown, but it is silent: it may never hear it\n"


# Telling


def test_workers_are_told(run: Run, yard: Yard) -> None:
    for worker in ("a", "b", "c"):
        register(yard, worker)
    assert run("workers", "pause", "a", "b", "--queue", "mail").stdout == (
        "worker a was told: pause mail\nworker b was told: pause mail\n"
    )
    run("workers", "resume", "b")
    run("workers", "shutdown", "--all")
    assert mail(yard, "a") == [("pause", "mail"), ("shutdown", "")]
    assert mail(yard, "b") == [("pause", "mail"), ("resume", ""), ("shutdown", "")]
    assert mail(yard, "c") == [("shutdown", "")]


def test_telling_nobody(run: Run, yard: Yard) -> None:
    assert "no worker x" in run("workers", "pause", "x", code=1).output
    assert run("workers", "shutdown", "--all").stderr == "no workers\n"
    assert "name workers, or give --all" in run("workers", "shutdown", code=2).output
    assert "instead" in run("workers", "shutdown", "x", "--all", code=2).output


def test_options_stand_behind_the_command(run: Run, yard: Yard) -> None:
    for options in (("--json",), ("--broker", "sqlite:///other.db"), ("-H", "there")):
        shown = run("workers", *options, "shutdown", "--all", code=2).output
        assert "stands behind the command: taskyard workers shutdown --" in shown


# --metrics


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("9101", ("127.0.0.1", 9101)),
        (":9101", ("127.0.0.1", 9101)),
        ("0.0.0.0:1", ("0.0.0.0", 1)),
        ("[::]:65535", ("::", 65535)),
    ],
)
def test_addresses_are_read(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "host", "0", "65536", "host:", "::1:9", "1.5", "²"])
def test_wrong_addresses(run: Run, text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_address(text)
    assert "PORT or HOST:PORT" in run("worker", "tasks:yard", "--metrics", text, code=2).output


def test_a_port_that_is_taken_is_told(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        shown = run("worker", "tasks:yard", "--metrics", str(port), code=1).output
    assert f"metrics cannot be shown at 127.0.0.1:{port}: " in shown
    assert "Give --metrics another port" in shown


def test_there_are_not_enough_ports() -> None:
    with pytest.raises(WorkerError, match=r"127\.0\.0\.1:65536: there is no port above"):
        Endpoints("127.0.0.1", 65_535, 2)


def test_the_extra_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"taskyard\[prometheus\]"):
        Endpoints("127.0.0.1", 9101, 1)
