"""The Redis broker: its operations, as calls of scripts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from taskyard.brokers.base import (
    Back,
    Counts,
    Dead,
    DeadLetter,
    DeadQuery,
    Discard,
    Group,
    Operation,
    Outcome,
    Put,
    Record,
    Retried,
    Settlement,
    Step,
    Want,
)
from taskyard.brokers.common import CHUNK, NO_ATTEMPT
from taskyard.brokers.lane import GroupPolicy, conflict_text
from taskyard.brokers.redis.calls import Argument, Call, ScriptError
from taskyard.brokers.redis.drivers import RedisAsyncDriver, RedisDriver
from taskyard.brokers.redis.options import RedisOptions
from taskyard.brokers.redis.replies import (
    group_key,
    read_claim,
    read_counts,
    read_group,
    read_letter,
    read_policy,
    read_record,
)
from taskyard.brokers.redis.scripts import load_script
from taskyard.errors import DuplicateId, PolicyConflict

__all__ = ["RedisBroker"]

_pack = msgspec.msgpack.Encoder().encode
HOME = "0"
LANES = 500


class RedisBroker:
    """Queues in Redis or Valkey, for any number of machines.

    Arguments:
        options: where the server is, and how to speak to it.
        clock: microseconds since 1970, for tests; by default the server's.
        dead_limit: dead letters that a group keeps; the oldest go.
        dead_age: seconds that dead letters are kept.
    """

    durable = True
    shared = True
    expires_records = True

    def __init__(
        self,
        options: RedisOptions,
        *,
        clock: Callable[[], int] | None = None,
        dead_limit: int = 10_000,
        dead_age: float = 30 * 86_400.0,
    ) -> None:
        self.url = options.shown
        self._options = options
        self._clock = clock
        self._dead_limit = dead_limit
        self._dead_age = round(dead_age * 1e6)

    def driver(self) -> RedisDriver:
        return RedisDriver(self._options, self._clock)

    def async_driver(self) -> RedisAsyncDriver:
        return RedisAsyncDriver(self._options, self._clock)

    # Producing

    def declare(
        self, group: Group, policy: GroupPolicy, *, replace: bool = False
    ) -> Operation[None]:
        reply = yield _call(
            "declare",
            _pack(
                (
                    group_key(group),
                    policy.size,
                    policy.within,
                    policy.bytes,
                    policy.concurrency,
                    policy.max_deliveries,
                    policy.members,
                    replace,
                )
            ),
        )
        if reply[0] < 0:
            stored, present = read_policy(reply[1]), reply[2]
            raise PolicyConflict(conflict_text(group, stored, policy, present))
        if reply[0]:
            shards = yield from self._shards(group)
            for first in range(0, len(shards), LANES):
                yield _call("resettle", group_key(group), *shards[first : first + LANES])

    def _shards(self, group: Group) -> Operation[list[bytes]]:
        shards: set[bytes] = set()
        for kind in ("r", "s"):
            cursor: bytes = b"0"
            while True:
                cursor, *found = yield _call("lanes", group_key(group), kind, cursor)
                shards.update(found)
                if cursor == b"0":
                    break
        return sorted(shards)

    def put(self, puts: Sequence[Put]) -> Operation[None]:
        heads = [
            (
                group_key(item.group),
                item.shard,
                item.priority,
                item.delay,
                item.due,
                len(item.bodies),
                item.record_ttl,
                item.member,
                () if item.ids is None else tuple(item.ids),
            )
            for item in puts
        ]
        args: list[Argument] = [_pack(heads)]
        for item in puts:
            args += item.bodies
        try:
            yield Call(load_script("put"), HOME, args)
        except ScriptError as error:
            if error.code == "DUPLICATE":
                raise self._duplicate(puts, error.text) from None
            raise

    def _duplicate(self, puts: Sequence[Put], id_: str) -> DuplicateId:
        group = next(item.group for item in puts if id_ in (item.ids or ()))
        return DuplicateId(
            f"{group.queue}/{group.name}: the id {id_!r} has a record already;"
            f" nothing of the call was stored. Leave the id out, or choose another"
        )

    # Working

    def step(self, settlements: Sequence[Settlement], want: Want | None) -> Operation[Step]:
        blobs: list[Argument] = []
        packed = _pack(
            (
                [_settlement(item, blobs) for item in settlements],
                False if want is None else _want(want),
                self._dead_limit,
            )
        )
        lost, now, next_at, suspects, claims = yield _call("step", packed, *blobs)
        groups = {} if want is None else {item.group: item.group for item in want.groups}
        made = []
        for claim in claims:
            group = read_group(claim[1])
            made.append(read_claim(claim, groups.get(group, group), claim[0]))
        return Step(lost, made, now, next_at, bool(suspects))

    def extend(self, tokens: Sequence[int], lease: int) -> Operation[list[int]]:
        if not tokens:
            return []
        lost: list[int] = yield _call("extend", lease, *tokens)
        return lost

    def reap(self, owners: Sequence[str] = ()) -> Operation[int]:
        total = 0
        while taken := (yield _call("reap", self._dead_limit, *owners)):
            total += taken
        return total

    # Looking

    def records(
        self, ids: Sequence[str], listener: str | None = None
    ) -> Operation[list[Record | None]]:
        found: list[Record | None] = []
        for first in range(0, len(ids), CHUNK):
            chunk = ids[first : first + CHUNK]
            reply = yield _call("records", listener or "", *chunk)
            found += map(read_record, chunk, reply)
        return found

    def counts(self) -> Operation[list[Counts]]:
        reply = yield _call("counts")
        counted = [counts for counts in map(read_counts, reply) if counts is not None]
        for counts in counted:
            if counts.waiting:
                counts.oldest = yield from self._oldest(counts.group)
        return sorted(counted, key=lambda counts: counts.group)

    def _oldest(self, group: Group) -> Operation[int]:
        shards = yield from self._shards(group)
        oldest = 0
        for first in range(0, len(shards), LANES):
            found = yield _call("oldest", group_key(group), *shards[first : first + LANES])
            oldest = min(oldest or found, found or oldest)
        return oldest

    # Dead letters, and what is done by hand

    def dead(self, query: DeadQuery) -> Operation[list[DeadLetter]]:
        letters = yield from self._look_through(query, bare=False)
        return [read_letter(letter, letter[0]) for letter in letters]

    def _look_through(self, query: DeadQuery, *, bare: bool) -> Operation[list[Any]]:
        found: list[Any] = []
        after, upto = query.after, query.upto
        while len(found) < query.limit:
            wish = (
                query.queue or False,
                query.task or False,
                False if query.numbers is None else list(query.numbers),
                after,
                False if upto is None else upto,
                query.limit - len(found),
                bare,
            )
            after, upto, *letters = yield _call("dead", _pack(wish))
            found += letters
            if after == 0:
                break
        return found

    def retry_dead(self, query: DeadQuery) -> Operation[int]:
        return (yield from self._redrive("retry", query))

    def discard_dead(self, query: DeadQuery) -> Operation[int]:
        return (yield from self._redrive("discard", query))

    def _redrive(self, what: str, query: DeadQuery) -> Operation[int]:
        # What dies again meanwhile gets a higher number than the first look finds.
        numbers = yield from self._look_through(query, bare=True)
        total = 0
        for first in range(0, len(numbers), CHUNK):
            total += yield _call("redrive", what, *numbers[first : first + CHUNK])
        return total

    def release(self, group: Group, shard: str) -> Operation[bool]:
        released: int = yield _call("release", group_key(group), shard)
        return bool(released)

    def tidy(self) -> Operation[int]:
        removed: int = yield _call("tidy", self._dead_age, CHUNK)
        return removed


def _call(name: str, *args: Argument) -> Call:
    return Call(load_script(name), HOME, args)


def _settlement(settlement: Settlement, blobs: list[Argument]) -> tuple[Any, ...]:
    return (
        settlement.token,
        [
            (sequence, _outcome(outcome, settlement.retry_ids.get(sequence, ""), blobs))
            for sequence, outcome in settlement.outcomes.items()
        ],
        [(id_, _index(blobs, result)) for id_, result in settlement.results],
        list(settlement.keep),
    )


_FIRST_BLOB = 5
"""The index in ARGV behind the packed part."""


def _index(blobs: list[Argument], blob: bytes) -> int:
    blobs.append(blob)
    return _FIRST_BLOB + len(blobs) - 1


def _outcome(outcome: Outcome, record: str, blobs: list[Argument]) -> tuple[Any, ...]:
    match outcome:
        case Back(started, park):
            return ("back", started, park)
        case Retried(delay):
            return ("retried", delay, record)
        case Dead(failure, id_, task):
            attempted = failure.reason not in NO_ATTEMPT
            return ("dead", _index(blobs, _pack(failure)), id_, task, attempted)
        case Discard(id_):
            return ("discard", id_)


def _want(want: Want) -> tuple[Any, ...]:
    return (
        [(group_key(item.group), item.messages, tuple(item.members)) for item in want.groups],
        want.owner,
        want.lease,
        want.claims,
        want.bytes,
        want.drain,
        want.alone,
        want.listener or "",
        want.messages,
    )
