"""Waiting for an instant in an event loop."""

from __future__ import annotations

import asyncio
import time

import pytest

from taskyard.dispatch import alarm as module
from taskyard.dispatch.alarm import Alarm, alarm


@pytest.fixture(params=["best", "plain"])
async def clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Alarm:
    if request.param == "plain":
        monkeypatch.setattr(module.sys, "platform", "darwin")
    return alarm()


async def test_it_rings_at_its_instant_and_not_before(clock: Alarm) -> None:
    for ahead in (0.003, 0.0005, 0.02, 0.0, -1.0):
        instant = time.monotonic() + ahead
        await clock.wait(instant)
        assert time.monotonic() >= instant - 1e-6
    clock.close()


async def test_it_can_be_woken(clock: Alarm) -> None:
    asyncio.get_running_loop().call_soon(clock.wake)
    await clock.wait(time.monotonic() + 3600)
    clock.wake()  # nobody waits
    await clock.wait(time.monotonic() + 0.001)
    clock.close()


async def test_a_wait_that_is_cancelled_leaves_it_usable(clock: Alarm) -> None:
    task = asyncio.ensure_future(clock.wait(time.monotonic() + 3600))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await clock.wait(time.monotonic() + 0.001)
    clock.close()
