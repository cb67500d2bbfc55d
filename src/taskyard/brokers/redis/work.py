"""Steps of a worker, over as many containers as its queues are in."""

from __future__ import annotations

import contextlib
import logging
from collections import defaultdict
from collections.abc import Sequence
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
    Want,
)
from taskyard.brokers.common import NO_ATTEMPT
from taskyard.brokers.redis.calls import Argument, Call
from taskyard.brokers.redis.placement import TOKENS, Placements, call
from taskyard.brokers.redis.replies import group_key, read_claim, read_group
from taskyard.errors import BrokerError

__all__ = ["Steps"]

log = logging.getLogger("taskyard.redis")

_pack = msgspec.msgpack.Encoder().encode
_FIRST_BLOB = 5
"""The index in ARGV behind the packed part."""


class Steps:
    """Makes the steps of workers.

    Arguments:
        placements: where queues are.
        dead_limit: dead letters that a group keeps.
        afar: whether workers may listen on other nodes than those that wake them.
    """

    def __init__(self, placements: Placements, dead_limit: int, *, afar: bool) -> None:
        self._placements = placements
        self._dead_limit = dead_limit
        self._afar = afar
        self._turn = 0
        self._asleep: dict[str, set[int]] = {}

    def step(self, settlements: Sequence[Settlement], want: Want | None) -> Operation[Step]:
        """See `Broker.step`. It is atomic within a container."""
        settled: dict[int, list[Settlement]] = defaultdict(list)
        for item in settlements:
            settled[TOKENS.inside(item.token)[0]].append(item)
        if want is None:
            return (yield from self._settle_only(settled))
        step = yield from self._step(settled, want)
        if self._outdated(want) and want.listener is not None and not step.claims:
            # It would sleep where it may not be woken any more.
            return _joined([step, (yield from self._step({}, want))])
        return step

    def _outdated(self, want: Want) -> bool:
        """Whether a reply said that shards of a queue are elsewhere now."""
        return self._placements.outdated(item.group.queue for item in want.groups)

    def _step(self, settled: dict[int, list[Settlement]], want: Want) -> Operation[Step]:
        groups = yield from self._groups(want)
        served = list(groups) or [0]
        if len(served) == 1 and settled.keys() <= groups.keys():
            [container] = served
            if want.listener is not None:
                self._asleep.setdefault(want.listener, set()).add(container)
            reply = yield self._call(container, settled.get(container, ()), want)
            return self._read(container, reply, want)
        return (yield from self._visit(settled, want, groups))

    def _groups(self, want: Want) -> Operation[dict[int, list[GroupWant]]]:
        yield from self._placements.load(item.group.queue for item in want.groups)
        groups: dict[int, list[GroupWant]] = {}
        for item in want.groups:
            placement = self._placements.known(item.group.queue)
            for container in placement.containers if placement else ():
                groups.setdefault(container, []).append(item)
        return groups

    def _settle_only(self, settled: dict[int, list[Settlement]]) -> Operation[Step]:
        # Who settles nothing asks what comes next, wherever it is.
        containers = list(settled) or self._placements.containers()
        calls = [
            self._call(container, settled.get(container, ()), None) for container in containers
        ]
        replies = yield calls
        return _joined([self._read(*pair, None) for pair in zip(containers, replies, strict=True)])

    def _visit(
        self,
        settled: dict[int, list[Settlement]],
        want: Want,
        groups: dict[int, list[GroupWant]],
    ) -> Operation[Step]:
        # Where something is to be settled first, then in turn, so that all are served alike.
        self._turn += 1
        rest = [container for container in groups if container not in settled]
        shift = self._turn % max(1, len(rest))
        order = [*settled, *rest[shift:], *rest[:shift]]
        steps: list[Step] = []
        found: list[Claim] = []
        for container in order:
            wish = _remaining(want, groups.get(container, ()), found)
            if wish is None and container not in settled:
                continue
            try:
                reply = yield self._call(container, settled.get(container, ()), wish)
            except BrokerError as error:
                if not found or container in settled:
                    raise
                # What was claimed elsewhere would wait for the end of its lease.
                log.warning("a partition cannot be reached, others can: %s", error)
                break
            steps.append(self._read(container, reply, wish))
            found += steps[-1].claims
        if want.listener is not None:
            if not found:
                steps += yield from self._fall_asleep(want, groups)
            else:
                with contextlib.suppress(BrokerError):  # it may be woken in vain, no more
                    yield from self._stay_awake(want.listener, ())
        return _joined(steps)

    def _fall_asleep(self, want: Want, groups: dict[int, list[GroupWant]]) -> Operation[list[Step]]:
        listener = want.listener or ""
        steps: list[Step] = []
        asleep = self._asleep.setdefault(listener, set())
        for container, served in groups.items():
            wish = msgspec.structs.replace(want, groups=served)
            reply = yield self._call(container, (), wish)
            steps.append(self._read(container, reply, wish))
            if steps[-1].claims:
                asleep.discard(container)
                yield from self._stay_awake(listener, (container,))
                break
            asleep.add(container)
        return steps

    def _stay_awake(self, listener: str, but: Sequence[int]) -> Operation[None]:
        """Who works must not be woken in place of somebody who sleeps."""
        asleep = self._asleep.pop(listener, set()).difference(but)
        if asleep:
            yield [call("leave", container, listener) for container in sorted(asleep)]

    def forget(self, listener: str) -> list[int]:
        """The containers where a listener that ends is registered."""
        return sorted(self._asleep.pop(listener, set()))

    def _call(self, container: int, settlements: Sequence[Settlement], want: Want | None) -> Call:
        blobs: list[Argument] = []
        packed = _pack(
            (
                [_settlement(item, blobs) for item in settlements],
                False if want is None else self._packed(want),
                self._dead_limit,
            )
        )
        return call("step", container, packed, *blobs)

    def _packed(self, want: Want) -> tuple[Any, ...]:
        epoch = self._placements.epoch
        return (
            [
                (group_key(item.group), item.messages, tuple(item.members), epoch(item.group.queue))
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

    def _read(self, container: int, reply: Sequence[Any], want: Want | None) -> Step:
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


def _remaining(want: Want, served: Sequence[GroupWant], found: list[Claim]) -> Want | None:
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
        max(step.now for step in steps),
        min(times, default=0),
        any(step.suspects for step in steps),
    )


def _settlement(settlement: Settlement, blobs: list[Argument]) -> tuple[Any, ...]:
    return (
        TOKENS.inside(settlement.token)[1],
        [
            (sequence, _outcome(outcome, settlement.retry_ids.get(sequence, ""), blobs))
            for sequence, outcome in settlement.outcomes.items()
        ],
        [(id_, _index(blobs, result)) for id_, result in settlement.results],
        list(settlement.keep),
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
