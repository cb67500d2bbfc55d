"""Carrying out calls whatever happens: what to send, when to try again, when to give up.

Nothing here does I/O. `perform` yields requests, which a driver carries out in its own way, and
gets their outcomes. So there is one set of rules for threads and for event loops.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple, TypeAlias

from taskyard.brokers.redis.calls import Argument, Call, container_key
from taskyard.brokers.redis.connect import pack
from taskyard.brokers.redis.failures import (
    Astray,
    Broken,
    Denial,
    NoAnswer,
    NotConfirmed,
    Refusal,
    Remedy,
    exhausted,
    final,
    is_answer,
    named_by,
    only_reads,
    remedy,
    stopped_by_acl,
    will_be_over_soon,
)
from taskyard.brokers.redis.options import Address, RedisOptions
from taskyard.brokers.redis.outages import Outages
from taskyard.brokers.redis.rights import lacking, probe_key, script_probes
from taskyard.brokers.redis.scripts import UNCONFIRMED, WRITING
from taskyard.brokers.redis.topology import Directory, directory_for

__all__ = [
    "Check",
    "Drop",
    "Exchange",
    "LookUp",
    "Parcel",
    "Pause",
    "Request",
    "Scene",
    "Wire",
    "every",
    "perform",
    "single",
]

FIRST_PAUSE = 0.01
LONGEST_PAUSE = 0.5
"""Seconds between attempts, at most: before the second one, and in the end."""
TURNS = 5
"""How often a call follows a redirection, or loads its script, without a pause."""

Check: TypeAlias = Callable[[], Generator[Sequence[Argument], Any, None]]
"""Looks at a server before its first call: a generator that yields commands and gets their
replies (a `Refusal` for an error), and raises a BrokerError if the server will not do, or a
`Refusal` if it cannot be looked at, or not yet."""


class Wire:
    """A logical connection: the scripts remember its last call, to recognise a repeated one.

    Attributes:
        slot: its name.
    """

    __slots__ = ("_number", "slot")

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Take another name: a call was given up, and may still arrive."""
        self.slot = secrets.token_urlsafe(9)
        self._number = 0

    def next_number(self) -> int:
        """Begin a new call."""
        self._number += 1
        return self._number


class Scene:
    """What the calls of a driver have in common. Safe to share between threads.

    Attributes:
        options: where the server is, and how long to try.
        clock: None: the server's.
        check: looks at each server before its first call.
        checked: the servers that it has looked at.
        allowed: those whose ACL was also found to let scripts run to their end.
        directory: who is responsible for what.
        outages: who does not answer.
    """

    def __init__(
        self,
        options: RedisOptions,
        clock: Callable[[], int] | None,
        check: Check | None,
        outages: Outages | None = None,
    ) -> None:
        self.options = options
        self.clock = clock
        self.check = check
        self.checked: set[Address] = set()
        self.allowed: set[Address] = set()
        self.directory: Directory = directory_for(options)
        self.outages = Outages() if outages is None else outages


class Parcel(NamedTuple):
    """Commands for one server, and how many replies they have."""

    address: Address
    data: bytes
    replies: int


class Exchange(NamedTuple):
    """Send parcels and wait for all replies; a list of them, or a `Broken`, for each.

    Attributes:
        parcels: what to send.
        timeout: seconds that each reply may take, and connecting; None: as the options say.
    """

    parcels: list[Parcel]
    timeout: float | None = None


class Pause(NamedTuple):
    """Wait."""

    seconds: float


class LookUp(NamedTuple):
    """Let the directory look up who is responsible; an exception if it cannot."""

    directory: Directory


class Drop(NamedTuple):
    """Close the connection to a server."""

    address: Address


Request: TypeAlias = Exchange | Pause | LookUp | Drop


