"""A queue over several containers: who is where, who is served, woken, found and counted."""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

import pytest
from tests.servers.cluster import RedisCluster
from tests.servers.server import RedisServer

from taskyard.brokers.base import Back, Dead, Group, Operation, Put, Retried
from taskyard.brokers.rate import UNLIMITED, Limited, Limits, Rate
from taskyard.brokers.redis import placement
from taskyard.brokers.redis.placement import HOME, TOKENS, Placement
from taskyard.brokers.schedules import Schedule
from taskyard.coalesce import Entry, put_entries
from taskyard.errors import DuplicateId, PartitionConflict
from taskyard.message import Failure
from taskyard.testing.conformance.harness import TASK, Harness, Make, body, micros

PARTITIONS = 4
OTHER = Group("another", "task")
FAILURE = Failure("error", "Error", "it failed")
SHARDS = [str(number) for number in range(40)]

Server = RedisServer | RedisCluster


@pytest.fixture
def harness(make: Make) -> Harness:
    made = make(PARTITIONS)
    made.declare(concurrency=1)
    return made


def partition(harness: Harness, shard: str) -> int:
    """The container of a shard."""
    harness.put(group=TASK, shard=shard)
    found = harness.broker.partition(Put(TASK, [], shard))  # type: ignore[attr-defined]
    assert found is not None
    return int(found)


def fill(harness: Harness, *shards: str) -> None:
    """Put a message into each shard."""
    harness.put_all(*(Put(TASK, [body(f"in {shard}")], shard) for shard in shards))


def one_of_each(harness: Harness) -> list[str]:
    """A shard on each partition."""
    found = {partition(harness, shard): shard for shard in reversed(SHARDS)}
    assert len(found) == PARTITIONS
    return [shard for _, shard in sorted(found.items())]


# Where shards are


def test_shards_are_spread_over_all_partitions() -> None:
    placement = Placement(1, tuple(range(8)))
    used = [placement.of(f"user-{number}") for number in range(8000)]
    assert all(800 < used.count(number) < 1200 for number in range(8))


def test_a_shard_is_found_by_its_check_sum() -> None:
    assert Placement(1, (7, 8, 9)).of("ä") == (7, 8, 9)[crc32("ä".encode()) % 3]


def test_a_split_moves_a_shard_to_one_container_at_most() -> None:
    before, after = Placement(1, (3, 4)), Placement(2, (3, 4, 7, 8))
    for shard in SHARDS:
        assert before.before(shard) is None
        if after.of(shard) == before.of(shard):
            assert after.before(shard) is None
        else:
            assert after.before(shard) == before.of(shard)
            assert after.of(shard) == {3: 7, 4: 8}[before.of(shard)]


def test_a_shard_is_always_on_one_partition(make: Make) -> None:
    one, other = make(PARTITIONS), make(0)
    assert [partition(one, shard) for shard in SHARDS] == [
        partition(other, shard) for shard in SHARDS
    ]


def test_order_holds_within_a_shard(harness: Harness) -> None:
    for number in range(3):
        harness.put_all(
            *(Put(TASK, [body(f"{shard} {number}")], shard) for shard in one_of_each(harness))
        )
    done = harness.work_off()
    for shard in one_of_each(harness):
        assert [name for name in done if name.split()[0] == shard] == [
            f"{shard} {number}" for number in range(3)
        ]


def test_more_partitions_than_there_are_must_be_made_by_a_split(make: Make) -> None:
    make(2).put("a")
    with pytest.raises(PartitionConflict, match="taskyard split orders"):
        make(4).put("b")


def test_fewer_are_not_asked_for(make: Make) -> None:
    make(4).put("a", shard="x")
    assert make(2).work_off() == ["a"]


# A server that was emptied: who comes first places the queues anew


def empty(server: Server, new: Harness) -> None:
    """Lose everything; then somebody places the queue, elsewhere than it was."""
    server.client().flushall()
    new.broker.set_partitions(OTHER.queue, PARTITIONS)  # type: ignore[attr-defined]
    new.declare(OTHER)
    new.declare(concurrency=1)


def all_in(shards: Sequence[str]) -> list[str]:
    return sorted(f"in {shard}" for shard in shards)


def test_a_producer_learns_where_an_emptied_server_has_its_queue(
    make: Make, server: Server
) -> None:
    producer, worker = make(PARTITIONS), make(PARTITIONS)
    fill(producer, *SHARDS)
    empty(server, worker)
    for _ in range(2):
        fill(producer, *SHARDS)
        assert sorted(worker.work_off()) == all_in(SHARDS)


