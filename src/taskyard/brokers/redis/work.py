"""Steps of a worker, over as many containers as its queues are in.

A container that cannot be reached, while others can, is left out of the following rounds: it would
make the worker wait again and again, with nothing to show for it. It is asked now and then whether
it answers, and what is to be settled there goes with the first step that gets through; until then
it is kept here. If that takes longer than the lease, or the process ends before, the messages are
delivered again, as after any settlement that got lost.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from taskyard.brokers.base import (
    Back,
    Claim,
    Dead,
    Discard,
    GroupWant,
    Operation,
    Outcome,
    Retried,
    Settlement,
    Step,
    Stopped,
    Want,
)
from taskyard.brokers.common import NO_ATTEMPT
from taskyard.brokers.redis.absences import Absences
from taskyard.brokers.redis.calls import Argument, Call, Each
from taskyard.brokers.redis.placement import HOME, TOKENS, Placement, Placements, call
from taskyard.brokers.redis.replies import group_key, read_claim, read_group
from taskyard.brokers.redis.turns import Turns
from taskyard.errors import BrokerError

__all__ = ["Steps"]

_pack = msgspec.msgpack.Encoder().encode
ANSWER = 0.5
"""Seconds that the answer may take, while others wait."""
HASTE = 0.1
"""Seconds for which calls are tried again while some container cannot be reached."""

_FIRST_BLOB = 5
"""The index in ARGV behind the packed part."""


class _Sought(Want):
    """What a worker asks for, and where that is looked for.

    Attributes:
        placements: of the queues of its groups.
        anew: whether they were looked up for this.
    """

    placements: Mapping[str, Placement] = msgspec.field(default_factory=dict)
    anew: bool = False


class Steps:
    """Makes the steps of workers.

    They may share it within a process: what one could not settle, another may.

    Arguments:
        placements: where queues are.
        dead_limit: dead letters that a group keeps.
        afar: whether workers may listen on other nodes than those that wake them.
    """

    def __init__(self, placements: Placements, dead_limit: int, *, afar: bool) -> None:
        self._placements = placements
        self._dead_limit = dead_limit
        self._afar = afar
        self._turns: dict[tuple[int, ...], Turns] = {}
        self._asleep: dict[str, set[int]] = {}
        self._absences = Absences()

    def step(self, settlements: Sequence[Settlement], want: Want | None) -> Operation[Step]:
        """See `Broker.step`. It is atomic within a container.

        A settlement for one that cannot be reached, while others can, is made in a later step,
        which then also tells if it was lost.
        """
        settled: dict[int, list[Settlement]] = defaultdict(list)
        for item in settlements:
            settled[TOKENS.inside(item.token)[0]].append(item)
        if want is None:
            return (yield from self._settle_only(settled))
        step = yield from self._step(settled, want)
        if self._outdated(want) and want.listener is not None and not step.claims:
            # It would sleep where it may not be woken any more.
            try:
                return _joined([step, (yield from self._step({}, want, anew=True))])
            except BrokerError:  # what was settled is; the next step meets the error again
                step.partial, step.next_at = True, step.now
        return step

    def _outdated(self, want: Want) -> bool:
        """Whether a reply said that shards of a queue are elsewhere now."""
        return self._placements.outdated(item.group.queue for item in want.groups)

    def _step(
        self, settled: dict[int, list[Settlement]], want: Want, *, anew: bool = False
    ) -> Operation[Step]:
        queues = {item.group.queue for item in want.groups}
        placements = yield from self._placements.load(queues, anew=anew)
        groups = _by_container(want, placements)
        want = _sought(want, placements, anew=anew)
        served = list(groups) or [HOME]
        alone = len(served) == 1 and served[0] not in self._absences
        if alone and settled.keys() <= groups.keys():
            [container] = served
            if want.listener is not None:
                self._asleep.setdefault(want.listener, set()).add(container)
            reply = yield self._call(container, settled.get(container, ()), want)
            return self._read(container, reply, want)
        return (yield from self._visit(settled, want, groups))

    def _settle_only(self, settled: dict[int, list[Settlement]]) -> Operation[Step]:
        containers = self._placements.containers()
        if not settled:  # who settles nothing asks what comes next, wherever it is
            replies = yield [self._call(container, (), None) for container in containers]
            return _joined(
                [self._read(*pair, None) for pair in zip(containers, replies, strict=True)]
            )
        order = [*settled, *(other for other in containers if other not in settled)]
        return _joined((yield from self._go_round(order, settled, None, {})))

    def _visit(
        self,
        settled: dict[int, list[Settlement]],
        want: _Sought,
        groups: dict[int, list[GroupWant]],
    ) -> Operation[Step]:
        turns = self._turns.setdefault(tuple(groups), Turns())
        order = turns.order(list(groups), settled) if groups else list(settled)
        steps = yield from self._go_round(order, settled, want, groups)
        claim = next((step.claims[0] for step in steps if step.claims), None)
        if claim is not None:
            turns.gave(TOKENS.inside(claim.token)[0])
            if want.listener is not None:
                yield from self._stay_awake(want.listener, ())
            return _joined(steps)
        if want.listener is not None:
            steps += yield from self._fall_asleep(want, groups)
        step = _joined(steps)
        if (seconds := self._absences.pause(groups)) is not None:
            again = step.now + round(seconds * 1e6)
            step.next_at = min(step.next_at or again, again)
        return step

    def _go_round(
        self,
        order: Sequence[int],
        settled: dict[int, list[Settlement]],
        want: _Sought | None,
        groups: dict[int, list[GroupWant]],
    ) -> Operation[list[Step]]:
        """Make a step in one container after the other, but not where it cannot be reached.

        What is to be settled there is kept, for the first step that gets through.

        Raises:
            BrokerError: none can be reached; or one cannot be reached, and there is nothing to
                claim for who drains the others. Nothing was settled then.
        """
        left, told = list(order), False
        reachable = yield from self._reachable(left)
        steps: list[Step] = []
        found: list[Claim] = []
        while left:
            container = left.pop(0)
            wish = want and _remaining(want, groups.get(container, ()), found)
            needed = wish is not None or container in settled or container in self._absences
            if container not in reachable or not needed:
                continue
            settles = container in settled or self._absences.keeps(container)
            try:
                step = yield from self._try(container, settled.get(container, ()), wish)
            except BrokerError as error:
                near = [one for one in left if one in reachable]
                reachable = yield from self._look_around(container, error, near, bool(steps))
                if not steps and not reachable:
                    raise
            else:
                steps.append(step)
                found += step.claims
                settled.pop(container, None)
                told |= settles
        drains = want is not None and want.drain and not found
        if drains and (away := self._absences.error(order)):
            # Who works until nothing is left must not take it for empty.
            if not told:
                raise away
            steps[-1].partial = True
        for container, kept in settled.items():
            self._absences.keep(container, kept)
        return steps

    def _fall_asleep(
        self, want: _Sought, groups: dict[int, list[GroupWant]]
    ) -> Operation[list[Step]]:
        listener = want.listener or ""
        steps: list[Step] = []
        asleep = self._asleep.setdefault(listener, set())
        left = list(groups)
        while left:
            container = left.pop(0)
            if container in self._absences:
                continue
            wish = msgspec.structs.replace(want, groups=groups[container])
            try:
                steps.append((yield from self._try(container, (), wish)))
            except BrokerError as error:
                near = [one for one in left if one not in self._absences]
                yield from self._look_around(container, error, near, True)
                continue
            if steps[-1].claims:
                asleep.discard(container)
                yield from self._stay_awake(listener, (container,))
                break
            asleep.add(container)
        return steps

    def _stay_awake(self, listener: str, but: Sequence[int]) -> Operation[None]:
        """Who works must not be woken in place of somebody who sleeps."""
        asleep = self._asleep.pop(listener, set()).difference(but)
        later = {container for container in asleep if container in self._absences}
        if later:
            self._asleep[listener] = later
        if asleep := asleep - later:
            with contextlib.suppress(BrokerError):  # it may be woken in vain, no more
                yield [
                    call("leave", container, listener, retry=HASTE) for container in sorted(asleep)
                ]

    # Who can be reached

    def _try(
        self, container: int, settlements: Sequence[Settlement], want: _Sought | None
    ) -> Operation[Step]:
        """Make a step in a container, with what was kept for it."""
        kept = self._absences.take(container)
        one = self._call(container, [*kept, *settlements], want)
        if self._absences:  # the others shall not wait for it again
            one = one._replace(retry=HASTE)
        try:
            reply = yield one
        except BaseException:
            self._absences.give_back(container, kept)
            raise
        self._absences.end(container)
        return self._read(container, reply, want)

    def _reachable(self, containers: Sequence[int]) -> Operation[set[int]]:
        """Those that are not left out, and those that answer again."""
        if not self._absences:
            return set(containers)
        away = [container for container in containers if container in self._absences]
        near = set(containers).difference(away)
        # If nobody else is there, nobody is kept waiting.
        asked = [one for one in away if not near or self._absences.pause([one]) == 0]
        failed = yield from self._ask(asked)
        self._absences.begin(failed)
        answering = near.union(asked).difference(failed)
        if not answering and failed:
            raise next(iter(failed.values()))
        return answering

    def _look_around(
        self, container: int, error: BrokerError, near: Sequence[int], others: bool
    ) -> Operation[set[int]]:
        """Ask who of those that are to be visited yet can be reached, after one could not.

        Otherwise each of those that were on the same server would cost as much.

        Arguments:
            container: which could not be reached.
            error: why.
            near: those that are to be visited yet.
            others: whether another was reached.
        """
        failed = yield from self._ask(near)
        reachable = set(near).difference(failed)
        if others or reachable:  # else there is nobody for whose sake to leave them out
            self._absences.begin({container: error} | failed)
        return reachable

    def _ask(self, containers: Sequence[int]) -> Operation[dict[int, BrokerError]]:
        """Ask containers at once whether they are there; the errors of those that are not."""
        self._absences.postpone(containers)  # somebody else may come here meanwhile
        if not containers:
            return {}
        ask = [call("records", one, "", retry=HASTE, timeout=ANSWER) for one in containers]
        outcomes = yield Each(ask)
        return {
            container: outcome
            for container, outcome in zip(containers, outcomes, strict=True)
            if isinstance(outcome, BrokerError)
        }

    def forget(self, listener: str) -> list[int]:
        """The containers where a listener that ends is registered."""
        return sorted(self._asleep.pop(listener, set()))

    def _call(
        self, container: int, settlements: Sequence[Settlement], want: _Sought | None
    ) -> Call:
        blobs: list[Argument] = []
        packed = _pack(
            (
                [_settlement(item, blobs) for item in settlements],
                False if want is None else self._packed(want),
                self._dead_limit,
            )
        )
        return call("step", container, packed, *blobs)

    def _packed(self, want: _Sought) -> tuple[Any, ...]:
        return (
            [
                (
                    group_key(item.group),
                    item.messages,
                    tuple(item.members),
                    want.placements[item.group.queue].epoch,
                    not want.anew,
                )
                for item in want.groups
            ],
            want.owner,
            want.lease,
            want.claims,
            want.bytes,
            want.drain,
            want.alone,
            want.listener or "",
            want.messages,
            self._afar,
        )

    def _read(self, container: int, reply: Sequence[Any], want: _Sought | None) -> Step:
        lost, now, next_at, suspects, claims, *moved = reply
        wanted = () if want is None else want.groups
        groups = {group_key(item.group): item.group for item in wanted}
        if moved:
            for group in groups.values():
                self._placements.forget(group.queue)
        made = []
        for claim in claims:
            group = groups.get(claim[1].decode()) or read_group(claim[1])
            made.append(read_claim(claim, group, TOKENS.outside(container, claim[0])))
        lost_tokens = [TOKENS.outside(container, token) for token in lost]
        return Step(lost_tokens, made, now, next_at, bool(suspects))


def _by_container(want: Want, placements: Mapping[str, Placement]) -> dict[int, list[GroupWant]]:
    groups: dict[int, list[GroupWant]] = {}
    for item in want.groups:
        for container in placements[item.group.queue].containers:
            groups.setdefault(container, []).append(item)
    return groups


def _sought(want: Want, placements: Mapping[str, Placement], *, anew: bool) -> _Sought:
    return _Sought(
        want.groups,
        want.owner,
        want.lease,
        want.claims,
        want.bytes,
        want.drain,
        want.alone,
        want.listener,
        want.messages,
        placements,
        anew,
    )


def _remaining(want: _Sought, served: Sequence[GroupWant], found: list[Claim]) -> _Sought | None:
    """What is still wanted after some claims; without the listener, that comes last."""
    messages = want.messages - sum(map(len, found))
    claims = want.claims - len(found)
    if not served or claims <= 0 or messages <= 0 or (found and found[0].suspect):
        return None
    return msgspec.structs.replace(
        want,
        groups=served,
        claims=claims,
        messages=messages,
        alone=want.alone and not found,
        listener=None,
    )


def _joined(steps: Sequence[Step]) -> Step:
    if len(steps) == 1:
        return steps[0]
    times = [step.next_at for step in steps if step.next_at]
    return Step(
        [token for step in steps for token in step.lost],
        [claim for step in steps for claim in step.claims],
        max((step.now for step in steps), default=0),
        min(times, default=0),
        any(step.suspects for step in steps),
        any(step.partial for step in steps),
    )


def _settlement(settlement: Settlement, blobs: list[Argument]) -> tuple[Any, ...]:
    progress = [(id_, _index(blobs, told)) for id_, told in settlement.progress]
    return (
        TOKENS.inside(settlement.token)[1],
        [
            (sequence, _outcome(outcome, settlement.retry_ids.get(sequence, ""), blobs))
            for sequence, outcome in settlement.outcomes.items()
        ],
        [(id_, _index(blobs, result)) for id_, result in settlement.results],
        list(settlement.keep),
        *([progress] if progress else ()),
    )


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
        case Stopped(_, started):
            return ("stopped", started)
