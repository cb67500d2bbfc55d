"""The rules of lanes, as tables."""

from __future__ import annotations

import pytest

from taskyard.brokers.lane import (
    Flush,
    GroupPolicy,
    LaneState,
    Place,
    cap_after_loss,
    deadline_of,
    flush,
    is_given_up,
    is_held_up,
    merged,
    place,
    take,
)
from taskyard.brokers.rate import UNLIMITED, Rate

NOW = 1_000_000
PLAIN = GroupPolicy()
ORDERED = GroupPolicy(concurrency=1)
SHARED = GroupPolicy(concurrency=3)
BATCH = GroupPolicy(size=10, within=500, bytes=1000)
ORDERED_BATCH = GroupPolicy(size=10, within=500, concurrency=1)
RATED = GroupPolicy(concurrency=1, shard_rate=Rate(1, 100, 2))
"""A message per 100 microseconds, and two at once."""
EAGER_BATCH = GroupPolicy(size=10, within=500, minimum=4)
PUNCTUAL_BATCH = GroupPolicy(size=10, within=500, lead=50)
RATED_BATCH = GroupPolicy(size=10, within=500, shard_rate=Rate(1, 100, 2))
LIFTED = GroupPolicy(shard_rate=Rate(1, 100, 2), changed_shard_rate=UNLIMITED)
CHANGED = GroupPolicy(shard_rate=Rate(1, 100, 2), changed_shard_rate=Rate(1, 10, 1))

NOWHERE = (Place.NOWHERE, 0)
READY = (Place.READY, 0)


def later(at: int) -> tuple[Place, int]:
    return Place.LATER, at


