"""Recurrent requests: what was given, as schedules of the core."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Any, get_args

from taskyard.errors import PolicyError
from taskyard.schedule import When, every, local_zone, rrule

__all__ = ["schedule_name", "when_of"]


def when_of(recurrent: Any) -> When:
    """The times of what was given as `recurrent`.

    Arguments:
        recurrent: seconds, a timedelta, an `rrule` of `dateutil`, or a schedule of the core.

    Raises:
        PolicyError: it is none of them.
    """
    if isinstance(recurrent, get_args(When)):
        when: When = recurrent
        return when
    if isinstance(recurrent, timedelta | int | float) and not isinstance(recurrent, bool):
        return every(recurrent)
    start = getattr(recurrent, "_dtstart", None)
    lines = [line for line in str(recurrent).splitlines() if not line.startswith("DTSTART")]
    if start is None or len(lines) != 1:
        raise PolicyError(
            f"recurrent must be seconds, a timedelta or an rrule of dateutil, not {recurrent!r}"
        )
    return rrule(lines[0], start=start, tz=local_zone())


def schedule_name(pipe: str, text: str) -> str:
    """The name of the schedule of a request: the same whenever it is registered."""
    digest = hashlib.blake2b(f"{pipe}\n{text}".encode(), digest_size=10).hexdigest()
    return f"{pipe[-170:]}/{digest}"
