"""export.lua, import.lua, cleared.lua: messages on their way from one container to another."""

from __future__ import annotations

from typing import Any

import pytest
from tests.redis.scripts.calls import (
    GROUP,
    call,
    claim,
    declare,
    envelope,
    item,
    put,
    settle,
)
from tests.redis.scripts.container import (
    NOW,
    Container,
    Due,
    Entry,
    Lane,
    State,
    fresh,
    read_transfer,
)
from tests.redis.scripts.splits import (
    LEAVING,
    MOVES,
    SETTLED,
    STAYS,
    Transfer,
    accept,
    cleared,
    export,
    fill,
    give,
    gone,
    import_,
    leave,
    newer,
    part,
    sift_all,
    take,
)

FAILURE = b"\xa3why"
TTL = 5000


def things(transfer: Transfer) -> list[tuple[Any, ...]]:
    number, found = read_transfer(transfer.packed)
    assert (number, len(found)) == (transfer.number, transfer.count)
    return found


def bodies(transfer: Transfer) -> list[bytes]:
    return [thing[4].body for thing in things(transfer)]


def settled(box: Container, claims: int = 1, **outcomes: Any) -> None:
    """Claim once and end it so; `outcomes`: by the text of their messages."""
    (token,) = box.tokens(claim(100, claims=claims))
    held = box.dump()[f"held {token}"].entries
    ends = {entry.sequence: outcomes[entry.body.decode()] for entry in held}
    box.run(settle(token, ends, FAILURE))


def accepted(there: Container, here: Container) -> None:
    """Let lanes leave one for the other."""
    floor, _, _, policies = leave(here)
    there.run(accept(floor, policies))


def sent(here: Container, there: Container, things: int = 100) -> State:
    """Move some; returns what it changed there."""
    transfer = take(here, things)
    changed = give(there, transfer)
    assert here.run(cleared(transfer.number)) == 1
    return changed


# export: when there is nothing to take


@pytest.mark.parametrize("epoch", [1, 3])
def test_who_speaks_of_another_split_gets_nothing(box: Container, epoch: int) -> None:
    fill(box, MOVES)
    leave(box)
    assert box.trace(export(epoch=epoch)) == ([0], {})
    transfer = take(box)
    assert box.trace(export(epoch=epoch)) == ([0], {})
    assert box.run(export())[1] == transfer.number


def test_one_that_does_not_part_has_nothing(box: Container, there: Container) -> None:
    fill(box, MOVES)
    assert box.trace(export()) == ([0], {})
    accepted(there, box)
    assert there.trace(export()) == ([0], {})


def test_nothing_is_over_before_all_is_known(box: Container) -> None:
    fill(box, STAYS)
    box.run(part())
    assert box.run(export()) == [2, 0]
    assert box.dump()["epoch q"][1] == LEAVING
    sift_all(box)
    assert box.run(export()) == [0]
    assert box.dump()["epoch q"] == (2, SETTLED, 2, 0, True)
    assert box.trace(export()) == ([0], {})


def test_what_is_not_known_yet_does_not_leave(box: Container) -> None:
    fill(box, MOVES)
    box.run(part())
    assert box.run(export()) == [2, 0]
    sift_all(box)
    assert box.run(export())[0] == 1


@pytest.mark.parametrize("concurrency", [0, 1])
def test_open_claims_of_what_leaves_are_waited_for(box: Container, concurrency: int) -> None:
    box.run(declare(concurrency=concurrency))
    fill(box, MOVES + STAYS + "c")  # two of them leave
    box.run(declare("r\0t"))
    box.run(put("other's", shard=MOVES, group="r\0t"))
    box.run(claim(groups=["r\0t"]))
    tokens = box.tokens(claim(1, claims=3, total=3))
    leave(box)
    left = {box.dump()[f"held {token}"].parts[0][0]: token for token in tokens}
    assert box.run(export()) == [2, 2]
    box.run(settle(left[STAYS]))
    assert box.run(export()) == [2, 2]
    box.run(settle(left["c"]))
    assert box.run(export()) == [2, 1]
    box.run(settle(left[MOVES]))
    assert box.run(export()) == [0]
    assert box.run(export()) == [0]


