"""The steps of the memory broker that are about claims: settle, take, extend, take back."""

from __future__ import annotations

from collections.abc import Sequence

from taskyard.brokers.base import (
    Back,
    Claim,
    ClaimedLane,
    Dead,
    Delivery,
    Discard,
    Outcome,
    Retried,
    Settlement,
    Step,
    Stopped,
    Want,
)
from taskyard.brokers.common import NO_ATTEMPT, REAPED, earliest, lost_failure
from taskyard.brokers.lane import Flush, Gate, cap_after_loss, flush, is_given_up, take
from taskyard.brokers.memory.agenda import Agenda, Key
from taskyard.brokers.memory.cancelling import drop_noted
from taskyard.brokers.memory.groups import GroupState, OpenClaim, Part
from taskyard.brokers.memory.lanes import Lane, Room
from taskyard.brokers.memory.rates import Limiter, refund_part, spend_of_lane, tokens_of_lane
from taskyard.brokers.memory.state import Delayed, MemoryState
from taskyard.brokers.unique import is_released_at_start
from taskyard.message import State, read_envelope

__all__ = ["Claimer", "extend", "reap", "step"]


def step(state: MemoryState, settlements: Sequence[Settlement], want: Want | None) -> Step:
    """Settle claims, then claim more."""
    lost = [item.token for item in settlements if not _settle(state, item)]
    if want is None:
        return Step(lost, [], state.now, state.next_at())
    _reap_expired(state)
    state.promote()
    claimer = Claimer(state, want)
    claims = claimer.claims()
    next_at = earliest(state.next_at(), claimer.next_at())
    _sleep_or_pass_on(state, want, next_at, found=bool(claims))
    return Step(lost, claims, state.now, next_at, claimer.suspects)


def _sleep_or_pass_on(state: MemoryState, want: Want, next_at: int, *, found: bool) -> None:
    if found:
        if want.listener is not None:
            state.listeners.busy(want.listener)
        # What is left wakes the next sleeper; so does a time for which this one had registered.
        state.pass_on(item.group for item in want.groups)
    elif want.listener is not None:
        state.listeners.idle(want.listener, want.groups, next_at)


# Settling


def _settle(state: MemoryState, settlement: Settlement) -> bool:
    claim = state.claims.get(settlement.token)
    if claim is None:
        return False
    kept, taken = [], len(claim)
    for part in claim.parts:
        running = _end_part(state, claim, part, settlement)
        if running:
            kept.append(Part(part.shard, running))
        taken -= refund_part(state, claim, part, settlement, taken)
        _look_at(state, claim.group, part.shard, released=not running)
    for id_, told in settlement.progress:
        state.records.note_progress(id_, state.now, told)
    for id_, result in settlement.results:
        state.end(id_, State.DONE, result=result)
    if kept:
        claim.reduce(kept)
    else:
        _close(state, claim)
    return True


def _end_part(
    state: MemoryState, claim: OpenClaim, part: Part, settlement: Settlement
) -> list[tuple[int, Delivery]]:
    group = claim.group
    if not settlement.outcomes and not settlement.keep:
        group.totals["done"] += len(part.messages)
        for _, message in part.messages:
            if message.mark:
                state.release(group, part.shard, message)
        return []
    running = []
    for priority, message in part.messages:
        sequence = message.sequence
        if sequence in settlement.keep:
            running.append((priority, message))
        elif (outcome := settlement.outcomes.get(sequence)) is None:
            group.totals["done"] += 1
            state.release(group, part.shard, message)
        elif sequence in claim.told and isinstance(outcome, (Back, Retried)):
            state.stop(group, part.shard, message)
        else:
            record = settlement.retry_ids.get(sequence, "")
            if isinstance(outcome, Retried) and record:
                state.records.postpone(record, state.now + outcome.delay)
            _end(state, group, part.shard, priority, message, outcome, record)
    return running


def _end(
    state: MemoryState,
    group: GroupState,
    shard: str,
    priority: int,
    message: Delivery,
    outcome: Outcome,
    record: str,
) -> None:
    match outcome:
        case Back(started, park):
            lane = state.lane(group, shard)
            lane.put_back(priority, _delivered(message) if started else message)
            lane.state.parked |= park
        case Retried(delay):
            group.totals["retried"] += 1
            failed = _delivered(message, failed=True)
            _retry(state, group, shard, priority, failed, delay, record)
        case Dead(failure, id_, task):
            ended = _delivered(message, failed=failure.reason not in NO_ATTEMPT)
            state.bury(group, shard, priority, ended, failure, id_, task)
        case Discard(id_):
            group.totals["discarded"] += 1
            state.release(group, shard, message)
            state.end(id_, State.DISCARDED)
        case Stopped():
            state.stop(group, shard, message)


