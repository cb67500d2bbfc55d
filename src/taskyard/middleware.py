"""Hooks around what happens to messages: for logging, metrics, tracing and the like.

A middleware is told of four things. Two of them take time, so they are context managers: a call of
`enqueue`, in the thread or task of the producer, and a call of a handler, in that of the handler.
The other two are told of afterwards, in the worker's event loop: messages were claimed, and what
became of messages is stored.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import msgspec

from taskyard.brokers.base import Put
from taskyard.brokers.lane import Flush
from taskyard.context import Context
from taskyard.errors import EnqueueError
from taskyard.message import State, packed_headers, read_id, with_headers

__all__ = [
    "Around",
    "Claimed",
    "ClaimedBatch",
    "EnqueueCall",
    "Middleware",
    "Settled",
    "SettledMessage",
    "around_enqueue",
    "overrides",
]

log = logging.getLogger("taskyard.middleware")


class EnqueueCall:
    """A call of `enqueue`, `enqueue_many` or one of their async forms.

    Attributes:
        task: the task's name.
        queue: its queue.
        many: whether it is a call of `enqueue_many`.
        message_id: the id of its message; "" if it is one of `enqueue_many`.
        headers: what travels with each message of the call, for `MessageInfo.headers`. A middleware
            may add to it until the call goes on.
        messages: how many messages are stored so far (within `yard.buffered()`: gathered).
    """

    __slots__ = ("headers", "many", "message_id", "messages", "queue", "task")

    def __init__(self, task: str, queue: str, message_id: str = "", *, many: bool = False) -> None:
        self.task = task
        self.queue = queue
        self.many = many
        self.message_id = message_id
        self.headers: dict[str, str] = {}
        self.messages = 0

    def add_headers(self, puts: Sequence[Put]) -> None:
        """Give its headers to messages that are about to be stored (called by the library).

        Raises:
            EnqueueError: a header is no text.
        """
        if not self.headers:
            return
        try:
            packed = packed_headers(self.headers)
        except ValueError as error:
            raise EnqueueError(f"headers must be texts by texts: {error}") from error
        for put in puts:
            put.bodies = [with_headers(body, packed) for body in put.bodies]


class ClaimedBatch(msgspec.Struct, frozen=True):
    """What a claim holds of one shard.

    Attributes:
        shard: the shard's key.
        messages: how many they are.
        flush: why the batch was handed out; None for tasks without batches.
    """

    shard: str
    messages: int
    flush: Flush | None


class Claimed(msgspec.Struct, frozen=True):
    """Messages that a worker claimed, to run them in one slot.

    Attributes:
        queue: their queue.
        task: their task's name; of a common `order`, "order:" and its name.
        batches: what there is of each shard.
        messages: how many they are.
        redelivered: how many of them may have run before, in full or in part.
        oldest: seconds since the oldest of them entered its shard for the first time.
    """

    queue: str
    task: str
    batches: Sequence[ClaimedBatch]
    messages: int
    redelivered: int
    oldest: float


class SettledMessage(msgspec.Struct, frozen=True):
    """What became of one message.

    Attributes:
        task: its task's name.
        shard: its shard's key.
        state: what it is now: DONE, RETRYING, DEAD, DISCARDED or CANCELLED, or WAITING: it was
            given back unfinished (the worker stops, the slot was needed, or its shard is parked).
        attempt: the number of the attempt that ended, from 1.
        delivery: the number of the delivery that ended, from 1.
        reason: why it is dead, one of `Reason`; otherwise "".
        delay: seconds until the next attempt, if it is retried.
        waited: seconds from when it first entered its shard until this call of its handler began;
            None: it was not run.
        seconds: how long the handler took, of a batch with all calls for it; None: it was not run.
        body: the message as it is stored.
    """

    task: str
    shard: str
    state: State
    attempt: int
    delivery: int
    reason: str
    delay: float | None
    waited: float | None
    seconds: float | None
    body: bytes

    @property
    def id(self) -> str:
        """Its id; "" if it could not be read."""
        return read_id(self.body)


class Settled(msgspec.Struct, frozen=True):
    """Messages of one claim, and what became of them. It is stored.

    Attributes:
        queue: their queue.
        messages: the messages.
    """

    queue: str
    messages: Sequence[SettledMessage]


class Middleware:
    """What is told of messages on their way; override what you need.

    Methods that are not overridden cost nothing. The first middleware of a yard is the outermost.
    """

    def enqueue(self, call: EnqueueCall) -> AbstractContextManager[object]:  # noqa: ARG002
        """Around a call of `enqueue`: entered before anything is stored, left afterwards.

        It runs in the producer's thread or task, around an `await` too. What it raises on the way
        in comes out of `enqueue`, and nothing is stored; what it raises on the way out is logged,
        as the messages are stored. It cannot hide an error of the call.

        Arguments:
            call: the call; its `headers` may be added to.
        """
        return nullcontext()

    def claimed(self, claim: Claimed) -> None:
        """Called when a worker got messages, before they run.

        Arguments:
            claim: the messages.
        """

    def run(self, context: Context) -> AbstractContextManager[object]:  # noqa: ARG002
        """Around each call of a handler, in its thread or task.

        What it sets in `contextvars` is seen by the handler, and by no other call. It is left with
        the error of the attempt, if there is one, a timeout included; it cannot hide it. What it
        raises itself is logged, once per worker, and the handler runs as if it were not there.

        Arguments:
            context: what the handler gets from `current_context()`.
        """
        return nullcontext()

    def settled(self, settled: Settled) -> None:
        """Called when what became of messages is stored. Not called for claims that were lost.

        What it raises, or `claimed`, is logged, once per worker.

        Arguments:
            settled: the messages.
        """


def overrides(middleware: Middleware, name: str) -> bool:
    """Whether a middleware does something at a hook."""
    return getattr(type(middleware), name) is not getattr(Middleware, name)


class Around:
    """Context managers of several middlewares, entered one after the other.

    They observe: none of them can hide an error, and an error on the way out is only logged.
    """

    __slots__ = ("_entered",)

    def __init__(self) -> None:
        self._entered: list[AbstractContextManager[object]] = []

    def enter(self, manager: AbstractContextManager[object]) -> None:
        """Enter one more."""
        manager.__enter__()
        self._entered.append(manager)

    def leave(
        self, error: BaseException | None, caught: type[BaseException] = Exception
    ) -> Iterator[BaseException]:
        """Leave them, the last one first.

        Arguments:
            error: how what they are around ended.
            caught: what they must not raise from here.

        Yields:
            What they raised themselves.
        """
        kind = None if error is None else type(error)
        trace = None if error is None else error.__traceback__
        while self._entered:
            try:
                self._entered.pop().__exit__(kind, error, trace)
            except caught as raised:
                if raised is not error:
                    yield raised


@contextmanager
def around_enqueue(middleware: Sequence[Middleware], call: EnqueueCall) -> Iterator[EnqueueCall]:
    """Let middlewares be around a call of `enqueue`."""
    around, error = Around(), None
    try:
        for one in middleware:
            around.enter(one.enqueue(call))
        yield call
    except BaseException as raised:
        error = raised
        raise
    finally:
        for broken in around.leave(error):
            log.error("a middleware failed after an enqueue of task %s", call.task, exc_info=broken)
