"""Calls of the scripts, with short words for what they get packed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from taskyard.brokers.redis.calls import Argument, Call
from taskyard.brokers.redis.scripts import load_script

__all__ = [
    "GROUP",
    "TAG",
    "BytesLike",
    "Item",
    "call",
    "claim",
    "dead",
    "declare",
    "envelope",
    "item",
    "letters",
    "put",
    "reap",
    "settle",
    "settlement",
    "step",
    "tidy",
    "want",
]

TAG = "t"
GROUP = "q\0t"
LEASE = 30_000_000

BytesLike = bytes | str

_pack = msgspec.msgpack.encode


def call(name: str, *args: Argument) -> Call:
    """A call of a script with these arguments behind slot, number and clock."""
    return Call(load_script(name), TAG, args)


def envelope(id_: str, payload: object = b"", task: str = "") -> bytes:
    """A body that names its id."""
    return _pack((id_, payload, task))


def declare(
    group: str = GROUP,
    *,
    size: int = 1,
    within: int = 0,
    bytes_: int = 0,
    concurrency: int = 0,
    max_deliveries: int = 3,
    members: Sequence[str] = (),
    replace: bool = True,
    minimum: int = 0,
    lead: int = 0,
) -> Call:
    """Declare a group; by default the policy of a plain task."""
    policy = (group, size, within, bytes_, concurrency, max_deliveries, members, replace)
    if minimum or lead:
        policy += (1, False, False, 1, minimum, lead)
    return call("declare", _pack(policy))


Item = tuple[tuple[Any, ...], Sequence[BytesLike]]


def item(
    *bodies: BytesLike,
    group: str = GROUP,
    shard: str = "a",
    priority: int = 0,
    delay: int = 0,
    due: int = 0,
    ttl: int = 0,
    member: str = "",
    ids: Sequence[str] = (),
    unsure: bool = False,
    unique: Sequence[object] = (),
    expires: int = 0,
) -> Item:
    """Messages of one lane and priority, as a put stores them; `unsure`: whether they go here."""
    head = (group, shard, priority, delay, due, len(bodies), ttl, member, ids)
    if expires:
        return (*head, 1, unsure, unique or False, expires), bodies
    if unique:
        return (*head, 1, unsure, unique), bodies
    return (*head, 1, True) if unsure else head, bodies


def put(*items: Item | BytesLike, **more: Any) -> Call:
    """Put items; or bodies, as one item with the given properties."""
    given = [each for each in items if isinstance(each, tuple)]
    if not given:
        given = [item(*(each for each in items if not isinstance(each, tuple)), **more)]
    bodies = [body for _, some in given for body in some]
    return call("put", _pack([head for head, _ in given]), *bodies)


def settlement(
    token: int,
    outcomes: dict[int, tuple[Any, ...]] | None = None,
    *,
    results: Iterable[tuple[str, int]] = (),
    keep: Iterable[int] = (),
    progress: Sequence[tuple[str, int]] = (),
) -> tuple[Any, ...]:
    """What became of a claim.

    `results` and `progress` name blobs by their index in ARGV, the first is 5.
    """
    ends = list((outcomes or {}).items())
    return (token, ends, list(results), list(keep), *([list(progress)] if progress else ()))


def want(
    messages: int = 100,
    *,
    groups: Sequence[str] = (GROUP,),
    members: Sequence[str] = (),
    owner: str = "ann",
    lease: int = LEASE,
    claims: int = 1,
    bytes_: int = 1 << 22,
    drain: bool = False,
    alone: bool = True,
    listener: str = "",
    total: int = 1000,
    unsure: bool = False,
) -> tuple[Any, ...]:
    """What a worker asks for; `messages`: of one claim, `total`: after which it has enough."""
    more = (1, True) if unsure else ()
    served = [(group, messages, members, *more) for group in groups]
    return (served, owner, lease, claims, bytes_, drain, alone, listener, total)


def step(
    settlements: Sequence[tuple[Any, ...]] = (),
    wanted: tuple[Any, ...] | None = None,
    *blobs: BytesLike,
    limit: int = 10_000,
) -> Call:
    """Settle, then claim; `limit`: dead letters that a group keeps."""
    return call("step", _pack((settlements, wanted or False, limit)), *blobs)


def claim(messages: int = 100, **more: Any) -> Call:
    """Only claim."""
    return step((), want(messages, **more))


def settle(
    token: int,
    outcomes: dict[int, tuple[Any, ...]] | None = None,
    *blobs: BytesLike,
    limit: int = 10_000,
    **more: Any,
) -> Call:
    """Only settle one claim."""
    return step([settlement(token, outcomes, **more)], None, *blobs, limit=limit)


def dead(
    *,
    queue: str | None = None,
    task: str | None = None,
    after: int = 0,
    upto: int | None = None,
    gid: int = 0,
    number: int = 0,
) -> Call:
    """Find the numbers of dead letters; `gid` and `number`: where to go on."""
    bound = False if upto is None else upto
    return call("dead", _pack((queue or False, task or False, after, bound, gid, number)))


def letters(
    *numbers: int, queue: str | None = None, task: str | None = None, bare: bool = False
) -> Call:
    """Read dead letters; `bare`: only their numbers."""
    return call("letters", _pack((queue or False, task or False, bare)), *numbers)


def reap(*owners: str, limit: int = 10_000, cursor: BytesLike = "0") -> Call:
    """Take back lost claims; `limit`: dead letters that a group keeps."""
    return call("reap", limit, cursor, *owners)


def tidy(age: int = 100, limit: int = 500, cursor: BytesLike = "0") -> Call:
    """Remove letters of an age, so many at most, and sleepers."""
    return call("tidy", age, limit, cursor)
