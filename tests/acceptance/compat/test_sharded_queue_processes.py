"""Programs of sharded-queue as a user runs them: processes, signals, a Redis server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.servers.server import RedisServer

DEADLINE = 30.0

NOTIFICATIONS = '''
from typing import NamedTuple

from taskyard.compat.sharded_queue import Handler, Queue, Route

class NotifyRequest(NamedTuple):
    """
    In this example we have simple notify request containing user identifier
    In addition, the value is used to shard requests over worker threads
    """
    user_id: int

class NotifyHandler(Handler):
    @classmethod
    async def route(cls, *requests: NotifyRequest) -> list[Route]:
        """
        Spread requests by 3 threads that can be concurrently processed
        """
        return [
            Route(thread=request.user_id % 3)
            for request in requests
        ]

    async def perform(self, *requests: NotifyRequest) -> None:
        """
        Perform is called using configurable batch size
        This allows you to reduce io per single request
        """
        # users = await UserRepository.find_all([r.user_id for r in requests])
        # await mailer.send_all([construct_message(user) for user in users])
        print(*[request.user_id for request in requests])
'''

EXAMPLE = '''
from asyncio import gather
from notifications import NotifyHandler, NotifyRequest
from taskyard.compat.sharded_queue import Queue, RuntimeCoordinator, RuntimeStorage, Worker


async def example():
    """
    let's register notification for first 9 users
    """
    queue: Queue = Queue(RuntimeStorage())
    await queue.register(NotifyHandler, *[NotifyRequest(n) for n in range(1, 9)])
    """
    now all requests are waiting for workers on 3 notify handler tubes
    they were distributed using route handler method
    first tube contains notify request for users 1, 4, 7
    second tube contains requests for 2, 5, 8 and other goes to third tube
    """
    futures = [
        Worker(RuntimeCoordinator(), queue).loop(3),
        Worker(RuntimeCoordinator(), queue).loop(3),
        Worker(RuntimeCoordinator(), queue).loop(3),
    ]
    """
    we've just run three coroutines that will process messages
    workers will bind to each thread and process all messages
    """
    await gather(*futures)
    """
    now all emails were send in 3 threads
    """

import asyncio
asyncio.run(example())
'''

EVENTS = '''
from typing import NamedTuple, Self

from taskyard.compat.sharded_queue import (
    Handler, Queue, Route, RuntimeCoordinator, RuntimeStorage, Worker, settings
)

class ParseEventRequest(NamedTuple):
    """
    Event identifier should be enough to get it contents from storage
    """
    event: int

class ParseEventHandler(Handler):
    @classmethod
    async def create(cls) -> Self:
        """
        define your own handler and dependency factory
        """
        print("create")
        return cls()

    @classmethod
    async def route(cls, *requests: ParseEventRequest) -> list[Route]:
        """
        override default single thread tube
        """
        return [
            Route(settings.default_thread, settings.default_priority)
            for request in requests
        ]

    async def start(self):
        """
        run any code on worker is bind to the queue
        """
        print("start")

    async def perform(self, *requests: ParseEventRequest):
        """
        the handler
        """
        print("perform")

    async def handle(self, *requests: ParseEventRequest) -> None:
        """
        process requests batch
        """
        print("handle", *requests)

    async def stop(self):
        """
        run any code when queue is empty and worker stops processing thread
        """
        print("stop")

settings.coordinator_delay = 5
settings.worker_batch_size = 2

async def main():
    queue = Queue(RuntimeStorage())
    await queue.register(ParseEventHandler, *[ParseEventRequest(n) for n in range(3)])
    await Worker(RuntimeCoordinator(), queue).loop(3)
    print("returned")

import asyncio
asyncio.run(main())
'''

ORDERS = """
import asyncio, os, sys, time
from typing import NamedTuple
from taskyard.compat.sharded_queue import (
    Handler, Queue, RedisCoordinator, RedisStorage, Route, Worker
)

class Order(NamedTuple):
    number: int
    threads: int

class OrderHandler(Handler):
    @classmethod
    async def route(cls, *requests: Order) -> list[Route]:
        return [Route(request.number % request.threads) for request in requests]

    async def start(self) -> None:
        note("start")

    async def stop(self) -> None:
        note("stop")

    async def perform(self, *requests: Order) -> None:
        numbers = ",".join(str(request.number) for request in requests)
        note("begin", numbers)
        await asyncio.sleep(float(os.environ.get("BUSY", "0")))
        note("end", numbers)

def note(*words: str) -> None:
    # One write, and atomic: several processes append.
    line = " ".join([str(os.getpid()), *words]) + "\\n"
    with open(os.environ["NOTES"], "ab", buffering=0) as file:
        file.write(line.encode())

