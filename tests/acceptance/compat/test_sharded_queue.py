"""What the document of sharded-queue says, in one process."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar, NamedTuple, Self, TypeVar

import msgspec
import pydantic
import pytest
from dateutil.rrule import SECONDLY
from dateutil.rrule import rrule as make_rrule

from taskyard import Retry, every
from taskyard.compat import sharded_queue
from taskyard.compat.sharded_queue import (
    Handler,
    JsonTupleSerializer,
    Queue,
    Route,
    RuntimeCoordinator,
    RuntimeLock,
    RuntimeStorage,
    ShardedQueueSettings,
    Tube,
    Worker,
    drivers,
    settings,
)
from taskyard.compat.sharded_queue import handlers as handlers_module
from taskyard.compat.sharded_queue import tasks as tasks_module
from taskyard.compat.sharded_queue import worker as worker_module
from taskyard.compat.sharded_queue.recurrence import when_of
from taskyard.compat.sharded_queue.settings import SettingError
from taskyard.errors import (
    BrokerError,
    EnqueueError,
    NotFound,
    PayloadError,
    PolicyError,
    QueueFull,
    WorkerError,
)
from taskyard.schedule import Every, Recurrence

T = TypeVar("T")
DEADLINE = 20.0


@pytest.fixture(autouse=True)
def own_handlers_and_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test sees the handlers, or what was assigned to the settings, of another."""
    monkeypatch.setattr(handlers_module, "_defined", {})
    settings.worker_empty_pause = 0.01
    yield
    for name in list(vars(settings)):
        delattr(settings, name)


class Request(NamedTuple):
    user_id: int


class Recorder(Handler[Request]):
    """Threads by user; what is done is noted in the lists of the class."""

    seen: ClassVar[list[list[int]]] = []
    events: ClassVar[list[str]] = []

    @classmethod
    async def route(cls, *requests: Request) -> list[Route]:
        return [Route(request.user_id % 3) for request in requests]

    @classmethod
    async def create(cls) -> Self:
        cls.events.append("create")
        return cls()

    async def start(self) -> None:
        self.events.append("start")

    async def perform(self, *requests: Request) -> None:
        self.seen.append([request.user_id for request in requests])
        self.events.append("perform")

    async def stop(self) -> None:
        self.events.append("stop")


def recorder(**members: Any) -> type[Recorder]:
    """A handler of its own, with something overridden."""
    fresh: dict[str, Any] = {"seen": [], "events": []}
    return type("Recording", (Recorder,), {**fresh, "__module__": __name__, **members})


def requests(*users: int) -> list[Request]:
    return [Request(user) for user in users]


def joined(batches: list[list[int]]) -> list[int]:
    return [user for batch in batches for user in batch]


def runtime() -> Queue[Any]:
    return Queue(RuntimeStorage())


async def work(queue: Queue[Any], limit: int | None = None, loops: int = 1) -> None:
    workers = [Worker(RuntimeCoordinator(), queue) for _ in range(loops)]
    async with asyncio.timeout(DEADLINE):
        await asyncio.gather(*(worker.loop(limit) for worker in workers))


