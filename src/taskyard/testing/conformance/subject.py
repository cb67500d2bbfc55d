"""What is held to the suite: how a broker is made, and what it is declared not to do."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import StrEnum

from taskyard.brokers.base import Broker
from taskyard.errors import TestingError

__all__ = ["Capability", "Subject"]


class Capability(StrEnum):
    """What the suite can do without. All else is what makes a broker."""

    THREADS = "threads"
    """`driver`."""
    EVENT_LOOPS = "event loops"
    """`async_driver`."""
    GATES = "gates"
    """`set_gate`, and `park` by hand."""
    RATES = "rates"
    """`set_rate`, and the rates of a `GroupPolicy`."""
    BOUNDS = "bounds"
    """`set_bounds`."""
    UNIQUE_KEYS = "unique keys"
    """`Put.unique`."""
    DEADLINES = "deadlines"
    """`Put.expires`, and `minimum` and `lead` of a `GroupPolicy`."""
    CANCELLING = "cancelling"
    """`cancel` and `pulse`, the outcome `Stopped`, and what handlers tell of their progress."""
    SCHEDULES = "schedules"
    """`schedules`."""
    WORKERS = "workers"
    """`workers`."""
    EXPLANATIONS = "explanations"
    """`explain`."""
    LOOKING = "looking"
    """`waiting`, `peek` and `withdraw`."""


@dataclass(frozen=True)
class Subject:
    """A broker that is held to the suite.

    Arguments:
        make: makes a new, empty broker. It is called with `clock=`, which says the microseconds
            since 1970 and from which the broker takes all its times, and in some tests with
            `dead_limit=` and `dead_age=`: how many dead letters a group keeps, and for how many
            seconds.
        missing: what the broker is declared not to do; tests that ask for it are skipped.

    Raises:
        TestingError: something else than capabilities is declared as missing.
    """

    make: Callable[..., Broker]
    missing: Collection[Capability] = ()

    def __post_init__(self) -> None:
        known = list(Capability)
        if wrong := [one for one in self.missing if one not in known]:
            raise TestingError(
                f"Subject(missing=…) has {', '.join(map(repr, wrong))}; expected members of "
                f"Capability: {', '.join(one.name for one in known)}"
            )
