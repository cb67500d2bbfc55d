"""Putting messages."""

from __future__ import annotations

import pytest

from taskyard.brokers.base import Group, Put
from taskyard.errors import DuplicateId
from taskyard.testing.conformance.harness import TASK, Harness, body, deliveries, names

OTHER = Group("orders", "mail")


def test_messages_are_handed_out_as_they_were_put(harness: Harness) -> None:
    bodies = [b"", b"\x00\xff no envelope", body("a"), b"x" * 1_000_000]
    harness.put_all(Put(TASK, bodies))
    assert [message.body for message in deliveries(harness.take(10))] == bodies


def test_messages_come_in_the_order_in_which_they_were_put(harness: Harness) -> None:
    harness.put("a", "b")
    harness.put("c")
    harness.put_all(Put(TASK, [body("d")]), Put(TASK, [body("e"), body("f")]))
    assert harness.work_off(4) == list("abcdef")


def test_a_new_message_has_no_history(harness: Harness) -> None:
    harness.put("a")
    (message,) = deliveries(harness.take())
    assert (message.deliveries, message.attempts, message.losses, message.cap) == (0, 0, 0, 0)
    assert message.since == message.sequence


def test_a_put_of_nothing_beside_one_of_one_message(harness: Harness) -> None:
    harness.put("a", shard="x")
    harness.put_all(Put(TASK, [], "y"), Put(TASK, [body("b")], "x"))
    assert harness.counts().lanes == 1
    assert harness.work_off() == ["a", "b"]


def test_the_same_put_twice_in_one_call(harness: Harness) -> None:
    harness.put("a")
    later = Put(TASK, [body("b")], delay=1_000_000)
    harness.put_all(later, later)
    assert (harness.counts().waiting, harness.counts().delayed) == (1, 2)


def test_one_call_puts_into_several_groups_shards_and_priorities(harness: Harness) -> None:
    harness.put_all(
        Put(TASK, [body("a")]),
        Put(OTHER, [body("b")], "shard"),
        Put(TASK, [body("c")], priority=3),
        Put(TASK, [body("d")], delay=1_000_000),
    )
    assert harness.work_off() == ["a", "c"]
    assert harness.work_off(groups=[OTHER]) == ["b"]
    harness.clock.advance(1)
    assert harness.work_off() == ["d"]


def test_sequences_are_the_time_and_rise_over_the_entire_broker(harness: Harness) -> None:
    harness.put("a", "b", shard="1")
    harness.put("c", shard="2")
    harness.clock.advance(5)
    later = harness.clock.now
    harness.put("d", "e", group=OTHER)
    sequences = {
        name: message.sequence
        for claim in harness.claims(9, groups=[TASK, OTHER], claims=2)
        for name, message in zip(names(claim), deliveries(claim), strict=True)
    }
    assert sorted(sequences, key=lambda name: sequences[name]) == list("abcde")
    assert len(set(sequences.values())) == 5
    assert sequences["d"] == later


def test_sequences_rise_even_when_the_clock_is_set_back(harness: Harness) -> None:
    harness.put("a")
    harness.clock.set_back(3600)
    harness.put("b")
    first, second = deliveries(harness.take(2))
    assert first.sequence < second.sequence


def test_tokens_and_sequences_never_meet(harness: Harness) -> None:
    tokens, sequences = [], []
    for index in range(5):
        harness.put(f"m{index}")
        claim = harness.take()
        tokens.append(claim.token)
        sequences += [message.sequence for message in deliveries(claim)]
    assert len({*tokens, *sequences}) == 10
    assert tokens == sorted(tokens)


def test_a_taken_id_refuses_the_entire_call(harness: Harness) -> None:
    harness.put("a", keep=60)
    with pytest.raises(DuplicateId):
        harness.put_all(
            Put(TASK, [body("b")], ids=["b"], record_ttl=60_000_000),
            Put(OTHER, [body("c")]),
            Put(TASK, [body("a")], ids=["a"], record_ttl=60_000_000),
        )
    assert harness.record("b") is None
    assert harness.work_off(groups=[TASK, OTHER]) == ["a"]
    assert harness.total("put") == 1
    assert harness.total("put", OTHER) == 0


def test_an_id_cannot_be_put_twice_in_one_call(harness: Harness) -> None:
    with pytest.raises(DuplicateId):
        harness.put("a", "b", "a", keep=60)
    assert harness.claim() is None
    assert harness.record("b") is None


@pytest.mark.parametrize("id_", ["two\nlines", "\r", " a ", "a\0b", "é", ""])
def test_a_taken_id_is_refused_whatever_it_is_made_of(harness: Harness, id_: str) -> None:
    taken = Put(TASK, [body("a")], ids=[id_], record_ttl=60_000_000)
    harness.put_all(taken)
    with pytest.raises(DuplicateId, match=f"^{TASK}: .* has a record already"):
        harness.put_all(Put(OTHER, [body("b")], ids=["b"], record_ttl=60_000_000), taken)


def test_an_id_is_free_again_when_its_record_has_expired(harness: Harness) -> None:
    harness.put("a", keep=60)
    harness.settle(harness.take(), results={"a": b"1"})
    harness.clock.advance(61)
    harness.tidy()
    harness.put("a", keep=60)
    assert harness.state("a") == "waiting"


def test_messages_without_records_may_share_an_id(harness: Harness) -> None:
    harness.put("a", "a")
    assert harness.work_off() == ["a", "a"]


def test_a_group_need_not_be_declared(harness: Harness) -> None:
    harness.put("a", "b")
    assert harness.counts().waiting == 2
    first, second = harness.take(), harness.take()
    assert names(first) + names(second) == ["a", "b"]


def test_putting_nothing_stores_nothing(harness: Harness) -> None:
    harness.put_all()
    harness.put_all(Put(TASK, []))
    assert harness.claim() is None
    assert harness.counts().lanes == 0


@pytest.mark.parametrize("shard", ["", " ", "ключ", "'; DROP TABLE", "🐘" * 50, "x" * 1000])
def test_any_text_is_a_shard(harness: Harness, shard: str) -> None:
    harness.declare(concurrency=1)
    harness.put("a", shard=shard)
    claim = harness.take()
    assert claim.lanes[0].shard == shard
    assert harness.settle(claim)
    assert harness.counts().lanes == 0


def test_groups_of_one_name_in_two_queues_are_two(harness: Harness) -> None:
    first, second = Group("fast", "save"), Group("slow", "save")
    harness.put("a", group=first)
    harness.put("b", group=second)
    assert harness.work_off(groups=[second]) == ["b"]
    assert harness.counts(first).waiting == 1


def test_ten_thousand_messages_are_put_by_one_call(harness: Harness) -> None:
    harness.put(*(f"m{index}" for index in range(10_000)))
    assert harness.counts().waiting == 10_000
    assert harness.work_off(1000) == [f"m{index}" for index in range(10_000)]
