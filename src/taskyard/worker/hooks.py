"""What a worker tells middleware, and keeps what they raise from doing harm."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from taskyard.brokers.base import (
    Back,
    Claim,
    Dead,
    Delivery,
    Discard,
    Outcome,
    Retried,
    Settlement,
    Stopped,
)
from taskyard.context import Context
from taskyard.message import Reason, State, read_envelope
from taskyard.middleware import (
    Around,
    Claimed,
    ClaimedBatch,
    Middleware,
    Settled,
    SettledMessage,
    overrides,
)

if TYPE_CHECKING:
    from taskyard.worker.execution import Execution, Timing

__all__ = ["STATES", "Hooks", "make_hooks"]

log = logging.getLogger("taskyard.middleware")

T = TypeVar("T")

STATES: dict[type[Outcome], State] = {
    Retried: State.RETRYING,
    Back: State.WAITING,
    Dead: State.DEAD,
    Discard: State.DISCARDED,
    Stopped: State.CANCELLED,
}
NOT_RUN = (Reason.EXPIRED, Reason.UNREADABLE)


def make_hooks(middleware: Sequence[Middleware]) -> Hooks | None:
    """What a worker has to tell; None if nobody listens, so that it costs one look."""
    hooks = Hooks(middleware)
    return hooks if hooks.are_used else None


class Hooks:
    """The hooks of a worker's middleware. None of its methods raises.

    Arguments:
        middleware: whom to tell.
    """

    def __init__(self, middleware: Sequence[Middleware]) -> None:
        self._claimed = [one.claimed for one in middleware if overrides(one, "claimed")]
        self._run = [one.run for one in middleware if overrides(one, "run")]
        self._settled = [one.settled for one in middleware if overrides(one, "settled")]
        self._sound = {"claimed", "run", "settled"}  # hooks that have not failed yet
        # By identity: a settlement lives until it is stored, and only then is told of.
        self._pending: dict[int, tuple[Settlement, Settled]] = {}

    @property
    def are_used(self) -> bool:
        """Whether there is anything to tell."""
        return bool(self._claimed or self._run or self._settled)

    @property
    def are_around_calls(self) -> bool:
        """Whether something is around calls of handlers."""
        return bool(self._run)

    @property
    def need_times(self) -> bool:
        """Whether the times of calls are told."""
        return bool(self._settled)

    def claimed(self, claim: Claim, now: int) -> None:
        """Tell of a claim.

        Arguments:
            claim: what was claimed.
            now: the broker's time then.
        """
        if self._claimed:
            event = _claimed(claim, now)
            for tell in self._claimed:
                self._tell(tell, event, "claimed")

    def enter(self, context: Context) -> Around:
        """Begin a call of a handler."""
        around = Around()
        for make in self._run:
            try:
                around.enter(make(context))
            except BaseException as error:  # noqa: BLE001 - a middleware may raise what it likes
                self._complain("run", error)
        return around

    def leave(self, around: Around, error: BaseException | None) -> None:
        """End a call of a handler.

        Arguments:
            around: what `enter` gave.
            error: what went wrong.
        """
        for raised in around.leave(error, BaseException):
            self._complain("run", raised)

    def note(
        self, execution: Execution, settlement: Settlement, only: frozenset[int] | None
    ) -> None:
        """Note what is to be told once a settlement is stored.

        Arguments:
            execution: what it settles.
            settlement: what became of the messages.
            only: of these; None: of all.
        """
        if self._settled:
            event = _settled(execution, settlement, only)
            self._pending[id(settlement)] = settlement, event

    def stored(self, settlements: Sequence[Settlement], lost: Sequence[int]) -> None:
        """Tell of settlements that are stored.

        Arguments:
            settlements: what was sent.
            lost: the tokens of those that were refused.
        """
        for settlement in settlements:
            _, event = self._pending.pop(id(settlement), (None, None))
            if event is not None and settlement.token not in lost:
                for tell in self._settled:
                    self._tell(tell, event, "settled")

    def _tell(self, tell: Callable[[T], None], event: T, hook: str) -> None:
        try:
            tell(event)
        except BaseException as error:  # noqa: BLE001 - as in `enter`
            self._complain(hook, error)

    def _complain(self, hook: str, error: BaseException) -> None:
        # Once: it would be the same with every message. Of several threads one removes it.
        try:
            self._sound.remove(hook)
        except KeyError:
            return
        log.error(
            "a middleware failed in %s(); this is not logged again by this worker",
            hook,
            exc_info=error,
        )


def _claimed(claim: Claim, now: int) -> Claimed:
    messages = [message for lane in claim.lanes for _, message in lane.messages]
    return Claimed(
        claim.group.queue,
        claim.group.name,
        [ClaimedBatch(lane.shard, len(lane.messages), lane.flush) for lane in claim.lanes],
        len(messages),
        sum(message.deliveries > 0 for message in messages),
        max(0.0, (now - min(message.since for message in messages)) / 1e6),
    )


def _settled(execution: Execution, settlement: Settlement, only: frozenset[int] | None) -> Settled:
    group, timings = execution.claim.group, execution.timings or {}
    ended = []
    for lane in execution.claim.lanes:
        for _, message in lane.messages:
            sequence = message.sequence
            if sequence in settlement.keep or (only is not None and sequence not in only):
                continue
            outcome = settlement.outcomes.get(sequence)
            task = _task(execution, message)
            timing = timings.get(sequence)
            ended.append(_ended(task, lane.shard, message, outcome, timing))
    return Settled(group.queue, ended)


def _ended(
    task: str, shard: str, message: Delivery, outcome: Outcome | None, timing: Timing | None
) -> SettledMessage:
    reason = outcome.failure.reason if isinstance(outcome, Dead) else ""
    waited, seconds = (None, None) if timing is None or reason in NOT_RUN else timing
    return SettledMessage(
        task,
        shard,
        State.DONE if outcome is None else STATES[type(outcome)],
        message.attempts + 1,
        message.deliveries + 1,
        reason,
        outcome.delay / 1e6 if isinstance(outcome, Retried) else None,
        waited,
        seconds,
        message.body,
    )


def _task(execution: Execution, message: Delivery) -> str:
    name = execution.claim.group.name
    if execution.knows(name):
        return name
    envelope = read_envelope(message.body)  # the tasks of an order group are told apart by it
    return envelope.task if envelope is not None else ""
