"""The schedules of the memory broker."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import msgspec

from taskyard.brokers.base import GroupWant, Operation, Put
from taskyard.brokers.memory import steps
from taskyard.brokers.memory.state import MemoryState
from taskyard.brokers.schedules import SCHEDULES, DueSchedules, Schedule

__all__ = ["MemorySchedules"]


class MemorySchedules:
    """See `Schedules`."""

    def find(
        self, names: Sequence[str] | None = None, *, after: str = "", limit: int = 100
    ) -> Operation[list[Schedule]]:
        """See `Schedules.find`."""
        found: list[Schedule] = yield partial(_find, names=names, after=after, limit=limit)
        return found

    def change(
        self, old: Schedule, new: Schedule | None, put: Put | None = None
    ) -> Operation[bool]:
        """See `Schedules.change`."""
        changed: bool = yield partial(_change, old=old, new=new, put=put)
        return changed

    def due(self, limit: int, listener: str | None = None) -> Operation[DueSchedules]:
        """See `Schedules.due`."""
        found: DueSchedules = yield partial(_due, limit=limit, listener=listener)
        return found


def _find(
    state: MemoryState, names: Sequence[str] | None, after: str, limit: int
) -> list[Schedule]:
    known = state.schedules
    chosen = sorted(known if names is None else known.keys() & set(names))
    return [known[name] for name in chosen if name > after][:limit]


def _change(state: MemoryState, old: Schedule, new: Schedule | None, put: Put | None) -> bool:
    stored = state.schedules.get(old.name)
    if (0 if stored is None else stored.revision) != old.revision:
        return False
    if put is not None:
        steps.put(state, [put])
    state.agenda.drop(old.name)
    if new is None:
        state.schedules.pop(old.name, None)
        return True
    state.schedules[new.name] = msgspec.structs.replace(new, revision=old.revision + 1)
    if new.pending and not new.paused:
        state.agenda.put(new.name, (new.pending, 0, new.name))
        state.listeners.wake_for(SCHEDULES, (), new.pending)
    return True


def _due(state: MemoryState, limit: int, listener: str | None) -> DueSchedules:
    names = state.agenda.take_until(state.now, limit)
    found = [state.schedules[name] for name in names]
    for one in found:
        state.agenda.put(one.name, (one.pending, 0, one.name))
    first = None if found else state.agenda.first()
    next_at = first[0][0] if first else 0
    if listener is not None:
        if found:
            state.listeners.busy(listener)
        else:
            state.listeners.idle(listener, [GroupWant(SCHEDULES)], next_at)
    return DueSchedules(found, state.now, next_at)