async def until_seen(handler: type[Recorder]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not handler.seen:  # noqa: ASYNC110 - a handler tells nobody
            await asyncio.sleep(0.01)


# Threads and limits


async def test_the_program_of_the_document() -> None:
    handler, queue = recorder(), runtime()
    await queue.register(handler, *requests(*range(1, 9)))
    await work(queue, 3, loops=3)
    assert sorted(handler.seen) == [[1, 4, 7], [2, 5, 8], [3, 6]]
    assert handler.events.count("create") == handler.events.count("stop") == 3


async def test_a_limit_is_exact_and_the_rest_is_left() -> None:
    handler, queue = recorder(), runtime()
    await queue.register(handler, *requests(*[0] * 300))
    await work(queue, 0)
    assert handler.seen == []
    await work(queue, 1)
    await work(queue, 200)
    assert [len(batch) for batch in handler.seen] == [1, 128, 72]
    assert await queue.storage.length(Tube(handler, Route(0)).pipe) == 99


async def test_create_and_start_come_first_and_stop_before_loop_returns() -> None:
    handler, queue = recorder(), runtime()
    await queue.register(handler, *requests(3, 6))
    await work(queue, 5)  # it has handled some, and all stays empty
    assert handler.events == ["create", "start", "perform", "stop"]
    assert handler.seen == [[3, 6]]


async def test_a_thread_is_left_when_it_is_empty_for_long_enough() -> None:
    stopped = asyncio.Event()

    async def stop(self: Any) -> None:
        stopped.set()

    handler, queue = recorder(stop=stop), runtime()
    settings.worker_empty_limit, settings.worker_empty_pause = 2, 0.05
    working = asyncio.create_task(work(queue))
    await queue.register(handler, *requests(3))
    async with asyncio.timeout(DEADLINE):
        await stopped.wait()
    assert not working.done()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working


async def test_a_loop_that_has_handled_nothing_waits() -> None:
    handler, queue = recorder(), runtime()
    settings.worker_empty_pause = 0
    queue.storage.task(handler)
    working = asyncio.create_task(work(queue, 1))
    for _ in range(3):  # rounds in which it finds all empty
        await asyncio.sleep(0.06)
    assert not working.done()
    await queue.register(handler, *requests(1))
    await working
    assert handler.seen == [[1]]


async def test_workers_of_one_loop_never_share_a_thread() -> None:
    running: set[int] = set()
    order: dict[int, list[int]] = {}

    async def perform(self: Any, *batch: Request) -> None:
        thread = batch[0].user_id % 3
        assert thread not in running
        running.add(thread)
        await asyncio.sleep(0.002)
        order.setdefault(thread, []).extend(request.user_id for request in batch)
        running.remove(thread)

    handler, queue = recorder(perform=perform, batch_size=lambda self: 10), runtime()
    await queue.register(handler, *requests(*range(600)))
    await work(queue, 200, loops=3)
    assert order == {thread: list(range(thread, 600, 3)) for thread in range(3)}


async def test_cancelled_it_gives_its_batch_back_and_stops_the_handler() -> None:
    began = asyncio.Event()

    async def perform(self: Any, *batch: Request) -> None:
        began.set()
        await asyncio.Event().wait()

    handler, queue = recorder(perform=perform), runtime()
    await queue.register(handler, *requests(3, 6))
    working = asyncio.create_task(Worker(RuntimeLock(), queue).loop())
    async with asyncio.timeout(DEADLINE):
        await began.wait()
        assert await queue.storage.length(Tube(handler, Route(0)).pipe) == 0
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working
    assert handler.events == ["create", "start", "stop"]
    assert await queue.storage.range(Tube(handler, Route(0)).pipe, 9) == ["[3]", "[6]"]


# Priorities, batches


async def test_lower_priorities_come_first() -> None:
    async def route(cls: Any, *batch: Request) -> list[Route]:
        return [Route(0, request.user_id) for request in batch]

    handler, queue = recorder(route=classmethod(route)), runtime()
    await queue.register(handler, *requests(2, 1, 3, -1, 1))
    await work(queue, 5)
    assert joined(handler.seen) == [-1, 1, 1, 2, 3]


async def test_listed_priorities_come_in_that_order_and_others_behind() -> None:
    async def route(cls: Any, *batch: Request) -> list[Route]:
        return [Route(0, request.user_id) for request in batch]

    handler = recorder(route=classmethod(route), priorities=[3, 2, 1])
    queue = runtime()
    await queue.register(handler, *requests(1, 7, 2, 0, 3, 1))
    assert sorted(await queue.storage.pipes()) == [
        f"{__name__}/Recording/0/{priority}" for priority in (0, 1, 2, 3, 7)
    ]
    await work(queue, 6)
    assert joined(handler.seen) == [3, 2, 1, 1, 0, 7]
    await queue.register(handler, *requests(1023, 2))
    await work(queue, 2)
    assert joined(handler.seen)[6:] == [2, 1023]


@pytest.mark.parametrize("own", [None, 4])
async def test_batches_have_the_size_of_the_settings_or_of_the_handler(own: int | None) -> None:
    handler, queue = recorder(batch_size=lambda self: own), runtime()
    settings.worker_batch_size = 10
    await queue.register(handler, *requests(*[0] * 25))
    await work(queue, 25)
    assert [len(batch) for batch in handler.seen] == ([10, 10, 5] if own is None else [4] * 6 + [1])


# What requests are


@dataclass
class AsDataclass:
    number: int
    when: datetime


class AsTuple(NamedTuple):
    number: int
    when: datetime


class AsStruct(msgspec.Struct):
    number: int
    when: datetime


class AsModel(pydantic.BaseModel):
    number: int
    when: datetime


class Plain:
    """With attributes and a constructor, as in the document."""

    number: int

    def __init__(self, number: int, when: str) -> None:
        self.number = number
        self.when = when

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plain) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]


