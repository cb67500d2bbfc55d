"""What the drivers make of connections that break and servers that cannot answer."""

from __future__ import annotations

import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from redis.exceptions import NoScriptError
from tests.redis.driving import ADD, ECHO, KINDS, SAY, Driven, behind, call, driven, script
from tests.servers.binaries import Binary
from tests.servers.fixtures import required
from tests.servers.proxy import Direction
from tests.servers.server import RedisServer, wait_until

from taskyard.brokers.base import Group, Operation, Put
from taskyard.brokers.lane import GroupPolicy
from taskyard.brokers.redis.broker import RedisBroker
from taskyard.brokers.redis.calls import Call
from taskyard.errors import BrokerInaccessible, BrokerUnavailable

LIST = "taskyard:{t}:list"


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    made: str = request.param
    return made


def tries(server: RedisServer) -> int:
    """How often a script was called, or refused: the first time it is not there yet."""
    found = server.client().info("commandstats").get("cmdstat_evalsha", {})
    return int(found.get("calls", 0)) + int(found.get("rejected_calls", 0))


# Lost requests and replies


@pytest.mark.parametrize("reset", [False, True], ids=["end", "reset"])
@pytest.mark.parametrize("direction", ["request", "reply"])
def test_cut_at_every_byte_a_call_happens_once(
    kind: str, direction: Direction, reset: bool, redis_server: RedisServer
) -> None:
    with behind(redis_server, kind) as (proxy, one):
        one.run(call(ADD, "first"))
        before = proxy.counters()
        one.run(call(ADD, "second"))
        size = getattr(proxy.counters().since(before), direction)
        assert size > 3
        for count in range(size):
            proxy.cut_after(count, direction, reset=reset)
            assert one.run(call(ADD, f"{count:06}")) == 3 + count  # as long as "second"
            proxy.wait_cut()
    stored = redis_server.client().lrange(LIST, 2, -1)
    assert stored == [b"%06d" % count for count in range(size)]


@pytest.mark.parametrize("direction", ["request", "reply"])
def test_cut_at_every_byte_a_list_of_calls_happens_once(
    kind: str, direction: Direction, redis_server: RedisServer
) -> None:
    def several(text: str) -> Operation[list[int]]:
        return (yield [Call(ADD, "t", [text]), Call(ADD, "other", [text])])

    with behind(redis_server, kind) as (proxy, one):
        one.run(several("first"))
        before = proxy.counters()
        one.run(several("second"))
        size = getattr(proxy.counters().since(before), direction)
        for count in range(size):
            proxy.cut_after(count, direction)
            assert one.run(several(f"{count:06}")) == [3 + count] * 2
            proxy.wait_cut()


@pytest.mark.parametrize("direction", ["request", "reply"])
def test_cut_at_every_byte_a_put_stores_its_messages_once(
    kind: str, direction: Direction, redis_server: RedisServer
) -> None:
    group = Group("q", "t")
    with behind(redis_server, kind) as (proxy, one):
        broker = RedisBroker(one.options)
        one.run(broker.declare(group, GroupPolicy()))
        one.run(broker.put([Put(group, [b"a" * 8, b"b" * 8])]))
        before = proxy.counters()
        one.run(broker.put([Put(group, [b"a" * 8, b"b" * 8])]))
        size = getattr(proxy.counters().since(before), direction)
        for count in range(size):
            proxy.cut_after(count, direction)
            one.run(broker.put([Put(group, [b"a" * 8, b"b" * 8])]))
            proxy.wait_cut()
        [counts] = one.run(broker.counts())
        assert counts.waiting == 2 * (size + 2)


def test_an_idle_connection_that_was_closed_is_no_failure(
    kind: str, redis_server: RedisServer
) -> None:
    with driven(kind, redis_server.url, retry=0.0) as one:
        for count in range(1, 4):
            assert one.run(call(ADD, "x")) == count
            redis_server.client().execute_command("CLIENT", "KILL", "TYPE", "normal")


def test_a_half_open_connection_is_given_up(kind: str, redis_server: RedisServer) -> None:
    with behind(redis_server, kind, timeout=0.3) as (proxy, one):
        slot = one.run(call(ECHO))[0]
        one.run(call(ADD, "x"))
        proxy.swallow("reply")
        begun = one.begin(call(ADD, "y"))
        wait_until(lambda: redis_server.client().llen(LIST) == 2, "the call")
        wait_until(lambda: proxy.counters().connections >= 2, "another connection")
        proxy.resume()
        assert begun.result() == 2
        # What is still on its way may arrive late: it must not meet a later call of its wire.
        assert one.run(call(ECHO))[0] != slot
    assert redis_server.client().llen(LIST) == 2


