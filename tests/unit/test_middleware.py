"""Middleware at the producer: what it is told, what it may add, and what its errors do."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from taskyard import EnqueueCall, Middleware, Yard
from taskyard.brokers.base import Want
from taskyard.errors import EnqueueError, PayloadError, PolicyError
from taskyard.message import read_headers


@pytest.fixture
def yard() -> Yard:
    return Yard("memory://")


def stored(yard: Yard) -> list[bytes]:
    """The bodies of all messages that wait."""
    from taskyard.brokers.base import GroupWant

    groups = [GroupWant(task.group, 10_000) for task in yard.tasks.values()]
    bodies: list[bytes] = []
    while True:
        want = Want(groups, "test", 60_000_000, claims=100, drain=True, messages=100_000)
        step = yard.driver.run(yard.broker.step([], want))
        if not step.claims:
            return bodies
        for claim in step.claims:
            bodies += [message.body for lane in claim.lanes for _, message in lane.messages]


class Noting(Middleware):
    """Notes what happens, and gives its name to messages."""

    def __init__(self, name: str, notes: list[Any]) -> None:
        self.name = name
        self.notes = notes

    @contextmanager
    def enqueue(self, call: EnqueueCall) -> Iterator[None]:
        self.notes.append((self.name, call.messages))
        call.headers[self.name] = call.task
        try:
            yield
        except Exception as error:
            self.notes.append((self.name, type(error)))
            raise
        self.notes.append((self.name, call.messages))


def test_the_first_one_is_the_outermost(yard: Yard) -> None:
    notes: list[Any] = []
    yard.use_middleware(Noting("a", notes))
    yard.use_middleware(Noting("b", notes))

    @yard.task(name="add")
    def add(x: int) -> None: ...

    add.enqueue(1)
    assert notes == [("a", 0), ("b", 0), ("b", 1), ("a", 1)]
    [body] = stored(yard)
    assert read_headers(body) == {"a": "add", "b": "add"}


def test_without_middleware_messages_have_no_headers(yard: Yard) -> None:
    yard.use_middleware(Middleware())

    @yard.task(name="add")
    def add(x: int) -> None: ...

    add.enqueue(1)
    add.enqueue_many([2, 3])
    assert [body[0] for body in stored(yard)] == [0x93] * 3
    assert yard.around_enqueue == []  # it overrides nothing, so nobody looks at it


async def test_async_calls_and_many_messages(yard: Yard) -> None:
    notes: list[Any] = []
    yard.use_middleware(Noting("a", notes))

    @yard.task(name="add", shard="x")
    def add(x: int) -> None: ...

    await add.aenqueue(1)
    await add.aenqueue_many(range(2, 5))
    await asyncio.to_thread(add.enqueue_many, range(5, 2505))  # three chunks
    assert notes == [("a", 0), ("a", 1), ("a", 0), ("a", 3), ("a", 0), ("a", 2500)]
    bodies = stored(yard)
    assert len(bodies) == 2504
    assert {read_headers(body)["a"] for body in bodies} == {"add"}
    await yard.aclose()


def test_what_a_call_is_described_by(yard: Yard) -> None:
    calls: list[EnqueueCall] = []

    class Keeping(Middleware):
        @contextmanager
        def enqueue(self, call: EnqueueCall) -> Iterator[None]:
            calls.append(call)
            yield

    yard.use_middleware(Keeping())

    @yard.task(name="add", queue="sums")
    def add(x: int) -> None: ...

    result = add.enqueue(1)
    add.options(id="mine").enqueue(2)
    add.enqueue_many([3])
    described = [(call.task, call.queue, call.message_id, call.many) for call in calls]
    assert described == [
        ("add", "sums", result.id, False),
        ("add", "sums", "mine", False),
        ("add", "sums", "", True),
    ]


def test_within_a_buffered_block_headers_are_kept(yard: Yard) -> None:
    yard.use_middleware(Noting("a", []))

    @yard.task(name="add")
    def add(x: int) -> None: ...

    with yard.buffered():
        add.enqueue(1)
        add.enqueue(2)
    assert [read_headers(body) for body in stored(yard)] == [{"a": "add"}] * 2


def test_a_middleware_runs_in_the_producers_context(yard: Yard) -> None:
    tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant")

    class Tenants(Middleware):
        @contextmanager
        def enqueue(self, call: EnqueueCall) -> Iterator[None]:
            call.headers["tenant"] = tenant.get()
            yield

    yard.use_middleware(Tenants())

    @yard.task(name="add")
    def add(x: int) -> None: ...

    async def main() -> None:
        async def one(name: str) -> None:
            tenant.set(name)
            await asyncio.sleep(0)
            await add.aenqueue(1)

        await asyncio.gather(*(one(str(number)) for number in range(5)))
        await yard.aclose()

    asyncio.run(main())
    assert sorted(read_headers(body)["tenant"] for body in stored(yard)) == list("01234")


# Errors


class Refusing(Middleware):
    @contextmanager
    def enqueue(self, call: EnqueueCall) -> Iterator[None]:
        raise PermissionError("not you")
        yield


def test_an_error_on_the_way_in_stores_nothing(yard: Yard) -> None:
    notes: list[Any] = []
    yard.use_middleware(Noting("a", notes))
    yard.use_middleware(Refusing())
    yard.use_middleware(Noting("c", notes))

    @yard.task(name="add")
    def add(x: int) -> None: ...

    async def main() -> None:
        with pytest.raises(PermissionError):
            await add.aenqueue(1)
        with pytest.raises(PermissionError):
            await add.aenqueue_many([1])

    with pytest.raises(PermissionError):
        add.enqueue(1)
    with pytest.raises(PermissionError):
        add.enqueue_many([1])
    asyncio.run(main())
    assert stored(yard) == []
    assert notes == [("a", 0), ("a", PermissionError)] * 4


def test_an_error_on_the_way_out_is_logged(yard: Yard, caplog: pytest.LogCaptureFixture) -> None:
    class Late(Middleware):
        @contextmanager
        def enqueue(self, call: EnqueueCall) -> Iterator[None]:
            yield
            raise RuntimeError("too late")

    notes: list[Any] = []
    yard.use_middleware(Noting("a", notes))
    yard.use_middleware(Late())

    @yard.task(name="add")
    def add(x: int) -> None: ...

    with caplog.at_level(logging.ERROR, "taskyard.middleware"):
        add.enqueue(1)
    assert notes == [("a", 0), ("a", 1)]
    assert [record.exc_info and str(record.exc_info[1]) for record in caplog.records] == [
        "too late"
    ]
    assert len(stored(yard)) == 1


def test_a_middleware_cannot_hide_an_error(yard: Yard) -> None:
    notes: list[Any] = []

    class Hiding(Middleware):
        def enqueue(self, call: EnqueueCall) -> Any:
            class Manager:
                def __enter__(self) -> None: ...

                def __exit__(self, *_: Any) -> bool:
                    return True

            return Manager()

    yard.use_middleware(Noting("a", notes))
    yard.use_middleware(Hiding())

    @yard.task(name="add", result_ttl=60)
    def add(x: int) -> None: ...

    add.options(id="one").enqueue(1)
    with pytest.raises(EnqueueError):
        add.options(id="one").enqueue(1)
    assert notes == [("a", 0), ("a", 1), ("a", 0), ("a", notes[-1][1])]
    assert issubclass(notes[-1][1], EnqueueError)


def test_an_argument_that_does_not_fit_is_no_call(yard: Yard) -> None:
    notes: list[Any] = []
    yard.use_middleware(Noting("a", notes))

    @yard.task(name="add")
    def add(x: int) -> None: ...

    with pytest.raises(PayloadError):
        add.enqueue("one")  # type: ignore[arg-type]
    assert notes == []


@pytest.mark.parametrize("value", [1, None, b"x", "\ud800"])
def test_headers_are_texts(yard: Yard, value: Any) -> None:
    class Wrong(Middleware):
        @contextmanager
        def enqueue(self, call: EnqueueCall) -> Iterator[None]:
            call.headers["a"] = value
            yield

    yard.use_middleware(Wrong())

    @yard.task(name="add")
    def add(x: int) -> None: ...

    with pytest.raises(EnqueueError, match="headers must be texts"):
        add.enqueue(1)
    with pytest.raises(EnqueueError, match="headers must be texts"):
        add.enqueue_many([1])
    assert stored(yard) == []


@pytest.mark.parametrize("wrong", [None, Middleware, object()])
def test_only_middleware_is_middleware(yard: Yard, wrong: Any) -> None:
    with pytest.raises(PolicyError, match="instance of Middleware"):
        yard.use_middleware(wrong)
