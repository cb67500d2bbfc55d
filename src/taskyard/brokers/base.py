"""The broker protocol: the only thing that the rest of taskyard knows of storage.

A broker's verbs are *operations*, generators that yield whole atomic steps (for SQLite: a
function run in one transaction) and return a value. They are written once; a synchronous and an
asynchronous *driver* run them:

    driver.run(broker.put([...]))
    await async_driver.run(broker.put([...]))

All times are whole microseconds of the broker's clock since 1970. Bodies are opaque bytes made by
`taskyard.message.Envelope`; a broker opens one only to learn the id of a message that it must
bury by itself.

What every broker promises, and `taskyard.testing.conformance` checks:

- A put is stored whole or not at all, before the call returns.
- Within a lane and priority, messages are claimed in order of their sequence; a message that is
  given back keeps its place.
- A group's `concurrency` bounds the open claims of each lane.
- Of what has a rate limit, never more than `burst + rate × time` messages are handed out in any
  time, but for those that come back and were not started.
- A bounded queue, or shard, has no more messages than it may, but for those that come back.
- A settlement is applied whole, and only while its claim is held; otherwise its token is
  reported as lost and nothing changes.
- No call looks at lanes that cannot be served, and each does a bounded amount of work.
- A unique key changes hands in the same step as the state of the message that holds it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Hashable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

import msgspec

from taskyard.brokers.bounds import NO_BOUNDS, Bounds
from taskyard.brokers.lane import Flush, Gate, GroupPolicy
from taskyard.brokers.rate import Limited, Limits, Rate
from taskyard.brokers.unique import Keys
from taskyard.message import Failure, State

if TYPE_CHECKING:
    from taskyard.brokers.cancelling import Cancellation
    from taskyard.brokers.facts import Facts
    from taskyard.brokers.inboxes import Inboxes
    from taskyard.brokers.looking import Waiting
    from taskyard.brokers.schedules import Schedules
    from taskyard.brokers.workers import Workers

__all__ = [
    "SHOWN_SHARDS",
    "TOTALS",
    "AsyncDriver",
    "Back",
    "Broker",
    "Claim",
    "ClaimedLane",
    "Counts",
    "Dead",
    "DeadLetter",
    "DeadQuery",
    "Delivery",
    "Discard",
    "Driver",
    "Group",
    "GroupWant",
    "Listener",
    "Operation",
    "Outcome",
    "Put",
    "Record",
    "Retried",
    "Settlement",
    "Step",
    "Stopped",
    "Want",
]

T = TypeVar("T")
Operation: TypeAlias = Generator[Any, Any, T]
"""Yields the steps of one broker, understood by that broker's drivers only."""


class Group(msgspec.Struct, frozen=True, order=True):
    """What owns lanes: a task of a queue, or the tasks of a common `order`."""

    queue: str
    name: str

    def __str__(self) -> str:
        return f"{self.queue}/{self.name}"


class Put(msgspec.Struct):
    """Messages for one lane and priority.

    Attributes:
        group: the owner of the lane.
        shard: the key of the lane; "" for tasks that do not shard.
        priority: lower goes first.
        bodies: the encoded messages, in order.
        delay: microseconds from now until they enter their lane.
        due: the microsecond at which they enter it, if not 0; instead of `delay`.
        ids: their ids, if records are to be kept for them.
        record_ttl: microseconds that a finished record is kept.
        member: the task, in an order group: only workers that know it get the group's messages.
        unique: the unique keys of the messages; None: they have none. The broker answers there.
        expires: microseconds that each may wait in its lane; 0: what their task says.
    """

    group: Group
    bodies: list[bytes]
    shard: str = ""
    priority: int = 0
    delay: int = 0
    due: int = 0
    ids: Sequence[str] | None = None
    record_ttl: int = 0
    member: str = ""
    unique: Keys | None = None
    expires: int = 0

    @property
    def way(self) -> Hashable:
        """All in which puts have to agree to be made one, of the bodies of all.

        Puts with unique keys agree with no other: each has an answer of its own.
        """
        return (
            self.group,
            self.shard,
            self.priority,
            self.delay,
            self.due,
            self.ids is None,
            self.record_ttl,
            self.member,
            self.expires,
            None if self.unique is None else id(self),
        )


