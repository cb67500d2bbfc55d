"""Which keys there are: only those of the container, and in the end only a few."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.redis.scripts.calls import TAG, call, claim, put, settle
from tests.redis.scripts.container import NOW, Container
from tests.redis.scripts.walk import POLICIES, Walk
from tests.servers.server import RedisServer
from tests.variants import some_in_short

from taskyard.brokers.redis.calls import container_key

LASTING = {"meta", "groups", "names", "places", *(f"g:{gid + 1}" for gid in range(len(POLICIES)))}
"""What stays for ever: numbers, and what is known of groups and queues. Bounded by those."""


@contextmanager
def walled_in(server: RedisServer, *channels: str) -> Iterator[Container]:
    """A container whose user may touch no other keys, and publish nowhere but there."""
    with server.client() as owner:
        owner.acl_setuser(
            "walled",
            enabled=True,
            passwords=["+wall"],
            keys=[f"{container_key('x', TAG)}*"],
            channels=channels,
            reset_channels=True,
            commands=["+@all"],
        )
        try:
            yield Container(server.client(username="walled", password="wall"))
        finally:
            owner.acl_deluser("walled")


@pytest.fixture
def walled(redis_server: RedisServer) -> Iterator[Container]:
    with walled_in(redis_server, "ear*") as box:
        yield box


@pytest.mark.parametrize("seed", some_in_short(range(8), range(3)))
def test_a_random_walk(walled: Container, seed: int) -> None:
    walk = Walk(walled, seed)
    walk.go(150)
    walk.finish()
    left = set()
    for key in walled.client.keys("*"):
        name = key.decode().removeprefix(f"{walled.key}:")
        if name.startswith(("call:", "k:")):
            assert walled.client.ttl(key) > 0
        else:
            left.add(name)
    assert left <= LASTING


def test_calls_are_remembered_for_a_while(walled: Container) -> None:
    walled.now = None
    walled.run(put("1"), slot="s")
    walled.run(claim(), slot="t")
    assert [0 < walled.client.ttl(f"{walled.key}:call:{slot}") <= 900 for slot in "st"] == [
        True
    ] * 2


def test_who_may_not_publish_loses_nothing_but_wake_ups(redis_server: RedisServer) -> None:
    with walled_in(redis_server) as box:
        box.run(claim(listener="ear"))
        assert box.trace(put("1", ids=["x"], ttl=60))[0] == 1
        box.run(call("records", "ear", "x"))
        (token,) = box.tokens(claim())
        _, changed = box.trace(settle(token, None, b"", results=[("x", 5)]))
        assert changed["record x"]["state"] == "done"
        assert changed["record x"]["expires"] == NOW + 60
