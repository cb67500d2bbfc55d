# ruff: noqa: ARG002 - a handler has all methods of its interface
"""The same program on the original and on taskyard: it takes whichever its environment has.

Nothing else is imported but the standard library, redis-py and that.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from redis import Redis  # of each environment

IS_ORIGINAL = find_spec("taskkit") is not None
package = import_module("taskkit" if IS_ORIGINAL else "taskyard.compat.taskkit")
make_kit = import_module(f"{package.__name__}.impl.redis").make_kit

GROUP = "bench"
DATA = {"user": 12_345, "text": "x" * 64}
WARM = 3
"""So many tasks of a latency trial come before those that count."""


class Handler(package.TaskHandler):  # type: ignore[misc]
    """Calls a function with the data of each task."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function

    def handle(self, task: Any) -> Any:
        return self._function(json.loads(task.data))

    def get_retry_interval(self, task: Any, exception: Exception) -> float | None:
        return None

    def encode_data(self, group: str, task_name: str, data: Any) -> bytes:
        return json.dumps(data).encode()

    def encode_result(self, task: Any, result: Any) -> bytes:
        return json.dumps(result).encode()

    def decode_result(self, task: Any, encoded: bytes) -> Any:
        return json.loads(encoded)


def _make_kit(url: str, function: Callable[[Any], Any]) -> Any:
    return make_kit(Redis.from_url(url), Handler(function))


def _nothing(_: Any) -> None: ...


def _initiate(kit: Any, count: int) -> None:
    for _ in range(count):
        kit.initiate_task(GROUP, "one", DATA)


def initiate(url: str, count: int) -> dict[str, Any]:
    """Tasks a second when one thread initiates them one by one."""
    kit = _make_kit(url, _nothing)
    _initiate(kit, 10)
    began = time.monotonic()
    _initiate(kit, count)
    return {"value": count / (time.monotonic() - began)}


def initiate_in_threads(url: str, count: int, threads: int) -> dict[str, Any]:
    """The same of several threads at once, as those of a web server."""
    kit = _make_kit(url, _nothing)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(partial(_initiate, kit), [5] * threads))
        began = time.monotonic()
        list(pool.map(partial(_initiate, kit), [count // threads] * threads))
        seconds = time.monotonic() - began
    return {"value": count / seconds}


def initiate_many(url: str, count: int) -> dict[str, Any]:
    """The same by a hundred."""
    kit = _make_kit(url, _nothing)
    args = [{"group": GROUP, "name": "one", "data": DATA}] * 100
    kit.initiate_tasks(*args)
    began = time.monotonic()
    for _ in range(count // 100):
        kit.initiate_tasks(*args)
    return {"value": count / (time.monotonic() - began)}


def handle(url: str, count: int, threads: int) -> dict[str, Any]:
    """Tasks a second of a worker process, between its first one and its last.

    A rate needs some seconds, so ours gets more of them.
    """
    count *= 1 if IS_ORIGINAL else 15
    reading, writing = os.pipe()
    order = itertools.count(1)

    def note(_: Any) -> None:
        if next(order) in (1, count):
            os.write(writing, b"%d\n" % time.monotonic_ns())

    kit = _make_kit(url, note)
    args = [{"group": GROUP, "name": "one", "data": DATA}] * 100
    for _ in range(count // 100):
        kit.initiate_tasks(*args)
    (process,) = kit.start_processes(1, {GROUP: threads})
    with os.fdopen(reading) as heard:
        first, last = int(heard.readline()), int(heard.readline())
    process.kill()
    process.join()
    return {"value": (count - 1) / ((last - first) / 1e9)}


def pick_up(url: str, count: int) -> dict[str, Any]:
    """Milliseconds from initiating a task to the begin of its handler, on an idle system."""
    reading, writing = os.pipe()

    def note(_: Any) -> None:
        os.write(writing, b"%d\n" % time.monotonic_ns())

    kit = _make_kit(url, note)
    (process,) = kit.start_processes(1, {GROUP: 1})
    shuffler, seconds = random.Random(count), []
    with os.fdopen(reading) as heard:
        for at in range(-WARM, count):
            time.sleep(shuffler.uniform(0.2, 1.2))
            began = time.monotonic_ns()
            kit.initiate_task(GROUP, "one", DATA)
            handled = int(heard.readline())
            if at >= 0:
                seconds.append((handled - began) / 1e9)
    process.kill()
    process.join()
    return {"value": 1e3 * sorted(seconds)[len(seconds) // 2]}