class Delivery(msgspec.Struct, array_like=True, gc=False):
    """A message as a claim holds it.

    Attributes:
        sequence: its place in the lane.
        since: when it first entered its lane (microseconds); it keeps this through retries.
        deliveries: how often it was handed out before, and may have run.
        attempts: how many of its attempts ended in failure.
        losses: how many of its deliveries were lost with their worker or lease.
        cap: with how many others it may be claimed at most, after losses; 0: any number.
        body: the bytes that were put.
        mark: the unique key that it takes with it (see `brokers/unique.py`); "": none.
        expires: microseconds that it may wait in its lane; 0: what its task says.
    """

    sequence: int
    since: int
    deliveries: int
    attempts: int
    losses: int
    cap: int
    body: bytes
    mark: str = ""
    expires: int = 0


class ClaimedLane(msgspec.Struct, array_like=True):
    """The part of a claim that comes from one lane, in order of priority and sequence.

    Attributes:
        shard: the lane's key.
        flush: why the batch was ready; None for groups that do not wait for batches.
        messages: (priority, delivery), in the order in which they must run.
    """

    shard: str
    flush: Flush | None
    messages: list[tuple[int, Delivery]]


class Claim(msgspec.Struct):
    """Messages of one group, leased together and run in one slot.

    Attributes:
        token: fences the claim; rises with every claim of a lane.
        group: the group of all its messages.
        lanes: what it holds.
        deadline: when the lease ends unless extended, microseconds of the broker's clock.
    """

    token: int
    group: Group
    lanes: list[ClaimedLane]
    deadline: int

    def __len__(self) -> int:
        return sum(len(lane.messages) for lane in self.lanes)

    @property
    def suspect(self) -> bool:
        """Whether it is a message that was lost and singled out: it may kill its worker again."""
        return self.lanes[0].messages[0][1].cap == 1


class Retried(msgspec.Struct, frozen=True):
    """The attempt failed, another follows after `delay` microseconds.

    In a group with `concurrency` 1 the message stays at the head of its lane and blocks it; else
    it waits outside and joins the tail.
    """

    delay: int


class Back(msgspec.Struct, frozen=True):
    """The message was not finished: it goes back to its place in the lane.

    Attributes:
        started: it may have run in part, so it counts as delivered.
        park: hold the lane, with this message, until it is released.
    """

    started: bool = False
    park: bool = False


class Dead(msgspec.Struct, frozen=True):
    """The message ends as a dead letter.

    Attributes:
        failure: why.
        id: its id, "" when its body could not be read.
        task: the task it was meant for.
    """

    failure: Failure
    id: str = ""
    task: str = ""


class Discard(msgspec.Struct, frozen=True):
    """The message ends without a trace but its record's state.

    Attributes:
        id: its id, for the record.
    """

    id: str = ""


class Stopped(msgspec.Struct, frozen=True):
    """The message was cancelled while it was claimed, and its handler ended by that.

    Attributes:
        id: its id, for the record.
        started: whether its handler began; if not, it takes no token of a rate limit.
    """

    id: str = ""
    started: bool = True


Outcome: TypeAlias = Retried | Back | Dead | Discard | Stopped


class Settlement(msgspec.Struct):
    """What became of the messages of a claim. Whoever is not named, is done.

    Attributes:
        token: the claim's.
        outcomes: by sequence, for messages that are not simply done.
        results: (id, encoded result) of messages that are done, for their records.
        keep: sequences that still run: the claim stays open with them. None of them has an outcome.
        retry_ids: ids by sequence of messages in `outcomes` that are retried and have records.
        progress: (id, what its handler told last), for their records.
    """

    token: int
    outcomes: dict[int, Outcome] = {}
    results: Sequence[tuple[str, bytes]] = ()
    keep: frozenset[int] = frozenset()
    retry_ids: dict[int, str] = {}
    progress: Sequence[tuple[str, bytes]] = ()


