"""A clock that stands still unless it is moved."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from taskyard.errors import TestingError

__all__ = ["Clock", "microseconds_of", "moment_of"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Clock:
    """The time of a broker in a test: it stands still unless it is moved.

    Any broker without a server takes one (`MemoryBroker(clock=Clock())`); `taskyard.testing.stored`
    and `inline` make their own. It is the broker's time only: `datetime.now()`, `time.sleep()` and
    the timeouts of handlers go by the machine's.

    Arguments:
        start: where it begins; without a zone it is local time. None: now.

    Attributes:
        microseconds: what it shows, since 1970.
    """

    def __init__(self, start: datetime | None = None) -> None:
        now = time.time_ns() // 1000
        self.microseconds = now if start is None else microseconds_of(start)

    def __call__(self) -> int:
        """What it shows, as brokers ask for it: microseconds since 1970."""
        return self.microseconds

    @property
    def now(self) -> datetime:
        """What it shows, in UTC."""
        return moment_of(self.microseconds)

    def advance(self, seconds: float | timedelta) -> None:
        """Put it forward.

        Arguments:
            seconds: by how much.

        Raises:
            TestingError: it would go back; that is what `set_back` is for.
        """
        self.microseconds += _span(seconds)

    def set_back(self, seconds: float | timedelta) -> None:
        """Put it back, as an administrator or a time server may do it.

        Arguments:
            seconds: by how much.

        Raises:
            TestingError: it would go forward.
        """
        self.microseconds -= _span(seconds)

    def travel_to(self, moment: datetime) -> None:
        """Set it, forward or back.

        Arguments:
            moment: what it shows from now on; without a zone it is local time.

        Raises:
            TestingError: it is no datetime.
        """
        self.microseconds = microseconds_of(moment)

    def __repr__(self) -> str:
        return f"<Clock at {self.now.isoformat()}>"


def microseconds_of(moment: datetime) -> int:
    """A moment as brokers count it; without a zone it is local time.

    Raises:
        TestingError: it is no datetime.
    """
    if not isinstance(moment, datetime):
        raise TestingError(f"a time is a datetime, not {moment!r}")
    return (moment.astimezone(UTC) - _EPOCH) // timedelta(microseconds=1)


def moment_of(microseconds: int) -> datetime:
    """A moment that brokers counted, in UTC."""
    return _EPOCH + timedelta(microseconds=microseconds)


def _span(seconds: float | timedelta) -> int:
    try:
        span = seconds if isinstance(seconds, timedelta) else timedelta(seconds=seconds)
    except (ArithmeticError, TypeError, ValueError):
        span = timedelta(-1)
    if span < timedelta(0):
        raise TestingError(
            f"give seconds, or a timedelta, of 0 or more, not {seconds!r}: advance() goes "
            f"forward, set_back() back"
        )
    return span // timedelta(microseconds=1)
