"""Workers take in what plain clients push, as soon as it is there, and whatever it is."""

from __future__ import annotations

import asyncio
import json
import logging
import queue
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
from redis.crc import key_slot
from tests.servers.cluster import RedisCluster
from tests.servers.fixtures import required
from tests.servers.proxy import Proxy
from tests.servers.server import RedisServer, wait_until
from tests.worker.support import DEADLINE, WorkerThread, working

from taskyard import Yard
from taskyard.brokers.lane import Gate
from taskyard.brokers.redis import watch
from taskyard.brokers.redis.inbox import RedisInboxes
from taskyard.errors import QueueDraining, WorkerError
from taskyard.message import Reason
from taskyard.policy import Batch
from taskyard.task import Task
from taskyard.worker import courier

Q = "q1"


class Site:
    """A yard of its own on a server, and a plain client."""

    def __init__(self, url: str, client: Any) -> None:
        self.prefix = f"inbox-{uuid.uuid4().hex}"
        separator = "&" if "?" in url else "?"
        self.url = f"{url}{separator}prefix={self.prefix}"
        self.yard = Yard(self.url)
        self.client = client
        self.seen: queue.Queue[Any] = queue.Queue()

    def key(self, name: str = Q) -> str:
        return f"{self.prefix}:inbox:{name}"

    def serve(self, queue: str) -> Task[..., Any]:
        """Have a handler that passes on what it gets."""

        def handle(item: Any) -> None:
            self.seen.put(item)

        return self.yard.task(handle, name=f"of {queue}", queue=queue)

    def push(self, *values: Any, name: str = Q) -> None:
        encoded = [v if isinstance(v, bytes) else json.dumps(v).encode() for v in values]
        self.client.lpush(self.key(name), *encoded)

    def next(self) -> Any:
        return self.seen.get(timeout=DEADLINE)

    def dead(self) -> dict[bytes, str]:
        letters = self.yard.dead.list(queue=Q)
        assert all(letter.failure.reason == Reason.UNREADABLE for letter in letters)
        return {letter.body: letter.failure.message for letter in letters}

    def waiting(self, server: RedisServer, inboxes: int = 1) -> None:
        """Wait until a worker is blocked at its inboxes: there is nothing else to see then."""
        probe = server.client()
        wait_until(lambda: self._blocked(probe) >= inboxes, "a worker waits for the inbox")

    def _blocked(self, probe: redis.Redis) -> int:
        return sum(
            entry["cmd"] == "blmove" and "b" in entry["flags"] for entry in probe.client_list()
        )


@contextmanager
def site_on(url: str, client: Any) -> Iterator[Site]:
    made = Site(url, client)
    try:
        yield made
    finally:
        asyncio.run(made.yard.aclose())


@pytest.fixture
def site(shared_server: RedisServer) -> Iterator[Site]:
    with site_on(shared_server.url, shared_server.client()) as made:
        yield made


def test_a_bare_push_wakes_a_worker(site: Site, shared_server: RedisServer) -> None:
    @site.yard.task(name="own", queue=Q)
    def single(item: Any) -> None:
        site.seen.put(item)

    @site.yard.task(name="second", queue="q2", batch=Batch(10))
    async def batch(items: list[Any]) -> None:
        site.seen.put(items)

    with working(site.yard):
        site.waiting(shared_server)
        for value in ([1], {"a": 2}, "text", None):
            site.push(value)
            assert site.next() == value
            site.push(value, name="q2")
            assert site.next() == [value]
        site.waiting(shared_server, inboxes=2)  # the last lots are through
    left = {key.decode() for key in site.client.keys(f"{site.prefix}:{{{site.prefix}:*")}
    assert {key.rpartition(":")[2] for key in left} == {"meta"}


def test_a_worker_that_waits_does_not_poll(
    site: Site, shared_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "BLOCK", 10_000.0)
    site.serve(Q)
    with working(site.yard), shared_server.client() as probe:
        site.waiting(shared_server)
        with probe.monitor() as monitor:
            for number in (0, 1, 12345):
                site.push(number)
                assert site.next() == number
                site.waiting(shared_server)
            said: list[str] = []
            while not (said and said[-1].startswith("LPUSH") and "12345" in said[-1]):
                said.append(monitor.next_command()["command"])
    waits = [line.split()[0] for line in said if line.startswith(("LPUSH", "BLMOVE"))]
    assert waits == ["LPUSH", "BLMOVE", "LPUSH", "BLMOVE", "LPUSH"]