NOW = datetime(2026, 11, 21, 12, 30)  # noqa: DTZ001 - as rules of dateutil have it
FORMS: list[Any] = [
    AsDataclass(1, NOW),
    AsTuple(1, NOW),
    AsStruct(1, NOW),
    AsModel(number=1, when=NOW),
    Plain(1, "now"),
]


@pytest.mark.parametrize("method", ["perform", "handle", "route", "argument"])
@pytest.mark.parametrize("request_", FORMS, ids=lambda form: type(form).__name__)
async def test_requests_of_all_forms_arrive_as_what_they_were(request_: Any, method: str) -> None:
    kind = type(request_)
    seen: list[Any] = []

    async def run(self: Any, *requests: Any) -> None:
        seen.extend(requests)

    async def route(cls: Any, *requests: Any) -> list[Route]:
        return [Route() for _ in requests]

    if method in ("perform", "handle"):
        run.__annotations__["requests"] = kind
    if method == "route":
        route.__annotations__["requests"] = kind
    members = {"handle" if method == "handle" else "perform": run, "route": classmethod(route)}
    base: Any = Handler
    if method == "argument":
        base = base[kind]
    handler = __import__("types").new_class("Typed", (base,), {}, lambda body: body.update(members))
    assert handler.request_cls() is kind
    queue = runtime()
    await queue.register(handler, request_, request_)
    pipe = Tube(handler, Route()).pipe
    [text, _] = await queue.storage.range(pipe, 9)
    assert await queue.storage.contains(pipe, text)
    await queue.storage.append(pipe, text)
    await work(queue, 3)
    assert seen == [request_] * 3


async def test_a_request_that_does_not_fit_is_refused_at_once() -> None:
    async def route(cls: Any, *batch: Request) -> list[Route]:
        return [Route() for _ in batch]

    handler, queue = recorder(route=classmethod(route)), runtime()
    with pytest.raises(PayloadError, match="Expected `int`, got `str`"):
        await queue.register(handler, Request("five"))  # type: ignore[arg-type]
    assert await queue.storage.pipes() == []


async def test_a_serializer_of_ones_own() -> None:
    class Spelled:
        def serialize(self, request: Request) -> str:
            return f"user {request.user_id}"

        def deserialize(self, cls: type[Any], source: str) -> Any:
            return cls(int(source.removeprefix("user ")))

    handler = recorder()
    queue: Queue[Any] = Queue(RuntimeStorage(), Spelled())
    await queue.register(handler, *requests(3, 6))
    assert await queue.storage.range(Tube(handler, Route(0)).pipe, 9) == ["user 3", "user 6"]
    await work(queue, 2)
    assert handler.seen == [[3, 6]]


