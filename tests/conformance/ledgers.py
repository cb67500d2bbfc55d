"""What a user may rely on, whatever else holds on the same queue, kept by what he sees of a broker.

A ledger is told of what happened, and fails when a promise was broken.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from taskyard.brokers.base import Claim, Counts, Group, Put, Settlement
from taskyard.brokers.cancelling import Cancelled
from taskyard.brokers.lane import Gate
from taskyard.brokers.memory.state import MemoryState
from taskyard.brokers.rate import Limited, Rate
from taskyard.brokers.unique import Mode
from taskyard.message import read_id
from taskyard.testing.conformance.harness import deliveries, name

__all__ = ["Cancellations", "Census", "Handouts", "Holds", "Place", "check_claims", "check_room"]

Place: TypeAlias = tuple[Group, str]
"""A lane: its group and shard."""


@dataclass
class Census:
    """Where each message is, by its id. Dead letters are nowhere."""

    waiting: dict[str, Place] = field(default_factory=dict)
    delayed: dict[str, Place] = field(default_factory=dict)
    running: dict[str, Place] = field(default_factory=dict)

    @classmethod
    def of(cls, state: MemoryState) -> Census:
        """Count what the memory broker holds; nobody else can be asked about every message."""
        found = cls()
        for group in state.groups.values():
            for lane in group.lanes.values():
                for _, message in lane.messages():
                    found.waiting[name(message)] = group.key, lane.shard
        for delayed in state.all_delayed():
            found.delayed[name(delayed.message)] = delayed.group.key, delayed.shard
        for claim in state.claims.values():
            for part in claim.parts:
                for _, message in part.messages:
                    found.running[name(message)] = claim.group.key, part.shard
        return found

    def __contains__(self, id_: str) -> bool:
        return id_ in self.waiting or id_ in self.delayed or id_ in self.running


# Paused hands out nothing, nobody overtakes


def check_claims(claims: Iterable[Claim], counted: Iterable[Counts], state: MemoryState) -> None:
    """Hold what was just handed out against what is paused, parked, and still waiting.

    Arguments:
        claims: those of one step.
        counted: after it.
        state: the memory broker's, after it.
    """
    by_group = {counts.group: counts for counts in counted}
    for claim in claims:
        counts = by_group[claim.group]
        assert counts.gate is not Gate.PAUSED, f"{claim.group} is paused"
        for part in claim.lanes:
            assert part.shard not in counts.parked_shards, f"{part.shard!r} is parked"
            order = [(priority, message.sequence) for priority, message in part.messages]
            assert order == sorted(order)
            lane = state.groups[claim.group].lanes.get(part.shard)
            left = [] if lane is None else [(p, one.sequence) for p, one in lane.messages()]
            assert not left or order[-1] < min(left), "handed out before what is in front of it"


# Never more than the bound


def check_room(before: Census, after: Census, counted: Iterable[Counts]) -> None:
    """What a put stored has its place: where it made a queue or a shard longer, there was room."""
    for queue, bounds in {counts.group.queue: counts.bounds for counts in counted}.items():
        lengths = [
            sum(group.queue == queue for group, _ in (*at.waiting.values(), *at.delayed.values()))
            for at in (before, after)
        ]
        if bounds.length and lengths[1] > lengths[0]:
            assert lengths[1] <= bounds.length, f"queue {queue} is too long"
        were, are = Counter(before.waiting.values()), Counter(after.waiting.values())
        for place, length in are.items():
            if bounds.shard and place[0].queue == queue and length > were[place]:
                assert length <= bounds.shard, f"{place} is too long"


# Never more than the rate


class _Handout(NamedTuple):
    at: int
    token: int
    sequence: int


class Handouts:
    """When messages were handed out of what has a rate limit: never more than it allows."""

    def __init__(self) -> None:
        self._limits: dict[Limited, Rate | None] = {}
        self._made: dict[tuple[Limited, str], list[_Handout]] = defaultdict(list)

    def see_limits(self, counted: Iterable[Counts]) -> None:
        """Note which limits hold; under another one, what was handed out counts from now on."""
        for counts in counted:
            queue, group = counts.group.queue, counts.group.name
            self._see(Limited(queue), counts.limits.queue)
            self._see(Limited(queue, group), counts.limits.task)
            self._see(Limited(queue, group, shards=True), counts.limits.shard)

    def _see(self, limited: Limited, rate: Rate | None) -> None:
        if self._limits.get(limited) != rate:
            self._limits[limited] = rate
            for key in [key for key in self._made if key[0] == limited]:
                del self._made[key]

    def clock_was_set_back(self) -> None:
        """Forget what was: nothing is said of a time that has begun anew."""
        self._made.clear()

    def hand_out(self, claims: Iterable[Claim], now: int) -> None:
        """Note claims that were made now."""
        touched = set()
        for claim in claims:
            group = claim.group
            for lane in claim.lanes:
                for key in (
                    (Limited(group.queue), ""),
                    (Limited(group.queue, group.name), ""),
                    (Limited(group.queue, group.name, shards=True), lane.shard),
                ):
                    if self._limits.get(key[0]) is not None:
                        made = [_Handout(now, claim.token, m.sequence) for _, m in lane.messages]
                        self._made[key] += made
                        touched.add(key)
        for limited, shard in touched:
            self._check(limited, shard, now)

    def _check(self, limited: Limited, shard: str, now: int) -> None:
        rate = self._limits[limited]
        assert rate is not None
        for number, first in enumerate(reversed(self._made[limited, shard]), 1):
            allowed = rate.burst * rate.per + (now - first.at) * rate.count
            assert number * rate.per <= allowed, f"{number} of {limited} {shard!r} since {first.at}"

    def settle(self, settlement: Settlement) -> None:
        """Forget what came back and was not started."""
        back = {
            sequence
            for sequence, outcome in settlement.outcomes.items()
            if getattr(outcome, "started", True) is False
        }
        for key, made in self._made.items():
            self._made[key] = [
                one for one in made if one.token != settlement.token or one.sequence not in back
            ]


# At most one holder of a key


class _Key(NamedTuple):
    place: Place
    key: str


class _Hold(NamedTuple):
    mode: Mode
    until: int


class Holds:
    """Who holds which unique key: one message at most."""

    def __init__(self) -> None:
        self._taken: dict[_Key, dict[str, _Hold]] = defaultdict(dict)
        self._begun: set[str] = set()

    def _holders(self, key: _Key, census: Census, now: int) -> list[str]:
        taken = self._taken[key].items()
        return [id_ for id_, hold in taken if self._holds(id_, hold, census, now)]

    def _holds(self, id_: str, hold: _Hold, census: Census, now: int) -> bool:
        match hold.mode:
            case Mode.WINDOW:
                return hold.until > now
            case Mode.DONE:
                return id_ in census
            case Mode.STARTED:
                return id_ in census and id_ not in self._begun
            case Mode.DEBOUNCE:
                return id_ in census.delayed and id_ not in self._begun

    def cancel(self, group: Group, shard: str, text: str, outcome: Cancelled) -> None:
        """Note that who holds a key was cancelled by that: it is free at once.

        Only a message that runs keeps it, unless it is held by a window.
        """
        taken = self._taken[_Key((group, shard), text)]
        noted = outcome is Cancelled.NOTED
        for id_ in [id_ for id_, hold in taken.items() if noted or hold.mode is Mode.WINDOW]:
            del taken[id_]

    def put(self, put: Put, before: Census, now: int, latest: int) -> None:
        """Note a put that was carried out, and hold its answer against who held the keys.

        Arguments:
            put: with its answer.
            before: where messages were before it.
            now: the time.
            latest: the latest that it ever was: a window that had passed then may be forgotten,
                and may be not, if the clock was set back.
        """
        assert put.unique is not None
        mode, standing = put.unique.mode, put.unique.standing or {}
        new = Census(dict(before.waiting), dict(before.delayed), before.running)
        for at, (text, body) in enumerate(zip(put.unique.keys, put.bodies, strict=True)):
            key, id_, stands = _Key((put.group, put.shard), text), read_id(body), standing.get(at)
            holders = self._holders(key, new, latest)
            if stands is None:
                assert not holders, f"{id_} was put beside {holders}"
            elif stands != id_:
                holders = self._holders(key, new, now)
                assert stands in holders, f"{id_} was kept back, but {stands} does not hold {text}"
                continue
            else:
                assert mode is Mode.DEBOUNCE, f"{id_} replaced {holders}"
                assert holders, f"{id_} replaced nobody"
                for replaced in holders:
                    new.delayed.pop(replaced)
            self._taken[key][id_] = _Hold(mode, now + put.unique.span)
            there = new.delayed if mode is Mode.DEBOUNCE or put.delay else new.waiting
            there[id_] = key.place

    def hand_out(self, claims: Iterable[Claim]) -> None:
        """Note what has begun."""
        self._begun.update(name(one) for claim in claims for one in deliveries(claim))

    def retry(self, ids: Iterable[str], census: Census, latest: int) -> None:
        """Note which dead letters were put back: they took their keys again.

        Arguments:
            ids: theirs.
            census: where messages are now.
            latest: the latest that it ever was.
        """
        self._begun.difference_update(ids)
        for key in list(self._taken):
            holders = self._holders(key, census, latest)
            assert len(holders) <= 1, f"{key} is held by {holders}"


# Cancelled never runs again


class Cancellations:
    """What was cancelled is not handed out any more."""

    def __init__(self) -> None:
        self._ids: set[str] = set()

    def cancel(self, id_: str, outcome: Cancelled, before: Census, *, note: bool) -> None:
        """Note what somebody cancelled, and hold the answer against where it was."""
        if id_ not in before:
            assert outcome not in (Cancelled.REMOVED, Cancelled.TOLD), f"{id_} was not there"
        elif outcome in (Cancelled.REMOVED, Cancelled.TOLD, Cancelled.NOTED):
            assert (outcome is Cancelled.TOLD) == (id_ in before.running)
            self._ids.add(id_)
        else:
            assert outcome is Cancelled.UNKNOWN, f"{id_} had not ended"
            assert not note

    def hand_out(self, claims: Iterable[Claim]) -> None:
        """Hold claims against what was cancelled."""
        ids = {name(message) for claim in claims for message in deliveries(claim)}
        assert not ids & self._ids, f"cancelled, but handed out: {sorted(ids & self._ids)}"

    def bury(self, ids: Collection[str]) -> None:
        """Note who is dead: somebody may put it back by hand."""
        self._ids.difference_update(ids)
