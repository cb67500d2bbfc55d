"""Waiting for a file or socket."""

from __future__ import annotations

import math
import select

__all__ = ["is_readable"]


def is_readable(number: int, timeout: float | None) -> bool:
    """Wait until there is something to read, or the end of it.

    Arguments:
        number: of the open file.
        timeout: seconds to wait at most; None: without limit.

    Returns:
        False: the time is over.
    """
    if not hasattr(select, "poll"):
        return bool(select.select([number], [], [], timeout)[0])
    # select() fails for numbers from 1024 on.
    waiting = select.poll()
    waiting.register(number, select.POLLIN)
    return bool(waiting.poll(None if timeout is None else math.ceil(timeout * 1000)))