async def test_a_handler_may_say_itself_what_its_requests_are() -> None:
    async def perform(self: Any, *batch) -> None:  # type: ignore[no-untyped-def]
        self.seen.append([request.user_id for request in batch])

    async def route(cls: Any, *batch) -> list[Route]:  # type: ignore[no-untyped-def]
        return [Route() for _ in batch]

    handler, queue = (
        recorder(
            perform=perform,
            route=classmethod(route),
            request_cls=classmethod(lambda cls: Request),
        ),
        runtime(),
    )
    await queue.register(handler, *requests(1))
    await work(queue, 1)
    assert handler.seen == [[1]]


async def test_a_handler_without_a_class_of_requests_is_refused_and_harms_no_worker() -> None:
    class Untyped(Handler[Any]):
        async def perform(self, *requests) -> None:  # type: ignore[no-untyped-def]
            pass

    class Generic(Handler[T]):
        async def perform(self, *requests: T) -> None:
            pass

    class Lost(Handler[Any]):
        async def perform(self, *requests: Nowhere) -> None:  # type: ignore[name-defined]  # noqa: F821
            pass

    handler, queue = recorder(), runtime()
    for wrong in (Untyped, Generic):
        with pytest.raises(PolicyError, match="annotate the \\*requests"):
            await queue.register(wrong, Request(1))
    with pytest.raises(PolicyError, match="Nowhere"):
        await queue.register(Lost, Request(1))
    await queue.register(handler, *requests(1))
    await work(queue, 1)
    assert handler.seen == [[1]]


# Wrong use


async def test_wrong_use_is_told() -> None:
    async def route(cls: Any, *batch: Request) -> list[Route]:
        return [Route()]

    queue = runtime()
    with pytest.raises(PolicyError, match="subclass of Handler"):
        await queue.register(Request, Request(1))  # type: ignore[arg-type]
    with pytest.raises(EnqueueError, match="it got 2 and returned 1"):
        await queue.register(recorder(route=classmethod(route)), *requests(1, 2))
    for wrong in (None, [7], [(1,)], ["ab"]):
        routing = recorder(route=classmethod(lambda cls, *_, wrong=wrong: wrong))
        with pytest.raises(EnqueueError, match="route\\(\\) must return"):
            await queue.register(routing, Request(1))
    with pytest.raises(PolicyError, match="RuntimeStorage or a RedisStorage"):
        Queue({})  # type: ignore[arg-type]
    with pytest.raises(PolicyError, match="a coordinator and a Queue"):
        Worker(queue, RuntimeCoordinator())  # type: ignore[arg-type]
    with pytest.raises(PolicyError, match="contradict"):
        await queue.register(recorder(), Request(1), defer=1, recurrent=1)
    with pytest.raises(BrokerError, match="client of redis-py"):
        drivers.RedisStorage(object())
    worker = Worker(RuntimeCoordinator(), queue)
    with pytest.raises(PolicyError, match="subclass of Handler"):
        await worker.loop(handler=Request)  # type: ignore[arg-type]
    for limit in ("3", 2.5):
        with pytest.raises(WorkerError, match="limit must be a whole number"):
            await worker.loop(limit)  # type: ignore[arg-type]
    await queue.register(recorder())  # nothing to store


async def test_a_full_queue_refuses_and_keeps_what_it_has() -> None:
    handler, queue = recorder(), runtime()
    yard = queue.storage.yard
    yard.bound(queue.storage.task(handler).group.queue, max_length=3)
    await queue.register(handler, *requests(0, 3))
    with pytest.raises(QueueFull):
        await queue.register(handler, *requests(6, 9))
    await work(queue, 2)
    assert handler.seen == [[0, 3]]


# A handler that raises


