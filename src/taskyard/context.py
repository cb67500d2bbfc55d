"""What a handler can know about the messages it runs, and what it can decide about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from contextvars import ContextVar
from datetime import timedelta
from typing import NoReturn

import msgspec

from taskyard.errors import (
    DiscardMessage,
    FailMessage,
    NotFound,
    RetryMessage,
    TaskCancelled,
    TaskyardError,
)

__all__ = ["Context", "MessageInfo", "Progress", "current_context", "discard", "fail", "retry"]


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


class Progress(msgspec.Struct, frozen=True, gc=False):
    """How far a handler is, as it told last.

    Attributes:
        done: how much is done, in the handler's own unit; None: it only said that it lives.
        total: how much there is to do; None: it did not say.
        note: what it said beside that.
        at: when, as seconds of the broker's clock since 1970.
    """

    done: float | None = None
    total: float | None = None
    note: str = ""
    at: float = 0.0


LONGEST_NOTE = 1000
"""Characters of a note."""


class Context:
    """What a running handler can ask for, by `taskyard.current_context()`.

    Attributes:
        task: the task's name.
        queue: its queue.
        shard: the shard's key; "" if the task does not shard.
        token: the claim's fencing token: rises with every claim of the shard. A store that
            remembers the highest token it saw can refuse writes of workers that lost theirs.
    """

    __slots__ = (
        "_infos",
        "_lost",
        "_stopped",
        "_tell",
        "_timed_out",
        "_told",
        "queue",
        "shard",
        "task",
        "token",
    )

    def __init__(
        self,
        task: str,
        queue: str,
        shard: str,
        token: int,
        infos: Callable[[], Sequence[MessageInfo]],
        lost: Callable[[], bool],
        stopped: Set[int] = frozenset(),
        tell: Callable[[Sequence[MessageInfo], Progress], None] = lambda _infos, _progress: None,
    ) -> None:
        self.task = task
        self.queue = queue
        self.shard = shard
        self.token = token
        self._infos: Callable[[], Sequence[MessageInfo]] | Sequence[MessageInfo] = infos
        self._lost = lost
        self._stopped = stopped
        self._tell = tell
        self._told = Progress()
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
    def cancelled_messages(self) -> Sequence[MessageInfo]:
        """Those of `messages` that were cancelled since they were claimed.

        Of a batch, leave out what is here, if you can. A batch of which all were cancelled is
        `cancelled`.
        """
        if not self._stopped:
            return ()
        return [info for info in self.messages if info.sequence in self._stopped]

    @property
    def cancelled(self) -> bool:
        """Whether to stop: all messages were cancelled, the lease was lost, or the timeout is over.

        Whoever stops by an exception (`raise_if_cancelled` raises one) leaves a message that was
        cancelled as that; one whose handler returns is done.
        """
        return self.lost or self._timed_out or self.was_cancelled

    @property
    def was_cancelled(self) -> bool:
        """Whether all messages of this call were cancelled by `Yard.cancel`."""
        return bool(self._stopped) and len(self.cancelled_messages) == len(self.messages)

    def raise_if_cancelled(self) -> None:
        """Stop here if the call is to stop.

        Raises:
            TaskCancelled: it is `cancelled`. A message that was cancelled ends as that; one that
                is late is retried by its policy.
        """
        if self.cancelled:
            raise TaskCancelled("the handler is to stop: see Context.cancelled")

    def progress(self, done: float, total: float | None = None, note: str = "") -> None:
        """Tell how far this call is, for `Yard.progress`, with the records of its messages.

        It costs next to nothing: what was told last is stored about twice a second, and at the
        end. Where the task keeps no results, there is no record, and it does nothing.

        Arguments:
            done: how much is done, in a unit of your own.
            total: how much there is to do.
            note: anything else; only its first 1,000 characters are kept.

        Raises:
            TaskyardError: `done` or `total` is no number, or the note no text.
        """
        if type(note) is not str:
            raise TaskyardError(f"progress(note=) takes a text, not {note!r}")
        storable = note[:LONGEST_NOTE].encode("utf-8", "backslashreplace").decode()
        all_of_it = None if total is None else _number("total", total)
        self._told = Progress(_number("done", done), all_of_it, storable)
        self._tell(self.messages, self._told)

    def heartbeat(self) -> None:
        """Tell that this call is alive: the time of its progress is renewed. See `progress`."""
        self._tell(self.messages, self._told)

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


def _number(name: str, value: object) -> float:
    try:
        if isinstance(value, (int, float)):
            return float(value)
    except OverflowError:
        pass
    raise TaskyardError(f"progress({name}=) takes a number, not {value!r}")


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