@pytest.mark.parametrize(
    ("policy", "lane", "expected"),
    [
        # a plain task: ready at once
        (PLAIN, LaneState(), NOWHERE),
        (PLAIN, LaneState(waiting=1, oldest=NOW), READY),
        (PLAIN, LaneState(waiting=1, oldest=NOW, held=99), READY),
        (PLAIN, LaneState(waiting=1, oldest=NOW + 50), READY),
        # an ordered shard, or one of limited concurrency: nowhere while its claims are open
        (ORDERED, LaneState(waiting=1, oldest=NOW), READY),
        (ORDERED, LaneState(waiting=1, oldest=NOW, held=1), NOWHERE),
        (ORDERED, LaneState(held=1), NOWHERE),
        (SHARED, LaneState(waiting=1, oldest=NOW, held=2), READY),
        (SHARED, LaneState(waiting=1, oldest=NOW, held=3), NOWHERE),
        (SHARED, LaneState(waiting=1, oldest=NOW, held=4), NOWHERE),
        # a head that backs off: later, when its retry is due
        (ORDERED, LaneState(waiting=1, oldest=1, blocked=NOW + 1), later(NOW + 1)),
        (ORDERED, LaneState(waiting=1, oldest=1, blocked=NOW), READY),
        (ORDERED, LaneState(waiting=1, oldest=1, blocked=NOW - 1), READY),
        (ORDERED, LaneState(waiting=1, oldest=1, blocked=NOW + 1, held=1), NOWHERE),
        (ORDERED, LaneState(blocked=NOW + 1), NOWHERE),
        # parked: nowhere, whatever else it is
        (PLAIN, LaneState(waiting=1, oldest=NOW, parked=True), NOWHERE),
        (ORDERED, LaneState(waiting=1, oldest=1, blocked=NOW + 1, parked=True), NOWHERE),
        (BATCH, LaneState(waiting=10, oldest=1, parked=True), NOWHERE),
        # a batch: ready when it is full or old, else later
        (BATCH, LaneState(), NOWHERE),
        (BATCH, LaneState(waiting=9, oldest=NOW), later(NOW + 500)),
        (BATCH, LaneState(waiting=10, oldest=NOW), READY),
        (BATCH, LaneState(waiting=11, oldest=NOW), READY),
        (BATCH, LaneState(waiting=1, bytes=999, oldest=NOW), later(NOW + 500)),
        (BATCH, LaneState(waiting=1, bytes=1000, oldest=NOW), READY),
        (BATCH, LaneState(waiting=1, oldest=NOW - 499), later(NOW + 1)),
        (BATCH, LaneState(waiting=1, oldest=NOW - 500), READY),
        # messages from a future that a clock set back made: waited for no longer than `within`
        (BATCH, LaneState(waiting=1, oldest=NOW + 9000), later(NOW + 500)),
        # one with a minimum: ready when it holds that
        (EAGER_BATCH, LaneState(waiting=3, oldest=NOW), later(NOW + 500)),
        (EAGER_BATCH, LaneState(waiting=4, oldest=NOW), READY),
        (EAGER_BATCH, LaneState(waiting=3, oldest=NOW - 500), READY),
        # a message that must begin soon: later, when there is just the lead left, or its age says
        (PUNCTUAL_BATCH, LaneState(waiting=1, oldest=NOW, deadline=NOW + 200), later(NOW + 150)),
        (PUNCTUAL_BATCH, LaneState(waiting=1, oldest=NOW, deadline=NOW + 51), later(NOW + 1)),
        (PUNCTUAL_BATCH, LaneState(waiting=1, oldest=NOW, deadline=NOW + 50), READY),
        (PUNCTUAL_BATCH, LaneState(waiting=1, oldest=NOW, deadline=1), READY),
        (PUNCTUAL_BATCH, LaneState(waiting=1, oldest=NOW, deadline=NOW + 551), later(NOW + 500)),
        (
            PUNCTUAL_BATCH,
            LaneState(waiting=1, oldest=NOW - 499, deadline=NOW + 200),
            later(NOW + 1),
        ),
        (
            PUNCTUAL_BATCH,
            LaneState(waiting=1, oldest=NOW + 900, deadline=NOW + 9000),
            later(NOW + 500),
        ),
        (PUNCTUAL_BATCH, LaneState(waiting=1, deadline=1, blocked=NOW + 9), later(NOW + 9)),
        (PUNCTUAL_BATCH, LaneState(waiting=1, deadline=1, parked=True), NOWHERE),
        (PLAIN, LaneState(waiting=1, oldest=NOW, deadline=NOW + 200), READY),
        # without a token: later, when there is one
        (RATED, LaneState(waiting=1, oldest=1, tat=NOW), READY),
        (RATED, LaneState(waiting=1, oldest=1, tat=NOW + 100), READY),
        (RATED, LaneState(waiting=1, oldest=1, tat=NOW + 101), later(NOW + 1)),
        (RATED, LaneState(waiting=1, oldest=1, tat=NOW + 200), later(NOW + 100)),
        (RATED, LaneState(waiting=1, oldest=1, tat=NOW + 9000), later(NOW + 100)),
        (RATED, LaneState(waiting=1, oldest=1, tat=NOW + 200, held=1), NOWHERE),
        (RATED, LaneState(waiting=1, oldest=1, tat=NOW + 200, blocked=NOW + 7), later(NOW + 7)),
        (RATED, LaneState(waiting=1, oldest=1, tat=NOW + 200, parked=True), NOWHERE),
        (LIFTED, LaneState(waiting=1, oldest=1, tat=NOW + 200), READY),
        (CHANGED, LaneState(waiting=1, oldest=1, tat=NOW + 200), later(NOW + 10)),
        # a batch: first for a token, then for what it lacks
        (RATED_BATCH, LaneState(waiting=9, oldest=NOW, tat=NOW + 200), later(NOW + 100)),
        (RATED_BATCH, LaneState(waiting=9, oldest=NOW, tat=NOW + 100), later(NOW + 500)),
        (RATED_BATCH, LaneState(waiting=10, oldest=NOW, tat=NOW + 150), later(NOW + 50)),
        # empty: fading, until its bucket is full
        (RATED, LaneState(tat=NOW + 1), (Place.FADING, NOW + 1)),
        (RATED, LaneState(tat=NOW), NOWHERE),
        (RATED, LaneState(tat=NOW + 1, held=1), NOWHERE),
        (RATED, LaneState(tat=NOW + 1, parked=True), NOWHERE),
        # a batch of an ordered shard: all of it
        (ORDERED_BATCH, LaneState(waiting=10, oldest=NOW, held=1), NOWHERE),
        (ORDERED_BATCH, LaneState(waiting=9, oldest=NOW), later(NOW + 500)),
        (ORDERED_BATCH, LaneState(waiting=10, oldest=1, blocked=NOW + 9), later(NOW + 9)),
        (ORDERED_BATCH, LaneState(waiting=1, oldest=NOW, blocked=NOW + 9), later(NOW + 9)),
    ],
)
def test_a_lane_is_in_one_place(
    policy: GroupPolicy, lane: LaneState, expected: tuple[Place, int]
) -> None:
    assert place(lane, policy, NOW) == expected


