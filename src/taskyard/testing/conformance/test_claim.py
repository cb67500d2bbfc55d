"""Claiming messages."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from taskyard.brokers.base import Group, GroupWant, Put, Want
from taskyard.testing.conformance.harness import (
    TASK,
    Harness,
    body,
    deliveries,
    micros,
    name,
    names,
)

OTHER = Group("orders", "mail")
ORDER = Group("orders", "account")


def test_there_is_nothing_to_claim_in_an_empty_broker(harness: Harness) -> None:
    step = harness.step([], harness.want())
    assert (step.claims, step.lost, step.next_at) == ([], [], 0)
    assert step.now == harness.clock.now


def test_a_claim_tells_what_it_holds_and_until_when(harness: Harness) -> None:
    harness.put("a", "b", shard="s", priority=4)
    claim = harness.take(5, lease=20)
    assert claim.group == TASK
    assert claim.deadline == harness.clock.now + micros(20)
    assert len(claim) == 2
    assert [lane.shard for lane in claim.lanes] == ["s"]
    assert [priority for priority, _ in claim.lanes[0].messages] == [4, 4]
    assert claim.lanes[0].flush is None


def test_a_claim_holds_no_more_messages_than_wanted(harness: Harness) -> None:
    harness.put(*"abcdefg")
    assert names(harness.take(3)) == list("abc")
    assert names(harness.take(3)) == list("def")
    assert names(harness.take(3)) == ["g"]
    assert harness.claim(3) is None


def test_a_claim_holds_no_more_bytes_than_wanted(harness: Harness) -> None:
    harness.put(*"abcdef", size=100)
    assert names(harness.take(10, bytes=250)) == ["a", "b"]
    assert names(harness.take(10, bytes=300)) == ["c", "d", "e"]


def test_the_bytes_of_a_claim_are_counted_over_its_lanes(harness: Harness) -> None:
    for shard in "abcd":
        harness.put(shard, shard=shard, size=100)
    assert names(harness.take(10, bytes=200)) == ["a", "b"]
    assert names(harness.take(10, bytes=299)) == ["c", "d"]


def test_one_message_is_claimed_however_large_it_is(harness: Harness) -> None:
    harness.put("small", size=50)
    harness.put("huge", size=5000)
    harness.put("next", size=50)
    assert harness.work_alone(10, bytes=1000) == [["small"], ["huge"], ["next"]]


def test_a_step_makes_as_many_claims_as_wanted(harness: Harness) -> None:
    harness.put(*"abcdefg")
    claims = harness.claims(2, claims=3)
    assert [names(claim) for claim in claims] == [["a", "b"], ["c", "d"], ["e", "f"]]
    assert len({claim.token for claim in claims}) == 3
    assert [names(claim) for claim in harness.claims(2, claims=3)] == [["g"]]


def test_a_claim_is_of_one_group(harness: Harness) -> None:
    harness.put("a", "b")
    harness.put("c", group=OTHER)
    claims = harness.claims(10, groups=[TASK, OTHER], claims=5)
    assert [(claim.group, names(claim)) for claim in claims] == [(TASK, ["a", "b"]), (OTHER, ["c"])]


def test_a_claim_spans_lanes(harness: Harness) -> None:
    for index in range(5):
        harness.put(f"m{index}", shard=str(index))
    claim = harness.take(3)
    assert [(lane.shard, names(lane)) for lane in claim.lanes] == [
        ("0", ["m0"]),
        ("1", ["m1"]),
        ("2", ["m2"]),
    ]


def test_ten_thousand_lanes_cross_in_one_claim(harness: Harness) -> None:
    harness.declare(concurrency=1)
    shards = [f"shard {index}" for index in range(10_000)]
    harness.put_all(*(Put(TASK, [body(shard)], shard) for shard in shards))
    claim = harness.take(10_000)
    assert names(claim) == shards
    assert harness.settle(claim)
    assert harness.counts().lanes == 0


def test_only_wanted_groups_are_served(harness: Harness) -> None:
    harness.put("a")
    harness.put("b", group=OTHER)
    assert harness.work_off(groups=[OTHER]) == ["b"]
    assert harness.counts().waiting == 1


def test_messages_of_tasks_that_no_worker_knows_wait(harness: Harness) -> None:
    harness.put("a", group=Group("orders", "new in this release"))
    harness.put("b")
    assert harness.work_off(groups=[TASK, OTHER]) == ["b"]
    assert harness.work_off(groups=[Group("orders", "new in this release")]) == ["a"]


def test_each_group_has_its_own_size_of_claims(harness: Harness) -> None:
    harness.put(*"abcd")
    harness.put(*"efgh", group=OTHER)
    want = Want([GroupWant(TASK, 3), GroupWant(OTHER, 2)], "worker", micros(30), claims=2)
    assert [names(claim) for claim in harness.step([], want).claims] == [
        ["a", "b", "c"],
        ["e", "f"],
    ]


def test_an_order_group_is_served_by_workers_that_know_all_its_tasks(harness: Harness) -> None:
    harness.declare(ORDER, members=["credit", "debit"], concurrency=1)
    harness.put("a", group=ORDER)
    assert harness.claim(groups=[ORDER]) is None
    assert harness.claim(groups=[ORDER], members=["credit"]) is None
    assert names(harness.claim(groups=[ORDER], members=["credit", "debit", "more"])) == ["a"]


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_a_lane_has_no_more_open_claims_than_its_concurrency(harness: Harness, limit: int) -> None:
    harness.declare(concurrency=limit)
    harness.put(*(f"m{index}" for index in range(10)), shard="s")
    claims = [harness.take() for _ in range(limit)]
    assert harness.claim() is None
    harness.settle(claims[0])
    assert names(harness.take()) == [f"m{limit}"]
    assert harness.claim() is None


def test_the_limit_of_one_lane_does_not_hold_others(harness: Harness) -> None:
    harness.declare(concurrency=1)
    harness.put("a1", "a2", shard="a")
    harness.put("b1", "b2", shard="b")
    assert names(harness.take()) == ["a1"]
    assert names(harness.take()) == ["b1"]
    assert harness.claim() is None


def test_a_lane_without_a_limit_is_shared(harness: Harness) -> None:
    harness.put(*"abc", shard="s")
    assert [names(harness.take()) for _ in range(3)] == [["a"], ["b"], ["c"]]


def test_one_step_settles_and_claims_what_that_frees(harness: Harness) -> None:
    harness.declare(concurrency=1)
    harness.put("a", "b", shard="s")
    first = harness.take()
    step = harness.step([harness.settlement(first)], harness.want())
    assert step.lost == []
    assert [names(claim) for claim in step.claims] == [["b"]]


def test_a_step_without_a_wish_claims_nothing(harness: Harness) -> None:
    harness.put("a")
    assert harness.step([], None).claims == []


def test_what_a_worker_does_to_its_copy_of_a_claim_is_its_own_affair(harness: Harness) -> None:
    harness.put("a", "b")
    claim = harness.take(2, owner="gone")
    claim.lanes[0].messages.clear()
    claim.lanes.clear()
    harness.reap("gone")
    assert harness.counts().waiting == 2


def test_claims_of_several_lanes_are_counted_as_they_are_settled(harness: Harness) -> None:
    harness.declare(concurrency=2)
    harness.put(*"abcd", shard="1")
    harness.put(*"efgh", shard="2")
    first, second = harness.take(6), harness.take(6)
    assert sorted(names(first) + names(second)) == list("abcdefgh")
    assert harness.settle(first)
    assert harness.settle(second)
    assert harness.counts().running == 0


def test_two_claimers_never_share_a_message(harness: Harness) -> None:
    expected = {f"{shard}/{index}" for shard in range(20) for index in range(50)}
    for shard in range(20):
        harness.put(*(f"{shard}/{index}" for index in range(50)), shard=str(shard))

    def work(owner: str) -> list[str]:
        return harness.work_off(7, owner=owner)

    with ThreadPoolExecutor(4) as threads:
        parts = list(threads.map(work, ["ann", "bob", "cyd", "dan"]))
    seen = [id_ for part in parts for id_ in part]
    assert len(seen) == len(expected)
    assert set(seen) == expected


def test_many_producers_and_workers_lose_nothing(harness: Harness) -> None:
    harness.declare(concurrency=1)
    done: dict[str, list[int]] = {str(shard): [] for shard in range(5)}
    finished = threading.Event()

    def produce(shard: str) -> None:
        for index in range(40):
            harness.put(f"{index}", shard=shard)

    def work() -> None:
        last = False
        while (claim := harness.claim(5)) is not None or not last:
            last = finished.is_set()
            if claim is not None:
                for lane in claim.lanes:
                    done[lane.shard] += [int(name(message)) for message in deliveries(lane)]
                assert harness.settle(claim)

    with ThreadPoolExecutor(8) as threads:
        workers = [threads.submit(work) for _ in range(3)]
        for producer in [threads.submit(produce, shard) for shard in done]:
            producer.result()
        finished.set()
        for worker in workers:
            worker.result()
    assert all(numbers == list(range(40)) for numbers in done.values())


def test_a_step_makes_no_further_claim_once_it_has_enough_messages(harness: Harness) -> None:
    for shard in "abcdef":
        harness.put(*(f"{shard}{number}" for number in range(10)), shard=shard)
    want = msgspec.structs.replace(harness.want(10), claims=6, messages=25)
    assert [len(claim) for claim in harness.step([], want).claims] == [10, 10, 10]


# Bytes


@pytest.mark.parametrize("shards", [1, 2, 5])
@pytest.mark.parametrize("batch", [False, True])
def test_large_messages_are_claimed_a_few_at_a_time(
    harness: Harness, shards: int, batch: bool
) -> None:
    harness.declare(size=4, within=1 if batch else 0)
    sizes = [100, 3000, 20, 20, 900, 20, 999, 999, 20, 5000, 5000, 20, 20, 20]
    expected: dict[str, list[str]] = {}
    for index, size in enumerate(sizes):
        shard = str(index % shards)
        harness.put(f"m{index:02}", shard=shard, size=size, priority=index % 2)
        expected.setdefault(shard, []).append(f"m{index:02}")
    harness.clock.advance(2)
    claimed: dict[str, list[tuple[int, str]]] = {}
    while (claim := harness.claim(100, bytes=1000)) is not None:
        messages = deliveries(claim)
        assert len(messages) == 1 or sum(len(message.body) for message in messages) <= 1000
        for lane in claim.lanes:
            claimed.setdefault(lane.shard, []).extend(
                (priority, name(message)) for priority, message in lane.messages
            )
        harness.settle(claim)
    assert {shard: sorted(entries) for shard, entries in claimed.items()} == claimed
    assert {shard: sorted(id_ for _, id_ in entries) for shard, entries in claimed.items()} == (
        expected
    )
    assert harness.counts().waiting == 0


def test_large_messages_with_other_histories_are_passed_over(harness: Harness) -> None:
    for index in range(6):
        harness.put(f"a{index}", shard=f"s{index}", size=600)
    harness.take(5, owner="dead")
    harness.reap("dead")  # five that may be claimed two by two, and one that was never lost
    harness.put("b", shard="t", size=600)
    seen: list[str] = []
    while (claim := harness.claim(5, bytes=1000)) is not None:
        seen += names(claim)
        harness.settle(claim)
    assert sorted(seen) == ["a0", "a1", "a2", "a3", "a4", "a5", "b"]


def test_a_due_message_of_any_size_enters_its_lane(harness: Harness) -> None:
    for index in range(5):
        harness.put(f"m{index}", delay=1, size=3 << 20)
    harness.clock.advance(1)
    assert harness.work_off() == [f"m{index}" for index in range(5)]
