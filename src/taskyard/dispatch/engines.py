"""Which engine makes the calls of a plan."""

from __future__ import annotations

import asyncio

from taskyard.dispatch.engine import Engine
from taskyard.dispatch.plan import Plan

__all__ = ["engine_of"]


def engine_of(plan: Plan, loop: asyncio.AbstractEventLoop | None = None) -> Engine:
    """Make the engine that a plan asks for; only what it needs is imported.

    Arguments:
        plan: the plan.
        loop: the running event loop of whoever waits; None: a thread waits.
    """
    job = plan.job
    if plan.target is not None:
        return plan.target.engine(job)
    if plan.kind == "threads":
        from taskyard.dispatch.threads import ThreadEngine

        return ThreadEngine(job)
    if plan.kind == "async":
        from taskyard.dispatch.coroutines import AsyncEngine

        return AsyncEngine(job, loop)
    from taskyard.dispatch.processes import ProcessEngine

    return ProcessEngine(job, hybrid=plan.kind == "hybrid", start_method=plan.start_method)
