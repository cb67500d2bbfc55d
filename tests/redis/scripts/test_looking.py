"""counts.lua, lanes.lua, oldest.lua and places.lua."""

from __future__ import annotations

from typing import Any

import pytest
from tests.redis.scripts.calls import GROUP, call, claim, dead, declare, item, put, settle
from tests.redis.scripts.container import NOW, Container

from taskyard.brokers.redis.calls import Call

# counts


def counted(reply: list[Any]) -> dict[bytes, Any]:
    """By group: declared, dead, parked, some parked shards, counters; not what follows."""
    return {
        key: (
            declared,
            dead,
            parked,
            sorted(shards),
            {
                name.decode(): int(number)
                for name, number in zip(pairs[::2], pairs[1::2], strict=True)
                if int(number)
            },
        )
        for key, declared, dead, parked, shards, pairs, *_ in reply[1:]
    }


def counts(after: int = 0) -> Call:
    return call("counts", after)


def test_no_groups(box: Container) -> None:
    assert box.trace(counts()) == ([0], {})


def test_all_numbers(box: Container) -> None:
    box.run(declare("q\0b", size=2))
    box.run(put("1", "2", "3"))
    box.run(put("4", delay=50))
    (token,) = box.tokens(claim(2))
    box.run(settle(token, {NOW: ("dead", 5, "", "", True), NOW + 1: ("back", False, True)}, b""))
    reply, changed = box.trace(counts())
    assert changed == {}
    assert reply[0] == 0
    assert counted(reply) == {
        b"q\0t": (0, 1, 1, [b"a"], {"put": 4, "waiting": 2, "delayed": 1, "dead": 1, "lanes": 1}),
        b"q\0b": (1, 0, 0, [], {}),
    }


def test_memory_grows_and_shrinks_with_what_is_there(box: Container) -> None:
    def usage() -> int:
        _, (*_, memory, _, _) = box.trace(counts())[0]
        assert isinstance(memory, int)
        return memory

    box.run(declare())
    assert usage() == 0
    box.run(put(*("x" * 1000 for _ in range(100))))
    assert 100_000 < usage() < 150_000
    box.run(put("x" * 100_000, delay=50))
    assert 200_000 < usage() < 300_000
    box.run(claim())
    assert 100_000 < usage() < 150_000
    box.now = NOW + 50
    box.run(claim())
    assert usage() == 0


def test_many_parked_shards(box: Container) -> None:
    box.run(put(*(item("x", shard=f"s{number}") for number in range(1500))))
    (token,) = box.tokens(claim(1500))
    back = {NOW + number: ("back", False, True) for number in range(1500)}
    box.run(settle(token, back))
    ((_, _, parked, shards, _),) = counted(box.run(counts())).values()
    assert parked == 1500
    assert len({*shards}) == 1000


def test_groups_page_by_page(box: Container) -> None:
    names = [f"q\0g{number}" for number in range(125)]
    for name in names:
        box.run(declare(name))
    found, after, pages = [], 0, []
    while True:
        after, *some = box.run(counts(after))
        found += [key.decode() for key, *_ in some]
        pages.append(len(some))
        if after == 0:
            break
        names.append(f"q\0new{after}")
        box.run(declare(names[-1]))
    assert found == names
    assert pages == [50, 50, 27]


def test_a_page_that_is_exactly_full_is_the_last(box: Container) -> None:
    for number in range(50):
        box.run(declare(f"q\0g{number}"))
    after, *groups = box.run(counts())
    assert (after, len(groups)) == (0, 50)
    assert box.trace(counts(50)) == ([0], {})


def test_a_gid_that_nobody_got_is_passed_over(box: Container) -> None:
    box.run(declare("q\0a"))
    box.client.hincrby(f"{box.key}:meta", "groups", 1)
    box.run(declare("q\0b"))
    reply = box.run(counts())
    assert [group[0] for group in reply[1:]] == [b"q\0a", b"q\0b"]
    assert box.run(dead(queue="q")) == [0, 0, 0, 0]


