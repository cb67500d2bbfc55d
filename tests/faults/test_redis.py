"""A Redis that dies, hangs, or is cut off: work goes on by itself, nothing is lost or repeated."""

from __future__ import annotations

import contextlib
import itertools
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.faults.forks import SCENARIOS
from tests.faults.program import Item
from tests.faults.scene import ROOT, Process, Scene, until
from tests.faults.stores import RedisStore
from tests.servers.proxy import Proxy
from tests.servers.server import RedisServer
from tests.variants import some_in_short

from taskyard.brokers.base import Group, Put
from taskyard.brokers.redis import RedisBroker, parse_url

KINDS = ["coroutine", pytest.param("ordered", marks=pytest.mark.long), "ordered_batch"]
MOMENTS = [
    "claimed",  # before the claim is sent
    "claimed, unheard",  # it is carried out; its reply is lost
    "in mid task",
    "settling",
    "settling, unheard",
]
LEASE = 0.6

pytestmark = pytest.mark.parametrize("store", ["own redis"], indirect=True)


@pytest.fixture
def proxy(own_server: RedisServer) -> Iterator[Proxy]:
    with Proxy((own_server.host, own_server.port)) as made:
        yield made
        disconnect(made)


def disconnect(proxy: Proxy) -> None:
    """Cut all connections, also those that are just being made, and let nobody in."""
    proxy.refuse(cut=False)
    for _ in range(10):  # each is a turn of its loop, in which it comes to know whom it let in
        proxy.counters()
    proxy.cut()


@pytest.fixture
def scene(folder: Path, store: RedisStore, proxy: Proxy) -> Iterator[Scene]:
    """It ends before the proxy, through which its processes would go on to connect."""
    made = Scene(folder, store)
    yield made
    made.close()


def come_to(
    moment: str, scene: Scene, store: RedisStore, proxy: Proxy, *, lease: float = 30.0
) -> Process:
    """Start a worker behind the proxy, and stop the course of things at a moment."""
    point, _, unheard = moment.partition(", ")
    asks = {"probe": point, "skip": 1, "action": "ask"} if point != "in mid task" else {}
    worker = scene.worker(url=store.url(proxy.address), settings={"lease": lease}, **asks)
    if not asks:
        scene.began("m17")
        return worker
    scene.asked()
    if unheard:
        proxy.hold("reply")
        before = proxy.counters()
        scene.tell()
        until(lambda: proxy.counters().since(before).reply, "the server has answered")
    return worker


def fill(scene: Scene, kind: str, moment: str) -> None:
    scene.setup(kind=kind)
    scene.fill(60, shards=3, deeds={17: "hold once"} if moment == "in mid task" else {})


def go_on(scene: Scene, proxy: Proxy, moment: str) -> None:
    if "unheard" in moment:
        disconnect(proxy)  # what was kept back never arrives
    proxy.resume()
    scene.tell()
    scene.release()
    scene.drained()


# At the points of the crash matrix


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("moment", ["claimed, unheard", "settling, unheard"])
def test_a_worker_killed_before_it_hears(
    scene: Scene, store: RedisStore, proxy: Proxy, kind: str, moment: str
) -> None:
    fill(scene, kind, moment)
    victim = come_to(moment, scene, store, proxy)
    scene.kill(victim.pid)
    victim.wait()
    scene.expire()
    done = scene.counts.totals.get("done", 0)
    begun = {event.message for event in scene.of("start")}
    assert done or moment.startswith("claimed")
    scene.worker()
    scene.drained()
    evidence = scene.check(ordered=kind.startswith("ordered"))
    scene.check_store()
    # What was settled, heard or not, does not run again.
    assert sum(len(evidence.runs[message]) > 1 for message in begun) <= len(begun) - done


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_server_killed_and_restarted(
    scene: Scene, store: RedisStore, proxy: Proxy, kind: str, moment: str
) -> None:
    fill(scene, kind, moment)
    worker = come_to(moment, scene, store, proxy)
    store.server.kill()
    store.server.restart()
    go_on(scene, proxy, moment)
    assert worker.code is None
    check_once(scene, ordered=kind.startswith("ordered"))


STOPPED = list(itertools.product(MOMENTS, ["coroutine", "ordered", "ordered_batch"]))


