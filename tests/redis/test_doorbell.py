"""The doorbell: who is woken by what a real server publishes, and what happens without one."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from queue import Queue
from typing import Any

import pytest
import redis
from tests.servers.proxy import Proxy
from tests.servers.server import RedisServer, wait_until

from taskyard.brokers.redis import doorbell
from taskyard.brokers.redis.connect import connection
from taskyard.brokers.redis.doorbell import BellListener, Doorbell
from taskyard.brokers.redis.options import parse_url
from taskyard.errors import BrokerUnavailable

LONG = 30.0
"""Seconds for what is to come; nothing waits that long unless it fails."""
SOON = 0.05
"""Seconds for what is not to come."""

Make = Callable[..., Doorbell]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever got a listener knows whether it is subscribed, however slow this machine is."""
    monkeypatch.setattr(doorbell, "PATIENCE", LONG)


@pytest.fixture
def left() -> Queue[str]:
    """The names of the listeners that left, with the thread in which they did."""
    return Queue()


@pytest.fixture
def make(left: Queue[str]) -> Iterator[Make]:
    """Makes doorbells for a URL."""
    made: list[Doorbell] = []

    def make(url: str, **more: Any) -> Doorbell:
        options = parse_url(url)
        connect = partial(connection, options, options.addresses[0])
        leave, tell = more.pop("leave", left.put), more.pop("tell", str)
        made.append(Doorbell(connect, "test", leave, tell, **more))
        return made[-1]

    yield make
    for bell in made:
        bell.close()
    await_end_of_threads()


@pytest.fixture
def bell(make: Make, redis_server: RedisServer) -> Doorbell:
    return make(redis_server.url)


@pytest.fixture
def client(redis_server: RedisServer) -> redis.Redis:
    return redis_server.client()


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[Proxy]:
    with Proxy((redis_server.host, redis_server.port)) as proxy:
        yield proxy


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "taskyard-doorbell"]


def await_end_of_threads() -> None:
    """Closing waits a second for it, after which it may take a little longer."""
    wait_until(lambda: not threads(), "the end of the doorbell's thread", LONG)


def rings(client: redis.Redis, listener: BellListener) -> bool:
    """Whether the server finds somebody who listens, as a script does."""
    return bool(client.publish(listener.name, ""))


# Waking


def test_a_message_to_its_name_wakes_a_listener(bell: Doorbell, client: redis.Redis) -> None:
    listener, other = bell.listener(), bell.listener()
    assert rings(client, listener), "it is subscribed as soon as it is there"
    assert listener.wait(LONG)
    assert not listener.wait(SOON), "a wake-up is heard once"
    assert not other.wait(SOON)


def test_a_message_ends_a_wait_that_is_going_on(bell: Doorbell, client: redis.Redis) -> None:
    listener = bell.listener()
    heard: Queue[bool] = Queue()
    thread = threading.Thread(target=lambda: heard.put(listener.wait(LONG)))
    thread.start()
    assert rings(client, listener)
    assert heard.get(timeout=LONG)
    thread.join()


async def test_a_message_wakes_a_task(bell: Doorbell, client: redis.Redis) -> None:
    listener, other = bell.listener(), bell.listener()
    waiting = asyncio.create_task(listener.wait_async(LONG))
    await asyncio.sleep(0)
    assert await asyncio.to_thread(rings, client, listener)
    assert await waiting
    assert not await other.wait_async(SOON)


def test_one_connection_serves_many_listeners(bell: Doorbell, client: redis.Redis) -> None:
    listeners: list[BellListener] = []
    makers = [
        threading.Thread(target=lambda: listeners.extend(bell.listener() for _ in range(100)))
        for _ in range(8)
    ]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    listening = [served["sub"] for served in client.client_list() if served["sub"] != "0"]
    assert "800" in listening, f"they are on several connections: {listening}"
    wait_until(lambda: len(threads()) == 1, "the only thread")
    assert len({listener.name for listener in listeners}) == 800
    assert all(rings(client, listener) for listener in listeners)
    assert all(listener.wait(LONG) for listener in listeners)
    for listener in listeners[::2]:
        listener.close()
    wait_until(lambda: client.pubsub_channels("test:wake:*").__len__() == 400, "unsubscription")
    assert all(rings(client, listener) for listener in listeners[1::2])
    assert all(listener.wait(LONG) for listener in listeners[1::2])