def test_dead_letters_alone_are_something(box: Container) -> None:
    fill(box, MOVES)
    settled(box, a0=("dead", 5, "", "", True))
    leave(box)
    assert box.run(export(0)) == [2, 0]
    [(kind, *_)] = things(take(box))
    assert kind == "x"


# export: what it takes


def test_the_tail_of_a_lane_leaves_first(box: Container) -> None:
    fill(box, MOVES, 5)
    fill(box, STAYS)
    leave(box)
    _, changed = box.trace(export(2))
    assert changed == {
        "list 1 0 a": [fresh(NOW + number, f"a{number}") for number in range(3)],
        "meta sequence": NOW + 6,
        "slot q": (
            NOW + 6,
            [("m", GROUP, "a", 0, fresh(NOW + number, f"a{number}"), None) for number in (4, 3)],
        ),
    }


def test_it_is_the_same_until_it_is_cleared(box: Container) -> None:
    fill(box, MOVES, 5)
    leave(box)
    first = box.run(export(2))
    for limits in ((2, 1 << 20), (100, 1), (0, 0)):
        assert box.trace(export(*limits)) == (first, {})
    box.run(cleared(first[1]))
    later = take(box)
    assert later.number > first[1]
    assert bodies(later) == [b"a2", b"a1", b"a0"]


@pytest.mark.parametrize(("most_bytes", "number"), [(1, 1), (19, 1), (20, 2), (38, 2), (39, 3)])
def test_enough_bytes_end_it(box: Container, most_bytes: int, number: int) -> None:
    box.run(put(*(b"x" * 10 for _ in range(9)), shard=MOVES))
    leave(box)
    # An entry has nine bytes more than its body.
    assert take(box, most_bytes=most_bytes).count == number


@pytest.mark.parametrize("most", [(0, 1 << 20), (100, 0), (-1, -1)])
def test_room_for_nothing(box: Container, most: tuple[int, int]) -> None:
    fill(box, MOVES)
    leave(box)
    assert box.run(export(*most)) == [2, 0]
    assert "moving 1 a" in box.dump()


def test_numbers_rise_though_a_server_forgot_the_last(box: Container) -> None:
    fill(box, MOVES, 3)
    leave(box)
    first = take(box, 1)
    box.run(cleared(first.number))
    box.client.delete(f"{box.key}:meta")
    box.now = NOW + 1000
    assert take(box, 1).number > first.number


def test_the_priority_that_runs_last_leaves_first(box: Container) -> None:
    for priority in (1, -1, 0):
        box.run(put(f"at {priority}", shard=MOVES, priority=priority))
    leave(box)
    found = [take(box, 1)]
    assert box.dump()["lane 1 a"].priorities == (-1, 0)
    box.run(cleared(found[0].number))
    found.append(take(box))
    assert [body for some in found for body in bodies(some)] == [b"at 1", b"at 0", b"at -1"]


def test_what_came_back_leaves_in_its_place(box: Container) -> None:
    fill(box, MOVES, 3)
    settled(box, a0=("back", True, False), a1=("back", False, False), a2=("back", True, False))
    box.run(put("a3", shard=MOVES))
    leave(box)
    taken = take(box)
    assert bodies(taken) == [b"a3", b"a2", b"a1", b"a0"]
    assert [thing[4].deliveries for thing in things(taken)] == [0, 1, 0, 1]
    assert not any(path.startswith(("lane", "back", "list")) for path in box.dump())


@pytest.mark.parametrize("how", ["parked", "blocked"])
def test_what_holds_up_a_lane_leaves_with_its_last_message(box: Container, how: str) -> None:
    box.run(declare(concurrency=1))
    fill(box, MOVES, 2)
    end = ("back", True, True) if how == "parked" else ("retried", 500, "")
    settled(box, a0=end, a1=("back", False, False))
    leave(box)
    first = take(box, 1)
    assert [thing[0] for thing in things(first)] == ["m"]
    assert bodies(first) == [b"a1"]
    box.run(cleared(first.number))
    *_, last = things(take(box, 1))
    assert last == ("s", GROUP, "a", how == "parked", 0 if how == "parked" else NOW + 500)
    assert not any(path.startswith(("lane", "parked", "later")) for path in box.dump())


