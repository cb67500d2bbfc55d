"""What ran in a test, and how it ended."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from taskyard.brokers.base import Back, Claim, Dead, Delivery, Outcome, Retried, Settlement
from taskyard.errors import RetryMessage, TaskFailed
from taskyard.message import State, read_envelope
from taskyard.worker.hooks import STATES

__all__ = ["Attempt", "Report", "attempts_of", "raise_failure"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """A message that was run, or that ended without having been run.

    Attributes:
        task: the task's name.
        id: the message's id; "" if it could not be read.
        shard: its shard's key.
        number: of this attempt, from 1.
        state: what became of it: DONE, RETRYING, DEAD, DISCARDED, or WAITING: its shard is parked.
        error: what it failed with, as its handler raised it; of what ended without a handler (it
            expired, say) a `TaskFailed`; None: it did not fail, or its handler asked for a retry.
    """

    task: str
    id: str
    shard: str
    number: int
    state: State
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What ran.

    Attributes:
        attempts: in the order in which they ended.
        scheduled: how many messages schedules have put.
        left: messages that are still there: they wait for a time, a batch, a parked shard, a
            paused queue, or a worker that knows their task.
        next_at: when the first of them becomes due; None: none does by time alone.
    """

    attempts: Sequence[Attempt] = field(default_factory=tuple)
    scheduled: int = 0
    left: int = 0
    next_at: datetime | None = None

    @property
    def done(self) -> int:
        """How many messages are done."""
        return self._count(State.DONE)

    @property
    def retried(self) -> int:
        """How many attempts are followed by another one."""
        return self._count(State.RETRYING)

    @property
    def dead(self) -> int:
        """How many messages ended as dead letters."""
        return self._count(State.DEAD)

    @property
    def discarded(self) -> int:
        """How many messages were discarded by their handlers."""
        return self._count(State.DISCARDED)

    @property
    def failures(self) -> Sequence[Attempt]:
        """The attempts that failed, also those that were made up for."""
        return [attempt for attempt in self.attempts if attempt.error is not None]

    def of(self, task: object) -> Sequence[Attempt]:
        """The attempts of a task, given as such or by name."""
        name = getattr(task, "name", task)
        return [attempt for attempt in self.attempts if attempt.task == name]

    def _count(self, state: State) -> int:
        return sum(attempt.state is state for attempt in self.attempts)

    def __str__(self) -> str:
        return (
            f"{self.done} done, {self.retried} retried, {self.dead} dead, "
            f"{self.discarded} discarded, {self.left} left"
        )


def attempts_of(
    claim: Claim, settlement: Settlement, errors: dict[int, BaseException]
) -> Iterable[Attempt]:
    """What became of the messages of a claim; those that are given back unrun are left out.

    Arguments:
        claim: what was run.
        settlement: what became of it.
        errors: what its messages failed with, by sequence.
    """
    for lane in claim.lanes:
        for _, message in lane.messages:
            outcome = settlement.outcomes.get(message.sequence)
            error = errors.get(message.sequence)
            if not isinstance(outcome, Back) or error is not None:
                yield _attempt(claim.group.name, lane.shard, message, outcome, error)


def _attempt(
    task: str,
    shard: str,
    message: Delivery,
    outcome: Outcome | None,
    error: BaseException | None,
) -> Attempt:
    envelope = read_envelope(message.body)
    message_id = envelope.id if envelope is not None else ""
    if isinstance(outcome, Dead):
        error = error or TaskFailed(message_id, outcome.failure)
    elif not isinstance(outcome, (Retried, Back)) or isinstance(error, RetryMessage):
        error = None
    name = (envelope.task if envelope is not None else "") or task
    state = State.DONE if outcome is None else STATES[type(outcome)]
    return Attempt(name, message_id, shard, message.attempts + 1, state, error)


def raise_failure(attempts: Iterable[Attempt]) -> None:
    """Raise what a message failed with, if there is one that no later attempt made up for.

    Of several, the first is raised, as its handler raised it, with a note that there are others.
    """
    last = {attempt.id: attempt for attempt in attempts}
    failed = [(one, one.error) for one in last.values() if one.error is not None]
    if not failed:
        return
    first, error = failed[0]
    then = "it is tried again later" if first.state is State.RETRYING else f"it is {first.state}"
    note = f"raised by message {first.id} of task {first.task!r}, attempt {first.number}: {then}"
    if len(failed) > 1:
        others = ", ".join(sorted({attempt.task for attempt, _ in failed[1:]}))
        note += f"; {len(failed) - 1} more failed (of {others})"
    error.add_note(note)
    raise error
