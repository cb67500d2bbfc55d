"""The Redis broker: its operations, as calls of scripts."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import partial
from typing import Any

import msgspec

from taskyard.brokers.base import (
    SHOWN_SHARDS,
    Counts,
    DeadLetter,
    DeadQuery,
    Delivery,
    Group,
    Operation,
    Put,
    Record,
    Settlement,
    Step,
    Want,
)
from taskyard.brokers.bounds import NO_BOUNDS, Bounds
from taskyard.brokers.cancelling import Cancellation
from taskyard.brokers.common import CHUNK
from taskyard.brokers.facts import SEARCHED, Facts
from taskyard.brokers.lane import Gate, GroupPolicy, conflict_text, draining_text
from taskyard.brokers.looking import Waiting
from taskyard.brokers.rate import Limited, Limits, Rate
from taskyard.brokers.redis import cancelling, explaining, looking
from taskyard.brokers.redis.bounds import BoundedQueues
from taskyard.brokers.redis.calls import Call, Each
from taskyard.brokers.redis.doctor import Finding
from taskyard.brokers.redis.drivers import RedisAsyncDriver, RedisDriver
from taskyard.brokers.redis.examination import start_check
from taskyard.brokers.redis.gates import Gates
from taskyard.brokers.redis.inbox import RedisInboxes
from taskyard.brokers.redis.lanes import LANES, resettle, shards_of
from taskyard.brokers.redis.letters import Letters
from taskyard.brokers.redis.limits import RateLimits
from taskyard.brokers.redis.options import RedisOptions
from taskyard.brokers.redis.outages import Outages
from taskyard.brokers.redis.placement import (
    TOKENS,
    Placement,
    Placements,
    call,
)
from taskyard.brokers.redis.replies import (
    STORED,
    draining_queue,
    full_refusal,
    group_key,
    is_stored,
    pack_rate,
    read_counts,
    read_policy,
    read_record,
)
from taskyard.brokers.redis.schedules import RedisSchedules
from taskyard.brokers.redis.split import MOVED, TRY_AGAIN, UNSURE, SplitProgress, Splits
from taskyard.brokers.redis.storing import put_call
from taskyard.brokers.redis.work import Steps
from taskyard.brokers.redis.workers import RedisWorkers
from taskyard.errors import (
    BrokerError,
    BrokerUnavailable,
    DuplicateId,
    PolicyConflict,
    QueueDraining,
)

__all__ = ["RedisBroker"]

log = logging.getLogger("taskyard.redis")

_pack = msgspec.msgpack.Encoder().encode

ROUNDS = 20
"""How often a put follows its queue, that is being split; usually once is enough."""

PATIENCE = 2.0
"""Seconds for which housekeeping is tried in a container, if there are others that wait for it."""


class RedisBroker:
    """Queues in Redis or Valkey, for any number of machines.

    Arguments:
        options: where the server is, and how to speak to it.
        clock: microseconds since 1970, for tests; by default the server's.
        dead_limit: dead letters that a group keeps in a container; the oldest go.
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
        self._check = start_check(options, self._report)
        self._reported: set[str] = set()
        self._outages = Outages()
        cluster = options.kind == "cluster"
        self._placements = Placements(spread=cluster)
        self._steps = Steps(self._placements, dead_limit, afar=cluster)
        self._splits = Splits(self._placements, dead_limit)
        self._letters = Letters(self._placements)
        self._gates = Gates(self._placements, self._splits)
        self._rates = RateLimits(self._placements, self._splits)
        self._bounds = BoundedQueues(self._placements, self._splits, dead_limit)
        self.inboxes = RedisInboxes(
            options, clock, self._placements, self._splits, put_call, dead_limit
        )
        self.schedules = RedisSchedules(self._placements, self._splits, put_call, afar=cluster)
        self.workers = RedisWorkers()

    def __reduce__(self) -> tuple[Callable[..., RedisBroker], tuple[RedisOptions]]:
        # For a worker process that is spawned: what was learned of the server is learned anew.
        age = self._dead_age / 1e6
        make = partial(RedisBroker, clock=self._clock, dead_limit=self._dead_limit, dead_age=age)
        return make, (self._options,)

    def driver(self) -> RedisDriver:
        return RedisDriver(self._options, self._clock, self._check, self._leave, self._outages)

    def async_driver(self) -> RedisAsyncDriver:
        return RedisAsyncDriver(self._options, self._clock, self._check, self._leave, self._outages)

    def _report(self, finding: Finding) -> None:
        if finding.text not in self._reported:
            self._reported.add(finding.text)
            log.warning("%s: %s; %s", self.url, finding.text, finding.remedy)

    def _leave(self, listener: str) -> Operation[None]:
        containers = {*self._steps.forget(listener), *self.schedules.forget(listener)}
        if containers:
            yield [call("leave", container, listener) for container in sorted(containers)]

    # Queues

    def set_partitions(self, queue: str, partitions: int) -> None:
        """Say over how many hash slots a queue is spread, if it is new.

        Arguments:
            queue: its name.
            partitions: how many containers of keys it gets.
        """
        self._placements.want(queue, partitions)

    def partition(self, put: Put) -> Hashable:
        """See `Broker.partition`. A queue that was not looked up yet is one by itself."""
        queue = put.group.queue
        placement = self._placements.known(queue)
        return ("unknown", queue) if placement is None else placement.of(put.shard)

    def declare(
        self, group: Group, policy: GroupPolicy, *, replace: bool = False
    ) -> Operation[None]:
        for _ in range(ROUNDS):
            # As it is now: a group must not be made where an emptied server has its queue no more.
            placement = yield from self._splits.current(group.queue)
            for container in placement.containers:
                answer = yield from _declare(container, placement, group, policy, replace)
                if answer in (MOVED, TRY_AGAIN):
                    yield from self._catch_up(group.queue, answer)
                    break
            else:
                return
        raise _no_agreement(group.queue)

    def _catch_up(self, queue: str, answer: int) -> Operation[None]:
        """Do what a container needs, or learn what it knows, of a split."""
        if answer == MOVED:
            self._placements.forget(queue)
        elif answer == TRY_AGAIN:
            yield from self._splits.prepare(queue)

    def split(self, queue: str, partitions: int = 0) -> Operation[SplitProgress]:
        """Double the partitions of a queue in use: begin, or carry on as far as it goes now.

        Arguments:
            queue: its name.
            partitions: how many there are to be; 0: twice as many, unless a split is under way.
                Who calls until it is done gives the number of the first answer.

        Returns:
            How far it is. Moved shards whose claims are limited wait until their open claims end,
            so it may take several calls; workers carry it on too.

        Raises:
            NotFound: there is no such queue.
            PartitionConflict: the number is neither one that it has or had, nor twice as many.
        """
        return self._splits.advance(queue, partitions)

    # Producing

    def put(self, puts: Sequence[Put], stored: list[Put] | None = None) -> Operation[None]:
        """See `Broker.put`. It is atomic within a partition."""
        stored = [] if stored is None else stored
        left: Sequence[Put] = puts
        unsure = False
        for _ in range(ROUNDS):
            left, unsure = yield from self._put(left, stored, anew=unsure)
            if not left:
                return
        raise _no_agreement(left[0].group.queue)

    def _put_calls(
        self, puts: Sequence[Put], *, anew: bool
    ) -> Operation[tuple[list[Call], dict[int, list[Put]]]]:
        """The calls that put, and what each container gets."""
        parts: dict[int, list[Put]]
        placement = None
        if len(puts) == 1 and not anew:  # the most common put, for little
            placement = self._placements.fresh(puts[0].group.queue)
        if placement is not None:
            epochs = {puts[0].group.queue: placement.epoch}
            container, part = placement.of(puts[0].shard), [puts[0]]
            return [put_call(container, part, epochs=epochs, unsure=True)], {container: part}
        queues = {item.group.queue for item in puts}
        placements = yield from self._placements.load(queues, anew=anew)
        epochs = {queue: placement.epoch for queue, placement in placements.items()}
        parts = defaultdict(list)
        for item in puts:
            parts[placements[item.group.queue].of(item.shard)].append(item)
        calls = [
            put_call(container, part, epochs=epochs, unsure=not anew)
            for container, part in parts.items()
        ]
        return calls, parts

    def _put(
        self, puts: Sequence[Put], stored: list[Put], *, anew: bool
    ) -> Operation[tuple[list[Put], bool]]:
        """Put once, where the queues are, or with `anew` where they are now.

        Returns:
            What was not stored since its queue is elsewhere, or is being split; and whether its
            placement is to be looked up.
        """
        calls, parts = yield from self._put_calls(puts, anew=anew)
        review = self._placements.review()
        answers = yield Each([*calls, *review])
        self._placements.reviewed(review, answers[len(calls) :])
        del answers[len(calls) :]
        if answers == [STORED] * len(calls):
            stored += puts
            return [], False
        answered = [
            (part, STORED if is_stored(answer, part) else answer)
            for part, answer in zip(parts.values(), answers, strict=True)
        ]
        stored += [item for part, answer in answered if answer == STORED for item in part]
        _raise_refusal(puts, answered, stored)
        left: list[Put] = []
        for part, answer in answered:
            if answer != STORED:
                left += part
                for queue in {item.group.queue for item in part}:
                    yield from self._catch_up(queue, answer)
        return left, UNSURE in answers

    # Working

    def step(self, settlements: Sequence[Settlement], want: Want | None) -> Operation[Step]:
        """See `Broker.step`. It is atomic within a partition."""
        return self._steps.step(settlements, want)

    def extend(
        self, tokens: Sequence[int], lease: int, unknown: list[int] | None = None
    ) -> Operation[list[int]]:
        """See `Broker.extend`."""
        parts: dict[int, list[int]] = defaultdict(list)
        for token in tokens:
            container, inside = TOKENS.inside(token)
            parts[container].append(inside)
        patience = math.inf if len(parts) == 1 else PATIENCE
        replies = yield Each(
            call("extend", container, lease, *inside, retry=patience)
            for container, inside in parts.items()
        )
        failures = [reply for reply in replies if isinstance(reply, Exception)]
        if failures and (unknown is None or len(failures) == len(parts)):
            raise failures[0]
        lost: list[int] = []
        for (container, own), reply in zip(parts.items(), replies, strict=True):
            if not isinstance(reply, Exception):
                lost += [TOKENS.outside(container, token) for token in reply]
            elif unknown is not None:
                unknown += [TOKENS.outside(container, token) for token in own]
        return lost

    def cancel(self, id_: str, *, note: bool = True) -> Operation[Cancellation]:
        return cancelling.cancel(self._placements, id_, note=note)

    def cancel_key(self, group: Group, shard: str, key: str) -> Operation[Cancellation]:
        return cancelling.cancel_key(self._placements, self._splits, group, shard, key)

    def explain(self, id_: str, *, search: int = SEARCHED) -> Operation[Facts]:
        return explaining.explain(self._placements, id_, search)

    def pulse(
        self, tokens: Sequence[int], progress: Sequence[tuple[int, str, bytes]] = ()
    ) -> Operation[list[tuple[int, int]]]:
        return cancelling.pulse(tokens, progress)

    def reap(self, owners: Sequence[str] = ()) -> Operation[int]:
        return (yield from self._everywhere(partial(_reap, self._dead_limit, owners)))

    def _everywhere(self, keep_house: Callable[[int, float], Operation[int]]) -> Operation[int]:
        """Do something in all containers, also those behind one that cannot be reached."""
        containers = yield from self._placements.everywhere()
        patience = math.inf if len(containers) == 1 else PATIENCE
        total, failure = 0, None
        for container in containers:
            try:
                total += yield from keep_house(container, patience)
            except BrokerError as error:
                failure = failure or error
        if failure is not None:
            raise failure
        return total

    # Looking

    def records(
        self, ids: Sequence[str], listener: str | None = None
    ) -> Operation[list[Record | None]]:
        found: list[Record | None] = []
        for chunk in _chunks(ids, CHUNK):
            found += yield from self._records(chunk, listener or "")
        return found

    def _records(self, ids: Sequence[str], listener: str) -> Operation[list[Record | None]]:
        looked = self._placements.containers()
        found = yield from _look_up(looked, ids, listener)
        if None in found:  # somebody else may have put it, into a queue that is not known here
            everywhere = yield from self._placements.everywhere()
            others = [container for container in everywhere if container not in looked]
            found = yield from _look_further(others, ids, found, listener)
            if len(everywhere) > 1:  # a split may have moved it from a later look to an earlier one
                found = yield from _look_further(everywhere, ids, found, listener)
        return found

    def counts(self) -> Operation[list[Counts]]:
        merged: dict[Group, Counts] = {}
        pages = dict.fromkeys((yield from self._placements.everywhere()), 0)
        while pages:
            replies = yield [call("counts", container, after) for container, after in pages.items()]
            for container, (after, *groups) in zip(list(pages), replies, strict=True):
                for counts in filter(None, map(read_counts, groups)):
                    if counts.waiting:
                        counts.oldest = yield from _oldest(container, counts.group)
                    known = merged.get(counts.group)
                    merged[counts.group] = counts if known is None else _added(known, counts)
                pages[container] = after
            pages = {container: after for container, after in pages.items() if after}
        return sorted(merged.values(), key=lambda counts: counts.group)

    # Dead letters, and what is done by hand

    def dead(self, query: DeadQuery) -> Operation[list[DeadLetter]]:
        """See `Broker.dead`. They are sorted within a container."""
        return self._letters.find(query)

    def retry_dead(self, query: DeadQuery) -> Operation[int]:
        return self._letters.redrive("retry", query)

    def discard_dead(self, query: DeadQuery) -> Operation[int]:
        return self._letters.redrive("discard", query)

    def park(self, group: Group, shard: str) -> Operation[bool]:
        return self._gates.park(group, shard)

    def release(self, group: Group, shard: str) -> Operation[bool]:
        return self._gates.release(group, shard)

    def waiting(self, group: Group, shard: str | None = None) -> Operation[list[Waiting]]:
        return looking.waiting(self._splits, group, shard)

    def peek(
        self, group: Group, shard: str, priority: int, *, first: int = 0, limit: int = CHUNK
    ) -> Operation[list[Delivery]]:
        return looking.peek(self._splits, group, shard, priority, first, limit)

    def withdraw(
        self, group: Group, shard: str, priority: int, sequences: Sequence[int]
    ) -> Operation[list[int]]:
        return looking.withdraw(self._splits, group, shard, priority, sequences)

    def set_gate(self, queue: str, gate: Gate) -> Operation[Gate]:
        """See `Broker.set_gate`. It is atomic within a partition."""
        return self._gates.set_gate(queue, gate)

    def set_rate(
        self, limited: Limited, rate: Rate | None, *, declared: bool = False
    ) -> Operation[None]:
        """See `Broker.set_rate`. Partitions divide the limit of a queue or task among them."""
        return self._rates.set_rate(limited, rate, declared=declared)

    def set_bounds(
        self, queue: str, bounds: Bounds | None, *, declared: bool = False
    ) -> Operation[None]:
        """See `Broker.set_bounds`. Partitions divide the limit of a queue among them."""
        return self._bounds.set_bounds(queue, bounds, declared=declared)

    def tidy(self) -> Operation[int]:
        total = yield from self._everywhere(partial(_tidy, self._dead_age))
        total += yield from self._splits.resume()
        yield from self._placements.renew()
        return total


