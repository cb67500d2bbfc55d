"""Options from a client object of redis-py that somebody has already."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

from redis import RedisCluster
from redis.asyncio import RedisCluster as AsyncRedisCluster
from redis.asyncio.sentinel import SentinelConnectionPool as AsyncSentinelPool
from redis.sentinel import SentinelConnectionPool

from taskyard.brokers.redis.options import Address, Login, RedisOptions, Tls, check_options
from taskyard.errors import BrokerError

__all__ = ["from_client"]

_NOT_CARRIED = {
    "redis_connect_func": "a function that is called for each connection",
    "ssl_ca_data": "certificates as text; put them into a file and use ssl_ca_certs",
    "ssl_ca_path": "a folder of certificates; put them into a file and use ssl_ca_certs",
    "ssl_password": "an encrypted key",
    "ssl_ciphers": "a choice of ciphers",
    "ssl_min_version": "a lowest version of TLS",
    "ssl_validate_ocsp": "OCSP",
    "ssl_validate_ocsp_stapled": "OCSP",
    "ssl_include_verify_flags": "flags of verification",
    "ssl_exclude_verify_flags": "flags of verification",
}


def from_client(client: Any, **tuning: Any) -> RedisOptions:
    """Take from a client where its server is and how to speak to it.

    The client itself is not used: its connections are shared, may decode replies, and repeat
    commands by themselves. So it may be of either kind, whichever driver is used, with any
    `decode_responses`. Its time limits and retries are not taken over; give `timeout` and `retry`.

    Arguments:
        client: a `Redis` or `RedisCluster` of `redis` or `redis.asyncio`, or the client that a
            `Sentinel` gave for a master.
        tuning: `prefix`, `timeout`, `retry`, `wait_replicas`, `connections` of `RedisOptions`.

    Returns:
        The options.

    Raises:
        BrokerError: it is no such client, or it has a setting that cannot be carried over.
    """
    if isinstance(client, RedisCluster | AsyncRedisCluster):
        options = _cluster(client)
    elif (pool := getattr(client, "connection_pool", None)) is None:
        raise BrokerError(
            f"a {type(client).__qualname__} is no client of redis-py; give a URL, or a Redis or "
            f"RedisCluster of redis or redis.asyncio"
        )
    elif isinstance(pool, SentinelConnectionPool | AsyncSentinelPool):
        options = _sentinel(pool)
    else:
        options = _server(pool)
    unknown = sorted(tuning.keys() - {"prefix", "timeout", "retry", "wait_replicas", "connections"})
    if unknown:
        raise BrokerError(
            f"unknown option {', '.join(unknown)}; there are connections, prefix, retry, timeout, "
            f"wait_replicas"
        )
    made: dict[str, Any] = {**options, **tuning}
    return check_options(RedisOptions(**made))


def _server(pool: Any) -> dict[str, Any]:
    settings = pool.connection_kwargs
    _check_class(pool.connection_class)
    if settings.get("path"):
        address = Address(str(settings["path"]), 0)
    else:
        address = Address(settings.get("host", "localhost"), int(settings.get("port", 6379)))
    return {
        "addresses": (address,),
        "database": int(settings.get("db") or 0),
        "login": _login(settings),
        "tls": _tls(settings, secure=_is_secure(pool.connection_class)),
    }


def _sentinel(pool: Any) -> dict[str, Any]:
    if not pool.is_master:
        raise BrokerError("this client reads from replicas; give the one of Sentinel.master_for()")
    settings = pool.connection_kwargs
    sentinels = [sentinel.connection_pool for sentinel in pool.sentinel_manager.sentinels]
    own = sentinels[0].connection_kwargs
    secure = _is_secure(pool.connection_class)
    if secure != _is_secure(sentinels[0].connection_class):
        raise BrokerError(
            "this client uses TLS either for the sentinels or for the master: taskyard uses it "
            "for both or neither"
        )
    return {
        "kind": "sentinel",
        "addresses": tuple(
            Address(each.connection_kwargs["host"], int(each.connection_kwargs["port"]))
            for each in sentinels
        ),
        "master": pool.service_name,
        "database": int(settings.get("db") or 0),
        "login": _login(settings),
        "sentinel_login": _login(own),
        "tls": _tls(settings, secure=secure),
    }


def _cluster(client: Any) -> dict[str, Any]:
    nodes = client.nodes_manager
    settings = dict(client.get_connection_kwargs())
    if settings.get("redis_connect_func") == getattr(client, "on_connect", None):
        settings.pop("redis_connect_func", None)  # its own, not the user's
    if nodes.address_remap is not None:
        raise BrokerError("a cluster client with address_remap cannot be used by taskyard")
    # The asynchronous client chooses a class of connections, the other is told by a flag.
    kind = settings.get("connection_class")
    secure = bool(settings.get("ssl")) or (kind is not None and _is_secure(kind))
    return {
        "kind": "cluster",
        "addresses": tuple(Address(n.host, int(n.port)) for n in nodes.startup_nodes.values()),
        "login": _login(settings),
        "tls": _tls(settings, secure=secure),
    }


def _check_class(kind: type) -> None:
    if not kind.__module__.startswith("redis."):
        raise BrokerError(
            f"this client connects by {kind.__qualname__}, which taskyard cannot do by itself"
        )


def _is_secure(kind: type) -> bool:
    return any("SSLConnection" in base.__name__ for base in kind.__mro__)


def _login(settings: Mapping[str, Any]) -> Login:
    return Login(
        settings.get("username") or "",
        settings.get("password") or "",
        settings.get("credential_provider"),
    )


def _tls(settings: Mapping[str, Any], *, secure: bool) -> Tls | None:
    for name, what in _NOT_CARRIED.items():
        if settings.get(name):
            raise BrokerError(f"a client with {name} cannot be used by taskyard: {what}")
    if not secure:
        return None
    wanted = settings.get("ssl_cert_reqs", "required")
    if wanted in ("optional", ssl.CERT_OPTIONAL):
        raise BrokerError("a client with ssl_cert_reqs='optional' cannot be used by taskyard")
    verify = "full" if settings.get("ssl_check_hostname", True) else "ca"
    if wanted in ("none", None, ssl.CERT_NONE):
        verify = "none"
    return Tls(
        ca=str(settings.get("ssl_ca_certs") or ""),
        cert=str(settings.get("ssl_certfile") or ""),
        key=str(settings.get("ssl_keyfile") or ""),
        verify=verify,
    )
