"""What a handler can know about the messages it runs, and what it can decide about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from datetime import timedelta
from typing import NoReturn

import msgspec

from taskyard.errors import (
    DiscardMessage,
    FailMessage,
    NotFound,
    RetryMessage,
)

__all__ = ["Context", "MessageInfo", "current_context", "discard", "fail", "retry"]


class MessageInfo(msgspec.Struct, frozen=True, gc=False):
    """What is known of one message.

    Attributes:
        id: its id.
        sequence: its number in the shard: strictly rising, with gaps. A high-water mark of it
            tells what an ordered shard's handler has done already.
        attempt: the number of this attempt, from 1. Retries count up, lost workers do not.
        delivery: the number of this delivery, from 1. Everything counts up that may have run.
        priority: its priority.
        headers: what middleware of its producer gave to it.
    """

    id: str
    sequence: int
    attempt: int
    delivery: int
    priority: int
    headers: Mapping[str, str] = {}

    @property
    def redelivered(self) -> bool:
        """Whether it may have run before, in full or in part."""
        return self.delivery > 1


class Context:
    """What a running handler can ask for, by `taskyard.current_context()`.

    Attributes:
        task: the task's name.
        queue: its queue.
        shard: the shard's key; "" if the task does not shard.
        token: the claim's fencing token: rises with every claim of the shard. A store that
            remembers the highest token it saw can refuse writes of workers that lost theirs.
    """

    __slots__ = ("_infos", "_lost", "_timed_out", "queue", "shard", "task", "token")

    def __init__(
        self,
        task: str,
        queue: str,
        shard: str,
        token: int,
        infos: Callable[[], Sequence[MessageInfo]],
        lost: Callable[[], bool],
    ) -> None:
        self.task = task
        self.queue = queue
        self.shard = shard
        self.token = token
        self._infos: Callable[[], Sequence[MessageInfo]] | Sequence[MessageInfo] = infos
        self._lost = lost
        self._timed_out = False

    @property
    def messages(self) -> Sequence[MessageInfo]:
        """The messages of this call: one, or those of a batch in the order of its list."""
        if callable(self._infos):
            self._infos = self._infos()
        return self._infos

    @property
    def message(self) -> MessageInfo:
        """The message of this call; the first one of a batch."""
        return self.messages[0]

    @property
    def message_id(self) -> str:
        """The id of `message`."""
        return self.message.id

    @property
    def attempt(self) -> int:
        """The attempt of `message`, from 1."""
        return self.message.attempt

    @property
    def delivery(self) -> int:
        """The delivery of `message`, from 1."""
        return self.message.delivery

    @property
    def sequence(self) -> int:
        """The sequence of `message` in its shard."""
        return self.message.sequence

    @property
    def redelivered(self) -> bool:
        """Whether any of the messages may have run before."""
        return any(info.redelivered for info in self.messages)

    @property
    def lost(self) -> bool:
        """Whether the lease was lost: somebody else may run these messages now.

        Nothing that this call does is settled. Stop, and leave outside effects alone.
        """
        return self._lost()

    @property
    def timed_out(self) -> bool:
        """Whether the task's `timeout` is over. A synchronous handler must look by itself."""
        return self._timed_out

    @property
    def cancelled(self) -> bool:
        """Whether to stop: the lease was lost, or the timeout is over."""
        return self.lost or self._timed_out

    def time_out(self) -> None:
        """Note that the timeout is over (called by the worker)."""
        self._timed_out = True

    def retry(self, delay: float | timedelta = 0.0) -> NoReturn:
        """See `taskyard.retry`."""
        retry(delay)

    def discard(self, reason: str = "discarded by its handler") -> NoReturn:
        """See `taskyard.discard`."""
        discard(reason)

    def fail(self, reason: str) -> NoReturn:
        """See `taskyard.fail`."""
        fail(reason)


running: ContextVar[Context | None] = ContextVar("taskyard_running", default=None)
"""The context of the handler that runs here; set by workers."""


def current_context() -> Context:
    """The context of the running handler.

    Returns:
        The context, the same for the entire call.

    Raises:
        NotFound: no handler runs here.
    """
    context = running.get()
    if context is None:
        raise NotFound("current_context() is for handlers, and no handler runs here")
    return context


def retry(delay: float | timedelta = 0.0) -> NoReturn:
    """Stop here and run the message again later, whatever its retry policy says.

    Arguments:
        delay: seconds to wait, or a timedelta.

    Raises:
        RetryMessage: always; that is how the worker learns of it.
    """
    raise RetryMessage(delay)


def discard(reason: str = "discarded by its handler") -> NoReturn:
    """Stop here and end the message, without a result and without a dead letter.

    Arguments:
        reason: for the log.

    Raises:
        DiscardMessage: always.
    """
    raise DiscardMessage(reason)


def fail(reason: str) -> NoReturn:
    """Stop here and end the message as a dead letter, without further retries.

    Arguments:
        reason: kept with the dead letter.

    Raises:
        FailMessage: always.
    """
    raise FailMessage(reason)
