"""The workers of the memory broker."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from taskyard.brokers.base import Operation
from taskyard.brokers.memory.state import MemoryState
from taskyard.brokers.workers import ControlMessage, Present

__all__ = ["MemoryWorkers"]


class MemoryWorkers:
    """See `Workers`."""

    def attend(
        self, worker: str, report: bytes, listener: str, heard: int
    ) -> Operation[list[ControlMessage]]:
        """See `Workers.attend`."""
        mail: list[ControlMessage] = yield partial(
            _attend, worker=worker, report=report, listener=listener, heard=heard
        )
        return mail

    def mail(self, worker: str, heard: int) -> Operation[list[ControlMessage]]:
        """See `Workers.mail`."""
        mail: list[ControlMessage] = yield partial(_mail, worker=worker, heard=heard)
        return mail

    def retire(self, workers: Sequence[str]) -> Operation[None]:
        """See `Workers.retire`."""
        yield partial(_retire, workers=workers)

    def find(self) -> Operation[Present]:
        """See `Workers.find`."""
        present: Present = yield lambda state: Present(state.now, state.roster.all(state.now))
        return present

    def tell(self, workers: Sequence[str], command: str, queue: str) -> Operation[list[str]]:
        """See `Workers.tell`."""
        told: list[str] = yield partial(_tell, workers=workers, command=command, queue=queue)
        return told


def _attend(
    state: MemoryState, worker: str, report: bytes, listener: str, heard: int
) -> list[ControlMessage]:
    entry = state.roster.refresh(worker, state.now)
    entry.report, entry.listener = report, listener
    entry.mail = _after(entry.mail, heard)
    return list(entry.mail)


def _mail(state: MemoryState, worker: str, heard: int) -> list[ControlMessage]:
    entry = state.roster.find(worker, state.now)
    return [] if entry is None else _after(entry.mail, heard)


def _after(mail: Sequence[ControlMessage], heard: int) -> list[ControlMessage]:
    return [message for message in mail if message.number > heard]


def _retire(state: MemoryState, workers: Sequence[str]) -> None:
    for worker in workers:
        state.roster.remove(worker)


def _tell(state: MemoryState, workers: Sequence[str], command: str, queue: str) -> list[str]:
    told = []
    for worker in workers:
        entry = state.roster.find(worker, state.now)
        if entry is not None:
            entry.post(ControlMessage(state.sequences(1), command, queue))
            state.listeners.wake(entry.listener)
            told.append(worker)
    return told
