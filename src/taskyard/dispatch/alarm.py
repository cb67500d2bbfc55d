"""Waiting for an instant in an event loop, more precisely than its own timers do.

asyncio waits with epoll on Linux, in whole milliseconds, rounded up: half a millisecond late on
average. A timer of the kernel that is a file (timerfd) wakes the loop when it is time.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import time
from typing import Protocol

__all__ = ["Alarm", "alarm"]

CLOCK_MONOTONIC = 1
TFD_TIMER_ABSTIME = 1
TFD_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC if hasattr(os, "O_CLOEXEC") else 0


class Alarm(Protocol):
    """Wakes one coroutine at a time."""

    async def wait(self, instant: float) -> None:
        """Return at an instant of the monotonic clock, or when told to."""
        ...

    def wake(self) -> None:
        """Have the coroutine that waits return now."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class _Plain:
    """By the timers of the loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Future[None] | None = None

    async def wait(self, instant: float) -> None:
        waiting = self._waiting = self._loop.create_future()
        timer = self._loop.call_later(instant - time.monotonic(), self.wake)
        try:
            await waiting
        finally:
            timer.cancel()
            self._waiting = None

    def wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def close(self) -> None:
        """There is nothing to let go of."""


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Timer(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class _TimerFile(_Plain):
    """By a timer of Linux."""

    def __init__(self) -> None:
        super().__init__()
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd: int = self._libc.timerfd_create(CLOCK_MONOTONIC, TFD_FLAGS)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "no timerfd")
        try:
            self._loop.add_reader(self._fd, self._rings)
        except BaseException:
            os.close(self._fd)
            raise

    async def wait(self, instant: float) -> None:
        waiting = self._waiting = self._loop.create_future()
        whole = int(instant)
        at = _Timer(_Timespec(), _Timespec(whole, max(1, int((instant - whole) * 1e9))))
        self._libc.timerfd_settime(self._fd, TFD_TIMER_ABSTIME, ctypes.byref(at), None)
        try:
            await waiting
        finally:
            self._waiting = None

    def _rings(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return
        self.wake()

    def close(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)


def alarm() -> Alarm:
    """The most precise alarm that this platform and the running loop have."""
    if sys.platform == "linux":
        try:
            return _TimerFile()
        except (OSError, AttributeError, NotImplementedError):
            pass
    return _Plain()