def test_many_parked_shards_end_a_page(box: Container) -> None:
    for group in ("q\0a", "q\0b", "q\0c", "q\0d"):
        names = [f"s{number}" for number in range(600)]
        box.run(put(*(item("x", shard=name, group=group) for name in names)))
        (claimed,) = box.run(claim(600, groups=[group]))[4]
        first = int.from_bytes(claimed[4][:8], "big")
        back = {first + number: ("back", False, True) for number in range(600)}
        box.run(settle(claimed[0], back))
    after, *groups = box.run(counts())
    assert (after, [len(group[4]) for group in groups]) == (2, [600, 600])
    after, *groups = box.run(counts(after))
    assert (after, [group[0] for group in groups]) == (0, [b"q\0c", b"q\0d"])


def test_a_lane_of_many_priorities_is_sampled(box: Container) -> None:
    box.run(put(*(item("x" * 10_000, priority=priority) for priority in range(50))))
    _, (*_, memory, _, _) = box.run(counts())
    assert 500_000 < memory < 700_000


# lanes


def shards(box: Container, kind: str, group: str = GROUP) -> list[bytes]:
    """All pages of a listing."""
    found, cursor = [], b"0"
    while True:
        cursor, *some = box.run(call("lanes", group, kind, cursor))
        found += some
        if cursor == b"0":
            return found


@pytest.mark.parametrize("kind", ["r", "s"])
def test_lanes_of_nobody(box: Container, kind: str) -> None:
    assert box.trace(call("lanes", GROUP, kind, 0)) == ([b"0"], {})
    box.run(put())
    assert box.trace(call("lanes", GROUP, kind, 0)) == ([b"0"], {})


def test_lanes_that_are_ready_and_lanes_with_a_state(box: Container) -> None:
    box.run(
        put(item("1", shard="a"), item("1", shard="b", priority=3), item("1", shard="", delay=9))
    )
    assert sorted(shards(box, "r")) == [b"a", b"b"]
    assert shards(box, "s") == [b"b"]
    assert box.trace(call("lanes", GROUP, "r", 0))[1] == {}


def test_lanes_page_by_page(box: Container) -> None:
    names = [f"s{number}".encode() for number in range(5000)]
    box.run(put(*(item("x", shard=name.decode(), priority=1) for name in names)))
    assert {*shards(box, "r")} == {*shards(box, "s")} == {*names}
    assert len(box.run(call("lanes", GROUP, "r", 0))) < 2000


# oldest


def oldest(*names: str, group: str = GROUP) -> Any:
    return call("oldest", group, *names)


def test_nothing_is_old(box: Container) -> None:
    assert box.trace(oldest()) == (0, {})
    assert box.trace(oldest("a")) == (0, {})
    box.run(put("1"))
    assert box.trace(oldest("b")) == (0, {})
    assert box.trace(oldest()) == (0, {})


def test_the_oldest(box: Container) -> None:
    box.run(declare("q\0batch", size=9, within=50))
    box.run(put("1", shard="a", priority=3))
    box.now = NOW + 10
    box.run(put(item("2", shard="b"), item("0", shard="a"), item("3", group="q\0batch")))
    assert box.trace(oldest("a", "b"))[0] == NOW
    assert box.trace(oldest("b"))[0] == NOW + 10
    assert box.trace(oldest("a", group="q\0batch"))[0] == NOW + 10


def test_the_oldest_came_back(box: Container) -> None:
    box.run(put("1", "2"))
    (token,) = box.tokens(claim(1))
    assert box.trace(oldest("a"))[0] == NOW + 1
    box.run(settle(token, {NOW: ("back", False, False)}))
    assert box.trace(oldest("a"))[0] == NOW


def test_the_oldest_of_ten_thousand_lanes(box: Container) -> None:
    names = [f"s{number}" for number in range(10_000)]
    box.run(put(*(item("x", shard=name) for name in reversed(names))))
    assert box.run(oldest(*names)) == NOW


# places


def test_no_places(box: Container) -> None:
    assert box.trace(call("places")) == ([0], {})


def test_places_are_chosen_once(box: Container) -> None:
    reply, changed = box.trace(call("places", "q", 2, "home", 0, "r", 1))
    assert reply == [3, [1, 1, 2], [1, 0], [1, 3]]
    assert changed == {
        "meta containers": 3,
        "place q": [1, 1, 2],
        "place home": [1, 0],
        "place r": [1, 3],
    }
    assert box.trace(call("places", "r", 8, "q", 1)) == ([3, [1, 3], [1, 1, 2]], {})
    assert box.trace(call("places", "new", 1))[0] == [4, [1, 4]]
