"""Telling running workers that what they work by has changed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["note_change", "watching"]

_lock = threading.Lock()
_watchers: list[Callable[[], None]] = []


def note_change() -> None:
    """Tell all who watch: a handler was defined, or a setting assigned."""
    with _lock:
        watchers = list(_watchers)
    for watcher in watchers:
        watcher()


@contextmanager
def watching(watcher: Callable[[], None]) -> Iterator[None]:
    """Be told of changes within a block, in whichever thread they are made."""
    with _lock:
        _watchers.append(watcher)
    try:
        yield
    finally:
        with _lock:
            _watchers.remove(watcher)
