"""The drivers of the Redis broker, where nothing goes wrong."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.redis.driving import ADD, ECHO, KINDS, SAY, Driven, behind, call, driven, script
from tests.servers.server import RedisServer, wait_until

from taskyard.brokers.base import Operation
from taskyard.brokers.redis.calls import Call, ScriptError
from taskyard.brokers.redis.drivers import RedisAsyncDriver
from taskyard.brokers.redis.failures import NotConfirmed, Refusal
from taskyard.brokers.redis.options import parse_url
from taskyard.errors import BrokerError, BrokerInaccessible


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    made: str = request.param
    return made


@pytest.fixture
def one(kind: str, redis_server: RedisServer) -> Iterator[Driven]:
    with driven(kind, redis_server.url) as made:
        yield made


class Connections:
    """Those of drivers to a server, but for those of earlier tests, which may still be there."""

    def __init__(self, server: RedisServer) -> None:
        self._client = server.client()
        self._before = self._client.client_id()

    def __len__(self) -> int:
        return sum(
            each["name"] == "taskyard" and int(each["id"]) > self._before
            for each in self._client.client_list()
        )


@pytest.fixture
def connections(redis_server: RedisServer) -> Connections:
    return Connections(redis_server)


# Calls and replies


@pytest.mark.parametrize(
    ("expression", "reply"),
    [
        ("1", 1),
        ("'x'", b"x"),
        ("false", None),
        ("{}", []),
        ("{1, {'a', {}}, '\\255'}", [1, [b"a", []], b"\xff"]),
        ("redis.status_reply('fine')", b"fine"),
    ],
)
def test_replies_are_left_as_they_are(one: Driven, expression: str, reply: Any) -> None:
    assert one.run(call(SAY, expression)) == reply


def test_what_a_script_gets(one: Driven) -> None:
    slot, *rest = one.run(call(ECHO, b"\x00\xff", "ä", -3, 0.25, 1 << 60))
    assert len(slot) == 12
    assert rest == [b"1", b"", b"\x00\xff", "ä".encode(), b"-3", b"0.25", b"1152921504606846976"]
    assert one.run(call(ECHO))[:2] == [slot, b"2"]
    keys = script("return KEYS")
    assert one.run(call(keys, tag="q:1")) == [b"taskyard:{q:1}"]


def test_prefix_clock_and_database(kind: str, redis_server: RedisServer) -> None:
    url = redis_server.url.removesuffix("/0") + "/3"
    times = iter([7, 8])
    with driven(kind, url, prefix="mine", clock=lambda: next(times)) as one:
        assert one.run(call(ECHO))[2] == b"7"
        assert one.run(call(ECHO))[2] == b"8"
    with driven(kind, url, prefix="mine") as one:
        one.run(call(ADD, "x"))
    assert redis_server.client(db=3).lrange("mine:{t}:list", 0, -1) == [b"x"]


def test_large_commands_and_replies(one: Driven) -> None:
    body = bytes(range(256)) * 40_000
    assert one.run(call(ECHO, body, body))[3:] == [body, body]


def test_errors_of_scripts_are_thrown_into_the_operation(one: Driven) -> None:
    def operation() -> Operation[Any]:
        try:
            yield Call(SAY, "t", ["redis.error_reply('TASKYARD TAKEN the id x')"])
        except ScriptError as error:
            reply = yield Call(SAY, "t", ["'went on'"])
            return (error.code, error.text, reply)

    assert one.run(operation()) == ("TAKEN", "the id x", b"went on")
    assert one.run(call(ECHO))[1] == b"3"


@pytest.mark.parametrize("expression", ["redis.error_reply('ODD thing')", "nil + 1", "("])
def test_other_errors_are_errors_of_the_broker(one: Driven, expression: str) -> None:
    with pytest.raises(BrokerError, match=r"Redis at 127\.0\.0\.1:") as caught:
        one.run(call(SAY, expression))
    assert not isinstance(caught.value, BrokerInaccessible)
    assert one.run(call(SAY, "1")) == 1


def test_a_script_that_the_server_forgot_is_loaded_again(
    one: Driven, redis_server: RedisServer
) -> None:
    slot = one.run(call(ECHO))[0]
    redis_server.client().script_flush()
    assert one.run(call(ECHO))[:2] == [slot, b"2"]


# Several at once


def test_calls_of_a_list_share_a_round_trip(kind: str, redis_server: RedisServer) -> None:
    def several(*expressions: str) -> Operation[list[Any]]:
        return (yield [Call(SAY, str(n), [text]) for n, text in enumerate(expressions)])

    with behind(redis_server, kind) as (proxy, one):
        one.run(call(SAY, "0"))
        before = proxy.counters()
        assert one.run(several("1", "'two'", "{3}")) == [1, b"two", [3]]
        assert proxy.counters().since(before).round_trips == 1
        assert one.run(several()) == []
        with pytest.raises(ScriptError, match="NO reason"):
            one.run(several("1", "redis.error_reply('TASKYARD NO reason')", "(", "4"))


def test_calls_of_a_list_have_wires_of_their_own(one: Driven) -> None:
    def several() -> Operation[list[Any]]:
        return (yield [Call(ECHO, "t"), Call(ECHO, "t")])

    first, second = one.run(several())
    assert first[0] != second[0]
    again = one.run(several())
    assert [each[:2] for each in again] == [[first[0], b"2"], [second[0], b"2"]]


def test_threads_and_tasks_do_not_wait_for_each_other(kind: str, redis_server: RedisServer) -> None:
    with behind(redis_server, kind) as (proxy, one):
        proxy.hold("reply")
        begun = [one.begin(call(ADD, n)) for n in range(5)]
        wait_until(lambda: proxy.counters().connections == 5, "five connections")
        proxy.resume()
        assert sorted(each.result() for each in begun) == [1, 2, 3, 4, 5]


def test_there_are_no_more_connections_than_allowed(
    kind: str, redis_server: RedisServer, connections: Connections
) -> None:
    with driven(kind, redis_server.url, connections=2) as one:
        begun = [one.begin(call(ADD, n)) for n in range(50)]
        assert sorted(each.result() for each in begun) == list(range(1, 51))
        assert 1 <= len(connections) <= 2


# Connecting


def test_over_a_unix_socket(kind: str, redis_server: RedisServer) -> None:
    with driven(kind, redis_server.unix_url) as one:
        assert one.run(call(SAY, "1")) == 1


def test_over_tls(kind: str, redis_tls: RedisServer) -> None:
    with driven(kind, redis_tls.url) as one:
        body = b"x" * 1_000_000
        assert one.run(call(ECHO, body))[3] == body
        assert one.run(call(ADD, "x")) == 1
    url = f"rediss://localhost:{redis_tls.port}?verify=none"
    with driven(kind, url) as one:
        assert one.run(call(ADD, "x")) == 2


def test_with_a_user_and_password(kind: str, redis_binary: object) -> None:
    with RedisServer(password="p:@ss", users=["app on >s/cret ~taskyard:* &* +@all"]) as server:
        with driven(kind, server.url) as one:
            assert one.run(call(SAY, "1")) == 1
        with driven(kind, f"redis://app:s%2Fcret@{server.host}:{server.port}") as one:
            assert one.run(call(ADD, "1")) == 1


def test_with_the_least_that_an_acl_may_allow(kind: str, redis_binary: object) -> None:
    rule = "app on >pw ~taskyard:* -@all +evalsha +script|load +get +set +rpush +select"
    with (
        RedisServer(users=[rule]) as server,
        driven(kind, f"redis://app:pw@{server.host}:{server.port}/1") as one,
    ):
        assert one.run(call(ADD, "1")) == 1


def test_close_leaves_nothing_and_may_be_followed_by_use(
    one: Driven, connections: Connections
) -> None:
    for _ in range(2):
        one.run(call(SAY, "1"))
        assert len(connections) == 1
        if isinstance(one.driver, RedisAsyncDriver):
            one.driver.shut_down()
        else:
            one.driver.close()
        wait_until(lambda: not connections, "no connection")


def test_a_child_has_connections_of_its_own(redis_server: RedisServer) -> None:
    command = [sys.executable, "-W", "error", "-m", "tests.redis.driving", redis_server.url]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_listeners(one: Driven, redis_server: RedisServer) -> None:
    listener = one.driver.listener()
    assert redis_server.client().publish(listener.name, "") == 1
    assert listener.wait(30)
    listener.close()


# Start-up checks


def test_a_check_sees_each_server_once(kind: str, redis_server: RedisServer) -> None:
    seen: list[Any] = []

    def check() -> Any:
        seen.append((yield ("ECHO", "hello")))
        seen.append((yield ("NONSENSE",)))

    with driven(kind, redis_server.url, check=check) as one:
        assert one.run(call(SAY, "1")) == 1
        assert one.run(call(SAY, "2")) == 2
    assert seen[0] == b"hello"
    assert isinstance(seen[1], Refusal)
    assert len(seen) == 2


def test_a_check_that_fails_stops_every_call(kind: str, redis_server: RedisServer) -> None:
    def check() -> Any:
        yield ("PING",)
        raise BrokerError("it is too old")

    with driven(kind, redis_server.url, check=check) as one:
        for _ in range(2):
            with pytest.raises(BrokerError, match="it is too old"):
                one.run(call(ADD, "x"))
    assert redis_server.client().dbsize() == 0


# Replicas


@pytest.fixture(scope="module")
def pair(redis_binary: object) -> Iterator[tuple[RedisServer, RedisServer]]:
    with (
        RedisServer() as master,
        RedisServer(config={"replicaof": f"{master.host} {master.port}"}) as replica,
    ):
        yield master, replica


def followed(master: RedisServer) -> Callable[[], bool]:
    return lambda: b"online" in repr(master.client().info("replication")).encode()


def test_waiting_for_a_replica(kind: str, pair: tuple[RedisServer, RedisServer]) -> None:
    master, replica = pair
    wait_until(followed(master), "a replica")
    master.client().flushall()
    with driven(kind, master.url, wait_replicas=1) as one:
        for count in range(1, 20):
            assert one.run(call(ADD, "x")) == count
            assert replica.client().llen("taskyard:{t}:list") == count
        replica.stop_process()
        try:
            text = r"Redis at .* did what was asked, but only 0 of 1 replicas"
            with (
                driven(kind, master.url, wait_replicas=1, timeout=2.0, retry=0.0) as hasty,
                pytest.raises(NotConfirmed, match=text),
            ):
                hasty.run(call(ADD, "x"))
            begun = one.begin(call(ADD, "x"))
        finally:
            replica.cont()
        assert begun.result() == 21
        assert replica.client().llen("taskyard:{t}:list") == 21


def test_an_acl_that_forbids_to_wait_for_replicas(kind: str, redis_binary: object) -> None:
    rule = "app on >pw ~taskyard:* -@all +evalsha +script|load +get +set +rpush"
    with (
        RedisServer(users=[rule]) as server,
        driven(
            kind, f"redis://app:pw@{server.host}:{server.port}", wait_replicas=1, retry=0.1
        ) as one,
        pytest.raises(NotConfirmed, match=r"did what was asked, but NOPERM .*wait"),
    ):
        one.run(call(ADD, "1"))


# Only of the asynchronous driver


async def test_a_call_is_carried_out_though_its_task_is_cancelled(
    redis_server: RedisServer,
) -> None:
    driver = RedisAsyncDriver(parse_url(redis_server.url))

    def operation() -> Operation[None]:
        for n in range(3):
            yield Call(ADD, "t", [n])

    task = asyncio.create_task(driver.run(operation()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await driver.close()
    assert redis_server.client().lrange("taskyard:{t}:list", 0, -1) == [b"0", b"1", b"2"]


def test_a_driver_outlives_its_loops(redis_server: RedisServer, connections: Connections) -> None:
    driver = RedisAsyncDriver(parse_url(redis_server.url))
    for count in range(1, 4):
        assert asyncio.run(driver.run(call(ADD, "x"))) == count
        wait_until(lambda: len(connections) == 1, "one connection")
    driver.shut_down()
    wait_until(lambda: not connections, "no connection")


def test_a_driver_serves_two_loops_at_once(redis_server: RedisServer) -> None:
    driver = RedisAsyncDriver(parse_url(redis_server.url))

    async def add() -> None:
        for _ in range(100):
            await driver.run(call(ADD, "x"))

    threads = [threading.Thread(target=asyncio.run, args=[add()]) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    driver.shut_down()
    assert redis_server.client().llen("taskyard:{t}:list") == 200
