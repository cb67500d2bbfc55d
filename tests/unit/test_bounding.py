"""Bounded queues as programs see them: declared, refused, waited for."""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from taskyard import Yard
from taskyard.bounding import Patience, make_bounds
from taskyard.brokers.base import Group, GroupWant, Put, Want
from taskyard.brokers.bounds import Bounds, Overflow, excess, share, to_drop
from taskyard.brokers.memory import MemoryBroker
from taskyard.coalesce import Entry, put_entries
from taskyard.errors import PolicyError, QueueFull
from taskyard.message import Reason

GROUP = Group("q", "save")


@pytest.fixture
def yard() -> Iterator[Yard]:
    with Yard(MemoryBroker()) as made:
        yield made


def declare(yard: Yard, **bounds: Any) -> Any:
    yard.queue("q", **bounds)

    @yard.task(name="save", queue="q", result_ttl=None)
    def save(item: str) -> None:
        pass

    return save


def take(yard: Yard, messages: int = 1) -> list[str]:
    """Take messages out of their lanes; returns their items."""
    want = Want([GroupWant(GROUP, messages)], "worker", 60_000_000)
    claims = yard.driver.run(yard.broker.step([], want)).claims
    decode = yard.tasks["save"].codec.decode
    return [
        decode(message.body)[1][0]
        for claim in claims
        for lane in claim.lanes
        for _, message in lane.messages
    ]


def in_thread(function: Any, *args: Any) -> tuple[threading.Thread, list[Any]]:
    """Call it in a thread; the list gets what it returned, or raised."""
    got: list[Any] = []

    def run() -> None:
        try:
            got.append(function(*args))
        except Exception as error:
            got.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, got


def ended(thread: threading.Thread) -> bool:
    thread.join(20)
    return not thread.is_alive()


# The rules


@pytest.mark.parametrize(
    ("there", "brought", "limit", "lot", "over"),
    [
        (0, 1, 1, False, 0),
        (1, 1, 1, False, 1),
        (3, 2, 10, False, -5),
        (9, 3, 10, False, 2),
        (0, 11, 10, False, None),
        (0, 11, 10, True, -9),
        (9, 11, 10, True, 0),
        (10, 11, 10, True, 1),
        (9, 10, 10, True, 9),
    ],
)
def test_excess(there: int, brought: int, limit: int, lot: bool, over: int | None) -> None:
    assert excess(there, brought, limit, lot=lot) == over


@pytest.mark.parametrize(
    ("length", "partitions", "part"), [(10, 1, 10), (10, 4, 2), (3, 4, 1), (0, 4, 0), (8, 8, 1)]
)
def test_share(length: int, partitions: int, part: int) -> None:
    assert share(length, partitions) == part


def test_no_call_drops_without_bounds() -> None:
    assert to_drop(5, 3) == 5
    assert to_drop(1000, 3) == 103


# Wrong use


@pytest.mark.parametrize("name", ["max_length", "shard_max_length"])
@pytest.mark.parametrize("value", [0, -1, True, 1.5, "10", 10**13])
def test_lengths_that_are_none(yard: Yard, name: str, value: Any) -> None:
    with pytest.raises(PolicyError, match=f"{name} must be a number of messages, 1 or more"):
        yard.queue("q", **{name: value})
    with pytest.raises(PolicyError, match=name):
        yard.bound("q", **{name: value})


def test_contradictions(yard: Yard) -> None:
    unknown: Any = "wait"
    with pytest.raises(PolicyError, match="one of 'raise', 'block', 'drop', not 'wait'"):
        yard.queue("q", max_length=1, overflow=unknown)
    with pytest.raises(PolicyError, match="block_timeout is how long overflow='block' waits"):
        yard.queue("q", max_length=1, block_timeout=5)
    with pytest.raises(PolicyError, match="not bounded: give max_length="):
        yard.queue("q", overflow="drop")
    timeout: Any
    for timeout in (0, -1, True, float("inf"), "5"):
        with pytest.raises(PolicyError, match="block_timeout must be"):
            yard.queue("q", max_length=1, overflow="block", block_timeout=timeout)
    with pytest.raises(PolicyError, match="contradict"):
        yard.bound("q", max_length=1, as_declared=True)
    with pytest.raises(PolicyError, match="queue must be"):
        yard.bound("")


