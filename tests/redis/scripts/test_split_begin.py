"""part.lua, accept.lua, sift.lua: both containers learn of a split, one finds out what leaves."""

from __future__ import annotations

from typing import Any
from zlib import crc32

import msgspec
import pytest
from tests.redis.scripts.calls import GROUP, call, claim, declare, item, put, settle
from tests.redis.scripts.container import NOW, Container, Policy
from tests.redis.scripts.splits import (
    CLOSED,
    LEAVING,
    MOVES,
    SETTLED,
    STAYS,
    accept,
    export,
    fill,
    leave,
    newer,
    part,
    sift,
    sift_all,
)

MOVED, TRY_AGAIN = 2, 3
FAILURE = b"\xa3why"
ORDERED = (GROUP, 5, 0, 900, 1, 4, ["x", "y"], True)
PLAIN = ("q\0plain", 1, 0, 0, 0, 3, [], False)


def packed(*policies: Any, gate: str = "open") -> bytes:
    return msgspec.msgpack.encode((gate, policies))


def bury(box: Container, shard: str, group: str = GROUP) -> None:
    """Make a dead letter."""
    box.run(put(f"{shard} dead", shard=shard, group=group))
    (token,) = box.tokens(claim(groups=[group]))
    box.run(settle(token, {box.now: ("dead", 5, "", "", True)}, FAILURE))  # type: ignore[dict-item]


# part


def test_a_container_of_nothing_parts(box: Container) -> None:
    reply, changed = box.trace(part())
    assert reply == [0, 1, 0, packed()]
    assert changed == {"epoch q": (2, LEAVING, 2, 0, False)}


def test_it_tells_its_last_sequence_and_the_policies_of_the_queue(box: Container) -> None:
    box.run(declare(size=5, bytes_=900, concurrency=1, max_deliveries=4, members=["x", "y"]))
    box.run(declare("r\0t", concurrency=3))
    box.run(put("1", "2", group=PLAIN[0]))
    (sequence, leaves, sifted, policies), changed = box.trace(part())
    assert (sequence, leaves, sifted) == (NOW + 1, 1, 0)
    assert msgspec.msgpack.decode(policies) == ["open", [[*ORDERED], [*PLAIN]]]
    split = (2, LEAVING, 2, 0)
    assert changed == {
        "epoch q": (*split, False),
        "policy 1": Policy(GROUP, 5, 0, 900, 1, 4, ("x", "y"), True, split),
        "policy 3": Policy(PLAIN[0], split=split),
    }


def test_it_tells_how_long_batches_wait(box: Container, there: Container) -> None:
    box.run(declare(size=5, within=70, minimum=3, lead=20))
    (_, _, _, policies), _ = box.trace(part())
    _, changed = there.trace(accept(NOW, policies))
    policy = changed["policy 1"]
    assert (policy.within, policy.rates, policy.minimum, policy.lead) == (70, (), 3, 20)


def test_it_parts_once(box: Container) -> None:
    fill(box, MOVES)
    reply = box.run(part())
    assert box.trace(part()) == (reply, {})
    sift_all(box)
    assert box.trace(part()) == ([reply[0], 1, 1, reply[3]], {})


def test_who_speaks_of_an_older_split_hears_that_nothing_leaves(box: Container) -> None:
    fill(box, MOVES)
    box.run(part(epoch=3, partitions=4))
    (_, leaves, _, _), changed = box.trace(part(epoch=2))
    assert (leaves, changed) == (0, {})


def test_one_that_is_through_says_so(box: Container) -> None:
    fill(box, STAYS)
    leave(box)
    assert box.run(export()) == [0]
    (_, leaves, sifted, _), changed = box.trace(part())
    assert (leaves, sifted, changed) == (0, 1, {})


def test_a_later_split_begins_anew(box: Container) -> None:
    fill(box, STAYS)
    leave(box)
    box.run(export())
    (_, leaves, sifted, _), changed = box.trace(part(epoch=3, partitions=4, index=0))
    assert (leaves, sifted) == (1, 0)
    assert changed["epoch q"] == (3, LEAVING, 4, 0, False)