def test_workers_of_an_emptied_server_lead_no_producer_astray(make: Make, server: Server) -> None:
    producer, old, new = make(PARTITIONS), make(PARTITIONS), make(PARTITIONS)
    fill(producer, *SHARDS)
    assert old.work_off()
    empty(server, new)
    old.idle_worker()
    old.declare(concurrency=1)
    fill(producer, *SHARDS)
    assert sorted(new.work_off()) == all_in(SHARDS)


def test_who_fell_asleep_on_an_emptied_server_is_woken(make: Make, server: Server) -> None:
    old, new = make(PARTITIONS), make(PARTITIONS)
    fill(old, *SHARDS)
    assert old.work_off()
    empty(server, new)
    sleeper = old.idle_worker()
    fill(new, *SHARDS)
    assert sleeper.is_woken()


def test_an_inbox_of_an_emptied_server_goes_where_its_queue_is(make: Make, server: Server) -> None:
    courier, worker = make(PARTITIONS), make(PARTITIONS)
    fill(courier, *SHARDS)
    empty(server, worker)
    inboxes = courier.broker.inboxes
    assert inboxes is not None
    server.client().lpush(inboxes.name(TASK.queue), "value")
    lot = courier.run(inboxes.collect(TASK.queue, "me"))
    assert lot is not None
    assert courier.run(inboxes.store(lot, [Put(TASK, [body("pushed")], "s")])) == []
    assert worker.work_off() == ["pushed"]


def test_a_schedule_of_an_emptied_server_puts_where_its_queue_is(
    make: Make, server: Server
) -> None:
    scheduler, worker = make(PARTITIONS), make(PARTITIONS)
    fill(scheduler, *SHARDS)
    empty(server, worker)
    absent = Schedule("daily", b"", 0)
    due = Schedule("daily", b"rule", scheduler.clock.now)
    put = Put(TASK, [body("scheduled")], "s")
    assert scheduler.run(scheduler.broker.schedules.change(absent, due, put))
    assert worker.work_off() == ["scheduled"]