def test_bounds_as_they_are_stored() -> None:
    assert make_bounds(7, None, "raise", None) == Bounds(7)
    assert make_bounds(None, 7, "drop", None) == Bounds(0, 7, Overflow.DROP)
    assert make_bounds(7, 3, "block", None) == Bounds(7, 3, Overflow.BLOCK, 30_000_000)
    assert make_bounds(7, 3, "block", timedelta(seconds=2)).timeout == 2_000_000
    assert not make_bounds(None, None, "raise", None)


# Declaring


def test_declared_with_the_first_message(yard: Yard) -> None:
    save = declare(yard, max_length=1)
    save.enqueue("a")
    with pytest.raises(QueueFull, match="'q' is full: 1 messages wait or are delayed, of 1"):
        save.enqueue("b")
    [counts] = yard.counts()
    assert counts.bounds == Bounds(1)


def test_changed_at_run_time(yard: Yard) -> None:
    save = declare(yard, max_length=1)
    yard.bound("q", max_length=2)
    save.enqueue_many(["a", "b"])
    with pytest.raises(QueueFull):
        save.enqueue("c")
    yard.bound("q")
    save.enqueue("c")
    yard.bound("q", as_declared=True)
    with pytest.raises(QueueFull):
        save.enqueue("d")


def test_another_broker_is_told_too(yard: Yard) -> None:
    save = declare(yard, max_length=1)
    save.enqueue("a")
    yard.use(MemoryBroker())
    save.enqueue("a")
    with pytest.raises(QueueFull):
        save.enqueue("b")


def test_remote_tasks_are_bounded_too(yard: Yard) -> None:
    yard.queue("q", max_length=1)
    save = yard.remote("save", queue="q")
    save.enqueue("a")
    with pytest.raises(QueueFull):
        save.enqueue("b")


# Raising


def test_of_many_the_chunk_is_refused(yard: Yard) -> None:
    save = declare(yard, max_length=5)
    with pytest.raises(QueueFull, match="brings 6 at once") as caught:
        save.enqueue_many("abcdef"[index] for index in range(6))
    assert caught.value.too_large
    save.enqueue_many(["a", "b", "c"])
    with pytest.raises(QueueFull):
        save.enqueue_many(["d", "e", "f"])
    assert take(yard, 10) == ["a", "b", "c"]


def test_without_blocking_the_loop(yard: Yard) -> None:
    save = declare(yard, max_length=1)

    async def main() -> None:
        await save.aenqueue("a")
        with pytest.raises(QueueFull):
            await save.aenqueue("b")
        with pytest.raises(QueueFull):
            await save.aenqueue_many(["b", "c"])

    asyncio.run(main())


def test_a_block_stores_what_there_is_room_for(yard: Yard) -> None:
    save = declare(yard, max_length=3)
    block = yard.buffered()
    with pytest.raises(QueueFull, match="buffered messages that were not stored") as caught:  # noqa: SIM117
        with block:
            results = [save.enqueue(item) for item in "abcde"]
    assert block.not_stored == [result.id for result in results[3:]]
    assert not caught.value.patience
    assert take(yard, 10) == ["a", "b", "c"]


def test_who_is_refused_does_not_hinder_others(yard: Yard) -> None:
    declare(yard)
    yard.bound("q", shard_max_length=2)
    other = Group("another queue", "save")
    entries = [
        Entry([Put(group, [b"x"] * number, shard)])
        for group, shard, number in [
            (GROUP, "s", 2),
            (GROUP, "s", 1),
            (GROUP, "t", 1),
            (other, "s", 5),
            (GROUP, "t", 2),
            (GROUP, "t", 1),
        ]
    ]
    yard.driver.run(put_entries(yard.broker, entries))
    assert [index for index, entry in enumerate(entries) if entry.error] == [1, 4]