@pytest.mark.parametrize(
    ("policy", "lane", "held_up"),
    [
        (BATCH, LaneState(waiting=1, oldest=NOW), False),
        (BATCH, LaneState(waiting=1, oldest=NOW, blocked=NOW + 1), True),
        (BATCH, LaneState(waiting=1, oldest=NOW, tat=NOW + 200), False),
        (RATED_BATCH, LaneState(waiting=1, oldest=NOW, tat=NOW + 100), False),
        (RATED_BATCH, LaneState(waiting=1, oldest=NOW, tat=NOW + 101), True),
    ],
)
def test_what_holds_a_lane_up(policy: GroupPolicy, lane: LaneState, held_up: bool) -> None:
    assert is_held_up(lane, policy, NOW) is held_up


def test_a_declaration_keeps_limits_that_were_set_at_run_time() -> None:
    stored = CHANGED.with_change(Rate(5, 100, 1), shards=False)
    declared = GroupPolicy(rate=Rate(9, 100, 1))
    for keep, rate in ((False, declared.rate), (True, None)):
        policy = merged(stored, declared, keep=keep, present=0)
        assert policy.rate == rate
        assert policy.limit == Rate(5, 100, 1)
        assert policy.shard_limit == Rate(1, 10, 1)
    assert merged(stored, declared, keep=False, present=0).with_change(
        None, shards=False
    ).limit == Rate(9, 100, 1)


@pytest.mark.parametrize(
    ("waiting", "size", "oldest", "reason"),
    [
        (9, 0, NOW, None),
        (10, 0, NOW, Flush.SIZE),
        (1, 1000, NOW, Flush.BYTES),
        (1, 999, NOW, None),
        (1, 0, NOW - 500, Flush.AGE),
        (1, 0, NOW - 499, None),
        (1, 0, NOW + 1, None),
        # several reasons: the first of size, bytes, age
        (10, 1000, 1, Flush.SIZE),
        (9, 1000, 1, Flush.BYTES),
    ],
)
def test_a_batch_is_flushed_for_a_reason(
    waiting: int, size: int, oldest: int, reason: Flush | None
) -> None:
    lane = LaneState(waiting=waiting, bytes=size, oldest=oldest)
    assert flush(lane, BATCH, NOW) is reason


@pytest.mark.parametrize(
    ("waiting", "oldest", "deadline", "reason"),
    [
        (1, NOW, 0, None),
        (1, NOW, NOW + 51, None),
        (1, NOW, NOW + 50, Flush.DEADLINE),
        (1, NOW, NOW - 1, Flush.DEADLINE),
        # several reasons: what would have come without the deadline
        (10, NOW, NOW, Flush.SIZE),
        (1, NOW - 500, NOW, Flush.AGE),
    ],
)
def test_a_batch_is_flushed_before_a_deadline(
    waiting: int, oldest: int, deadline: int, reason: Flush | None
) -> None:
    lane = LaneState(waiting=waiting, oldest=oldest, deadline=deadline)
    assert flush(lane, PUNCTUAL_BATCH, NOW) is reason


def test_what_is_enough_flushes() -> None:
    assert flush(LaneState(waiting=3, oldest=NOW), EAGER_BATCH, NOW) is None
    assert flush(LaneState(waiting=4, oldest=NOW), EAGER_BATCH, NOW) is Flush.SIZE


@pytest.mark.parametrize(
    ("policy", "expires", "at"),
    [
        (BATCH, 0, 0),
        (BATCH, 7, NOW + 7),
        # nothing waits there for a batch to fill
        (PLAIN, 7, 0),
        (GroupPolicy(size=10), 7, 0),
    ],
)
def test_a_message_counts_from_when_it_entered(policy: GroupPolicy, expires: int, at: int) -> None:
    assert deadline_of(policy, NOW, expires) == at


