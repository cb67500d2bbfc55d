"""What is said where an ACL stops a script in the middle."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from tests.redis.driving import KINDS, call, driven, script
from tests.servers.binaries import KINDS as SERVERS
from tests.servers.fixtures import required
from tests.servers.server import RedisServer, wait_until

from taskyard import Yard
from taskyard.brokers.redis.examination import examine
from taskyard.brokers.redis.options import parse_url
from taskyard.brokers.redis.rights import called_commands, script_probes
from taskyard.errors import BrokerInaccessible

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
    users.append("no-keys on >pw ~shop:* ~taskyard:{t} resetchannels &taskyard:* +@all")
    users.append("no-channels on >pw ~taskyard:* resetchannels &shop:* +@all")
    with RedisServer(binary=required(request.param), users=users) as made:
        yield made


def url(server: RedisServer, user: str) -> str:
    return server.url.replace("//", f"//{user}:pw@")


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


@pytest.mark.parametrize("name", ["HSET", "RPUSH", "ZADD"])
def test_producers_hear_of_it(name: str, server: RedisServer) -> None:
    with (
        Yard(url(server, f"no-{name.lower()}")) as yard,
        pytest.raises(BrokerInaccessible, match=f"this user forbids {name} "),
    ):
        yard.task(name="work")(print).enqueue(1)


def test_workers_say_so_and_go_on_when_it_is_mended(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.client().flushall()
    with Yard(server.url) as well:
        well.task(name="work")(print).enqueue(1)
    yard = Yard(url(server, "no-zadd"))
    yard.task(name="work")(print)
    with yard:
        worker = threading.Thread(target=yard.run_worker, kwargs={"burst": True})
        worker.start()
        wait_until(lambda: any("trying again" in line for line in caplog.messages), "its complaint")
        server.client().execute_command("ACL", "SETUSER", "no-zadd", "+zadd")
        worker.join()
        server.client().execute_command("ACL", "SETUSER", "no-zadd", "-zadd")
    [told, *_] = [line for line in caplog.messages if "trying again" in line]
    assert "this user forbids ZADD " in told


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
