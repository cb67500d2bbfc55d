"""The proxy spoils connections exactly as it says."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from tests.servers.proxy import Proxy
from tests.servers.server import RedisServer, wait_until

PING = b"*1\r\n$4\r\nPING\r\n"
PONG = b"+PONG\r\n"


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[Proxy]:
    with Proxy((redis_server.host, redis_server.port)) as made:
        yield made


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection((proxy.host, proxy.port), timeout=10)


def ask(connection: socket.socket) -> bytes:
    connection.sendall(PING)
    return read(connection, len(PONG))


def read(connection: socket.socket, count: int) -> bytes:
    """That many bytes, or all up to the end."""
    data = b""
    while len(data) < count and (more := connection.recv(count - len(data))):
        data += more
    return data


def client(proxy: Proxy) -> redis.Redis:
    return redis.Redis(
        host=proxy.host, port=proxy.port, socket_timeout=10, retry=Retry(NoBackoff(), 0)
    )


def test_it_passes_and_counts(proxy: Proxy) -> None:
    with connect(proxy) as connection:
        assert ask(connection) == PONG
        before = proxy.counters()
        assert before == (1, len(PING), len(PONG), 1)
        assert ask(connection) == PONG
        assert ask(connection) == PONG
        assert proxy.counters().since(before) == (0, 2 * len(PING), 2 * len(PONG), 2)


def test_large_values_pass_whole(proxy: Proxy) -> None:
    value = bytes(range(256)) * 40_000
    with client(proxy) as connection:
        connection.set("large", value)
        assert connection.get("large") == value


def test_over_a_unix_socket(redis_server: RedisServer) -> None:
    with Proxy(str(redis_server.socket)) as proxy, connect(proxy) as connection:
        assert ask(connection) == PONG


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("count", range(len(PONG) + 1))
def test_a_reply_is_cut_after_each_byte(proxy: Proxy, count: int, reset: bool) -> None:
    with connect(proxy) as connection:
        assert ask(connection) == PONG
        proxy.cut_after(count, "reply", reset=reset)
        connection.sendall(PING)
        proxy.wait_cut()
        if reset:
            with pytest.raises(ConnectionResetError):
                read(connection, 100)
        else:
            assert read(connection, 100) == PONG[:count]
    with connect(proxy) as connection:  # it happens once
        assert ask(connection) == PONG


def test_a_request_is_cut_after_each_byte(proxy: Proxy, redis_server: RedisServer) -> None:
    request = b"*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n"
    direct = redis_server.client()
    for count in range(len(request) + 1):
        direct.set("n", 0)
        with connect(proxy) as connection:
            proxy.cut_after(count, "request")
            connection.sendall(request)
            proxy.wait_cut()
            assert read(connection, 100) == b""
        proxy.cut()
        if count == len(request):
            # The server did it though nobody heard of that.
            while direct.get("n") == b"0":
                pass
        else:
            assert direct.get("n") == b"0"


def test_delay_adds_up_but_lets_many_bytes_through(proxy: Proxy) -> None:
    proxy.set_delay(0.05)
    with connect(proxy) as connection:
        before = time.monotonic()
        assert ask(connection) == PONG
        assert time.monotonic() - before >= 0.1
        proxy.set_delay(0.5)
        for _ in range(100):  # one after the other they would take longer than a test may
            connection.sendall(PING)
        assert read(connection, 100 * len(PONG)) == PONG * 100
        proxy.resume()
        assert ask(connection) == PONG


def test_one_direction_is_delayed(proxy: Proxy, redis_server: RedisServer) -> None:
    proxy.set_delay(60, "reply")
    with connect(proxy) as connection:
        connection.sendall(b"SET k v\r\n")
        direct = redis_server.client()
        while direct.get("k") != b"v":
            pass
        connection.settimeout(0.05)
        with pytest.raises(TimeoutError):
            connection.recv(1)


@pytest.mark.parametrize("reset", [False, True])
def test_cut(proxy: Proxy, reset: bool) -> None:
    with connect(proxy) as connection:
        assert ask(connection) == PONG
        proxy.cut(reset=reset)
        if reset:
            with pytest.raises(ConnectionResetError):
                connection.recv(1)
        else:
            assert connection.recv(1) == b""
    with connect(proxy) as connection:
        assert ask(connection) == PONG


def test_half_closed_towards_the_client(proxy: Proxy, redis_server: RedisServer) -> None:
    with connect(proxy) as connection:
        assert ask(connection) == PONG
        proxy.half_close("reply")
        assert connection.recv(1) == b""
        connection.sendall(b"SET half closed\r\n")
        direct = redis_server.client()
        while direct.get("half") != b"closed":
            pass


def test_half_closed_towards_the_server(proxy: Proxy) -> None:
    with connect(proxy) as connection:
        assert ask(connection) == PONG
        proxy.half_close("request")
        assert connection.recv(1) == b""  # a Redis ends such a connection


def test_the_end_of_a_client_reaches_the_server(proxy: Proxy, redis_server: RedisServer) -> None:
    direct = redis_server.client()
    with connect(proxy) as connection:
        assert ask(connection) == PONG
        number = direct.info("clients")["connected_clients"]
    while direct.info("clients")["connected_clients"] == number:
        pass


def test_swallowed_replies_are_lost(proxy: Proxy, redis_server: RedisServer) -> None:
    direct = redis_server.client()
    with connect(proxy) as connection:
        assert ask(connection) == PONG
        proxy.swallow("reply")
        before = proxy.counters().reply
        connection.sendall(b"SET a 2\r\n")
        wait_until(lambda: proxy.counters().reply > before, "a reply that is swallowed")
        assert direct.get("a") == b"2"
        connection.settimeout(0.05)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(10)
        proxy.resume()
        assert ask(connection) == PONG


def test_held_bytes_go_on_later(proxy: Proxy) -> None:
    with connect(proxy) as connection:
        assert ask(connection) == PONG
        proxy.hold()
        connection.sendall(PING)
        connection.settimeout(0.05)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(10)
        proxy.resume()
        assert read(connection, len(PONG)) == PONG


def test_refuse_and_resume(proxy: Proxy) -> None:
    port = proxy.port
    with connect(proxy) as connection:
        assert ask(connection) == PONG
        proxy.refuse(cut=False)
        assert ask(connection) == PONG
        with pytest.raises(ConnectionRefusedError):
            connect(proxy)
        proxy.refuse()
        assert connection.recv(1) == b""
    proxy.resume()
    assert proxy.port == port
    with connect(proxy) as connection:
        assert ask(connection) == PONG


def test_a_server_that_is_away_and_comes_back(redis_binary: object) -> None:
    with RedisServer() as server, Proxy((server.host, server.port)) as proxy:
        with connect(proxy) as connection:
            assert ask(connection) == PONG
            server.kill()
            assert connection.recv(1) == b""
        with connect(proxy) as connection:
            assert connection.recv(1) == b""
        server.restart()
        with connect(proxy) as connection:
            assert ask(connection) == PONG


def test_no_thread_is_left(redis_server: RedisServer) -> None:
    with Proxy((redis_server.host, redis_server.port)) as proxy, connect(proxy):
        proxy.swallow()
    proxy.close()
    assert "proxy" not in {thread.name for thread in threading.enumerate()}
