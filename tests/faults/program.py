"""The process that is killed, stopped and starved; `tests.faults.nursery` starts it.

Its handlers write down what they do, and do what their message says.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import faulthandler
import logging
import mmap
import os
import resource
import signal
import struct
import sys
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from tests.faults.evidence import Event, Journal

import taskyard.brokers.redis.split
import taskyard.worker.pool
import taskyard.worker.supervisor
import taskyard.worker.worker
from taskyard import Batch, Retry, Yard, current_context
from taskyard.brokers.base import Broker, Operation, Put, Settlement, Step, Want
from taskyard.brokers.clock import wall_clock
from taskyard.brokers.inboxes import Inboxes, Lot, Misfit, Watch
from taskyard.brokers.redis import RedisBroker, parse_url
from taskyard.brokers.sqlite import SQLiteBroker
from taskyard.context import Context

__all__ = ["Config", "Item", "main", "make_yard"]


class Item(msgspec.Struct):
    """The payload of every message.

    Attributes:
        name: its message's id.
        shard: its shard.
        deed: what the handler does (see `_carry_out`); " once" behind it: only the first time.
    """

    name: str
    shard: str = ""
    deed: str = ""


class Config(msgspec.Struct):
    """What a process is told.

    Attributes:
        folder: where the journal is.
        database: the file of the SQLite broker; or
        url: of the Redis broker.
        kind: the task's handler: a key of `HANDLERS`.
        policy: options of the task.
        settings: of the worker.
        probe: a point of the broker's (see `SQLiteBroker`, `ProbedRedis` and `ProbedInboxes`) at
            which something happens: once, in whatever process is there first.
        skip: how often the point is passed before.
        action: what happens there: "kill", "stop" (SIGTERM) or "pause" (SIGSTOP), for this process;
            "crash": killed, not once but whenever a process is there; "ask": it waits until the
            scene says that it may go on.
        busy: seconds that the broker waits for others.
        wakes: seconds after which an idle worker looks by itself.
        produce: put so many messages instead of working.
        shards: over which they are spread.
        takes: seconds that every handler call takes.
        file_limit: bytes that a file may have.
        healthy: seconds after which a process without progress is called stuck; 0: as usual.
        portion: how much of a queue that is being split moves at once; 0: as usual.
    """

    folder: str
    database: str = ""
    url: str = ""
    kind: str = "single"
    policy: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    probe: str = ""
    skip: int = 0
    action: str = "kill"
    busy: float = 20.0
    wakes: float = 0.2
    produce: int = 0
    shards: int = 1
    takes: float = 0.0
    file_limit: int = 0
    healthy: float = 0.0
    portion: int = 0


config: Config
journal: Journal


# Deeds


def _first_time(name: str) -> bool:
    try:
        os.close(os.open(Path(config.folder) / f"once-{name}", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def _released() -> bool:
    return (Path(config.folder) / "release").exists()


def _die(how: Callable[[], object]) -> None:
    journal.write([Event("die", os.getpid())])
    how()


def _crash() -> None:
    faulthandler.disable()  # its traceback would be noise
    ctypes.string_at(0)


def _leave_a_child() -> None:
    if not os.fork():
        while True:
            signal.pause()
    DEATHS["kill"]()


DEATHS: dict[str, Callable[[], object]] = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda: os._exit(3),
    "exit-well": lambda: os._exit(0),
    "orphan": _leave_a_child,
    "segfault": _crash,
}


def _plan(items: Sequence[Item]) -> list[str]:
    """What the items say. Noted before anything runs, so that who sees it begin may kill it."""
    deeds = []
    for item in items:
        deed, _, once = item.deed.partition(" ")
        if deed and (not once or _first_time(item.name)):
            deeds.append(deed)
    return deeds


def _carry_out(deeds: Sequence[str], items: Sequence[Item]) -> Generator[None, None, None]:
    """Do it; a yield is a moment of waiting."""
    context = current_context()
    for deed in deeds:
        if deed in DEATHS:
            _die(DEATHS[deed])
        elif deed == "work":
            time.sleep(0.002)  # that is what it is: work, of which much is under way at once
        elif deed == "hold":
            while not _released():
                _notice_loss(context, items)
                yield
            _notice_loss(context, items)
        else:
            _fail(deed, context)


def _fail(deed: str, context: Context) -> None:
    if deed == "fail" or (deed == "fail-first" and context.attempt == 1):
        raise RuntimeError("as it was told")
    if deed == "give-up":
        context.fail("as it was told")
    assert deed == "fail-first", deed


_noticed: set[tuple[int, str]] = set()


def _notice_loss(context: Context, items: Sequence[Item]) -> None:
    key = (context.token, items[0].name)
    if context.lost and key not in _noticed:
        _noticed.add(key)
        _note("lost", context, items)


def _note(kind: str, context: Context, items: Sequence[Item]) -> None:
    now = _clock()
    journal.write(
        Event(
            kind,
            os.getpid(),
            item.name,
            item.shard,
            info.sequence,
            context.token,
            info.delivery,
            note=str(now),
        )
        for item, info in zip(items, context.messages, strict=True)
    )


@contextlib.contextmanager
def _noted(items: Sequence[Item]) -> Generator[Context, None, None]:
    context = current_context()
    _note("start", context, items)
    try:
        yield context
    except asyncio.CancelledError:
        _notice_loss(context, items)
        _note("cancelled", context, items)
        raise
    except BaseException:
        _note("raised", context, items)
        raise
    _note("end", context, items)


# Handlers. What they return says which claim's settlement was stored.


def _run(items: Sequence[Item]) -> str:
    deeds = _plan(items)
    with _noted(items) as context:
        for _ in _carry_out(deeds, items):
            time.sleep(0.005)
        time.sleep(config.takes)
    return str(context.token)


async def _arun(items: Sequence[Item]) -> str:
    deeds = _plan(items)
    with _noted(items) as context:
        for _ in _carry_out(deeds, items):
            await asyncio.sleep(0.005)
        await asyncio.sleep(config.takes)
    return str(context.token)


def single(item: Item) -> str:
    return _run([item])


async def coroutine(item: Item) -> str:
    return await _arun([item])


def batch(items: list[Item]) -> list[str]:
    return [_run(items)] * len(items)


async def batch_coroutine(items: list[Item]) -> list[str]:
    return [await _arun(items)] * len(items)


def quiet(item: Item) -> None:
    """Leaves no trace."""


def quiet_batch(items: list[Item]) -> None:
    """Leaves no trace."""


def shard_of(item: Item) -> str:
    return item.shard


def key_of(item: Item) -> str:
    """What messages have in common that are called alike but for what is behind a "#"."""
    return item.name.partition("#")[0]


ORDERED: dict[str, Any] = {"shard": shard_of, "ordered": True}
HANDLERS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "single": (single, {"shard": shard_of}),
    "coroutine": (coroutine, {"shard": shard_of}),
    "batch": (batch, {"batch": 10}),
    "batch_coroutine": (batch_coroutine, {"batch": 10}),
    "unique": (single, {"shard": shard_of, "unique": key_of}),
    "unique_batch": (batch, {"batch": 10, "unique": key_of}),
    "unique_ordered": (single, {**ORDERED, "unique": key_of}),
    "quiet": (quiet, {}),
    "quiet_batch": (quiet_batch, {"batch": 100}),
    "ordered": (single, ORDERED),
    "ordered_coroutine": (coroutine, ORDERED),
    "ordered_batch": (batch, {**ORDERED, "batch": 10}),
}


# The process


def shifted_clock(path: Path) -> Callable[[], int]:
    """The time of day, moved by the microseconds that a file says."""
    with path.open("r+b") as file:
        shift = mmap.mmap(file.fileno(), 8)

    def clock() -> int:
        moved: int = struct.unpack("q", shift[:8])[0]
        return time.time_ns() // 1000 + moved

    return clock


_clock = wall_clock


def _ask() -> None:
    folder = Path(config.folder)
    (folder / "asked").touch()
    while not (folder / "told").exists():
        time.sleep(0.002)


def _probe(point: str) -> None:
    if point != config.probe:
        return
    if config.skip > 0:
        config.skip -= 1
    elif config.action == "crash" or _first_time(f"probe {point}"):
        if config.action == "ask":
            _ask()
            return
        if config.action in ("kill", "crash"):
            _die(DEATHS["kill"])
        number = signal.SIGTERM if config.action == "stop" else signal.SIGSTOP
        journal.write([Event(config.action, os.getpid())])
        # To this thread: a signal for the process may find another one first, while this one goes
        # on, and is stopped a little later in a transaction that keeps everybody out.
        signal.raise_signal(number)


class ProbedRedis(RedisBroker):
    """Tells of the points that a step or a put reaches, as far as this process knows.

    Arguments:
        url: where it is.
        probe: is told.
        options: as for a `RedisBroker`.
    """

    def __init__(self, url: str, probe: Callable[[str], None], **options: Any) -> None:
        super().__init__(parse_url(url), **options)
        self._probe = probe
        self.inboxes: Any = ProbedInboxes(self.inboxes, probe)

    def put(self, puts: Sequence[Put]) -> Operation[None]:
        self._probe("put")
        yield from super().put(puts)
        self._probe("put committed")

    def step(self, settlements: Sequence[Settlement], want: Want | None) -> Operation[Step]:
        if settlements:
            self._probe("settling")
        if want is not None:
            self._probe("claimed")
        step = yield from super().step(settlements, want)
        if settlements:
            self._probe("settle committed")
        if step.claims:
            self._probe("claim committed")
        return step


class ProbedInboxes:
    """Tells of the points that a courier reaches.

    They are "courier collect", "courier plan" and "courier put" before a call, the same with
    " answered" behind it, and "courier woken" when a watch brought a lot.

    Arguments:
        inboxes: of the broker.
        probe: is told.
    """

    def __init__(self, inboxes: Inboxes, probe: Callable[[str], None]) -> None:
        self._inboxes = inboxes
        self._probe = probe
        self.name = inboxes.name

    def collect(
        self, queue: str, courier: str, done: int = 0, *, bare: bool = False
    ) -> Operation[Lot | None]:
        return self._told(self._inboxes.collect(queue, courier, done, bare=bare))

    def store(self, lot: Lot, items: Sequence[Put | Misfit]) -> Operation[list[Misfit]]:
        return self._told(self._inboxes.store(lot, items))

    def watch(self, queue: str, courier: str, *, bare: bool = False) -> Watch:
        return ProbedWatch(self._inboxes.watch(queue, courier, bare=bare), self._probe)

    def _told(self, operation: Operation[Any]) -> Operation[Any]:
        try:
            step = next(operation)
            while True:
                point = f"courier {(step[0] if isinstance(step, list) else step).script.name}"
                self._probe(point)
                try:
                    reply = yield step
                except Exception as error:
                    step = operation.throw(error)
                else:
                    self._probe(f"{point} answered")
                    step = operation.send(reply)
        except StopIteration as end:
            return end.value


class ProbedWatch:
    """Tells when it brings a lot."""

    def __init__(self, watch: Watch, probe: Callable[[str], None]) -> None:
        self._watch = watch
        self._probe = probe
        self.close = watch.close

    async def wait(self) -> Lot | None:
        lot = await self._watch.wait()
        if lot is not None and lot.values:
            self._probe("courier woken")
        return lot


def _broker(told: Config, probe: Callable[[str], None]) -> Broker:
    if told.url:
        return ProbedRedis(told.url, probe, clock=None if _clock is wall_clock else _clock)
    return SQLiteBroker(told.database, synchronous="off", busy=told.busy, clock=_clock, probe=probe)


def make_yard(told: Config, *, probe: Callable[[str], None] = lambda point: None) -> Yard:
    """A yard with the task of a configuration."""
    global _clock  # noqa: PLW0603 - one clock per process
    folder = Path(told.folder)
    shift = folder / "clock"
    _clock = shifted_clock(shift) if shift.exists() else wall_clock
    yard = Yard(_broker(told, probe))
    function, policy = HANDLERS[told.kind]
    options = {**policy, "retry": Retry(3, delay=0.01), **told.policy}
    if "shard" in told.policy:
        options["shard"] = shard_of
    if isinstance(options["retry"], dict):
        options["retry"] = Retry(**options["retry"])
    if isinstance(options.get("batch"), dict):
        options["batch"] = Batch(**options["batch"])
    yard.task(name=told.kind, **options)(function)
    return yard


def _produce(yard: Yard) -> None:
    task = yard.tasks[config.kind]
    pid = os.getpid()
    for first in range(0, config.produce, 100):
        items = [
            Item(f"{pid}-{number}", f"{pid}-{number % config.shards}")
            for number in range(first, min(first + 100, config.produce))
        ]
        task.enqueue_many(items, id=lambda item: item.name)
        sys.stdout.write("accepted\n")
        sys.stdout.flush()


def peak_memory() -> int:
    """Kilobytes. (What `getrusage` says includes the process that this one was forked from.)"""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0])


def main(told: bytes) -> None:
    """Do what a `Config` says, in JSON."""
    global config, journal  # noqa: PLW0603 - this module is the process
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    config = msgspec.json.decode(told, type=Config)
    if config.file_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (config.file_limit, config.file_limit))
    journal = Journal(Path(config.folder) / "journal")
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(process)d %(name)s %(levelname)s %(message)s"
    )
    taskyard.worker.pool.LONGEST_SLEEP = config.wakes
    taskyard.worker.worker.TIDY_EVERY = max(0.3, config.wakes)
    taskyard.worker.supervisor.HEALTHY = config.healthy or taskyard.worker.supervisor.HEALTHY
    taskyard.brokers.redis.split.THINGS = config.portion or taskyard.brokers.redis.split.THINGS
    yard = make_yard(config, probe=_probe)
    if config.produce:
        _produce(yard)
    else:
        yard.run_worker(**config.settings)
    logging.shutdown()
    sys.stdout.write(f"peak {peak_memory()} kB\n")
    sys.stdout.flush()
    # A handler's thread that still runs would keep the process.
    os._exit(0)
