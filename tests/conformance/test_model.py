"""Random operations on the memory broker and on another one: both must be observed alike."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.conformance.ledgers import (
    Cancellations,
    Census,
    Handouts,
    Holds,
    check_claims,
    check_room,
)

from taskyard.brokers.base import (
    Back,
    Broker,
    Claim,
    Counts,
    Dead,
    DeadLetter,
    DeadQuery,
    Discard,
    Group,
    GroupWant,
    Operation,
    Outcome,
    Put,
    Retried,
    Settlement,
    Step,
    Stopped,
    Want,
)
from taskyard.brokers.bounds import Bounds, Overflow
from taskyard.brokers.cancelling import Cancelled
from taskyard.brokers.facts import Facts
from taskyard.brokers.lane import Gate, GroupPolicy, LaneState
from taskyard.brokers.memory import MemoryBroker
from taskyard.brokers.rate import UNLIMITED, Limited, Rate
from taskyard.brokers.schedules import Schedule
from taskyard.brokers.unique import Keys, Mode
from taskyard.errors import QueueDraining, QueueFull
from taskyard.message import Failure, read_id
from taskyard.testing.conformance.harness import Clock, body, deliveries, micros, name

T = TypeVar("T")

POLICIES = {
    Group("q", "plain"): GroupPolicy(),
    Group("q", "ordered"): GroupPolicy(concurrency=1),
    Group("q", "limited"): GroupPolicy(concurrency=2, max_deliveries=2),
    Group("q", "batch"): GroupPolicy(size=3, within=micros(5), bytes=300),
    Group("r", "ordered batch"): GroupPolicy(
        size=4, within=micros(3), concurrency=1, minimum=2, lead=micros(0.5)
    ),
    Group("b", "bounded"): GroupPolicy(),
    Group("b", "bounded batch"): GroupPolicy(size=3, within=micros(5), bytes=300, concurrency=1),
    Group("b", "everything"): GroupPolicy(
        size=4,
        within=micros(5),
        bytes=300,
        concurrency=1,
        max_deliveries=2,
        rate=Rate(3, micros(2), 4),
        shard_rate=Rate(2, micros(1), 2),
        minimum=2,
        lead=micros(0.5),
        members=("one",),
    ),
}
BOUNDED = "b"
GROUPS = list(POLICIES)
QUEUES = sorted({group.queue for group in GROUPS})
MEMBERS = ("one", "two")
"""Of the group whose tasks have a common order."""
LIMITED = [
    *map(Limited, QUEUES),
    *(Limited(group.queue, group.name, shards) for group in GROUPS for shards in (False, True)),
]
RATES = [Rate(2, micros(1), 1), Rate(3, micros(2), 4), UNLIMITED]
SHARDS = ["", "a", "b"]
OWNERS = ["ann", "bob"]
COUNTED_EVERY = 3
"""Steps: on Redis, counting takes longer than all else together, and what differs goes on to."""

groups = st.runner().flatmap(lambda machine: st.sampled_from(machine.focus))
some_groups = st.just(GROUPS) | st.lists(
    st.sampled_from(GROUPS), min_size=1, max_size=5, unique=True
)
lanes = st.lists(
    st.tuples(st.sampled_from(SHARDS), st.integers(-1, 1), st.integers(1, 4)),
    min_size=1,
    max_size=4,
)
bounds = st.builds(
    Bounds,
    length=st.sampled_from([0, 6, 12]),
    shard=st.sampled_from([0, 0, 4]),
    overflow=st.sampled_from([Overflow.RAISE, Overflow.DROP, Overflow.DROP]),
)
ends = st.sampled_from(
    ["done", "done", "keep", "back", "started", "park", "retry", "later", "dead", "discard", "stop"]
)


def want(
    groups: list[Group],
    messages: int,
    lease: float = 30,
    members: Sequence[str] = MEMBERS,
    **wish: Any,
) -> Want:
    served = [GroupWant(group, messages, frozenset(members)) for group in groups]
    return Want(served, lease=micros(lease), **wish)


wants = st.builds(
    want,
    groups=some_groups,
    messages=st.integers(1, 7),
    lease=st.sampled_from([2.0, 30.0]),
    members=st.sampled_from([MEMBERS, MEMBERS, MEMBERS[:1]]),
    owner=st.sampled_from(OWNERS),
    claims=st.integers(1, 3),
    bytes=st.sampled_from([150, 400, 1 << 20]),
    drain=st.booleans(),
    alone=st.booleans(),
)


class Twins(RuleBasedStateMachine):
    """Two brokers with one clock, and what a user knows of them."""

    make_other: Callable[..., Broker]
    fires_in_one_step = True

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.folder = Path(tempfile.mkdtemp(prefix="taskyard-model-"))
        self.model = MemoryBroker(clock=self.clock)
        self.other = type(self).make_other(self.folder, self.clock)
        self.drivers = [(broker, broker.driver()) for broker in (self.model, self.other)]
        self.claims: dict[int, Claim] = {}
        self.old_claims: list[Claim] = []
        self.recorded: list[str] = []
        self.first_starts: dict[tuple[Group, str, int], list[int]] = defaultdict(list)
        self.put_so_far: Counter[Group] = Counter()
        self.made = 0
        self.focus = GROUPS
        self.latest = self.clock.now
        self.handouts = Handouts()
        self.holds = Holds()
        self.cancellations = Cancellations()
        self.looks = 0

    def teardown(self) -> None:
        for _, driver in self.drivers:
            driver.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def both(self, operation: Callable[[Any], Operation[T]]) -> T:
        """Run an operation on both brokers: the answers must be equal."""
        first, second = (driver.run(operation(broker)) for broker, driver in self.drivers)
        assert first == second
        return first

    # Rules

    @initialize(
        focus=st.lists(st.sampled_from(GROUPS), min_size=1, max_size=3, unique=True),
        lanes=lanes,
        bounds=st.none() | bounds,
        rate=st.sampled_from([None, *RATES]),
        keep=st.sampled_from([None, 4.0]),
    )
    def begin(
        self,
        focus: list[Group],
        lanes: list[tuple[str, int, int]],
        bounds: Bounds | None,
        rate: Rate | None,
        keep: float | None,
    ) -> None:
        self.focus = focus
        self.bound(bounds, declared=True)
        self.set_rate(Limited(BOUNDED), rate, declared=True)
        for group, policy in POLICIES.items():
            self._declare(group, policy)
            self._put(group, lanes, keep=keep)

    @rule(
        group=groups,
        lanes=lanes,
        delay=st.sampled_from([0, 0, 0, 0.5, 3]),
        keep=st.sampled_from([None, None, 0.0, 4.0]),
        size=st.sampled_from([0, 60, 120]),
        expires=st.sampled_from([0, 0, 0, 1, 2.5]),
    )
    def put(
        self,
        group: Group,
        lanes: list[tuple[str, int, int]],
        delay: float,
        keep: float | None,
        size: int,
        expires: float,
    ) -> None:
        self._put(group, lanes, delay, keep, size, expires=expires)

    @rule(
        group=groups,
        shard=st.sampled_from(SHARDS),
        mode=st.sampled_from(Mode),
        keys=st.lists(st.sampled_from("kl"), min_size=1, max_size=3),
        delay=st.sampled_from([0, 0, 0.5]),
        keep=st.sampled_from([None, 4.0]),
        expires=st.sampled_from([0, 0, 2.5]),
        again=st.sampled_from([False, False, True]),
    )
    def put_unique(
        self,
        group: Group,
        shard: str,
        mode: Mode,
        keys: list[str],
        delay: float,
        keep: float | None,
        expires: float,
        again: bool,
    ) -> None:
        lane = (shard, 0, len(keys))
        self._put(group, [lane], delay, keep, unique=(mode, keys), expires=expires)
        if again:  # while some of them run
            self._claim([], want([group], 4, owner=OWNERS[0], claims=2, drain=True))
            self._put(group, [lane], delay, keep, unique=(mode, keys), expires=expires)

    @rule(wish=wants)
    def claim(self, wish: Want) -> None:
        self._claim([], wish)

    @rule(messages=st.integers(1, 7), claims=st.integers(1, 4), owner=st.sampled_from(OWNERS))
    def claim_anything(self, messages: int, claims: int, owner: str) -> None:
        wish = want(GROUPS, messages, owner=owner, claims=claims)
        self._claim([], wish)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), wish=st.none() | wants, count=st.integers(1, 3))
    def settle(self, data: st.DataObject, wish: Want | None, count: int) -> None:
        settlements = []
        for _ in range(min(count, len(self.claims))):
            claim = self.claims[data.draw(st.sampled_from(sorted(self.claims)), "claim")]
            end = lambda id_: data.draw(ends, f"the end of {id_}")  # noqa: E731
            settlements.append(self._end(claim, end))
        self._claim(settlements, wish)

    @precondition(lambda self: self.old_claims)
    @rule(data=st.data())
    def settle_again(self, data: st.DataObject) -> None:
        claim = data.draw(st.sampled_from(self.old_claims), "claim")
        settlement = Settlement(claim.token, keep=self._held(claim.token))
        self.both(lambda broker: broker.step([settlement], None))

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), lease=st.sampled_from([1.0, 60.0]))
    def extend(self, data: st.DataObject, lease: float) -> None:
        tokens = data.draw(st.lists(st.sampled_from(sorted(self.claims)), unique=True), "tokens")
        lost = self.both(lambda broker: broker.extend(tokens, micros(lease)))
        assert lost == [token for token in tokens if token not in self.model._state.claims]

    @rule(owners=st.lists(st.sampled_from(OWNERS), unique=True))
    def reap(self, owners: list[str]) -> None:
        self.both(lambda broker: broker.reap(owners))

    @rule(seconds=st.sampled_from([0.000001, 0.5, 1.0, 3.0, 10.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.latest = max(self.latest, self.clock.now)

    @rule(seconds=st.sampled_from([0.5, 20.0]))
    def clock_is_set_back(self, seconds: float) -> None:
        self.clock.set_back(seconds)
        self.handouts.clock_was_set_back()

    @rule(limit=st.integers(1, 3), queue=st.sampled_from([None, *QUEUES]))
    def retry_dead(self, limit: int, queue: str | None) -> None:
        before = self._buried()
        self.both(lambda broker: broker.retry_dead(DeadQuery(queue=queue, limit=limit)))
        self.holds.retry(before - self._buried(), self._census(), self.latest)

    @rule(limit=st.integers(1, 3), task=st.sampled_from([None, "plain", "ordered"]))
    def discard_dead(self, limit: int, task: str | None) -> None:
        self.both(lambda broker: broker.discard_dead(DeadQuery(task=task, limit=limit)))

    # Where the clock is behind, a record may be gone that another broker has not expired yet.
    @precondition(lambda self: self.clock.now == self.latest)
    @rule(group=st.sampled_from(GROUPS), shard=st.sampled_from(SHARDS), key=st.sampled_from("kl"))
    def cancel_key(self, group: Group, shard: str, key: str) -> None:
        holder = self.model._state.keys.of(group, shard).get(key)
        if holder is not None and holder.id in {*self.recorded}.difference(self._remembered()):
            return
        before = self._census()
        outcome = self.both(lambda broker: broker.cancel_key(group, shard, key)).outcome
        if holder is not None and outcome not in (Cancelled.ENDED, Cancelled.UNKNOWN):
            self.cancellations.cancel(holder.id, outcome, before, note=True)
            self.holds.cancel(group, shard, key, outcome)

    @rule(data=st.data(), note=st.booleans(), given_back=st.booleans())
    def cancel(self, data: st.DataObject, note: bool, given_back: bool) -> None:
        forgotten = {*self.recorded}.difference(self._remembered())
        ids = [f"m{number:05}" for number in range(self.made)]
        before = self._census()
        known = [id_ for id_ in ids if id_ not in forgotten]
        running = [id_ for id_ in known if id_ in before.running]
        id_ = data.draw(st.sampled_from(known) | st.sampled_from(running or known), "id")
        outcome = self.both(lambda broker: broker.cancel(id_, note=note)).outcome
        self.cancellations.cancel(id_, outcome, before, note=note)
        held = [c for c in self.claims.values() if id_ in map(name, deliveries(c))]
        if held and given_back:
            everything = want(GROUPS, 7, owner=OWNERS[0], claims=4, drain=True)
            self._claim([self._end(held[0], lambda _: "back")], everything)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), told=st.sampled_from([b"half", b"all"]))
    def tell_progress(self, data: st.DataObject, told: bytes) -> None:
        claim = self.claims[data.draw(st.sampled_from(sorted(self.claims)), "claim")]
        progress = [(claim.token, name(message), told) for message in deliveries(claim)]
        self.both(lambda broker: broker.pulse([claim.token], progress))

    @rule(data=st.data())
    def explain(self, data: st.DataObject) -> None:
        forgotten = {*self.recorded}.difference(self._remembered())
        ids = [f"m{number:05}" for number in range(self.made)]
        some = st.lists(st.sampled_from([id_ for id_ in ids if id_ not in forgotten]), max_size=5)
        for id_ in data.draw(some, "ids"):
            self.both(lambda broker, id_=id_: _facts(broker, id_))

    @rule(group=groups, shard=st.sampled_from(SHARDS))
    def release(self, group: Group, shard: str) -> None:
        self.both(lambda broker: broker.release(group, shard))

    @rule(group=groups, shard=st.sampled_from(SHARDS))
    def park(self, group: Group, shard: str) -> None:
        self.both(lambda broker: broker.park(group, shard))

    @rule(
        queue=st.sampled_from(QUEUES),
        gate=st.sampled_from([Gate.OPEN, Gate.OPEN, Gate.PAUSED, Gate.DRAINING]),
    )
    def set_gate(self, queue: str, gate: Gate) -> None:
        self.both(lambda broker: broker.set_gate(queue, gate))

    @rule(
        name=st.sampled_from("st"),
        pending=st.sampled_from([0, 1.0, 3.0]),
        paused=st.sampled_from([False, False, True]),
    )
    def schedule(self, name: str, pending: float, paused: bool) -> None:
        found = self.both(lambda broker: broker.schedules.find([name]))
        old = found[0] if found else Schedule(name, b"", 0)
        new = Schedule(name, b"rule", self.clock.now + micros(pending), old.last, paused)
        assert self.both(lambda broker: broker.schedules.change(old, new))
        assert not self.both(lambda broker: broker.schedules.change(old, new)), "a later revision"

    @rule(group=groups, lane=lanes.map(lambda lanes: lanes[0]))
    def fire_schedules(self, group: Group, lane: tuple[str, int, int]) -> None:
        for one in self.both(lambda broker: broker.schedules.due(5)).schedules:
            following = max(one.pending, self.clock.now) + micros(2)
            moved = msgspec.structs.replace(one, last=one.pending, pending=following)
            if self.fires_in_one_step:
                self._put(group, [lane], by=(one, moved))
            else:  # it takes numbers of its own for that, so what is put then has others
                assert self.both(
                    lambda broker, one=one, new=moved: broker.schedules.change(one, new)
                )

    @rule(
        group=groups,
        size=st.integers(1, 4),
        within=st.sampled_from([0.0, 5.0]),
        rate=st.sampled_from([None, None, *RATES]),
        shard_rate=st.sampled_from([None, None, *RATES]),
        minimum=st.sampled_from([0, 1]),
        lead=st.sampled_from([0.0, 0.5, 2.0]),
    )
    def redeclare(
        self,
        group: Group,
        size: int,
        within: float,
        rate: Rate | None,
        shard_rate: Rate | None,
        minimum: int,
        lead: float,
    ) -> None:
        policy = GroupPolicy(
            size=size,
            within=micros(within),
            concurrency=POLICIES[group].concurrency,
            rate=rate,
            shard_rate=shard_rate,
            minimum=minimum,
            lead=micros(lead),
            members=POLICIES[group].members,
        )
        self._declare(group, policy)

    @rule(
        limited=st.sampled_from(LIMITED),
        rate=st.sampled_from([None, *RATES]),
        declared=st.booleans(),
    )
    def set_rate(self, limited: Limited, rate: Rate | None, declared: bool) -> None:
        declared = declared and not limited.name
        self.both(lambda broker: broker.set_rate(limited, rate, declared=declared))

    @rule(bounds=st.none() | bounds, declared=st.booleans())
    def bound(self, bounds: Bounds | None, declared: bool) -> None:
        self.both(lambda broker: broker.set_bounds(BOUNDED, bounds, declared=declared))

    @rule()
    def tidy(self) -> None:
        if self.other.expires_records:
            for broker, driver in self.drivers:
                driver.run(broker.tidy())
        else:
            self.both(lambda broker: broker.tidy())

    # What producers and workers do

    def _declare(self, group: Group, policy: GroupPolicy) -> None:
        self.both(lambda broker: broker.declare(group, policy, replace=True))

    def _put(
        self,
        group: Group,
        lanes: list[tuple[str, int, int]],
        delay: float = 0,
        keep: float | None = None,
        size: int = 0,
        unique: tuple[Mode, list[str]] | None = None,
        expires: float = 0,
        by: tuple[Schedule, Schedule] | None = None,
    ) -> None:
        puts, recorded = [], []
        for shard, priority, count in lanes:
            ids = [f"m{self.made + index:05}" for index in range(count)]
            self.made += count
            members = POLICIES[group].members and MEMBERS
            member = members[self.made % len(members)] if members else ""
            if keep is not None:
                recorded += ids
            puts.append(
                Put(
                    group,
                    [body(id_, size=size, task=member) for id_ in ids],
                    shard,
                    priority,
                    micros(delay),
                    ids=None if keep is None else ids,
                    record_ttl=micros(keep or 0),
                    member=member,
                    unique=unique and Keys(*unique, micros(2), micros(5)),
                    expires=micros(expires),
                )
            )
        before = self._census()
        standing = self.both(lambda broker: _put(broker, puts, by))
        after = self._census()
        gate = self.model._state.groups[group].gate
        assert (standing == ("draining",)) == (gate is Gate.DRAINING)
        if not isinstance(standing, list):
            assert after == before, "refused, but something was stored"
            return
        check_room(before, after, self._counted())
        self.recorded += recorded
        for put, held in zip(puts, standing, strict=True):
            if put.unique is not None:
                put.unique.standing = held
                self.holds.put(put, before, self.clock.now, self.latest)
            ids = [read_id(body) for body in put.bodies]
            self.put_so_far[group] += sum(held.get(at, id_) == id_ for at, id_ in enumerate(ids))

    def _end(self, claim: Claim, end_of: Callable[[str], str]) -> Settlement:
        """Make a settlement, which is to be carried out then.

        Arguments:
            claim: its claim.
            end_of: says what becomes of a message, by its id.
        """
        del self.claims[claim.token]
        settlement = Settlement(claim.token, {}, [], frozenset(), {})
        keep = set()
        for lane in claim.lanes:
            for _, message in lane.messages:
                id_ = name(message)
                end = end_of(id_)
                if end == "done":
                    settlement.results = [*settlement.results, (id_, b"result")]
                elif end == "keep":
                    keep.add(message.sequence)
                else:
                    settlement.outcomes[message.sequence] = _outcome(end, id_)
                    settlement.retry_ids[message.sequence] = id_
        settlement.keep = frozenset(keep)
        if keep:
            self.claims[claim.token] = _part(claim, settlement.keep)
        self.old_claims.append(claim)
        settlement.progress = [(name(message), b"settled") for message in deliveries(claim)[:1]]
        if claim.token in self.model._state.claims:
            self.handouts.settle(settlement)
        return settlement

    def _claim(self, settlements: list[Settlement], wish: Want | None) -> None:
        self._note(self.both(lambda broker: broker.step(settlements, wish)))

    def _note(self, step: Step) -> None:
        for token in step.lost:
            self.claims.pop(token, None)
        check_claims(step.claims, self._counted(), self.model._state)
        self.handouts.hand_out(step.claims, step.now)
        self.holds.hand_out(step.claims)
        self.cancellations.hand_out(step.claims)
        for claim in step.claims:
            self.claims[claim.token] = claim
            for lane in claim.lanes:
                for priority, message in lane.messages:
                    starts = self.first_starts[claim.group, lane.shard, priority]
                    if message.sequence not in starts:
                        starts.append(message.sequence)

    def _remembered(self) -> list[str]:
        """The ids that may be compared: when an expired record is gone is the storage's matter."""
        if not self.other.expires_records:
            return self.recorded
        kept = self.model._state.records._by_id
        return [
            id_ for id_ in self.recorded if id_ in kept and not 0 < kept[id_].expires <= self.latest
        ]

    def _held(self, token: int) -> frozenset[int]:
        claim = self.claims.get(token)
        return frozenset(message.sequence for message in deliveries(claim))

    def _census(self) -> Census:
        return Census.of(self.model._state)

    def _counted(self) -> list[Counts]:
        return self.drivers[0][1].run(self.model.counts())

    def _buried(self) -> set[str]:
        return {letter.id for letter in self.drivers[0][1].run(_dead(self.model))}

    # What must always hold

    @invariant()
    def both_are_observed_alike(self) -> None:
        if self.looks % COUNTED_EVERY == 0:
            self.both(_counts)
        self.looks += 1
        self.handouts.see_limits(self._counted())
        self.cancellations.bury({letter.id for letter in self.both(_dead)})
        self.both(lambda broker: broker.records(self._remembered()))
        self.both(lambda broker: broker.step([], None))
        self.both(lambda broker: broker.pulse(sorted(self.claims)))

    @invariant()
    def no_lane_has_more_claims_than_its_concurrency(self) -> None:
        held = Counter(
            (claim.group.key, part.shard)
            for claim in self.model._state.claims.values()
            for part in claim.parts
        )
        for (group, _), claims in held.items():
            limit = POLICIES[group].concurrency
            assert not limit or claims <= limit

    @invariant()
    def ordered_lanes_begin_their_messages_in_order(self) -> None:
        for (group, _, _), starts in self.first_starts.items():
            if POLICIES[group].concurrency == 1:
                assert starts == sorted(starts)

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        for counts in self._counted():
            here = counts.waiting + counts.delayed + counts.running + counts.dead
            totals = counts.totals
            gone = sum(totals[end] for end in ("done", "discarded", "cancelled", "dead_dropped"))
            assert self.put_so_far[counts.group] == totals["put"] == here + gone


