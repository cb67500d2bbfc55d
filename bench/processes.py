"""What is measured across processes, or of a process as a whole."""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from bench.child import ready, send
from bench.measure import Child
from bench.payload import FIRST, TEXT, Item, batches
from bench.yards import batch_task, open_yard, sync_task


def _nobody(_: int) -> None: ...


# From enqueue to handler


def latency_worker(path: str) -> None:
    """Say, for every message, when its handler began (the clock is the machine's)."""
    yard = open_yard(path)

    @yard.task(name="tick")
    def tick(n: int) -> None:  # noqa: ARG001
        os.write(sys.stdout.fileno(), b"%d\n" % time.monotonic_ns())

    yard.run_worker()
    send({})


def latency_producer(path: str, count: int) -> dict[str, Any]:
    """Enqueue messages one by one, each a random while after the last one's handler began."""
    yard = open_yard(path)

    @yard.task(name="tick")
    def tick(n: int) -> None: ...

    worker = Child("processes.latency_worker", path=path)
    heard = worker.process.stdout
    assert heard is not None
    shuffler = random.Random(count)
    seconds = []
    for n in range(-10, count):
        time.sleep(shuffler.uniform(0.005, 0.05))
        began = time.monotonic_ns()
        tick.enqueue(n)
        handled = int(heard.readline())
        if n >= 0:  # the first ones open files and start threads
            seconds.append((handled - began) / 1e9)
    worker.process.send_signal(signal.SIGTERM)
    worker.reply()
    return {"seconds": seconds}


# Two producers and two workers


def together_producer(path: str, seconds: float) -> dict[str, Any]:
    """Put a hundred at a time for a while."""
    yard = open_yard(path)
    task = batch_task(yard, _nobody)
    task.enqueue_many([Item(FIRST, TEXT)])
    ready()
    took: list[float] = []
    end = time.monotonic() + seconds
    parts: Iterator[list[Item]] = batches(1 << 40, 100)
    while (began := time.monotonic()) < end:
        task.enqueue_many(next(parts))
        took.append(time.monotonic() - began)
    yard.close()
    return {"messages": len(took) * 100, "longest": max(took), "median": median(took)}


def together_worker(path: str, seconds: float) -> dict[str, Any]:
    """Work for a while."""
    calls: list[int] = []
    yard = open_yard(path)
    batch_task(yard, calls.append)
    ready()
    _stop_in(seconds)
    yard.run_worker()
    return {"messages": sum(calls)}


def _stop_in(seconds: float) -> None:
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    timer.start()


def together(path: str, seconds: float) -> dict[str, Any]:
    """Two producers and two workers on one file."""
    names = ["together_producer"] * 2 + ["together_worker"] * 2
    children = [Child(f"processes.{name}", path=path, seconds=seconds) for name in names]
    for child in children:
        child.wait_ready()
    for child in children:
        child.go()
    replies = [child.reply() for child in children]
    producers, workers = replies[:2], replies[2:]
    return {
        "longest": max(reply["longest"] for reply in producers),
        "median": median(reply["median"] for reply in producers),
        "put_share": _unevenness(producers),
        "drain_share": _unevenness(workers),
        "put": sum(reply["messages"] for reply in producers) / seconds,
        "drain": sum(reply["messages"] for reply in workers) / seconds,
    }


def _unevenness(replies: list[dict[str, Any]]) -> float:
    """How far the larger share is from an even one: 0 is even, 1 is all for one."""
    messages: list[int] = [reply["messages"] for reply in replies]
    return max(messages) * len(messages) / sum(messages) - 1


# Of a process


def import_seconds(code: str) -> dict[str, Any]:
    """How long a fresh interpreter takes for a line of code."""
    began = time.perf_counter()
    process = os.posix_spawn(sys.executable, [sys.executable, "-c", code], os.environ)
    _, status = os.waitpid(process, 0)
    assert status == 0
    return {"seconds": time.perf_counter() - began}


def idle(path: str, seconds: float) -> dict[str, Any]:
    """The share of a core that a worker takes while there is nothing to do."""
    yard = open_yard(path)
    task = sync_task(yard, _nobody)
    task.enqueue(FIRST, TEXT)
    yard.close()
    used: list[float] = []

    def watch() -> None:
        time.sleep(2)
        began = time.process_time()
        time.sleep(seconds)
        used.append(time.process_time() - began)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
    yard.run_worker()
    return {"share": used[0] / seconds}


def producer_memory(path: str, count: int) -> dict[str, Any]:
    """The peak of a process that stores messages."""
    yard = open_yard(path)
    task = batch_task(yard, _nobody)
    task.enqueue_many(item for part in batches(count, 1000) for item in part)
    yard.close()
    return {"mib": _peak()}


def worker_memory(path: str) -> dict[str, Any]:
    """The peak of a process that runs all that waits."""
    yard = open_yard(path)
    batch_task(yard, _nobody)
    yard.run_worker(burst=True)
    return {"mib": _peak()}


def _peak() -> float:
    # Not ru_maxrss on Linux: it begins with what the parent had at the fork.
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
