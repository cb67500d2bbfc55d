"""Explaining messages of a yard, with and without records."""

from __future__ import annotations

import threading

from tests.worker.support import until, wait_for, working

from taskyard import Batch, RateLimit, Retry, Why, Yard


def test_messages_of_a_worker(yard: Yard) -> None:
    begun, ended = threading.Event(), threading.Event()

    @yard.task(name="held")
    def held(name: str) -> None:
        begun.set()
        wait_for(ended)

    first, second = held.enqueue("a"), held.enqueue("b")
    assert yard.explain(second.id).reason is Why.NO_WORKER
    with working(yard, concurrency=1):
        wait_for(begun)
        running = yard.explain(first.id)
        until(lambda: len(yard.workers()) == 1)
        [worker] = yard.workers()
        assert (running.reason, running.worker) == (Why.RUNNING, worker.id)
        following = yard.explain(second.id)
        assert (following.reason, following.workers) == (Why.NEXT, 1)
        ended.set()
        until(lambda: yard.counts()[0].totals["done"] == 2)
        assert yard.explain(first.id).reason is Why.UNKNOWN


def test_policies_that_hold_messages_up(yard: Yard) -> None:
    @yard.task(name="fails", ordered=True, retry=Retry(3, delay=600), shard="name")
    def fails(name: str) -> str:
        raise ValueError(name)

    @yard.task(name="fills", batch=Batch(10, 600))
    def fills(names: list[str]) -> None: ...

    @yard.task(name="rated", rate=RateLimit(1, per=600))
    def rated(name: str) -> None: ...

    ids = {
        Why.RETRYING: fails.enqueue("a").id,
        Why.BLOCKED: fails.enqueue("a").id,
        Why.FILLING: fills.enqueue("a").id,
        Why.DELAYED: fails.options(delay=600).enqueue("b").id,
    }
    rated.enqueue("a")
    ids[Why.LIMITED] = rated.enqueue("b").id
    with working(yard):
        until(lambda: yard.counts()[0].totals["retried"] == 1)
        until(lambda: yard.explain(ids[Why.LIMITED]).reason is Why.LIMITED)
        found = {why: yard.explain(id_) for why, id_ in ids.items()}
    assert {why: one.reason for why, one in found.items()} == {why: why for why in ids}
    assert found[Why.BLOCKED].head == ids[Why.RETRYING]


async def test_the_same_without_blocking(yard: Yard) -> None:
    @yard.task(name="note")
    async def note(name: str) -> str:
        return name

    result = await note.aenqueue("a")
    yard.pause("default")
    assert (await yard.aexplain(result.id)).reason is Why.PAUSED
    assert (await yard.aexplain("nobody")).reason is Why.UNKNOWN
