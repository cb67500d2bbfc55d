"""put.lua: the state after every kind of put, and what it refuses."""

from __future__ import annotations

import pytest
import redis
from tests.redis.scripts.calls import claim, declare, item, put, settle
from tests.redis.scripts.container import NOW, Container, Due, Lane, Policy, State, fresh

UNSURE = 5
RECORD = {"gid": 1, "ttl": 60, "state": "waiting", "due": NOW, "expires": 0, "shard": "a"}


def counted(**numbers: int) -> State:
    return {f"count 1 {name}": number for name, number in numbers.items()}


def met(sequence: int, turn: int) -> State:
    return {"meta sequence": sequence, "meta turn": turn}


def test_the_first_message_of_an_unknown_group(box: Container) -> None:
    reply, changed = box.trace(put("one"))
    assert reply == 1
    assert changed == {
        "meta groups": 1,
        **met(NOW, 1),
        "name 1": "q\0t",
        "policy 1": Policy("q\0t"),
        "list 1 0 a": [fresh(NOW, "one")],
        "ready 1 a": (0, 1),
        **counted(put=1, waiting=1, lanes=1),
    }


def test_who_may_be_out_of_date_brings_no_unknown_group(box: Container) -> None:
    box.run(put("one", group="q\0known"))
    both = put(item("two", group="q\0known", unsure=True), item("three", unsure=True))
    assert box.trace(both) == (UNSURE, {})
    assert box.run(put("two", group="q\0known", unsure=True)) == 1
    assert box.run(put("three")) == 1
    assert box.run(both) == 1


def test_more_for_a_lane_that_is_ready_changes_no_place(box: Container) -> None:
    box.run(put("one"))
    reply, changed = box.trace(put("two", "three"))
    assert reply == 1
    assert changed == {
        "meta sequence": NOW + 2,
        "list 1 0 a": [fresh(NOW, "one"), fresh(NOW + 1, "two"), fresh(NOW + 2, "three")],
        **counted(put=3, waiting=3),
    }


def test_one_more_for_a_lane_that_is_ready(box: Container) -> None:
    box.run(put("one"))
    reply, changed = box.trace(put("two"))
    assert reply == 1
    assert changed == {
        "meta sequence": NOW + 1,
        "list 1 0 a": [fresh(NOW, "one"), fresh(NOW + 1, "two")],
        **counted(put=2, waiting=2),
    }


def test_several_lanes_priorities_and_groups_by_one_call(box: Container) -> None:
    _, changed = box.trace(
        put(
            item("x", shard="a"),
            item("y", shard="b", priority=-3),
            item("z", shard="a", priority=5),
            item("u", group="r\0s", shard=""),
        )
    )
    assert changed == {
        "meta groups": 2,
        **met(NOW + 3, 3),
        "name 1": "q\0t",
        "name 2": "r\0s",
        "policy 1": Policy("q\0t"),
        "policy 2": Policy("r\0s"),
        "list 1 0 a": [fresh(NOW, "x")],
        "list 1 -3 b": [fresh(NOW + 1, "y")],
        "list 1 5 a": [fresh(NOW + 2, "z")],
        "list 2 0 ": [fresh(NOW + 3, "u")],
        "lane 1 a": Lane(priorities=(0, 5)),
        "lane 1 b": Lane(priorities=(-3,)),
        "ready 1 a": (0, 1),
        "ready 1 b": (-3, 2),
        "ready 2 ": (0, 3),
        **counted(put=3, waiting=3, lanes=2),
        "count 2 put": 1,
        "count 2 waiting": 1,
        "count 2 lanes": 1,
    }


def test_a_better_priority_moves_a_lane_forward(box: Container) -> None:
    box.run(put("x"))
    _, changed = box.trace(put("y", priority=-1024))
    assert changed["ready 1 a"] == (-1024, 1)
    _, changed = box.trace(put("z", priority=1023))
    assert "ready 1 a" not in changed
    assert changed["lane 1 a"] == Lane(priorities=(-1024, 0, 1023))


@pytest.mark.parametrize("how", [{"delay": 50}, {"due": NOW + 50}, {"delay": 9, "due": NOW + 50}])
def test_a_delayed_message(box: Container, how: dict[str, int]) -> None:
    _, changed = box.trace(put("one", "two", priority=-7, **how))
    assert changed == {
        "meta groups": 1,
        **met(NOW + 1, 0),
        "name 1": "q\0t",
        "policy 1": Policy("q\0t"),
        f"due {NOW}": Due(NOW + 50, 1, -7, "a", fresh(NOW, "one")),
        f"due {NOW + 1}": Due(NOW + 50, 1, -7, "a", fresh(NOW + 1, "two")),
        **counted(put=2, delayed=2),
    }


@pytest.mark.parametrize("how", [{"delay": 0}, {"due": NOW}, {"due": NOW - 9}, {"due": 1}])
def test_what_is_due_already_waits(box: Container, how: dict[str, int]) -> None:
    _, changed = box.trace(put("one", **how))
    assert changed["list 1 0 a"] == [fresh(NOW, "one")]


