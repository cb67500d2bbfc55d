"""What is said where an ACL forbids what scripts call: beforehand, or where it stops one."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import re
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import pytest
from redis.crc import key_slot
from tests.redis.driving import KINDS, SAY, call, driven, script
from tests.servers.binaries import KINDS as SERVERS
from tests.servers.cluster import RedisCluster
from tests.servers.fixtures import required
from tests.servers.server import RedisServer, wait_until
from tests.worker.support import DEADLINE, working

from taskyard import Yard
from taskyard.brokers.redis.attempts import Exchange, Scene, Wire, perform
from taskyard.brokers.redis.broker import RedisBroker
from taskyard.brokers.redis.calls import Argument, Call
from taskyard.brokers.redis.examination import examine, start_check
from taskyard.brokers.redis.options import parse_url
from taskyard.brokers.redis.rights import called_commands, script_probes
from taskyard.brokers.redis.scripts import load_script
from taskyard.errors import BrokerInaccessible, BrokerUnavailable

# Where it is forbidden to publish, scripts go on.
STOPPING = sorted({*called_commands()} - {"PUBLISH"})

CALLS = script("redis.call('EXISTS', KEYS[1])\nreturn redis.call(unpack(ARGV, 4))")
COMMANDS = dict(script_probes("taskyard:{t}:one"))


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """Has a user for each command, who may do all but that."""
    users = [
        f"no-{name.lower()} on >pw ~taskyard:* resetchannels &taskyard:* +@all -{name.lower()}"
        for name in STOPPING
    ]
    users.append("no-adding on >pw ~taskyard:* resetchannels &taskyard:* +@all -zadd -rpush")
    users.append(
        "reader on >pw ~taskyard:* resetchannels &taskyard:* -@all +@read +@connection"
        " +evalsha +script|load +time +info"
    )
    users.append(
        "no-removing on >pw ~taskyard:* resetchannels &taskyard:* +@all -set -del -unlink"
        " -expire -pexpire"
    )
    users.append("no-keys on >pw ~shop:* ~taskyard:{t} resetchannels &taskyard:* +@all")
    users.append("no-channels on >pw ~taskyard:* resetchannels &shop:* +@all")
    with RedisServer(binary=required(request.param), users=users) as made:
        yield made


def url(server: RedisServer, user: str) -> str:
    return server.url.replace("//", f"//{user}:pw@")


@contextlib.contextmanager
def granted(server: RedisServer, user: str, command: str) -> Iterator[None]:
    """Let a user call a command for a while."""
    server.client().execute_command("ACL", "SETUSER", user, f"+{command}")
    try:
        yield
    finally:
        server.client().execute_command("ACL", "SETUSER", user, f"-{command}")


def dump(server: RedisServer) -> dict[bytes, bytes | None]:
    """All that is there."""
    client = server.client()
    return {key: client.dump(key) for key in client.scan_iter()}


def sent(request: Any) -> list[str]:
    """The names of the commands of an exchange with one server."""
    [parcel] = request.parcels
    return re.findall(r"\r\n([A-Z]{3,})\r\n", parcel.data.decode())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", STOPPING)
def test_the_command_that_stopped_a_script_is_named(
    kind: str, name: str, server: RedisServer
) -> None:
    with (
        driven(kind, url(server, f"no-{name.lower()}")) as one,
        pytest.raises(BrokerInaccessible) as caught,
    ):
        one.run(call(CALLS, *COMMANDS[name]))
    text = str(caught.value)
    assert text.startswith(f"Redis at {server.host}:{server.port}: ")
    assert f": the ACL of this user forbids {name} (" in text
    assert "what it had written stays; docs/howto/redis.md has the rule" in text
    wait_until(lambda: server.client().keys("*probe*") == [], "it leaves nothing behind")


@pytest.mark.parametrize("kind", KINDS)
def test_all_that_is_missing_is_named_at_once(kind: str, server: RedisServer) -> None:
    with (
        driven(kind, url(server, "no-adding")) as one,
        pytest.raises(BrokerInaccessible, match="this user forbids RPUSH, ZADD "),
    ):
        one.run(call(CALLS, *COMMANDS["ZADD"]))


@pytest.mark.parametrize("kind", KINDS)
def test_keys_that_a_script_may_not_use(kind: str, server: RedisServer) -> None:
    with (
        driven(kind, url(server, "no-keys")) as one,
        pytest.raises(BrokerInaccessible, match=r"forbids what a script does .*key.*howto/redis"),
    ):
        one.run(call(CALLS, *COMMANDS["GET"]))


# Before the first script


def enqueue(kind: str, yard: Yard) -> None:
    task = yard.tasks.get("work") or yard.task(name="work")(print)
    if kind == "sync":
        task.enqueue(1)
    else:
        asyncio.run(task.aenqueue(1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["HSET", "LRANGE", "RPUSH", "ZADD"])
def test_producers_hear_of_it_before_anything_is_stored(
    kind: str, name: str, server: RedisServer
) -> None:
    server.client().flushall()
    with Yard(url(server, f"no-{name.lower()}")) as yard:
        for _ in range(2):
            with pytest.raises(BrokerInaccessible) as caught:
                enqueue(kind, yard)
            assert f": the ACL of this user forbids {name} (" in str(caught.value)
            assert "none was run); docs/howto/redis.md has the rule" in str(caught.value)
    assert server.client().keys() == []


@pytest.mark.parametrize("kind", KINDS)
def test_producers_go_on_when_it_is_mended(kind: str, server: RedisServer) -> None:
    server.client().flushall()
    with Yard(url(server, "no-zadd")) as yard:
        with pytest.raises(BrokerInaccessible, match="this user forbids ZADD "):
            enqueue(kind, yard)
        with granted(server, "no-zadd", "zadd"):
            enqueue(kind, yard)
            [counts] = yard.counts()
    assert counts.waiting == 1


@pytest.mark.parametrize("name", ["HSET", "LRANGE", "RPUSH", "ZADD"])
def test_workers_do_not_start(name: str, server: RedisServer) -> None:
    server.client().flushall()
    with Yard(server.url) as well:
        well.task(name="work")(print).enqueue(1)
    before = dump(server)
    with Yard(url(server, f"no-{name.lower()}")) as yard:
        yard.task(name="work")(print)
        with pytest.raises(BrokerInaccessible, match=f"this user forbids {name} .*none was run"):
            yard.run_worker(burst=True)
    assert dump(server) == before


@pytest.mark.parametrize("kind", KINDS)
def test_who_may_read_can_look(kind: str, server: RedisServer) -> None:
    server.client().flushall()
    with Yard(server.url) as well:
        well.task(name="work")(print).enqueue(1)
    before = dump(server)
    options = parse_url(url(server, "reader"))
    check = start_check(options, lambda _: None)
    with driven(kind, url(server, "reader"), check=check) as one:
        [counts] = one.run(RedisBroker(options).counts())
    assert counts.waiting == 1
    assert dump(server) == before


def nothing_else() -> Generator[Sequence[Argument], Any, None]:
    """A check that has no questions of its own."""
    yield from ()


def test_it_takes_one_round_trip_and_no_other_call_pays() -> None:
    scene = Scene(parse_url("redis://here"), None, nothing_else)
    first = perform(scene, [Call(load_script("put"), "t", ())], [Wire()])
    asked = next(first)
    assert isinstance(asked, Exchange)
    assert asked.parcels[0].replies == len(COMMANDS)
    assert sent(first.send([[b"OK"] * len(COMMANDS)])) == ["EVALSHA"]
    second = perform(scene, [Call(load_script("put"), "t", ())], [Wire()])
    assert sent(next(second)) == ["EVALSHA"]


def test_what_stands_in_the_way_of_commands_is_not_taken_for_the_acl(server: RedisServer) -> None:
    server.client().flushall()
    server.client().config_set("maxmemory", 1)
    try:
        with (
            Yard(f"{server.url}?retry=0") as yard,
            pytest.raises(BrokerUnavailable, match="its memory is full") as caught,
        ):
            enqueue("sync", yard)
        assert "ACL" not in str(caught.value)
        with (
            Yard(url(server, "no-zadd")) as yard,
            pytest.raises(BrokerInaccessible, match="this user forbids ZADD "),
        ):
            enqueue("sync", yard)
    finally:
        server.client().config_set("maxmemory", 0)
    assert server.client().keys() == []


def test_replicas_are_not_written_to(server: RedisServer) -> None:
    master = f"{server.host} {server.port}"
    server.client().flushall()
    with RedisServer(binary=server.binary, config={"replicaof": master}) as replica:
        wait_until(lambda: replica.client().info()["master_link_status"] == "up", "it follows")
        with (
            Yard(f"{replica.url}?retry=0") as yard,
            pytest.raises(BrokerUnavailable, match="it is a replica, and takes no writes"),
        ):
            enqueue("sync", yard)
        assert replica.client().keys() == []


def test_a_user_who_may_remove_nothing_leaves_one_key_at_most(server: RedisServer) -> None:
    server.client().flushall()
    with Yard(url(server, "no-removing")) as yard:
        for _ in range(3):
            with pytest.raises(BrokerInaccessible, match="this user forbids DEL, EXPIRE, "):
                enqueue("sync", yard)
    assert [key.endswith(b":probe") for key in server.client().scan_iter()] == [True]


@pytest.mark.parametrize("kind", KINDS)
def test_each_node_of_a_cluster_is_asked(kind: str, redis_cluster: RedisCluster) -> None:
    rule = ("on", ">pw", "~taskyard:*", "resetchannels", "&taskyard:*", "+@all")
    home = redis_cluster.master_of(key_slot(b"0"))
    for node in redis_cluster.nodes:
        lacks = ["-zadd"] if node is home else []
        node.client().execute_command("ACL", "SETUSER", "shop", *rule, *lacks)
    options = parse_url(redis_cluster.url.replace("//", "//shop:pw@"))
    check = start_check(options, lambda _: None)
    elsewhere = next(
        tag
        for tag in map(str, range(1, 100))
        if redis_cluster.master_of(key_slot(tag.encode())) is not home
    )
    try:
        with driven(kind, redis_cluster.url.replace("//", "//shop:pw@"), check=check) as one:
            with pytest.raises(BrokerInaccessible, match=f":{home.port}: .* forbids ZADD "):
                one.run(call(SAY, "1", tag="0"))
            assert one.run(call(SAY, "2", tag=elsewhere)) == 2
    finally:
        for node in redis_cluster.nodes:
            node.client().execute_command("ACL", "DELUSER", "shop")
    for node in redis_cluster.masters():
        assert node.client().keys() == []


# While it works


def test_workers_say_so_and_go_on_when_it_is_mended(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.client().flushall()
    seen: queue.Queue[int] = queue.Queue()
    yard = Yard(url(server, "no-zadd"))
    yard.task(name="work")(seen.put)
    with Yard(server.url) as well, yard:
        task = well.task(name="work")(print)
        with granted(server, "no-zadd", "zadd"), working(yard):
            task.enqueue(1)
            assert seen.get(timeout=DEADLINE) == 1
            server.client().execute_command("ACL", "SETUSER", "no-zadd", "-zadd")
            task.enqueue(2)
            wait_until(lambda: len(complaints(caplog)) > 1, "its complaints")
            server.client().execute_command("ACL", "SETUSER", "no-zadd", "+zadd")
            task.enqueue(3)
            assert seen.get(timeout=DEADLINE) in (2, 3)  # where it was stopped is not said
    told = complaints(caplog)
    assert all("this user forbids ZADD " in line for line in told)
    assert ["none was run" in line for line in told[1:]] == [True] * len(told[1:])


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line for line in caplog.messages if "trying again" in line]


# The doctor


@pytest.mark.parametrize(
    ("user", "lacks"),
    [
        ("no-zadd", "needs: ZADD"),
        ("no-adding", "needs: RPUSH, ZADD"),
        ("no-channels", "needs: channels taskyard:*"),
    ],
)
def test_the_doctor_names_it_too(user: str, lacks: str, server: RedisServer) -> None:
    [report] = examine(parse_url(url(server, user)))
    [finding] = [one for one in report.findings if one.subject == "access" and "needs" in one.text]
    assert finding.text.endswith(lacks)
    assert "docs/howto/redis.md" in finding.remedy
    wait_until(lambda: server.client().keys("*probe*") == [], "it leaves nothing behind")


def test_the_doctor_names_keys(server: RedisServer) -> None:
    [report] = examine(parse_url(url(server, "no-keys")))
    [finding] = [one for one in report.findings if "may not" in one.text]
    assert "keys taskyard:*" in finding.text
    assert "ZADD" not in finding.text
