"""What the memory broker holds: groups, lanes in their places, and everything beside them."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import NamedTuple

from taskyard.brokers.base import DeadLetter, Delivery, Group
from taskyard.brokers.bounds import QueueBounds
from taskyard.brokers.common import PROMOTED
from taskyard.brokers.lane import Gate, Place, place
from taskyard.brokers.memory.agenda import Agenda
from taskyard.brokers.memory.groups import GroupState, OpenClaim
from taskyard.brokers.memory.lanes import Lane
from taskyard.brokers.memory.listeners import Listeners
from taskyard.brokers.memory.records import DeadLetters, Records
from taskyard.brokers.schedules import Schedule
from taskyard.message import Failure, State

__all__ = ["Delayed", "MemoryState"]


class Delayed(NamedTuple):
    """A message in the due set."""

    at: int
    sequence: int
    group: GroupState
    shard: str
    priority: int
    message: Delivery


class MemoryState:
    """Everything that a memory broker holds.

    Attributes:
        now: the time of the step that runs, microseconds.
        groups: all groups, by key.
        claims: the open claims, by token.
        leases: their tokens, by deadline.
        due: a heap of the messages that enter their lane later.
        records: what is remembered of messages.
        letters: the dead letters.
        listeners: who is to be woken.
        gates: those of queues that are not open.
        bounds: how much queues hold, as far as anything was said of that.
        schedules: by name.
        agenda: the names of those that are due some time.
    """

    def __init__(self, dead_limit: int, dead_age: int) -> None:
        self.now = 0
        self.claims: dict[int, OpenClaim] = {}
        self.leases: Agenda[int] = Agenda()
        self.records = Records()
        self.letters = DeadLetters(dead_limit, dead_age)
        self.listeners = Listeners()
        self.gates: dict[str, Gate] = {}
        self.bounds: dict[str, QueueBounds] = {}
        self.schedules: dict[str, Schedule] = {}
        self.agenda: Agenda[str] = Agenda()
        self.groups: dict[Group, GroupState] = {}
        self._later: Agenda[Lane] = Agenda()
        self.due: list[Delayed] = []
        self._last_sequence = 0
        self._last_turn = 0
        self._ready_news: dict[GroupState, None] = {}
        self._time_news: dict[GroupState, int] = {}

    # Numbers

    def sequences(self, count: int) -> int:
        """Reserve rising sequence numbers; returns the first."""
        first = max(self._last_sequence + 1, self.now)
        self._last_sequence = first + count - 1
        return first

    # Groups and lanes

    def group(self, key: Group) -> GroupState:
        """A group; an unknown one is added, undeclared."""
        group = self.groups.get(key)
        if group is None:
            gate = self.gates.get(key.queue, Gate.OPEN)
            group = self.groups[key] = GroupState(key, len(self.groups), gate)
        return group

    def lane(self, group: GroupState, shard: str) -> Lane:
        """A lane, made if it is missing. `settle_down` forgets it when it stays idle."""
        lane = group.lanes.get(shard)
        if lane is None:
            lane = group.lanes[shard] = Lane(group, shard)
        return lane

    def settle_down(self, lane: Lane, *, served: bool = False) -> None:
        """Decide where a lane is now; whoever changed its state calls this.

        Arguments:
            lane: it has been changed.
            served: it was claimed from, so it goes behind the others if it stays ready.
        """
        # A clock that was set back must not put off the end of a batch's patience at every look.
        if lane.group.policy.within:
            lane.state.oldest = min(lane.state.oldest, self.now)
        where, at = place(lane.state, lane.group.policy, self.now)
        if where is not lane.place:
            self._leave_place(lane)
        if where is Place.READY:
            self._make_ready(lane, served)
        elif where is Place.LATER:
            self._make_later(lane, at)
        elif lane.idle:
            lane.group.lanes.pop(lane.shard, None)
        lane.place, lane.at = where, at
        lane.changed = False

    def _leave_place(self, lane: Lane) -> None:
        if lane.place is Place.READY:
            lane.group.ready.drop(lane)
        elif lane.place is Place.LATER:
            self._later.drop(lane)
            lane.group.filling.drop(lane)

    def _make_ready(self, lane: Lane, served: bool) -> None:
        key = lane.group.ready.key(lane)
        if key is None or served:
            self._last_turn += 1
            turn = self._last_turn
        else:
            turn = key[1]
        lane.group.ready.put(lane, (lane.state.priority, turn))
        if key is None:
            self._ready_news[lane.group] = None

    def _make_later(self, lane: Lane, at: int) -> None:
        key = (at, lane.group.number, lane.shard)
        self._later.put(lane, key)
        if lane.state.blocked > self.now:
            lane.group.filling.drop(lane)
        else:
            lane.group.filling.put(lane, key)
        self._note_time(lane.group, at)

    def _note_time(self, group: GroupState, at: int) -> None:
        self._time_news[group] = min(at, self._time_news.get(group, at))

    def append(self, group: GroupState, shard: str, priority: int, bodies: list[bytes]) -> Lane:
        """Put new messages at the tail of a lane; the caller settles it down."""
        first = self.sequences(len(bodies))
        messages = [
            Delivery(sequence, sequence, 0, 0, 0, 0, body)
            for sequence, body in enumerate(bodies, first)
        ]
        lane = self.lane(group, shard)
        lane.extend(priority, messages, sum(map(len, bodies)))
        return lane

    # Waiting for a time

    def delay(self, delayed: Delayed) -> None:
        """Let a message wait outside its lane until it is due."""
        heapq.heappush(self.due, delayed)
        delayed.group.delayed += 1
        self._note_time(delayed.group, delayed.at)

    def promote(self) -> None:
        """Let messages and lanes whose time has come take their places."""
        for _ in range(PROMOTED):
            if not self.due or self.due[0].at > self.now:
                break
            self._enter(heapq.heappop(self.due))
        for lane in self._later.take_until(self.now, PROMOTED):
            self.settle_down(lane)

    def next_at(self) -> int:
        """When something becomes eligible; 0: nothing does."""
        later = self._later.first()
        if later is None:
            return self.due[0].at if self.due else 0
        return min(later[0][0], self.due[0].at) if self.due else later[0][0]

    def _enter(self, delayed: Delayed) -> None:
        old, sequence = delayed.message, self.sequences(1)
        delayed.group.delayed -= 1
        message = Delivery(
            sequence,
            old.since or sequence,
            old.deliveries,
            old.attempts,
            old.losses,
            old.cap,
            old.body,
        )
        lane = self.lane(delayed.group, delayed.shard)
        if message.losses:
            lane.put_back(delayed.priority, message)
        else:
            lane.extend(delayed.priority, [message], len(message.body))
        self.settle_down(lane)

    # Ends

    def bury(
        self,
        group: GroupState,
        shard: str,
        priority: int,
        message: Delivery,
        failure: Failure,
        id_: str,
        task: str,
    ) -> None:
        """Make a dead letter of a message that left its lane."""
        dropped = self.letters.add(
            DeadLetter(
                self.letters.next_number(),
                group.key,
                task or group.key.name,
                shard,
                priority,
                id_,
                failure,
                message.deliveries,
                message.attempts,
                message.since,
                self.now,
                message.body,
            )
        )
        group.totals["dead"] += 1
        if dropped is not None:
            self.group(dropped.group).totals["dead_dropped"] += 1
        self.end(id_, State.DEAD, failure=failure)

    def end(
        self,
        id_: str,
        state: State,
        *,
        result: bytes | None = None,
        failure: Failure | None = None,
    ) -> None:
        """Note how a message ended, and wake who waits for it."""
        if id_:
            self.records.finish(id_, self.now, state, result=result, failure=failure)
            self.listeners.ended(id_)

    # Telling others

    def pass_on(self, keys: Iterable[Group]) -> None:
        """Leave to others what is ready in groups, and the times that wait for somebody."""
        next_at = self.next_at()
        for key in keys:
            group = self.groups.get(key)
            if group is not None:
                self._ready_news[group] = None
                if next_at:
                    self._note_time(group, next_at)

    def set_gate(self, queue: str, gate: Gate) -> Gate:
        """Say what a queue lets through; returns what it was."""
        before = self.gates.pop(queue, Gate.OPEN)
        if gate is not Gate.OPEN:
            self.gates[queue] = gate
        for group in self.groups.values():
            if group.key.queue == queue:
                group.gate = gate
                self._ready_news[group] = None
        return before

    def announce(self) -> None:
        """Wake whom the step concerns; called at its end."""
        for group in self._ready_news:
            if group.has_claimable():
                self.listeners.wake_one(group.key, group.policy.members)
                self._time_news.pop(group, None)
        for group, at in self._time_news.items():
            self.listeners.wake_for(group.key, group.policy.members, at)
        self._ready_news.clear()
        self._time_news.clear()