class GroupWant(msgspec.Struct):
    """A group that a worker serves.

    Attributes:
        group: its key.
        messages: how many messages a claim may hold at most.
        members: names of the tasks of an order group that the worker knows.
    """

    group: Group
    messages: int = 1
    members: frozenset[str] = frozenset()


class Want(msgspec.Struct):
    """What a worker asks for.

    Attributes:
        groups: what it serves.
        owner: who asks; a dead owner's claims can be taken back at once.
        lease: microseconds for which claims are leased.
        claims: how many claims at most (its free slots).
        bytes: payload bytes of one claim at most; a single message may be larger.
        drain: hand out batches that still wait to fill.
        alone: the worker runs nothing now, so it may get a suspect (see `Claim.suspect`). That
            is then the only claim of the step, and whoever gets it runs nothing beside it:
            otherwise messages would die of what their neighbour did.
        listener: where to be woken if there is nothing.
        messages: no further claim is made once there are this many messages in the step's claims:
            a broker that is kept busy for longer makes producers wait.
    """

    groups: Sequence[GroupWant]
    owner: str
    lease: int
    claims: int = 1
    bytes: int = 1 << 22
    drain: bool = False
    alone: bool = True
    listener: str | None = None
    messages: int = 1000


class Step(msgspec.Struct):
    """The reply of `Broker.step`.

    Attributes:
        lost: tokens of settlements that were refused since their lease was lost.
        claims: what was claimed.
        now: the broker's time, microseconds.
        next_at: when something that waits for its time becomes eligible; 0: nothing does.
        suspects: a suspect was passed over, because the worker does not run `alone`.
        partial: not everywhere could be looked, so there may be more; what was settled counts.
    """

    lost: list[int]
    claims: list[Claim]
    now: int
    next_at: int = 0
    suspects: bool = False
    partial: bool = False


class Record(msgspec.Struct):
    """What is remembered of a message under its id.

    Attributes:
        id: the message's id.
        task: the group under which it was put.
        state: its state when asked.
        result: the encoded result, if it is done and returned one.
        failure: why it is dead, or was before its dead letter was discarded.
        progress: what its handler told last, encoded; None: nothing.
        told_at: when that was, microseconds.
    """

    id: str
    task: Group
    state: State
    result: bytes | None = None
    failure: Failure | None = None
    progress: bytes | None = None
    told_at: int = 0


class DeadLetter(msgspec.Struct):
    """A message that is not tried again.

    Attributes:
        number: its own, rising number in this broker.
        group: the group it was put to.
        task: the task it was meant for.
        shard: its lane's key.
        priority: its priority.
        id: its id; "" when the body could not be read.
        failure: why it is here.
        deliveries: how often it was handed out, with the last time.
        attempts: how many attempts failed, with the last one, unless that never ran (expired,
            unreadable) or ended with its worker.
        since: when it first entered its lane, microseconds.
        at: when it was buried, microseconds.
        body: the bytes that were put.
        mark: the unique key that it takes again if it is retried; "": none.
    """

    number: int
    group: Group
    task: str
    shard: str
    priority: int
    id: str
    failure: Failure
    deliveries: int
    attempts: int
    since: int
    at: int
    body: bytes
    mark: str = ""


class DeadQuery(msgspec.Struct):
    """Which dead letters are meant.

    Attributes:
        queue: only of this queue.
        task: only of this task.
        numbers: only these.
        after: only with a higher number (for paging).
        upto: only with this number or a lower one.
        limit: this many at most.
    """

    queue: str | None = None
    task: str | None = None
    numbers: Sequence[int] | None = None
    after: int = 0
    limit: int = 100
    upto: int | None = None