def test_it_refuses_puts_of_those_who_do_not_know(box: Container) -> None:
    fill(box, STAYS)
    box.run(part())
    assert box.trace(put("1", shard=STAYS)) == (MOVED, {})
    assert box.trace(put("1", shard=STAYS, group="q\0new")) == (MOVED, {})
    assert box.trace(newer(put("1", shard=STAYS), 3)) == (TRY_AGAIN, {})
    assert box.trace(newer(put("1", shard=STAYS)))[0] == 1
    assert box.trace(put("1", group="r\0other"))[0] == 1


def test_it_wakes_who_sleeps_at_the_queue(box: Container) -> None:
    with box.client.pubsub(ignore_subscribe_messages=True) as ears:
        for name in ("one", "two", "other"):
            ears.subscribe(name)
            ears.get_message(timeout=10)
        box.run(declare())
        box.run(declare("r\0t"))
        box.run(claim(listener="one"))
        box.run(claim(listener="two", groups=[GROUP, "r\0t"]))
        box.run(claim(listener="other", groups=["r\0t"]))
        _, changed = box.trace(part())
        assert {name for name in changed if name.startswith("line")} == {
            "line 1 one",
            "line 1 two",
            "line 2 two",
        }
        heard = [ears.get_message(timeout=10)["channel"] for _ in range(2)]
        box.run(part())
        box.client.publish("other", "")  # nothing was said to it, nor twice to anybody
        assert sorted(heard) == [b"one", b"two"]
        assert ears.get_message(timeout=10)["channel"] == b"other"


# accept


def test_a_new_container(there: Container) -> None:
    reply, changed = there.trace(accept(NOW + 7, packed(ORDERED, PLAIN)))
    split = (2, CLOSED, 2, 1)
    assert reply == 1
    assert changed == {
        "epoch q": split,
        "meta groups": 2,
        "meta sequence": NOW + 7,
        "meta turn": 0,
        "name 1": GROUP,
        "name 2": PLAIN[0],
        "policy 1": Policy(GROUP, 5, 0, 900, 1, 4, ("x", "y"), True, split),
        "policy 2": Policy(PLAIN[0], split=split),
    }


def test_all_that_is_put_there_is_later(there: Container) -> None:
    there.run(accept(NOW + 7, packed(ORDERED)))
    there.run(newer(put("1", "2", shard=MOVES)))
    entries = there.dump()["list 1 0 a"]
    assert [entry.sequence for entry in entries] == [NOW + 8, NOW + 9]


def test_its_own_sequence_does_not_fall(there: Container) -> None:
    there.now = NOW + 100
    there.run(put("1", group="r\0t"))
    _, changed = there.trace(accept(NOW, packed(ORDERED)))
    assert "meta sequence" not in changed


def test_it_accepts_once(there: Container) -> None:
    there.run(accept(NOW, packed(PLAIN)))
    assert there.trace(accept(NOW + 9, packed(ORDERED))) == (1, {})
    assert there.run(call("open", "q", 2, "")) == 0
    assert there.dump()["epoch q"][1] == SETTLED
    for epoch in (1, 2):
        assert there.trace(accept(NOW + 9, packed(ORDERED), epoch)) == (1, {})


def test_a_later_split_closes_it_again(there: Container) -> None:
    there.run(accept(NOW, packed(ORDERED)))
    there.run(call("open", "q", 2, ""))
    _, changed = there.trace(accept(NOW, packed(ORDERED), 3, 4, 3))
    assert changed["epoch q"] == (3, CLOSED, 4, 3)


def test_lanes_with_a_limit_are_closed_there(there: Container) -> None:
    there.run(accept(NOW, packed(ORDERED, PLAIN)))
    _, changed = there.trace(newer(put("1", shard=MOVES)))
    assert changed["closed 1 a"] is True
    assert "ready 1 a" not in changed
    _, changed = there.trace(newer(put("2", shard=MOVES, group=PLAIN[0])))
    assert changed["ready 2 a"] == (0, 1)
    claims = there.run(claim(groups=[GROUP, PLAIN[0]], members=["x", "y"], claims=9))[4]
    assert [taken[1] for taken in claims] == [PLAIN[0].encode()]


# sift


def test_there_is_nothing_to_sift(box: Container) -> None:
    assert box.trace(sift()) == (b"", {})
    fill(box, MOVES)
    assert box.trace(sift()) == (b"", {})  # it is not split


