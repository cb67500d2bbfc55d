"""Tasks with unique keys: what is declared, what makes a key, and what `enqueue` answers."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from taskyard import Unique, Yard, every
from taskyard.brokers.base import GroupWant, Want
from taskyard.errors import EnqueueError, PolicyError, TaskDiscarded
from taskyard.uniqueness import LONGEST, unique_text


@pytest.fixture(params=["memory", "sqlite"])
def yard(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Yard]:
    url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/yard.db"
    with Yard(url) as made:
        yield made


def waiting(yard: Yard) -> int:
    return sum(counts.waiting + counts.delayed for counts in yard.counts())


def index_task(yard: Yard, unique: Any = "path", **policy: Any) -> Any:
    def index(path: str, depth: int = 0, *, kind: str = "any") -> int:
        return len(path) + depth + len(kind)

    return yard.task(name="index", unique=unique, **policy)(index)


# Declaring


@pytest.mark.parametrize(
    ("unique", "message"),
    [
        ("size", "unique='size' names no argument of its handler"),
        (("path", "size"), "unique='size' names no argument"),
        ("", "must be the name of an argument"),
        ((), "must be the name of an argument"),
        (7, "must be the name of an argument"),
        ({"mode": "done"}, "must be the name of an argument"),
    ],
)
def test_wrong_keys_are_refused(yard: Yard, unique: Any, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        index_task(yard, unique)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mode": "ended"}, "must be 'started', 'done', 'window' or 'debounce'"),
        ({"mode": "window"}, "needs window="),
        ({"mode": "debounce"}, "needs delay="),
        ({"window": 5}, "window= belongs to mode='window'"),
        ({"mode": "window", "window": 5, "delay": 5}, "delay= belongs to mode='debounce'"),
        ({"mode": "window", "window": 0}, "more than 0 seconds"),
        ({"mode": "debounce", "delay": 5, "max_delay": 4}, "must be at least delay"),
    ],
)
def test_wrong_modes_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        Unique(**fields)


def test_times_may_be_timedeltas() -> None:
    assert Unique(mode="window", window=timedelta(minutes=1)).window == 60  # type: ignore[arg-type]
    assert Unique(mode="debounce", delay=2).longest_delay == 20


# What makes a key


@pytest.mark.parametrize(
    ("unique", "first", "same", "other"),
    [
        ("path", (("a", 1), {}), (("a",), {"depth": 2}), (("b", 1), {})),
        (("path", "depth"), (("a", 1), {}), ((), {"path": "a", "depth": 1}), (("a", 2), {})),
        (True, (("a",), {}), (("a", 0), {"kind": "any"}), (("a",), {"kind": "x"})),
        (lambda path, **_: path.lower(), (("A",), {"depth": 1}), (("a",), {}), (("b",), {})),
        (Unique(), (("a",), {}), ((), {"path": "a"}), (("b",), {})),
    ],
)
def test_what_makes_a_key(yard: Yard, unique: Any, first: Any, same: Any, other: Any) -> None:
    index = index_task(yard, unique)
    made = index.enqueue(*first[0], **first[1])
    found = index.enqueue(*same[0], **same[1])
    assert (made.created, found.created, found.id) == (True, False, made.id)
    assert index.enqueue(*other[0], **other[1]).created
    assert waiting(yard) == 2


@dataclass
class Point:
    x: int


def test_what_has_no_stable_text_is_refused(yard: Yard) -> None:
    @yard.task(name="draw", unique=True)
    def draw(point: Point) -> None: ...

    with pytest.raises(EnqueueError, match=r"a unique key must be .* not Point.* a function"):
        draw.enqueue(Point(1))
    with pytest.raises(EnqueueError, match="a unique key must be"):
        draw.enqueue_many([Point(1)])

    @yard.task(name="paint", unique=lambda point: point.y)
    def paint(point: Point) -> None: ...

    with pytest.raises(EnqueueError, match=r"the unique key .* cannot be made.*AttributeError"):
        paint.enqueue(Point(1))
    assert waiting(yard) == 0


def test_fields_of_batches(yard: Yard) -> None:
    @yard.task(name="rows", batch=10, unique=("id", "kind"), shard="kind")
    def rows(items: list[dict[str, Any]]) -> None: ...

    items = [{"id": n % 2, "kind": kind} for kind in "ab" for n in range(3)]
    assert [result.created for result in rows.enqueue_many(items)] == [True, True, False] * 2
    assert not rows.enqueue({"id": 1, "kind": "a"}).created


@pytest.mark.parametrize(
    ("value", "text"),
    [("a.png", "a.png"), (7, "7"), (("a", 1), '("a",1)'), (None, "null"), ("null", '"null"')],
)
def test_short_keys_are_as_they_are(value: object, text: str) -> None:
    assert unique_text(value) == text


def test_long_keys_are_hashed_alike_in_every_process() -> None:
    keys = ["x" * LONGEST, "x" * (LONGEST + 1), "a\nb", "\udcff"]
    texts = [unique_text(key) for key in keys]
    assert texts[0] == keys[0]
    assert all(text.startswith("#") and len(text) == 41 for text in texts[1:])
    code = f"from taskyard.uniqueness import unique_text; print(*map(unique_text, {keys!r}))"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert found.split() == texts


def test_tasks_of_an_order_have_keys_of_their_own(yard: Yard) -> None:
    tasks = []
    for name in "ab":

        def handler(path: str) -> None: ...

        policy: dict[str, Any] = {"order": "o", "ordered": True, "unique": "path"}
        tasks.append(yard.task(name=name, **policy)(handler))
    assert [task.enqueue("x").created for task in tasks * 2] == [True, True, False, False]


def test_a_key_of_the_call(yard: Yard) -> None:
    index = index_task(yard, unique=None)
    assert index.enqueue("a").created
    assert index.enqueue("b", unique_key=("k", 1)).created
    assert not index.options(unique_key=("k", 1)).enqueue("c").created
    results = index.enqueue_many([("d",), ("e",), ("d",)], unique_key=lambda item: item[0])
    assert [result.created for result in results] == [True, True, False]
    assert [result.created for result in index.enqueue_many([("f",)] * 2, unique_key=5)] == [
        True,
        False,
    ]
    with pytest.raises(EnqueueError, match="a function only for enqueue_many"):
        index.enqueue("a", unique_key=len)
    with pytest.raises(EnqueueError, match="a unique key must be"):
        index.enqueue("a", unique_key=["k"])


def test_a_task_that_is_declared_elsewhere_takes_the_key_of_the_call(yard: Yard) -> None:
    remote = yard.remote("elsewhere")
    assert [remote.enqueue(1, unique_key="k").created for _ in range(2)] == [True, False]


# What `enqueue` answers


def test_many_items_learn_each_of_its_own(yard: Yard) -> None:
    index = index_task(yard)
    before = index.enqueue("b")
    results = index.enqueue_many([("a",), ("b",), ("c",), ("a",)])
    assert len(results) == 4
    assert [result.created for result in results] == [True, False, True, False]
    assert (results[1].id, results[3].id) == (before.id, results[0].id)
    assert [result.id for result in results[1:3]] == [before.id, results[2].id]
    chunks = index.enqueue_many((str(n % 1500),) for n in range(3000))
    assert [result.created for result in chunks] == [True] * 1500 + [False] * 1500
    assert chunks[2999].id == chunks[1499].id


def test_the_result_is_that_of_the_message_that_stands(yard: Yard) -> None:
    index = index_task(yard)
    results = [index.enqueue("a", depth) for depth in (1, 2)]
    yard.run_worker(burst=True)
    assert [result.get(timeout=5) for result in results] == [5, 5]
    assert index.enqueue("a").created


def test_coroutines(yard: Yard) -> None:
    index = index_task(yard)

    async def run() -> list[Any]:
        found = await asyncio.gather(*(index.aenqueue(f"{n % 5}") for n in range(50)))
        many = await index.aenqueue_many([("0",), ("new",)])
        await yard.aclose()
        return [*found, *many]

    results = asyncio.run(run())
    assert sum(result.created for result in results) == 6
    assert len({result.id for result in results}) == 6


def test_threads_that_share_a_put_learn_each_of_its_own(yard: Yard) -> None:
    index = index_task(yard)
    results: list[Any] = []
    start = threading.Barrier(8)

    def run() -> None:
        start.wait()
        results.extend(index.enqueue(f"{n % 10}") for n in range(50))

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(result.created for result in results) == 10
    assert len({result.id for result in results}) == 10 == waiting(yard)


def test_within_buffered_it_is_known_after_the_block(yard: Yard) -> None:
    index, before = index_task(yard), []
    before.append(index.enqueue("a"))
    with yard.buffered():
        results = [index.enqueue(path) for path in "abb"]
        many = index.enqueue_many([("c",), ("b",)])
        assert repr(results[0]) == "Result(not stored yet)"
        with pytest.raises(EnqueueError, match="after the block"):
            _ = results[0].id
        with pytest.raises(EnqueueError, match="after the block"):
            _ = many[0].created
    assert [result.created for result in (*results, *many)] == [False, True, False, True, False]
    assert (results[0].id, results[2].id, many[1].id) == (before[0].id, *[results[1].id] * 2)
    assert repr(results[0]) == f"Result({before[0].id!r})"


def test_the_refusal_of_one_caller_leaves_the_answers_of_others(yard: Yard) -> None:
    index = index_task(yard)
    index.enqueue("taken", id="x")
    with pytest.raises(EnqueueError), yard.buffered() as block:  # noqa: PT012 - its end raises
        first = index.enqueue("a")
        index.enqueue("b", id="x")
        again = index.enqueue("a")
    assert block.not_stored == ["x"]
    assert (first.created, again.created, again.id) == (True, False, first.id)


def test_without_unique_keys_everything_is_new(yard: Yard) -> None:
    index = index_task(yard, unique=None)
    assert index.enqueue("a").created
    assert all(result.created for result in index.enqueue_many([("a",), ("a",)]))


# Debounce


def test_the_later_replaces_the_earlier(yard: Yard) -> None:
    build = index_task(yard, Unique("path", mode="debounce", delay=0.05))
    first, second = build.enqueue("a", 1), build.enqueue("a", 2)
    assert (first.created, second.created) == (True, False)
    with pytest.raises(TaskDiscarded):
        first.get(timeout=5)
    while waiting(yard):
        yard.run_worker(burst=True)
    assert second.get(timeout=5) == 6


@pytest.mark.parametrize("option", [{"delay": 5}, {"due": datetime(2030, 1, 1)}])  # noqa: DTZ001
def test_a_debounced_message_has_times_of_its_own(yard: Yard, option: Any) -> None:
    build = index_task(yard, Unique("path", mode="debounce", delay=5))
    with pytest.raises(EnqueueError, match="leave delay= and due= out"):
        build.enqueue("a", **option)


# Schedules


def test_a_schedule_puts_nothing_beside_what_stands(yard: Yard) -> None:
    index = index_task(yard)
    yard.schedules.add(index, "a", when=every(3600), name="hourly")
    yard.schedules.fire("hourly")
    yard.schedules.fire("hourly")
    assert waiting(yard) == 1
    assert not index.enqueue("a").created
    want = Want([GroupWant(index.group)], "test", 10_000_000)
    [claim] = yard.driver.run(yard.broker.step([], want)).claims
    [(_, message)] = claim.lanes[0].messages
    assert msgspec.msgpack.decode(message.body)[0].startswith("hourly@")