def _put(
    broker: Broker, puts: list[Put], by: tuple[Schedule, Schedule] | None
) -> Operation[list[dict[int, str]] | tuple[object, ...]]:
    """Put; of each put, the messages that found their keys held, and who stands; or why there was
    no room for them.

    Arguments:
        broker: where.
        puts: what.
        by: the schedule whose instant it is, as it was and as it is then.
    """
    own = [msgspec.structs.replace(put, unique=copy(put.unique)) for put in puts]
    try:
        if by is None:
            yield from broker.put(own)
        else:
            changed = yield from broker.schedules.change(*by, *own)
            assert changed
    except QueueFull as full:
        return full.queue, full.shard, full.length, full.limit, full.too_large
    except QueueDraining:
        return ("draining",)
    return [put.unique.standing or {} if put.unique else {} for put in own]


def _outcome(end: str, id_: str) -> Outcome:
    outcomes: dict[str, Outcome] = {
        "back": Back(),
        "started": Back(started=True),
        "park": Back(started=True, park=True),
        "retry": Retried(0),
        "later": Retried(micros(2)),
        "dead": Dead(Failure("failed"), id_),
        "discard": Discard(id_),
        "stop": Stopped(id_),
    }
    return outcomes[end]


def _part(claim: Claim, keep: frozenset[int]) -> Claim:
    """What is left of a claim."""
    lanes = []
    for lane in claim.lanes:
        messages = [entry for entry in lane.messages if entry[1].sequence in keep]
        if messages:
            lanes.append(msgspec.structs.replace(lane, messages=messages))
    return msgspec.structs.replace(claim, lanes=lanes)


