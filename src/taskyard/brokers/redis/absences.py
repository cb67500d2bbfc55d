"""Which containers cannot be reached, and what is to be settled there once they can."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence

from taskyard.brokers.base import Settlement
from taskyard.errors import BrokerError, BrokerUnavailable

__all__ = ["Absences"]

log = logging.getLogger("taskyard.redis")

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 10.0
"""Seconds before a container that cannot be reached is asked again: at first, and in the end."""


class _Absence:
    """A container that could not be reached.

    Attributes:
        error: why; None: it is here only for what is kept.
        pause: seconds between the last time that it was asked and the next.
        until: when it is asked again, by the monotonic clock.
        kept: what is to be settled there.
    """

    def __init__(self) -> None:
        self.error: BrokerError | None = None
        self.pause = FIRST_PAUSE
        self.until = 0.0
        self.kept: list[Settlement] = []

    def postpone(self) -> None:
        self.until = time.monotonic() + self.pause


class Absences:
    """The containers that are left out since they cannot be reached, while others can."""

    def __init__(self) -> None:
        self._away: dict[int, _Absence] = {}

    def __contains__(self, container: int) -> bool:
        return container in self._away

    def __len__(self) -> int:
        return len(self._away)

    def begin(self, failed: Mapping[int, BrokerError]) -> None:
        """Note that some could not be reached; those that are away already stay so for longer."""
        new = [container for container in failed if container not in self._away]
        for container, error in failed.items():
            known = self._away.get(container)
            if known is None:
                known = self._away[container] = _Absence()
            else:
                known.pause = min(known.pause * 2, LONGEST_PAUSE)
            known.error = error
            known.postpone()
        if new:
            log.warning(
                "%s cannot be reached; others are served meanwhile: %s", _named(new), failed[new[0]]
            )

    def end(self, container: int) -> None:
        """Note that one was reached."""
        known = self._away.get(container)
        if known is None:
            return
        if known.kept:  # this came meanwhile, and has to get there
            known.until = 0.0
            return
        del self._away[container]
        log.info("%s can be reached again", _named([container]))

    def postpone(self, containers: Iterable[int]) -> None:
        """Begin the pauses anew of those that are away."""
        for container in containers:
            if container in self._away:
                self._away[container].postpone()

    def pause(self, containers: Iterable[int]) -> float | None:
        """Seconds until one of these that are away is asked again; None: none is away."""
        times = [self._away[one].until for one in containers if one in self._away]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def error(self, containers: Iterable[int]) -> BrokerUnavailable | None:
        """What to raise for the first of these that is away; None: none is."""
        away = next((one for one in containers if one in self._away), None)
        if away is None:
            return None
        unsent = f"{_named([away])}: what is to be settled there has not got there yet"
        return BrokerUnavailable(str(self._away[away].error or unsent))

    def keeps(self, container: int) -> bool:
        """Whether something is to be settled there."""
        return container in self._away and bool(self._away[container].kept)

    def keep(self, container: int, settlements: Sequence[Settlement]) -> None:
        """Keep settlements until one is reached again."""
        self._away.setdefault(container, _Absence()).kept += settlements

    def take(self, container: int) -> list[Settlement]:
        """Give what was kept, to be sent."""
        known = self._away.get(container)
        if known is None:
            return []
        kept, known.kept = known.kept, []
        return kept

    def give_back(self, container: int, kept: Sequence[Settlement]) -> None:
        """Keep again what could not be sent, before what came later."""
        if kept:
            self._away.setdefault(container, _Absence()).kept[:0] = kept


def _named(containers: Iterable[int]) -> str:
    tags = sorted(containers)
    return f"partition{'s' if len(tags) > 1 else ''} {', '.join(f'{{{tag}}}' for tag in tags)}"