def test_a_full_queue_is_not_asked_for_each_of_many() -> None:
    puts: list[int] = []

    class Counting(MemoryBroker):
        def put(self, puts_: Any, stored: Any = None) -> Any:
            puts.append(len(puts_))
            return super().put(puts_, stored)

    broker = Counting()
    driver = broker.driver()
    driver.run(broker.set_bounds("q", Bounds(1)))
    driver.run(broker.put([Put(GROUP, [b"x"])]))
    entries = [Entry([Put(GROUP, [b"x"], str(index))]) for index in range(500)]
    entries.append(Entry([Put(Group("another queue", "save"), [b"x"])]))
    puts.clear()
    driver.run(put_entries(broker, entries))
    assert all(isinstance(entry.error, QueueFull) for entry in entries[:-1])
    assert entries[-1].error is None
    assert len(puts) < 15


def test_what_its_key_keeps_back_is_not_refused_with_others(yard: Yard) -> None:
    declare(yard, max_length=2)
    index = yard.task(name="index", queue="q", unique="item")(lambda item: None)
    first = index.enqueue("a")
    index.enqueue("b")
    block, results = yard.buffered(), []
    with pytest.raises(QueueFull), block:
        results += [index.enqueue(item) for item in "cabd"]
    assert block.not_stored == [results[0].id, results[3].id]
    assert results[1].id == first.id
    assert not results[2].created


def test_the_error_can_be_pickled_and_says_all() -> None:
    error = QueueFull("full", queue="q", shard="s", length=5, limit=5, patience=2.0)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.queue, again.shard, again.length) == ("full", "q", "s", 5)
    told = again.told("waited")
    assert (str(told), told.patience, told.limit) == ("waited", 0.0, 5)


# Dropping


def test_the_oldest_go(yard: Yard) -> None:
    save = declare(yard, max_length=3, overflow="drop")
    for item in "abcde":
        save.enqueue(item)
    with yard.buffered():
        save.enqueue("f")
        save.enqueue("g")
    letters = yard.dead.list()
    assert {letter.failure.reason for letter in letters} == {Reason.DROPPED}
    assert len(letters) == 4
    assert take(yard, 10) == ["e", "f", "g"]


# Waiting for room


def test_enqueue_waits_for_room(yard: Yard) -> None:
    save = declare(yard, max_length=2, overflow="block")
    save.enqueue_many(["a", "b"])
    thread, got = in_thread(save.enqueue, "c")
    assert take(yard) == ["a"]
    assert ended(thread)
    assert not isinstance(got[0], Exception)
    assert take(yard, 10) == ["b", "c"]


def test_many_wait_chunk_by_chunk(yard: Yard) -> None:
    save = declare(yard, max_length=1000, overflow="block")
    items = [str(index) for index in range(2500)]
    thread, got = in_thread(save.enqueue_many, items)
    taken: list[str] = []
    while len(taken) < len(items):
        taken += take(yard, 500)
    assert ended(thread)
    assert not isinstance(got[0], Exception)
    assert taken == items


def test_aenqueue_waits_while_the_loop_runs(yard: Yard) -> None:
    save = declare(yard, max_length=1, overflow="block")

    async def main() -> None:
        await save.aenqueue("a")
        waiting = [asyncio.create_task(save.aenqueue(item)) for item in "bc"]
        taken: list[str] = []
        while len(taken) < 3:
            await asyncio.sleep(0)
            taken += take(yard)
        await asyncio.gather(*waiting)
        assert taken[0] == "a"
        assert sorted(taken[1:]) == ["b", "c"]

    asyncio.run(main())


def test_a_block_waits_and_keeps_the_order(yard: Yard) -> None:
    save = declare(yard, shard_max_length=2, overflow="block")
    items = [f"{index:03}" for index in range(300)]

    def gather() -> None:
        with yard.buffered():
            for item in items:
                save.options(shard="s" if int(item) % 3 else "t").enqueue(item)

    thread, got = in_thread(gather)
    taken: list[str] = []
    while len(taken) < len(items):
        taken += take(yard, 2)
    assert ended(thread)
    assert got == [None]
    for rest in (0, 1):
        of_shard = [item for item in taken if bool(int(item) % 3) == bool(rest)]
        assert of_shard == sorted(of_shard)


