"""Payloads with a limit, compressed, encrypted, or encoded by users, on their way to workers."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
from tests.worker.support import Clock

from taskyard import Keys, State, TaskFailed, Yard, every
from taskyard.brokers.base import Broker
from taskyard.errors import CannotOpen
from taskyard.message import Reason

OLD, NEW = Keys.new(), Keys.new()
ROTATED = Keys({"new": NEW, "old": OLD})
SECRET = "of the utmost secrecy " * 100

Declared = Callable[..., Yard]


class Json:
    """A codec of a user."""

    name = "json"

    def encode(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
        return json.dumps([args, kwargs]).encode()

    def decode(self, data: bytes) -> tuple[Sequence[Any], Mapping[str, Any]]:
        args, kwargs = json.loads(data)
        return args, kwargs

    def encode_result(self, value: Any) -> bytes:
        return json.dumps(value).encode()

    def decode_result(self, data: bytes) -> Any:
        return json.loads(data)


FORMS: dict[str, dict[str, Any]] = {
    "zlib": {"compression": "zlib"},
    "zstd": {"compression": "zstd"},
    "encrypted": {"encryption": ROTATED},
    "codec": {"codec": Json()},
    "all": {"compression": "zstd", "encryption": ROTATED, "codec": Json()},
}


@pytest.fixture
def make(broker: Broker) -> Iterator[Declared]:
    """Makes yards of the broker that differ in what they do to payloads."""
    made: list[Yard] = []

    def make(**options: Any) -> Yard:
        made.append(Yard(broker, **options))
        return made[-1]

    yield make
    for yard in made:
        asyncio.run(yard.aclose())


@pytest.mark.parametrize("form", FORMS)
def test_arguments_and_results(make: Declared, form: str) -> None:
    yard = make(**FORMS[form])

    @yard.task(name="echo")
    def echo(text: str, times: int = 1) -> str:
        return text * times

    results = [echo.enqueue(SECRET), echo.enqueue(SECRET, times=2), echo.enqueue("")]
    results += echo.enqueue_many([(SECRET, 3)])
    yard.run_worker(burst=True)
    assert [result.get(0) for result in results] == [SECRET, SECRET * 2, "", SECRET * 3]
    assert yard.result(results[1].id).get(0) == SECRET * 2
    assert yard.dead.list() == []


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_and_an_order_group(make: Declared, form: str) -> None:
    """The brokers read id and task of these bodies."""
    yard = make(**FORMS[form])
    ran: list[tuple[str, str]] = []

    @yard.task(name="first", shard="key", ordered=True, order="common")
    def first(key: str, text: str) -> str:
        ran.append(("first", text))
        return text

    @yard.task(name="second", shard="key", ordered=True, order="common")
    def second(key: str, text: str) -> str:
        ran.append(("second", text))
        raise ValueError

    @yard.task(name="many", batch=10)
    def many(texts: list[str]) -> list[str]:
        return texts[::-1]

    result = first.enqueue("k", SECRET, id="mine")
    failed = second.options(id="other").enqueue("k", SECRET)
    batch = many.enqueue_many([SECRET, "b"])
    yard.run_worker(burst=True)
    assert ran == [("first", SECRET), ("second", SECRET)]
    assert (result.get(0), failed.status()) == (SECRET, State.RETRYING)
    assert sorted(found.get(0) for found in batch) == ["b", SECRET]


def test_what_is_encrypted_is_not_found_in_the_storage(make: Declared) -> None:
    yard = make(encryption=ROTATED)

    @yard.task(name="fails", retry=0)
    def fails(text: str) -> str:
        raise ValueError("no")

    fails.enqueue(SECRET, id="its-id")
    yard.run_worker(burst=True)
    [letter] = yard.dead.list()
    assert (letter.id, letter.task, letter.failure.message) == ("its-id", "fails", "no")
    assert b"secrecy" not in letter.body


@pytest.mark.parametrize("writes", FORMS)
def test_a_worker_with_other_settings_reads_it(make: Declared, writes: str) -> None:
    got: list[str] = []

    def take(text: str) -> str:
        got.append(text)
        return text

    producer = make(**FORMS[writes]).task(name="take")(take)
    result = producer.enqueue(SECRET)
    worker = make(encryption=Keys({"old": OLD, "new": NEW}), codec=[Json()])
    plain = make().task(name="take")(take)
    before = plain.enqueue("plain")
    worker.task(name="take", codec=())(take)
    worker.run_worker(burst=True)
    assert sorted(got) == [SECRET, "plain"]
    assert [worker.result(kept.id).get(0) for kept in (result, before)] == [SECRET, "plain"]


# The limit


def test_a_result_above_the_limit_is_a_dead_letter(make: Declared) -> None:
    yard = make(max_message_bytes=500)

    @yard.task(name="grow")
    def grow(times: int) -> str:
        return SECRET * times

    result = grow.enqueue(1)
    fine = grow.enqueue(0)
    yard.run_worker(burst=True)
    with pytest.raises(TaskFailed, match=r"the result has 2,203 bytes when encoded, and the limit"):
        result.get(0)
    assert fine.get(0) == ""
    [letter] = yard.dead.list()
    assert (letter.id, letter.failure.reason) == (result.id, Reason.FAILED)
    assert "secrecy" not in str(letter.failure)


# Keys that a worker does not have


@pytest.mark.parametrize("batch", [None, 10])
@pytest.mark.parametrize("ordered", [False, True])
def test_a_message_waits_for_a_worker_with_its_key(
    make: Declared,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    batch: int | None,
    ordered: bool,
) -> None:
    got: list[str] = []
    options: dict[str, Any] = {"name": "take", "batch": batch, "ordered": ordered}

    def take(text: str) -> str:
        got.append(text)
        return text

    def take_many(texts: list[str]) -> list[str]:
        got.extend(texts)
        return texts

    def declare(yard: Yard) -> Any:
        return yard.task(**options)(take if batch is None else take_many)

    plain, old, new = make(), make(encryption=Keys({"old": OLD})), make(encryption=ROTATED)
    tasks = {yard: declare(yard) for yard in (plain, old, new)}
    results = [
        tasks[old].enqueue("a"),
        tasks[new].enqueue("b " + SECRET),
        tasks[plain].enqueue("c"),
        tasks[new].enqueue("d"),
    ]
    with caplog.at_level(logging.WARNING):
        old.run_worker(burst=True)
    assert sorted(got) == (["a"] if ordered else ["a", "c"])
    assert results[1].status() is State.RETRYING
    assert f"message {results[1].id} of task take is put off by 1 s" in caplog.text
    assert "encrypted with the key 'new', which this process does not have" in caplog.text
    assert not any(hidden in caplog.text for hidden in ("secrecy", OLD[:10], NEW[:10]))
    clock.forward(2)
    new.run_worker(burst=True)
    if ordered:
        assert [text[0] for text in got] == ["a", "b", "c", "d"]
    assert sorted(text[0] for text in got) == ["a", "b", "c", "d"]
    assert tasks[new].result(results[1].id).get(0) == "b " + SECRET
    assert new.dead.list() == []
    with pytest.raises(CannotOpen, match="key 'new'"):
        tasks[plain].result(results[1].id).get(0)


def test_and_is_a_dead_letter_in_the_end_which_can_be_retried(make: Declared, clock: Clock) -> None:
    got: list[str] = []
    plain, keyed = make(), make(encryption=ROTATED)
    tasks = [yard.task(name="take", ordered=True)(got.append) for yard in (plain, keyed)]
    tasks[1].enqueue("a", id="its-id")
    tasks[0].enqueue("b")
    rounds = 0
    while not plain.dead.list():
        assert got == []
        plain.run_worker(burst=True)
        clock.forward(61)
        rounds += 1
    assert rounds == 21
    [letter] = plain.dead.list()
    assert (letter.id, letter.failure.reason, letter.failure.kind) == (
        "its-id",
        Reason.UNREADABLE,
        "CannotOpen",
    )
    assert "encrypted with the key 'new'" in letter.failure.message
    assert got == ["b"]
    plain.dead.retry()
    keyed.run_worker(burst=True)
    assert got == ["b", "a"]


def test_what_was_changed_is_a_dead_letter_at_once(make: Declared) -> None:
    yard = make(encryption=ROTATED)
    task = yard.task(name="take")(_take)
    other = make(encryption=Keys({"new": OLD})).task(name="take")(_take)
    other.enqueue("x")
    yard.run_worker(burst=True)
    [letter] = yard.dead.list()
    assert letter.failure.reason == Reason.UNREADABLE
    assert "cannot be decrypted with the key 'new'" in letter.failure.message
    assert task.codec.keeps_results is False


def _take(text: str) -> None: ...


# Schedules


def test_schedules(make: Declared, clock: Clock) -> None:
    got: list[str] = []
    yards = [make(encryption=ROTATED, compression="zlib") for _ in range(2)]
    tasks = [yard.task(name="take")(got.append) for yard in yards]
    yards[0].schedules.add(tasks[0], SECRET, when=every(60))
    [before] = yards[0].schedules.list()
    clock.forward(30)
    yards[1].schedules.add(tasks[1], SECRET, when=every(60))  # the same: nothing is replaced
    assert yards[1].schedules.list() == [before]
    clock.forward(60)
    # Who fires it needs no key.
    without = make()
    without.task(name="other")(_take)
    without.run_worker(burst=True)
    [stored] = without.driver.run(without.broker.schedules.find(["take"]))
    assert stored is not None
    assert b"secrecy" not in stored.rule
    assert (got, sum(entry.waiting for entry in without.counts())) == ([], 1)
    yards[1].run_worker(burst=True)
    assert got == [SECRET]
