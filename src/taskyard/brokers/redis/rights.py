"""What the ACL of a user must allow, and finding out what it does not.

Scripts are stopped by the first command that they may not call, and what they had written stays;
servers before 7.2 do not even say which command it was. So the commands are tried beforehand, each
by itself. The ACL is asked first, whatever else stands in the way: a full memory, a replica that
takes no writes, a key of another node of a cluster.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from taskyard.brokers.redis.calls import Argument, container_key
from taskyard.brokers.redis.failures import Refusal

__all__ = ["called_commands", "is_forbidden", "lacking", "probe_key", "script_probes"]

# What scripts call, by how many arguments it takes behind the key. They are tried on a key that
# holds a text, so most end as WRONGTYPE. (What decides how long it stays is in `script_probes`.)
_CALLED: Sequence[Sequence[str]] = (
    (
        *("EXISTS", "GET", "HGETALL", "HKEYS", "HLEN", "LLEN", "LPOP", "RPOP", "SCARD"),
        *("SRANDMEMBER", "TYPE", "ZCARD", "ZPOPMIN"),
    ),
    (
        *("HDEL", "HEXISTS", "HGET", "HMGET", "HRANDFIELD", "HSCAN", "LINDEX", "LPUSH", "RPUSH"),
        *("RPUSHX", "SADD", "SISMEMBER", "SREM", "SSCAN", "ZREM", "ZSCAN", "ZSCORE"),
    ),
    (
        *("HINCRBY", "HSET", "HSETNX", "LRANGE", "LREM", "LSET", "ZADD", "ZCOUNT", "ZRANGE"),
        *("ZRANGEBYLEX", "ZRANGEBYSCORE", "ZREVRANGE"),
    ),
)


def called_commands() -> list[str]:
    """The commands that scripts call, as far as they are tried."""
    return sorted({"PUBLISH", *(name for name, _ in script_probes(""))})


def probe_key(prefix: str, tag: str) -> str:
    """The key on which commands are tried.

    Others may try at the same time: what they find there says nothing about the ACL. As it is the
    same for all, a user who may not remove it leaves one such key behind, not one each time.

    Arguments:
        prefix: what keys begin with.
        tag: of the container whose key it is.
    """
    return f"{container_key(prefix, tag)}:probe"


def script_probes(key: str) -> list[tuple[str, Sequence[Argument]]]:
    """Give what tries the commands that stop a script, by name, in this order.

    Sent in one go they take one round trip.

    Arguments:
        key: the key for it, which is gone afterwards.
    """
    probes: list[tuple[str, Sequence[Argument]]] = [
        ("SET", ("SET", key, "text", "EX", 60)),
        ("LMOVE", ("LMOVE", key, key, "RIGHT", "RIGHT")),
        ("TIME", ("TIME",)),
    ]
    for count, names in enumerate(_CALLED):
        probes += [(name, (name, key, *[1] * count)) for name in names]
    return [
        *probes,
        ("PERSIST", ("PERSIST", key)),
        ("EXPIRE", ("EXPIRE", key, 60)),
        ("DEL", ("DEL", key)),
        ("UNLINK", ("UNLINK", key)),
        ("PEXPIRE", ("PEXPIRE", key, 1)),  # where the user may not remove it
    ]


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
