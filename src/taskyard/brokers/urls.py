"""From a URL to a broker. The only place that names concrete brokers."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import cast
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from taskyard.brokers.base import Broker
from taskyard.errors import BrokerError, MissingExtra, UnknownScheme

__all__ = [
    "LOCAL_URL",
    "REDIS_HOST",
    "REDIS_PASSWORD",
    "REDIS_PORT",
    "broker_of",
    "open_broker",
    "redis_url",
    "start_for",
]

REDIS_HOST = "127.0.0.1"
REDIS_PORT = 6379
LOCAL_URL = f"redis://{REDIS_HOST}:{REDIS_PORT}/0"
"""Where a server of one's own is started if nothing else is said."""
REDIS_PASSWORD = "TASKYARD_REDIS_PASS"  # noqa: S105 - only the name of the variable
"""The environment variable of the password for a Redis that is named by its host and port."""

_HOST = re.compile(r"[^\s/?#@\[\]]+")

_LATER = {"postgresql": "postgres", "postgres": "postgres"}


def _memory(url: str) -> Broker:
    from taskyard.brokers.memory import MemoryBroker

    if url.partition(":")[2].strip("/"):
        raise BrokerError(f"{url}: memory:// takes nothing behind it; each one is a new, empty one")
    return MemoryBroker()


def _sqlite(url: str) -> Broker:
    from taskyard.brokers.sqlite import SQLiteBroker

    parts = urlsplit(url)
    if parts.netloc:
        # Without what may be a password in front of an @.
        path = f"{parts.netloc.rpartition('@')[2]}{parts.path}"
        raise BrokerError(
            f"sqlite://{path}: write three slashes before a relative path (sqlite:///{path}), "
            f"four before an absolute one"
        )
    if parts.fragment:
        raise BrokerError(f"{url}: write %23 for a # in the path")
    path = unquote(parts.path.removeprefix("/"))
    if not path or path == ":memory:":
        raise BrokerError(f"{url}: give a file, as in sqlite:///yard.db, or use memory://")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(options.keys() - {"synchronous", "busy"})
    if unknown:
        raise BrokerError(
            f"{url}: unknown option {', '.join(unknown)}; there are synchronous, busy"
        )
    try:
        busy = float(options.get("busy", "30"))
    except ValueError:
        busy = -1.0
    if not 0 < busy <= 86_400:
        raise BrokerError(f"{url}: busy must be a number of seconds, not {options['busy']!r}")
    return SQLiteBroker(
        Path(path), synchronous=options.get("synchronous", "full").lower(), busy=busy
    )


def _redis(url: str) -> Broker:
    from taskyard.brokers.redis import RedisBroker, parse_url

    return RedisBroker(parse_url(url))


_REDIS = (_redis, "redis")
_SCHEMES: dict[str, tuple[Callable[[str], Broker], str]] = {
    "memory": (_memory, ""),
    "sqlite": (_sqlite, ""),
    "redis": _REDIS,
    "rediss": _REDIS,
    "unix": _REDIS,
    "redis+sentinel": _REDIS,
    "rediss+sentinel": _REDIS,
    "redis+cluster": _REDIS,
    "rediss+cluster": _REDIS,
}


def open_broker(url: str) -> Broker:
    """Make the broker of a URL, without connecting yet.

    Arguments:
        url: `memory://`, or `sqlite:///relative.db`, `sqlite:////absolute.db` with
            `?synchronous=full|extra|normal|off&busy=30` behind it, or that of a Redis (see
            `taskyard.brokers.redis.options.parse_url`).

    Returns:
        The broker.

    Raises:
        UnknownScheme: there is no broker for it.
        MissingExtra: its broker needs a package that is not installed.
        BrokerError: the rest of the URL is wrong.
    """
    scheme, found, _ = url.partition(":")
    scheme = scheme.lower()
    known = ", ".join(sorted(f"{name}://" for name in _SCHEMES))
    if not found:
        raise UnknownScheme(f"{url!r} is no broker URL; there are {known}")
    if scheme in _LATER:
        raise UnknownScheme(f"{scheme}:// is not in this version of taskyard; there are {known}")
    if scheme not in _SCHEMES:
        raise UnknownScheme(f"no broker is called {scheme}://; there are {known}")
    make, extra = _SCHEMES[scheme]
    try:
        return make(url)
    except ModuleNotFoundError as error:
        if not extra:
            raise
        raise _missing(f"{scheme}://", error, extra) from error


def redis_url(host: str = REDIS_HOST, port: int = REDIS_PORT, password: str | None = None) -> str:
    """Make the URL of a Redis.

    Arguments:
        host: a name or an address.
        port: there.
        password: None: that of the environment variable `TASKYARD_REDIS_PASS`, if there is one.

    Returns:
        The URL, with the password: not to be printed.

    Raises:
        BrokerError: the host or the password is none. A port is looked at when the URL is opened.
    """
    _check_place(host, password)
    secret = os.environ.get(REDIS_PASSWORD) if password is None else password
    login = f":{quote(secret, safe='')}@" if secret else ""
    return f"redis://{login}{f'[{host}]' if ':' in host else host}:{port}/0"


def _check_place(host: object, password: object) -> None:
    if not isinstance(host, str) or not _HOST.fullmatch(host):
        # Not what it is: there may be a password in it.
        kind = "no URL" if isinstance(host, str) else f"not of type {type(host).__name__}"
        raise BrokerError(f"a host is a name or an address, as in {REDIS_HOST}, {kind}")
    if not isinstance(password, str | None):
        raise BrokerError(f"a password is a text, not of type {type(password).__name__}")


def broker_of(given: object) -> Broker:
    """Make a broker of what a program names it by.

    Arguments:
        given: a URL, a broker, or a client object of redis-py (`Redis` or
            `RedisCluster`, of `redis` or of `redis.asyncio`).

    Raises:
        UnknownScheme: there is no broker for the URL.
        MissingExtra: its broker needs a package that is not installed.
        BrokerError: it is none of them, or has a setting that is wrong or cannot be carried over.
    """
    if isinstance(given, str):
        return open_broker(given)
    if hasattr(given, "async_driver"):
        return cast("Broker", given)
    found = _of_client(given)
    if found is None:
        raise BrokerError(
            f"a broker is a URL (sqlite:///yard.db), a broker or a client of redis-py,"
            f" not {given!r}"
        )
    return found


def _of_client(client: object) -> Broker | None:
    if not any(kind.__module__.partition(".")[0] == "redis" for kind in type(client).__mro__):
        return None
    from taskyard.brokers.redis import RedisBroker, from_client

    return RedisBroker(from_client(client))


def start_for(broker: object) -> object:
    """Start a Redis server of one's own; see `Yard`.

    Arguments:
        broker: the URL where it is to be; "": `LOCAL_URL`.

    Returns:
        What must be kept as long as the server is to run.

    Raises:
        BrokerError: this is no URL of a Redis on this machine, or the server does not start.
        MissingExtra: redis-py is not installed, or there is no server to start.
    """
    url = broker or LOCAL_URL
    if not isinstance(url, str) or not url.startswith("redis://"):
        raise BrokerError(
            f"start_server=True starts a Redis on this machine: give a URL like {LOCAL_URL},"
            f" or none, not {broker!r}"
        )
    try:
        from taskyard.brokers.redis.local import start_local
    except ModuleNotFoundError as error:
        raise _missing("start_server=True", error, "redis") from error
    return start_local(url)


def _missing(what: str, error: ModuleNotFoundError, extra: str) -> MissingExtra:
    return MissingExtra(f"{what} needs the package {error.name}: pip install 'taskyard[{extra}]'")