def test_a_lane_notes_the_earliest_deadline() -> None:
    lane = LaneState()
    noted = []
    for at in (0, 70, 0, 90, 50):
        lane.note_deadline(at)
        noted.append(lane.deadline)
    assert noted == [0, 70, 70, 70, 50]


def test_bytes_flush_nothing_unless_declared() -> None:
    lane = LaneState(waiting=1, bytes=1 << 40, oldest=NOW)
    assert flush(lane, GroupPolicy(size=10, within=500), NOW) is None


@pytest.mark.parametrize(
    ("policy", "waiting", "room", "reason", "count"),
    [
        (PLAIN, 5, 100, Flush.SIZE, 5),
        (PLAIN, 500, 100, Flush.SIZE, 100),
        (PLAIN, 1, 1, Flush.SIZE, 1),
        # batches that never wait are cut by the worker
        (GroupPolicy(size=10), 25, 100, Flush.SIZE, 25),
        # full batches only, while the rest may still fill
        (BATCH, 10, 100, Flush.SIZE, 10),
        (BATCH, 19, 100, Flush.SIZE, 10),
        (BATCH, 35, 100, Flush.SIZE, 30),
        (BATCH, 35, 25, Flush.SIZE, 20),
        (BATCH, 35, 10, Flush.SIZE, 10),
        # a rest that is enough for a batch goes with them, unless more than there is room waits
        (EAGER_BATCH, 4, 100, Flush.SIZE, 4),
        (EAGER_BATCH, 13, 100, Flush.SIZE, 10),
        (EAGER_BATCH, 14, 100, Flush.SIZE, 14),
        (EAGER_BATCH, 20, 100, Flush.SIZE, 20),
        (EAGER_BATCH, 30, 14, Flush.SIZE, 10),
        # less room than a batch: what fits
        (BATCH, 35, 7, Flush.SIZE, 7),
        # for every other reason, all there is
        (BATCH, 9, 100, Flush.AGE, 9),
        (BATCH, 9, 4, Flush.AGE, 4),
        (BATCH, 9, 100, Flush.BYTES, 9),
        (BATCH, 3, 100, Flush.DRAIN, 3),
        (BATCH, 13, 100, Flush.DEADLINE, 13),
    ],
)
def test_a_claim_takes_what_it_has_room_for(
    policy: GroupPolicy, waiting: int, room: int, reason: Flush, count: int
) -> None:
    assert take(LaneState(waiting=waiting), policy, room, reason) == count


@pytest.mark.parametrize(
    ("claimed", "cap"),
    [
        (1, 1),
        (2, 1),
        (4, 1),
        (5, 2),
        (8, 2),
        (9, 3),
        (25, 7),
        (100, 25),
        (500, 125),
        (10_000, 2500),
    ],
)
def test_company_shrinks_to_a_quarter(claimed: int, cap: int) -> None:
    assert cap_after_loss(claimed) == cap


@pytest.mark.parametrize("claimed", [1, 2, 3, 7, 100, 500, 10_000])
def test_company_ends_at_one(claimed: int) -> None:
    caps = [claimed]
    while caps[-1] > 1:
        caps.append(cap_after_loss(caps[-1]))
    assert len(caps) <= 8
    assert cap_after_loss(1) == 1


@pytest.mark.parametrize(
    ("most", "claimed", "singled_out", "losses", "given_up"),
    [
        (3, 1, True, 3, True),
        (3, 1, True, 4, True),
        (3, 1, True, 2, False),
        # in company, or beside another claim, it may be somebody else's doing
        (3, 2, True, 9, False),
        (3, 2, False, 9, False),
        (3, 1, False, 9, False),
        # who allows one delivery only, gets one delivery only
        (1, 1, False, 1, True),
        (1, 1, True, 1, True),
        (1, 2, False, 1, False),
    ],
)
def test_a_lost_message_is_given_up(
    most: int, claimed: int, singled_out: bool, losses: int, given_up: bool
) -> None:
    policy = GroupPolicy(max_deliveries=most)
    answer = is_given_up(policy, claimed=claimed, singled_out=singled_out, losses=losses)
    assert answer is given_up
