"""What the fault tests hold a system of processes by."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from tests.faults import nursery
from tests.faults.evidence import Event, Evidence, Journal, Put
from tests.faults.program import Config, Item, make_yard
from tests.faults.stores import Store

from taskyard import Yard
from taskyard.brokers.base import Counts, DeadLetter, Delivery, GroupWant, Want

__all__ = ["ROOT", "Process", "Scene", "clock_file", "is_alive", "is_stopped", "until"]

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0
_LOSS = re.compile(r"claim (\d+) (?:of \S+ was|had been) lost")


def until(condition: Callable[[], T | None], what: str, seconds: float = PATIENCE) -> T:
    """Poll a condition until it is true, and return what it gave."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"in {seconds} s it did not come to this: {what}")
        time.sleep(0.005)


def is_stopped(pid: int) -> bool:
    """Whether all threads of a process are stopped."""
    threads = list(Path(f"/proc/{pid}/task").iterdir())
    try:
        return all(_state(thread / "stat") == "T" for thread in threads)
    except (FileNotFoundError, ProcessLookupError):  # one has just ended
        return False


def is_alive(pid: int) -> bool:
    """Whether a process runs (an orphan that ended may stay as a zombie)."""
    try:
        return _state(Path(f"/proc/{pid}/stat")) != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _state(stat: Path) -> str:
    return stat.read_text(encoding="ascii").rpartition(")")[2].split()[0]


class Process:
    """A process of `tests.faults.program`, in a session of its own with its children."""

    def __init__(self, config: Config, log: Path) -> None:
        self.log = log
        self._child = nursery.start(msgspec.json.encode(config), log)
        self.pid = self._child.pid

    @property
    def code(self) -> int | None:
        """Its exit code, once it has ended."""
        return self._child.poll()

    def wait(self, seconds: float = PATIENCE) -> int:
        """Wait for its end; its exit code."""
        return self._child.wait(seconds)

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._child.wait()


