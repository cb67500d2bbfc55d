"""Asking servers what the doctor wants to know."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, NamedTuple, TypeAlias, TypeVar

from redis.exceptions import RedisError

from taskyard.brokers.redis.calls import Argument, container_key
from taskyard.brokers.redis.connect import SyncConnection, common_error, pack
from taskyard.brokers.redis.doctor import (
    Facts,
    Finding,
    Loss,
    find,
    losses,
    server_name,
    too_old,
)
from taskyard.brokers.redis.failures import NoAnswer, NotRedis, Refusal, final
from taskyard.brokers.redis.options import Address, RedisOptions
from taskyard.brokers.redis.placement import HOME
from taskyard.brokers.redis.scripts import load_script
from taskyard.brokers.redis.topology import directory_for
from taskyard.errors import BrokerError

__all__ = ["Report", "called_commands", "examine", "look", "start_check"]

T = TypeVar("T")

Questions: TypeAlias = Generator[Sequence[Argument], Any, T]
"""Yields commands and gets their replies, a `Refusal` for an error."""

CONFIG = (
    "append*",
    "save",
    "no-appendfsync-on-rewrite",
    "min-replicas-to-write",
    "bind",
    "protected-mode",
)

# What scripts call, by how many arguments it takes behind the key. They are tried on a key that
# holds a text, so most end as WRONGTYPE: the ACL is asked before. (What removes keys is behind.)
_CALLED: Sequence[Sequence[str]] = (
    (
        *("EXISTS", "GET", "HGETALL", "HKEYS", "HLEN", "LLEN", "LPOP", "PERSIST", "RPOP", "SCARD"),
        *("SRANDMEMBER", "TYPE", "ZCARD", "ZPOPMIN", "DEL", "UNLINK"),
    ),
    (
        *(
            "HDEL",
            "HEXISTS",
            "HGET",
            "HMGET",
            "HRANDFIELD",
            "HSCAN",
            "LINDEX",
            "LPUSH",
            "RPUSH",
            "RPUSHX",
        ),
        *("SADD", "SISMEMBER", "SREM", "SSCAN", "ZREM", "ZSCAN", "ZSCORE", "EXPIRE", "PEXPIRE"),
    ),
    (
        *(
            "HINCRBY",
            "HSET",
            "HSETNX",
            "LRANGE",
            "LREM",
            "LSET",
            "ZADD",
            "ZCOUNT",
            "ZRANGE",
            "ZRANGEBYLEX",
            "ZRANGEBYSCORE",
            "ZREVRANGE",
        ),
    ),
)


class Report(NamedTuple):
    """What was found out about a server.

    Attributes:
        address: where it is.
        server: what it is, as in `Redis 7.0.15`.
        replicas: how many follow it.
        findings: the worst first.
        losses: what can be lost.
    """

    address: Address
    server: str
    replicas: int
    findings: list[Finding]
    losses: list[Loss]


def examine(options: RedisOptions) -> list[Report]:
    """Examine the server of a URL; behind sentinels the master, in a cluster all masters.

    It tries the commands that taskyard needs, on a key of its own that it removes again.

    Arguments:
        options: where it is.

    Raises:
        BrokerError: one cannot be reached, or asked.
    """
    directory = directory_for(options)
    address: Address | None = None
    reports = []
    try:
        directory.look_up()
        highest = 0
        for address in directory.everybody():
            highest = max(highest, _ask(options, address, _highest_container(options)))
        for address in directory.everybody():
            questions = look(options, address, probe=True, containers=highest)
            facts = _ask(options, address, questions)
            if facts.info.get("role") == "slave" and options.kind == "cluster":
                continue
            reports.append(
                Report(address, server_name(facts), facts.replicas, find(facts), losses(facts))
            )
    except NoAnswer as error:  # of sentinels, or of the nodes of a cluster
        raise final(error.address, error.error) from error
    except (RedisError, Refusal, NotRedis, OSError) as error:
        raise final(address, common_error(error)) from error
    return reports


def start_check(
    options: RedisOptions, report: Callable[[Finding], None]
) -> Callable[[], Questions[None]]:
    """Make the check that drivers run on each server before they use it.

    Arguments:
        options: of the driver.
        report: gets each warning and problem; notes are left to `taskyard doctor`.

    Returns:
        Makes the check; it raises a `BrokerError` if the server is too old.
    """

    def check() -> Questions[None]:
        facts = yield from look(options, options.addresses[0], probe=False)
        old = too_old(facts)
        if old is not None:
            raise BrokerError(f"{options.shown}: {old.text}; {old.remedy}")
        for finding in find(facts):
            if finding.level != "note":
                report(finding)

    return check


def look(
    options: RedisOptions, address: Address, *, probe: bool, containers: int = 0
) -> Questions[Facts]:
    """Ask a server what there is to know. What it refuses is left out.

    Arguments:
        options: how it is reached.
        address: where it is.
        probe: whether to try commands, and look for keys of others; this writes a key for a
            moment.
        containers: the highest number of a container.
    """
    info = _lines(_checked((yield ("INFO",))))
    before = time.time()
    answer = yield ("TIME",)
    after = time.time()
    skew = 0.0
    if isinstance(answer, list):
        skew = int(answer[0]) + int(answer[1]) / 1e6 - (before + after) / 2
    cluster: Mapping[str, str] = {}
    if info.get("cluster_enabled") == "1":
        cluster = _lines((yield ("CLUSTER", "INFO")))
    config = yield from _config()
    open_default = yield from _open_default()
    forbidden = (yield from _forbidden(options)) if probe else []
    foreign = (yield from _foreign(options, containers)) if probe else []
    return Facts(
        address=address,
        kind=options.kind,
        info=info,
        config=config,
        cluster=cluster,
        open_default=open_default,
        has_password=bool(options.login.password or options.login.provider),
        tls=options.tls is not None,
        skew=skew,
        forbidden=forbidden,
        foreign=foreign,
        user=options.login.user or "default",
        wait_replicas=options.wait_replicas,
    )


def _ask(options: RedisOptions, address: Address, questions: Questions[T]) -> T:
    with closing(SyncConnection(options, address)) as connection:
        reply: Any = None
        while True:
            try:
                command = questions.send(reply)
            except StopIteration as end:
                found: T = end.value
                return found
            connection.send(pack(command))
            [reply] = connection.receive(1)


def _config() -> Questions[Mapping[str, str] | None]:
    found: dict[str, str] = {}
    for name in CONFIG:
        reply = yield ("CONFIG", "GET", name)
        if not isinstance(reply, list):
            return None
        texts = [_text(part) for part in reply]
        found.update(zip(texts[::2], texts[1::2], strict=True))
    return found


def _open_default() -> Questions[bool | None]:
    reply = yield ("ACL", "GETUSER", "default")
    if not isinstance(reply, list):
        return None
    flags = {_text(flag) for flag in reply[reply.index(b"flags") + 1]}
    return {"on", "nopass"} <= flags


# Commands


def _forbidden(options: RedisOptions) -> Questions[list[str]]:
    """Try what taskyard needs; returns what is refused."""
    refused: list[str] = []
    for name, command in _commands(options):
        reply = yield command
        if _is_forbidden(reply):
            refused.append(name)
        elif name == "SUBSCRIBE":
            yield ("UNSUBSCRIBE", *command[1:])
    if {"DEL", "UNLINK"} <= set(refused):
        yield ("SET", _probe_key(options), "", "PX", 1)
    return refused


def called_commands() -> list[str]:
    """The commands that scripts call, as far as `examine` tries them."""
    return sorted(
        {"LMOVE", "PUBLISH", "SET", "TIME", *(name for names in _CALLED for name in names)}
    )


def _commands(options: RedisOptions) -> Iterator[tuple[str, Sequence[Argument]]]:
    key = _probe_key(options)
    channel = f"{options.prefix}:wake:doctor"
    yield "SET", ("SET", key, "text", "EX", 60)
    yield "LMOVE", ("LMOVE", key, key, "RIGHT", "RIGHT")
    yield "BLMOVE", ("BLMOVE", key, key, "RIGHT", "LEFT", 1)
    for count in (1, 2, 0):  # what removes keys comes last
        for name in _CALLED[count]:
            yield name, (name, key, *[1] * count)
    yield "SCRIPT LOAD", ("SCRIPT", "LOAD", "return 1")
    yield "EVALSHA", ("EVALSHA", "e0e1f9fabfc9d4800c877a703b823ac0578ff8db", 1, key)
    yield "TIME", ("TIME",)
    yield "PING", ("PING",)
    yield "PUBLISH", ("PUBLISH", channel, "")
    yield "SUBSCRIBE", ("SUBSCRIBE", channel)
    if options.wait_replicas:
        yield "WAIT", ("WAIT", 0, 1)
    if options.kind == "cluster":
        yield "CLUSTER SLOTS", ("CLUSTER", "SLOTS")


def _probe_key(options: RedisOptions) -> str:
    return f"{container_key(options.prefix, 'doctor')}:probe"


def _is_forbidden(reply: Any) -> bool:
    return isinstance(reply, Refusal) and (
        reply.code == "NOPERM" or (reply.code == "ERR" and "unknown command" in reply.text)
    )


# Keys


def _highest_container(options: RedisOptions) -> Questions[int]:
    """Ask whoever has the home container; 0 from anybody else, or if there is no other one."""
    reply = yield ("HGET", f"{container_key(options.prefix, str(HOME))}:meta", "containers")
    return int(reply) if isinstance(reply, bytes) and reply.isdigit() else 0


def _foreign(options: RedisOptions, highest: int) -> Questions[list[str]]:
    """Find keys of others in the containers that are here; those elsewhere are refused."""
    guard = load_script("guard")
    yield ("SCRIPT", "LOAD", guard.source)
    found: list[str] = []
    for container in range(highest + 1):
        key = container_key(options.prefix, str(container))
        reply = yield ("EVALSHA", guard.sha, 1, key, "", 0, "")
        if isinstance(reply, bytes) and reply:
            found.append(_text(reply))
    return found


# Replies


def _checked(reply: Any) -> Any:
    """A reply that is needed.

    Raises:
        Refusal: it was refused.
    """
    if isinstance(reply, Exception) and not _is_forbidden(reply):
        raise reply
    return reply


def _lines(reply: Any) -> dict[str, str]:
    """The `name:value` lines of a reply; none if it was refused."""
    if not isinstance(reply, bytes):
        return {}
    pairs = (line.partition(":") for line in _text(reply).splitlines())
    return {name: value for name, colon, value in pairs if colon}


def _text(data: bytes) -> str:
    return data.decode(errors="replace")