def _chunks(items: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    return (items[first : first + size] for first in range(0, len(items), size))


def _raise_refusal(
    puts: Sequence[Put], answered: Sequence[tuple[list[Put], Any]], stored: Sequence[Put]
) -> None:
    """Raise what the first of several containers says that refused its part of a put for good."""
    for part, answer in answered:
        if isinstance(answer, bytes):
            raise _duplicate(part, answer.decode(), alone=not stored)
        if isinstance(answer, Exception):
            raise _partly(answer) if stored else answer
        if (queue := draining_queue(answer)) is not None:
            raise QueueDraining(draining_text(queue, _fate(alone=not stored)))
        if (full := full_refusal(answer, _fate(alone=not stored))) is not None:
            done = set(map(id, stored))
            full.left = [item for item in puts if id(item) not in done]
            raise full


def _duplicate(puts: Sequence[Put], id_: str, *, alone: bool) -> DuplicateId:
    group = next(item.group for item in puts if id_ in (item.ids or ()))
    return DuplicateId(
        f"{group}: the id {id_!r} has a record already; {_fate(alone=alone)}."
        f" Leave the id out, or choose another"
    )


def _fate(*, alone: bool) -> str:
    """What became of a call whose messages a partition refused; alone: no other stored its part."""
    fate = "nothing of the call was stored"
    if not alone:
        fate += " in its partition, but its messages of other partitions are stored"
    return fate


def _partly(error: Exception) -> Exception:
    """The error of one partition, when others have stored their part."""
    if not isinstance(error, BrokerError):
        return error
    made = type(error)(f"{error}; the messages of the call that go to other partitions are stored")
    made.__cause__ = error
    return made


def _declare(
    container: int, placement: Placement, group: Group, policy: GroupPolicy, replace: bool
) -> Operation[int]:
    packed = _pack(
        (
            group_key(group),
            policy.size,
            policy.within,
            policy.bytes,
            policy.concurrency,
            policy.max_deliveries,
            policy.members,
            replace,
            placement.epoch,
            pack_rate(policy.rate),
            pack_rate(policy.shard_rate),
            len(placement.containers),
            policy.minimum,
            policy.lead,
        )
    )
    answer, *rest = yield call("declare", container, packed)
    if answer < 0:
        raise PolicyConflict(conflict_text(group, read_policy(rest[0]), policy, rest[1]))
    if answer == 1:
        yield from resettle(container, group)
    return int(answer)


def _reap(
    dead_limit: int, owners: Sequence[str], container: int, patience: float
) -> Operation[int]:
    total, cursor = 0, b"0"
    while cursor:
        reap = call("reap", container, dead_limit, cursor, *owners, retry=patience)
        taken, cursor = yield reap
        total += taken
    return total


def _tidy(dead_age: int, container: int, patience: float) -> Operation[int]:
    """Tidy a container, until a chunk of dead letters is gone; whoever wants more calls again."""
    total, cursor = 0, b"0"
    while cursor and total < CHUNK:
        tidy = call("tidy", container, dead_age, CHUNK, cursor, retry=patience)
        removed, cursor = yield tidy
        total += removed
    return total


def _no_agreement(queue: str) -> BrokerUnavailable:
    return BrokerUnavailable(
        f"the containers of the queue {queue!r} do not agree on its partitions: a server that took"
        f" over may have lost that it is being split. `taskyard split {queue}` tells all of them"
    )


def _oldest(container: int, group: Group) -> Operation[int]:
    """Ask every lane: turns do not tell which is the oldest. 200,000 lanes take about 2 s."""
    shards = yield from shards_of(container, group)
    oldest = 0
    for chunk in _chunks(shards, LANES):
        found = yield call("oldest", container, group_key(group), *chunk)
        oldest = min(oldest or found, found or oldest)
    return oldest


def _added(one: Counts, other: Counts) -> Counts:
    """The numbers of a group that is in two containers."""
    return Counts(
        one.group,
        one.waiting + other.waiting,
        one.delayed + other.delayed,
        one.running + other.running,
        one.dead + other.dead,
        one.lanes + other.lanes,
        one.parked + other.parked,
        min(filter(None, (one.oldest, other.oldest)), default=0),
        {name: number + other.totals[name] for name, number in one.totals.items()},
        sorted(one.parked_shards + other.parked_shards)[:SHOWN_SHARDS],
        one.memory + other.memory,
        # They differ only where it was set halfway.
        one.gate if one.gate is not Gate.OPEN else other.gate,
        one.limits if one.limits != Limits() else other.limits,
        one.bounds or other.bounds or NO_BOUNDS,
    )


def _look_up(
    containers: Sequence[int], ids: Sequence[str], listener: str
) -> Operation[list[Record | None]]:
    """Look records up in several containers; what ended counts more than what is under way."""
    found: list[Record | None] = [None] * len(ids)
    replies = yield [call("records", container, listener, *ids) for container in containers]
    for reply in replies:
        for index, record in enumerate(map(read_record, ids, reply)):
            known = found[index]
            if record is not None and (known is None or record.state.final):
                found[index] = record
    return found


def _look_further(
    containers: Sequence[int], ids: Sequence[str], found: list[Record | None], listener: str
) -> Operation[list[Record | None]]:
    """Look up what was not found elsewhere."""
    missing = [id_ for id_, record in zip(ids, found, strict=True) if record is None]
    if not missing or not containers:
        return found
    more = iter((yield from _look_up(containers, missing, listener)))
    return [next(more) if record is None else record for record in found]
