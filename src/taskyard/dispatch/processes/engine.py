"""The engine of processes, and of processes with threads.

One thread of the parent, the *loop*, hands calls to worker processes, hears what has ended, and
replaces those that die. Another one sees to it that there are calls at hand: see `stock.Stock`.

**Sharing out.** A process holds some milliseconds' worth of calls, of slow ones no more than it is
in. If a process is idle while another one holds calls that it does not get to, these are recalled
and shared out anew.

**Death.** Each thread of a process tells in shared memory which call it is in. So when a process
dies, that one is *lost*; those before it that were not handed over (every few milliseconds, 50 at
the latest) are *unknown*, and those behind it are given to others.

**Timeouts.** A process whose call takes too long is given nothing more, and what it has not begun
is given to others. Calls in its other threads go on until they end or take too long themselves;
then it is killed and replaced. So no call suffers for another one's timeout, and there are never
more calls under way than workers.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import selectors
import threading
from collections import deque
from time import monotonic, time
from typing import Any

from taskyard.dispatch.calls import Call, late, next_delay
from taskyard.dispatch.engine import Finished, Job, Sink, Source, StartMethod
from taskyard.dispatch.outcome import CallError, Status
from taskyard.dispatch.processes.member import InCall, Lot, Member, outcome
from taskyard.dispatch.processes.nursery import (
    CANNOT,
    Births,
    Ends,
    begin,
    ending,
)
from taskyard.dispatch.processes.sizing import Pace, held, shares
from taskyard.dispatch.processes.stock import Stock
from taskyard.errors import WorkerError

__all__ = ["ProcessEngine", "threads_of"]

TICK = 0.005
"""Seconds after which is looked again whether a process gets on with what it holds, while another
one has nothing to do."""
STUCK = 0.1
"""Seconds after which it is called stuck while others are busy, too; longer if calls are slow."""
RECEIVING = 1.0
"""The same of a process that is in no call: it takes in what it was given."""
RECEIVED = 1e7
"""Bytes of items per second that it takes in, at the least."""
LEAD = 0.02
"""Seconds before its instant that a planned call is given to a process."""
STARTS = 3
"""How many processes in a row may die before they can work, until the run is given up."""
DEATHS = 3
"""How many processes may die over a call that none of them has begun, until it is lost."""
HAND_OVER_WITHIN = 0.1
"""Seconds that a process gets to hand over what has ended, before it is killed for a timeout."""
PATIENCE = 60.0
"""Seconds that processes get to be ready for a plan."""
EAGER = 64
"""Processes that are there before a plan begins, at most; more are started as they are needed."""
SPARE = 8
"""Threads that are to be free for planned calls, at least, while there may be more processes."""


class ProcessEngine:
    """Makes calls in worker processes.

    Arguments:
        job: what to do; `per_process` is how many threads a process has, None: as many as it takes
            for `workers` in one process for each processor.
        hybrid: whether processes have several threads.
        start_method: how processes come about: "fork", "forkserver", "spawn"; None: the engine
            decides, see `nursery.begin`.
    """

    def __init__(
        self, job: Job, *, hybrid: bool = False, start_method: StartMethod | None = None
    ) -> None:
        self.limited = 0
        self._job = job
        self._method = start_method
        self._pace = Pace()
        self._threads = threads_of(job, hybrid=hybrid)  # of each process
        self._births: Births | None = None
        self._source: Source
        self._sink: Sink
        self._members: dict[int, Member] = {}
        self._vacant = deque(self._threads)  # threads of processes that are to be started
        self._numbers = itertools.count(1)
        self._failed_starts = 0
        self._full = False  # no process can be given anything more
        self._full_until = 0.0
        self._dealt = 0  # the number of the last planned call that was given out
        self._stock = Stock(self._wake)
        self._again: list[tuple[float, int, Lot]] = []  # to be tried again, by when
        self._selector = selectors.DefaultSelector()
        self._watched: set[Any] = set()
        self._woken, self._waking = os.pipe()
        self._stopped = False
        self._abandoned = False
        self._ending = False  # processes are made to end
        self._ticked = 0.0
        self._error: BaseException | None = None
        self._loop: threading.Thread | None = None

    # What a run asks of its engine

    def prepare(self) -> None:
        for fd in (self._woken, self._waking):
            os.set_blocking(fd, False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        # Before there is any thread of ours.
        self._births = begin(self._job, time() - monotonic(), self._method)
        if not self._job.open_loop:
            return  # they are started as there is something to do
        deadline = monotonic() + PATIENCE
        while self._error is None and monotonic() < deadline:
            self._hire(min(EAGER - len(self._members), len(self._vacant)))
            if all(member.ready for member in self._members.values()):
                return
            self._listen(0.1)
        late = sum(not member.ready for member in self._members.values())
        raise self._error or WorkerError(
            f"{late} of {len(self._members)} worker processes were not ready within {PATIENCE:g} s"
        )

    def start(self, source: Source, sink: Sink) -> None:
        self._source, self._sink = source, sink
        self._loop = threading.Thread(target=self._run, name="taskyard-crew", daemon=True)
        self._loop.start()
        self._stock.start(source)

    def tend(self) -> None:
        """The loop does all that by itself."""

    def stop(self) -> None:
        self._stopped = True
        self._wake()

    def abandon(self) -> None:
        self._stopped = self._abandoned = True
        self._wake()

    def busy(self) -> int:
        return sum(len(member.cells.running()) for member in list(self._members.values()))

    def close(self) -> None:
        self.abandon()
        if self._loop is not None:
            self._loop.join()
        else:
            self._give_up_rest()  # nothing was begun
        self._selector.close()
        for fd in (self._woken, self._waking):
            os.close(fd)

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full: it will wake; closed: it has ended
            os.write(self._waking, b".")

    # The loop

    def _run(self) -> None:
        try:
            while not self._is_over():
                self._hand_out()
                self._listen(self._patience())
                self._look_after()
        except BaseException as error:  # noqa: BLE001 - told to the sink
            self._error = self._error or error
        try:
            self._give_up_rest()
        except BaseException as error:  # noqa: BLE001 - told to the sink
            self._error = self._error or error
        self._stock.close()
        self._sink.end(self._error)

    def _is_over(self) -> bool:
        self._error = self._error or self._stock.error
        if self._error is not None or self._abandoned:
            return True
        if any(member.open for member in self._members.values()):
            return False
        return self._stopped or (self._stock.dry and not self._stock and not self._again)

    def _patience(self) -> float:
        now = monotonic()
        times = [0.5]
        if self._job.timeout is not None:
            times.append(max(TICK, min(0.05, self._job.timeout / 10)))
        if any(member.recalling for member in self._members.values()):
            times.append(TICK)
        elif any(member.unbegun() for member in self._members.values()):
            times.append(TICK if self._stock.hungry else STUCK / 2)
        if self._again:
            times.append(self._again[0][0] - now)
        first = self._stock.first_instant()
        if first is not None and first - LEAD > now:
            times.append(first - LEAD - now)
        return max(0.0, min(times))

    def _listen(self, patience: float) -> None:
        self._watch()
        for key, mask in self._selector.select(patience):
            member = key.data
            if key.fileobj == self._woken:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._woken, 4096)
            elif isinstance(member, Member):
                if mask & selectors.EVENT_WRITE:
                    member.line.push()
                if mask & selectors.EVENT_READ:
                    self._hear(member)
        for end in self._begun().hear():
            self._watch_births()  # forgets what is closed, before a new process gets its number
            self._bury(end)

    def _watch_births(self) -> None:
        wanted = set(self._begun().watched())
        for gone in self._watched - wanted:
            self._selector.unregister(gone)
        for new in wanted - self._watched:
            self._selector.register(new, selectors.EVENT_READ)
        self._watched = wanted

    def _watch(self) -> None:
        self._watch_births()
        for member in self._members.values():
            if member.line.ended:
                with contextlib.suppress(KeyError):
                    self._selector.unregister(member.line.sock)
                continue
            events = selectors.EVENT_READ
            if member.line.backlog:
                events |= selectors.EVENT_WRITE
            if self._selector.get_key(member.line.sock).events != events:
                self._selector.modify(member.line.sock, events, member)

    def _look_after(self) -> None:
        now = monotonic()
        if self._stopped:
            for member in self._members.values():
                member.stop()
        if now - self._ticked < TICK:
            return
        self._ticked = now
        if self._job.timeout is not None:
            self._check_timeouts(self._job.timeout, now)
        for member in self._members.values():
            if member.recalling and now - member.recalled_at >= TICK:
                self._stock.put_back(member.take_back())
        self._recall_stuck(now)

    # Handing out

    def _hand_out(self) -> None:
        if self._stopped:
            return
        now = monotonic()
        while self._again and self._again[0][0] <= now:
            self._stock.put_back([heapq.heappop(self._again)[2]])
        self._hire_as_needed()
        members = [one for one in self._members.values() if one.ready and not self._is_held(one)]
        planned = self._job.open_loop
        wants = [held(self._pace, member.threads, planned=planned) for member in members]
        rooms = [
            # Many calls at once, rather than each time that one has ended.
            want - member.open
            if planned or member.open <= max(want // 2, member.threads - 1)
            else 0
            for want, member in zip(wants, members, strict=True)
        ]
        self._stock.want(sum(rooms), max(len(self._threads), sum(wants) // 2))
        if not any(room > 0 for room in rooms):
            self._full = self._full or bool(members)  # also while the last one is replaced
            return
        if self._full:
            self._full, self._full_until = False, now
        if planned:
            self._deal(members, wants, now)
        else:
            self._share(members, wants, rooms)

    @staticmethod
    def _is_held(member: Member) -> bool:
        return member.retired or member.recalling

    def _share(self, members: list[Member], wants: list[int], rooms: list[int]) -> None:
        ready = [at for at, room in enumerate(rooms) if room > 0]
        available = self._stock.count()
        given = shares([members[at].open for at in ready], [wants[at] for at in ready], available)
        for at, number in zip(ready, given, strict=True):
            left = number
            while left > 0 and self._stock:
                lot = self._stock.take(left)
                left -= len(lot.items)
                self._give(members[at], lot)

    def _deal(self, members: list[Member], wants: list[int], now: float) -> None:
        """Give planned calls that are due soon one by one, each to who has the least to do."""
        hands: dict[int, list[Lot]] = {}
        holds = [member.open for member in members]
        while self._stock:
            free = [at for at, want in enumerate(wants) if holds[at] < want]
            first = self._stock.first_instant()
            if not free or (first is not None and first - LEAD > now):
                break
            at = min(free, key=lambda at: holds[at] / members[at].threads)
            lot = self._stock.take(1)
            if lot.ids[0] > self._dealt:  # the first time: later ones are retries, or taken back
                self._dealt = lot.ids[0]
                self.limited += first is not None and first < self._full_until
            holds[at] += 1
            hands.setdefault(at, []).append(lot)
        self._full = all(hold >= want for hold, want in zip(holds, wants, strict=True))
        for at, lots in hands.items():
            for lot in _joined(lots):
                self._give(members[at], lot)

    def _give(self, member: Member, lot: Lot) -> None:
        size, refused = member.send(lot, with_ids=self._job.context)
        self._pace.sent(len(lot.items), size)
        if refused is not None:
            self._sink.put(refused)

    # What comes

    def _hear(self, member: Member, *, rest: bool = False) -> None:
        for name, told in member.line.frames(rest=rest):
            if name == "handed":
                finished = member.settle(told)
                if finished.ids:
                    self._note_pace(finished, member.threads)
                    self._sink.put(finished)
            elif name == "given":
                self._stock.put_back(member.given_back(told))
            elif name == "ready":
                member.ready = True
                self._failed_starts = 0
            else:
                self._error = self._error or WorkerError(told)

    def _note_pace(self, finished: Finished, threads: int) -> None:
        number = len(finished.ids)
        if number <= 64:
            seconds = sum(finished.ended) - sum(finished.started)
        else:
            seconds = (max(finished.ended[-64:]) - min(finished.started[:64])) * threads
        self._pace.ended(number, seconds)

    # Processes that come and go

    def _hire_as_needed(self) -> None:
        """Start processes for what is at hand, as far as those that start will not do."""
        waiting = self._stock.count()
        if not self._members:
            waiting = max(waiting, 0 if self._stock.dry and not self._again else 1)
        coming = sum(member.threads for member in self._members.values() if not member.ready)
        free = sum(
            member.threads - member.open
            for member in self._members.values()
            if member.ready and not self._is_held(member) and member.open < member.threads
        )
        waiting -= coming + free
        if self._job.open_loop and not (self._stock.dry and not self._stock):
            # They are to be there when they are needed.
            waiting += max(SPARE, len(self._members) // 4)
            if len(self._members) < EAGER:
                waiting = sum(itertools.islice(self._vacant, EAGER - len(self._members)))
        while waiting > 0 and self._vacant:
            waiting -= self._vacant[0]
            self._hire(1)

    def _begun(self) -> Births:
        assert self._births is not None  # noqa: S101 - `prepare` comes first
        return self._births

    def _hire(self, number: int) -> None:
        for _ in range(number):
            try:
                member = Member(next(self._numbers), self._vacant.popleft(), self._begun())
            except OSError as error:
                self._error = self._error or WorkerError(
                    f"no worker process can be added to {len(self._members)}: {error}. Each takes "
                    f"three open files of this process: use fewer workers, or allow it more "
                    f"(ulimit -n)"
                )
                return
            self._members[member.number] = member
            self._selector.register(member.line.sock, selectors.EVENT_READ, member)

    def _bury(self, end: Ends) -> None:
        if end.refusal:
            self._error = self._error or WorkerError(end.refusal)
        if end.number == 0:  # of whatever starts them
            for number in list(self._members):
                self._bury(Ends(number, None))
            return
        member = self._members.pop(end.number, None)
        if member is None:
            return
        with contextlib.suppress(KeyError):
            self._selector.unregister(member.line.sock)
        self._hear(member, rest=True)
        self._vacant.append(member.threads)
        self._settle_estate(member)
        member.close()
        if not member.ready and not self._ending:
            self._failed_starts += 1
            if self._failed_starts >= STARTS:
                self._error = self._error or WorkerError(
                    f"worker processes end before they can work: the last one {ending(end.code)}. "
                    f"{CANNOT}"
                )

    def _settle_estate(self, member: Member) -> None:
        calls = {(id(call.lot), call.at): call for call in member.in_call()}
        lost, unknown, rest = member.estate()
        ours = self._abandoned or self._error is not None  # we killed it
        status = Status.CANCELLED if ours else Status.LOST
        now = monotonic()
        for lot, at in lost:
            call = calls.get((id(lot), at)) or InCall(lot, at, now, lot.attempt)
            since = min(now, call.begun)
            self._sink.put(outcome(lot, at, since, status=status, attempt=call.attempt))
        for lot, at in unknown:
            self._sink.put(outcome(lot, at, now, status=Status.UNKNOWN))
        blamed = member.ready and not (lost or unknown or member.retired)
        self._stock.put_back(rest[1:] if blamed else rest)
        if blamed and rest:
            self._suspect(rest[0])

    def _suspect(self, lot: Lot) -> None:
        """A process died before it began these calls: maybe of an item, that it could not hold."""
        if len(lot.items) > 1:
            self._stock.put_back(lot.picked([at], deaths=1) for at in range(len(lot.items)))
            return
        lot.deaths += 1
        if lot.deaths >= DEATHS:
            self._sink.put(outcome(lot, 0, monotonic(), status=Status.LOST))
        else:
            self._stock.put_back([lot])

    # What does not get on

    def _recall_stuck(self, now: float) -> None:
        """Recall what a process does not get to while others wait, or at all."""
        if self._stopped:
            return
        duration = self._pace.duration or 0.0
        idle = not self._stock and any(
            member.ready and not member.retired and member.open < member.threads
            for member in self._members.values()
        )
        patience = TICK / 2 if idle else max(STUCK, 4 * duration)
        for member in self._members.values():
            unbegun = member.unbegun()
            if not unbegun or self._is_held(member) or not member.ready:
                continue
            reached = member.cells.reached()
            if member.seen[0] != reached:
                member.seen = (reached, now)
                rest = duration * unbegun / member.threads
                if idle and rest > TICK / 2 and not self._job.open_loop:
                    member.recall()
            elif member.unsent != (unsent := member.line.unsent):
                member.unsent, member.seen = unsent, (reached, now)  # it takes in what it was sent
            elif (
                now - member.seen[1] >= max(patience, self._reception(member, unbegun))
                and not member.waits()
                and (idle or self._others(member))
            ):
                member.recall()

    def _reception(self, member: Member, unbegun: int) -> float:
        """Seconds that a process with a thread to spare gets until it has calls in hand.

        Items may be large, or slow to unpickle. Each time that this was not enough it is doubled,
        or they would be sent to and fro for ever. If it is in other calls, one of them may hold the
        interpreter, so that it does not come to it.
        """
        running = len(member.cells.running())
        if running == member.threads:
            return 0.0
        least = TICK if running else RECEIVING + self._pace.size * unbegun / RECEIVED
        return least * 2.0 ** min(member.moves(), 20)

    def _others(self, member: Member) -> bool:
        return any(
            one is not member and one.ready and not self._is_held(one)
            for one in self._members.values()
        )

    def _check_timeouts(self, timeout: float, now: float) -> None:
        for member in list(self._members.values()):
            for call in member.in_call():
                if now - call.begun >= timeout:
                    self._time_out(member, call)
            if not member.retired or member.in_call():
                member.idle_since = None
                continue
            if member.idle_since is None:
                member.idle_since = now
            # What has ended in it is to be handed over.
            if not member.open or now - member.idle_since >= HAND_OVER_WITHIN:
                self._begun().kill(member.number)

    def _time_out(self, member: Member, call: InCall) -> None:
        if not member.retired:
            member.retired = True
            member.recall()  # also if nothing is left: it hands over what has ended
        lot, at, begun, attempt = call
        member.take_out(lot, at)
        error = late(self._job.timeout or 0.0)
        known = Call(lot.ids[at], None, attempt)
        delay = None if self._stopped else next_delay(self._job.retry, error, known)
        if delay is None:
            self._sink.put(outcome(lot, at, begun, error=CallError.of(error), attempt=attempt))
            return
        again = lot.picked([at])
        again.attempt = attempt + 1
        again.started = begun if lot.started is None else lot.started
        heapq.heappush(self._again, (monotonic() + delay, again.ids[0], again))

    # The end

    def _give_up_rest(self) -> None:
        if self._births is None:
            return
        self._ending = True
        calm = self._error is None and not self._abandoned
        for member in self._members.values():
            if calm and member.ready and not member.retired:
                member.dismiss()
            else:
                self._births.kill(member.number)
        deadline = monotonic() + (1.0 if calm else 5.0)
        while self._members and monotonic() < deadline:
            self._listen(0.1)
        for number in list(self._members):
            self._bury(Ends(number, None))
        self._births.close()
        error = CallError.of(late(self._job.timeout or 0.0))
        for _, _, lot in self._again:  # there will be no other attempt
            self._sink.put(outcome(lot, 0, monotonic(), error=error, attempt=lot.attempt - 1))


def threads_of(job: Job, *, hybrid: bool) -> list[int]:
    """How many threads each process has.

    Arguments:
        job: its `workers` and `per_process`.
        hybrid: whether processes have several.
    """
    if not hybrid:
        return [1] * job.workers
    if job.per_process is not None:
        number = -(-job.workers // job.per_process)
    else:
        number = min(job.workers, _processors())
    least, more = divmod(job.workers, number)
    return [least + (at < more) for at in range(number)]


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _joined(lots: list[Lot]) -> list[Lot]:
    """Make one lot of those that are alike."""
    if len(lots) == 1 or any(lot.attempt > 1 or lot.deaths or lot.moves for lot in lots):
        return lots
    ids = [id_ for lot in lots for id_ in lot.ids]
    items = [item for lot in lots for item in lot.items]
    planned = [instant for lot in lots for instant in lot.planned or ()]
    return [Lot(ids, items, planned or None)]