TOTALS = (
    "put",
    "done",
    "retried",
    "dead",
    "discarded",
    "cancelled",
    "redelivered",
    "lost",
    "dead_dropped",
    "dropped",
    "flush_size",
    "flush_bytes",
    "flush_age",
    "flush_deadline",
    "flush_drain",
)
"""The names of the counters: first those of messages, then those of batches."""


SHOWN_SHARDS = 20
"""How many parked shards counts name."""


class Counts(msgspec.Struct):
    """The numbers of one group.

    Attributes:
        group: its key.
        waiting: messages in lanes.
        delayed: messages outside lanes whose due time, or retry, is yet to come; one whose time
            has come counts here until the next step lets it into its lane.
        running: messages in open claims.
        dead: dead letters.
        lanes: shards with messages.
        parked: shards that are held until released.
        oldest: when the oldest waiting message entered its lane, microseconds; 0: none waits.
        totals: counters since the beginning, by the names in `TOTALS`.
        parked_shards: the parked shards, sorted, `SHOWN_SHARDS` at most.
        memory: bytes that its messages take in a storage that holds them in memory, about;
            0: not known.
        gate: what its queue lets through.
        limits: the rate limits that hold for it.
        bounds: how much its queue holds.
    """

    group: Group
    waiting: int = 0
    delayed: int = 0
    running: int = 0
    dead: int = 0
    lanes: int = 0
    parked: int = 0
    oldest: int = 0
    totals: dict[str, int] = {}
    parked_shards: list[str] = []
    memory: int = 0
    gate: Gate = Gate.OPEN
    limits: Limits = Limits()
    bounds: Bounds = NO_BOUNDS


