"""Couriers that are killed with a lot in hand: each value that was pushed is stored, and once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.faults.program import Item
from tests.faults.scene import Process, Scene, until
from tests.faults.stores import RedisStore
from tests.servers.proxy import Proxy
from tests.servers.server import RedisServer
from tests.variants import some_in_short

from taskyard.brokers.base import Put
from taskyard.brokers.redis import RedisBroker, parse_url

SHARDS = 7
LEASE = 3.0
"""Seconds after which what a killed worker had begun is begun again."""

POINTS = [
    ("courier woken", 0),
    ("courier collect", 1),
    ("courier collect answered", 0),
    ("courier plan", 0),
    ("courier plan answered", 0),
    ("courier put", 1),
    ("courier put answered", 1),
]
"""Where a process is killed, and how often it was there before."""

UNHEARD = ["courier plan", "courier put", "courier collect"]

pytestmark = pytest.mark.parametrize("store", ["own redis"], indirect=True)


@pytest.fixture
def proxy(own_server: RedisServer) -> Iterator[Proxy]:
    with Proxy((own_server.host, own_server.port)) as made:
        yield made


@pytest.fixture
def pushed(folder: Path, store: RedisStore, proxy: Proxy) -> Iterator[Inbox]:
    made = Inbox(Scene(folder, store), store)
    yield made
    made.scene.close()


class Inbox:
    """The inbox of a scene's queue.

    Attributes:
        scene: whose.
        bare: whether values are pushed to its bare inbox.
    """

    def __init__(self, scene: Scene, store: RedisStore) -> None:
        self.scene = scene
        self._client = store.server.client()
        self._url = store.url()
        self._prefix = store.prefix
        self.bare = False
        self._count = 0
        self._before = self._blocked()

    @property
    def _key(self) -> str:
        return "default" if self.bare else f"{self._prefix}:inbox:default"

    def spread(self, partitions: int) -> None:
        """Put the queue into several containers, before anybody uses it."""
        broker = RedisBroker(parse_url(self._url))
        broker.set_partitions("default", partitions)
        driver = broker.driver()
        driver.run(broker.put([Put(self.scene.task.group, [])]))
        driver.close()

    def push(self, count: int) -> None:
        numbers = range(self._count, self._count + count)
        items = [Item(f"v{number}", f"s{number % SHARDS}") for number in numbers]
        self._count += count
        for first in range(0, count, 100):
            lot = items[first : first + 100]
            self._client.lpush(self._key, *map(_value, lot))
            self.scene.note_accepted(lot)

    def push_broken(self, count: int) -> None:
        """Push what nobody can read."""
        self._client.lpush(self._key, *(f"{number}}}" for number in range(count)))

    def waited_for(self, couriers: int = 1) -> None:
        """Wait until so many couriers of workers are blocked, at whichever inbox."""
        until(lambda: len(self._blocked() - self._before) >= couriers, "couriers wait")

    def _blocked(self) -> set[str]:
        """The ids of clients that wait; those of the test before may not be gone yet."""
        clients = self._client.client_list()
        return {one["id"] for one in clients if one["cmd"] == "blmove" and "b" in one["flags"]}

    def left(self) -> int:
        """How many values are not in the queue, or not known to be."""
        names = (f"{{{self._key}}}:{kind}" for kind in ("woken", "out"))
        aside = sum(self._client.llen(f"{self._prefix}:{name}") for name in names)
        return int(self._client.llen(self._key)) + aside

    def stored(self) -> int:
        return int(self.scene.counts.totals.get("put", 0))

    def check(self) -> None:
        """Everything arrived and ran, in order; nothing was stored twice."""
        until(lambda: self.stored() >= self._count and not self.left(), "it is taken over")
        assert self.stored() == self._count
        self.scene.drained()
        self.scene.check(ordered=True, losses=True)
        assert self.left() == 0
        assert self.stored() == self._count


def _value(item: Item) -> bytes:
    return msgspec.json.encode({"taskyard": {"id": item.name}, "value": item})


def begin(pushed: Inbox, partitions: int) -> None:
    pushed.scene.setup(kind="ordered", policy={"max_deliveries": 100})
    if partitions:
        pushed.spread(partitions)


def worker(pushed: Inbox, **fields: Any) -> Process:
    return pushed.scene.worker(settings={"lease": LEASE, "bare_inboxes": pushed.bare}, **fields)


@pytest.mark.parametrize(
    ("point", "skip", "partitions"),
    some_in_short(
        [
            (point, skip, partitions)
            for point, skip in POINTS
            for partitions in (4, 0)
            if partitions or "plan" not in point  # which one container does not need
        ],
        [
            ("courier woken", 0, 0),
            ("courier collect answered", 0, 4),
            ("courier plan", 0, 4),
            ("courier put answered", 1, 4),
        ],
    ),
)
def test_a_courier_that_is_killed_is_replaced(
    pushed: Inbox, point: str, skip: int, partitions: int
) -> None:
    begin(pushed, partitions)
    workers = [worker(pushed, probe=point, skip=skip) for _ in range(2)]
    pushed.waited_for()
    pushed.push(1200)
    until(lambda: pushed.scene.of("die"), "one is killed")
    pushed.push(100)
    pushed.check()
    assert sorted(str(process.code) for process in workers) == ["-9", "None"]


@pytest.mark.parametrize(
    "point", ["courier woken", "courier collect answered", "courier put answered"]
)
def test_a_courier_of_a_bare_inbox_that_is_killed_is_replaced(pushed: Inbox, point: str) -> None:
    begin(pushed, 4)
    pushed.bare = True
    workers = [worker(pushed, probe=point) for _ in range(2)]
    if point == "courier woken":
        pushed.waited_for(2 * len(workers))
    pushed.push(700)
    until(lambda: pushed.scene.of("die"), "one is killed")
    pushed.push(100)
    pushed.check()
    assert sorted(str(process.code) for process in workers) == ["-9", "None"]


@pytest.mark.parametrize("point", UNHEARD)
def test_a_courier_that_is_killed_before_it_hears_is_replaced(
    pushed: Inbox, store: RedisStore, proxy: Proxy, point: str
) -> None:
    begin(pushed, 4)
    pushed.push(700)
    away = store.url(proxy.address)
    victim = worker(pushed, url=away, probe=point, skip=1, action="ask")
    pushed.scene.asked()
    before = proxy.counters()
    proxy.hold("reply")
    pushed.scene.tell()
    until(lambda: proxy.counters().since(before).reply, "the server has answered")
    pushed.scene.kill(victim.pid)
    victim.wait()
    worker(pushed)
    pushed.push(100)
    pushed.check()


@pytest.mark.long
@pytest.mark.parametrize("point", ["courier put", "courier put answered"])
def test_couriers_that_are_killed_again_and_again(pushed: Inbox, point: str) -> None:
    begin(pushed, 4)
    pushed.push(3000)
    # A process gets so far that the work goes on; then it is killed, and another one made.
    worker_ = pushed.scene.worker(
        settings={"lease": LEASE, "processes": 2}, probe=point, skip=2, action="crash"
    )
    pushed.check()
    assert worker_.code is None
    assert len(pushed.scene.of("die")) >= 2


@pytest.mark.parametrize("point", ["courier put", "courier collect answered"])
def test_a_courier_that_comes_back_late_stores_nothing_again(pushed: Inbox, point: str) -> None:
    begin(pushed, 4)
    pushed.push(700)
    late = worker(pushed, probe=point, action="pause")
    until(lambda: pushed.scene.of("pause"), "it is stopped")
    worker(pushed)
    pushed.push(100)
    until(lambda: pushed.stored() == 800 and not pushed.left(), "another one has taken over")
    pushed.scene.resume(late.pid)
    pushed.push(100)
    pushed.check()
    assert late.code is None


def test_values_that_nobody_can_read_are_dead_once(pushed: Inbox) -> None:
    begin(pushed, 4)
    workers = [worker(pushed, probe="courier put answered") for _ in range(2)]
    for _ in range(2):
        pushed.push_broken(50)
    until(lambda: pushed.scene.of("die"), "one is killed")
    until(lambda: not pushed.left() and pushed.stored() == 100, "they are taken over")
    assert len(pushed.scene.dead()) == 100
    assert sorted(str(process.code) for process in workers) == ["-9", "None"]
