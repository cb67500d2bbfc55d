"""What forks, so in a process of its own: `python -m tests.faults.forks NAME PATH|URL`."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable

from taskyard import Yard
from taskyard.brokers.sqlite import SQLiteBroker

__all__ = ["SCENARIOS"]


def work(number: int) -> None:
    """The task's handler."""


def make_yard(path: str) -> Yard:
    remote = "://" in path
    yard = Yard(path if remote else SQLiteBroker(path, synchronous="off", busy=30.0))
    yard.task(name="work")(work)
    return yard


def put(yard: Yard, count: int) -> None:
    for number in range(count):
        yard.tasks["work"].enqueue(number)


async def aput(yard: Yard, count: int) -> None:
    for number in range(count):
        await yard.tasks["work"].aenqueue(number)


def in_child(run: Callable[[], None]) -> int:
    """Fork, and run something in the child."""
    pid = os.fork()
    if pid:
        return pid
    try:
        run()
    except BaseException as error:
        sys.stderr.write(f"in the child: {error!r}\n")
        os._exit(1)
    os._exit(0)


def ended(pid: int) -> None:
    _, status = os.waitpid(pid, 0)
    assert status == 0, status


def waiting(path: str) -> int:
    """Counted by a process that shares nothing with this one."""
    read, write = os.pipe()
    if os.fork() == 0:
        os.dup2(write, 1)
        os.execv(sys.executable, [sys.executable, "-m", "tests.faults.forks", "count", path])
    os.close(write)
    with os.fdopen(read) as answer:
        return int(answer.read())


def count(path: str) -> None:
    sys.stdout.write(str(make_yard(path).counts()[0].waiting))


def sync(path: str) -> None:
    """Both go on with the same yard."""
    yard = make_yard(path)
    put(yard, 10)
    pid = in_child(lambda: put(yard, 10))
    put(yard, 10)
    ended(pid)
    put(yard, 10)
    assert waiting(path) == 40


def asynchronous(path: str) -> None:
    yard = make_yard(path)
    asyncio.run(aput(yard, 10))
    pid = in_child(lambda: asyncio.run(aput(yard, 10)))
    asyncio.run(aput(yard, 10))
    ended(pid)
    assert waiting(path) == 30


def both(path: str) -> None:
    """The parent used it for threads, the child uses it on a loop, and the other way round."""
    yard = make_yard(path)
    put(yard, 5)
    asyncio.run(aput(yard, 5))
    ended(in_child(lambda: asyncio.run(aput(yard, 5))))
    ended(in_child(lambda: put(yard, 5)))
    assert waiting(path) == 20


def parent_closes(path: str) -> None:
    """The parent closes, as the last one to its knowledge, while the child goes on."""
    yard = make_yard(path)
    put(yard, 10)
    to_child, from_parent = os.pipe()
    to_parent, from_child = os.pipe()

    def child() -> None:
        put(yard, 1)
        os.write(from_child, b".")
        os.read(to_child, 1)
        put(yard, 10)

    pid = in_child(child)
    os.read(to_parent, 1)
    yard.close()
    os.write(from_parent, b".")
    ended(pid)
    assert waiting(path) == 21


def while_writing(path: str) -> None:
    """Forks while other threads are in the middle of transactions."""
    yard = make_yard(path)
    put(yard, 1)
    going = True

    def write() -> None:
        while going:
            put(yard, 1)

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        ended(in_child(lambda: put(yard, 5)))
    going = False
    for thread in threads:
        thread.join()
    before = waiting(path)
    put(yard, 1)
    assert waiting(path) == before + 1
    assert before >= 101


SCENARIOS = {
    "sync": sync,
    "async": asynchronous,
    "both": both,
    "parent_closes": parent_closes,
    "while_writing": while_writing,
}

if __name__ == "__main__":
    {**SCENARIOS, "count": count}[sys.argv[1]](sys.argv[2])