def client():
    kind, decode = os.environ.get("CLIENT", "async,True").split(",")
    if kind == "async":
        from redis.asyncio import Redis
    else:
        from redis import Redis
    return Redis.from_url(os.environ["REDIS"], decode_responses=decode == "True")

def queue():
    return Queue(RedisStorage(client()))
"""

REGISTER = """
import asyncio, sys
from orders import Order, OrderHandler, queue
number, threads = map(int, sys.argv[1:])
asyncio.run(queue().register(OrderHandler, *[Order(n, threads) for n in range(number)]))
"""

WORK = """
import asyncio, sys
from orders import RedisCoordinator, Worker, client, note, queue
limit = int(sys.argv[1]) or None
loops = int(sys.argv[2]) if len(sys.argv) > 2 else 1

async def main():
    workers = [Worker(RedisCoordinator(client()), queue()) for _ in range(loops)]
    await asyncio.gather(*(worker.loop(limit) for worker in workers))
    note("returned")

asyncio.run(main())
"""


class Scene:
    """A folder with programs, which note what they do in one file."""

    def __init__(self, folder: Path, server: RedisServer) -> None:
        self.folder = folder
        for name, text in {"orders": ORDERS, "register": REGISTER, "work": WORK}.items():
            (folder / f"{name}.py").write_text(text)
        self._notes = folder / "notes"
        self._notes.touch()
        self._environment = {**os.environ, "REDIS": server.url, "NOTES": str(self._notes)}
        self._errors = (folder / "errors").open("wb")
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, *command: object, **environment: str) -> subprocess.Popen[bytes]:
        """Start a program of the folder."""
        process = subprocess.Popen(
            [sys.executable, "-W", "error", *map(str, command)],
            cwd=self.folder,
            env={**self._environment, **environment},
            stderr=self._errors,
        )
        self._started.append(process)
        return process

    def run(self, *command: object, **environment: str) -> None:
        """Run one to its end."""
        assert self.start(*command, **environment).wait(DEADLINE) == 0

    def notes(self, *about: str) -> list[list[str]]:
        """What was noted: process, what, numbers."""
        whole = self._notes.read_text().rpartition("\n")[0]
        lines = [line.split() for line in whole.splitlines()]
        return [line for line in lines if not about or line[1] in about]

    def handled(self) -> list[int]:
        """The numbers of all batches that were ended, in order."""
        return [int(number) for line in self.notes("end") for number in line[2].split(",")]

    def until(self, holds: Callable[[], Any], what: str) -> None:
        """Wait for something that is noted."""
        end = time.monotonic() + DEADLINE
        while not holds():
            assert time.monotonic() < end, f"{what}: {self.notes()}"
            time.sleep(0.01)

    def close(self) -> None:
        for process in self._started:
            process.kill()
            process.wait()
        self._errors.close()
        assert "ResourceWarning" not in (self.folder / "errors").read_text()


@pytest.fixture
def scene(tmp_path: Path, redis_server: RedisServer) -> Iterator[Scene]:
    made = Scene(tmp_path, redis_server)
    yield made
    made.close()


def run(folder: Path, **programs: str) -> list[str]:
    """Write programs, and run the last one; what it printed."""
    for name, text in programs.items():
        (folder / f"{name}.py").write_text(text)
    command = [sys.executable, "-W", "error", f"{list(programs)[-1]}.py"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_the_program_of_the_document(tmp_path: Path) -> None:
    assert sorted(run(tmp_path, notifications=NOTIFICATIONS, example=EXAMPLE)) == [
        "1 4 7",
        "2 5 8",
        "3 6",
    ]


def test_the_life_cycle_of_the_document(tmp_path: Path) -> None:
    assert run(tmp_path, events=EVENTS) == [
        "create",
        "start",
        "handle ParseEventRequest(event=0) ParseEventRequest(event=1)",
        "handle ParseEventRequest(event=2)",
        "stop",
        "returned",
    ]


@pytest.mark.parametrize("client", ["async,True", "async,False", "sync,True"])
def test_any_client_will_do(scene: Scene, client: str) -> None:
    scene.run("register.py", 10, 2, CLIENT=client)
    scene.run("work.py", 10, CLIENT=client)
    assert sorted(scene.handled()) == list(range(10))
    starts, stops = scene.notes("start"), scene.notes("stop")
    assert len(starts) == len(stops) == 2


def test_settings_come_from_the_environment(scene: Scene) -> None:
    own = {"QUEUE_TUBE_PREFIX": "mine_", "QUEUE_WORKER_BATCH_SIZE": "3"}
    scene.run("register.py", 10, 1, **own)
    scene.run("work.py", 8, QUEUE_WORKER_EMPTY_LIMIT="1", **own)
    batches = [len(line[2].split(",")) for line in scene.notes("end")]
    assert batches == [3, 3, 2]


def test_processes_share_the_threads_and_keep_their_order(scene: Scene) -> None:
    scene.run("register.py", 200, 7)
    own = {"BUSY": "0.01", "QUEUE_WORKER_BATCH_SIZE": "5"}
    workers = [scene.start("work.py", 100, 1, **own) for _ in range(2)]
    assert [worker.wait(DEADLINE) for worker in workers] == [0, 0]
    by_process = [line[0] for line in scene.notes("end") for _ in line[2].split(",")]
    assert [by_process.count(str(worker.pid)) for worker in workers] == [100, 100]
    _check_order(scene.handled(), 200, 7)


def test_killed_in_the_middle_of_a_batch(scene: Scene) -> None:
    own = {"QUEUE_COORDINATOR_TIMEOUT": "2", "QUEUE_WORKER_BATCH_SIZE": "10"}
    scene.run("register.py", 60, 2)
    victim = scene.start("work.py", 0, BUSY="600", **own)
    scene.until(lambda: scene.notes("begin"), "it has a batch")
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    # Another goes on, with all of it once the lease is over: its limit keeps it until then.
    scene.run("work.py", 60, QUEUE_WORKER_BATCH_SIZE="10")
    _check_order(scene.handled(), 60, 2)


def test_a_batch_that_outlives_its_lock(scene: Scene) -> None:
    own = {"QUEUE_COORDINATOR_TIMEOUT": "3", "QUEUE_WORKER_BATCH_SIZE": "10"}
    scene.run("register.py", 20, 1)
    workers = [scene.start("work.py", 0, 1, BUSY="4", **own) for _ in range(2)]
    scene.until(lambda: len(scene.handled()) >= 20, "all is handled")
    spans = [(line[1], line[2]) for line in scene.notes("begin", "end")]
    assert [what for what, _ in spans] == ["begin", "end"] * 2  # never two of the thread at once
    assert scene.handled() == list(range(20))
    for worker in workers:
        worker.send_signal(signal.SIGTERM)
    assert [worker.wait(DEADLINE) for worker in workers] == [0, 0]


@pytest.mark.parametrize("loops", [1, 3])
def test_sigterm_ends_all_loops_after_their_batches(scene: Scene, loops: int) -> None:
    scene.run("register.py", 300, 3)  # seconds of work
    own = {"BUSY": "0.3", "QUEUE_WORKER_BATCH_SIZE": "5"}
    worker = scene.start("work.py", 0, loops, **own)
    scene.until(lambda: len(scene.notes("begin")) >= loops, "they have begun")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(DEADLINE) == 0
    assert len(scene.notes("begin")) == len(scene.notes("end"))
    assert len(scene.notes("start")) == len(scene.notes("stop"))
    assert scene.notes()[-1][1] == "returned"
    left = 300 - len(scene.handled())
    assert left > 0
    scene.run("work.py", left)
    _check_order(scene.handled(), 300, 3)


def test_ctrl_c_gives_the_batch_back(scene: Scene) -> None:
    scene.run("register.py", 10, 1)
    worker = scene.start("work.py", 0, BUSY="600")
    scene.until(lambda: scene.notes("begin"), "it has begun")
    worker.send_signal(signal.SIGINT)
    assert worker.wait(DEADLINE) == -signal.SIGINT
    assert scene.notes("stop")
    scene.run("work.py", 10)  # at once: nobody has a lease
    assert scene.handled() == list(range(10))


def test_a_server_that_is_away(tmp_path: Path, redis_binary: Any) -> None:
    with RedisServer(binary=redis_binary) as server:
        scene = Scene(tmp_path, server)
        try:
            worker = scene.start("work.py", 10)
            server.kill()
            server.restart()
            scene.run("register.py", 10, 1)
            assert worker.wait(DEADLINE) == 0
            assert scene.handled() == list(range(10))
        finally:
            scene.close()


def _check_order(handled: list[int], number: int, threads: int) -> None:
    """Nothing is lost; within a thread nothing overtakes, though some may come twice."""
    assert sorted(set(handled)) == list(range(number))
    for thread in range(threads):
        own = [one for one in handled if one % threads == thread]
        firsts = list(dict.fromkeys(own))
        assert all(one < other for one, other in pairwise(firsts))
