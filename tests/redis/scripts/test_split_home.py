"""double.lua, doubled.lua, splits.lua: what home knows of splits."""

from __future__ import annotations

import pytest
import redis
from tests.redis.scripts.calls import call
from tests.redis.scripts.container import Container

from taskyard.brokers.redis.calls import Call


def double(wanted: int = 0, queue: str = "q") -> Call:
    return call("double", queue, wanted)


def place(box: Container, queue: str = "q", containers: int = 1) -> None:
    box.run(call("places", queue, containers))


# double


def test_a_queue_that_is_nowhere(box: Container) -> None:
    assert box.trace(double()) == ([0], {})
    place(box, "other")
    assert box.trace(double()) == ([0], {})


@pytest.mark.parametrize("wanted", [0, 2])
def test_one_container_becomes_two(box: Container, wanted: int) -> None:
    place(box, "other")
    place(box)
    reply, changed = box.trace(double(wanted))
    assert reply == [2, 1, 2, 3]
    assert changed == {"meta containers": 3, "place q": [2, 2, 3], "split q": 2}


def test_a_queue_at_home_keeps_that(box: Container) -> None:
    place(box, containers=0)
    assert box.trace(double())[0] == [2, 1, 0, 1]


@pytest.mark.parametrize("wanted", [1, 2, 3, 4, 5, 16])
def test_what_is_no_double_changes_nothing(box: Container, wanted: int) -> None:
    place(box, containers=4)
    assert box.trace(double(wanted)) == ([1, 0, 1, 2, 3, 4], {})


@pytest.mark.parametrize("wanted", [0, 1, 2, 4, 7])
def test_while_a_split_is_under_way_none_begins(box: Container, wanted: int) -> None:
    place(box)
    begun = box.run(double())
    assert box.trace(double(wanted)) == (begun, {})


def test_the_next_one_begins_when_the_last_is_over(box: Container) -> None:
    place(box)
    box.run(double())
    box.run(call("doubled", "q", 2))
    assert box.trace(double(2)) == ([2, 0, 1, 2], {})
    reply, changed = box.trace(double(4))
    assert reply == [3, 1, 1, 2, 3, 4]
    assert changed == {"meta containers": 4, "place q": [3, 1, 2, 3, 4], "split q": 3}


def test_a_call_whose_answer_was_lost_begins_one_split(box: Container) -> None:
    place(box)
    reply = box.run(double(), slot="s", number=4)
    box.run(call("doubled", "q", 2))
    state = box.dump()
    assert box.run(double(), slot="s", number=4) == reply
    assert box.dump() == state
    with pytest.raises(redis.ResponseError, match="overtaken"):
        box.run(double(), slot="s", number=3)
    assert box.dump() == state


# doubled


def test_a_split_is_over(box: Container) -> None:
    place(box)
    place(box, "other")
    box.run(double())
    box.run(double(queue="other"))
    assert box.trace(call("doubled", "q", 2)) == (1, {"split q": None})


@pytest.mark.parametrize("epoch", [1, 2, 4])
def test_another_split_is_not_over(box: Container, epoch: int) -> None:
    place(box)
    box.run(double())
    box.run(call("doubled", "q", 2))
    box.run(double())
    assert box.trace(call("doubled", "q", epoch)) == (1, {})


def test_no_split_is_over(box: Container) -> None:
    assert box.trace(call("doubled", "q", 2)) == (1, {})
    place(box)
    assert box.trace(call("doubled", "q", 1)) == (1, {})


# splits


def test_queues_that_are_being_split(box: Container) -> None:
    assert box.trace(call("splits")) == ([], {})
    for queue in ("q", "r", "s"):
        place(box, queue)
    box.run(double())
    box.run(double(queue="s"))
    reply, changed = box.trace(call("splits"))
    assert (sorted(reply), changed) == ([b"q", b"s"], {})


def test_some_of_many_are_named(box: Container) -> None:
    names = {b"q%d" % number for number in range(30)}
    for name in names:
        place(box, name.decode())
        box.run(double(queue=name.decode()))
    found: set[bytes] = set()
    while found != names:  # all come up in the end
        some = box.run(call("splits"))
        assert len(some) == len({*some}) == 10
        found |= {*some}
    assert found == names
