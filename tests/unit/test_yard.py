"""Declaring tasks, looking things up, opening and closing."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from taskyard import (
    Batch,
    BatchTask,
    Handler,
    Retry,
    State,
    Task,
    TaskDiscarded,
    TaskFailed,
    Yard,
)
from taskyard.brokers.base import Group, Operation
from taskyard.brokers.memory import MemoryBroker
from taskyard.errors import (
    BrokerError,
    EnqueueError,
    NotFound,
    PayloadError,
    PolicyConflict,
    PolicyError,
    ResultNotKept,
)


@pytest.fixture
def yard() -> Yard:
    return Yard("memory://")


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Yard]:
    with Yard(f"sqlite:///{tmp_path}/yard.db?synchronous=off") as yard:
        yield yard


def add(left: int, right: int = 0) -> int:
    return left + right


async def fetch(url: str) -> bytes:
    return url.encode()


class Writer(Handler[int]):
    def handle(self, number: int) -> None: ...


# Declaring


def test_a_declared_function_is_a_task(yard: Yard) -> None:
    task = yard.task(add)
    assert (task.name, task.group.queue, task.is_async, task.is_class) == (
        "add",
        "default",
        False,
        False,
    )
    assert yard.tasks == {"add": task}
    assert task(2, 3) == 5


async def test_kinds_of_handlers(yard: Yard) -> None:
    task = yard.task(fetch)
    assert task.is_async
    assert await task("a") == b"a"
    assert isinstance(yard.task(batch=True)(print), BatchTask)
    assert isinstance(yard.task(Writer), Task)
    assert yard.tasks["Writer"].is_class
    assert yard.task(name="partly")(functools.partial(add, 1))(2) == 3


def test_a_name_of_ones_own(yard: Yard) -> None:
    assert yard.task(name="plus")(add).name == "plus"
    assert yard.task(name="minus")(lambda left, right: left - right)(5, 2) == 3
    assert sorted(yard.tasks) == ["minus", "plus"]


def test_two_tasks_of_one_name(yard: Yard) -> None:
    yard.task(add)
    with pytest.raises(PolicyError, match=r"there are two tasks called 'add'.*Give one of them"):
        yard.task(queue="other")(add)
    with pytest.raises(PolicyError, match="there are two tasks called 'add'"):
        yard.task(name="add")(fetch)
    assert yard.tasks["add"].function is add


def test_two_yards_may_have_tasks_of_one_name() -> None:
    assert Yard("memory://").task(add).name == Yard("memory://").task(add).name


@pytest.mark.parametrize("thing", [5, "add", None, [add], Yard])
def test_only_functions_and_handler_classes_are_tasks(yard: Yard, thing: Any) -> None:
    with pytest.raises(PolicyError, match="a task is made of a function or a Handler class"):
        yard.task(queue="q")(thing)


def test_a_bare_decorator_with_something_else_says_so(yard: Yard) -> None:
    with pytest.raises(PolicyError, match="a task is made of a function or a Handler class"):
        yard.task("default")  # type: ignore[call-overload]


@pytest.mark.parametrize("name", ["", 5, "a\nb", "x" * 201, b"add"])
def test_wrong_names(yard: Yard, name: Any) -> None:
    with pytest.raises(PolicyError, match="name must be 1 to 200 printable characters, not"):
        yard.task(name=name)(add)
    with pytest.raises(PolicyError, match="name must be"):
        yard.remote(name)


@pytest.mark.parametrize("name", ["order:", "order:k"])
def test_a_task_is_not_called_like_the_group_of_an_order(yard: Yard, name: str) -> None:
    with pytest.raises(PolicyError, match=f"a task cannot be called '{name}': its messages would"):
        yard.task(name=name)(add)
    assert yard.task(name="orders:k")(add).group.name == "orders:k"


@pytest.mark.parametrize("shard", [None, ""])
def test_release_takes_a_shards_key_as_enqueue_does(yard: Yard, shard: object) -> None:
    released = _released(yard)
    task = yard.task(name="add", ordered=True)(add)
    yard.release(task, shard)
    yard.release(task, 1.0)
    yard.release(yard.remote("order:ledger"), UUID(int=1))
    assert released == [
        ("add", ""),
        ("add", "1"),
        ("order:ledger", "00000000-0000-0000-0000-000000000001"),
    ]
    with pytest.raises(EnqueueError, match="a shard key must be a str"):
        yard.release(task, object())


def _released(yard: Yard) -> list[tuple[str, str]]:
    """What the broker of a yard is asked to release from now on."""
    found: list[tuple[str, str]] = []
    release = yard.broker.release

    def remembering(group: Group, shard: str) -> Operation[bool]:
        found.append((group.name, shard))
        return release(group, shard)

    yard.broker.release = remembering  # type: ignore[method-assign]
    return found


def test_what_has_no_name_needs_one(yard: Yard) -> None:
    for nameless in (lambda number: number, functools.partial(add, 1)):
        with pytest.raises(PolicyError, match="has no name that a worker could know it by"):
            yard.task(nameless)


def test_a_nested_function_is_found_only_in_this_process(yard: Yard, shared: Yard) -> None:
    def nested(number: int) -> int:
        return number

    assert yard.task(nested).name == "nested"
    with pytest.raises(PolicyError, match=r"is defined inside a function.*Move it to the module"):
        shared.task(nested)
    assert shared.task(name="nested")(nested).name == "nested"


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda orders, other: None, "a batch handler takes exactly one required parameter"),
        (lambda: None, "a batch handler takes exactly one required parameter"),
        (lambda *, orders: None, "a batch handler takes exactly one required parameter"),
        (add, "a batch handler takes exactly one required parameter"),
    ],
)
def test_signatures_of_batch_handlers(yard: Yard, function: Any, text: str) -> None:
    with pytest.raises(PolicyError, match=text):
        yard.task(batch=3, name="batch")(function)


def test_annotations_that_cannot_be_sent(yard: Yard) -> None:
    def lock(it: asyncio.Lock) -> None: ...

    def answer() -> asyncio.Lock: ...  # type: ignore[empty-body]

    def one_result(numbers: list[int]) -> int: ...  # type: ignore[empty-body]

    with pytest.raises(PolicyError, match=r"parameter 'it'.*Lock` cannot be sent"):
        yard.task(lock)
    with pytest.raises(PolicyError, match=r"the result.*Lock` cannot be sent"):
        yard.task(answer)
    with pytest.raises(PolicyError, match="returns a list with one result per item"):
        yard.task(batch=3)(one_result)  # type: ignore[arg-type]


def test_a_handler_that_yields_never_runs_so_it_is_refused(yard: Yard) -> None:
    def numbers(count: int) -> Iterator[int]:
        yield from range(count)

    async def lines(count: int) -> AsyncIterator[int]:
        yield count

    def untyped(count):  # type: ignore[no-untyped-def]
        yield count

    for function in (numbers, lines, untyped):
        with pytest.raises(PolicyError, match=r"yield|cannot be sent"):
            yard.task(function)


def test_a_handler_class_without_handle(yard: Yard) -> None:
    class Empty:
        pass

    with pytest.raises(PolicyError, match="handle"):
        yard.task(Empty)


@pytest.mark.parametrize("shard", ["usr", "user_id"])
def test_a_shard_that_names_no_argument(yard: Yard, shard: str) -> None:
    def notify(user: str, text: str = "") -> None: ...

    with pytest.raises(PolicyError, match=rf"shard='{shard}'.*user, text"):
        yard.task(shard=shard)(notify)


def test_a_shard_may_name_what_variable_arguments_take(yard: Yard) -> None:
    def notify(text: str, **more: str) -> None: ...

    task = yard.task(shard="user")(notify)
    task.enqueue("hi", user="ann")


# Orders


def ordered(yard: Yard, name: str, **options: Any) -> Task[[int], None]:
    def handler(number: int) -> None: ...

    task: Task[[int], None] = yard.task(name=name, ordered=True, order="account", **options)(
        handler
    )
    return task


def test_tasks_of_an_order_share_a_group(yard: Yard) -> None:
    first, second = ordered(yard, "deposit"), ordered(yard, "withdraw")
    assert first.group == second.group


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"on_error": "park"}, "on_error"),
        ({"max_deliveries": 5}, "max_deliveries"),
        ({"on_error": "skip", "max_deliveries": 5}, "on_error, max_deliveries"),
    ],
)
def test_tasks_of_an_order_need_the_same_policy(
    yard: Yard, options: dict[str, Any], text: str
) -> None:
    ordered(yard, "deposit")
    with pytest.raises(PolicyError) as caught:
        ordered(yard, "withdraw", **options)
    assert str(caught.value).startswith(
        f"tasks 'withdraw' and 'deposit' share the order 'account' but differ in {text}:"
    )
    assert list(yard.tasks) == ["deposit"]


def test_tasks_of_an_order_are_of_one_kind(yard: Yard) -> None:
    ordered(yard, "deposit")

    async def withdraw(number: int) -> None: ...

    def save(numbers: list[int]) -> None: ...

    with pytest.raises(PolicyError, match="differ in being async"):
        yard.task(ordered=True, order="account")(withdraw)
    with pytest.raises(PolicyError, match="differ in batch"):
        yard.task(ordered=True, order="account", batch=5)(save)


def test_orders_of_other_queues_are_other_orders(yard: Yard) -> None:
    first = ordered(yard, "deposit")
    second = ordered(yard, "withdraw", queue="other", on_error="park")
    assert first.group != second.group


def test_a_policy_that_contradicts_what_is_waiting(tmp_path: Path) -> None:
    def declare(**options: Any) -> Task[..., Any]:
        yard = Yard(f"sqlite:///{tmp_path}/yard.db?synchronous=off")
        task: Task[..., Any] = yard.task(**options)(add)
        return task

    declare(shard="left", ordered=True).enqueue(1)
    declare(shard="left", ordered=True, retry=9).enqueue(2)
    with pytest.raises(
        PolicyConflict, match=r"add is declared with 4 claims per shard.*stored with 1"
    ):
        declare(shard="left", shard_concurrency=4).enqueue(3)


# Looking


def test_results_by_id(yard: Yard) -> None:
    task = yard.task(add)
    task.enqueue(1, 2, id="sum")
    assert task.result("sum").status() is State.WAITING
    yard.run_worker(burst=True)
    assert task.result("sum").get(0) == 3
    assert yard.result("sum").get(0) == 3
    with pytest.raises(NotFound, match="there is no record of message nope"):
        yard.result("nope").get(0)


@pytest.mark.parametrize("message_id", [None, 5, "", "a\0b", "\ud800", "x" * 201])
def test_what_can_be_no_id_is_refused(yard: Yard, message_id: Any) -> None:
    task = yard.task(results_of_ids, name="known")
    for look in (yard.result, yard.progress, yard.cancel, yard.explain, task.result):
        with pytest.raises(EnqueueError, match="id must be a text of 1 to 200 characters"):
            look(message_id)


def results_of_ids() -> int:
    return 1


def test_results_come_typed_by_the_task_and_plain_by_the_yard(yard: Yard) -> None:
    def path(name: str) -> Path:
        return Path(name)

    task = yard.task(path)
    result = task.enqueue("/tmp", id="p")
    yard.run_worker(burst=True)
    assert result.get(0) == Path("/tmp")
    assert yard.result("p").get(0) == "/tmp"


def test_counts(yard: Yard) -> None:
    task = yard.task(add)
    task.enqueue_many([(1, 2)] * 3)
    task.enqueue(1, delay=60)
    (counts,) = yard.counts()
    assert (counts.group.name, counts.waiting, counts.delayed) == ("add", 3, 1)


def test_dead_letters_by_hand(yard: Yard) -> None:
    fails = True

    def flaky(number: int) -> int:
        if fails:
            raise ValueError(f"no {number}")
        return number

    task = yard.task(retry=0)(flaky)
    results = task.enqueue_many(range(5))
    yard.run_worker(burst=True, concurrency=1)
    letters = yard.dead.list()
    assert [letter.failure.message for letter in letters] == [f"no {n}" for n in range(5)]
    assert [letter.id for letter in letters] == [result.id for result in results]
    assert {(letter.task, letter.group.queue) for letter in letters} == {("flaky", "default")}
    assert [letter.id for letter in yard.dead.list(after=letters[1].number, limit=2)] == [
        results[2].id,
        results[3].id,
    ]
    assert yard.dead.list(queue="other") == []
    assert yard.dead.list(task="other") == []
    assert yard.dead.retry([letters[0].number, letters[1].number]) == 2
    assert yard.dead.discard([letters[2].number]) == 1
    assert yard.dead.discard(limit=1) == 1
    fails = False
    yard.run_worker(burst=True)
    assert [results[0].get(0), results[1].get(0)] == [0, 1]
    for discarded in (results[2], results[3]):
        with pytest.raises(TaskDiscarded):
            discarded.get(0)
    with pytest.raises(TaskFailed, match="no 4"):
        results[4].get(0)
    assert [letter.id for letter in yard.dead.list()] == [results[4].id]


def test_release_says_whether_there_was_something(yard: Yard) -> None:
    task = yard.task(ordered=True, on_error="park", retry=0, shard="left")(add)
    assert yard.release(task, 1) is False
    assert yard.release("add", "1") is False
    with pytest.raises(NotFound, match="this yard has no task 'nope'; it has add"):
        yard.release("nope")


# Opening and closing


def test_nothing_is_opened_before_it_is_needed(tmp_path: Path) -> None:
    yard = Yard(f"sqlite:///{tmp_path}/yard.db")
    yard.task(name="add")(add)
    assert list(tmp_path.iterdir()) == []
    yard.close()


def test_a_closed_yard_can_be_used_again(shared: Yard) -> None:
    task = shared.task(add)
    task.enqueue(1)
    shared.close()
    shared.close()
    task.enqueue(2)
    assert shared.counts()[0].waiting == 2


def test_another_broker_from_now_on(yard: Yard, tmp_path: Path) -> None:
    task = yard.task(add)
    before = task.enqueue(1, 1)
    yard.use(f"sqlite:///{tmp_path}/yard.db?synchronous=off")
    result = task.enqueue(1, 2)
    yard.run_worker(burst=True)
    assert result.get(0) == 3
    with pytest.raises(NotFound):
        task.result(before.id).get(0)
    other = MemoryBroker()
    yard.use(other)
    assert yard.broker is other
    assert yard.counts() == []
    yard.close()


def test_a_result_of_the_broker_before_says_so(yard: Yard, tmp_path: Path) -> None:
    before = yard.task(add).enqueue(1, 1)
    yard.use(f"sqlite:///{tmp_path}/yard.db?synchronous=off")
    with pytest.raises(BrokerError, match=r"belongs to memory://, but its yard uses sqlite:///"):
        before.status()
    yard.close()


async def test_a_yard_on_one_event_loop_after_the_other(shared: Yard) -> None:
    task = shared.task(add)
    await task.aenqueue(1)

    def other() -> None:
        async def main() -> None:
            await task.aenqueue(2)
            await shared.aclose()

        asyncio.run(main())

    await asyncio.to_thread(other)
    await task.aenqueue(3)
    assert shared.counts()[0].waiting == 3
    await shared.aclose()


def test_what_a_yard_looks_like(yard: Yard) -> None:
    yard.task(add)
    assert repr(yard) == "<Yard at memory://, 1 tasks>"


# Results that are kept, or not


@pytest.mark.parametrize(
    ("annotated", "options", "kept"),
    [
        (int, {}, True),
        (None, {}, False),
        (Any, {}, True),
        (None, {"result_ttl": 60}, True),
        (int, {"result_ttl": None}, False),
    ],
)
def test_which_results_are_kept(
    yard: Yard, annotated: Any, options: dict[str, Any], kept: bool
) -> None:
    def handler(number: int) -> Any: ...

    handler.__annotations__["return"] = annotated
    result = yard.task(**options)(handler).enqueue(1)
    if kept:
        assert result.status() is State.WAITING
        return
    asked: list[Callable[[], Any]] = [result.status, result.failure, lambda: result.get(0)]
    for ask in asked:
        with pytest.raises(ResultNotKept, match=r"nothing is kept.*result_ttl=3600"):
            ask()


def test_a_batch_handler_that_returns_nothing_keeps_nothing(yard: Yard) -> None:
    def save(numbers: list[int]) -> None: ...

    with pytest.raises(ResultNotKept):
        yard.task(batch=Batch(3), retry=Retry(0))(save).enqueue(1).get(0)


def test_payload_errors_name_the_task(yard: Yard) -> None:
    with pytest.raises(PayloadError, match="task 'plus'"):
        yard.task(name="plus")(add).enqueue("one")  # type: ignore[call-overload]
