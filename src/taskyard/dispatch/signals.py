"""Signals that end a run in order."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["Handler", "handling"]

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM") if hasattr(signal, name))
PATIENCE = 2
"""Signals that are told; the next one has its usual effect."""

Handler = Callable[[str], None]


@contextmanager
def handling(tell: Handler) -> Iterator[None]:
    """Have the names of signals told instead of ending the program.

    Only in the main thread, and only where the program has no handler of its own: what a program
    does about its signals is its business.

    Arguments:
        tell: called in the main thread between two of its instructions: it must take no lock. After
            the second call, signals have their usual effect.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {}
    told = 0

    def handle(number: int, _: FrameType | None) -> None:
        nonlocal told
        told += 1
        if told >= PATIENCE:
            _restore(before)
        tell(signal.Signals(number).name)

    for number in SIGNALS:
        if _is_usual(handler := signal.getsignal(number)):
            before[number] = handler
            signal.signal(number, handle)
    try:
        yield
    finally:
        _restore(before)


def _restore(before: dict[int, Any]) -> None:
    while before:
        number, handler = before.popitem()
        signal.signal(number, handler)


def _is_usual(handler: Any) -> bool:
    if handler in (signal.SIG_DFL, signal.default_int_handler):
        return True
    # What asyncio.run puts there: it cancels the main task, so that there would be no Run.
    made = getattr(handler, "func", handler)
    return getattr(made, "__qualname__", "") == "Runner._on_sigint"
