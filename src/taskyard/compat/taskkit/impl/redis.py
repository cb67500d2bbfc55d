"""Kits whose tasks wait in Redis."""

from __future__ import annotations

from taskyard.compat.taskkit.kit import Kit
from taskyard.compat.taskkit.task import TaskHandler

__all__ = ["make_kit"]


def make_kit(redis: object, handler: TaskHandler) -> Kit:
    """Make a kit.

    Arguments:
        redis: a client object of redis-py (`Redis` or `RedisCluster`, with or without
            `decode_responses`), which tells where the server is; its connections are not used.
            A URL does, too.
        handler: what is done with tasks.

    Raises:
        BrokerError: it is no such client, or has a setting that cannot be carried over.
    """
    return Kit(redis, handler)
