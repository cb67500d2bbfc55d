"""Every error that taskyard raises on purpose.

    TaskyardError
    ├── PolicyError            a declaration contradicts itself or another one
    │   ├── PolicyConflict     ... or what is stored and still waiting under the same name
    │   └── PartitionConflict  ... or the partitions that a queue has
    ├── PayloadError           an argument does not fit the handler, or cannot be encoded
    │   └── CannotOpen         ... or its payload needs a key, codec or package that is not here
    ├── EnqueueError           a message was refused
    │   ├── DuplicateId        ... because its id is taken
    │   ├── QueueDraining      ... because its queue takes none for now
    │   └── QueueFull          ... because its queue, or shard, is bounded and full
    ├── NotFound               no such task, queue, result or dead letter
    ├── ResultError
    │   ├── ResultTimeout      no result within the given time
    │   ├── ResultNotKept      the task keeps no results
    │   ├── ResultWaitRefused  waiting inside a handler can deadlock
    │   ├── TaskFailed         the message ended as a dead letter; carries the remote error
    │   └── TaskDiscarded      the message was discarded
    ├── BatchFailed            raised by handlers: names the messages of a batch that failed
    ├── Verdict                a handler decided about its message: see below
    ├── WorkerError            a worker cannot start or go on
    ├── DispatchError          a local run cannot do what was asked
    │   ├── RunFailed          ... its items, a callback or its engine raised; carries what was done
    │   └── CallFailed         ... the result of a call was asked for that has none
    ├── ReportError            a log cannot be read, or what is asked of its numbers not understood
    ├── TestingError           a yard in a test (taskyard.testing) cannot do what was asked
    └── BrokerError            the storage cannot do what was asked
        ├── UnknownScheme      no broker for this URL
        ├── MissingExtra       a package is not installed
        ├── BrokerUnavailable  busy, locked or full: may pass by itself
        │   └── BrokerInaccessible  read-only, no such folder, not permitted: needs somebody
        ├── NotConfirmed       written, but to fewer replicas than were asked for
        ├── ForeignDatabase    the file belongs to something else
        ├── SchemaTooNew       written by a newer taskyard
        └── CorruptDatabase    the file is damaged

`Verdict` is `RetryMessage`, `DiscardMessage` or `FailMessage`: control flow, not failure.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskyard.brokers.base import Put
    from taskyard.dispatch.outcome import Outcome
    from taskyard.dispatch.result import Run
    from taskyard.message import Failure

__all__ = [
    "BatchFailed",
    "BrokerError",
    "BrokerInaccessible",
    "BrokerUnavailable",
    "CallFailed",
    "CannotOpen",
    "CorruptDatabase",
    "DiscardMessage",
    "DispatchError",
    "DuplicateId",
    "EnqueueError",
    "FailMessage",
    "ForeignDatabase",
    "MissingExtra",
    "NotConfirmed",
    "NotFound",
    "PartitionConflict",
    "PayloadError",
    "PolicyConflict",
    "PolicyError",
    "QueueDraining",
    "QueueFull",
    "ReportError",
    "ResultError",
    "ResultNotKept",
    "ResultTimeout",
    "ResultWaitRefused",
    "RetryMessage",
    "RunFailed",
    "SchemaTooNew",
    "TaskCancelled",
    "TaskDiscarded",
    "TaskFailed",
    "TaskyardError",
    "TestingError",
    "UnknownScheme",
    "Verdict",
    "WorkerError",
]


class TaskyardError(Exception):
    """The root of all errors of taskyard."""


class PolicyError(TaskyardError):
    """A declaration contradicts itself, or another declaration."""


class PolicyConflict(PolicyError):
    """A declaration contradicts what is stored, and still waiting, under the same name."""


class PartitionConflict(PolicyError):
    """A queue is declared with more partitions than it has."""


class PayloadError(TaskyardError):
    """An argument does not fit the handler's annotations, or cannot be encoded."""


class CannotOpen(PayloadError):
    """A payload needs a key, a codec or a package that this process does not have.

    Another one may: a worker puts such a message off for a while before it gives it up.
    """


class EnqueueError(TaskyardError):
    """A message was refused; nothing of the call's current chunk was stored."""


class DuplicateId(EnqueueError):
    """A message with this id has a record already."""


class QueueDraining(EnqueueError):
    """The queue takes no messages, until it is resumed."""


class QueueFull(EnqueueError):
    """The queue, or a shard of it, holds as many messages as it may.

    Attributes:
        queue: its name.
        shard: the shard that is full; None: the queue is.
        length: how many messages there are; if the call was too large, how many it brings.
        limit: how many there may be. In a queue with partitions, in one of them.
        too_large: the call alone brings more than there may be: to wait does not help.
        overflow: what its bounds say to that: "raise", "block" or "drop".
        patience: seconds for which whoever puts is to wait for room; 0: none.
        left: what of the call was not stored; None: nothing was.
    """

    def __init__(
        self,
        text: str = "",
        *,
        queue: str = "",
        shard: str | None = None,
        length: int = 0,
        limit: int = 0,
        too_large: bool = False,
        overflow: str = "raise",
        patience: float = 0.0,
    ) -> None:
        super().__init__(text)
        self.queue = queue
        self.shard = shard
        self.length = length
        self.limit = limit
        self.too_large = too_large
        self.overflow = overflow
        self.patience = patience
        self.left: Sequence[Put] | None = None

    def told(self, text: str) -> QueueFull:
        """The same with another text, for who does not wait any longer."""
        made = copy.copy(self)
        made.args, made.patience = (text,), 0.0
        return made


