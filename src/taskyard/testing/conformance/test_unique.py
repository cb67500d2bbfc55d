"""Unique keys: who holds one, in every state of its message, and when it is released."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from taskyard.brokers.base import Back, Dead, Discard, Group, Put, Retried, Stopped
from taskyard.brokers.cancelling import Cancelled
from taskyard.brokers.lane import Gate
from taskyard.brokers.rate import Limited, Rate
from taskyard.brokers.unique import Keys, Mode
from taskyard.errors import DuplicateId, QueueDraining
from taskyard.message import Failure
from taskyard.testing.conformance.harness import (
    TASK,
    Harness,
    Make,
    body,
    deliveries,
    micros,
    names,
)

BROKEN = Failure("failed")
HELD_BY_MESSAGES = [Mode.STARTED, Mode.DONE]
WINDOW = 10.0
DELAY, LONGEST = 2.0, 5.0
SECOND = 1_000_000


def put(harness: Harness, mode: Mode, id_: str, key: str = "k", **more: Any) -> str | None:
    """Put with the times of the mode; answers who stands, None: it is new."""
    times = {Mode.WINDOW: {"span": WINDOW}, Mode.DEBOUNCE: {"span": DELAY, "longest": LONGEST}}
    return harness.put_unique(mode, id_, key, **times.get(mode, {}), **more)


def is_free(harness: Harness, mode: Mode = Mode.DONE, key: str = "k", shard: str = "") -> bool:
    """Whether a message could have the key; it is discarded again."""
    standing = put(harness, mode, "probe", key, shard=shard, priority=-9)
    if standing is None:
        claim = harness.take()
        assert names(claim) == ["probe"]
        harness.settle(claim, every=Discard("probe"))
    return standing is None


# What is there stands


@pytest.mark.parametrize("mode", [Mode.STARTED, Mode.DONE, Mode.WINDOW])
def test_a_second_message_is_not_put_beside_the_first(harness: Harness, mode: Mode) -> None:
    assert put(harness, mode, "a") is None
    assert put(harness, mode, "b") == "a"
    assert harness.total("put") == 1
    assert harness.work_off() == ["a"]


def test_what_is_not_put_leaves_a_batch_as_it_was(harness: Harness) -> None:
    harness.declare(size=5, within=10)
    put(harness, Mode.DONE, "a")
    oldest = harness.counts().oldest
    harness.clock.set_back(20)
    assert put(harness, Mode.DONE, "b") == "a"
    assert harness.counts().oldest == oldest


@pytest.mark.parametrize("mode", list(Mode))
def test_other_keys_shards_and_groups_are_others(harness: Harness, mode: Mode) -> None:
    assert put(harness, mode, "a") is None
    assert put(harness, mode, "b", "l") is None
    assert put(harness, mode, "c", shard="s") is None
    assert put(harness, mode, "d", group=Group("orders", "mail")) is None
    assert put(harness, mode, "e", group=Group("other", "save")) is None


@pytest.mark.parametrize("mode", [Mode.STARTED, Mode.DONE])
def test_a_delayed_message_holds_its_key(harness: Harness, mode: Mode) -> None:
    assert put(harness, mode, "a", delay=5) is None
    assert put(harness, mode, "b") == "a"
    harness.clock.advance(5)
    assert put(harness, mode, "b") == "a"
    assert harness.work_off() == ["a"]
    assert is_free(harness, mode)


def test_messages_of_one_call_count_among_each_other(harness: Harness) -> None:
    keys = Keys(Mode.DONE, ["k", "l", "k", "m", "l"])
    harness.put("a", "b", "c", "d", "e", unique=keys, keep=9)
    assert keys.standing == {2: "a", 4: "b"}
    assert harness.states(*"abcde") == ["waiting", "waiting", None, "waiting", None]
    assert harness.work_off() == ["a", "b", "d"]
    keys, others = Keys(Mode.DONE, ["k"]), Keys(Mode.DONE, ["k", "n"])
    harness.put_all(
        Put(TASK, [body("f")], unique=keys),
        Put(TASK, [body("g")]),
        Put(TASK, [body("h"), body("i")], priority=1, unique=others),
    )
    assert (keys.standing, others.standing) == ({}, {0: "f"})
    assert harness.work_off() == ["f", "g", "i"]


def test_many_messages_with_keys(harness: Harness) -> None:
    ids = [f"m{index:04}" for index in range(1000)]
    keys = Keys(Mode.DONE, ids[:500] * 2)
    harness.put(*ids, unique=keys)
    assert keys.standing == {500 + index: ids[index] for index in range(500)}
    assert harness.work_off(100) == ids[:500]
    keys = Keys(Mode.DONE, ids)
    harness.put(*ids, unique=keys)
    assert keys.standing == {}


def test_a_message_that_is_not_put_needs_no_free_id(harness: Harness) -> None:
    assert put(harness, Mode.DONE, "a", keep=60) is None
    assert put(harness, Mode.DONE, "a", keep=60) == "a"
    with pytest.raises(DuplicateId):
        put(harness, Mode.DONE, "a", "l", keep=60)
    assert is_free(harness, key="l"), "a refused put holds no key"


def test_a_refused_put_takes_no_key(harness: Harness) -> None:
    harness.run(harness.broker.set_gate("orders", Gate.DRAINING))
    with pytest.raises(QueueDraining):
        put(harness, Mode.DONE, "a")
    harness.run(harness.broker.set_gate("orders", Gate.OPEN))
    assert is_free(harness)


def test_who_holds_a_key_in_another_mode_stands_too(harness: Harness) -> None:
    for number, holder in enumerate(Mode):
        key = f"k{number}"
        assert put(harness, holder, f"a{number}", key) is None
        for mode in Mode:
            if not mode is holder is Mode.DEBOUNCE:
                assert put(harness, mode, "b", key) == f"a{number}"


# Until started


def test_until_started_the_claim_releases_it(harness: Harness) -> None:
    put(harness, Mode.STARTED, "a")
    claim = harness.take()
    assert put(harness, Mode.STARTED, "b") is None
    assert harness.settle(claim)
    assert put(harness, Mode.STARTED, "c") == "b", "an end releases its own key alone"
    assert harness.work_off() == ["b"]


@pytest.mark.parametrize("end", ["retry", "back", "lost"])
def test_until_started_it_is_not_taken_again(harness: Harness, end: str) -> None:
    put(harness, Mode.STARTED, "a")
    claim = harness.take(lease=5)
    assert put(harness, Mode.STARTED, "b") is None
    if end == "lost":
        harness.clock.advance(6)
        assert harness.reap() == 1
    else:
        harness.settle(claim, every=Retried(0) if end == "retry" else Back(started=True))
    # Two of them are there now, and the key belongs to the later.
    assert put(harness, Mode.STARTED, "c") == "b"
    assert sorted(harness.work_off()) == ["a", "b"]
    assert put(harness, Mode.STARTED, "d") is None


# Until done


def test_until_done_it_is_held_while_the_message_runs(harness: Harness) -> None:
    put(harness, Mode.DONE, "a")
    claim = harness.take()
    assert put(harness, Mode.DONE, "b") == "a"
    assert harness.settle(claim)
    assert put(harness, Mode.DONE, "b") is None


@pytest.mark.parametrize("concurrency", [0, 1])
def test_until_done_it_is_held_through_retries(harness: Harness, concurrency: int) -> None:
    harness.declare(concurrency=concurrency)
    put(harness, Mode.DONE, "a", shard="s")
    for _ in range(3):
        assert harness.settle(harness.take(), every=Retried(micros(5)))
        assert put(harness, Mode.DONE, "b", shard="s") == "a"
        harness.clock.advance(5)
        assert put(harness, Mode.DONE, "b", shard="s") == "a"
    assert harness.work_off() == ["a"]
    assert put(harness, Mode.DONE, "b", shard="s") is None


@pytest.mark.parametrize("end", [Dead(BROKEN, "a"), Discard("a"), None])
@pytest.mark.parametrize("alone", [True, False])
def test_until_done_every_end_releases_it(harness: Harness, end: Any, alone: bool) -> None:
    put(harness, Mode.DONE, "a")
    if not alone:
        harness.put("x", "y")
    claim = harness.take(10)
    assert harness.settle(claim, {} if end is None else {"a": end}, keep=[] if alone else ["y"])
    assert put(harness, Mode.DONE, "b") is None


def test_until_done_a_kept_message_keeps_it(harness: Harness) -> None:
    put(harness, Mode.DONE, "a")
    put(harness, Mode.DONE, "b", "l")
    claim = harness.take(10)
    assert harness.settle(claim, keep=["b"])
    assert put(harness, Mode.DONE, "c") is None
    assert put(harness, Mode.DONE, "d", "l") == "b"
    assert harness.settle(claim)
    assert put(harness, Mode.DONE, "e", "l") is None


def test_until_done_it_is_held_when_the_worker_is_lost(harness: Harness) -> None:
    harness.declare(max_deliveries=2)
    put(harness, Mode.DONE, "a")
    claim = harness.take(owner="killed")
    assert harness.reap("killed") == 1
    assert put(harness, Mode.DONE, "b") == "a"
    assert not harness.settle(claim), "who lost it releases nothing"
    assert put(harness, Mode.DONE, "b") == "a"
    harness.take(owner="killed")
    assert harness.reap("killed") == 1
    assert harness.counts().dead == 1
    assert put(harness, Mode.DONE, "b") is None, "it was given up"


def test_until_done_parked_messages_hold_it(harness: Harness) -> None:
    harness.declare(concurrency=1)
    put(harness, Mode.DONE, "a", shard="s")
    harness.settle(harness.take(), every=Back(started=True, park=True))
    assert put(harness, Mode.DONE, "b", shard="s") == "a"
    assert harness.release("s")
    assert harness.work_off() == ["a"]
    assert put(harness, Mode.DONE, "b", shard="s") is None


# For a window


def test_a_window_ends_by_time_alone(harness: Harness) -> None:
    assert put(harness, Mode.WINDOW, "a") is None
    assert harness.work_off() == ["a"]
    harness.clock.advance(WINDOW - 0.000001)
    assert put(harness, Mode.WINDOW, "b") == "a"
    harness.clock.advance(0.000001)
    assert put(harness, Mode.WINDOW, "b") is None
    assert put(harness, Mode.WINDOW, "c") == "b"
    assert harness.settle(harness.take(), every=Dead(BROKEN, "b"))
    assert put(harness, Mode.WINDOW, "c") == "b"


def test_windows_that_are_over_are_tidied_away(harness: Harness) -> None:
    for index in range(20):
        put(harness, Mode.WINDOW, f"a{index}", f"k{index}")
    harness.work_off()
    harness.clock.advance(WINDOW / 2)
    put(harness, Mode.WINDOW, "b", "later")
    assert harness.tidy() == 0
    harness.clock.advance(WINDOW / 2)
    assert put(harness, Mode.DONE, "c", "k0") is None
    assert harness.tidy() >= 19
    assert put(harness, Mode.DONE, "d", "k0") == "c"
    assert put(harness, Mode.WINDOW, "d", "later") == "b"


# Debounce


def test_the_later_replaces_the_earlier(harness: Harness) -> None:
    assert put(harness, Mode.DEBOUNCE, "a", keep=60) is None
    harness.clock.advance(1)
    assert put(harness, Mode.DEBOUNCE, "b", keep=60) == "b"
    assert harness.counts().delayed == 1
    assert harness.states("a", "b") == ["discarded", "delayed"]
    harness.clock.advance(DELAY - 0.1)
    assert harness.claim() is None
    harness.clock.advance(0.1)
    assert harness.work_off() == ["b"]
    totals = harness.counts().totals
    assert (totals["put"], totals["discarded"], totals["done"]) == (2, 1, 1)


def test_it_is_put_off_for_so_long_at_most(harness: Harness) -> None:
    put(harness, Mode.DEBOUNCE, "m0")
    for index in range(1, 5):
        harness.clock.advance(1)
        assert put(harness, Mode.DEBOUNCE, f"m{index}") == f"m{index}"
    harness.clock.advance(LONGEST - 4)
    assert harness.work_off() == ["m4"]


def test_one_that_cannot_be_put_off_any_more_waits_whatever_the_clock_does(
    harness: Harness,
) -> None:
    put(harness, Mode.DEBOUNCE, "a")
    harness.clock.advance(LONGEST + 1)
    put(harness, Mode.DEBOUNCE, "b", keep=60)
    harness.clock.set_back(LONGEST)
    assert harness.state("b") == "waiting"


def test_in_its_lane_a_debounced_message_is_not_replaced(harness: Harness) -> None:
    put(harness, Mode.DEBOUNCE, "a")
    harness.put("x")
    harness.clock.advance(DELAY)
    claim = harness.take(1)  # lets it in
    assert names(claim) == ["x"]
    assert put(harness, Mode.DEBOUNCE, "b") is None
    assert names(harness.take(5)) == ["a"]
    harness.clock.advance(DELAY)
    assert harness.settle(harness.take(), every=Retried(micros(100)))
    assert put(harness, Mode.DEBOUNCE, "c") is None, "a retry is another wait"


def test_debounced_messages_of_one_call(harness: Harness) -> None:
    keys = Keys(Mode.DEBOUNCE, ["k", "l", "k"], micros(DELAY), micros(LONGEST))
    harness.put("a", "b", "c", unique=keys, keep=60)
    assert keys.standing == {2: "c"}
    assert harness.states("a", "b", "c") == ["discarded", "delayed", "delayed"]
    harness.clock.advance(DELAY)
    assert sorted(harness.work_off()) == ["b", "c"]


def test_many_replacements_leave_nothing_behind(harness: Harness) -> None:
    for index in range(300):
        put(harness, Mode.DEBOUNCE, f"m{index}", "k" if index % 2 else "l", shard="s")
    assert harness.counts().delayed == 2
    harness.clock.advance(DELAY)
    assert sorted(harness.work_off()) == ["m298", "m299"]
    assert harness.next_at() == 0


# Dead letters


@pytest.mark.parametrize("mode", HELD_BY_MESSAGES)
def test_a_dead_letter_takes_its_key_again(harness: Harness, mode: Mode) -> None:
    put(harness, mode, "a")
    harness.settle(harness.take(), every=Dead(BROKEN, "a"))
    assert harness.retry_dead() == 1
    assert put(harness, mode, "b") == "a"
    assert harness.work_off() == ["a"]
    assert put(harness, mode, "b") is None


@pytest.mark.parametrize("mode", HELD_BY_MESSAGES)
def test_a_dead_letter_whose_key_is_held_stays_one(harness: Harness, mode: Mode) -> None:
    for id_, key in (("a", "k"), ("b", "l"), ("c", "m")):
        put(harness, mode, id_, key)
    harness.settle(harness.take(5), {id_: Dead(BROKEN, id_) for id_ in "abc"})
    assert put(harness, mode, "d", "k") is None
    assert harness.retry_dead() == 2
    assert [letter.id for letter in harness.dead()] == ["a"]
    assert harness.counts().dead == 1
    assert sorted(harness.work_off()) == ["b", "c", "d"]
    assert harness.retry_dead() == 1
    assert harness.work_off() == ["a"]


def test_those_that_are_kept_back_hide_no_others(harness: Harness) -> None:
    ids = [f"m{index:04}" for index in range(700)]
    harness.put(*ids, unique=Keys(Mode.DONE, ids))
    harness.settle(harness.take(1000), every=Dead(BROKEN))
    others = [f"n{index:04}" for index in range(600)]
    harness.put(*others, unique=Keys(Mode.DONE, ids[:600]))
    assert harness.retry_dead(limit=10_000) == 100
    assert harness.counts().dead == 600


@pytest.mark.parametrize("mode", [Mode.WINDOW, Mode.DEBOUNCE])
def test_others_need_no_key_to_be_retried(harness: Harness, mode: Mode) -> None:
    put(harness, mode, "a")
    harness.clock.advance(DELAY)
    harness.settle(harness.take(), every=Dead(BROKEN, "a"))
    put(harness, mode, "b")
    assert harness.retry_dead() == 1
    assert names(harness.take()) == ["a"]


def test_a_dead_letter_that_goes_leaves_no_key(make: Make) -> None:
    harness = make(dead_limit=1, dead_age=100)
    for id_, key in (("a", "k"), ("b", "l")):
        put(harness, Mode.DONE, id_, key)
        harness.settle(harness.take(), every=Dead(BROKEN, id_))
    assert is_free(harness)
    assert harness.discard_dead() == 1
    assert is_free(harness, key="l")


# Beside other features


def test_ordered_shards_have_keys_of_their_own(harness: Harness) -> None:
    harness.declare(concurrency=1)
    for shard in ("s", "t"):
        assert put(harness, Mode.DONE, f"a{shard}", shard=shard) is None
        assert put(harness, Mode.DONE, f"b{shard}", "l", shard=shard) is None
    claims = harness.claims(1, claims=5)
    assert sorted(id_ for claim in claims for id_ in names(claim)) == ["as", "at"]
    harness.settle(claims[0])
    shard = claims[0].lanes[0].shard
    assert put(harness, Mode.DONE, "c", shard=shard) is None
    assert put(harness, Mode.DONE, "d", shard="t" if shard == "s" else "s") in ("as", "at")


def test_batches_of_several_shards_and_priorities(harness: Harness) -> None:
    harness.declare(size=10, within=1)
    for shard in ("s", "t"):
        for priority in (0, 1):
            key = f"{shard}{priority}"
            put(harness, Mode.STARTED, f"a{key}", key, shard=shard, priority=priority)
            put(harness, Mode.DONE, f"b{key}", f"x{key}", shard=shard, priority=priority)
    harness.clock.advance(1)
    claim = harness.take(100)
    assert len(deliveries(claim)) == 8
    for shard in ("s", "t"):
        for priority in (0, 1):
            key = f"{shard}{priority}"
            assert put(harness, Mode.STARTED, f"c{key}", key, shard=shard) is None
            assert put(harness, Mode.DONE, f"d{key}", f"x{key}", shard=shard) == f"b{key}"
    assert harness.settle(claim)
    assert put(harness, Mode.DONE, "e", "xs0", shard="s") is None


def test_messages_with_and_without_keys_share_a_lane(harness: Harness) -> None:
    harness.put("a")
    put(harness, Mode.DONE, "b")
    harness.put("c")
    put(harness, Mode.STARTED, "d", "l")
    assert harness.work_off(2) == ["a", "b", "c", "d"]
    assert is_free(harness)
    assert is_free(harness, key="l")


def test_keys_may_be_of_any_text(harness: Harness) -> None:
    for number, key in enumerate(("", "ä\n€", "x" * 500, "s", "d", "a:b")):
        assert put(harness, Mode.DONE, f"m{number}", key) is None
        assert put(harness, Mode.DONE, "n", key) == f"m{number}"
    assert len(harness.work_off()) == 6
    for key in ("", "ä\n€", "x" * 500):
        assert is_free(harness, key=key)


def test_of_two_producers_at_once_one_puts(harness: Harness) -> None:
    start = threading.Barrier(2)

    def produce(name: str) -> list[str | None]:
        start.wait()
        return [put(harness, Mode.DONE, f"{name}{index}", f"k{index}") for index in range(40)]

    with ThreadPoolExecutor(2) as threads:
        answers = [answer for found in threads.map(produce, "ab") for answer in found]
    assert answers.count(None) == 40
    assert harness.total("put") == 40
    assert len(harness.work_off()) == 40


# Beside rate limits


@pytest.mark.parametrize("scope", ["task", "shard"])
@pytest.mark.parametrize("mode", HELD_BY_MESSAGES)
def test_a_message_that_waits_for_a_token_holds_its_key(
    harness: Harness, mode: Mode, scope: str
) -> None:
    harness.set_rate(Limited("orders", "save", shards=scope == "shard"), Rate(1, SECOND, 1))
    for id_ in "ab":
        assert put(harness, mode, id_, id_) is None
    first = harness.take()
    assert harness.claim() is None
    assert put(harness, mode, "c", "b") == "b", "it has not started"
    harness.clock.advance(1)
    second = harness.take()
    assert names(second) == ["b"]
    for claim in (first, second):
        harness.settle(claim)
    harness.clock.advance(2)
    assert is_free(harness, mode, "a")


def test_a_limited_message_that_comes_back_keeps_key_and_token(harness: Harness) -> None:
    harness.set_rate(Limited("orders", "save"), Rate(1, 10 * SECOND, 3))
    for id_ in "abc":
        assert put(harness, Mode.DONE, id_, id_) is None
    claim = harness.take(3)
    harness.settle(claim, {"a": Back()}, keep="b")
    assert put(harness, Mode.DONE, "d", "a") == "a", "it came back"
    assert put(harness, Mode.DONE, "d", "b") == "b", "it still runs"
    assert put(harness, Mode.DONE, "d", "c") is None, "it is done"
    again = harness.take(3)
    assert names(again) == ["a"], "there was one token: its own"
    harness.settle(claim, {"b": Back()})
    assert names(harness.take(3)) == ["b"], "and the one of b"
    assert harness.claim() is None


# Cancelling


def cancel(harness: Harness, id_: str, *, note: bool = False) -> Cancelled:
    return harness.run(harness.broker.cancel(id_, note=note)).outcome


@pytest.mark.parametrize("where", ["waiting", "delayed", "retrying"])
@pytest.mark.parametrize("mode", HELD_BY_MESSAGES)
def test_a_cancelled_message_releases_its_key(harness: Harness, mode: Mode, where: str) -> None:
    put(harness, mode, "a", keep=60, delay=9 if where == "delayed" else 0)
    if where == "retrying":
        harness.settle(harness.take(), every=Retried(micros(9)), records=True)
    assert cancel(harness, "a") is Cancelled.REMOVED
    assert put(harness, mode, "b") is None
    assert harness.work_off() == ["b"]


def test_a_cancelled_debounced_message_is_not_replaced(harness: Harness) -> None:
    put(harness, Mode.DEBOUNCE, "a", keep=60)
    put(harness, Mode.DEBOUNCE, "b", keep=60)
    assert cancel(harness, "a") is Cancelled.ENDED, "it was replaced"
    assert cancel(harness, "b") is Cancelled.REMOVED
    harness.clock.advance(1)
    assert put(harness, Mode.DEBOUNCE, "c", keep=60) is None
    harness.clock.advance(DELAY)
    assert harness.work_off() == ["c"]
    assert harness.total("cancelled") == harness.total("discarded") == 1


@pytest.mark.parametrize("end", [Back(), Back(started=True), Retried(0), Stopped("a"), "lost"])
def test_a_message_that_is_cancelled_while_it_runs_releases_it_at_its_end(
    harness: Harness, end: Any
) -> None:
    put(harness, Mode.DONE, "a", keep=60)
    claim = harness.take(lease=30)
    assert cancel(harness, "a") is Cancelled.TOLD
    assert put(harness, Mode.DONE, "b") == "a"
    if end == "lost":
        harness.clock.advance(31)
        assert harness.reap() == 1
    else:
        harness.settle(claim, every=end)
    assert put(harness, Mode.DONE, "b") is None
    assert harness.work_off() == ["b"]


@pytest.mark.parametrize("delay", [0, 9])
@pytest.mark.parametrize("mode", HELD_BY_MESSAGES)
def test_what_is_cancelled_by_a_note_releases_it_when_that_is_seen(
    harness: Harness, mode: Mode, delay: float
) -> None:
    put(harness, mode, "a", delay=delay)
    assert cancel(harness, "a", note=True) is Cancelled.NOTED
    assert put(harness, mode, "b") == "a"
    harness.clock.advance(delay)
    assert harness.claim() is None
    assert put(harness, mode, "b") is None
    assert harness.work_off() == ["b"]


def test_what_was_told_keeps_keys_and_limits_apart(harness: Harness) -> None:
    """All that the header of a claim may say, at once."""
    harness.set_rate(Limited("orders", "save"), Rate(1, 10 * SECOND, 3))
    for id_ in "abc":
        put(harness, Mode.DONE, id_, id_, keep=60)
    claim = harness.take(3)
    assert cancel(harness, "a") is cancel(harness, "b") is Cancelled.TOLD
    harness.settle(claim, {"a": Stopped("a", started=False)}, keep="bc")
    harness.extend(claim, lease=99)
    harness.settle(claim, {"b": Back()})
    assert [is_free(harness, key=key) for key in "ab"] == [True, True]
    assert harness.claim() is None, "the tokens of a and b were given back, and taken by probes"
    assert harness.total("cancelled") == 2
