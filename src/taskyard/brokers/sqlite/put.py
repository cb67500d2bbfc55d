"""Storing messages: into their lanes, or outside until they are due."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

from taskyard.brokers.base import Delivery, Group, Put
from taskyard.brokers.lane import Gate, draining_text, with_member
from taskyard.brokers.sqlite.bounds import make_room
from taskyard.brokers.sqlite.debounce import debounced
from taskyard.brokers.sqlite.groups import GroupRow
from taskyard.brokers.sqlite.lanes import Lane, Lanes
from taskyard.brokers.sqlite.records import open_records
from taskyard.brokers.sqlite.settle import store_due
from taskyard.brokers.sqlite.transaction import Transaction
from taskyard.brokers.sqlite.unique import admitted, hold_keys
from taskyard.brokers.unique import Keys, Mode
from taskyard.errors import QueueDraining

__all__ = ["put_all"]


def put_all(tx: Transaction, puts: Sequence[Put], dead_limit: int) -> None:
    """Store messages: all of them, or none."""
    for put in puts:
        if put.bodies and tx.gate(put.group.queue) is Gate.DRAINING:
            raise QueueDraining(draining_text(put.group.queue))
    puts = admitted(tx, puts)
    lanes = Lanes(tx)
    make_room(tx, lanes, puts, dead_limit)
    at_once: dict[Group, list[Put]] = {}
    for put in puts:
        due = put.due or (tx.now + put.delay if put.delay else 0)
        group = tx.group(put.group)
        if put.member and put.member not in group.policy.members:
            policy = with_member(group.policy, put.member)
            group = tx.store_group(put.group, policy, declared=group.declared)
        tx.count(group, "put", len(put.bodies))
        if put.unique is not None and put.unique.mode is Mode.DEBOUNCE:
            _put_off(tx, group, put, put.unique)
        elif due > tx.now:
            _put_later(tx, group, put, due)
        elif put.bodies:  # a lane that gets none, since their keys are held, is not touched
            at_once.setdefault(put.group, []).append(put)
    for key, ready in at_once.items():
        _put_now(tx, lanes, tx.group(key), ready)
    lanes.save()


def _put_off(tx: Transaction, group: GroupRow, put: Put, keys: Keys) -> None:
    due, priority, message = debounced(tx, group, put, keys)
    if put.ids is not None:
        open_records(tx, group, put, due, message.sequence)
    store_due(tx, group, put.shard, [(due, priority, message)])


def _put_later(tx: Transaction, group: GroupRow, put: Put, due: int) -> None:
    first = tx.sequences(len(put.bodies))
    marks: Iterable[str] = itertools.repeat("")
    if put.unique is not None:
        marks = hold_keys(tx, group, put, put.unique)
    if put.ids is not None:
        open_records(tx, group, put, due, first)
    messages = (
        (
            due,
            put.priority,
            Delivery(first + index, 0, 0, 0, 0, 0, body, mark, put.expires),
        )
        for index, (body, mark) in enumerate(zip(put.bodies, marks, strict=False))
    )
    store_due(tx, group, put.shard, messages)


def _put_now(tx: Transaction, lanes: Lanes, group: GroupRow, puts: Sequence[Put]) -> None:
    shards = list(dict.fromkeys(put.shard for put in puts))
    by_shard = dict(zip(shards, lanes.get(group, shards), strict=True))
    plain: list[Put] = []
    for put in puts:
        if put.unique is None and not put.expires:
            plain.append(put)
            continue
        # Before it what was put before it: within a call, too, the order is kept.
        _append(tx, group, lanes, by_shard, plain)
        plain = []
        marks: Iterable[str] = itertools.repeat("")
        if put.unique is not None:
            marks = hold_keys(tx, group, put, put.unique)
        lane = by_shard[put.shard]
        first = lanes.append_marked(lane, put.priority, put.bodies, marks, put.expires)
        if put.ids is not None:
            open_records(tx, group, put, 0, first)
    _append(tx, group, lanes, by_shard, plain)
    for lane in by_shard.values():
        lanes.relocate(lane)
    tx.gauge(group, "waiting", sum(len(put.bodies) for put in puts))


def _append(
    tx: Transaction,
    group: GroupRow,
    lanes: Lanes,
    by_shard: Mapping[str, Lane],
    puts: Sequence[Put],
) -> None:
    if not puts:
        return
    first = lanes.append_all([(by_shard[put.shard], put.priority, put.bodies) for put in puts])
    for put in puts:
        if put.ids is not None:
            open_records(tx, group, put, 0, first)
        first += len(put.bodies)
