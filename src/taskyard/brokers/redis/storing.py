"""The call that stores messages in a container: what put.lua wants to know of them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from itertools import groupby
from typing import Any

import msgspec

from taskyard.brokers.base import Put
from taskyard.brokers.redis.calls import Argument, Call
from taskyard.brokers.redis.placement import FIRST_EPOCH, call
from taskyard.brokers.redis.replies import group_key
from taskyard.brokers.unique import Keys, letter_of

__all__ = ["put_call"]

_pack = msgspec.msgpack.Encoder().encode


def put_call(
    container: int,
    puts: Sequence[Put],
    lot: Sequence[Argument] = (),
    letters: Sequence[Argument] = (),
    *,
    epochs: Mapping[str, int] | None = None,
    unsure: bool = False,
) -> Call:
    """The call that stores messages in a container.

    Arguments:
        container: its number.
        puts: the messages.
        lot: of a lot, what put.lua wants to know of it.
        letters: of a lot, its dead letters.
        epochs: of the placements of the queues.
        unsure: ask whether their groups are new there, as the queues may be elsewhere by now.
    """
    heads: list[Sequence[Any]] = [lot] if lot else []
    for _, alike in groupby(puts, _likeness):
        first, *others = alike
        epoch = FIRST_EPOCH if epochs is None else epochs[first.group.queue]
        heads.append((*_head(first, others), epoch, unsure, *_extras(first)))
    args: list[Argument] = [_pack(heads)]
    for item in puts:
        args += item.bodies
    return call("put", container, *args, *letters)


def _likeness(item: Put) -> Hashable:
    """What is equal for puts in a row that differ only in their shard, and need little."""
    if item.ids is not None or item.unique is not None:
        return object()  # like no other, not even if the same put comes twice
    if item.delay or item.due or item.expires:
        return object()
    return item.group, item.priority, item.member


def _head(first: Put, others: Sequence[Put]) -> tuple[Any, ...]:
    shard: str | list[str | int] = first.shard
    number = len(first.bodies)
    if others:
        shard = [first.shard, number]
        for item in others:
            shard += (item.shard, len(item.bodies))
            number += len(item.bodies)
    return (
        group_key(first.group),
        shard,
        first.priority,
        first.delay,
        first.due,
        number,
        first.record_ttl,
        first.member,
        () if first.ids is None else tuple(first.ids),
    )


def _extras(item: Put) -> tuple[Any, ...]:
    """What only some puts have: unique keys, and a time within which the messages must begin."""
    if item.expires:
        return (False if item.unique is None else _keys(item.unique), item.expires)
    return () if item.unique is None else (_keys(item.unique),)


def _keys(unique: Keys) -> tuple[str | int, ...]:
    return (letter_of(unique.mode), unique.span, unique.longest, *unique.keys)