def test_an_async_block_waits(yard: Yard) -> None:
    save = declare(yard, max_length=2, overflow="block")
    taken: list[str] = []

    async def gather() -> None:
        async with yard.buffered():
            for item in "abcdef":
                await save.aenqueue(item)

    async def main() -> None:
        task = asyncio.create_task(gather())
        while len(taken) < 6:
            await asyncio.sleep(0)
            taken.extend(take(yard))
        await task

    asyncio.run(main())
    assert taken == list("abcdef")


@pytest.mark.parametrize("many", [False, True])
def test_it_does_not_wait_for_ever(yard: Yard, many: bool) -> None:
    save = declare(yard, max_length=1, overflow="block", block_timeout=0.02)
    save.enqueue("a")
    with pytest.raises(QueueFull, match=r"waited for room for \d+\.\d s") as caught:
        save.enqueue_many(["b"]) if many else save.enqueue("b")
    assert caught.value.patience == 0
    assert take(yard, 10) == ["a"]


def test_nor_does_a_block(yard: Yard) -> None:
    save = declare(yard, max_length=1, overflow="block", block_timeout=0.02)
    block, ids = yard.buffered(), []
    with pytest.raises(QueueFull, match=r"waited for room for \d+\.\d s"), block:
        ids += [save.enqueue(item).id for item in "abc"]
    assert block.not_stored == ids[1:]
    assert take(yard, 10) == ["a"]


def test_it_does_not_wait_for_what_never_fits(yard: Yard) -> None:
    save = declare(yard, max_length=2, overflow="block", block_timeout=3600)
    with pytest.raises(QueueFull, match="by one call"):
        save.enqueue_many(["a", "b", "c"])


def test_who_waits_learns_that_it_need_not(yard: Yard) -> None:
    save = declare(yard, max_length=1, overflow="block", block_timeout=3600)
    save.enqueue("a")
    thread, got = in_thread(save.enqueue, "b")
    yard.bound("q", max_length=1)
    assert ended(thread)
    assert isinstance(got[0], QueueFull)


def test_pauses_grow_and_end() -> None:
    patience = Patience()
    full = QueueFull("full", patience=3600)
    pauses = [patience.next(full) for _ in range(10)]
    assert 0.002 < pauses[0] <= 0.005
    assert all(0.05 <= pause <= 0.1 for pause in pauses[6:])
    with pytest.raises(QueueFull, match=r"^full$"):
        patience.next(QueueFull("full"))


# At once


def test_producers_at_once_never_exceed(yard: Yard) -> None:
    save = declare(yard, max_length=50, overflow="block")
    producers = [
        in_thread(lambda name=name: [save.enqueue(f"{name}{index:02}") for index in range(40)])
        for name in "abcd"
    ]
    taken: list[str] = []
    while len(taken) < 160:
        assert sum(counts.waiting for counts in yard.counts()) <= 50
        taken += take(yard, 7)
    assert all(ended(thread) for thread, _ in producers)
    assert not [got for _, got in producers if isinstance(got[0], Exception)]
    for name in "abcd":
        own = [item for item in taken if item.startswith(name)]
        assert own == sorted(own), "each producer's messages keep their order"


def test_what_was_stored_of_a_call_is_not_put_again() -> None:
    class Halving(MemoryBroker):
        """Stores a part of a call and refuses the rest once, as partitions may."""

        refused = False

        def put(self, puts: Any, stored: Any = None) -> Any:
            if self.refused or len(puts) < 2:
                return (yield from super().put(puts, stored))
            self.refused = True
            yield from super().put(puts[:1])
            error = QueueFull("full", queue="q", length=1, limit=1, patience=60)
            error.left = puts[1:]
            raise error

    broker = Halving()
    with Yard(broker) as yard:
        save = declare(yard)
        save.options(shard=lambda item: item).enqueue_many(["a", "b", "c"])
        assert broker.refused
        assert take(yard, 10) == ["a", "b", "c"]
