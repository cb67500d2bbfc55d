"""The workers that the memory broker knows."""

from __future__ import annotations

from dataclasses import dataclass, field

from taskyard.brokers.workers import KEPT, LONGEST_MAIL, ControlMessage, WorkerEntry

__all__ = ["Entry", "Roster"]


@dataclass(slots=True)
class Entry:
    """A worker and its mailbox."""

    seen: int = 0
    listener: str = ""
    report: bytes = b""
    mail: list[ControlMessage] = field(default_factory=list)

    def post(self, message: ControlMessage) -> None:
        """Put a message into the mailbox, in place of an equal one."""
        key = (message.command, message.queue)
        others = [one for one in self.mail if (one.command, one.queue) != key]
        self.mail = [*others, message][-LONGEST_MAIL:]


class Roster:
    """Workers by id, the one that was seen last at the end."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}

    def refresh(self, worker: str, now: int) -> Entry:
        """The entry of a worker that is seen now; made if it is missing."""
        entry = self._entries.pop(worker, Entry())
        self._drop_expired(now)
        self._entries[worker] = entry
        entry.seen = now
        return entry

    def find(self, worker: str, now: int) -> Entry | None:
        """An entry that has not expired."""
        entry = self._entries.get(worker)
        return None if entry is None or entry.seen < now - KEPT else entry

    def remove(self, worker: str) -> None:
        """Forget a worker."""
        self._entries.pop(worker, None)

    def all(self, now: int) -> list[WorkerEntry]:
        """The entries that have not expired."""
        return [
            WorkerEntry(worker, entry.seen, entry.report)
            for worker, entry in self._entries.items()
            if entry.seen >= now - KEPT
        ]

    def _drop_expired(self, now: int) -> None:
        while self._entries:
            worker, entry = next(iter(self._entries.items()))
            if entry.seen >= now - KEPT:
                return
            del self._entries[worker]