class NotFound(TaskyardError):
    """No task, queue, shard, result or dead letter of this name."""


class ResultError(TaskyardError):
    """A result cannot be given."""


class ResultTimeout(ResultError, TimeoutError):
    """There was no result within the given time. The message may still end."""


class ResultNotKept(ResultError):
    """The task keeps no results, so there is nothing to wait for."""


class ResultWaitRefused(ResultError):
    """Waiting for a result inside a handler was refused, because it can deadlock."""


class TaskFailed(ResultError):
    """The message ended as a dead letter.

    Attributes:
        failure: what was recorded: reason, kind and text of the error, remote traceback as text.
    """

    def __init__(self, message_id: str, failure: Failure) -> None:
        self.message_id = message_id
        self.failure = failure
        text = f"message {message_id} failed ({failure.reason}): {failure.summary()}"
        if failure.traceback:
            text += f"\n\nRemote traceback:\n{failure.traceback}"
        super().__init__(text)

    def __reduce__(self) -> tuple[type[TaskFailed], tuple[str, Failure]]:
        return (type(self), (self.message_id, self.failure))


class TaskDiscarded(ResultError):
    """The message was discarded, by its handler or by hand; it has no result."""


class TaskCancelled(ResultError):
    """The message was cancelled; it has no result.

    In a handler, `Context.raise_if_cancelled` raises it to stop there.
    """


class ReportError(TaskyardError):
    """A log cannot be read, or what is asked of its numbers is not understood."""


class BatchFailed(TaskyardError):
    """Raised by a batch handler to name the messages that failed; all others are done.

    Arguments:
        failed: index in the batch -> what went wrong: an exception, a text, or a
            `RetryMessage`, `DiscardMessage` or `FailMessage`.
        results: results of the batch by index, if the task keeps results.
    """

    def __init__(
        self,
        failed: Mapping[int, BaseException | str],
        results: Mapping[int, object] | None = None,
    ) -> None:
        self.failed = dict(failed)
        self.results = dict(results or {})
        super().__init__(f"{len(self.failed)} messages of the batch failed")


class WorkerError(TaskyardError):
    """A worker cannot start, or cannot go on."""


class DispatchError(TaskyardError):
    """A local run (`taskyard.run`) cannot do what was asked of it."""


class RunFailed(DispatchError):
    """A run ended early, as something raised that is none of its calls: it is the `__cause__`.

    Attributes:
        reason: what raised what.
        run: what was done until then.
    """

    def __init__(self, reason: str, run: Run) -> None:
        super().__init__(
            f"{reason}. What was begun has ended, {run.counts.begun:,} calls: they are in the "
            f"error's `run`"
        )
        self.reason = reason
        self.run = run


class CallFailed(DispatchError):
    """The results of a run were asked for, and a call has none.

    Attributes:
        outcome: what became of it.
    """

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        text = f"call {outcome.id} {outcome.status}"
        if outcome.error is not None:
            text += (
                f": {outcome.error.summary}\n\nTraceback of the call:\n{outcome.error.traceback}"
            )
        super().__init__(text)


class TestingError(TaskyardError):
    """What is for tests (`taskyard.testing`) cannot do what was asked of it."""

    __test__ = False  # pytest takes a class whose name begins like this for a test


class BrokerError(TaskyardError):
    """The storage cannot do what was asked."""


class UnknownScheme(BrokerError):
    """There is no broker for this URL."""


class MissingExtra(BrokerError):
    """A package that this feature needs is not installed."""


class BrokerUnavailable(BrokerError):
    """The storage is busy, full, read-only or away, and it may pass.

    Nothing was stored, with one exception: if the answer of a server was lost, nobody knows
    whether the last call was carried out. The text says which of the two it is. Who puts again
    then may put twice, unless the messages have ids and their task keeps results.
    """


class BrokerInaccessible(BrokerUnavailable):
    """The storage cannot be opened or written until somebody mends that."""


class NotConfirmed(BrokerError):
    """What was written is on the master, but on too few replicas: it is lost if that one fails.

    Raised with `wait_replicas` only. Who puts again may put twice.
    """


class ForeignDatabase(BrokerError):
    """The database holds somebody else's tables."""


class SchemaTooNew(BrokerError):
    """The database was written by a newer version of taskyard."""


class CorruptDatabase(BrokerError):
    """The database file is damaged, or is no database."""


class Verdict(TaskyardError):
    """What a handler decided about its message, instead of succeeding or failing.

    Raise one, or name one in `BatchFailed`. `taskyard.retry`, `discard` and `fail` raise them.
    """


class RetryMessage(Verdict):
    """Run the message again later, whatever the retry policy says. It counts as an attempt.

    Arguments:
        delay: seconds to wait, or a timedelta.
    """

    def __init__(self, delay: float | timedelta = 0.0) -> None:
        if isinstance(delay, timedelta):
            delay = delay.total_seconds()
        if not 0 <= delay < float("inf"):
            raise PolicyError(f"retry delay must be 0 or more seconds, not {delay!r}")
        self.delay = float(delay)
        super().__init__(f"retry in {delay:g} s")


class DiscardMessage(Verdict):
    """End the message without a result and without a dead letter; it is counted."""

    def __init__(self, reason: str = "discarded by its handler") -> None:
        self.reason = reason
        super().__init__(reason)


class FailMessage(Verdict):
    """End the message as a dead letter at once, without further retries."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)