@pytest.mark.parametrize("options", ["", "?wait_replicas=1"])
def test_a_push_to_the_bare_name_of_a_queue_wakes_a_worker_too(
    redis_cluster: RedisCluster, options: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "BLOCK", 10_000.0)
    with (
        redis_cluster.client() as client,
        site_on(f"{redis_cluster.url}{options}", client) as site,
    ):
        names = ["0", "1", f"{site.prefix}-q"]  # two as containers are called
        for name in names:
            site.serve(name)
        with working(site.yard, bare_inboxes=True):
            for number in range(9):
                name = names[number % 3]
                for key in (site.key(name), name):
                    site.waiting(redis_cluster.master_of(key_slot(key.encode())))
                    client.lpush(key, json.dumps([key, number]))
                    assert site.next() == [key, number]


def test_lists_with_the_name_of_a_queue_are_left_alone_unless_that_is_asked_for(
    site: Site,
) -> None:
    name = f"{site.prefix}-q"
    site.serve(name)
    site.push(1, name=name)
    site.client.lpush(name, "2")
    for bare in (False, True):
        thread = WorkerThread(site.yard, burst=True, bare_inboxes=bare)
        thread.start()
        thread.join()
        assert site.next() == 1 + bare
        assert site.seen.empty()
        assert site.client.llen(name) == (0 if bare else 1)


def test_what_cannot_be_read_is_a_dead_letter_and_the_rest_goes_on(site: Site) -> None:
    @site.yard.task(name="own", queue=Q, max_bytes=6_000_000)
    def single(item: dict[str, Any] | list[int] | int) -> None:
        site.seen.put(item)

    huge = {"text": "x" * 5_000_000}
    bad = {
        b"": "it is empty",
        b"[1": "Input data was truncated",
        bytes(range(256)): "no JSON",
        b"[NaN]": "invalid character",
        b"[" * 50_000 + b"]" * 50_000: "nested too deeply",
        b'"text"': "argument 'item': Expected",
        b'{"taskyard": {"delay": -1}, "value": 1}': "delay must be at least 0",
        b'{"taskyard": {"task": "other"}, "value": 1}': "no task 'other'",
        b'"\xff"': "utf-8",
        b'{"text": "' + b"x" * 7_000_000 + b'"}': "bytes when encoded, and the limit is 6,000,000",
    }
    values: list[Any] = [1]
    for number, value in enumerate(bad):
        values += [value, number]
    values += [huge, b"\xff" * 5_000_000, [7]]
    with working(site.yard) as thread:
        for value in values:
            site.push(value)
        good = [value for value in values if not isinstance(value, bytes)]
        found = [site.next() for _ in good]
        assert sorted(map(str, found)) == sorted(map(str, good))
        thread.until(lambda: len(site.dead()) == len(bad) + 1)
        dead = site.dead()
        assert all(text in dead[value] for value, text in bad.items())
        assert b"\xff" * 5_000_000 in dead
        site.push(99)
        assert site.next() == 99


def test_a_dead_letter_that_is_retried_is_one_again(site: Site) -> None:
    site.serve(Q)
    with working(site.yard) as thread:
        site.push(b"[1")
        thread.until(lambda: len(site.dead()) == 1)
        assert site.yard.dead.retry(queue=Q) == 1
        thread.until(lambda: len(site.dead()) == 1)


def test_options_on_the_way(site: Site) -> None:
    @site.yard.task(name="own", queue=Q, result_ttl=60)
    def double(number: int) -> int:
        site.seen.put(number)
        return 2 * number

    with working(site.yard):
        site.push({"taskyard": {"id": "mine", "delay": 0.01}, "value": 21})
        assert site.next() == 21
        assert double.result("mine").get(timeout=DEADLINE) == 42


def test_an_ordered_shard_keeps_the_order_of_pushes(site: Site) -> None:
    @site.yard.task(name="own", queue=Q, shard="user", ordered=True)
    def save(user: str, number: int) -> None:
        site.seen.put((user, number))

    count = 1500
    with working(site.yard), working(site.yard):
        for number in range(count):
            site.push({"user": "ab"[number % 2], "number": number})
        found = [site.next() for _ in range(count)]
    for user in "ab":
        numbers = [number for name, number in found if name == user]
        assert numbers == sorted(numbers)
        assert len(numbers) == count // 2
    assert site.dead() == {}


