"""All lanes of a group, for what is not daily work."""

from __future__ import annotations

from taskyard.brokers.base import Group, Operation
from taskyard.brokers.redis.placement import call
from taskyard.brokers.redis.replies import group_key

__all__ = ["LANES", "resettle", "shards_of"]

LANES = 500
"""Lanes that one call looks at."""


def resettle(container: int, group: Group) -> Operation[None]:
    """Decide anew where the lanes of a group are, after its policy changed."""
    shards = yield from shards_of(container, group)
    settled = 0
    while settled < len(shards):
        some = shards[settled : settled + LANES]
        settled += yield call("resettle", container, group_key(group), *some)


def shards_of(container: int, group: Group) -> Operation[list[bytes]]:
    """The shards of which a container has messages, claims, or anything else."""
    shards: set[bytes] = set()
    for kind in ("r", "s", "w"):
        cursor: bytes = b"0"
        while True:
            cursor, *found = yield call("lanes", container, group_key(group), kind, cursor)
            shards.update(found)
            if cursor == b"0":
                break
    return sorted(shards)