@pytest.mark.parametrize("protocol", [2, 3])
def test_both_protocols_will_do(
    protocol: int, redis_server: RedisServer, client: redis.Redis, left: Queue[str]
) -> None:
    def connect() -> redis.Connection:
        made = redis.Connection(redis_server.host, redis_server.port, protocol=protocol)
        made.connect()
        return made

    bell = Doorbell(connect, "test", left.put, str, silence=0.05)
    listener = bell.listener()
    assert not listener.wait(0.3), "it hears the answers to its questions"
    assert rings(client, listener)
    assert listener.wait(LONG)
    listener.close()
    assert left.get(timeout=LONG) == listener.name
    bell.close()


def test_over_tls(make: Make, redis_tls: RedisServer) -> None:
    listener = make(redis_tls.url, silence=0.2).listener()
    assert rings(redis_tls.client(), listener)
    assert listener.wait(LONG)
    assert not listener.wait(0.5), "no connection was lost for want of an answer"
    assert rings(redis_tls.client(), listener)
    assert listener.wait(LONG)


# Leaving


def test_who_is_closed_leaves_the_server_and_the_broker(
    make: Make, redis_server: RedisServer, client: redis.Redis
) -> None:
    calls: Queue[tuple[str, str, bool]] = Queue()

    def leave(name: str) -> None:
        calls.put((threading.current_thread().name, name, bool(client.publish(name, ""))))

    bell = make(redis_server.url, leave=leave)
    listener = bell.listener()
    listener.close()
    listener.close()
    assert calls.get(timeout=LONG) == ("taskyard-doorbell", listener.name, False)
    assert not listener.wait(LONG), "it is closed"
    bell.close()
    assert calls.empty()


def test_a_wait_ends_when_its_listener_is_closed(bell: Doorbell) -> None:
    listener = bell.listener()
    heard: Queue[bool] = Queue()
    thread = threading.Thread(target=lambda: heard.put(listener.wait(LONG)))
    thread.start()
    listener.close()
    assert heard.get(timeout=LONG) is False
    thread.join()


def test_who_is_closed_just_before_the_doorbell_leaves_too(
    bell: Doorbell, left: Queue[str]
) -> None:
    listeners = [bell.listener() for _ in range(10)]
    for listener in listeners:
        listener.close()
    bell.close()
    gone = {left.get(timeout=LONG) for _ in listeners}
    assert gone == {listener.name for listener in listeners}


def test_a_leave_that_fails_does_no_harm(
    make: Make, redis_server: RedisServer, client: redis.Redis
) -> None:
    asked: Queue[str] = Queue()

    def leave(name: str) -> None:
        asked.put(name)
        raise BrokerUnavailable("not now")

    bell = make(redis_server.url, leave=leave)
    listener, other = bell.listener(), bell.listener()
    listener.close()
    assert asked.get(timeout=LONG) == listener.name
    assert rings(client, other)
    assert other.wait(LONG)


def test_a_closed_doorbell_can_be_used_again(bell: Doorbell, client: redis.Redis) -> None:
    bell.listener()
    bell.close()
    bell.close()
    await_end_of_threads()
    listener = bell.listener()
    assert rings(client, listener)
    assert listener.wait(LONG)


def test_listeners_of_a_closed_doorbell_wake_by_themselves(bell: Doorbell) -> None:
    listener = bell.listener()
    bell.close()
    assert listener.wait(LONG)
    assert listener.wait(LONG)
    listener.close()
    assert not listener.wait(LONG)


# Connections that are lost


def test_a_lost_connection_wakes_all_and_is_made_again(
    make: Make, proxy: Proxy, client: redis.Redis
) -> None:
    bell = make(f"redis://{proxy.address}")
    listeners = [bell.listener() for _ in range(3)]
    proxy.cut()
    for listener in listeners:
        assert listener.wait(LONG), "it may have missed something"
        assert rings(client, listener)
        assert listener.wait(LONG)
        assert not listener.wait(SOON)


