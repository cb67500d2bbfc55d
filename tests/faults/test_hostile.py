"""Nothing from the wire chooses code; bad input becomes a dead letter, and the worker goes on."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from tests.faults.stores import SQLiteStore, Store

from taskyard import Batch, Handler, Yard
from taskyard.brokers.base import Put
from taskyard.brokers.sqlite import SQLiteBroker
from taskyard.errors import PayloadError
from taskyard.message import Reason, read_envelope
from taskyard.task import Task

ran: list[str] = []


class Row(msgspec.Struct):
    name: str
    amount: Decimal = Decimal(0)
    tags: list[str] = []


def single(row: Row) -> None:
    ran.append(row.name)


async def coroutine(row: Row) -> None:
    ran.append(row.name)


def several(name: str, count: int = 1, *, deep: dict[str, list[int]] | None = None) -> None:
    ran.append(name)


def batch(rows: list[Row]) -> None:
    ran.extend(row.name for row in rows)


class Class(Handler[Row]):
    def handle(self, message: Row, /) -> None:
        ran.append(message.name)


def name_of(row: Row) -> str:
    return "one"


ORDERED: dict[str, Any] = {"shard": name_of, "ordered": True}
TASKS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "single": (single, {}),
    "coroutine": (coroutine, {}),
    "several": (several, {}),
    "batch": (batch, {"batch": Batch(10)}),
    "class": (Class, {}),
    "ordered": (single, ORDERED),
    "ordered_batch": (batch, {**ORDERED, "batch": Batch(10)}),
    "order group": (single, {**ORDERED, "order": "common"}),
}


@pytest.fixture
def yard(store: Store) -> Iterator[Yard]:
    ran.clear()
    if isinstance(store, SQLiteStore):
        made = Yard(SQLiteBroker(store.path, synchronous="off"))
    else:
        made = Yard(store.fields()["url"])
    yield made
    made.close()


def declare(yard: Yard, kind: str) -> Task[..., Any]:
    function, options = TASKS[kind]
    made: Task[..., Any] = yard.task(name=kind, **options)(function)
    return made


def put_raw(yard: Yard, task: Task[..., Any], bodies: list[bytes]) -> None:
    shard = "one" if task.policy.ordered else ""
    yard.put(task, [Put(task.group, bodies, shard)])


def fuzzed(chance: random.Random, valid: bytes) -> Iterator[bytes]:
    """Noise, and messages that were valid before something happened to them."""
    for _ in range(150):
        yield chance.randbytes(chance.randrange(60))
        broken = bytearray(valid)
        for _ in range(chance.randrange(1, 4)):
            position = chance.randrange(len(broken))
            match chance.randrange(4):
                case 0:
                    broken[position] = chance.randrange(256)
                case 1:
                    del broken[position:]
                case 2:
                    broken[position:position] = chance.randbytes(chance.randrange(1, 9))
                case _:
                    broken[position : position + 2] = b""
            if not broken:
                break
        yield bytes(broken)


def crafted() -> Iterator[bytes]:
    """Well-formed, and not what anybody wants."""
    pack = msgspec.msgpack.encode
    deep = b"\x91" * 100_000 + b"\xc0"
    payloads: list[Any] = [None, 1, "text", [], [[]], [None], [1], [{"name": 1}]]
    for payload in [*payloads, [{"name": "x"}] * 9]:
        yield pack(["id", payload])
    yield pack(["id", [{"name": "x", "amount": "no number"}]])
    yield pack(["id", [{"name": "x", "tags": "no list"}]])
    yield pack(["id", {"name": ["x"]}])
    yield pack(["id", {0: 1, "__class__": "os.system", "__reduce__": ["rm"]}])
    yield pack({"id": "id", "payload": [{"name": "x"}]})
    yield pack([1, [{"name": "x"}]])
    yield pack([None, None, None, None])
    yield pack([])
    yield b""
    yield deep
    yield b"\x92\xa2id" + deep
    yield b"\x92\xa2id\x91\x81\xa4name" + deep
    yield b"\x92\xa2id\xdd\xff\xff\xff\xff"  # an array of four thousand million
    yield b"\x92\xa2id\xc6\xff\xff\xff\xff"
    yield b"\x92\xa2id\xc7\x00\x01"  # an extension type
    yield b"\x92\xa2id\xd4\x40\x00"  # a codec without a name
    yield b"\x92\xa2id\xc7\x05\x41\xff\xff\xff\xff\x00"  # four gigabytes, compressed
    yield b"\x92\xa2id\xc7\x05\x42\x00\x00\x00\x01\x28"  # nothing that zstd made
    yield b"\x92\xa2id\xd4\x43\x00"  # encrypted, in one byte
    yield b"\x92\xa2\xff\xfe\x91\x81\xa4name\xa1x"  # an id that is no text
    yield pack(["id", "x" * 5_000_000])
    yield pack(["id", [{"name": list(range(500_000))}]])
    yield b"\x80\x04\x95\x1e\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x8c\x06system\x93."  # pickle


def is_hostile(task: Task[..., Any], body: bytes) -> bool:
    """Whether a body does not decode; and only one kind of error may come of that."""
    if task.envelope_task:
        envelope = read_envelope(body)
        if envelope is None or envelope.task != task.name:
            return True
    try:
        task.codec.decode(body)
    except PayloadError:
        return True
    return False


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("source", ["fuzzed", "crafted"])
def test_bad_input_becomes_a_dead_letter_and_the_worker_goes_on(
    yard: Yard, kind: str, source: str
) -> None:
    task = declare(yard, kind)
    envelope_task = task.envelope_task
    chance = random.Random(f"{kind} {source}")

    def good(name: str) -> bytes:
        if kind == "several":
            return task.codec.encode(name, (name, 3), {"deep": {"x": [1, 2]}})
        return task.codec.encode(
            name, (Row(name, Decimal("1.5"), ["a"]),), {}, group_task=envelope_task
        )

    made = fuzzed(chance, good("valid")) if source == "fuzzed" else crafted()
    hostile = [body for body in made if is_hostile(task, body)]
    assert len(hostile) >= 20
    expected = []
    for number, body in enumerate(hostile):
        put_raw(yard, task, [good(f"good-{number}"), body])
        expected.append(f"good-{number}")
    yard.run_worker(burst=True, lease=60)

    assert ran == expected if task.policy.ordered else sorted(ran) == sorted(expected)
    letters = yard.dead.list(limit=100_000)
    assert {letter.failure.reason for letter in letters} == {Reason.UNREADABLE}
    assert sorted(letter.body for letter in letters) == sorted(hostile)
    (counts,) = yard.counts()
    assert (counts.waiting, counts.running, counts.delayed) == (0, 0, 0)
    assert (counts.dead, counts.totals["done"]) == (len(hostile), len(expected))
    if task.policy.ordered:
        assert [letter.body for letter in letters] == hostile


def test_nothing_from_the_wire_chooses_code(yard: Yard) -> None:
    """In an order group, a message names its task: only registered ones of this very group."""
    options = {**ORDERED, "order": "common"}
    one = yard.task(name="one", **options)(single)
    yard.task(name="two", **options)(single)
    yard.task(name="elsewhere", queue="other")(single)
    for name in ("os.system", "builtins.eval", "one.__class__", "elsewhere", "", "ONE", "three"):
        body = one.codec.encode(name or "none", (Row("never"),), {}, group_task=name)
        put_raw(yard, one, [body])
    put_raw(yard, one, [one.codec.encode("ok", (Row("well"),), {}, group_task="two")])
    yard.run_worker(burst=True, lease=60)
    assert ran == ["well"]
    letters = yard.dead.list()
    assert len(letters) == 7
    assert {letter.failure.reason for letter in letters} == {Reason.UNREADABLE}


def test_a_dead_letter_that_was_unreadable_stays_readable(yard: Yard) -> None:
    """Retrying it by hand makes the same dead letter again, and can be done with any bytes."""
    task = declare(yard, "single")
    bodies = [b"", b"\xff", b"\x00" * 1000]
    put_raw(yard, task, bodies)
    yard.run_worker(burst=True, lease=60)
    assert yard.dead.retry() == 3
    yard.run_worker(burst=True, lease=60)
    assert [letter.body for letter in yard.dead.list()] == bodies
    assert yard.dead.discard() == 3
    assert yard.counts()[0].totals["discarded"] == 3