def test_a_producer_asks_now_and_then_where_its_queue_is(
    make: Make, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Home alone may lose what it knew, in a failover."""
    producer, worker = make(PARTITIONS), make(PARTITIONS)
    fill(producer, *SHARDS)
    home = worker.broker._options.prefix + ":{0}:places"  # type: ignore[attr-defined]
    server.client().delete(home)
    worker.declare()
    monkeypatch.setattr(placement, "REVIEW", 0.0)
    fill(producer, "asks beside this")
    fill(producer, *SHARDS)
    assert sorted(worker.work_off()) == all_in(SHARDS)


def test_a_put_costs_one_call(harness: Harness) -> None:
    steps: list[object] = []

    def noted(operation: Operation[None]) -> Operation[None]:
        try:
            step = next(operation)
            while True:
                steps.append(step)
                step = operation.send((yield step))
        except StopIteration:
            pass

    fill(harness, "s")
    harness.run(noted(harness.broker.put([Put(TASK, [body("one")], "s")])))
    assert [len(step) for step in steps if isinstance(step, list)] == [1] == [len(steps)]


# Serving


def test_all_partitions_are_served_in_turn(harness: Harness) -> None:
    shards = one_of_each(harness)
    for _ in range(6):
        fill(harness, *shards)
    served = [TOKENS.inside(harness.take().token)[0] for _ in range(PARTITIONS)]
    assert len({*served}) == PARTITIONS


def test_who_settles_does_not_stay_for_ever_where_there_is_always_more(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskyard.brokers.redis.turns.STAY", 0.0)
    shards = one_of_each(harness)
    for _ in range(6):
        fill(harness, *shards)
    claim, served = harness.take(), []
    for _ in range(2 * PARTITIONS):
        served.append(TOKENS.inside(claim.token)[0])
        [claim] = harness.step([harness.settlement(claim)], harness.want(claims=1)).claims
    assert len({*served[:PARTITIONS]}) == PARTITIONS
    assert served[:PARTITIONS] == served[PARTITIONS:]


def test_one_claim_is_of_one_partition(harness: Harness) -> None:
    fill(harness, *SHARDS)
    claims = harness.claims(100, claims=PARTITIONS)
    assert len(claims) == PARTITIONS
    assert sum(map(len, claims)) == len(SHARDS)
    for claim in claims:
        where = {partition(harness, lane.shard) for lane in claim.lanes}
        assert where == {TOKENS.inside(claim.token)[0]}


def test_settlements_find_their_partitions(harness: Harness) -> None:
    fill(harness, *SHARDS)
    claims = harness.claims(100, claims=PARTITIONS)
    settlements = [harness.settlement(claim) for claim in claims]
    assert harness.step(settlements, harness.want(100)).lost == []
    assert harness.counts().totals["done"] == len(SHARDS)
    assert harness.step(settlements, None).lost == [claim.token for claim in claims]


def test_leases_are_renewed_and_lost_on_each_partition(harness: Harness) -> None:
    fill(harness, *SHARDS)
    claims = harness.claims(100, claims=PARTITIONS, lease=10)
    kept = claims[0]
    harness.clock.advance(6)
    assert harness.extend(kept, lease=10) == []
    harness.clock.advance(6)
    assert harness.reap() == PARTITIONS - 1
    assert sorted(harness.extend(*claims)) == sorted(claim.token for claim in claims[1:])


def test_what_is_due_first_is_told(harness: Harness) -> None:
    for delay, shard in enumerate(one_of_each(harness), 5):
        harness.put(f"in {shard}", shard=shard, delay=delay)
    step = harness.step([], harness.want())
    assert step.next_at == harness.clock.now + micros(5)


def test_an_idle_partition_costs_nothing(make: Make, server: Server) -> None:
    harness = make(64)
    fill(harness, *SHARDS)
    used = {partition(harness, shard) for shard in SHARDS}
    found = {key.split("{")[1].split("}")[0] for key in keys(server)}
    assert found == {str(HOME), *map(str, used)}


def keys(server: Server) -> list[str]:
    """The keys of all brokers but what is remembered of calls, and that expires."""
    nodes = [server] if isinstance(server, RedisServer) else server.masters()
    found = [key.decode() for node in nodes for key in node.client().keys("shared-*")]
    return [key for key in found if ":call:" not in key]


# Waking


def test_a_sleeper_is_woken_by_each_partition(harness: Harness) -> None:
    for shard in one_of_each(harness):
        sleeper = harness.idle_worker(100)
        assert sleeper.sleeps_on()
        fill(harness, shard)
        assert sleeper.is_woken()
        assert len(harness.take(100, listener=sleeper)) == 1
        harness.work_off()


def test_one_sleeper_is_woken_by_one_message(harness: Harness, server: Server) -> None:
    sleepers = [harness.idle_worker() for _ in range(3)]
    fill(harness, "a")
    woken = sum(not sleeper.sleeps_on() for sleeper in sleepers)
    # A node of a cluster does not know who hears it through others.
    assert woken == 1 or (woken and isinstance(server, RedisCluster))


def test_who_works_is_not_woken_in_place_of_who_sleeps(harness: Harness) -> None:
    first, second, *_ = one_of_each(harness)
    busy = harness.idle_worker()
    fill(harness, first)
    assert busy.is_woken()
    harness.take(listener=busy)
    idle = harness.idle_worker()
    fill(harness, second)
    assert idle.is_woken()
    assert busy.sleeps_on()


def test_a_wake_up_of_who_leaves_is_handed_on(harness: Harness) -> None:
    leaving, staying = harness.idle_worker(), harness.idle_worker()
    fill(harness, "a")
    assert leaving.is_woken()
    leaving.close()
    assert staying.is_woken()


# Finding


def test_records_are_found_in_any_partition(harness: Harness) -> None:
    shards = one_of_each(harness)
    for shard in shards:
        harness.put(f"in {shard}", shard=shard, keep=60)
    names = [f"in {shard}" for shard in shards]
    found = harness.records("nobody", *names)
    assert found[0] is None
    assert [record and record.id for record in found[1:]] == names


def test_records_are_found_by_who_never_heard_of_the_queue(harness: Harness, make: Make) -> None:
    for shard in one_of_each(harness):
        harness.put(f"in {shard}", shard=shard, keep=60)
        assert make(0).state(f"in {shard}") == "waiting"


def test_who_waits_for_a_result_is_woken(harness: Harness) -> None:
    for shard in one_of_each(harness):
        harness.put(f"in {shard}", shard=shard, keep=60)
        waiter = harness.sleeper()
        harness.records(f"in {shard}", listener=waiter)
        assert waiter.sleeps_on()
        harness.settle(harness.take(100), results={f"in {shard}": b"1"})
        assert waiter.is_woken()
        assert harness.state(f"in {shard}") == "done"


def test_an_id_is_taken_within_its_partition(harness: Harness) -> None:
    harness.put("a", shard="x", keep=60)
    with pytest.raises(DuplicateId):
        harness.put("a", shard="x", keep=60)


def test_who_is_refused_hears_of_what_is_stored_elsewhere(harness: Harness, make: Make) -> None:
    here, there, *_ = one_of_each(harness)
    harness.put("a", shard=here, keep=60)

    def call(id_: str, *shards: str) -> Entry:
        puts = [Put(TASK, [body(id_)], shard, ids=[id_], record_ttl=60_000_000) for shard in shards]
        return Entry(puts)

    partly, whole, other = call("a", here, there), call("a", here), call("b", here, there)
    new = make(PARTITIONS)  # puts them together, as it does not know the partitions yet
    new.run(put_entries(new.broker, [partly, whole, other]))
    assert "messages of other partitions are stored" in str(partly.error)
    assert "; nothing of the call was stored. " in str(whole.error)
    assert other.error is None


# Counting, and by hand


def test_counts_are_of_all_partitions(harness: Harness) -> None:
    fill(harness, *SHARDS)
    harness.clock.advance(1)
    harness.put("late", shard="a", delay=9)
    harness.claims(3, claims=1)
    counts = harness.counts()
    assert (counts.waiting, counts.running, counts.delayed) == (37, 3, 1)
    assert counts.lanes == 37
    assert counts.oldest == min(counts.oldest, harness.clock.now)


def test_dead_letters_are_listed_retried_and_discarded_everywhere(harness: Harness) -> None:
    fill(harness, *one_of_each(harness))
    for claim in harness.claims(1, claims=PARTITIONS):
        harness.settle(claim, every=Dead(FAILURE))
    letters = harness.dead()
    assert sorted(letter.shard for letter in letters) == sorted(one_of_each(harness))
    assert len({letter.number for letter in letters}) == PARTITIONS
    assert harness.counts().dead == PARTITIONS
    first, *others = letters
    assert harness.retry_dead(numbers=[first.number]) == 1
    assert harness.dead() == others
    assert harness.discard_dead(numbers=[others[0].number]) == 1
    assert harness.retry_dead() == PARTITIONS - 2
    assert len(harness.work_off()) == PARTITIONS - 1


def test_dead_letters_are_paged_over_partitions(harness: Harness) -> None:
    fill(harness, *SHARDS)
    for claim in harness.claims(100, claims=PARTITIONS):
        harness.settle(claim, every=Dead(FAILURE))
    seen: list[int] = []
    while page := harness.dead(limit=7, after=seen[-1] if seen else 0):
        seen += [letter.number for letter in page]
    assert len(seen) == len({*seen}) == len(SHARDS)


def test_a_parked_shard_is_released_where_it_is(harness: Harness) -> None:
    for shard in one_of_each(harness):
        fill(harness, shard)
        harness.settle(harness.take(), every=Back(park=True))
        assert harness.counts().parked_shards == [shard]
        assert not harness.release("another")
        assert harness.release(shard)
        assert harness.work_off() == [f"in {shard}"]


def test_a_retry_stays_on_its_partition(harness: Harness) -> None:
    for shard in one_of_each(harness):
        fill(harness, shard)
        claim = harness.take()
        harness.settle(claim, every=Retried(micros(1)))
        harness.clock.advance(2)
        again = harness.take()
        assert TOKENS.inside(again.token)[0] == TOKENS.inside(claim.token)[0]
        assert harness.settle(again)


# Rate limits


@pytest.mark.parametrize("limited", [Limited(TASK.queue), Limited(TASK.queue, TASK.name)])
def test_partitions_divide_a_limit(harness: Harness, limited: Limited) -> None:
    harness.set_rate(limited, Rate(4, micros(1), 8))
    assert Rate(4, micros(1), 8) in (harness.counts().limits.queue, harness.counts().limits.task)
    shards = one_of_each(harness)
    for number in range(5):
        harness.put_all(*(Put(TASK, [body(f"{shard} {number}")], shard) for shard in shards))
    assert len(harness.work_off()) == 8
    assert harness.work_off() == []
    step = harness.step([], harness.want())
    assert step.next_at - step.now == micros(1)
    harness.clock.advance(1)
    assert len(harness.work_off()) == 4
    harness.set_rate(limited, UNLIMITED)
    assert len(harness.work_off()) == 8


def test_a_limit_with_a_smaller_burst_than_there_are_partitions(harness: Harness) -> None:
    harness.declare(concurrency=1, rate=Rate(1, micros(1), 1))
    shards = one_of_each(harness)
    fill(harness, *shards, *shards)
    assert len(harness.work_off()) == PARTITIONS, "one each"
    harness.clock.advance(PARTITIONS - 0.001)
    assert harness.work_off() == []
    harness.clock.advance(0.001)
    assert len(harness.work_off()) == PARTITIONS


def test_the_limit_of_a_shard_is_not_divided(harness: Harness) -> None:
    harness.declare(concurrency=1, shard_rate=Rate(4, micros(1), 4))
    for _ in range(3):
        fill(harness, *one_of_each(harness), *one_of_each(harness))
    assert len(harness.work_off()) == 4 * PARTITIONS
    harness.clock.advance(0.25)
    assert len(harness.work_off()) == PARTITIONS


def test_who_comes_later_finds_a_limit(harness: Harness, make: Make) -> None:
    harness.set_rate(Limited(TASK.queue), Rate(1, micros(1), 1))
    other = make(0)
    other.put("a", "b", shard="s")
    assert other.work_off() == ["a"]
    assert other.counts().limits == harness.counts().limits != Limits()
