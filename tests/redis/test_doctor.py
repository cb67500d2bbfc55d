"""The doctor sees what is wrong with a server, and states what can be lost."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.redis.driving import KINDS, SAY, call, driven
from tests.servers.cluster import RedisCluster, Sentinels
from tests.servers.fixtures import required
from tests.servers.proxy import Proxy
from tests.servers.server import RedisServer, free_port

from taskyard import Yard
from taskyard.brokers.redis import RedisBroker, parse_url
from taskyard.brokers.redis.doctor import Facts, Finding, find, losses, server_name
from taskyard.brokers.redis.drivers import RedisDriver
from taskyard.brokers.redis.examination import examine, start_check
from taskyard.brokers.redis.failures import Refusal
from taskyard.brokers.redis.options import Address
from taskyard.brokers.redis.rights import called_commands
from taskyard.brokers.redis.scripts import NAMES, load_script
from taskyard.cli.group import taskyard
from taskyard.errors import BrokerError, BrokerInaccessible

INFO = {
    "redis_version": "7.0.15",
    "role": "master",
    "connected_slaves": "0",
    "aof_enabled": "1",
    "aof_last_write_status": "ok",
    "rdb_last_bgsave_status": "ok",
    "maxmemory": "1000000",
    "maxmemory_policy": "noeviction",
    "cluster_enabled": "0",
    "loading": "0",
}
CONFIG = {
    "appendonly": "yes",
    "appendfsync": "always",
    "no-appendfsync-on-rewrite": "no",
    "save": "",
    "min-replicas-to-write": "0",
    "bind": "127.0.0.1 -::1",
    "protected-mode": "yes",
}
HERE, THERE = Address("127.0.0.1", 6379), Address("redis.example.org", 6379)
FINE = Facts(address=HERE, info=INFO, config=CONFIG, open_default=True)


def with_info(**changed: str) -> Facts:
    return dataclasses.replace(FINE, info={**INFO, **changed})


def with_config(facts: Facts = FINE, **changed: str) -> Facts:
    names = {name.replace("_", "-"): value for name, value in changed.items()}
    return dataclasses.replace(facts, config={**CONFIG, **names})


def followed(replicas: int, **changed: object) -> Facts:
    return dataclasses.replace(with_info(connected_slaves=str(replicas)), **changed)  # type: ignore[arg-type]


# Facts that are made up


def test_nothing_to_complain_of() -> None:
    assert find(FINE) == []


@pytest.mark.parametrize(
    ("facts", "level", "subject", "text"),
    [
        (with_info(redis_version="6.0.16"), "problem", "version", "Redis 6.0.16, which lacks"),
        (with_info(redis_version="5.0.3"), "problem", "version", "Redis 5.0.3, which lacks"),
        (with_info(role="slave"), "problem", "role", "takes no writes"),
        (with_info(loading="1"), "problem", "loading", "still loads"),
        (with_info(cluster_enabled="1"), "problem", "cluster", "only a part of the keys"),
        (
            dataclasses.replace(FINE, kind="cluster", cluster={"cluster_state": "fail"}),
            "problem",
            "cluster",
            "state is fail",
        ),
        (dataclasses.replace(FINE, forbidden=["HSET"]), "problem", "access", "needs: HSET"),
        (
            with_info(maxmemory_policy="allkeys-lru"),
            "warning",
            "eviction",
            "allkeys-lru: when its memory is full it removes waiting messages",
        ),
        (
            with_info(maxmemory_policy="volatile-ttl"),
            "warning",
            "eviction",
            "messages can be stored twice",
        ),
        (
            with_info(maxmemory_policy="allkeys-lru", maxmemory="0"),
            "warning",
            "eviction",
            "as soon as maxmemory is set",
        ),
        (with_info(maxmemory="0"), "note", "memory", "maxmemory is not set"),
        (with_info(aof_enabled="0"), "warning", "persistence", "keeps nothing on disk"),
        (
            with_config(with_info(aof_enabled="0"), save="3600 1"),
            "warning",
            "persistence",
            "only takes snapshots",
        ),
        (with_config(appendfsync="no"), "warning", "persistence", "appendfsync is no"),
        (with_config(appendfsync="everysec"), "note", "persistence", "appendfsync is everysec"),
        (
            with_config(no_appendfsync_on_rewrite="yes"),
            "warning",
            "persistence",
            "while the append-only file is rewritten",
        ),
        (with_info(aof_last_write_status="err"), "problem", "persistence", "writing the append"),
        (with_info(rdb_last_bgsave_status="err"), "problem", "persistence", "saving a snapshot"),
        (followed(1, wait_replicas=2), "problem", "replicas", "every put ends with an error"),
        (with_config(min_replicas_to_write="1"), "problem", "replicas", "refuses all writes"),
        (followed(1, kind="sentinel"), "note", "replicas", "puts do not wait"),
        (followed(1, kind="sentinel"), "note", "replicas", "min-replicas-to-write is 0"),
        (with_config(protected_mode="no", bind="*"), "warning", "access", "needs no password"),
        (with_config(protected_mode="no", bind=""), "warning", "access", "needs no password"),
        (dataclasses.replace(FINE, address=THERE), "note", "access", "in plain text"),
        (
            dataclasses.replace(FINE, address=THERE, config=None),
            "warning",
            "access",
            "needs no password",
        ),
        (dataclasses.replace(FINE, skew=5.04), "warning", "clock", "5.0 s ahead of"),
        (dataclasses.replace(FINE, skew=-2.0), "warning", "clock", "2.0 s behind"),
        (dataclasses.replace(FINE, config=None), "note", "settings", "cannot be seen"),
    ],
)
def test_each_finding(facts: Facts, level: str, subject: str, text: str) -> None:
    matching = [one for one in find(facts) if text in one.text]
    assert [(one.level, one.subject) for one in matching] == [(level, subject)]
    assert all(one.remedy for one in find(facts))


@pytest.mark.parametrize(
    "facts",
    [
        with_info(redis_version="6.2.0"),
        with_info(redis_version="8.2.1"),
        with_info(redis_version="10.0"),
        dataclasses.replace(with_info(role="slave"), kind="cluster"),
        dataclasses.replace(FINE, skew=0.9),
        with_config(protected_mode="no", bind="127.0.0.1 -::1"),
        with_config(protected_mode="yes", bind="*"),
        dataclasses.replace(
            with_config(protected_mode="no", bind="*"), open_default=False, has_password=True
        ),
        dataclasses.replace(FINE, address=Address("/run/redis.sock", 0)),
        followed(1, wait_replicas=1),
    ],
)
def test_what_is_fine(facts: Facts) -> None:
    assert find(facts) == []


def test_who_loads_does_not_say_yet_how_it_keeps_its_data() -> None:
    for config in (CONFIG, {**CONFIG, "save": "3600 1"}):
        facts = dataclasses.replace(with_info(loading="1", aof_enabled="0"), config=config)
        assert [one.subject for one in find(facts)] == ["loading"]
        assert losses(facts)[0].lost == "cannot be seen from here"


def test_protected_mode_of_6_2_protects_only_where_bind_is_left_out() -> None:
    def exposed(bind: str) -> list[Finding]:
        return find(with_config(with_info(redis_version="6.2.5"), bind=bind))

    assert exposed("") == []
    assert [one.subject for one in exposed("0.0.0.0")] == ["access"]


def test_the_worst_comes_first() -> None:
    facts = dataclasses.replace(
        with_info(maxmemory="0", aof_enabled="0", loading="1"), forbidden=["HSET"], skew=9
    )
    levels = [one.level for one in find(facts)]
    assert levels == sorted(levels, key=["problem", "warning", "note"].index)
    assert {"problem", "warning", "note"} == set(levels)


def test_few_facts_are_no_hindrance() -> None:
    facts = Facts(address=THERE, info={}, tls=True, has_password=True)
    assert [one.subject for one in find(facts)] == ["settings"]
    assert server_name(facts) == "Redis (unknown)"
    assert losses(facts)[0].lost == "cannot be seen from here"


@pytest.mark.parametrize(
    ("facts", "killed", "failed"),
    [
        (FINE, "nothing", "nothing"),
        (with_config(appendfsync="everysec"), "nothing; when", "the last one or two seconds"),
        (with_config(appendfsync="no"), "nothing", "what the system had not written"),
        (with_info(aof_enabled="0"), "everything", "everything"),
        (
            dataclasses.replace(
                with_info(aof_enabled="0", rdb_changes_since_last_save="1234"),
                config={**CONFIG, "save": "3600 1"},
            ),
            "all since the last snapshot (1,234 changes now)",
            "all since the last snapshot (1,234 changes now)",
        ),
        (dataclasses.replace(FINE, config=None), "cannot be seen", "cannot be seen"),
    ],
)
def test_losses_on_disk(facts: Facts, killed: str, failed: str) -> None:
    first, second, disk, *more = losses(facts)
    assert first.lost.startswith(killed)
    assert second.lost.startswith(failed)
    assert disk.lost == "everything"
    assert more == []


@pytest.mark.parametrize(
    ("replicas", "waits", "lost"),
    [(1, 0, "what had not reached it"), (1, 1, "nothing"), (2, 1, "nothing, if it is one of")],
)
def test_losses_by_failover(replicas: int, waits: int, lost: str) -> None:
    found = {loss.event: loss.lost for loss in losses(followed(replicas, wait_replicas=waits))}
    assert found["its disk is lost"] == "what its replicas lack"
    assert found["a replica takes over"].startswith(lost)


# Real servers


def subjects(url: str) -> set[tuple[str, str]]:
    [report] = examine(parse_url(url))
    return {(one.level, one.subject) for one in report.findings}


@pytest.mark.parametrize("kind", ["redis", "redis-6.2", "valkey"])
def test_a_good_server(kind: str) -> None:
    config = {"maxmemory": "100mb"}
    with RedisServer(
        binary=required(kind), appendonly=True, appendfsync="always", config=config
    ) as server:
        [report] = examine(parse_url(server.url))
        assert report.findings == []
        assert report.server.startswith("Valkey 9" if kind == "valkey" else "Redis ")
        assert report.losses[0].lost == "nothing"
        assert server.client().keys() == []


@pytest.mark.parametrize("kind", ["redis", "redis-6.2", "valkey"])
def test_a_bad_server(kind: str) -> None:
    config = {"maxmemory-policy": "allkeys-lru", "protected-mode": "no", "bind": "0.0.0.0"}
    with RedisServer(binary=required(kind), config=config) as server:
        assert subjects(server.url) == {
            ("warning", "eviction"),
            ("warning", "persistence"),
            ("warning", "access"),
            ("note", "memory"),
        }


@pytest.mark.parametrize("kind", ["redis", "redis-6.2", "valkey"])
def test_what_the_user_may_not_do_is_named(kind: str) -> None:
    users = [
        "some on >pw resetchannels &* ~taskyard:* +@all -hset -script -subscribe -@admin",
        "keys on >pw resetchannels &* ~other:* +@all -@admin",
        "channels on >pw resetchannels ~taskyard:* +@all",
    ]
    with RedisServer(binary=required(kind), users=users) as server:

        def refused(user: str) -> str:
            [report] = examine(parse_url(server.url.replace("//", f"//{user}:pw@")))
            return next(one.text for one in report.findings if one.subject == "access")

        assert refused("some") == (
            "user some may not do what taskyard needs: HSET, SCRIPT LOAD, SUBSCRIBE"
        )
        assert refused("keys").endswith("needs: keys taskyard:*")
        assert refused("channels").endswith("needs: channels taskyard:*")
        assert server.client().keys() == []


@pytest.mark.parametrize("kind", ["redis", "redis-6.2", "valkey"])
def test_keys_of_others_are_named(kind: str) -> None:
    config = {"maxmemory": "100mb"}
    with RedisServer(
        binary=required(kind), appendonly=True, appendfsync="always", config=config
    ) as server:
        with Yard(server.url) as yard:
            yard.queue("two", partitions=2)
            for queue in ("one", "two"):
                yard.task(name=f"{queue}-task", queue=queue)(print).enqueue()
        assert subjects(server.url) == set(), "what is our own is not foreign"
        client = server.client()
        client.set("taskyard:{2}:claims", "theirs")
        client.set("taskyard:{0}:s:1", "theirs")
        [report] = examine(parse_url(server.url))
        assert [(one.level, one.subject) for one in report.findings] == [("problem", "keys")] * 2
        for name, finding in zip(("{0}:s:1", "{2}:claims"), report.findings, strict=True):
            assert f"the key taskyard:{name} is another application's" in finding.text
        client.delete("taskyard:{0}:meta")
        client.set("taskyard:{0}:meta", "theirs")
        [finding] = examine(parse_url(server.url))[0].findings
        assert "the key taskyard:{0}:meta is" in finding.text


def test_keys_of_others_are_named_on_a_cluster(redis_cluster: RedisCluster) -> None:
    with Yard(redis_cluster.url) as yard:
        yard.queue("two", partitions=2)
        yard.task(name="task", queue="two")(print).enqueue()
    redis_cluster.client().set("taskyard:{2}:later", "theirs")
    reports = examine(parse_url(redis_cluster.url))
    found = [one for report in reports for one in report.findings if one.subject == "keys"]
    assert [one.text.split()[2] for one in found] == ["taskyard:{2}:later"]


def test_settings_that_are_not_told(redis_binary: object) -> None:
    users = ["hosted on >pw &* ~* +@all -config -acl"]
    with RedisServer(users=users) as server:
        found = subjects(server.url.replace("//", "//hosted:pw@"))
    assert found == {("note", "settings"), ("note", "memory")}


def test_a_replica_is_told_from_its_master(redis_sentinel: Sentinels) -> None:
    [replica] = redis_sentinel.replicas()
    [report] = examine(parse_url(replica.url))
    assert report.findings[0].subject == "role"
    assert f":{redis_sentinel.master().port}" in report.findings[0].remedy


def test_a_master_behind_sentinels(redis_sentinel: Sentinels) -> None:
    [report] = examine(parse_url(f"{redis_sentinel.url}?wait_replicas=1"))
    assert report.address.port == redis_sentinel.master().port
    assert report.replicas == 1
    assert report.losses[-1] == ("a replica takes over", "nothing")
    [report] = examine(parse_url(f"{redis_sentinel.url}?wait_replicas=2"))
    assert "every put ends with an error" in report.findings[0].text


def test_every_master_of_a_cluster(redis_cluster: RedisCluster) -> None:
    reports = examine(parse_url(redis_cluster.url))
    assert {one.address.port for one in reports} == {one.port for one in redis_cluster.masters()}
    assert all(one.replicas == 1 for one in reports)
    assert not any(one.level == "problem" for report in reports for one in report.findings)


def test_a_node_of_a_cluster_by_itself(redis_cluster: RedisCluster) -> None:
    [report] = examine(parse_url(redis_cluster.nodes[0].url))
    assert report.findings[0].subject == "cluster"
    assert "redis+cluster://" in report.findings[0].remedy


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("redis://:wrong@{}/0", "without any password|password is wrong"),
        ("redis://{}/99", "no database of this number"),
        ("rediss://{}/0?timeout=0.5", "TLS|no answer in time"),
        ("redis+cluster://{}", "no node of a cluster"),
        ("redis+sentinel://{}/shop", "it is no sentinel"),
    ],
)
def test_a_server_that_cannot_be_asked(redis_server: RedisServer, url: str, text: str) -> None:
    address = f"{redis_server.host}:{redis_server.port}"
    with pytest.raises(BrokerInaccessible, match=text):
        examine(parse_url(url.format(address)))


def test_a_server_that_is_away_or_silent(redis_server: RedisServer) -> None:
    with pytest.raises(BrokerError, match="Connection refused"):
        examine(parse_url(f"redis://127.0.0.1:{free_port()}"))
    with pytest.raises(BrokerError, match="Connection refused"):
        examine(parse_url(f"redis+cluster://127.0.0.1:{free_port()}"))
    with Proxy((redis_server.host, redis_server.port)) as proxy:
        proxy.swallow()
        with pytest.raises(BrokerError, match="no answer in time"):
            examine(parse_url(f"redis://{proxy.address}?timeout=0.1"))


def test_the_commands_that_scripts_call_are_all_tried(redis_server: RedisServer) -> None:
    sources = " ".join(load_script(name).source for name in NAMES)
    code = re.sub(r"--.*", "", sources)
    words = set(re.findall(r"'([A-Z]+)'", code))
    listed = redis_server.client().command_list()  # of 7.0 and newer
    known = {name.decode().upper() for name in listed}
    can_be_missed = {"MEMORY"}  # then nobody is told how much memory a queue takes
    assert (words & known) - can_be_missed == set(called_commands())


# At the start of a driver


def test_a_driver_hears_of_warnings_once_per_server(redis_server: RedisServer) -> None:
    options = parse_url(redis_server.url)
    heard: list[Finding] = []
    broker = RedisBroker(options)
    driver = RedisDriver(options, check=start_check(options, heard.append))
    try:
        for _ in range(2):
            driver.run(broker.counts())
    finally:
        driver.close()
    assert [(one.level, one.subject) for one in heard] == [("warning", "persistence")]
    assert redis_server.client().keys() == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_driver_looks_at_who_loads_when_that_is_over(kind: str) -> None:
    # It answers between some commands of its file only.
    slow = {"key-load-delay": 500, "aof-use-rdb-preamble": "no"}
    heard: list[Finding] = []
    with RedisServer(binary=required("redis"), appendonly=True, config=slow) as server:
        with server.client().pipeline(transaction=False) as pipe:
            for number in range(4000):
                pipe.set(f"key:{number}", "value")
            pipe.execute()
        options = parse_url(server.url)
        with driven(kind, server.url, check=start_check(options, heard.append)) as one:
            server.terminate()
            begun = one.begin(call(SAY, "1"))
            server.restart()
            assert begun.result() == 1
    assert heard == []


@pytest.mark.parametrize("kind", KINDS)
def test_who_wants_a_password_at_the_first_look(kind: str) -> None:
    with RedisServer(binary=required(), password="s3cret") as server:
        url = f"redis://{server.host}:{server.port}"
        check = start_check(parse_url(url), lambda _: None)
        with (
            driven(kind, url, check=check) as one,
            pytest.raises(BrokerInaccessible, match="it wants a password, and the URL has none"),
        ):
            one.run(call(SAY, "1"))


def test_the_first_look_at_who_loads_is_put_off() -> None:
    heard: list[Finding] = []
    check = start_check(parse_url("redis://here"), heard.append)()
    next(check)
    with pytest.raises(Refusal, match="LOADING"):
        answer_all(check, "redis_version:7.0.15\nloading:1\naof_enabled:0\n")
    assert heard == []


def answer_all(check: Any, info: str) -> None:
    """Answer INFO, and nothing else."""
    check.send(info.encode())
    while True:
        check.send(Refusal("NOPERM", "not told"))


# The command


def run(*arguments: str) -> tuple[int, str]:
    answer = CliRunner().invoke(taskyard, ["doctor", *arguments])
    return answer.exit_code, answer.output


def test_the_command_on_a_server_that_has_warnings(redis_server: RedisServer) -> None:
    code, output = run(redis_server.url)
    assert code == 1
    assert f"at {redis_server.host}:{redis_server.port}\n" in output
    assert "warning  persistence: it keeps nothing on disk" in output
    assert "the server is killed                      everything" in output


def test_the_command_on_a_good_server_with_a_password() -> None:
    required()
    config = {"maxmemory": "100mb"}
    with RedisServer(
        appendonly=True, appendfsync="always", password="s3cret", config=config
    ) as server:
        for given in ([server.url], ["-P", str(server.port), "-p", "s3cret"]):
            code, output = run(*given)
            assert code == 0
            assert "nothing to complain of" in output
            assert "s3cret" not in output
        code, output = run("--json", server.url)
        document = json.loads(output)
        assert document["broker"] == f"redis://:***@127.0.0.1:{server.port}/0"
        assert document["servers"][0]["findings"] == []
        assert document["servers"][0]["losses"][0] == {
            "event": "the server is killed",
            "lost": "nothing",
        }
        code, output = run(server.url.replace("s3cret", "wr0ng"))
        assert code == 1
        assert "user or password is wrong" in output
        assert "wr0ng" not in output


@pytest.mark.parametrize(
    ("url", "code", "text"),
    [
        ("memory://", 1, "end with their process"),
        ("sqlite:///yard.db", 0, "nothing to complain of"),
        ("sqlite:///yard.db?synchronous=off", 1, "the file may be damaged"),
        ("sqlite:///yard.db?synchronous=maybe", 1, "synchronous must be one of"),
        ("mysql://host", 1, "no broker is called"),
    ],
)
def test_the_command_on_other_brokers(
    url: str, code: int, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(url)[0] == code
    assert text in run(url)[1]
    assert list(tmp_path.iterdir()) == []


def test_the_command_takes_one_broker() -> None:
    code, output = run("memory://", "--broker", "memory://")
    assert code == 2
    assert "not both" in output


# The documentation

HOWTO = Path(__file__).parents[2] / "docs" / "howto" / "redis.md"


@pytest.mark.parametrize("kind", ["redis", "redis-6.2", "valkey"])
def test_the_documented_rule_is_enough(kind: str) -> None:
    rule = re.search(r"^ACL SETUSER (taskyard .*)$", HOWTO.read_text(), re.MULTILINE)
    assert rule is not None
    user = rule[1].replace(">PASSWORD", ">pw")
    with RedisServer(binary=required(kind), users=[user]) as server:
        url = server.url.replace("//", "//taskyard:pw@")
        [report] = examine(parse_url(f"{url}?wait_replicas=1"))
        assert not any(one.subject == "access" for one in report.findings)
        yard = Yard(url)
        done: list[int] = []

        @yard.task(name="work")
        def work(number: int) -> int:
            done.append(number)
            return number

        with yard:
            result = work.enqueue(7)
            work.options(delay=60).enqueue(8)
            yard.run_worker(burst=True)
            assert result.get(timeout=10) == 7
            [counts] = yard.counts()
        assert done == [7]
        assert counts.delayed == 1