class Scene:
    """A broker, the processes that use it, and the journal in which they write.

    Arguments:
        folder: an empty one.
        store: where the messages are.
        defaults: fields of `Config` that all processes share.
    """

    def __init__(self, folder: Path, store: Store, **defaults: Any) -> None:
        self.folder = folder
        self.store = store
        self.accepted: dict[str, Put] = {}
        self._defaults = defaults
        self._journal = Journal(folder / "journal")
        self._events: list[Event] = []
        self._offset = 0
        self._processes: list[Process] = []
        self._yard: Yard | None = None
        self._next: dict[str, int] = {}

    def close(self) -> None:
        for process in self._processes:
            process.end()
            sys.stdout.write(f"--- {process.pid}\n{process.output()[-4000:]}")  # seen on failure
        if self._yard is not None:
            self._yard.close()

    def setup(self, **defaults: Any) -> None:
        """Choose fields of `Config` for all processes."""
        assert self._yard is None
        self._defaults.update(defaults)

    def config(self, **fields: Any) -> Config:
        return Config(str(self.folder), **{**self.store.fields(), **self._defaults, **fields})

    # This process's own yard

    @property
    def yard(self) -> Yard:
        if self._yard is None:
            self._yard = make_yard(self.config())
        return self._yard

    @property
    def task(self) -> Any:
        return next(iter(self.yard.tasks.values()))

    def put(self, items: Iterable[Item], **options: Any) -> list[Item]:
        """Put messages; they are noted as accepted when `enqueue_many` returns."""
        made = list(items)
        self.task.enqueue_many(made, id=lambda item: item.name, **options)
        self.note_accepted(made)
        return made

    def fill(self, count: int, *, shards: int = 1, deeds: Mapping[int, str] | None = None) -> None:
        """Put messages, spread over shards in turn; some with a deed, by their number."""
        wanted = deeds or {}
        self.put(
            Item(f"m{number}", f"s{number % shards}", wanted.get(number, ""))
            for number in range(count)
        )

    def note_accepted(self, items: Iterable[Item]) -> None:
        for item in items:
            number = self._next[item.shard] = self._next.get(item.shard, -1) + 1
            self.accepted[item.name] = Put(item.shard, number)

    @property
    def counts(self) -> Counts:
        counted = self.yard.counts()
        return counted[0] if counted else Counts(self.task.group)

    def dead(self) -> list[DeadLetter]:
        return list(self.yard.dead.list(limit=100_000))

    def left(self) -> list[Delivery]:
        """What is left, by claiming it."""
        driver, broker = self.yard.driver, self.yard.broker
        group = self.task.group
        want = Want([GroupWant(group, 1000)], "test", 60_000_000, claims=1000, drain=True)
        claims = driver.run(broker.step([], want)).claims
        lanes = [lane for claim in claims for lane in claim.lanes]
        return [message for lane in lanes for _, message in lane.messages]

    # Processes

    def start(self, **fields: Any) -> Process:
        """Start a process; `settings` are those of its worker."""
        process = Process(self.config(**fields), self.folder / f"log-{len(self._processes)}")
        self._processes.append(process)
        return process

    def worker(self, **fields: Any) -> Process:
        """Start a worker; its lease does not run out by itself on a busy machine."""
        settings = {"lease": 10.0, "concurrency": 2, **fields.pop("settings", {})}
        return self.start(settings=settings, **fields)

    def kill(self, pid: int) -> None:
        self._journal.write([Event("die", pid)])
        os.kill(pid, signal.SIGKILL)

    def pause(self, pid: int) -> None:
        """Stop a process, but not in a transaction: it would keep everybody else out."""
        self._journal.write([Event("pause", pid)])
        while True:
            os.kill(pid, signal.SIGSTOP)
            until(lambda: is_stopped(pid), "it is stopped")
            if not self.store.is_kept_by(pid):
                return
            os.kill(pid, signal.SIGCONT)

    def resume(self, pid: int) -> None:
        os.kill(pid, signal.SIGCONT)

    def stop(self, process: Process, *pids: int) -> None:
        """Ask a process to end; `pids` are its children, who are asked by it."""
        self._journal.write([Event("stop", pid) for pid in (process.pid, *pids)])
        os.kill(process.pid, signal.SIGTERM)

    def mark_stopped(self, pids: Iterable[int]) -> None:
        """Note that processes end by themselves, without a signal from here."""
        # At the front: they may have given back, and others begun again, before this line.
        self._events[:0] = [Event("stop", pid) for pid in pids]

    def fail_over(self) -> None:
        """Note that a server is about to be killed, and that a replica is to take over."""
        self._journal.write([Event("failover", 0)])

    def asked(self) -> None:
        """Wait until a process has come to its point, and asks whether it may go on."""
        until((self.folder / "asked").exists, "a process has come to its point")

    def tell(self) -> None:
        """Let it go on."""
        (self.folder / "told").touch()

    def release(self) -> None:
        """Let handlers go on that hold."""
        (self.folder / "release").touch()

    # What happens

    def events(self) -> list[Event]:
        found, self._offset = Journal.read(self.folder / "journal", self._offset)
        self._events += found
        return self._events

    def of(self, kind: str, message: str = "") -> list[Event]:
        """The lines of a kind so far."""
        return [
            event
            for event in self.events()
            if event.kind == kind and (not message or event.message == message)
        ]

    def began(self, message: str = "", times: int = 1) -> Event:
        """Wait for a handler to begin with a message, for so many times; the last line of it."""
        return until(
            lambda: found[times - 1] if len(found := self.of("start", message)) >= times else None,
            f"{message or 'any message'} has begun {times} times",
        )

    def drained(self, seconds: float = PATIENCE) -> Counts:
        """Wait until nothing waits or runs any more."""

        def is_drained() -> Counts | None:
            counts = self.counts
            return None if counts.waiting or counts.delayed or counts.running else counts

        try:
            return until(is_drained, "everything is drained", seconds)
        except AssertionError as error:
            error.add_note(f"{self.counts}")
            self.check_store()
            raise

    # What must hold

    def check(
        self, *, ordered: bool = False, dead: Sequence[str] = (), losses: bool = False
    ) -> Evidence:
        """Check the journal, and the broker's numbers against it.

        Arguments:
            ordered: whether the shards are ordered.
            dead: the ids of the dead letters.
            losses: whether leases may have been lost that no handler saw; their workers tell.
        """
        counts = self.counts
        assert (counts.waiting, counts.delayed, counts.running) == (0, 0, 0)
        letters = self.dead()
        assert sorted(letter.id for letter in letters) == sorted(dead)
        assert counts.dead == len(dead)
        done = counts.totals.get("done", 0)
        assert done + len(dead) + counts.totals.get("discarded", 0) == len(self.accepted)
        evidence = Evidence(self.events(), lost=self.lost_claims() if losses else set())
        evidence.check(self.accepted, dead=dead, ordered=ordered)
        self.check_results(evidence, dead)
        return evidence

    def lost_claims(self) -> set[int]:
        """The claims that workers say were lost."""
        found = [_LOSS.findall(process.output()) for process in self._processes]
        return {int(token) for tokens in found for token in tokens}

    def check_results(self, evidence: Evidence, dead: Sequence[str]) -> None:
        """What is stored is what the last claim brought, which is the one that held the lease."""
        if not self.task.result_ttl:
            return
        records = self.yard.driver.run(self.yard.broker.records(list(self.accepted)))
        for message, record in zip(self.accepted, records, strict=True):
            assert record is not None
            assert record.state.final
            if message in dead:
                continue
            assert record.result is not None
            last = evidence.runs[message][-1]
            assert self.task.codec.decode_result(record.result) == str(last.token), message

    def expire(self) -> None:
        """Let all leases of dead workers run out, without waiting for it."""
        self.yard.driver.run(self.yard.broker.reap(self.store.owners()))

    def check_store(self) -> None:
        """What is stored is sound, and agrees with the broker's numbers."""
        self.store.check(self.counts)


@contextlib.contextmanager
def clock_file(folder: Path) -> Iterator[Callable[[float], None]]:
    """A clock for all processes of a scene; what it gives moves it by so many seconds."""
    path = folder / "clock"
    path.write_bytes(struct.pack("q", 0))

    def move(seconds: float) -> None:
        with path.open("r+b") as file:
            (now,) = struct.unpack("q", file.read(8))
            file.seek(0)
            file.write(struct.pack("q", now + round(seconds * 1e6)))

    yield move
