"""The examples are run as their texts say, in a small version."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from examples import nightly
from examples.web.compare import UVICORN, WORKER, Program, port_of, post, running

from taskyard import testing

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(folder: Path, *command: object, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=folder,
        env={**os.environ, "COLUMNS": "200", **settings},
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )


# The web application


def test_the_web_applications_are_compared(tmp_path: Path) -> None:
    done = run(EXAMPLES / "web", "compare.py", "--requests", 300, TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    rows = re.findall(
        r"^(a commit per request|in batches, by taskyard) .* ms +(\d+) +\S+ s$",
        done.stdout,
        re.MULTILINE,
    )
    assert rows == [("a commit per request", "300"), ("in batches, by taskyard", "300")]
    assert not list(tmp_path.iterdir())


def test_load_is_put_on_the_web_application(tmp_path: Path) -> None:
    saved = [tmp_path / f"stress.{ending}" for ending in ("html", "json", "xlsx")]
    options = [part for path in saved for part in ("--save", path)]
    room = tmp_path / "room"
    room.mkdir()
    stress = ("stress.py", "--rate", 50, "--until", 100, "--seconds", 2, "--workers", 20, *options)
    done = run(EXAMPLES, *stress, TMPDIR=str(room))
    assert done.returncode == 0, done.stdout + done.stderr
    told = re.search(
        r"^(\d+) events were accepted, and (\d+) are saved\.$", done.stdout, re.MULTILINE
    )
    assert told, done.stdout
    # Less than 150 if this machine is too slow: what is not begun in time is left out.
    assert 0 < int(told[1]) == int(told[2]) <= 150
    report = json.loads(saved[1].read_text())
    assert (report["completed"], report["failed"]) == (int(told[1]), 0)
    assert report["conditions"]["open_loop"] is True
    assert "<h1><bdi>POST /events</bdi></h1>" in saved[0].read_text()
    assert saved[2].read_bytes().startswith(b"PK")
    assert not list(room.iterdir())


def test_what_is_no_event_is_refused(tmp_path: Path) -> None:
    async def statuses(port: int) -> list[int]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with closing(writer):
            return [(await post(reader, writer, event)).status for event in ([1], "a", {}, None)]

    with running(f"{UVICORN} app:app", tmp_path) as app:
        assert asyncio.run(statuses(port_of(app))) == [400, 400, 202, 400]


async def accepted_until_it_ends(app: Program, after: int, number: int) -> set[str]:
    """The ids of the events that an application accepts, which gets a signal after a while."""
    port, ids = port_of(app), set[str]()

    async def go_on() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with closing(writer):
            while True:
                answer = await post(reader, writer, {"number": len(ids)})
                assert answer.status == 202
                ids.add(json.loads(answer.body)["id"])
                if len(ids) == after:
                    app.process.send_signal(number)

    ends = await asyncio.gather(*(go_on() for _ in range(20)), return_exceptions=True)
    assert all(isinstance(end, (asyncio.IncompleteReadError, OSError)) for end in ends), ends
    return ids


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_what_was_accepted_is_saved_though_everything_is_stopped(
    tmp_path: Path, number: signal.Signals
) -> None:
    with (
        running(f"{UVICORN} app:app", tmp_path) as app,
        # Slow, so that most is still waiting when it is stopped.
        running(WORKER, tmp_path, EVENTS_COMMIT_MS="500"),
    ):
        ids = asyncio.run(accepted_until_it_ends(app, 800, number))
    assert len(ids) >= 800
    with running(f"{WORKER} --burst", tmp_path) as worker:
        assert worker.process.wait(30) == 0
    with closing(sqlite3.connect(tmp_path / "events.db")) as db:
        rows = {id_ for (id_,) in db.execute("SELECT id FROM events")}
    assert ids <= rows
    assert len(rows - ids) <= 20  # stored, but the answer did not get through any more


# The pipeline of calls to an API


def rows_of_pipeline(output: str) -> dict[str, tuple[int, ...]]:
    """By customer: orders, cents, calls, and how many of these got 429 and 503."""
    rows = re.findall(r"^(\w+) +(\d+) +(\d+) +(\d+) +(\d+) +(\d+)$", output, re.MULTILINE)
    return {customer: tuple(map(int, numbers)) for customer, *numbers in rows}


def test_the_api_never_says_too_fast(tmp_path: Path) -> None:
    done = run(EXAMPLES, "api_pipeline.py", "--orders", 12, TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    cents = sum(range(100, 112))
    assert rows_of_pipeline(done.stdout) == dict.fromkeys(
        ("ada", "bob", "eve"), (12, cents, 12 + 3, 0, 3)
    )
    assert not list(tmp_path.iterdir())


def test_without_a_limit_it_does_and_the_calls_are_made_later() -> None:
    done = run(EXAMPLES, "api_pipeline.py", "--orders", 25, "--no-limit")
    assert done.returncode == 0, done.stderr
    rows = rows_of_pipeline(done.stdout)
    assert [orders for orders, *_ in rows.values()] == [25, 25, 25]
    assert sum(too_fast for *_, too_fast, _ in rows.values()) > 0


# The nights


def test_the_nights_are_fired_now_and_the_commands_of_its_text_work(tmp_path: Path) -> None:
    fired = run(tmp_path, EXAMPLES / "nightly.py", "--fire-now")
    assert fired.returncode == 0, fired.stderr
    done, following = sorted(fired.stdout.splitlines()[:4]), fired.stdout.splitlines()[4:]
    assert done[0] == "old files are removed"
    assert re.fullmatch(r"the books of \w+day, \d\d \w+ \d{4} are closed", done[1])
    assert done[2:] == [f"the report for {office} is sent" for office in nightly.OFFICES]
    assert [line.split("  ")[0] for line in following] == sorted(nightly.yard.plans)

    text = ast.get_docstring(ast.parse((EXAMPLES / "nightly.py").read_text())) or ""
    commands = re.findall(r"^taskyard (schedules .+)$", text, re.MULTILINE)
    assert len(commands) == 4
    for command in commands:
        shown = run(tmp_path, "-m", "taskyard", *command.split())
        assert shown.returncode == 0, shown.stderr
        if command == "schedules list":
            when = r"^ +(\S.*? {2,}.* {2,}.* {2,}cron .*\)) "
            rows = re.findall(when, text, re.MULTILINE)
            assert rows
            assert all(row in shown.stdout for row in rows)


MARCH = datetime(2030, 3, 28, 12, tzinfo=UTC)  # a Thursday; in Europe clocks change on the 31st


def test_a_week_of_nights(capsys: pytest.CaptureFixture[str]) -> None:
    with testing.stored(nightly.yard, clock=testing.Clock(MARCH)) as jobs:
        report = jobs.run_until_idle(until=timedelta(days=7))
    assert len(report.of(nightly.close_day)) == 7
    assert len(report.of(nightly.send_report)) == 2 * 5
    assert len(report.of(nightly.clean_up)) == 7
    output = capsys.readouterr().out
    closed = re.findall(r"^the books of \w+, (.*) are closed$", output, re.MULTILINE)
    days = [date(2030, 3, 28) + timedelta(days=number) for number in range(7)]
    assert closed == [f"{day:%d %B %Y}" for day in days]


def test_three_nights_without_a_worker() -> None:
    with testing.stored(nightly.yard, clock=testing.Clock(MARCH)) as jobs:
        jobs.run_until_idle()
        jobs.clock.advance(timedelta(days=3))
        report = jobs.run_until_idle()
    assert len(report.of(nightly.close_day)) == 3
    assert len(report.of(nightly.send_report)) == 2  # that of Friday, to each office
    assert report.of(nightly.clean_up) == []