def test_a_put_without_bodies_makes_only_the_group(box: Container) -> None:
    reply, changed = box.trace(put())
    assert reply == 1
    assert changed == {"meta groups": 1, "name 1": "q\0t", "policy 1": Policy("q\0t")}
    reply, changed = box.trace(put(item()))
    assert (reply, changed) == (1, {})


def test_a_put_of_nothing_at_all(box: Container) -> None:
    assert box.trace(put(*())) == (1, box.dump())


def test_an_empty_body(box: Container) -> None:
    _, changed = box.trace(put("", b"\x00"))
    assert changed["list 1 0 a"] == [fresh(NOW, ""), fresh(NOW + 1, b"\x00")]


def test_sequences_go_on_where_they_were_when_the_clock_was_set_back(box: Container) -> None:
    box.run(put("one"))
    box.now = NOW - 5_000_000
    _, changed = box.trace(put("two"))
    assert changed["meta sequence"] == NOW + 1
    box.now = NOW + 10
    _, changed = box.trace(put("three"))
    assert changed["meta sequence"] == NOW + 10


# Members


def test_a_put_makes_its_task_a_member_once(box: Container) -> None:
    box.run(declare(members=["x"]))
    _, changed = box.trace(put("1", member="y"))
    assert changed["policy 1"] == Policy("q\0t", members=("x", "y"), declared=True)
    _, changed = box.trace(put("2", member="y"))
    assert "policy 1" not in changed
    _, changed = box.trace(put("3", member="x"))
    assert "policy 1" not in changed


# Lanes that are not plain


def test_a_lane_that_is_held_gets_no_place(box: Container) -> None:
    box.run(declare(concurrency=1))
    box.run(put("one"))
    (token,) = box.tokens(claim(1))
    _, changed = box.trace(put("two"))
    assert changed == {
        "meta sequence": token + 1,
        "list 1 0 a": [fresh(token + 1, "two")],
        **counted(put=2, waiting=1, lanes=1),
    }


def test_a_lane_that_is_parked_gets_no_place(box: Container) -> None:
    box.run(put("one"))
    (token,) = box.tokens(claim(1))
    box.run(settle(token, {NOW: ("back", False, True)}))
    _, changed = box.trace(put("two"))
    assert changed == {
        "meta sequence": token + 1,
        "list 1 0 a": [fresh(token + 1, "two")],
        **counted(put=2, waiting=2),
    }


def test_a_lane_whose_head_backs_off_stays_later(box: Container) -> None:
    box.run(declare(concurrency=1))
    box.run(put("one"))
    (token,) = box.tokens(claim(1))
    box.run(settle(token, {NOW: ("retried", 70, "")}))
    _, changed = box.trace(put("two"))
    assert changed == {
        "meta sequence": token + 1,
        "list 1 0 a": [fresh(token + 1, "two")],
        **counted(put=2, waiting=2),
    }
    box.now = NOW + 70
    _, changed = box.trace(put("three"))
    assert changed["ready 1 a"] == (0, 2)
    assert changed["later 1 a"] is None


def test_a_batch_waits_to_fill(box: Container) -> None:
    box.run(declare(size=3, within=1000, bytes_=100))
    _, changed = box.trace(put("one"))
    assert changed == {
        **met(NOW, 0),
        "list 1 0 a": [fresh(NOW, "one")],
        "lane 1 a": Lane(bytes=3, oldest=NOW),
        "later 1 a": NOW + 1000,
        "filling 1 a": NOW + 1000,
        **counted(put=1, waiting=1, lanes=1),
    }
    box.now = NOW + 10
    _, changed = box.trace(put("two", "three"))
    assert changed == {
        **met(NOW + 11, 1),
        "list 1 0 a": [fresh(NOW, "one"), fresh(NOW + 10, "two"), fresh(NOW + 11, "three")],
        "lane 1 a": Lane(bytes=11, oldest=NOW),
        "ready 1 a": (0, 1),
        "later 1 a": None,
        "filling 1 a": None,
        **counted(put=3, waiting=3),
    }


def test_a_batch_waits_no_longer_than_a_message_may(box: Container) -> None:
    box.run(declare(size=3, within=1000, lead=30))
    _, changed = box.trace(put("one", expires=200))
    assert changed == {
        **met(NOW, 0),
        "list 1 0 a": [fresh(NOW, "one", expires=200)],
        "lane 1 a": Lane(bytes=3, oldest=NOW, deadline=NOW + 200),
        "later 1 a": NOW + 170,
        "filling 1 a": NOW + 170,
        **counted(put=1, waiting=1, lanes=1),
    }
    _, changed = box.trace(put("two", expires=900))
    assert changed["lane 1 a"].deadline == NOW + 200
    _, changed = box.trace(put("three"))
    assert changed["ready 1 a"] == (0, 1)
    _, changed = box.trace(claim(3))
    assert changed["lane 1 a"] is None


