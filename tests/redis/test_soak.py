"""After any load, a server holds what it held before: keys are bounded, memory comes back."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import pytest
from redis import Redis
from tests.servers.binaries import Binary
from tests.servers.server import RedisServer
from tests.worker.support import until, working

from taskyard import Batch, Retry, Yard, current_context

SHARDS = 500
PATIENCE = 300.0
MEMORY = 100_000
"""Bytes by which `used_memory`, without scripts, may differ: buffers, tables that shrink late."""
WIRES = 30
"""Connections that are remembered for some time; each has one key."""


@pytest.fixture
def server(redis_binary: Binary) -> Iterator[RedisServer]:
    # Its log of slow commands is memory, too.
    config = {"slowlog-log-slower-than": -1}
    with RedisServer(binary=redis_binary, config=config) as made:
        yield made


def deed(number: int) -> None:
    """Some fail at first, some for good."""
    context = current_context()
    if number % 100 == 1:
        context.fail("as it was told")
    if number % 40 == 2 and context.attempt == 1:
        raise RuntimeError("as it was told")


def single(number: int) -> int:
    deed(number)
    return number


def ordered(number: int) -> int:
    deed(number)
    return number


async def coroutine(number: int) -> int:
    deed(number)
    return number


def batch(numbers: list[int]) -> None:
    deed(numbers[0])


def shard(number: int) -> str:
    return f"s{number % SHARDS}"


def declare(yard: Yard) -> None:
    retry = Retry(3, delay=0.05, jitter=0.0)
    yard.task(name="single", shard=shard, retry=retry, result_ttl=1.0)(single)
    yard.task(name="ordered", shard=shard, ordered=True, retry=retry, result_ttl=1.0)(ordered)
    yard.task(name="coroutine", retry=retry, result_ttl=None)(coroutine)
    yard.task(name="batch", batch=Batch(10, within=0.1), shard=shard, retry=retry)(batch)


def soak(server: RedisServer, rounds: int, count: int = 2000) -> None:
    """Put so many of each task, some of them late, some of them first; wait for all, and discard
    the dead; again and again.
    """
    with Yard(server.url) as yard:
        declare(yard)
        with working(yard, concurrency=4):
            for _ in range(rounds):
                for task in yard.tasks.values():
                    numbers = range(count)
                    task.enqueue_many(numbers[: count // 2])
                    task.enqueue_many(numbers[count // 2 : count * 3 // 4], delay=0.3)
                    task.enqueue_many(numbers[count * 3 // 4 :], priority=-5)
                until(lambda: is_drained(yard), PATIENCE)
                assert yard.dead.discard() >= 3 * count // 100


def is_drained(yard: Yard) -> bool:
    return not any(item.waiting + item.delayed + item.running for item in yard.counts())


def left(client: Redis) -> tuple[set[str], int, int]:
    """What is stored once all records have expired: keys, wires that are remembered, bytes."""
    until(lambda: not list(client.scan_iter("*:k:*", count=1000)), PATIENCE)
    keys = {key.decode() for key in client.scan_iter(count=1000)}
    kinds = {is_wire: list(found) for is_wire, found in groupby(sorted(keys, key=wire), wire)}
    client.memory_purge()
    memory = client.info("memory")
    # Each script is kept from its first call on, which may be late: they are 50, of 100 kB.
    used = memory["used_memory"] - memory["used_memory_scripts"]
    return set(kinds[False]), len(kinds[True]), used


def wire(key: str) -> bool:
    return ":call:" in key


@pytest.mark.parametrize(
    "rounds", [2, pytest.param(100, marks=[pytest.mark.long, pytest.mark.timeout(1800)])]
)
def test_everything_comes_back_to_where_it_began(server: RedisServer, rounds: int) -> None:
    client = server.client()
    soak(server, 1)
    keys, _, memory = left(client)
    soak(server, rounds)
    keys_after, wires, memory_after = left(client)
    assert keys_after == keys
    assert wires <= WIRES
    assert memory_after <= memory + MEMORY
    with Yard(server.url) as yard:
        totals = [counts.totals for counts in yard.counts()]
    assert sum(total["put"] for total in totals) == 4 * 2000 * (rounds + 1)
    for total in totals:
        assert total["retried"]
        assert total["lost"] == 0
        assert total["done"] + total["discarded"] == total["put"]
