"""What a broker offers that other programs can push values into, without this library.

An inbox is a list of raw values outside the queue. Whoever serves the queue moves them over, lot
by lot: `collect` gives a lot, and the same one again until it was confirmed; `store` takes what
became of its values, and ignores a lot that it has had. So a lot is stored once, wherever one of
those who move it is killed, and however many of them there are.

A queue has two: its inbox, and for producers that know nothing of taskyard its *bare* inbox, a list
that is named like the queue and nothing else. It is emptied only where that is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from taskyard.brokers.base import Dead, Group, Operation, Put

__all__ = ["Inboxes", "Lot", "Misfit", "Watch"]


class Lot(msgspec.Struct, frozen=True):
    """Values on their way from an inbox into its queue.

    Attributes:
        queue: whose inbox.
        number: its own; rises with each lot of the inbox.
        epoch: of the queue's placement when it was collected first.
        values: as they were pushed, oldest first.
        bare: whether they come from the queue's bare inbox.
    """

    queue: str
    number: int
    epoch: int
    values: Sequence[bytes]
    bare: bool = False


class Misfit(msgspec.Struct, frozen=True):
    """A value that cannot become a message: it ends as a dead letter, which keeps its bytes.

    Attributes:
        group: whose dead letter.
        dead: why.
        shard: its shard, as far as it is known.
    """

    group: Group
    dead: Dead
    shard: str = ""


class Inboxes(Protocol):
    """The inboxes of a broker's queues."""

    def name(self, queue: str, *, bare: bool = False) -> str:
        """What other programs push to; "" if the queue cannot have such an inbox."""
        ...

    def collect(
        self, queue: str, courier: str, done: int = 0, *, bare: bool = False
    ) -> Operation[Lot | None]:
        """Confirm a lot and give the next one.

        Arguments:
            queue: its name.
            courier: who asks; for a while nobody else is given the same lot.
            done: the number of a lot that was stored.
            bare: from which of the queue's inboxes.

        Returns:
            The lot. None: there is nothing. One without values: somebody else is at it.
        """
        ...

    def store(self, lot: Lot, items: Sequence[Put | Misfit]) -> Operation[list[Misfit]]:
        """Store what became of a lot, unless that was done before.

        Arguments:
            lot: as it was collected.
            items: for each of its values a put with one body, or why it is none.

        Returns:
            Those that are dead letters now; also of puts whose id is taken.

        Raises:
            QueueDraining: the queue lets no messages in. The lot is given again.
        """
        ...

    def watch(self, queue: str, courier: str, *, bare: bool = False) -> Watch:
        """Make something that waits for the next value of an inbox.

        Arguments:
            queue: its name.
            courier: who waits.
            bare: at which of the queue's inboxes.
        """
        ...


class Watch(Protocol):
    """Waits for values in an inbox, with a connection of its own, on an event loop."""

    async def wait(self) -> Lot | None:
        """Wait until there is something, or for some seconds: somebody may have left a lot behind.

        Of those who wait for the same inbox, one is woken for each value.

        Returns:
            What `collect` would give now, to save the time of asking; None: it has to be asked.

        Raises:
            BrokerError: the storage failed, or is away.
        """
        ...

    def close(self) -> None:
        """Free the connection. It may be used again."""
        ...
