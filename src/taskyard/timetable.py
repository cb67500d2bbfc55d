"""The schedules of a yard: those that its program declares, and all that its broker knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, get_args

from taskyard.brokers.base import Operation
from taskyard.brokers.schedules import Schedule, Schedules
from taskyard.brokers.unique import Mode
from taskyard.connection import Connection
from taskyard.enqueue import PLAIN, Enqueuer
from taskyard.errors import PolicyError
from taskyard.policy import seconds
from taskyard.schedule import CATCH_UPS, CatchUp, When, described
from taskyard.scheduling import (
    PAGE,
    Plan,
    checked_schedule_name,
    fire_now,
    read_plan,
    remove,
    set_paused,
    store,
)
from taskyard.task import Task

__all__ = ["ScheduleInfo", "Timetable", "make_plan"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ScheduleInfo:
    """A schedule, as somebody looks at it.

    Attributes:
        name: its own.
        task: the task whose messages it puts; "" if it cannot be read here.
        queue: of the task.
        when: its times, for people; why it cannot be read, if so.
        next: its next instant; None: there is none, or it is paused.
        last: the last instant that was done; None: none was.
        paused: whether it is paused.
        catch_up: what is made up for of what was missed.
    """

    name: str
    task: str
    queue: str
    when: str
    next: datetime | None
    last: datetime | None
    paused: bool
    catch_up: str = ""


def make_plan(
    task: Task[..., Any] | Enqueuer[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    when: When,
    *,
    catch_up: CatchUp = "latest",
    jitter: float | timedelta = 0.0,
) -> Plan:
    """Make what a schedule means of how it was declared; see `Yard.schedule`.

    Raises:
        PolicyError: something of it is wrong.
        PayloadError: an argument does not fit the handler.
    """
    if not isinstance(task, (Task, Enqueuer)):
        raise PolicyError(
            f"a schedule is one of a task, or of what task.options(…) gives, not of {task!r}; of a "
            f"task that this program does not have, give yard.remote(name)"
        )
    enqueuer = task if isinstance(task, Enqueuer) else Enqueuer(task, PLAIN)
    given = enqueuer.options
    for option in ("delay", "due", "id"):
        if getattr(given, option) is not None:
            raise PolicyError(f"{option}= says nothing in a schedule: its messages come by when=")
    if not isinstance(when, get_args(When)):
        raise PolicyError(
            f"when must be cron(...), every(...), rrule(...) or RegularSchedule(...), not {when!r}"
        )
    if catch_up not in CATCH_UPS:
        raise PolicyError(f"catch_up must be one of {', '.join(CATCH_UPS)}, not {catch_up!r}")
    put = enqueuer.put_of_call(args, kwargs)
    spread = round(seconds("jitter", jitter) * 1e6)
    if spread and put.unique is not None and put.unique.mode is Mode.DEBOUNCE:
        raise PolicyError(
            "jitter= says nothing of a debounced task: its messages are put off by the delay= of"
            " its Unique; leave jitter= out"
        )
    return Plan(
        when,
        put.group.queue,
        put.group.name,
        put.bodies[0],  # without an id: a random one would make each declaration another
        put.shard,
        put.priority,
        put.record_ttl,
        put.member,
        catch_up,
        spread,
        put.unique,
        put.expires,
    )


class Timetable:
    """All schedules that a broker knows.

    Its methods raise `NotFound` for a name that there is none of, and `BrokerError` if the storage
    fails. Each has a form for event loops, whose name begins with `a`.

    Arguments:
        connection: to the broker: the yard.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(
        self,
        task: Task[..., Any] | Enqueuer[..., Any],
        *args: Any,
        when: When,
        name: str | None = None,
        catch_up: CatchUp = "latest",
        jitter: float | timedelta = 0.0,
        **kwargs: Any,
    ) -> str:
        """Store a schedule now; one of the same name is replaced.

        For the arguments see `Yard.schedule`.

        Returns:
            Its name.
        """
        plan = make_plan(task, args, kwargs, when, catch_up=catch_up, jitter=jitter)
        chosen = checked_schedule_name(plan.task if name is None else name)
        self._run(store(self._schedules, chosen, plan))
        return chosen

    async def aadd(
        self,
        task: Task[..., Any] | Enqueuer[..., Any],
        *args: Any,
        when: When,
        name: str | None = None,
        catch_up: CatchUp = "latest",
        jitter: float | timedelta = 0.0,
        **kwargs: Any,
    ) -> str:
        """Do the same without blocking the event loop."""
        plan = make_plan(task, args, kwargs, when, catch_up=catch_up, jitter=jitter)
        chosen = checked_schedule_name(plan.task if name is None else name)
        await self._arun(store(self._schedules, chosen, plan))
        return chosen

    def list(self) -> Sequence[ScheduleInfo]:
        """All schedules, sorted by name."""
        return self._run(_all(self._schedules))

    async def alist(self) -> Sequence[ScheduleInfo]:
        """Do the same without blocking the event loop."""
        return await self._arun(_all(self._schedules))

    def remove(self, name: str) -> None:
        """Remove a schedule. Messages that it has put already stay."""
        self._run(remove(self._schedules, name))

    async def aremove(self, name: str) -> None:
        """Do the same without blocking the event loop."""
        await self._arun(remove(self._schedules, name))

    def pause(self, name: str) -> bool:
        """Let a schedule do nothing until it is resumed; False: it did so before."""
        return self._run(set_paused(self._schedules, name, paused=True))

    async def apause(self, name: str) -> bool:
        """Do the same without blocking the event loop."""
        return await self._arun(set_paused(self._schedules, name, paused=True))

    def resume(self, name: str) -> bool:
        """Let a schedule go on with its next instant; False: it was not paused.

        The instants of the pause are left out, whatever its `catch_up`.
        """
        return self._run(set_paused(self._schedules, name, paused=False))

    async def aresume(self, name: str) -> bool:
        """Do the same without blocking the event loop."""
        return await self._arun(set_paused(self._schedules, name, paused=False))

    def fire(self, name: str) -> str:
        """Put a schedule's message now, also if it is paused; its instants stay as they are.

        Returns:
            The message's id.
        """
        return self._run(fire_now(self._schedules, name))

    async def afire(self, name: str) -> str:
        """Do the same without blocking the event loop."""
        return await self._arun(fire_now(self._schedules, name))

    @property
    def _schedules(self) -> Schedules:
        return self._connection.broker.schedules

    def _run(self, operation: Operation[T]) -> T:
        return self._connection.driver.run(operation)

    async def _arun(self, operation: Operation[T]) -> T:
        return await self._connection.async_driver.run(operation)


def _all(schedules: Schedules) -> Operation[list[ScheduleInfo]]:
    found: list[ScheduleInfo] = []
    page = yield from schedules.find(limit=PAGE)
    while page:
        found += map(_info, page)
        page = yield from schedules.find(after=page[-1].name, limit=PAGE)
    return found


def _info(schedule: Schedule) -> ScheduleInfo:
    pending = None if schedule.paused else _moment(schedule.pending)
    last = _moment(schedule.last)
    try:
        plan = read_plan(schedule)
    except PolicyError as error:
        return ScheduleInfo(schedule.name, "", "", str(error), pending, last, schedule.paused)
    return ScheduleInfo(
        schedule.name,
        plan.task,
        plan.queue,
        described(plan.when),
        pending,
        last,
        schedule.paused,
        plan.catch_up,
    )


def _moment(instant: int) -> datetime | None:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=instant) if instant else None
