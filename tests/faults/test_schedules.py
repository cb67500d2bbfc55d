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
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.faults.program import shifted_clock
from tests.faults.scene import ROOT, clock_file, until
from tests.faults.stores import RedisStore, SQLiteStore, Store
from tests.faults.test_redis import restart
from tests.servers.server import RedisServer
from tests.variants import some_in_short

from taskyard import Yard, every
from taskyard.brokers.base import Broker
from taskyard.brokers.redis import RedisBroker, parse_url
from taskyard.brokers.sqlite import SQLiteBroker

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


DAY = 86400.0
YEARLY = {f"y{number}": days * DAY for number, days in enumerate((3, 10, 17, 45, 90, 200))}
"""The same for a clock that jumps by months."""

JUMPING = f"""
import os
from pathlib import Path

import taskyard.worker.pool
import taskyard.worker.scheduler
from tests.faults.program import shifted_clock
from tests.faults.test_schedules import broker_of
from tests.variants import some_in_short

from taskyard import Yard, current_context, every

# Who sleeps does not see that the clock has jumped.
taskyard.worker.pool.LONGEST_SLEEP = taskyard.worker.scheduler.LONGEST_SLEEP = 0.1
clock = shifted_clock(Path("clock"))
yard = Yard(broker_of(os.environ["TASKYARD_BROKER"], clock))
journal = os.open("journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

@yard.task(max_deliveries=1000)
def note() -> None:
    os.write(journal, (current_context().message.id + "\\n").encode())

for name, period in {YEARLY}.items():
    yard.schedule(note, when=every(period), name=name, catch_up="all")
"""


def broker_of(url: str, clock: Callable[[], int]) -> Broker:
    """A broker by its URL, with a clock that jumps."""
    if url.startswith("redis"):
        return RedisBroker(parse_url(url), clock=clock)
    return SQLiteBroker(url.removeprefix("sqlite:///"), clock=clock)


class Crew:
    """Workers that declare, fire and run the same schedules, and a yard that looks at them.

    Arguments:
        folder: an empty one.
        store: where the messages are.
        jumping: whether their clock is the file "clock", which jumps by months.
    """

    def __init__(self, folder: Path, store: Store, *, jumping: bool = False) -> None:
        self.folder = folder
        self.url = url_of(store)
        self.periods = YEARLY if jumping else PERIODS
        if jumping:
            self.yard = Yard(broker_of(self.url, shifted_clock(folder / "clock")))
        else:
            self.yard = Yard(self.url)
        self.workers: list[subprocess.Popen[bytes]] = []
        (folder / "program.py").write_text(JUMPING if jumping else PROGRAM)
        (folder / "journal").touch()
        note = self.yard.task(name="note", max_deliveries=1000)(nothing)
        for name, period in self.periods.items():
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
                env={
                    **os.environ,
                    "TASKYARD_BROKER": self.url,
                    "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}",
                },
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
        for name in self.periods:
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
            period = timedelta(seconds=self.periods[one.name])
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


@pytest.mark.parametrize("store", some_in_short(["sqlite", "redis"], ["redis"]), indirect=True)
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


@pytest.mark.parametrize("store", some_in_short(["sqlite", "redis"], ["sqlite"]), indirect=True)
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


@pytest.fixture
def jumping_crew(folder: Path, store: Store) -> Iterator[tuple[Crew, Callable[[float], None]]]:
    """A crew, and what moves its clock by so many seconds."""
    with clock_file(folder) as move:
        made = Crew(folder, store, jumping=True)
        yield made, move
        made.close()


@pytest.mark.parametrize("store", some_in_short(["sqlite", "redis"], ["sqlite"]), indirect=True)
def test_each_instant_is_put_once_while_workers_are_killed_and_the_clock_jumps_over_years(
    jumping_crew: tuple[Crew, Callable[[float], None]],
) -> None:
    crew, move = jumping_crew
    chance = random.Random("kills over years")
    for _ in range(3):
        crew.start()
    back = 0.0
    for _ in range(12):
        goal = len(crew.noted()) + 1
        move(back + chance.uniform(30, 200) * DAY)  # so something is due
        until(lambda goal=goal: len(crew.noted()) >= goal, "something more has run")
        crew.kill(crew.workers.pop(chance.randrange(3)))
        back = chance.choice([0, 0, chance.uniform(1, 30) * DAY])
        move(-back)
        crew.start()
    move(back)
    now = datetime.fromtimestamp(shifted_clock(crew.folder / "clock")() / 1e6, UTC)
    until(
        lambda: all(one.next is not None and one.next > now for one in crew.yard.schedules.list()),
        "all that was due was put",
    )
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