def test_a_connection_with_an_unread_reply_is_not_used_again(
    kind: str, redis_server: RedisServer
) -> None:
    with behind(redis_server, kind, timeout=2.0, retry=0.0) as (proxy, one):
        slot = one.run(call(ECHO))[0]
        proxy.swallow("reply")
        with pytest.raises(BrokerUnavailable, match="not known whether the call was carried out"):
            one.run(call(SAY, "'late'"))
        proxy.resume()
        again, number, *_ = one.run(call(ECHO))
        # The call that was given up may still arrive: its wire has another name now.
        assert again != slot
        assert number == b"1"


def test_slow_answers_are_answers(kind: str, redis_server: RedisServer) -> None:
    with behind(redis_server, kind, retry=0.0) as (proxy, one):
        proxy.set_delay(0.05)
        assert [one.run(call(ADD, "x")) for _ in range(3)] == [1, 2, 3]
        assert proxy.counters().connections == 1


def test_an_interrupted_call_leaves_nothing_behind(redis_server: RedisServer) -> None:
    class Interrupt(BaseException):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupt

    with behind(redis_server, "sync") as (proxy, one):
        slot = one.run(call(ECHO))[0]
        one.run(call(ADD, "x"))
        proxy.swallow("reply")
        previous = signal.signal(signal.SIGUSR1, interrupt)
        main = threading.main_thread().ident
        assert main is not None

        def poke() -> None:
            wait_until(lambda: redis_server.client().llen(LIST) == 2, "the call")
            signal.pthread_kill(main, signal.SIGUSR1)

        poker = threading.Thread(target=poke)
        poker.start()
        with pytest.raises(Interrupt):
            one.run(call(ADD, "x"))
        poker.join()
        signal.signal(signal.SIGUSR1, previous)
        proxy.resume()
        assert one.run(call(ECHO))[0] != slot


# Servers that cannot answer


def test_a_server_that_is_killed_and_restarted(kind: str, redis_binary: object) -> None:
    own = RedisServer(appendonly=True, appendfsync="always")
    with own as server, driven(kind, server.url) as one:
        assert one.run(call(ADD, "x")) == 1
        server.kill()
        begun = [one.begin(call(ADD, "x")) for _ in range(3)]
        server.restart()
        assert sorted(each.result() for each in begun) == [2, 3, 4]


def test_a_server_that_is_frozen(kind: str, redis_binary: object) -> None:
    with RedisServer() as server, behind(server, kind, timeout=0.3) as (proxy, one):
        assert one.run(call(ADD, "x")) == 1
        server.stop_process()
        begun = one.begin(call(ADD, "x"))
        wait_until(lambda: proxy.counters().connections >= 2, "another connection")
        server.cont()
        assert begun.result() == 2
        assert server.client().llen(LIST) == 2


def test_a_server_that_comes_late(kind: str, redis_binary: object) -> None:
    with RedisServer() as server, behind(server, kind) as (proxy, one):
        proxy.refuse()
        begun = one.begin(call(ADD, "x"))
        proxy.resume()
        assert begun.result() == 1


def test_loading(kind: str, redis_binary: Binary) -> None:
    if redis_binary.name == "redis" and redis_binary.version < (7,):
        pytest.skip("this server answers nothing while it loads a small file")
    # It answers between chunks of its file only.
    slow = {"save": "3600 1", "key-load-delay": 500, "loading-process-events-interval-bytes": 1024}
    with RedisServer(config=slow) as server:
        client = server.client()
        client.mset({f"key:{n}": f"{n}".encode() * 50 for n in range(4000)})
        client.save()
        with behind(server, kind) as (_, one):
            server.kill()
            begun = one.begin(call(ADD, "x"))
            server.restart()
            assert begun.result() == 1
        assert "errorstat_LOADING" in server.client().info("errorstats")


def test_a_replica_that_becomes_the_master(kind: str, redis_server: RedisServer) -> None:
    own = RedisServer(config={"replicaof": f"{redis_server.host} {redis_server.port}"})
    with own as server, driven(kind, server.url) as one:
        begun = one.begin(call(ADD, "x"))
        wait_until(lambda: tries(server) > 3, "refusals")
        server.client().replicaof("NO", "ONE")
        assert begun.result() == 1


def test_memory_that_is_full_for_a_while(kind: str, redis_binary: object) -> None:
    with RedisServer(config={"maxmemory": 1}) as server, driven(kind, server.url) as one:
        begun = one.begin(call(ADD, "x"))
        wait_until(lambda: tries(server) > 3, "refusals")
        server.client().config_set("maxmemory", 0)
        assert begun.result() == 1