@pytest.mark.parametrize(("moment", "kind"), some_in_short(STOPPED, STOPPED[2::3]))
def test_a_server_stopped_for_longer_than_the_lease(
    scene: Scene, store: RedisStore, proxy: Proxy, kind: str, moment: str
) -> None:
    fill(scene, kind, moment)
    first = come_to(moment, scene, store, proxy, lease=LEASE)
    second = scene.worker(settings={"lease": LEASE})
    until(lambda: "slots" in second.output(), "the other one works")
    store.server.stop_process()
    end = time.monotonic() + 2 * LEASE
    until(lambda: time.monotonic() > end, "the leases are over")
    store.server.cont()
    go_on(scene, proxy, moment)
    for worker in (first, second):
        assert worker.code is None
        scene.stop(worker)
        worker.wait()  # it has told of all that it lost
    scene.check(ordered=kind.startswith("ordered"), losses=True)
    scene.check_store()


# Under load


def check_once(scene: Scene, *, ordered: bool) -> None:
    """No lease was lost, so nothing ran twice."""
    evidence = scene.check(ordered=ordered)
    scene.check_store()
    again = [message for message, runs in evidence.runs.items() if len(runs) > 1]
    assert again == []
    totals = scene.counts.totals
    assert (totals.get("lost", 0), totals.get("redelivered", 0)) == (0, 0)


class Load:
    """Producers and workers, which nobody restarts.

    Arguments:
        scene: where they are at work.
        kind: of the task.
        url: by which they reach the server.
        count: messages of each of the two producers.
    """

    SHARDS = 50

    def __init__(self, scene: Scene, kind: str, url: str, count: int) -> None:
        self.scene, self.kind, self.count = scene, kind, count
        scene.setup(kind=kind, takes=0.001)
        fields = {"url": url, "settings": {"concurrency": 4}}
        self.workers = [scene.worker(**fields), scene.worker(**fields)]
        self.producers = [scene.start(url=url, produce=count, shards=self.SHARDS) for _ in range(2)]

    def progress(self) -> int:
        """How often something began."""
        return len(self.scene.of("start"))

    @property
    def goes_on(self) -> bool:
        """Whether not everything has been run yet."""
        return len(self.scene.of("end")) < 2 * self.count

    def finish(self) -> None:
        assert [producer.wait() for producer in self.producers] == [0, 0]
        for producer in self.producers:
            self.scene.note_accepted(
                Item(f"{producer.pid}-{number}", f"{producer.pid}-{number % self.SHARDS}")
                for number in range(self.count)
            )
        self.scene.drained()
        assert [worker.code for worker in self.workers] == [None, None]
        check_once(self.scene, ordered=self.kind.startswith("ordered"))


LOADS = ["single", "coroutine", "ordered", "ordered_batch"]


def restart(server: RedisServer) -> None:
    """Start it again, and mend its file where that ended in the middle of a script.

    Redis 6.2 and 7.0 (Valkey not) then cut off the last command only, and leave what is before it
    of the script's transaction. What they write next becomes a part of that, so that the start
    after this one would do a half twice. It would before the new file is complete, too: nobody
    kills them until then.
    """
    server.restart()
    if "Truncating the AOF" in server.log():
        client = server.client()
        client.bgrewriteaof()
        until(lambda: not is_rewriting(client.info("persistence")), "the file is written anew")


def is_rewriting(info: dict[str, Any]) -> bool:
    return bool(info["aof_rewrite_in_progress"] or info["aof_rewrite_scheduled"])


def killed_again_and_again(load: Load, store: RedisStore, chance: random.Random) -> int:
    kills = 0
    while load.goes_on:
        goal = load.progress() + chance.randrange(1, 600)
        until(lambda: load.progress() >= goal or not load.goes_on, "the work goes on")  # noqa: B023
        store.server.kill()
        restart(store.server)
        kills += 1
    return kills


@pytest.mark.long
@pytest.mark.parametrize("kind", ["single", "ordered_batch"])
def test_a_server_that_is_killed_again_and_again(
    scene: Scene, store: RedisStore, kind: str
) -> None:
    load = Load(scene, kind, store.url(), 1000)
    assert killed_again_and_again(load, store, random.Random(f"kills {kind}")) > 1
    load.finish()


def cut_again_and_again(load: Load, proxy: Proxy, chance: random.Random, most: int = 20_000) -> int:
    cuts = 0
    while load.goes_on:
        direction = "request" if chance.random() < 0.5 else "reply"
        proxy.cut_after(chance.randrange(most), direction, reset=chance.random() < 0.5)
        with contextlib.suppress(TimeoutError):
            proxy.wait_cut(0.5)
            cuts += 1
    return cuts