class _Job:
    """One call on its way.

    Attributes:
        now: what its clock says, "" for the server's.
        loads: whether its script has to be loaded first.
        turns: how often it was sent on at once.
        doubtful: whether it may have been carried out without our knowing.
        lost: whether it was ever sent without an answer.
    """

    __slots__ = (
        "address",
        "call",
        "done",
        "doubtful",
        "loads",
        "lost",
        "now",
        "number",
        "outcome",
        "turns",
        "wire",
    )

    def __init__(self, call: Call, wire: Wire, now: int | str) -> None:
        self.call = call
        self.now = now
        self.wire = wire
        self.number = wire.next_number()
        self.address: Address | None = None
        self.done = False
        self.outcome: Any = None
        self.loads = False
        self.turns = 0
        self.doubtful = False
        self.lost = False

    def end(self, outcome: Any) -> None:
        self.outcome = outcome
        self.done = True


class _Attempts:
    """The calls of one step, from the first attempt to the last."""

    def __init__(self, scene: Scene, calls: Sequence[Call], wires: Sequence[Wire]) -> None:
        self._scene = scene
        self._jobs = [
            _Job(call, wire, "" if scene.clock is None else scene.clock())
            for call, wire in zip(calls, wires, strict=True)
        ]
        shortest = min([call.timeout for call in calls], default=scene.options.timeout)
        self._timeout = shortest if shortest < scene.options.timeout else None
        self._began = 0.0
        self._failing_since = 0.0
        self._pauses = 0
        self._trouble: tuple[Address | None, Exception] | None = None
        self._drops: list[Address] = []
        self._stopped: dict[Address, list[tuple[_Job, Refusal]]] = {}

    def run(self) -> Generator[Request, Any, list[Any]]:
        try:
            waiting = self._jobs
            while waiting:
                self._began = time.monotonic()
                if (yield from self._locate(waiting)):
                    yield from self._attempt(waiting)
                if self._trouble is not None:
                    yield from self._recover(*self._trouble)
                waiting = [job for job in waiting if not job.done]
            return [job.outcome for job in self._jobs]
        finally:
            for job in self._jobs:
                # What was lost may arrive late: under a name whose last call it is, it is known.
                # The same if the runner was interrupted.
                if job.lost or job.doubtful or not job.done:
                    job.wire.renew()

    # One attempt

    def _locate(self, waiting: list[_Job]) -> Generator[Request, Any, bool]:
        directory = self._scene.directory
        error: Exception | None = None
        for job in waiting:
            job.address = directory.find(job.call.tag)
            if job.address is None and error is None:
                error = yield LookUp(directory)
                job.address = directory.find(job.call.tag)
            if job.address is None:
                nobody = Refusal("CLUSTERDOWN", "no node serves the hash slot")
                address, reason = None, error or nobody
                if isinstance(reason, NoAnswer):
                    address, reason = reason.address, reason.error
                self._failed(waiting, address, reason)
                return False
        return True

    def _attempt(self, waiting: list[_Job]) -> Generator[Request, Any, None]:
        shares: dict[Address, list[_Job]] = {}
        for job in waiting:
            if job.address is not None:
                shares.setdefault(job.address, []).append(job)
        if self._scene.check is not None:
            for address in [new for new in shares if new not in self._scene.allowed]:
                if not (yield from self._may_begin(address, self._scene.check, shares[address])):
                    del shares[address]
        parcels = [self._parcel(address, jobs) for address, jobs in shares.items()]
        outcomes = yield Exchange(parcels, self._timeout)
        for (address, jobs), outcome in zip(shares.items(), outcomes, strict=True):
            if isinstance(outcome, Broken):
                self._broken(address, jobs, outcome)
            else:
                self._replied(address, jobs, outcome)
        while self._stopped:
            yield from self._explain(*self._stopped.popitem())
        while self._drops:
            yield Drop(self._drops.pop())

    def _may_begin(
        self, address: Address, check: Check, jobs: list[_Job]
    ) -> Generator[Request, Any, bool]:
        if address not in self._scene.checked and not (
            yield from self._checks(address, check(), jobs)
        ):
            return False
        # Who may only read needs no more than that to look.
        return all(only_reads(job.call) for job in jobs) or (
            yield from self._lets_scripts_end(address, jobs)
        )

    def _checks(
        self, address: Address, check: Generator[Sequence[Argument], Any, None], jobs: list[_Job]
    ) -> Generator[Request, Any, bool]:
        reply: Any = None
        try:
            while True:
                command = check.send(reply)
                parcel = Parcel(address, pack(command), 1)
                [outcome] = yield Exchange([parcel], self._timeout)
                if isinstance(outcome, Broken):
                    self._broken(address, jobs, outcome._replace(sent=False))
                    return False
                reply = outcome[0]
                if isinstance(reply, Refusal) and remedy(reply) is not Remedy.NONE:
                    self._failed(jobs, address, reply)
                    return False
        except Refusal as error:
            self._failed(jobs, address, error)
            return False
        except StopIteration:
            self._scene.checked.add(address)
            return True
        finally:
            check.close()

    def _lets_scripts_end(
        self, address: Address, jobs: list[_Job]
    ) -> Generator[Request, Any, bool]:
        lacks = yield from self._lacks(address, jobs[0].call.tag)
        if isinstance(lacks, Broken):
            self._broken(address, jobs, lacks._replace(sent=False))
            return False
        if lacks:
            self._failed(jobs, address, Denial(lacks))
            return False
        self._scene.allowed.add(address)
        return True

    def _lacks(self, address: Address, tag: str) -> Generator[Request, Any, list[str] | Broken]:
        """Ask what the ACL forbids of what scripts call, in one round trip."""
        prefix = self._scene.options.prefix
        probes = script_probes(probe_key(prefix, tag))
        data = b"".join(pack(command) for _, command in probes)
        [answers] = yield Exchange([Parcel(address, data, len(probes))], self._timeout)
        if isinstance(answers, Broken):
            return answers
        return lacking(prefix, zip([name for name, _ in probes], answers, strict=True))

    # What is sent

    def _parcel(self, address: Address, jobs: list[_Job]) -> Parcel:
        prefix = self._scene.options.prefix
        commands: list[Sequence[Argument]] = []
        for job in jobs:
            call = job.call
            if job.loads:
                commands.append(("SCRIPT", "LOAD", call.script.source))
            key = container_key(prefix, call.tag)
            own = ("EVALSHA", call.script.sha, 1, key, job.wire.slot, job.number, job.now)
            commands.append(own + tuple(call.args))
        if self._is_confirmed(jobs):
            commands += self._confirmation(jobs)
        if len(commands) == 1:
            return Parcel(address, pack(commands[0]), 1)
        return Parcel(address, b"".join(map(pack, commands)), len(commands))

    def _confirmation(self, jobs: list[_Job]) -> list[Sequence[Argument]]:
        milliseconds = round(self._scene.options.timeout * 500) or 1
        commands: list[Sequence[Argument]] = [("WAIT", self._wanted, milliseconds)]
        if any(job.doubtful or job.call.script.name not in WRITING for job in jobs):
            # WAIT is for what its own connection wrote (in Valkey, and Redis since 7.2), and who
            # finds work done, by an earlier attempt or by somebody else, writes nothing.
            key = container_key(self._scene.options.prefix, jobs[0].call.tag)
            commands.insert(0, ("SET", f"{key}:wait", "", "PX", 1000))
        return commands

    # What comes back

    def _replied(self, address: Address, jobs: list[_Job], replies: list[Any]) -> None:
        following = iter(replies)
        done, carried_out = [], []
        for job in jobs:
            reply = next(following)
            if job.loads:
                job.loads = False
                own = next(following)
                reply = reply if isinstance(reply, Refusal) else own
            if isinstance(reply, Refusal):
                self._refused(job, address, reply)
            else:
                done.append((job, reply))
            if is_answer(reply):
                carried_out.append(job.call)
        confirmed = self._is_confirmed(jobs)
        doubt = self._unconfirmed(address, list(following)) if confirmed else None
        if self._scene.outages.any and doubt is None and carried_out:
            self._scene.outages.answered(address, carried_out)
        for job, reply in done:
            job.doubtful = doubt is not None
            if doubt is None:
                job.end(reply)
            else:
                self._failed([job], address, doubt)

    def _is_confirmed(self, jobs: list[_Job]) -> bool:
        """Whether replicas must have what these calls wrote."""
        return self._wanted > 0 and any(job.call.script.name not in UNCONFIRMED for job in jobs)

    @property
    def _wanted(self) -> int:
        return self._scene.options.wait_replicas

    def _unconfirmed(self, address: Address, answers: list[Any]) -> NotConfirmed | None:
        refused = next((answer for answer in answers if isinstance(answer, Refusal)), None)
        if refused is None and answers[-1] >= self._wanted:
            return None
        known = f"only {answers[-1]} of {self._wanted} replicas have it"
        return NotConfirmed(
            f"Redis at {address} did what was asked, but {known if refused is None else refused} "
            f"(wait_replicas={self._wanted}): it is lost if this server fails before they have "
            f"it. What is put again may be there twice"
        )

    def _refused(self, job: _Job, address: Address, error: Refusal) -> None:
        if stopped_by_acl(error):
            self._stopped.setdefault(address, []).append((job, error))
            return
        helps = remedy(error)
        job.turns += 1
        if helps is Remedy.REDIRECT:
            named = named_by(error, address)
            if not self._scene.directory.redirect(job.call.tag, named):
                job.end(final(address, error))
                return
            error = Astray(error)
        if helps is Remedy.LOAD:
            job.loads = True
        if helps not in (Remedy.LOAD, Remedy.REDIRECT) or job.turns > TURNS:
            self._failed([job], address, error)

    def _explain(
        self, address: Address, stopped: list[tuple[_Job, Refusal]]
    ) -> Generator[Request, Any, None]:
        """End calls that the ACL stopped; asks for what, as not every server says so."""
        self._scene.allowed.discard(address)  # the next one is not to be stopped as well
        lacks = yield from self._lacks(address, stopped[0][0].call.tag)
        if isinstance(lacks, Broken):
            lacks = []
        for job, error in stopped:
            self._failed([job], address, Denial(lacks, error) if lacks else error)

    def _broken(self, address: Address, jobs: list[_Job], outcome: Broken) -> None:
        for job in jobs:
            job.doubtful |= outcome.sent
            job.lost |= outcome.sent
        # A server closes connections that are idle: that is no failure yet.
        if outcome.reused and not isinstance(outcome.error, TimeoutError | Refusal):
            self._scene.directory.doubt(address)
        else:
            self._failed(jobs, address, outcome.error)

    def _failed(self, jobs: list[_Job], address: Address | None, error: Exception) -> None:
        helps = remedy(error)
        if helps is Remedy.NONE:
            for job in jobs:
                if isinstance(error, Refusal):
                    job.doubtful = False  # the server answered this very call
                job.end(final(address, error))
            return
        if helps is Remedy.RECONNECT and address is not None:
            self._scene.directory.doubt(address)
            self._drops.append(address)
        self._trouble = (address, error)

    # Between attempts

    def _recover(self, address: Address | None, error: Exception) -> Generator[Request, Any, None]:
        self._trouble = None
        now = time.monotonic()
        self._failing_since = self._failing_since or now
        tried = now - self._failing_since
        retry = min(self._scene.options.retry, *(job.call.retry for job in self._jobs))
        remaining = retry - tried
        if remaining <= 0:
            for job in self._jobs:
                if not job.done:
                    job.end(exhausted(job.call, address, error, tried, doubtful=job.doubtful))
            return
        if not will_be_over_soon(error):
            failed = [job.call for job in self._jobs if not job.done]
            hope = f"trying again for {remaining:.3g} s"
            self._scene.outages.begin(address, error, hope, failed, since=self._began)
        pause = min(FIRST_PAUSE * 2 ** min(self._pauses, 10), LONGEST_PAUSE)
        self._pauses += 1
        yield Pause(min(pause * random.uniform(0.5, 1.0), remaining))


def perform(
    scene: Scene, calls: Sequence[Call], wires: Sequence[Wire]
) -> Generator[Request, Any, list[Any]]:
    """Carry out independent calls.

    Arguments:
        scene: the driver's.
        calls: what to call; the least patient one decides for all.
        wires: one for each call, used by nobody else meanwhile.

    Returns:
        For each call its reply, or the exception that it ended with.
    """
    return _Attempts(scene, calls, wires).run()


def single(outcomes: list[Any]) -> Any:
    """Give the only reply, or raise the exception in its place."""
    [outcome] = outcomes
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def every(outcomes: list[Any]) -> list[Any]:
    """Give all replies, or raise the first exception among them."""
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
    return outcomes
