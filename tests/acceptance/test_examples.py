"""The examples are run as their texts say, in a small version."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from examples.web.compare import UVICORN, WORKER, Program, port_of, post, running

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
