"""A process is killed between any two steps of what it does: it is done, or it is not.

A step is a statement of SQLite, or a script of Redis. Whoever does the same again afterwards gets
what he would have got if nobody had died.
"""

from __future__ import annotations

import itertools
import os
import signal
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import pytest
from tests.faults.stores import RedisStore
from tests.servers.server import RedisServer

from taskyard.brokers.base import Back, Broker, Operation, Put
from taskyard.brokers.bounds import Bounds, Overflow
from taskyard.brokers.lane import Gate
from taskyard.brokers.rate import Limited, Rate
from taskyard.brokers.redis import RedisBroker, parse_url
from taskyard.brokers.schedules import Schedule
from taskyard.brokers.sqlite import SQLiteBroker
from taskyard.brokers.unique import Keys, Mode
from taskyard.testing.conformance.harness import TASK, Clock, Harness, SyncRunner, body, micros

KEEP = 10_000.0
PARTITIONS = 4
LEFT_ALONE = 60.0
"""Seconds for which nobody touches a schedule that somebody may be about to move on."""
Open = Callable[[], Broker]
"""Opens the broker of a store."""


@dataclass
class Deed:
    """What is done by the process that is killed.

    Attributes:
        name: what it is called.
        run: does it.
        prepare: what was done before.
        whole: whether it is one step on every broker: so nobody ever sees a part of it.
        unseen: whether only its aftermath tells that it was done; to do it twice does no harm.
    """

    name: str
    run: Callable[[Harness], Operation[Any]]
    prepare: Callable[[Harness], None] = lambda harness: None
    whole: bool = True
    unseen: bool = False


# Deeds


def unique(mode: Mode) -> Deed:
    """Put two messages, of which one finds its key held."""

    def keys(*held: str) -> Keys:
        return Keys(mode, list(held), micros(50), micros(100))

    def run(harness: Harness) -> Operation[None]:
        bodies = [body("second"), body("other")]
        put = Put(TASK, bodies, "s", unique=keys("k", "l"), ids=["second", "other"])
        return harness.broker.put([msgspec.structs.replace(put, record_ttl=micros(KEEP))])

    return Deed(
        f"put {mode}", run, lambda harness: harness.put("first", shard="s", unique=keys("k"))
    )


def full(harness: Harness) -> None:
    bounds = Bounds(length=3, shard=2, overflow=Overflow.DROP)
    harness.run(harness.broker.set_bounds(TASK.queue, bounds))
    harness.put("a", "b", shard="s", keep=KEEP)
    harness.put("c", shard="t")


def put_dropping(harness: Harness) -> Operation[None]:
    return harness.broker.put([Put(TASK, [body("d"), body("e")], "s")])


def limited(harness: Harness) -> None:
    harness.declare(rate=Rate(1, micros(10), 3), shard_rate=Rate(1, micros(10), 2))
    harness.set_rate(Limited(TASK.queue), Rate(1, micros(10), 3))
    harness.put("a", "b", "c", shard="s", unique=Keys(Mode.STARTED, ["k", "l", "m"]))
    harness.put("d", "e", shard="t")


def claim(harness: Harness) -> Operation[Any]:
    return harness.broker.step([], harness.want(2, owner="dead"))


class Settling:
    """Settles two claims, of which one gives tokens back, and claims again."""

    def prepare(self, harness: Harness) -> None:
        limited(harness)
        self._claims = harness.claims(2, claims=2, owner="dead")
        assert len(self._claims) == 2

    def run(self, harness: Harness) -> Operation[Any]:
        back, done = self._claims
        settlements = [harness.settlement(back, every=Back()), harness.settlement(done)]
        return harness.broker.step(settlements, harness.want(2))


settling = Settling()


def places(harness: Harness) -> None:
    """A message in each state."""
    harness.put("running", keep=KEEP)
    harness.claim(owner="dead")
    harness.put("waiting", keep=KEEP)
    harness.put("delayed", delay=20, keep=KEEP)
    harness.put("unknown")


