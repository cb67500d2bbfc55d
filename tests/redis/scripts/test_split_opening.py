"""closed.lua, gone.lua, open.lua: lanes that wait until nothing of them is left elsewhere."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.redis.scripts.calls import GROUP, claim, declare, put, settle
from tests.redis.scripts.container import NOW, Container
from tests.redis.scripts.splits import (
    CLOSED,
    MOVES,
    SETTLED,
    STAYS,
    accept,
    cleared,
    closed,
    export,
    fill,
    give,
    gone,
    leave,
    newer,
    open_,
    part,
    sift_all,
    take,
)

ORDERED = (GROUP, 1, 0, 0, 1, 3, [], True)
OTHER = ("q\0other", 1, 0, 0, 2, 3, [], True)
PLAIN = ("q\0plain", 1, 0, 0, 0, 3, [], True)


@pytest.fixture
def there(there: Container) -> Container:
    """A new container of a queue that is split."""
    there.run(accept(NOW, msgspec.msgpack.encode(("open", [ORDERED, OTHER, PLAIN]))))
    return there


def wait(there: Container, *shards: str, group: str = GROUP) -> None:
    """Put into lanes."""
    for shard in shards:
        there.run(newer(put("1", shard=shard, group=group)))


def listed(there: Container, size: int = 100) -> list[tuple[bytes, bytes]]:
    """What is closed, page by page: key, shard."""
    found, cursor = [], b""
    while True:
        cursor, key, *shards = there.run(closed(cursor, size))
        found += [(key, shard) for shard in shards]
        if not cursor:
            return found


def is_claimed(there: Container, **wanted: Any) -> bool:
    return bool(there.run(claim(1, **wanted))[4])


# closed


def test_nothing_is_closed(box: Container, there: Container) -> None:
    assert box.trace(closed()) == ([b"", b""], {})
    assert there.trace(closed()) == ([b"", b""], {})
    wait(there, "a", group=PLAIN[0])
    assert there.trace(closed()) == ([b"", b""], {})
    wait(there, "a")
    assert there.trace(closed(queue="r")) == ([b"", b""], {})


def test_closed_lanes_by_their_groups(there: Container) -> None:
    wait(there, "a", "c")
    wait(there, "a", group=OTHER[0])
    (cursor, key, *shards), changed = there.trace(closed())
    assert (cursor, key, sorted(shards), changed) == (b"2 0", GROUP.encode(), [b"a", b"c"], {})
    assert there.run(closed(cursor)) == [b"", OTHER[0].encode(), b"a"]


def test_a_page_at_a_time(there: Container) -> None:
    shards = {f"{number}" for number in range(1000)}
    wait(there, *shards)
    assert {shard.decode() for _, shard in listed(there, 50)} == shards


# gone


def test_a_container_that_does_not_know_of_the_split_says_nothing(box: Container) -> None:
    assert box.trace(gone("a")) == ([], {})
    fill(box, STAYS)
    box.run(part())
    assert box.trace(gone("a", epoch=3)) == ([], {})


def test_lanes_of_which_nothing_is_left(box: Container) -> None:
    box.run(declare())
    fill(box, MOVES)
    leave(box)
    assert box.trace(gone(MOVES, "c", "g")) == ([b"c", b"g"], {})
    assert box.trace(gone(MOVES, "c", group="q\0never")) == ([b"a", b"c"], {})
    assert box.trace(gone(epoch=2)) == ([], {})


def test_a_lane_is_not_gone_while_it_is_claimed(box: Container) -> None:
    box.run(declare(concurrency=1))
    fill(box, MOVES)
    (token,) = box.tokens(claim())
    leave(box)
    assert box.run(gone(MOVES)) == []
    box.run(settle(token))
    assert box.trace(gone(MOVES)) == ([b"a"], {})


def test_nothing_is_gone_while_something_is_on_its_way(box: Container) -> None:
    fill(box, MOVES)
    leave(box)
    transfer = take(box)
    assert box.trace(gone(MOVES, "c")) == ([], {})
    box.run(cleared(transfer.number))
    assert box.trace(gone(MOVES, "c")) == ([b"a", b"c"], {})


def test_who_speaks_of_an_earlier_split_is_told(box: Container) -> None:
    box.run(part())
    sift_all(box)
    box.run(export())
    assert box.trace(gone("a", epoch=1)) == ([b"a"], {})


# open


def test_lanes_are_opened(there: Container) -> None:
    wait(there, "a", "c")
    reply, changed = there.trace(open_("a"))
    assert reply == 1
    assert changed == {
        "closed 1 a": None,
        "meta turn": 1,
        "open 1 a": True,
        "ready 1 a": (0, 1),
    }
    assert is_claimed(there)
    assert not is_claimed(there)  # c is closed


def test_an_open_lane_stays_open(there: Container) -> None:
    wait(there, "a")
    there.run(open_("a"))
    state = there.dump()
    assert there.trace(open_("a"))[0] == 1
    assert {path for path in there.dump() if path.startswith(("open", "closed"))} == {"open 1 a"}
    (token,) = there.tokens(claim())
    there.run(settle(token))
    wait(there, "a")
    assert there.dump()["ready 1 a"]
    assert state["open 1 a"] is True


def test_what_is_held_up_is_not_let_go_by_opening(there: Container, box: Container) -> None:
    box.run(declare(concurrency=1))
    fill(box, MOVES)
    (token,) = box.tokens(claim())
    box.run(settle(token, {NOW: ("back", True, True)}))
    leave(box)
    transfer = take(box)
    give(there, transfer)
    box.run(cleared(transfer.number))
    _, changed = there.trace(open_("a"))
    assert changed == {"closed 1 a": None, "open 1 a": True}
    assert there.dump()["parked 1 a"] is True


@pytest.mark.parametrize("epoch", [1, 3])
def test_another_split_opens_nothing(there: Container, epoch: int) -> None:
    wait(there, "a")
    assert there.trace(open_("a", epoch=epoch)) == (0, {})
    assert there.trace(open_(epoch=epoch)) == (0, {})


def test_one_that_is_not_closed_opens_nothing(box: Container) -> None:
    assert box.trace(open_()) == (0, {})
    fill(box, MOVES)
    leave(box)
    assert box.trace(open_("a")) == (0, {})
    assert box.trace(open_()) == (0, {})


def test_the_rest_is_opened_some_at_a_time(there: Container) -> None:
    wait(there, *(f"{number}" for number in range(700)))
    wait(there, *(f"{number}" for number in range(300)), group=OTHER[0])
    opened = []
    while not opened or opened[-1]:
        assert there.dump()["epoch q"][1] == CLOSED
        opened.append(there.run(open_()))
    assert opened == [500, 500, 0]
    state = there.dump()
    assert state["epoch q"] == (2, SETTLED, 2, 1)
    assert state["policy 1"].split == (2, SETTLED, 2, 1)
    assert not any(path.startswith(("open", "closed")) for path in state)
    assert sum(path.startswith("ready") for path in state) == 1000


def test_the_end_is_the_same_once_more(there: Container) -> None:
    wait(there, "a")
    assert there.trace(open_("a"))[0] == 1
    reply, changed = there.trace(open_())
    assert reply == 0
    assert changed["epoch q"] == (2, SETTLED, 2, 1)
    assert changed["open 1 a"] is None
    assert there.trace(open_()) == (0, {})
    assert there.trace(open_("a")) == (0, {})
    wait(there, "c")
    assert there.dump()["ready 1 c"]


def test_who_sleeps_is_woken_by_an_open_lane(there: Container) -> None:
    wait(there, "a")
    with there.client.pubsub(ignore_subscribe_messages=True) as ears:
        ears.subscribe("ear")
        ears.get_message(timeout=10)
        there.run(claim(listener="ear"))
        there.run(open_("a"))
        assert ears.get_message(timeout=10)["channel"] == b"ear"
