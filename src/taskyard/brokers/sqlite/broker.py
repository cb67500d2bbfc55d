"""The operations of the SQLite broker."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from sqlite3 import Connection
from typing import TypeVar
from urllib.parse import quote

import msgspec

from taskyard.brokers.base import (
    SHOWN_SHARDS,
    TOTALS,
    Counts,
    DeadLetter,
    DeadQuery,
    Delivery,
    Group,
    GroupWant,
    Operation,
    Put,
    Record,
    Settlement,
    Step,
    Want,
)
from taskyard.brokers.bounds import Bounds, QueueBounds
from taskyard.brokers.cancelling import Cancellation
from taskyard.brokers.clock import wall_clock
from taskyard.brokers.common import CHUNK, REAPED, Changed, changed_letters, earliest, in_chunks
from taskyard.brokers.facts import SEARCHED, Facts
from taskyard.brokers.lane import (
    Gate,
    GroupPolicy,
    conflict_text,
    draining_text,
    limits,
    merged,
    with_member,
)
from taskyard.brokers.rate import Limited, QueueRate, Rate
from taskyard.brokers.sqlite import cancelling, explaining, gates, rates
from taskyard.brokers.sqlite.bounds import count_exactly, make_room, set_bounds
from taskyard.brokers.sqlite.claims import Claimer, find_claim, keep_claim, servable
from taskyard.brokers.sqlite.database import Settings
from taskyard.brokers.sqlite.debounce import debounced
from taskyard.brokers.sqlite.drivers import Read, SQLiteAsyncDriver, SQLiteDriver, Write
from taskyard.brokers.sqlite.groups import GroupRow
from taskyard.brokers.sqlite.lanes import Lane, Lanes
from taskyard.brokers.sqlite.notes import forget_notes
from taskyard.brokers.sqlite.records import (
    dead_letters,
    find_dead,
    find_records,
    finish_records,
    forget_expired,
    newest_dead,
    open_records,
    remove_dead,
    reopen_record,
    watch_records,
)
from taskyard.brokers.sqlite.schedules import SQLiteSchedules
from taskyard.brokers.sqlite.settle import Settler, promote, store_due
from taskyard.brokers.sqlite.transaction import NEVER, Transaction
from taskyard.brokers.sqlite.unique import (
    admitted,
    forget_windows,
    hold_keys,
    taken_again,
)
from taskyard.brokers.sqlite.workers import SQLiteWorkers
from taskyard.brokers.unique import Keys, Mode
from taskyard.errors import BrokerError, DuplicateId, PolicyConflict, QueueDraining
from taskyard.message import State

__all__ = ["SQLiteBroker", "no_probe"]

T = TypeVar("T")

SYNCHRONOUS = ("full", "extra", "normal", "off")


def no_probe(point: str) -> None:
    """Take no notice of a point that was reached."""


class SQLiteBroker:
    """One file, any number of processes.

    Arguments:
        path: the file; made when missing, its folder is not.
        synchronous: when SQLite waits for the disk: "full" (default; what was accepted survives a
            power cut), "extra", "normal" (survives a crash of the process, not of the machine)
            or "off".
        busy: seconds to wait for other processes at most.
        clock: microseconds since 1970, for tests.
        probe: told of the points that a step or a put reaches ("settling", "settled", "claimed",
            "put" before the commit; "settle committed", "claim committed", "put committed" before
            the reply is used), for tests.
        dead_limit: dead letters that a group keeps; the oldest go.
        dead_age: seconds that dead letters are kept.

    Raises:
        BrokerError: an argument is wrong.
    """

    durable = True
    shared = True
    expires_records = False
    inboxes = None

    def __init__(
        self,
        path: str | Path,
        *,
        synchronous: str = "full",
        busy: float = 30.0,
        clock: Callable[[], int] = wall_clock,
        probe: Callable[[str], None] = no_probe,
        dead_limit: int = 10_000,
        dead_age: float = 30 * 86_400.0,
    ) -> None:
        if synchronous not in SYNCHRONOUS:
            raise BrokerError(
                f"synchronous must be one of {', '.join(SYNCHRONOUS)}, not {synchronous!r}"
            )
        self.path = Path(path).absolute()
        self.url = f"sqlite:///{quote(str(self.path))}"
        self._settings = Settings(self.path, synchronous, busy, clock)
        self._probe = probe
        self._dead_limit = dead_limit
        self._dead_age = round(dead_age * 1e6)
        self.schedules = SQLiteSchedules(clock, self._put)
        self.workers = SQLiteWorkers(clock)

    def driver(self) -> SQLiteDriver:
        """Make a driver for threads."""
        return SQLiteDriver(self._settings)

    def async_driver(self) -> SQLiteAsyncDriver:
        """Make a driver for an event loop; it works in a thread of its own."""
        return SQLiteAsyncDriver(self._settings)

    def set_partitions(self, queue: str, partitions: int) -> None:
        """Do nothing: all messages are in one place."""

    def partition(self, put: Put) -> None:
        """All messages are in one place."""

    # Operations: each yields steps, and every step is one transaction.

    def declare(
        self, group: Group, policy: GroupPolicy, *, replace: bool = False
    ) -> Operation[None]:
        """See `Broker.declare`."""
        yield Write(partial(_declare, group=group, policy=policy, replace=replace))

    def put(
        self,
        puts: Sequence[Put],
        stored: list[Put] | None = None,  # noqa: ARG002 - all is one partition
    ) -> Operation[None]:
        """See `Broker.put`."""
        try:
            yield Write(partial(self._put, puts=puts))
        except DuplicateId:
            # The record may have expired, and not be tidied away yet.
            ids = [id_ for put in puts for id_ in put.ids or ()]
            forgotten: int = yield Write(partial(forget_expired, ids=ids))
            if not forgotten:
                raise
            yield Write(partial(self._put, puts=puts))
        self._probe("put committed")

    def step(self, settlements: Sequence[Settlement], want: Want | None) -> Operation[Step]:
        """See `Broker.step`."""
        reply: Step = yield Write(partial(self._step, settlements=settlements, want=want))
        if settlements:
            self._probe("settle committed")
        if reply.claims:
            self._probe("claim committed")
        return reply

    def extend(
        self,
        tokens: Sequence[int],
        lease: int,
        unknown: list[int] | None = None,  # noqa: ARG002 - all is one partition
    ) -> Operation[list[int]]:
        """See `Broker.extend`."""
        lost: list[int] = yield Write(partial(_extend, tokens=tokens, lease=lease))
        return lost

    def cancel(self, id_: str, *, note: bool = True) -> Operation[Cancellation]:
        """See `Broker.cancel`."""
        done: Cancellation = yield Write(partial(cancelling.cancel, id_=id_, note=note))
        return done

    def explain(self, id_: str, *, search: int = SEARCHED) -> Operation[Facts]:
        """See `Broker.explain`."""
        clock = self._settings.clock
        facts: Facts = yield Read(
            lambda reader: explaining.explain(reader, clock(), id_, search=search)
        )
        return facts

    def pulse(
        self, tokens: Sequence[int], progress: Sequence[tuple[int, str, bytes]] = ()
    ) -> Operation[list[tuple[int, int]]]:
        """See `Broker.pulse`."""
        told: list[tuple[int, int]]
        if progress:
            told = yield Write(partial(cancelling.pulse, tokens=tokens, progress=progress))
        else:
            told = yield Read(partial(cancelling.told, tokens=tokens))
        return told

    def reap(self, owners: Sequence[str] = ()) -> Operation[int]:
        """See `Broker.reap`."""
        total = 0
        while True:
            taken: int = yield Write(partial(self._reap, owners=owners))
            total += taken
            if taken < REAPED:
                return total

    def records(
        self, ids: Sequence[str], listener: str | None = None
    ) -> Operation[list[Record | None]]:
        """See `Broker.records`."""
        found: list[Record | None]
        if listener is None:
            found = yield Read(lambda reader: find_records(reader, self._settings.clock(), ids))
        else:
            found = yield Write(partial(watch_records, ids=ids, listener=listener))
        return found

    def counts(self) -> Operation[list[Counts]]:
        """See `Broker.counts`."""
        counted: list[Counts] = yield Read(_counts)
        return counted

    def dead(self, query: DeadQuery) -> Operation[list[DeadLetter]]:
        """See `Broker.dead`."""
        letters: list[DeadLetter] = yield Read(lambda connection: dead_letters(connection, query))
        return letters

    def retry_dead(self, query: DeadQuery) -> Operation[int]:
        """See `Broker.retry_dead`."""
        return (yield from _change_dead(_retry_dead, query))

    def discard_dead(self, query: DeadQuery) -> Operation[int]:
        """See `Broker.discard_dead`."""
        return (yield from _change_dead(_discard_dead, query))

    def release(self, group: Group, shard: str) -> Operation[bool]:
        """See `Broker.release`."""
        released: bool = yield Write(partial(gates.release, group=group, shard=shard))
        return released

    def park(self, group: Group, shard: str) -> Operation[bool]:
        """See `Broker.park`."""
        parked: bool = yield Write(partial(gates.park, group=group, shard=shard))
        return parked

    def set_gate(self, queue: str, gate: Gate) -> Operation[Gate]:
        """See `Broker.set_gate`."""
        before: Gate = yield Write(partial(gates.set_gate, queue=queue, gate=gate))
        return before

    def set_rate(
        self, limited: Limited, rate: Rate | None, *, declared: bool = False
    ) -> Operation[None]:
        """See `Broker.set_rate`."""
        yield Write(partial(rates.set_rate, limited=limited, rate=rate, declared=declared))

    def set_bounds(
        self, queue: str, bounds: Bounds | None, *, declared: bool = False
    ) -> Operation[None]:
        """See `Broker.set_bounds`."""
        yield Write(partial(set_bounds, queue=queue, bounds=bounds, declared=declared))

    def tidy(self) -> Operation[int]:
        """See `Broker.tidy`."""
        removed: int = yield Write(partial(_tidy, dead_age=self._dead_age))
        return removed

    # Steps that need the broker's settings

    def _put(self, tx: Transaction, puts: Sequence[Put]) -> None:
        _put(tx, puts, self._dead_limit)
        self._probe("put")

    def _step(self, tx: Transaction, settlements: Sequence[Settlement], want: Want | None) -> Step:
        lanes = Lanes(tx)
        settler = Settler(tx, lanes, self._dead_limit)
        if settlements:
            self._probe("settling")
        lost = [item.token for item in settlements if not settler.settle(item)]
        if settlements:
            self._probe("settled")
        if want is None:
            lanes.save()
            return Step(lost, [], tx.now, _next_at(tx))
        _take_back_expired(tx, settler)
        lanes.save()
        promote(tx, lanes)
        served = servable(tx, want.groups)
        claimer = Claimer(tx, lanes, served, want)
        claims = claimer.claims() if served else []
        next_at = earliest(_next_at(tx), claimer.next_at())
        if claims:
            self._probe("claimed")
            _leave_the_rest_to_others(tx, served, next_at, want.listener)
        elif want.listener is not None:
            _sleep(tx, want, want.listener, next_at)
        return Step(lost, claims, tx.now, next_at, claimer.suspects)

    def _reap(self, tx: Transaction, owners: Sequence[str]) -> int:
        # A clock that was set back must not turn a lease into a long one.
        tx.execute(
            "UPDATE taskyard_claim SET deadline = ? + lease WHERE deadline > ? + lease",
            (tx.now, tx.now),
        )
        lanes = Lanes(tx)
        settler = Settler(tx, lanes, self._dead_limit)
        taken = _take_back_expired(tx, settler)
        if taken < REAPED and owners:
            tokens = tx.execute(
                "SELECT token FROM taskyard_claim WHERE owner IN"
                " (SELECT value FROM json_each(?)) ORDER BY token LIMIT ?",
                (msgspec.json.encode(list(owners)), REAPED - taken),
            ).fetchall()
            for (token,) in tokens:
                settler.take_back(token)
            taken += len(tokens)
        lanes.save()
        return taken


def _change_dead(step: Callable[..., Changed], query: DeadQuery) -> Operation[int]:
    return in_chunks(query, Read(newest_dead), lambda chunk: Write(partial(step, query=chunk)))


# Steps


def _declare(tx: Transaction, group: Group, policy: GroupPolicy, replace: bool) -> None:
    stored = tx.known_group(group)
    if stored is None:
        tx.store_group(group, policy, declared=True)
        return
    present = _present(tx, stored)
    if stored.declared and stored.policy.concurrency != policy.concurrency and present:
        raise PolicyConflict(conflict_text(group, stored.policy, policy, present))
    wanted = merged(stored.policy, policy, keep=stored.declared and not replace, present=present)
    if stored.declared and wanted == stored.policy:
        return
    row = tx.store_group(group, wanted, declared=True)
    if wanted.within and not stored.policy.within:
        count_exactly(tx, row)
    lanes = Lanes(tx)
    if wanted.concurrency and not stored.declared:
        _hold_lanes(tx, lanes, row)
    lanes.relocate_all(row)


def _present(tx: Transaction, group: GroupRow) -> int:
    return sum(
        value
        for (value,) in tx.execute(
            "SELECT value FROM taskyard_counter WHERE grp = ?"
            " AND name IN ('now:waiting', 'now:delayed', 'now:running')",
            (group.id,),
        )
    )


def _hold_lanes(tx: Transaction, lanes: Lanes, group: GroupRow) -> None:
    # Claims are counted by lane only where they are limited; from here on they are.
    tokens = tx.execute(
        "SELECT token FROM taskyard_claim WHERE grp = ? ORDER BY token", (group.id,)
    ).fetchall()
    for (token,) in tokens:
        claim = find_claim(tx, token)
        if claim is not None:
            held = lanes.get(group, [part.shard for part in claim.lanes])
            for lane in held:
                lane.held += 1
                lanes.relocate(lane)
            claim.lane_ids = [lane.id for lane in held]
            keep_claim(tx, claim)
    lanes.save()


def _put(tx: Transaction, puts: Sequence[Put], dead_limit: int) -> None:
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
    marks = None if put.unique is None else hold_keys(tx, group, put, put.unique)
    if put.ids is not None:
        open_records(tx, group, put, due, first)
    messages = (
        (
            due,
            put.priority,
            Delivery(first + index, 0, 0, 0, 0, 0, body, "" if marks is None else marks[index]),
        )
        for index, body in enumerate(put.bodies)
    )
    store_due(tx, group, put.shard, messages)


def _put_now(tx: Transaction, lanes: Lanes, group: GroupRow, puts: Sequence[Put]) -> None:
    shards = list(dict.fromkeys(put.shard for put in puts))
    by_shard = dict(zip(shards, lanes.get(group, shards), strict=True))
    plain: list[Put] = []
    for put in puts:
        if put.unique is None:
            plain.append(put)
            continue
        # Before it what was put before it: within a call, too, the order is kept.
        _append(tx, group, lanes, by_shard, plain)
        plain = []
        marks = hold_keys(tx, group, put, put.unique)
        lane = by_shard[put.shard]
        first = lanes.append_marked(lane, put.priority, put.bodies, marks)
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


def _take_back_expired(tx: Transaction, settler: Settler) -> int:
    tokens = tx.execute(
        "SELECT token FROM taskyard_claim WHERE deadline < ? ORDER BY deadline, token LIMIT ?",
        (tx.now, REAPED),
    ).fetchall()
    for (token,) in tokens:
        settler.take_back(token)
    return len(tokens)


def _next_at(tx: Transaction) -> int:
    times = tx.execute(
        "SELECT (SELECT min(at) FROM taskyard_due),"
        " (SELECT min(at) FROM taskyard_lane WHERE place = 2)"
    ).fetchone()
    return min((at for at in times if at is not None), default=0)


def _leave_the_rest_to_others(
    tx: Transaction,
    served: Sequence[tuple[GroupRow, GroupWant]],
    next_at: int,
    listener: str | None,
) -> None:
    if listener is not None:
        tx.unlisten(listener)
    for group, _ in served:
        tx.has_ready(group)
        if next_at:
            tx.has_later(group, next_at)  # whoever was to wake then may be busy now


def _sleep(tx: Transaction, want: Want, listener: str, next_at: int) -> None:
    # A group that nobody has put to is made here, or its first message would wake nobody.
    rows = [(tx.group(item.group), item) for item in want.groups]
    topics = [f"g:{row.id}" for row, item in rows if item.members.issuperset(row.policy.members)]
    # 0 would mean "no wake-up of its own".
    tx.listen(listener, topics, next_at or NEVER)


def _extend(tx: Transaction, tokens: Sequence[int], lease: int) -> list[int]:
    extended = {
        token
        for (token,) in tx.execute(
            "UPDATE taskyard_claim SET deadline = ?, lease = ?"
            " WHERE token IN (SELECT value FROM json_each(?)) RETURNING token",
            (tx.now + lease, lease, msgspec.json.encode(list(tokens))),
        )
    }
    return [token for token in tokens if token not in extended]


def _counts(connection: Connection) -> list[Counts]:
    counted: dict[int, Counts] = {}
    for id_, queue, name, policy, gate, rate, bounds in connection.execute(
        "SELECT id, queue, name, policy, gate, rate, bounds FROM taskyard_group"
        " LEFT JOIN taskyard_gate USING (queue) LEFT JOIN taskyard_queue_rate USING (queue)"
        " LEFT JOIN taskyard_bound USING (queue)"
    ):
        counted[id_] = Counts(
            Group(queue, name),
            totals=dict.fromkeys(TOTALS, 0),
            gate=Gate(gate or Gate.OPEN),
            limits=limits(
                msgspec.json.decode(policy, type=GroupPolicy),
                msgspec.json.decode(rate or b"{}", type=QueueRate),
            ),
            bounds=msgspec.json.decode(bounds or b"{}", type=QueueBounds).effective,
        )
    for id_, name, value in connection.execute(
        "SELECT grp, name, value FROM taskyard_counter WHERE grp > 0"
    ):
        if name.startswith("now:"):
            setattr(counted[id_], name.removeprefix("now:"), value)
        else:
            counted[id_].totals[name] = value
    rows = connection.execute(
        "SELECT grp, sum(waiting > 0), sum(parked),"
        " min(CASE WHEN waiting > 0 THEN oldest END) FROM taskyard_lane GROUP BY grp"
    )
    for id_, lanes, parked, oldest in rows:
        row = counted[id_]
        row.lanes, row.parked, row.oldest = lanes, parked, oldest or 0
    for id_, shard in connection.execute(
        "SELECT grp, shard FROM taskyard_lane WHERE parked ORDER BY grp, shard"
    ):
        if len(counted[id_].parked_shards) < SHOWN_SHARDS:
            counted[id_].parked_shards.append(shard)
    return sorted(counted.values(), key=lambda item: item.group)


def _retry_dead(tx: Transaction, query: DeadQuery) -> Changed:
    found = find_dead(tx, query)
    retried = [item for item in found if taken_again(tx, *item)]
    remove_dead(tx, retried)
    lanes = Lanes(tx)
    for group, letter in retried:
        (lane,) = lanes.get(group, [letter.shard])
        sequence = lanes.append_marked(lane, letter.priority, [letter.body], [letter.mark])
        lanes.relocate(lane)
        tx.gauge(group, "waiting", 1)
        if letter.id:
            reopen_record(tx, letter.id, sequence)
    lanes.save()
    return changed_letters(len(retried), [letter.number for _, letter in found])


def _discard_dead(tx: Transaction, query: DeadQuery) -> Changed:
    removed = find_dead(tx, query)
    remove_dead(tx, removed)
    for group, _ in removed:
        tx.count(group, "discarded", 1)
    finish_records(
        tx,
        [
            (letter.id, State.DISCARDED, None, msgspec.msgpack.encode(letter.failure))
            for _, letter in removed
            if letter.id
        ],
    )
    return changed_letters(len(removed), [letter.number for _, letter in removed])


def _tidy(tx: Transaction, dead_age: int) -> int:
    records = tx.execute(
        "DELETE FROM taskyard_record WHERE id IN (SELECT id FROM taskyard_record"
        " WHERE expires > 0 AND expires <= ? LIMIT ?)",
        (tx.now, CHUNK),
    ).rowcount
    letters = tx.execute(
        "DELETE FROM taskyard_dead WHERE number IN (SELECT number FROM taskyard_dead"
        " WHERE at < ? ORDER BY at LIMIT ?) RETURNING grp",
        (tx.now - dead_age, CHUNK),
    ).fetchall()
    for (group_id,) in letters:
        group = tx.group_by_id(group_id)
        tx.gauge(group, "dead", -1)
        tx.count(group, "dead_dropped", 1)
    forget_notes(tx)
    tx.forget_dead_listeners(CHUNK)
    Lanes(tx).forget_faded(CHUNK)
    return records + len(letters) + forget_windows(tx, CHUNK)
