"""The dead letters of a yard: messages that were given up."""

from __future__ import annotations

from collections.abc import Sequence

from taskyard.brokers.base import DeadLetter, DeadQuery
from taskyard.brokers.explain import find_letter
from taskyard.connection import Connection

__all__ = ["DeadLetters"]


class DeadLetters:
    """The dead letters of a yard.

    Arguments:
        connection: to the broker: the yard.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(
        self,
        numbers: Sequence[int] | None = None,
        *,
        queue: str | None = None,
        task: str | None = None,
        after: int = 0,
        limit: int = 100,
    ) -> Sequence[DeadLetter]:
        """List dead letters, oldest first.

        Arguments:
            numbers: only these.
            queue: only of this queue.
            task: only of this task.
            after: only with a higher number, for paging.
            limit: this many at most.
        """
        query = DeadQuery(queue=queue, task=task, numbers=numbers, after=after, limit=limit)
        return self._connection.driver.run(self._connection.broker.dead(query))

    def find(self, message_id: str, *, queue: str | None = None) -> DeadLetter | None:
        """The dead letter of a message.

        It is looked for among the oldest 10,000, so keep the numbers of those that you need again.

        Arguments:
            message_id: its id.
            queue: its queue, if it is known: then only these are looked at.

        Returns:
            The dead letter; None: there is none among them.
        """
        broker = self._connection.broker
        return self._connection.driver.run(find_letter(broker, message_id, queue))[0]

    def retry(
        self,
        numbers: Sequence[int] | None = None,
        *,
        queue: str | None = None,
        task: str | None = None,
        limit: int = 1_000_000,
    ) -> int:
        """Put dead letters back at the tails of their shards, as if they were new.

        Arguments:
            numbers: only these.
            queue: only of this queue.
            task: only of this task.
            limit: this many at most.

        Returns:
            How many there were.
        """
        query = DeadQuery(queue=queue, task=task, numbers=numbers, limit=limit)
        return self._connection.driver.run(self._connection.broker.retry_dead(query))

    def discard(
        self,
        numbers: Sequence[int] | None = None,
        *,
        queue: str | None = None,
        task: str | None = None,
        limit: int = 1_000_000,
    ) -> int:
        """Remove dead letters; see `retry`."""
        query = DeadQuery(queue=queue, task=task, numbers=numbers, limit=limit)
        return self._connection.driver.run(self._connection.broker.discard_dead(query))
