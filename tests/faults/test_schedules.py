"""Schedules while workers and servers are killed: each instant is put once, none is left out."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from tests.faults.scene import until
from tests.faults.stores import RedisStore, SQLiteStore, Store
from tests.faults.test_redis import restart
from tests.servers.server import RedisServer

from taskyard import Yard, every

PERIODS = {f"s{number}": 0.05 + number / 100 for number in range(0, 16, 2)}
"""Seconds, by the names of the schedules: so many that most kills come in the middle of one."""

PROGRAM = f"""
import os

from taskyard import Yard, current_context, every

yard = Yard(os.environ["TASKYARD_BROKER"])
journal = os.open("journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

@yard.task(max_deliveries=1000)
def note() -> None:
    os.write(journal, (current_context().message.id + "\\n").encode())

for name, period in {PERIODS}.items():
    yard.schedule(note, when=every(period), name=name, catch_up="all")
"""


class Crew:
    """Workers that declare, fire and run the same schedules, and a yard that looks at them.

    Arguments:
        folder: an empty one.
        store: where the messages are.
    """

    def __init__(self, folder: Path, store: Store) -> None:
        self.folder = folder
        self.url = url_of(store)
        self.yard = Yard(self.url)
        self.workers: list[subprocess.Popen[bytes]] = []
        (folder / "program.py").write_text(PROGRAM)
        (folder / "journal").touch()
        note = self.yard.task(name="note", max_deliveries=1000)(nothing)
        for name, period in PERIODS.items():
            self.yard.schedules.add(note, when=every(period), name=name, catch_up="all")
        self.first = {one.name: one.next for one in self.yard.schedules.list()}

    def close(self) -> None:
        for worker in self.workers:
            self.kill(worker)
        self.yard.close()
        sys.stdout.write((self.folder / "log").read_text(errors="replace")[-4000:])

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            command = [sys.executable, "-m", "taskyard", "worker", "program:yard", "-p", "0"]
            worker = subprocess.Popen(
                [*command, "--lease", "1"],
                cwd=self.folder,
                env={**os.environ, "TASKYARD_BROKER": self.url},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.workers.append(worker)

    def kill(self, worker: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()

    def noted(self) -> list[str]:
        """The ids of the messages that ran; some may have run twice."""
        return (self.folder / "journal").read_text().splitlines()

    def run_more(self, count: int) -> None:
        """Wait until so many messages more have run."""
        goal = len(self.noted()) + count
        until(lambda: len(self.noted()) >= goal, f"{count} messages more have run")

    def away(self, seconds: float) -> None:
        """Let instants pass that nobody sees."""
        passed = time.time() + seconds
        until(lambda: time.time() > passed, "the time has passed")

    def check(self) -> None:
        """All that was put has run, and it was what the schedules say."""
        for name in PERIODS:
            self.yard.schedules.pause(name)

        def is_drained() -> bool:
            counts = self.yard.counts()[0]
            return not (counts.waiting or counts.delayed or counts.running)

        until(is_drained, "everything is drained")
        [counts] = self.yard.counts()
        ids = set(self.noted())
        assert counts.totals["put"] == len(ids), "an instant was put twice"
        assert counts.totals["done"] == len(ids)
        done: dict[str, list[datetime]] = defaultdict(list)
        for id_ in sorted(ids):
            name, _, moment = id_.partition("@")
            done[name].append(datetime.fromisoformat(moment))
        for one in self.yard.schedules.list():
            period = timedelta(seconds=PERIODS[one.name])
            first, last = self.first[one.name], one.last
            assert first is not None
            assert last is not None
            count = (last - first) // period + 1
            assert sorted(done[one.name]) == [first + number * period for number in range(count)]


def url_of(store: Store) -> str:
    if isinstance(store, RedisStore):
        return store.url()
    assert isinstance(store, SQLiteStore)
    return f"sqlite:///{store.path}"


def nothing() -> None:
    """The handler is in the program."""


@pytest.fixture
def crew(folder: Path, store: Store) -> Iterator[Crew]:
    made = Crew(folder, store)
    yield made
    made.close()


def test_each_instant_is_put_once_while_workers_are_killed(crew: Crew) -> None:
    chance = random.Random("kills")
    for _ in range(3):
        crew.start()
    for _ in range(10):
        crew.run_more(chance.randrange(1, 60))
        crew.kill(crew.workers.pop(chance.randrange(3)))
        crew.start()
    crew.run_more(20)
    crew.check()


def test_what_nobody_saw_is_made_up_for_by_those_who_come_later(crew: Crew) -> None:
    for _ in range(3):
        for _ in range(2):
            crew.start()
        crew.run_more(10)
        while crew.workers:
            crew.kill(crew.workers.pop())
        crew.away(1.0)
    crew.start()
    crew.run_more(100)
    crew.check()


class TestServer:
    """The same on a Redis that is killed."""

    @pytest.fixture
    def store(self, own_server: RedisServer) -> RedisStore:
        return RedisStore(own_server)

    def test_each_instant_is_put_once_while_the_server_is_killed(
        self, crew: Crew, own_server: RedisServer
    ) -> None:
        chance = random.Random("kills of the server")
        for _ in range(3):
            crew.start()
        for number in range(6):
            crew.run_more(chance.randrange(1, 60))
            own_server.kill()
            if number % 2:
                crew.kill(crew.workers.pop(chance.randrange(3)))
                crew.start()
            restart(own_server)
        crew.run_more(20)
        crew.check()
