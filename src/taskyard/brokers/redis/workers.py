"""The workers of the Redis broker: all of them are at home."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from taskyard.brokers.base import Operation
from taskyard.brokers.common import CHUNK
from taskyard.brokers.redis.placement import HOME, call
from taskyard.brokers.workers import KEPT, LONGEST_MAIL, ControlMessage, Present, WorkerEntry

__all__ = ["RedisWorkers"]


class RedisWorkers:
    """See `Workers`."""

    def attend(
        self, worker: str, report: bytes, listener: str, heard: int
    ) -> Operation[list[ControlMessage]]:
        """See `Workers.attend`."""
        return _read((yield call("attend", HOME, worker, listener, heard, KEPT, report)))

    def mail(self, worker: str, heard: int) -> Operation[list[ControlMessage]]:
        """See `Workers.mail`."""
        return _read((yield call("mail", HOME, worker, heard)))

    def retire(self, workers: Sequence[str]) -> Operation[None]:
        """See `Workers.retire`."""
        for chunk in _chunks(workers):
            yield call("retire", HOME, *chunk)

    def find(self) -> Operation[Present]:
        """See `Workers.find`."""
        found: dict[str, WorkerEntry] = {}
        cursor = b"0"
        while True:
            now, cursor, *entries = yield call("workers", HOME, cursor, KEPT)
            for name, seen, report in entries:
                found[name.decode()] = WorkerEntry(name.decode(), seen, report)
            if cursor == b"0":
                return Present(now, list(found.values()))

    def tell(self, workers: Sequence[str], command: str, queue: str) -> Operation[list[str]]:
        """See `Workers.tell`."""
        told: list[str] = []
        for chunk in _chunks(workers):
            reply = yield call("tell", HOME, KEPT, LONGEST_MAIL, command, queue, *chunk)
            told += [name.decode() for name in reply]
        return told


def _chunks(workers: Sequence[str]) -> list[Sequence[str]]:
    return [workers[first : first + CHUNK] for first in range(0, len(workers), CHUNK)]


def _read(mail: Sequence[Any]) -> list[ControlMessage]:
    return [
        ControlMessage(number, command.decode(), queue.decode()) for number, command, queue in mail
    ]