@pytest.mark.parametrize("epoch", [1, 3])
def test_another_split_is_not_sifted(box: Container, epoch: int) -> None:
    fill(box, MOVES)
    box.run(part())
    assert box.trace(sift(epoch=epoch)) == (b"", {})


def test_one_that_is_new_or_through_is_not_sifted(box: Container, there: Container) -> None:
    there.run(accept(NOW, packed(ORDERED)))
    assert there.trace(sift()) == (b"", {})
    leave(box)
    box.run(export())
    assert box.trace(sift()) == (b"", {})


def test_all_that_leaves_is_noted(box: Container) -> None:
    box.run(declare())
    box.run(declare("r\0t"))
    for shard in (MOVES, STAYS):
        bury(box, shard)
        box.now += 10  # type: ignore[operator]
    bury(box, MOVES, "r\0t")
    for shard in (MOVES, STAYS):
        box.run(put(item("late", shard=shard, delay=90), item("later", shard=shard, delay=95)))
        box.run(put("ready", shard=shard))
        box.run(put("other's", shard=shard, group="r\0t"))
        box.run(put(item("other's", shard=shard, group="r\0t", delay=90)))
    box.run(part())
    before = box.dump()
    sift_all(box)
    after = box.dump()
    changed = {path: after.get(path) for path in {*before, *after}}
    changed = {path: value for path, value in changed.items() if value != before.get(path)}
    late = {path.partition(" ")[2] for path in changed if path.startswith("away")}
    assert {before[f"due {sequence}"].entry.body for sequence in late} == {b"late", b"later"}
    assert changed == {
        "moving 1 a": True,
        "leaving 1 1": True,
        "epoch q": (2, LEAVING, 2, 0, True),
        **{f"due {sequence}": None for sequence in late},
        **{f"away {sequence}": before[f"due {sequence}"] for sequence in late},
    }


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("how", ["parked", "blocked", ""])
def test_what_holds_up_a_lane_stays_while_a_claim_is_open(
    box: Container, how: str, held: bool
) -> None:
    box.run(declare(size=2, concurrency=1))
    fill(box, MOVES, 3)
    (token,) = box.tokens(claim(2))
    outcome = {"parked": ("back", True, True), "blocked": ("retried", 500, "")}.get(how)
    kept = [NOW + 1] if held else []
    box.run(settle(token, {NOW: outcome} if outcome else None, keep=kept))
    leave(box)
    assert ("moving 1 a" in box.dump()) is (not held or not how)
    if held:
        box.trace(settle(token))
        assert box.dump()["moving 1 a"] is True


def test_a_page_at_a_time(box: Container) -> None:
    fill(box, [str(number) for number in range(700)])
    box.run(part())
    cursors: list[bytes] = [b""]
    while not cursors[1:] or cursors[-1]:
        before = box.dump()
        cursors.append(box.run(sift(cursors[-1], size=50)))
        noted = {path for path in box.dump() if path.startswith("moving")}
        state = box.dump()
        box.run(sift(cursors[-2], size=50))  # once more
        assert box.dump() == state
        assert len(noted) - sum(path.startswith("moving") for path in before) < 200
    assert len(cursors) > 10
    box.run(part(epoch=2))
    assert sum(path.startswith("moving") for path in box.dump()) == sum(
        _leaves(str(number)) for number in range(700)
    )


def _leaves(shard: str) -> bool:
    return crc32(shard.encode()) % 2 == 1


def test_what_is_put_meanwhile_is_noted_anyway(box: Container) -> None:
    fill(box, STAYS)
    box.run(part())
    box.run(newer(put("1", shard=MOVES)))
    assert box.dump()["moving 1 a"] is True
    sift_all(box)
    assert box.dump()["epoch q"][4] is True


# Those who work


@pytest.mark.parametrize("listener", ["", "ear"])
def test_a_worker_that_does_not_know_is_told_again_and_again(box: Container, listener: str) -> None:
    fill(box, STAYS)
    box.run(part())
    for _ in range(2):
        # (Also when its call is repeated: it would sleep on, where nobody wakes it.)
        reply, _ = box.trace(claim(listener=listener))
        assert reply[5:] == [1]
