"""The kit: initiates tasks, runs workers for them, and steers these."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, tzinfo
from functools import partial
from multiprocessing.process import BaseProcess
from traceback import format_exc
from typing import Any, NotRequired, TypeAlias, TypedDict

from taskyard import errors
from taskyard.compat.taskkit.entries import (
    ScheduleEntriesCompatMapping,
    ScheduleEntry,
    declare_schedules,
    ensured,
)
from taskyard.compat.taskkit.errors import Failed, NotFound
from taskyard.compat.taskkit.groups import queue_of, serves_kit
from taskyard.compat.taskkit.handling import (
    as_bytes,
    call_of,
    encoded_result,
    handling_eagerly,
    task_of_call,
)
from taskyard.compat.taskkit.result import Result
from taskyard.compat.taskkit.store import New, Store, make_yard
from taskyard.compat.taskkit.task import (
    DEFAULT_TASK_TTL,
    DiscardTask,
    Task,
    TaskHandler,
    as_timestamp,
    checked_ttl,
    new_ids,
)
from taskyard.schedule import local_zone, zone_name
from taskyard.worker import WorkerSettings, start_workers
from taskyard.yard import Yard

__all__ = ["InitiateTaskArgs", "Kit"]

GRACE = 86_400.0
"""Seconds that what runs gets to end when a process is stopped: taskkit waits for it."""

NO_GROUP = "taskkit: no group"
"""The group that a process serves which has no threads: it only does what schedules say."""

Polling: TypeAlias = Mapping[str, float] | float | None
Helpers: TypeAlias = bool | Callable[[int], bool]


class InitiateTaskArgs(TypedDict):
    """What `Kit.initiate_tasks` initiates, by the names of the arguments of `initiate_task`."""

    group: str
    name: str
    data: Any
    due: NotRequired[datetime | float | None]
    ttl: NotRequired[float]
    eager: NotRequired[bool]


class Kit:
    """Tasks of a program, and workers for them.

    Arguments:
        broker: where tasks wait: whatever a `Yard` takes.
        handler: what is done with them.

    Attributes:
        handler: the same.
        yard: for what this door does not offer, as `kit.yard.explain(task_id)`.
    """

    def __init__(self, broker: object, handler: TaskHandler) -> None:
        self.handler = handler
        self.yard = make_yard(broker)
        self._store = Store(self.yard, handler)

    # Working

    def start(
        self,
        num_processes: int,
        num_worker_threads_per_group: Mapping[str, int],
        schedule_entries: ScheduleEntriesCompatMapping = {},  # noqa: B006 - it is only read
        tzinfo: tzinfo | None = None,
        polling_interval: Polling = None,
        helper_services: Helpers = True,
        should_restart: Callable[[BaseProcess], bool] | None = None,
    ) -> None:
        """Run worker processes until a signal, or until all of them were shut down by an event.

        One that dies is replaced, and what it was working on is given back at once. What runs when
        a signal comes is finished; a second signal waits for nothing.

        Arguments:
            num_processes: how many.
            num_worker_threads_per_group: how many tasks of each group run at a time, in each
                process.
            schedule_entries: what is initiated by schedule; see `ScheduleEntry`.
            tzinfo: whose clock schedules go by that have none of their own; None: this machine's.
            polling_interval: does nothing here: idle workers are woken.
            helper_services: does nothing here: all workers share the housekeeping.
            should_restart: asked every second of each process; one that it says yes to is stopped
                gracefully and replaced.

        Raises:
            SystemExit: SIGTERM came.
            KeyboardInterrupt: SIGINT came.
            WorkerError: a number is wrong, a process cannot work, or this is not the main thread.
            PolicyError: a group or a schedule entry is wrong.
            PayloadError: data of a schedule entry is not encoded, or `encode_data` gave no bytes.
        """
        del polling_interval, helper_services
        if num_processes < 1:
            raise errors.WorkerError(f"num_processes must be 1 or more, not {num_processes!r}")
        if threading.current_thread() is not threading.main_thread():
            raise errors.WorkerError(
                "start runs until a signal, which only the main thread of a program hears: call it "
                "there, or use start_processes"
            )
        threads = _threads(num_worker_threads_per_group)
        make = self._maker(threads, schedule_entries, tzinfo)
        stopped_by = make().run_worker(
            queues=_pools(threads),
            processes=num_processes,
            grace=GRACE,
            inboxes=False,
            should_replace=should_restart,
        )
        if stopped_by is signal.SIGINT:
            raise KeyboardInterrupt
        if stopped_by is not None:
            raise SystemExit

    def start_processes(
        self,
        num_processes: int,
        num_worker_threads_per_group: Mapping[str, int],
        schedule_entries: ScheduleEntriesCompatMapping = {},  # noqa: B006 - it is only read
        tzinfo: tzinfo | None = None,
        polling_interval: Polling = None,
        helper_services: Helpers = True,
        daemon: bool = True,
    ) -> list[BaseProcess]:
        """Start worker processes beside the program, and return at once.

        Nobody replaces a process that dies; what it was working on is restored within a minute,
        by any worker.

        Arguments:
            num_processes: as of `start`; so are those up to `helper_services`.
            num_worker_threads_per_group: the same.
            schedule_entries: the same.
            tzinfo: the same.
            polling_interval: the same.
            helper_services: the same.
            daemon: they stop with the program. Otherwise it waits for them at its end.

        Returns:
            The processes; `terminate()` stops one gracefully.

        Raises:
            WorkerError: a number is wrong.
            PolicyError: a group or a schedule entry is wrong.
            PayloadError: data of a schedule entry is not encoded, or `encode_data` gave no bytes.
        """
        del polling_interval, helper_services
        threads = _threads(num_worker_threads_per_group)
        make = self._maker(threads, schedule_entries, tzinfo)
        make()  # complain here, and not in each process
        settings = WorkerSettings(queues=_pools(threads), grace=GRACE, inboxes=False)
        return start_workers(make, settings, num_processes, daemon=daemon)

    def _maker(
        self,
        groups: Mapping[str, int],
        entries: ScheduleEntriesCompatMapping,
        zone: tzinfo | None,
    ) -> Callable[[], Yard]:
        return partial(
            _make_worker_yard,
            self.yard.broker,
            self.handler,
            list(groups),
            ensured(entries, self.handler),
            local_zone() if zone is None else zone_name(zone),
        )

    # Initiating

    def initiate_task(
        self,
        group: str,
        name: str,
        data: Any,
        due: datetime | float | None = None,
        ttl: float = DEFAULT_TASK_TTL,
        eager: bool = False,
    ) -> Result[Any]:
        """Store a task; it is kept when this returns.

        Arguments:
            group: the task group.
            name: tells the handler what to do.
            data: what `TaskHandler.encode_data` takes.
            due: when it may run, a datetime (local time, if it has no zone) or seconds since 1970;
                None: now.
            ttl: seconds for which its result is kept.
            eager: handle it here and now instead. It is not stored, so that its result is known
                to what this returns, and not by its id.

        Returns:
            A handle on it.

        Raises:
            PolicyError: this can be no group.
            PayloadError: `encode_data` gave no bytes.
            EnqueueError: `due` or `ttl` is wrong.
            BrokerError: the storage failed.
        """
        encoded = as_bytes(self.handler.encode_data(group, name, data), "encode_data must return")
        if eager:
            return self._handle_eagerly(Task.init(group, name, encoded, due=due, ttl=ttl))
        created = time.time()
        call = (name, encoded, created, as_timestamp(due) or created, None, checked_ttl(ttl))
        new = self._store.put_new(group, call)
        return self._result(new[0], new)

    def initiate_tasks(
        self, *args: Task | tuple[Task, bool] | InitiateTaskArgs
    ) -> list[Result[Any]]:
        """Store several tasks, all at once; eager ones are handled first.

        Arguments:
            args: a mapping of the arguments of `initiate_task`; or a `Task`, or a pair of one and
                whether it is eager.

        Returns:
            Handles on them, in the same order. For what it raises see `initiate_task`.
        """
        created, ids = time.time(), new_ids(len(args))
        made = [self._made(one, task_id, created) for one, task_id in zip(args, ids, strict=True)]
        results = [
            self._result(new[0], new) if eager is None else self._handle_eagerly(eager)
            for new, eager in made
        ]
        stored = [new for new, eager in made if eager is None]
        if stored:
            self._store.put(stored)
        return results

    def _made(
        self, given: Task | tuple[Task, bool] | InitiateTaskArgs, task_id: str, created: float
    ) -> tuple[New, Task | None]:
        """What is to be stored; and the task, if it is to be handled here and now instead.

        Arguments:
            given: see `initiate_tasks`.
            task_id: of a task that has no id yet.
            created: likewise.
        """
        if isinstance(given, Task):
            return (given.id, given.group, call_of(given)), None
        if isinstance(given, tuple):
            task, eager = given
            return (task.id, task.group, call_of(task)), task if eager else None
        group, name = given["group"], given["name"]
        encoded = as_bytes(
            self.handler.encode_data(group, name, given["data"]), "encode_data must return"
        )
        due = as_timestamp(given.get("due")) or created
        ttl = checked_ttl(given.get("ttl", DEFAULT_TASK_TTL))
        call = (name, encoded, created, due, None, ttl)
        new = (task_id, group, call)
        return new, task_of_call(*new, 0) if given.get("eager") else None

    def _handle_eagerly(self, task: Task) -> Result[Any]:
        outcome: bytes | Exception
        try:
            with handling_eagerly():
                outcome = encoded_result(self.handler, task)
        except DiscardTask as discarded:
            outcome = NotFound(str(discarded) or f"task {task.id} was discarded")
        except Exception:  # noqa: BLE001 - whatever it is, the task failed by it
            outcome = Failed(task, format_exc())
        return Result(self.handler, task.id, partial(_known, task, outcome))

    def get_result(self, task_id: str) -> Result[Any]:
        """A handle on a task by its id."""
        return self._result(task_id)

    def _result(self, task_id: str, new: New | None = None) -> Result[Any]:
        return Result(self.handler, task_id, partial(self._store.wait, task_id, new))

    # Steering

    def send_shutdown_event(self, groups: Iterable[str] | None = None) -> None:
        """Let the workers of all kits in the broker end.

        What runs is finished. `start` starts no other process for one that was shut down.

        Arguments:
            groups: let them leave only these groups, for good. A process ends with its last one.
        """
        self._tell("shutdown", groups)

    def send_pause_event(self, groups: Iterable[str] | None = None) -> None:
        """Let the workers of all kits in the broker take no tasks until they are resumed.

        It concerns those that work now. To pause a group for later ones too, use
        `kit.yard.pause(group)`.

        Arguments:
            groups: of these groups only.
        """
        self._tell("pause", groups)

    def send_resume_event(self, groups: Iterable[str] | None = None) -> None:
        """Let paused workers go on.

        Arguments:
            groups: with these groups only.
        """
        self._tell("resume", groups)

    def _tell(self, command: str, groups: Iterable[str] | None) -> None:
        found = self.yard.workers()
        for queue in [None] if groups is None else [queue_of(group) for group in groups]:
            wanted = None if queue is None else [queue]
            told = [worker.id for worker in found if serves_kit(worker, wanted)]
            try:
                if told:
                    self.yard.tell(told, command, queue)
            except errors.NotFound:
                continue  # it has ended meanwhile; the others were told

    def __repr__(self) -> str:
        return f"<Kit at {self.yard.broker.url}>"


def _known(task: Task, outcome: bytes | Exception, timeout: float | None) -> tuple[Task, bytes]:
    """What became of a task that was handled eagerly."""
    del timeout
    if isinstance(outcome, Exception):
        raise outcome
    return task, outcome


def _make_worker_yard(
    broker: object,
    handler: TaskHandler,
    groups: Iterable[str],
    entries: Mapping[str, list[ScheduleEntry]],
    zone: str,
) -> Yard:
    """A yard for workers; in each process it is made anew, where that was not forked."""
    store = Store(make_yard(broker), handler)
    for group in groups:
        store.of_group(group)
    declare_schedules(store, entries, zone)
    return store.yard


def _threads(given: Mapping[str, int]) -> dict[str, int]:
    """Threads by group; a process without any serves a group that has no tasks."""
    for group, count in given.items():
        if type(count) is not int or count < 0:
            raise errors.WorkerError(
                f"num_worker_threads_per_group must say 0 or more for {group!r}, not {count!r}"
            )
    return {group: count for group, count in given.items() if count} or {NO_GROUP: 1}


def _pools(threads: Mapping[str, int]) -> dict[str, int]:
    return {queue_of(group): count for group, count in threads.items()}
