"""dead.lua, redrive.lua and tidy.lua."""

from __future__ import annotations

from typing import Any

import pytest
from tests.redis.scripts.calls import GROUP, call, claim, dead, declare, put, settle
from tests.redis.scripts.container import NOW, Container, fresh

from taskyard.brokers.redis.calls import Call


def bury(box: Container, *bodies: str, task: str = "", group: str = GROUP, **how: Any) -> None:
    """Put messages and bury them; their ids, if they have any, are their bodies."""
    box.run(put(*bodies, group=group, ids=bodies if how else (), **how))
    reply = box.run(claim(100_000, groups=[group], total=100_000, bytes_=1 << 30))
    (token,) = (claimed[0] for claimed in reply[4])
    sequences = [int.from_bytes(entry[:8], "big") for entry in reply[4][0][4:]]
    outcomes = {
        sequence: ("dead", 5, body if how else "", task, True)
        for sequence, body in zip(sequences, bodies, strict=True)
    }
    assert box.run(settle(token, outcomes, b"why", limit=100_000))[0] == []


def numbers(reply: list[Any]) -> list[int]:
    return [letter if isinstance(letter, int) else letter[0] for letter in reply[3:]]


# dead


def test_no_letters(box: Container) -> None:
    assert box.trace(dead()) == ([0, 0, 0], {})
    box.run(put("1"))
    assert box.trace(dead(numbers=[1, 2])) == ([0, 0, 0], {})


def test_a_letter(box: Container) -> None:
    bury(box, "\x7f1", task="said", ttl=60)
    letter = [1, GROUP.encode(), b"said", b"a", 0, b"\x7f1", b"why", 0, 1, 1, NOW, NOW, b"\x7f1"]
    assert box.trace(dead()) == ([0, 1, 0, letter], {})
    assert box.trace(dead(bare=True)) == ([0, 1, 0, 1], {})


def test_which_letters(box: Container) -> None:
    bury(box, "1", "2", task="x")
    bury(box, "3", group="q\0other")
    bury(box, "4", group="qq\0t")
    bury(box, "5", task="y")
    for query, found in [
        ({}, [1, 2, 3, 4, 5]),
        ({"queue": "q"}, [1, 2, 3, 5]),
        ({"queue": "qq"}, [4]),
        ({"queue": "none"}, []),
        ({"task": "x"}, [1, 2]),
        ({"task": "other"}, [3]),
        ({"queue": "qq", "task": "x"}, []),
        ({"after": 3}, [4, 5]),
        ({"upto": 3}, [1, 2, 3]),
        ({"after": 1, "upto": 2}, [2]),
        ({"numbers": [5, 9, 2]}, [2, 5]),
        ({"numbers": []}, []),
        ({"numbers": [5, 2], "task": "y"}, [5]),
        ({"numbers": [5, 2], "after": 2}, [5]),
    ]:
        for bare in (False, True):
            reply, changed = box.trace(dead(bare=bare, **query))
            assert (numbers(reply), changed) == (found, {}), query
            assert reply[0] == 0


def test_letters_page_by_page(box: Container) -> None:
    bury(box, *"12345")
    reply = box.run(dead(limit=2))
    assert (numbers(reply), reply[0], reply[1]) == ([1, 2], 2, 5)
    bury(box, "6")
    reply = box.run(dead(limit=2, after=2, upto=5))
    assert (numbers(reply), reply[0]) == ([3, 4], 4)
    reply = box.run(dead(limit=2, after=4, upto=5))
    assert (numbers(reply), reply[0]) == ([5], 0)


def test_one_look_goes_only_so_far(box: Container) -> None:
    bury(box, *(f"{number}" for number in range(1200)), task="x")
    bury(box, "last", task="y")
    found, after, looks = [], 0, 0
    while looks < 9:
        reply = box.run(dead(task="y", after=after))
        found, after, looks = [*found, *numbers(reply)], reply[0], looks + 1
        if after == 0:
            break
    assert (found, looks) == ([1201], 3)


def test_one_look_gives_only_so_many_bytes(box: Container) -> None:
    bury(box, *("x" * 1_500_000 for _ in range(4)))
    reply = box.run(dead())
    assert (numbers(reply), reply[0]) == ([1, 2, 3], 3)
    assert numbers(box.run(dead(after=3))) == [4]
    assert numbers(box.run(dead(bare=True))) == [1, 2, 3, 4]


# redrive


def redrive(what: str, *which: int) -> Call:
    return call("redrive", what, *which)


