"""The operations of the SQLite broker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import quote

from taskyard.brokers.base import (
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
from taskyard.brokers.bounds import Bounds
from taskyard.brokers.cancelling import Cancellation
from taskyard.brokers.clock import wall_clock
from taskyard.brokers.common import CHUNK, REAPED, Changed, in_chunks
from taskyard.brokers.facts import SEARCHED, Facts
from taskyard.brokers.lane import Gate, GroupPolicy
from taskyard.brokers.looking import Waiting
from taskyard.brokers.rate import Limited, Rate
from taskyard.brokers.sqlite import cancelling, explaining, gates, looking, rates
from taskyard.brokers.sqlite.bounds import set_bounds
from taskyard.brokers.sqlite.counts import counts
from taskyard.brokers.sqlite.database import Settings
from taskyard.brokers.sqlite.declare import declare
from taskyard.brokers.sqlite.drivers import Read, SQLiteAsyncDriver, SQLiteDriver, Write
from taskyard.brokers.sqlite.lanes import Lanes
from taskyard.brokers.sqlite.letters import (
    dead_letters,
    discard_dead,
    forget_old_letters,
    newest_dead,
    retry_dead,
)
from taskyard.brokers.sqlite.notes import forget_notes
from taskyard.brokers.sqlite.put import put_all
from taskyard.brokers.sqlite.records import (
    find_records,
    forget_expired,
    forget_old_records,
    watch_records,
)
from taskyard.brokers.sqlite.schedules import SQLiteSchedules
from taskyard.brokers.sqlite.step import extend, reap, step
from taskyard.brokers.sqlite.transaction import Transaction
from taskyard.brokers.sqlite.unique import forget_windows
from taskyard.brokers.sqlite.workers import SQLiteWorkers
from taskyard.errors import BrokerError, DuplicateId

__all__ = ["SQLiteBroker", "no_probe"]

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
        yield Write(partial(declare, group=group, policy=policy, replace=replace))

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
        reply: Step = yield Write(
            partial(
                step,
                settlements=settlements,
                want=want,
                dead_limit=self._dead_limit,
                probe=self._probe,
            )
        )
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
        lost: list[int] = yield Write(partial(extend, tokens=tokens, lease=lease))
        return lost

    def cancel(self, id_: str, *, note: bool = True) -> Operation[Cancellation]:
        """See `Broker.cancel`."""
        done: Cancellation = yield Write(partial(cancelling.cancel, id_=id_, note=note))
        return done

    def cancel_key(self, group: Group, shard: str, key: str) -> Operation[Cancellation]:
        """See `Broker.cancel_key`."""
        done: Cancellation = yield Write(
            partial(cancelling.cancel_key, key=group, shard=shard, unique=key)
        )
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
            taken: int = yield Write(partial(reap, owners=owners, dead_limit=self._dead_limit))
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
        counted: list[Counts] = yield Read(counts)
        return counted

    def dead(self, query: DeadQuery) -> Operation[list[DeadLetter]]:
        """See `Broker.dead`."""
        letters: list[DeadLetter] = yield Read(lambda connection: dead_letters(connection, query))
        return letters

    def retry_dead(self, query: DeadQuery) -> Operation[int]:
        """See `Broker.retry_dead`."""
        return (yield from _change_dead(retry_dead, query))

    def discard_dead(self, query: DeadQuery) -> Operation[int]:
        """See `Broker.discard_dead`."""
        return (yield from _change_dead(discard_dead, query))

    def release(self, group: Group, shard: str) -> Operation[bool]:
        """See `Broker.release`."""
        released: bool = yield Write(partial(gates.release, group=group, shard=shard))
        return released

    def park(self, group: Group, shard: str) -> Operation[bool]:
        """See `Broker.park`."""
        parked: bool = yield Write(partial(gates.park, group=group, shard=shard))
        return parked

    def waiting(self, group: Group, shard: str | None = None) -> Operation[list[Waiting]]:
        """See `Broker.waiting`."""
        found: list[Waiting] = yield Write(partial(looking.waiting, key=group, shard=shard))
        return found

    def peek(
        self, group: Group, shard: str, priority: int, *, first: int = 0, limit: int = CHUNK
    ) -> Operation[list[Delivery]]:
        """See `Broker.peek`."""
        found: list[Delivery] = yield Write(
            partial(
                looking.peek, key=group, shard=shard, priority=priority, first=first, limit=limit
            )
        )
        return found

    def withdraw(
        self, group: Group, shard: str, priority: int, sequences: Sequence[int]
    ) -> Operation[list[int]]:
        """See `Broker.withdraw`."""
        removed: list[int] = yield Write(
            partial(
                looking.withdraw, key=group, shard=shard, priority=priority, sequences=sequences
            )
        )
        return removed

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

    # What schedules put, too

    def _put(self, tx: Transaction, puts: Sequence[Put]) -> None:
        put_all(tx, puts, self._dead_limit)
        self._probe("put")


def _change_dead(change: Callable[..., Changed], query: DeadQuery) -> Operation[int]:
    return in_chunks(query, Read(newest_dead), lambda chunk: Write(partial(change, query=chunk)))


def _tidy(tx: Transaction, dead_age: int) -> int:
    records = forget_old_records(tx, CHUNK)
    letters = forget_old_letters(tx, dead_age, CHUNK)
    forget_notes(tx)
    tx.forget_dead_listeners(CHUNK)
    Lanes(tx).forget_faded(CHUNK)
    return records + letters + forget_windows(tx, CHUNK)
