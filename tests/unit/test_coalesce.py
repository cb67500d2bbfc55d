"""Callers that enqueue at the same time share round trips, and nothing else."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest

from taskyard import Task, Yard
from taskyard.brokers.base import Group, GroupWant, Operation, Put, Want
from taskyard.brokers.memory import MemoryBroker
from taskyard.brokers.memory.broker import MemoryAsyncDriver
from taskyard.coalesce import CHUNK_BYTES, LARGE, Entry, put_entries
from taskyard.errors import BrokerError, BrokerUnavailable, DuplicateId, NotConfirmed
from taskyard.message import read_envelope
from taskyard.testing.conformance.harness import body

T = TypeVar("T")

LONG = 30.0


class Broker(MemoryBroker):
    """A memory broker that remembers what is put, and can be made slow and unwilling."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[list[Put]] = []
        self.stored: list[str] = []
        self.open = threading.Event()
        self.open.set()
        self.refuse: Callable[[list[str]], None] = lambda ids: None

    def put(self, puts: Sequence[Put], stored: list[Put] | None = None) -> Operation[None]:
        self.calls.append(list(puts))
        assert self.open.wait(LONG)
        ids = ids_of(puts)
        self.refuse(ids)
        yield from super().put(puts, stored)
        self.stored += ids

    def async_driver(self) -> MemoryAsyncDriver:
        return SlowDriver(self)

    @property
    def sizes(self) -> list[int]:
        """How many messages each put had."""
        return [sum(len(put.bodies) for put in puts) for puts in self.calls]


class SlowDriver(MemoryAsyncDriver):
    """Takes its time, and finishes what was begun though its caller is cancelled."""

    async def run(self, operation: Operation[T]) -> T:
        return await asyncio.shield(asyncio.ensure_future(self._later(operation)))

    async def _later(self, operation: Operation[T]) -> T:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return await super().run(operation)


def ids_of(puts: Sequence[Put]) -> list[str]:
    envelopes = [read_envelope(body) for put in puts for body in put.bodies]
    return [envelope.id for envelope in envelopes if envelope is not None]


def save(text: str) -> int:
    return len(text)


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def yard(broker: Broker) -> Yard:
    return Yard(broker, max_message_bytes=2 * CHUNK_BYTES)


@pytest.fixture
def task(yard: Yard) -> Task[[str], int]:
    return yard.task(save)


class Callers:
    """Calls in threads of their own, begun one after the other while a first one is under way."""

    def __init__(self, yard: Yard, broker: Broker) -> None:
        self._yard = yard
        self._broker = broker
        self._pool = ThreadPoolExecutor(200)
        self._done: list[Future[Any]] = []

    def call(self, function: Callable[..., Any], *args: Any, **options: Any) -> Future[Any]:
        """Call something in a thread; returns when it put something, or waits to."""
        before = self._seen()
        self._done.append(self._pool.submit(function, *args, **options))
        end = time.monotonic() + LONG
        while self._seen() == before and not self._done[-1].done():
            assert time.monotonic() < end
            time.sleep(0.0005)
        return self._done[-1]

    def _seen(self) -> tuple[int, int]:
        waiting = self._yard._coalescer._waiting.values()
        return len(self._broker.calls), sum(map(len, waiting))

    def first(self, task: Task[[str], int]) -> Future[Any]:
        """One that is under way until `finish`."""
        task.outlet.put(task, [])  # declares it
        self._broker.calls.clear()
        self._broker.open.clear()
        return self.call(task.enqueue, "first", id="first")

    def finish(self) -> list[Any]:
        """Let them all end: what they returned, or raised."""
        self._broker.open.set()
        return [done.exception(LONG) or done.result() for done in self._done]

    def close(self) -> None:
        self._broker.open.set()
        self._pool.shutdown()


@pytest.fixture
def callers(yard: Yard, broker: Broker) -> Iterator[Callers]:
    callers = Callers(yard, broker)
    yield callers
    callers.close()


# Threads