def test_a_script_that_runs_too_long(kind: str, redis_binary: object) -> None:
    with RedisServer(config={"lua-time-limit": 20}) as server, behind(server, kind) as pair:
        proxy, one = pair
        assert one.run(call(ADD, "x")) == 1
        client = server.client()
        looping = threading.Thread(target=loop_for_ever, args=[server])
        looping.start()
        wait_until(lambda: "BUSY" in str(error_of(client.ping)), "a busy server")
        before = proxy.counters()
        begun = one.begin(call(ADD, "x"))
        wait_until(lambda: proxy.counters().since(before).round_trips > 1, "refusals")
        client.script_kill()
        assert begun.result() == 2
        looping.join()


def loop_for_ever(server: RedisServer) -> None:
    error_of(lambda: server.client().eval("while true do end", 0))


def error_of(function: object) -> Exception | None:
    try:
        function()  # type: ignore[operator]
    except Exception as error:
        return error
    return None


def test_scripts_that_are_flushed_all_the_time(kind: str, redis_server: RedisServer) -> None:
    done = threading.Event()

    def flush() -> None:
        while not done.is_set():
            redis_server.client().script_flush()

    flusher = threading.Thread(target=flush)
    flusher.start()
    try:
        with driven(kind, redis_server.url) as one:
            assert [one.run(call(ADD, "x")) for _ in range(50)] == list(range(1, 51))
    finally:
        done.set()
        flusher.join()
    with pytest.raises(NoScriptError):
        redis_server.client().evalsha(script("return 0").sha, 0)


# Giving up


def took(one: Driven, text: str) -> float:
    began = time.monotonic()
    with pytest.raises(BrokerUnavailable, match=text) as caught:
        one.run(call(ADD, "x"))
    assert not isinstance(caught.value, BrokerInaccessible)
    assert "secret" not in str(caught.value)
    return time.monotonic() - began


def test_nobody_is_there(kind: str, redis_server: RedisServer) -> None:
    with behind(redis_server, kind, retry=0.4) as (proxy, one):
        proxy.refuse()
        text = (
            rf"Redis at {re.escape(proxy.address)}: Connection refused; tried for \d+\.\d s; noth"
        )
        assert took(one, text) >= 0.4
    with behind(redis_server, kind, retry=0.0) as (proxy, one):
        proxy.refuse()
        took(one, "Connection refused; tried once; nothing was changed")
    with driven(kind, "redis://:secret@no-such-host.invalid", retry=0.0) as one:
        took(one, r"Redis at no-such-host\.invalid:6379: .*; nothing was changed")
    with driven(kind, "unix:///no/such.sock", retry=0.0) as one:
        took(one, r"Redis at unix:/no/such\.sock: No such file or directory; tried once")


def test_it_answers_too_slowly(kind: str, redis_server: RedisServer) -> None:
    with behind(redis_server, kind, timeout=0.5, retry=2.0) as (proxy, one):
        one.run(call(SAY, "1"))
        proxy.hold("reply")
        took(one, "no answer in time; tried for .* s; .*not known whether the call was carried out")


def test_memory_stays_full(kind: str, redis_binary: object) -> None:
    with (
        RedisServer(config={"maxmemory": 1}) as server,
        driven(kind, server.url, retry=0.1) as one,
    ):
        took(one, r"its memory is full \(maxmemory\).*tried for .* s; nothing was changed")


def test_a_replica_stays_one(kind: str, redis_server: RedisServer) -> None:
    own = RedisServer(config={"replicaof": f"{redis_server.host} {redis_server.port}"})
    with own as server, driven(kind, server.url, retry=0.1) as one:
        took(one, "it is a replica, and takes no writes .READONLY")


# What somebody has to mend


def refused(one: Driven, text: str) -> None:
    with pytest.raises(BrokerInaccessible, match=text) as caught:
        one.run(call(ADD, "x"))
    assert "secret" not in str(caught.value)


def test_passwords_and_databases(kind: str, redis_binary: object) -> None:
    users = ["app on >secret ~taskyard:* &* +@all -evalsha", "own on >secret ~own:* &* +@all"]
    with RedisServer(password="right", users=users) as server:
        place = f"{server.host}:{server.port}"
        for url, text in (
            (f"redis://:secret@{place}", r"the user or password is wrong \(WRONGPASS"),
            (f"redis://nobody:secret@{place}", "the user or password is wrong"),
            (f"redis://{place}", "it wants a password, and the URL has none"),
            (f"redis://app:secret@{place}", "the ACL of this user forbids it.*evalsha"),
            (f"redis://own:secret@{place}", "the ACL of this user forbids it.*key"),
            (f"redis://:right@{place}/99", "it has no database of this number"),
        ):
            with driven(kind, url) as one:
                refused(one, text)


