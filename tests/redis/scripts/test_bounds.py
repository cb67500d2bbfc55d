"""The work of a call does not grow with what it has nothing to do with.

What the server executes is counted by command, for a few and for many of the things that are in
the way. Commands that read a whole key count as one, so the scripts may not use those on keys
that grow: see test_contracts.py.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from tests.redis.scripts.calls import (
    GROUP,
    LEASE,
    call,
    claim,
    dead,
    declare,
    item,
    put,
    reap,
    settle,
    step,
    tidy,
    want,
)
from tests.redis.scripts.container import NOW, Container

from taskyard.brokers.redis.calls import Call

FEW, MANY = 100, 10_000
FAR = 10**12


def shards(number: int) -> list[str]:
    return [f"s{index}" for index in range(number)]


def claim_all(box: Container, number: int) -> int:
    (token,) = box.tokens(claim(number, total=number, lease=FAR, bytes_=1 << 30))
    return token


def held(box: Container, number: int) -> None:
    box.run(declare(concurrency=1))
    for _ in range(2):
        box.run(put(*(item("x", shard=shard) for shard in shards(number))))
        box.run(claim(number, total=number, lease=FAR))


def blocked(box: Container, number: int) -> None:
    box.run(declare(concurrency=1))
    box.run(put(*(item("x", shard=shard) for shard in shards(number))))
    retried = {NOW + index: ("retried", FAR, "") for index in range(number)}
    box.run(settle(claim_all(box, number), retried))


def parked(box: Container, number: int) -> None:
    box.run(put(*(item("x", shard=shard) for shard in shards(number))))
    parked = {NOW + index: ("back", True, True) for index in range(number)}
    box.run(settle(claim_all(box, number), parked))


def filling(box: Container, number: int) -> None:
    box.run(declare(size=2, within=FAR))
    box.run(put(*(item("x", shard=shard) for shard in shards(number))))


def delayed(box: Container, number: int) -> None:
    box.run(put(*("x" for _ in range(number)), delay=FAR))


def waiting_elsewhere(box: Container, number: int) -> None:
    box.run(put(*(item("x", shard=shard, group="q\0other") for shard in shards(number))))


def waiting_in_front(box: Container, number: int) -> None:
    box.run(put(*("x" for _ in range(number)), shard="mine"))


def ready(box: Container, number: int) -> None:
    box.run(put(*(item("x", shard=shard, priority=7) for shard in shards(number))))


def buried(box: Container, number: int) -> None:
    box.run(put(*("x" for _ in range(number))))
    outcomes = {NOW + index: ("dead", 5, "", "", True) for index in range(number)}
    box.run(settle(claim_all(box, number), outcomes, b"why", limit=number))


def running(box: Container, number: int) -> None:
    box.run(put(*(item("x", shard=shard, group="q\0other") for shard in shards(number))))
    box.run(claim(1, groups=["q\0other"], claims=number, total=number, lease=FAR))


def recorded(box: Container, number: int) -> None:
    ids = shards(number)
    box.run(put(*ids, group="q\0other", ids=ids, ttl=FAR))


IN_THE_WAY = (
    held,
    blocked,
    parked,
    filling,
    delayed,
    waiting_elsewhere,
    waiting_in_front,
    ready,
    buried,
    running,
    recorded,
)


OF_CONNECTIONS = {
    *("eval", "config|resetstat", "info", "hello", "auth", "select", "client|setinfo", "ping"),
    *("subscribe", "unsubscribe", "quit"),
}
"""What no script executes: the tests' own calls, and connections that are opened or tested."""


def commands(box: Container, what: Call) -> dict[str, int]:
    """Make a call; how often it had the server execute which command."""
    box.client.config_resetstat()
    box.run(what)
    stats = box.client.info("commandstats")
    counted = {name.removeprefix("cmdstat_"): said["calls"] for name, said in stats.items()}
    return {name: calls for name, calls in counted.items() if name not in OF_CONNECTIONS}


def work(box: Container) -> list[dict[str, int]]:
    """What a worker and a producer do with a lane of their own."""
    bodies = ["x"] * 5
    done = [commands(box, put(*bodies, shard="mine", priority=-1))]
    (token,) = box.tokens(claim(2))
    done.append(commands(box, call("extend", LEASE, token)))
    done.append(commands(box, step([(token, [], [], [])], want(2))))
    done.append(commands(box, put("x", shard="mine")))
    done.append(commands(box, claim(2, listener="ear", claims=2)))
    done.append(commands(box, step((), want(2, drain=False, groups=["q\0unknown"]))))
    done.append(commands(box, reap()))
    done.append(commands(box, call("park", GROUP, "mine")))
    done.append(commands(box, call("release", GROUP, "mine")))
    done.append(commands(box, call("release", GROUP, "none")))
    done.append(commands(box, call("gate", "q", "draining", 0)))
    done.append(commands(box, put("x", shard="mine")))
    done.append(commands(box, claim(2, listener="ear", claims=2)))
    done.append(commands(box, call("gate", "q", "open", 0)))
    done.append(commands(box, call("leave", "ear")))
    done.append(commands(box, tidy(FAR)))
    done.append(commands(box, call("oldest", GROUP, "mine")))
    done.append(commands(box, call("records", "", "none")))
    return done


