"""What the conformance tests hold a broker by: plain calls, names for messages, a clock to set.

A `Harness` hides whether a broker's operations are run by its driver for threads or by the one
for event loops, and speaks of messages by name (their ids), of times in seconds.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

import msgspec

from taskyard.brokers.base import (
    AsyncDriver,
    Broker,
    Claim,
    ClaimedLane,
    Counts,
    DeadLetter,
    DeadQuery,
    Delivery,
    Driver,
    Group,
    GroupWant,
    Listener,
    Operation,
    Outcome,
    Put,
    Record,
    Settlement,
    Step,
    Want,
)
from taskyard.brokers.lane import Flush, GroupPolicy
from taskyard.brokers.rate import Limited, Rate
from taskyard.brokers.unique import Keys, Mode
from taskyard.message import Envelope, read_envelope

__all__ = [
    "START",
    "TASK",
    "AsyncRunner",
    "Clock",
    "Harness",
    "Make",
    "MakeRunner",
    "Runner",
    "Sleeper",
    "SyncRunner",
    "body",
    "deliveries",
    "micros",
    "name",
    "names",
]

T = TypeVar("T")

TASK = Group("orders", "save")
START = 1_700_000_000_000_000


def micros(seconds: float) -> int:
    return round(seconds * 1_000_000)


class Clock:
    """A broker's clock, which stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> int:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += micros(seconds)

    def set_back(self, seconds: float) -> None:
        self.now -= micros(seconds)


# Messages by name


def body(id_: str, *, size: int = 0, task: str = "") -> bytes:
    """A message whose name is its id, padded to `size` bytes."""
    bare = msgspec.msgpack.encode(Envelope(id_, b"", task))
    padding = b"." * max(0, size - len(bare))
    made = msgspec.msgpack.encode(Envelope(id_, padding, task))
    while size and len(made) > size:  # the header of a longer payload is longer itself
        padding = padding[: -(len(made) - size)]
        made = msgspec.msgpack.encode(Envelope(id_, padding, task))
    return made


def name(message: Delivery) -> str:
    envelope = read_envelope(message.body)
    assert envelope is not None
    return envelope.id


def deliveries(held: Claim | ClaimedLane | None) -> list[Delivery]:
    """The messages of a claim, or of one of its lanes, in order."""
    if held is None:
        return []
    lanes = held.lanes if isinstance(held, Claim) else [held]
    return [message for lane in lanes for _, message in lane.messages]


def names(held: Claim | ClaimedLane | None) -> list[str]:
    """The names of a claim's messages, in order."""
    return [name(message) for message in deliveries(held)]


# Running operations


class Runner(Protocol):
    """Runs operations and waits, somehow."""

    def run(self, operation: Operation[T]) -> T: ...
    def listener(self) -> Listener: ...
    def wait(self, listener: Listener, timeout: float) -> bool: ...
    def close(self) -> None: ...


class SyncRunner:
    """Runs operations by a broker's driver for threads."""

    def __init__(self, broker: Broker) -> None:
        self._driver: Driver = broker.driver()

    def run(self, operation: Operation[T]) -> T:
        return self._driver.run(operation)

    def listener(self) -> Listener:
        return self._driver.listener()

    def wait(self, listener: Listener, timeout: float) -> bool:
        return listener.wait(timeout)

    def close(self) -> None:
        self._driver.close()