@pytest.mark.parametrize("what", ["retry", "discard"])
def test_no_letters_to_take_away(box: Container, what: str) -> None:
    assert box.trace(redrive(what)) == ([0, 0], {})
    assert box.trace(redrive(what, 1, 2)) == ([0, 2], {})


def test_retrying_letters(box: Container) -> None:
    bury(box, "1", "2", "3", ttl=60, priority=4)
    box.now = NOW + 50
    reply, changed = box.trace(redrive("retry", 3, 9, 1, 3))
    assert reply == [2, 4]
    assert changed.keys() == {
        "meta sequence",
        "meta turn",
        "count 1 waiting",
        "count 1 lanes",
        "dead 1 1",
        "dead 1 3",
        "letter 1",
        "letter 3",
        "list 1 4 a",
        "lane 1 a",
        "ready 1 a",
        "record 1",
        "record 3",
    }
    assert changed["list 1 4 a"] == [
        fresh(NOW + 50, "3", recorded=True),
        fresh(NOW + 51, "1", recorded=True),
    ]
    assert changed["record 1"] == {
        "gid": 1,
        "ttl": 60,
        "state": "waiting",
        "due": 0,
        "expires": 0,
        "shard": "a",
        "priority": 4,
        "sequence": NOW + 51,
    }
    assert changed["ready 1 a"][0] == 4


def test_retrying_a_letter_whose_record_expired(box: Container) -> None:
    bury(box, "1", ttl=60)
    box.now = NOW + 60
    _, changed = box.trace(redrive("retry", 1))
    assert changed["list 1 0 a"] == [fresh(NOW + 60, "1")]
    assert "record 1" not in changed


def test_discarding_letters(box: Container) -> None:
    bury(box, "1", "2", ttl=60)
    box.now = NOW + 50
    reply, changed = box.trace(redrive("discard", 2))
    assert reply == [1, 1]
    assert changed.keys() == {"dead 1 2", "letter 2", "count 1 discarded", "record 2"}
    assert changed["record 2"]["state"] == "discarded"
    assert changed["record 2"]["expires"] == NOW + 110


def test_one_call_moves_only_so_many_bytes(box: Container) -> None:
    bury(box, *("x" * 1_500_000 for _ in range(4)))
    assert box.run(redrive("retry", 1, 2, 3, 4)) == [3, 3]
    assert box.run(redrive("retry", 4)) == [1, 1]


def test_retrying_into_a_lane_that_is_held(box: Container) -> None:
    box.run(declare(concurrency=1))
    bury(box, "1")
    box.run(put("2"))
    box.run(claim())
    _, changed = box.trace(redrive("retry", 1))
    assert not any(path.startswith("ready") for path in changed)


def test_five_thousand_letters(box: Container) -> None:
    bury(box, *(f"{number}" for number in range(5000)))
    reply, changed = box.trace(redrive("retry", *range(1, 5001)))
    assert reply == [5000, 5000]
    assert changed["count 1 waiting"] == 5000


# tidy


def tidy(age: int = 100, limit: int = 500) -> Call:
    return call("tidy", age, limit)


def test_nothing_to_tidy(box: Container) -> None:
    assert box.trace(tidy()) == (0, {})
    bury(box, "1")
    box.run(claim(listener="ear"))
    box.now = NOW + 99
    assert box.trace(tidy()) == (0, {})


def test_old_letters_go(box: Container) -> None:
    bury(box, "1", "2")
    bury(box, "3", group="q\0b")
    box.now = NOW + 1
    bury(box, "4")
    box.now = NOW + 100
    reply, changed = box.trace(tidy())
    assert reply == 3
    assert changed.keys() == {
        "dead 1 1",
        "dead 1 2",
        "dead 2 3",
        "letter 1",
        "letter 2",
        "letter 3",
        "count 1 dead_dropped",
        "count 2 dead_dropped",
    }


def test_so_many_letters_at_once(box: Container) -> None:
    bury(box, *"12345")
    bury(box, "6", group="q\0b")
    box.now = NOW + 101
    assert [box.trace(tidy(limit=4))[0] for _ in range(3)] == [4, 2, 0]


def test_sleepers_that_never_came_back_go(box: Container) -> None:
    box.run(claim(listener="ear"))
    box.now = NOW + 3_600_000_000
    box.run(claim(listener="eye"))
    assert box.trace(tidy()) == (0, {})
    box.now += 1
    assert box.trace(tidy()) == (0, {"sleeper ear": None, "line 1 ear": None})
