"""What a stored schedule means, what to do when it is due, and changing schedules.

The first part are pure functions, the second operations, which any driver runs.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping
from copy import copy
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from zlib import crc32

import msgspec

from taskyard.brokers.base import Group, Operation, Put
from taskyard.brokers.schedules import Schedule, Schedules
from taskyard.brokers.unique import Keys
from taskyard.errors import NotFound, PolicyError
from taskyard.message import Envelope, is_text, packed_headers, read_headers, with_headers
from taskyard.schedule import CatchUp, Due, When, due

__all__ = [
    "PAGE",
    "Plan",
    "ScheduleTerms",
    "checked_schedule_name",
    "declared",
    "fire",
    "fire_now",
    "instant_of",
    "prune",
    "read_plan",
    "remove",
    "resumed",
    "set_paused",
    "store",
    "with_id",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LONGEST_NAME = 150
PAGE = 1000
"""Schedules that are looked at by one call."""


class ScheduleTerms(NamedTuple):
    """What a program declares of schedules.

    Attributes:
        plans: its schedules, by name.
        owned: what names of schedules begin with; those of them that it does not declare are
            removed.
    """

    plans: Mapping[str, Plan] = {}
    owned: Collection[str] = ()


class Plan(msgspec.Struct, frozen=True):
    """What a schedule puts, and when: its `Schedule.rule`, decoded.

    Attributes:
        when: its instants.
        queue: of the group that it puts to.
        group: the group's name.
        body: a message without an id.
        shard: of its messages.
        priority: of its messages.
        record_ttl: microseconds for which its records are kept; 0: it has none.
        member: the task, if it shares an order group with others.
        catch_up: what is made up for after instants were missed.
        jitter: microseconds by which a message may be put off at most.
        unique: the unique key of its messages; None: they have none.
        expires: microseconds that each may wait in its lane; 0: what its task says.
    """

    when: When
    queue: str
    group: str
    body: bytes
    shard: str = ""
    priority: int = 0
    record_ttl: int = 0
    member: str = ""
    catch_up: CatchUp = "latest"
    jitter: int = 0
    unique: Keys | None = None
    expires: int = 0

    def packed(self) -> bytes:
        """As it is stored."""
        return _encode(self)

    @property
    def task(self) -> str:
        """The task's name."""
        return self.member or self.group

    def message_id(self, name: str, instant: int) -> str:
        """The id of the message of an instant, which says what it comes from."""
        moment = (_EPOCH + timedelta(microseconds=instant)).isoformat()
        return f"{name}@{moment.replace('+00:00', 'Z')}"

    def put(self, name: str, instant: int) -> Put:
        """Make the message of an instant.

        Arguments:
            name: of the schedule.
            instant: microseconds.
        """
        message_id = self.message_id(name, instant)
        body = with_id(self.body, message_id)
        delayed = crc32(f"{name}@{instant}".encode()) % (self.jitter + 1)
        return Put(
            Group(self.queue, self.group),
            [body],
            self.shard,
            self.priority,
            due=instant + delayed if delayed else 0,
            ids=[message_id] if self.record_ttl else None,
            record_ttl=self.record_ttl,
            member=self.member,
            unique=None if self.unique is None else copy(self.unique),
            expires=self.expires,
        )


def instant_of(message_id: str) -> int:
    """The instant of a schedule's message, in microseconds.

    Arguments:
        message_id: as `Plan.message_id` made it.

    Raises:
        ValueError: it is the id of no such message.
    """
    _, found, moment = message_id.rpartition("@")
    if not found:
        raise ValueError(f"{message_id!r} is the id of no schedule's message")
    return (datetime.fromisoformat(moment) - _EPOCH) // timedelta(microseconds=1)


def with_id(body: bytes, message_id: str) -> bytes:
    """A message with another id."""
    envelope = _read_envelope(body)
    made = _encode_envelope(Envelope(message_id, envelope.payload, envelope.task))
    headers = read_headers(body)
    return with_headers(made, packed_headers(headers)) if headers else made


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Plan).decode
_read_envelope = msgspec.msgpack.Decoder(Envelope[msgspec.Raw]).decode
_encode_envelope = msgspec.msgpack.Encoder().encode


def read_plan(schedule: Schedule) -> Plan:
    """Read what a schedule means.

    Raises:
        PolicyError: it was stored by a program that knows more than this one.
    """
    try:
        return _decode(schedule.rule)
    except (msgspec.MsgspecError, ValueError) as error:
        raise PolicyError(
            f"schedule {schedule.name!r} cannot be read, it may come from a newer taskyard: {error}"
        ) from error


