"""`taskyard split`, and what an application sees of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.servers.server import RedisServer

from taskyard import Yard
from taskyard.brokers.redis import RedisBroker
from taskyard.brokers.redis.split import SplitProgress
from taskyard.cli.group import taskyard
from taskyard.errors import PartitionConflict

QUEUE = "events"


@pytest.fixture
def yard(redis_server: RedisServer) -> Yard:
    return Yard(redis_server.url)


def run(url: str, *words: str) -> Result:
    return CliRunner().invoke(taskyard, ["split", *words, "--broker", url])


def test_a_queue_is_split(yard: Yard, redis_server: RedisServer) -> None:
    @yard.task(name="note", queue=QUEUE, shard="user")
    def note(user: str) -> None: ...

    with yard:
        note.enqueue_many([f"user {number}" for number in range(500)])
        result = run(redis_server.url, QUEUE)
        assert result.exit_code == 0, result.output
        assert result.stdout.startswith("events has 2 partitions now; 2")
        assert run(redis_server.url, QUEUE).stdout.startswith("events has 4 partitions now; ")
        note.enqueue_many([f"user {number}" for number in range(500)])
        [counts] = yard.counts()
        assert (counts.waiting, counts.lanes) == (1000, 500)


def test_an_unknown_queue_is_not_split(redis_server: RedisServer) -> None:
    result = run(redis_server.url, "evnets")
    assert result.exit_code == 1
    assert "no queue 'evnets'" in result.stderr


def test_other_brokers_have_no_partitions(tmp_path: Path) -> None:
    path = tmp_path / "yard.db"
    with Yard(f"sqlite:///{path}") as yard:
        yard.counts()
    result = run(f"sqlite:///{path}", QUEUE)
    assert result.exit_code == 1
    assert "has no partitions" in result.stderr


def test_it_can_be_interrupted(
    yard: Yard, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: RedisBroker, queue: str, partitions: int = 0) -> SplitProgress:
        raise KeyboardInterrupt

    with yard:
        yard.driver.run(yard.broker.put([]))
        monkeypatch.setattr(RedisBroker, "split", interrupt)
        result = run(redis_server.url, QUEUE)
        assert result.exit_code == 130
        assert "`taskyard split events` carries it on" in result.stderr


def test_a_yard_can_ask_for_what_was_made(yard: Yard, redis_server: RedisServer) -> None:
    @yard.task(name="note", queue=QUEUE)
    def note() -> None: ...

    with yard:
        note.enqueue()
        assert run(redis_server.url, QUEUE).exit_code == 0
    for partitions in (1, 2):
        with Yard(redis_server.url) as asking:
            asking.queue(QUEUE, partitions=partitions)
            asking.remote("note", queue=QUEUE).enqueue()
    with Yard(redis_server.url) as asking:
        asking.queue(QUEUE, partitions=4)
        with pytest.raises(PartitionConflict, match="taskyard split events"):
            asking.remote("note", queue=QUEUE).enqueue()