def test_who_comes_meanwhile_is_stored_together(
    task: Task[[str], int], broker: Broker, callers: Callers
) -> None:
    callers.first(task)
    waiting = [callers.call(task.enqueue, "x", id=f"m{index}") for index in range(5)]
    assert broker.sizes == [1]
    assert not any(call.done() for call in waiting), "nobody returns before its message is stored"
    results = callers.finish()
    assert broker.sizes == [1, 5]
    assert broker.stored == [result.id for result in results]
    assert broker.stored == ["first", *(f"m{index}" for index in range(5))], "first come, first"
    assert len(broker.calls[1]) == 1, "what goes to one lane is one put"


def test_who_is_alone_is_stored_alone(task: Task[[str], int], broker: Broker) -> None:
    def enqueue() -> None:
        for _ in range(5):
            task.enqueue("x")

    enqueue()
    thread = threading.Thread(target=enqueue)
    thread.start()
    thread.join()
    assert broker.sizes == [1] * 10


def test_what_differs_is_not_mixed_up(yard: Yard, broker: Broker, callers: Callers) -> None:
    task = yard.task(save)
    kept = yard.task(name="kept", result_ttl=5)(save)
    calls: list[tuple[str, dict[str, Any]]] = [
        ("a", {}),
        ("b", {"shard": "s"}),
        ("c", {"priority": 3}),
        ("d", {"delay": 60}),
        ("e", {"shard": "s"}),
        ("f", {}),
    ]
    kept.outlet.put(kept, [])
    callers.first(task)
    for id_, options in calls:
        callers.call(task.enqueue, "x", id=id_, **options)
    callers.call(kept.enqueue, "x", id="g")
    callers.finish()
    shown = [
        (put.group.name, put.shard, put.priority, put.delay, ids_of([put]), put.ids)
        for put in broker.calls[1]
    ]
    assert shown == [
        ("save", "", 0, 0, ["a", "f"], ["a", "f"]),
        ("save", "s", 0, 0, ["b", "e"], ["b", "e"]),
        ("save", "", 3, 0, ["c"], ["c"]),
        ("save", "", 0, 60_000_000, ["d"], ["d"]),
        ("kept", "", 0, 0, ["g"], ["g"]),
    ]


def test_a_put_holds_a_thousand_messages(
    task: Task[[str], int], broker: Broker, callers: Callers
) -> None:
    callers.first(task)
    for _ in range(25):
        callers.call(task.enqueue_many, ["x"] * 90)
    callers.finish()
    assert broker.sizes == [1, 990, 990, 270]