def checked_schedule_name(name: object) -> str:
    """Check the name of a schedule.

    Raises:
        PolicyError: it is no short printable text.
    """
    good = isinstance(name, str) and 0 < len(name) <= _LONGEST_NAME
    if not good or not str(name).isprintable() or not is_text(str(name)):
        raise PolicyError(
            f"a schedule's name must be 1 to {_LONGEST_NAME} printable characters, not {name!r}"
        )
    return str(name)


def declared(stored: Schedule | None, name: str, plan: Plan, now: int) -> Schedule | None:
    """Say how a schedule is to be stored that a program declares.

    Arguments:
        stored: as it is stored; None: it is not.
        name: its own.
        plan: what it means.
        now: microseconds.

    Returns:
        The schedule; None: it is stored like this already, with what was done and is pending.
    """
    rule = plan.packed()
    if stored is None:
        return Schedule(name, rule, plan.when.following(now) or 0)
    if stored.rule == rule:
        return None
    return msgspec.structs.replace(stored, rule=rule, pending=_pending(stored, plan, now))


def _pending(stored: Schedule, plan: Plan, now: int) -> int:
    """The next instant of a schedule that means something else now.

    What was missed stays missed: it was missed by the former one.
    """
    return plan.when.following(max(now, stored.last)) or 0


def resumed(stored: Schedule, plan: Plan, now: int) -> Schedule:
    """A paused schedule, going on with its next instant: those of the pause are left out."""
    return msgspec.structs.replace(stored, paused=False, pending=_pending(stored, plan, now))


def fire(schedule: Schedule, plan: Plan, now: int) -> tuple[Schedule, Put | None]:
    """Do what is due.

    Arguments:
        schedule: as it is stored.
        plan: what it means.
        now: microseconds.

    Returns:
        The schedule as it is to be stored, and the message to put with it, if there is one.
    """
    found: Due = due(plan.when, schedule.pending, now, plan.catch_up)
    last = schedule.last if found.instant is None else found.instant
    moved = msgspec.structs.replace(schedule, pending=found.following or 0, last=last)
    return moved, None if found.instant is None else plan.put(schedule.name, found.instant)


# Operations


def store(schedules: Schedules, name: str, plan: Plan) -> Operation[None]:
    """Store what a program declares, unless it is stored like this.

    Arguments:
        schedules: of the broker.
        name: the schedule's.
        plan: what it means.
    """
    changed = False
    while not changed:  # somebody else changed it meanwhile
        found = yield from schedules.find([name])
        now = (yield from schedules.due(1)).now
        new = declared(found[0] if found else None, name, plan, now)
        if new is None:
            return
        old = found[0] if found else Schedule(name, b"", 0)
        changed = yield from schedules.change(old, new)


def prune(schedules: Schedules, prefix: str, kept: Container[str]) -> Operation[list[str]]:
    """Remove schedules that are no longer declared.

    Arguments:
        schedules: of the broker.
        prefix: what their names begin with.
        kept: the names of those that stay.

    Returns:
        The names of those that were removed.
    """
    removed: list[str] = []
    after = prefix
    while page := (yield from schedules.find(after=after, limit=PAGE)):
        for found in page:
            if not found.name.startswith(prefix):
                return removed
            # One that somebody changed meanwhile was declared anew: it stays.
            if found.name not in kept and (yield from schedules.change(found, None)):
                removed.append(found.name)
        after = page[-1].name
    return removed


def remove(schedules: Schedules, name: str) -> Operation[None]:
    """Remove a schedule.

    Raises:
        NotFound: there is none of this name.
    """
    while not (yield from schedules.change((yield from _known(schedules, name)), None)):
        pass


def set_paused(schedules: Schedules, name: str, *, paused: bool) -> Operation[bool]:
    """Pause a schedule, or let it go on with its next instant.

    Returns:
        Whether that changed something.

    Raises:
        NotFound: there is none of this name.
    """
    while True:
        old = yield from _known(schedules, name)
        if old.paused == paused:
            return False
        new = msgspec.structs.replace(old, paused=True)
        if not paused:
            now = (yield from schedules.due(1)).now
            new = resumed(old, read_plan(old), now)
        if (yield from schedules.change(old, new)):
            return True


def fire_now(schedules: Schedules, name: str) -> Operation[str]:
    """Put the message of a schedule now, besides those of its instants.

    Returns:
        The message's id.

    Raises:
        NotFound: there is none of this name.
    """
    while True:
        old = yield from _known(schedules, name)
        now, plan = (yield from schedules.due(1)).now, read_plan(old)
        put = msgspec.structs.replace(plan.put(name, now), due=0)
        if (yield from schedules.change(old, old, put)):
            return plan.message_id(name, now)


def _known(schedules: Schedules, name: str) -> Operation[Schedule]:
    found = yield from schedules.find([name])
    if not found:
        raise NotFound(f"there is no schedule {name!r}: `taskyard schedules list` shows them")
    return found[0]
