"""What the memory broker holds: groups, lanes in their places, and everything beside them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from taskyard.brokers.base import DeadLetter, Delivery, Group
from taskyard.brokers.bounds import QueueBounds
from taskyard.brokers.cancelling import NOTED, is_noted
from taskyard.brokers.common import FORGOTTEN, PROMOTED
from taskyard.brokers.lane import Gate, Place, is_held_up, place
from taskyard.brokers.memory.agenda import Agenda
from taskyard.brokers.memory.groups import GroupState, OpenClaim, QueueState
from taskyard.brokers.memory.lanes import Lane
from taskyard.brokers.memory.listeners import Listeners
from taskyard.brokers.memory.records import DeadLetters, Records
from taskyard.brokers.memory.roster import Roster
from taskyard.brokers.memory.unique import KeyRing
from taskyard.brokers.rate import clamped
from taskyard.brokers.schedules import Schedule
from taskyard.brokers.unique import is_released_at_entry
from taskyard.message import Failure, State, read_id

__all__ = ["Delayed", "MemoryState"]


class Delayed(NamedTuple):
    """A message in the due set; `id`: of its record, if it has one."""

    at: int
    sequence: int
    group: GroupState
    shard: str
    priority: int
    message: Delivery
    id: str = ""


class MemoryState:
    """Everything that a memory broker holds.

    Attributes:
        now: the time of the step that runs, microseconds.
        groups: all groups, by key.
        claims: the open claims, by token.
        leases: their tokens, by deadline.
        due: the sequences of messages that enter their lane later, by their time.
        keys: who holds which unique key.
        records: what is remembered of messages.
        letters: the dead letters.
        listeners: who is to be woken.
        gates: those of queues that are not open.
        queues: the limits of queues, by name.
        bounds: how much queues hold, as far as anything was said of that.
        schedules: by name.
        agenda: the names of those that are due some time.
        roster: the workers.
        notes: of cancelled ids without records: when each was made, as a sequence.
    """

    def __init__(self, dead_limit: int, dead_age: int) -> None:
        self.now = 0
        self.claims: dict[int, OpenClaim] = {}
        self.leases: Agenda[int] = Agenda()
        self.records = Records()
        self.letters = DeadLetters(dead_limit, dead_age)
        self.listeners = Listeners()
        self.gates: dict[str, Gate] = {}
        self.queues: dict[str, QueueState] = {}
        self.bounds: dict[str, QueueBounds] = {}
        self.schedules: dict[str, Schedule] = {}
        self.agenda: Agenda[str] = Agenda()
        self.roster = Roster()
        self.notes: dict[str, int] = {}
        self.groups: dict[Group, GroupState] = {}
        self._later: Agenda[Lane] = Agenda()
        self._fading: Agenda[Lane] = Agenda()
        self.due: Agenda[int] = Agenda()
        self._delayed: dict[int, Delayed] = {}
        self.keys = KeyRing()
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
            queue = self.queue(key.queue)
            group = self.groups[key] = GroupState(key, len(self.groups), gate, queue)
        return group

    def queue(self, name: str) -> QueueState:
        """The limits of a queue."""
        return self.queues.setdefault(name, QueueState())

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
        if lane.state.tat:
            lane.state.tat = clamped(lane.state.tat, lane.group.policy.shard_limit, self.now)
        where, at = place(lane.state, lane.group.policy, self.now)
        if where is not lane.place:
            self._leave_place(lane)
        if where is Place.READY:
            self._make_ready(lane, served)
        elif where is Place.LATER:
            self._make_later(lane, at)
        elif where is Place.FADING:
            self._fading.put(lane, (at, lane.group.number, lane.shard))
        elif lane.idle:
            lane.group.lanes.pop(lane.shard, None)
        lane.place, lane.at = where, at
        lane.changed = False
        if where is Place.FADING:
            self.forget_faded(FORGOTTEN)

    def forget_faded(self, limit: int) -> None:
        """Forget empty lanes whose limit is as good as unused: more than come, so none pile up."""
        for lane in self._fading.take_until(self.now, limit):
            self.settle_down(lane)

    def _leave_place(self, lane: Lane) -> None:
        if lane.place is Place.READY:
            lane.group.ready.drop(lane)
        elif lane.place is Place.LATER:
            self._later.drop(lane)
            lane.group.filling.drop(lane)
        elif lane.place is Place.FADING:
            self._fading.drop(lane)

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
        if is_held_up(lane.state, lane.group.policy, self.now):
            lane.group.filling.drop(lane)
        else:
            lane.group.filling.put(lane, key)
        self._note_time(lane.group, at)

    def _note_time(self, group: GroupState, at: int) -> None:
        self._time_news[group] = min(at, self._time_news.get(group, at))

    @property
    def last_sequence(self) -> int:
        """The highest number that was reserved."""
        return self._last_sequence

    def append(
        self,
        group: GroupState,
        shard: str,
        priority: int,
        bodies: list[bytes],
        marks: Iterable[str] | None = None,
        expires: int = 0,
    ) -> Lane:
        """Put new messages at the tail of a lane; the caller settles it down."""
        first = self.sequences(len(bodies))
        messages = [
            Delivery(sequence, sequence, 0, 0, 0, 0, body, "", expires)
            for sequence, body in enumerate(bodies, first)
        ]
        if marks is not None:
            for message, mark in zip(messages, marks, strict=True):
                message.mark = mark
        lane = self.lane(group, shard)
        lane.extend(priority, messages, sum(map(len, bodies)))
        return lane

    # Waiting for a time

    def delay(self, delayed: Delayed) -> None:
        """Let a message wait outside its lane until it is due."""
        self._delayed[delayed.sequence] = delayed
        self.due.put(delayed.sequence, (delayed.at, delayed.sequence))
        delayed.group.delayed += 1
        self._note_time(delayed.group, delayed.at)

    def replace(self, sequence: int) -> None:
        """Discard a message that waits outside its lane, since a later one takes its place."""
        delayed = self._delayed.pop(sequence)
        self.due.drop(sequence)
        delayed.group.delayed -= 1
        delayed.group.totals["discarded"] += 1
        self.end(read_id(delayed.message.body), State.DISCARDED)

    def promote(self) -> None:
        """Let messages and lanes whose time has come take their places."""
        for sequence in self.due.take_until(self.now, PROMOTED):
            self._enter(self._delayed.pop(sequence))
        for lane in self._later.take_until(self.now, PROMOTED):
            self.settle_down(lane)

    def next_at(self) -> int:
        """When something becomes eligible; 0: nothing does."""
        firsts = (self._later.first(), self.due.first())
        return min([first[0][0] for first in firsts if first is not None], default=0)

    def _enter(self, delayed: Delayed) -> None:
        old = delayed.message
        delayed.group.delayed -= 1
        if self.notes and self.is_noted(read_id(old.body), delayed.sequence):
            self.stop(delayed.group, delayed.shard, old)
            return
        sequence = self.sequences(1)
        if delayed.id:
            self.records.relocate(delayed.id, delayed.sequence, sequence)
        message = Delivery(
            sequence,
            old.since or sequence,
            old.deliveries,
            old.attempts,
            old.losses,
            old.cap,
            old.body,
            old.mark,
            old.expires,
        )
        if is_released_at_entry(old.mark):
            self.release(delayed.group, delayed.shard, old)
            message.mark = ""
        lane = self.lane(delayed.group, delayed.shard)
        if message.losses:
            lane.put_back(delayed.priority, message)
        else:
            lane.extend(delayed.priority, [message], len(message.body))
        self.settle_down(lane)

    # Cancelling

    def withdraw(self, sequence: int) -> Delivery | None:
        """Take a message out of the due set; None: it is not there."""
        delayed = self._delayed.pop(sequence, None)
        if delayed is None:
            return None
        self.due.drop(sequence)
        delayed.group.delayed -= 1
        return delayed.message

    def delayed(self, sequence: int) -> Delayed | None:
        """A message of the due set; None: it is not there."""
        return self._delayed.get(sequence)

    def all_delayed(self) -> Iterable[Delayed]:
        """The due set."""
        return self._delayed.values()

    def note_cancelled(self, id_: str) -> None:
        """Note a cancelled id: of all messages that were put before."""
        self.notes.pop(id_, None)
        self.notes[id_] = self.sequences(1)

    def is_noted(self, id_: str, sequence: int) -> bool:
        """Whether a message is cancelled by a note."""
        note = self.notes.get(id_) if self.notes else None
        return note is not None and is_noted(note, sequence, self.now)

    def forget_notes(self) -> None:
        """Forget the notes that are too old."""
        old = [id_ for id_, note in self.notes.items() if note + NOTED <= self.now]
        for id_ in old:
            del self.notes[id_]

    def stop(self, group: GroupState, shard: str, message: Delivery) -> None:
        """End a message as cancelled; the record of a later one of its id is not touched."""
        group.totals["cancelled"] += 1
        self.release(group, shard, message)
        id_, sequence = read_id(message.body), message.sequence
        record = self.records.get(id_, self.now)
        if record is not None and record.sequence == sequence:
            self.end(id_, State.CANCELLED)

    # Ends

    def release(self, group: GroupState, shard: str, message: Delivery) -> None:
        """Release the unique key of a message, if it holds it."""
        if message.mark:
            self.keys.release(group.key, shard, message.mark, read_id(message.body))

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
        self.release(group, shard, message)
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
                message.mark,
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
            if not group.has_claimable():
                continue
            if (at := group.token_at(self.now)) > self.now:
                self._note_time(group, at)
            else:
                self.listeners.wake_one(group.key, group.policy.members)
                self._time_news.pop(group, None)
        for group, at in self._time_news.items():
            self.listeners.wake_for(group.key, group.policy.members, at)
        self._ready_news.clear()
        self._time_news.clear()