def cancelling(id_: str) -> Deed:
    def run(harness: Harness) -> Operation[Any]:
        return harness.broker.cancel(id_)

    return Deed(f"cancel {id_}", run, places, unseen=id_ in ("running", "unknown"))


def gate(what: Gate) -> Deed:
    def run(harness: Harness) -> Operation[Any]:
        return harness.broker.set_gate(TASK.queue, what)

    return Deed(f"set {what}", run, fill, whole=False)


def fill(harness: Harness) -> None:
    for number in range(8):
        harness.put(f"m{number}", shard=f"s{number}")


def park(harness: Harness) -> Operation[Any]:
    return harness.broker.park(TASK, "s1")


def schedule(harness: Harness) -> None:
    new = Schedule("daily", b"rule", harness.clock.now)
    harness.run(harness.broker.schedules.change(Schedule("daily", b"", 0), new))


def fire(harness: Harness) -> Operation[None]:
    """What a worker does with a schedule that is due once."""
    schedules = harness.broker.schedules
    for one in (yield from schedules.due(5)).schedules:
        done = msgspec.structs.replace(one, last=one.pending, pending=0)
        put = Put(TASK, [body("fired")], "s", ids=["fired"], record_ttl=micros(KEEP))
        yield from schedules.change(one, done, put)


SPREAD = [
    *map(cancelling, ["running", "waiting", "delayed", "unknown"]),
    gate(Gate.PAUSED),
    gate(Gate.DRAINING),
    Deed("park", park, fill),
    Deed("fire a schedule", fire, schedule, whole=False),
]
"""Those that somebody does again who finds them half done."""
DEEDS = [
    *map(unique, Mode),
    Deed("put and drop", put_dropping, full),
    Deed("claim", claim, limited),
    Deed("settle", settling.run, settling.prepare),
    *SPREAD,
]


# Dying


class Steps:
    """Counts steps; dies at one of them."""

    def __init__(self, last: int) -> None:
        self._left = last

    def step(self, *_: object) -> None:
        """Note a step."""
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1

    def watch(self, operation: Operation[Any]) -> Operation[Any]:
        """Count what an operation asks for, and what it is answered."""
        try:
            asked = next(operation)
            while True:
                self.step()
                reply = yield asked
                self.step()
                asked = operation.send(reply)
        except StopIteration as end:
            return end.value


def killed_at(point: int, deed: Deed, open_broker: Open, clock: Clock) -> bool:
    """Do something in a process that dies at a point; whether it came there."""
    pid = os.fork()
    if pid == 0:
        _do_and_die(point, deed, open_broker, clock)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert status == 0, "what the process did failed"
    return False


def _do_and_die(point: int, deed: Deed, open_broker: Open, clock: Clock) -> NoReturn:
    code = 1
    try:
        steps, armed = Steps(point), []
        connect = sqlite3.connect

        def traced(*arguments: Any, **options: Any) -> sqlite3.Connection:
            connection = connect(*arguments, **options)
            connection.set_trace_callback(lambda text: armed and steps.step(text))
            return connection

        sqlite3.connect = traced  # type: ignore[assignment]
        harness = made(open_broker, clock)
        harness.tidy()  # it has opened what it needs
        armed.append(True)
        harness.run(steps.watch(deed.run(harness)))
        code = 0
    finally:
        os._exit(code)


def made(open_broker: Open, clock: Clock) -> Harness:
    broker = open_broker()
    return Harness(broker, SyncRunner(broker), clock)


# What is left


def seen(harness: Harness) -> Any:
    """What everybody can see."""
    counted = harness.all_counts()
    for counts in counted:
        counts.memory = counts.oldest = 0
        counts.totals = {name: number for name, number in counts.totals.items() if number}
    ids = ["second", "other", "a", "b", "running", "waiting", "delayed", "fired"]
    schedules = harness.run(harness.broker.schedules.find())
    letters = [(letter.id, letter.failure.reason) for letter in harness.dead()]
    return counted, letters, harness.states(*ids), schedules