def test_delayed_messages_leave(box: Container) -> None:
    for shard in (MOVES, STAYS):
        box.run(put(item("late", shard=shard, priority=3, delay=90)))
    leave(box)
    _, changed = box.trace(export())
    entry = fresh(NOW, "late")
    assert changed["slot q"][1] == [("d", GROUP, "a", 3, entry, None, NOW + 90)]
    assert changed[f"away {NOW}"] is None
    assert box.dump()[f"due {NOW + 1}"].shard == STAYS


def test_what_becomes_due_meanwhile_is_set_aside(box: Container) -> None:
    box.run(put(item("late", shard=MOVES, delay=90)))
    box.run(part())
    box.now = NOW + 100
    (_, _, _, _, claims, moved), changed = box.trace(claim())
    assert (claims, moved) == ([], 1)
    assert changed[f"away {NOW}"] == Due(NOW + 100, 1, 0, "a", fresh(NOW, "late"))
    assert changed[f"due {NOW}"] is None


def test_dead_letters_leave_with_their_records(box: Container) -> None:
    box.run(put(envelope("x"), shard=MOVES, ids=["x"], ttl=TTL))
    (token,) = box.tokens(claim())
    box.run(settle(token, {NOW: ("dead", 5, "x", "said", True)}, FAILURE))
    leave(box)
    before = box.dump()
    _, changed = box.trace(export())
    letter = before["letter 1"]
    [thing] = changed["slot q"][1]
    assert thing == ("x", GROUP, letter, before["record x"])
    assert changed["letter 1"] is changed["dead 1 1"] is changed["leaving 1 1"] is None


def test_a_record_is_that_of_a_message_elsewhere(box: Container) -> None:
    box.run(put(envelope("x"), shard=MOVES, ids=["x"], ttl=TTL))
    leave(box)
    before = box.dump()["record x"]
    _, changed = box.trace(export())
    assert before["sequence"] == NOW
    assert changed["record x"] == {**before, "sequence": 0}
    assert changed["slot q"][1][0][5] == before


# import


def test_messages_arrive(box: Container, there: Container) -> None:
    fill(box, MOVES, 3)
    accepted(there, box)
    transfer = take(box)
    changed = give(there, transfer)
    assert changed == {
        "count 1 lanes": 1,
        "count 1 waiting": 3,
        "imported q": transfer.number,
        "list 1 0 a": [fresh(NOW + number, f"a{number}") for number in range(3)],
        "meta turn": 1,
        "ready 1 a": (0, 1),
    }


def test_they_arrive_once(box: Container, there: Container) -> None:
    fill(box, MOVES, 3)
    accepted(there, box)
    early = take(box, 1)
    give(there, early)
    box.run(cleared(early.number))
    late = take(box)
    give(there, late)
    for transfer in (early, late):
        assert there.trace(import_(transfer.packed)) == (1, {})
    assert there.dump()["imported q"] == late.number


def test_the_head_arrives_in_front_of_the_tail_and_of_what_was_put(
    box: Container, there: Container
) -> None:
    fill(box, MOVES, 4)
    accepted(there, box)
    there.run(newer(put("new", shard=MOVES)))
    for _ in range(4):
        sent(box, there, 1)
    found = there.dump()["list 1 0 a"]
    assert [entry.body for entry in found] == [b"a0", b"a1", b"a2", b"a3", b"new"]
    assert [entry.sequence for entry in found] == sorted(entry.sequence for entry in found)