class Broker(Protocol):
    """Where messages wait.

    Attributes:
        url: how it was opened, safe to print.
        durable: whether messages outlive the process.
        shared: whether several processes can use it.
        expires_records: whether the storage itself drops expired records: `tidy` then finds none.
        inboxes: what other programs push values into; None: only this library puts messages.
        schedules: what puts messages at certain times.
        workers: who works, and what they are told.
    """

    url: str
    durable: bool
    shared: bool
    expires_records: bool

    @property
    def inboxes(self) -> Inboxes | None: ...

    @property
    def schedules(self) -> Schedules: ...

    @property
    def workers(self) -> Workers: ...

    def driver(self) -> Driver:
        """Make a driver for threads. Connecting is left to its first use."""
        ...

    def async_driver(self) -> AsyncDriver:
        """Make a driver for an event loop."""
        ...

    def set_partitions(self, queue: str, partitions: int) -> None:
        """Say over how many partitions a queue is spread, if it is new.

        A broker whose messages are all in one place passes it over.
        """
        ...

    def partition(self, put: Put) -> Hashable:
        """Name the partition that messages go to: a put is atomic within one."""
        ...

    def declare(
        self, group: Group, policy: GroupPolicy, *, replace: bool = False
    ) -> Operation[None]:
        """Store the policy of a group.

        Arguments:
            group: its key.
            policy: what to store.
            replace: store it over another one (workers do, producers do not).

        Raises:
            PolicyConflict: the stored one has another `concurrency`, and messages that were put
                under it are still there.
        """
        ...

    def put(self, puts: Sequence[Put], stored: list[Put] | None = None) -> Operation[None]:
        """Store messages: all or none of those of a partition, but for what unique keys keep back.

        What became of messages with unique keys is answered in `Put.unique.standing`.

        Arguments:
            puts: the messages.
            stored: a list that gets those of `puts` that are stored even if an error is raised,
                since they are in other partitions than what was refused. What it holds before
                is stored already of the same call: errors tell of that too.

        Raises:
            DuplicateId: one of `ids` has a record already.
            QueueDraining: the queue lets no messages in.
            QueueFull: the queue, or a shard, has no room for all of them.
        """
        ...

    def step(self, settlements: Sequence[Settlement], want: Want | None) -> Operation[Step]:
        """Settle claims, then claim more, in one atomic step.

        Arguments:
            settlements: what became of claims; a lost one does not hinder the others.
            want: what to claim; None: nothing.
        """
        ...

    def extend(
        self, tokens: Sequence[int], lease: int, unknown: list[int] | None = None
    ) -> Operation[list[int]]:
        """Renew leases.

        Arguments:
            tokens: claims that are still being worked on.
            lease: microseconds from now.
            unknown: a list that gets the tokens whose partition cannot be reached, while others
                can; without it, an error is raised for them.

        Returns:
            The tokens whose lease was lost.
        """
        ...

    def cancel(self, id_: str, *, note: bool = True) -> Operation[Cancellation]:
        """Cancel a message: what waits is removed, what runs is told (see `pulse`).

        A message that was told is not run again: where it would be given back or retried, also
        since its claim is lost, it ends as cancelled.

        Arguments:
            id_: its id.
            note: where there is no record of it, note its id, so that it is removed when its turn
                comes. Messages that are put later are not meant.
        """
        ...

    def cancel_key(self, group: Group, shard: str, key: str) -> Operation[Cancellation]:
        """Cancel the message that holds a unique key, as `cancel` does.

        Never one that takes the key later. The key is free afterwards, unless the message runs and
        holds it until it is done, or had ended (see `taskyard.brokers.cancelling.frees_key`).

        Arguments:
            group: whose key it is.
            shard: the same.
            key: its text, as `Keys` has it.

        Returns:
            What became of the message; `Cancelled.UNKNOWN`: nobody holds the key.
        """
        ...

    def explain(self, id_: str, *, search: int = ...) -> Operation[Facts]:
        """Find what keeps a message from running; nothing is changed.

        Arguments:
            id_: its id.
            search: how many messages that wait are looked at where there is no record of it; by
                default `taskyard.brokers.facts.SEARCHED`.
        """
        ...

    def pulse(
        self, tokens: Sequence[int], progress: Sequence[tuple[int, str, bytes]] = ()
    ) -> Operation[list[tuple[int, int]]]:
        """Ask which running messages are cancelled, and note how far others are.

        Arguments:
            tokens: claims that are being worked on; lost ones, and those of a partition that cannot
                be reached, are passed over.
            progress: (token, id, what its handler told), for their records.

        Returns:
            Token and sequence of every message that was cancelled since it was claimed.
        """
        ...

    def reap(self, owners: Sequence[str] = ()) -> Operation[int]:
        """Take back lost claims: those past their deadline, and all of the given dead owners.

        Returns:
            How many claims were taken back.
        """
        ...

    def records(
        self, ids: Sequence[str], listener: str | None = None
    ) -> Operation[list[Record | None]]:
        """Look up records.

        Arguments:
            ids: ids of messages.
            listener: where to be woken when one that is not final becomes so.

        Returns:
            A record per id, None where there is none (any more).
        """
        ...

    def counts(self) -> Operation[list[Counts]]:
        """Count what there is, per group, sorted by group."""
        ...

    def dead(self, query: DeadQuery) -> Operation[list[DeadLetter]]:
        """List dead letters, oldest first."""
        ...

    def retry_dead(self, query: DeadQuery) -> Operation[int]:
        """Put dead letters back at the tail of their lanes, as if new; say how many.

        Those whose unique key is held by another message stay dead letters.
        """
        ...

    def discard_dead(self, query: DeadQuery) -> Operation[int]:
        """Remove dead letters; say how many."""
        ...

    def park(self, group: Group, shard: str) -> Operation[bool]:
        """Park a lane, whether it has messages or not; say whether it was not parked before.

        Claims of it that are open go on.
        """
        ...

    def release(self, group: Group, shard: str) -> Operation[bool]:
        """Release a parked lane; say whether it was parked."""
        ...

    def waiting(self, group: Group, shard: str | None = None) -> Operation[list[Waiting]]:
        """Count what waits in lanes, sorted; what is delayed or claimed does not count.

        Arguments:
            group: the owner of the lanes.
            shard: only this lane; None: all that have messages.
        """
        ...

    def peek(
        self, group: Group, shard: str, priority: int, *, first: int = ..., limit: int = ...
    ) -> Operation[list[Delivery]]:
        """Read messages that wait in a lane, in order; nothing is changed.

        Arguments:
            group: the owner of the lane.
            shard: its key.
            priority: only messages of this one.
            first: how many to pass over.
            limit: how many are read at most.
        """
        ...

    def withdraw(
        self, group: Group, shard: str, priority: int, sequences: Sequence[int]
    ) -> Operation[list[int]]:
        """Take messages that wait out of a lane: they end as cancelled.

        Returns:
            The sequences of those that were there.
        """
        ...

    def set_gate(self, queue: str, gate: Gate) -> Operation[Gate]:
        """Say what a queue lets through, also those of its groups that are made later.

        Claims that are open go on, and what comes back of them, or becomes due, is let in.

        Returns:
            What it was before.
        """
        ...

    def set_rate(
        self, limited: Limited, rate: Rate | None, *, declared: bool = False
    ) -> Operation[None]:
        """Limit how many messages are handed out in a time. What was set at run time wins.

        Arguments:
            limited: what is limited; it need not have messages yet.
            rate: the limit; None: what is declared holds again, `UNLIMITED`: nothing is limited.
            declared: it is what a program declares of a queue (see `declare` for tasks).
        """
        ...

    def set_bounds(
        self, queue: str, bounds: Bounds | None, *, declared: bool = False
    ) -> Operation[None]:
        """Say how much a queue holds, also with groups that are made later.

        What is there already stays, even if it is more.

        Arguments:
            queue: its name; it need not have messages yet.
            bounds: what is to hold; None: nothing is set any more.
            declared: it is what a program declares. It holds unless something is set without this.
        """
        ...

    def tidy(self) -> Operation[int]:
        """Remove a bounded number of expired records, dead letters and windows of unique keys.

        Returns:
            How many.
        """
        ...


