"""URLs and client objects become options."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.cluster import ClusterNode
from redis.credentials import UsernamePasswordCredentialProvider
from redis.sentinel import Sentinel

from taskyard.brokers.redis.clients import from_client
from taskyard.brokers.redis.options import Address, Login, RedisOptions, Tls, parse_url
from taskyard.errors import BrokerError

SECRET = "pa$$ w/o#rd?@:[x]"
QUOTED = "pa%24%24%20w%2Fo%23rd%3F%40%3A%5Bx%5D"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://", RedisOptions()),
        ("REDIS://example.org", RedisOptions(addresses=(Address("example.org", 6379),))),
        ("redis://h:7000/3", RedisOptions(addresses=(Address("h", 7000),), database=3)),
        ("redis://h:/", RedisOptions(addresses=(Address("h", 6379),))),
        ("redis://[::1]:7000", RedisOptions(addresses=(Address("::1", 7000),))),
        ("redis://[fe80::1%25eth0]", RedisOptions(addresses=(Address("fe80::1%eth0", 6379),))),
        (f"redis://:{QUOTED}@h", RedisOptions((Address("h", 6379),), login=Login("", SECRET))),
        ("redis://me:a@[b@h", RedisOptions((Address("h", 6379),), login=Login("me", "a@[b"))),
        ("redis://m%40e:pw@h", RedisOptions((Address("h", 6379),), login=Login("m@e", "pw"))),
        ("rediss://h", RedisOptions((Address("h", 6379),), tls=Tls())),
        (
            "rediss://h/0?ca=/x/ca.pem&cert=c.pem&key=k%20.pem&verify=none",
            RedisOptions((Address("h", 6379),), tls=Tls("/x/ca.pem", "c.pem", "k .pem", "none")),
        ),
        ("unix:///run/r.sock", RedisOptions((Address("/run/r.sock", 0),))),
        ("unix:///run/r%40.sock?db=2", RedisOptions((Address("/run/r@.sock", 0),), database=2)),
        ("unix://u:p@/r.sock", RedisOptions((Address("/r.sock", 0),), login=Login("u", "p"))),
        (
            "redis+sentinel://u:p@a:1,b,[::1]:3/mymaster/4?sentinel_user=s&sentinel_password=q%26",
            RedisOptions(
                (Address("a", 1), Address("b", 26379), Address("::1", 3)),
                kind="sentinel",
                master="mymaster",
                database=4,
                login=Login("u", "p"),
                sentinel_login=Login("s", "q&"),
            ),
        ),
        (
            "rediss+sentinel://a/m%2F1?ca=x",
            RedisOptions((Address("a", 26379),), "sentinel", "m/1", tls=Tls("x")),
        ),
        (
            "redis+cluster://a:1,b",
            RedisOptions((Address("a", 1), Address("b", 6379)), kind="cluster"),
        ),
        (
            "rediss+cluster://:p@a/0",
            RedisOptions((Address("a", 6379),), "cluster", login=Login("", "p"), tls=Tls()),
        ),
        (
            "redis://h?prefix=my:app&timeout=0.5&retry=0&wait_replicas=2&connections=8",
            RedisOptions(
                (Address("h", 6379),),
                prefix="my:app",
                timeout=0.5,
                retry=0.0,
                wait_replicas=2,
                connections=8,
            ),
        ),
        ("redis://h?prefix=a+b", RedisOptions((Address("h", 6379),), prefix="a+b")),
    ],
)
def test_urls(url: str, expected: RedisOptions) -> None:
    assert parse_url(url) == expected


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://", "redis://localhost:6379/0"),
        (f"redis://:{QUOTED}@h/1", "redis://:***@h:6379/1"),
        ("rediss://me:secret@[::1]:1?ca=/c a&timeout=2", "rediss://me:***@[::1]:1/0"),
        ("unix://u:secret@/a%20b?db=2&prefix=x", "unix://u:***@/a%20b?db=2&prefix=x"),
        (
            "redis+sentinel://u:secret@a,b/m/3?sentinel_user=s&sentinel_password=secret&retry=0",
            "redis+sentinel://u:***@a:26379,b:26379/m/3"
            "?sentinel_user=s&sentinel_password=***&retry=0",
        ),
        ("rediss+cluster://a,b:7?verify=none", "rediss+cluster://a:6379,b:7?verify=none"),
    ],
)
def test_what_is_shown_hides_passwords(url: str, shown: str) -> None:
    options = parse_url(url)
    assert options.shown.startswith(shown)
    assert "secret" not in options.shown + repr(options) + str(options)
    assert parse_url(options.shown).addresses == options.addresses


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("http://h", "no URL of a Redis; there are redis, redis.cluster"),
        ("redis:h", "no URL of a Redis"),
        ("redis://a b", "is no host and port"),
        ("redis://h\n", "is no host and port"),
        ("redis://h/x", "a database is a number from 0, not 'x'"),
        ("redis://h/-1", "a database is a number"),
        ("redis://h/1/2", "a database is a number"),
        ("redis://h/²", "a database is a number"),
        ("redis://h:0", "'h:0' is no host and port"),
        ("redis://h:70000", "'h:70000' is no host and port"),
        ("redis://h:x", "'h:x' is no host and port"),
        ("redis://::1", "'::1' is no host and port"),
        ("redis://a,b", r"several need redis\+sentinel:// or redis\+cluster://"),
        ("redis://h?colour=red", "unknown option colour; there are connections, prefix, retry"),
        ("redis://h?ca=x", "those of TLS need rediss"),
        ("redis://h?db=1", "unknown option db"),
        ("redis://h?sentinel_user=x", "unknown option sentinel_user"),
        ("redis://h?retry=1&retry=2", "option retry is given twice"),
        ("redis://h?timeout=soon", "timeout must be a number of seconds, not 'soon'"),
        ("redis://h?timeout=0", "timeout must be above 0"),
        ("redis://h?timeout=nan", "timeout must be above 0"),
        ("redis://h?timeout=1e9", "up to 120 s"),
        ("redis://h?retry=-1", "retry must be from 0 to 600"),
        ("redis://h?retry=inf", "retry must be from 0 to 600"),
        ("redis://h?wait_replicas=1.5", "wait_replicas must be a whole number, not '1.5'"),
        ("redis://h?wait_replicas=-1", "wait_replicas must be from 0"),
        ("redis://h?connections=0", "connections must be from 1"),
        ("redis://h?prefix=", "prefix must be 1 to 50 characters"),
        ("redis://h?prefix=a%7Bb", "without spaces and braces, not 'a{b'"),
        ("redis://h?prefix=a%00", "prefix must be"),
        ("redis://h?prefix=a%20b", "prefix must be"),
        (f"redis://h?prefix={'x' * 51}", "prefix must be"),
        ("rediss://h?verify=maybe", "verify must be full, ca or none, not 'maybe'"),
        ("rediss://h?key=k", "key needs cert"),
        ("unix://host/r.sock", "unix:// takes the path"),
        ("unix:///", "unix:// takes the path"),
        ("redis+sentinel://a,b", "name the master behind the hosts"),
        ("redis+sentinel://a/m/x", "a database is a number"),
        ("redis+sentinel://a/m?sentinel_user=x", "sentinel_user needs a sentinel_password"),
        ("redis+cluster://a/1", "a cluster has database 0 only, not 1"),
    ],
)
def test_wrong_urls(url: str, text: str) -> None:
    with pytest.raises(BrokerError, match=text):
        parse_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "redis://secret@h",  # is it a user, or a password?
        "redis://u:secret/more@h",
        "redis://u:secret#more@h/0",
        "redis://u:secret?more@h",
        "redis://u:secret@h/x",
        "redis://u:secret@h:x",
        "redis://:secret@h?colour=secret",
        "redis+sentinel://u:secret@a?x",
        "redis+sentinel://a/m?sentinel_password=se@secret",
        "rediss://:secret@a,b",
        "redis+cluster://:secret@a/1",
    ],
)
def test_errors_show_no_password(url: str) -> None:
    with pytest.raises(BrokerError) as caught:
        parse_url(url)
    error: BaseException | None = caught.value
    while error is not None:
        assert "secret" not in str(error)
        error = error.__cause__


# From clients


def sync_cluster(**options: Any) -> redis.RedisCluster:
    """A cluster client that has not connected: its constructor would."""
    made = redis.RedisCluster.__new__(redis.RedisCluster)
    manager: Any = type("Manager", (), {})()
    manager.startup_nodes = {"a:1": ClusterNode("a", 1), "b:2": ClusterNode("b", 2)}
    manager.connection_kwargs = options
    manager.address_remap = None
    made.nodes_manager = manager
    return made


CHECKED: Any = {"ssl": True, "ssl_check_hostname": True}  # the default depends on the version

CLIENTS: list[tuple[Callable[[], Any], RedisOptions]] = [
    (redis.Redis, RedisOptions()),
    (
        lambda: redis.Redis("h", 1, 2, username="u", password="p", decode_responses=True),
        RedisOptions((Address("h", 1),), database=2, login=Login("u", "p")),
    ),
    (
        lambda: redis.Redis.from_url("redis://u:p@h:1/2"),
        RedisOptions((Address("h", 1),), database=2, login=Login("u", "p")),
    ),
    (
        lambda: redis.Redis.from_url("unix:///r.sock?db=1"),
        RedisOptions((Address("/r.sock", 0),), database=1),
    ),
    (lambda: redis.Redis(unix_socket_path="/r"), RedisOptions((Address("/r", 0),))),
    (
        lambda: redis.Redis(
            "h",
            ssl=True,
            ssl_ca_certs="ca",
            ssl_certfile="c",
            ssl_keyfile="k",
            ssl_check_hostname=True,
        ),
        RedisOptions((Address("h", 6379),), tls=Tls("ca", "c", "k")),
    ),
    (
        lambda: redis.Redis("h", ssl=True, ssl_cert_reqs="none", ssl_check_hostname=False),
        RedisOptions((Address("h", 6379),), tls=Tls(verify="none")),
    ),
    (
        lambda: redis.asyncio.Redis(host="h", port=1, db=2, password="p", decode_responses=True),
        RedisOptions((Address("h", 1),), database=2, login=Login("", "p")),
    ),
    (
        lambda: redis.asyncio.Redis(host="h", ssl_cert_reqs=ssl.CERT_REQUIRED, **CHECKED),
        RedisOptions((Address("h", 6379),), tls=Tls()),
    ),
    (
        lambda: redis.asyncio.Redis(host="h", ssl=True, ssl_check_hostname=False),
        RedisOptions((Address("h", 6379),), tls=Tls(verify="ca")),
    ),
    (
        lambda: Sentinel(
            [("a", 1), ("b", 2)], sentinel_kwargs={"username": "s", "password": "q"}
        ).master_for("m", db=3, password="p"),
        RedisOptions(
            (Address("a", 1), Address("b", 2)),
            "sentinel",
            "m",
            3,
            login=Login("", "p"),
            sentinel_login=Login("s", "q"),
        ),
    ),
    (
        lambda: AsyncSentinel([("a", 1)], sentinel_kwargs={"ssl": True}).master_for("m", ssl=True),
        RedisOptions((Address("a", 1),), "sentinel", "m", tls=Tls()),
    ),
    (
        lambda: sync_cluster(username="u", password="p", ssl=True),
        RedisOptions(
            (Address("a", 1), Address("b", 2)), "cluster", login=Login("u", "p"), tls=Tls()
        ),
    ),
    (
        lambda: redis.asyncio.RedisCluster(
            "a", 1, username="u", password="p", ssl=True, ssl_check_hostname=True
        ),
        RedisOptions((Address("a", 1),), "cluster", login=Login("u", "p"), tls=Tls()),
    ),
]


@pytest.mark.parametrize(("make", "expected"), CLIENTS)
def test_clients(make: Callable[[], Any], expected: RedisOptions) -> None:
    assert from_client(make()) == expected


def test_a_client_with_tuning() -> None:
    options = from_client(redis.Redis(), prefix="x", timeout=1.0, retry=0.0, connections=3)
    assert options == RedisOptions(prefix="x", timeout=1.0, retry=0.0, connections=3)
    with pytest.raises(BrokerError, match="retry must be"):
        from_client(redis.Redis(), retry=-1.0)
    with pytest.raises(BrokerError, match="unknown option colour"):
        from_client(redis.Redis(), colour="red")


def test_a_provider_of_credentials_is_kept() -> None:
    provider = UsernamePasswordCredentialProvider("u", "secret")
    options = from_client(redis.Redis(credential_provider=provider))
    assert options.login.provider is provider
    assert "secret" not in repr(options)


class OwnConnection(redis.Connection):
    pass


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (object, "a object is no client of redis-py"),
        (lambda: Sentinel([("a", 1)]).slave_for("m"), "reads from replicas"),
        (lambda: Sentinel([("a", 1)]).master_for("m", ssl=True), "for both or neither"),
        (lambda: redis.Redis(ssl=True, ssl_ca_data="x"), "ssl_ca_data"),
        (lambda: redis.Redis(ssl=True, ssl_ca_path="x"), "ssl_ca_path"),
        (lambda: redis.Redis(ssl=True, ssl_password="secret"), "ssl_password"),
        (lambda: redis.Redis(ssl=True, ssl_cert_reqs="optional"), "optional"),
        (lambda: redis.Redis(redis_connect_func=print), "redis_connect_func"),
        (
            lambda: redis.Redis(
                connection_pool=redis.ConnectionPool(connection_class=OwnConnection)
            ),
            "connects by OwnConnection",
        ),
    ],
)
def test_clients_that_cannot_be_used(make: Callable[[], Any], text: str) -> None:
    with pytest.raises(BrokerError, match=text) as caught:
        from_client(make())
    assert "secret" not in str(caught.value)
