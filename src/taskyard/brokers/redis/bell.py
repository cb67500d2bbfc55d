"""The doorbell of a driver: what it needs to connect, and to say goodbye for a listener."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

from redis.connection import AbstractConnection
from redis.exceptions import RedisError

from taskyard.brokers.base import Listener, Operation
from taskyard.brokers.redis.connect import connection
from taskyard.brokers.redis.doorbell import Doorbell
from taskyard.brokers.redis.failures import NoAnswer
from taskyard.brokers.redis.lines import Pool
from taskyard.brokers.redis.options import RedisOptions
from taskyard.brokers.redis.topology import directory_for
from taskyard.errors import BrokerUnavailable

__all__ = ["Bell", "Leave"]

Leave: TypeAlias = Callable[[str], Operation[None]]
"""Makes the operation by which the broker forgets the listener of a name."""


class Bell:
    """Makes the listeners of a driver.

    Arguments:
        options: where the server is.
        clock: gives microseconds, for tests; None: the server's clock.
        leave: see `Leave`; None: a listener that is closed is only unsubscribed.
    """

    def __init__(
        self, options: RedisOptions, clock: Callable[[], int] | None, leave: Leave | None
    ) -> None:
        self._options = options
        self._leave = leave
        # Goodbyes are said in the doorbell's thread, where others wait: once, and that is it.
        self._pool = Pool(replace(options, retry=0.0, wait_replicas=0), clock)
        self._doorbell = Doorbell(self._connect, options.prefix, self._goodbye)

    def _connect(self) -> AbstractConnection:
        directory = directory_for(self._options)
        try:
            directory.look_up()  # anew each time: who was the master may be none any more
        except NoAnswer as failure:
            raise BrokerUnavailable(f"Redis at {failure}") from failure
        error: Exception = BrokerUnavailable(f"{self._options.shown}: there is no server")
        for address in directory.everybody():
            try:
                return connection(self._options, address)
            except RedisError as failure:
                error = failure
        raise error

    def _goodbye(self, name: str) -> None:
        if self._leave is not None:
            self._pool.run(self._leave(name))

    def listener(self) -> Listener:
        """Make a listener."""
        return self._doorbell.listener()

    def close(self) -> None:
        """End the doorbell's thread, and its connections. It may be used again."""
        self._doorbell.close()
        self._pool.close()