def _retry(
    state: MemoryState,
    group: GroupState,
    shard: str,
    priority: int,
    message: Delivery,
    delay: int,
    record: str,
) -> None:
    due = state.now + delay
    if group.policy.concurrency == 1:
        lane = state.lane(group, shard)
        lane.put_back(priority, message)
        lane.state.blocked = max(lane.state.blocked, due)
    else:
        state.delay(Delayed(due, message.sequence, group, shard, priority, message, record))


def _delivered(message: Delivery, *, failed: bool = False) -> Delivery:
    return Delivery(
        message.sequence,
        message.since,
        message.deliveries + 1,
        message.attempts + failed,
        message.losses,
        message.cap,
        message.body,
        message.mark,
        message.expires,
    )


def _look_at(state: MemoryState, group: GroupState, shard: str, *, released: bool) -> None:
    lane = group.lanes.get(shard)
    if lane is not None:
        if released and group.policy.concurrency:
            lane.state.held = max(0, lane.state.held - 1)
            lane.changed = True
        if lane.changed:
            state.settle_down(lane)


def _close(state: MemoryState, claim: OpenClaim) -> None:
    del state.claims[claim.token]
    del claim.group.claims[claim.token]
    state.leases.drop(claim.token)


# Taking


class Claimer:
    """Makes the claims of one step.

    Arguments:
        state: the broker's.
        want: the worker's wishes.

    Attributes:
        suspects: whether a suspect was passed over, because it must run alone.
    """

    def __init__(self, state: MemoryState, want: Want) -> None:
        self.suspects = False
        self._state = state
        self._want = want
        self._served: dict[GroupState, int] = {}
        self._was_cancelled = False  # all that was taken last
        for item in want.groups:
            group = state.groups.get(item.group)
            if group is not None and group.known_to(item) and group.gate is not Gate.PAUSED:
                self._served[group] = item.messages
        self._limiter = Limiter(self._served, state.now)

    def next_at(self) -> int:
        """When a group that was passed over gets a token; 0: there is none."""
        return self._limiter.next_at(drain=self._want.drain)

    def claims(self) -> list[Claim]:
        """Claim, group after group as it is their turn, until the worker's slots are full."""
        claims: list[Claim] = []
        while len(claims) < self._want.claims and sum(map(len, claims)) < self._want.messages:
            claim = self._next(alone=self._want.alone and not claims)
            if claim is None:
                break
            claims.append(claim)
            if claim.suspect:
                break
        return claims

    def _next(self, *, alone: bool) -> Claim | None:
        for spent in self._limiter.without_tokens():
            self._served.pop(spent, None)
        while (group := self._first_group()) is not None:
            # Only a batch's age can be undone after it made a lane ready: by a clock set back.
            claim = self._fill(group, group.ready, Flush.AGE, alone=alone)
            if claim is not None:
                return claim
            if not self._was_cancelled:
                del self._served[group]  # it has only suspects, and they are not for now
        for group in self._served:
            if not self._want.drain and group.gate is not Gate.DRAINING:
                continue
            claim = self._fill(group, group.filling, Flush.DRAIN, alone=False)
            while claim is None and self._was_cancelled:
                claim = self._fill(group, group.filling, Flush.DRAIN, alone=False)
            if claim is not None:
                return claim
        return None

    def _first_group(self) -> GroupState | None:
        first: tuple[Key, GroupState] | None = None
        for group in self._served:
            head = group.ready.first()
            if head is not None and (first is None or head[0] < first[0]):
                first = (head[0], group)
        return None if first is None else first[1]

    def _fill(
        self, group: GroupState, lanes: Agenda[Lane], otherwise: Flush, *, alone: bool
    ) -> Claim | None:
        taken = self._take(group, lanes, otherwise, alone=alone)
        self._was_cancelled = False
        if taken and self._state.notes:
            taken, emptied = drop_noted(self._state, group, taken)
            for shard in emptied:
                _look_at(self._state, group, shard, released=True)
            self._was_cancelled = not taken
        return self._open(group, taken) if taken else None

    def _take(
        self, group: GroupState, lanes: Agenda[Lane], otherwise: Flush, *, alone: bool
    ) -> list[ClaimedLane]:
        most = self._limiter.room(group, self._served[group])
        room = Room(most, self._want.bytes, alone=alone)
        taken: list[ClaimedLane] = []
        served: list[Lane] = []
        passed: list[tuple[Lane, Key]] = []
        while room.messages > 0 and (head := lanes.first()) is not None:
            key, lane = head
            part = _take_from(lane, room, self._state.now, otherwise, begun=bool(taken))
            if part is None:
                passed.append((lane, key))
            else:
                taken.append(part)
                served.append(lane)
            lanes.drop(lane)  # until the claim is full: it looks at a lane once
        for lane, key in passed:
            lanes.put(lane, key)
            if tokens_of_lane(lane, self._state.now, 1) == 0:
                self._state.settle_down(lane)  # a clock was set back since it was ready
        for lane in served:
            self._state.settle_down(lane, served=True)
        self.suspects |= room.suspects
        return taken

    def _open(self, group: GroupState, taken: list[ClaimedLane]) -> Claim:
        state, want = self._state, self._want
        token, deadline = state.sequences(1), state.now + want.lease
        self._limiter.spend(group, sum([len(lane.messages) for lane in taken]))
        claim = OpenClaim(token, group, want.owner, want.lease, deadline, taken)
        state.claims[token] = group.claims[token] = claim
        state.leases.put(token, (deadline, token))
        for lane in taken:
            for _, message in lane.messages:
                if message.mark and is_released_at_start(message.mark):
                    state.release(group, lane.shard, message)
        group.totals["redelivered"] += sum(
            [1 for lane in taken for _, message in lane.messages if message.deliveries]
        )
        return Claim(token, group.key, taken, deadline)


