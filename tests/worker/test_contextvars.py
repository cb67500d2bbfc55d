"""What a handler sets in context variables is not seen by the next message."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar

from taskyard import Yard, current_context

tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


def test_variables_of_a_synchronous_handler_end_with_it(yard: Yard) -> None:
    seen = []

    @yard.task(name="work")
    def work(name: str) -> None:
        seen.append(tenant.get())
        tenant.set(name)

    work.enqueue_many(["a", "b", "c"])
    yard.run_worker(burst=True, concurrency=1)
    assert seen == ["nobody"] * 3


def test_variables_of_an_async_handler_end_with_it(yard: Yard) -> None:
    seen = []

    @yard.task(name="work")
    async def work(name: str) -> None:
        seen.append(tenant.get())
        tenant.set(name)
        await asyncio.sleep(0)
        seen.append(tenant.get())
        seen.append(current_context().task)

    work.enqueue_many(["a", "b"])
    yard.run_worker(burst=True, concurrency=1)
    assert seen == ["nobody", "a", "work", "nobody", "b", "work"]


def test_a_child_task_inherits_the_variables_of_its_handler(yard: Yard) -> None:
    seen = []

    @yard.task(name="work")
    async def work(name: str) -> None:
        tenant.set(name)

        async def child() -> None:
            seen.append((tenant.get(), current_context().task))

        await asyncio.gather(child(), asyncio.create_task(child()))

    work.enqueue("a")
    yard.run_worker(burst=True)
    assert seen == [("a", "work")] * 2
