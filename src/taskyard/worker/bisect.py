"""Finding the bad message of a failed batch."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeAlias

__all__ = ["Search", "bisect", "bisect_ordered"]

Search: TypeAlias = Generator[tuple[int, int], BaseException | None, dict[int, BaseException]]
"""Yields the range to run next, is sent the error it raised or None; returns errors by index."""


def bisect(count: int, error: BaseException, *, to_singles: bool) -> Search:
    """Find the bad messages of a batch that raised.

    The half that succeeds is done. If both halves fail, something else than a message is broken
    (the database is down, say): all of them fail together, after two more calls, not hundreds.

    Arguments:
        count: messages in the batch.
        error: what it raised.
        to_singles: go on to single messages all the same, since some have no attempt left.

    Returns:
        The failed messages: index -> error. All others are done.
    """
    failed: dict[int, BaseException] = {}
    failing = [(0, count, error)]
    while failing:
        first, last, raised = failing.pop()
        if last - first == 1:
            failed[first] = raised
            continue
        middle = (first + last) // 2
        left = yield first, middle
        right = yield middle, last
        if left is not None and right is not None and not to_singles:
            failed.update(dict.fromkeys(range(first, last), raised))
            continue
        if right is not None:
            failing.append((middle, last, right))
        if left is not None:
            failing.append((first, middle, left))
    return failed


def bisect_ordered(count: int, error: BaseException, *, go_on: bool) -> Search:
    """Find the first bad message of an ordered batch that raised, running nothing behind it.

    Arguments:
        count: messages in the batch.
        error: what it raised.
        go_on: skip bad messages and run what is behind them.

    Returns:
        The failed messages: index -> error. Without `go_on`, it is one, all before it are done,
        and none behind it was run successfully.
    """
    failed: dict[int, BaseException] = {}
    pending: list[tuple[int, int, BaseException | None]] = [(0, count, error)]
    while pending:
        first, last, raised = pending.pop()
        if raised is None:
            raised = yield first, last
        if raised is None:
            continue
        if last - first == 1:
            failed[first] = raised
            if not go_on:
                return failed
            continue
        middle = (first + last) // 2
        pending.append((middle, last, None))
        pending.append((first, middle, None))
    return failed