@pytest.mark.parametrize("kind", ["coroutine", "ordered"])
def test_connections_that_are_cut_at_any_byte(
    scene: Scene, store: RedisStore, proxy: Proxy, kind: str
) -> None:
    load = Load(scene, kind, store.url(proxy.address), 1000)
    assert cut_again_and_again(load, proxy, random.Random(f"cuts {kind}")) > 10
    proxy.resume()
    load.finish()


# Under load the proxy drops a connection that it accepted without closing it: its fault, not found.
UNCLOSED = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def swallowed_again_and_again(load: Load, proxy: Proxy, chance: random.Random) -> int:
    times = 0
    while load.goes_on:
        goal = load.progress() + chance.randrange(1, 200)
        until(lambda: load.progress() >= goal or not load.goes_on, "the work goes on")  # noqa: B023
        before = proxy.counters()
        proxy.swallow("reply")
        asked = chance.randrange(1, 100)
        # Nobody speaks any more once all wait for a reply; then some give up, and speak again.
        until(lambda: proxy.counters().since(before).reply >= asked, "replies are lost")  # noqa: B023
        if chance.random() < 0.5:
            connections = proxy.counters().connections
            until(lambda: proxy.counters().connections > connections, "one gave up")  # noqa: B023
        disconnect(proxy)
        proxy.resume()
        times += 1
    return times


@UNCLOSED
@pytest.mark.parametrize("kind", ["batch", "ordered_batch"])
def test_replies_that_are_lost(scene: Scene, store: RedisStore, proxy: Proxy, kind: str) -> None:
    load = Load(scene, kind, store.url(proxy.address), 3000)
    assert swallowed_again_and_again(load, proxy, random.Random(f"replies {kind}")) > 1
    load.finish()


@UNCLOSED
@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", LOADS)
@pytest.mark.parametrize("fault", ["killed", "cut", "swallowed"])
def test_faults_again_and_again_for_long(
    scene: Scene, store: RedisStore, proxy: Proxy, kind: str, fault: str
) -> None:
    load = Load(scene, kind, store.url(proxy.address), 10_000)
    chance = random.Random(f"{fault} {kind}")
    if fault == "killed":
        assert killed_again_and_again(load, store, chance) > 10
    elif fault == "cut":
        # A step with a thousand messages has to get through before its call is given up.
        assert cut_again_and_again(load, proxy, chance, 100_000) > 10
        proxy.resume()
    else:
        assert swallowed_again_and_again(load, proxy, chance) > 10
    load.finish()


@pytest.mark.parametrize("processes", [0, 1])
def test_a_worker_that_starts_before_its_server_waits(
    scene: Scene, store: RedisStore, processes: int
) -> None:
    store.options["retry"] = 0.2
    scene.fill(10)
    store.server.kill()
    worker = scene.worker(settings={"processes": processes})
    until(lambda: worker.output().count("the broker failed") >= 2, "it has tried twice")
    assert worker.code is None
    store.server.restart()
    scene.drained()
    check_once(scene, ordered=False)


# What arrives late


def test_a_request_that_the_next_one_has_overtaken_does_nothing(
    store: RedisStore, proxy: Proxy
) -> None:
    """It was sent again over another connection, and answered; then it arrives."""
    broker = RedisBroker(parse_url(store.url(proxy.address)))
    driver = broker.driver()
    group = Group("queue", "task")

    def put(body: bytes) -> None:
        driver.run(broker.put([Put(group, [body])]))

    def carried_out() -> int:
        stats = store.server.client().info("commandstats")
        return int(stats["cmdstat_evalsha"]["calls"])

    put(b"one")
    before = proxy.counters()
    calls = carried_out()
    proxy.set_delay(5.0, "request")  # what comes next has to be done by then
    putting = threading.Thread(target=put, args=(b"two",))
    putting.start()
    until(lambda: proxy.counters().since(before).request, "it is on its way")
    proxy.set_delay(0.0)
    putting.join()
    put(b"three")
    assert carried_out() == calls + 2
    until(lambda: carried_out() == calls + 3, "it has arrived")
    [counts] = driver.run(broker.counts())
    assert counts.waiting == 3
    driver.close()


# Forks


@pytest.mark.timeout(90)  # many starts of a Python
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_yard_can_be_used_after_a_fork(store: RedisStore, scenario: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.forks", scenario, store.url()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert done.returncode == 0, done.stderr
