"""Running the messages of one claim in one slot.

What is run, in which order, and what follows from each call is a generator that yields handler
calls (`Invocation`) and is sent what they returned or raised. A thread and an event loop each
carry it out (`carrying.py`), so there is one logic for synchronous and asynchronous handlers.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence, Set
from typing import Any, TypeAlias, TypeVar

from taskyard.brokers.base import (
    Back,
    Claim,
    Dead,
    Delivery,
    Outcome,
    Retried,
    Settlement,
    Stopped,
)
from taskyard.context import Context, MessageInfo, Progress
from taskyard.errors import CannotOpen, PayloadError, TaskCancelled
from taskyard.message import Failure, Reason, read_envelope, read_id
from taskyard.result import encode_progress
from taskyard.task import Task
from taskyard.worker.bisect import bisect, bisect_ordered
from taskyard.worker.calls import BatchRun, Call, Entry, Invocation, plan
from taskyard.worker.carrying import OnLoop, Reply, Script, run_here
from taskyard.worker.hooks import Hooks
from taskyard.worker.lease import Lease
from taskyard.worker.logs import log_park, log_retry, log_unopened
from taskyard.worker.verdict import outcome_of, wait_for_another

__all__ = ["Execution", "Timing"]

T = TypeVar("T")

Instances: TypeAlias = Mapping[tuple[str, str], Any]

Timing: TypeAlias = tuple[float, float]
"""Seconds for which a message waited, and that its call took."""


class Execution:
    """A claim on its way through a slot.

    Arguments:
        claim: what to run.
        tasks: the tasks of its group, by name.
        now: the broker's time at the claim, microseconds.
        lease: for how long it may be run.
        hooks: the worker's middleware, if there is any.
        keep_errors: keep what messages failed with.

    Attributes:
        claim: what was claimed.
        instances: handlers of class tasks, or the error that kept one from starting, by task
            and shard.
        is_async: whether it runs on the event loop.
        lease: for how long it may be run.
        started: messages of calls that were begun.
        timings: how long the messages of ended calls waited and took, by sequence; None if nobody
            wants to know.
        errors: what the messages failed with, by sequence; None if nobody wants to know.
    """

    def __init__(
        self,
        claim: Claim,
        tasks: Mapping[str, Task[..., Any]],
        now: int,
        lease: Lease,
        hooks: Hooks | None = None,
        *,
        keep_errors: bool = False,
    ) -> None:
        self.claim = claim
        self.is_async = next(iter(tasks.values())).is_async
        self.lease = lease
        self.started = 0
        self.timings: dict[int, Timing] | None = {} if hooks and hooks.need_times else None
        self.errors: dict[int, BaseException] | None = {} if keep_errors else None
        self._hooks = hooks if hooks and hooks.are_around_calls else None
        self._tasks = tasks
        self.instances: Instances = {}
        self._clock_offset = now / 1e6 - time.monotonic()
        self._lock = threading.Lock()
        self._results: dict[int, tuple[str, bytes]] = {}
        self._retry_ids: dict[int, str] = {}
        self._blocked: set[str] = set()
        self._given_up = False
        self._stopped: set[int] = set()  # messages that were cancelled
        self._on_loop = OnLoop(self._hooks)  # its calls, if it is run there
        self._told: dict[str, Progress] = {}
        self._current: Call | None = None
        self._context: Context | None = None
        self._call_began = 0.0
        self._invoked = 0.0
        calls, self._outcomes = plan(claim, tasks)
        self._calls = deque(calls)

    def knows(self, task: str) -> bool:
        """Whether there is a task of this name among those of its group."""
        return task in self._tasks

    # Asked by the worker's loop, while a thread may be running calls

    def hand_back(self, unsettled: int) -> Settlement | None:
        """Give up what has not been started, because what runs now takes too long.

        Arguments:
            unsettled: messages of the claim that were not settled so far.

        Returns:
            A settlement of everything but the running call; None if there is nothing else.
        """
        with self._lock:
            if self._current is None or unsettled == len(self._current.messages):
                return None
            self._give_up_unstarted()
            return self._settlement(keep=self._current)

    def stop(self, *, cancelled: bool = False) -> None:
        """Start no further call; they are given back when the running one ends.

        Arguments:
            cancelled: the running call will not end in time, so it is given back too.
        """
        with self._lock:
            self._give_up_unstarted()
            if cancelled and self._current is not None:
                for _, message in self._current.messages:
                    sequence, was_stopped = message.sequence, message.sequence in self._stopped
                    end = Stopped(read_id(message.body)) if was_stopped else Back(started=True)
                    self._outcomes.setdefault(sequence, end)
                self._given_up = True
                self._current = None
                self._context = None

    def cancel(self, sequences: Set[int]) -> bool:
        """Note that messages were cancelled: those that were not begun are not.

        Returns:
            Whether the running call is to be cancelled, because all of its messages were.
        """
        with self._lock:
            new = sequences - self._stopped
            if not new:
                return False
            self._stopped |= new
            self._calls = deque(call for call in map(self._without_stopped, self._calls) if call)
            if self._current is None or self._context is None or not self.is_async:
                return False
            concerned = any(message.sequence in new for _, message in self._current.messages)
            if not (concerned and self._context.was_cancelled):
                return False
            self._on_loop.expect_cancel()
            return True

    def _without_stopped(self, call: Call) -> Call | None:
        """What is left of a call that was not begun."""
        stopped = [entry for entry in call.messages if entry[1].sequence in self._stopped]
        for _, message in stopped:
            self._outcomes[message.sequence] = Stopped(read_id(message.body), started=False)
        if not stopped:
            return call
        left = [entry for entry in call.messages if entry not in stopped]
        return call._replace(messages=left) if left else None

    def take_progress(self) -> dict[str, Progress]:
        """What handlers told since they were asked last, by the id of their messages."""
        with self._lock:
            told, self._told = self._told, {}
            return told

    def keep_progress(self, told: Mapping[str, Progress]) -> None:
        """Take back what could not be stored."""
        with self._lock:
            self._told = {**told, **self._told}

    def _tell(self, infos: Sequence[MessageInfo], progress: Progress) -> None:
        with self._lock:
            for info in infos:
                self._told[info.id] = progress

    def running_for(self) -> float:
        """Seconds that the current call runs, with its bisect; 0: none does."""
        with self._lock:
            return 0.0 if self._current is None else time.monotonic() - self._call_began

    def current(self) -> tuple[Call, float] | None:
        """The call that runs, and for how many seconds, with its bisect; None: none does."""
        with self._lock:
            call = self._current
            return None if call is None else (call, time.monotonic() - self._call_began)

    def check_timeout(self) -> float | None:
        """Tell the running invocation if its timeout is over.

        Returns:
            Seconds until its timeout; None: it has none.
        """
        with self._lock:
            limit = None if self._current is None else self._current.task.policy.timeout
            if limit is None or self._context is None:
                return limit
            left = self._invoked + limit - time.monotonic()
            if left <= 0:
                self._context.time_out()
            return left

    def settlement(self) -> Settlement:
        """What became of the messages, once nothing runs any more."""
        with self._lock:
            return self._settlement(keep=None)

    def _give_up_unstarted(self) -> None:
        while self._calls:
            for _, message in self._calls.pop().messages:
                self._outcomes[message.sequence] = Back()

    def _settlement(self, keep: Call | None) -> Settlement:
        # A call that still runs may hold messages whose end is known (unreadable ones): later.
        kept = frozenset(message.sequence for _, message in keep.messages) if keep else frozenset()
        outcomes, self._outcomes = _parted(self._outcomes, kept)
        results, self._results = _parted(self._results, kept)
        retry_ids, self._retry_ids = _parted(self._retry_ids, kept)
        told, self._told = self._told, {}
        progress = [(id_, encode_progress(one)) for id_, one in told.items()]
        results_of = list(results.values())
        return Settlement(self.claim.token, outcomes, results_of, kept, retry_ids, progress)

    def _is_lost(self) -> bool:
        return self._given_up or self.lease.is_over()

    # Carried out

    def run(self) -> None:
        """Run the calls in this thread."""
        run_here(self._script(), self._hooks)

    def run_async(self) -> Coroutine[Any, Any, None]:
        """Run the calls on this event loop, when awaited."""
        return self._on_loop.run(self._script())

    # The script

    def _script(self) -> Script:
        while (call := self._next_call()) is not None:
            if call.task.policy.batch is None:
                yield from self._run_single(call)
            else:
                yield from self._run_batch(call)
            if self.timings is not None:
                self._note_times(call, self.timings)

    def _note_times(self, call: Call, timings: dict[int, Timing]) -> None:
        began = self._call_began
        seconds, offset = time.monotonic() - began, began + self._clock_offset
        for _, message in call.messages:
            timings[message.sequence] = max(0.0, offset - message.since / 1e6), seconds

    def _next_call(self) -> Call | None:
        with self._lock:
            self._current = self._context = None
            while self._calls and not self.lease.is_over():
                call = self._calls.popleft()
                if call.shard in self._blocked:
                    for _, message in call.messages:
                        self._outcomes[message.sequence] = Back()
                    continue
                self._current = call
                self._call_began = time.monotonic()
                self.started += len(call.messages)
                return call
            self._give_up_unstarted()  # the lease may be over; nothing more is run under it
        return None

    def _run_single(self, call: Call) -> Script:
        priority, message = call.messages[0]
        try:
            message_id, args, kwargs = call.task.codec.decode(message.body)
        except PayloadError as unreadable:
            if self._unread(call, message, unreadable) and call.is_exclusive:
                self._blocked.add(call.shard)
            return
        entry = Entry(priority, message, message_id, None)
        if self._expired(call.task, entry):
            return
        context = self._make_context(call, lambda: (entry.info,))
        value, error = yield self._invocation(call, args, kwargs, context)
        with self._lock:
            if self._current is not call:
                return  # given back meanwhile: the grace time is over
            if error is None:
                self._done(call.task, entry, value)
            else:
                self._failed(call, entry, error)
            self._current = None

    def _run_batch(self, call: Call) -> Script:
        entries, is_stuck = self._readable(call)
        batch = BatchRun(call, entries)
        while batch.entries:
            error = yield from self._call_range(batch, 0, len(batch.entries))
            if error is None:
                break
            left = self._not_stopped(batch)
            if len(left) == len(batch.entries):
                yield from self._search(batch, error)
                break
            # It may have been raised because of those that were cancelled, or by one of them.
            batch = BatchRun(call, left)
        self._conclude(batch)
        if is_stuck:
            self._blocked.add(call.shard)

    def _not_stopped(self, batch: BatchRun) -> list[Entry]:
        """What is to be run again of a batch that raised; cancelled messages are not."""
        with self._lock:
            stopped = [one for one in batch.entries if one.message.sequence in self._stopped]
            for entry in stopped:
                self._outcomes[entry.message.sequence] = Stopped(entry.id)
        return [entry for entry in batch.entries if entry not in stopped]

    def _search(self, batch: BatchRun, error: BaseException) -> Script:
        """Find the bad messages of a batch that raised."""
        count = len(batch.entries)
        if batch.call.is_exclusive:
            search = bisect_ordered(count, error, go_on=not batch.stops_at_failure)
        else:
            search = bisect(count, error, to_singles=batch.needs_singles)
        try:
            first, last = next(search)
            while True:
                if self._is_lost() or self._current is not batch.call:
                    batch.end = 0
                    return
                raised = yield from self._call_range(batch, first, last)
                if batch.stops_at_failure and batch.failed:
                    batch.end = last
                    return
                first, last = search.send(raised)
        except StopIteration as end:
            batch.failed.update(end.value)
            if batch.stops_at_failure and batch.failed:
                batch.end = min(batch.failed) + 1

    def _call_range(
        self, batch: BatchRun, first: int, last: int
    ) -> Generator[Invocation, Reply, BaseException | None]:
        call, part = batch.call, batch.entries[first:last]
        if self._stopped and self._stopped.issuperset(one.message.sequence for one in part):
            return TaskCancelled("all of these messages were cancelled")
        context = self._make_context(call, lambda: [entry.info for entry in part])
        items = call.task.codec.sequence(entry.item for entry in part)
        value, error = yield self._invocation(call, (items,), {}, context)
        return batch.note(first, last, value, error)

    def _invocation(
        self,
        call: Call,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        context: Context,
    ) -> Invocation:
        function: Callable[..., Any] = call.task.function
        if call.task.is_class:
            instance = self.instances[call.task.name, call.shard]
            function = _raiser(instance) if isinstance(instance, BaseException) else instance.handle
        with self._lock:
            self._context, self._invoked = context, time.monotonic()
        return Invocation(function, args, kwargs, context, call.task.policy.timeout)

    def _make_context(self, call: Call, infos: Callable[[], Sequence[MessageInfo]]) -> Context:
        return Context(
            call.task.name,
            call.task.policy.queue,
            call.shard,
            self.claim.token,
            infos,
            self._is_lost,
            self._stopped,
            *((self._tell,) if call.task.result_ttl else ()),
        )

    # What follows

    def _readable(self, call: Call) -> tuple[list[Entry], bool]:
        """The messages of a batch to run, and whether its shard must wait behind them."""
        if (all_entries := self._all_readable(call)) is not None:
            return all_entries, False
        entries: list[Entry] = []
        for index, (priority, message) in enumerate(call.messages):
            try:
                message_id, item = call.task.codec.decode_item(message.body)
            except PayloadError as error:
                # In an exclusive lane it waits as the head, and all others behind it.
                if call.is_exclusive and entries and isinstance(error, CannotOpen):
                    self._give_back(call.messages[index:])
                    return entries, True
                if self._unread(call, message, error) and call.is_exclusive:
                    self._give_back(call.messages[index + 1 :])
                    return entries, True
                continue
            entry = Entry(priority, message, message_id, item)
            if not self._expired(call.task, entry):
                entries.append(entry)
        return entries, False

    def _all_readable(self, call: Call) -> list[Entry] | None:
        """The same for the common case, at once: all can be read, none may be late."""
        messages = call.messages
        if call.task.policy.expires is not None or any(one.expires for _, one in messages):
            return None
        found = call.task.codec.decode_items([message.body for _, message in messages])
        if found is None:
            return None
        return [
            Entry(priority, message, id_, item)
            for (priority, message), id_, item in zip(messages, *found, strict=True)
        ]

    def _unread(self, call: Call, message: Delivery, error: PayloadError) -> bool:
        """Say what becomes of a message that cannot be read; True: it waits for another worker."""
        envelope = read_envelope(message.body)
        message_id = envelope.id if envelope else ""
        waits = wait_for_another(message) if isinstance(error, CannotOpen) else None
        failure = Failure(Reason.UNREADABLE, type(error).__name__, str(error))
        with self._lock:
            if waits is None:
                self._outcomes[message.sequence] = Dead(failure, message_id, call.task.name)
                return False
            self._outcomes[message.sequence] = waits
            if call.task.result_ttl:
                self._retry_ids[message.sequence] = message_id
        log_unopened(call.task, message_id, error, waits)
        return True

    def _give_back(self, messages: Sequence[tuple[int, Delivery]]) -> None:
        with self._lock:
            for _, message in messages:
                self._outcomes[message.sequence] = Back()

    def _expired(self, task: Task[..., Any], entry: Entry) -> bool:
        own = entry.message.expires
        allowed = own / 1e6 if own else task.policy.expires
        if allowed is None or entry.message.attempts:
            return False  # after a failed attempt, the retry policy says how long it is tried
        waited = time.monotonic() + self._clock_offset - entry.message.since / 1e6
        if waited <= allowed:
            return False
        who = "its call" if own else "the task"
        text = f"it waited {waited:.1f} s; {who} allows {allowed:g} s"
        with self._lock:
            self._outcomes[entry.message.sequence] = Dead(
                Failure(Reason.EXPIRED, message=text), entry.id, task.name
            )
        return True

    def _done(self, task: Task[..., Any], entry: Entry, value: Any) -> None:
        if not task.result_ttl:
            return
        sequence = entry.message.sequence
        try:
            self._results[sequence] = (entry.id, task.codec.encode_result(value, entry.id))
        except PayloadError as error:
            self._outcomes[sequence] = Dead(Failure.of(error, Reason.FAILED), entry.id, task.name)

    def _failed(self, call: Call, entry: Entry, error: BaseException) -> None:
        sequence = entry.message.sequence
        if sequence in self._stopped:
            self._outcomes[sequence] = Stopped(entry.id)
            return
        # A context of this message alone: a retry function must not see another one's attempt.
        context = self._make_context(call, lambda: (entry.info,))
        outcome = outcome_of(error, call.task, context, entry.id, entry.message, random.random)
        self._outcomes[sequence] = outcome
        if self.errors is not None:
            self.errors[sequence] = error
        if isinstance(outcome, Back):
            log_park(call, entry, error)
        if isinstance(outcome, Retried):
            log_retry(call.task, entry, error, outcome)
            if call.task.result_ttl:
                self._retry_ids[sequence] = entry.id
        if call.is_exclusive and isinstance(outcome, (Retried, Back)):
            self._blocked.add(call.shard)

    def _conclude(self, batch: BatchRun) -> None:
        call = batch.call
        with self._lock:
            if self._current is not call:
                return  # given back meanwhile: the grace time is over
            is_whole = not batch.failed and batch.end == len(batch.entries)
            if is_whole and call.shard not in self._blocked and not call.task.result_ttl:
                self._current = None
                return
            for index, entry in enumerate(batch.entries):
                # In an exclusive lane nothing overtakes what is to be run again.
                behind = call.is_exclusive and call.shard in self._blocked
                if index >= batch.end or behind:
                    self._outcomes[entry.message.sequence] = self._unfinished(entry)
                elif index in batch.failed:
                    self._failed(call, entry, batch.failed[index])
                else:
                    self._done(call.task, entry, batch.values.get(index))
            if batch.end < len(batch.entries):
                self._blocked.add(call.shard)
            self._current = None

    def _unfinished(self, entry: Entry) -> Outcome:
        stopped = entry.message.sequence in self._stopped
        return Stopped(entry.id) if stopped else Back(started=True)


def _raiser(error: BaseException) -> Callable[..., Any]:
    def handle(*_: Any) -> Any:
        raise error

    return handle


def _parted(entries: dict[int, T], kept: frozenset[int]) -> tuple[dict[int, T], dict[int, T]]:
    """What is not of the kept sequences, and what is."""
    if not kept:
        return entries, {}
    return (
        {key: entries[key] for key in entries.keys() - kept},
        {key: entries[key] for key in entries.keys() & kept},
    )