async def test_what_raises_blocks_its_thread_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tasks_module, "RETRY", Retry(2, backoff="constant", delay=0.01))
    tried: list[list[int]] = []

    async def perform(self: Any, *batch: Request) -> None:
        tried.append([request.user_id for request in batch])
        if 3 in tried[-1]:
            raise ValueError("not this one")
        self.seen.append(tried[-1])

    handler, queue = recorder(perform=perform), runtime()
    await queue.register(handler, *requests(0, 3, 6, 1, 4))
    with caplog.at_level(logging.WARNING):
        await work(queue, 5)
    handled = joined(handler.seen)
    assert [user for user in handled if user % 3 == 0] == [0, 6]
    assert [user for user in handled if user % 3 == 1] == [1, 4]
    assert tried.count([3]) >= 3
    assert "not this one" in caplog.text
    [letter] = queue.storage.yard.dead.list()
    assert letter.failure is not None
    assert letter.failure.message == "not this one"


async def test_what_raises_once_is_handled_in_its_order() -> None:
    failed: list[bool] = []

    async def perform(self: Any, *batch: Request) -> None:
        if not failed:
            failed.append(True)
            raise ConnectionError("not now")
        self.seen.append([request.user_id for request in batch])

    handler, queue = recorder(perform=perform, batch_size=lambda self: 1), runtime()
    await queue.register(handler, *requests(0, 3, 6))
    await work(queue, 3)
    assert handler.seen == [[0], [3], [6]]
    assert queue.storage.yard.dead.list() == []


async def test_a_handler_that_cannot_say_its_batch_size_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(worker_module, "PATIENCE", 0.01)
    failures = [OSError("the database is away"), OSError("the database is away")]

    async def create(cls: Any) -> Any:
        if failures:
            raise failures.pop()
        return cls()

    class Other(Recorder):
        seen: ClassVar[list[list[int]]] = []

    other, queue = Other, runtime()
    handler = recorder(create=classmethod(create), batch_size=lambda self: 2)
    await queue.register(other, *requests(0))
    await queue.register(handler, *requests(0, 3, 6))
    await work(queue, 4)
    assert other.seen == [[0]]
    assert handler.seen == [[0, 3], [6]]
    assert caplog.text.count("the database is away") == 2
    assert queue.storage.yard.dead.list() == []


async def test_no_method_has_to_be_async() -> None:
    class Plain(Handler[Request]):
        events: ClassVar[list[Any]] = []

        @classmethod
        def create(cls) -> Self:  # type: ignore[override]
            cls.events.append("create")
            return cls()

        @classmethod
        def route(cls, *batch: Request) -> list[Route]:  # type: ignore[override]
            return [Route(5) for _ in batch]

        def start(self) -> None:  # type: ignore[override]
            self.events.append("start")

        def perform(self, *batch: Request) -> None:  # type: ignore[override]
            self.events.append(len(batch))

        def stop(self) -> None:  # type: ignore[override]
            self.events.append("stop")

        def batch_size(self) -> int:
            return 2

    queue = runtime()
    await queue.register(Plain, *requests(1, 2, 3))
    await work(queue, 3)
    assert Plain.events == ["create", "create", "start", 2, 1, "stop"]


# Who is known


async def test_handlers_that_are_defined_later_are_served_too() -> None:
    queue = runtime()
    working = asyncio.create_task(work(queue, 2))
    await asyncio.sleep(0)
    first = recorder()
    await queue.register(first, *requests(1))
    await until_seen(first)
    second: Any = type("Second", (first,), {"seen": [], "__module__": __name__})
    await queue.register(second, *requests(2))
    await working
    assert (first.seen, second.seen) == ([[1]], [[2]])


async def test_requests_without_a_handler_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    unknown, queue = type("Unknown", (recorder(),), {"__module__": __name__}), runtime()
    await queue.register(unknown, *requests(1))
    pipe = Tube(unknown, Route(1)).pipe
    del handlers_module._defined[handlers_module.name_of(unknown)]
    known = recorder()
    await queue.register(known, *requests(2))
    await work(queue, 2)
    assert known.seen == [[2]]
    assert pipe in await queue.storage.pipes()
    with pytest.raises(NotFound, match="import its module"):
        await queue.storage.length(pipe)


