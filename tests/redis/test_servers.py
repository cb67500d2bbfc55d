"""The servers of the tests do what tests rely on."""

from __future__ import annotations

import socket

import pytest
import redis
from redis.exceptions import NoPermissionError
from tests.servers.binaries import KINDS
from tests.servers.fixtures import required
from tests.servers.server import Certificates, RedisServer, ServerError, free_port


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_starts_and_answers(kind: str) -> None:
    with RedisServer(binary=required(kind)) as server:
        info = server.client().info("server")
        assert info["process_id"] == server.pid
        assert info["redis_version"].startswith("6.2." if kind == "redis-6.2" else ("7.", "8."))


def test_the_shared_one_is_empty(redis_server: RedisServer) -> None:
    assert redis_server.client().dbsize() == 0
    redis_server.client().set("left", "behind")


def test_the_shared_one_is_empty_again(redis_server: RedisServer) -> None:
    assert redis_server.client().dbsize() == 0
    with redis.Redis(unix_socket_path=str(redis_server.socket)) as client:
        assert client.ping()


def test_data_outlive_a_kill_with_the_append_only_file(redis_binary: object) -> None:
    with RedisServer(appendonly=True, appendfsync="always") as server:
        port = server.port
        server.client().set("key", "kept")
        server.kill()
        assert not server.running
        with pytest.raises(redis.ConnectionError):
            server.client().ping()
        server.restart()
        assert server.port == port
        assert server.client().get("key") == b"kept"
        server.terminate()
        server.restart()
        assert server.client().get("key") == b"kept"


def test_a_server_that_is_back_has_loaded_its_data(redis_binary: object) -> None:
    with RedisServer(appendonly=True) as server:
        server.client().eval("for _ = 1, 200000 do redis.call('INCR', 'key') end", 0)
        server.kill()
        server.restart()
        assert server.client().get("key") == b"200000"


def test_a_frozen_server_answers_when_it_goes_on(redis_binary: object) -> None:
    with RedisServer() as server:
        client = server.client()
        server.stop_process()
        with pytest.raises(redis.TimeoutError):
            server.client(socket_timeout=0.05).ping()
        server.cont()
        assert client.ping()
        server.stop_process()
        server.kill()


def test_password_and_users(redis_binary: object) -> None:
    with RedisServer(password="a#b-c", users=["w on >pw ~t:* &* +get"]) as server:
        assert server.client().ping()
        with pytest.raises(redis.AuthenticationError):
            server.client(password=None).ping()
        worker = server.client(username="w", password="pw")
        assert worker.get("t:1") is None
        with pytest.raises(NoPermissionError):
            worker.set("t:1", 1)


def test_tls(redis_tls: RedisServer) -> None:
    assert redis_tls.client().ping()
    with pytest.raises(redis.ConnectionError):
        redis_tls.client(ssl=False, ssl_ca_certs=None, ssl_certfile=None, ssl_keyfile=None).ping()


def test_tls_with_certificates_of_clients(tls_certificates: Certificates) -> None:
    binary = required(tls=True)
    with RedisServer(binary=binary, tls=tls_certificates, client_certs=True) as server:
        assert server.client().ping()
        with pytest.raises(redis.ConnectionError):
            server.client(ssl_certfile=None, ssl_keyfile=None).ping()


def test_a_taken_port_leads_to_another(
    redis_binary: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = free_port()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = iter([taken.getsockname()[1], free])
        monkeypatch.setattr("tests.servers.server.free_port", lambda **_: next(ports))
        with RedisServer() as server:
            assert server.port == free


def test_what_does_not_start_says_why(redis_binary: object) -> None:
    with (
        pytest.raises(ServerError, match="no-such-option"),
        RedisServer(config={"no-such-option": 1}),
    ):
        pass