def test_a_plain_lane_has_no_deadline(box: Container) -> None:
    box.run(put("one"))
    _, changed = box.trace(put("two", expires=200))
    assert changed["list 1 0 a"] == [fresh(NOW, "one"), fresh(NOW + 1, "two", expires=200)]
    assert "lane 1 a" not in changed


def test_a_batch_is_full_by_its_bytes(box: Container) -> None:
    box.run(declare(size=100, within=1000, bytes_=100))
    box.run(put("x" * 99))
    _, changed = box.trace(put("y"))
    assert changed["ready 1 a"] == (0, 1)


# Records


def test_records(box: Container) -> None:
    _, changed = box.trace(put("1", "2", ids=["x", "y"], ttl=60))
    assert changed["list 1 0 a"] == [
        fresh(NOW, "1", recorded=True),
        fresh(NOW + 1, "2", recorded=True),
    ]
    assert changed["record x"] == {**RECORD, "priority": 0, "sequence": NOW}
    assert changed["record y"] == {**RECORD, "priority": 0, "sequence": NOW + 1}


def test_a_record_of_a_delayed_message(box: Container) -> None:
    _, changed = box.trace(put("1", ids=["x"], ttl=60, delay=5, priority=3))
    due = {"state": "delayed", "due": NOW + 5, "priority": 3, "sequence": -NOW}
    assert changed["record x"] == {**RECORD, **due}


@pytest.mark.parametrize("ids", [["x"], ["y", "x"], ["z", "z"]])
def test_an_id_that_is_taken(box: Container, ids: list[str]) -> None:
    box.run(put("1", ids=["x"], ttl=60))
    reply, changed = box.trace(put(item("2"), item(*ids, shard="b", group="new\0one", ids=ids)))
    assert reply == ids[-1].encode()
    assert changed == {}


def test_an_id_whose_record_expired_is_free(box: Container) -> None:
    box.run(put("1", ids=["x"], ttl=60))
    box.run(settle(*box.tokens(claim(1)), results=[]))
    box.run(put("2", "3", ids=["y", "z"], ttl=60))
    (token,) = box.tokens(claim(2))
    box.run(settle(token, {token - 2: ("discard", "y")}))
    box.now = NOW + 60
    _, changed = box.trace(put("4", ids=["y"], ttl=70))
    assert changed["record y"]["state"] == "waiting"
    assert box.run(put("5", ids=["z"], ttl=70)) == b"z"


# Repeats


def test_the_same_slot_with_another_number_is_another_call(box: Container) -> None:
    for number in (1, 2, 11):
        assert box.run(put("x"), slot="s", number=number) == 1
    assert box.dump()["count 1 put"] == 3
    assert box.run(put("x"), slot="s", number=11) == 1
    assert box.dump()["count 1 put"] == 3
    assert box.run(put("x"), slot="other", number=11) == 1
    assert box.dump()["count 1 put"] == 4


def test_a_call_that_later_ones_overtook_does_nothing(box: Container) -> None:
    box.run(put("x"), slot="s", number=11)
    before = box.dump()
    with pytest.raises(redis.ResponseError, match="overtaken"):
        box.run(put("x"), slot="s", number=2)
    assert box.dump() == before


# The largest


@pytest.mark.parametrize(
    ("policy", "more"),
    [
        ({}, {}),
        ({"concurrency": 1}, {"priority": 2}),
        ({"size": 9, "within": 9, "bytes_": 9}, {}),
        ({}, {"delay": 50}),
    ],
)
def test_ten_thousand_bodies(box: Container, policy: dict[str, int], more: dict[str, int]) -> None:
    box.run(declare(**policy))
    bodies = [b"%d" % number for number in range(10_000)]
    _, changed = box.trace(put(*bodies, **more))
    if "delay" in more:
        stored = [changed[f"due {NOW + number}"].entry for number in range(10_000)]
    else:
        stored = changed[f"list 1 {more.get('priority', 0)} a"]
    assert [entry.body for entry in stored] == bodies
    assert [entry.sequence for entry in stored] == [NOW + number for number in range(10_000)]


def test_ten_thousand_records(box: Container) -> None:
    ids = [f"id{number}" for number in range(10_000)]
    assert box.run(put(*ids, ids=ids, ttl=60)) == 1
    assert box.run(put("x", ids=["id9999"], ttl=60)) == b"id9999"


def test_ten_thousand_lanes(box: Container) -> None:
    shards = [f"s{number}" for number in range(10_000)]
    box.run(declare(concurrency=2, size=2, within=50))
    box.run(put(*(item("x", shard=shard) for shard in shards)))
    _, changed = box.trace(put(*(item("x", shard=shard) for shard in shards)))
    assert [changed[f"ready 1 {shard}"] for shard in shards] == [
        (0, turn + 1) for turn in range(10_000)
    ]
