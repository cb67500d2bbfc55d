"""What is measured of every peer, each in a fresh process of the peer's environment."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import random
import sys
import threading
import time
from importlib.metadata import version
from typing import Any

from bench.crowd import in_coroutines, in_threads
from bench.measure import Child
from bench.payload import FIRST, TEXT
from bench.peers.peer import AsyncPeer, Seen, SyncPeer

WARM = 10
"""So many messages of a latency trial come before those that count."""
PAUSES = (0.005, 0.04)
"""Seconds between two of them, from and to."""


def _nobody() -> None: ...


def _peer_class(peer: str) -> Any:
    return importlib.import_module(f"bench.peers.{peer}").Peer


def about(peer: str) -> dict[str, Any]:
    """What it is, and how it is used."""
    kind = _peer_class(peer)
    return {
        "versions": {name: version(name) for name in kind.DISTRIBUTIONS},
        "settings": kind.SETTINGS,
        "async": issubclass(kind, AsyncPeer),
        "count": kind.COUNT,
    }


# Putting


def enqueue(peer: str, url: str, count: int, at_once: int) -> dict[str, Any]:
    """Messages a second when threads (or coroutines) enqueue one by one."""
    made = _peer_class(peer)(url, _nobody)
    seconds = _enqueue_async(made, count, at_once) if isinstance(made, AsyncPeer) else (
        _enqueue_sync(made, count, at_once)
    )  # fmt: skip
    return {"rate": count / seconds}


def _enqueue_sync(peer: SyncPeer, count: int, at_once: int) -> float:
    def put_some(first: int, many: int) -> None:
        for n in range(FIRST + first, FIRST + first + many):
            peer.enqueue(n, TEXT)

    in_threads(put_some, at_once, at_once)  # connects
    return in_threads(put_some, count, at_once)


def _enqueue_async(peer: AsyncPeer, count: int, at_once: int) -> float:
    async def put_some(first: int, many: int) -> None:
        for n in range(FIRST + first, FIRST + first + many):
            await peer.enqueue(n, TEXT)

    async def put() -> float:
        await peer.open()
        await in_coroutines(put_some, at_once, at_once)
        seconds = await in_coroutines(put_some, count, at_once)
        await peer.close()
        return seconds

    seconds: float = peer.run(put())
    return seconds


def fill(peer: str, url: str, count: int) -> dict[str, Any]:
    """Store messages for a worker."""
    made = _peer_class(peer)(url, _nobody)
    numbers = range(FIRST, FIRST + count)
    if isinstance(made, AsyncPeer):

        async def put() -> None:
            await made.open()
            await made.fill(numbers, TEXT)
            await made.close()

        made.run(put())
    else:
        made.fill(numbers, TEXT)
    return {}


# Working


class _Output:
    """The process's real output: what a peer prints goes with its errors."""

    def __init__(self) -> None:
        self._file = os.dup(1)
        os.dup2(2, 1)

    def write(self, line: str) -> None:
        os.write(self._file, f"{line}\n".encode())


def _work(peer: str, url: str, seen: Seen) -> None:
    made = _peer_class(peer)(url, seen)
    if isinstance(made, AsyncPeer):

        async def work() -> None:
            await made.open()
            await made.work()

        made.run(work())
    else:
        made.work()


def drain(peer: str, url: str, count: int) -> None:
    """Messages a second, from the start of a handler to the start of the last one.

    The first tenth is not timed: a worker may need some time to start, and may fetch much at once.
    """
    output = _Output()
    numbers = itertools.count(1)
    skipped = count // 10
    began = 0.0

    def seen() -> None:
        nonlocal began
        number = next(numbers)
        if number == skipped:
            began = time.perf_counter()
        elif number == count:
            rate = (count - skipped) / (time.perf_counter() - began)
            output.write(json.dumps({"rate": rate}))
            os._exit(0)  # how long a worker takes to end is not measured

    _work(peer, url, seen)


# From one to the other


def latency_worker(peer: str, url: str) -> None:
    """Say, for every message, when its handler began (the clock is the machine's)."""
    output = _Output()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _work(peer, url, lambda: output.write(str(time.monotonic_ns())))


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


def latency(peer: str, url: str, count: int) -> dict[str, Any]:
    """Enqueue messages one by one, each a random while after the last one's handler began."""
    made = _peer_class(peer)(url, _nobody)
    worker = Child("peers.trials.latency_worker", peer=peer, url=url)
    try:
        seconds = _latencies_async(made, worker, count) if isinstance(made, AsyncPeer) else (
            _latencies(made, worker, count)
        )  # fmt: skip
    finally:
        worker.process.kill()
        worker.process.communicate()
    return {"seconds": seconds}


def _latencies(peer: SyncPeer, worker: Child, count: int) -> list[float]:
    pause = random.Random(count)
    seconds = []
    for _ in range(WARM + count):
        time.sleep(pause.uniform(*PAUSES))
        began = time.monotonic_ns()
        peer.enqueue(FIRST, TEXT)
        seconds.append((worker.line() - began) / 1e9)
    return seconds[WARM:]


def _latencies_async(peer: AsyncPeer, worker: Child, count: int) -> list[float]:
    async def measure() -> list[float]:
        await peer.open()
        pause = random.Random(count)
        seconds = []
        for _ in range(WARM + count):
            # Nothing else happens in this loop, so it may block.
            time.sleep(pause.uniform(*PAUSES))  # noqa: ASYNC251
            began = time.monotonic_ns()
            await peer.enqueue(FIRST, TEXT)
            seconds.append((worker.line() - began) / 1e9)
        await peer.close()
        return seconds[WARM:]

    seconds: list[float] = peer.run(measure())
    return seconds
