"""A connection: a broker and its drivers, opened when they are first used."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from taskyard.brokers.base import AsyncDriver, Broker, Driver
from taskyard.brokers.urls import broker_of
from taskyard.errors import BrokerError
from taskyard.result import RecordReader

__all__ = ["Connection"]


class Connection:
    """A broker, and what runs its operations: opened by the first one, closed, opened again.

    Arguments:
        broker: a URL, a broker, or a client object of redis-py.

    Attributes:
        broker: the broker.

    Raises:
        BrokerError: the URL is wrong.
    """

    def __init__(self, broker: object) -> None:
        self.broker = broker_of(broker)
        self._driver: Driver | None = None
        self._async_driver: AsyncDriver | None = None
        self._opening = threading.Lock()
        self._reader = self._make_reader()

    @property
    def driver(self) -> Driver:
        """Runs the broker's operations for threads."""
        if self._driver is None:
            with self._opening:
                if self._driver is None:
                    self._driver = self.broker.driver()
        return self._driver

    @property
    def async_driver(self) -> AsyncDriver:
        """Runs the broker's operations for event loops."""
        if self._async_driver is None:
            with self._opening:
                if self._async_driver is None:
                    self._async_driver = self.broker.async_driver()
        return self._async_driver

    @property
    def reader(self) -> RecordReader:
        """Where results are looked up."""
        return self._reader

    def use(self, broker: str | Broker) -> None:
        """Use another broker from now on.

        Arguments:
            broker: a URL, or a broker.

        Raises:
            BrokerError: the URL is wrong.
        """
        self.close()
        self.broker = broker_of(broker)
        self._reader = self._make_reader()

    def close(self) -> None:
        """Close what is open, if no event loop uses it. The yard can be used again."""
        asynchronous, self._async_driver = self._async_driver, None
        if asynchronous is not None:
            asynchronous.shut_down()
        driver, self._driver = self._driver, None
        if driver is not None:
            driver.close()

    async def aclose(self) -> None:
        """Close what is open, including what `aenqueue` and `aget` opened."""
        driver, self._async_driver = self._async_driver, None
        if driver is not None:
            await driver.close()
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _make_reader(self) -> RecordReader:
        broker = self.broker

        def current() -> Connection:
            if self.broker is not broker:
                raise BrokerError(
                    f"this result belongs to {broker.url}, but its yard uses {self.broker.url} now"
                )
            return self

        return RecordReader(broker, lambda: current().driver, lambda: current().async_driver)