class AsyncRunner:
    """Runs operations by a broker's driver for event loops, on a loop in a thread of its own."""

    def __init__(self, broker: Broker) -> None:
        make = broker.async_driver  # first: a broker that has none leaves no thread behind
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._driver: AsyncDriver = self._call(self._connect(make))

    async def _connect(self, make: Callable[[], AsyncDriver]) -> AsyncDriver:
        return make()

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def run(self, operation: Operation[T]) -> T:
        return self._call(self._driver.run(operation))

    def listener(self) -> Listener:
        return self._driver.listener()

    def wait(self, listener: Listener, timeout: float) -> bool:
        return self._call(listener.wait_async(timeout))

    def close(self) -> None:
        self._call(self._driver.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


MakeRunner: TypeAlias = Callable[[Broker], Runner]
"""Makes what runs the operations of a broker."""


class Sleeper:
    """A listener, and what it hears."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.listener = runner.listener()

    @property
    def name(self) -> str:
        return self.listener.name

    def is_woken(self) -> bool:
        """Whether it is woken; a wake-up that does not come is waited for in vain, so long."""
        return self._runner.wait(self.listener, 10)

    def sleeps_on(self) -> bool:
        """Whether nothing woke it."""
        return not self._runner.wait(self.listener, 0.02)

    def close(self) -> None:
        self.listener.close()


class Harness:
    """A broker under test.

    Arguments:
        broker: an empty one.
        runner: how its operations are run.
        clock: its clock.
    """

    def __init__(self, broker: Broker, runner: Runner, clock: Clock) -> None:
        self.broker = broker
        self.clock = clock
        self._runner = runner
        self._sleepers: list[Sleeper] = []

    def run(self, operation: Operation[T]) -> T:
        return self._runner.run(operation)

    def close(self) -> None:
        for sleeper in self._sleepers:
            sleeper.close()
        self._runner.close()

    # Producing

    def declare(
        self,
        group: Group = TASK,
        *,
        replace: bool = True,
        within: float = 0,
        size: int = 1,
        bytes: int = 0,  # noqa: A002  # the policy's word
        concurrency: int = 0,
        max_deliveries: int = 3,
        members: Iterable[str] = (),
        rate: Rate | None = None,
        shard_rate: Rate | None = None,
        minimum: int = 0,
        lead: float = 0,
    ) -> None:
        policy = GroupPolicy(
            size,
            micros(within),
            bytes,
            concurrency,
            max_deliveries,
            tuple(members),
            rate,
            shard_rate,
            minimum=minimum,
            lead=micros(lead),
        )
        self.run(self.broker.declare(group, policy, replace=replace))

    def put(
        self,
        *ids: str,
        group: Group = TASK,
        shard: str = "",
        priority: int = 0,
        delay: float = 0,
        due: int = 0,
        size: int = 0,
        task: str = "",
        keep: float | None = None,
        unique: Keys | None = None,
        expires: float = 0,
    ) -> None:
        """Put messages of these names; `keep`: with records, kept so many seconds."""
        self.put_all(
            Put(
                group,
                [body(id_, size=size, task=task) for id_ in ids],
                shard,
                priority,
                micros(delay),
                due,
                None if keep is None else ids,
                0 if keep is None else micros(keep),
                unique=unique,
                expires=micros(expires),
            )
        )

    def put_unique(
        self,
        mode: Mode,
        id_: str,
        key: str = "k",
        *,
        span: float = 0,
        longest: float = 0,
        **put: Any,
    ) -> str | None:
        """Put a message with a unique key; who stands that it found there, None: nobody."""
        keys = Keys(mode, [key], micros(span), micros(longest))
        self.put(id_, unique=keys, **put)
        assert keys.standing is not None
        return keys.standing.get(0)

    def put_all(self, *puts: Put) -> None:
        """Put several things by one call."""
        self.run(self.broker.put(puts))

    # Working

    def step(self, settlements: Sequence[Settlement], want: Want | None) -> Step:
        return self.run(self.broker.step(settlements, want))

    def want(
        self,
        messages: int = 1,
        *,
        groups: Iterable[Group] = (TASK,),
        claims: int = 1,
        owner: str = "worker",
        lease: float = 30,
        bytes: int = 1 << 22,  # noqa: A002  # the broker's word
        drain: bool = False,
        alone: bool = True,
        members: Iterable[str] = (),
        listener: Sleeper | None = None,
    ) -> Want:
        known = frozenset(members)
        return Want(
            [GroupWant(group, messages, known) for group in groups],
            owner,
            micros(lease),
            claims,
            bytes,
            drain=drain,
            alone=alone,
            listener=None if listener is None else listener.name,
        )

    def claims(self, messages: int = 1, **want: Any) -> list[Claim]:
        """Claim, as many claims as are wanted."""
        return self.step([], self.want(messages, **want)).claims

    def claim(self, messages: int = 1, **want: Any) -> Claim | None:
        """Claim once."""
        claims = self.claims(messages, **want)
        assert len(claims) <= 1
        return claims[0] if claims else None

    def take(self, messages: int = 1, **want: Any) -> Claim:
        """Claim once: something must be there."""
        claim = self.claim(messages, **want)
        assert claim is not None, "nothing to claim"
        return claim

    def next_at(self) -> int:
        """When something becomes eligible, as microseconds of the clock."""
        return self.step([], None).next_at

    def settle(
        self,
        claim: Claim,
        outcomes: Mapping[str, Outcome] | None = None,
        *,
        every: Outcome | None = None,
        results: Mapping[str, bytes] | None = None,
        keep: Iterable[str] = (),
        records: bool = False,
    ) -> bool:
        """Settle a claim by the names of its messages; False when it was lost."""
        settlement = self.settlement(
            claim, outcomes, every=every, results=results, keep=keep, records=records
        )
        lost = self.step([settlement], None).lost
        assert lost in ([], [claim.token])
        return not lost

    def settlement(
        self,
        claim: Claim,
        outcomes: Mapping[str, Outcome] | None = None,
        *,
        every: Outcome | None = None,
        results: Mapping[str, bytes] | None = None,
        keep: Iterable[str] = (),
        records: bool = False,
    ) -> Settlement:
        sequences = {name(message): message.sequence for message in deliveries(claim)}
        chosen = {id_: every for id_ in sequences if every is not None} | dict(outcomes or {})
        return Settlement(
            claim.token,
            {sequences[id_]: outcome for id_, outcome in chosen.items()},
            list((results or {}).items()),
            frozenset(sequences[id_] for id_ in keep),
            {sequences[id_]: id_ for id_ in chosen} if records else {},
        )

    def extend(self, *claims: Claim, lease: float = 30) -> list[int]:
        return self.run(self.broker.extend([claim.token for claim in claims], micros(lease)))

    def reap(self, *owners: str) -> int:
        return self.run(self.broker.reap(owners))

    def work_off(self, messages: int = 100, **want: Any) -> list[str]:
        """Claim and settle until nothing is left; returns the names in the order they came."""
        done: list[str] = []
        while claims := self.claims(messages, **want):
            for claim in claims:
                done += names(claim)
                assert self.settle(claim)
        return done

    def work_alone(self, messages: int = 100, **want: Any) -> list[list[str]]:
        """The same, but returns the names of each claim."""
        done: list[list[str]] = []
        while (claim := self.claim(messages, **want)) is not None:
            done.append(names(claim))
            assert self.settle(claim)
        return done

    # Looking

    def counts(self, group: Group = TASK) -> Counts:
        """The numbers of a group; all zero when it is unknown."""
        found = [counts for counts in self.all_counts() if counts.group == group]
        return found[0] if found else Counts(group)

    def all_counts(self) -> list[Counts]:
        return self.run(self.broker.counts())

    def total(self, what: str, group: Group = TASK) -> int:
        return self.counts(group).totals.get(what, 0)

    def flushed(self) -> dict[str, int]:
        """How often batches were handed out, by reason."""
        counted = {str(reason): self.total(f"flush_{reason}") for reason in Flush}
        return {reason: count for reason, count in counted.items() if count}

    def record(self, id_: str) -> Record | None:
        return self.records(id_)[0]

    def state(self, id_: str) -> str | None:
        record = self.record(id_)
        return None if record is None else str(record.state)

    def states(self, *ids: str) -> list[str | None]:
        return [self.state(id_) for id_ in ids]

    def records(self, *ids: str, listener: Sleeper | None = None) -> list[Record | None]:
        return self.run(self.broker.records(ids, None if listener is None else listener.name))

    def dead(self, **query: Any) -> list[DeadLetter]:
        return self.run(self.broker.dead(DeadQuery(**query)))

    # By hand

    def retry_dead(self, **query: Any) -> int:
        return self.run(self.broker.retry_dead(DeadQuery(**query)))

    def discard_dead(self, **query: Any) -> int:
        return self.run(self.broker.discard_dead(DeadQuery(**query)))

    def release(self, shard: str, group: Group = TASK) -> bool:
        return self.run(self.broker.release(group, shard))

    def set_rate(self, limited: Limited, rate: Rate | None, *, declared: bool = False) -> None:
        self.run(self.broker.set_rate(limited, rate, declared=declared))

    def tidy(self) -> int:
        """Tidy up until nothing is left to remove."""
        total = 0
        while removed := self.run(self.broker.tidy()):
            total += removed
        return total

    def tidy_records(self) -> int | None:
        """Remove expired records; how many, None if the storage does that by itself."""
        removed = self.tidy()
        if self.broker.expires_records:
            assert removed == 0
            return None
        return removed

    # Sleeping

    def sleeper(self) -> Sleeper:
        sleeper = Sleeper(self._runner)
        self._sleepers.append(sleeper)
        return sleeper

    def idle_worker(self, messages: int = 1, **want: Any) -> Sleeper:
        """A worker that found nothing to do and sleeps."""
        sleeper = self.sleeper()
        assert self.claim(messages, listener=sleeper, **want) is None
        return sleeper


Make: TypeAlias = Callable[..., Harness]
"""Makes a harness of an empty broker; takes the broker's further arguments."""