def test_a_put_holds_some_megabytes(
    task: Task[[str], int], broker: Broker, callers: Callers
) -> None:
    callers.first(task)
    for _ in range(5):
        callers.call(task.enqueue, "x" * (CHUNK_BYTES * 2 // 5))
    callers.call(task.enqueue, "x" * (CHUNK_BYTES + 1))
    callers.finish()
    assert broker.sizes == [1, 2, 2, 1, 1]


def test_who_has_much_does_not_wait(
    task: Task[[str], int], broker: Broker, callers: Callers
) -> None:
    callers.first(task)
    callers.call(task.enqueue_many, ["x"] * (LARGE + 1))
    assert broker.sizes == [1, LARGE + 1]
    callers.finish()


def test_the_main_thread_does_not_wait(
    task: Task[[str], int], broker: Broker, callers: Callers
) -> None:
    callers.first(task)
    threading.Timer(0.01, broker.open.set).start()
    task.enqueue("x")
    assert broker.sizes == [1, 1]


def test_a_taken_id_concerns_only_who_chose_it(
    task: Task[[str], int], broker: Broker, callers: Callers
) -> None:
    task.enqueue("x", id="m3")
    callers.first(task)
    for index in range(7):
        callers.call(task.enqueue, "x", id=f"m{index}")
    callers.call(task.enqueue, "x", id="m5")
    ends = callers.finish()
    failed = [index for index, end in enumerate(ends) if isinstance(end, DuplicateId)]
    assert failed == [4, 8]
    assert "'m3'" in str(ends[4])
    assert sorted(broker.stored) == ["first", *(f"m{index}" for index in range(7))]


def test_an_error_of_one_is_raised_by_it_alone(
    task: Task[[str], int], broker: Broker, callers: Callers
) -> None:
    def refuse(ids: list[str]) -> None:
        if "m1" in ids:
            raise BrokerError("too strange to be stored")

    broker.refuse = refuse
    callers.first(task)
    for index in range(4):
        callers.call(task.enqueue, "x", id=f"m{index}")
    ends = callers.finish()
    assert [isinstance(end, BrokerError) for end in ends] == [False, False, True, False, False]
    assert sorted(broker.stored) == ["first", "m0", "m2", "m3"]


@pytest.mark.parametrize("error", [BrokerUnavailable, NotConfirmed])
def test_a_broker_that_is_away_is_asked_once(
    task: Task[[str], int], broker: Broker, callers: Callers, error: type[BrokerError]
) -> None:
    """Nor one that has stored all, but not on its replicas: it would be stored again."""

    def refuse(ids: list[str]) -> None:
        raise error("away")

    callers.first(task)
    broker.refuse = refuse
    for _ in range(5):
        callers.call(task.enqueue, "x")
    ends = callers.finish()
    assert all(isinstance(end, error) and str(end) == "away" for end in ends)
    assert len({id(end) for end in ends}) == 6, "an error is raised once"
    assert broker.sizes == [1, 5]
    broker.refuse = lambda ids: None
    task.enqueue("x")


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_who_is_interrupted_does_not_stop_the_others(
    task: Task[[str], int], broker: Broker, callers: Callers, error: type[BaseException]
) -> None:
    def refuse(ids: list[str]) -> None:
        if "m0" in ids:
            raise error

    broker.refuse = refuse
    callers.first(task)
    for index in range(3):
        callers.call(task.enqueue, "x" * (CHUNK_BYTES // 2 - 100), id=f"m{index}")
    ends = callers.finish()
    assert [type(end) for end in ends[1:3]] == [error, BrokerUnavailable]
    assert "not known whether" in str(ends[2])
    assert broker.stored == ["first", "m2"]
    task.enqueue("x")


def test_the_first_may_fail(task: Task[[str], int], broker: Broker, callers: Callers) -> None:
    def refuse(ids: list[str]) -> None:
        if ids == ["first"]:
            raise KeyboardInterrupt

    broker.refuse = refuse
    callers.first(task)
    callers.call(task.enqueue, "x", id="m")
    assert isinstance(callers.finish()[0], KeyboardInterrupt)
    assert broker.stored == ["m"]


def test_a_driver_that_fails_by_itself_fails_all(
    yard: Yard, task: Task[[str], int], callers: Callers, monkeypatch: pytest.MonkeyPatch
) -> None:
    callers.first(task)
    callers.call(task.enqueue, "x")
    callers.call(task.enqueue, "x")

    def run(operation: Operation[None]) -> None:
        operation.close()
        raise RuntimeError("no more threads")

    monkeypatch.setattr(yard.driver, "run", run)
    ends = callers.finish()
    assert [str(end) for end in ends[1:]] == ["no more threads"] * 2


def test_threads_that_come_back_at_once_while_puts_are_slow(
    yard: Yard, task: Task[[str], int], broker: Broker, callers: Callers
) -> None:
    def enqueue() -> None:
        for _ in range(20):
            task.enqueue("x")

    callers.first(task)
    for _ in range(5):
        callers.call(enqueue)
    broker.refuse = lambda ids: time.sleep(0.005)
    assert callers.finish()[1:] == [None] * 5
    assert sum(broker.sizes) == 101
    task.enqueue("x")
    assert broker.sizes[-1] == 1, "whoever is alone does not wait for those who are gone"


def test_each_thread_keeps_its_order(tmp_path: Path) -> None:
    with Yard(f"sqlite:///{tmp_path}/yard.db?synchronous=off") as yard:
        task = yard.task(save)

        def enqueue(thread: int) -> list[str]:
            return [task.enqueue("x", id=f"{thread}-{index:03}").id for index in range(100)]

        with ThreadPoolExecutor(8) as pool:
            ids = list(pool.map(enqueue, range(8)))
        assert yard.counts()[0].waiting == 800
        want = Want([GroupWant(task.group, 1000)], "test", 1_000_000)
        (claim,) = yard.driver.run(yard.broker.step([], want)).claims
        bodies = [message.body for lane in claim.lanes for _, message in lane.messages]
        stored = ids_of([Put(task.group, bodies)])
        for mine in ids:
            assert [id_ for id_ in stored if id_ in set(mine)] == mine


class Partitioned(Broker):
    def partition(self, put: Put) -> Hashable:
        return put.shard


def test_only_what_goes_to_one_partition_is_stored_together() -> None:
    broker = Partitioned()
    yard = Yard(broker)
    task = yard.task(shard="text")(save)
    callers = Callers(yard, broker)
    callers.first(task)
    callers.call(task.enqueue, "first", id="a")
    callers.call(task.enqueue, "other", id="b")
    callers.call(task.enqueue, "other", id="c")
    callers.call(task.enqueue, "first", id="d")
    callers.call(task.enqueue_many, ["first", "other"], id=str.upper)
    assert [ids_of(puts) for puts in broker.calls] == [["first"], ["b"], ["FIRST", "OTHER"]]
    callers.finish()
    assert sorted(ids_of(puts) for puts in broker.calls[3:]) == [["a", "d"], ["c"]]
    callers.close()


class Moved(Broker):
    """Has a partition for each shard, and nobody knows it before the put."""

    def put(self, puts: Sequence[Put], stored: list[Put] | None = None) -> Operation[None]:
        failure: Exception | None = None
        for shard in {put.shard for put in puts}:
            part = [put for put in puts if put.shard == shard]
            try:
                yield from super().put(part)
            except Exception as error:
                failure = failure or error
            else:
                if stored is not None:
                    stored += part
        if failure is not None:
            raise failure


def test_what_other_partitions_stored_is_not_stored_again() -> None:
    broker = Moved()
    yard = Yard(broker)
    task = yard.task(shard="text")(save)
    task.enqueue("a", id="taken")
    broker.stored.clear()
    block = yard.buffered()
    block.__enter__()
    for index in range(20):
        task.enqueue("bcd"[index % 3], id=f"m{index}")
    task.enqueue("a", id="taken")
    task.enqueue("a", id="free")
    with pytest.raises(DuplicateId, match="not stored: taken"):
        block.__exit__(None, None, None)
    assert sorted(broker.stored) == sorted(["free", *(f"m{index}" for index in range(20))])


def test_what_an_unreachable_partition_refuses_is_told_to_those_concerned() -> None:
    broker = Moved()
    yard = Yard(broker)
    task = yard.task(shard="text")(save)

    def refuse(ids: list[str]) -> None:
        if any(id_.startswith("b") for id_ in ids):
            raise BrokerUnavailable("its node is down")

    broker.refuse = refuse
    block = yard.buffered()
    block.__enter__()
    for index in range(5):
        task.enqueue("a", id=f"a{index}")
        task.enqueue("b", id=f"b{index}")
    with pytest.raises(BrokerUnavailable, match="not stored: b0, b1, b2, b3, b4"):
        block.__exit__(None, None, None)
    assert broker.stored == [f"a{index}" for index in range(5)]


def test_who_was_not_asked_hears_of_what_is_stored_elsewhere() -> None:
    broker = Moved()

    def refuse(ids: list[str]) -> None:
        if "first" in ids:  # of two, since the first is merged with the second's
            raise BrokerError("strange") if "second" in ids else BrokerUnavailable("it is down")

    broker.refuse = refuse
    first, second = (
        Entry([Put(Group("default", "save"), [body(name)], shard) for shard in shards])
        for name, shards in (("first", "a"), ("second", "ab"))
    )
    broker.driver().run(put_entries(broker, [first, second]))
    assert str(first.error) == "it is down"
    assert str(second.error) == "it is down; what the call put into other partitions is stored"


FORK = """
import os, sys, threading
from taskyard import Yard
from taskyard.brokers.memory import MemoryBroker

class Held(MemoryBroker):
    entered, open = threading.Event(), threading.Event()

    def put(self, puts, stored=None):
        self.entered.set()
        self.open.wait()
        yield from super().put(puts, stored)

yard = Yard(Held())
task = yard.task(name="save")(print)

def enqueue():
    thread = threading.Thread(target=task.enqueue, args=("x",))
    thread.start()
    return thread

first = enqueue()
Held.entered.wait()
second = enqueue()
while not any(yard._coalescer._waiting.values()):
    pass
child = os.fork()
if child == 0:
    Held.open = threading.Event()  # the first thread, which is not here, may have held its lock
Held.open.set()
if child == 0:
    enqueue().join()
    os._exit(yard.counts()[0].waiting - 1)
first.join()
second.join()
assert yard.counts()[0].waiting == 2
assert os.waitpid(child, 0)[1] == 0
"""


def run_program(text: str, *arguments: str) -> None:
    """In a process of its own: Python warns of forks where there are threads."""
    ended = subprocess.run(
        [sys.executable, "-c", text, *arguments],
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr


def test_a_child_does_not_wait_for_its_parents_threads() -> None:
    run_program(FORK)


# Event loops


async def test_tasks_share_puts(task: Task[[str], int], broker: Broker) -> None:
    results = await asyncio.gather(*[task.aenqueue("x", id=f"m{index}") for index in range(20)])
    assert broker.sizes[0] + broker.sizes[1] == 20
    assert broker.stored == [result.id for result in results]
    for _ in range(3):
        await task.aenqueue("x")
    assert broker.sizes[2:] == [1, 1, 1]


async def test_tasks_raise_their_own_errors(task: Task[[str], int], broker: Broker) -> None:
    await task.aenqueue("x", id="m7")
    calls = [task.aenqueue("x", id=f"m{index}") for index in range(10)]
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert [index for index, end in enumerate(ends) if isinstance(end, DuplicateId)] == [7]
    assert sorted(broker.stored) == [f"m{index}" for index in range(10)]

    def refuse(ids: list[str]) -> None:
        raise BrokerUnavailable("away")

    broker.refuse = refuse
    ends = await asyncio.gather(*[task.aenqueue("x") for _ in range(5)], return_exceptions=True)
    assert [str(end) for end in ends] == ["away"] * 5
    assert broker.sizes[-1] == 5, "those who came back are stored together"


@pytest.mark.parametrize("cancelled", [0, 1, 2, 9])
async def test_a_cancelled_task_harms_nobody(
    task: Task[[str], int], broker: Broker, cancelled: int
) -> None:
    await task.aenqueue("x")
    calls = [asyncio.create_task(task.aenqueue("x", id=f"m{index}")) for index in range(10)]
    await asyncio.sleep(0)
    calls[cancelled].cancel()
    ends = await asyncio.gather(*calls, return_exceptions=True)
    failed = [index for index, end in enumerate(ends) if isinstance(end, BaseException)]
    assert failed == [cancelled]
    others = {f"m{index}" for index in range(10) if index != cancelled}
    assert others <= set(broker.stored)
    assert len(broker.stored) == len(set(broker.stored))
    assert not yard_state(task), "nobody is waited for"


async def test_all_tasks_may_be_cancelled(task: Task[[str], int], broker: Broker) -> None:
    for turns in range(6):
        calls = [asyncio.create_task(task.aenqueue("x")) for _ in range(5)]
        for _ in range(turns):
            await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await task.aenqueue("x")
    assert not yard_state(task)


def yard_state(task: Task[[str], int]) -> Any:
    outlet: Any = task.outlet
    return outlet._async_coalescer._loops[asyncio.get_running_loop()].waiting


def test_a_loop_may_end_in_the_middle(task: Task[[str], int], broker: Broker) -> None:
    async def leave_behind() -> None:
        held.extend(asyncio.create_task(task.aenqueue("x")) for _ in range(5))
        await asyncio.sleep(0)

    async def go_on() -> None:
        await asyncio.gather(*[task.aenqueue("x") for _ in range(5)])

    held: list[Any] = []
    asyncio.run(leave_behind())
    broker.stored.clear()
    asyncio.run(go_on())
    assert len(broker.stored) == 5


async def test_the_driver_fails_by_itself_for_all(
    yard: Yard, task: Task[[str], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    await task.aenqueue("x")

    async def run(operation: Operation[None]) -> None:
        await asyncio.sleep(0)
        operation.close()
        raise RuntimeError("no more threads")

    monkeypatch.setattr(yard.async_driver, "run", run)
    ends = await asyncio.gather(*[task.aenqueue("x") for _ in range(4)], return_exceptions=True)
    assert [str(end) for end in ends] == ["no more threads"] * 4


# Blocks


def in_a_block(yard: Yard, task: Task[[str], int], *ids: str) -> None:
    with yard.buffered():
        for id_ in ids:
            task.enqueue("x", id=id_)


def fail_in_a_block(yard: Yard, task: Task[[str], int], error: BaseException) -> None:
    with yard.buffered():
        task.enqueue("x", id="a")
        raise error


def test_a_block_stores_by_the_thousand(task: Task[[str], int], yard: Yard, broker: Broker) -> None:
    with yard.buffered():
        results = [task.enqueue("x") for _ in range(2500)]
        assert broker.sizes == [1000, 1000]
    assert broker.sizes == [1000, 1000, 500]
    assert broker.stored == [result.id for result in results]
    assert results[2400].status() == "waiting"
    task.enqueue("x")
    assert broker.sizes[3:] == [1]


def test_a_block_stores_by_megabytes(task: Task[[str], int], yard: Yard, broker: Broker) -> None:
    with yard.buffered():
        for _ in range(5):
            task.enqueue("x" * (CHUNK_BYTES * 2 // 5))
        assert broker.sizes == [2, 2]
    assert broker.sizes == [2, 2, 1]


def test_many_in_a_block_keep_the_order(task: Task[[str], int], yard: Yard, broker: Broker) -> None:
    with yard.buffered():
        ids = [task.enqueue("x").id for _ in range(3)]
        ids += [result.id for result in task.enqueue_many(["x"] * 1500)]
        ids.append(task.enqueue("x").id)
    assert broker.stored == ids
    assert max(broker.sizes) <= 1000


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_block_is_no_transaction(
    task: Task[[str], int], yard: Yard, broker: Broker, error: type[BaseException]
) -> None:
    with pytest.raises(error):
        fail_in_a_block(yard, task, error())
    assert broker.stored == ["a"]
    task.enqueue("x", id="b")
    assert broker.stored == ["a", "b"]


def test_an_empty_block(yard: Yard, broker: Broker) -> None:
    with yard.buffered() as block:
        pass
    assert broker.calls == []
    assert block.not_stored == []


def test_a_block_says_what_was_refused(task: Task[[str], int], yard: Yard, broker: Broker) -> None:
    task.enqueue("x", id="m3")
    broker.stored.clear()
    block = yard.buffered()
    block.__enter__()
    for index in range(10):
        task.enqueue("x", id=f"m{index}")
    task.enqueue("x", id="m7")
    with pytest.raises(DuplicateId, match=r"not stored: m3, m7. The reason: .*'m3'") as caught:
        block.__exit__(None, None, None)
    assert isinstance(caught.value.__cause__, DuplicateId)
    assert block.not_stored == ["m3", "m7"]
    assert broker.stored == [f"m{index}" for index in range(10) if index != 3]


def test_a_block_says_what_was_refused_in_its_middle(
    task: Task[[str], int], yard: Yard, broker: Broker
) -> None:
    def refuse(ids: list[str]) -> None:
        raise BrokerUnavailable("away")

    with yard.buffered() as block:
        for index in range(999):
            task.enqueue("x", id=f"m{index}")
        broker.refuse = refuse
        with pytest.raises(BrokerUnavailable, match=r"m0, m1, m2, m3, m4 and 995 more.*away"):
            task.enqueue("x", id="m999")
        assert len(block.not_stored) == 1000
        broker.refuse = lambda ids: None
        task.enqueue("x", id="later")
    assert broker.stored == ["later"]


def test_what_was_refused_before_it_was_its_turn_is_not_stored_later(
    task: Task[[str], int], yard: Yard, broker: Broker
) -> None:
    def refuse(ids: list[str]) -> None:
        raise BrokerUnavailable("away")

    with yard.buffered() as block:
        task.enqueue("x", id="small")
        broker.refuse = refuse
        with pytest.raises(BrokerUnavailable):
            task.enqueue("x" * CHUNK_BYTES, id="large")
        assert block.not_stored == ["small", "large"]
        broker.refuse = lambda ids: None
    assert broker.stored == []


def test_an_error_of_a_block_does_not_hide_another(
    task: Task[[str], int], yard: Yard, broker: Broker
) -> None:
    def refuse(ids: list[str]) -> None:
        raise BrokerUnavailable("away")

    broker.refuse = refuse
    with pytest.raises(ValueError, match="mine") as caught:
        fail_in_a_block(yard, task, ValueError("mine"))
    assert "not stored: a. The reason: away" in caught.value.__notes__[0]


def test_an_error_that_is_not_ours_is_raised_as_it_is(
    task: Task[[str], int], yard: Yard, broker: Broker
) -> None:
    def refuse(ids: list[str]) -> None:
        raise ZeroDivisionError("odd")

    broker.refuse = refuse
    with pytest.raises(ZeroDivisionError, match="odd") as caught:
        in_a_block(yard, task, "a")
    assert "not stored: a" in caught.value.__notes__[0]


def test_a_block_within_a_block_stores_all(
    task: Task[[str], int], yard: Yard, broker: Broker
) -> None:
    with yard.buffered():
        task.enqueue("x", id="a")
        with yard.buffered():
            task.enqueue("x", id="b")
        assert broker.stored == ["a", "b"]
        task.enqueue("x", id="c")
        assert broker.stored == ["a", "b"]
    assert broker.sizes == [2, 1]


def test_a_block_is_of_its_thread_and_yard(
    task: Task[[str], int], yard: Yard, broker: Broker
) -> None:
    other = Yard(Broker())
    with yard.buffered(), ThreadPoolExecutor(1) as pool:
        assert pool.submit(task.enqueue, "x").result().id == broker.stored[0]
        other.task(save).enqueue("x")
        assert other.counts()[0].waiting == 1
        task.enqueue("x")
        assert len(broker.stored) == 1
    assert len(broker.stored) == 2


def test_the_broker_stays_within_a_block(yard: Yard) -> None:
    with yard.buffered(), pytest.raises(BrokerError, match="end the block first"):
        yard.use("memory://")
    yard.use("memory://")


async def test_a_block_of_a_task(task: Task[[str], int], yard: Yard, broker: Broker) -> None:
    async with yard.buffered() as block:
        results = [await task.aenqueue("x") for _ in range(1200)]
        task.enqueue("x", id="sync")
        assert broker.sizes == [1000]
        await asyncio.gather(task.aenqueue("x", id="of another task"))
        assert broker.sizes == [1000, 1]
    assert broker.sizes == [1000, 1, 201]
    assert await results[-1].astatus() == "waiting"
    assert block.not_stored == []


async def test_a_block_of_a_task_says_what_was_refused(
    task: Task[[str], int], yard: Yard, broker: Broker
) -> None:
    async def in_a_block(*ids: str, error: Exception | None = None) -> None:
        async with yard.buffered():
            for id_ in ids:
                await task.aenqueue("x", id=id_)
            if error is not None:
                raise error

    await task.aenqueue("x", id="b")
    with pytest.raises(DuplicateId, match="not stored: b"):
        await in_a_block("a", "b", "c")
    with pytest.raises(ValueError, match="mine"):
        await in_a_block("d", error=ValueError("mine"))
    assert broker.stored == ["b", "a", "c", "d"]


def test_a_block_with_partitions_stores_each_by_itself() -> None:
    broker = Partitioned()
    yard = Yard(broker)
    task = yard.task(shard="text")(save)
    block = yard.buffered()
    block.__enter__()
    for index in range(6):
        task.enqueue("ab"[index % 2], id=f"m{index}")
    task.enqueue("b", id="m1")
    with pytest.raises(DuplicateId, match="not stored: m1"):
        block.__exit__(None, None, None)
    assert sorted(broker.stored) == [f"m{index}" for index in range(6)]
    assert block.not_stored == ["m1"]
    assert ids_of(broker.calls[0]) == ["m0", "m2", "m4"]


FORK_IN_A_BLOCK = """
import os, sys
from taskyard import Yard

yard = Yard(sys.argv[1])
task = yard.task(name="save")(print)
with yard.buffered():
    task.enqueue("of the parent")
    child = os.fork()
    if child == 0:
        task.enqueue("of the child")
        assert yard.counts()[0].waiting == 1, "it is stored at once"
    else:
        assert os.waitpid(child, 0)[1] == 0
if child:
    assert yard.counts()[0].waiting == 2
yard.close()
"""


def test_a_child_has_no_part_in_a_block(tmp_path: Path) -> None:
    run_program(FORK_IN_A_BLOCK, f"sqlite:///{tmp_path}/yard.db")
