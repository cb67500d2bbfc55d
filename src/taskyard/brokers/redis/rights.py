"""What the ACL of a user must allow, and finding out what it does not.

Scripts are stopped by the first command that they may not call, and servers before 7.2 do not say
which one it was. So the commands are tried, each by itself, on a key that is removed again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from taskyard.brokers.redis.calls import Argument, container_key
from taskyard.brokers.redis.failures import Refusal

__all__ = ["called_commands", "is_forbidden", "lacking", "probe_key", "script_probes"]

# What scripts call, by how many arguments it takes behind the key. They are tried on a key that
# holds a text, so most end as WRONGTYPE: the ACL is asked before. (What removes keys is behind.)
_CALLED: Sequence[Sequence[str]] = (
    (
        *("EXISTS", "GET", "HGETALL", "HKEYS", "HLEN", "LLEN", "LPOP", "PERSIST", "RPOP", "SCARD"),
        *("SRANDMEMBER", "TYPE", "ZCARD", "ZPOPMIN", "DEL", "UNLINK"),
    ),
    (
        *("HDEL", "HEXISTS", "HGET", "HMGET", "HRANDFIELD", "HSCAN", "LINDEX", "LPUSH", "RPUSH"),
        *("RPUSHX", "SADD", "SISMEMBER", "SREM", "SSCAN", "ZREM", "ZSCAN", "ZSCORE", "EXPIRE"),
        "PEXPIRE",
    ),
    (
        *("HINCRBY", "HSET", "HSETNX", "LRANGE", "LSET", "ZADD", "ZRANGE", "ZRANGEBYLEX"),
        *("ZRANGEBYSCORE", "ZREVRANGE"),
    ),
)


def called_commands() -> list[str]:
    """The commands that scripts call, as far as they are tried."""
    return sorted(
        {"LMOVE", "PUBLISH", "SET", "TIME", *(name for names in _CALLED for name in names)}
    )


def probe_key(prefix: str, owner: str) -> str:
    """The key on which somebody tries commands.

    Arguments:
        prefix: what keys begin with.
        owner: who it is, as others may try at the same time.
    """
    return f"{container_key(prefix, 'doctor')}:probe:{owner}"


def script_probes(key: str) -> list[tuple[str, Sequence[Argument]]]:
    """Give what tries the commands that stop a script, by name, in this order.

    Arguments:
        key: the key for it, which is gone afterwards.
    """
    probes: list[tuple[str, Sequence[Argument]]] = [
        ("SET", ("SET", key, "text", "EX", 60)),
        ("LMOVE", ("LMOVE", key, key, "RIGHT", "RIGHT")),
        ("TIME", ("TIME",)),
    ]
    for count in (1, 2, 0):  # what removes keys comes last
        probes += [(name, (name, key, *[1] * count)) for name in _CALLED[count]]
    probes.append(("PEXPIRE", ("PEXPIRE", key, 1)))  # where the user may not remove it
    return probes


def is_forbidden(reply: Any) -> bool:
    """Whether a command was refused as such, whatever it would have found."""
    return isinstance(reply, Refusal) and (
        reply.code == "NOPERM" or (reply.code == "ERR" and "unknown command" in reply.text)
    )


def lacking(prefix: str, answers: Iterable[tuple[str, Any]]) -> list[str]:
    """Name what a user lacks.

    Arguments:
        prefix: what keys and channels begin with.
        answers: the commands that were tried, with their replies.
    """
    lacks = (_lack(prefix, name, reply) for name, reply in answers if is_forbidden(reply))
    return sorted(set(lacks))


def _lack(prefix: str, name: str, reply: Refusal) -> str:
    if " access " in reply.text:
        kind = "channels" if "channel" in reply.text else "keys"
        return f"{kind} {prefix}:*"
    return name
