"""The calls that a claim is made of, and what is known of a batch while it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from taskyard.brokers.base import Claim, Dead, Delivery, Outcome
from taskyard.context import Context, MessageInfo
from taskyard.errors import BatchFailed, Verdict
from taskyard.message import Failure, Reason, read_envelope, read_headers
from taskyard.policy import Batch
from taskyard.task import Task
from taskyard.values import brief
from taskyard.worker.verdict import WrongResults

__all__ = ["BatchRun", "Call", "Entry", "Invocation", "batches", "plan"]


class Invocation(NamedTuple):
    """A handler call to make."""

    function: Callable[..., Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    context: Context
    timeout: float | None


class Call(NamedTuple):
    """Messages that one handler call gets."""

    task: Task[..., Any]
    shard: str
    messages: list[tuple[int, Delivery]]

    @property
    def is_exclusive(self) -> bool:
        """Whether nothing else of its shard runs, so that nothing may overtake a failed message."""
        return self.task.policy.claims_per_shard == 1


class Entry(msgspec.Struct, gc=False):
    """A message of a batch that could be read. Nothing that it holds refers to it."""

    priority: int
    message: Delivery
    id: str
    item: Any

    @property
    def info(self) -> MessageInfo:
        """What its handler may know of it."""
        message = self.message
        return MessageInfo(
            self.id,
            message.sequence,
            message.attempts + 1,
            message.deliveries + 1,
            self.priority,
            read_headers(message.body),
        )


class BatchRun:
    """A batch on its way: what each call of its handler told.

    Arguments:
        call: the planned call.
        entries: its messages that could be read.

    Attributes:
        failed: index -> what went wrong.
        values: index -> result.
        end: from this index on, messages are to be run again.
    """

    def __init__(self, call: Call, entries: Sequence[Entry]) -> None:
        self.call = call
        self.entries = entries
        self.failed: dict[int, BaseException] = {}
        self.values: dict[int, Any] = {}
        self.end = len(entries)

    @property
    def stops_at_failure(self) -> bool:
        """Whether nothing behind a failed message may run."""
        return self.call.is_exclusive and self.call.task.policy.on_error != "skip"

    @property
    def needs_singles(self) -> bool:
        """Whether some messages have no attempt left, so that the bad ones must be found now."""
        count = self.call.task.policy.retry.count
        return count is not None and any(entry.message.attempts >= count for entry in self.entries)

    def note(
        self, first: int, last: int, value: Any, error: BaseException | None
    ) -> BaseException | None:
        """Note how a call of the handler with a range of the batch ended.

        Arguments:
            first: the index of its first message.
            last: the index behind its last.
            value: what the handler returned.
            error: what it raised.

        Returns:
            The error if it says nothing of single messages, so that the bad ones must be searched.
        """
        if error is None:
            error = self._spread(first, last, value) if self.call.task.result_ttl else None
        if isinstance(error, BatchFailed):
            self._take_named(first, last, error)
        elif isinstance(error, Verdict):
            self.failed.update(dict.fromkeys(range(first, last), error))
        else:
            return error
        return None

    def _take_named(self, first: int, last: int, error: BatchFailed) -> None:
        for index, reason in error.failed.items():
            if type(index) is not int or not 0 <= index < last - first:
                text = f"the handler named message {index!r} of a batch of {last - first}"
                self.failed.update(dict.fromkeys(range(first, last), WrongResults(text)))
                return
            named = reason if isinstance(reason, BaseException) else RuntimeError(reason)
            self.failed[first + index] = named
        for index, value in error.results.items():
            if type(index) is int:
                self.values[first + index] = value

    def _spread(self, first: int, last: int, value: Any) -> BaseException | None:
        if value is None:
            return None
        if not isinstance(value, (list, tuple)) or len(value) != last - first:
            listed = isinstance(value, (list, tuple))
            given = f"{len(value)} results" if listed else brief(value)
            return WrongResults(
                f"a batch handler returns None, or a list with a result per message; it got "
                f"{last - first} messages and returned {given}"
            )
        self.values.update(zip(range(first, last), value, strict=True))
        return None


def batches(
    messages: Sequence[tuple[int, Delivery]], batch: Batch
) -> list[list[tuple[int, Delivery]]]:
    """Cut messages into batches of the policy's size and bytes."""
    if batch.bytes is None:
        size = batch.size
        return [list(messages[first : first + size]) for first in range(0, len(messages), size)]
    made: list[list[tuple[int, Delivery]]] = []
    total = 0
    for entry in messages:
        length = len(entry[1].body)
        full = made and (len(made[-1]) >= batch.size or total + length > batch.bytes)
        if not made or full:
            made.append([])
            total = 0
        made[-1].append(entry)
        total += length
    return made


def plan(
    claim: Claim, tasks: Mapping[str, Task[..., Any]]
) -> tuple[list[Call], dict[int, Outcome]]:
    """Make the calls of a claim.

    Arguments:
        claim: what was claimed.
        tasks: the tasks of its group, by name.

    Returns:
        The calls, and what becomes of messages that are of none, by sequence.
    """
    calls: list[Call] = []
    strays: dict[int, Outcome] = {}
    only = tasks.get(claim.group.name) if len(tasks) == 1 else None
    for lane in claim.lanes:
        if only is not None:
            runs = [(only, lane.messages)]
        else:
            runs = _runs_of_tasks(lane.messages, tasks, strays)
        for task, messages in runs:
            if task.policy.batch is None:
                parts = [[entry] for entry in messages]
            else:
                parts = batches(messages, task.policy.batch)
            calls.extend(Call(task, lane.shard, part) for part in parts)
    return calls, strays


def _runs_of_tasks(
    messages: Sequence[tuple[int, Delivery]],
    tasks: Mapping[str, Task[..., Any]],
    strays: dict[int, Outcome],
) -> list[tuple[Task[..., Any], list[tuple[int, Delivery]]]]:
    """Cut the messages of an order group where the task changes."""
    runs: list[tuple[Task[..., Any], list[tuple[int, Delivery]]]] = []
    for entry in messages:
        envelope = read_envelope(entry[1].body)
        task = tasks.get(envelope.task) if envelope is not None else None
        if task is None:
            text = "the message names no task of its order group"
            strays[entry[1].sequence] = Dead(Failure(Reason.UNREADABLE, message=text))
        elif runs and runs[-1][0] is task:
            runs[-1][1].append(entry)
        else:
            runs.append((task, [entry]))
    return runs