async def test_a_loop_of_one_handler_leaves_the_others() -> None:
    one, queue = recorder(), runtime()
    other: Any = type("Other", (one,), {"seen": [], "__module__": __name__})
    await queue.register(one, *requests(1))
    await queue.register(other, *requests(2))
    await Worker(RuntimeCoordinator(), queue).loop(5, handler=other)
    assert (one.seen, other.seen) == ([], [[2]])


# Settings


def test_settings_have_the_defaults_of_the_document() -> None:
    fresh = ShardedQueueSettings()
    names = [
        "coordinator_delay",
        "coordinator_prefix",
        "coordinator_timeout",
        "default_priority",
        "default_thread",
        "tube_prefix",
        "worker_batch_size",
        "worker_empty_limit",
        "worker_empty_pause",
    ]
    values = [getattr(fresh, name) for name in names]
    assert values == [1, "lock_", 24 * 60 * 60, 0, 0, "tube_", 128, 16, 0.1]


def test_settings_are_read_when_they_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUE_DEFAULT_THREAD", "7")
    monkeypatch.setenv("queue_default_priority", "-2")
    assert Route() == (7, -2)
    assert Route(1) == (1, -2)
    settings.default_thread = 5
    assert Route(priority=3) == (5, 3)
    del settings.default_thread
    assert Route().thread == 7


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("worker_batch_size", 0, "settings.worker_batch_size must be a whole number of at least 1"),
        ("worker_batch_size", 2.5, "whole number"),
        ("worker_batch_size", True, "whole number"),
        ("worker_empty_pause", "soon", "must be a number of at least 0, not 'soon'"),
        ("worker_empty_pause", float("nan"), "a number"),
        ("tube_prefix", 5, "must be a text, not 5"),
        ("worker_size", 5, "there is no setting 'worker_size'; there are coordinator_delay, "),
    ],
)
def test_wrong_settings_are_told(name: str, value: Any, text: str) -> None:
    with pytest.raises(SettingError) as caught:
        setattr(settings, name, value)
    assert text in str(caught.value)


def test_wrong_variables_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUE_WORKER_EMPTY_LIMIT", "many")
    with pytest.raises(SettingError, match="QUEUE_WORKER_EMPTY_LIMIT must be a whole number"):
        _ = settings.worker_empty_limit


async def test_prefixes_keep_queues_apart() -> None:
    handler, queue = recorder(), runtime()
    await queue.register(handler, *requests(0))
    settings.tube_prefix = "other_"
    await queue.register(handler, *requests(3, 6))
    await work(queue, 2)
    assert handler.seen == [[3, 6]]
    assert await queue.storage.pipes() == []
    del settings.tube_prefix
    assert await queue.storage.pipes() == [Tube(handler, Route(0)).pipe]


async def test_a_worker_goes_on_by_what_is_assigned() -> None:
    handler, queue = recorder(), runtime()
    working = asyncio.create_task(work(queue, 30))
    await queue.register(handler, *requests(0))
    await until_seen(handler)
    settings.worker_batch_size = 2
    await queue.register(handler, *requests(*[0] * 29))
    await working
    assert max(len(batch) for batch in handler.seen) <= 2


# Later versions: times, and looking


async def test_deferred_requests_come_later() -> None:
    handler, queue = recorder(), runtime()
    await queue.register(handler, Request(3), defer=timedelta(seconds=2))
    await queue.register(handler, Request(6))
    await work(queue, 2)
    assert handler.seen == [[6], [3]]


@pytest.mark.parametrize("defer", [0, -5, timedelta(seconds=-5)])
async def test_a_time_that_is_over_is_now(defer: Any) -> None:
    handler, queue = recorder(), runtime()
    await queue.register(handler, *requests(0), defer=defer)
    assert await queue.storage.length(Tube(handler, Route(0)).pipe) == 1