def test_a_password_that_is_not_wanted(kind: str, redis_server: RedisServer) -> None:
    url = f"redis://:secret@{redis_server.host}:{redis_server.port}"
    with driven(kind, url) as one:
        refused(one, "it has no password, and the URL gives one")


def test_a_command_that_a_script_may_not_use(kind: str, redis_binary: object) -> None:
    with (
        RedisServer(users=["app on >secret ~* &* +@all -rpush"]) as server,
        driven(kind, f"redis://app:secret@{server.host}:{server.port}") as one,
    ):
        refused(one, "the ACL of this user forbids RPUSH ")


def test_a_database_of_a_cluster(kind: str, redis_binary: object) -> None:
    with RedisServer(config={"cluster-enabled": "yes"}, bus=True) as server:
        url = server.url.removesuffix("/0") + "/1"
        with driven(kind, url) as one:
            refused(one, "a cluster has database 0 only|it has no database of this number")


def test_tls_mismatches(kind: str, redis_server: RedisServer, redis_tls: RedisServer) -> None:
    tls = f"{redis_tls.host}:{redis_tls.port}"
    with driven(kind, f"redis://{tls}") as one:
        refused(one, "it speaks TLS: write rediss://")
    plain = f"{redis_server.host}:{redis_server.port}"
    with driven(kind, f"rediss://{plain}", timeout=1.0) as one:
        refused(one, "it speaks no TLS: write redis://")
    with driven(kind, f"rediss://{tls}") as one:
        refused(one, "its certificate is refused: .*; is ca= right")
    with driven(kind, f"rediss://{tls}?ca=/no/such.pem") as one:
        refused(one, r"ca=/no/such\.pem cannot be used: .*No such file")
    with driven(kind, f"rediss://{tls}?verify=none&cert={redis_tls.folder}/log") as one:
        refused(one, "cert=.*log and key=.*log cannot be used")


def test_a_certificate_is_wanted(kind: str, tls_certificates: object) -> None:
    server = RedisServer(binary=required(tls=True), tls=tls_certificates, client_certs=True)  # type: ignore[arg-type]
    with server:
        own = server.tls
        assert own is not None
        with driven(kind, server.url) as one:
            refused(one, "TLS")
        url = f"{server.url}&cert={own.client_cert}&key={own.client_key}"
        with driven(kind, url) as one:
            assert one.run(call(ADD, "x")) == 1


@contextmanager
def speaking(answer: bytes) -> Iterator[str]:
    """Something that answers everybody with the same bytes."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                if connection.recv(1000):
                    connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield "{}:{}".format(*listening.getsockname())
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()


def test_something_else_listens_there(kind: str) -> None:
    for answer in (b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n"):
        with speaking(answer) as address, driven(kind, f"redis://{address}") as one:
            refused(one, "who answers does not speak as a Redis should: Protocol error")


@contextmanager
def hanging_up() -> Iterator[str]:
    """Somebody who ends his side when a request begins to come, and takes no more of it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with listener.accept()[0] as one:
                assert b"SETNAME" in one.recv(1024)
                one.sendall(b"+OK\r\n")
                one.recv(1)
                one.shutdown(socket.SHUT_WR)
                over.wait()

        over = threading.Event()
        server = threading.Thread(target=serve)
        server.start()
        host, port = listener.getsockname()
        try:
            yield f"redis://{host}:{port}"
        finally:
            over.set()
            server.join()


def test_who_hangs_up_in_the_middle_of_a_request_is_noticed_at_once() -> None:
    with (
        hanging_up() as url,
        driven("async", url, timeout=5.0, retry=0.0) as one,
        pytest.raises(BrokerUnavailable) as caught,
    ):
        one.run(call(ADD, "x" * (32 << 20)))
    assert "no answer in time" not in str(caught.value)


def test_a_call_that_arrives_late_is_known(kind: str, redis_server: RedisServer) -> None:
    with behind(redis_server, kind, timeout=0.3) as (proxy, one):
        one.run(call(ADD, "first"))
        proxy.hold("request")
        begun = one.begin(call(ADD, "x"))
        wait_until(lambda: proxy.counters().connections >= 2, "another connection")
        proxy.resume()
        assert begun.result() == 2
        assert [one.run(call(ADD, "y")) for _ in range(3)] == [3, 4, 5]
    assert redis_server.client().llen(LIST) == 5