def test_what_is_older_than_the_head_or_was_lost_comes_back(
    box: Container, there: Container
) -> None:
    fill(box, MOVES, 3)
    box.run(claim(2, lease=50))
    box.now = NOW + 100
    box.run(call("reap", 10))
    accepted(there, box)
    sent(box, there)
    state = there.dump()
    assert [entry.body for entry in state["list 1 0 a"]] == [b"a2"]
    assert state["back 1 0 a"] == [
        Entry(NOW + number, NOW + number, 1, 0, 1, 1, False, b"a%d" % number) for number in (0, 1)
    ]
    claims = there.run(claim(1))[4]
    assert claims[0][4].endswith(b"a0")


def test_what_is_newer_than_the_head_finds_its_place(box: Container, there: Container) -> None:
    fill(box, MOVES, 2)
    accepted(there, box)
    tail = take(box, 1)
    box.run(cleared(tail.number))
    head = take(box, 1)
    there.run(import_(head.packed))
    assert there.run(import_(tail.packed)) == 1  # whose number is lower: it was there before
    assert [entry.body for entry in there.dump()["list 1 0 a"]] == [b"a0"]


def test_a_lane_arrives_parked_and_blocked(box: Container, there: Container) -> None:
    box.run(declare(size=2, concurrency=1))
    fill(box, MOVES, 2)
    settled(box, a0=("back", True, True), a1=("retried", 500, ""))
    accepted(there, box)
    changed = sent(box, there)
    assert changed["parked 1 a"] is True
    assert changed["lane 1 a"] == Lane(blocked=NOW + 500, parked=True)
    assert changed["closed 1 a"] is True


def test_delayed_messages_arrive(box: Container, there: Container) -> None:
    box.run(put(envelope("x"), shard=MOVES, priority=3, delay=90, ids=["x"], ttl=TTL))
    accepted(there, box)
    changed = sent(box, there)
    entry = fresh(NOW, envelope("x"), recorded=True)
    assert changed[f"due {NOW}"] == Due(NOW + 90, 1, 3, "a", entry)
    assert changed["record x"]["state"] == "delayed"
    assert changed["record x"]["sequence"] == -NOW
    assert changed["count 1 delayed"] == 1
    there.now = NOW + 100
    assert len(there.run(claim())[4]) == 1


def test_dead_letters_arrive_under_numbers_of_their_own(box: Container, there: Container) -> None:
    box.run(put("r", group="r\0other"))  # so that gids differ
    box.run(put(envelope("x"), shard=MOVES, ids=["x"], ttl=TTL))
    (token,) = box.tokens(claim())
    box.run(settle(token, {NOW + 1: ("dead", 5, "x", "said", True)}, FAILURE))
    accepted(there, box)
    there.client.hset(f"{there.key}:meta", "dead", 7)
    letter, record = box.dump()["letter 1"], box.dump()["record x"]
    changed = sent(box, there)
    assert letter.gid == 2
    assert changed["letter 8"] == letter._replace(gid=1)
    assert changed["dead 1 8"] is True
    assert changed["record x"] == {**record, "gid": 1, "sequence": 0}
    assert "count 1 dead" not in changed  # it was counted when it died


def test_more_dead_letters_than_are_kept(box: Container, there: Container) -> None:
    fill(box, MOVES, 4)
    settled(box, **{f"a{number}": ("dead", 5, "", "", True) for number in range(4)})
    accepted(there, box)
    changed = give(there, take(box), limit=3)
    assert changed["count 1 dead_dropped"] == 1
    assert {path for path in changed if path.startswith("letter")} == {
        "letter 2",
        "letter 3",
        "letter 4",
    }


@pytest.mark.parametrize("ended", [False, True])
def test_a_record_that_is_there_already_stays(
    box: Container, there: Container, ended: bool
) -> None:
    box.run(put(envelope("x"), shard=MOVES, ids=["x"], ttl=TTL))
    accepted(there, box)
    there.run(newer(put(envelope("x"), shard="c", ids=["x"], ttl=9)))
    if ended:
        (token,) = there.tokens(claim())
        there.run(settle(token, None, b"1", results=[("x", 5)]))
        there.now = NOW + 10  # it has expired
    changed = sent(box, there)
    assert ("record x" in changed) is ended