async def test_what_waits_already_is_left_out_if_asked() -> None:
    handler, queue = recorder(), runtime()
    pipe = Tube(handler, Route(0)).pipe
    await queue.register(handler, Request(3))
    await queue.register(handler, Request(3), Request(6), Request(6), if_not_exists=True)
    assert await queue.storage.range(pipe, 9) == ["[3]", "[6]"]
    await queue.register(handler, Request(3))
    assert await queue.storage.length(pipe) == 3
    await work(queue, 3)
    await queue.register(handler, Request(3), Request(6), if_not_exists=True)
    assert await queue.storage.length(pipe) == 2


async def test_recurrent_requests_come_again_and_are_replaced() -> None:
    handler, queue = recorder(), runtime()
    await queue.register(handler, Request(3), recurrent=3600)
    await queue.register(handler, Request(3), recurrent=timedelta(seconds=0.05))
    [schedule] = await queue.storage.yard.schedules.alist()
    assert schedule.when == "every 0.05 s"
    await work(queue, 3)
    assert joined(handler.seen) == [3, 3, 3]


def test_what_can_be_recurrent() -> None:
    assert when_of(5) == every(5)
    assert isinstance(when_of(timedelta(hours=1)), Every)
    found = when_of(make_rrule(SECONDLY, interval=30, dtstart=NOW))
    assert isinstance(found, Recurrence)
    assert found.start == NOW.isoformat()
    assert when_of(every(3)) == every(3)
    for wrong in ("often", True, object()):
        with pytest.raises(PolicyError, match="recurrent must be seconds, a timedelta or an rrule"):
            when_of(wrong)


async def test_a_storage_shows_its_pipes_and_gives_them_away() -> None:
    handler, storage = recorder(), RuntimeStorage()
    queue: Queue[Any] = Queue(storage)
    await queue.register(handler, *requests(0, 3, 6, 9, 1))
    pipe = Tube(handler, Route(0)).pipe
    assert pipe == f"{__name__}/Recording/0/0"
    assert await storage.pipes() == [pipe, Tube(handler, Route(1)).pipe]
    assert await storage.length(pipe) == 4
    assert await storage.range(pipe, 2) == ["[0]", "[3]"]
    assert await storage.contains(pipe, "[6]")
    assert not await storage.contains(pipe, "[1]")
    await storage.remove(pipe, "[6]")
    await storage.remove(pipe, "[6]")
    assert await storage.pop(pipe, 2) == ["[0]", "[3]"]
    assert await storage.append(pipe, "[12]", "[15]") == 3
    await work(queue, 4)
    assert sorted(handler.seen) == [[1], [9, 12, 15]]
    assert await storage.pipes() == []
    for wrong in ("", "x", "a/b/c", f"{__name__}/Recording/0/high"):
        with pytest.raises(NotFound, match="no handler of the pipe"):
            await storage.length(wrong)


def test_texts_are_those_of_the_original() -> None:
    serializer = JsonTupleSerializer()
    assert serializer.serialize(("a", 1)) == '["a", 1]'
    assert serializer.serialize(AsTuple(1, NOW)) == '[1, "2026-11-21T12:30:00"]'
    assert serializer.deserialize(Request, "[5]") == Request(5)


# Importing


def test_importing_the_door_needs_no_extra() -> None:
    code = (
        "import sys\n"
        "sys.modules['redis'] = sys.modules['dateutil'] = sys.modules['pydantic'] = None\n"
        "import taskyard\n"
        "assert 'taskyard.compat' not in sys.modules\n"
        "from taskyard.compat.sharded_queue import Handler, Queue, RuntimeStorage, RedisStorage\n"
        "Queue(RuntimeStorage())\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_names_of_the_document_are_there() -> None:
    for name in sharded_queue.__all__:
        assert getattr(sharded_queue, name) is not None
    for name in drivers.__all__:
        assert getattr(drivers, name) is not None
