"""The interface of the package sharded-queue: requests in threads, handled in order by batches."""

from taskyard.compat.sharded_queue.drivers import (
    JsonTupleSerializer,
    RedisCoordinator,
    RedisLock,
    RedisStorage,
    RuntimeCoordinator,
    RuntimeLock,
    RuntimeStorage,
)
from taskyard.compat.sharded_queue.handlers import Handler, Route, Tube
from taskyard.compat.sharded_queue.queue import Queue
from taskyard.compat.sharded_queue.settings import ShardedQueueSettings, settings
from taskyard.compat.sharded_queue.worker import Worker

__all__ = [
    "Handler",
    "JsonTupleSerializer",
    "Queue",
    "RedisCoordinator",
    "RedisLock",
    "RedisStorage",
    "Route",
    "RuntimeCoordinator",
    "RuntimeLock",
    "RuntimeStorage",
    "ShardedQueueSettings",
    "Tube",
    "Worker",
    "settings",
]
