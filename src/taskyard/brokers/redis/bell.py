"""The doorbell of a driver: what it needs to connect, and to say goodbye for a listener."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

from redis.connection import AbstractConnection
from redis.exceptions import RedisError

from taskyard.brokers.base import Listener, Operation
from taskyard.brokers.redis.connect import common_error, connection
from taskyard.brokers.redis.doorbell import Doorbell
from taskyard.brokers.redis.failures import NoAnswer, told
from taskyard.brokers.redis.lines import Pool
from taskyard.brokers.redis.options import Address, RedisOptions
from taskyard.brokers.redis.outages import Outages
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
        outages: where those are noted that it meets.
    """

    def __init__(
        self,
        options: RedisOptions,
        clock: Callable[[], int] | None,
        leave: Leave | None,
        outages: Outages,
    ) -> None:
        self._options = options
        self._outages = outages
        self._leave = leave
        # Goodbyes are said in the doorbell's thread, where others wait: once, and that is it.
        self._pool = Pool(replace(options, retry=0.0, wait_replicas=0), clock, outages=outages)
        self._doorbell = Doorbell(self._connect, options.prefix, self._goodbye, self._tell)
        self._address: Address | None = None
        self._began = 0.0

    def _connect(self) -> AbstractConnection:
        self._began = time.monotonic()
        directory = directory_for(self._options)
        directory.look_up()  # anew each time: who was the master may be none any more
        error: Exception = BrokerUnavailable(f"{self._options.shown}: there is no server")
        for address in directory.everybody():
            self._address = address
            try:
                return connection(self._options, address)
            except RedisError as failure:
                error = failure
        raise error

    def _tell(self, error: Exception) -> str:
        """Put a failure into words; "" if it is one of the outages that calls tell of too."""
        address, reason = self._address, common_error(error)
        if isinstance(reason, NoAnswer):
            address, reason = reason.address, reason.error
        if isinstance(reason, OSError):
            hope = "trying again until it answers"
            self._outages.begin(address, reason, hope, since=self._began)
            return ""
        return str(error) if address is None else f"Redis at {address}: {told(reason)}"

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
