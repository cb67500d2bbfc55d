"""dead.lua, letters.lua, redrive.lua and tidy.lua."""

from __future__ import annotations

from typing import Any

import pytest
from tests.redis.scripts.calls import (
    GROUP,
    call,
    claim,
    dead,
    declare,
    letters,
    put,
    settle,
    tidy,
)
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


# dead


def search(box: Container, **query: Any) -> tuple[list[int], int]:
    """All numbers, call by call; and how many calls."""
    found, gid, number, calls = [], 0, 0, 0
    while calls == 0 or gid:
        gid, number, _, _, *some = box.run(dead(gid=gid, number=number, **query))
        found, calls = [*found, *some], calls + 1
    return found, calls


def test_no_letters(box: Container) -> None:
    assert box.trace(dead()) == ([0, 0, 0, 0], {})
    box.run(put("1"))
    assert box.trace(dead()) == ([0, 0, 0, 0], {})


def test_which_letters(box: Container) -> None:
    bury(box, "1", "2", task="x")
    bury(box, "3", group="q\0other")
    bury(box, "4", group="qq\0t")
    bury(box, "5", task="y")
    for query, found in [
        ({}, [1, 2, 5, 3, 4]),
        ({"queue": "q"}, [1, 2, 5, 3]),
        ({"queue": "qq"}, [4]),
        ({"queue": "none"}, []),
        ({"task": "x"}, [1, 2]),
        ({"task": "other"}, [3]),
        ({"queue": "qq", "task": "x"}, []),
        ({"after": 3}, [5, 4]),
        ({"upto": 3}, [1, 2, 3]),
        ({"after": 1, "upto": 2}, [2]),
        ({"gid": 1, "number": 2}, [5, 3, 4]),
        ({"gid": 1, "number": 1, "after": 2}, [5, 3, 4]),
        ({"gid": 2}, [3, 4]),
        ({"gid": 9}, []),
    ]:
        assert box.trace(dead(**query)) == ([0, 0, 5, 0, *found], {}), query


def test_one_search_goes_only_so_far(box: Container) -> None:
    bury(box, *(f"{number}" for number in range(1200)), task="x")
    bury(box, "last", task="y")
    reply = box.run(dead())
    assert (reply[:2], reply[4:]) == ([1, 500], [*range(1, 501)])
    assert search(box) == ([*range(1, 1202)], 3)
    assert search(box, task="y") == ([1201], 3)


def test_one_search_looks_into_only_so_many_groups(box: Container) -> None:
    for number in range(600):
        box.run(declare(f"q\0g{number}"))
    bury(box, "1", "2", group="q\0g599")
    bury(box, "3", group="q\0g249")
    bury(box, "4", group="q\0g250")
    assert box.run(dead()) == [250, 0, 4, 0]
    assert search(box) == ([3, 4, 1, 2], 3)
    assert search(box, queue="none") == ([], 3)


def test_one_search_reads_only_so_many_bytes(box: Container) -> None:
    bury(box, *("x" * 1_500_000 for _ in range(4)), task="x")
    assert box.run(dead(task="y")) == [1, 3, 4, 0]
    assert search(box, task="x") == ([1, 2, 3, 4], 2)
    assert search(box) == ([1, 2, 3, 4], 1)


# letters


def test_no_letters_to_read(box: Container) -> None:
    assert box.trace(letters()) == ([0], {})
    assert box.trace(letters(1, 2)) == ([2], {})
    assert box.trace(letters(1, 2, bare=True)) == ([2], {})


def test_a_letter(box: Container) -> None:
    bury(box, "\x7f1", task="said", ttl=60)
    letter = [1, GROUP.encode(), b"said", b"a", 0, b"\x7f1", b"why", 0, 1, 1, NOW, NOW, b"\x7f1"]
    assert box.trace(letters(1)) == ([1, letter], {})
    assert box.trace(letters(1, bare=True)) == ([1, 1], {})


def test_which_letters_of_some(box: Container) -> None:
    bury(box, "1", "2", task="x")
    bury(box, "3", group="q\0other")
    bury(box, "4", group="qq\0t")
    for query, found in [
        ({}, [4, 3, 1]),
        ({"queue": "q"}, [3, 1]),
        ({"queue": "qq"}, [4]),
        ({"queue": "none"}, []),
        ({"task": "x"}, [1]),
        ({"task": "other", "queue": "q"}, [3]),
        ({"task": "x", "queue": "qq"}, []),
    ]:
        looked, *some = box.run(letters(9, 4, 3, 1, **query))
        assert (looked, [letter[0] for letter in some]) == (4, found), query
        assert box.run(letters(9, 4, 3, 1, bare=True, **query)) == [4, *found], query