def test_several_workers_take_each_value_once(site: Site) -> None:
    site.serve(Q)
    count = 5000
    for first in range(0, count // 2, 500):
        site.push(*range(first, first + 500))
    with working(site.yard), working(site.yard), working(site.yard):
        for number in range(count // 2, count):
            site.push(number)
        found = [site.next() for _ in range(count)]
        assert sorted(found) == list(range(count))
    assert site.seen.empty()
    assert site.client.llen(site.key()) == 0


def test_a_burst_empties_the_inbox_too(site: Site) -> None:
    @site.yard.task(name="own", queue=Q)
    def single(number: int) -> None:
        site.seen.put(number)
        if number:  # it may go on by itself
            site.push(number - 1)

    site.serve("q2")
    site.push(*[0] * 1200, 3)
    site.push("x", name="q2")
    thread = WorkerThread(site.yard, burst=True)
    thread.start()
    thread.join()
    assert site.seen.qsize() == 1200 + 4 + 1


class Refusals:
    """Counts how often a draining queue refused a lot."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.number = 0
        store = RedisInboxes.store

        def counted(inboxes: RedisInboxes, *args: Any) -> Any:
            try:
                return (yield from store(inboxes, *args))
            except QueueDraining:
                self.number += 1
                raise

        monkeypatch.setattr(RedisInboxes, "store", counted)


def test_a_draining_queue_leaves_its_inbox_alone(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(courier, "HELD_BACK", 0.05)
    caplog.set_level(logging.INFO, "taskyard.worker")
    refusals = Refusals(monkeypatch)
    site.serve(Q)
    site.serve("q2")
    site.yard.drain(Q)
    site.push(*range(1200))
    with working(site.yard):
        wait_until(lambda: refusals.number >= 3, "it tries again and again")
        site.push("x", name="q2")
        assert site.next() == "x"
        assert site.seen.empty()
        site.push(1200)
        assert site.yard.resume(Q) is Gate.DRAINING
        assert sorted(site.next() for _ in range(1201)) == list(range(1201))
        wait_until(lambda: "is served again" in caplog.text, "the good news")
    assert caplog.text.count("the inbox of queue q1 keeps what it has") == 1
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_lot_of_a_draining_queue_is_tried_now_and_then(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courier, "HELD_BACK", 10_000.0)
    refusals = Refusals(monkeypatch)
    site.serve(Q)
    site.serve("q2")
    site.yard.drain(Q)
    site.push(*range(1200))
    with working(site.yard):
        wait_until(lambda: refusals.number > 0, "it tries")
        left = site.client.llen(site.key())
        for number in range(20):
            site.push(number, name="q2")
            assert site.next() == number
    assert refusals.number == 1
    assert site.client.llen(site.key()) == left


def test_bursts_do_not_wait_for_a_draining_queue(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = Refusals(monkeypatch)
    task = site.serve(Q)
    task.enqueue_many(range(100))
    site.yard.drain(Q)
    site.push(*range(1200))
    workers = [WorkerThread(site.yard, burst=True) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(site.seen.get_nowait() for _ in range(100)) == list(range(100))
    assert site.seen.empty()
    assert 1 <= refusals.number <= len(workers)
    site.yard.resume(Q)
    late = WorkerThread(site.yard, burst=True)
    late.start()
    late.join()
    assert site.seen.qsize() == 1200


def test_it_can_be_switched_off(site: Site) -> None:
    task = site.serve(Q)
    site.push(1)
    task.enqueue(2)
    thread = WorkerThread(site.yard, burst=True, inboxes=False)
    thread.start()
    thread.join()
    assert site.next() == 2
    assert site.seen.empty()
    assert site.client.llen(site.key()) == 1


def test_the_first_dead_letter_can_end_the_worker(site: Site) -> None:
    site.serve(Q)
    site.push(b"[")
    thread = WorkerThread(site.yard, fail_fast=True)
    thread.start()
    with pytest.raises(WorkerError, match="no JSON: Input data was truncated"):
        thread.join()


def test_a_queue_with_a_brace_has_no_inbox(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    task = site.serve("a}b")
    site.push(1, name="a}b")
    task.enqueue(2)
    with working(site.yard):
        assert site.next() == 2
    assert "queue a}b has no inbox, because of its name" in caplog.text


def test_a_key_of_somebody_else_is_complained_of_once(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "taskyard.worker")
    task = site.serve(Q)
    site.client.set(site.key(), "mine")
    with working(site.yard):
        task.enqueue(1)
        assert site.next() == 1
        wait_until(lambda: "WRONGTYPE" in caplog.text, "the complaint")
        site.client.delete(site.key())
        site.push(2)
        assert site.next() == 2
        site.push(3)
        assert site.next() == 3
        wait_until(lambda: "is served again" in caplog.text, "the good news")
    assert caplog.text.count("the inbox of queue q1 fails") == 1


def test_a_connection_that_is_cut_is_not_complained_of(
    shared_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        Proxy((shared_server.host, shared_server.port)) as proxy,
        site_on(f"redis://{proxy.address}", shared_server.client()) as site,
    ):
        site.serve(Q)
        with working(site.yard):
            site.waiting(shared_server)
            caplog.clear()
            for number in range(5):
                proxy.cut()
                site.push(number)
                assert site.next() == number
                site.waiting(shared_server)
                site.push("one that was waited for")
                assert site.next() == "one that was waited for"
                site.waiting(shared_server)
            # A call of the worker that is cut may be told of as an outage.
            assert [one.getMessage() for one in caplog.records if one.levelname == "ERROR"] == []
            assert "inbox" not in caplog.text


def test_an_outage_is_told_once_by_who_waits_at_an_inbox_too(
    shared_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        Proxy((shared_server.host, shared_server.port)) as proxy,
        site_on(f"redis://{proxy.address}?retry=600", shared_server.client()) as site,
    ):
        site.serve(Q)
        with working(site.yard):
            site.waiting(shared_server)
            caplog.clear()
            proxy.refuse()
            wait_until(lambda: "Connection refused" in caplog.text, "a warning")
            proxy.resume()
            site.push(1)
            assert site.next() == 1
            site.waiting(shared_server)
        [told] = [one for one in caplog.records if one.levelname != "INFO"]
    assert (told.name, told.levelname) == ("taskyard.redis", "WARNING")


def test_a_server_that_is_killed_and_comes_back() -> None:
    with (
        RedisServer(binary=required(), appendonly=True, appendfsync="always") as server,
        site_on(f"{server.url}?timeout=1", server.client()) as site,
    ):
        site.serve(Q)
        with working(site.yard):
            for number in range(3):
                site.waiting(server)
                server.kill()
                server.restart()
                site.push(number)
                assert site.next() == number


def test_a_forgotten_script_is_loaded_again(site: Site, shared_server: RedisServer) -> None:
    site.serve(Q)
    with working(site.yard):
        for number in range(3):
            site.waiting(shared_server)
            site.client.script_flush()
            site.push(number)
            assert site.next() == number


@pytest.mark.parametrize("options", ["", "?wait_replicas=1"])
def test_in_a_cluster(redis_cluster: RedisCluster, options: str) -> None:
    with (
        redis_cluster.client() as client,
        site_on(f"{redis_cluster.url}{options}", client) as site,
    ):
        for number in range(5):  # in several hash slots
            site.serve(f"queue{number}")
        with working(site.yard):
            for number in range(20):
                name = f"queue{number % 5}"
                site.waiting(redis_cluster.master_of(key_slot(site.key(name).encode())))
                site.push(number, name=name)
                assert site.next() == number


def test_a_failover_of_the_cluster() -> None:
    with (
        RedisCluster(binary=required(), appendonly=True) as cluster,
        site_on(f"{cluster.url}?timeout=1", None) as site,
    ):
        site.serve(Q)
        slot = key_slot(site.key().encode())
        with working(site.yard):
            old = cluster.master_of(slot)
            site.waiting(old)
            cluster.kill(old)
            cluster.wait_failover(slot, old)
            with cluster.client() as client:
                client.lpush(site.key(), "1")
                assert site.next() == 1


def test_from_the_command_line(site: Site) -> None:
    command = [sys.executable, "-m", "taskyard", "start", "-t", Q, "print", "-n", "0"]
    site.push([1], {"a": 2})
    with subprocess.Popen(
        [*command, "-b", "2", "--broker", site.url], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "[[1], {'a': 2}]\n"
        process.terminate()
        assert process.wait(DEADLINE) == 0
