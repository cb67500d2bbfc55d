"""Looking at what waits in shards, and taking it out."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Waiting"]


class Waiting(NamedTuple):
    """How much waits in a lane, of one priority.

    Attributes:
        shard: the lane's key.
        priority: the priority.
        messages: how many.
    """

    shard: str
    priority: int
    messages: int