def _take_from(
    lane: Lane, room: Room, now: int, otherwise: Flush, *, begun: bool
) -> ClaimedLane | None:
    policy = lane.group.policy
    if otherwise is Flush.DRAIN and lane.state.blocked > now:
        return None  # by a clock set back: else it would not wait for its batch to fill
    reason = None
    if policy.within:
        reason = flush(lane.state, policy, now) or otherwise
    count = take(lane.state, policy, room.messages, reason or Flush.SIZE, begun=begun)
    if count == 0:
        room.messages = 0
        return None
    count = tokens_of_lane(lane, now, count)
    messages = lane.take(count, room) if count else []
    if not messages:
        return None
    spend_of_lane(lane, now, len(messages))
    if policy.concurrency:
        lane.state.held += 1
    if reason is not None:
        lane.group.totals[f"flush_{reason}"] += 1
    return ClaimedLane(lane.shard, reason, messages)


# Leases


def extend(state: MemoryState, tokens: Sequence[int], lease: int) -> list[int]:
    """Renew leases; returns the tokens of those that were lost."""
    lost = []
    for token in tokens:
        claim = state.claims.get(token)
        if claim is None:
            lost.append(token)
        else:
            claim.lease = lease
            _set_deadline(state, claim)
    return lost


def reap(state: MemoryState, owners: frozenset[str]) -> int:
    """Take back a bounded number of lost claims; say how many."""
    for claim in state.claims.values():
        # A clock that was set back must not turn a lease into a long one.
        if claim.deadline > state.now + claim.lease:
            _set_deadline(state, claim)
    return _reap_expired(state) or _reap_owners(state, owners)


def _set_deadline(state: MemoryState, claim: OpenClaim) -> None:
    claim.deadline = state.now + claim.lease
    state.leases.put(claim.token, (claim.deadline, claim.token))


def _reap_expired(state: MemoryState) -> int:
    tokens = state.leases.take_until(state.now - 1, REAPED)
    for token in tokens:
        _take_back(state, state.claims[token])
    return len(tokens)


def _reap_owners(state: MemoryState, owners: frozenset[str]) -> int:
    claims = [claim for claim in state.claims.values() if claim.owner in owners][:REAPED]
    for claim in claims:
        _take_back(state, claim)
    return len(claims)


def _take_back(state: MemoryState, claim: OpenClaim) -> None:
    group, size = claim.group, len(claim)
    _close(state, claim)
    group.totals["lost"] += size
    singled_out = claim.parts[0].messages[0][1].cap == 1
    for part in claim.parts:
        for priority, message in part.messages:
            lost = _lost(message, cap_after_loss(size))
            if message.sequence in claim.told:
                state.stop(group, part.shard, message)
            elif is_given_up(
                group.policy, claimed=size, singled_out=singled_out, losses=lost.losses
            ):
                _bury_lost(state, group, part.shard, priority, lost)
            else:
                state.lane(group, part.shard).put_back(priority, lost)
        _look_at(state, group, part.shard, released=True)


def _lost(message: Delivery, cap: int) -> Delivery:
    return Delivery(
        message.sequence,
        message.since,
        message.deliveries + 1,
        message.attempts,
        message.losses + 1,
        cap,
        message.body,
        message.mark,
        message.expires,
    )


def _bury_lost(
    state: MemoryState, group: GroupState, shard: str, priority: int, message: Delivery
) -> None:
    envelope = read_envelope(message.body)
    id_, task = ("", "") if envelope is None else (envelope.id, envelope.task)
    failure = lost_failure(message.losses)
    state.bury(group, shard, priority, message, failure, id_, task)
