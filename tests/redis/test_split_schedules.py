"""The split under random schedules on a real server, and that these find what is wrong."""

from __future__ import annotations

import hashlib

import pytest
from tests.redis.splitting import Broken, World
from tests.servers.server import RedisServer
from tests.variants import some_in_short

from taskyard.brokers.redis import placement, split
from taskyard.brokers.redis.scripts import Script, load_script

STEPS = 1500
MANY = 300
"""Schedules that the soak tries, and within which each mutant is found."""

MUTANTS = {
    "lanes are opened before the other container is done with them": (
        "gone",
        "if not lane or (waiting(lane) == 0 and lane.held == 0 and not lane.parked\n"
        "        and lane.tat <= now)\n    then",
        "if true then",
    ),
    "what arrives is stored however often it comes": (
        "import",
        "or 0) >= number then",
        "or 0) < 0 then",
    ),
    "lanes leave head first": (
        "export",
        "local entry, came_back = tail_at(lane, priority)",
        "local entry, came_back = head_at(lane, priority)",
    ),
    "a new container has no closed lanes": (
        "accept",
        "store_split(queue, {epoch, CLOSED,",
        "store_split(queue, {epoch, SETTLED,",
    ),
    "claims that ended are waited for": ("reap", "    note_claim(token, group, {})\n", ""),
    "dead letters stay where they were": ("export", "    take_letters(group)\n", ""),
}
RARE_MUTANTS = {
    "records stay where they were": (
        "import",
        "if not fields or has_record(id) then",
        "if true then",
    ),
    "claims that are made meanwhile are waited for by nobody": (
        "step",
        "    note_claim(token, known_group(header[1]), header[5])\n",
        "",
    ),
    "a container goes on taking puts": ("put", "return epoch > told and MOVED", "return false"),
    "a lane is opened while a claim is open": (
        "gone",
        "waiting(lane) == 0 and lane.held == 0 and",
        "waiting(lane) == 0 and",
    ),
    "a part is over while claims are open": (
        "export",
        "local claims = open_claims()",
        "local claims = 0",
    ),
    "claims that were open before are waited for by nobody": (
        "sift",
        "plan[#plan + 1] = {'claims', 'ZSCAN', T .. ':claims'}\n",
        "",
    ),
    "what is on its way is forgotten by any number": (
        "cleared",
        "if number ~= tonumber(ARGV[5]) then",
        "if not number then",
    ),
    "keys of shards that come are not held": (
        "hold",
        "call('HSET', unique.KEYS, field, value)",
        "",
    ),
    "a late copy of a key is held": (
        "hold",
        "if (split_of(ARGV[4])[1] or 1) >= tonumber(ARGV[5]) then",
        "if false then",
    ),
    "where a key went to is not told that it is released": (
        "step",
        "call('RPUSH', unique.gone_key(queue_of(group.key)), packed)",
        "",
    ),
    "sequences of the new container begin anew": (
        "accept",
        "last_sequence = math.max(last_sequence, tonumber(ARGV[8]))",
        "",
    ),
}
"""What is wrong with a script: its name, and what is replaced by what."""


def try_schedule(server: RedisServer, seed: int) -> None:
    with server.client() as client:
        client.flushall()
        world = World(client, server.url, seed, partitions=seed % 3)
        world.live(STEPS, splits=1 + seed % 2)
        world.end()


def try_schedules(server: RedisServer, first: int) -> None:
    for seed in range(first, first + MANY):
        try_schedule(server, seed)


@pytest.fixture(autouse=True)
def small_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a split takes many steps."""
    monkeypatch.setattr(split, "THINGS", 3)
    monkeypatch.setattr(split, "TRANSFERS", 2)


def find_broken(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, mutant: tuple[str, str, str]
) -> None:
    """Try schedules with a mutant until one finds it."""
    name, right, wrong = mutant

    def load(wanted: str) -> Script:
        script = load_script(wanted)
        if wanted != name:
            return script
        assert script.source.count(right) == 1
        source = script.source.replace(right, wrong)
        return Script(name, source, hashlib.sha1(source.encode()).hexdigest())

    monkeypatch.setattr(placement, "load_script", load)
    with pytest.raises(Broken):
        try_schedules(server, 0)


@pytest.mark.parametrize("seed", some_in_short(range(12), range(4)))
def test_nothing_is_lost_repeated_or_out_of_order(redis_server: RedisServer, seed: int) -> None:
    try_schedule(redis_server, seed)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_what_is_wrong_is_found(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, mutant: str
) -> None:
    find_broken(redis_server, monkeypatch, MUTANTS[mutant])


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_nothing_goes_wrong_in_many_schedules(redis_server: RedisServer) -> None:
    try_schedules(redis_server, 1000)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("mutant", RARE_MUTANTS)
def test_what_is_rarely_wrong_is_found(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, mutant: str
) -> None:
    find_broken(redis_server, monkeypatch, RARE_MUTANTS[mutant])
