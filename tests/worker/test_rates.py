"""Rate limits as a program sees them."""

from __future__ import annotations

import threading

import pytest
from tests.worker.support import Clock, wait_for, working

from taskyard import Batch, RateLimit, Yard
from taskyard.brokers.rate import Limits, Rate, Scope
from taskyard.errors import PolicyError

SECOND = 1_000_000


def limits(yard: Yard, name: str) -> Limits:
    [found] = [counts.limits for counts in yard.counts() if counts.group.name == name]
    return found


def test_a_task_is_run_as_often_as_its_limit_allows(yard: Yard, clock: Clock) -> None:
    ran: list[int] = []

    @yard.task(name="limited", rate=RateLimit(1, per=60, burst=3))
    def limited(number: int) -> None:
        ran.append(number)

    @yard.task(name="free")
    def free() -> None: ...

    limited.enqueue_many(range(6))
    free.enqueue()
    yard.run_worker(burst=True, concurrency=1)
    assert ran == [0, 1, 2]
    clock.forward(30)
    yard.run_worker(burst=True, concurrency=1)
    assert ran == [0, 1, 2]
    clock.forward(31)
    yard.run_worker(burst=True, concurrency=1)
    assert ran == [0, 1, 2, 3]
    clock.forward(3600)
    yard.run_worker(burst=True, concurrency=1)
    assert ran == [0, 1, 2, 3, 4, 5]


def test_each_shard_has_its_own_limit(yard: Yard) -> None:
    ran: list[str] = []

    @yard.task(name="notify", shard="user", ordered=True, shard_rate=RateLimit(1, per=60))
    def notify(user: str, number: int) -> None:
        ran.append(f"{user}{number}")

    notify.enqueue_many((user, number) for user in "ab" for number in range(3))
    yard.run_worker(burst=True)
    assert sorted(ran) == ["a0", "b0"]


def test_a_queue_has_one_limit_for_all_its_tasks(yard: Yard) -> None:
    ran: list[str] = []
    yard.queue("mail", rate=RateLimit(1, per=60, burst=3))

    @yard.task(name="one", queue="mail")
    def one() -> None:
        ran.append("one")

    @yard.task(name="two", queue="mail")
    def two() -> None:
        ran.append("two")

    one.enqueue_many(() for _ in range(5))
    two.enqueue_many(() for _ in range(5))
    yard.run_worker(burst=True)
    assert len(ran) == 3
    assert limits(yard, "one") == Limits(queue=Rate(1, 60 * SECOND, 3))


def test_a_batch_takes_what_the_limit_allows(yard: Yard) -> None:
    calls: list[int] = []

    @yard.task(name="save", batch=Batch(10), rate=RateLimit(1, per=60, burst=4))
    def save(rows: list[int]) -> None:
        calls.append(len(rows))

    save.enqueue_many(range(10))
    yard.run_worker(burst=True)
    assert sum(calls) == 4


def test_an_idle_worker_goes_on_when_a_token_comes(yard: Yard) -> None:
    ran = threading.Semaphore(0)
    done = threading.Event()

    @yard.task(name="tick", rate=RateLimit(20, burst=1))
    def tick(number: int) -> None:
        ran.release()
        if number == 4:
            done.set()

    tick.enqueue_many(range(5))
    with working(yard, concurrency=2):
        wait_for(done)


def test_a_limit_is_lifted_while_workers_sleep(yard: Yard) -> None:
    done = threading.Event()
    first = threading.Event()

    @yard.task(name="rare", rate=RateLimit(1, per=86_400))
    def rare(number: int) -> None:
        first.set()
        if number == 4:
            done.set()

    rare.enqueue_many(range(5))
    with working(yard):
        wait_for(first)
        yard.rate(rare, None)
        wait_for(done)
        assert limits(yard, "rare") == Limits(changed=frozenset({Scope.TASK}))


def test_what_is_declared_holds_again(yard: Yard) -> None:
    @yard.task(name="note", rate=RateLimit(5), shard_rate=RateLimit(3))
    def note() -> None: ...

    yard.queue("default", rate=RateLimit(7))
    note.enqueue()
    yard.run_worker(burst=True)
    declared = Limits(Rate(7, SECOND, 1), Rate(5, SECOND, 1), Rate(3, SECOND, 1))
    assert limits(yard, "note") == declared
    yard.rate("default", RateLimit(70))
    yard.rate(note, RateLimit(50))
    yard.rate(note, RateLimit(30), shards=True)
    yard.run_worker(burst=True)
    changed = Limits(Rate(70, SECOND, 7), Rate(50, SECOND, 5), Rate(30, SECOND, 3))
    assert limits(yard, "note") == Limits(
        changed.queue, changed.task, changed.shard, frozenset(Scope)
    )
    yard.rate("default", "as declared")
    yard.rate(note, "as declared")
    yard.rate(note, "as declared", shards=True)
    assert limits(yard, "note") == declared
    yard.queue("default", rate=None)
    yard.run_worker(burst=True)
    assert limits(yard, "note").queue is None


def test_wrong_limits(yard: Yard) -> None:
    @yard.task(name="note")
    def note() -> None: ...

    with pytest.raises(PolicyError, match="a rate limit must be a RateLimit"):
        yard.rate(note, 5)  # type: ignore[arg-type]
    with pytest.raises(PolicyError, match="rate must be a RateLimit"):
        yard.queue("mail", rate=5)  # type: ignore[arg-type]
    with pytest.raises(PolicyError, match="give the task for shards="):
        yard.rate("mail", None, shards=True)
    with pytest.raises(PolicyError, match="queue must be"):
        yard.rate("", None)


def test_tasks_of_an_order_have_one_limit(yard: Yard) -> None:
    order = {"order": "ledger", "ordered": True, "shard": "account"}

    @yard.task(name="pay", rate=RateLimit(5), **order)  # type: ignore[call-overload, untyped-decorator]
    def pay(account: str) -> None: ...

    with pytest.raises(PolicyError, match="differ in rate"):

        @yard.task(name="book", **order)  # type: ignore[call-overload, untyped-decorator]
        def book(account: str) -> None: ...
