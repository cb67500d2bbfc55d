"""Many schedulers at once, none of which can be relied on: each instant is done once.

Schedulers and those who change schedules take turns, step by step, in an order that a seed decides.
Any of them may die between two steps, and the clock jumps, by months too, forward and back. In the
end the messages say what was done: their ids are `name@instant`, their payload is the number of the
declaration that they come from.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import msgspec
import pytest

from taskyard import RegularSchedule, cron, every, rrule
from taskyard.brokers.base import Group, Operation
from taskyard.brokers.memory import MemoryBroker
from taskyard.brokers.schedules import Schedule, Schedules
from taskyard.errors import NotFound
from taskyard.message import Envelope, read_envelope
from taskyard.schedule import CatchUp, When
from taskyard.scheduling import Plan, fire, fire_now, read_plan, remove, set_paused, store
from taskyard.testing.conformance.harness import Harness, Make, deliveries, micros

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
NEVER = 1 << 62

RARE: list[When] = [  # those of which all are made up for, of years
    cron("30 2 * * SUN", tz="Europe/Berlin"),  # the hour that is left out, or comes twice
    every(5 * DAY, start=datetime(2023, 11, 20, tzinfo=UTC)),
    rrule("FREQ=MONTHLY;BYDAY=1SU,-1SU;BYHOUR=1;BYMINUTE=30", tz="America/New_York"),
    RegularSchedule(minutes=45, hours=1, days={1, 7, 15}, tz="Australia/Lord_Howe"),
]
FREQUENT: list[When] = [
    cron("*/15 * * * *", tz="Australia/Lord_Howe"),
    every(7),
    rrule("FREQ=HOURLY;INTERVAL=5", start=datetime(2023, 1, 1), tz="Europe/Berlin"),  # noqa: DTZ001
    RegularSchedule(seconds={0, 30}, weekdays={0, 2, 6}, tz="America/New_York"),
]
CATCH_UPS: dict[str, CatchUp] = {
    **dict.fromkeys(["all a", "all b", "all c", "all d"], "all"),
    "latest": "latest",
    "earliest": "earliest",
    "none": "none",
    "recorded": "latest",
}
"""What is made up for, by the names of the schedules."""

RECORDED = "recorded"
"""Its messages have records, so that a second one of an instant is refused; it is not removed."""


@dataclass
class Span:
    """Instants that one declaration is to do: it ends with a pause, or with another declaration."""

    begin: int
    end: int = NEVER

    def __contains__(self, instant: int) -> bool:
        return self.begin <= instant < self.end


@dataclass
class Declaration:
    """A schedule as it was stored once.

    Attributes:
        name: of the schedule.
        when: its instants.
        catch_up: what is made up for.
        life: how often a schedule of the name was removed before.
        spans: while it was stored, and not paused.
    """

    name: str
    when: When
    catch_up: CatchUp
    life: int
    spans: list[Span] = field(default_factory=list)

    def instants(self) -> Iterator[int]:
        """All of them."""
        for span in self.spans:
            instant: int | None = span.begin
            while instant is not None and instant in span:
                yield instant
                instant = self.when.following(instant)


class Actor:
    """Takes an operation step by step; left between two of them, it has died there."""

    def __init__(self, operation: Operation[Any]) -> None:
        self._operation = operation
        self._reply: Any = None
        self._error: Exception | None = None
        self.result: Any = None

    def step(self, harness: Harness) -> bool:
        """Take a step; False: it has ended."""
        try:
            if self._error is not None:
                asked = self._operation.throw(self._error)
            else:
                asked = self._operation.send(self._reply)
        except StopIteration as end:
            self.result = end.value
            return False
        self._reply, self._error = None, None
        try:
            self._reply = harness.run(one_step(asked))
        except Exception as error:
            self._error = error
        return True


def one_step(asked: Any) -> Operation[Any]:
    return (yield asked)


def schedule_forever(schedules: Schedules) -> Operation[None]:
    """What a worker does."""
    while True:
        yield from schedule_once(schedules)


def schedule_once(schedules: Schedules) -> Operation[bool]:
    found = yield from schedules.due(5)
    for one in found.schedules:
        moved, put = fire(one, read_plan(one), found.now)
        yield from schedules.change(one, moved, put)
    return bool(found.schedules)


class World:
    """A broker, those who use it, and what a user knows of its schedules."""

    def __init__(self, harness: Harness, seed: int) -> None:
        self.harness = harness
        self.schedules = harness.broker.schedules
        self.chance = Random(seed)
        self.declarations: list[Declaration] = []
        self.lives: dict[str, int] = defaultdict(int)
        self.by_hand: list[str] = []
        self.latest = 0
        harness.clock.now += 1  # off all grids, so that what is put by hand can be told from them

    # What happens

    def run(self, steps: int) -> None:
        for name in CATCH_UPS:
            self.manage(Actor(self.declaring(name)), to_the_end=True)
        workers = [Actor(schedule_forever(self.schedules)) for _ in range(4)]
        managers: list[Actor] = []
        for _ in range(steps):
            self.pass_time()
            if managers and self.chance.random() < 0.4:
                manager = self.chance.choice(managers)
                if self.chance.random() < 0.05 or not self.manage(manager):
                    managers.remove(manager)
                continue
            number = self.chance.randrange(len(workers))
            workers[number].step(self.harness)
            if self.chance.random() < 0.05:
                workers[number] = Actor(schedule_forever(self.schedules))
            if self.chance.random() < 0.1:
                managers.append(Actor(self.managing()))
        self.finish()

    def finish(self) -> None:
        """Others come later, until nothing is left to be done."""
        self.harness.clock.now = self.latest
        for _ in range(2):
            self.move(HOUR)  # what somebody has left half done is not touched for a while
            while self.harness.run(schedule_once(self.schedules)):
                pass
        assert not self.harness.run(self.schedules.due(1)).schedules

    def pass_time(self) -> None:
        self.move(self.chance.randrange(3) / 1000)
        if self.chance.random() > 0.06:
            return
        far = self.chance.randrange(1, 3000) / 1000
        if self.chance.random() < 0.8:
            self.move(far * self.chance.choice([1, MINUTE, HOUR, DAY, 30 * DAY]))
        else:
            self.move(-far * self.chance.choice([1, MINUTE, HOUR, 3 * DAY]))

    def move(self, seconds: float) -> None:
        clock = self.harness.clock
        clock.now += micros(round(seconds, 3))  # by whole milliseconds, as grids are
        self.latest = max(self.latest, clock.now)

    # Changes

    def managing(self) -> Operation[Any]:
        """Somebody who changes something."""
        name = self.chance.choice(list(CATCH_UPS))
        what = self.chance.choice(
            ["declare", "declare", "again", "pause", "resume", "resume", "fire", "remove"]
        )
        match what:
            case "pause" | "resume":
                return set_paused(self.schedules, name, paused=what == "pause")
            case "fire":
                return self.firing(name)
            case "remove" if name != RECORDED:
                return remove(self.schedules, name)
            case "again":
                return self.declaring_again(name)
        return self.declaring(name)

    def declaring(self, name: str) -> Operation[None]:
        catch_up = CATCH_UPS[name]
        when = self.chance.choice(RARE if catch_up == "all" else FREQUENT + RARE)
        number = len(self.declarations)
        self.declarations.append(Declaration(name, when, catch_up, self.lives[name]))
        body = msgspec.msgpack.encode(Envelope("", number))
        keep = micros(DAY) if name == RECORDED else 0
        plan = Plan(when, "q", name, body, record_ttl=keep, catch_up=catch_up)
        return store(self.schedules, name, plan)

    def declaring_again(self, name: str) -> Operation[None]:
        """Somebody whose program says what is stored, which changes nothing of it."""
        found = yield from self.schedules.find([name])
        if found:
            yield from store(self.schedules, name, read_plan(found[0]))

    def firing(self, name: str) -> Operation[None]:
        self.by_hand.append((yield from fire_now(self.schedules, name)))

    def manage(self, manager: Actor, *, to_the_end: bool = False) -> bool:
        """Let somebody take a step, and note what it changes."""
        going = True
        while going:
            before = self.stored()
            try:
                going = manager.step(self.harness)
            except NotFound:
                going = False
            after = self.stored()
            for name in CATCH_UPS:
                self.note(before.get(name), after.get(name))
            if not to_the_end:
                break
        return going

    def stored(self) -> dict[str, Schedule]:
        return {one.name: one for one in self.harness.run(self.schedules.find())}

    def note(self, before: Schedule | None, after: Schedule | None) -> None:
        if meaning(before) == meaning(after):
            return  # unchanged, or somebody's instant was done
        if before is not None and not before.paused:
            self.declaration(before).spans[-1].end = before.pending or NEVER
        if after is None:
            assert before is not None
            self.lives[before.name] += 1
        else:
            declaration = self.declaration(after)
            declaration.life = self.lives[after.name]
            if not after.paused:
                assert after.pending
                declaration.spans.append(Span(after.pending))

    def declaration(self, schedule: Schedule) -> Declaration:
        envelope = read_envelope(read_plan(schedule).body)
        assert envelope is not None
        return self.declarations[envelope.payload]

    # What must hold

    def check(self) -> None:
        stored = self.stored()
        for one in stored.values():
            if not one.paused:
                self.declaration(one).spans[-1].end = one.pending
        for name in CATCH_UPS:
            self.check_name(name, stored.get(name))

    def check_name(self, name: str, stored: Schedule | None) -> None:
        put = [(id_, self.declarations[number]) for id_, number in self.messages(name)]
        by_hand = [id_ for id_, _ in put if instant_of(id_) % 1000]
        assert len(by_hand) == len(set(by_hand))
        assert {id_ for id_ in self.by_hand if id_.startswith(f"{name}@")} <= set(by_hand)

        lives: dict[int, list[int]] = defaultdict(list)
        done: dict[int, list[int]] = defaultdict(list)
        for id_, declaration in put:
            instant = instant_of(id_)
            assert id_ == Plan(declaration.when, "", "", b"").message_id(name, instant)
            assert instant <= self.latest
            if id_ not in by_hand:
                lives[declaration.life].append(instant)
                done[id(declaration)].append(instant)
        for instants in lives.values():
            assert rises(instants), f"{name}: an instant twice, or a former one"
        for declaration in self.declarations:
            if declaration.name == name:
                check_declaration(declaration, done[id(declaration)])
        if stored is not None:
            self.check_stored(stored, lives[self.lives[name]])

    def check_stored(self, stored: Schedule, done: list[int]) -> None:
        assert stored.last == (done[-1] if done else 0)
        assert stored.pending > stored.last
        when = read_plan(stored).when
        assert when.following(stored.pending - 1) == stored.pending
        if not stored.paused:
            assert stored.pending > self.harness.clock.now

    def messages(self, name: str) -> list[tuple[str, int]]:
        """What was put, in order: ids, and the numbers of declarations."""
        found = []
        while claims := self.harness.claims(1000, groups=[Group("q", name)]):
            for claim in claims:
                for message in deliveries(claim):
                    envelope = read_envelope(message.body)
                    assert envelope is not None
                    found.append((envelope.id, envelope.payload))
                assert self.harness.settle(claim)
        return found


def meaning(schedule: Schedule | None) -> tuple[bytes, bool] | None:
    return None if schedule is None else (schedule.rule, schedule.paused)


def instant_of(id_: str) -> int:
    moment = datetime.fromisoformat(id_.partition("@")[2])
    return (moment - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1)


def rises(instants: list[int]) -> bool:
    return all(first < second for first, second in itertools.pairwise(instants))


def check_declaration(declaration: Declaration, done: list[int]) -> None:
    if declaration.catch_up == "all":
        assert done == list(declaration.instants())
        return
    for instant in done:
        assert any(instant in span for span in declaration.spans)
        assert declaration.when.following(instant - 1) == instant, "not one of its instants"


def run(harness: Harness, seed: int, steps: int = 1500) -> None:
    world = World(harness, seed)
    try:
        world.run(steps)
        world.check()
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise


def test_each_instant_is_done_once_whoever_dies_and_wherever_the_clock_jumps(make: Make) -> None:
    harness = make()
    run(harness, 0)
    if isinstance(harness.broker, MemoryBroker):  # a server takes longer
        for seed in (1, 2):
            run(make(), seed)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_same_for_long(make: Make) -> None:
    for seed in range(1000, 1050):
        run(make(), seed)
