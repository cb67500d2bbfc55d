"""Calls of the scripts that split a queue, and two containers between which lanes move."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from tests.redis.scripts.calls import GROUP, TAG, call, put
from tests.redis.scripts.container import Container, State

from taskyard.brokers.redis.calls import Call

__all__ = [
    "CLOSED",
    "LEAVING",
    "MOVES",
    "SETTLED",
    "STAYS",
    "Transfer",
    "accept",
    "cleared",
    "closed",
    "export",
    "fill",
    "give",
    "gone",
    "import_",
    "leave",
    "newer",
    "open_",
    "part",
    "sift",
    "sift_all",
    "take",
]

SETTLED, LEAVING, CLOSED = 0, 1, 2
MOVES, STAYS = "a", "e"
"""Shards that leave a container whose lanes are split in two, and do not."""


def part(epoch: int = 2, partitions: int = 2, index: int = 0, *, queue: str = "q") -> Call:
    return call("part", queue, epoch, partitions, index)


def accept(
    floor: int, policies: bytes, epoch: int = 2, partitions: int = 2, index: int = 1
) -> Call:
    return call("accept", "q", epoch, partitions, index, floor, policies)


def sift(cursor: bytes | str = "", *, epoch: int = 2, size: int = 100) -> Call:
    return call("sift", "q", epoch, cursor, size)


def export(things: int = 100, most_bytes: int = 1 << 20, *, epoch: int = 2) -> Call:
    return call("export", "q", epoch, things, most_bytes)


def import_(packed: bytes, *, limit: int = 10_000) -> Call:
    return call("import", "q", limit, packed)


def cleared(number: int) -> Call:
    return call("cleared", "q", number)


def closed(cursor: bytes | str = "", size: int = 100, *, queue: str = "q") -> Call:
    return call("closed", queue, cursor, size)


def gone(*shards: str, group: str = GROUP, epoch: int = 2) -> Call:
    return call("gone", "q", epoch, group, *shards)


def open_(*shards: str, group: str = GROUP, epoch: int = 2) -> Call:
    return call("open", "q", epoch, group if shards else "", *shards)


def newer(made: Call, epoch: int = 2) -> Call:
    """A put of a caller who knows of the split."""
    heads = [(*head, epoch) for head in msgspec.msgpack.decode(made.args[0])]
    return Call(made.script, TAG, [msgspec.msgpack.encode(heads), *made.args[1:]])


class Transfer(NamedTuple):
    """What is on its way."""

    number: int
    count: int
    packed: bytes


def sift_all(here: Container) -> None:
    cursor = b""
    while cursor := here.run(sift(cursor)):
        pass


def leave(here: Container) -> list[Any]:
    """Let the lanes of the second partition leave, and find out which those are."""
    reply: list[Any] = here.run(part())
    sift_all(here)
    return reply


def take(here: Container, things: int = 100, most_bytes: int = 1 << 20) -> Transfer:
    """Take something of what leaves; there must be something."""
    state, *rest = here.run(export(things, most_bytes))
    assert state == 1
    return Transfer(*rest)


def give(there: Container, transfer: Transfer, *, limit: int = 10_000) -> State:
    """Let it arrive, once and again; returns what that changed."""
    reply, changed = there.trace(import_(transfer.packed, limit=limit))
    assert reply == 1
    return changed


def fill(here: Container, shards: Sequence[str], number: int = 1) -> None:
    """Put messages, each with its shard and number as body."""
    for shard in shards:
        here.run(put(*(f"{shard}{index}" for index in range(number)), shard=shard))
