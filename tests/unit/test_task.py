"""Enqueueing: options, ids, shards, chunks, and arguments that cannot be sent."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import PurePosixPath, PureWindowsPath
from types import MappingProxyType
from typing import Any, NamedTuple, TypedDict
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskyard import Batch, BatchTask, Results, State, Task, Yard
from taskyard.brokers.base import Put
from taskyard.errors import DuplicateId, EnqueueError, NotFound, PayloadError, PolicyError
from taskyard.message import read_envelope
from taskyard.sharding import shard_text

NAN, INFINITY = float("nan"), float("inf")


class Recording(Yard):
    """A yard in memory that remembers what was put."""

    def __init__(self) -> None:
        super().__init__("memory://")
        self.calls: list[list[Put]] = []

    def put(self, task: Task[..., Any], puts: Sequence[Put]) -> None:
        super().put(task, puts)
        self.calls.append(list(puts))

    async def put_async(self, task: Task[..., Any], puts: Sequence[Put]) -> None:
        await super().put_async(task, puts)
        self.calls.append(list(puts))

    @property
    def puts(self) -> list[Put]:
        return [put for call in self.calls for put in call]

    @property
    def put_(self) -> Put:
        (put,) = self.puts
        return put

    def arguments(self) -> list[Any]:
        """What was put, call by call: the arguments by position, or as a map."""
        found = [read_envelope(body) for put in self.puts for body in put.bodies]
        assert None not in found
        return [envelope.payload for envelope in found if envelope is not None]


@pytest.fixture
def yard() -> Recording:
    return Recording()


@pytest.fixture
def save(yard: Recording) -> Task[[int], int]:
    def save(number: int) -> int:
        return number

    return yard.task(priority=3)(save)


# What a call becomes


def test_a_call_of_a_task_calls_its_function(yard: Recording, save: Task[[int], int]) -> None:
    assert save(5) == 5
    assert yard.calls == []


def test_a_message_takes_what_the_policy_says(yard: Recording, save: Task[[int], int]) -> None:
    result = save.enqueue(5)
    put = yard.put_
    assert (put.group.queue, put.group.name, put.shard, put.priority) == ("default", "save", "", 3)
    assert (put.delay, put.due, put.record_ttl) == (0, 0, 86_400_000_000)
    assert list(put.ids or ()) == [result.id]
    assert yard.arguments() == [[5]]
    assert repr(result) == f"Result({result.id!r})"


@pytest.mark.parametrize(
    ("options", "field", "value"),
    [
        ({"delay": 5}, "delay", 5_000_000),
        ({"delay": 0}, "delay", 0),
        ({"delay": timedelta(milliseconds=1)}, "delay", 1000),
        ({"due": datetime(2030, 1, 1, tzinfo=UTC)}, "due", 1_893_456_000_000_000),
        ({"due": datetime(1969, 1, 1, tzinfo=UTC)}, "due", 1),
        ({"due": datetime(2030, 1, 1)}, "due", int(datetime(2030, 1, 1).timestamp()) * 1_000_000),  # noqa: DTZ001
        ({"priority": -5}, "priority", -5),
        ({"shard": "a"}, "shard", "a"),
        ({"shard": 17}, "shard", "17"),
        ({"shard": ""}, "shard", ""),
        ({"shard": None}, "shard", ""),
        ({"shard": "x" * 500}, "shard", "x" * 500),
        ({"id": "order-17"}, "ids", ["order-17"]),
    ],
)
def test_options_of_a_call(
    yard: Recording, save: Task[[int], int], options: dict[str, Any], field: str, value: object
) -> None:
    save.enqueue(1, **options)
    save.options(**options | ({"id": "another"} if "id" in options else {})).enqueue(1)
    save.enqueue_many([1], **options | ({"id": lambda item: "third"} if "id" in options else {}))
    found = [getattr(put, field) for put in yard.puts]
    assert found == [value] * 3 if field != "ids" else [value, ["another"], ["third"]]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"delay": -1}, "delay must be at least 0 seconds, not -1"),
        ({"delay": NAN}, "delay must be a number of seconds or a timedelta, not nan"),
        ({"delay": INFINITY}, "delay must be a number of seconds or a timedelta, not inf"),
        ({"delay": True}, "delay must be a number of seconds or a timedelta, not True"),
        ({"delay": "5"}, "delay must be a number of seconds or a timedelta, not '5'"),
        ({"delay": 1e12}, "longer than a hundred years"),
        ({"delay": timedelta(days=-1)}, "delay must be at least 0 seconds"),
        ({"due": 5.0}, "due must be a datetime, not 5.0"),
        ({"due": "2030-01-01"}, "due must be a datetime, not '2030-01-01'"),
        ({"due": datetime(2030, 1, 1).date()}, "due must be a datetime"),  # noqa: DTZ001
        ({"due": datetime.max}, "due must be within a hundred years, not 9999-12-31"),  # noqa: DTZ901
        ({"due": datetime.min}, "due must be within"),  # noqa: DTZ901
        ({"due": datetime(9000, 1, 1, tzinfo=UTC)}, "due must be"),
        (
            {"delay": 1, "due": datetime(2030, 1, 1, tzinfo=UTC)},
            "delay= and due= contradict each other: give one of them",
        ),
        ({"priority": 1024}, "priority must be a whole number from -1024 to 1023, not 1024"),
        ({"priority": 1.0}, "priority must be a whole number"),
        ({"priority": True}, "priority must be a whole number"),
        ({"priority": "high"}, "priority must be a whole number"),
        ({"id": ""}, "id must be a text of 1 to 200 characters without NUL, not ''"),
        ({"id": 5}, "id must be a text of 1 to 200 characters without NUL, not 5"),
        ({"id": "x" * 201}, "id must be a text of 1 to 200 characters"),
        ({"id": b"x"}, "id must be a text of 1 to 200 characters without NUL, not b'x'"),
        ({"id": "half \ud800 a pair"}, "id must be a text"),
        ({"shard": "x" * 501}, "a shard key may have 500 characters; this one has 501"),
        ({"id": "a\0b"}, "id must be a text"),
        ({"shard": "half \ud800 a pair"}, "shard key"),
        ({"shard": "a\0b"}, "a shard key must be valid Unicode without NUL, not 'a\\x00b'"),
        ({"shard": object()}, "not object, whose text may differ from process to process"),
        ({"shard": frozenset("ab")}, "a shard key must be a str, int, bool, float"),
        ({"shard": (1, ["a"])}, "not list, whose text"),
        ({"shard": NAN}, "NaN is not even equal to itself"),
        ({"shard": Decimal("NaN")}, "NaN is not even equal to itself"),
        ({"shard": 10**5000}, "a shard key"),
        ({"shard": Decimal("1e9999")}, "the number has too many digits"),
        ({"shard": datetime.min.replace(tzinfo=timezone(timedelta(hours=1)))}, "a shard key"),
        ({"shard": lambda number: "a"}, "shard"),
        ({"priority": lambda number: 1}, "priority must be a whole number"),
        ({"id": lambda number: "a"}, "id must be a text"),
    ],
)
async def test_wrong_options_of_a_call(
    yard: Recording, save: Task[[int], int], options: dict[str, Any], text: str
) -> None:
    with pytest.raises(EnqueueError, match=re.escape(text)):
        save.enqueue(1, **options)
    with pytest.raises(EnqueueError, match=re.escape(text)):
        await save.aenqueue(1, **options)
    with pytest.raises(EnqueueError, match=re.escape(text)):
        save.options(**options).enqueue(1)
    assert yard.calls == []


@pytest.mark.parametrize("name", ["prio", "delays", "eta", "countdown", "queue"])
async def test_an_option_that_does_not_exist(
    yard: Recording, save: Task[[int], int], name: str
) -> None:
    with pytest.raises(PayloadError, match=f"unexpected keyword argument '{name}'"):
        save.enqueue(1, **{name: 5})
    with pytest.raises(TypeError, match=name):
        save.options(**{name: 5})  # type: ignore[arg-type]
    with pytest.raises(EnqueueError, match=f"unknown option {name}; there are delay, due, "):
        save.enqueue_many([1], **{name: 5})
    with pytest.raises(EnqueueError, match=f"unknown option {name}"):
        await save.aenqueue_many([1], **{name: 5})
    assert yard.calls == []


def test_an_argument_of_an_options_name_is_an_argument(yard: Recording) -> None:
    @yard.task
    def remind(text: str, delay: int, *, priority: int = 0) -> None: ...

    remind.enqueue("a", delay=60, priority=5, shard="s")
    remind.options(delay=10, priority=7).enqueue("a", delay=60)
    remind.enqueue("a", 60)
    first, second, third = yard.puts
    assert (first.delay, first.priority, first.shard) == (0, 0, "s")
    assert (second.delay, second.priority) == (10_000_000, 7)
    assert third.delay == 0
    assert yard.arguments() == [{0: ["a", 60], "priority": 5}, ["a", 60], ["a", 60]]


def test_an_id_is_taken_only_once(save: Task[[int], int]) -> None:
    save.enqueue(1, id="order-17")
    with pytest.raises(DuplicateId, match="order-17"):
        save.enqueue(2, id="order-17")
    with pytest.raises(DuplicateId, match="order-18"):
        save.enqueue_many([1, 2], id=lambda item: "order-18")
    assert save.enqueue(1, id="order-18").status() is State.WAITING


# Shards


class Order(NamedTuple):
    id: int
    user: str


class Row(TypedDict):
    user: str


def test_a_shard_by_an_arguments_name(yard: Recording) -> None:
    @yard.task(shard="user")
    def notify(text: str, user: str = "nobody") -> None: ...

    notify.enqueue("hi", "ann")
    notify.enqueue("hi", user="bob")
    notify.enqueue("hi")
    notify.enqueue(user="eve", text="hi")
    notify.enqueue("hi", "ann", shard="special")
    assert [put.shard for put in yard.puts] == ["ann", "bob", "nobody", "eve", "special"]


def test_a_shard_by_a_function(yard: Recording) -> None:
    @yard.task(shard=lambda text, user: user.upper())
    def notify(text: str, user: str) -> None: ...

    notify.enqueue("hi", "ann")
    notify.enqueue("hi", user="bob")
    notify.enqueue_many([("a", "eve"), {"text": "b", "user": "kim"}])
    assert [put.shard for put in yard.puts] == ["ANN", "BOB", "EVE", "KIM"]


def test_a_shard_by_a_field_of_a_batchs_elements(yard: Recording) -> None:
    @yard.task(batch=10, shard="user")
    def save(orders: list[Order]) -> None: ...

    @yard.task(batch=10, shard="user")
    def save_rows(rows: list[Row]) -> None: ...

    save.enqueue(Order(1, "ann"))
    save.enqueue_many([Order(2, "bob"), Order(3, "ann"), Order(4, "bob")])
    save_rows.enqueue({"user": "eve"})
    found = [(put.shard, len(put.bodies)) for put in yard.puts]
    assert found == [("ann", 1), ("bob", 2), ("ann", 1), ("eve", 1)]


@pytest.mark.parametrize("item", [("hi", "ann"), ["hi", "ann"], {"text": "hi", "user": "ann"}])
def test_the_shard_of_an_item(yard: Recording, item: Any) -> None:
    @yard.task(shard="user")
    def notify(text: str, user: str) -> None: ...

    notify.enqueue_many([item])
    assert yard.put_.shard == "ann"


def test_the_shard_of_an_item_that_is_another_kind_of_mapping(yard: Recording) -> None:
    @yard.task(shard="user")
    def notify(text: str, user: str) -> None: ...

    notify.enqueue_many([MappingProxyType({"text": "hi", "user": "ann"})])
    assert yard.put_.shard == "ann"
    assert yard.arguments() == [["hi", "ann"]]


def test_an_argument_none_is_in_no_shard(yard: Recording) -> None:
    @yard.task(shard="user")
    def notify(user: str | None) -> None: ...

    notify.enqueue(None)
    assert yard.put_.shard == ""


def test_a_function_for_the_shard_gets_defaults(yard: Recording) -> None:
    @yard.task(shard=lambda x, z: f"{x}-{z}")
    def take(x: int, z: int = 1) -> None: ...

    take.enqueue(1)
    take.enqueue(x=2)
    take.enqueue_many([(3,), {"x": 4}, (5, 6)])
    assert [put.shard for put in yard.puts] == ["1-1", "2-1", "3-1", "4-1", "5-6"]


def test_a_function_for_the_shard_may_leave_defaults_out(yard: Recording) -> None:
    @yard.task(shard=lambda x: x)
    def take(x: int, z: int = 1) -> None: ...

    take.enqueue(1)
    assert yard.put_.shard == "1"


def test_a_shard_by_an_argument_that_is_left_to_its_default(yard: Recording) -> None:
    @yard.task(shard="z")
    def take(x: int, z: int = 1, *, y: int = 2) -> None: ...

    take.enqueue(1)
    take.enqueue(1, 2)
    take.enqueue(1, z=3)
    take.enqueue(1, y=4)
    assert [put.shard for put in yard.puts] == ["1", "2", "3", "1"]


def test_a_shard_by_an_argument_that_is_given_by_name_only(yard: Recording) -> None:
    @yard.task(shard="y")
    def take(*x: int, y: int = 2) -> None: ...

    take.enqueue(1, 5, 6)
    take.enqueue(1, y=4)
    assert [put.shard for put in yard.puts] == ["2", "4"]


class Color(Enum):
    RED = "red"
    WARM = ("red", 1)
    NONE = None


class Level(IntEnum):
    LOW = 1


class Loud(str):
    def __str__(self) -> str:
        return "LOUD"


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (5, "5"),
        (True, "True"),
        (1.0, "1"),
        (-0.0, "0"),
        (0.1, "0.1"),
        (1e-7, "0.0000001"),
        (INFINITY, "Infinity"),
        (Decimal("1.00"), "1"),
        (Decimal("-1.50"), "-1.5"),
        (Decimal("1E+3"), "1000"),
        (Decimal("0e-9999"), "0"),
        (b"\x00\xff", "00ff"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Color.RED, "red"),
        (Color.WARM, '("red",1)'),
        (Color.NONE, ""),
        (Level.LOW, "1"),
        (Loud("quiet"), "quiet"),
        (datetime(2026, 1, 1).date(), "2026-01-01"),  # noqa: DTZ001
        (datetime(2026, 1, 1), "2026-01-01T00:00:00"),  # noqa: DTZ001
        (datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=1))), "2025-12-31T23:00:00+00:00"),
        (PurePosixPath("a//b/./C"), "a/b/C"),
        (PureWindowsPath("a\\B"), "a/b"),
        (("a", 1, None, b"\x01", Level.LOW, ()), '("a",1,null,x01,1,())'),
        ((PurePosixPath("a"), 'say "b"'), '(p"a","say \\"b\\"")'),
    ],
)
def test_the_text_of_a_shard_key(key: object, text: str) -> None:
    assert shard_text(key) == text


def test_half_a_fold_does_not_part_equal_moments() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    first, second = (datetime(2026, 10, 25, 2, 30, tzinfo=berlin, fold=fold) for fold in (0, 1))
    assert first == second
    assert shard_text(first) == shard_text(second)


text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
zones = st.sampled_from(
    [UTC, timezone(timedelta(hours=5, minutes=30)), timezone(-timedelta(1) / 2)]
)
moments = st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=zones)  # noqa: DTZ001
paths = text.filter(bool).map(PurePosixPath)
members = st.sampled_from([Color.RED, Color.WARM])  # pickled by name: not for another process
keys: list[st.SearchStrategy[Any]] = [
    text,
    st.integers(-(10**100), 10**100),
    st.booleans(),
    st.floats(allow_nan=False),
    st.decimals(allow_nan=False, min_value=-(10**50), max_value=10**50),
    st.binary(max_size=100),
    st.uuids(),
    members,
    st.dates(),
    st.datetimes(),
    moments,
    paths,
]
sendable = st.one_of(*(key for key in keys if key is not members), st.none())
shapes: list[st.SearchStrategy[Any]] = [
    *keys,
    st.lists(text, max_size=4).map(tuple),
    st.tuples(text | st.none() | st.integers() | st.binary(max_size=9) | paths | st.uuids()),
    st.tuples(st.tuples(text), st.dates() | moments),
]


@given(st.sampled_from(shapes).flatmap(lambda shape: st.tuples(shape, shape)))
def test_shard_keys_of_one_type_are_equal_if_and_only_if_their_texts_are(
    pair: tuple[Any, Any],
) -> None:
    one, other = pair
    assert (shard_text(one) == shard_text(other)) == (one == other)


def _elsewhere(keys: list[Any]) -> list[str]:
    """The texts of keys in a fresh process, whose hashes differ from the ones here."""
    program = (
        "import pickle, sys; from taskyard.sharding import shard_text;"
        "keys = pickle.load(sys.stdin.buffer);"
        "sys.stdout.buffer.write(pickle.dumps([shard_text(key) for key in keys]))"
    )
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=pickle.dumps(keys),
        capture_output=True,
        check=True,
        env=os.environ | {"PYTHONHASHSEED": seed},
    )
    found: list[str] = pickle.loads(done.stdout)
    return found


@settings(max_examples=10, deadline=None)
@given(st.lists(sendable, min_size=20, max_size=60))
def test_shard_keys_have_the_same_text_in_another_process(keys: list[Any]) -> None:
    keys = [*keys, tuple(keys[:3])]
    assert _elsewhere(keys) == [shard_text(key) for key in keys]


@pytest.mark.parametrize("shard", ["usr", lambda order: order.usr, lambda: "x"])
def test_a_shard_that_cannot_be_made(yard: Recording, shard: Any) -> None:
    @yard.task(batch=10, shard=shard)
    def save(orders: list[Order]) -> None: ...

    with pytest.raises(EnqueueError, match=r"task 'save': the shard key .* cannot be made of this"):
        save.enqueue(Order(1, "ann"))
    with pytest.raises(EnqueueError, match="task 'save': the shard key"):
        save.enqueue_many([Order(1, "ann")])
    assert yard.calls == []


# Many


def test_many_is_few_calls(yard: Recording, save: Task[[int], int]) -> None:
    results = save.enqueue_many(range(2500), priority=9)
    assert [len(put.bodies) for put in yard.puts] == [1000, 1000, 500]
    assert {put.priority for put in yard.puts} == {9}
    assert [argument for (argument,) in yard.arguments()] == list(range(2500))
    assert len(results) == 2500
    ids = [result.id for result in results]
    assert ids == sorted(set(ids))
    assert repr(results) == "<2500 results>"


def test_results_of_many_are_a_sequence(save: Task[[int], int]) -> None:
    results = save.enqueue_many(range(1500))
    ids = [result.id for result in results]
    assert isinstance(results, Results)
    assert [results[0].id, results[1499].id, results[-1].id] == [ids[0], ids[1499], ids[-1]]
    assert [result.id for result in results[999:1002]] == ids[999:1002]
    assert [result.id for result in results[::-500]] == ids[::-500]
    for index in (1500, -1501):
        with pytest.raises(IndexError, match="there are 1500 results"):
            results[index]


@pytest.mark.parametrize("items", [[], (), set(), {}.items(), iter([])])
def test_nothing_is_no_call(yard: Recording, save: Task[[int], int], items: Any) -> None:
    assert len(save.enqueue_many(items)) == 0
    assert yard.calls == []


@pytest.mark.parametrize("items", [{"a": 1}, {}, MappingProxyType({"a": 1})])
async def test_a_mapping_is_not_many_items(yard: Recording, items: Any) -> None:
    @yard.task
    def take(text: str) -> None: ...

    with pytest.raises(EnqueueError, match="of a mapping only the keys would be stored"):
        take.enqueue_many(items)
    with pytest.raises(EnqueueError, match="of a mapping only the keys would be stored"):
        await take.aenqueue_many(items)
    assert yard.calls == []


def test_ids_shards_and_priorities_by_item(yard: Recording, save: Task[[int], int]) -> None:
    results = save.enqueue_many(
        range(6),
        id=lambda number: f"n-{number}",
        shard=lambda number: number % 2,
        priority=lambda number: number // 3,
    )
    assert [result.id for result in results] == [f"n-{number}" for number in range(6)]
    found = {(put.shard, put.priority): list(put.ids or ()) for put in yard.puts}
    assert found == {
        ("0", 0): ["n-0", "n-2"],
        ("1", 0): ["n-1"],
        ("1", 1): ["n-3", "n-5"],
        ("0", 1): ["n-4"],
    }


async def test_the_same_without_blocking(yard: Recording, save: Task[[int], int]) -> None:
    result = await save.aenqueue(5, delay=1)
    results = await save.aenqueue_many(range(1001), shard=str)
    assert yard.puts[0].delay == 1_000_000
    assert list(yard.puts[0].ids or ()) == [result.id]
    assert [len(call) for call in yard.calls] == [1, 1000, 1]
    assert len(results) == 1001
    await yard.aclose()


@pytest.mark.parametrize("items", ["text", b"bytes", ""])
async def test_one_text_is_not_many_items(yard: Recording, items: Any) -> None:
    @yard.task
    def greet(name: str) -> None: ...

    with pytest.raises(EnqueueError, match="enqueue_many takes many items; enqueue takes one"):
        greet.enqueue_many(items)
    with pytest.raises(EnqueueError, match="enqueue_many takes many items"):
        await greet.aenqueue_many(items)
    assert yard.calls == []


@pytest.mark.parametrize("items", [5, None])
def test_what_cannot_be_iterated_is_not_many_items(save: Task[[int], int], items: Any) -> None:
    with pytest.raises(EnqueueError, match="enqueue_many takes"):
        save.enqueue_many(items)


def test_one_id_is_not_enough_for_many(yard: Recording, save: Task[[int], int]) -> None:
    with pytest.raises(EnqueueError, match="give id= as a function of it"):
        save.enqueue_many([1, 2], id="order-17")
    assert yard.calls == []


def test_wrong_answers_of_functions_of_the_item(yard: Recording, save: Task[[int], int]) -> None:
    with pytest.raises(
        EnqueueError, match="id must be a text of 1 to 200 characters without NUL, not 1"
    ):
        save.enqueue_many([1], id=lambda number: number)
    with pytest.raises(EnqueueError, match="priority must be a whole number"):
        save.enqueue_many([1], priority=lambda number: 0.5)
    with pytest.raises(EnqueueError, match="a shard key may have 500 characters"):
        save.enqueue_many([1], shard=lambda number: "x" * 501)
    assert yard.calls == []


def test_a_wrong_item_says_which_and_earlier_chunks_are_kept(
    yard: Recording, save: Task[[int], int]
) -> None:
    items: list[Any] = list(range(3000))
    items[2345] = "two"
    with pytest.raises(PayloadError, match=r"2345|item 345") as caught:
        save.enqueue_many(items)
    assert "expected" in str(caught.value).lower()
    assert [len(put.bodies) for put in yard.puts] == [1000, 1000]


def test_items_that_raise_midway(yard: Recording, save: Task[[int], int]) -> None:
    def items() -> Iterator[int]:
        yield from range(1500)
        raise OSError("the file ended")

    with pytest.raises(OSError, match="the file ended"):
        save.enqueue_many(items())
    assert [len(put.bodies) for put in yard.puts] == [1000]


def test_items_are_read_as_they_are_stored(yard: Recording, save: Task[[int], int]) -> None:
    ahead = []

    def items() -> Iterator[int]:
        for number in range(3000):
            ahead.append(number - sum(len(put.bodies) for put in yard.puts))
            yield number

    save.enqueue_many(items())
    assert max(ahead) < 1001


def test_chunks_are_cut_by_bytes(yard: Recording) -> None:
    @yard.task(max_bytes=8 << 20)
    def store(data: bytes) -> None: ...

    store.enqueue_many([bytes(1 << 20)] * 10 + [bytes(6 << 20)] + [b"x"] * 10)
    sizes = [[len(body) for put in call for body in put.bodies] for call in yard.calls]
    assert [len(call) for call in sizes] == [3, 3, 3, 1, 1, 10]
    assert all(sum(call) <= 4 << 20 or len(call) == 1 for call in sizes)


def test_producers_in_threads(save: Task[[int], int]) -> None:
    results: list[Results[int]] = []
    start = threading.Barrier(4)

    def produce() -> None:
        start.wait(10)
        results.append(save.enqueue_many(range(500)))

    threads = [threading.Thread(target=produce) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len({result.id for many in results for result in many}) == 2000


# Arguments that cannot be sent


class Opaque:
    pass


@pytest.mark.parametrize(
    "argument",
    [Opaque(), lambda: 1, object, threading.Lock(), iter([1]), 1 << 80, 1j, "half \ud800 a pair"],
    ids=lambda argument: type(argument).__name__,
)
async def test_an_argument_that_cannot_be_sent(yard: Recording, argument: Any) -> None:
    @yard.task
    def take(anything: Any, other: int = 0) -> None: ...

    with pytest.raises(PayloadError, match="task 'take': argument 'anything'"):
        take.enqueue(argument)
    with pytest.raises(PayloadError, match="task 'take': argument 'anything'"):
        await take.aenqueue({"inside": [argument]})
    with pytest.raises(PayloadError, match=r"item 1.*argument 'anything'"):
        take.enqueue_many([(1, 2), (argument, 2)])
    assert yard.calls == []


@pytest.mark.parametrize(
    ("args", "kwargs", "text"),
    [
        ((), {}, "missing a required argument: 'number'"),
        ((1, 2, 3), {}, "too many positional arguments"),
        ((1,), {"number": 2}, "multiple values for argument 'number'"),
        (("one",), {}, "argument 'number'"),
        ((None,), {}, "argument 'number'"),
        ((1,), {"other": "x"}, "argument 'other'"),
        ((1,), {"nope": 1}, "unexpected keyword argument 'nope'"),
    ],
)
def test_a_call_that_does_not_fit(
    yard: Recording, args: tuple[Any, ...], kwargs: dict[str, Any], text: str
) -> None:
    @yard.task
    def take(number: int, other: int = 0) -> None: ...

    with pytest.raises(PayloadError, match=re.escape(text)) as caught:
        take.enqueue(*args, **kwargs)
    assert "task 'take'" in str(caught.value)
    assert yard.calls == []


@pytest.mark.parametrize("item", [5, "ab", None, (1, 2, 3), {"number": 1, "nope": 2}, {}])
def test_an_item_that_does_not_fit(yard: Recording, item: Any) -> None:
    @yard.task
    def take(number: int, other: int = 0) -> None: ...

    with pytest.raises(PayloadError, match="item 0: task 'take'"):
        take.enqueue_many([item])
    assert yard.calls == []


# Tasks that are declared elsewhere


def test_a_remote_task_is_enqueued_by_name(yard: Recording) -> None:
    elsewhere = yard.remote("resize", queue="images")
    elsewhere.enqueue("a.png", size=5)
    elsewhere.options(delay=1).enqueue("b.png")
    first, second = yard.puts
    assert (first.group.queue, first.group.name) == ("images", "resize")
    assert second.delay == 1_000_000
    assert yard.tasks == {}
    with pytest.raises(NotFound, match="task 'resize' is declared elsewhere"):
        elsewhere("a.png")


def test_a_remote_task_that_is_known_here_goes_where_it_is_served(yard: Recording) -> None:
    @yard.task(name="post", queue="bank", ordered=True, order="ledger")
    def post(number: int) -> None: ...

    yard.remote("post").enqueue(1)
    yard.remote("post", queue="bank", order="ledger").enqueue(2)
    assert {put.group for put in yard.puts} == {post.group}
    envelopes = [read_envelope(body) for put in yard.puts for body in put.bodies]
    assert [envelope and envelope.task for envelope in envelopes] == ["post", "post"]
    with pytest.raises(PolicyError, match=r"has order='ledger' here, not 'other'"):
        yard.remote("post", order="other")


def test_a_remote_task_of_an_order(yard: Recording) -> None:
    yard.remote("post", order="ledger").enqueue(1, shard="a")
    put = yard.put_
    assert (put.group.queue, put.group.name, put.shard) == ("default", "order:ledger", "a")
    envelope = read_envelope(put.bodies[0])
    assert envelope is not None
    assert envelope.task == "post"


def test_a_remote_task_of_another_queue_is_another_task(yard: Recording) -> None:
    @yard.task(name="post", queue="bank", ordered=True, order="ledger")
    def post(number: int) -> None: ...

    yard.remote("post", queue="mail").enqueue(1)
    assert (yard.put_.group.queue, yard.put_.group.name) == ("mail", "post")


def test_a_remote_batch_task_takes_single_items(yard: Recording) -> None:
    elsewhere = yard.remote("save", batch=True)
    elsewhere.enqueue({"id": 1})
    elsewhere.enqueue_many([{"id": 2}, {"id": 3}])
    assert yard.arguments() == [[{"id": 1}], [{"id": 2}], [{"id": 3}]]


def test_items_of_a_remote_task_are_tuples_or_mappings(yard: Recording) -> None:
    elsewhere = yard.remote("resize")
    elsewhere.enqueue_many([("a.png", 1), {"path": "b.png"}])
    assert yard.arguments() == [["a.png", 1], {0: [], "path": "b.png"}]


def test_builtins_take_what_they_are_given(yard: Recording) -> None:
    printer: BatchTask[int, None] = yard.task(batch=Batch(3))(print)
    printer.enqueue(1)
    printer.enqueue_many([2, 3])
    assert yard.arguments() == [[1], [2], [3]]


def test_what_a_task_looks_like(yard: Recording, save: Task[[int], int]) -> None:
    assert repr(save) == "<task 'save' of queue 'default'>"
    assert isinstance(yard.tasks, Mapping)
    assert yard.tasks["save"] is save


def test_shards_and_priorities_may_be_lists_with_a_value_per_item(
    yard: Recording, save: Task[[int], int]
) -> None:
    save.enqueue_many(range(4), shard=["x", 7, "x", None], priority=[1, 0, 1, 0])
    assert [(put.shard, put.priority, len(put.bodies)) for put in yard.puts] == [
        ("x", 1, 2),
        ("7", 0, 1),
        ("", 0, 1),
    ]


def test_lists_of_shards_go_on_from_chunk_to_chunk(yard: Recording, save: Task[[int], int]) -> None:
    shards = [number % 3 for number in range(2500)]
    save.enqueue_many(range(2500), shard=shards, unique_key=str)
    assert len(yard.calls) == 3
    for call in yard.calls:
        for put in call:
            numbers = [read_envelope(body).payload[0] for body in put.bodies]  # type: ignore[union-attr]
            assert {str(number % 3) for number in numbers} == {put.shard}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"shard": ["a"]}, "a list of shard= needs a value per item; it has 1, and there are more"),
        ({"priority": [1]}, "a list of priority= needs a value per item"),
        ({"priority": [1, True]}, "priority must be a whole number"),
        ({"shard": ["a", [1]]}, "a shard key"),
    ],
)
def test_wrong_lists_are_told(
    yard: Recording, save: Task[[int], int], options: dict[str, Any], text: str
) -> None:
    with pytest.raises(EnqueueError) as caught:
        save.enqueue_many([1, 2], **options)
    assert text in str(caught.value)
    assert yard.puts == []
    with pytest.raises(EnqueueError):
        save.enqueue(1, **options)