@pytest.mark.parametrize("obstacle", IN_THE_WAY)
def test_work_beside_few_and_many(
    box: Container, obstacle: Callable[[Container, int], None]
) -> None:
    box.run(declare())
    found = []
    for number in (FEW, MANY):
        box.client.flushdb()
        obstacle(box, number)
        found.append(work(box))
    assert found[0] == found[1]


def groups(box: Container, number: int) -> None:
    for index in range(number):
        box.run(put("x", group=f"q\0g{index}", shard=f"s{index}"))


def buried_everywhere(box: Container, number: int) -> None:
    """Fewer, of which each takes four calls to make: still many pages of them."""
    groups(box, number // 4)
    for index in range(number // 4):
        box.run(put("x", "y", group=f"q\0g{index}"))
        (token, *_), *_ = box.run(claim(1, groups=[f"q\0g{index}"]))[4]
        sequence = int.from_bytes(box.client.lindex(f"{box.key}:c:{token}", 1)[:8], "big")
        box.run(settle(token, {sequence: ("dead", 5, "", "", True)}, b"why"))


def sleeping(box: Container, number: int) -> None:
    for index in range(number):
        box.run(claim(listener=f"listener {index} that has a long name" + 40 * "x"))


def sleeping_everywhere(box: Container, number: int) -> None:
    groups(box, number)
    names = [f"q\0g{index}" for index in range(number)]
    while box.run(claim(groups=names, claims=number, total=number))[4]:
        pass
    for index in range(100):
        box.run(claim(groups=names[:100], listener=f"ear {index}"))
    box.run(put("x", group=names[-1], delay=FAR))


PAGED = [
    (groups, call("counts", 0), 6000),
    (groups, call("gate", "q", "paused", 0), 300),
    pytest.param(sleeping_everywhere, call("gate", "q", "open", 0), 15_000, marks=pytest.mark.long),
    (groups, dead(), 300),
    (buried_everywhere, dead(), 300),
    pytest.param(buried_everywhere, dead(task="none"), 800, marks=pytest.mark.long),
    (buried, dead(), 10),
    (buried, dead(task="none"), 600),
    (buried, tidy(-1, 500), 2100),
    (running, reap("eve"), 400),
    (sleeping, tidy(-1, 500), 10),
    (running, declare(concurrency=1), 40),
]
"""What is there in large numbers, a call that goes through it, and what one page may cost."""


@pytest.mark.parametrize(("there", "what", "most"), PAGED)
def test_a_page_is_a_page(
    box: Container, there: Callable[[Container, int], None], what: Call, most: int
) -> None:
    there(box, 3000)
    assert sum(commands(box, what).values()) < most


@pytest.mark.timeout(240)  # it makes ten thousand claims
@pytest.mark.parametrize("number", [FEW, MANY])
def test_a_step_among_suspects(box: Container, number: int) -> None:
    """One that may not have them passes over so many, and no more."""
    box.run(put(*(item("x", shard=shard) for shard in shards(number))))
    box.run(claim(1, claims=number, total=number, lease=1))
    box.now = NOW + 2
    while box.run(reap())[0]:
        pass
    executed = sum(commands(box, claim(1, alone=False)).values())
    assert executed < 20_000
    # They are where they were.
    assert box.client.zcard(f"{box.key}:r:1") == number


def test_what_nobody_closed_costs_nothing(box: Container) -> None:
    """The gate of a group comes with what a call reads of it anyway."""
    box.run(put("x", "x", "x"))
    for what in (claim(1), put("x"), put("x", "y")):
        executed = commands(box, what)
        assert executed["hget"] == 1, "of the group"
        assert executed.get("hmget", 0) <= 2, "of numbers and of lanes"


@pytest.mark.parametrize("declared", [declare(), declare(size=9, within=FAR)])
def test_what_makes_room_is_found_without_looking_at_all(box: Container, declared: Call) -> None:
    found = []
    for number in (1000, MANY):
        box.client.flushdb()
        box.run(declared)
        box.run(put(*(item("x", shard=shard) for shard in shards(number))))
        box.run(put(*("x" for _ in range(number)), shard="long"))
        of = msgspec.msgpack.encode((2 * number, 2 * number, "drop", 0, 1, 10_000))
        box.run(call("bound", "q", 2, of, 0))
        ten = ["y"] * 10
        dropping = [commands(box, put(*ten, shard=shard)) for shard in ("long", "new")]
        box.run(claim(50, drain=True))
        found.append([*dropping, commands(box, put("y", "z", shard="new"))])
    assert found[0] == found[1]


def test_what_is_due_is_let_in_piece_by_piece(box: Container) -> None:
    found = []
    for number in (1000, MANY):
        box.client.flushdb()
        box.now = NOW
        box.run(put(*(item("x", shard=shard, delay=5) for shard in shards(number))))
        box.now = NOW + 5
        found.append(commands(box, claim(1)))
    assert found[0] == found[1]
