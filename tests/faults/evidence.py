"""What handlers write down while they run, and what must follow from it.

Every process of a test appends to one journal, so the order of its lines is the order in which
things happened. `Evidence.check` holds it against the promises of the design's section 5.
"""

from __future__ import annotations

import itertools
import math
import os
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

__all__ = ["ENDS", "REPLICATION_LAG", "Event", "Evidence", "Journal", "Put", "Run"]

REPLICATION_LAG = 1_000_000_000
"""Nanoseconds by which a replica may be behind: what a master that died did in that time, it may
have said to its client and to no replica."""


class Event(NamedTuple):
    """A line of the journal.

    `kind` is one of start, end, raised, cancelled, lost (the handler saw that its lease is lost),
    and, of a whole process: die, pause, stop (it is about to be killed, stopped, asked to end);
    failover: a server is about to be killed, and a replica of it takes over.
    """

    kind: str
    pid: int
    message: str = ""
    shard: str = ""
    sequence: int = 0
    token: int = 0
    delivery: int = 0
    at: int = 0
    note: str = ""


ENDS = ("end", "raised", "cancelled")


class Journal:
    """A file that many processes append to, a call's lines at once."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, events: Iterable[Event]) -> None:
        now = time.monotonic_ns()
        lines = ["\t".join(map(str, event._replace(at=now))) + "\n" for event in events]
        os.write(self._fd, "".join(lines).encode())

    @staticmethod
    def read(path: Path, start: int = 0) -> tuple[list[Event], int]:
        """The complete lines from an offset on, and the offset behind them."""
        with path.open("rb") as file:
            file.seek(start)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        return [_event(line) for line in whole.decode().splitlines()], start + len(whole)


def _event(line: str) -> Event:
    kind, pid, message, shard, sequence, token, delivery, at, note = line.split("\t")
    return Event(
        kind, int(pid), message, shard, int(sequence), int(token), int(delivery), int(at), note
    )


class Put(NamedTuple):
    """A message that was accepted: its shard, and its number among those of the shard."""

    shard: str
    number: int


@dataclass
class Run:
    """One message in one handler call. Positions are those of lines in the journal."""

    message: str
    shard: str
    sequence: int
    token: int
    delivery: int
    pid: int
    began: int
    ended: int | None = None
    how: str = ""
    saw_loss: bool = False

    def is_open_at(self, position: int) -> bool:
        return self.ended is None or self.ended > position


@dataclass
class Evidence:
    """The journal of a test, taken apart.

    Attributes:
        events: its lines.
        lost: the tokens of claims of which somebody says that they were lost.
    """

    events: list[Event]
    lost: set[int] = field(default_factory=set)
    runs: dict[str, list[Run]] = field(default_factory=lambda: defaultdict(list))
    died: dict[int, int] = field(default_factory=dict)
    paused: set[int] = field(default_factory=set)
    stopped: set[int] = field(default_factory=set)
    failovers: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        running: dict[tuple[int, int, str], Run] = {}
        for position, event in enumerate(self.events):
            key = (event.pid, event.token, event.message)
            if event.kind == "start":
                run = Run(
                    event.message,
                    event.shard,
                    event.sequence,
                    event.token,
                    event.delivery,
                    event.pid,
                    position,
                )
                running[key] = run
                self.runs[event.message].append(run)
            elif event.kind in ENDS:
                running[key].ended, running[key].how = position, event.kind
            elif event.kind == "lost":
                running[key].saw_loss = True
            elif event.kind == "die":
                self.died[event.pid] = position
            elif event.kind == "pause":
                self.paused.add(event.pid)
            elif event.kind == "stop":
                self.stopped.add(event.pid)
            elif event.kind == "failover":
                self.failovers.append(position)
            else:
                raise AssertionError(f"an unknown line: {event}")

    def check(
        self,
        accepted: Mapping[str, Put],
        *,
        dead: Collection[str] = (),
        discarded: Collection[str] = (),
        ordered: bool = False,
    ) -> None:
        """Hold the journal against every promise.

        Arguments:
            accepted: the messages that were put, by id.
            dead: those that ended as dead letters.
            discarded: those that were discarded.
            ordered: whether their shards are ordered.
        """
        self.check_nothing_is_lost(accepted, {*dead, *discarded})
        self.check_twice_only_when_allowed()
        if ordered:
            self.check_order(accepted, {*dead, *discarded})
            self.check_one_claim_per_shard()

    def check_nothing_is_lost(self, accepted: Mapping[str, Put], ended: Collection[str]) -> None:
        strangers = self.runs.keys() - accepted.keys()
        assert not strangers, f"never accepted, but run: {sorted(strangers)[:5]}"
        lost = [
            message
            for message in accepted
            if message not in ended and not any(run.how == "end" for run in self.runs[message])
        ]
        assert not lost, f"{len(lost)} messages were never run to the end: {lost[:5]}"

    def check_twice_only_when_allowed(self) -> None:
        late: dict[tuple[int, int], Run] = {}
        for message, runs in self.runs.items():
            for first, second in itertools.pairwise(runs):
                before, after = first, second
                if self._is_late(second, first):
                    before, after = second, first  # as they were claimed
                    known = late.setdefault((second.pid, second.token), second)
                    assert self._same_call(known, second), f"begun when lost: {known}, {second}"
                assert self._may_run_again(before, after), f"{message} ran again: {before}, {after}"
                if before.token != after.token and not self._may_be_forgotten(before, after):
                    assert after.delivery > before.delivery, (
                        f"{message} is not marked as redelivered: {before}, {after}"
                    )

    def _may_run_again(self, before: Run, after: Run) -> bool:
        return (
            before.how in ("raised", "cancelled")
            or before.pid in self.died
            or before.pid in self.paused
            or before.saw_loss
            or before.token in self.lost
            or (before.pid in self.stopped and before.is_open_at(after.began))
            or self._may_be_forgotten(before, after)
        )

    def _is_late(self, run: Run, other: Run) -> bool:
        """Whether a run began after one of a later claim of the same shard.

        A process that is paused between its look at the lease and its handler's first line goes on
        there: it begins one call of a claim that is lost, and no other.
        """
        return run.token < other.token and (run.pid in self.paused or run.token in self.lost)

    def _may_be_forgotten(self, before: Run, after: Run) -> bool:
        """Whether a server died between two runs, and so late that a replica may lack the first."""
        began = self.events[before.began].at
        ended = math.inf if before.ended is None else self.events[before.ended].at
        return any(
            failover < after.began
            and began - REPLICATION_LAG < self.events[failover].at < ended + REPLICATION_LAG
            for failover in self.failovers
        )

    def check_order(self, accepted: Mapping[str, Put], ended: Collection[str]) -> None:
        """FIFO: by first start, and nothing starts before what is in front of it is done."""
        shards: dict[str, list[str]] = defaultdict(list)
        for message, _ in sorted(accepted.items(), key=lambda item: item[1]):
            if self.runs[message]:
                shards[accepted[message].shard].append(message)
        for messages in shards.values():
            for front, behind in itertools.pairwise(messages):
                self._check_pair(front, behind, may_fail=front in ended)

    def _check_pair(self, front: str, behind: str, *, may_fail: bool) -> None:
        first, second = self.runs[front][0], self.runs[behind][0]
        assert first.began < second.began, f"{behind} overtook {front}: {second}, {first}"
        assert first.sequence < second.sequence, f"sequences fall: {first}, {second}"
        assert {run.sequence for run in self.runs[front]} == {first.sequence}, front
        if may_fail or any(self._same_call(run, second) for run in self.runs[front]):
            return
        done = [run.ended for run in self.runs[front] if run.how == "end" and run.ended is not None]
        assert min(done) < second.began, f"{behind} began before {front} was done: {second}"

    def _same_call(self, one: Run, other: Run) -> bool:
        if one.token != other.token or one.pid != other.pid:
            return False
        # The lines of a call are written at once.
        return self.events[one.began].at == self.events[other.began].at

    def check_one_claim_per_shard(self) -> None:
        """Two claims of a shard overlap only if the earlier one was lost and could see it."""
        shards: dict[str, list[Run]] = defaultdict(list)
        for runs in self.runs.values():
            for run in runs:
                shards[run.shard].append(run)
        for shard, runs in shards.items():
            runs.sort(key=lambda run: run.began)
            earlier: list[Run] = []
            for run in runs:
                earlier = [one for one in earlier if one.is_open_at(run.began)]
                for one in earlier:
                    if self._is_late(run, one):
                        continue
                    assert one.token <= run.token, f"tokens fall in {shard}: {one}, {run}"
                    if one.token != run.token:
                        assert self._has_lost_its_claim(one), f"two claims of {shard}: {one}, {run}"
                earlier.append(run)

    def _has_lost_its_claim(self, run: Run) -> bool:
        return run.saw_loss or run.pid in self.died or run.pid in self.stopped