def aftermath(harness: Harness) -> Any:
    """What comes of it: what is handed out at once, whose keys are held, what is there later."""
    now = sorted(itertools.chain.from_iterable(harness.work_alone(owner="living")))
    harness.reap("dead")
    harness.run(harness.broker.set_gate(TASK.queue, Gate.OPEN))
    harness.release("s1")
    held = [harness.put_unique(Mode.DONE, f"late {key}", key, shard="s") for key in "klm"]
    later = []
    for _ in range(6):
        harness.clock.advance(40)
        later += harness.work_off()
    return now, held, sorted(later), seen(harness)


def hold(deed: Deed, new_store: Callable[[Clock], Open], *, whole: bool) -> None:
    """Kill somebody at each point of a deed, and look what becomes of it.

    Arguments:
        deed: what is done.
        new_store: makes an empty store.
        whole: whether nobody may see a part of it.
    """
    clock = Clock()
    before, after, end = undisturbed(deed, new_store(clock), clock)
    assert (before == after) == deed.unseen
    for point in itertools.count():
        clock = Clock()
        open_broker = new_store(clock)
        harness = made(open_broker, clock)
        deed.prepare(harness)
        killed = killed_at(point, deed, open_broker, clock)
        left = seen(harness)
        if whole:
            assert left in (before, after), f"half done at point {point}"
        if not killed:
            assert left == after
        if left != after or (killed and (deed.unseen or not deed.whole)):
            clock.advance(0 if deed.whole else LEFT_ALONE)
            harness.run(deed.run(harness))
            assert seen(harness) == after, f"not made up for at point {point}"
        assert aftermath(harness) == end, f"at point {point}"
        harness.close()
        if not killed:
            assert point > 1, "nobody was killed in the middle"
            return


def undisturbed(deed: Deed, open_broker: Open, clock: Clock) -> tuple[Any, Any, Any]:
    """What is seen before and after it, and what comes of it, if nobody dies."""
    harness = made(open_broker, clock)
    deed.prepare(harness)
    before = seen(harness)
    harness.run(deed.run(harness))
    found = before, seen(harness), aftermath(harness)
    harness.close()
    return found


@pytest.mark.parametrize("deed", DEEDS, ids=lambda deed: deed.name)
def test_it_is_done_or_not_in_a_file(deed: Deed, folder: Path) -> None:
    numbers = itertools.count()

    def new_store(clock: Clock) -> Open:
        path = folder / f"{next(numbers)}.db"
        return lambda: SQLiteBroker(path, clock=clock, synchronous="off")

    hold(deed, new_store, whole=True)


@pytest.fixture
def new_redis(shared_server: RedisServer) -> Callable[[int], Callable[[Clock], Open]]:
    """Makes empty brokers, whose queue has so many partitions."""

    def with_partitions(partitions: int) -> Callable[[Clock], Open]:
        def new_store(clock: Clock) -> Open:
            url = parse_url(RedisStore(shared_server).url())

            def open_broker() -> Broker:
                broker = RedisBroker(url, clock=clock)
                broker.set_partitions(TASK.queue, partitions)
                return broker

            return open_broker

        return new_store

    return with_partitions


@pytest.mark.parametrize("deed", DEEDS, ids=lambda deed: deed.name)
def test_it_is_done_or_not_on_a_server(deed: Deed, new_redis: Any) -> None:
    hold(deed, new_redis(1), whole=deed.whole)


@pytest.mark.parametrize("deed", SPREAD, ids=lambda deed: deed.name)
def test_it_is_done_once_in_partitions(deed: Deed, new_redis: Any) -> None:
    hold(deed, new_redis(PARTITIONS), whole=False)