def _counts(broker: Broker) -> Operation[list[Counts]]:
    """Counts in which a counter that never counted is as good as none; memory is the storage's."""
    counted = yield from broker.counts()
    for counts in counted:
        counts.memory = 0
        counts.totals = {key: value for key, value in counts.totals.items() if value}
    return counted


def _dead(broker: Broker) -> Operation[list[DeadLetter]]:
    """Dead letters without the words of their failures, which every broker may choose."""
    letters = yield from broker.dead(DeadQuery(limit=1000))
    # Copies: those of the memory broker are its own.
    return [
        msgspec.structs.replace(letter, failure=Failure(letter.failure.reason))
        for letter in letters
    ]


def _facts(broker: Broker, id_: str) -> Operation[Facts]:
    """What keeps a message from running, as far as that has to be the same everywhere."""
    facts = yield from broker.explain(id_)
    lane, policy = facts.lane, facts.policy
    filling = policy.within > 0 and lane.waiting > 0
    return msgspec.structs.replace(
        facts,
        failure=facts.failure and Failure(facts.failure.reason),
        lane=LaneState(
            waiting=lane.waiting if filling else 0,
            bytes=lane.bytes if filling and policy.bytes and lane.waiting < policy.size else 0,
            oldest=lane.oldest if filling else 0,
            held=lane.held if policy.concurrency else 0,
            blocked=lane.blocked,
            parked=lane.parked,
            tat=lane.tat,
        ),
        policy=GroupPolicy(
            policy.size,
            policy.within,
            policy.bytes,
            policy.concurrency,
            members=policy.members,
            shard_rate=policy.shard_limit,
        ),
        ahead=tuple(entry for entry in facts.ahead if entry[1]),
    )


pytestmark = pytest.mark.timeout(600)  # finding the shortest way to a failure takes its time

OTHERS = ["sqlite", "redis"]

MakeBroker = Callable[[str], Callable[..., Broker]]


def hold_against_the_model(maker: MakeBroker, broker: str, examples: int, steps: int) -> None:
    make_other = staticmethod(maker(broker))
    members = {"make_other": make_other, "fires_in_one_step": broker != "redis"}
    machine = type(f"{broker} and memory", (Twins,), members)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            phases=[Phase.generate, Phase.shrink],
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("broker", OTHERS)
def test_a_broker_is_observed_like_the_model(maker: MakeBroker, broker: str) -> None:
    hold_against_the_model(maker, broker, examples=70, steps=40)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("broker", OTHERS)
def test_a_broker_is_observed_like_the_model_for_long(maker: MakeBroker, broker: str) -> None:
    hold_against_the_model(maker, broker, examples=2000, steps=80)


def test_the_model_is_observed_like_itself(maker: MakeBroker) -> None:
    """Holds the invariants against the model alone, and the machine against mistakes."""
    hold_against_the_model(maker, "memory", examples=40, steps=40)