@pytest.mark.parametrize("direction", ["request", "reply", None])
def test_a_half_open_connection_is_noticed(
    make: Make, proxy: Proxy, client: redis.Redis, direction: Any
) -> None:
    listener = make(f"redis://{proxy.address}?timeout=0.2", silence=0.1, answer=0.1).listener()
    proxy.swallow(direction)
    rings(client, listener)  # into the void
    wait_until(lambda: proxy.counters().connections > 1, "another attempt")
    proxy.resume()
    assert listener.wait(LONG)
    wait_until(lambda: rings(client, listener), "a subscription")
    assert listener.wait(LONG)


def test_a_server_that_comes_back_is_heard_again(make: Make, redis_binary: object) -> None:
    with RedisServer() as server:
        listener = make(server.url).listener()
        assert rings(server.client(), listener)
        assert listener.wait(LONG)
        server.kill()
        assert listener.wait(LONG), "it has to look by itself now"
        server.restart()
        wait_until(lambda: rings(server.client(), listener), "a subscription")
        assert listener.wait(LONG)
        wait_until(lambda: listener.standing, "its confirmation")
        wait_until(lambda: not listener.wait(0), "the last of its wake-ups")


def test_a_server_that_is_down_at_the_start(
    make: Make, proxy: Proxy, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    proxy.refuse()
    bell = make(f"redis://{proxy.address}")
    with caplog.at_level(logging.INFO, "taskyard"):
        listener = bell.listener()
        assert not listener.standing
        assert listener.wait(LONG), "it looks by itself"
        other = bell.listener()
        other.close()
        assert not other.wait(LONG)
        proxy.resume()
        wait_until(lambda: rings(client, listener), "a subscription")
        assert listener.wait(LONG)
        wait_until(lambda: listener.standing, "its confirmation")
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "heard again" in caplog.text


async def test_a_task_looks_by_itself_while_the_server_is_down(make: Make, proxy: Proxy) -> None:
    proxy.refuse()
    listener = await asyncio.to_thread(make(f"redis://{proxy.address}").listener)
    assert await listener.wait_async(LONG)
    assert not await listener.wait_async(SOON)
    listener.close()
    assert not await listener.wait_async(LONG)


def test_a_user_who_may_not_subscribe_looks_by_itself(
    make: Make, redis_binary: object, caplog: pytest.LogCaptureFixture
) -> None:
    with RedisServer(users=["w on >secret ~* resetchannels +@all"]) as server:
        listener = make(f"redis://w:secret@{server.host}:{server.port}").listener()
        assert listener.wait(LONG)
        assert "permissions" in caplog.text, "the reason is told"
        assert "secret" not in caplog.text
        server.client().acl_setuser("w", enabled=True, channels=["*"])
        wait_until(lambda: rings(server.client(), listener), "a subscription")
        assert listener.wait(LONG)


def test_closing_is_prompt_when_nothing_answers(make: Make, proxy: Proxy, left: Queue[str]) -> None:
    bell = make(f"redis://{proxy.address}?timeout=100", silence=100.0, answer=100.0)
    listener = bell.listener()
    proxy.swallow()
    listener.close()
    bell.close()
    await_end_of_threads()
    assert left.get_nowait() == listener.name, "it is forgotten without an answer, too"


# Processes


def run(program: str, url: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.redis.programs", program, url],
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (0, "done\n"), ended.stderr


def test_a_child_has_a_doorbell_of_its_own(redis_server: RedisServer) -> None:
    run("doorbell_in_a_child", redis_server.url)


def test_a_child_does_not_keep_its_parents_subscriptions(redis_server: RedisServer) -> None:
    run("child_that_lives_longer", redis_server.url)


def test_nothing_hangs_when_the_interpreter_ends(proxy: Proxy) -> None:
    run("end_while_listening", f"redis://{proxy.address}")
    proxy.refuse()
    run("end_while_listening", f"redis://{proxy.address}")