class Driver(Protocol):
    """Runs operations for threads. Safe to share between threads, and to use after a fork."""

    def run(self, operation: Operation[T]) -> T:
        """Run an operation to its end.

        Raises:
            BrokerError: the storage failed; the step that failed changed nothing.
        """
        ...

    def listener(self) -> Listener:
        """Make something to wait on."""
        ...

    def close(self) -> None:
        """Free what is held. The driver may be used again."""
        ...


class AsyncDriver(Protocol):
    """Runs operations for an event loop."""

    async def run(self, operation: Operation[T]) -> T:
        """Run an operation to its end, even if the awaiting task is cancelled meanwhile.

        Raises:
            BrokerError: the storage failed; the step that failed changed nothing.
        """
        ...

    def listener(self) -> Listener:
        """Make something to wait on."""
        ...

    async def close(self) -> None:
        """Free what is held."""
        ...

    def shut_down(self) -> None:
        """Free what is held, from outside of any event loop."""
        ...


class Listener(Protocol):
    """Somebody whom the broker can wake.

    Attributes:
        name: what operations take as `listener`.
    """

    name: str

    def wait(self, timeout: float) -> bool:
        """Block until woken, or until something may have changed unnoticed.

        Arguments:
            timeout: seconds.

        Returns:
            Whether it is worth looking again (False: the time is over).
        """
        ...

    async def wait_async(self, timeout: float, also: asyncio.Event | None = None) -> bool:
        """Do the same without blocking the event loop.

        Arguments:
            timeout: seconds.
            also: ends it too when it is set; a wake-up may set it. So clear it before the look that
                comes first. (One event for all that somebody waits for takes fewer turns of the
                loop, while a message waits for them.)

        Returns:
            Whether it is worth looking again; it may be True where only `also` ended it.
        """
        ...

    def ignore_changes(self) -> None:
        """Do not look for what changed unnoticed, where a wake-up can come."""
        ...

    def close(self) -> None:
        """Stop listening."""
        ...