def test_one_call_reads_only_so_many_bytes(box: Container) -> None:
    bury(box, *("x" * 1_500_000 for _ in range(4)))
    looked, *some = box.run(letters(1, 2, 3, 4))
    assert (looked, [letter[0] for letter in some]) == (3, [1, 2, 3])
    assert box.run(letters(1, 2, 3, 4, task="none")) == [3]
    assert box.run(letters(1, 2, 3, 4, bare=True)) == [4, 1, 2, 3, 4]


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
        "buried 1 1",
        "buried 1 3",
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
    assert changed.keys() == {
        "dead 1 2",
        "buried 1 2",
        "letter 2",
        "count 1 discarded",
        "record 2",
    }
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


THROUGH = b""
"""The cursor when there is nothing more to look at."""


def test_nothing_to_tidy(box: Container) -> None:
    assert box.trace(tidy()) == ([0, THROUGH], {})
    bury(box, "1")
    box.run(claim(listener="ear"))
    box.now = NOW + 99
    assert box.trace(tidy()) == ([0, THROUGH], {})


def test_old_letters_go(box: Container) -> None:
    bury(box, "1", "2")
    bury(box, "3", group="q\0b")
    box.now = NOW + 1
    bury(box, "4")
    box.now = NOW + 100
    reply, changed = box.trace(tidy())
    assert reply == [3, THROUGH]
    assert changed.keys() == {
        "dead 1 1",
        "dead 1 2",
        "dead 2 3",
        "buried 1 1",
        "buried 1 2",
        "buried 2 3",
        "letter 1",
        "letter 2",
        "letter 3",
        "count 1 dead_dropped",
        "count 2 dead_dropped",
    }


def test_old_letters_go_though_they_are_behind_younger_ones(box: Container) -> None:
    """As where a clock was set back, or where letters came from another container."""
    bury(box, "young")
    box.now = NOW - 50
    bury(box, "old")
    box.now = NOW + 60
    reply, changed = box.trace(tidy())
    assert reply == [1, THROUGH]
    assert {path for path in changed if path.startswith("letter")} == {"letter 2"}


def test_so_many_letters_at_once(box: Container) -> None:
    bury(box, *"12345")
    bury(box, "6", group="q\0b")
    box.now = NOW + 101
    assert box.trace(tidy(limit=4))[0] == [4, b"0"]
    assert box.trace(tidy(limit=4, cursor="7"))[0] == [2, THROUGH]
    assert box.trace(tidy(limit=4))[0] == [0, THROUGH]


def test_letters_that_were_taken_away_are_not_looked_for(box: Container) -> None:
    bury(box, *"1234")
    box.run(redrive("retry", 1))
    box.run(redrive("discard", 2))
    box.run(put("5"))
    (token,) = box.tokens(claim())
    outcomes = {NOW + 4 + number: ("dead", 5, "", "", True) for number in range(2)}
    box.run(settle(token, outcomes, b"", limit=3))
    box.now = NOW + 100
    assert box.trace(tidy())[0] == [3, THROUGH]
    assert not box.client.exists(f"{box.key}:buried")


def test_sleepers_that_never_came_back_go(box: Container) -> None:
    box.run(claim(listener="ear"))
    box.now = NOW + 3_600_000_000
    box.run(claim(listener="eye"))
    assert box.trace(tidy()) == ([0, THROUGH], {})
    box.now += 1
    assert box.trace(tidy()) == ([0, THROUGH], {"sleeper ear": None, "line 1 ear": None})


def asleep(box: Container, number: int, groups: int = 1) -> None:
    served = [f"q\0g{index}" for index in range(groups)]
    for index in range(number):
        box.run(claim(listener=f"ear{index}", groups=served))


def test_sleepers_go_page_by_page(box: Container) -> None:
    """However many of those that live are before them."""
    asleep(box, 1000)
    box.now = NOW + 3_600_000_001
    for index in range(0, 1000, 2):
        box.run(claim(listener=f"ear{index}"))
    cursor, calls = b"0", 0
    while cursor:
        removed, cursor = box.run(tidy(cursor=cursor))
        assert removed == 0
        calls += 1
    left = {path for path in box.dump() if path.startswith("sleeper")}
    assert left == {f"sleeper ear{index}" for index in range(0, 1000, 2)}
    assert calls > 2


def test_sleepers_in_many_lines_go_few_at_a_time(box: Container) -> None:
    asleep(box, 5, groups=600)
    box.now = NOW + 3_600_000_001
    assert box.trace(tidy())[0] == [0, b"0"]
    assert len([path for path in box.dump() if path.startswith("sleeper")]) == 3
    assert box.trace(tidy())[0] == [0, b"0"]
    assert box.trace(tidy())[0] == [0, THROUGH]
    assert not box.client.exists(f"{box.key}:sleepers")