def test_records_say_where_their_messages_are(box: Container, there: Container) -> None:
    box.run(put("r", group="r\0other"))
    box.run(put(envelope("x"), shard=MOVES, ids=["x"], ttl=TTL))
    accepted(there, box)
    before = box.dump()["record x"]
    assert sent(box, there)["record x"] == {**before, "gid": 1}
    assert before["gid"] == 2


def test_a_group_that_was_declared_meanwhile_is_made(box: Container, there: Container) -> None:
    accepted(there, box)
    box.run(newer(put("1", shard=MOVES)))
    changed = sent(box, there)
    assert changed["name 1"] == GROUP
    assert changed["policy 1"].split == (2, 2, 2, 1)


def test_who_sleeps_there_is_woken(box: Container, there: Container) -> None:
    fill(box, MOVES)
    accepted(there, box)
    with there.client.pubsub(ignore_subscribe_messages=True) as ears:
        ears.subscribe("ear")
        ears.get_message(timeout=10)
        there.run(claim(listener="ear"))
        sent(box, there)
        assert ears.get_message(timeout=10)["channel"] == b"ear"


# cleared


@pytest.mark.parametrize("by", [-1, 1])
def test_another_transfer_is_not_cleared(box: Container, by: int) -> None:
    fill(box, MOVES)
    leave(box)
    assert box.trace(cleared(NOW)) == (1, {})
    transfer = take(box)
    assert box.trace(cleared(transfer.number + by)) == (1, {})


def test_what_left_counts_until_it_arrived(box: Container) -> None:
    fill(box, MOVES, 2)
    box.run(put(item("late", shard=MOVES, delay=90)))
    leave(box)
    transfer = take(box)
    state = box.dump()
    assert (state["count 1 waiting"], state["count 1 delayed"]) == (2, 1)
    reply, changed = box.trace(cleared(transfer.number))
    assert reply == 1
    assert changed == {"count 1 delayed": None, "count 1 waiting": None, "slot q": None}


def test_records_are_dropped_and_who_waits_looks_again(box: Container) -> None:
    for name in ("x", "y", "z"):
        box.run(put(envelope(name), shard=MOVES, ids=[name], ttl=TTL))
    box.run(put(envelope("late"), shard=MOVES, ids=["late"], ttl=TTL, delay=90))
    (token,) = box.tokens(claim(1))
    box.run(settle(token, {NOW: ("dead", 5, "x", "", True)}, FAILURE))
    leave(box)
    with box.client.pubsub(ignore_subscribe_messages=True) as ears:
        ears.subscribe("ear")
        ears.get_message(timeout=10)
        box.run(call("records", "ear", "y"))
        _, changed = box.trace(cleared(take(box).number))
        assert ears.get_message(timeout=10)["channel"] == b"ear"
    dropped = {"record x", "record y", "record z", "record late"}
    assert dropped == {path for path in changed if path.startswith("record")}
    assert all(changed[name] is None for name in dropped)


# All together


def test_everything_moves_a_thing_at_a_time(box: Container, there: Container) -> None:
    box.run(declare(size=3, concurrency=1))
    for shard in (MOVES, STAYS, "c"):
        box.run(put(*(envelope(f"{shard}{n}") for n in range(3)), shard=shard))
        box.run(put(envelope(f"{shard} late"), shard=shard, delay=90))
    (token,) = box.tokens(claim(1))
    box.run(settle(token, {NOW: ("dead", 5, "", "", True)}, FAILURE))
    accepted(there, box)
    moved = 0
    while (reply := box.run(export(1)))[0] == 1:
        _, number, count, packed = reply
        give(there, Transfer(number, count, packed))
        box.trace(cleared(number))
        moved += count
    assert reply == [0]
    assert moved == 8
    names = {path.split()[-1] for path in box.dump() if path.startswith(("list", "ready"))}
    assert names == {STAYS}
    assert box.run(gone(MOVES, "c")) == [b"a", b"c"]
    state = there.dump()
    assert (state["count 1 waiting"], state["count 1 delayed"]) == (5, 2)
    assert {path for path in state if path.startswith("closed")} == {"closed 1 a", "closed 1 c"}
