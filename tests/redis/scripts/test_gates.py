"""gate.lua and park.lua, and what a gate lets through of puts and steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
import redis
from tests.redis.scripts.calls import (
    GROUP,
    call,
    claim,
    declare,
    item,
    put,
    settle,
)
from tests.redis.scripts.container import NOW, Container, Lane, Policy
from tests.redis.scripts.splits import (
    CLOSED,
    LEAVING,
    MOVES,
    STAYS,
    accept,
    export,
    gone,
    leave,
    newer,
    open_,
    part,
    take,
)

from taskyard.brokers.redis.calls import Call

DRAINS = [4, b"q"]


def gate(what: str, after: int = 0, *, queue: str = "q") -> Call:
    return call("gate", queue, what, after)


def park(shard: str = "a", group: str = GROUP) -> Call:
    return call("park", group, shard)


def claims(box: Container, **more: Any) -> list[Any]:
    return box.run(claim(**more))[4]  # type: ignore[no-any-return]


@contextmanager
def ears(box: Container, *names: str) -> Iterator[redis.client.PubSub]:
    """Sleepers that hear when they are woken."""
    with box.client.pubsub(ignore_subscribe_messages=True) as heard:
        for name in names:
            heard.subscribe(name)
            heard.get_message(timeout=10)
        yield heard


# gate


def test_a_queue_of_which_nothing_is_there(box: Container) -> None:
    assert box.trace(gate("paused")) == ([0, b"open"], {"gate q": "paused"})
    assert box.trace(gate("paused")) == ([0, b"paused"], {})
    assert box.trace(gate("draining")) == ([0, b"paused"], {"gate q": "draining"})
    assert box.trace(gate("open")) == ([0, b"draining"], {"gate q": None})
    assert box.trace(gate("open")) == ([0, b"open"], {})


def test_the_groups_of_the_queue_have_it(box: Container) -> None:
    box.run(declare(size=5, members=["x"]))
    box.run(put("1", group="q\0b"))
    box.run(put("1", group="qq\0t"))
    policy = Policy(GROUP, size=5, members=("x",), declared=True)
    _, changed = box.trace(gate("paused"))
    assert changed == {
        "gate q": "paused",
        "policy 1": policy._replace(gate="paused"),
        "policy 2": Policy("q\0b", gate="paused"),
    }
    _, changed = box.trace(gate("open"))
    assert changed == {"gate q": None, "policy 1": policy, "policy 2": Policy("q\0b")}


def test_groups_that_are_made_later_have_it(box: Container) -> None:
    box.run(gate("paused"))
    _, changed = box.trace(put("1"))
    assert changed["policy 1"] == Policy(GROUP, gate="paused")
    _, changed = box.trace(declare("q\0b", size=2))
    assert changed["policy 2"] == Policy("q\0b", 2, declared=True, gate="paused")


def test_it_is_kept_when_a_group_changes(box: Container) -> None:
    box.run(put("1"))
    box.run(gate("paused"))
    _, changed = box.trace(declare(size=7))
    assert changed["policy 1"] == Policy(GROUP, 7, declared=True, gate="paused")
    _, changed = box.trace(put("1", member="x"))
    assert changed["policy 1"].gate == "paused"


def test_many_groups_page_by_page(box: Container) -> None:
    for index in range(120):
        box.run(declare(f"q\0g{index}"))
        box.run(declare(f"r\0g{index}"))
    after, before = box.run(gate("draining"))
    assert (after, before) == (199, b"open")
    box.run(declare("q\0new"))  # in between
    assert box.run(gate("draining", after)) == [0, b"draining"]
    gates = [found.gate for path, found in box.dump().items() if path.startswith("policy ")]
    assert (gates.count("draining"), gates.count("open")) == (121, 120)


def test_many_groups_of_other_queues_are_passed_over(box: Container) -> None:
    for index in range(1010):
        box.run(put("x", group=f"r\0g{index}"))
    box.run(put("x"))
    after, _ = box.run(gate("paused"))
    assert after == 1000
    assert box.run(gate("paused", after)) == [0, b"paused"]
    assert box.dump()["policy 1011"].gate == "paused"


def test_a_page_that_is_repeated_says_the_same(box: Container) -> None:
    reply = box.run(gate("paused"), slot="s", number=3)
    assert reply == [0, b"open"]
    assert box.run(gate("paused"), slot="s", number=3) == reply
    box.run(gate("open"))
    assert box.run(gate("paused"), slot="s", number=3) == reply, "it is late"
    assert "gate q" not in box.dump()


# Who sleeps


def test_a_sleeper_waits_for_the_gate(box: Container) -> None:
    with ears(box, "ear") as heard:
        box.run(gate("paused"))
        _, changed = box.trace_once(claim(listener="ear"))
        assert changed["line 1 ear"] == 1, "it is registered"
        for put_one in (put("1"), put("2", delay=5)):
            assert not any("ear" in path for path in box.trace(put_one)[1])
        assert not any("ear" in path for path in box.trace(gate("paused"))[1])
        _, changed = box.trace(gate("open"))
        assert changed["line 1 ear"] is None
        assert heard.get_message(timeout=10)["channel"] == b"ear"


def test_a_sleeper_is_woken_for_what_became_due_behind_the_gate(box: Container) -> None:
    with ears(box, "ear"):
        box.run(gate("paused"))
        box.run(claim(listener="ear"))
        box.run(put("1", delay=5))
        box.now = NOW + 6
        _, changed = box.trace(gate("open"))
        assert changed["line 1 ear"] is None
        assert len(claims(box)) == 1


def test_a_sleeper_is_woken_to_drain(box: Container) -> None:
    box.run(declare(size=9, within=1000))
    box.run(put("1"))
    with ears(box, "ear"):
        box.run(claim(listener="ear"))
        assert not any("line" in path for path in box.trace(gate("paused"))[1])
        _, changed = box.trace(gate("draining"))
        assert changed["line 1 ear"] is None


def test_a_sleeper_is_woken_for_what_comes_back_while_it_drains(box: Container) -> None:
    box.run(declare(size=9, within=1000))
    box.run(put("1"))
    box.run(gate("draining"))
    with ears(box, "ear"):
        (token,) = box.tokens(claim())
        box.run(claim(listener="ear"))
        _, changed = box.trace(settle(token, {NOW: ("back", False, False)}))
        assert "filling 1 a" in changed
        assert changed["line 1 ear"] is None


def test_others_are_woken_beside_a_paused_queue(box: Container) -> None:
    box.run(gate("paused"))
    with ears(box, "ear"):
        box.run(claim(groups=[GROUP, "r\0t"], listener="ear"))
        _, changed = box.trace(put("1", group="r\0t"))
        assert changed["line 2 ear"] is None


def test_nobody_is_told_of_what_is_left_behind_the_gate(box: Container) -> None:
    box.run(put("1", "2", group="r\0t"))
    box.run(put("1"))
    box.run(gate("paused"))
    with ears(box, "ear"):
        box.run(claim(listener="ear"))
        _, changed = box.trace_once(claim(2, groups=[GROUP, "r\0t"], total=2))
        assert not any(path.endswith(" ear") for path in changed)


# step


def test_a_paused_queue_is_not_served(box: Container) -> None:
    box.run(put("1"))
    box.run(put("1", group="r\0t"))
    box.run(gate("paused"))
    found = claims(box, groups=[GROUP, "r\0t"], claims=9, drain=True)
    assert [taken[1] for taken in found] == [b"r\0t"]
    box.run(gate("open"))
    assert [taken[1] for taken in claims(box)] == [GROUP.encode()]


def test_claims_of_a_paused_queue_end(box: Container) -> None:
    box.run(declare(concurrency=1))
    box.run(put("1", "2"))
    (token,) = box.tokens(claim(1))
    box.run(gate("paused"))
    _, changed = box.trace(settle(token))
    assert changed["count 1 done"] == 1
    assert changed["ready 1 a"] == (0, 2)
    assert claims(box) == []


def test_batches_of_a_draining_queue_do_not_fill(box: Container) -> None:
    box.run(declare(size=9, within=1000))
    box.run(declare("r\0t", size=9, within=1000))
    box.run(put(item("1"), item("2", group="r\0t")))
    assert claims(box, groups=[GROUP, "r\0t"]) == []
    box.run(gate("draining"))
    (found,) = claims(box, groups=[GROUP, "r\0t"], claims=9)
    assert msgspec.msgpack.decode(found[3]) == [["a", "drain", 0, 1]]
    assert box.dump()["count 1 flush_drain"] == 1


# put


@pytest.mark.parametrize(
    "refused",
    [
        put("2"),  # into a lane that has some
        put("2", shard="new"),
        put("2", group="q\0new"),
        put("2", delay=5),
        put("2", ids=["x"], ttl=60),
        put(item("2", group="r\0t"), item("2")),
    ],
)
def test_a_draining_queue_takes_nothing(box: Container, refused: Call) -> None:
    box.run(put("1"))
    box.run(put("1", group="r\0t"))
    box.run(gate("draining"))
    assert box.trace(refused) == (DRAINS, {})
    box.run(gate("open"))
    assert box.run(refused) == 1


def test_a_draining_queue_takes_no_messages_but_calls_without(box: Container) -> None:
    box.run(gate("draining"))
    assert box.run(put(item(member="x"))) == 1


def test_a_put_that_was_stored_is_stored(box: Container) -> None:
    box.run(put("1"), slot="s", number=4)
    box.run(gate("draining"))
    assert box.run(put("1"), slot="s", number=4) == 1


def lot(number: int, *, for_good: bool = False) -> Call:
    head, bodies = item("1")
    source = ("in", number, 0, 10, *((True,) if for_good else ()))
    return call("put", msgspec.msgpack.encode([source, head]), *bodies)


def test_a_lot_comes_again(box: Container) -> None:
    box.run(lot(15))
    box.run(gate("draining"))
    assert box.trace(lot(15)) == (1, {}), "it was stored"
    assert box.trace(lot(16)) == (DRAINS, {})
    box.run(gate("open"))
    assert box.trace(lot(16))[1]["transfer in"] == b"16"


def test_a_lot_is_refused_for_good_if_it_wants_that(box: Container) -> None:
    box.run(gate("draining"))
    assert box.trace(lot(16, for_good=True)) == (DRAINS, {"transfer in": b"16!"})
    box.run(gate("open"))
    assert box.trace(lot(16, for_good=True)) == (DRAINS, {})
    assert box.trace(lot(15, for_good=True)) == (1, {}), "nobody waits for it"
    assert box.trace(lot(17, for_good=True))[1]["transfer in"] == b"17"
    assert box.run(call("forget", "in", 17)) == 1
    assert "transfer in" not in box.dump()


# park


def test_parking(box: Container) -> None:
    box.run(put("1"))
    assert box.trace(park()) == (
        1,
        {"lane 1 a": Lane(parked=True), "parked 1 a": True, "ready 1 a": None},
    )
    assert box.trace(park()) == (0, {})
    box.run(put("2"))
    assert claims(box) == []
    assert box.run(call("release", GROUP, "a")) == 1
    ((_, _, _, _, *entries),) = claims(box)
    assert [entry[9:] for entry in entries] == [b"1", b"2"]


def test_parking_what_is_empty_or_was_never_there(box: Container) -> None:
    _, changed = box.trace(park())
    assert changed == {
        "meta groups": 1,
        "name 1": GROUP,
        "policy 1": Policy(GROUP),
        "lane 1 a": Lane(parked=True),
        "parked 1 a": True,
    }
    _, changed = box.trace(put("1"))
    assert not any(path.startswith("ready") for path in changed)
    assert box.run(call("release", GROUP, "a")) == 1
    assert len(claims(box)) == 1


def test_parking_what_runs(box: Container) -> None:
    box.run(declare(concurrency=1))
    box.run(put("1", "2"))
    (token,) = box.tokens(claim(1))
    assert box.run(park()) == 1
    _, changed = box.trace(settle(token))
    assert changed["lane 1 a"] == Lane(parked=True)
    assert claims(box) == []


# Splits


def test_a_container_tells_its_gate(box: Container) -> None:
    box.run(put("1"))
    box.run(gate("paused"))
    policies = box.run(part())[3]
    assert msgspec.msgpack.decode(policies)[0] == "paused"
    found = box.dump()["policy 1"]
    assert (found.split[:2], found.gate) == ((2, LEAVING), "paused")
    box.run(gate("open"))
    assert box.dump()["policy 1"] == found._replace(gate="open")
    assert box.dump()["policy 1"].split == found.split


def test_a_container_that_joins_takes_over_the_gate(there: Container) -> None:
    there.run(claim(listener="ear"))  # who is early sleeps on what is not there yet
    policies = msgspec.msgpack.encode(("draining", [(GROUP, 1, 0, 0, 0, 3, [], False)]))
    _, changed = there.trace(accept(NOW, policies))
    assert changed["gate q"] == "draining"
    assert changed["policy 1"] == Policy(GROUP, split=(2, CLOSED, 2, 1), gate="draining")
    assert there.run(newer(put("1"))) == DRAINS
    there.run(gate("open"))
    assert there.trace(accept(NOW, policies)) == (1, {}), "it has joined"


def test_it_is_open_again_if_the_other_one_is(there: Container) -> None:
    there.run(gate("paused"))
    there.run(accept(NOW, msgspec.msgpack.encode(("open", []))))
    assert "gate q" not in there.dump()


def test_what_moves_is_let_into_a_draining_queue(box: Container, there: Container) -> None:
    box.run(put(item("1", shard=MOVES), item("2", shard=MOVES, delay=5)))
    box.run(gate("draining"))
    policies = leave(box)[3]
    there.run(accept(NOW, policies))
    there.run(call("import", "q", 10, take(box).packed))
    state = there.dump()
    assert (state["count 1 waiting"], state["count 1 delayed"]) == (1, 1)
    assert there.run(newer(put("3", shard=MOVES))) == DRAINS
    assert len(claims(there)) == 1


@pytest.mark.parametrize("early", [True, False])
def test_an_empty_shard_that_is_parked_leaves(box: Container, early: bool) -> None:
    box.run(declare(concurrency=1))
    if early:
        box.run(park(MOVES))
        box.run(park(STAYS))
    leave(box)
    if not early:
        assert box.run(park(MOVES)) == 1
        assert box.run(park(STAYS)) == 1
    assert box.dump()["moving 1 a"] is True
    assert box.run(gone(MOVES)) == [], "where it goes to, nobody knows yet that it is parked"
    transfer = take(box)
    assert transfer.count == 1
    state = box.dump()
    assert "parked 1 a" not in state
    assert state["slot q"][1] == [("s", GROUP, MOVES, True, 0)]
    assert "parked 1 e" in state
    box.run(call("cleared", "q", transfer.number))
    assert box.run(gone(MOVES)) == [MOVES.encode()]
    assert box.run(export()) == [0]
    before = box.dump()
    assert box.run(park(MOVES)) == 2, "it is elsewhere"
    assert box.dump() == before


def test_a_shard_is_parked_where_it_goes_to(there: Container) -> None:
    policies = msgspec.msgpack.encode(("open", [(GROUP, 1, 0, 0, 1, 3, [], True)]))
    there.run(accept(NOW, policies))
    assert there.run(park(MOVES)) == 1
    there.run(newer(put("1", shard=MOVES)))
    there.run(open_(MOVES))
    assert claims(there) == []
    assert there.run(call("release", GROUP, MOVES)) == 1
    assert len(claims(there)) == 1
